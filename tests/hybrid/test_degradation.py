"""Whatever befalls Redis, calls go on with PostgreSQL; whatever befalls PostgreSQL, reads go on with Redis."""

from __future__ import annotations

import itertools
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgcache_py import MISS, HybridCache, Skip, UnavailableError
from pgcache_py.hybrid import breaker
from tests.client.proxy import Proxy
from tests.hybrid.conftest import WORLDS, Tier, idle_tier, until, url_of
from tests.hybrid.history import ABSENT, History

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pgcache")
    return caplog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which Redis is left alone; add to it instead of sleeping."""
    now = [1000.0]
    monkeypatch.setattr(breaker, "monotonic", lambda: now[0])
    return now


def levels(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in log.records if record.name == "pgcache"]


def tier_of(cache: Any) -> Any:
    return getattr(cache, "target", cache)._tier


def every_call(cache: Any) -> None:
    """Each kind of call, right with or without Redis."""
    cache.clear_all()
    assert cache.set("store", "k", 1) is True
    assert cache.get("store", "k") == 1
    assert cache.get("store", "absent", MISS) is MISS
    assert cache.add("store", "k", 2) is False
    assert cache.incr("store", "k") == 2
    assert cache.get("store", "k") == 2
    assert cache.set_many("store", {"a": 1, "b": 2}) == 2
    assert cache.get_many("store", ["a", "b", "c"]) == {"a": 1, "b": 2}
    assert cache.touch("store", "k", 50) is True
    assert cache.persist("store", "k") is True
    assert cache.exists("store", "k") is True
    assert cache.delete("store", "k") is True
    assert cache.get("store", "k") is None
    assert cache.delete_many("store", ["a"]) == 1
    assert cache.get_many("store", ["a", "b"]) == {"b": 2}
    assert cache.cache_face_embeddings(b"i", "t", []) is True
    assert cache.get_cached_face_embeddings(b"i", "t") == []
    assert cache.store_crawled_image("u", b"i", "raw", None, "t") is True
    assert cache.should_skip_crawled_image("u", b"i", "t") == Skip(True, "raw")
    assert cache.get_cache_stats()["postgres_stats"]["crawl_cache_count"] == 1
    assert cache.clear("store") == 1
    assert cache.get("store", "b") is None


def warm(cache: Any, tier: Tier) -> bool:
    """Whether reads come from Redis."""
    cache.set("store", "warm", 1)
    before = tier_of(cache).counts["postgres_hits"]
    return [cache.get("store", "warm"), tier_of(cache).counts["postgres_hits"]] == [1, before]


# Redis.


def test_dead_from_the_beginning(private_world: Any, dsn: str, log: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    cache = private_world.cache(dsn, redis=f"redis://127.0.0.1:{port}/0")
    every_call(cache)
    assert levels(log) == ["WARNING"]
    assert "the calls go on with PostgreSQL alone" in log.messages[0]


def test_killed_and_started_again(
    private_world: Any, dsn: str, log: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    tier = private_world.tier
    cache = private_world.cache(dsn)
    every_call(cache)
    for outage in range(1, 3):
        tier.redis.kill()
        every_call(cache)
        for _ in range(6):
            clock[0] += 40
            every_call(cache)
        assert levels(log) == ["WARNING", "INFO"] * (outage - 1) + ["WARNING"]
        tier.redis.start()
        until(tier.alive)
        clock[0] += 40
        until(lambda: warm(cache, tier))
        every_call(cache)
        assert levels(log) == ["WARNING", "INFO"] * outage
    assert cache.get_cache_stats()["tier"]["breaker"] == "closed"


def test_it_is_left_alone_for_longer_each_time(private_world: Any, dsn: str, clock: list[float]) -> None:
    cache = private_world.cache(dsn)
    private_world.tier.redis.kill()
    cache.get("store", "k")
    tier, tries = tier_of(cache), []
    connect = tier._connect
    tier._connect = lambda: [tries.append(clock[0] - 1000), connect()][1]
    for _ in range(1300):
        cache.get("store", "k")
        cache.get("store", "k")
        clock[0] += 0.1
    gaps = [after - before for before, after in itertools.pairwise([0, *tries])]
    assert gaps == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30], abs=0.15)


def test_one_that_does_not_answer_delays_one_call(
    private_world: Any, dsn: str, redis_proxy: Proxy, log: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    cache = private_world.cache(dsn, redis=url_of(redis_proxy, private_world.tier), redis_timeout=1)
    every_call(cache)
    tier, steps = tier_of(cache), []
    exchange = tier._exchange
    tier._exchange = lambda *args: [steps.append(args), exchange(*args)][1]
    redis_proxy.freeze()
    for _ in range(20):
        assert cache.set("store", "k", 1) is True
        assert cache.get("store", "k") == 1
    assert len(steps) == 1
    assert levels(log) == ["WARNING"]
    redis_proxy.thaw()
    clock[0] += 40
    until(lambda: warm(cache, private_world.tier))
    assert levels(log) == ["WARNING", "INFO"]


def test_connections_that_were_cut_are_no_outage(
    private_world: Any, dsn: str, redis_proxy: Proxy, log: pytest.LogCaptureFixture
) -> None:
    cache = private_world.cache(dsn, redis=url_of(redis_proxy, private_world.tier))
    for _ in range(3):
        every_call(cache)
        redis_proxy.cut()
        redis_proxy.wait_for_the_end()
    assert levels(log) == []
    until(lambda: warm(cache, private_world.tier))


def test_full(private_world: Any, dsn: str, log: pytest.LogCaptureFixture, clock: list[float]) -> None:
    """Redis takes no entries; what it has can still be read and invalidated."""
    tier = private_world.tier
    cache = private_world.cache(dsn)
    cache.set_many("store", {"there": 1, "changed": 1})
    cache.get_many("store", ["there", "changed"])
    client = tier.client()
    client.config_set("maxmemory", 1)
    client.config_set("maxmemory-policy", "noeviction")
    assert cache.set("store", "new", 1) is True
    assert cache.get("store", "new") == 1
    assert not tier.has("new")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE pgcache.cache_store SET data = '2' WHERE cache_key = 'changed'")
    until(lambda: not tier.has("changed"))
    assert cache.get("store", "changed") == 2
    client.config_set("maxmemory", 0)
    until(tier.alive)
    assert levels(log) == ["WARNING"]
    assert "takes no entries" in log.messages[0]
    clock[0] += 1
    until(lambda: warm(cache, tier))
    assert levels(log) == ["WARNING", "INFO"]


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "SCRIPT FLUSH"])
def test_flushed(private_world: Any, dsn: str, log: pytest.LogCaptureFixture, command: str) -> None:
    cache = private_world.cache(dsn)
    every_call(cache)
    private_world.tier.client().execute_command(*command.split())
    every_call(cache)
    until(private_world.tier.alive)
    until(lambda: warm(cache, private_world.tier))
    every_call(cache)
    assert levels(log) == []


def test_no_relay_means_no_redis(private_world: Any, dsn: str, db: psycopg.Connection) -> None:
    db.execute("SELECT pgcache.cache_hot_configure(max_staleness => '0.2 s')")
    cache = private_world.cache(dsn)
    private_world.tier.settle()
    cache.set("store", "k", "old")
    private_world.tier.stop_relay()
    db.execute("UPDATE pgcache.cache_store SET data = '\"new\"'")
    until(lambda: not private_world.tier.alive())
    every_call(cache)
    private_world.tier.start_relay()
    until(private_world.tier.alive)
    until(lambda: warm(cache, private_world.tier))


class Nonsense:
    """A server that says the same to whoever says anything."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client:
            try:
                while client.recv(65536):
                    if not self.answer:
                        return
                    client.sendall(self.answer)
            except OSError:
                pass


