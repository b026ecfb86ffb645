"""Fail-soft mode: whatever befalls the cache, the application goes on."""

from __future__ import annotations

import itertools
import logging
import socket
from statistics import median
from typing import Any

import psycopg
import pytest

from pgcache_py import NotInstalledError, PgcacheError, UnavailableError
from pgcache_py.client import failsoft
from tests.client.proxy import Proxy
from tests.tools.session import waiting_for_a_lock

pytestmark = pytest.mark.once  # the client; what it calls is in tests/sql


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pgcache")
    return caplog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which a failed server is left alone; add to it instead of sleeping."""
    now = [1000.0]
    monkeypatch.setattr(failsoft, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"host=127.0.0.1 port={port} dbname=x user=x"


def levels(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in log.records if record.name == "pgcache"]


def misses(cache: Any) -> None:
    """Every call that serves the application counts as a miss."""
    assert cache.get("store", "k") is None
    assert cache.get("store", "k", "default") == "default"
    assert cache.get_many("store", ["a", "b"]) == {}
    assert cache.set("store", "k", 1) is False
    assert cache.add("store", "k", 1) is False
    assert cache.incr("store", "k") == 0
    assert cache.set_many("store", {"a": 1}) == 0
    assert cache.exists("store", "k") is False
    assert cache.ttl("store", "k") is None
    assert cache.touch("store", "k", 5) is False
    assert cache.persist("store", "k") is False
    assert cache.entry("store", "k") is None
    assert cache.set_many("store", {"k": 1}, ttl={"k": 5}) == 0
    assert cache.keys("store") == []
    assert cache.delete("store", "k") is False
    assert cache.delete_many("store", ["a"]) == 0
    assert cache.delete_pattern("store", "a%") == 0
    assert cache.clear("store") == 0
    assert cache.clear_expired() == 0
    assert cache.clear_all() == 0
    assert cache.invalidate_tenant("t") == 0
    assert cache.invalidate_user("u") == 0
    assert cache.llm.get("p", "m") is None
    assert cache.llm.set("p", "m", "r") is False
    assert cache.embedding.get("t", "m") is None
    assert cache.embedding.set("t", "m", [1]) is False
    assert cache.embedding.get_many(["a", "b"], "m") == [None, None]
    assert cache.embedding.set_many(["a"], "m", [[1]]) == 0
    assert cache.vector_search.get([1]) is None
    assert cache.vector_search.set([1], []) is False
    assert cache.audio.get("t", "v") is None
    assert cache.ai_worker.get("p", "m", "v") is None
    assert cache.ai_worker.invalidate_schema("v") == 0
    assert cache.face.get(b"i", "t") is None
    assert cache.phash.get(b"i", "t") is None
    assert cache.crawl.should_skip("u", b"i", "t") == (False, None)
    assert cache.crawl.store("u", b"i", "r") is False


def manages(cache: Any, error: type[PgcacheError]) -> None:
    """Calls that manage the cache raise in any mode."""
    for call in (
        lambda: cache.create_type("x"),
        lambda: cache.configure("store", ttl=5),
        lambda: cache.tenant_limit("x", "a", max_entries=1),
        lambda: cache.drop_type("x"),
        lambda: cache.cleanup(),
        lambda: cache.forget("x"),
        lambda: cache.warm("store", []),
        lambda: cache.stats(),
        lambda: cache.health(),
        lambda: cache.index_usage(),
        lambda: cache.ai_worker.stats(),
    ):
        with pytest.raises(error):
            call()


def test_unreachable(world: Any, closed_port: str, log: pytest.LogCaptureFixture) -> None:
    cache = world.cache(closed_port, fail_soft=True)
    misses(cache)
    misses(cache.for_tenant("t"))
    manages(cache, UnavailableError)
    assert levels(log) == ["WARNING"]
    assert "cache_get failed" in log.text
    with pytest.raises(UnavailableError):
        world.cache(closed_port).get("store", "k")


def test_computes_what_it_cannot_get(world: Any, closed_port: str) -> None:
    cache = world.cache(closed_port, fail_soft=True)
    calls = []

    def compute(*args: Any) -> int:
        calls.append(args)
        return 5

    assert cache.get_or_compute("store", "k", world.function(compute)) == 5
    f = cache.cached()(world.function(compute))
    assert (f(), f(), f.refresh(), f.invalidate()) == (5, 5, 5, False)
    assert cache.embedding.get_or_compute_many(["a"], "m", world.function(lambda texts: [[1]])) == [[1]]
    assert len(calls) == 4


def test_a_pool_without_a_server(world: Any, closed_port: str, log: pytest.LogCaptureFixture) -> None:
    pool = world.pool(closed_port)
    misses(world.cache(pool, fail_soft=True, timeout=0.05))
    assert levels(log) == ["WARNING"]
    with pytest.raises(UnavailableError):
        world.cache(pool, timeout=0.05).get("store", "k")


def test_not_installed(empty_dsn: str, world: Any, log: pytest.LogCaptureFixture) -> None:
    cache = world.cache(empty_dsn, fail_soft=True)
    misses(cache)
    manages(cache, NotInstalledError)
    assert levels(log) == ["WARNING"]
    assert "python -m pgcache_py install" in log.text


def test_read_only(world: Any, dsn: str, log: pytest.LogCaptureFixture) -> None:
    cache = world.cache(dsn)
    cache.set("store", "k", 1)
    cache = world.cache(world.connect(dsn, options="-c default_transaction_read_only=on"), fail_soft=True)
    for _ in range(3):
        assert cache.set("store", "k", 2) is False
        assert cache.delete("store", "k") is False
        assert cache.get("store", "k") == 1
    assert levels(log) == ["WARNING"]


def test_no_privilege(world: Any, dsn: str, db: psycopg.Connection, log: pytest.LogCaptureFixture) -> None:
    role = f"nobody_{db.info.dbname}"
    db.execute(f"CREATE ROLE {role}")
    try:
        misses(world.cache(world.connect(dsn, options=f"-c role={role}"), fail_soft=True))
        assert "cache_grant" in log.text
    finally:
        db.execute(f"DROP ROLE {role}")


def test_full(world: Any, dsn: str, log: pytest.LogCaptureFixture) -> None:
    cache = world.cache(dsn, fail_soft=True)
    cache.create_type("small", max_entries=1, eviction="none")
    assert cache.set("small", "a", 1) is True
    assert False in [cache.set("small", f"b{n}", 1) for n in range(100)]
    assert levels(log) == ["WARNING"]


def test_the_server_comes_back(world: Any, proxy: Proxy, log: pytest.LogCaptureFixture, clock: list[float]) -> None:
    cache = world.cache(proxy.dsn, fail_soft=True)
    assert cache.set("store", "k", 1) is True
    proxy.refuse()
    assert cache.get("store", "k") is None
    proxy.admit()
    attempts = proxy.connections
    assert cache.get("store", "k") is None  # it is still left alone
    assert proxy.connections == attempts
    clock[0] += failsoft.FIRST_REST
    assert cache.get("store", "k") == 1
    assert levels(log) == ["WARNING", "INFO"]
    proxy.cut()
    assert cache.get("store", "k") == 1  # reconnected, nothing to report
    assert levels(log) == ["WARNING", "INFO"]


def test_a_dead_server_is_asked_ever_less_often(
    world: Any, closed_port: str, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    cache = world.cache(closed_port, fail_soft=True)
    attempts = []
    source = getattr(cache, "target", cache)._source
    run = source.run
    monkeypatch.setattr(source, "run", lambda *args: (attempts.append(clock[0]), run(*args))[1])
    for _ in range(400):
        cache.get("store", "k")
        clock[0] += 0.125
    rests = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


def test_a_server_that_never_answers(world: Any, proxy: Proxy, clock: list[float]) -> None:
    cache = world.cache(proxy.dsn, fail_soft=True, timeout=1)
    assert cache.set("store", "k", 1) is True
    proxy.freeze()
    assert cache.get("store", "k") is None
    connections = proxy.connections
    misses(cache)
    assert proxy.connections == connections  # it was left alone
    proxy.thaw()
    clock[0] += failsoft.FIRST_REST
    assert cache.get("store", "k") == 1


def test_a_slow_statement(world: Any, dsn: str, db: psycopg.Connection, log: pytest.LogCaptureFixture) -> None:
    cache = world.cache(dsn, fail_soft=True, timeout=0.5)
    strict = world.cache(dsn, timeout=0.5)
    assert cache.set("store", "k", 1) is True
    assert strict.get("store", "k") == 1
    with db.transaction():
        db.execute("LOCK TABLE pgcache.cache_type_store")
        assert cache.get("store", "k") is None
        assert "TimedOut" not in log.text
        assert levels(log) == ["WARNING"]
        with pytest.raises(UnavailableError) as caught:
            strict.get("store", "k")
        assert caught.value.sqlstate == "57014"  # the server itself gave up: nothing is left running there
        assert waiting_for_a_lock(db) == 0
    assert strict.get("store", "k") == 1


@pytest.mark.parametrize("autocommit", [True, False])
def test_the_callers_transaction_goes_on(world: Any, dsn: str, db: psycopg.Connection, autocommit: bool) -> None:
    db.execute("CREATE TABLE work (n integer)")
    connection = world.connect(dsn, autocommit=autocommit, options="-c lock_timeout=20ms")
    cache = world.cache(connection, fail_soft=True)
    if autocommit:
        connection.execute("BEGIN")
    for n in range(3):  # the first time the cache's own call begins the transaction
        assert cache.set("store", "k", n) is True
        with pytest.raises(PgcacheError):
            cache.set("store", "", 1)
        connection.execute("INSERT INTO work VALUES (%s)", [n])
        with db.transaction():
            db.execute("LOCK TABLE pgcache.cache_embeddings")
            assert cache.embedding.get("t", "m") is None
        assert cache.get("store", "k") == n
    assert world.cache(dsn).get("store", "k") is None  # not committed yet
    connection.rollback()
    assert cache.get("store", "k") is None
    cache.set("store", "k", "kept")
    connection.execute("INSERT INTO work VALUES (9)")
    connection.commit()
    assert db.execute("SELECT n FROM work").fetchall() == [(9,)]
    assert world.cache(dsn).get("store", "k") == "kept"


def test_inside_a_transaction_block(world: Any, dsn: str) -> None:
    """psycopg's own savepoints and the cache's are nested as they should be."""
    connection = world.connect(dsn, autocommit=True)
    cache = world.cache(connection, fail_soft=True)
    connection.execute("BEGIN")
    connection.execute("SAVEPOINT pgcache")  # the caller may use the same name
    cache.set("store", "a", 1)
    connection.execute("SAVEPOINT mine")
    cache.set("store", "b", 1)
    with pytest.raises(PgcacheError):
        cache.get("nope", "k")
    connection.execute("ROLLBACK TO SAVEPOINT mine")
    assert cache.get_many("store", ["a", "b"]) == {"a": 1}
    connection.execute("ROLLBACK TO SAVEPOINT pgcache")
    assert cache.get("store", "a") is None
    connection.execute("COMMIT")


def test_an_aborted_transaction(world: Any, dsn: str, log: pytest.LogCaptureFixture) -> None:
    connection = world.connect(dsn)
    cache = world.cache(connection, fail_soft=True)
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1/0")
    misses(cache)
    assert levels(log) == ["WARNING"]
    with pytest.raises(PgcacheError, match="aborted"):
        world.cache(connection).get("store", "k")
    connection.rollback()
    assert cache.set("store", "k", 1) is True


def test_a_lost_connection_of_the_callers(world: Any, dsn: str, db: psycopg.Connection) -> None:
    for autocommit in (True, False):
        connection = world.connect(dsn, autocommit=autocommit)
        cache = world.cache(connection, fail_soft=True)
        assert cache.set("store", "k", 1) is True
        db.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        misses(cache)


def test_in_a_pipeline_of_the_callers(dsn: str) -> None:
    from pgcache_py import Cache

    for fail_soft in (False, True):
        with psycopg.connect(dsn) as connection, connection.pipeline():
            cache = Cache(connection, fail_soft=fail_soft)
            cursor = connection.execute("SELECT 1")
            assert cache.set("store", "k", 1) is True
            assert cache.get("store", "k") == 1
            assert cursor.fetchone() == (1,)
            assert connection.execute("SELECT 2").fetchone() == (2,)


def test_one_round_trip_with_a_savepoint(world: Any, proxy: Proxy) -> None:
    connection = world.connect(proxy.dsn)
    connection.execute("SELECT 1")
    cache = world.cache(connection, fail_soft=True)
    for call in (lambda: cache.set("store", "k", 1), lambda: cache.for_tenant("t").get("store", "k")):
        call()
        trips = []
        for _ in range(5):  # a busy machine may deliver in two parts what was sent as one, or later
            before = proxy.round_trips
            call()
            trips.append(proxy.round_trips - before)
        assert median(trips) == 1
