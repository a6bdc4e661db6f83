"""Token files of public projects are read; whatever the bytes, only certain damage is damage."""

from __future__ import annotations

import json
import random
import time
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kis_gateway_deploy.host.tokens import FILE_LIMIT, examine
from tests.unit.token_forms import ENDS, FORMS, PAGE, TOKEN, VARIANTS, Form, forms_page

ALL = [*FORMS, *VARIANTS]


@pytest.mark.parametrize("form", ALL, ids=[form.name for form in ALL])
def test_a_form_is_read_to_the_second(form: Form) -> None:
    found = examine(form.content)
    ends = form.expiries[-1] if form.expiries else None
    assert (found.state, found.valid_until, found.source) == (form.state, ends, form.source)
    assert found.expiries == form.expiries


def test_nearly_all_forms_of_public_projects_are_read() -> None:
    assert len({form.name for form in FORMS}) == len(FORMS) >= 37
    not_read = [form.name for form in FORMS if examine(form.content).state != "token"]
    assert len(not_read) <= 2


def test_the_page_of_forms_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == forms_page(), (
        "docs/token-forms.md is stale: .venv/bin/python -m tests.unit.token_forms --write"
    )


def can_become_json(text: str) -> bool:
    """Whether something can be appended that makes valid JSON of it: it is cut off at its end."""
    closers, in_string, escaped = "", False, False
    for letter in text:
        if in_string:
            in_string, escaped = escaped or letter != '"', letter == "\\" and not escaped
        elif letter in "{[":
            closers = {"{": "}", "[": "]"}[letter] + closers
        elif letter in "}]":
            closers = closers[1:]
        else:
            in_string = letter == '"'
    words = ["0", "rue", "ue", "e", "alse", "lse", "se", "ull", "ll", "l"]
    strings = ['"', '\\"', 'u0000"', *("0" * number + '"' for number in range(1, 5))]
    return any(
        is_json(text + end + more + closers)
        for end, more in product(["", *words, *strings], ["", "0", ":0", '"":0'])
    )


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | st.text() | st.just(TOKEN),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["access_token", "expires_at", "token"]), inner, max_size=3
        )
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=10,
)
DOCUMENT = st.tuples(JSON, st.booleans()).map(lambda it: json.dumps(it[0], ensure_ascii=it[1]))
PIECES = st.sampled_from([*'{}[]":,.-+eEu\\ tfn019\n\0', "true", "null", "\\u12", '"a"', TOKEN])
CONTENT = (
    st.binary()
    | st.tuples(st.sampled_from([b"{", b"[", b'{"', b'["a",']), st.binary()).map(b"".join)
    | st.lists(PIECES).map(lambda them: "".join(them).encode())
    | st.lists(PIECES, max_size=6).map(lambda them: "[" + "".join(them)).map(str.encode)
    | st.tuples(DOCUMENT, st.integers(0, 300)).map(
        lambda it: it[0].encode("utf-8", "replace")[: it[1]]
    )
)
many = settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))


def is_damage(content: bytes) -> bool:
    text = content.decode("utf-8-sig", "replace").strip(" \t\r\n\0")
    return not text or (text[0] in "{[" and not is_json(text) and can_become_json(text))


@many
@given(CONTENT)
def test_only_an_empty_file_and_truncated_json_are_damaged(content: bytes) -> None:
    found = examine(content)
    if found.state == "damaged":
        assert is_damage(content)
    assert (found.valid_until is None) == (found.state != "token") == (not found.expiries)


@many
@given(st.binary(), st.binary() | st.sampled_from([b"}", b'"}', b"']"]))
def test_a_file_with_a_jwt_is_damaged_only_if_it_is_truncated_json(
    before: bytes, after: bytes
) -> None:
    content = before + TOKEN.encode() + after
    found = examine(content)
    if found.state == "damaged":
        assert is_damage(content)
    else:
        assert (found.state, found.valid_until) == ("token", ENDS)


@many
@given(DOCUMENT, st.data())
def test_a_json_object_or_list_cut_off_anywhere_is_damaged(
    document: str, data: st.DataObject
) -> None:
    if document[0] in "{[" and document.isascii():
        length = data.draw(st.integers(0, len(document) - 1))
        assert examine(document[:length].encode()).state == "damaged"


HOSTILE = {
    "starts of JWTs": b"eyJ" * FILE_LIMIT,
    "starts of JWTs with one dot": b"eyJab." * FILE_LIMIT,
    "headers that share a dot": (b"eyJ" * 85 + b"." + b"a" * 4096) * 16,
    "headers and claims that share a dot": (b"eyJ" * 85 + b"." + b"eyJ" * 1365) * 16,
    "short JWTs": b"eyJab.AAAA." * FILE_LIMIT,
    "starts of JWTs in JSON": b'{"token": "' + b"eyJ" * 21_000 + b'"}',
    "lists": b"[" * FILE_LIMIT,
    "objects": b'{"a":' * FILE_LIMIT,
    "tokens": b"[" + b'{"token":"a","expires_at":"2027-01-15T08:00:00Z"},' * 1300 + b"{}]",
    "cut off": b"[" + b"1," * 32_000 + b"tru",
    "digits": b"[" + b"9" * (FILE_LIMIT - 2) + b"]",
    "a date of digits": b'{"token": "a", "expires_at": "' + b"9" * 65_000 + b'"}',
    "an open string": b'["' + b'\\"' * 32_000,
    "lines": b"".join(b"name%d: value\n" % number for number in range(4000)),
    "spaces in a line": b"a: " + b" " * 65_000 + b"x",
    "spaces": b" " * 65_000 + b"x",
    "random": random.Random(1).randbytes(FILE_LIMIT),  # noqa: S311 - must be the same each time
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_content_takes_little_time(content: bytes) -> None:
    began = time.process_time()
    examine(content[:FILE_LIMIT])
    assert time.process_time() - began < 0.5
