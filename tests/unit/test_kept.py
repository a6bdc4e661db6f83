"""How this package handles token files: it records their key, parks, brings, sets aside."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from kis_gateway_deploy.host.control import Control
from kis_gateway_deploy.host.directory import Directory
from kis_gateway_deploy.host.releases import State
from kis_gateway_deploy.host.starting import Starter
from kis_gateway_deploy.host.token_files import Kept

KEY, OTHER = "0a1b2c3d4e5f", "f5e4d3c2b1a0"
ENDS = 4102444800  # in 2100
ME = (os.getuid(), os.getgid())
OWNER = (20001, 20002) if os.geteuid() == 0 else ME


def token(ends: int = ENDS, **fields: object) -> str:
    return json.dumps({"access_token": "t", "expires_at": ends} | fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the token file; its directory exists, the file does not."""
    (tmp_path / "tokens").mkdir()
    return tmp_path / "tokens" / "t.json"


@pytest.fixture
def kept(path: Path) -> Kept:
    return Kept(str(path.parents[1] / "app"), str(path.parent), path.name)


def one(text: str) -> dict[str, bytes]:
    return {"t.json": text.encode()}


def files_in(directory: Path) -> dict[str, str]:
    return {each.name: each.read_text() for each in directory.iterdir() if each.is_file()}


def remembered(kept: Kept) -> dict[str, str]:
    return files_in(Path(kept.app_dir) / "tokens")


def test_the_token_of_another_key_is_parked_and_restored(kept: Kept, path: Path) -> None:
    mine, theirs = token(), token(ENDS + 1)
    path.write_text(mine)
    assert kept.ready(KEY, ME) == []
    assert files_in(path.parent) == {"t.json": mine}
    assert remembered(kept) == {"whose": f"{KEY} {path}\n"}
    [message] = kept.ready(OTHER, ME)
    assert "the token of another app key is parked" in message
    assert files_in(path.parent) == {}
    assert remembered(kept) == {KEY: mine, "whose": f"{OTHER} {path}\n"}
    path.write_text(theirs)
    kept.ready(KEY, OWNER)
    assert files_in(path.parent) == {"t.json": mine}
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (OWNER[0], 0o600)
    assert remembered(kept) == {OTHER: theirs, "whose": f"{KEY} {path}\n"}


def test_a_record_about_another_token_file_is_ignored(kept: Kept, path: Path) -> None:
    path.write_text(token())
    whose = Path(kept.app_dir) / "tokens" / "whose"
    whose.write_text(f"{OTHER} {path}.old\n")
    assert kept.best(KEY) == ("token", ENDS)
    whose.write_text(f"{OTHER} {path}\n")
    assert kept.best(KEY) == ("missing", 0)


def test_an_app_key_in_the_token_file_overrides_the_record(kept: Kept, path: Path) -> None:
    path.write_text(token(app_key_fingerprint=OTHER))
    (Path(kept.app_dir) / "tokens" / "whose").write_text(f"{KEY} {path}\n")
    kept.ready(KEY, ME)
    assert OTHER in remembered(kept)
    assert not path.exists()


@pytest.mark.parametrize("planted", ["-", "/../../victim", f"{KEY}x", KEY.upper(), f"{KEY} x", "a"])
def test_an_invalid_fingerprint_is_ignored(kept: Kept, path: Path, planted: str) -> None:
    path.write_text(token(app_key_fingerprint=planted))
    (Path(kept.app_dir) / "tokens" / "whose").write_text(f"{planted} {path}\n")
    assert kept.ready(OTHER, ME) == []
    assert path.exists()


@pytest.mark.parametrize("there", [None, ENDS - 1, ENDS, ENDS + 1])
def test_a_brought_token_is_used_if_it_expires_later(
    kept: Kept, path: Path, there: int | None
) -> None:
    if there:
        path.write_text(token(there))
    is_better = there is None or there < ENDS
    assert kept.bring(one(token()), KEY) == is_better
    assert kept.best(KEY) == ("token", max(ENDS, there or 0))
    kept.ready(KEY, ME)
    assert files_in(path.parent) == {"t.json": token(max(ENDS, there or 0))}


