"""The near cache of the clients: what a process keeps, and when it does not return it."""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest

from pgcache_py import MISS, Cache, InvalidKeyError, InvalidSettingError, Near, NotANumberError, UnknownTypeError
from pgcache_py.client.near import store as module
from tests.client.proxy import Proxy
from tests.tools.waiting import wait_until

POLLS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE query LIKE '%near_changes%' AND pid <> pg_backend_pid() AND datname = current_database()"
)


@pytest.fixture
def near_types(db: psycopg.Connection) -> None:
    for type in ("store", "llm"):
        db.execute("SELECT pgcache.cache_near_on(%s)", [type])


@pytest.fixture
def cache(world: Any, dsn: str, near_types: None) -> Any:
    return world.cache(dsn, near=Near())


@pytest.fixture
def other(dsn: str) -> Iterator[Cache]:
    """Of another process, as far as the cache can tell."""
    with Cache(dsn) as cache:
        yield cache


def store_of(cache: Any) -> Any:
    return cache._near.store


def kept(cache: Any, key: str, type: str = "store", tenant: str | None = None) -> bool:
    """Whether the process keeps an entry, once it does."""
    cache.get(type, key)
    return bool((type, key, tenant) in store_of(cache)._entries)


def keep(cache: Any, key: str, type: str = "store", tenant: str | None = None) -> None:
    wait_until(lambda: kept(cache, key, type, tenant))


def test_what_is_kept_needs_no_server(cache: Any, other: Cache) -> None:
    other.set("store", "k", {"a": [1]})
    keep(cache, "k")
    reads = [cache.get("store", "k") for _ in range(100)]
    assert reads == [{"a": [1]}] * 100
    assert other.get("store", "k") == {"a": [1]}
    wait_until(lambda: any(row["hits"] >= 101 for row in other.stats() if row["type"] == "store"))


def test_what_others_change_is_seen_within_the_bound(cache: Any, other: Cache, db: psycopg.Connection) -> None:
    other.set("store", "k", 0)
    keep(cache, "k")
    for number, change in enumerate(
        [
            lambda: other.set("store", "k", 1),
            lambda: other.incr("store", "k"),
            lambda: db.execute("UPDATE pgcache.cache_type_store SET data = '3'"),
            lambda: other.delete("store", "k"),
            lambda: other.set("store", "k", 5),
            lambda: other.clear("store"),
            lambda: other.set("store", "k", 7),
            lambda: db.execute("TRUNCATE pgcache.cache_type_store"),
        ],
        1,
    ):
        change()
        expected = None if number in (4, 6, 8) else number
        began = time.monotonic()
        wait_until(lambda expected=expected: cache.get("store", "k") == expected)
        assert time.monotonic() - began < 1.5


def test_what_it_writes_itself_it_sees_at_once(cache: Any) -> None:
    for number in range(30):
        cache.set("store", "k", number)
        assert cache.get("store", "k") == number
        assert cache.get("store", "k") == number
        if number % 10 == 9:
            assert cache.incr("store", "k") == number + 1 == cache.get("store", "k")
            cache.set_many("store", {"k": "many"})
            assert cache.get("store", "k") == "many"
            cache.delete_many("store", ["k"])
            assert cache.get("store", "k") is None
            cache.set("store", "k", 1)
            cache.replace("store", "k", 2, expected=1)
            assert cache.get("store", "k") == 2
            cache.delete("store", "k")
            assert cache.get("store", "k", MISS) is MISS


def test_a_write_that_fails_may_have_been_one(cache: Any, other: Cache) -> None:
    other.set("store", "k", "text")
    keep(cache, "k")
    with pytest.raises(NotANumberError):
        cache.incr("store", "k")
    assert ("store", "k", None) not in store_of(cache)._entries


