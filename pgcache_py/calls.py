"""What the clients call: one description of each function, which Cache and AsyncCache share.

A call is a statement, a way to read its reply, and what a fail-soft client returns when the cache cannot be had.
Parameters travel as text, or as bytes in PostgreSQL's binary format; the server gives them the types of the function's
signature. Replies are read from the wire, so that the adapters that a caller has set on a connection change nothing.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.pq.abc import PGresult

from .errors import InvalidTTLError, InvalidValueError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

T = TypeVar("T")
TTL: TypeAlias = float | timedelta | str | None
"""A time to live: seconds, a timedelta, an interval as PostgreSQL writes it ('5 minutes'); None: the type's default."""
Params: TypeAlias = tuple[str | bytes | None, ...]
Row: TypeAlias = dict[str, Any]
Array: TypeAlias = "Sequence[float] | NDArray[Any]"


class _Sentinel(Enum):
    MISS = "MISS"
    RAISE = "RAISE"

    def __repr__(self) -> str:
        return self.name


MISS: Final = _Sentinel.MISS
"""What `get` returns for a miss if it is given as the default; unlike None it is no value that could be cached."""
RAISE: Final = _Sentinel.RAISE
"""In place of a fallback: the call manages the cache, and fails even in fail-soft mode."""

# The tenant is set before the function runs, since the join's left side comes first, and put back after it: within a
# transaction the setting would outlast the statement.
SCOPE = """\
(SELECT pg_catalog.current_setting('pgcache.tenant', true) AS was, pg_catalog.set_config('pgcache.tenant', ${}, true)) \
AS scope"""
RESTORE = "pg_catalog.set_config('pgcache.tenant', scope.was, true) AS restored"


class Call(Generic[T]):
    """A function of pgcache.

    function: with its parameters, $1 and so on. read: makes the result of the reply. otherwise: the result in fail-soft
    mode when the cache cannot be had; RAISE if there is none. rows: the function returns a table. repeatable: calling
    it twice does no harm, if the connection was lost during the first call. binary: the reply is in binary format.
    schema: where it is, pgcache_internal for what users do not call themselves.
    """

    def __init__(
        self,
        function: str,
        read: Callable[[PGresult, str], T],
        otherwise: T | Literal[_Sentinel.RAISE] = RAISE,
        *,
        rows: bool = False,
        repeatable: bool = True,
        binary: bool = False,
        schema: str = "pgcache",
    ) -> None:
        self.name = function.partition("(")[0]
        self.read = read
        self.otherwise = otherwise
        self.repeatable = repeatable
        self.binary = binary
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


# Parameters.


class BinaryDumper(Dumper):
    """Lets psycopg send bytes as they are, as whatever the function takes: bytea, or a vector."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: bytes) -> bytes:
        return obj


def vector(values: Array) -> bytes:
    """A list of numbers or a one-dimensional NumPy array, in pgvector's binary format of float32."""
    try:
        if hasattr(values, "__array__"):
            import numpy

            with numpy.errstate(over="raise"):
                packed = numpy.asarray(values).astype(">f4", casting="same_kind")
            if packed.ndim != 1:
                raise InvalidValueError(f"a vector has one dimension, this array has {packed.ndim}")
            return struct.pack(">HH", packed.size, 0) + packed.tobytes()
        return struct.pack(f">HH{len(values)}f", len(values), 0, *values)
    except (ArithmeticError, TypeError, struct.error) as error:
        raise InvalidValueError(f"not a vector of numbers that fit into float32: {error}") from error


def vector_text(values: Array) -> str:
    """The same as text, for the calls that take an array of vectors."""
    numbers = vector_list(vector(values))
    # Nine digits tell any two float32 apart.
    return "[" + ",".join(["%.9g"] * len(numbers)) % tuple(numbers) + "]"


def vector_list(data: bytes) -> list[float]:
    (dimensions,) = struct.unpack_from(">H", data)
    return list(struct.unpack_from(f">{dimensions}f", data, 4))


def vector_array(data: bytes) -> NDArray[numpy.float32]:
    import numpy

    return numpy.frombuffer(data, ">f4", offset=4).astype(numpy.float32)


_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode_json = json.JSONDecoder().raw_decode


def json_text(value: object) -> str:
    """JSON text of a value; what JSON does not know is an InvalidValueError."""
    try:
        return _encode_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValueError(
            f"not a JSON value: {error}", hint="Use dict, list, str, int, float, bool, None."
        ) from error


def interval(ttl: TTL) -> str | None:
    """The text of a time to live. Whether it is positive is the server's to say."""
    if ttl is None or isinstance(ttl, str):
        return ttl
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise InvalidTTLError(f"not a time to live: {ttl!r}")
    return f"{seconds:.6f} seconds"


def array(items: Iterable[str | None]) -> str:
    """The text of a PostgreSQL array of texts."""
    if isinstance(items, str):
        raise TypeError(f"expected several strings, not one: {items!r}")
    return "{" + ",".join(map(_quoted, items)) + "}"


