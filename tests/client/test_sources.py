"""What a cache runs on: its own connection, the caller's, a pool."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgcache_py import AsyncCache, Cache, UnavailableError
from tests.client.proxy import Proxy
from tests.tools.session import waiting_for_a_lock
from tests.tools.waiting import Background, wait_until

pytestmark = pytest.mark.once  # the client; what it calls is in tests/sql


def own(cache: Any) -> Any:
    """The cache's own connection."""
    return getattr(cache, "target", cache)._source._line()._connection


def terminate(db: psycopg.Connection) -> None:
    """End all other sessions of the database, and wait until they have ended."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    db.execute(f"SELECT pg_terminate_backend(pid, 5000) {others}")


def test_a_connection_is_opened_by_the_first_call(world: Any, proxy: Proxy) -> None:
    cache = world.cache(proxy.dsn)
    assert proxy.connections == 0
    for _ in range(3):
        cache.for_tenant("t").get("store", "k")
    assert proxy.connections == 1


@pytest.mark.parametrize("lose", ["terminated", "cut"])
def test_a_lost_connection_is_opened_again(world: Any, proxy: Proxy, db: psycopg.Connection, lose: str) -> None:
    cache = world.cache(proxy.dsn)
    cache.set("store", "k", 1)
    calls: list[Callable[[], Any]] = [
        lambda: cache.get("store", "k"),
        lambda: cache.incr("store", "k"),
        lambda: cache.add("store", "new", 1),
        lambda: cache.create_type("mine"),
        lambda: cache.stats(),
        lambda: cache.for_tenant("t").set("store", "k", 1),
    ]
    for number, call in enumerate(calls):
        terminate(db) if lose == "terminated" else proxy.cut()
        proxy.wait_for_the_end()
        call()
        assert proxy.connections == number + 2
    assert cache.get("store", "k") == 2


def test_a_call_that_counts_is_not_repeated(world: Any, proxy: Proxy, db: psycopg.Connection) -> None:
    """Nobody knows whether a call had been carried out when the connection was lost in the middle of it."""
    cache = world.cache(proxy.dsn)
    cache.set("store", "n", 1)

    def interrupted(call: Callable[[], Any]) -> Any:
        db.execute("BEGIN")
        db.execute("LOCK TABLE pgcache.cache_type_store")

        def interrupt() -> None:
            wait_until(lambda: waiting_for_a_lock(db))
            proxy.cut()
            db.execute("ROLLBACK")

        interruption = Background(interrupt)
        try:
            return call()
        finally:
            interruption.result()

    with pytest.raises(UnavailableError):
        interrupted(lambda: cache.incr("store", "n"))
    assert cache.get("store", "n") in (1, 2)
    assert interrupted(lambda: cache.get("store", "n")) in (1, 2)


def test_a_pool_with_dead_connections(world: Any, proxy: Proxy, db: psycopg.Connection) -> None:
    pool = world.pool(proxy.dsn, max_size=4)
    cache = world.cache(pool)
    cache.set("store", "n", 0)
    for call in (lambda: cache.get("store", "n"), lambda: cache.incr("store", "n"), lambda: cache.get("store", "n")):
        relays = set(proxy.relays)

        def ended(relays: set[threading.Thread] = relays) -> bool:
            terminate(db)  # again and again: the pool may be about to open one of them
            # One that is being opened it cannot end, and the pool's event loop may stand still meanwhile.
            return not relays & proxy.established()

        wait_until(ended)
        call()
    assert cache.get("store", "n") == 1


def test_a_pool_gets_its_connections_back_as_they_were(world: Any, dsn: str) -> None:
    pool = world.pool(dsn, max_size=1)
    cache = world.cache(pool, timeout=5)
    for _ in range(3):
        assert cache.set("store", "k", 1) is True
        assert cache.get("store", "k") == 1
    connection = pool.getconn()
    assert connection.autocommit is False
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert connection.execute("SELECT current_setting('pgcache.tenant', true)").fetchone()[0] in (None, "")
    pool.putconn(getattr(connection, "target", connection))


def test_tenants_on_a_pool(world: Any, dsn: str) -> None:
    cache = world.cache(world.pool(dsn, max_size=2))
    tenants = [cache.for_tenant(f"t{n}") for n in range(5)]
    for n, tenant in enumerate(tenants):
        assert tenant.add("store", "k", n) is True
    assert [tenant.get("store", "k") for tenant in tenants] == list(range(5))
    assert [tenant.get_many("store", ["k"]) for tenant in tenants] == [{"k": n} for n in range(5)]
    assert cache.get("store", "k") is None
    assert tenants[1].clear("store") == 1
    assert cache.invalidate_tenant("t2") == 1
    assert [tenant.get("store", "k") for tenant in tenants] == [0, None, None, 3, 4]
    assert tenants[3].clear_all() == 1
    assert tenants[4].get("store", "k") == 4


def test_the_sessions_own_tenant(world: Any, dsn: str) -> None:
    session = world.cache(world.connect(dsn, autocommit=True, options="-c pgcache.tenant=session"))
    session.set("store", "k", 1)
    assert session.get("store", "k") == 1
    assert session.for_tenant("").get("store", "k") is None  # the shared one
    assert session.for_tenant("session").get("store", "k") == 1
    assert world.cache(dsn, tenant="session").get("store", "k") == 1
    assert session.phash.set(b"i", None, "ff") is True
    assert session.phash.get(b"i", "session") == "ff"


def test_invalidation_is_part_of_the_transaction(world: Any, dsn: str) -> None:
    other = world.cache(dsn)
    other.set("store", "k", "old")
    connection = world.connect(dsn)
    cache = world.cache(connection)
    assert cache.delete("store", "k") is True
    assert other.get("store", "k") == "old"
    connection.rollback()
    assert cache.get("store", "k") == "old"
    cache.set("store", "k", "new")
    assert other.get("store", "k") == "old"
    connection.commit()
    assert other.get("store", "k") == "new"


def test_a_strict_error_aborts_the_transaction_as_any_error_does(world: Any, dsn: str) -> None:
    connection = world.connect(dsn)
    cache = world.cache(connection)
    with pytest.raises(ValueError, match="key"):
        cache.set("store", "", 1)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR


def test_a_cache_leaves_what_is_not_its_own_open(world: Any, dsn: str) -> None:
    connection, pool = world.connect(dsn, autocommit=True), world.pool(dsn)
    for source in (connection, pool):
        cache = world.cache(source)
        cache.get("store", "k")
        cache.close()
        assert cache.get("store", "k") is None


def test_no_statement_is_prepared_where_that_is_not_wanted(world: Any, dsn: str) -> None:
    """Over a connection with prepare_threshold=None, and over one's own if a pooler is in between."""
    connection = world.connect(dsn, autocommit=True, prepare_threshold=None)
    world.cache(connection).get("store", "k")
    cache = world.cache(dsn)
    cache.get("store", "k")
    count = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%cache_get%'"
    prepared = (lambda c: c.execute(count).fetchone()) if world.name == "sync" else None
    assert connection.execute(count).fetchone() == (0,)
    if prepared:
        assert prepared(own(cache)) == (1,)
    source = getattr(cache, "target", cache)._source
    source._direct = False
    source._prepared = {}
    assert cache.set("store", "k", [1]) is True
    assert cache.get("store", "k") == [1]
    assert cache.for_tenant("t").embedding.set("t", "m", [1]) is True
    assert cache.for_tenant("t").embedding.get("t", "m") == [1]
    assert source._prepared == {}