def test_an_expired_or_invalid_token_is_not_brought(kept: Kept) -> None:
    for content in (token(1700000000), "", "{", "not known"):
        assert not kept.bring(one(content), KEY)
    assert not kept.bring({}, KEY)
    assert remembered(kept) == {}


def test_a_brought_token_that_names_its_key_is_parked_for_that_key(kept: Kept) -> None:
    assert kept.bring(one(token(app_key_fingerprint=OTHER)), KEY)
    assert list(remembered(kept)) == [OTHER]


def test_two_tokens_of_the_same_key_are_both_kept(kept: Kept, path: Path) -> None:
    sooner, later = token(), token(ENDS + 1)
    path.write_text(sooner)
    (Path(kept.app_dir) / "tokens" / "whose").write_text(f"{KEY} {path}\n")
    (Path(kept.app_dir) / "tokens" / KEY).write_text(later)
    kept.ready(OTHER, ME)
    assert remembered(kept)[KEY] == later
    assert list(files_in(path.parent).values()) == [sooner]
    assert not path.exists()


def test_a_file_of_unknown_form_is_never_replaced(kept: Kept, path: Path) -> None:
    path.write_text("sealed")
    kept.bring(one(token()), KEY)
    assert kept.best(KEY) == ("unknown", 0)
    kept.ready(KEY, ME)
    assert path.read_text() == "sealed"


def test_a_file_with_several_tokens_is_never_replaced_by_one(kept: Kept, path: Path) -> None:
    both = json.dumps({"real": json.loads(token(ENDS - 2)), "paper": json.loads(token(ENDS - 1))})
    both = both.replace('"t"', '"u"', 1)
    path.write_text(both)
    assert kept.bring(one(token()), KEY)
    kept.ready(KEY, ME)
    assert path.read_text() == both


@pytest.mark.parametrize("damage", ["", "{", " \n"])
def test_a_damaged_file_is_set_aside_unchanged(kept: Kept, path: Path, damage: str) -> None:
    path.write_text(damage)
    [message] = kept.ready(KEY, ME)
    [(name, content)] = files_in(path.parent).items()
    assert name.startswith("t.json.damaged-")
    assert message.endswith(name)
    assert content == damage


def test_a_directory_in_place_of_the_token_file_is_set_aside(kept: Kept, path: Path) -> None:
    path.mkdir()
    kept.bring(one(token()), KEY)
    kept.ready(KEY, ME)
    assert path.read_text() == token()
    assert any(each.is_dir() for each in path.parent.iterdir())


def test_files_set_aside_in_the_same_second_are_all_kept(path: Path) -> None:
    with Directory(str(path.parent)) as directory:
        for number in range(3):
            path.write_text(str(number))
            directory.set_aside("t.json", "damaged")
    assert sorted(files_in(path.parent).values()) == ["0", "1", "2"]


def test_the_user_owns_the_directory_and_all_its_regular_files(tmp_path: Path) -> None:
    kept = Kept(str(tmp_path / "app"), str(tmp_path / "made" / "tokens"), "t.json")
    directory = tmp_path / "made" / "tokens"
    kept.ready(KEY, ME)
    assert directory.stat().st_mode & 0o777 == 0o700
    names = ("t.json", "t.json.lock", "notes")
    for name in names:
        (directory / name).write_text(token())
        (directory / name).chmod(0o400)
    (directory / "deep").mkdir()
    kept.ready(KEY, OWNER)
    owners = {name: (directory / name).stat().st_uid for name in names}
    assert owners == dict.fromkeys(names, OWNER[0])
    assert directory.stat().st_uid == OWNER[0]
    assert (directory / "deep").stat().st_uid == os.getuid()
    assert (directory / "t.json").stat().st_mode & 0o777 == 0o600
    assert (directory / "notes").stat().st_mode & 0o777 == 0o400


def test_no_owner_or_mode_is_changed_through_a_link(kept: Kept, path: Path) -> None:
    victim, hard = path.parents[1] / "victim", path.with_name("hard")
    victim.write_text(token())
    victim.chmod(0o400)
    path.symlink_to(victim)
    hard.hardlink_to(victim)
    os.mkfifo(path.with_name("fifo"))
    kept.ready(KEY, OWNER)
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (os.getuid(), 0o400)