NONSENSE = [
    b"",
    b"hello\r\n",
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n",
    b"+OK\r\n",
    b":1\r\n",
    b"-ERR unknown command\r\n",
    b"-LOADING Redis is loading the dataset in memory\r\n",
    b"-NOAUTH Authentication required.\r\n",
    b"*2\r\n:1\r\n:2\r\n",
    b"*2\r\n$1\r\ne\r\n:2\r\n",
    b"*1\r\n$1\r\ne\r\n",
    b"*10000000\r\n",
    b"$10000000\r\nx",
    b"$3\r\nfoo\r\n",
    b"$2\r\nfo\r\n",
    b"$-7\r\n",
    b"\x00\xff\xfe\x80" * 100,
    b"+OK\r\n+OK\r\n+OK\r\n",
]


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("answer", NONSENSE)
def test_nonsense(
    world: Any, shared_dsn: str, answer: bytes, log: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    server = Nonsense(answer)
    clients = world(idle_tier(shared_dsn, server), redis_timeout=0.05)
    cache = clients.cache(shared_dsn)
    for _ in range(3):
        every_call(cache)
    assert levels(log) in (["WARNING"], ["WARNING"] * 2)  # reading is one thing, taking entries another
    clients.close()
    server.listener.close()


def test_entries_that_make_no_sense(private_world: Any, dsn: str) -> None:
    tier = private_world.tier
    cache = private_world.cache(dsn)
    client = tier.client()
    for entry in (
        b"",
        b":",
        b"E",
        b"E:",
        b"E:5",
        b"E:5:{",
        b"E:5:1 2",
        b"E:5:\xff",
        b"E:5:" + b"[" * 100_000,
        b"other:5:1",
        b"E5:1",
    ):
        cache.set("store", "k", 1)
        client.set(tier.key("k"), entry.replace(b"E", client.get(f"{tier.prefix}:alive"), 1))
        assert cache.get("store", "k") == 1, entry
        assert cache.get_many("store", ["k"]) == {"k": 1}, entry
        assert cache.get("store", "k") == 1, entry
        assert tier_of(cache).breaker.closed, entry


def test_an_entry_of_another_shape(private_world: Any, dsn: str) -> None:
    tier = private_world.tier
    cache = private_world.cache(dsn)
    cache.face.set(b"i", "t", [])
    client = tier.client()
    [name] = client.keys(f"{tier.prefix}:e:face:*")
    for document in (b"1", b"{}", b"[]", b"null"):
        client.set(name, client.get(f"{tier.prefix}:alive") + b":9:" + document)
        assert cache.face.get(b"i", "t") == []


# PostgreSQL.


@pytest.fixture
def db_proxy(dsn: str) -> Iterator[Proxy]:
    with Proxy(dsn) as proxy:
        yield proxy


@pytest.mark.parametrize("vouched", [True, False])
@pytest.mark.parametrize("fail_soft", [False, True])
def test_reads_go_on_without_postgresql(
    private_world: Any, db_proxy: Proxy, vouched: bool, fail_soft: bool, log: pytest.LogCaptureFixture
) -> None:
    """vouched: False when the relay cannot reach it either, and so vouches no longer."""
    tier = private_world.tier
    cache = private_world.cache(db_proxy.dsn, fail_soft=fail_soft, timeout=2)
    cache.set_many("store", {"a": 1, "b": None})
    cache.get_many("store", ["a", "b"])
    cache.face.set(b"i", "t", [])
    db_proxy.refuse()
    if not vouched:
        tier.stop_relay()
        tier.client().delete(f"{tier.prefix}:alive")
    for _ in range(3):
        assert cache.get("store", "a") == 1
        assert cache.get("store", "b", MISS) is None
        assert cache.get_many("store", ["a", "b"]) == {"a": 1, "b": None}
        assert cache.face.get(b"i", "t") == []
    if fail_soft:
        assert cache.set("store", "a", 2) is False
        assert cache.delete("store", "a") is False
        assert cache.get("store", "absent") is None
        assert cache.get_many("store", ["a", "absent"]) == {"a": 1}
        assert cache.get_cache_stats()["postgres_stats"] == {}
        assert levels(log) == ["WARNING"]
    else:
        for call in (
            lambda: cache.set("store", "a", 2),
            lambda: cache.delete("store", "a"),
            lambda: cache.get("store", "absent"),
            lambda: cache.get_many("store", ["a", "absent"]),
        ):
            with pytest.raises(UnavailableError):
                call()
    assert cache.get("store", "a") == 1
    db_proxy.admit()
    until(lambda: cache.set("store", "a", 3) is True)
    assert cache.get("store", "a") == 3


@pytest.mark.parametrize("fail_soft", [False, True])
@pytest.mark.parametrize("why", ["not wanted", "flushed", "killed"])
def test_both_down(private_world: Any, db_proxy: Proxy, fail_soft: bool, why: str) -> None:
    tier = private_world.tier
    options = {"fail_soft": fail_soft, "timeout": 2, "serve_when_down": why != "not wanted"}
    cache = private_world.cache(db_proxy.dsn, **options)
    cache.set("store", "k", 1)
    tier.stop_relay()
    db_proxy.refuse()
    if why == "killed":
        tier.redis.kill()
    elif why == "flushed":
        tier.client().flushall()
    else:
        tier.client().delete(f"{tier.prefix}:alive")
    for _ in range(3):
        if fail_soft:
            assert cache.get("store", "k", MISS) is MISS
            assert cache.set("store", "k", 1) is False
        else:
            with pytest.raises(UnavailableError):
                cache.get("store", "k")
            with pytest.raises(UnavailableError):
                cache.set("store", "k", 1)


# Under load.


def test_redis_is_killed_during_a_load(dsn: str, private_tier: Tier, db: psycopg.Connection) -> None:
    """No exception, no lost write, no wrong read, and hits of Redis once it is back."""
    tier, history, over = private_tier, History(), threading.Event()
    calls: list[int] = []
    tier.settle()
    bound = 5.0  # the default

    def client(number: int) -> None:
        """Has keys of its own, of which it always sees its last change; and reads those of the others."""
        chance = random.Random(number)
        written: dict[str, str | None] = {}
        cache = HybridCache(dsn, tier.url, prefix=tier.prefix)
        with cache:
            while not over.is_set():
                calls.append(number)
                key, start = f"{number}/{chance.randrange(5)}", time.monotonic()
                match chance.randrange(6):
                    case 0:
                        value = history.new_value()
                        assert cache.set("store", key, value) is True
                        written[key] = value
                        history.wrote(key, value, start, time.monotonic())
                    case 1:
                        cache.delete("store", key)
                        written[key] = ABSENT
                        history.wrote(key, ABSENT, start, time.monotonic())
                    case _:
                        key = f"{chance.randrange(6)}/{chance.randrange(5)}"
                        history.read("client", key, cache.get("store", key), start, time.monotonic())
        stored: dict[str, Any] = dict(db.execute("SELECT cache_key, data FROM pgcache.cache_store").fetchall())
        assert {key: stored.get(key) for key in written} == written, "a write was lost"

    def let_them(call: int) -> None:
        before = len(calls)
        until(lambda: len(calls) >= before + call or any(each.done() for each in clients))

    with ThreadPoolExecutor(7) as threads:
        clients = [threads.submit(client, number) for number in range(6)]
        for _ in range(2):
            let_them(call=300)
            tier.redis.kill()
            let_them(call=300)
            tier.redis.start()
        let_them(call=300)
        over.set()
        for each in clients:
            each.result()
    assert history.violations(bound) == []
    until(tier.alive)
    with HybridCache(dsn, tier.url, prefix=tier.prefix) as cache:
        until(lambda: warm(cache, tier))
