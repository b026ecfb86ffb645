"""Computing once: leases across threads, tasks and processes, tags, stale values, and limits of time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo

from pgcache_py import (
    AsyncCache,
    Cache,
    Computed,
    Fetched,
    InvalidTagError,
    InvalidTTLError,
    InvalidValueError,
    TooSlowError,
    UnavailableError,
)
from pgcache_py.client import terms
from tests.client.proxy import Proxy
from tests.conftest import NewRole
from tests.tools.waiting import Background, at_once, wait_until

pytestmark = pytest.mark.once  # the client; what it calls is in tests/sql

LEASES = b"SELECT count(*) FROM pgcache_internal.leases WHERE deadline > clock_timestamp()"


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pgcache")
    return caplog


@pytest.fixture
def counted(world: Any) -> Any:
    """Makes computations, and counts them: the result of `count` says how many there have been."""
    return Computations(world)


class Computations:
    """What computes, in either world. value: what is returned, or raised."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.number = 0

    def __cache_key__(self) -> None:
        """It makes no difference."""

    def __call__(self, value: Any) -> Any:
        def compute(*args: Any) -> Any:
            self.number += 1
            if isinstance(value, BaseException):
                raise value
            return value() if callable(value) else value

        return self.world.function(compute)


def leases(db: psycopg.Connection) -> int:
    row = db.execute(LEASES).fetchone()
    assert row
    return int(row[0])


def misses(db: psycopg.Connection) -> int:
    row = db.execute("SELECT misses FROM pgcache.cache_stats WHERE type = 'store'").fetchone()
    assert row
    return int(row[0])


def at(world: Any, dsn: str, time: str, **options: Any) -> Any:
    """A cache for which it is that time of a day."""
    return world.cache(make_conninfo(dsn, options=f"-c pgcache.clock=2030-01-01T{time}+00"), **options)


# The calls.


def test_fetch_and_set(cache: Any, world: Any, dsn: str) -> None:
    other = world.cache(dsn)
    won = cache.fetch("store", "k", tags=["t"])
    assert (won.value, won.state) == (None, "won")
    assert other.fetch("store", "k", wait=0) == Fetched(None, "busy", None)
    assert cache.set("store", "k", None, token=won.token) is True
    assert other.fetch("store", "k") == Fetched(None, "fresh", None)
    assert cache.set("store", "k", 1, token=won.token) is False
    other.invalidate_tags("u", "t")
    won = cache.fetch("store", "k")
    assert won.state == "won"
    assert cache.release("store", "k", won.token) is True
    assert cache.release("store", "k", won.token) is False
    assert cache.release("store", "k", None) is False
    assert cache.set("store", "k", 2, token=won.token) is False
    for mine in (cache, cache.for_tenant("t")):
        assert mine.fetch("store", "k", wait=0).state == "won"


def test_fetch_waits_for_another(cache: Any, world: Any, dsn: str, db: psycopg.Connection) -> None:
    won = cache.fetch("store", "k")
    with Cache(dsn) as other, Cache(dsn) as third:
        waiting = [Background(partial(each.fetch, "store", "k", wait=60)) for each in (other, third)]
        assert cache.fetch("store", "k", wait=0.02).state == "busy"
        assert misses(db) <= 4, "who asks again has not missed again"
        cache.set("store", "k", 5, token=won.token)
        assert [each.result() for each in waiting] == [Fetched(5, "fresh", None)] * 2
    assert misses(db) <= 4


def test_tags(cache: Any) -> None:
    tags = iter(["doc:1", 'a "b", c\\', "ü"])
    assert cache.set("store", "k", 1, tags=tags) is True
    assert cache.set("store", "l", 1, 60, tags=["doc:2"]) is True
    assert cache.set("store", "m", 1, tags=[]) is True
    cache.invalidate_tags()
    assert (
        cache.get_many("store", "klm")
        if False
        else cache.get_many("store", ["k", "l", "m"]) == {"k": 1, "l": 1, "m": 1}
    )
    cache.invalidate_tags('a "b", c\\')
    assert cache.get_many("store", ["k", "l", "m"]) == {"l": 1, "m": 1}
    cache.invalidate_tags("doc:*")
    assert cache.get_many("store", ["k", "l", "m"]) == {"m": 1}


def test_tags_of_tenants(cache: Any) -> None:
    tenant = cache.for_tenant("a")
    for each in (cache, tenant):
        each.set("store", "k", 1, tags=["t"])
    tenant.invalidate_tags("t")
    assert (cache.get("store", "k"), tenant.get("store", "k")) == (1, None)


