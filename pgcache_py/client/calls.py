"""What the clients call: one description of each function, which AsyncCache and Cache share.

A call is a statement, a way to read its reply, what a fail-soft client returns when the cache cannot be had, and what
it means for the hot tier. The typed caches' calls are in typed_calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from psycopg.pq.abc import PGresult

from .wire import (
    MISS,
    NEVER,
    Params,
    Sentinel,
    binary_json,
    bytes_or_number,
    json_value,
    left,
    moment,
    read_count,
    read_count_if_any,
    read_document,
    read_duration,
    read_flag,
    read_nothing,
    read_text,
    read_texts,
    read_value,
    timedelta_of,
)

T = TypeVar("T")

RAISE: Final = Sentinel.RAISE
"""In place of a fallback: the call manages the cache, and fails even in fail-soft mode."""

# What a call means for the hot tier: the clients of hybrid/ do what is said here. The functions take the parameters of
# the call; what is wrong with these is PostgreSQL's to say, so they may raise AttributeError, TypeError, ValueError.


class Place(NamedTuple):
    """Where an entry is. tenant: None for the cache's own."""

    type: str
    key: str
    tenant: str | None = None


class Write(NamedTuple):
    """An entry to store. text: its value in JSON."""

    place: Place
    text: str
    ttl: str | None


def as_it_is(value: Any) -> Any:
    return value


class Reads(NamedTuple):
    """Looks an entry up, in Redis first. result: what the call returns, made of the entry's value."""

    place: Callable[..., Place]
    result: Callable[[Any], Any] = as_it_is


class Writes(NamedTuple):
    """Stores an entry, whose value is put into Redis as well."""

    write: Callable[..., Write]


class Changes(NamedTuple):
    """Changes an entry: what Redis has is out of date after it."""

    place: Callable[..., Place]


class Asks(NamedTuple):
    """Looks an entry up in PostgreSQL alone."""

    place: Callable[..., Place]


class Effect(Enum):
    SWEEPS = "changes entries, the client does not know which: all that Redis has is out of date after it"
    SEVERAL = "reads or changes several entries: the method of the hybrid client says which"
    BYPASSES = "is PostgreSQL's alone: it changes no value that a client may have put into Redis"


SWEEPS, SEVERAL, BYPASSES = Effect.SWEEPS, Effect.SEVERAL, Effect.BYPASSES
Tier: TypeAlias = Reads | Writes | Changes | Asks | Effect


def generic(type: str, key: str, *rest: Any) -> Place:
    return Place(type, key)


def located(locate: Callable[..., T], params: Params) -> T | None:
    """What a function of a call's tier makes of the parameters; None if they are wrong, as PostgreSQL will say."""
    if any(isinstance(param, str) and "\0" in param for param in params):
        return None
    try:
        return locate(*params)
    except (AttributeError, TypeError, ValueError):
        return None


# The tenant is set before the function runs, since the join's left side comes first, and put back after it: within a
# transaction the setting would outlast the statement.
SCOPE = """\
(SELECT pg_catalog.current_setting('pgcache.tenant', true) AS was, pg_catalog.set_config('pgcache.tenant', ${}, true)) \
AS scope"""
RESTORE = "pg_catalog.set_config('pgcache.tenant', scope.was, true) AS restored"