def _quoted(item: str | None) -> str:
    if item is None:
        return "NULL"
    if not isinstance(item, str):
        raise TypeError(f"expected str, not {type(item).__name__}: {item!r}")
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def json_object(values: Mapping[str, object]) -> str:
    """JSON text of an object; unlike json.dumps this does not make texts of keys that are none."""
    for key in values:
        if not isinstance(key, str):
            raise TypeError(f"expected str, not {type(key).__name__}: {key!r}")
    return json_text(dict(values))


def number(value: int | None) -> str | None:
    return None if value is None else f"{value:d}"


def boolean(value: bool | None) -> str | None:
    return None if value is None else str(value)


def encoded(params: Params) -> tuple[list[bytes | None], list[Format] | None]:
    """The parameters as they go over the wire, in UTF-8, and the format of each, None if all are text.

    Refuses what PostgreSQL would take for something else: 5 is not '5', and libpq ends a text at its first NUL.
    """
    values: list[bytes | None] = []
    formats = None
    for param in params:
        if isinstance(param, str):
            if "\0" in param:
                raise InvalidValueError("a text cannot contain the character NUL")
            values.append(param.encode())
        elif param is None:
            values.append(None)
        elif isinstance(param, bytes):
            values.append(param)
            formats = [Format.BINARY if isinstance(each, bytes) else Format.TEXT for each in params]
        else:
            raise TypeError(f"expected str (or bytes), not {type(param).__name__}: {param!r}")
    return values, formats


# Replies. Each reader gets libpq's result and the encoding of its texts.


def _nothing(result: PGresult, encoding: str) -> None:
    return None


def _value(result: PGresult, encoding: str) -> Any:
    data = result.get_value(0, 0)
    return MISS if data is None else _decode_json(data.decode(encoding))[0]


def _document(result: PGresult, encoding: str) -> Any:
    data = result.get_value(0, 0)
    return None if data is None else _decode_json(data.decode(encoding))[0]


def _text(result: PGresult, encoding: str) -> str | None:
    data = result.get_value(0, 0)
    return None if data is None else data.decode(encoding)


def _texts(result: PGresult, encoding: str) -> Iterable[str]:
    column = (result.get_value(row, 0) for row in range(result.ntuples))
    return [data.decode(encoding) for data in column if data is not None]


def _flag(result: PGresult, encoding: str) -> bool:
    return result.get_value(0, 0) == b"t"


def _count(result: PGresult, encoding: str) -> int:
    return int(result.get_value(0, 0) or 0)


def _duration(result: PGresult, encoding: str) -> timedelta | None:
    data = result.get_value(0, 0)
    return None if data is None else _interval(data)


def _bytes(result: PGresult, encoding: str) -> bytes | None:
    return result.get_value(0, 0)


def _vectors(result: PGresult, encoding: str) -> dict[str, bytes]:
    found = {}
    for row in range(result.ntuples):
        if (data := result.get_value(row, 1)) is not None:
            found[(result.get_value(row, 0) or b"").decode(encoding)] = data
    return found


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


# PostgreSQL counts microseconds from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)


def _entry(result: PGresult, encoding: str) -> Entry | None:
    if not result.ntuples or (tenant := result.get_value(0, 0)) is None:
        return None
    key, created, expires, ttl, accessed, hits, size, expired = (result.get_value(0, column) for column in range(1, 9))
    return Entry(
        tenant=tenant.decode(encoding),
        key=(key or b"").decode(encoding),
        created_at=_moment(created or b""),
        expires_at=None if expires is None else _moment(expires),
        ttl=None if ttl is None else _interval(ttl),
        last_accessed_at=_moment(accessed or b""),
        hit_count=int.from_bytes(hits or b"", "big"),
        bytes=int.from_bytes(size or b"", "big"),
        expired=expired == b"\1",
    )


def _moment(data: bytes) -> datetime:
    return _EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))


def _interval(data: bytes) -> timedelta:
    microseconds, days, months = struct.unpack(">qii", data)
    return timedelta(days=days + 30 * months, microseconds=microseconds)


@dataclass(frozen=True, slots=True)
class Audio:
    """Speech. data: the file's bytes. format: such as 'opus' or 'mp3'. duration_ms: milliseconds. sample_rate: Hz."""

    data: bytes
    format: str
    duration_ms: int | None = None
    sample_rate: int | None = None
    channels: int | None = None


def _audio(result: PGresult, encoding: str) -> Audio | None:
    if not result.ntuples or (data := result.get_value(0, 0)) is None:
        return None
    duration_ms, sample_rate, channels = (
        None if (field := result.get_value(0, column)) is None else int.from_bytes(field, "big", signed=True)
        for column in (2, 3, 4)
    )
    return Audio(data, (result.get_value(0, 1) or b"").decode(encoding), duration_ms, sample_rate, channels)


class Skip(NamedTuple):
    """Whether an image is stored already, and under which key."""

    should_skip: bool
    raw_key: str | None


