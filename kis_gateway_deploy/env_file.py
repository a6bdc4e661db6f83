"""Reads an env file as compose reads it, so that a mistake is found before any host is touched.

The rules are those of compose-go's `dotenv`, with two differences: what compose would take from the
environment of the host's root (`$NAME`, a name without a value) is an error, and so is what its
versions read differently. No message has a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

NAME = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*")
BLANKS = " \t\v\f\r\x85\xa0"
TRIMMED = f"{BLANKS}\u1680{''.join(map(chr, range(0x2000, 0x200B)))}\u2028\u2029\u202f\u205f\u3000"
ESCAPES = dict(zip('abfnrtv\\"', '\a\b\f\n\r\t\v\\"', strict=True))


class EnvFileError(ValueError):
    """`line 3: what is wrong with it`."""

    def __init__(self, text: str, position: int, what: str) -> None:
        super().__init__(f"line {text.count(chr(10), 0, position) + 1}: {what}")


def names_in(content: bytes) -> dict[str, int]:
    """The names that the file sets, each with the number of its line.

    Raises:
        EnvFileError: compose would refuse the file, or would read something else than it says.
    """
    return {name: line for name, line, _ in _variables(content)}


def values_in(content: bytes) -> dict[str, str]:
    """The variables that the file sets, with the values that compose hands to the container.

    Raises:
        EnvFileError: as `names_in`.
    """
    return {name: value for name, _, value in _variables(content)}


def _variables(content: bytes) -> Iterator[tuple[str, int, str]]:
    """Name, line and value of each assignment."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        raise EnvFileError(before, len(before), "is not UTF-8") from None
    if "\0" in text:
        raise EnvFileError(text, text.index("\0"), "has a NUL character")
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n":
            position += 1
        elif text[position] == "#":
            position = _end_of_line(text, position)
        else:
            name, position = _assignment(text, position)
            line = text.count("\n", 0, position) + 1
            value, position = _value(text, position)
            yield name, line, value


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _assignment(text: str, position: int) -> tuple[str, int]:
    """The name, and where its value begins."""
    match = NAME.match(text, position)
    if not match or match[1] == "export":  # compose would take an empty name
        raise EnvFileError(text, position, "is not NAME=value")
    rest = text[match.end() : match.end() + 1]
    if rest in {"=", ":"}:
        return match[1], match.end() + 1
    if rest in {"", "\r", "\n"}:
        what = "has a name without a value: compose would take it from root's environment"
        raise EnvFileError(text, position, what)
    raise EnvFileError(text, position, "is not NAME=value")


def _value(text: str, position: int) -> tuple[str, int]:
    """The value, and where it ends."""
    while position < len(text) and text[position] in BLANKS:
        position += 1
    quote = text[position : position + 1]
    if quote not in {"'", '"'}:
        end = _end_of_line(text, position)
        value = text[position:end].split(" #")[0].rstrip(TRIMMED)
        _refuse_dollar(text, position, value)
        return value, end
    closing = _closing_quote(text, position)
    value = text[position + 1 : closing]
    if quote == '"':
        _refuse_dollar(text, position, text[position:closing])
        value = re.sub(r"\\(.)", lambda found: _unescaped(text, position, found), value)
    else:
        value = value.replace("\\'", "'")
    end = _end_of_line(text, closing)
    if not re.fullmatch("[ \t\r]*(#.*)?", text[closing + 1 : end]):
        raise EnvFileError(text, closing, "has text after the closing quote")
    return value, end


def _closing_quote(text: str, position: int) -> int:
    for found in re.finditer(rf"(\\*){text[position]}", text[position + 1 :]):
        backslashes = len(found[1])
        if not backslashes:
            return position + found.end()
        if backslashes % 2 == 0:
            what = "has backslashes before a quote, which versions of compose read differently"
            raise EnvFileError(text, position + found.end(), what)
    raise EnvFileError(text, position, "has a quote that is not closed")


def _unescaped(text: str, position: int, found: re.Match[str]) -> str:
    if found[1] == "0":
        what = "has an escape `\\0` that compose misreads: put the value in single quotes"
        raise EnvFileError(text, position + 1 + found.start(), what)
    return ESCAPES.get(found[1], found[0])


def _refuse_dollar(text: str, position: int, value: str) -> None:
    if "$" in value:
        what = "has a `$`, which compose would replace: put the value in single quotes"
        raise EnvFileError(text, position + value.index("$"), what)
