"""Keeps to KIS's limit of requests per second."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

# KIS counts requests on arrival, the gateway when it sends them; the network can push them closer
# together. So the window here is a little longer than KIS's second.
WINDOW_SECONDS = 1.05


class TooManyRequests(Exception):
    """The turn would come later than the caller is willing to wait."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"the next free turn is in {wait:.1f} s")
        self.wait = wait
        """Seconds until the next free turn."""


class Limiter:
    """A sliding window: `per_second` starts in any `WINDOW_SECONDS`, first come, first served.

    Over the limit, KIS answers HTTP 500 with ``EGW00201``.
    """

    def __init__(
        self,
        per_second: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._starts: deque[float] = deque(maxlen=per_second)

    def wait_for_turn(self, max_wait: float) -> float:
        """Take a turn and sleep until it comes; returns the seconds slept.

        Raises:
            TooManyRequests: at once, without a turn, if the wait is longer than `max_wait` seconds.
        """
        with self._lock:
            now = self._clock()
            start = now
            if len(self._starts) == self._starts.maxlen:
                start = max(now, self._starts[0] + WINDOW_SECONDS)
            if start - now > max_wait:
                raise TooManyRequests(start - now)
            self._starts.append(start)
        if start > now:
            self._sleep(start - now)
        return start - now
