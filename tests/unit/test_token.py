"""`templates/token.sh`, run by each POSIX shell of this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from deploy.gateway.release import ROOT
from tests.unit.builders import jwt

SCRIPT = ROOT / "templates" / "token.sh"
# The same program under two names is tested once.
SHELLS = {
    Path(found).resolve(): [found, *rest]
    for name, *rest in (["sh"], ["dash"], ["busybox", "sh"])
    if (found := shutil.which(name))
}.values()
# Where a host is must not matter, so that it is neither in Korea nor in UTC here. In POSIX's own
# notation: it needs no time zone database.
NEW_YORK = "EST5EDT,M3.2.0,M11.1.0"

ENDS = 1800000000  # 2027-01-15 08:00 UTC, 17:00 in Korea, 03:00 in New York


def token(**changes: object) -> str:
    return json.dumps({"access_token": "eyJ0.e30.x-_"} | changes)


VALID = {
    "a number": token(expires_at=ENDS),
    "a float": token(expires_at=ENDS + 0.75),
    "a number as text": token(expires_at=str(ENDS)),
    "compact": f'{{"access_token":"t","expires_at":{ENDS}}}',
    "a line break at the end": token(expires_at=ENDS) + "\n",
    "pretty-printed": json.dumps({"access_token": "t", "expires_at": ENDS}, indent=2),
    "pretty-printed, text": json.dumps(
        {"access_token": "t", "expires_at": "2027-01-15T08:00:00Z", "n": 1}, indent=4
    ),
    "blanks around the colons": f'{{"access_token" : "t", "expires_at" : {ENDS}}}',
    "expiry first": f'{{"expires_at": {ENDS}, "access_token": "t"}}',
    "expiry in the middle": json.dumps({"access_token": "t", "expires_at": ENDS, "n": None}),
    "ISO with a blank": token(expires_at="2027-01-15 17:00:00+09:00"),
    "ISO in UTC": token(expires_at="2027-01-15T08:00:00Z"),
    "ISO in UTC with an offset": token(expires_at="2027-01-15T08:00:00.123456+00:00"),
    "ISO in Korea": token(expires_at="2027-01-15T17:00:00+09:00"),
    "ISO in Korea without a colon": token(expires_at="2027-01-15T17:00:00+0900"),
    "ISO in New York": token(expires_at="2027-01-15T03:00:00-05:00"),
    "blanks after a number": f'{{"access_token": "t", "expires_at": {ENDS}   }}',
    "blanks after a date": token(expires_at="2027-01-15T08:00:00Z  "),
    "line breaks of Windows": f'{{\r\n"access_token": "t",\r\n"expires_at": {ENDS}\r\n}}\r\n',
    "KIS's own answer": token(
        access_token_token_expired="2027-01-15 17:00:00", token_type="Bearer", expires_in=86400
    ),
    "a JWT alone": jwt(exp=ENDS),
    "a JWT whose exp comes first": jwt(exp=ENDS, iat=ENDS - 86400, jti="PS"),
    "a JWT in a form that is not known": f"token: {jwt(exp=ENDS)}\nvalid-date: 2027-01-15 17:00:00",
    "the last of several JWTs": json.dumps({"a": jwt(exp=ENDS - 9), "b": jwt(exp=ENDS)}),
    "a JWT against the field beside it": json.dumps(
        {"access_token": jwt(exp=ENDS), "expires_at": ENDS + 6 * 3600}
    ),
}

NO_TOKEN = {
    "empty": "",
    "a line break": "\n",
    "garbage": "\x00\x01garbage",
    "a brace": "}",
    "an empty object": "{}",
    "a list": "[]",
    "no token": json.dumps({"expires_at": ENDS}),
    "an empty token": json.dumps({"access_token": "", "expires_at": ENDS}),
    "a token of null": json.dumps({"access_token": None, "expires_at": ENDS}),
    "no expiry": token(),
    "an expiry of null": token(expires_at=None),
    "an empty expiry": token(expires_at=""),
    "an expiry in words": token(expires_at="soon"),
    "a date without a zone": token(expires_at="2027-01-15T17:00:00"),
    "a date without a zone, with microseconds": token(expires_at="2027-01-15 17:00:00.123456"),
    "a JWT without an expiry": jwt(),
    "a JWT that expires in words": jwt(exp="soon"),
    "an expiry that is no date": token(expires_at="2027-13-45T99:00:00"),
    "an expiry in milliseconds": token(expires_at=ENDS * 1000),
    "an expiry of 14 digits": token(expires_at="20270115170000"),
    "a negative expiry": token(expires_at=-1),
    "an expiry of blanks": token(expires_at="  "),
    "an expiry of true": token(expires_at=True),
    "only a lifetime": token(expires_in=86400),
    "truncated in the token": '{"access_token": "eyJ0',
    "truncated in the expiry": token(expires_at=ENDS)[:-3],
    "truncated before the brace": token(expires_at=ENDS)[:-1],
}


def expiry(shell: list[str], path: Path) -> tuple[bool, str]:
    """Whether the script found a token in the file, and what it printed."""
    done = subprocess.run(
        [*shell, "-c", f'. "{SCRIPT}"; token_expiry <"$1"', "sh", str(path)],
        env={"PATH": "/usr/bin:/bin", "TZ": NEW_YORK},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout


@pytest.fixture(params=SHELLS, ids=lambda shell: Path(shell[0]).name)
def shell(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


@pytest.mark.parametrize("content", VALID.values(), ids=VALID.keys())
def test_the_end_of_a_token_is_the_same_moment_everywhere(
    shell: list[str], content: str, tmp_path: Path
) -> None:
    path = tmp_path / "my token.json"
    path.write_text(content)
    assert expiry(shell, path) == (True, f"{ENDS}\n")


@pytest.mark.parametrize("content", NO_TOKEN.values(), ids=NO_TOKEN.keys())
def test_a_file_without_a_token_is_none(shell: list[str], content: str, tmp_path: Path) -> None:
    path = tmp_path / "token.json"
    path.write_text(content)
    assert expiry(shell, path) == (False, "")


def test_a_missing_file_and_a_directory_are_no_token(shell: list[str], tmp_path: Path) -> None:
    assert expiry(shell, tmp_path / "missing.json") == (False, "")
    assert expiry(shell, tmp_path) == (False, "")


def shell_says(shell: list[str], call: str, *arguments: str, stdin: bytes = b"") -> str:
    """What a function of the script prints; it must succeed."""
    done = subprocess.run(
        [*shell, "-c", f'. "{SCRIPT}"; {call}', "sh", *arguments],
        input=stdin,
        capture_output=True,
        check=True,
        timeout=10,
    )
    return done.stdout.decode().strip()


KEPT = [
    "{}",
    ' { "a" : [ 1, -2.5e+3, {"b": null}, [], "x" ] , "c" : true }\n',
    r'{"quotes": "\"}{", "backslash": "\\", "korean": "\uc5b4 어"}',
    *("", " ", "1", "[]", '"{}"', "}", "{}{}", "{} x", '{"a":}', '{"a" 1}', '{"a":1,}', "{}\0"),
    *("{'a': 'b'}", "{a: 1}", '{1:"a"}', "word", "[section]"),
]
CUT_OFF = ["{", "[", '{"a', '{"a":', '{"a":"b"', '{"a":{"b":1}', '[{"a":1}', '{"a":nul', '{"a":[1']


@pytest.mark.parametrize("text", [*KEPT, *CUT_OFF])
def test_json_that_ends_in_the_middle_is_told_from_all_else(shell: list[str], text: str) -> None:
    said = shell_says(shell, "is_cut_off && echo cut || echo kept", stdin=text.encode())
    assert said == ("cut" if text in CUT_OFF else "kept")


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("t.json", token(expires_at=ENDS), "token"),
        ("t.json", token(expires_at=1), "token"),
        ("t.json", '{"token": "of another form"}', "unknown"),
        ("t.json", "", "damaged"),
        ("t.json", "\0\0\0", "damaged"),
        ("t.json", "garbage", "unknown"),
        ("t.json", "null", "unknown"),
        ("t.json", "[", "damaged"),
        ("t.json", "eyJ0.e30.x", "unknown"),
        ("t.json", jwt(exp=ENDS), "token"),
        ("t.json", token(expires_at="2027-01-15T17:00:00"), "unknown"),
        ("t.json", "{'access_token': 'x'}", "unknown"),
        ("t.json", "[" + 70_000 * " ", "unknown"),
        ("t.json", '"eyJ0.e30.x"', "unknown"),
        ("t.json", '[{"token": "x"}]', "unknown"),
        ("t.json", token(expires_at=ENDS)[:-4], "damaged"),
        ("token", "eyJ0.e30.x", "unknown"),
        ("token", token(expires_at=ENDS)[:-4], "damaged"),
        ("token", "\n", "damaged"),
    ],
)
def test_damage_is_told_from_a_form_that_is_not_known(
    shell: list[str], name: str, content: str, state: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    assert shell_says(shell, 'token_state "$1"', str(tmp_path / name)) == state


def test_what_is_no_file_is_damage_and_nothing_is_missing(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name, state in {"directory": "damaged", "link": "damaged", "none": "missing"}.items():
        assert shell_says(shell, 'token_state "$1"', str(tmp_path / name)) == state


KEY, OTHER = "0a1b2c3d4e5f", "f5e4d3c2b1a0"
OWNER = f"{os.getuid()}:{os.getgid()}"


def files_in(directory: Path) -> dict[str, str]:
    found = (
        [path for path in directory.iterdir() if not path.is_dir()] if directory.exists() else []
    )
    return {path.name: path.read_text().strip() for path in found}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A token file in a directory of its own."""
    (tmp_path / "tokens").mkdir()
    return tmp_path / "tokens" / "t.json"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """What the package itself keeps of tokens."""
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def select(shell: list[str], path: Path, key: str, kept: Path) -> None:
    shell_says(shell, 'select_token "$@"', str(path), key, str(kept))


