"""What calls do, for logger "pgcache" at level DEBUG. Of a key it has a hash, of a value nothing."""

from __future__ import annotations

import logging
from hashlib import sha256
from time import perf_counter
from typing import Any

from .calls import Asks, Call, Changes, Place, Reads, Writes
from .failsoft import logger
from .wire import MISS, Params


def began() -> float:
    """When a call begins; 0.0 if nobody wants to know."""
    return perf_counter() if logger.isEnabledFor(logging.DEBUG) else 0.0


def ended(begin: float, call: Call[Any], params: Params, result: Any) -> None:
    """A call that PostgreSQL has answered."""
    place = _place(call, params)
    if place is None:
        logger.debug("%s in %.2f ms", call.name, 1000 * (perf_counter() - begin))
        return
    what = call.name
    if isinstance(call.tier, Reads):
        # The tier's own calls say more than the value.
        value = result if result is None or result is MISS else getattr(result, "value", result)
        what = "miss" if value is MISS or (value is None and call.otherwise is None) else "hit"
    elif isinstance(call.tier, Asks):
        what = result.state
    elif isinstance(call.tier, Writes):
        what = "set" if getattr(result, "stored", result) else "not set"
    one(begin, what, place.type, place.key, "PostgreSQL")


def one(begin: float, what: str, type: str, key: str, where: str) -> None:
    """What became of one entry."""
    digest = sha256(key.encode("utf-8", "replace")).hexdigest()[:12]
    logger.debug("%s %s %s in %.2f ms (%s)", what, type, digest, 1000 * (perf_counter() - begin), where)


def _place(call: Call[Any], params: Params) -> Place | None:
    try:
        if isinstance(call.tier, (Reads, Changes, Asks)):
            return call.tier.place(*params)
        if isinstance(call.tier, Writes):
            return call.tier.write(*params).place
    except (AttributeError, TypeError, ValueError):
        pass  # of no kind that an entry has
    return None
