"""Django's cache: CACHES = {"default": {"BACKEND": "pgcache_py.adapters.django.PgcacheCache", ...}}. Needs Django."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache, default_key_func
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from ..client._sync.cache import Cache
from ..client.wire import MISS, NEVER
from ..errors import NotANumberError
from ..keys import LONGEST_KEY, any_key, cache_key
from .objects import all_unpacked, packed, stored, unpacked
from .source import OPTIONS, cache_of, lifetime


@functools.cache
def shared(source: Any, **options: Any) -> Cache:
    """One for all threads, of which each has a PgcacheCache of its own."""
    return cache_of(source, options)


class PgcacheCache(BaseCache):
    """Objects in a type of bytes, pickled; whole numbers as such, so that incr is atomic.

    LOCATION: what Cache takes, or a Cache; all threads share it. OPTIONS: DATABASE, an alias of DATABASES in its place:
    calls are then part of Django's transaction on that connection. type: a type of bytes, default "bytes". serializer:
    an object with dumps and loads, or a class or function that makes one, or its dotted name. The rest are those of
    Cache, tenant for one; fail_soft is True unless you say otherwise. Keys are Django's after "django:" and KEY_PREFIX;
    where they cannot be keys here, hashes of them. clear removes what has this KEY_PREFIX, of all versions. No tags, no
    leases: Django gets and sets in calls of its own. Limits are the type's: there are no MAX_ENTRIES.
    """

    def __init__(self, location: Any, params: Mapping[str, Any]) -> None:
        super().__init__(params)
        self._options = dict(params.get("OPTIONS", {}))
        self._database = self._options.pop("DATABASE", None)
        self._location = location or None
        if isinstance(location, dict | list | set | tuple) or (location and self._database):
            raise ImproperlyConfigured("LOCATION is one PostgreSQL, and not given beside DATABASE")
        self._type = self._options.pop("type", "bytes")
        serializer = self._options.pop("serializer", pickle)
        serializer = import_string(serializer) if isinstance(serializer, str) else serializer
        self._serializer = serializer() if callable(serializer) else serializer
        if others := self._options.keys() - OPTIONS:
            raise ImproperlyConfigured(f"OPTIONS has {', '.join(others)}; limits are the type's: see cache_configure")
        self._prefix = f"django:{quote(f'{self.key_prefix}')}:"  # "shop" does not begin what "shop:eu" has
        if len(self._prefix) > LONGEST_KEY - 65:  # nor can what is quoted have "="
            self._prefix = f"django:={cache_key(self._prefix)}:"
        self._lent: tuple[Any, Cache | None] = (None, None)

    @property
    def cache(self) -> Cache:
        if self._database is None:
            return shared(self._location, **self._options)
        database = connections[self._database]
        database.ensure_connection()
        connection, cache = self._lent
        if cache is None or connection is not database.connection:
            cache = cache_of(database.connection, self._options)
            self._lent = database.connection, cache
        return cache

    def _key(self, key: Any, version: int | None) -> str:
        made = self.make_and_validate_key(key, version=version)
        if self.key_func is default_key_func:  # else it need not begin so
            made = made.removeprefix(f"{self.key_prefix}:")
        return any_key(made, self._prefix)

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float:
        """Seconds, 0 for what expires at once."""
        timeout = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return NEVER if timeout is None else lifetime(timeout)

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        found = self.cache.get_bytes(self._type, self._key(key, version), MISS)
        return default if found is MISS else unpacked(found, self._serializer, default)

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        names = {key: self._key(key, version) for key in keys}  # 1 and "1" have the same
        found = all_unpacked(self.cache.get_many_bytes(self._type, set(names.values())), self._serializer)
        return {key: found[name] for key, name in names.items() if name in found}

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self.cache.exists(self._type, self._key(key, version))

    def set(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        name, bytes_, ttl = self._key(key, version), packed(value, self._serializer), self.get_backend_timeout(timeout)
        if ttl:
            self.cache.set_bytes(self._type, name, bytes_, ttl)
        else:
            self.cache.delete(self._type, name)

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[Any]:
        """Returns the keys of what was not stored."""
        names, ttl = {self._key(key, version): key for key in data}, self.get_backend_timeout(timeout)
        values = {name: packed(data[key], self._serializer) for name, key in names.items()}
        if not ttl:
            self.cache.delete_many(self._type, names)
            return []
        kept = stored(self.cache, self._type, values, ttl)
        return [key for name, key in names.items() if name not in kept]

    def add(self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name, bytes_, ttl = self._key(key, version), packed(value, self._serializer), self.get_backend_timeout(timeout)
        return self.cache.add_bytes(self._type, name, bytes_, ttl) if ttl else not self.cache.exists(self._type, name)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name, ttl = self._key(key, version), self.get_backend_timeout(timeout)
        return self.cache.touch(self._type, name, ttl) if ttl else self.cache.delete(self._type, name)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        try:
            total = self.cache.incr(self._type, self._key(key, version), delta, create_if_missing=False)
        except NotANumberError as error:
            raise TypeError(f"the value of {key!r} is no whole number of 64 bits") from error
        if total is None:
            raise ValueError(f"Key {key!r} not found")
        return total

    def delete(self, key: Any, version: int | None = None) -> bool:
        return self.cache.delete(self._type, self._key(key, version))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        self.cache.delete_many(self._type, [self._key(key, version) for key in keys])

    def clear(self) -> None:
        """Remove what has this KEY_PREFIX; of the cache's tenant, if it has one."""
        self.cache.delete_prefix(self._type, self._prefix)
