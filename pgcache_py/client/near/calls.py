"""What a client with a near cache calls: instead of cache_get and its kin, and to tell of what it answered itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from psycopg.pq.abc import PGresult

from ..calls import BYPASSES, Call
from ..wire import MISS, Params, array, binary_json, json_value, read_count, timedelta_of


class Nearby(NamedTuple):
    """What near_get says. value: MISS if there is none. ttl: seconds, infinite for what never expires."""

    value: Any
    ttl: float
    keepable: bool
    tenant: str


# In fail-soft mode, when PostgreSQL was not asked.
UNASKED = Nearby(MISS, 0.0, False, "")
MANY_UNASKED: Final[Mapping[str, Nearby]] = {}


def _nearby(result: PGresult, encoding: str) -> Nearby:
    value, ttl, keepable, tenant = (result.get_value(0, column) for column in range(4))
    return Nearby(
        MISS if value is None else binary_json(value, encoding),
        math.inf if ttl is None else timedelta_of(ttl).total_seconds(),
        keepable == b"\1",
        (tenant or b"").decode(encoding),
    )


def _many_nearby(result: PGresult, encoding: str) -> Mapping[str, Nearby]:
    entries, kept, tenant = ((result.get_value(0, column) or b"").decode(encoding) for column in range(3))
    ttls = json_value(kept)[0] if kept else {}

    def nearby(key: str, value: Any) -> Nearby:
        ttl = ttls.get(key, 0.0)
        return Nearby(value, math.inf if ttl is None else ttl, key in ttls, tenant)

    return {key: nearby(key, value) for key, value in json_value(entries)[0].items()}


NEAR_GET = Call(
    "near_get($1, $2)",
    _nearby,
    UNASKED,
    tier=BYPASSES,
    rows=True,
    binary=True,
    schema="pgcache_internal",
)
NEAR_GET_MANY = Call(
    "near_get_many($1, $2)", _many_nearby, MANY_UNASKED, tier=BYPASSES, rows=True, schema="pgcache_internal"
)
REPORT_HITS: Call[int] = Call(
    "hot_report_hits($1, $2, $3)", read_count, 0, tier=BYPASSES, repeatable=False, schema="pgcache_internal"
)


def report(type: str, hits: Mapping[str, int]) -> Params:
    """The parameters of REPORT_HITS: how often each key was read."""
    return type, array(hits), "{" + ",".join(map(str, hits.values())) + "}"