class Call(Generic[T]):
    """A function of pgcache.

    function: with its parameters, $1 and so on. read: makes the result of the reply. otherwise: the result in fail-soft
    mode when the cache cannot be had; RAISE if there is none. tier: what the call means for the hot tier. rows: the
    function returns a table. repeatable: calling it twice does no harm, if the connection was lost during the first
    call. binary: the reply is in binary format. takes_bytes: some parameters are bytes. schema: pgcache_internal for
    what users do not call themselves.
    """

    def __init__(
        self,
        function: str,
        read: Callable[[PGresult, str], T],
        otherwise: T | Literal[Sentinel.RAISE] = RAISE,
        *,
        tier: Tier,
        rows: bool = False,
        repeatable: bool = True,
        binary: bool = False,
        takes_bytes: bool = False,
        schema: str = "pgcache",
    ) -> None:
        self.name = function.partition("(")[0]
        self.read = read
        self.otherwise = otherwise
        self.tier = tier
        self.repeatable = repeatable
        self.binary = binary
        self.takes_bytes = takes_bytes
        scope = SCOPE.format(function.count("$") + 1)
        if rows:
            self.sql = f"SELECT * FROM {schema}.{function}"  # noqa: S608 (all of it is ours)
            self.scoped_sql = (
                f"SELECT reply.*, {RESTORE} FROM {scope} LEFT JOIN LATERAL {schema}.{function} AS reply ON true"  # noqa: S608
            )
        else:
            self.sql = f"SELECT {schema}.{function}"
            self.scoped_sql = f"{self.sql}, {RESTORE} FROM {scope}"

    def statement(self, params: Params, tenant: str | None) -> tuple[str, Params]:
        """The statement and its parameters, for a tenant or, if that is None, for the session's own."""
        if tenant is None:
            return self.sql, params
        return self.scoped_sql, (*params, tenant)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry without its value. ttl: what is left, None if it never expires. bytes: what it takes up."""

    tenant: str
    key: str
    created_at: datetime
    expires_at: datetime | None
    ttl: timedelta | None
    last_accessed_at: datetime
    hit_count: int
    bytes: int
    expired: bool


def _entry(result: PGresult, encoding: str) -> Entry | None:
    if not result.ntuples or (tenant := result.get_value(0, 0)) is None:
        return None
    key, created, expires, ttl, accessed, hits, size, expired = (result.get_value(0, column) for column in range(1, 9))
    return Entry(
        tenant=tenant.decode(encoding),
        key=(key or b"").decode(encoding),
        created_at=moment(created or b""),
        expires_at=None if expires is None else moment(expires),
        ttl=None if ttl is None else timedelta_of(ttl),
        last_accessed_at=moment(accessed or b""),
        hit_count=int.from_bytes(hits or b"", "big"),
        bytes=int.from_bytes(size or b"", "big"),
        expired=expired == b"\1",
    )


class Removed(NamedTuple):
    """How many cache_forget removed. place: entries, hit_log, totals or redis (of which Redis is told)."""

    type: str
    place: str
    removed: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The receipt of cache_forget. total: what was removed in the database. removed: of each type and place."""

    total: int
    removed: tuple[Removed, ...]


def _forgotten(result: PGresult, encoding: str) -> Forgotten:
    rows = [
        [(result.get_value(row, column) or b"").decode(encoding) for column in range(3)]
        for row in range(result.ntuples)
    ]
    *parts, (_, _, total) = rows
    return Forgotten(int(total), tuple(Removed(type, place, int(removed)) for type, place, removed in parts))


def _bytes(result: PGresult, encoding: str) -> Any:
    return bytes_or_number(result.get_value(0, 0), result.get_value(0, 1))


def _many_bytes(result: PGresult, encoding: str) -> dict[str, bytes | int]:
    rows = ([result.get_value(row, column) for column in range(3)] for row in range(result.ntuples))
    values = ((key, bytes_or_number(data, number)) for key, data, number in rows if key is not None)
    return {key.decode(encoding): value for key, value in values if value is not MISS}


class Scanned(NamedTuple):
    """An entry. ttl: what is left, NEVER for one that never expires."""

    key: str
    value: Any
    ttl: timedelta | float


def _scanned(result: PGresult, encoding: str) -> Sequence[Scanned]:
    rows = ([result.get_value(row, column) for column in range(3)] for row in range(result.ntuples))
    return [
        Scanned(key.decode(encoding), binary_json(value or b"", encoding), NEVER if ttl is None else left(ttl))
        for key, value, ttl in rows
        if key is not None
    ]


def _with_ttl(result: PGresult, encoding: str) -> tuple[Any, timedelta | float | None]:
    value, ttl = result.get_value(0, 0), result.get_value(0, 1)
    return (MISS, None) if value is None or ttl is None else (binary_json(value, encoding), left(ttl))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a get hits or misses. cause: in words. notes: what else is known. key: the entry's, if there is one."""

    type: str
    key: str
    hit: bool
    cause: str
    notes: tuple[str, ...]


