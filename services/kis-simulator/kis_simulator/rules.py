"""KIS's rules for one app key on one host. No HTTP, no clock, no locks.

Times are epoch seconds (float) of the simulated clock.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta, timezone
from typing import Literal

Host = Literal["real", "paper"]

KST = timezone(timedelta(hours=9), "KST")
ISSUANCE_WINDOW = 60
SAME_TOKEN_FOR = 6 * 3600
TOKEN_LIFETIME = 24 * 3600
BLOCK_FOR = 24 * 3600

MESSAGES = {
    "EGW00103": "유효하지 않은 AppKey입니다.",
    "EGW00105": "유효하지 않은 AppSecret입니다.",
    "EGW00116": "지원하지 않는 권한부여 타입(grant_type)입니다.",
    "EGW00121": "유효하지 않은 token 입니다.",
    "EGW00122": "token을 찾을 수 없습니다.",
    "EGW00123": "기간이 만료된 token 입니다.",
    "EGW00133": "접근토큰 발급 잠시 후 다시 시도하세요(1분당 1회)",
    "EGW00201": "초당 거래건수를 초과하였습니다.",
    "EGW00304": "고객식별키(법인 personalSeckey, 개인 appSecret)가 유효하지 않습니다.",
    "EGW02004": "실전투자 TR 이 아닙니다.",
}

_SIGNING_KEY = secrets.token_bytes(64)


class Refused(Exception):
    """KIS refuses a request; clients must branch on ``code``, e.g. ``EGW00133``."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Rules:
    """What is uncertain about KIS or differs between customers. The defaults are the best guess.

    Certain rules (a minute between issuances, 24 hours of life, …) have no switch.
    """

    opaque_tokens: bool = False
    """The token is 350 random characters, and not a JWT."""
    rejections_extend_window: bool = False
    """A refused issuance restarts the 60 s; otherwise only a successful one does."""
    same_token_for_six_hours: bool = True
    """Until 6 h after its issue, the same token is returned; otherwise each token is new."""
    expires_in_counts_down: bool = False
    """``expires_in`` is the time left; otherwise 86400, even for a token that is hours old."""
    old_token_dies: bool = True
    """A new token ends the previous one at once; otherwise that stays valid until it expires."""
    revoke_clears_window: bool = False
    """After a revoke the next issuance does not have to wait for the 60 s."""
    missing_token_code: str = "EGW00122"
    """``msg_cd`` of a call without a token."""
    retry_after_header: bool = False
    """``EGW00133`` comes with ``Retry-After: 60``."""
    block_after_rejections: int = 0
    """After this many refused issuances in a row, ``EGW00103`` for a day; 0: never."""
    requests_per_second_real: int = 18
    requests_per_second_paper: int = 1
    """KIS since April 2026; before: 20 and 2. New customers: 3."""

    def changed(self, changes: Mapping[str, object]) -> Rules:
        """These rules with some of them changed.

        Raises ``ValueError`` with a message for an unknown name or a value of the wrong type.
        """
        types = {rule.name: type(rule.default) for rule in fields(self)}
        if unknown := sorted(set(changes) - set(types)):
            raise ValueError(f"no such rule: {', '.join(unknown)}; there are: {', '.join(types)}")
        for name, value in changes.items():
            if type(value) is not types[name] or (isinstance(value, int) and value < 0):
                raise ValueError(f"{name} must be of type {types[name].__name__}, not negative")
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Token:
    value: str = field(repr=False)
    issued_at: float
    expires_at: float

    @property
    def expires_at_kst(self) -> str:
        """``YYYY-MM-DD HH:MM:SS`` in Korean time, without a zone: as KIS writes it."""
        return datetime.fromtimestamp(self.expires_at, KST).strftime("%Y-%m-%d %H:%M:%S")


