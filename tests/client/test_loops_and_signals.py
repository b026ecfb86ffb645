"""Event loops and signal handlers, which come and go while a cache stays."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from pgcache_py import AsyncCache, Cache, UnavailableError
from tests.tools.session import waiting_for_a_lock
from tests.tools.waiting import Background, at_once, wait_until

pytestmark = pytest.mark.once  # the client; what it calls is in tests/sql

LOCK = "BEGIN; LOCK TABLE pgcache.cache_type_store"


def connected(db: psycopg.Connection) -> list[Any]:
    here = "datname = current_database() AND application_name = 'pgcache'"
    return db.execute(f"SELECT pid FROM pg_stat_activity WHERE {here}".encode()).fetchall()


async def count_up(cache: AsyncCache, key: str, times: int) -> int:
    for _ in range(times):
        await cache.incr("store", key)
    return int(await cache.get("store", key))


def test_one_loop_after_another(dsn: str, db: psycopg.Connection, recwarn: pytest.WarningsRecorder) -> None:
    for cache in (AsyncCache(dsn), AsyncCache(dsn, timeout=5), AsyncCache(dsn, fail_soft=True)):
        for turn in range(1, 4):
            assert asyncio.run(count_up(cache, "k", 5)) == 5 * turn
        asyncio.run(cache.clear("store"))
        asyncio.run(cache.close())
    wait_until(lambda: not connected(db))
    assert not [warning for warning in recwarn if issubclass(warning.category, ResourceWarning | RuntimeWarning)]


def test_two_loops_at_once(dsn: str) -> None:
    for cache in (AsyncCache(dsn), AsyncCache(dsn, timeout=10)):
        keys = [f"k{number}" for number in range(4)]
        found = at_once(*(partial(asyncio.run, count_up(cache, key, 50)) for key in keys))
        assert found == [50] * 4
        asyncio.run(cache.clear("store"))
        asyncio.run(cache.close())


def test_closing_ends_the_connections_of_all_loops(dsn: str, db: psycopg.Connection) -> None:
    cache = AsyncCache(dsn)
    other, closed = asyncio.new_event_loop(), asyncio.new_event_loop()
    for loop in (other, closed):
        loop.run_until_complete(cache.get("store", "k"))
    closed.close()

    async def close() -> None:
        await cache.get("store", "k")
        await cache.close()

    asyncio.run(close())
    other.run_until_complete(asyncio.sleep(0))
    wait_until(lambda: not connected(db))
    assert other.run_until_complete(cache.set("store", "k", 1)) is True
    other.run_until_complete(cache.close())
    other.close()


def test_a_cancelled_wait_for_a_turn_leaves_the_turn(dsn: str, db: psycopg.Connection) -> None:
    async def scenario() -> None:
        async with AsyncCache(dsn, timeout=10) as cache:
            await cache.set("store", "k", 1)
            for cancelled_at in range(30):
                tasks = [asyncio.ensure_future(cache.get("store", "k")) for _ in range(4)]
                for _ in range(cancelled_at):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                assert await cache.get("store", "k") == 1

    asyncio.run(scenario())


class SoftTimeLimitError(Exception):
    """As task queues raise it: no error of ours, of psycopg or of Redis."""


@contextmanager
def alarms() -> Iterator[Callable[[float], None]]:
    """Sets an alarm, after so many seconds, whose handler raises."""

    def handler(*_: Any) -> None:
        raise SoftTimeLimitError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds) and None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupted(call: Callable[[], Any], times: int) -> int:
    """How often a call was interrupted, at ever other moments of it."""
    interruptions = 0
    with alarms() as alarm:
        for number in range(times):
            try:
                alarm(1e-6 + number % 100 * 5e-6)
                for _ in range(20):
                    call()
                alarm(0)
            except Exception as error:
                check_interruption(error)
                interruptions += 1
    return interruptions


def check_interruption(error: BaseException | None) -> None:
    """psycopg, when it connects, makes a complaint of its own of any. Who kept it would keep a connection, too."""
    while not isinstance(error, SoftTimeLimitError):
        assert error, "another error"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("fail_soft", [False, True])
def test_a_signal_handler_that_raises_loses_nothing(dsn: str, fail_soft: bool) -> None:
    with Cache(dsn, timeout=5, fail_soft=fail_soft) as cache:
        cache.set("store", "k", 1)
        assert interrupted(lambda: cache.get("store", "k"), 600) > 500
        assert at_once(*[lambda: cache.get("store", "k")] * 3) == [1] * 3


def test_a_signal_handler_that_calls_the_cache_is_refused(dsn: str, db: psycopg.Connection) -> None:
    refused: list[Exception] = []
    with Cache(dsn) as cache:

        def handler(*_: Any) -> None:
            try:
                cache.get("store", "k")
            except UnavailableError as error:
                refused.append(error)
            db.execute("ROLLBACK")

        cache.set("store", "k", 1)
        before = signal.signal(signal.SIGALRM, handler)
        try:
            db.execute(LOCK)
            alarm = Background(
                lambda: wait_until(lambda: waiting_for_a_lock(db)) and os.kill(os.getpid(), signal.SIGALRM)
            )
            assert cache.get("store", "k") == 1
            alarm.result()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert "signal handler" in str(refused)
        assert cache.get("store", "k") == 1
        thread = threading.Thread(target=cache.get, args=("store", "k"))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