def bring(shell: list[str], path: Path, key: str, kept: Path, content: str) -> str:
    call = 'bring_token "$@" && echo taken || echo kept'
    return shell_says(shell, call, str(path), key, str(kept), stdin=content.encode())


def test_another_keys_token_is_parked_and_comes_back(
    shell: list[str], path: Path, kept: Path
) -> None:
    mine, theirs = token(expires_at=ENDS), token(expires_at=ENDS + 1)
    path.write_text(mine)
    select(shell, path, KEY, kept)
    assert (files_in(path.parent), files_in(kept)) == ({"t.json": mine}, {"whose": f"{KEY} {path}"})
    select(shell, path, OTHER, kept)
    assert files_in(path.parent) == {}
    assert files_in(kept) == {KEY: mine, "whose": f"{OTHER} {path}"}
    path.write_text(theirs)
    select(shell, path, KEY, kept)
    assert files_in(path.parent) == {"t.json": mine}
    assert files_in(kept) == {OTHER: theirs, "whose": f"{KEY} {path}"}
    assert (kept / "whose").stat().st_mode & 0o777 == 0o600


def test_what_is_remembered_of_another_token_file_says_nothing(
    shell: list[str], path: Path, kept: Path
) -> None:
    path.write_text(token(expires_at=ENDS))
    (kept / "whose").write_text(f"{OTHER} {path}.old\n")
    assert shell_says(shell, 'token_key "$@"', str(path), str(kept)) == ""
    (kept / "whose").write_text(f"{OTHER} {path}\n")
    assert shell_says(shell, 'token_key "$@"', str(path), str(kept)) == OTHER


