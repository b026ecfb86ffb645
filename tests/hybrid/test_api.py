"""Reads, writes and invalidations through both tiers, and what can be seen of them."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import redis
import redis.asyncio

from pgcache_py import MISS, Audio, HotTierError, HybridCache, Skip
from tests.client.conftest import Blocking
from tests.client.proxy import Proxy
from tests.hybrid.conftest import Tier, until

pytestmark = pytest.mark.once  # the clients and Redis; the database's part is in tests/hot

FACES = [{"bbox": [1, 2, 3, 4], "embedding": [0.25], "det_score": 0.9}]


def counts(cache: Any) -> dict[str, Any]:
    tier: dict[str, Any] = cache.get_cache_stats()["tier"]
    return tier


def test_a_read_asks_redis_then_postgresql(world: Any, proxy: Proxy, db: psycopg.Connection) -> None:
    db.execute("SELECT pgcache.cache_set('store', 'k', '[1, {\"a\": null}]')")
    world.tier.settle()
    cache = world.cache(proxy.dsn)
    for _ in range(5):
        assert cache.get("store", "k") == [1, {"a": None}]
    trips = proxy.round_trips
    assert cache.get("store", "k") == [1, {"a": None}]
    assert proxy.round_trips == trips
    found = counts(cache)
    assert (found["redis_hits"], found["postgres_hits"], found["backfills"]) == (5, 1, 1)


def test_a_write_goes_to_both(world: Any, dsn: str, proxy: Proxy, db: psycopg.Connection) -> None:
    world.cache(dsn).set("store", "k", {"a": 1e300, "b": "ü"}, ttl=60)
    assert db.execute("SELECT pgcache.cache_get('store', 'k') ->> 'b'").fetchone() == ("ü",)
    assert 50_000 < world.tier.client().pttl(world.tier.key("k")) <= 60_000
    reader = world.cache(proxy.dsn)
    reader.get("store", "absent")
    asked = proxy.round_trips
    assert reader.get("store", "k") == {"a": 1e300, "b": "ü"}
    assert proxy.round_trips == asked


def test_vector_searches_too(world: Any, dsn: str, proxy: Proxy) -> None:
    cache, reader = world.cache(dsn), world.cache(proxy.dsn)
    assert cache.vector_search.set([0.1, 2], [{"id": 1}], {"a": 1}, user_id="u") is True
    reader.get("store", "absent")
    asked = proxy.round_trips
    assert reader.vector_search.get([0.1, 2.0], {"a": 1.0}, user_id="u") == [{"id": 1}]
    assert proxy.round_trips == asked
    assert reader.vector_search.get([0.1, 2.0], {"a": 1.0}) is None
    assert cache.vector_search.invalidate_user("u") == 1
    assert cache.vector_search.get([0.1, 2], {"a": 1}, user_id="u") is None


def test_redis_keeps_an_entry_no_longer_than_its_type_says_nor_than_it_lives(
    world: Any, dsn: str, db: psycopg.Connection
) -> None:
    db.execute("SELECT pgcache.cache_hot_on('store', '10 seconds')")
    cache = world.cache(dsn)
    for key, ttl in {"short": 5, "long": 60}.items():
        cache.set("store", key, 1, ttl)
    cache.set("store", "endless", 1)
    cache.persist("store", "endless")
    cache.get("store", "endless")
    left = {key: world.tier.client().pttl(world.tier.key(key)) for key in ("short", "long", "endless")}
    assert 3000 < left["short"] <= 5000
    assert 8000 < left["long"] <= 10_000
    assert 8000 < left["endless"] <= 10_000


def test_the_seeds_ttls(world: Any, db: psycopg.Connection) -> None:
    ttls: dict[str, timedelta] = dict(db.execute("SELECT type, ttl FROM pgcache.cache_hot_stats").fetchall())
    assert ttls["face"] == timedelta(hours=1)
    assert ttls["vector_search"] == timedelta(minutes=5)
    assert ttls["phash"] == timedelta(hours=2)
    assert ttls["crawl"] == timedelta(hours=24)


CHANGES = {
    "set": lambda cache: cache.set("store", "k", "new"),
    "set_many": lambda cache: cache.set_many("store", {"k": "new", "l": 1}),
    "warm": lambda cache: cache.warm("store", [{"key": "k", "value": "new"}]),
    "delete": lambda cache: cache.delete("store", "k"),
    "delete_many": lambda cache: cache.delete_many("store", iter(["k"])),
    "recompute": lambda cache: cache.cached("store", key=lambda: "k")(compute(cache, "new")).refresh(),
    "incr": lambda cache: cache.incr("store", "n", 2),
}


def compute(cache: Any, value: Any) -> Any:
    async def coroutine() -> Any:
        return value

    return coroutine if isinstance(cache, Blocking) else lambda: value


@pytest.mark.parametrize("change", CHANGES)
def test_a_client_sees_its_own_changes_at_once_without_any_relay(world: Any, dsn: str, change: str) -> None:
    cache = world.cache(dsn)
    cache.set_many("store", {"k": "old", "n": 1})
    cache.get_many("store", ["k", "n"])
    world.tier.settle()
    assert world.tier.has("k")
    world.tier.stop_relay()
    CHANGES[change](cache)
    assert cache.get("store", "k") == {"delete": None, "delete_many": None, "incr": "old"}.get(change, "new")
    assert cache.get("store", "n") == (3 if change == "incr" else 1)
    assert world.tier.alive()


SWEEPS = {
    "delete_pattern": lambda cache: cache.delete_pattern("store", "k%"),
    "clear": lambda cache: cache.clear("store"),
    "clear_all": lambda cache: cache.clear_all(),
    "invalidate_tenant": lambda cache: cache.invalidate_tenant(""),
    "disable": lambda cache: cache.configure("store", enabled=False),
    "clear_all_cache": lambda cache: cache.clear_all_cache(),
    "invalidate_tenant_cache": lambda cache: cache.invalidate_tenant_cache(""),
}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_so_it_does_when_many_entries_go(world: Any, dsn: str, sweep: str) -> None:
    cache = world.cache(dsn)
    cache.set("store", "k", "old")
    world.tier.settle()
    world.tier.stop_relay()
    assert SWEEPS[sweep](cache) in (1, True, None)
    assert cache.get("store", "k") is None
    assert cache.get_many("store", ["k"]) == {}
    world.tier.start_relay()
    world.tier.settle()
    assert cache.get("store", "k") is None
    if sweep != "disable":
        cache.set("store", "k", "new")
        before = counts(cache)["redis_hits"]
        until(lambda: cache.get("store", "k") == "new" and counts(cache)["redis_hits"] > before)


def test_what_others_change_arrives(world: Any, dsn: str, db: psycopg.Connection) -> None:
    cache = world.cache(dsn)
    for statement, value in (
        ("UPDATE pgcache.cache_store SET data = '\"new\"'", "new"),
        ("DELETE FROM pgcache.cache_store", None),
        ("TRUNCATE pgcache.cache_store", None),
    ):
        cache.set("store", "k", "old")
        world.tier.settle()
        assert cache.get("store", "k") == "old"
        db.execute(statement)
        world.tier.settle()
        assert cache.get("store", "k") == value


def test_many_at_once(world: Any, proxy: Proxy, db: psycopg.Connection) -> None:
    db.execute("SELECT pgcache.cache_set_many('store', array['a', 'b', 'c'], array['1', '2', 'null']::jsonb[])")
    world.tier.settle()
    cache = world.cache(proxy.dsn)
    assert cache.get_many("store", ["c", "absent", "a"]) == {"c": None, "a": 1}
    trips = proxy.round_trips
    assert list(cache.get_many("store", iter(["b", "a", "a", "c"])).items()) == [("b", 2), ("a", 1), ("c", None)]
    assert proxy.round_trips == trips + 1  # for b
    assert cache.get_many("store", ["a", "b", "c"]) == {"a": 1, "b": 2, "c": None}
    assert proxy.round_trips == trips + 1
    assert cache.get_many("store", []) == {}


def test_typed_caches_through_the_tier(world: Any, proxy: Proxy) -> None:
    cache = world.cache(proxy.dsn)
    audio = Audio(bytes(range(256)), "opus", 1500, 48000, 2)
    calls = [
        (lambda: cache.llm.set("p", "m", "answer", tokens_used=7, context="c"), lambda: cache.llm.get("p", "m", "c")),
        (lambda: cache.embedding.set("t", "m", [0.1, -2]), lambda: cache.embedding.get("t", "m")),
        (lambda: cache.audio.set("hi", "v", audio, "tts", {"b": 1, "a": 0.5}),
         lambda: cache.audio.get("hi", "v", "tts", {"a": 0.50, "b": 1.0})),
        (lambda: cache.face.set(b"i", "t", FACES), lambda: cache.face.get(b"i", "t")),
        (lambda: cache.face.set(b"none", "t", []), lambda: cache.face.get(b"none", "t")),
        (lambda: cache.phash.set(b"i", "t", "ff"), lambda: cache.phash.get(b"i", "t")),
        (lambda: cache.crawl.store("u", b"i", "raw", None, "t"), lambda: cache.crawl.should_skip("u", b"i", "t")),
    ]  # fmt: skip
    for set, get in calls:
        before = get()
        assert not before or before == Skip(False, None)
        assert set() is True
        first = get()
        assert first is not None
        trips = proxy.round_trips
        assert get() == first
        assert proxy.round_trips == trips
    assert cache.audio.get("hi", "v", "tts", {"a": 0.5, "b": 1}) == audio
    assert cache.get("llm", cache.key("p", "m", "c")) == {"response": "answer", "model": "m", "tokens_used": 7}


def test_embeddings_by_the_dozen(world: Any, dsn: str) -> None:
    cache = world.cache(dsn)
    cache.embedding.set_many(["a", "b"], "m", [[1, 2], [3, 4]])
    assert cache.embedding.get("a", "m") == [1, 2]
    world.tier.settle()
    world.tier.stop_relay()
    cache.embedding.set_many(["a"], "m", [[5, 6]])
    assert cache.embedding.get("a", "m") == [5, 6]
    assert cache.embedding.get_many(["a", "b"], "m") == [[5, 6], [3, 4]]


def test_the_calls_of_the_service_before(world: Any, dsn: str) -> None:
    cache = world.cache(dsn)
    assert cache.get_cached_face_embeddings(b"i", "t") is None
    assert cache.cache_face_embeddings(b"i", "t", FACES) is True
    assert cache.get_cached_face_embeddings(b"i", "t") == FACES
    assert cache.get_cached_face_embeddings(b"i", "other") is None
    assert cache.cache_perceptual_hash(b"i", "t", "ff00") is True
    assert cache.get_cached_perceptual_hash(b"i", "t") == "ff00"
    assert cache.should_skip_crawled_image("u", b"i", "t") == (False, None)
    assert cache.store_crawled_image("u", b"i", "raw", "thumb", "t") is True
    assert cache.should_skip_crawled_image("u", b"i", "t") == (True, "raw")
    stats = cache.get_cache_stats()
    assert stats["postgres_stats"]["face_embeddings_cache_count"] == 1
    assert stats["postgres_stats"]["perceptual_hash_cache_count"] == 1
    assert stats["postgres_stats"]["crawl_cache_count"] == 1
    assert stats["redis_stats"]["used_memory_human"]
    assert 0 <= stats["redis_stats"]["hit_rate"] <= 100
    assert cache.invalidate_tenant_cache("t") == 3
    assert cache.get_cached_perceptual_hash(b"i", "t") is None
    assert cache.clear_all_cache() is True


def test_what_is_not_there_is_remembered_only_if_asked(world: Any, proxy: Proxy, db: psycopg.Connection) -> None:
    cache, negative = world.cache(proxy.dsn), world.cache(proxy.dsn, negative=True)
    for each, extra in ((cache, 1), (negative, 0)):
        assert each.get("store", "absent", MISS) is MISS
        trips = proxy.round_trips
        assert each.get("store", "absent", MISS) is MISS
        assert proxy.round_trips == trips + extra
    assert 0 < world.tier.client().pttl(world.tier.key("absent")) <= 60_000
    assert cache.get_many("store", ["absent"]) == {}
    db.execute("SELECT pgcache.cache_set('store', 'absent', '1')")
    world.tier.settle()
    assert negative.get("store", "absent") == 1


def test_a_type_that_is_not_in_the_tier(world: Any, proxy: Proxy, db: psycopg.Connection) -> None:
    db.execute("SELECT pgcache.cache_hot_off('store')")
    until(lambda: not db.execute("SELECT FROM pgcache_internal.hot_untold()").fetchall())
    cache = world.cache(proxy.dsn)
    for number in range(3):
        cache.set("store", "k", number)
        assert cache.get("store", "k") == number
        assert cache.get_many("store", ["k"]) == {"k": number}
    assert not world.tier.has("k")


@pytest.mark.parametrize("change", ["DELETE FROM pgcache.cache_store", "UPDATE pgcache.cache_store SET data = '2'"])
@pytest.mark.parametrize("old", ["read", "written"])
def test_an_old_value_never_comes_back(world: Any, dsn: str, db: psycopg.Connection, old: str, change: str) -> None:
    """The change commits, and reaches Redis, after the client has spoken to PostgreSQL and before it does to Redis."""
    db.execute("SELECT pgcache.cache_set('store', 'k', '1')")
    world.tier.settle()
    cache = world.cache(dsn)
    tier = getattr(cache, "target", cache)._tier
    push = tier.push

    def late(pushes: Any) -> Any:
        db.execute(change)
        world.tier.settle()
        return push(pushes)

    tier.push = late
    assert cache.get("store", "k") == 1 if old == "read" else cache.set("store", "k", 1)
    tier.push = push
    assert not world.tier.has("k")
    assert cache.get("store", "k") == (2 if "UPDATE" in change else None)
    assert counts(cache)["refused"] == 1


def test_hits_of_redis_count_in_postgresql(world: Any, dsn: str, db: psycopg.Connection) -> None:
    db.execute("SELECT pgcache.cache_configure('store', hit_tracking => 'exact')")
    cache = world.cache(dsn)
    cache.set_many("store", {"a": 1, "b": 2})
    cache.get_many("store", ["a", "b"])
    for _ in range(1500):
        cache.get("store", "a")
    cache.for_tenant("t").set("store", "a", 3)
    assert cache.for_tenant("t").get("store", "a") == 3
    cache.close()
    db.execute("CALL pgcache.cache_upkeep()")
    hits = "SELECT tenant, cache_key, hit_count FROM pgcache.cache_store ORDER BY 1, 2"
    assert db.execute(hits).fetchall() == [("", "a", 1501), ("", "b", 1), ("t", "a", 1)]
    assert db.execute("SELECT hits FROM pgcache.cache_stats WHERE type = 'store'").fetchone() == (1503,)


def test_statistics_of_both_tiers(world: Any, dsn: str, db: psycopg.Connection) -> None:
    cache = world.cache(dsn)
    cache.get("store", "absent")
    cache.set("store", "k", 1)
    cache.get("store", "k")
    world.tier.settle()
    stats = cache.get_cache_stats()
    tier = stats["tier"]
    assert {name: tier[name] for name in ("redis_hits", "postgres_hits", "misses", "pushed", "refused")} == {
        "redis_hits": 1, "postgres_hits": 0, "misses": 1, "pushed": 1, "refused": 0,
    }  # fmt: skip
    assert (tier["hit_rate"], tier["breaker"], tier["outbox_length"], tier["outbox_age"]) == (50.0, "closed", 0, None)
    assert tier["types"]["store"] == timedelta(hours=1)
    assert stats["redis_stats"]["leases_and_tombstones"] >= 0
    assert stats["redis_stats"]["alive"] is True
    assert next(row for row in stats["postgres_stats"]["by_type"] if row["type"] == "store")["entries"] == 1
    world.tier.stop_relay()
    db.execute("SELECT pgcache.cache_set('store', 'other', '1')")
    assert counts(cache)["outbox_length"] == 1
    assert counts(cache)["outbox_age"] > timedelta(0)


def test_redis_by_a_client_of_the_callers(world: Any, dsn: str) -> None:
    module = redis if world.name == "sync" else redis.asyncio
    client = module.Redis.from_url(world.tier.url, decode_responses=True, socket_timeout=60)
    cache = world.cache(dsn, redis=client)
    cache.set("store", "k", "ü")
    assert cache.get("store", "k") == "ü"
    assert counts(cache)["redis_hits"] == 1
    with pytest.raises(TypeError, match="redis is a URL"):
        world.cache(dsn, redis=object())


def test_over_a_pool_and_a_connection(world: Any, source: Any) -> None:
    cache = world.cache(source)
    cache.set("store", "k", 1)
    assert cache.get("store", "k") == 1
    assert cache.get_many("store", ["k"]) == {"k": 1}


def test_views_share_connections_and_counts(world: Any, dsn: str) -> None:
    cache = world.cache(dsn)
    view = cache.for_tenant("t")
    view.set("store", "k", 1)
    assert view.get("store", "k") == 1
    assert cache.get("store", "k") is None
    view.close()
    assert counts(cache)["redis_hits"] == counts(view)["redis_hits"] == 1


def test_the_package_imports_no_redis() -> None:
    script = "import sys, pgcache_py; assert 'redis' not in sys.modules; pgcache_py.HybridCache"
    subprocess.run([sys.executable, "-c", script], check=True)
    script = "import sys; sys.modules['redis'] = None; from pgcache_py import HybridCache"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install 'pgcache[redis]'" in done.stderr


def test_threads_share_a_cache(tier: Tier, dsn: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    cache = HybridCache(dsn, tier.url, prefix=tier.prefix, redis_timeout=5)
    with cache, ThreadPoolExecutor(8) as threads:
        cache.set_many("store", {str(number): number for number in range(20)})
        found = threads.map(lambda number: cache.get("store", str(number % 20)), range(2000))
        assert list(found) == [number % 20 for number in range(2000)]
        assert counts(cache)["redis_hits"] > 1900


def test_servers_that_the_variables_name(world: Any, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("REDIS_URL", world.tier.redis.url)
    with HybridCache() as cache:
        assert cache.set("store", "k", 1)
        assert cache.get_cache_stats()["redis_stats"]["used_memory_human"]
    monkeypatch.delenv("REDIS_URL")
    with pytest.raises(HotTierError, match=r"which Redis\?") as caught:
        HybridCache()
    with pytest.raises(HotTierError, match="the URL of Redis is not understood") as wrong:
        HybridCache(dsn, "foo")
    assert (wrong.value.sqlstate, "redis://" in (wrong.value.hint or "")) == ("PC030", True)
    assert (caught.value.sqlstate, "REDIS_URL" in (caught.value.hint or "")) == ("PC030", True)


def test_the_log_says_which_tier_has_answered(
    world: Any, dsn: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    db.execute("SELECT pgcache.cache_set('store', 'secret', '1')")
    world.tier.settle()
    caplog.set_level(logging.DEBUG, "pgcache")
    cache = world.cache(dsn)
    cache.get("store", "secret")
    cache.get("store", "secret")
    cache.get_many("store", ["secret"])
    cache.set("store", "secret", 2)
    said = [record.getMessage() for record in caplog.records if " store " in record.getMessage()]
    assert [line.split(maxsplit=1)[0] + line[line.rindex(" (") :] for line in said] == [
        "hit (PostgreSQL)", "hit (Redis)", "hit (Redis)", "set (PostgreSQL)",
    ]  # fmt: skip
    assert "secret" not in caplog.text
