"""The token files that `gateway_token_file` names, when there are several or the name changes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run
from hypothesis import strategies as st

from kis_gateway_deploy.host.directory import Directory
from kis_gateway_deploy.host.token_files import Kept, TokenFiles
from kis_gateway_deploy.host.tokens import KOREA, examine
from kis_gateway_deploy.host.watch import TokenWatch
from tests.unit.builders import jwt

KEY, OTHER = "0a1b2c3d4e5f", "f5e4d3c2b1a0"
ENDS = 4102444800  # in 2100
ME = (os.getuid(), os.getgid())
TODAY = f"KIS{datetime.now(KOREA):%Y%m%d}"
DAILY = "KIS{date:%Y%m%d}"


def token(value: str = "t", ends: float = ENDS) -> str:
    return json.dumps({"access_token": value, "expires_at": ends})


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """An empty token directory."""
    (tmp_path / "tokens").mkdir()
    return tmp_path / "tokens"


def kept(tokens: Path, form: str | None, expected: int = 1) -> Kept:
    return Kept(str(tokens.parent / "app"), str(tokens), form, expected)


@pytest.mark.parametrize(
    ("form", "names", "others"),
    [
        ("t.json", ["t.json"], ["t.jso", "T.json", "a/t.json"]),
        (
            "token_real_*.json",
            ["token_real_me_0a.json", "token_real_.json"],
            [
                "token_paper_me.json",
                "token_real_me.json.damaged-20270101-000000",
                "a/token_real_.json",
            ],
        ),
        ("t?.json", ["t1.json"], ["t.json", "t12.json", "t1xjson"]),
        (DAILY, ["KIS20270101"], ["KIS2027", "KIS20270101.bak", "XKIS20270101"]),
        ("t-{date:%y_%j}.yaml", ["t-27_001.yaml"], ["t-27_01.yaml"]),
        (None, ["a", "real/a.json", ".hidden"], ["a/b/c", ".t.json.0123456789abcdef"]),
    ],
)
def test_which_names_are_token_files(form: str | None, names: list[str], others: list[str]) -> None:
    files = TokenFiles(form)
    assert [name for name in names + others if files.holds(name)] == names


def test_all_files_are_found_in_one_level_of_subdirectories(tokens: Path) -> None:
    (tokens / "real" / "deeper").mkdir(parents=True)
    for name in ("a", "real/b", "real/deeper/c"):
        (tokens / name).write_text(token())
    (tokens / "link").symlink_to(tokens.parent)
    with Directory(str(tokens)) as directory:
        found = TokenFiles(None).names(directory)
        assert set(found) == {"a", "real/b"}
        evidence = TokenFiles(None).examine(directory, found)
    assert evidence and evidence.expiries == (ENDS, ENDS)


def test_the_next_start_reads_the_file_of_today_in_korea(tokens: Path) -> None:
    files = TokenFiles(DAILY)
    (tokens / "KIS20200101").write_text(token())
    with Directory(str(tokens)) as directory:
        assert files.names(directory) == ["KIS20200101"]
        assert files.next_names(directory) == []
        assert kept(tokens, DAILY).best(KEY) == ("missing", 0)
        (tokens / TODAY).write_text(token())
        assert files.next_names(directory) == [TODAY]
    assert kept(tokens, DAILY).best(KEY) == ("token", ENDS)


@pytest.mark.parametrize(("expected", "ends"), [(1, ENDS), (2, ENDS - 5), (3, 0)])
def test_so_many_tokens_must_be_valid(tokens: Path, expected: int, ends: int) -> None:
    (tokens / "real.json").write_text(token("r"))
    (tokens / "paper.json").write_text(token("p", ENDS - 5))
    assert kept(tokens, "*.json", expected).best(KEY) == ("token", ends)


@pytest.mark.parametrize(
    ("contents", "expected", "state"),
    [
        ([], 1, "missing"),
        ([token(), token("u")], 2, "valid"),
        ([token(), token("u", 1)], 2, "few"),
        ([token(ends=1), token("u", 1)], 1, "expired"),
        ([token(), ""], 1, "valid"),
        ([token(), "sealed"], 1, "valid"),
        (["sealed", ""], 1, "unknown"),
        (["", "{"], 1, "damaged"),
    ],
)
def test_the_state_of_several_files(
    tokens: Path, contents: list[str], expected: int, state: str
) -> None:
    for number, content in enumerate(contents):
        (tokens / f"{number}.json").write_text(content)
    assert TokenWatch(str(tokens), TokenFiles("*.json"), expected).look() == state


def test_each_new_token_of_several_files_is_an_issuance(tokens: Path) -> None:
    (tokens / "real").write_text(jwt(exp=ENDS))
    watched = TokenWatch(str(tokens), TokenFiles(None), 2)
    steps = [
        ("real2", jwt(exp=ENDS), 0),  # the same token in another file
        ("log", "anything", 0),
        ("paper", jwt(exp=ENDS - 1), 1),
        ("both", f"{jwt(exp=ENDS - 2)} {jwt(exp=ENDS - 3)}", 3),
    ]
    for name, content, issuances in steps:
        (tokens / name).write_text(content)
        watched.look()
        assert watched.issuances == issuances
    assert watched.replaced == 0


def test_a_new_day_replaces_no_token(tokens: Path) -> None:
    (tokens / "KIS20200101").write_text(jwt(exp=ENDS))
    watched = TokenWatch(str(tokens), TokenFiles(DAILY))
    (tokens / TODAY).write_text(jwt(exp=ENDS + 1))
    assert watched.look() == "valid"
    assert (watched.issuances, watched.replaced) == (1, 0)


def test_files_of_several_tokens_are_brought_under_their_names(tokens: Path) -> None:
    form = "token_*.json"
    mine, theirs = kept(tokens, form), {"token_a.json": token("a"), "token_b.json": token("b")}
    assert mine.bring({name: each.encode() for name, each in theirs.items()}, KEY)
    assert mine.best(KEY) == ("token", ENDS)
    (tokens / "token_a.json").write_text(token("later", ENDS + 9))
    mine.ready(KEY, ME)
    found = {path.name: path.read_text() for path in tokens.iterdir()}
    assert found == {"token_a.json": token("later", ENDS + 9), "token_b.json": token("b")}
    assert (tokens / "token_b.json").stat().st_mode & 0o777 == 0o600


def test_files_in_a_subdirectory_are_parked_and_restored(tokens: Path) -> None:
    mine = kept(tokens, None)
    (tokens / "real").mkdir()
    (tokens / "real" / "t").write_text(token())
    (tokens / "prices.db").write_text("of the gateway")
    mine.ready(KEY, ME)
    mine.ready(OTHER, ME)
    assert [path.name for path in tokens.rglob("*") if path.is_file()] == ["prices.db"]
    (tokens / "real").rmdir()
    mine.ready(KEY, ME)
    assert (tokens / "real" / "t").read_text() == token()


def test_a_packed_token_names_no_file_that_is_none() -> None:
    files = TokenFiles("token_*.json")
    packed = files.pack({"token_a.json": b"a", "../x": b"b", "token_/b.json": b"c"})
    assert files.unpack(packed) == {"token_a.json": b"a"}
    for planted in (b"", b"{", b"[]", b'{"files": 3}', b'{"files": {"token_a.json": 7}}', b"null"):
        assert files.unpack(planted) == {}


def anything() -> st.SearchStrategy[bytes]:
    """Contents of any file: forms of tokens, damage, other data."""
    ends = st.sampled_from([1, int(time.time()) + 300, ENDS])
    known = ends.map(lambda each: token(ends=each)) | ends.map(lambda each: jwt(exp=each))
    text = known | st.sampled_from(["", "{", "sealed", "{}", "null", " "])
    cut = st.tuples(known, st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]])
    return (text | cut).map(str.encode) | st.binary(max_size=300)


NAMES = st.sampled_from(["t.json", TODAY, "token_a.json", "sub/t.json", "t.json.lock", "x" * 200])
FORMS = st.sampled_from(["t.json", DAILY, "token_*.json", "*", None])


@st.composite
def directories(draw: st.DrawFn) -> dict[str, bytes]:
    return draw(st.dictionaries(NAMES, anything(), max_size=5))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("any")


@run(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=directories(), form=FORMS, key=st.sampled_from([KEY, OTHER]), swap=st.booleans())
def test_whatever_is_in_the_directory_no_content_is_lost_and_only_damage_is_moved(
    fresh: Path, files: dict[str, bytes], form: str | None, key: str, swap: bool
) -> None:
    home = fresh / f"{time.monotonic_ns()}"
    tokens = home / "tokens"
    for name, content in files.items():
        (tokens / name).parent.mkdir(parents=True, exist_ok=True)
        (tokens / name).write_bytes(content)
    if swap:
        tokens.mkdir(parents=True, exist_ok=True)
        (tokens / "link").symlink_to("/etc/passwd")
        os.mkfifo(tokens / "fifo")
    mine = Kept(str(home / "app"), str(tokens), form)
    mine.best(key)
    mine.ready(key, ME)
    assert TokenWatch(str(tokens), mine.files).look()
    there = {str(path.relative_to(tokens)): path for path in tokens.rglob("*") if path.is_file()}
    for name, content in files.items():
        if name in there:
            assert there[name].read_bytes() == content
            continue
        assert examine(content).state == "damaged"
        assert mine.files.holds(name)
        assert form is not None
        [aside] = [each for each in there if each.startswith(f"{name}.damaged-")]
        assert there[aside].read_bytes() == content
