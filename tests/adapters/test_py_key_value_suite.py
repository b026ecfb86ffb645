"""py-key-value: its own suite for stores, which it has on GitHub only; see test_py_key_value.py for our own."""

from __future__ import annotations

from typing import Any

import pytest

from pgcache_py import AsyncCache
from pgcache_py.adapters.py_key_value import PgcacheStore
from tests.adapters.suites import suite

BASE: Any = suite("py-key-value-aio", "stores.base", repository="strawgate/py-key-value")


class TestStore(BASE.ContextManagerStoreTestMixin, BASE.BaseStoreTests):
    @pytest.fixture
    def store(self, dsn: str) -> PgcacheStore:
        return PgcacheStore(dsn)

    async def test_not_unbounded(self, dsn: str) -> None:
        """The limits are the type's."""
        async with AsyncCache(dsn) as cache:
            await cache.create_type("small", bytes=True, max_entries=500, eviction="fifo")
            await super().test_not_unbounded(PgcacheStore(cache, type="small"))
