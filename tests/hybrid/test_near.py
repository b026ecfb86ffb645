"""A near cache in front of Redis: the process, then Redis, then PostgreSQL."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest

from pgcache_py import MISS, Cache, HybridCache, Near
from tests.client import test_near
from tests.client.proxy import Proxy
from tests.client.test_near import keep, kept, store_of
from tests.hybrid.conftest import Tier, until

near_types, cache, other = test_near.near_types, test_near.cache, test_near.other


def ready(cache: Any) -> None:
    """Once it knows what may be kept."""
    until(lambda: cache.get("store", "nothing") is None and store_of(cache).vouches("store"))


def without_near(tier: Tier) -> HybridCache:
    return HybridCache(tier.dsn, tier.url, prefix=tier.prefix, redis_timeout=5.0)


def counts(cache: Any) -> Any:
    cache._tier.fold()
    return cache._tier.counts


def test_the_process_then_redis_then_postgresql(
    world: Any, dsn: str, near_types: None, other: Cache, tier: Tier, caplog: pytest.LogCaptureFixture
) -> None:
    cache = world.cache(dsn, near=Near(max_staleness=10))
    ready(cache)
    other.set("store", "k", {"a": [1]})
    other.set_many("store", {"a": 1, "b": 2})
    tier.settle()
    caplog.set_level(logging.DEBUG, "pgcache")

    def asked() -> list[str]:
        """The calls of many by their names, those of one by who has answered."""
        words = [message.split(" ") for message in caplog.messages if "hits" not in message]
        caplog.clear()
        return [each[0] if each[1] == "in" else each[-1] for each in words]

    for expected in (["(PostgreSQL)"], ["near_get"], [], []):
        assert cache.get("store", "k") == {"a": [1]}
        assert asked() == expected
    assert tier.has("k")
    for expected in (["hot_get_many"], ["near_get_many", "hot_get_many"], ["hot_get_many"]):  # what is absent, too
        assert cache.get_many("store", ["a", "k", "absent", "b"]) == {"a": 1, "k": {"a": [1]}, "b": 2}
        assert asked() == expected
    assert list(cache.get_many("store", ["b", "k", "a"])) == ["b", "k", "a"]
    assert asked() == []
    cache.get("store", "k")["a"].append(2)
    assert cache.get("store", "k") == {"a": [1]}


def test_what_redis_has_of_many_is_returned_and_not_kept(cache: Any, other: Cache, tier: Tier) -> None:
    other.set_many("store", {"a": 1, "b": 2})
    tier.settle()
    ready(cache)
    with without_near(tier) as plain:
        assert plain.get_many("store", ["a", "b"]) == {"a": 1, "b": 2}
    assert tier.has("b")
    assert cache.get_many("store", ["a", "b"]) == {"a": 1, "b": 2}
    assert counts(cache)["redis_hits"] == 2
    assert not store_of(cache)._entries
    until(lambda: cache.get_many("store", ["a", "b"]) and len(store_of(cache)) == 2)


def test_what_redis_returns_is_not_kept(cache: Any, other: Cache, tier: Tier, world: Any, dsn: str) -> None:
    """It may be older than what the process has heard of; what it keeps would stay for as long as it lives."""
    late = world.cache(dsn, near=Near(max_entries=50))
    ready(late)
    other.set("store", "k", 1)
    tier.settle()
    assert cache.get("store", "k") == 1
    assert tier.has("k")
    tier.stop_relay()
    other.set("store", "k", 2)
    heard = store_of(late)._vouched_until
    until(lambda: store_of(late)._vouched_until > heard + 0.5)
    assert late.get("store", "k") in (1, 2)  # of Redis, as long as somebody vouches for it
    assert ("store", "k", "") not in store_of(late)._entries
    for _ in range(20):
        assert late.get("store", "k") == 2


def test_what_it_writes_itself_it_sees_at_once(cache: Any, tier: Tier) -> None:
    ready(cache)
    for number in range(20):
        cache.set("store", "k", number)
        assert cache.get("store", "k") == number
        assert cache.get_many("store", ["k"]) == {"k": number}
        assert cache.get("store", "k") == number
        if number % 5 == 4:
            assert cache.incr("store", "k") == number + 1 == cache.get("store", "k")
            cache.set_many("store", {"k": "many"})
            assert cache.get("store", "k") == "many" == cache.get_many("store", ["k", "l"])["k"]
            cache.delete_many("store", ["k"])
            assert cache.get("store", "k") is None
            cache.set("store", "k", 1)
            cache.replace("store", "k", 2, expected=1)
            assert cache.get("store", "k") == 2
            cache.clear("store")
            assert cache.get("store", "k", MISS) is MISS
    cache.set("store", "k", "last")
    keep(cache, "k", tenant="")


def test_what_others_change_is_seen_within_the_bounds(cache: Any, other: Cache) -> None:
    other.set("store", "k", 0)
    keep(cache, "k", tenant="")
    for number in range(1, 4):
        other.set("store", "k", number)
        until(lambda number=number: cache.get("store", "k") == number)
        keep(cache, "k", tenant="")


def test_tenants_types_and_computing(cache: Any, other: Cache, world: Any, db: psycopg.Connection) -> None:
    acme = cache.for_tenant("acme")
    other.for_tenant("acme").set("store", "k", "theirs")
    other.set("store", "k", "shared")
    keep(cache, "k", tenant="")
    until(lambda: kept(acme, "k", tenant="acme"))
    assert (cache.get("store", "k"), acme.get("store", "k")) == ("shared", "theirs")
    acme.set("store", "k", "new")
    assert (cache.get("store", "k"), acme.get("store", "k")) == ("shared", "new")
    db.execute("SELECT pgcache.cache_hot_off('llm')")  # near, but not hot
    other.llm.set("p", "m", "answer")
    until(lambda: cache.llm.get("p", "m") and any(type == "llm" for type, _, _ in store_of(cache)._entries))
    assert cache.llm.get("p", "m")["response"] == "answer"
    computed: list[int] = []
    compute = world.function(lambda: computed.append(1) or len(computed))
    for _ in range(5):
        assert cache.get_or_compute("store", "computed", compute) == 1
    assert ("store", "computed", "") in store_of(cache)._entries
    other.phash.set(b"i", "", "ff")  # hot, but not near
    for _ in range(3):
        assert cache.phash.get(b"i", "") == "ff"
    assert not any(type == "phash" for type, _, _ in store_of(cache)._entries)


def test_without_postgresql_redis_answers(world: Any, dsn: str, near_types: None, other: Cache, tier: Tier) -> None:
    with Proxy(dsn) as proxy:
        cache = world.cache(proxy.dsn, near=Near(max_staleness=0.3))
        other.set("store", "k", 1)
        tier.settle()
        keep(cache, "k", tenant="")
        until(lambda: cache.get("store", "k") == 1 and tier.has("k"))
        proxy.refuse()
        until(lambda: not store_of(cache).vouches("store"))
        assert cache.get("store", "k") == 1
        assert cache.get_many("store", ["k"]) == {"k": 1}
        proxy.admit()
        other.set("store", "k", 2)
        until(lambda: cache.get("store", "k") == 2)
        keep(cache, "k", tenant="")