def test_a_file_that_says_itself_whose_token_it_is_is_believed(
    shell: list[str], path: Path, kept: Path
) -> None:
    path.write_text(token(expires_at=ENDS, app_key_fingerprint=OTHER))
    (kept / "whose").write_text(f"{KEY} {path}\n")
    select(shell, path, KEY, kept)
    assert OTHER in files_in(kept)
    assert not path.exists()


@pytest.mark.parametrize("there", [None, ENDS - 1, ENDS, ENDS + 1])
def test_a_token_that_is_brought_is_taken_up_if_it_ends_later(
    shell: list[str], there: int | None, path: Path, kept: Path
) -> None:
    if there:
        path.write_text(token(expires_at=there))
    brought = token(expires_at=ENDS)
    is_better = there is None or there < ENDS
    assert bring(shell, path, KEY, kept, brought) == ("taken" if is_better else "kept")
    select(shell, path, KEY, kept)
    assert files_in(path.parent) == {"t.json": brought if is_better else token(expires_at=there)}


def test_a_token_that_has_expired_is_not_brought(shell: list[str], path: Path, kept: Path) -> None:
    assert bring(shell, path, KEY, kept, token(expires_at=1700000000)) == "kept"
    assert (files_in(path.parent), files_in(kept)) == ({}, {})


def test_of_two_tokens_of_a_key_none_is_lost(shell: list[str], path: Path, kept: Path) -> None:
    sooner, later = token(expires_at=ENDS), token(expires_at=ENDS + 1)
    path.write_text(sooner)
    (kept / "whose").write_text(f"{KEY} {path}")
    (kept / KEY).write_text(later)
    select(shell, path, OTHER, kept)
    files = files_in(kept)
    assert files.pop(KEY) == later
    assert sooner in files.values()