def test_many(world: Any, dsn: str, near_types: None, other: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """What is kept, and in one question what is not."""
    cache = world.cache(dsn, near=Near(max_staleness=10))
    other.set_many("store", {key: [key] for key in "abcd"})
    keep(cache, "a")
    caplog.set_level(logging.DEBUG, "pgcache")
    assert cache.get_many("store", ["c", "a", "absent", "c", "b"]) == {"c": ["c"], "a": ["a"], "b": ["b"]}
    wait_until(lambda: cache.get_many("store", ["c", "a", "b"]) and len(store_of(cache)) == 3)
    caplog.clear()
    for keys in (["c", "a", "b"], ["b"]):
        assert list(cache.get_many("store", keys)) == keys
    assert not caplog.records
    assert cache.get_many("store", ["a", "x", "d", "y"]) == {"a": ["a"], "d": ["d"]}
    assert [message.partition(" ")[0] for message in caplog.messages] == ["near_get_many"]
    cache.get_many("store", ["a", "b", "c"])["a"].append("mine")
    assert cache.get_many("store", ["a", "b", "c"])["a"] == ["a"]
    other.set("store", "b", "changed")
    wait_until(lambda: cache.get_many("store", ["a", "b", "c"]) == {"a": ["a"], "b": "changed", "c": ["c"]})
    for number in range(20):
        cache.set_many("store", {"a": number})
        assert cache.get_many("store", ["a", "b"])["a"] == number == cache.get_many("store", ["a", "b"])["a"]


def test_of_many_what_may_not_be_kept(cache: Any, other: Cache) -> None:
    other.set("store", "tagged", 1, tags=["t"])
    other.set_many("store", {"short": 1, "none": None}, {"short": 0.5})
    other.llm.set("p", "m", "answer")
    keys = ["tagged", "short", "none"]
    wait_until(lambda: cache.get_many("store", keys) and store_of(cache)._entries)
    assert ("store", "tagged", None) not in store_of(cache)._entries
    assert store_of(cache)._entries["store", "none", None].expires - module.now() > 3000
    wait_until(lambda: "short" not in cache.get_many("store", keys))
    other.invalidate_tags("t")
    assert cache.get_many("store", keys) == {"none": None}
    for wrong in ([5], [None], [["k"]], [b"k"]):
        with pytest.raises((TypeError, InvalidKeyError)):
            cache.get_many("store", ["none", *wrong])
    with pytest.raises(UnknownTypeError):
        cache.get_many("nothing", ["k"])
    assert cache.get_many("store", ["none", "", "a\0", "\ud800"]) == {"none": None}
    assert not store_of(cache)._loads


def test_many_of_tenants(cache: Any, other: Cache, db: psycopg.Connection) -> None:
    acme = cache.for_tenant("acme")
    other.for_tenant("acme").set("store", "k", "theirs")
    other.set("store", "k", "shared")
    wait_until(lambda: cache.get_many("store", ["k"]) and acme.get_many("store", ["k"]) and len(store_of(cache)) == 2)
    for _ in range(50):
        assert (cache.get_many("store", ["k"]), acme.get_many("store", ["k"])) == ({"k": "shared"}, {"k": "theirs"})
    hits = "SELECT sum(hits) FROM pgcache.cache_stats WHERE type = 'store'"
    wait_until(lambda: (row := db.execute(hits).fetchone()) and row[0] >= 102)
    acme.delete("store", "k")
    assert (cache.get_many("store", ["k"]), acme.get_many("store", ["k"])) == ({"k": "shared"}, {})


def test_what_has_tags_is_not_kept(cache: Any, other: Cache) -> None:
    other.set("store", "k", 1, tags=["t"])
    other.set("store", "plain", 1)
    keep(cache, "plain")
    assert not kept(cache, "k")
    other.set("store", "plain", 2, tags=["t"])
    wait_until(lambda: cache.get("store", "plain") == 2)
    other.invalidate_tags("t")
    assert cache.get("store", "plain") is None


def test_types_that_are_not_near_are_not_kept(cache: Any, other: Cache, db: psycopg.Connection) -> None:
    other.set("store", "k", 1)
    keep(cache, "k")
    db.execute("SELECT pgcache.cache_near_off('store')")
    wait_until(lambda: not kept(cache, "k"))


def test_typed_caches_and_computing(cache: Any, other: Cache, world: Any) -> None:
    other.llm.set("p", "m", "answer", tokens_used=5)
    wait_until(lambda: cache.llm.get("p", "m") is not None and store_of(cache)._entries)
    assert cache.llm.get("p", "m")["response"] == "answer"
    other.llm.set("p", "m", "another")
    wait_until(lambda: cache.llm.get("p", "m")["response"] == "another")
    computed: list[int] = []
    compute = world.function(lambda: computed.append(1) or len(computed))
    for _ in range(5):
        assert cache.get_or_compute("store", "computed", compute) == 1
    wait_until(lambda: ("store", "computed", None) in store_of(cache)._entries or not cache.get("store", "computed"))
    other.delete("store", "computed")
    wait_until(lambda: cache.get_or_compute("store", "computed", compute) == 2)


def test_tenants(cache: Any, other: Cache) -> None:
    acme = cache.for_tenant("acme")
    other.for_tenant("acme").set("store", "k", "theirs")
    other.set("store", "k", "shared")
    keep(cache, "k")
    wait_until(lambda: kept(acme, "k", tenant="acme"))
    assert (cache.get("store", "k"), acme.get("store", "k")) == ("shared", "theirs")
    assert cache.for_tenant("other").get("store", "k") is None
    acme.set("store", "k", "new")
    assert (cache.get("store", "k"), acme.get("store", "k")) == ("shared", "new")
    cache.for_tenant("").set("store", "k", "renewed")  # which is the session's own
    assert cache.get("store", "k") == "renewed"


def test_mistakes_are_what_they_were(cache: Any, other: Cache) -> None:
    other.set("store", "k", 1)
    keep(cache, "k")
    with pytest.raises(UnknownTypeError):
        cache.get("nothing", "k")
    with pytest.raises(InvalidKeyError):
        cache.get("store", "")
    for key in (5, None, ["k"], b"k"):
        with pytest.raises((TypeError, InvalidKeyError)):
            cache.get("store", key)
    assert not store_of(cache)._loads


def test_on_a_pool(world: Any, dsn: str, near_types: None, other: Cache) -> None:
    cache = world.cache(world.pool(dsn), tenant="", near=Near())
    other.set("store", "k", 1)
    keep(cache, "k", tenant="")
    other.set("store", "k", 2)
    wait_until(lambda: cache.get("store", "k") == 2)


@pytest.mark.once
def test_sessions_of_a_pool_may_be_those_of_others(dsn: str, near_types: None, other: Cache) -> None:
    """Programs set the tenant of a session for as long as they have it; nobody may get what was kept for another."""
    other.set("store", "k", "shared")
    other.for_tenant("acme").set("store", "k", "theirs")
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1, kwargs={"autocommit": True}, open=True) as pool:
        cache = Cache(pool, near=Near())
        wait_until(lambda: cache.for_tenant("").get("store", "k") and store_of(cache)._entries)
        for tenant, value in (("", "shared"), ("acme", "theirs"), ("nobody", None), ("", "shared")):
            with pool.connection() as connection:
                connection.execute("SELECT set_config('pgcache.tenant', %s, false)", [tenant])
            for _ in range(3):
                assert cache.get("store", "k") == value
        acme = cache.for_tenant("acme")
        assert acme.get("store", "k") == "theirs"
        with pool.connection() as connection:
            connection.execute("SELECT set_config('pgcache.tenant', 'acme', false)")
        cache.set("store", "k", "new")
        assert acme.get("store", "k") == "new"


