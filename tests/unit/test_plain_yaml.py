from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kis_gateway_deploy.plain_yaml import load_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: {b: [1, 'x']}", {"a": {"b": [1, "x"]}}),
        ('{"a": "b"}', {"a": "b"}),
        ("a: !!str 1", {"a": "1"}),
        ("\ufeffa: 한국어\r\n", {"a": "한국어"}),
    ],
)
def test_plain_yaml_is_read(text: str, value: Any) -> None:
    assert load_plain(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a s3cret\nb: *a", "line 2: has an alias"),
        ("a: 1\nb: *s3cret", "line 2: has an alias"),
        ("[" * 100_000, "line 1: is nested too deep"),
        ("{a: " * 21 + "1" + "}" * 21, "line 1: is nested too deep"),
        ("a: 1\nb: !!bool s3cret", "line 2: has a tag"),
        ("a: !vault |\n  s3cret", "line 1: has a tag"),
        ("!!python/object/apply:os.system [s3cret]", "line 1: has a tag"),
        ("a: 1\nb: 's3cret", "line 2: is not YAML"),
        ("s3cret: a: b", "line 1: is not YAML"),
        ("a: 1\n--- \ns3cret: 1", "line 2: is not YAML"),
        ("? [s3cret]\n: 1", "line 1: is not YAML"),
        ("a: s3cret\0", "is not YAML"),
        ("a: s3cret\ud800", "is not YAML"),
        ("a: 2027-99-99", "is not YAML"),
        ("a: 0x_", "is not YAML"),
        ("a: 190" + ":20" * 300 + ".5", "is not YAML"),
    ],
)
def test_other_yaml_is_refused_without_its_content(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        load_plain(text)
    assert "s3cret" not in str(raised.value)


PARTS = [
    "a",
    ":",
    " ",
    "\n",
    "- ",
    "!",
    "!!",
    "bool",
    "&",
    "*",
    "{",
    "}",
    "[",
    "'",
    "0x",
    "_",
    "<<",
]


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text() | st.lists(st.sampled_from(PARTS)).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_plain(text)
    except ValueError as error:
        assert "YAML" in str(error) or str(error).startswith("line ")
