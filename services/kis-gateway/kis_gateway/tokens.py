"""The access token, its file that outlives the container, and the record of the last attempt."""

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
"""A token counts as expired this many seconds early: it must not expire during a request."""

LOCK_TIMEOUT = 30
"""Seconds to wait for the token's lock; longer than an issuance can take."""


class UnreadableToken(Exception):
    """Not a token in a known form; the message says why and never shows the content."""


@dataclass(frozen=True)
class Token:
    """One KIS access token; its repr hides the value. Times are epoch seconds."""

    value: str = field(repr=False)
    expires_at: float
    fingerprint: str | None = None
    """Fingerprint of the app key that it was issued to; None if the file has none."""

    def is_valid(self, now: float) -> bool:
        return now < self.expires_at - VALID_MARGIN


def fingerprint_of(app_key: str) -> str:
    """The first 12 hex digits of the app key's SHA-256: tells keys apart without revealing them."""
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
    """A token from parsed JSON, in any of the forms that gateways store.

    ``access_token`` with ``expires_at`` (epoch seconds, or an ISO string; no zone means KST), or
    KIS's own answer with ``access_token_token_expired``. KIS's ``expires_in`` is ignored: it is
    86400 even for a token that was issued six hours ago.

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
            raise UnreadableToken("the expiry is not a date and time") from None
    if _is_moment(expiry):
        return float(expiry)
    raise UnreadableToken("the expiry is missing or not in epoch seconds")


def _is_moment(value: object) -> TypeGuard[float]:
    """Whether it can be epoch seconds: a plain number, not NaN and not milliseconds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11


class TokenStore:
    """One token file and, beside it, its lock file and the record of the last attempt.

    Call every method except `lock` with the lock held. Methods that write raise OSError if the
    directory is not writable; a file that cannot be read is a miss, never an error.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint
        self._attempt_path = path.with_name(f"{path.name}.attempt")
        self._found_key: str | None = None  # fingerprint of another key's token that `load` found
        self._lock_path = path.with_name(f"{path.name}.lock")

    def lock(self) -> AbstractContextManager[object]:
        """Exclude every other gateway on this directory, in this process and in others.

        Raises:
            filelock.Timeout: (an OSError) after `LOCK_TIMEOUT` seconds.
        """
        # A separate file, because a rename replaces the token file. It is never deleted: a process
        # that waits for a deleted lock file gets a lock that no other process checks.
        return FileLock(self._lock_path, LOCK_TIMEOUT, mode=0o600)

    def load(self) -> Token | None:
        """The file's token, expired or not; None if it has no token of this app key.

        A file that cannot be parsed is a miss with a warning; so is another app key's token. A
        token without a fingerprint counts as this key's.
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
                "used, and the next token moves it aside. Was the key or KIS_ENVIRONMENT changed?",
                self.path,
                token.fingerprint,
                self._fingerprint,
            )
            self._found_key = token.fingerprint
            return None
        return token

    def save(self, token: Token) -> None:
        """Replace the file atomically: readers always see one complete token.

        Another app key's token is still valid: it is set aside under a name that a deploy knows.
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
        """Rename the file of a token that KIS has refused, so a restart does not use it again.

        Nothing in the token directory is ever deleted: it could be the only valid token.
        """
        self.path.replace(self.path.with_name(f"{self.path.name}.refused"))

    def last_attempt(self) -> float | None:
        """When this app key's last attempt began, epoch seconds; None if none is recorded."""
        data = _read_json(self._attempt_path)
        if not isinstance(data, Mapping) or data.get("app_key_fingerprint") != self._fingerprint:
            return None
        attempted_at = data.get("attempted_at")
        return attempted_at if _is_moment(attempted_at) else None

    def record_attempt(self, now: float) -> None:
        """Record an attempt *before* it is made: after a restart in between it must count, too."""
        _write_json(
            self._attempt_path, {"attempted_at": now, "app_key_fingerprint": self._fingerprint}
        )


def _read_json(path: Path) -> object:
    """The parsed file; None if it does not exist or, with a warning, if it is unusable."""
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
    """Write a temporary file and rename it, with fsync. The lock makes the fixed name safe."""
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
