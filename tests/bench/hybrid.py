"""The hot tier: what a hit in Redis costs through the hybrid cache, and what a dead Redis costs it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter
from typing import Any

import redis
import redis.asyncio

from pgcache_py import AsyncHybridCache, Cache, HybridCache
from tests.bench import peers
from tests.bench.from_python import entry, timed
from tests.bench.harness import Arm, Result, Sample, Target, compare, question
from tests.bench.machine import Bench, Database
from tests.bench.near import sets
from tests.bench.workloads import zipf
from tests.servers.cluster import server_user
from tests.tools.redis import Redis
from tests.tools.waiting import wait_until

REFERENCE = "redis-py, GET and json.loads"
HYBRID = "hybrid cache"


@question("hot-writes", "What a type in the hot tier costs who writes, with its relay on the same machine")
def writes(bench: Bench) -> Iterator[Result]:
    if bench.redis is None:
        yield Result("set, 8 clients", "1/s", {}, not_run={"hot type": "redis-server is not installed"})
        return
    with bench.database("hot_writes") as database:
        database.run("SELECT pgcache.cache_create_type('hot'), pgcache.cache_create_type('plain')")
        database.run("SELECT pgcache.cache_hot_on('hot')")
        with relay(database, bench.redis):
            yield sets(bench, database, "hot", "hot")


@question("hybrid", "The hot tier: a hit in Redis, 10,000 entries, Zipf keys; and a get while Redis is dead")
def tier(bench: Bench) -> Iterator[Result]:
    if bench.redis is None:
        absent = {HYBRID: "redis-server is not installed"}
        yield Result("hit", "µs", {}, not_run=absent)
        return
    entries, calls = (1000, 300) if bench.quick else (10_000, 2000)
    keys = [str(key) for key in zipf(calls, entries)]
    values = {str(number): entry(number) for number in range(entries)}
    with bench.database("hybrid") as database, ExitStack() as stack:
        database.run("SELECT pgcache.cache_hot_on('store')")
        alone = stack.enter_context(Cache(database.dsn))
        alone.set_many("store", values)
        database.settle()
        with relay(database, bench.redis):
            yield from hits(bench, stack, database, values, keys)
            yield from hits_in_asyncio(bench, database, keys)
        mortal = stack.enter_context(another_redis(bench))
        with relay(database, mortal):
            orphan = stack.enter_context(HybridCache(database.dsn, mortal.url))
            for key in keys:
                orphan.get("store", key)
            mortal.kill()
            orphan.get("store", keys[0])  # the first failure
        yield compare(
            "get with Redis dead",
            "µs",
            {
                "Cache": timed(lambda key: alone.get("store", key), [(key,) for key in keys]),
                "hybrid cache": timed(lambda key: orphan.get("store", key), [(key,) for key in keys]),
                "extra delay": extra(lambda key: alone.get("store", key), lambda key: orphan.get("store", key), keys),
            },
            reference="Cache",
            targets=[Target("extra delay", at_most=1000)],
            rounds=bench.rounds,
        )


def hits(
    bench: Bench, stack: ExitStack, database: Database, values: dict[str, Any], keys: Sequence[str]
) -> Iterator[Result]:
    client = peers.redis_client(bench, stack)
    cache = stack.enter_context(HybridCache(database.dsn, socket_url(bench)))

    def get(key: str) -> Any:
        data = client.get(key)
        return None if data is None else json.loads(data)

    for key, value in values.items():
        client.set(key, json.dumps(value))
        cache.get("store", key)
    if any(not cache.get("store", key) == get(key) == values[key] for key in keys):
        raise AssertionError("what was stored is not returned")
    yield compare(
        "hit",
        "µs",
        {
            REFERENCE: timed(get, [(key,) for key in keys]),
            HYBRID: timed(lambda key: cache.get("store", key), [(key,) for key in keys]),
        },
        reference=REFERENCE,
        targets=[Target(HYBRID, at_most=1.1, of=REFERENCE)],
        rounds=bench.rounds,
    )


def hits_in_asyncio(bench: Bench, database: Database, keys: Sequence[str]) -> Iterator[Result]:
    loop = asyncio.new_event_loop()
    client = redis.asyncio.Redis.from_url(socket_url(bench))
    cache = AsyncHybridCache(database.dsn, socket_url(bench))

    async def get(key: str) -> Any:
        data = await client.get(key)
        return None if data is None else json.loads(data)

    def arm(get: Callable[[str], Any]) -> Arm:
        async def gets() -> None:
            for key in keys:
                await get(key)

        def run() -> Sample:
            started = perf_counter()
            loop.run_until_complete(gets())
            return Sample((perf_counter() - started) / len(keys) * 1e6, len(keys))

        return run

    yield compare(
        "hit, asyncio",
        "µs",
        {REFERENCE: arm(get), HYBRID: arm(lambda key: cache.get("store", key))},
        reference=REFERENCE,
        targets=[Target(HYBRID, at_most=1.1, of=REFERENCE)],
        rounds=bench.rounds,
    )
    loop.run_until_complete(cache.close())
    loop.run_until_complete(client.aclose())
    loop.close()


def extra(alone: Callable[[str], Any], with_redis: Callable[[str], Any], keys: Sequence[str]) -> Arm:
    """An arm of the microseconds that the second takes longer than the first, at the median of calls in turn."""

    def taken(call: Callable[[str], Any], key: str) -> float:
        started = perf_counter()
        call(key)
        return perf_counter() - started

    def run() -> Sample:
        pairs = [(taken(alone, key), taken(with_redis, key)) for key in keys]
        first, second = map(median, zip(*pairs, strict=True))
        return Sample((second - first) * 1e6, len(keys))

    return run


def socket_url(bench: Bench) -> str:
    assert bench.redis is not None
    password = redis.connection.parse_url(bench.redis.url)["password"]
    return f"unix://:{password}@{bench.redis.socket}"


@contextmanager
def another_redis(bench: Bench) -> Iterator[Redis]:
    """To be killed."""
    directory = bench.home / "mortal"
    directory.mkdir(mode=0o700)
    os.chown(directory, server_user().pw_uid, -1)
    server = Redis(directory)
    server.start()
    yield server
    if server.running():
        server.kill()


@contextmanager
def relay(database: Database, server: Redis) -> Iterator[None]:
    """A relay from the database to Redis, in a process of its own."""
    command = [sys.executable, "-m", "pgcache_py", "relay", "--dsn", database.dsn, "--redis", server.url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis.from_url(server.url) as client:
            wait_until(lambda: client.exists("pgcache:alive") or process.poll() is not None)
            if process.poll() is not None:
                raise RuntimeError("the relay has ended")
        yield
    finally:
        process.terminate()
        process.wait(30)