@dataclass
class Account:
    """One app key on one host (real or paper): KIS keeps its state per pair."""

    app_key: str
    app_secret: str = field(repr=False)
    host: Host
    token: Token | None = None
    _older_tokens: dict[str, float] = field(default_factory=dict, repr=False)
    _window_start: float | None = None
    _rejected_in_a_row: int = 0
    _blocked_until: float = 0
    _recent_calls: deque[float] = field(default_factory=deque, repr=False)

    def check_secret(self, app_secret: str, *, refusal: str = "EGW00105") -> None:
        if not hmac.compare_digest(app_secret.encode(), self.app_secret.encode()):
            raise Refused(refusal)

    def issue(self, app_secret: str, now: float, rules: Rules) -> Token:
        """One call of ``/oauth2/tokenP``: a new token, or the same one until it is 6 h old.

        Raises ``Refused``: ``EGW00105`` for a wrong secret, which neither checks nor changes the
        window; ``EGW00133`` within 60 s of the last success, even if the answer would be the same
        token; ``EGW00103`` while blocked.
        """
        if now < self._blocked_until:
            raise Refused("EGW00103")
        try:
            self.check_secret(app_secret)
            self._check_window(now, rules)
        except Refused:
            self._rejected_in_a_row += 1
            if self._rejected_in_a_row == rules.block_after_rejections:
                self._blocked_until = now + BLOCK_FOR
                self._rejected_in_a_row = 0
            raise
        self._window_start = now
        self._rejected_in_a_row = 0
        reuse_for = SAME_TOKEN_FOR if rules.same_token_for_six_hours else 0
        if self.token is not None and now - self.token.issued_at < reuse_for:
            return self.token
        return self._replace_token(now, rules)

    def _check_window(self, now: float, rules: Rules) -> None:
        if self._window_start is not None and now - self._window_start < ISSUANCE_WINDOW:
            if rules.rejections_extend_window:
                self._window_start = now
            raise Refused("EGW00133")

    def _replace_token(self, now: float, rules: Rules) -> Token:
        old, expires_at = self.token, now + TOKEN_LIFETIME
        if old is not None and (now >= old.expires_at or not rules.old_token_dies):
            self._older_tokens[old.value] = old.expires_at
        self.token = Token(_mint(self.app_key, now, expires_at, rules), now, expires_at)
        return self.token

    def revoke(self, app_secret: str, token: str, rules: Rules) -> None:
        """One call of ``/oauth2/revokeP``: the token is unknown from now on, the next one is new.

        Raises ``Refused``: ``EGW00105``, or ``EGW00121`` for a token that is not this key's.
        """
        self.check_secret(app_secret)
        if self.token is not None and token == self.token.value:
            self.token = None
        elif self._older_tokens.pop(token, None) is None:
            raise Refused("EGW00121")
        if rules.revoke_clears_window:
            self._window_start = None

    def call(self, app_secret: str, token: str, now: float, rules: Rules) -> None:
        """One call of ``/uapi/…``. Raises ``Refused``.

        The limit per second counts the calls of the last second, without the refused ones.
        """
        if not token:
            raise Refused(rules.missing_token_code)
        expires_at = self._expiry_of(token)
        if expires_at is None:
            raise Refused("EGW00121")
        if now >= expires_at:
            raise Refused("EGW00123")
        self.check_secret(app_secret, refusal="EGW00304")
        while self._recent_calls and self._recent_calls[0] <= now - 1:
            self._recent_calls.popleft()
        real = self.host == "real"
        limit = rules.requests_per_second_real if real else rules.requests_per_second_paper
        if len(self._recent_calls) >= limit:
            raise Refused("EGW00201")
        self._recent_calls.append(now)

    def _expiry_of(self, token: str) -> float | None:
        if self.token is not None and token == self.token.value:
            return self.token.expires_at
        return self._older_tokens.get(token)


def _mint(app_key: str, issued_at: float, expires_at: float, rules: Rules) -> str:
    """A token like KIS's: a JWT (HS512), ``jti`` is the app key, 350 characters at most.

    Clients must not read its content, so it is signed with a random key.
    """
    if rules.opaque_tokens:
        return secrets.token_urlsafe(263)[:350]
    claims = {
        "sub": "token",
        "aud": str(uuid.uuid4()),
        "iss": "unogw",
        "exp": int(expires_at),
        "iat": int(issued_at),
        "jti": app_key,
    }
    parts = [_segment({"typ": "JWT", "alg": "HS512"}), _segment(claims)]
    signature = hmac.digest(_SIGNING_KEY, ".".join(parts).encode(), hashlib.sha512)
    return ".".join([*parts, _base64url(signature)])


def _segment(value: dict[str, object]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
