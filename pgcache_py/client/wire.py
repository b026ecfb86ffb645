"""Parameters and replies as they go over the wire.

Parameters travel as text, or as bytes in PostgreSQL's binary format; the server gives them the types of the function's
signature. Replies are read from the wire, so that the adapters that a caller has set on a connection change nothing.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeGuard, TypeVar

from psycopg import DataError
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.pq.abc import PGresult
from psycopg.types.datetime import TimestamptzBinaryLoader

from ..errors import InvalidTTLError, InvalidValueError, NotTextError, UnrepresentableError
from ..keys import is_key

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

TTL: TypeAlias = float | timedelta | str | None
"""A time to live: seconds, a timedelta, an interval as PostgreSQL writes it ('5 minutes'), NEVER; None: the type's."""
NEVER: Final = math.inf
"""The time to live of what never expires, whatever its type's is. As a text: "never"."""
_NEVER_IN_SQL = "2147483647 months"  # cache_never()
Params: TypeAlias = tuple[str | bytes | None, ...]
Row: TypeAlias = dict[str, Any]
T = TypeVar("T")
Array: TypeAlias = "Sequence[float] | NDArray[Any]"


class Sentinel(Enum):
    ANYTHING = "ANYTHING"
    MISS = "MISS"
    RAISE = "RAISE"

    def __repr__(self) -> str:
        return self.name


MISS: Final = Sentinel.MISS
"""What `get` returns for a miss if it is given as the default; unlike None it is no value that could be cached."""

ANYTHING: Final = Sentinel.ANYTHING
"""What `replace` expects unless it is told."""


# The OIDs of PostgreSQL's types.
BYTEA: Final = 17
INT8: Final = 20
TEXT: Final = 25


# Parameters.


class BinaryDumper(Dumper):
    """Lets psycopg send bytes as they are, as whatever the function takes: bytea, or a vector."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: bytes) -> bytes:
        return obj


class NoVectorError(InvalidValueError, TypeError):
    """What has no numbers in an order, where a vector is due."""


def vector(values: Array) -> bytes:
    """A list of numbers or a one-dimensional NumPy array, in pgvector's binary format of float32."""
    if isinstance(values, str | bytes | bytearray | memoryview | Set | Mapping):
        raise NoVectorError(f"a vector is a list of numbers or a NumPy array, not {type(values).__name__}")
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
# int() refuses more than 4,300 digits.
_decode_long_numbers = json.JSONDecoder(parse_int=lambda digits: int(Decimal(digits))).raw_decode


def json_text(value: object) -> str:
    """JSON text of a value; what would not come back as it is, is an InvalidValueError."""
    try:
        text = _encode_json(value)
        check_names(value)
        if "-0.0" in text and _has_negative_zero(value):
            raise ValueError("PostgreSQL's numbers have no -0.0")
        # PostgreSQL writes 1e16 out, and without a point an int would come back.
        return _positional(value) if "e+" in text else text
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValueError(
            f"not a JSON value: {error}", hint="Use dict with str as keys, list, str, int, float, bool, None."
        ) from error


_SCALARS = frozenset({str, int, float, bool, type(None)})


def check_names(value: object) -> None:
    """Refuse other keys than texts, of which JSON would make texts."""
    todo = [] if type(value) in _SCALARS else [value]
    for each in todo:
        if isinstance(each, dict):
            try:
                "".join(each)
            except TypeError:
                name = next(name for name in each if not isinstance(name, str))
                raise TypeError(f"expected str as a key, not {type(name).__name__}: {name!r}") from None
            inside: Collection[object] = each.values()
        elif isinstance(each, list | tuple):
            inside = each
        else:
            continue
        if not _SCALARS.issuperset(map(type, inside)):
            todo += [inner for inner in inside if type(inner) not in _SCALARS]


def _has_negative_zero(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_negative_zero, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_negative_zero, value))
    return isinstance(value, float) and value == 0 and math.copysign(1, value) < 0


def _positional(value: object) -> str:
    """JSON text in which a float has a point, and no exponent above zero."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_encode_json(name)}:{_positional(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_positional, value)) + "]"
    text = _encode_json(value)
    return f"{Decimal(text):f}.0" if isinstance(value, float) and "e+" in text else text


def json_value(text: str) -> tuple[Any, int]:
    """The value that a text begins with, and where it ends. Raises ValueError if it is no JSON."""
    try:
        return _decode_json(text)
    except RecursionError as error:
        raise UnrepresentableError("the stored value is nested too deeply for Python's JSON") from error
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _decode_long_numbers(text)


def interval(ttl: TTL) -> str | None:
    """The text of a time to live. Whether it is positive is the server's to say."""
    if ttl in (NEVER, "never", "infinity"):
        return _NEVER_IN_SQL
    if ttl is None or isinstance(ttl, str):
        return ttl
    return f"{_seconds(ttl):.6f} seconds"


