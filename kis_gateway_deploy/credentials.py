"""The app key, and the secrets that it comes with: from a file, a command, or variables.

No message repeats a value, or the name of the app key's field: the operator may have set a key in
its place.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kis_gateway_deploy.env_file import EnvFileError, values_in
from kis_gateway_deploy.plain_yaml import load_plain
from kis_gateway_deploy.reading import escaped

TIME_LIMIT = 60
LINES_SHOWN = 5
LINE_LENGTH = 200
NO_APP_KEY = "that holds an app key (a string without blanks at its ends)"


@dataclass(frozen=True)
class Secret:
    """Bytes that are never printed: not in a traceback, not with pyinfra's `-vvv`."""

    content: bytes

    def __repr__(self) -> str:
        return "[redacted]"


@dataclass(frozen=True)
class Credentials:
    """The app key, every string by its dotted name, and the content of the secrets file.

    `file` is None if the app key is a variable; `values` are then all variables.
    """

    app_key: str = field(repr=False)
    values: dict[str, str] = field(repr=False)
    file: Secret | None = None

    @property
    def fingerprint(self) -> str:
        """The first 12 hex digits of the app key's SHA-256."""
        return hashlib.sha256(self.app_key.encode()).hexdigest()[:12]


def from_file(path: Path, app_key_field: str) -> Credentials:
    """Raises ValueError: the file cannot be used; KeyError: it lacks the app key."""
    try:
        content = read_file(path)
    except (OSError, ValueError) as error:
        # Without the path: the operator may have set the secrets themselves in its place.
        raise ValueError(f"cannot be read: {reason(error)}") from None
    suffix = path.name if path.name == ".env" else path.suffix
    fields = _FORMS.get(suffix, _json)(content, str(path))
    return _credentials(fields, app_key_field, str(path), content)


def from_command(command: Sequence[str], app_key_field: str) -> Credentials:
    """The secrets that a command prints; each command is run once.

    Raises:
        ValueError: it fails, or prints no secrets; KeyError: they lack the app key.
    """
    printed = _output(tuple(command))
    if isinstance(printed, str):
        raise ValueError(printed)
    content, where = printed.content, f"the output of `{_name(command)}`"
    if content.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"[")):
        # YAML would also accept what is almost JSON; the gateway would not.
        return _credentials(_json(content, where), app_key_field, where, content)
    for form in (_yaml, _dotenv):
        try:
            fields = form(content, where)
        except ValueError:
            continue
        return _credentials(fields, app_key_field, where, content)
    raise ValueError(f"{where} is neither JSON, a YAML mapping nor an env file in UTF-8")


def from_variables(variables: Mapping[str, str], app_key_field: str) -> Credentials:
    """Raises KeyError: no variable holds the app key."""
    app_key = find_app_key(variables, app_key_field)
    if app_key:
        return Credentials(app_key, dict(variables))
    raise KeyError(f"names no variable of gateway_env_file or gateway_environment {NO_APP_KEY}")


def read_file(path: Path) -> bytes:
    """A file's content. Raises OSError, ValueError: a FIFO or device could block or never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is not a regular file")
    return path.read_bytes()


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _credentials(
    fields: dict[Any, Any], app_key_field: str, where: str, content: bytes
) -> Credentials:
    app_key = find_app_key(fields, app_key_field)
    if not app_key:
        raise KeyError(f"names no field of {where} {NO_APP_KEY}")
    return Credentials(app_key, _strings(fields), Secret(content))


def find_app_key(fields: Mapping[Any, Any], name: str) -> str:
    """The field of this name, or at this path of names; empty if it cannot be an app key."""
    found: Any = fields.get(name)
    if found is None:
        found = fields
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    is_key = isinstance(found, str) and found == found.strip() and found == _encodable(found)
    return found if is_key else ""


def _encodable(text: str) -> str:
    return text.encode("utf-8", "ignore").decode()


def _strings(fields: Any) -> dict[str, str]:
    """Every string in nested mappings and lists, by its dotted name."""
    found: dict[str, str] = {}
    open_ends: list[tuple[str, Any]] = [("", fields)]
    while open_ends:
        name, value = open_ends.pop()
        if isinstance(value, str):
            found[name.removeprefix(".")] = value
        elif isinstance(value, dict):
            open_ends += [(f"{name}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            open_ends += [(f"{name}.{number}", item) for number, item in enumerate(value)]
    return found


def _json(content: bytes, where: str) -> dict[Any, Any]:
    try:
        fields = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        if content.startswith(codecs.BOM_UTF8):
            raise ValueError(
                f"{where} begins with a byte order mark (BOM), which JSON does not allow: save it "
                "as UTF-8 without BOM"
            ) from None
        raise ValueError(f"{where} is not JSON in UTF-8") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{where} must hold a JSON object")
    return fields


def _yaml(content: bytes, where: str) -> dict[Any, Any]:
    try:
        fields = load_plain(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not YAML in UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{where} must hold a YAML mapping")
    return fields


def _dotenv(content: bytes, where: str) -> dict[Any, Any]:
    try:
        return dict(values_in(content))
    except EnvFileError as error:
        raise ValueError(f"{where}, {error}") from None


_FORMS: dict[str, Callable[[bytes, str], dict[Any, Any]]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    ".env": _dotenv,
}


def _name(command: Sequence[str]) -> str:
    """Without arguments, which may hold secrets."""
    return escaped(Path(command[0]).name)


@cache  # failures, too: the command runs once for all hosts
def _output(command: tuple[str, ...]) -> Secret | str:
    """What the command prints, or why there is nothing.

    In a session of its own there is no terminal to ask for a password on, and its children can be
    killed with it.
    """
    name = _name(command)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return f"`{name}` cannot be started: {reason(error)}"
    with process:
        try:
            printed, said = process.communicate(timeout=TIME_LIMIT)
        except BaseException as error:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return f"`{name}` did not end within {TIME_LIMIT} s (it cannot ask for a password)"
    if process.returncode:
        code = process.returncode
        how = f"exit status {code}" if code > 0 else f"signal {-code}"
        return f"`{name}` failed ({how}){_words(said, printed)}"
    if not printed.strip():
        return f"`{name}` printed nothing{_words(said, printed)}"
    return Secret(printed)


def _words(said: bytes, printed: bytes) -> str:
    """Standard error in one line, without any word of the standard output."""
    for word in set(re.findall(rb"[^\s\"'=]{8,}", printed)):
        said = said.replace(word, b"(hidden)")
    text = said.decode("utf-8", "replace")
    lines = [escaped(line.strip()[:LINE_LENGTH]) for line in text.splitlines() if line.strip()]
    if len(lines) > LINES_SHOWN:
        lines = [*lines[:2], *lines[2 - LINES_SHOWN :]]
    return f": {' / '.join(lines)}" if lines else ""