def _reasons(result: PGresult, encoding: str) -> list[tuple[str, str]]:
    return [
        ((result.get_value(row, 0) or b"").decode(encoding), (result.get_value(row, 1) or b"").decode(encoding))
        for row in range(result.ntuples)
    ]


def explained(place: Place, reasons: list[tuple[str, str]]) -> Explanation:
    (outcome, cause), *notes = reasons
    return Explanation(place.type, place.key, outcome == "hit", cause, tuple(note for _, note in notes))


class Fetch(NamedTuple):
    """What client_fetch says. token: as text. held_since: when who is busy began, as PostgreSQL writes it."""

    value: Any
    state: str
    token: str | None
    servable: bool
    spare: bool
    held_since: bytes | None


def _fetch(result: PGresult, encoding: str) -> Fetch:
    data, state, token, servable, spare, held_since = (result.get_value(0, column) for column in range(6))
    return Fetch(
        MISS if data is None else json_value(data.decode(encoding))[0],
        (state or b"").decode(encoding),
        None if token is None else token.decode(encoding),
        servable == b"t",
        spare == b"t",
        held_since,
    )


UNFETCHED = Fetch(MISS, "won", None, False, False, None)
"""In fail-soft mode, when PostgreSQL was not asked."""


# The calls.


def flag(function: str, *, tier: Tier, repeatable: bool = True, takes_bytes: bool = False) -> Call[bool]:
    return Call(function, read_flag, False, tier=tier, repeatable=repeatable, takes_bytes=takes_bytes)


def count(function: str, *, tier: Tier) -> Call[int]:
    return Call(function, read_count, 0, tier=tier)


def _set(type: str, key: str, value: str, ttl: str | None) -> Write:
    return Write(Place(type, key), value, ttl)


GET = Call("cache_get($1, $2)", read_value, MISS, tier=Reads(generic))
SET = flag("cache_set($1, $2, $3, $4)", tier=Writes(_set))
# With tags, with the token of a fetch, with jitter: Redis takes no entries that have tags, PostgreSQL may refuse the
# second, and only it knows when the third expire.
SET_FRESH = flag("cache_set($1, $2, $3, $4, $5, $6, $7)", tier=Changes(generic))
ADD = flag("cache_add($1, $2, $3, $4)", tier=Changes(generic), repeatable=False)
INCR: Call[int | None] = Call(
    "cache_incr($1, $2, $3, $4, $5, $6)", read_count_if_any, None, tier=Changes(generic), repeatable=False
)
INCR_FLOAT: Call[str | None] = Call(
    "cache_incr_float($1, $2, $3, $4, $5, $6)", read_text, None, tier=Changes(generic), repeatable=False
)
REPLACE = flag("cache_replace($1, $2, $3, $4, $5, $6)", tier=Changes(generic), repeatable=False)
DELETE_IF = flag("cache_delete_if($1, $2, $3)", tier=Changes(generic), repeatable=False)
GET_MANY: Call[dict[str, Any]] = Call("cache_get_many_json($1, $2)", read_document, {}, tier=SEVERAL)
SET_MANY = count("cache_set_many_json($1, $2, $3, $4)", tier=SEVERAL)
# Bytes: Redis has none of these, unless a get of the entry as JSON put it there.
GET_BYTES = Call("bytes_at($1, $2)", _bytes, MISS, tier=BYPASSES, rows=True, binary=True, schema="pgcache_internal")
SET_BYTES = flag("cache_set_bytes($1, $2, $3, $4, $5, $6, $7, $8)", tier=Changes(generic), takes_bytes=True)
ADD_BYTES = flag("cache_add_bytes($1, $2, $3, $4, $5)", tier=Changes(generic), repeatable=False, takes_bytes=True)
GET_MANY_BYTES: Call[dict[str, bytes | int]] = Call(
    "cache_get_many_bytes($1, $2)", _many_bytes, {}, tier=BYPASSES, rows=True, binary=True
)
SET_MANY_BYTES: Call[int] = Call(
    "cache_set_many_bytes($1, $2, $3, $4, $5, $6::pg_catalog.text[]::interval[])",
    read_count,
    0,
    tier=SEVERAL,
    takes_bytes=True,
)
EXISTS = flag("cache_exists($1, $2)", tier=BYPASSES)
TTL_LEFT = Call("cache_ttl($1, $2)", read_duration, None, tier=BYPASSES, binary=True)
TOUCH = flag("cache_touch($1, $2, $3)", tier=Changes(generic))
PERSIST = flag("cache_persist($1, $2)", tier=Changes(generic))
EXPLAIN = Call("cache_explain($1, $2)", _reasons, tier=BYPASSES, rows=True)
GET_WITH_TTL: Call[tuple[Any, timedelta | float | None]] = Call(
    "cache_get_with_ttl($1, $2)", _with_ttl, (MISS, None), tier=BYPASSES, rows=True, binary=True
)
SCAN: Call[Sequence[Scanned]] = Call("cache_scan($1, $2, $3, $4)", _scanned, (), tier=BYPASSES, rows=True, binary=True)
COUNT = count("cache_count($1, $2)", tier=BYPASSES)
ENTRY = Call("cache_entry($1, $2)", _entry, None, tier=BYPASSES, rows=True, binary=True)
KEYS: Call[Iterable[str]] = Call("cache_keys($1, $2, $3)", read_texts, (), tier=BYPASSES, rows=True)