def check_ttl(ttl: TTL) -> None:
    """Before something is computed: a time to live that the server would refuse, as far as that can be told here."""
    if not (ttl is None or isinstance(ttl, str) or ttl == NEVER or _seconds(ttl) > 0):
        raise InvalidTTLError(f"a TTL of {ttl} is not possible")


def _seconds(ttl: float | timedelta) -> float:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) < 2**63:  # nor NaN
        raise InvalidTTLError(f"not a time to live: {ttl!r:.100}")
    return seconds


def several(items: Iterable[str]) -> Sequence[str]:
    """Texts that are read more than once, of which there may be an iterator only."""
    if isinstance(items, str):
        raise TypeError(f"expected several strings, not one: {items!r}")
    return list(items)


def askable(keys: Iterable[str]) -> list[str]:
    """Those of the keys that an entry can have: the others are misses. What is no text is said to be so later."""
    return [key for key in several(keys) if not isinstance(key, str) or is_key(key)]


def storable(values: Mapping[str, T]) -> dict[str, T]:
    """Those whose key an entry can have."""
    return {key: values[key] for key in askable(values)}


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
    """JSON text of an object whose keys are those of entries."""
    _check_keys(values)
    return json_text(dict(values))


def json_entries(values: Mapping[str, object], ttls: Mapping[str, TTL]) -> str:
    """JSON text of entries, some of which have a time to live of their own."""
    _check_keys(values)
    texts = {key: interval(ttl) for key, ttl in ttls.items()}
    return json_text(
        [
            {"key": key, "value": value} | ({"ttl": texts[key]} if texts.get(key) else {})
            for key, value in values.items()
        ]
    )


def _check_keys(values: Mapping[str, object]) -> None:
    for key in values:
        if not isinstance(key, str):
            raise TypeError(f"expected str, not {type(key).__name__}: {key!r}")


def number(value: int | None) -> str | None:
    if value is not None and not hasattr(type(value), "__index__"):
        raise TypeError(f"expected a whole number, not {type(value).__name__}: {value!r}")
    return None if value is None else f"{value:d}"


def fraction(value: float | Decimal | None) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | None):
        raise TypeError(f"expected a number, not {type(value).__name__}: {value!r}")
    return None if value is None else str(value)


