"""py-key-value: what its stores have to do, and the edges. Its own suite: test_py_key_value_suite.py."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from key_value.aio.errors import SerializationError
from key_value.aio.stores.simple import SimpleStore
from key_value.aio.wrappers.fallback import FallbackWrapper
from key_value.aio.wrappers.passthrough_cache import PassthroughCacheWrapper
from psycopg_pool import AsyncConnectionPool

from pgcache_py import AsyncCache, UnavailableError
from pgcache_py.adapters.py_key_value import PgcacheStore

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
VALUE: dict[str, Any] = {"text": "\0é", "list": [1, 2.5, None, True], "inside": {"a": {}}, "large": 10**30, "e": 1e300}

pytestmark = pytest.mark.asyncio


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[PgcacheStore]:
    async with PgcacheStore(dsn) as store:
        yield store


async def test_what_was_put_is_got(store: PgcacheStore) -> None:
    assert await store.get("k") is None
    assert await store.ttl("k") == (None, None)
    await store.put("k", VALUE)
    assert await store.get("k") == VALUE
    assert await store.ttl("k") == (VALUE, None)
    assert await store.get("k", collection="other") is None
    await store.put("k", {}, ttl=100)
    value, ttl = await store.ttl("k")
    assert value == {}
    assert ttl is not None
    assert 90 < ttl <= 100
    assert [await store.delete("k"), await store.delete("k"), await store.get("k")] == [True, False, None]


async def test_what_json_of_python_has(store: PgcacheStore) -> None:
    await store.put("k", {"inf": math.inf, "zero": -0.0, "half": "\ud800"})
    value = await store.get("k")
    assert value == {"inf": math.inf, "zero": 0.0, "half": "\ud800"}
    assert math.copysign(1, value["zero"]) == -1
    with pytest.raises(SerializationError):
        await store.put("k", {"bytes": b""})
    assert await store.get("k") == value


async def test_many_at_once(store: PgcacheStore) -> None:
    await store.put_many(["a", "b"], [{"n": 1}, {"n": 2}], ttl=100)
    assert await store.get_many(["b", "none", "a", "b"]) == [{"n": 2}, None, {"n": 1}, {"n": 2}]
    pairs = await store.ttl_many(["a", "none"])
    assert [value for value, _ in pairs] == [{"n": 1}, None]
    assert 90 < (pairs[0][1] or 0) <= 100
    assert await store.delete_many(["a", "none", "b"]) == 2
    assert [await store.get_many([]), await store.delete_many([])] == [[], 0]
    await store.put_many([], [])


async def test_what_has_expired_is_gone(dsn: str) -> None:
    """By the database's clock, which this moves on; the framework looks at its own, too."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        store = PgcacheStore(AsyncCache(connection))
        await store.put("for a minute", {}, ttl=60)
        await store.put_many(["for a day"], [{}], ttl=86400)
        await store.put("for ever", {})
        await connection.execute("SELECT set_config('pgcache.clock', (now() + '61 s')::text, false)")
        assert await store.get_many(["for a minute", "for a day", "for ever"]) == [None, {}, {}]
        await connection.execute("SELECT set_config('pgcache.clock', (now() + '100 years')::text, false)")
        assert await store.get_many(["for a minute", "for a day", "for ever"]) == [None, None, {}]


async def test_the_shortest_ttl(store: PgcacheStore) -> None:
    await store.put("k", {"n": 1})
    await store.put("k", {"n": 2}, ttl=1e-9)
    assert await store.get("k") is None


NAMES = ["", "k" * 3000, "nul \0", "~" + "0" * 64, "%_' \" é", "a:b"]


@pytest.mark.parametrize("key", [*NAMES, "\ud800"])
async def test_any_key(store: PgcacheStore, key: str) -> None:
    await store.put(key, {"n": 1})
    await store.put_many([key + "2"], [{"n": 2}])
    assert await store.get_many([key, key + "2"]) == [{"n": 1}, {"n": 2}]
    assert sorted(await store.keys()) == [key, key + "2"]
    assert len(await store.keys(limit=1)) == 1
    assert await store.delete(key)
    assert await store.keys() == [key + "2"]


