"""What a client with a near cache calls in place of cache_get."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from psycopg.pq.abc import PGresult

from ..calls import BYPASSES, Call
from ..wire import MISS, binary_json, timedelta_of


class Nearby(NamedTuple):
    """What near_get says. value: MISS if there is none. ttl: seconds, infinite for what never expires."""

    value: Any
    ttl: float
    keepable: bool
    tenant: str


UNASKED = Nearby(MISS, 0.0, False, "")
"""In fail-soft mode, when PostgreSQL was not asked."""


def _nearby(result: PGresult, encoding: str) -> Nearby:
    value, ttl, keepable, tenant = (result.get_value(0, column) for column in range(4))
    return Nearby(
        MISS if value is None else binary_json(value, encoding),
        math.inf if ttl is None else timedelta_of(ttl).total_seconds(),
        keepable == b"\1",
        (tenant or b"").decode(encoding),
    )


NEAR_GET = Call(
    "near_get($1, $2)",
    _nearby,
    UNASKED,
    tier=BYPASSES,
    rows=True,
    binary=True,
    schema="pgcache_internal",
)