def data(value: object) -> bytes:
    """Not of a text: PostgreSQL would read that as bytes in its own way."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"expected bytes, not {type(value).__name__}: {value!r:.100}")
    return bytes(value)


def binary_array(oid: int, items: Iterable[bytes | None]) -> bytes:
    """A PostgreSQL array in binary format: dimensions, if there are NULLs, of which type; length, first index; items.

    As text it would depend on the session's array_nulls whether NULL is one.
    """
    parts = [b"\xff\xff\xff\xff" if item is None else len(item).to_bytes(4, "big") + item for item in items]
    header = (
        struct.pack(">iiI", 1, 1, oid) + struct.pack(">ii", len(parts), 1) if parts else struct.pack(">iiI", 0, 0, oid)
    )
    return header + b"".join(parts)


def texts(items: Iterable[str | None]) -> bytes:
    """An array of texts, some of which may be NULL."""
    return binary_array(TEXT, (None if item is None else item.encode() for item in items))


def one_of_bytes(value: object) -> tuple[bytes | None, str | None]:
    """A value of a type of bytes, as the one or the other."""
    if not _is_whole(value):
        return data(value), None
    _number_of_64_bits(value)
    return None, number(value)


def bytes_and_numbers(values: Mapping[str, bytes | int]) -> tuple[bytes, bytes]:
    """Values of a type of bytes, as an array of those that are bytes and one of the numbers."""
    numbers = [_number_of_64_bits(value) if _is_whole(value) else None for value in values.values()]
    others = (None if _is_whole(value) else data(value) for value in values.values())
    return binary_array(BYTEA, others), binary_array(INT8, numbers)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number_of_64_bits(value: int) -> bytes:
    try:
        return value.to_bytes(8, "big", signed=True)
    except OverflowError as error:
        raise InvalidValueError(
            f"a whole number has 64 bits: {error}", hint="Store the digits of a larger one."
        ) from error


def boolean(value: bool | None) -> str | None:
    return None if value is None else str(value)


def encoded(
    params: Params, *, takes_bytes: bool, encoding: str = "utf-8"
) -> tuple[list[bytes | None], list[Format] | None]:
    """The parameters as they go over the wire, and the format of each, None if all are text.

    Refuses what PostgreSQL would take for something else: 5 is not '5', and libpq ends a text at its first NUL. And
    what it refuses itself, since that would abort the caller's transaction.
    """
    values: list[bytes | None] = []
    formats = None
    for param in params:
        if isinstance(param, str):
            if "\0" in param:
                raise UnrepresentableError("a text cannot contain the character NUL", hint="Take it out.")
            try:
                values.append(param.encode(encoding))
            except UnicodeEncodeError as error:
                raise UnrepresentableError(f"a text that PostgreSQL cannot hold: {error}") from error
        elif param is None:
            values.append(None)
        elif isinstance(param, bytes):
            if not takes_bytes:
                raise NotTextError(f"expected str, not bytes: {param[:40]!r}")
            values.append(param)
            formats = [Format.BINARY if isinstance(each, bytes) else Format.TEXT for each in params]
        else:
            wanted = "str or bytes" if takes_bytes else "str"
            raise TypeError(f"expected {wanted}, not {type(param).__name__}: {param!r:.100}")
    return values, formats


# Replies. Each reader gets libpq's result and the encoding of its texts.


def read_nothing(result: PGresult, encoding: str) -> None:
    return None


def read_value(result: PGresult, encoding: str) -> Any:
    data = result.get_value(0, 0)
    return MISS if data is None else json_value(data.decode(encoding))[0]


def read_document(result: PGresult, encoding: str) -> Any:
    data = result.get_value(0, 0)
    return None if data is None else json_value(data.decode(encoding))[0]


def read_text(result: PGresult, encoding: str) -> str | None:
    data = result.get_value(0, 0)
    return None if data is None else data.decode(encoding)


def read_texts(result: PGresult, encoding: str) -> Iterable[str]:
    column = (result.get_value(row, 0) for row in range(result.ntuples))
    return [data.decode(encoding) for data in column if data is not None]


def read_flag(result: PGresult, encoding: str) -> bool:
    return result.get_value(0, 0) == b"t"


def read_count(result: PGresult, encoding: str) -> int:
    return int(result.get_value(0, 0) or 0)


def read_count_if_any(result: PGresult, encoding: str) -> int | None:
    data = result.get_value(0, 0)
    return None if data is None else int(data)


def read_duration(result: PGresult, encoding: str) -> timedelta | None:
    data = result.get_value(0, 0)
    return None if data is None else timedelta_of(data)


def read_bytes(result: PGresult, encoding: str) -> bytes | None:
    return result.get_value(0, 0)


def bytes_or_number(data: bytes | None, number: bytes | None) -> bytes | int | Literal[Sentinel.MISS]:
    """A value of a type of bytes, in binary format."""
    if number is not None:
        return int.from_bytes(number, "big", signed=True)
    return MISS if data is None else data


# PostgreSQL counts microseconds from here.
_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)


def moment(data: bytes) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=int.from_bytes(data, "big", signed=True))
    except OverflowError:  # beyond the years 1 to 9999, or infinite
        return (datetime.min if data[0] >= 0x80 else datetime.max).replace(tzinfo=timezone.utc)


class NearestMoment(TimestamptzBinaryLoader):
    """Lets psycopg read what Python has no datetime for, as moment() does."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except DataError:
            return moment(bytes(data))


def timedelta_of(data: bytes) -> timedelta:
    microseconds, days, months = struct.unpack(">qii", data)
    try:
        return timedelta(days=days + 30 * months, microseconds=microseconds)
    except OverflowError:
        return timedelta.min if min(microseconds, days, months) < 0 else timedelta.max


def left(data: bytes) -> timedelta | float:
    """What an entry has left to live."""
    return NEVER if data[-4:] == b"\x7f\xff\xff\xff" else timedelta_of(data)


def binary_json(data: bytes, encoding: str) -> Any:
    """The value of a jsonb in binary format, which is its text after a version number."""
    return json_value(data[1:].decode(encoding))[0]


# What a function of the caller's has computed.


class WrongResultError(InvalidValueError, TypeError):
    """What a function of the caller's returned is not what is due."""


def computed_answer(computed: Any) -> dict[str, Any]:
    """The fields of a model's answer."""
    if isinstance(computed, str):
        return {"response": computed}
    if isinstance(computed, Mapping) and isinstance(computed.get("response"), str):
        return dict(computed)
    raise _wrong(computed, "the response, a str, or a mapping with one")


def computed_text(computed: Any) -> str:
    if isinstance(computed, str):
        return computed
    raise _wrong(computed, "a str")


def computed_vector(computed: Any) -> list[float]:
    try:
        return vector_list(vector(computed))
    except InvalidValueError as error:
        raise _wrong(computed, f"a vector: {error.message}") from error


def computed_vectors(computed: Any, count: int) -> list[list[float]]:
    try:
        vectors = list(computed)
    except TypeError:
        raise _wrong(computed, f"{count} vectors") from None
    if len(vectors) != count:
        raise InvalidValueError(f"compute has to return a vector for each of {count} texts, not {len(vectors)}")
    return [computed_vector(each) for each in vectors]


def _wrong(computed: object, due: str) -> WrongResultError:
    return WrongResultError(f"compute returned {type(computed).__name__}: {computed!r:.100}; due is {due}")
