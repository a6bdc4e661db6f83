"""Issuances are counted in the token file while a gateway runs; its log is excerpted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kis_gateway_deploy.host.token_files import TokenFiles
from kis_gateway_deploy.host.watch import TokenWatch, excerpt, first_error, lines_of
from tests.unit.builders import jwt

ENDS = 4102444800  # in 2100


def token(value: str = "one", ends: int = ENDS) -> str:
    return json.dumps({"access_token": value, "expires_at": ends})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.json"


def watch(path: Path) -> TokenWatch:
    return TokenWatch(str(path.parent), TokenFiles(path.name))


@pytest.mark.parametrize(
    ("before", "after", "state", "issuances", "rewritten"),
    [
        (None, token(), "valid", 1, False),
        (None, token(ends=1), "expired", 1, False),
        (None, "sealed", "unknown", 1, False),
        ("", token(), "valid", 1, False),
        (token(), token(), "valid", 0, True),
        (token(), token() + "\n", "valid", 0, True),
        (token(), token("two"), "valid", 1, False),
        (token(), token(ends=1), "expired", 0, True),  # the same token, another date
        (token(), "sealed", "unknown", 0, True),
        ("sealed", "sealed again", "unknown", 0, True),
        ("sealed", token(), "valid", 1, False),
        (json.dumps({"own": "one"}), token(), "valid", 0, True),  # the same token in another form
        (jwt(exp=ENDS), json.dumps({"access_token": jwt(exp=ENDS)}), "valid", 0, True),
        (jwt(exp=ENDS), jwt(exp=ENDS + 1), "valid", 1, False),
        (token(), "", "damaged", 0, False),
        (token(), '{"access_to', "damaged", 0, False),
        (token(), None, "missing", 0, False),
    ],
)
def test_a_new_token_is_an_issuance(
    path: Path, before: str | None, after: str | None, state: str, issuances: int, rewritten: bool
) -> None:
    if before is not None:
        path.write_text(before)
    watched = watch(path)
    path.unlink(missing_ok=True)
    if after is not None:
        path.with_name("new").write_text(after)
        path.with_name("new").rename(path)
    for _ in range(2):  # a second look counts nothing again
        assert watched.look() == state
    assert (watched.issuances, watched.rewritten) == (issuances, rewritten)


def test_a_half_written_file_counts_when_it_is_complete(path: Path) -> None:
    path.write_text(token())
    watched = watch(path)
    for content, issuances in [("", 0), (token("two")[:9], 0), (token("two"), 1)]:
        path.write_text(content)
        watched.look()
        assert watched.issuances == issuances


def test_the_remaining_validity_of_a_replaced_token_is_recorded(path: Path) -> None:
    path.write_text(token())
    watched = watch(path)
    assert watched.replaced == 0
    path.write_text(token("two"))
    watched.look()
    assert watched.replaced > 1e9
    path.write_text(token("three", 1))
    watched.look()
    assert watched.issuances == 2


def test_a_token_that_stays_in_the_file_was_not_replaced(path: Path) -> None:
    """The expired one of two accounts is renewed."""
    real, expired, new = (
        jwt(exp=4000000000, sub="a"),
        jwt(exp=1000000000, sub="b"),
        jwt(exp=3000000000, sub="b"),
    )
    path.write_text(json.dumps([real, expired]))
    watched = watch(path)
    path.write_text(json.dumps([real, new]))
    watched.look()
    assert (watched.issuances, watched.replaced) == (1, 0.0)
    path.write_text(json.dumps([jwt(exp=4100000000, sub="c"), new]))
    watched.look()
    assert watched.issuances == 2
    assert watched.replaced > 1e9


LOG = [
    *(f"start {n}" for n in range(5)),
    "ERROR: the first",
    "  why",
    *(f"tick {n}" for n in range(50)),
]


def test_the_first_error_and_the_last_lines_of_a_log_are_shown() -> None:
    assert first_error(LOG) == "ERROR: the first"
    shown = excerpt(LOG)
    assert shown[:4] == ["...", "ERROR: the first", "  why", "tick 0"]
    assert shown[-1] == "tick 49"
    assert shown[shown.index("...", 1) + 1] == "tick 40"
    assert len(shown) == 17


def test_the_beginning_and_the_end_of_a_log_without_errors_are_shown() -> None:
    log = [f"tick {number}" for number in range(50)]
    assert first_error(log) == ""
    shown = excerpt(log)
    assert (shown[0], shown[4], shown[5], shown[6]) == ("tick 0", "tick 4", "...", "tick 40")


@pytest.mark.parametrize("log", [b"", b"\n\n", b"one line"])
def test_a_short_log_is_shown_completely(log: bytes) -> None:
    lines = lines_of(log, set(), is_cut=False)
    assert excerpt(lines) == [line.decode() for line in log.splitlines() if line]


def test_no_secret_and_no_token_of_a_log_is_shown() -> None:
    log = f"Error: bad secret s3cret-of-nobody\nBearer {jwt(exp=1)} was refused"
    shown = "\n".join(lines_of(log.encode(), {"s3cret-of-nobody"}, is_cut=False))
    assert "s3cret" not in shown
    assert "eyJ" not in shown
    assert shown.count("(hidden)") == 2


def test_a_long_line_is_cut() -> None:
    assert lines_of(b"x" * 5000, set(), is_cut=False) == ["x" * 300]


def test_the_rest_of_a_secret_at_the_beginning_of_a_cut_log_is_not_shown() -> None:
    log = b"of-nobody was refused\nERROR: the second line\n"
    lines = lines_of(log, {"s3cret-of-nobody"}, is_cut=True)
    assert lines == ["ERROR: the second line"]
