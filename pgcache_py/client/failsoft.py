"""Fail-soft mode: a cache that cannot be had is a miss, said once, and not asked again at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from psycopg.errors import OperationalError

from ..errors import (
    AbortedTransactionError,
    BrokenError,
    BusyError,
    CacheFullError,
    InvalidTagError,
    InvalidTTLError,
    InvalidValueError,
    NotInstalledError,
    PermissionDeniedError,
    ReadOnlyError,
    UnavailableError,
    UnrepresentableError,
)

logger = logging.getLogger("pgcache")

# Failures of the cache's own. Everything else is a mistake in the calling program, and raised. OperationalError: of
# those that keep psycopg's class, a rolled-back transaction.
ABSORBED = (
    AbortedTransactionError,
    BrokenError,
    BusyError,
    CacheFullError,
    NotInstalledError,
    OperationalError,
    PermissionDeniedError,
    ReadOnlyError,
    UnavailableError,
    UnrepresentableError,
)

# What refuses all of many entries because of some of them.
REFUSED_ENTRIES = (CacheFullError, UnrepresentableError)

# Failures to store a value that do not concern who computed it.
UNKEPT = (
    BrokenError,
    BusyError,
    CacheFullError,
    InvalidTagError,
    InvalidTTLError,
    InvalidValueError,
    NotInstalledError,
    PermissionDeniedError,
    ReadOnlyError,
    UnavailableError,
)

# For how long an unavailable server is left alone, in seconds: first, and after it was found so again and again.
FIRST_REST = 0.5
LONGEST_REST = 15.0

# A timeout used in fail-soft mode if none is given, in seconds: without one, a server that never answers would make
# every call wait for ever.
TIMEOUT = 5.0

# The longest that PostgreSQL's statement_timeout takes, in seconds.
LONGEST_TIMEOUT = (2**31 - 1) // 1000


def check_timeout(timeout: object) -> None:
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and 0 < timeout <= LONGEST_TIMEOUT):  # type: ignore[operator]
        raise InvalidValueError(
            f"a timeout is a positive number of seconds, up to {LONGEST_TIMEOUT:,}, not {timeout!r}",
            hint="Pass None for no limit.",
        )


@contextmanager
def keeping(cache: str) -> Iterator[None]:
    """Store what was computed. If that fails it is logged: who has paid for it gets it all the same."""
    try:
        yield
    except UNKEPT as error:
        logger.warning("what was computed is not cached in %s: %s", cache, error)


class FailSoft:
    """What a cache and its views for tenants know together about the failures so far."""

    def __init__(self) -> None:
        self.incidents: dict[type[Exception], str] = {}
        self._lock = threading.Lock()
        self._rest = FIRST_REST
        self._resting_until = 0.0

    def resting(self) -> bool:
        """Whether to spare the caller the attempt. After a rest one caller makes it, and the others wait no longer."""
        if not self._resting_until:
            return False
        with self._lock:
            now = monotonic()
            if now < self._resting_until:
                return True
            self._resting_until = now + self._rest
            return False

    def absorbs(self, function: str, error: Exception) -> bool:
        """Whether the failure counts as a miss; if it is the first of its kind, it is logged."""
        if not isinstance(error, ABSORBED):
            return False
        with self._lock:
            if isinstance(error, UnavailableError):
                self._resting_until = monotonic() + self._rest
                self._rest = min(2 * self._rest, LONGEST_REST)
            first = type(error) not in self.incidents
            self.incidents.setdefault(type(error), function)
        if first:
            logger.warning(
                "%s failed and counts as a miss; further failures of this kind are silent: %s", function, error
            )
        return True

    def unreachable(self) -> bool:
        """Whether the server could not be reached the last time."""
        return any(issubclass(kind, UnavailableError) for kind in self.incidents)

    def succeeded(self, function: str) -> None:
        """Call off the incidents that a success of the function disproves."""
        with self._lock:
            self._rest = FIRST_REST
            self._resting_until = 0.0
            over = [kind for kind, failed in self.incidents.items() if failed == function or kind is UnavailableError]
            for kind in over:
                del self.incidents[kind]
        for kind in over:
            logger.info("%s works again after %s", function, kind.__name__)
