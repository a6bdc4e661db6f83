from __future__ import annotations

import pytest

from kis_gateway_deploy.env_file import EnvFileError, names_in


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
        ("A=no#comment\nB=#comment with $\nC=1 # $2\n", {"A": 1, "B": 2, "C": 3}),
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
    ],
)
def test_an_error_names_the_line_and_no_value(content: bytes, error: str) -> None:
    with pytest.raises(EnvFileError) as raised:
        names_in(content)
    assert str(raised.value).startswith(error)
    assert "s3cret" not in str(raised.value)