def test_what_an_earlier_version_kept_beside_the_token_is_taken_over_once(
    shell: list[str], path: Path, tmp_path: Path
) -> None:
    kept, victim = tmp_path / "app" / "tokens", tmp_path / "victim"
    victim.write_text(token(expires_at=ENDS))
    mine, theirs = token(expires_at=ENDS), token(expires_at=ENDS + 1)
    path.write_text(mine)
    path.with_name("t.json.key").write_text(f"{KEY}\n")
    path.with_name(f"t.json.of-{OTHER}").write_text(theirs)
    path.with_name("t.json.of-..").mkdir()
    path.with_name("t.json.of-0123456789ab").symlink_to(victim)
    path.with_name("t.json.of-notes").write_text("theirs")
    for _ in range(2):
        shell_says(shell, 'keep_tokens "$@"', str(path), str(kept))
        assert files_in(kept) == {OTHER: theirs, "whose": f"{KEY} {path}"}
    left = {"t.json", "t.json.of-..", "t.json.of-0123456789ab", "t.json.of-notes"}
    assert {each.name for each in path.parent.iterdir()} == left
    assert kept.stat().st_mode & 0o777 == 0o700
    path.with_name(f"t.json.of-{KEY}").write_text("planted later")
    shell_says(shell, 'keep_tokens "$@"', str(path), str(kept))
    assert KEY not in files_in(kept)


def test_a_planted_link_or_name_is_not_taken_over(
    shell: list[str], path: Path, tmp_path: Path
) -> None:
    kept, secret = tmp_path / "app" / "tokens", tmp_path / "secret"
    secret.write_text(f"{OTHER}\nof root")
    path.with_name("t.json.key").symlink_to(secret)
    os.mkfifo(path.with_name(f"t.json.of-{OTHER}"))
    shell_says(shell, 'keep_tokens "$@"', str(path), str(kept))
    assert files_in(kept) == {}


def test_the_directory_becomes_its_users_with_all_that_is_of_the_token(
    shell: list[str], tmp_path: Path
) -> None:
    directory, other = tmp_path / "tokens", tmp_path / "tokens" / "notes"
    call = 'own_token_dir "$1" "$2"'
    shell_says(shell, call, str(directory / "t.json"), OWNER)
    assert directory.stat().st_mode & 0o777 == 0o700
    names = ("t.json", "t.json.lock", "t.json.attempt", "notes")
    for name in names:
        (directory / name).touch(0o400)
    (directory / "t.json.link").symlink_to(other)
    shell_says(shell, call, str(directory / "t.json"), "20001:20002")
    owners = {name: (directory / name).stat().st_uid for name in names}
    assert owners == dict.fromkeys(names, 20001) | {"notes": os.getuid()}
    assert (directory / "t.json").stat().st_mode & 0o777 == 0o600


def test_no_owner_or_mode_is_changed_through_a_link(shell: list[str], path: Path) -> None:
    victim = path.parent.parent / "victim"
    victim.touch(0o400)
    path.symlink_to(victim)
    shell_says(shell, 'own_token_dir "$@"', str(path), "20001:20002")
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (os.getuid(), 0o400)


def test_no_owner_or_mode_is_changed_through_a_link_that_is_swapped_in(
    shell: list[str], path: Path
) -> None:
    victim = path.parent.parent / "victim"
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
        for _ in range(30):
            shell_says(shell, 'own_token_dir "$@" 2>/dev/null || :', str(path), "20001:20002")
    finally:
        done.set()
        swapper.join()
    assert (victim.stat().st_uid, victim.stat().st_mode & 0o777) == (os.getuid(), 0o400)


@pytest.mark.parametrize("call", ["token_state", "token_ends", "token_key"])
def test_a_fifo_is_not_waited_for_and_a_link_is_not_followed(
    shell: list[str], call: str, tmp_path: Path
) -> None:
    path, secret = tmp_path / "t.json", tmp_path / "secret"
    secret.write_text(token(expires_at=ENDS, app_key_fingerprint=KEY))
    nothing = {"token_state": "damaged", "token_ends": "0", "token_key": ""}[call]
    path.symlink_to(secret)
    assert shell_says(shell, f'{call} "$1"', str(path)) == nothing
    path.unlink()
    os.mkfifo(path)
    assert shell_says(shell, f'{call} "$1"', str(path)) == nothing


@pytest.mark.parametrize("planted", ["-", "/../../victim", f"{KEY}x", KEY.upper(), f"{KEY} x", "a"])
def test_only_a_fingerprint_is_believed_to_be_one(
    shell: list[str], planted: str, path: Path, kept: Path
) -> None:
    path.write_text(token(expires_at=ENDS, app_key_fingerprint=planted))
    (kept / "whose").write_text(f"{planted} {path}\n")
    assert shell_says(shell, 'token_key "$@"', str(path), str(kept)) == ""


def test_a_damaged_file_is_set_aside_whole(shell: list[str], tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("{")
    shell_says(shell, 'set_damaged_aside "$1"', str(path))
    [(name, content)] = files_in(tmp_path).items()
    assert name.startswith("t.json.damaged-")
    assert content == "{"
