"""A store for py-key-value, such as FastMCP's: PgcacheStore("postgresql://..."). Needs the extra py-key-value."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from key_value.aio.errors import DeserializationError
from key_value.aio.stores.base import (
    BaseContextManagerStore,
    BaseDestroyCollectionStore,
    BaseDestroyStore,
    BaseEnumerateKeysStore,
    ManagedEntry,
)

from ..client._async.cache import AsyncCache
from ..client.wire import NEVER, TTL
from ..keys import any_key
from .source import lifetime, prefix


class PgcacheStore(BaseEnumerateKeysStore, BaseDestroyCollectionStore, BaseDestroyStore, BaseContextManagerStore):
    """Values as JSON in a type of bytes, so that they come back as they were, with NUL and NaN.

    source: what AsyncCache takes, or an AsyncCache, which you close. default_collection: where values without one are.
    type: "bytes", or one made with create_type(..., bytes=True); what must not be evicted wants one with eviction
    "none". options: those of AsyncCache, tenant for one. fail_soft is False, unlike in a cache: nobody would learn that
    a value was not stored. Values without a ttl never expire. Event loops may share a store over a conninfo. No tags,
    no leases.
    """

    def __init__(
        self, source: Any = None, *, default_collection: str | None = None, type: str = "bytes", **options: Any
    ) -> None:
        given = isinstance(source, AsyncCache)
        if given and options:
            raise TypeError(f"the AsyncCache that is given has options of its own: give it {', '.join(options)}")
        self.cache = source if given else AsyncCache(source, **options)
        self.type = type
        super().__init__(default_collection=default_collection, client_provided_by_user=given, stable_api=True)

    async def _setup(self) -> None:
        if not self._client_provided_by_user:
            self._exit_stack.push_async_callback(self.cache.close)

    async def _get_managed_entry(self, *, collection: str, key: str) -> ManagedEntry | None:
        return self._entry(await self.cache.get_bytes(self.type, _key(collection, key)))

    async def _get_managed_entries(self, *, collection: str, keys: Sequence[str]) -> list[ManagedEntry | None]:
        stored = [_key(collection, key) for key in keys]
        found = await self.cache.get_many_bytes(self.type, stored)
        return [self._entry(found.get(key)) for key in stored]

    async def _put_managed_entry(self, *, collection: str, key: str, managed_entry: ManagedEntry) -> None:
        data = self._data(collection, key, managed_entry)
        await self.cache.set_bytes(self.type, _key(collection, key), data, _ttl(managed_entry.ttl))

    async def _put_managed_entries(
        self,
        *,
        collection: str,
        keys: Sequence[str],
        managed_entries: Sequence[ManagedEntry],
        ttl: float | None,
        created_at: datetime,
        expires_at: datetime | None,
    ) -> None:
        values = {
            _key(collection, key): self._data(collection, key, entry)
            for key, entry in zip(keys, managed_entries, strict=True)
        }
        await self.cache.set_many_bytes(self.type, values, _ttl(ttl))

    async def _delete_managed_entry(self, *, key: str, collection: str) -> bool:
        return await self.cache.delete(self.type, _key(collection, key))

    async def _delete_managed_entries(self, *, keys: Sequence[str], collection: str) -> int:
        return await self.cache.delete_many(self.type, [_key(collection, key) for key in keys])

    async def _get_collection_keys(self, *, collection: str, limit: int | None = None) -> list[str]:
        page = await self.cache.scan(self.type, _prefix(collection), max_entries=limit)
        return [json.loads(b64decode(each.value["bytes"]))["key"] for each in page]

    async def _delete_collection(self, *, collection: str) -> bool:
        return await self.cache.delete_prefix(self.type, _prefix(collection)) > 0

    async def _delete_store(self) -> bool:
        return await self.cache.delete_prefix(self.type, "kv:") > 0

    def _data(self, collection: str, key: str, entry: ManagedEntry) -> bytes:
        text: str = self._serialization_adapter.dump_json(entry, key=key, collection=collection)
        return text.encode()

    def _entry(self, data: Any) -> ManagedEntry | None:
        try:
            return None if data is None else self._serialization_adapter.load_json(data.decode())
        except (AttributeError, DeserializationError, RecursionError, TypeError, ValueError):  # another program's
            return None


def _prefix(collection: str) -> str:
    return prefix("kv", collection)


def _key(collection: str, key: str) -> str:
    return any_key(key, _prefix(collection))


def _ttl(seconds: float | None) -> TTL:
    return NEVER if seconds is None else lifetime(seconds) or 0.001
