"""Computing once, and tags, with Redis in front."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgcache_py import Computed, HybridCache
from tests.client.proxy import Proxy
from tests.hybrid.conftest import until
from tests.tools.waiting import at_once

pytestmark = pytest.mark.once  # the clients


def leases(db: psycopg.Connection) -> int:
    row = db.execute("SELECT count(*) FROM pgcache_internal.leases WHERE deadline > clock_timestamp()").fetchone()
    assert row
    return int(row[0])


def test_it_is_computed_once_and_then_read_from_redis(
    world: Any, dsn: str, proxy: Proxy, db: psycopg.Connection
) -> None:
    calls: list[int] = []

    def compute() -> dict[str, int]:
        calls.append(1)
        assert leases(db) == 1
        return {"n": 1}

    cache, reader = world.cache(dsn), world.cache(proxy.dsn)
    for each in (cache, reader, cache.for_tenant("t")):
        for _ in range(2):
            assert each.get_or_compute("store", "k", world.function(compute), 60, stale_for=60) == {"n": 1}
    assert len(calls) == 2
    assert leases(db) == 0
    world.tier.settle()
    reader.get("store", "k")
    asked = proxy.round_trips
    assert reader.get_or_compute("store", "k", world.function(compute)) == {"n": 1}
    assert proxy.round_trips == asked
    assert reader.llm.get_or_compute("p", "m", world.function(lambda: "a"))["response"] == "a"
    assert reader.llm.get("p", "m") == {"response": "a", "model": "m"}


def test_threads_compute_once(tier: Any, dsn: str) -> None:
    calls = []
    caches = [HybridCache(dsn, redis=tier.url, prefix=tier.prefix, redis_timeout=5.0) for _ in range(8)]

    def compute() -> int:
        calls.append(1)
        until(lambda: all(cache._tier.counts["misses"] for cache in caches))
        return 5

    found = at_once(*[lambda cache=cache: cache.get_or_compute("store", "k", compute) for cache in caches])
    assert (found, len(calls)) == ([5] * 8, 1)
    for cache in caches:
        cache.close()


def test_what_has_tags_is_not_in_redis(world: Any, dsn: str) -> None:
    cache, other = world.cache(dsn), world.cache(dsn)
    compute = world.function(lambda: Computed("computed", tags=["u"]))
    assert cache.set("store", "k", "tagged", tags=["t"]) is True
    assert cache.get_or_compute("store", "l", compute, tags=["t"]) == "computed"
    for each in (cache, other) * 3:
        assert each.get_many("store", ["k", "l"]) == {"k": "tagged", "l": "computed"}
        assert (each.get("store", "k"), each.get("store", "l")) == ("tagged", "computed")
        assert not world.tier.has("k")
        assert not world.tier.has("l")
    other.invalidate_tags("u")
    assert (cache.get("store", "k"), cache.get("store", "l")) == ("tagged", None)
    other.invalidate_tags("t")
    assert cache.get_many("store", ["k", "l"]) == {}


CHANGES = {
    "tags": lambda cache, token: cache.set("store", "k", "new", tags=["t"]),
    "a token": lambda cache, token: cache.set("store", "k", "new", token=token),
    "recompute": lambda cache, token: cache.cached("store", key=lambda: "k", tags=["t"])(value(cache)).refresh(),
}


def value(cache: Any) -> Any:
    async def coroutine() -> str:
        return "new"

    return coroutine if hasattr(cache, "target") else lambda: "new"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("relayed", [True, False])
def test_no_old_value_is_left_in_redis(
    world: Any, dsn: str, db: psycopg.Connection, change: str, relayed: bool
) -> None:
    """This client's is gone at once, without any relay, and so is that of others; else the relay does it."""
    cache, other = world.cache(dsn), world.cache(dsn)
    cache.set("store", "k", "old")
    other.delete("store", "k", soft=True)
    token = cache.fetch("store", "k", stale_for=60).token
    db.execute("SELECT pgcache.cache_touch('store', 'k', '1 hour')")
    db.execute("UPDATE pgcache.cache_store SET expires_at = now() + interval '1 hour' WHERE cache_key = 'k'")
    world.tier.settle()
    assert other.get("store", "k") == "old"
    assert world.tier.has("k")
    if not relayed:
        world.tier.stop_relay()
    assert CHANGES[change](cache, token) in (True, "new")
    assert cache.get("store", "k") == other.get("store", "k") == "new"