def test_soft_deletion(cache: Any) -> None:
    for delete in (
        lambda: cache.delete("store", "k", soft=True),
        lambda: cache.delete_many("store", ["k", "none"], soft=True),
        lambda: cache.delete_pattern("store", "k%", soft=True),
    ):
        cache.set("store", "k", 1)
        assert delete() == 1
        assert cache.get("store", "k") is None
        stale = cache.fetch("store", "k", stale_for=60)
        assert (stale.value, stale.state) == (1, "stale_won")
        assert cache.delete("store", "k") is False
        assert cache.fetch("store", "k", wait=0, stale_for=60).state == "won"


def test_what_is_wrong_with_a_call(cache: Any, counted: Computations) -> None:
    compute = counted(1)
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (TypeError, {"tags": "doc:1"}),
        (TypeError, {"tags": [1]}),
        (InvalidTagError, {"tags": [""]}),
        (InvalidTagError, {"tags": [f"t{n}" for n in range(33)]}),
        (InvalidTTLError, {"stale_for": -1}),
        (InvalidTTLError, {"stale_if_error": "no"}),
        (InvalidTTLError, {"stale_for": float("nan")}),
        (InvalidTTLError, {"ttl": 0}),
        (InvalidTTLError, {"ttl": -0.5}),
        (InvalidTTLError, {"ttl": timedelta()}),
        (InvalidTTLError, {"ttl": float("nan")}),
        (InvalidTTLError, {"ttl": 10**20}),
        (InvalidValueError, {"soft_timeout": 0}),
        (InvalidValueError, {"hard_timeout": -1}),
        (InvalidValueError, {"hard_timeout": "5"}),
    ]
    for error, options in wrong:
        with pytest.raises(error):
            cache.get_or_compute("store", "k", compute, **options)
    assert counted.number == 0
    with pytest.raises(TypeError):
        Computed(1, tags="doc:1")
    with pytest.raises(InvalidTTLError):
        cache.embedding.get_or_compute_many(["t"], "m", compute, ttl=-1)
    assert counted.number == 0
    for wait in (-1, float("inf"), float("nan"), "1", None, True):
        with pytest.raises(InvalidValueError):
            cache.fetch("store", "k", wait=wait)
    with pytest.raises(InvalidTTLError):
        cache.fetch("store", "k", lease=0)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, Computed(1, ttl=0)),
        ({}, Computed(1, ttl=float("nan"))),
        ({}, Computed(1, ttl="soon")),
        ({}, Computed(1, tags=[""])),
        ({}, Computed(1, tags=[f"t{n}" for n in range(33)])),
        ({"ttl": "soon"}, 1),
        ({"ttl": "-1 hour"}, 1),
    ],
)
def test_what_cannot_be_kept_is_returned_all_the_same(
    cache: Any, counted: Computations, caplog: pytest.LogCaptureFixture, options: dict[str, Any], value: Any
) -> None:
    """Only the server, or who computes, knows that it cannot: by then it is paid for."""
    assert cache.get_or_compute("store", "k", counted(value), **options) == 1
    assert "is not cached in store" in caplog.text
    assert cache.fetch("store", "k", wait=0).state == "won", "it has given the lease back"


# One computes.


def test_200_threads_compute_once(dsn: str, db: psycopg.Connection) -> None:
    calls: list[str] = []

    def compute(key: str) -> str:
        calls.append(key)
        wait_until(lambda: misses(db) >= 200 * len(calls), 120)
        return key

    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=40, timeout=300) as pool:
        cache = Cache(pool)
        for key in ("a", "b", "c"):
            found = at_once(*[partial(cache.get_or_compute, "store", key, partial(compute, key))] * 200)
            assert found == [key] * 200
        assert calls == ["a", "b", "c"]
        assert misses(db) == 600, "each has missed once, however often it asked again"


def test_200_tasks_compute_once(dsn: str) -> None:
    calls: list[str] = []

    async def compute(key: str) -> str:
        calls.append(key)
        await asyncio.sleep(0.5)
        return key

    async def scenario() -> None:
        pool = psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=40, open=False, timeout=300)
        async with pool:
            cache = AsyncCache(pool)
            for key in ("a", "b", "c"):
                found = [cache.get_or_compute("store", key, partial(compute, key)) for _ in range(200)]
                assert await asyncio.gather(*found) == [key] * 200

    asyncio.run(scenario())
    assert calls == ["a", "b", "c"]


def test_processes_compute_once(dsn: str, db: psycopg.Connection) -> None:
    program = """
import sys, time
from pgcache_py import Cache
def compute():
    print("computed")
    time.sleep(0.5)
    return [1]
with Cache(sys.argv[1]) as cache:
    sys.stdin.read(1)
    assert cache.get_or_compute("store", "k", compute) == [1]
"""
    command = [sys.executable, "-c", program, dsn]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(8)]
    said = [child.communicate("x")[0] for child in children]
    assert [child.returncode for child in children] == [0] * 8
    assert "".join(said) == "computed\n"


