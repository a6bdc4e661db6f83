"""KIS's limit of requests per second, kept on this side of the wire."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

# KIS counts arrivals and we count departures; the network can push two windows' requests closer
# together. So a window here is a little longer than KIS's second.
WINDOW_SECONDS = 1.05


class TooManyRequests(Exception):
    """The turn would come later than the caller is willing to wait."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"the next free turn is {wait:.1f} s away")
        self.wait = wait
        """Seconds until a turn would have come."""


class Limiter:
    """A sliding window: `per_second` starts in any `WINDOW_SECONDS`, first come, first served.

    KIS: over the limit, HTTP 500 with ``EGW00201``.
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
            TooManyRequests: at once, and with no turn taken, where it is over `max_wait` seconds.
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
