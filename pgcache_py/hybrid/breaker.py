"""The circuit breaker before Redis: after a failure it is left alone for a while, and then tried by one call."""

from __future__ import annotations

import threading
from time import monotonic

from ..client.failsoft import logger

# For how long Redis is left alone, in seconds: first, and after it was found broken again and again.
FIRST_REST = 0.5
LONGEST_REST = 30.0


class Breaker:
    """trouble, relief: what is logged when an outage begins, and when it ends."""

    def __init__(self, trouble: str, relief: str) -> None:
        self.closed = True
        self._trouble = trouble
        self._relief = relief
        self._lock = threading.Lock()
        self._rest = FIRST_REST
        self._resting_until = 0.0
        self._probing = False

    def admits(self) -> bool:
        """Whether to try. After a rest one call does, and the others do not wait for its outcome."""
        if self.closed:
            return True
        with self._lock:
            now = monotonic()
            if now < self._resting_until:
                return False
            self._resting_until = now + self._rest
            self._probing = True
            return True

    def failed(self, error: Exception) -> None:
        """Open, for longer than the last time. What was under way with the first failure and fails too is no news."""
        with self._lock:
            first, self.closed = self.closed, False
            if first or self._probing:
                self._resting_until = monotonic() + self._rest
                self._rest = min(2 * self._rest, LONGEST_REST)
            self._probing = False
        if first:
            logger.warning("%s; further failures are silent: %s: %s", self._trouble, type(error).__name__, error)

    def succeeded(self) -> None:
        """Close, if this was the try after a rest."""
        with self._lock:
            relieved, self._probing = self._probing, False
            if relieved:
                self.closed = True
                self._rest = FIRST_REST
        if relieved:
            logger.info("%s", self._relief)

    @property
    def state(self) -> str:
        """closed; open; or half-open, when the next call tries."""
        if self.closed:
            return "closed"
        return "open" if monotonic() < self._resting_until else "half-open"