def test_who_waits_holds_no_connection(dsn: str) -> None:
    """Who computes needs one of the two."""
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=2, timeout=300) as pool:
        cache = Cache(pool)

        def compute() -> int:
            with pool.connection(), pool.connection():
                pass
            return cache.get_or_compute("store", "part", lambda: 7)

        assert at_once(*[lambda: cache.get_or_compute("store", "k", compute)] * 50) == [7] * 50


def test_a_nested_computation(cache: Any, world: Any, counted: Computations) -> None:
    if world.name == "sync":
        outer = counted(lambda: cache.get_or_compute("store", "in", counted(1)) + 1)
        assert cache.get_or_compute("store", "out", outer) == cache.get("store", "out") == 2
        assert counted.number == 2


def test_the_typed_ones(cache: Any, world: Any, dsn: str, counted: Computations, db: psycopg.Connection) -> None:
    calls: list[Callable[..., Any]] = [
        lambda cache, **terms: cache.llm.get_or_compute("p", "m", counted("a"), **terms)["response"],
        lambda cache, **terms: cache.embedding.get_or_compute("t", "m", counted([0.1, 2]), **terms)[1],
        lambda cache, **terms: cache.ai_worker.get_or_compute("p", "m", "v", counted("SELECT 1"), **terms),
    ]
    other = world.cache(dsn)
    for number, call in enumerate(calls, 1):
        found = call(cache, tags=["t"], stale_for=60, hard_timeout=100)
        assert call(other) == found
        assert counted.number == 2 * number - 1
        cache.invalidate_tags("t")
        assert call(other) == found
        assert counted.number == 2 * number
    assert leases(db) == 0
    with pytest.raises(ZeroDivisionError):
        cache.llm.get_or_compute("q", "m", counted(ZeroDivisionError()))
    computed = Computed({"response": "b", "tokens_used": 3}, ttl=60, tags=["u"])
    assert cache.llm.get_or_compute("q", "m", counted(computed))["tokens_used"] == 3
    assert cache.llm.get("q", "m") == {"response": "b", "model": "m", "tokens_used": 3}
    cache.invalidate_tags("u")
    assert cache.llm.get("q", "m") is None
    assert leases(db) == 0


def test_vectors_are_float32(cache: Any, world: Any, dsn: str, counted: Computations) -> None:
    won = cache.fetch("embedding", cache.key("t", "m"))
    with Cache(dsn) as other:
        waiting = Background(lambda: other.embedding.get_or_compute("t", "m", lambda: [0.0]))
        cache.set("embedding", cache.key("t", "m"), {"embedding": [0.1, 1e-45, 3.4028235e38]}, token=won.token)
        assert waiting.result() == cache.embedding.get("t", "m")


# Failure.


def test_a_failed_computation_gives_its_lease_back(cache: Any, counted: Computations, db: psycopg.Connection) -> None:
    for error in (ZeroDivisionError(), KeyboardInterrupt(), SystemExit(), InvalidValueError("no")):
        with pytest.raises(type(error)):
            cache.get_or_compute("store", "k", counted(error))
        assert leases(db) == 0
    assert cache.get_or_compute("store", "k", counted(1)) == 1


def test_what_cannot_be_stored_gives_its_lease_back(cache: Any, counted: Computations, db: psycopg.Connection) -> None:
    cache.create_type("small", max_bytes=100_000, eviction="none")
    for type, value in [("store", {1: 2}), ("store", "a\0b"), ("small", "x" * 200_000)]:
        assert cache.get_or_compute(type, "k", counted(value)) == value
        assert leases(db) == 0


def noticed(condition: Callable[[], bool]) -> bool:
    """Whether it is so within two seconds."""
    with suppress(AssertionError):
        return wait_until(condition, 2)
    return False


def test_all_who_wait_for_a_computation_that_fails_get_their_turn(dsn: str, db: psycopg.Connection) -> None:
    """After a few turns all at once: a hundred failures, one after another, would take a hundred times as long."""
    gate = threading.Semaphore(0)
    calls = []

    def compute() -> None:
        calls.append(1)
        gate.acquire()
        raise ZeroDivisionError

    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=20, timeout=300) as pool:
        cache = Cache(pool)
        waiting = [Background(partial(cache.get_or_compute, "store", "k", compute)) for _ in range(30)]
        wait_until(lambda: misses(db) == 30, 60)
        # Who waits may not have noticed a turn that was short.
        for turn in range(1, 2 * terms.TURNS + 2):
            wait_until(lambda: len(calls) >= turn, 60)  # noqa: B023 (it is called at once)
            if turn > terms.TURNS and noticed(lambda: len(calls) > turn):  # noqa: B023
                break
            assert len(calls) == turn, "one after another"
            gate.release()
        else:
            pytest.fail("they go on to wait")
        gate.release(30)
        for each in waiting:
            with pytest.raises(ZeroDivisionError):
                each.result()
        assert cache.get("store", "k") is None
        assert leases(db) == 0