@pytest.mark.parametrize("collection", NAMES)
async def test_any_collection(store: PgcacheStore, collection: str) -> None:
    await store.put("k", {"n": 1}, collection=collection)
    await store.put("k", {"n": 2}, collection=collection + "2")
    assert await store.get("k", collection=collection) == {"n": 1}
    assert await store.keys(collection) == ["k"]
    assert await store.destroy_collection(collection or store.default_collection)
    assert not await store.destroy_collection(collection or store.default_collection)
    assert await store.get("k", collection=collection + "2") == {"n": 2}


async def test_destroying_it_leaves_what_is_another_programs(store: PgcacheStore) -> None:
    await store.cache.set_bytes("bytes", "kv", b"x")
    await store.put("k", {}, collection="a")
    await store.put("k", {}, collection="b")
    assert [await store.destroy(), await store.destroy(), await store.cache.count("bytes")] == [True, False, 1]


@pytest.mark.parametrize("stored", [b"", b"\xff", b"[]", b'{"value": 1}', b'{"created_at": 1, "value": {}}', 7])
async def test_what_is_no_value_of_ours_is_a_miss(store: PgcacheStore, stored: Any) -> None:
    await store.put("k", VALUE)
    (key,) = await store.cache.keys("bytes")
    await store.cache.set_bytes("bytes", key, stored)
    assert [await store.get("k"), await store.get_many(["k"])] == [None, [None]]


async def test_without_the_server() -> None:
    store = PgcacheStore(NOWHERE)
    for call in (store.get("k"), store.put("k", {}), store.get_many(["k"]), store.delete("k")):
        with pytest.raises(UnavailableError):
            await call
    fallback = FallbackWrapper(store, SimpleStore(), write_to_fallback=True)
    await fallback.put("k", VALUE)
    assert await fallback.get("k") == VALUE
    soft = PgcacheStore(NOWHERE, fail_soft=True)
    await soft.put("k", VALUE)
    assert [await soft.get("k"), await soft.keys()] == [None, []]


async def test_tenants(dsn: str) -> None:
    async with PgcacheStore(dsn, tenant="acme") as acme, PgcacheStore(dsn, tenant="other") as other:
        await acme.put("k", VALUE)
        assert await other.get("k") is None
        assert not await other.destroy()
        assert await acme.get("k") == VALUE


async def test_your_cache_is_yours_to_close(dsn: str) -> None:
    async with AsyncCache(dsn) as cache:
        async with PgcacheStore(cache) as store:
            await store.put("k", VALUE)
        (process,) = await cache._report("SELECT pg_backend_pid() AS pid")
        await store.get("k")
        assert await cache._report("SELECT pg_backend_pid() AS pid") == [process]


async def test_over_a_pool(dsn: str) -> None:
    async with AsyncConnectionPool(dsn, min_size=0, max_size=2, open=False) as pool:
        async with PgcacheStore(pool) as store:
            await asyncio.gather(*(store.put(f"{number}", {"n": number}) for number in range(10)))
            found = await asyncio.gather(*(store.get(f"{number}") for number in range(10)))
        assert found == [{"n": number} for number in range(10)]
        async with pool.connection() as connection:
            await connection.execute("SELECT")


async def test_below_a_cache(dsn: str) -> None:
    async with PgcacheStore(dsn) as store:
        wrapped = PassthroughCacheWrapper(store, SimpleStore())
        await wrapped.put("k", VALUE, ttl=10)
        assert await wrapped.get("k") == await store.get("k") == VALUE


def test_event_loops_in_two_threads(dsn: str) -> None:
    store = PgcacheStore(dsn)
    found: list[dict[str, Any] | None] = []

    async def use(who: int) -> None:
        await asyncio.gather(*(store.put(f"{who} {number}", {"n": number}) for number in range(20)))
        found.extend(await asyncio.gather(*(store.get(f"{who} {number}") for number in range(20))))

    threads = [threading.Thread(target=asyncio.run, args=(use(who),)) for who in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    asyncio.run(store.close())
    assert sorted(each["n"] for each in found if each) == sorted([*range(20), *range(20)])
