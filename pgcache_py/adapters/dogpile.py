"""dogpile.cache's regions: make_region().configure("pgcache", arguments={"source": ...}). Needs dogpile.cache."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dogpile.cache.api import NO_VALUE, BytesBackend, CantDeserializeException

from ..client._sync.cache import Cache
from ..client.failsoft import logger
from ..errors import InvalidTTLError
from ..keys import any_key
from .source import OPTIONS, cache_of, lifetime

VALUES, LOCKS = "dogpile:", "dogpile-lock:"
MARK = b"dogpile:"  # before each value: a region fails on what another program has stored


def _marked(value: Any) -> Any:
    return value.removeprefix(MARK) if isinstance(value, bytes) and value.startswith(MARK) else NO_VALUE


def _unpickled(data: bytes) -> Any:
    try:
        return pickle.loads(data)  # noqa: S301
    except Exception as error:
        logger.warning("a cached value of dogpile.cache cannot be read: %s: %s", type(error).__name__, error)
        raise CantDeserializeException from error


class PgcacheBackend(BytesBackend):
    """Values in a type of bytes, as the region serializes them: pickled, unless it is told otherwise.

    arguments: source, what Cache takes, or a Cache. type: a type of bytes, default "bytes". ttl: when pgcache drops a
    value, default that of the type, longer than the region's expiration_time. lock_timeout: after how many seconds
    another one may compute, default 30, at most an hour. tenant, timeout and fail_soft, True unless you say otherwise,
    as Cache has them. Others are ignored, as dogpile.cache has it, and logged. Of all processes one computes; the
    others wait, or use the old value. No tags: dogpile.cache has none.
    """

    deserializer = staticmethod(_unpickled)

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        if others := arguments.keys() - OPTIONS - {"source", "type", "ttl", "lock_timeout"}:
            logger.warning("arguments that pgcache does not know are ignored: %s", ", ".join(sorted(others)))
        options = {name: arguments[name] for name in OPTIONS if name in arguments}
        self.cache = cache_of(arguments.get("source"), options)
        self.type = arguments.get("type", "bytes")
        self.ttl = arguments.get("ttl")
        self.lock_timeout = arguments.get("lock_timeout", 30)
        if not 0 < lifetime(self.lock_timeout) <= 3600:
            raise InvalidTTLError(f"lock_timeout is over 0 and at most 3600 seconds, not {self.lock_timeout!r}")

    def get_mutex(self, key: str) -> Mutex:
        return Mutex(self.cache, self.type, any_key(key, LOCKS), self.lock_timeout)

    def get_serialized(self, key: str) -> Any:
        return _marked(self.cache.get_bytes(self.type, any_key(key, VALUES)))

    def get_serialized_multi(self, keys: Iterable[str]) -> Sequence[Any]:
        names = _names(keys)
        found = self.cache.get_many_bytes(self.type, names)
        return [_marked(found.get(name)) for name in names]

    def set_serialized(self, key: str, value: bytes) -> None:
        self.cache.set_bytes(self.type, any_key(key, VALUES), MARK + value, self.ttl)

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        values = {any_key(key, VALUES): MARK + value for key, value in mapping.items()}
        self.cache.set_many_bytes(self.type, values, self.ttl)

    def delete(self, key: str) -> None:
        self.cache.delete(self.type, any_key(key, VALUES))

    def delete_multi(self, keys: Iterable[str]) -> None:
        self.cache.delete_many(self.type, _names(keys))


def _names(keys: Iterable[str]) -> list[str]:
    return [any_key(key, VALUES) for key in keys]


class Mutex:
    """A lease on a key that has no entry. Where no lease is to be had, as from a server that is down, all compute.

    Not on the value's own key: dogpile.cache renews what is old by its own clock, and for pgcache may be fresh.
    """

    def __init__(self, cache: Cache, type: str, key: str, timeout: float) -> None:
        self._place = cache, type, key
        self._timeout = timeout
        self._token: int | None = None

    def acquire(self, wait: bool = True) -> bool:
        cache, type, key = self._place
        while (fetched := cache.fetch(type, key, wait=10 if wait else 0, lease=self._timeout)).state == "busy":
            if not wait:
                return False
        self._token = fetched.token
        return True

    def release(self) -> None:
        if self._token is not None:
            cache, type, key = self._place
            cache.release(type, key, self._token)
            self._token = None

    def locked(self) -> bool:
        other = Mutex(*self._place, self._timeout)
        free = other.acquire(wait=False)
        other.release()
        return not free
