"""Checks an env file as compose reads it, so that a mistake is found before any host is touched.

The rules are those of compose-go's `dotenv`, with one difference: what compose would take from the
environment of the host's root (`$NAME`, a name without a value) is an error. No message has a
value.
"""

from __future__ import annotations

import re

NAME = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*")


class EnvFileError(ValueError):
    """`line 3: what is wrong with it`."""

    def __init__(self, text: str, position: int, what: str) -> None:
        super().__init__(f"line {text.count(chr(10), 0, position) + 1}: {what}")


def names_in(content: bytes) -> dict[str, int]:
    """The names that the file sets, each with the number of its line.

    Raises:
        EnvFileError: compose would refuse the file, or would read something else than it says.
    """
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        raise EnvFileError(before, len(before), "is not UTF-8") from None
    if "\0" in text:
        raise EnvFileError(text, text.index("\0"), "has a NUL character")
    found: dict[str, int] = {}
    position = 0
    while position < len(text):
        if text[position] in " \t\n":
            position += 1
        elif text[position] == "#":
            position = _end_of_line(text, position)
        else:
            name, position = _assignment(text, position)
            found[name] = text.count("\n", 0, position) + 1
            position = _value(text, position)
    return found


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
    if rest in {"", "\n"}:
        what = "has a name without a value: compose would take it from root's environment"
        raise EnvFileError(text, position, what)
    raise EnvFileError(text, position, "is not NAME=value")


def _value(text: str, position: int) -> int:
    """Where the value ends."""
    while text[position : position + 1] in {" ", "\t"}:
        position += 1
    quote = text[position : position + 1]
    if quote not in {"'", '"'}:
        end = _end_of_line(text, position)
        value = re.split("(?:^|[ \t])#", text[position:end])[0]
        _refuse_dollar(text, position, value)
        return end
    closing = re.compile(rf"(?<!\\){quote}").search(text, position + 1)
    if not closing:
        raise EnvFileError(text, position, "has a quote that is not closed")
    if quote == '"':
        _refuse_dollar(text, position, text[position : closing.start()])
    end = _end_of_line(text, closing.end())
    if not re.fullmatch("[ \t]*(#.*)?", text[closing.end() : end]):
        raise EnvFileError(text, closing.end(), "has text after the closing quote")
    return end


def _refuse_dollar(text: str, position: int, value: str) -> None:
    if "$" in value:
        what = "has a `$`, which compose would replace: put the value in single quotes"
        raise EnvFileError(text, position + value.index("$"), what)
