"""Keeps one valid token: decides when to use the file's token and when to ask KIS for a new one."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .kis import (
    TOO_SOON,
    WRONG_KEY,
    WRONG_SECRET,
    Kis,
    KisUnavailable,
    TokenRefused,
)
from .metrics import Metrics
from .tokens import VALID_MARGIN, Token, TokenStore, format_time

log = logging.getLogger(__name__)

# Operators and their tools look for these two lines; earlier gateways logged them too.
CACHED_TOKEN_USED = "(Auth) ✅ 유효한 캐시 토큰 사용. (잠금 내)"
CLIENT_READY = "✅ KIS Client 초기화 완료 (토큰 발급 성공)"

REFRESH_WINDOW = 900
"""A token may be replaced this many seconds before its expiry; at `VALID_MARGIN` it must be."""

ATTEMPT_INTERVAL = 61
"""KIS: one issuance per 60 s per app key. One second more for the network."""

LONGEST_BACKOFF = 300
BACKOFF_FOR_WRONG_CREDENTIALS = 3600
"""Asking again does not help, and KIS reportedly blocks a key for a day after many refusals."""


@dataclass(frozen=True)
class Status:
    """A valid `token`, or None with the reason (`problem`) and the time of the next attempt."""

    token: Token | None
    problem: str
    next_attempt_at: float
    """Epoch seconds."""
    next_attempt_in: float
    """Seconds."""


def retry_delay(code: str | None, failures: int, jitter: float) -> float:
    """Seconds until KIS may be asked again, after the `failures`-th failed attempt in a row.

    `code`: KIS's ``error_code``, None if it gave none. `jitter`: 0 to 1; it spreads the attempts of
    gateways with the same app key, because only one a minute can get a token.
    """
    if code == TOO_SOON:
        return ATTEMPT_INTERVAL + 14 * jitter
    if code in (WRONG_KEY, WRONG_SECRET):
        return BACKOFF_FOR_WRONG_CREDENTIALS + 60 * jitter
    doublings = min(failures - 1, 10)
    return min(ATTEMPT_INTERVAL * 2.0**doublings, LONGEST_BACKOFF) + 14 * jitter


class Keeper:
    """One background thread decides and acts, in `step`; requests only read the token or wait.

    `clock`: epoch seconds. `jitter`: random numbers from 0 to 1.
    """

    def __init__(
        self,
        store: TokenStore,
        kis: Kis,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._kis = kis
        self._metrics = metrics
        self._clock = clock
        self._jitter = jitter
        # Chosen once per process: gateways with the same app key then refresh in different minutes.
        # Early enough for a second try before the token no longer counts as valid.
        self._refresh_before = REFRESH_WINDOW - (
            (REFRESH_WINDOW - VALID_MARGIN - ATTEMPT_INTERVAL) * jitter()
        )
        self._thread = threading.Thread(target=self._run, name="token-keeper", daemon=True)
        # Guards the fields below and wakes the threads that wait for a change of them.
        self._changed = threading.Condition()
        self._token: Token | None = None
        self._refused_value: str | None = None
        self._problem = "the token file has not been read yet"
        self._failures = 0
        self._repeats = 0
        self._next_attempt_at = 0.0
        self._due_at = 0.0
        self._attempted_at = 0.0
        self._announced = False
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Waits for an issuance in progress: its token must not be lost."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def status(self) -> Status:
        now = self._clock()
        with self._changed:
            token = self._token if self._token and self._token.is_valid(now) else None
            next_attempt_at = max(self._next_attempt_at, now)
            return Status(token, self._problem, next_attempt_at, next_attempt_at - now)

    def token(self, timeout: float) -> Token | None:
        """A valid token; None if the keeper has none and gets none within `timeout` seconds.

        Waits only while the keeper is working, not for its next attempt.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_token() or not self._is_due(), timeout)
        return self.status().token

    def replace(self, refused: Token, timeout: float) -> Token | None:
        """Like `token`, but never returns `refused`, the token that KIS has refused.

        Tries the token in use and the file's token before it asks KIS for a new one.
        """
        with self._changed:
            if self._token is not None and self._token.value == refused.value:
                log.warning("KIS refused the token in use: looking for another one")
                self._token = None
                self._refused_value = refused.value
                self._problem = "KIS refused the token in use"
                self._metrics.token_expiry.set(0)
                self._due_at = 0.0
                self._changed.notify_all()
        return self.token(timeout)

    def step(self) -> None:
        """Do what is due now, with at most one request to KIS. Does not raise if there is no token:
        the reason is in `status` and in the log."""
        now = self._clock()
        if now < self._due_at:
            return
        try:
            with self._store.lock():
                self._use_cached(now)
                if self._refresh_at() <= now:
                    self._ask(now)
        except OSError as error:
            # Do not ask KIS if the attempt cannot be recorded.
            problem = f"the token directory must exist and be writable for this user ({error})"
            self._failed(now, problem, None)
        with self._changed:
            self._due_at = self._refresh_at()
            if self._due_at <= now:
                self._due_at = self._next_attempt_at
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.step()
            except Exception:
                log.exception("The token keeper failed, which is a bug; it tries again in a minute")
                self._due_at = self._clock() + ATTEMPT_INTERVAL
            with self._changed:
                while not self._stopping and self._clock() < self._due_at:
                    # Check the clock every second, because it may jump: suspended machines, NTP.
                    self._changed.wait(1)

    def _has_token(self) -> bool:
        return self._token is not None and self._token.is_valid(self._clock())

    def _is_due(self) -> bool:
        return self._clock() >= self._due_at

    def _refresh_at(self) -> float:
        token = self._token
        return token.expires_at - self._refresh_before if token else 0.0

    def _use_cached(self, now: float) -> None:
        cached = self._store.load()
        if cached is None:
            return
        if cached.value == self._refused_value:
            log.warning("The token file holds the token that KIS refused: it is set aside")
            self._store.set_aside()
        elif not cached.is_valid(now):
            log.info("The cached token is too old to be used: %s", format_time(cached.expires_at))
        elif self._token is None or cached.expires_at > self._token.expires_at:
            log.info(CACHED_TOKEN_USED)
            self._metrics.cached_tokens.inc()
            self._use(cached)

    def _ask(self, now: float) -> None:
        """Ask KIS, unless this or an earlier process asked it within the last minute."""
        attempted_at = self._attempted_at = self._store.last_attempt() or 0.0
        if 0 < attempted_at <= now:  # otherwise the clock was set back
            earliest = attempted_at + ATTEMPT_INTERVAL
            if now < earliest and self._next_attempt_at < earliest:
                asked_at = format_time(attempted_at)
                self._put_off(
                    earliest, f"KIS was last asked at {asked_at} and issues one token a minute"
                )
        if now < self._next_attempt_at:
            return
        self._store.record_attempt(now)
        self._attempted_at = now
        self._next_attempt_at = now + ATTEMPT_INTERVAL
        try:
            token = self._kis.issue_token()
        except TokenRefused as refusal:
            self._metrics.issuances.labels("rejected", refusal.code).inc()
            self._failed(self._clock(), self._kis.explain(refusal), refusal.code)
        except KisUnavailable as error:  # after up to 15 s; KIS may have issued one by then
            self._metrics.issuances.labels("error", "").inc()
            self._failed(self._clock(), str(error), None)
        else:
            self._metrics.issuances.labels("issued", "").inc()
            log.info("KIS issued a token, valid until %s", format_time(token.expires_at))
            # KIS issues the same token for six hours. If it refuses that token, too, the gateway
            # would ask again every minute.
            repeats = self._repeats + 1 if token.value == self._refused_value else 0
            self._use(token)
            self._repeats = repeats
            if repeats:
                delay = retry_delay(None, repeats + 1, self._jitter())
                self._next_attempt_at = self._clock() + delay
            self._save(token)

    def _use(self, token: Token) -> None:
        self._metrics.token_expiry.set(token.expires_at)
        with self._changed:
            self._token = token
            self._refused_value = None
            self._failures = 0
            self._problem = "the token has expired"  # true once it expires, if nothing replaces it
            self._changed.notify_all()
        if not self._announced:
            self._announced = True
            log.info(CLIENT_READY)

    def _save(self, token: Token) -> None:
        try:
            self._store.save(token)
        except OSError as error:
            log.error(
                "The token could not be written (%s): it is in use, but a restart will lose it. "
                "Free disk space or make the directory writable",
                error,
            )

    def _failed(self, now: float, problem: str, code: str | None) -> None:
        self._failures += 1
        delay = retry_delay(code, self._failures, self._jitter())
        self._put_off(now + delay, problem)

    def _put_off(self, until: float, problem: str) -> None:
        with self._changed:
            self._problem = problem
            self._next_attempt_at = until
            token = self._token
        state = (
            f"The token in use stays until {format_time(token.expires_at - VALID_MARGIN)}"
            if token
            else "Not ready"
        )
        log.warning("%s: %s. Next try at %s", state, problem, format_time(until))