def test_no_owner_or_mode_is_changed_through_a_link_that_replaces_the_file(path: Path) -> None:
    victim = path.parents[1] / "victim"
    victim.touch(0o400)
    done = threading.Event()

    def swap() -> None:
        other = path.with_name("other")
        while not done.is_set():
            other.symlink_to(victim)
            other.replace(path)
            other.touch(0o400)
            other.replace(path)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        with Directory(str(path.parent)) as directory:
            for _ in range(300):
                directory.own(OWNER, path.name.__eq__)
    finally:
        done.set()
        swapper.join()
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (os.getuid(), 0o400)


def test_a_link_to_a_secret_of_root_is_neither_read_nor_parked(kept: Kept, path: Path) -> None:
    secret = path.parents[1] / "secret"
    secret.write_text(token(app_key_fingerprint=OTHER))
    path.symlink_to(secret)
    kept.ready(KEY, ME)
    assert list(remembered(kept)) == ["whose"]
    assert secret.read_text() == token(app_key_fingerprint=OTHER)


def test_only_a_regular_file_with_one_name_is_read(path: Path) -> None:
    path.with_name("file").write_text("content")
    path.with_name("two").write_text("content")
    path.with_name("names").hardlink_to(path.with_name("two"))
    path.with_name("link").symlink_to(path.with_name("file"))
    path.with_name("directory").mkdir()
    os.mkfifo(path.with_name("fifo"))
    with Directory(str(path.parent)) as directory:
        before = len(list(Path("/proc/self/fd").iterdir()))
        found = {name: directory.read(name) for name in directory.names()}
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert found == dict.fromkeys(found) | {"file": b"content"}


def test_a_planted_link_is_replaced_and_its_target_is_not_written_to(path: Path) -> None:
    victim = path.parents[1] / "victim"
    victim.write_text("of root")
    path.symlink_to(victim)
    with Directory(str(path.parent)) as directory:
        directory.write("t.json", b"new", ME)
    assert victim.read_text() == "of root"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_a_token_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tokens").symlink_to(tmp_path / "elsewhere")
    kept = Kept(str(tmp_path / "app"), str(tmp_path / "tokens"), "t.json")
    with pytest.raises(OSError, match=r"link|directory"):
        kept.ready(KEY, ME)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_for_a_renewal_the_old_tokens_are_set_aside(kept: Kept, path: Path) -> None:
    path.write_text(token())
    kept.bring(one(token(ENDS + 1)), KEY)
    [[name, aside]] = kept.set_old_aside(KEY)
    assert name == "t.json"
    assert files_in(path.parent) == {aside: token()}
    assert kept.best(KEY) == ("missing", 0)
    assert list(remembered(kept).values()) == [token(ENDS + 1)]
    assert kept.set_old_aside(KEY) == []


@pytest.fixture
def starter(tmp_path: Path) -> Starter:
    """One whose change has set the file `t.json.old` aside."""
    (tmp_path / "app").mkdir()
    state = State(str(tmp_path / "app"), {"aside": [["t.json", "t.json.old"]]})
    return Starter({"kis_wait": 0}, Control("/nonexistent"), state, lambda _: None, lambda _: None)


@pytest.mark.parametrize(
    ("old", "new", "stays"),
    [
        (token(), None, "old"),
        (token(), "", "old"),
        (token(), token(), "old"),
        (token(), token(ENDS - 9), "old"),
        (token(), token(ENDS + 9), "new"),
        (token(1), token(2), "old"),  # both have expired
        ("of unknown form", token(), "old"),  # the restored release may need it
    ],
)
def test_a_newer_token_is_not_replaced_by_the_one_that_was_set_aside(
    starter: Starter, path: Path, old: str, new: str | None, stays: str
) -> None:
    path.with_name("t.json.old").write_text(old)
    if new is not None:
        path.write_text(new)
    starter.put_token_back({"token_dir": str(path.parent)})
    assert path.read_text() == {"old": old, "new": new}[stays]
    assert {*files_in(path.parent).values()} == {old, *filter(lambda each: each is not None, [new])}
