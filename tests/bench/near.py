"""What a near cache saves and costs: gets that the process answers itself, gets that it cannot, and writes."""

from __future__ import annotations

import os
import random
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import cycle
from time import perf_counter
from typing import Any

import psycopg

from pgcache_py import Cache, Near
from tests.bench import peers
from tests.bench.from_python import entry, timed
from tests.bench.harness import Arm, Result, Sample, Target, compare, question, say
from tests.bench.machine import Bench, Database
from tests.bench.workloads import zipf
from tests.tools.waiting import at_once, wait_until

THREADS = 8
CLIENT_SIDE = "redis-py, client-side caching"
# Of all calls, so many write.
WRITES = (0.001, 0.01, 0.1)
SET = "SELECT pgcache.cache_set('{}', (random() * 5000)::integer::text, to_jsonb(repeat('x', 700)))"


@question("near", "Near cache: 1,000 entries of 700 bytes, Zipf keys, from Python; and what its types cost who writes")
def near(bench: Bench) -> Iterator[Result]:
    calls = 500 if bench.quick else 5000
    keys = [(str(key),) for key in zipf(calls, 1000)]
    with bench.database("near") as database, ExitStack() as stack:
        database.run("SELECT pgcache.cache_create_type('kept'), pgcache.cache_near_on('kept')")
        kept = stack.enter_context(Cache(database.dsn, near=Near(max_staleness=10)))
        none = stack.enter_context(Cache(database.dsn, near=Near(max_entries=1)))
        plain = stack.enter_context(Cache(database.dsn))
        opened = {"redis-py": peers.redis_unix, CLIENT_SIDE: peers.redis_near, "diskcache": peers.diskcache}
        others, absent = connected(opened, bench, database, stack)
        for number in range(1000):
            for peer in (*others.values(), peers.over(plain, "kept")):
                peer.set(str(number), entry(number))
        for cache in (kept, none):  # once it knows which types may be kept
            wait_until(lambda cache=cache: keeps(cache, "0"))
        for (key,) in keys:
            kept.get("kept", key)
            for peer in others.values():
                peer.get(key)
        arms = {name: timed(peer.get, keys) for name, peer in others.items()}
        arms |= {
            name: timed(lambda key, cache=cache: cache.get("kept", key), keys)
            for name, cache in {"pgcache, near": kept, "pgcache": plain, "pgcache, not near yet": none}.items()
        }
        targets = [
            Target("pgcache, near", at_most=0.025, of="redis-py"),
            Target("pgcache, near", at_most=0.2, of="diskcache"),
            Target("pgcache, not near yet", at_most=1.1, of="pgcache"),
        ]
        gets = compare("get", "µs", arms, reference="redis-py", targets=targets, rounds=bench.rounds, not_run=absent)
        yield gets
        yield Result("hits, of all gets, from which on it pays", "", {"pgcache, near": break_even(gets)})
        yield from hits_of_threads(bench, kept, keys)
    with bench.database("near") as database:
        database.run("SELECT pgcache.cache_create_type('kept'), pgcache.cache_create_type('plain')")
        database.run("SELECT pgcache.cache_near_on('kept')")
        with Cache(database.dsn, near=Near()) as cache:
            cache.get("kept", "0")
            yield sets(bench, database, "near", "kept")


def keeps(cache: Cache, key: str) -> bool:
    """Whether a cache keeps an entry, of which it is asked; before it has heard which types are near it keeps none."""
    cache.get("kept", key)
    return cache._near is not None and len(cache._near.store) > 0


def connected(
    opened: Mapping[str, peers.Open], bench: Bench, database: Database, stack: ExitStack
) -> tuple[dict[str, peers.Peer], dict[str, str]]:
    """The peers that can be measured here, and why the others cannot."""
    others, absent = {}, {}
    for name, connect in opened.items():
        try:
            others[name] = connect(bench, database, stack)
        except (peers.AbsentError, ImportError) as error:
            absent[name] = str(error)
    return others, absent


def break_even(gets: Result) -> list[float]:
    """The share of hits at which near gets take as long as those without a near cache."""
    hits, misses, plain = (gets.samples[arm] for arm in ("pgcache, near", "pgcache, not near yet", "pgcache"))
    return [max(0.0, (miss - get) / (miss - hit)) for hit, miss, get in zip(hits, misses, plain, strict=True)]


@question("near-writes", "Near cache while others write: what a get costs, how many hit, how old what they return is")
def while_others_write(bench: Bench) -> Iterator[Result]:
    with bench.database("near_writes") as database, ExitStack() as stack:
        database.run("SELECT pgcache.cache_create_type('kept'), pgcache.cache_near_on('kept')")
        near = stack.enter_context(Cache(database.dsn, near=Near()))
        near.set("kept", "0", 0.0)
        wait_until(lambda: keeps(near, "0"))
        others, absent = connected({CLIENT_SIDE: peers.redis_near}, bench, database, stack)
        other = peers.over(stack.enter_context(Cache(database.dsn)), "kept")
        readers = {"pgcache, near": peers.Peer(peers.over(near, "kept").get, other.set), **others}
        for share in WRITES:
            runs = {
                name: [while_it_is_written(peer, share, bench.seconds) for _ in range(bench.rounds)]
                for name, peer in readers.items()
            }
            say(f"  {share:.1%} of all calls write")
            for part, (what, unit) in enumerate((("get", "µs"), ("oldest returned", "ms"))):
                samples = {name: [run[part] for run in of_peer] for name, of_peer in runs.items()}
                yield Result(f"{what}, {share:.1%} of all calls write", unit, samples, not_run=absent)
            hits = {"pgcache, near": [run[2] for run in runs["pgcache, near"]]}
            yield Result(f"hits, of all gets, {share:.1%} of all calls write", "", hits)


