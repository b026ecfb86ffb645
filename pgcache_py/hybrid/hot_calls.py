"""PostgreSQL's side of the hot tier: the functions that its clients call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from psycopg.pq.abc import PGresult

from ..client.calls import BYPASSES, GET, SET, Call, T, Tier
from ..client.wire import MISS, Params, json_value, read_flag


class Found(NamedTuple):
    """What hot_get returns. value: MISS if there is none. text: it in JSON. ttl_ms: for how long Redis may keep it.

    epoch: in which it may be put into Redis; None if it may not.
    """

    value: Any
    text: bytes | None
    version: int
    ttl_ms: int
    epoch: bytes | None


class Stored(NamedTuple):
    """What hot_set returns. text: the value as PostgreSQL has it; None if its type is not hot. epoch: as in Found."""

    stored: bool
    version: int
    ttl_ms: int
    text: bytes | None
    epoch: bytes | None


class Identity(NamedTuple):
    """What hot_identity returns. owner: as that of a prefix in Redis. prefix: the setting hot_prefix.

    any_hot: whether there is a type in the tier.
    """

    owner: bytes
    prefix: str
    any_hot: bool


UNREAD = Found(MISS, None, 0, 0, None)
"""In fail-soft mode, when PostgreSQL was not asked."""


def _found_at(result: PGresult, encoding: str, row: int, column: int) -> Found:
    data, version, ttl_ms, epoch = (result.get_value(row, column + each) for each in range(4))
    if data is None:
        return Found(MISS, None, int(version or 0), int(ttl_ms or 0), epoch)
    text = data.decode(encoding)
    return Found(json_value(text)[0], text.encode(), int(version or 0), int(ttl_ms or 0), epoch)


def _found(result: PGresult, encoding: str) -> Found:
    return _found_at(result, encoding, 0, 0)


def _found_many(result: PGresult, encoding: str) -> dict[str, Found]:
    rows = range(result.ntuples)
    return {
        key.decode(encoding): _found_at(result, encoding, row, 1)
        for row in rows
        if (key := result.get_value(row, 0)) is not None
    }


def _stored(result: PGresult, encoding: str) -> Stored:
    stored, version, ttl_ms, text, epoch = (result.get_value(0, column) for column in range(5))
    utf8 = text if text is None or encoding == "utf-8" else text.decode(encoding).encode()
    return Stored(stored == b"t", int(version or 0), int(ttl_ms or 0), utf8, epoch)


def _identity(result: PGresult, encoding: str) -> Identity:
    owner, prefix, any_hot = (result.get_value(0, column) or b"" for column in range(3))
    return Identity(owner, prefix.decode(encoding), any_hot == b"t")


def _internal(
    function: str,
    read: Callable[[PGresult, str], T],
    otherwise: T,
    *,
    tier: Tier = BYPASSES,
    rows: bool = False,
    repeatable: bool = True,
) -> Call[T]:
    """One of the functions with which the tier itself reads and writes: no call that goes through it."""
    return Call(function, read, otherwise, tier=tier, rows=rows, repeatable=repeatable, schema="pgcache_internal")


HOT_GET = _internal("hot_get($1, $2)", _found, UNREAD, tier=GET.tier, rows=True)
HOT_GET_MANY: Call[dict[str, Found]] = _internal("hot_get_many($1, $2)", _found_many, {}, rows=True)
HOT_SET = _internal("hot_set($1, $2, $3, $4)", _stored, Stored(False, 0, 0, None, None), tier=SET.tier, rows=True)
HOT_IDENTITY = Call("hot_identity()", _identity, tier=BYPASSES, rows=True, schema="pgcache_internal")
IS_HOT = _internal("is_hot($1)", read_flag, False)


class _Wake(Call[None]):
    """Lets the relay come by now."""

    def __init__(self) -> None:
        super().__init__("", lambda result, encoding: None, tier=BYPASSES)
        self.name = "pg_notify"

    def statement(self, params: Params, tenant: str | None) -> tuple[str, Params]:
        return "SELECT pg_catalog.pg_notify('pgcache_hot', '')", params


WAKE = _Wake()

OUTBOX = "SELECT * FROM pgcache.cache_hot_stats"
