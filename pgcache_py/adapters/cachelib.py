"""cachelib's cache, with which Flask-Session works, too: PgcacheCache("postgresql://..."). Needs cachelib."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from cachelib import BaseCache
from cachelib.serializers import BaseSerializer, RedisSerializer

from ..client.wire import NEVER
from ..keys import any_key
from .objects import all_deleted, all_unpacked, packed, stored, unpacked
from .source import cache_of, lifetime


class Serializer(RedisSerializer):
    """cachelib's, of which what it cannot read comes back as it is."""

    def loads(self, value: bytes | None) -> Any:
        loaded = super().loads(value)
        return None if loaded is value else loaded


class PgcacheCache(BaseCache):
    """Objects in a type of bytes, pickled; whole numbers as such, so that inc and dec are atomic.

    source: what Cache takes, or a Cache. key_prefix: before all keys, or a function that returns it; clear removes
    what begins with it. type: a type of bytes. options: those of Cache, tenant for one; fail_soft is True unless you
    say otherwise. serializer: an attribute, as cachelib has it. Keys are stored after "cachelib:"; where they cannot be
    keys here, as hashes. No tags, no leases: cachelib gets and sets in calls of its own.
    """

    serializer: BaseSerializer = Serializer()

    def __init__(
        self,
        source: Any = None,
        default_timeout: int | timedelta = 300,
        key_prefix: str | Callable[[], str] | None = None,
        ignore_delete_many_errors: bool = True,
        *,
        type: str = "bytes",
        **options: Any,
    ) -> None:
        super().__init__(default_timeout)
        self.ignore_delete_many_errors = ignore_delete_many_errors
        self.key_prefix = key_prefix or ""
        self.cache = cache_of(source, options)
        self._type = type

    def _prefix(self) -> str:
        return "cachelib:" + (self.key_prefix() if callable(self.key_prefix) else self.key_prefix)

    def _key(self, key: str) -> str:
        return any_key(f"{key}", self._prefix())

    def _ttl(self, timeout: Any) -> float:
        """Seconds, 0 for what expires at once, which to cachelib is a negative number."""
        seconds = self._normalize_timeout(timeout)
        return lifetime(seconds) if seconds else NEVER

    def get(self, key: str) -> Any:
        found = self.cache.get_bytes(self._type, self._key(key))
        return None if found is None else unpacked(found, self.serializer)

    def get_many(self, *keys: str) -> list[Any]:
        names = [self._key(key) for key in keys]
        found = all_unpacked(self.cache.get_many_bytes(self._type, names), self.serializer)
        return [found.get(name) for name in names]

    def has(self, key: str) -> bool:
        return self.cache.exists(self._type, self._key(key))

    def set(self, key: str, value: Any, timeout: Any = None) -> bool:
        value = packed(value, self.serializer)
        if value is None:
            return False
        name, ttl = self._key(key), self._ttl(timeout)
        if not ttl:
            return all_deleted(self.cache, self._type, [name])
        return self.cache.set_bytes(self._type, name, value, ttl)

    def set_many(self, mapping: dict[str, Any], timeout: Any = None) -> list[Any]:
        names = {key: self._key(key) for key in mapping}
        values = {names[key]: packed(value, self.serializer) for key, value in mapping.items()}
        values = {name: value for name, value in values.items() if value is not None}
        ttl = self._ttl(timeout)
        if not ttl:
            return list(mapping) if all_deleted(self.cache, self._type, values) else []
        kept = stored(self.cache, self._type, values, ttl)
        return [key for key, name in names.items() if name in kept]

    def add(self, key: str, value: Any, timeout: Any = None) -> bool:
        value = packed(value, self.serializer)
        if value is None:
            return False
        name, ttl = self._key(key), self._ttl(timeout)
        return self.cache.add_bytes(self._type, name, value, ttl) if ttl else not self.cache.exists(self._type, name)

    def inc(self, key: str, delta: int = 1) -> int | None:
        """The new number; None if the cache cannot be had. What is there keeps its time to live."""
        place = self._type, self._key(key)
        total = self.cache.incr(*place, delta, create_if_missing=False)
        if total is None and self.add(key, delta):
            return delta
        return self.cache.incr(*place, delta, create_if_missing=False) if total is None else total

    def dec(self, key: str, delta: int = 1) -> int | None:
        return self.inc(key, -delta)

    def delete(self, key: str) -> bool:
        return self.cache.delete(self._type, self._key(key))

    def delete_many(self, *keys: str) -> list[Any]:
        """The keys that are not there any more: all, or none if the cache cannot be had."""
        if all_deleted(self.cache, self._type, [self._key(key) for key in keys]):
            return list(keys)
        if not self.ignore_delete_many_errors:
            raise RuntimeError(f"Failed to delete keys: {list(keys)}")
        return []

    def clear(self) -> bool:
        """Remove what begins with the prefix, of the cache's tenant if it has one; True if there was any."""
        return self.cache.delete_prefix(self._type, self._prefix()) > 0
