"""Tenants in both tiers."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.hybrid.conftest import until

pytestmark = pytest.mark.once  # the clients and Redis; the database's part is in tests/hot

# As names of keys in Redis, some of these would run into each other if their lengths were not told.
TENANTS = ["", "a", "a:b", "a:b:c", "1", "3:a", "ü", "😀", "%", "*", "x" * 200, " ", "'"]


def test_nobody_sees_what_is_anothers(world: Any, dsn: str) -> None:
    cache = world.cache(dsn)
    for number, tenant in enumerate(TENANTS):
        for key in ("k", "b:k", "b:c:k"):
            assert cache.for_tenant(tenant).get("store", key) is None
            cache.for_tenant(tenant).set("store", key, [number, key])
    for _ in range(2):
        for number, tenant in enumerate(TENANTS):
            assert cache.for_tenant(tenant).get("store", "b:k") == [number, "b:k"]
            assert cache.for_tenant(tenant).get_many("store", ["b:c:k", "k"]) == {
                "b:c:k": [number, "b:c:k"],
                "k": [number, "k"],
            }
    assert cache.get_cache_stats()["tier"]["postgres_hits"] == 0


def test_the_sessions_tenant_is_not_meant(world: Any, dsn: str) -> None:
    """Redis could not know it."""
    connection = world.connect(dsn, autocommit=True, options="-c pgcache.tenant=session")
    cache = world.cache(connection)
    cache.set("store", "k", 1)
    assert cache.get("store", "k") == 1
    assert world.cache(dsn).get("store", "k") == 1
    assert world.cache(dsn, tenant="session").get("store", "k") is None
    assert connection.execute("SHOW pgcache.tenant").fetchone() == ("session",)


def test_images_of_a_tenant_that_is_named(world: Any, dsn: str) -> None:
    cache = world.cache(dsn, tenant="own")
    cache.phash.set(b"i", None, "own")
    cache.phash.set(b"i", "other", "other")
    for _ in range(2):
        assert cache.phash.get(b"i") == cache.phash.get(b"i", "own") == "own"
        assert cache.phash.get(b"i", "other") == cache.for_tenant("other").phash.get(b"i") == "other"
        assert cache.phash.get(b"i", "third") is None
    assert cache.get_cache_stats()["tier"]["postgres_hits"] == 0


@pytest.mark.parametrize("by", ["client", "SQL"])
def test_invalidating_one_leaves_the_others(world: Any, dsn: str, db: psycopg.Connection, by: str) -> None:
    cache = world.cache(dsn)
    for tenant in ("a", "b"):
        cache.cache_perceptual_hash(b"i", tenant, tenant)
        cache.for_tenant(tenant).set("store", "k", tenant)
    if by == "client":
        assert cache.invalidate_tenant_cache("a") == 2
    else:
        db.execute("SELECT pgcache.cache_invalidate_tenant('a')")
    world.tier.settle()
    assert cache.get_cached_perceptual_hash(b"i", "a") is None
    assert cache.for_tenant("a").get("store", "k") is None
    assert cache.get_cached_perceptual_hash(b"i", "b") == "b"
    assert cache.for_tenant("b").get("store", "k") == "b"


def test_nothing_of_a_tenant_that_is_forgotten_is_left_in_redis(world: Any, dsn: str, db: psycopg.Connection) -> None:
    """Nor does what this client has counted bring the name back."""
    cache = world.cache(dsn, negative=True)
    client = world.tier.client()
    for tenant in ("a", "b"):
        mine = cache.for_tenant(tenant)
        mine.set("store", "k", tenant)
        mine.vector_search.set([1.0], [tenant], user_id="ada")
        mine.phash.set(b"i", tenant, "ff")
        assert mine.get("store", "absent") is None
        assert mine.get("store", "k") == tenant
        assert mine.vector_search.get([1.0], user_id="ada") == [tenant]
    db.execute("SELECT pgcache.cache_hot_off('phash')")  # Redis still has it, and no trigger tells of it
    world.tier.settle()

    def left(tenant: str) -> int:
        return sum(1 for name in client.scan_iter(f"{world.tier.prefix}:[el]:*") if f":1:{tenant}:".encode() in name)

    assert left("a") >= 4
    receipt = cache.forget("a")
    assert receipt.total >= 3
    assert {each.type for each in receipt.removed if each.place == "redis"} == {"store", "vector_search"}
    assert cache.for_tenant("a").get("store", "k") is None
    world.tier.settle()
    until(lambda: db.execute("SELECT count(*) FROM pgcache_internal.hot_erasures").fetchone() == (0,))
    until(lambda: left("a") <= 1)  # that the key k is absent was asked above
    assert left("b") >= 3
    assert cache.for_tenant("b").get("store", "k") == "b"
    cache.close()
    db.execute("CALL pgcache.cache_upkeep()")
    assert db.execute("SELECT count(*) FROM pgcache.cache_tenant_stats() WHERE tenant = 'a'").fetchone() == (0,)
