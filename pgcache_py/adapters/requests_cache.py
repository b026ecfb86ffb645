"""Storage for requests-cache: CachedSession(backend=PgcacheCache(source=...)). Needs the extra requests-cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from attrs import fields
from requests_cache.backends.base import BaseCache, BaseStorage
from requests_cache.policy import CacheSettings
from requests_cache.serializers import pickle_serializer, utf8_encoder

from ..client._sync.cache import Cache
from ..client.failsoft import logger
from ..keys import any_key
from .source import OPTIONS, cache_of, prefix

# What storages take; and a session's settings, which requests-cache has backends ignore, as all others: a mistyped
# tenant, too.
PASSED_ON = {"decode_content", *(field.name for field in fields(CacheSettings))}


class PgcacheCache(BaseCache):
    """HTTP responses, in a type of bytes.

    cache_name: caches by other names have other entries. source: what Cache takes, or a Cache. type: "bytes", or one
    made with create_type(..., bytes=True). serializer: one of requests-cache's; its own, pickle, runs what is in the
    entries, so let nobody else write to the type, or take "json". ttl_offset: for how many seconds a response is kept
    after it has expired, to be revalidated or used if the server fails. fail_soft is True unless you say otherwise, so
    that without the cache requests are sent; tenant and timeout are those of Cache. Threads may share a cache; give it
    a ConnectionPool if they are many. No tags, no leases: requests-cache asks for a response and stores it in calls of
    its own.
    """

    def __init__(
        self,
        cache_name: str = "http_cache",
        source: Any = None,
        *,
        type: str = "bytes",
        serializer: Any = None,
        ttl_offset: int = 3600,
        **kwargs: Any,
    ) -> None:
        if others := kwargs.keys() - OPTIONS - PASSED_ON:
            raise TypeError(f"unknown arguments: {', '.join(others)}")
        if source is None and "://" in cache_name:
            raise TypeError("cache_name is a name; the address of PostgreSQL is source: PgcacheCache(source=...)")
        super().__init__(cache_name=cache_name, **kwargs)
        self.cache = cache_of(source, {name: kwargs.pop(name) for name in OPTIONS if name in kwargs})
        common = {"type": type, "ttl_offset": ttl_offset, **kwargs}
        serializer = serializer or pickle_serializer
        self.responses = PgcacheStorage(cache_name, "responses", self.cache, serializer=serializer, **common)
        self.redirects = PgcacheStorage(cache_name, "redirects", self.cache, serializer=utf8_encoder, **common)


class PgcacheStorage(BaseStorage[str, Any]):
    """A mapping in a type of bytes. Keys that PostgreSQL cannot hold are listed as their hashes."""

    def __init__(
        self,
        cache_name: str,
        name: str,
        cache: Cache,
        *,
        type: str = "bytes",
        serializer: Any = pickle_serializer,
        ttl_offset: int = 3600,
        **kwargs: Any,
    ) -> None:
        super().__init__(serializer=serializer, **kwargs)
        self.cache = cache
        self.type = type
        self.ttl_offset = ttl_offset
        self.prefix = prefix("requests", cache_name, name)

    def __getitem__(self, key: str) -> Any:
        value = self.cache.get_bytes(self.type, self._key(key))
        if value is None:
            raise KeyError(key)
        return self.deserialize(key, value)

    def deserialize(self, key: str, value: Any) -> Any:
        try:
            return super().deserialize(key, value)
        except Exception as error:  # those that requests-cache does not expect, such as of no bytes at all
            logger.warning("a cached response cannot be read: %s: %s", type(error).__name__, error)
            return None

    def __setitem__(self, key: str, value: Any) -> None:
        left = getattr(value, "expires_delta", None)
        data = self.serialize(value)
        data = data.encode() if isinstance(data, str) else data
        ttl = None if left is None else max(left, 1) + self.ttl_offset
        self.cache.set_bytes(self.type, self._key(key), data, ttl)

    def __delitem__(self, key: str) -> None:
        if not self.cache.delete(self.type, self._key(key)):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return self.cache.exists(self.type, self._key(str(key)))

    def __iter__(self) -> Iterator[str]:
        for key in self.cache.keys(self.type, f"{self.prefix}%", None):
            yield key.removeprefix(self.prefix)

    def __len__(self) -> int:
        return self.cache.count(self.type, self.prefix)

    def items(self) -> Iterator[tuple[str, Any]]:
        for key in self:
            with suppress(KeyError):  # it may have expired meanwhile
                yield key, self[key]

    def values(self) -> Iterator[Any]:
        return (value for _, value in self.items())

    def bulk_delete(self, keys: Iterable[str]) -> None:
        self.cache.delete_many(self.type, map(self._key, keys))

    def clear(self) -> None:
        self.cache.delete_prefix(self.type, self.prefix)

    def close(self) -> None:
        self.cache.close()

    def _key(self, key: str) -> str:
        return any_key(key, self.prefix)
