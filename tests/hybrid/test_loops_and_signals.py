"""Event loops and signal handlers, which come and go while a cache stays."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from pgcache_py import AsyncHybridCache, HybridCache
from tests.client.test_loops_and_signals import interrupted
from tests.hybrid.conftest import Tier
from tests.tools.waiting import at_once

pytestmark = pytest.mark.once  # the clients and Redis; the database's part is in tests/hot


def test_one_loop_after_another(dsn: str, tier: Tier) -> None:
    cache = AsyncHybridCache(dsn, tier.url, prefix=tier.prefix, redis_timeout=5)

    async def use() -> Any:
        await cache.set("store", "k", 1)
        return [await cache.get("store", "k") for _ in range(3)]

    for _ in range(3):
        assert asyncio.run(use()) == [1, 1, 1]
        assert cache._tier.breaker.closed
    cache._tier.fold()
    assert cache._tier.counts["redis_hits"] >= 6
    asyncio.run(cache.close())
    assert asyncio.run(use()) == [1, 1, 1]
    asyncio.run(cache.close())


def test_two_loops_at_once(dsn: str, tier: Tier) -> None:
    cache = AsyncHybridCache(dsn, tier.url, prefix=tier.prefix, redis_timeout=5)

    async def use(key: str) -> list[Any]:
        await cache.set("store", key, 1)
        return [await cache.get("store", key) for _ in range(50)]

    assert at_once(*(partial(asyncio.run, use(key)) for key in "abcd")) == [[1] * 50] * 4
    assert cache._tier.breaker.closed
    asyncio.run(cache.close())


def test_a_signal_handler_that_raises_is_heard_and_loses_nothing(dsn: str, tier: Tier) -> None:
    with HybridCache(dsn, tier.url, prefix=tier.prefix, redis_timeout=5) as cache:
        cache.set("store", "k", 1)
        assert interrupted(lambda: cache.get("store", "k"), 600) > 500
        assert cache._tier.breaker.closed
        assert at_once(*[lambda: cache.get("store", "k")] * 100) == [1] * 100
        assert cache._tier.breaker.closed
