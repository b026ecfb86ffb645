"""LangGraph's cache of what nodes return: compile(cache=PgcacheCache("postgresql://...")). Its extra: langgraph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.cache.base import BaseCache, FullKey, Namespace
from langgraph.checkpoint.serde.base import SerializerProtocol

from ..client.failsoft import logger
from ..keys import any_key
from .source import cache_of, in_thread, lifetime, prefix


class PgcacheCache(BaseCache[Any]):
    """What nodes with a cache_policy return, in a type of bytes.

    source: what Cache takes, or a Cache. serde: LangGraph's serializer; its own makes objects of classes that a value
    names, so let nobody else write to the type. type: "bytes", or one made with create_type(..., bytes=True). options:
    those of Cache, tenant for one; fail_soft is True unless you say otherwise, so that without the cache nodes run.
    Entries live as long as the policy says, else by the type's ttl. What cannot be read is a miss. From a coroutine the
    calls run in threads, so any number of event loops may share a cache; give it a ConnectionPool if they are many. No
    tags, no leases: LangGraph asks for a value and stores it in calls of its own.
    """

    def __init__(
        self, source: Any = None, *, serde: SerializerProtocol | None = None, type: str = "bytes", **options: Any
    ) -> None:
        super().__init__(serde=serde)
        self.cache = cache_of(source, options)
        self.type = type

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        asked = {_key(full): full for full in keys}
        found = {}
        for key, value in self.cache.get_many_bytes(self.type, asked).items():
            if isinstance(value, int):  # another program's
                continue
            try:
                kind, _, data = value.partition(b":")
                found[asked[key]] = self.serde.loads_typed((kind.decode(), data))
            except Exception as error:  # the serializer's, whichever that is
                logger.warning("a cached value of LangGraph cannot be read: %s", error)
        return found

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        values, ttls = {}, {}
        for full, (value, ttl) in pairs.items():
            kind, data = self.serde.dumps_typed(value)
            values[_key(full)] = kind.encode() + b":" + data
            ttls[_key(full)] = None if ttl is None else lifetime(ttl)
        if over := [key for key, ttl in ttls.items() if ttl == 0]:
            self.cache.delete_many(self.type, over)
        self.cache.set_many_bytes(self.type, {key: values[key] for key in values if ttls[key] != 0}, ttls)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Remove what is in these namespaces, in all of LangGraph's if there are none; of the cache's tenant."""
        for each in ["langgraph:"] if namespaces is None else map(_prefix, namespaces):
            self.cache.delete_prefix(self.type, each)

    aget = in_thread(get)
    aset = in_thread(set)
    aclear = in_thread(clear)


def _prefix(namespace: Namespace) -> str:
    return prefix("langgraph", *namespace)


def _key(full: FullKey) -> str:
    namespace, key = full
    return any_key(key, _prefix(namespace))
