"""The simulator's state: clock, accounts, rules, faults, counters. No HTTP.

Every public method takes the lock, so any thread may call it.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from .rules import TOKEN_LIFETIME, Account, Host, Refused, Rules, Token

DEMO_CREDENTIALS = Path(__file__).with_name("demo_credentials.json")
UNKNOWN_KEY = "(unknown)"
END_OF_TIME = datetime(2100, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class Clock:
    """Simulated time: starts at the present, runs at ``rate`` simulated seconds per real second."""

    start: float = field(default_factory=time.time)
    rate: float = 1.0
    _started: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Epoch seconds."""
        return self.start + (time.monotonic() - self._started) * self.rate


@dataclass
class Fault:
    """An injected fault for requests to paths that begin with ``path``.

    It ends after ``count`` requests, or at ``until`` (simulated epoch seconds), or, with neither,
    when the faults are cleared. ``app_key`` limits it to one key.
    """

    path: str
    kind: Literal["empty500", "reset", "hang", "error"]
    code: str = ""
    status: int | None = None
    seconds: float = 10.0
    count: int | None = None
    app_key: str | None = None
    until: float | None = None
    cleared: threading.Event = field(default_factory=threading.Event, repr=False)

    def applies(self, path: str, app_key: str, now: float) -> bool:
        return (
            path.startswith(self.path)
            and self.app_key in (None, app_key)
            and (self.until is None or now < self.until)
        )


@dataclass
class Counters:
    """Counters of one app key on one host, since the start or the last reset."""

    issuances: int = 0
    new_tokens: int = 0
    rejections: int = 0
    requests: int = 0
    codes: Counter[str] = field(default_factory=Counter)


class Simulation:
    """The simulated KIS, with both hosts. Methods raise ``Refused`` if KIS would refuse."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._faults: list[Fault] = []
        self.reset()

    def reset(self) -> None:
        """Back to the initial state: clock, rules, tokens, counters, faults, demo credentials."""
        demo = json.loads(DEMO_CREDENTIALS.read_text(encoding="utf-8"))
        with self._lock:
            self.clear_faults()
            self.clock = Clock()
            self.rules = Rules()
            self._accounts: dict[tuple[Host, str], Account] = {}
            self._counters: dict[tuple[Host, str], Counters] = {}
            self.register("real", demo["kis-r-app-key"], demo["kis-r-app-secret"])
            self.register("paper", demo["kis-v-app-key"], demo["kis-v-app-secret"])

    def register(self, host: Host, app_key: str, app_secret: str) -> None:
        """Register a key and its secret; a known key gets the new secret and keeps its token."""
        with self._lock:
            account = self._accounts.setdefault((host, app_key), Account(app_key, app_secret, host))
            account.app_secret = app_secret
            self._counters_of(host, app_key)

    # What clients do. Under /oauth2 a wrong secret is EGW00105, under /uapi it is EGW00304.

    def issue(self, host: Host, app_key: str, app_secret: str) -> tuple[Token, int]:
        """The token and the value of ``expires_in``, in seconds."""
        with self._lock:
            now = self.clock.now()
            account = self._account(host, app_key)
            before = account.token
            token = account.issue(app_secret, now, self.rules)
            counters = self._counters_of(host, app_key)
            counters.issuances += 1
            counters.new_tokens += token is not before
            counts_down = self.rules.expires_in_counts_down
            return token, int(token.expires_at - now) if counts_down else TOKEN_LIFETIME

    def revoke(self, host: Host, app_key: str, app_secret: str, token: str) -> None:
        with self._lock:
            self._account(host, app_key).revoke(app_secret, token, self.rules)

    def approve(self, host: Host, app_key: str, app_secret: str) -> None:
        with self._lock:
            self._account(host, app_key).check_secret(app_secret)

    def hashkey(self, host: Host, app_key: str, app_secret: str) -> None:
        with self._lock:
            self._account(host, app_key).check_secret(app_secret, refusal="EGW00304")

    def call(self, host: Host, app_key: str, app_secret: str, token: str) -> None:
        with self._lock:
            if host == "real" and self._is_paper_key(app_key):
                raise Refused("EGW02004")
            self._account(host, app_key).call(app_secret, token, self.clock.now(), self.rules)

    def _is_paper_key(self, app_key: str) -> bool:
        return ("paper", app_key) in self._accounts and ("real", app_key) not in self._accounts

    def _account(self, host: Host, app_key: str) -> Account:
        account = self._accounts.get((host, app_key))
        if account is None:
            raise Refused("EGW00103")
        return account

    # Counters.

    def count_request(self, host: Host, app_key: str) -> None:
        with self._lock:
            self._counters_of(host, app_key).requests += 1

    def count_refusal(self, host: Host, app_key: str, code: str, *, of_token: bool) -> None:
        with self._lock:
            counters = self._counters_of(host, app_key)
            counters.codes[code] += 1
            counters.rejections += of_token

    def counters(self) -> dict[Host, dict[str, Any]]:
        """``{host: {app key: Counters as a mapping}}``; all unregistered keys are one entry."""
        with self._lock:
            result: dict[Host, dict[str, Any]] = {"real": {}, "paper": {}}
            for (host, app_key), counters in self._counters.items():
                result[host][app_key] = {**vars(counters), "codes": dict(counters.codes)}
            return result

    def _counters_of(self, host: Host, app_key: str) -> Counters:
        # An unregistered key might be a secret in the wrong field: do not show it.
        known = ("real", app_key) in self._accounts or ("paper", app_key) in self._accounts
        return self._counters.setdefault((host, app_key if known else UNKNOWN_KEY), Counters())

    # Faults.

    def add_fault(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear_faults(self) -> None:
        """Also releases the requests that hang."""
        with self._lock:
            for fault in self._faults:
                fault.cleared.set()
            self._faults = []

    def take_fault(self, path: str, app_key: str) -> Fault | None:
        """The first fault that applies to this request; its ``count`` goes down by one."""
        with self._lock:
            now = self.clock.now()
            for fault in self._faults:
                if fault.count != 0 and fault.applies(path, app_key, now):
                    if fault.count is not None:
                        fault.count -= 1
                    return fault
            return None

    # Clock and rules.

    def change_clock(
        self, *, now: float | None = None, advance: float = 0.0, rate: float | None = None
    ) -> None:
        """Raises ``ValueError`` for a time outside of 1970 to 2099 and for a negative rate."""
        with self._lock:
            then = (self.clock.now() if now is None else now) + advance
            rate = self.clock.rate if rate is None else rate
            if not 0 <= then < END_OF_TIME:
                raise ValueError("the clock runs from 1970 to 2099, in epoch seconds")
            if not 0 <= rate < END_OF_TIME:
                raise ValueError("rate is simulated seconds per real second: 0 or more")
            self.clock = Clock(then, rate)

    def change_rules(self, changes: Mapping[str, object]) -> None:
        """Raises ``ValueError`` as ``Rules.changed`` does."""
        with self._lock:
            self.rules = self.rules.changed(changes)