@pytest.mark.once
def test_what_it_cannot_be_made_of(dsn: str) -> None:
    wrong: Any
    for wrong in (True, 1, {}):
        with pytest.raises(InvalidSettingError, match="is a Near"):
            Cache(dsn, near=wrong)
    for wrong in ("1", None, True, 0, 11, float("nan")):
        with pytest.raises(InvalidSettingError, match="max_staleness"):
            Near(max_staleness=wrong)
    with psycopg.connect(dsn) as connection, pytest.raises(InvalidSettingError, match="no near cache"):
        Cache(connection, near=Near())


def test_a_server_that_is_gone(dsn: str, near_types: None, other: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """It vouches for nothing any more; and in the meantime nothing that was changed stays."""
    caplog.set_level(logging.INFO, "pgcache")
    with Proxy(dsn) as proxy, Cache(proxy.dsn, near=Near(max_staleness=0.4), fail_soft=True, timeout=2) as cache:
        other.set("store", "k", 1)
        keep(cache, "k")
        proxy.refuse()
        proxy.cut()
        other.set("store", "k", 2)
        wait_until(lambda: cache.get("store", "k") is None)
        assert cache.get("store", "k") is None
        proxy.admit()
        wait_until(lambda: cache.get("store", "k") == 2)
        keep(cache, "k")
    assert "keeps nothing for now" in caplog.text
    assert "works again" in caplog.text


def test_a_server_that_does_not_answer(dsn: str, near_types: None, other: Cache) -> None:
    with Proxy(dsn) as proxy, Cache(proxy.dsn, near=Near(max_staleness=0.4)) as cache:
        other.set("store", "k", 1)
        keep(cache, "k")
        proxy.freeze()
        began = time.monotonic()
        wait_until(lambda: store_of(cache).read(None, "store", "k") is MISS)
        assert time.monotonic() - began < 1
        proxy.thaw()


def test_a_fork_keeps_nothing_of_its_parents(cache: Any, other: Cache, dsn: str) -> None:
    other.set("store", "k", 1)
    with Cache(dsn, near=Near()) as mine:
        keep(mine, "k")
        heard, said = os.pipe()
        child = os.fork()
        if not child:  # pragma: no cover
            try:
                before = len(store_of(mine))
                found = mine.get("store", "k")
                keep(mine, "k")
                os.write(said, f"{before} {found} {len(store_of(mine))}".encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(heard, 100) == b"0 1 1"
        assert kept(mine, "k")


@pytest.mark.once
def test_caches_of_a_process_share_what_they_keep(dsn: str, near_types: None, db: psycopg.Connection) -> None:
    caches: list[Any] = [Cache(dsn, near=Near()) for _ in range(3)]
    caches[0].set("store", "k", 1)
    keep(caches[0], "k")
    assert kept(caches[1], "k")
    assert len({id(store_of(cache)) for cache in caches}) == 1
    row = db.execute(POLLS).fetchone()
    assert row == (1,)
    caches[2].get("store", "absent")
    for cache in caches[:2]:
        cache.close()
    del cache
    row = db.execute(POLLS).fetchone()
    assert row == (1,)
    caches.clear()  # one of them without close
    gc.collect()
    wait_until(lambda: db.execute(POLLS).fetchone() == (0,))


@pytest.mark.once
def test_a_machine_that_was_asleep(dsn: str, near_types: None, other: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing that happens then is a read; nobody has asked yet what has changed."""
    with Cache(dsn, near=Near()) as cache:
        other.set("store", "k", 1)
        keep(cache, "k")
        store = store_of(cache)
        clock: Callable[[], float] = module.now
        monkeypatch.setattr(module, "now", lambda: clock() + 60)
        assert store.read(None, "store", "k") is MISS


@pytest.mark.once
def test_threads(dsn: str, near_types: None, other: Cache) -> None:
    """Each sees its own writes, and nothing that it has seen is undone."""
    failures: list[str] = []
    with Cache(dsn, near=Near()) as cache:

        def work(me: int) -> None:
            for number in range(150):
                cache.set("store", f"mine {me}", number)
                if cache.get("store", f"mine {me}") != number:
                    failures.append(f"{me}: {number}")
                cache.get("store", f"mine {(me + 1) % 4}")

        threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


@pytest.mark.once
def test_polls_that_take_as_long_as_the_bound(
    dsn: str, near_types: None, other: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer vouches from when it was asked for, and for nothing that was found before it came."""
    bound, over, chance = 0.2, threading.Event(), random.Random(1)
    other.set("store", "k", 0)
    committed = [time.monotonic()]  # when, by version
    ages = [0.0]  # of what was read, since it was replaced
    mine: Any = Cache(dsn, near=Near(max_staleness=bound))

    def write() -> None:
        while not over.wait(0.004):
            other.set("store", "k", len(committed))
            committed.append(time.monotonic())

    def hold_polls_up() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not over.is_set():
                with connection.transaction():
                    connection.execute("LOCK TABLE pgcache_internal.change_epoch IN ACCESS EXCLUSIVE MODE")
                    over.wait(bound * chance.uniform(0.5, 1.4))

    def read() -> None:
        while not over.is_set():
            began = time.monotonic()
            value = mine.get("store", "k")
            ages.extend(began - at for at in committed[value + 1 : value + 2])

    clock: Callable[[], float] = module.now
    monkeypatch.setattr(module, "now", lambda: time.sleep(0) or clock())  # others come in between
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with mine:
            keep(mine, "k")
            threads = [threading.Thread(target=each) for each in (write, hold_polls_up, read, read)]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(ages) > 20_000 or max(ages) > bound, seconds=30)
            over.set()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert bound / 2 < max(ages) <= bound
