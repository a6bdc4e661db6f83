"""What is known of token files: their forms, when a token expires, and what is damage.

A token file is evidence, not a judge: the gateway judges its own file. The container's user may put
anything into the token directory. So the directory is opened once, names are looked up relative to
its descriptor, and no link is followed.
"""

from __future__ import annotations

import json
import os
import re
import stat
from binascii import a2b_base64
from collections import namedtuple
from datetime import datetime, timedelta, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE_LIMIT = 64 * 1024
"""How many bytes of a file are read; a larger file is of a form that is not known."""

ENTRIES_LIMIT = 1000
"""How many entries of a directory are looked at, the newest."""

MARGIN = 10 * 60
"""Seconds before its end from which no gateway uses a token: its next start asks KIS."""

KOREA = timezone(timedelta(hours=9))

Evidence = namedtuple("Evidence", "state valid_until file_says whose")
"""What a token file shows.

`state`: `token` (its end is known, it may be past), `damaged` (empty, no regular file, or JSON that
ends in the middle: no gateway can use it) or `unknown` (any other form, which is left alone).
`valid_until`: epoch second at which the last of its tokens expires, or None: for gate, status and
sharing. `file_says`: what the file's own field says without doubt, or None: a gateway goes by that
when it decides whether to ask KIS. `whose`: the fingerprint of the app key, if the file names it.
"""

DAMAGED = Evidence("damaged", None, None, None)
UNKNOWN = Evidence("unknown", None, None, None)


def examine(content: bytes) -> Evidence:
    """What the content of a token file shows."""
    text = content.decode("utf-8-sig", "replace").strip(" \t\r\n\0")
    if not text:
        return DAMAGED
    data: Any = None
    if text[0] in "{[":
        try:
            data = json.loads(text)
        except RecursionError:
            return UNKNOWN
        except ValueError as error:
            if _ends_in_the_middle(text, error):
                return DAMAGED
    fields = data if isinstance(data, dict) else {}
    file_says = _field_expiry(fields)
    ends = [end for token in JWT.findall(content)[:JWTS] if (end := _jwt_expiry(token))]
    has_token = any(isinstance(fields.get(n), str) and fields[n] for n in ("access_token", "token"))
    valid_until = max(ends) if ends else file_says if has_token else None
    whose = fields.get("app_key_fingerprint")
    return Evidence(
        "unknown" if valid_until is None else "token",
        valid_until,
        file_says,
        whose if is_id(whose) else None,
    )


JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{4,4096}\.[A-Za-z0-9_-]*")
JWTS = 100


def is_id(text: object) -> bool:
    """Whether it has the form of an app key's fingerprint, which is that of a release's id, too."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{12}", text) is not None


def _jwt_expiry(token: bytes) -> int | None:
    """`exp` (RFC 7519, 4.1.4) of the claims."""
    claims = token.split(b".")[1].translate(bytes.maketrans(b"-_", b"+/"))
    try:
        found = json.loads(a2b_base64(claims + b"=" * (-len(claims) % 4)))
    except (ValueError, RecursionError):
        return None
    return _seconds(found.get("exp")) if isinstance(found, dict) else None


def _field_expiry(fields: dict[str, Any]) -> int | None:
    """The moment that the file's own field names: epoch seconds, or a date with a zone.

    KIS's `access_token_token_expired` is Korean time (KIS Developers, tokenP). Any other date
    without a zone may be Korean time or UTC, which is a doubt.
    """
    name = "expires_at" if "expires_at" in fields else "access_token_token_expired"
    value = fields.get(name)
    if not isinstance(value, str):
        return _seconds(value)
    text = value.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text, re.ASCII):
        return _seconds(float(text))
    try:  # Python 3.9 and 3.10 know no `Z` and no `+0900`
        text = re.sub(r"[Zz]$", "+00:00", text)
        moment = datetime.fromisoformat(re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text))
        if moment.tzinfo is None and name != "expires_at":
            moment = moment.replace(tzinfo=KOREA)
        return None if moment.tzinfo is None else _seconds(moment.timestamp())
    except (ValueError, OverflowError):
        return None


def _seconds(value: object) -> int | None:
    """A number as an epoch second; larger numbers are milliseconds, and others are durations."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if 0 < value < 10**11 else None


def _ends_in_the_middle(text: str, error: ValueError) -> bool:
    """Whether the JSON decoder met the end of the text, not something that is no JSON."""
    rest = text[getattr(error, "pos", 0) :]
    return (
        not rest
        or str(error).startswith("Unterminated string")
        or any(word.startswith(rest) for word in ("true", "false", "null"))
        or re.fullmatch(r"-|\.|[eE][+-]?|\\?u[0-9a-fA-F]{0,4}", rest) is not None
    )


READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def _plain(name: str) -> str:
    if "/" in name:
        raise ValueError(f"{name!r} is no name of an entry")
    return name


def kept_fingerprint(app_dir: str, token_path: str) -> str | None:
    """Whose token the token file is, as this package remembers it; None if it does not."""
    try:
        with Directory(f"{app_dir}/tokens") as kept:
            line = (kept.read("whose") or b"").decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return None
    key, _, path = line.partition(" ")
    return key if is_id(key) and path == token_path else None


class Directory:
    """A directory that others may write to, opened once.

    Raises OSError as `os.open` does: it is missing, no directory, or a link.
    """

    def __init__(self, path: str, beneath: int | None = None) -> None:
        """`beneath`: the descriptor of the directory that a relative path begins at."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        self.descriptor = os.open(path, flags, dir_fd=beneath)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def stat(self, name: str) -> os.stat_result | None:
        """Of the entry itself, not of what a link names; None if there is none."""
        try:
            return os.stat(_plain(name), dir_fd=self.descriptor, follow_symlinks=False)
        except (OSError, ValueError):
            return None

    def read(self, name: str) -> bytes | None:
        """The content of a regular file with one link and at most `FILE_LIMIT` bytes, else None."""
        try:
            descriptor = os.open(_plain(name), READ_ONLY, dir_fd=self.descriptor)
        except (OSError, ValueError):
            return None
        with open(descriptor, "rb") as file:
            at = os.fstat(descriptor)
            if not stat.S_ISREG(at.st_mode) or at.st_nlink != 1:
                return None
            content = file.read(FILE_LIMIT + 1)
            return content if len(content) <= FILE_LIMIT else None

    def names(self, prefix: str) -> list[str]:
        """The names that begin with `prefix`: of the newest `ENTRIES_LIMIT`, the newest first."""
        found = [name for name in os.listdir(self.descriptor) if name.startswith(prefix)]
        if len(found) > ENTRIES_LIMIT:
            times = {name: at.st_mtime for name in found if (at := self.stat(name))}
            found = sorted(times, key=lambda name: -times[name])[:ENTRIES_LIMIT]
        return found

    def examine(self, name: str) -> Evidence | None:
        """What a token file in the directory shows; None if there is no entry of this name."""
        at = self.stat(name)
        if at is None:
            return None
        if not stat.S_ISREG(at.st_mode):
            return DAMAGED  # Docker makes a directory where a mounted file is missing
        content = self.read(name)
        return UNKNOWN if content is None else examine(content)