DELETE = flag("cache_delete($1, $2, $3)", tier=Changes(generic))
DELETE_MANY = count("cache_delete_many($1, $2, $3)", tier=SEVERAL)
DELETE_PATTERN = count("cache_delete_pattern($1, $2, $3)", tier=SWEEPS)
DELETE_PREFIX = count("cache_delete_prefix($1, $2, $3)", tier=SWEEPS)
CLEAR = count("cache_clear($1)", tier=SWEEPS)
CLEAR_EXPIRED = count("cache_clear_expired($1)", tier=BYPASSES)
CLEAR_ALL = count("cache_clear_all()", tier=SWEEPS)
# What has tags is not in Redis.
INVALIDATE_TAGS = Call("cache_invalidate_tags(VARIADIC $1)", read_nothing, None, tier=BYPASSES)
INVALIDATE_TENANT = count("cache_invalidate_tenant($1)", tier=SWEEPS)
FORGET = Call("cache_forget($1, $2)", _forgotten, tier=SWEEPS, rows=True)

FETCH = Call(
    "client_fetch($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    _fetch,
    UNFETCHED,
    tier=Asks(generic),
    rows=True,
    schema="pgcache_internal",
)
GET_YOUNGER = Call("get_younger($1, $2, $3)", read_value, MISS, tier=BYPASSES, schema="pgcache_internal")
CLAIM = Call("claim_anew($1, $2, $3, $4, $5, $6)", read_text, None, tier=BYPASSES, schema="pgcache_internal")
HOLD: Call[bool] = Call("hold_lease($1, $2, $3, $4)", read_flag, False, tier=BYPASSES, schema="pgcache_internal")
RELEASE = flag("cache_release($1, $2, $3)", tier=BYPASSES)

CREATE_TYPE = Call(
    "cache_create_type($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)", read_nothing, tier=BYPASSES, repeatable=False
)
CONFIGURE = Call("cache_configure($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)", read_nothing, tier=SWEEPS)
DROP_TYPE = Call("cache_drop_type($1)", read_nothing, tier=SWEEPS, repeatable=False)
# What is evicted or has expired is still true, and leaves Redis with the relay.
TENANT_LIMIT = Call("cache_tenant_limit($1, $2, $3, $4)", read_nothing, tier=BYPASSES)
CLEANUP = Call("cache_cleanup($1)", read_count, tier=BYPASSES)
WARM = Call("cache_warm($1, $2)", read_count, tier=SEVERAL)
SET_MANY_TTLS = count("cache_warm($1, $2)", tier=SEVERAL)

# Reports for people: read through psycopg's adapters, a dict for each row.
STATS = "SELECT * FROM pgcache.cache_stats"
HEALTH = "SELECT * FROM pgcache.cache_health()"
INDEX_USAGE = "SELECT * FROM pgcache.get_cache_index_usage()"