def test_a_holder_that_is_killed(dsn: str, world: Any, counted: Computations, db: psycopg.Connection) -> None:
    program = """
import sys, time
from pgcache_py import Cache
def compute():
    print("computes", flush=True)
    time.sleep(1000)
Cache(sys.argv[1]).get_or_compute("store", "k", compute)
"""
    clocked = make_conninfo(dsn, options="-c pgcache.clock=2030-01-01T00:00:00+00")
    child = subprocess.Popen([sys.executable, "-c", program, clocked], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    try:
        assert child.stdout.readline() == "computes\n"
        assert at(world, dsn, "00:00:29").fetch("store", "k", wait=0).state == "busy"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with pytest.raises(TooSlowError, match="another one computes it"):
        at(world, dsn, "00:00:29").get_or_compute("store", "k", counted(1), hard_timeout=0.05)
    assert at(world, dsn, "00:00:30").get_or_compute("store", "k", counted(2)) == 2
    assert at(world, dsn, "00:00:30").get("store", "k") == 2
    assert counted.number == 1


def test_the_length_of_a_lease(dsn: str, world: Any, db: psycopg.Connection, counted: Computations) -> None:
    cache = at(world, dsn, "00:00:00")
    found = []

    def compute() -> int:
        length = "max(deadline) - timestamptz '2030-01-01 00:00+00'"  # one that was used may be left for a while
        row = db.execute(f"SELECT {length} FROM pgcache_internal.leases".encode()).fetchone()
        assert row
        found.append(row[0].total_seconds())
        return 1

    for limit in (None, 5, 100, 10_000):
        assert cache.get_or_compute("store", str(limit), counted(compute), hard_timeout=limit) == 1
    assert found == [30, 30, 100, 3600]
    assert terms.Terms().lease(waited=40) == "80.000 seconds"


def test_while_a_deletion_goes_on_it_is_computed_but_not_stored(
    cache: Any, counted: Computations, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgcache_py.client._async import once as waiting
    from pgcache_py.client._sync import once as blocking

    for module in (waiting, blocking):
        monkeypatch.setattr(module, "NOBODY", 0.2)
    with db.transaction():
        db.execute("SELECT pgcache.cache_delete('store', 'k')")
        assert cache.get_or_compute("store", "k", counted(1)) == 1
        assert cache.recompute("store", "k", counted(1)) == 1
    assert cache.get("store", "k") is None
    assert cache.get_or_compute("store", "k", counted(2)) == cache.get("store", "k") == 2


# What changes meanwhile.


@pytest.mark.parametrize("compute", ["get_or_compute", "recompute"])
def test_what_changes_while_it_is_computed_is_not_stored(
    cache: Any, world: Any, counted: Computations, db: psycopg.Connection, compute: str
) -> None:
    changes: dict[str, list[str]] = {
        "cache_delete('store', %s)": ["a"],
        "cache_delete_pattern('store', %s)": ["b"],
        "cache_set('store', %s, '\"new\"')": ["c"],
        "cache_invalidate_tags('u', %s)": ["t"],
        "cache_clear('store')": [],
    }
    for key, (change, params) in zip("abcde", changes.items(), strict=True):

        def changing(change: str = change, params: list[str] = params) -> str:
            db.execute(f"SELECT pgcache.{change}".encode(), params)
            return "old"

        assert getattr(cache, compute)("store", key, counted(changing), tags=["t"]) == "old"
        assert cache.get("store", key) == ("new" if "cache_set" in change else None)
    assert leases(db) == 0


def test_who_recomputes_takes_the_lease(cache: Any, world: Any, dsn: str, counted: Computations) -> None:
    """What the other one computes may be older than what is known here to have changed."""
    other = world.cache(dsn)
    won = other.fetch("store", "k")
    assert cache.recompute("store", "k", counted("new")) == "new"
    assert other.set("store", "k", "old", token=won.token) is False
    assert cache.recompute("store", "k", counted("newer"), ttl=60) == "newer"
    assert cache.get("store", "k") == "newer"
    with pytest.raises(ZeroDivisionError):
        cache.recompute("store", "k", counted(ZeroDivisionError()), stale_if_error=60)
    assert cache.get("store", "k") == "newer"


def test_computed(cache: Any, counted: Computations) -> None:
    tags = (f"doc:{n}" for n in (1, 2))
    computed = Computed({"a": 1}, ttl="20 seconds", tags=tags)
    assert cache.get_or_compute("store", "k", counted(computed), ttl=60, tags=["t"]) == {"a": 1}
    assert 0 < cache.ttl("store", "k").total_seconds() <= 20
    for tag in ("doc:2", "t", "doc:*"):
        assert cache.recompute("store", "k", counted(computed), tags=["t"]) == {"a": 1}
        assert cache.get("store", "k") == {"a": 1}
        cache.invalidate_tags(tag)
        assert cache.get("store", "k") is None
    assert cache.get_or_compute("store", "l", counted(Computed(None)), ttl=60) is None
    assert cache.ttl("store", "l").total_seconds() <= 60


def test_cached_with_tags(cache: Any, counted: Computations) -> None:
    def tags(doc: int, page: int = 0) -> list[str]:
        return [f"doc:{doc}"]

    def render(doc: int, page: int = 0) -> Any:
        counted.number += 1
        return Computed([doc, page], tags=[f"page:{page}"]) if page else [doc, page]

    cached = cache.cached(tags=tags, ttl=60, hard_timeout=100)(counted.world.function(render))
    assert [cached(1), cached(1, 2), cached(2), cached(1), cached(1, page=2)] == [
        [1, 0],
        [1, 2],
        [2, 0],
        [1, 0],
        [1, 2],
    ]
    assert counted.number == 3
    cache.invalidate_tags("page:2")
    assert [cached(1), cached(1, 2)] == [[1, 0], [1, 2]]
    assert counted.number == 4
    cache.invalidate_tags("doc:1")
    assert [cached(1), cached(1, 2), cached(2)] == [[1, 0], [1, 2], [2, 0]]
    assert counted.number == 6
    assert cached.refresh(1, 2) == [1, 2]
    fixed = cache.cached(tags=["all"])(counted.world.function(lambda: 5))
    assert fixed() == 5
    assert cache.get("store", fixed.key()) == 5
    cache.invalidate_tags("all")
    assert cache.get("store", fixed.key()) is None


class Page:
    def __init__(self, id: int) -> None:
        self.id = id

    def __cache_key__(self) -> int:
        return self.id

    def title(self) -> str:
        return f"title of {self.id}"


def test_methods_with_tags(dsn: str) -> None:
    with Cache(dsn) as cache:
        title = cache.cached(tags=lambda page: [f"page:{page.id}"])(Page.title).__get__(Page(3))
        assert title() == cache.get("store", title.key()) == "title of 3"
        cache.invalidate_tags("page:3")
        assert cache.get("store", title.key()) is None


# Stale values.


def test_stale_for(dsn: str, world: Any, counted: Computations) -> None:
    early, late = at(world, dsn, "00:00:00"), at(world, dsn, "01:05:00")
    assert early.get_or_compute("store", "k", counted("old"), 3600, stale_for=600) == "old"
    won = at(world, dsn, "01:00:00").fetch("store", "k", stale_for=600, lease=1000)
    assert (won.value, won.state) == ("old", "stale_won")
    assert late.get_or_compute("store", "k", counted("new"), stale_for=600) == "old"
    for stale_for in (None, 60):
        with pytest.raises(TooSlowError):
            late.get_or_compute("store", "k", counted("new"), stale_for=stale_for, hard_timeout=0.02)
    assert late.get_or_compute("store", "k", counted("new"), stale_if_error=600, hard_timeout=0.02) == "old"
    assert counted.number == 1
    assert late.release("store", "k", won.token) is True
    assert late.get_or_compute("store", "k", counted("new"), stale_for=600) == "new"
    assert late.get("store", "k") == "new"


def test_stale_if_error(dsn: str, world: Any, counted: Computations, log: pytest.LogCaptureFixture) -> None:
    options = {"stale_if_error": "10 minutes"}
    fail = counted(ZeroDivisionError("by nought"))
    assert at(world, dsn, "00:00:00").get_or_compute("store", "k", counted("old"), 3600, **options) == "old"
    with pytest.raises(ZeroDivisionError):
        at(world, dsn, "01:05:00").get_or_compute("store", "k", fail)
    assert at(world, dsn, "01:05:00").get_or_compute("store", "k", fail, **options) == "old"
    assert "by nought" in log.text
    assert counted.number == 3
    # For 30 seconds nobody tries again.
    assert at(world, dsn, "01:05:29").get_or_compute("store", "k", counted("new"), **options) == "old"
    assert counted.number == 3
    # Who takes no old value computes one, at once; it is not stored.
    assert at(world, dsn, "01:05:29").get_or_compute("store", "k", counted("mine")) == "mine"
    assert at(world, dsn, "01:05:29").get("store", "k") is None
    assert at(world, dsn, "01:05:30").get_or_compute("store", "k", fail, **options) == "old"
    with pytest.raises(ZeroDivisionError):
        at(world, dsn, "01:10:00").get_or_compute("store", "k", fail, **options)
    assert at(world, dsn, "01:10:00").get_or_compute("store", "k", counted("new"), **options) == "new"


def test_what_was_invalidated_is_not_used_if_it_fails(dsn: str, world: Any, counted: Computations) -> None:
    cache = at(world, dsn, "00:00:00")
    for invalidate in (lambda: cache.invalidate_tags("t"), lambda: cache.delete("store", "k")):
        cache.get_or_compute("store", "k", counted("old"), stale_if_error=600, tags=["t"])
        invalidate()
        with pytest.raises(ZeroDivisionError):
            cache.get_or_compute("store", "k", counted(ZeroDivisionError()), stale_if_error=600, tags=["t"])
        assert cache.get_or_compute("store", "k", counted("new")) == "new"


def test_early_renewal(dsn: str, world: Any, counted: Computations, db: psycopg.Connection) -> None:
    late = at(world, dsn, "00:59:59")

    def slow() -> None:
        at(world, dsn, "00:00:00").recompute("store", "k", counted("old"), 3600)
        db.execute("UPDATE pgcache.cache_type_store SET cache_compute_ms = 1e30")

    slow()
    assert late.get_or_compute("store", "k", counted(ZeroDivisionError())) == "old", "it has not expired"
    assert late.get_or_compute("store", "k", counted("new")) == "old", "it is not tried again at once"
    assert counted.number == 2
    slow()
    assert late.get_or_compute("store", "k", counted("new")) == late.get("store", "k") == "new"


# Limits of time.


def test_a_soft_timeout(dsn: str) -> None:
    with Cache(dsn) as cache:
        cache.set("store", "k", "old")
        cache.delete("store", "k", soft=True)
        go = threading.Event()

        def compute() -> str:
            go.wait(60)
            return "new"

        assert cache.get_or_compute("store", "k", compute, stale_for=60, soft_timeout=0.05) == "old"
        assert cache.get_or_compute("store", "k", compute, stale_for=60, soft_timeout=0.05) == "old"
        go.set()
        assert wait_until(lambda: cache.get("store", "k")) == "new"
        go.clear()
        threading.Timer(0.1, go.set).start()
        assert cache.get_or_compute("store", "none", compute, stale_for=60, soft_timeout=0.01) == "new", "there is none"


def test_a_soft_timeout_of_a_task(dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncCache(dsn) as cache:
            await cache.set("store", "k", "old")
            await cache.delete("store", "k", soft=True)
            go = asyncio.Event()

            async def compute() -> str:
                await go.wait()
                return "new"

            options: Any = {"stale_for": 60, "soft_timeout": 0.05}
            assert await cache.get_or_compute("store", "k", compute, **options) == "old"
            go.set()
            while (found := await cache.get("store", "k")) is None:
                await asyncio.sleep(0.005)
            assert found == "new"

    asyncio.run(scenario())


def test_a_computation_in_the_background_that_fails(
    dsn: str, db: psycopg.Connection, log: pytest.LogCaptureFixture
) -> None:
    with Cache(dsn) as cache:
        cache.set("store", "k", "old")
        cache.delete("store", "k", soft=True)
        go = threading.Event()

        def compute() -> None:
            go.wait(60)
            raise ZeroDivisionError("by nought")

        assert cache.get_or_compute("store", "k", compute, stale_for=60, soft_timeout=0.01) == "old"
        go.set()
        wait_until(lambda: "by nought" in log.text)
        assert leases(db) == 0


def test_a_hard_timeout(dsn: str, db: psycopg.Connection) -> None:
    with Cache(dsn) as cache:
        go = threading.Event()

        def compute() -> str:
            go.wait(60)
            return "new"

        with pytest.raises(TooSlowError, match=r"0\.05 seconds") as caught:
            cache.get_or_compute("store", "k", compute, hard_timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert cache.fetch("store", "k", wait=0).state == "busy"
        go.set()
        assert wait_until(lambda: cache.get("store", "k")) == "new", "it cannot be ended, so it is stored"
        assert cache.get_or_compute("store", "k", compute, hard_timeout=60) == "new"
        go.clear()
        with pytest.raises(TooSlowError):
            cache.recompute("store", "k", compute, hard_timeout=0.05)
        go.set()
        cache.set("store", "s", "old")
        cache.delete("store", "s", soft=True)
        go.clear()
        assert cache.get_or_compute("store", "s", compute, hard_timeout=0.05, stale_if_error=60) == "old"
        go.set()
        assert wait_until(lambda: cache.get("store", "s")) == "new"


def test_a_hard_timeout_cancels_a_task(dsn: str, db: psycopg.Connection) -> None:
    async def scenario() -> None:
        async with AsyncCache(dsn) as cache:
            ended = asyncio.Event()

            async def compute() -> str:
                try:
                    await asyncio.sleep(600)
                finally:
                    ended.set()
                return "new"

            with pytest.raises(TooSlowError):
                await cache.get_or_compute("store", "k", compute, hard_timeout=0.05)
            await ended.wait()
            while leases(db):
                await asyncio.sleep(0.005)
            await cache.set("store", "k", "old")
            await cache.delete("store", "k", soft=True)
            assert await cache.get_or_compute("store", "k", compute, hard_timeout=0.05, stale_if_error=60) == "old"
            await asyncio.sleep(0)
            assert await cache.get_or_compute("store", "k", compute, stale_if_error=60) == "old", "it has failed lately"

    asyncio.run(scenario())


@pytest.mark.parametrize("limit", [{}, {"hard_timeout": 600.0}])
def test_a_task_that_is_cancelled_gives_its_lease_back(dsn: str, db: psycopg.Connection, limit: Any) -> None:
    async def scenario() -> None:
        async with AsyncCache(dsn) as cache:
            began = asyncio.Event()

            async def compute() -> None:
                began.set()
                await asyncio.sleep(600)

            task = asyncio.ensure_future(cache.get_or_compute("store", "k", compute, **limit))
            await began.wait()
            for _ in range(3):  # as often as libraries do it
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            while leases(db):
                await asyncio.sleep(0.005)

    asyncio.run(scenario())


def test_a_loop_that_ends_gives_leases_back(dsn: str, db: psycopg.Connection) -> None:
    cache = AsyncCache(dsn)

    async def scenario() -> None:
        await cache.set("store", "k", "old")
        await cache.delete("store", "k", soft=True)
        options: Any = {"stale_for": 60, "soft_timeout": 0.05}
        assert await cache.get_or_compute("store", "k", partial(asyncio.sleep, 600), **options) == "old"

    asyncio.run(scenario())
    assert leases(db) == 0
    asyncio.run(cache.close())


def test_a_computation_in_the_background_does_not_hold_up_the_end(dsn: str) -> None:
    program = """
import sys, time
from pgcache_py import Cache
cache = Cache(sys.argv[1])
cache.set("store", "k", "old")
cache.delete("store", "k", soft=True)
assert cache.get_or_compute("store", "k", lambda: time.sleep(1000), stale_for=60, soft_timeout=0.05) == "old"
"""
    done = subprocess.run([sys.executable, "-c", program, dsn], timeout=120, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_a_fork(dsn: str, db: psycopg.Connection) -> None:
    program = """
import os, sys, time
from pgcache_py import Cache
cache = Cache(sys.argv[1])
cache.set("store", "k", "old")
cache.delete("store", "k", soft=True)
compute = lambda: time.sleep(0.3) or "new"
assert cache.get_or_compute("store", "k", compute, stale_for=60, soft_timeout=0.01) == "old"
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
else:
    assert cache.get_or_compute("store", "k", lambda: "child's", hard_timeout=60) == "new"
    os._exit(0)
assert cache.get_or_compute("store", "k", lambda: "late", hard_timeout=60) == "new"
"""
    done = subprocess.run([sys.executable, "-c", program, dsn], timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Where there are no leases.


def test_in_a_transaction_of_the_callers(world: Any, dsn: str, counted: Computations, db: psycopg.Connection) -> None:
    for autocommit in (True, False):
        connection = world.connect(dsn, autocommit=autocommit)
        cache = world.cache(connection)
        if autocommit:
            connection.execute("BEGIN")
        for options in ({}, {"tags": ["t"]}, {"hard_timeout": 60, "stale_for": 60, "soft_timeout": 1}):
            key = str(options)
            assert cache.get_or_compute("store", key, counted(lambda: leases(db)), **options) == 0
            assert cache.get_or_compute("store", key, counted(1), **options) == 0
            assert cache.recompute("store", key, counted(2), tags=["t"]) == 2
            assert cache.get("store", key) == 2
        cache.invalidate_tags("t")
        assert cache.get("store", key) is None
        connection.rollback()
        assert cache.keys("store") == []
        connection.rollback()
    connection.set_autocommit(True)
    assert cache.get_or_compute("store", "k", counted(lambda: leases(db))) == 1


@pytest.mark.parametrize("setting", ["transaction_read_only=on", r"transaction_isolation=repeatable\ read"])
def test_sessions_without_leases(
    world: Any, dsn: str, counted: Computations, setting: str, log: pytest.LogCaptureFixture
) -> None:
    cache = world.cache(make_conninfo(dsn, options=f"-c default_{setting}"))
    stored = "repeatable" in setting
    for number in (1, 2):
        assert cache.get_or_compute("store", "k", counted(number), tags=["t"]) == (1 if stored else number)
        assert cache.recompute("store", "r", counted(number)) == number
    assert ("is not cached" in log.text) is not stored
    if stored:
        cache.invalidate_tags("t")
    assert cache.get("store", "k") is None


@pytest.mark.parametrize("fail_soft", [False, True])
def test_a_role_that_may_only_read(
    world: Any, dsn: str, role: NewRole, counted: Computations, log: pytest.LogCaptureFixture, fail_soft: bool
) -> None:
    reader = role("read")
    dsn_of_reader = make_conninfo(dsn, user=reader.connection.info.user, password="secret")
    cache = world.cache(dsn_of_reader, fail_soft=fail_soft)
    with Cache(dsn) as owner:
        owner.set("store", "k", "hit")
    for _ in range(2):
        assert cache.get_or_compute("store", "k", counted(1)) == "hit"
    assert counted.number == 0
    assert cache.get_or_compute("store", "l", counted(1)) == 1
    assert cache.recompute("store", "l", counted(2)) == 2
    assert cache.get("store", "l") is None
    assert ("client_fetch failed" if fail_soft else "is not cached") in log.text


def test_a_role_that_is_given_access_later(
    world: Any, dsn: str, role: NewRole, counted: Computations, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgcache_py.client._async import once as waiting
    from pgcache_py.client._sync import once as blocking

    for module in (waiting, blocking):
        monkeypatch.setattr(module, "REFUSED", 0.5)
    user = role("read").connection.info.user
    cache = world.cache(make_conninfo(dsn, user=user, password="secret"))
    assert cache.get_or_compute("store", "k", counted(lambda: leases(db))) == 0
    db.execute("SELECT pgcache.cache_grant(%s, 'write')", [user])

    def leased() -> Any:
        cache.delete("store", "k")
        return cache.get_or_compute("store", "k", counted(lambda: leases(db)))

    assert wait_until(leased) == 1, "it asks again, however often it is called"


def test_fail_soft(world: Any, proxy: Proxy, counted: Computations, db: psycopg.Connection) -> None:
    cache = world.cache(proxy.dsn, fail_soft=True)
    strict = world.cache(proxy.dsn)
    assert cache.get_or_compute("store", "k", counted(1), tags=["t"], stale_for=60) == 1
    proxy.refuse()
    limits = {"hard_timeout": 600, "stale_for": 60, "stale_if_error": 60, "soft_timeout": 60, "tags": ["t"]}
    assert cache.get_or_compute("store", "k", counted(2), **limits) == 2
    assert cache.recompute("store", "k", counted(3), tags=["t"]) == 3
    assert cache.cached(tags=["t"])(counted(4))() == 4
    assert cache.fetch("store", "k") == Fetched(None, "won", None)
    assert cache.set("store", "k", 1, tags=["t"]) is False
    assert cache.release("store", "k", 5) is False
    assert cache.invalidate_tags("t") is None
    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute("store", "k", counted(ZeroDivisionError()))
    with pytest.raises(UnavailableError):
        strict.get_or_compute("store", "k", counted(5))
    assert counted.number == 5


def test_the_server_goes_away_meanwhile(
    world: Any, proxy: Proxy, counted: Computations, log: pytest.LogCaptureFixture
) -> None:
    cache = world.cache(proxy.dsn)

    def compute() -> int:
        proxy.refuse()
        return 1

    assert cache.get_or_compute("store", "k", counted(compute)) == 1
    assert "is not cached" in log.text
    proxy.admit()
    assert cache.get("store", "k") is None


def test_a_disabled_type(cache: Any, counted: Computations, db: psycopg.Connection) -> None:
    cache.configure("store", enabled=False)
    assert cache.get_or_compute("store", "k", counted(1), tags=["t"], hard_timeout=60) == 1
    assert cache.recompute("store", "k", counted(2)) == 2
    assert cache.set("store", "k", 1, tags=["t"]) is False
    assert leases(db) == 0


def test_what_is_said(world: Any, dsn: str, counted: Computations, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pgcache")
    cache = world.cache(dsn)
    for _ in range(2):
        cache.get_or_compute("store", "user:secret", counted(1))
    said = [record.getMessage().split()[:2] for record in caplog.records if record.name == "pgcache"]
    assert said == [["won", "store"], ["cache_set", "store"], ["fresh", "store"]]
    assert "secret" not in caplog.text
