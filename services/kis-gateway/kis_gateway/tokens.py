"""The access token, the file that outlives the container, and the memory of the last attempt."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeGuard

from filelock import FileLock

log = logging.getLogger(__name__)

KST = timezone(timedelta(hours=9), "KST")
"""Korea has no daylight saving time."""

LIFETIME = 24 * 3600
"""KIS: a token expires 24 hours after its issue. Seconds."""

VALID_MARGIN = 600
"""A token counts as expired this many seconds before it is, so that no request meets its end."""

LOCK_TIMEOUT = 30
"""Seconds to wait for the token's lock; longer than an issuance can take."""


class UnreadableToken(Exception):
    """Not a token in any shape we know; the message says why, without any of the content."""


@dataclass(frozen=True)
class Token:
    """One access token of KIS; its value is in no repr. Times are epoch seconds."""

    value: str = field(repr=False)
    expires_at: float
    fingerprint: str | None = None
    """Of the app key that it was issued to; None where the file does not say."""

    def is_valid(self, now: float) -> bool:
        return now < self.expires_at - VALID_MARGIN


def fingerprint_of(app_key: str) -> str:
    """The first 12 hex digits of the app key's SHA-256: tells keys apart, and reveals none."""
    return hashlib.sha256(app_key.encode()).hexdigest()[:12]


def parse_time(text: str) -> float:
    """Epoch seconds of an ISO date and time. KIS writes ``2026-01-02 09:00:00``: no zone means KST.

    Raises:
        ValueError: for anything else.
    """
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=KST)).timestamp()


def format_time(moment: float) -> str:
    """Korean time with its offset, to the second, for people: ``2026-01-02T09:00:00+09:00``."""
    return datetime.fromtimestamp(moment, KST).isoformat(timespec="seconds")


def parse_token(data: object) -> Token:
    """A token from parsed JSON, in each of the shapes that gateways keep.

    ``access_token`` with ``expires_at`` (epoch seconds, or an ISO string; no zone means KST), or
    KIS's own answer with ``access_token_token_expired``. KIS's ``expires_in`` is not looked at: it
    says 86400 even where the answer is a token of six hours ago.

    Raises:
        UnreadableToken: for anything else.
    """
    if not isinstance(data, Mapping):
        raise UnreadableToken("not a JSON object")
    value = data.get("access_token")
    if not isinstance(value, str) or not re.fullmatch("[!-~]+", value):
        raise UnreadableToken("access_token is missing, empty or malformed")
    fingerprint = data.get("app_key_fingerprint")
    return Token(
        value,
        _parse_expiry(data.get("expires_at", data.get("access_token_token_expired"))),
        None if fingerprint is None else str(fingerprint),
    )


def _parse_expiry(expiry: object) -> float:
    if isinstance(expiry, str):
        try:
            return parse_time(expiry)
        except ValueError:
            raise UnreadableToken("the expiry is no date and time") from None
    if _is_moment(expiry):
        return float(expiry)
    raise UnreadableToken("there is no expiry, or none in epoch seconds")


def _is_moment(value: object) -> TypeGuard[float]:
    """Whether it can be epoch seconds: a plain number, and neither NaN nor milliseconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11


class TokenStore:
    """One token file and, beside it, its lock and the memory of the last attempt.

    All but `lock` is to be called with the lock held. Where the directory cannot be written to, the
    methods that write raise OSError; what cannot be read is a miss, never an error.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint
        self._attempt_path = path.with_name(f"{path.name}.attempt")
        self._found_key: str | None = None  # of another app key's token, which `load` has seen
        self._lock_path = path.with_name(f"{path.name}.lock")

    def lock(self) -> AbstractContextManager[object]:
        """Shut out every other gateway on this directory, in this process and in others.

        Raises:
            filelock.Timeout: (an OSError) after `LOCK_TIMEOUT` seconds.
        """
        # A file of its own, because a rename replaces the token's. It is never deleted: whoever
        # waits for a deleted lock file holds something that nobody else looks at.
        return FileLock(self._lock_path, LOCK_TIMEOUT, mode=0o600)

    def load(self) -> Token | None:
        """The file's token, expired or not; None where there is none that is ours.

        A file that cannot be understood is a miss with a warning; so is one of another app key. One
        without a fingerprint is taken as ours.
        """
        self._found_key = None
        data = _read_json(self.path)
        if data is None:
            return None
        try:
            token = parse_token(data)
        except UnreadableToken as error:
            log.warning("%s is not a token (%s): it is not used", self.path, error)
            return None
        if token.fingerprint not in (None, self._fingerprint):
            log.warning(
                "%s holds a token of another app key (fingerprint %.12s, ours is %s): it is not "
                "used, and set aside for the next token. Was the key changed, or paper made real?",
                self.path,
                token.fingerprint,
                self._fingerprint,
            )
            self._found_key = token.fingerprint
            return None
        return token

    def save(self, token: Token) -> None:
        """Replace the file, so that whoever reads it at any moment sees all of one token.

        Another app key's token is set aside, where a deploy looks for it: it is valid still.
        """
        if self._found_key and re.fullmatch("[0-9a-f]{12}", self._found_key):
            self.path.replace(self.path.with_name(f"{self.path.name}.of-{self._found_key}"))
            self._found_key = None
        _write_json(
            self.path,
            {
                "access_token": token.value,
                "expires_at": token.expires_at,
                "issued_at": token.expires_at - LIFETIME,
                "app_key_fingerprint": self._fingerprint,
            },
        )

    def set_aside(self) -> None:
        """Put a token that KIS has refused beside its place: a restart does not take it up again.

        Nothing in the token directory is ever deleted, lest the one valid token be.
        """
        self.path.replace(self.path.with_name(f"{self.path.name}.refused"))

    def last_attempt(self) -> float | None:
        """When this app key's last attempt began, epoch seconds; None where none is remembered."""
        data = _read_json(self._attempt_path)
        if not isinstance(data, Mapping) or data.get("app_key_fingerprint") != self._fingerprint:
            return None
        attempted_at = data.get("attempted_at")
        return attempted_at if _is_moment(attempted_at) else None

    def record_attempt(self, now: float) -> None:
        """Remember an attempt *before* it is made: a restart in the middle must honour it too."""
        _write_json(
            self._attempt_path, {"attempted_at": now, "app_key_fingerprint": self._fingerprint}
        )


def _read_json(path: Path) -> object:
    """The parsed file; None where there is none, or, with a warning, where it is no use."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s cannot be read (%s): it is not used", path, error.strerror)
        return None
    except (ValueError, RecursionError):
        log.warning("%s is not JSON (corrupt, empty or cut off?): it is not used", path)
        return None


def _write_json(path: Path, data: Mapping[str, object]) -> None:
    """Write beside it, then rename, both made durable. The lock makes the fixed name safe."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(data, file)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