def test_in_sql_tags_take_an_entry_out_of_redis(world: Any, dsn: str, db: psycopg.Connection) -> None:
    cache = world.cache(dsn)
    for change in ("cache_set('store', 'k', '2', tags => '{t}')", "cache_delete('store', 'k', soft => true)"):
        cache.set("store", "k", 1)
        assert world.tier.has("k")
        db.execute(f"SELECT pgcache.{change}".encode())
        world.tier.settle()
        assert not world.tier.has("k")


def test_soft_deletion(world: Any, dsn: str) -> None:
    cache = world.cache(dsn)
    for delete in (
        lambda: cache.delete("store", "k", soft=True),
        lambda: cache.delete_many("store", iter(["k"]), soft=True),
        lambda: cache.delete_pattern("store", "k%", soft=True),
    ):
        cache.set("store", "k", 1)
        world.tier.settle()
        assert cache.get("store", "k") == 1
        assert delete() == 1
        assert cache.get("store", "k") is None
        assert cache.fetch("store", "k", stale_for=60).value == 1


def test_that_there_is_none_does_not_outlast_a_computation(world: Any, dsn: str) -> None:
    cache, other = world.cache(dsn, negative=True), world.cache(dsn, negative=True)
    for each in (cache, other):
        assert each.get("store", "k") is None
    assert world.tier.has("k")
    assert cache.get_or_compute("store", "k", world.function(lambda: 1)) == 1
    assert cache.get("store", "k") == other.get("store", "k") == 1


def test_in_a_transaction_of_the_callers(world: Any, dsn: str, db: psycopg.Connection) -> None:
    connection = world.connect(dsn)
    cache = world.cache(connection)
    assert cache.get_or_compute("store", "k", world.function(lambda: leases(db)), tags=["t"]) == 0
    assert cache.get_or_compute("store", "l", world.function(lambda: leases(db))) == 0
    connection.rollback()
    assert cache.get_many("store", ["k", "l"]) == {}
    connection.rollback()


def test_while_redis_is_down(private_world: Any, dsn: str) -> None:
    cache = private_world.cache(dsn, redis_timeout=0.5)
    private_world.tier.redis.kill()
    for _ in range(2):
        assert cache.get_or_compute("store", "k", private_world.function(lambda: 1), tags=["t"]) == 1
    cache.invalidate_tags("t")
    assert cache.get("store", "k") is None


def test_whole_answers_come_from_redis_unless_they_have_to_be_younger(
    world: Any, dsn: str, proxy: Proxy, db: psycopg.Connection
) -> None:
    db.execute("SELECT pgcache.cache_hot_on('llm')")
    calls: list[int] = []
    request = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

    def compute() -> dict[str, Any]:
        calls.append(1)
        choice = {"index": 0, "message": {"role": "assistant", "content": str(len(calls))}, "finish_reason": "stop"}
        return {"object": "chat.completion", "choices": [choice]}

    def content(cache: Any, **options: Any) -> str:
        answer = cache.llm.request(request, world.function(compute), **options)
        return str(answer["choices"][0]["message"]["content"])

    cache, reader = world.cache(dsn), world.cache(proxy.dsn)
    assert [content(cache), content(reader)] == ["1", "1"]
    world.tier.settle()
    content(reader)
    asked = proxy.round_trips
    assert content(reader) == "1"
    assert proxy.round_trips == asked
    db.execute("UPDATE pgcache.cache_llm_responses SET created_at = created_at - interval '10 minutes'")
    assert content(reader, max_age="20 minutes") == "1"
    assert content(reader, max_age="5 minutes") == "2"
    assert content(reader, refresh=True) == "3"
    assert [content(reader), content(reader, max_age=60), content(reader, no_store=True)] == ["3"] * 3
    world.tier.settle()
    assert content(cache) == "3"
    assert len(calls) == 3
