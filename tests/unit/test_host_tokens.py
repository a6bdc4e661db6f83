"""The forms of token files, and hostile entries of a token directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kis_gateway_deploy.host.directory import Directory
from kis_gateway_deploy.host.tokens import FILE_LIMIT, examine
from tests.unit.builders import jwt

ENDS = 1800000000  # 2027-01-15 08:00 UTC, 17:00 in Korea
KEY = "0a1b2c3d4e5f"


def file(**fields: object) -> str:
    return json.dumps({"access_token": "opaque"} | fields)


# Content, `valid_until`, `file_says`.
TOKENS = {
    "a number": (file(expires_at=ENDS), ENDS, ENDS),
    "a float": (file(expires_at=ENDS + 0.75), ENDS, ENDS),
    "a number as text": (file(expires_at=str(ENDS)), ENDS, ENDS),
    "a float as text": (file(expires_at=f"{ENDS}.5"), ENDS, ENDS),
    "compact": (f'{{"access_token":"t","expires_at":{ENDS}}}', ENDS, ENDS),
    "pretty-printed": (json.dumps(json.loads(file(expires_at=ENDS)), indent=4), ENDS, ENDS),
    "line breaks of Windows": (
        f'{{\r\n"token": "t",\r\n"expires_at": {ENDS}\r\n}}\r\n',
        ENDS,
        ENDS,
    ),
    "a byte order mark": ("\ufeff" + file(expires_at=ENDS), ENDS, ENDS),
    "a preallocated file": (file(expires_at=ENDS) + "\0" * 9, ENDS, ENDS),
    "Korean, escaped": (file(expires_at=ENDS, note="토큰 \\ 파일"), ENDS, ENDS),
    "token and expires_at": (json.dumps({"token": "t", "expires_at": ENDS}), ENDS, ENDS),
    "ISO in UTC": (file(expires_at="2027-01-15T08:00:00Z"), ENDS, ENDS),
    "ISO in UTC with an offset": (file(expires_at="2027-01-15T08:00:00.123456+00:00"), ENDS, ENDS),
    "ISO in Korea": (file(expires_at="2027-01-15 17:00:00+09:00"), ENDS, ENDS),
    "ISO in Korea without a colon": (file(expires_at="2027-01-15T17:00:00+0900"), ENDS, ENDS),
    "ISO in New York": (file(expires_at=" 2027-01-15T03:00:00-05:00 "), ENDS, ENDS),
    "KIS's own answer": (
        file(access_token_token_expired="2027-01-15 17:00:00", expires_in=86400),
        ENDS,
        ENDS,
    ),
    "a date without a zone beside KIS's own": (
        file(expires_at="2027-01-15T08:00", access_token_token_expired="2027-01-15 17:00:00"),
        ENDS,
        None,
    ),
    "a JWT alone": (jwt(exp=ENDS), ENDS, None),
    "a JWT between bytes that are no text": (f"\x80\x04\x95{jwt(exp=ENDS)}\x94.", ENDS, None),
    "a JWT in YAML": (f"token: {jwt(exp=ENDS)}\nvalid-date: 2027-01-15 17:00:00", ENDS, ENDS),
    "a JWT in a Python literal": (f"{{'access_token': '{jwt(exp=ENDS)}'}}", ENDS, None),
    "the last of several JWTs": (
        json.dumps({"real": jwt(exp=ENDS), "paper": jwt(exp=ENDS - 9)}),
        ENDS,
        None,
    ),
    "a JWT against a field that overstates": (
        json.dumps({"access_token": jwt(exp=ENDS), "expires_at": ENDS + 6 * 3600}),
        ENDS,
        ENDS + 6 * 3600,
    ),
    "a JWT beside a date without a zone": (
        json.dumps({"access_token": jwt(exp=ENDS), "expires_at": "2027-01-15T17:00:00"}),
        ENDS,
        None,
    ),
    "a JWT beside an expiry in milliseconds": (
        json.dumps({"token": jwt(exp=ENDS), "expiresAt": ENDS * 1000}),
        ENDS,
        ENDS,
    ),
    "a JWT that does not expire, beside a field": (
        json.dumps({"access_token": jwt(), "expires_at": ENDS}),
        ENDS,
        ENDS,
    ),
    "expired long ago": (file(expires_at=1), 1, 1),
}

# Content, `file_says`.
UNKNOWN = {
    "an empty object": ("{}", None),
    "a list": ("[]", None),
    "no token": (json.dumps({"expires_at": ENDS}), ENDS),
    "a token of null": (json.dumps({"access_token": None, "expires_at": ENDS}), ENDS),
    "no expiry": (file(), None),
    "an expiry of null": (file(expires_at=None), None),
    "an expiry of true": (file(expires_at=True), None),
    "an expiry in words": (file(expires_at="soon"), None),
    "an expiry that is no date": (file(expires_at="2027-13-45T99:00:00Z"), None),
    "an expiry in microseconds": (file(expires_at=ENDS * 10**6), None),
    "an expiry of 14 digits": (file(expires_at=20270115080000), None),
    "an infinite expiry": ('{"access_token": "t", "expires_at": Infinity}', None),
    "an expiry of 400 digits": (file(expires_at="9" * 400), None),
    "a negative expiry": (file(expires_at=-1), None),
    "only a lifetime": (file(expires_in=86400), None),
    "a date without a zone": (file(expires_at="2027-01-15T17:00:00"), None),
    "a bare word": ("a-token-of-another-kind", None),
    "words": ("\x01garbage", None),
    "null": ("null", None),
    "a Python literal": ("{'access_token': 'x'}", None),
    "an INI file": ("[token]\nvalue = x\n", None),
    "two documents": ("{}{}", None),
    "a trailing comma": ('{"a": 1,}', None),
    "no JSON, cut off": ('{"access_token": "t" .', None),
    "a list that is no JSON, cut off": ("[true.", None),
    "deep nesting": ("[" * (FILE_LIMIT - 1), None),
    "a JWT without an expiry": (jwt(), None),
    "a JWT that expires in words": (jwt(exp="soon"), None),
    "a JWT whose claims are no JSON": ("eyJhbGciOiJI.AAAAAAAA.c2ln", None),
}

DAMAGED = {
    "empty": "",
    "blanks": " \r\n\t",
    "zeros": "\0" * 100,
    "a brace": "{",
    "a bracket": "[",
    "in a name": '{"access',
    "after a name": '{"access_token"',
    "after a colon": '{"access_token":',
    "in the token": '{"access_token": "eyJ0',
    "in an escape": '{"access_token": "\\',
    "in a Unicode escape": '{"access_token": "\\uc5',
    "in a word": '{"access_token": nu',
    "in a number": '{"expires_at": 18',
    "in a negative number": '{"expires_at": -',
    "in a fraction": '{"expires_at": 18.',
    "after a comma": '{"expires_at": 18, ',
    "before the last brace": file(expires_at=ENDS)[:-1],
    "in an inner object": '{"real": {"token": "x"}',
    "in a list": '[{"token": "x"}',
    "in a Korean letter": '{"note": "토큰'.encode()[:-1].decode("utf-8", "surrogateescape"),
}


def octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(("text", "valid_until", "file_says"), TOKENS.values(), ids=TOKENS)
def test_the_expiry_of_a_token(text: str, valid_until: int, file_says: int | None) -> None:
    found = examine(octets(text))
    assert (found.state, found.valid_until, found.file_says) == ("token", valid_until, file_says)


@pytest.mark.parametrize(("text", "file_says"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_form(text: str, file_says: int | None) -> None:
    found = examine(octets(text))
    assert (found.state, found.valid_until, found.file_says) == ("unknown", None, file_says)


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_an_empty_or_truncated_file_is_damaged(text: str) -> None:
    assert examine(octets(text)).state == "damaged"


@pytest.mark.parametrize(
    ("real", "paper", "file_says"),
    [(ENDS, ENDS - 9, ENDS - 9), (ENDS, "2027-01-15T17:00:00", None), (None, ENDS, None)],
)
def test_of_several_fields_of_a_file_the_earliest_counts(
    real: object, paper: object, file_says: int | None
) -> None:
    token = {"access_token": jwt(exp=ENDS)}
    maps = [token | {"expires_at": real}, token | {"expires_at": paper}, token]
    found = examine(json.dumps(maps).encode())
    assert (found.valid_until, found.file_says) == (ENDS, file_says)


@pytest.mark.parametrize(
    ("name", "whose"), [(KEY, KEY), (KEY.upper(), None), (f"/../{KEY}", None), (7, None)]
)
def test_a_file_may_name_its_app_key(name: object, whose: str | None) -> None:
    assert examine(file(expires_at=ENDS, app_key_fingerprint=name).encode()).whose == whose


def test_a_token_file_truncated_at_any_byte_is_damaged() -> None:
    content = file(expires_at=ENDS, note="토큰", list=[True, None, {"a": -1.5e3}]).encode()
    states = {examine(content[:length]).state for length in range(len(content))}
    assert states == {"damaged"}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    directory = tmp_path / "tokens"
    directory.mkdir()
    return directory


def state(directory: Path, name: str = "t.json") -> str | None:
    with Directory(str(directory)) as opened:
        found = opened.examine(name)
        return found.state if found else None


def test_a_path_that_is_no_regular_file_is_damaged(tokens: Path) -> None:
    good = tokens.parent / "good"
    good.write_text(file(expires_at=ENDS))
    assert state(tokens) is None
    (tokens / "t.json").symlink_to(good)
    (tokens / "directory").mkdir()
    os.mkfifo(tokens / "fifo")
    (tokens / "dangling").symlink_to("nowhere")
    (tokens / "zero").symlink_to("/dev/zero")
    for name in ("t.json", "directory", "fifo", "dangling", "zero"):
        assert state(tokens, name) == "damaged"


def test_a_file_that_is_too_large_or_has_two_hard_links_is_not_read(tokens: Path) -> None:
    content = file(expires_at=ENDS).encode()
    (tokens / "full").write_bytes(content.ljust(FILE_LIMIT))
    assert state(tokens, "full") == "token"
    (tokens / "large").write_bytes(content.ljust(FILE_LIMIT + 1))
    (tokens / "sparse").touch()
    os.truncate(tokens / "sparse", 10_000_000_000)
    (tokens / "linked").write_bytes(content)
    os.link(tokens / "linked", tokens.parent / "other name")
    for name in ("large", "sparse", "linked"):
        assert state(tokens, name) == "unknown"


def test_a_name_cannot_leave_the_directory(tokens: Path) -> None:
    (tokens.parent / "other").write_text("of root")
    with Directory(str(tokens)) as opened:
        assert opened.read("../other") is None
        assert opened.stat("../other") is None
        assert opened.read("a\0b") is None
        assert opened.stat("x" * 5000) is None


def test_a_link_is_not_accepted_as_the_token_directory(tokens: Path) -> None:
    (tokens.parent / "link").symlink_to(tokens)
    with pytest.raises(OSError, match="link"):
        Directory(str(tokens.parent / "link"))


def test_only_the_newest_of_many_entries_are_listed(tokens: Path) -> None:
    for number in range(1100):
        path = tokens / f"t.{number}\n"
        path.touch()
        os.utime(path, (number, number))
    with Directory(str(tokens)) as opened:
        found = opened.names()
    assert len(found) == 1000
    assert (found[0], found[-1]) == ("t.1099\n", "t.100\n")
