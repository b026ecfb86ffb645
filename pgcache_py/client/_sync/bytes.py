# Made of pgcache_py/client/_async/bytes.py by tools/async_to_sync.py: change that one.
"""The calls for types of bytes: "bytes", and those that are created with bytes=True."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ...errors import UnrepresentableError
from .. import calls, wire
from ..failsoft import REFUSED_ENTRIES
from ..wire import MISS, TTL
from .base import Base


class Bytes(Base):
    """What a Cache does with bytes, which are stored as they are, and whole numbers, which incr counts up."""

    def get_bytes(self, type: str, key: str, default: Any = None) -> Any:
        """The bytes, or the whole number, that are cached; the default on a miss.

        Raises InvalidValueError for a type of other values.
        """
        value = self._run(calls.GET_BYTES, type, key)
        return default if value is MISS else value

    def set_bytes(
        self,
        type: str,
        key: str,
        value: bytes | int,
        ttl: TTL = None,
        *,
        tags: Iterable[str] | None = None,
        token: int | None = None,
        jitter: float | None = None,
    ) -> bool:
        """Cache bytes, or a whole number of 64 bits; the rest as set. The type "bytes" has no default ttl."""
        terms = (None if tags is None else wire.array(tags), wire.number(token), wire.fraction(jitter))
        data, number = wire.one_of_bytes(value)
        return self._run(calls.SET_BYTES, type, key, data, wire.interval(ttl), *terms, number)

    def add_bytes(self, type: str, key: str, value: bytes | int, ttl: TTL = None) -> bool:
        """Cache bytes, or a number, only if there is nothing, or what has expired; True if it was stored."""
        data, number = wire.one_of_bytes(value)
        return self._run(calls.ADD_BYTES, type, key, data, wire.interval(ttl), number)

    def get_many_bytes(self, type: str, keys: Iterable[str]) -> dict[str, bytes | int]:
        """The values of the entries that there are, by key, in the order asked. What cannot be a key is a miss."""
        asked = wire.askable(keys)
        with suppress(UnrepresentableError):
            return self._run(calls.GET_MANY_BYTES, type, wire.array(asked), raising=(UnrepresentableError,))
        return self._one_by_one(asked, lambda key: self.get_bytes(type, key, MISS))

    def set_many_bytes(self, type: str, values: Mapping[str, bytes | int], ttl: TTL | Mapping[str, TTL] = None) -> int:
        """Cache bytes and numbers, all or none; returns how many were stored. ttl: of all, or of some, by key.

        In fail-soft mode those that cannot be stored are left out.
        """
        if self._soft is not None:
            values = wire.storable(values)
        ttls = ttl if isinstance(ttl, Mapping) else dict.fromkeys(values, ttl)
        data, numbers = wire.bytes_and_numbers(values)
        try:
            return self._run(
                calls.SET_MANY_BYTES,
                type,
                wire.array(values),
                data,
                None,
                numbers,
                wire.texts(wire.interval(ttls.get(key)) for key in values),
                raising=REFUSED_ENTRIES,
            )
        except REFUSED_ENTRIES:
            if self._soft is None:
                raise
        return sum([self.set_bytes(type, key, value, ttls.get(key)) for key, value in values.items()])
