"""Python objects in a type of bytes, as the adapters of web frameworks keep them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ..client._sync.cache import Cache
from ..client.failsoft import ABSORBED, logger
from ..client.wire import MISS, TTL


class Serializer(Protocol):
    """What makes bytes of objects, such as the module pickle."""

    def dumps(self, obj: Any, /) -> Any: ...

    def loads(self, data: Any, /) -> Any: ...


def packed(value: Any, serializer: Serializer) -> Any:
    """A number of 64 bits as it is, so that it can be counted up; of all else bytes, or what the serializer says."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else serializer.dumps(value)


def unpacked(value: bytes | int, serializer: Serializer, otherwise: Any = None) -> Any:
    """The object; what another program has stored, or one that had other classes, is logged and counts as a miss."""
    try:
        return value if isinstance(value, int) else serializer.loads(value)
    except Exception as error:  # the serializer's, whichever that is
        logger.warning("a cached object cannot be read: %s: %s", type(error).__name__, error)
        return otherwise


def all_unpacked(values: Mapping[str, bytes | int], serializer: Serializer) -> dict[str, Any]:
    """Those that can be read."""
    objects = {key: unpacked(value, serializer, MISS) for key, value in values.items()}
    return {key: value for key, value in objects.items() if value is not MISS}


def stored(cache: Cache, type: str, values: Mapping[str, bytes | int], ttl: TTL) -> set[str]:
    """Cache many values in one round trip; the keys of those that were stored, in fail-soft mode perhaps not all."""
    if cache.set_many_bytes(type, values, ttl) == len(values):
        return set(values)
    return {key for key, value in values.items() if cache.set_bytes(type, key, value, ttl)}


def all_deleted(cache: Cache, type: str, keys: Collection[str]) -> bool:
    """Remove entries; whether none is left, which in fail-soft mode delete_many does not tell."""
    soft = cache._soft
    if soft is None:
        cache.delete_many(type, keys)
        return True
    if soft.resting():
        return False
    strict = cache.for_tenant(cache.tenant)
    strict._soft = None
    try:
        strict.delete_many(type, keys)
    except ABSORBED as error:
        soft.absorbs("cache_delete_many", error)
        return False
    soft.succeeded("cache_delete_many")
    return True