def _skip(result: PGresult, encoding: str) -> Skip:
    raw_key = result.get_value(0, 1)
    return Skip(result.get_value(0, 0) == b"t", None if raw_key is None else raw_key.decode(encoding))


# The calls.


def flag(function: str, *, repeatable: bool = True, schema: str = "pgcache") -> Call[bool]:
    return Call(function, _flag, False, repeatable=repeatable, schema=schema)


def count(function: str, *, repeatable: bool = True, schema: str = "pgcache") -> Call[int]:
    return Call(function, _count, 0, repeatable=repeatable, schema=schema)


GET = Call("cache_get($1, $2)", _value, MISS)
SET = flag("cache_set($1, $2, $3, $4)")
ADD = flag("cache_add($1, $2, $3, $4)", repeatable=False)
INCR = count("cache_incr($1, $2, $3, $4)", repeatable=False)
GET_MANY: Call[dict[str, Any]] = Call("cache_get_many_json($1, $2)", _document, {})
SET_MANY = count("cache_set_many_json($1, $2, $3)")
EXISTS = flag("cache_exists($1, $2)")
TTL_LEFT = Call("cache_ttl($1, $2)", _duration, None, binary=True)
TOUCH = flag("cache_touch($1, $2, $3)")
PERSIST = flag("cache_persist($1, $2)")
ENTRY = Call("cache_entry($1, $2)", _entry, None, rows=True, binary=True)
KEYS: Call[Iterable[str]] = Call("cache_keys($1, $2, $3)", _texts, (), rows=True)

DELETE = flag("cache_delete($1, $2)")
DELETE_MANY = count("cache_delete_many($1, $2)")
DELETE_PATTERN = count("cache_delete_pattern($1, $2)")
CLEAR = count("cache_clear($1)")
CLEAR_EXPIRED = count("cache_clear_expired($1)")
CLEAR_ALL = count("cache_clear_all()")
INVALIDATE_TENANT = count("cache_invalidate_tenant($1)")
INVALIDATE_USER = count("cache_invalidate_user($1)")

CREATE_TYPE = Call("cache_create_type($1, $2, $3, $4, $5, $6, $7, $8)", _nothing, repeatable=False)
CONFIGURE = Call("cache_configure($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", _nothing)
DROP_TYPE = Call("cache_drop_type($1)", _nothing, repeatable=False)
CLEANUP = Call("cache_cleanup($1)", _count)
WARM = Call("cache_warm($1, $2)", _count)

GET_LLM = Call("cache_get_llm($1, $2, $3)", _document, None)
SET_LLM = flag("cache_set_llm($1, $2, $3, $4, $5, $6, $7)")
GET_EMBEDDING = Call("cache_get_embedding($1, $2)", _bytes, None, binary=True)
SET_EMBEDDING = flag("cache_set_embedding($1, $2, $3, $4)")
GET_EMBEDDINGS: Call[dict[str, bytes]] = Call("cache_get_embeddings($1, $2)", _vectors, {}, rows=True, binary=True)
SET_EMBEDDINGS = count("cache_set_embeddings($1, $2, $3, $4)")
GET_VECTOR_SEARCH = Call("cache_get_vector_search($1, $2, $3, $4)", _document, None)
SET_VECTOR_SEARCH = flag("cache_set_vector_search($1, $2, $3, $4, $5, $6)")
GET_AUDIO = Call("cache_get_audio($1, $2, $3, $4)", _audio, None, rows=True, binary=True)
SET_AUDIO = flag("cache_set_audio($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
GET_AI_WORKER = Call("cache_get_ai_worker($1, $2, $3)", _document, None)
SET_AI_WORKER = flag("cache_set_ai_worker($1, $2, $3, $4, $5, $6, $7)")
INVALIDATE_SCHEMA = count("cache_invalidate_schema($1)")

# The functions for images name the tenant; None stands for the cache's own.
OWN = "coalesce(${}, pgcache_internal.current_tenant())"
GET_FACE = Call(f"cache_get_face($1, {OWN.format(2)})", _document, None)
SET_FACE = flag(f"cache_set_face($1, {OWN.format(2)}, $3, $4)")
GET_PHASH = Call(f"cache_get_phash($1, {OWN.format(2)})", _text, None)
SET_PHASH = flag(f"cache_set_phash($1, {OWN.format(2)}, $3, $4)")
CRAWL_SHOULD_SKIP = Call(f"crawl_should_skip($1, $2, {OWN.format(3)})", _skip, Skip(False, None), rows=True)
CRAWL_STORE = flag(f"crawl_store($1, $2, $3, $4, {OWN.format(5)}, $6)")

# Reports for people: read through psycopg's adapters, a dict for each row.
STATS = "SELECT * FROM pgcache.cache_stats"
HEALTH = "SELECT * FROM pgcache.cache_health()"
INDEX_USAGE = "SELECT * FROM pgcache.get_cache_index_usage()"
AI_WORKER_STATS = "SELECT * FROM pgcache.ai_worker_cache_stats"
