"""What calls do, for logger "pgcache" at level DEBUG, a key as its hash and values not at all; and for listeners."""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256
from time import perf_counter
from typing import Any, NamedTuple

from .calls import Asks, Call, Changes, Place, Reads, Writes, located
from .failsoft import logger
from .wire import MISS, Params


class Done(NamedTuple):
    """A call that is over.

    call: the function. what: hit, miss, set and so on of one entry; else the function, too. place: of the entry, if it
    is about one. where: PostgreSQL or Redis. seconds: how long it took. value: of a hit. error: why it failed.
    """

    call: str
    what: str
    place: Place | None
    where: str
    seconds: float
    value: Any = None
    error: Exception | None = None

    @property
    def digest(self) -> str | None:
        """What stands for the key where others may read it."""
        return sha256(self.place.key.encode("utf-8", "replace")).hexdigest()[:12] if self.place else None


listeners: list[Callable[[Done], None]] = []


def began() -> float:
    """When a call begins; 0.0 if nobody wants to know."""
    return perf_counter() if listeners or logger.isEnabledFor(logging.DEBUG) else 0.0


def ended(begin: float, call: Call[Any], params: Params, result: Any) -> None:
    """A call that PostgreSQL has answered."""
    place = _place(call, params)
    what, value = call.name, None
    if place is not None and isinstance(call.tier, Reads):
        # The tier's own calls say more than the value.
        value = result if result is None or result is MISS else getattr(result, "value", result)
        what = "miss" if value is MISS or (value is None and call.otherwise is None) else "hit"
    elif place is not None and isinstance(call.tier, Asks):
        what, value = result.state, result.value
    elif place is not None and isinstance(call.tier, Writes):
        what = "set" if getattr(result, "stored", result) else "not set"
    _tell(Done(call.name, what, place, "PostgreSQL", perf_counter() - begin, value))


def failed(begin: float, call: Call[Any], params: Params, error: Exception) -> None:
    """A call that PostgreSQL has refused, or not answered. The log has it elsewhere, or the error is raised."""
    done = Done(call.name, "error", _place(call, params), "PostgreSQL", perf_counter() - begin, error=error)
    for listen in listeners:
        listen(done)


def one(begin: float, what: str, type: str, key: str, where: str) -> None:
    """What became of one entry that was to be read."""
    _tell(Done("cache_get", what, Place(type, key), where, perf_counter() - begin))


def _tell(done: Done) -> None:
    if logger.isEnabledFor(logging.DEBUG):
        if done.place is None:
            logger.debug("%s in %.2f ms", done.call, 1000 * done.seconds)
        else:
            entry = done.what, done.place.type, done.digest, 1000 * done.seconds, done.where
            logger.debug("%s %s %s in %.2f ms (%s)", *entry)
    for listen in listeners:
        listen(done)


def _place(call: Call[Any], params: Params) -> Place | None:
    if isinstance(call.tier, (Reads, Changes, Asks)):
        return located(call.tier.place, params)
    if isinstance(call.tier, Writes) and (write := located(call.tier.write, params)):
        return write.place
    return None