def while_it_is_written(peer: peers.Peer, share: float, seconds: float) -> tuple[float, float, float]:
    """What a get takes, in microseconds; how long, in milliseconds, the oldest value had been replaced when it was
    returned; how many gets take less than 15 µs, which no question to a server does. All calls are of one thread.
    """
    keys = cycle(zipf(100_000, 1000))
    chance = random.Random(1)
    replaced = {str(key): 0.0 for key in range(1000)}  # the present value, which is the moment when it came
    for key in replaced:
        peer.set(key, value := perf_counter())
        replaced[key] = value
    times, oldest, ends = [], 0.0, perf_counter() + seconds
    while perf_counter() < ends:
        key = str(next(keys))
        if chance.random() < share:
            peer.set(key, value := perf_counter())
            replaced[key] = value
            continue
        began = perf_counter()
        found = peer.get(key)
        times.append(perf_counter() - began)
        if found != replaced[key]:
            oldest = max(oldest, began - replaced[key])
    return statistics.mean(times) * 1e6, oldest * 1000, sum(taken < 15e-6 for taken in times) / len(times)


def sets(bench: Bench, database: Database, what: str, type: str) -> Result:
    """What eight writers keep of the throughput of the type plain in another one. what: it is near, or hot."""
    types = {f"type that is not {what}": "plain", f"{what} type": type}
    reference, other = types
    return compare(
        "set, 8 clients",
        "1/s",
        {name: database.arm(SET.format(type), 8, bench.seconds) for name, type in types.items()},
        reference=reference,
        targets=[Target(other, at_least=0.8, of=reference)],
        rounds=bench.rounds,
    )


def hits_of_threads(bench: Bench, kept: Cache, keys: Sequence[tuple[str]]) -> Iterator[Result]:
    """Of what a process has itself, read by several threads at once."""
    arms, not_run = {"pgcache, near": by_threads(lambda key: kept.get("kept", key), keys)}, {}
    try:
        from cachetools import LRUCache
    except ImportError as error:
        not_run["cachetools under a lock"] = str(error)
    else:
        lock = threading.Lock()
        cache: Any = LRUCache(10_000)
        for number in range(1000):
            cache[str(number)] = entry(number)

        def get(key: str) -> Any:
            with lock:
                return cache.get(key)

        # It returns the object that it has, which whoever gets it may not change.
        arms["cachetools under a lock"] = by_threads(get, keys)
    target = Target("pgcache, near", at_most=1, of="cachetools under a lock")
    yield compare(
        f"hit, {THREADS} threads", "µs", arms, reference="cachetools under a lock",
        targets=[target], rounds=bench.rounds, not_run=not_run,
    )  # fmt: skip


def by_threads(call: Callable[[str], object], keys: Sequence[tuple[str]]) -> Arm:
    """An arm of microseconds for a call, of several threads that make all calls each."""

    def calls() -> None:
        for (key,) in keys:
            call(key)

    def run() -> Sample:
        number = THREADS * len(keys)
        started = perf_counter()
        at_once(*[calls] * THREADS)
        return Sample((perf_counter() - started) / number * 1e6, number)

    return run


@question("bytes", "Values of 1 MB: types of bytes against a bare table of bytea")
def large_values(bench: Bench) -> Iterator[Result]:
    data = os.urandom(1_000_000)
    keys = [(str(number),) for number in range(10)] * (2 if bench.quick else 10)
    with bench.database("bytes") as database, ExitStack() as stack:
        cache = stack.enter_context(Cache(database.dsn))
        bare = stack.enter_context(psycopg.connect(database.dsn, autocommit=True))
        database.run("CREATE TABLE bare (key text PRIMARY KEY, value bytea NOT NULL)")
        database.run("ALTER TABLE bare ALTER value SET STORAGE external")
        cursor = bare.cursor(binary=True)
        upsert = "INSERT INTO bare VALUES (%s, %b) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

        def get(key: str) -> object:
            row = cursor.execute("SELECT value FROM bare WHERE key = %s", (key,), prepare=True).fetchone()
            return row and row[0]

        calls = {
            "set": {
                "bare table": timed(lambda key: cursor.execute(upsert, (key, data), prepare=True), keys),
                "pgcache": timed(lambda key: cache.set_bytes("bytes", key, data), keys),
            },
            "get": {
                "bare table": timed(get, keys),
                "pgcache": timed(lambda key: cache.get_bytes("bytes", key), keys),
            },
        }
        for part, arms in calls.items():
            target = Target("pgcache", at_most=1.2, of="bare table")
            yield compare(part, "µs", arms, reference="bare table", targets=[target], rounds=bench.rounds)
