from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from kis_gateway_deploy.env_file import EnvFileError, names_in, values_in
from kis_gateway_deploy.requests import compose_binary


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("", {}),
        ("A=1\nB=2\n", {"A": 1, "B": 2}),
        ("\ufeffA=1\r\nB=2\r\n", {"A": 1, "B": 2}),
        ("# a comment\n\n  export A=1 # more\nB = two words\n", {"A": 3, "B": 4}),
        ("A=\nB=", {"A": 1, "B": 2}),
        ("A: yaml\n", {"A": 1}),
        ("A='pa$word'\nB=\"it's\"\n", {"A": 1, "B": 2}),
        ("A=\"two\nlines\"\nB='a \\' b' # why\n", {"A": 1, "B": 3}),
        ("A=no#comment\nB=#no comment\nC=1 # $2\n", {"A": 1, "B": 2, "C": 3}),
        ("KIS.ACCT-1=5\n", {"KIS.ACCT-1": 1}),
    ],
)
def test_the_names_have_the_numbers_of_their_lines(content: str, names: dict[str, int]) -> None:
    assert names_in(content.encode()) == names


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"A=1\nB=s3cret\0\n", "line 2: has a NUL character"),
        (b"A=1\nB=s3cret\xff\n", "line 2: is not UTF-8"),
        (b"A=1\nB\n", "line 2: has a name without a value"),
        (b"s3cret\n", "line 1: has a name without a value"),
        (b"A=1\ns3cret s3cret\n", "line 2: is not NAME=value"),
        (b"=s3cret\n", "line 1: is not NAME=value"),
        (b"1A=s3cret\n", "line 1: is not NAME=value"),
        (b"export =s3cret\n", "line 1: is not NAME=value"),
        (b"A=s3cret$word\n", "line 1: has a `$`"),
        (b'A="s3cret$word"\n', "line 1: has a `$`"),
        (b'A="s3cret\nB=${HOME}"\n', "line 2: has a `$`"),
        (b"A='s3cret\nB=1\n", "line 1: has a quote that is not closed"),
        (b'A=1\nB="s3cret\n', "line 2: has a quote that is not closed"),
        (b"A='a' s3cret\n", "line 1: has text after the closing quote"),
        (b"A=#s3cret$word\n", "line 1: has a `$`"),
        (b'A=1\nB="s3cret\\\\"\n', "line 2: has backslashes before a quote"),
        (b"A='s3cret\\\\'\n", "line 1: has backslashes before a quote"),
        (b'A="\ns3cret\\012"\n', "line 2: has an escape `\\0`"),
    ],
)
def test_an_error_names_the_line_and_no_value(content: bytes, error: str) -> None:
    with pytest.raises(EnvFileError) as raised:
        names_in(content)
    assert str(raised.value).startswith(error)
    assert "s3cret" not in str(raised.value)


VALUES = {
    "A=1": "1",
    "A=": "",
    "A=''": "",
    'A=""': "",
    "A: yaml": "yaml",
    "export A = two words \t": "two words",
    "A=no#comment": "no#comment",
    "A=a # b # c": "a",
    "A=tab\t#no comment": "tab\t#no comment",
    "A=#no comment": "#no comment",
    "A= #no comment": "#no comment",
    "A=it's": "it's",
    'A=say "x"': 'say "x"',
    "A=a\\nb\\": "a\\nb\\",
    "A=\v\xa0x\u3000\x85": "x",
    "A=\v'x'": "x",
    "A=\u3000x": "\u3000x",
    "A='pa$word'": "pa$word",
    "A='a\\nb'": "a\\nb",
    "A='it\\'s'": "it's",
    "A='two\nlines'": "two\nlines",
    "A=' #blank '": " #blank ",
    'A="two\nlines"': "two\nlines",
    'A="a #b" # c': "a #b",
    'A="a\\nb\\rc\\td"': "a\nb\rc\td",
    'A="\\a\\b\\f\\v"': "\a\b\f\v",
    'A="say \\"x\\""': 'say "x"',
    'A="a\\\\nb"': "a\\nb",
    'A="a\\\\\\"b"': 'a\\"b',
    'A="\\c\\x41\\u00e9\\\'"': "\\c\\x41\\u00e9\\'",
    'A="a\\\nb"': "a\\\nb",
    "A=한국어": "한국어",
    "A=1\r\nA=2\r\n": "2",
    "A='two\r\nlines' # c\r\n": "two\r\nlines",
}


@pytest.mark.parametrize(("content", "value"), VALUES.items())
def test_a_value_is_what_its_line_says(content: str, value: str) -> None:
    assert values_in(content.encode()) == {"A": value}


def test_compose_reads_the_same_values(tmp_path: Path) -> None:
    """With random files, too: whatever is accepted means the same to compose."""
    chance = random.Random(17)  # noqa: S311 - the same files each time
    parts = ["A", "B", "=", "=", "=", ": ", " ", "\t", "\v", "'", '"', "'", '"', "\\", "\\", "#"]
    parts += ["n", "t", "$", "\u3000", "\xa0", "é", "\n", "\r\n"]
    contents = [content.encode() for content in VALUES]
    contents += ["".join(["A=", *chance.choices(parts, k=9)]).encode() for _ in range(3000)]
    expected: dict[str, dict[str, str]] = {}
    services = {}
    for number, content in enumerate(contents):
        try:
            expected[f"s{number}"] = values_in(content)
        except EnvFileError:
            continue
        (tmp_path / f"{number}.env").write_bytes(content)
        services[f"s{number}"] = {"image": "x", "env_file": [f"{number}.env"]}
    assert len(expected) > 500
    (tmp_path / "compose.yml").write_text(json.dumps({"services": services}))
    shown = subprocess.run(
        [compose_binary(), "--file", tmp_path / "compose.yml", "config", "--format", "json"],
        capture_output=True,
        check=True,
        env={},
    )
    found = json.loads(shown.stdout)["services"]
    for name, values in expected.items():
        environment = found[name].get("environment") or {}
        read = {each: value.replace("$$", "$") for each, value in environment.items()}
        assert read == values, contents[int(name[1:])]