def test_a_pooler_is_recognized(world: Any, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the process id that libpq was told, which is not that of the process which answers."""
    from pgcache_py.client._async import connections as connections_async
    from pgcache_py.client._sync import connections

    for module in (connections, connections_async):
        monkeypatch.setattr(
            module, "INTRODUCTION", module.INTRODUCTION.replace("pg_backend_pid()", "pg_backend_pid() + 1")
        )
    cache = world.cache(dsn, timeout=7)
    assert cache.set("store", "k", 1) is True
    assert getattr(cache, "target", cache)._source._line()._direct is False
    timeout = world.loop.run_until_complete(shown(own(cache))) if world.name == "async" else shown_now(own(cache))
    assert timeout == "0"


def shown_now(connection: Any) -> Any:
    return connection.execute("SHOW statement_timeout").fetchone()[0]


async def shown(connection: Any) -> Any:
    return (await (await connection.execute("SHOW statement_timeout")).fetchone())[0]


def test_the_servers_time_limit(world: Any, dsn: str) -> None:
    show = shown_now if world.name == "sync" else lambda c: world.loop.run_until_complete(shown(c))
    for options, expected in (({}, "0"), ({"timeout": 1.5}, "1500ms"), ({"fail_soft": True}, "5s")):
        cache = world.cache(dsn, **options)
        cache.get("store", "k")
        assert show(own(cache)) == expected
    cache = world.cache(psycopg.conninfo.make_conninfo(dsn, options="-c statement_timeout=7s"))
    cache.get("store", "k")
    assert show(own(cache)) == "7s"


def test_an_upgrade_under_a_running_client(world: Any, dsn: str, db: psycopg.Connection) -> None:
    """A function that is replaced, or returns something else, while clients have statements prepared."""
    cache = world.cache(dsn)
    cache.audio.get("t", "v")
    cache.get("store", "k")
    row = db.execute("SELECT pg_get_functiondef('pgcache.cache_get_audio'::regproc)").fetchone()
    assert row
    db.execute("DROP FUNCTION pgcache.cache_get_audio")
    wider = (
        row[0].replace("channels integer)", "channels integer, more integer)").replace("t.channels", "t.channels, 1")
    )
    db.execute(wider)
    db.execute("ALTER FUNCTION pgcache.cache_get(text, text) RENAME TO cache_get_before")
    parameters = "type text, key text"
    db.execute(f"CREATE FUNCTION pgcache.cache_get({parameters}) RETURNS jsonb RETURN to_jsonb('new'::text)")
    assert cache.audio.get("t", "v") is None
    assert cache.get("store", "k") == "new"


def test_threads(dsn: str) -> None:
    with Cache(dsn) as cache, ThreadPoolExecutor(8) as threads:

        def work(n: int) -> None:
            view = cache.for_tenant(f"t{n % 4}")
            for m in range(50):
                view.set("store", f"{n} {m}", [n, m])
                assert view.get("store", f"{n} {m}") == [n, m]
                cache.incr("store", "n")

        list(threads.map(work, range(16)))
        assert cache.get("store", "n") == 16 * 50


def test_tasks(dsn: str) -> None:
    async def work(cache: AsyncCache, n: int) -> None:
        view = cache.for_tenant(f"t{n % 4}")
        for m in range(20):
            await view.set("store", f"{n} {m}", [n, m])
            assert await view.get("store", f"{n} {m}") == [n, m]
            await cache.incr("store", "n")

    async def scenario() -> None:
        async with AsyncCache(dsn, timeout=30) as cache:
            await asyncio.gather(*(work(cache, n) for n in range(16)))
            assert await cache.get("store", "n") == 16 * 20

    asyncio.run(scenario())


def test_a_thread_does_not_wait_for_its_turn_for_ever(dsn: str, db: psycopg.Connection) -> None:
    with Cache(dsn, timeout=0.5) as cache, ThreadPoolExecutor(3) as threads:
        cache.get("store", "k")
        with db.transaction():
            db.execute("LOCK TABLE pgcache.cache_type_store")
            outcomes = [threads.submit(cache.get, "store", "k") for _ in range(3)]
            assert [type(outcome.exception(20)).__name__ for outcome in outcomes] == ["TimedOutError"] * 3


def test_a_cancelled_task_leaves_the_cache_usable(dsn: str, db: psycopg.Connection) -> None:
    async def scenario() -> None:
        async with AsyncCache(dsn) as cache:
            await cache.set("store", "k", 1)
            with db.transaction():
                db.execute("LOCK TABLE pgcache.cache_type_store")
                for _ in range(2):
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(cache.get("store", "k"), 0.05)
            assert await cache.get("store", "k") == 1

    asyncio.run(scenario())


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process that a shell started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_the_cache_usable(dsn: str, db: psycopg.Connection) -> None:
    with Cache(dsn) as cache:
        cache.set("store", "k", 1)
        with db.transaction():
            db.execute("LOCK TABLE pgcache.cache_type_store")
            press = Background(
                lambda: wait_until(lambda: waiting_for_a_lock(db)) and os.kill(os.getpid(), signal.SIGINT)
            )
            with pytest.raises(KeyboardInterrupt):
                cache.get("store", "k")
            press.result()
        assert cache.get("store", "k") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_opens_its_own_connection(dsn: str) -> None:
    with Cache(dsn) as cache:
        cache.set("store", "k", 1)
        mine = own(cache).info.backend_pid
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: those of the proxies
            child = os.fork()
        if child == 0:
            try:
                os._exit(0 if cache.get("store", "k") == 1 and own(cache).info.backend_pid != mine else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert cache.get("store", "k") == 1
        assert own(cache).info.backend_pid == mine


def test_large_values_both_ways_through_a_slow_relay(world: Any, proxy: Proxy) -> None:
    """More than the buffers of libpq and of the sockets hold."""
    cache = world.cache(proxy.dsn, timeout=30)
    value = {"x": "é" * 5_000_000}
    assert cache.set("store", "k", value) is True
    assert cache.get("store", "k") == value
