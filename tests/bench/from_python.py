"""Gets and sets from a Python program with one connection: the time that it waits for each call."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import Any

import psycopg

from pgcache_py import Cache
from tests.bench import peers, tables
from tests.bench.harness import Arm, Result, Sample, Target, compare, question
from tests.bench.machine import Bench
from tests.bench.workloads import zipf

MANY = 100
GETS = 10_000


def timed(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Arm:
    """An arm of microseconds for a call."""

    def run() -> Sample:
        started = perf_counter()
        for each in arguments:
            call(*each)
        return Sample((perf_counter() - started) / len(arguments) * 1e6, len(arguments))

    return run


def entry(number: int) -> dict[str, Any]:
    """A value of about 700 bytes."""
    return {"id": number, "text": f"{number:08x}" * 80}


@question("python", "Single get and set from Python, 10,000 entries, Zipf keys")
def single(bench: Bench) -> Iterator[Result]:
    entries, calls = (1000, 300) if bench.quick else (10_000, 2000)
    keys = [str(key) for key in zipf(calls, entries)]
    values = {str(number): entry(number) for number in range(entries)}
    with bench.database("python") as database, peers.connected(bench, database) as (present, absent):
        for name, peer in present.items():
            for key, value in values.items():
                peer.set(key, value)
            if any(peer.get(key) != values[key] for key in keys[:100]):
                raise AssertionError(f"{name} does not return what was stored")
        gets = {name: timed(peer.get, [(key,) for key in keys]) for name, peer in present.items()}
        bare = "psycopg, bare SELECT/upsert"
        yield compare(
            "get of entries that no upkeep has seen",
            "µs",
            {name: gets[name] for name in ("pgcache", "redis-py", bare)},
            reference=bare,
            targets=[Target("pgcache", at_most=1.3, of=bare), Target("pgcache", at_most=1.5, of="redis-py")],
            rounds=bench.rounds,
            count=database.count,
        )
        database.settle()
        targets = [
            Target("pgcache", at_most=1.05, of="redis-py"),
            Target("pgcache, TCP", at_most=1.05, of="redis-py, TCP"),
        ]
        yield compare(
            "get", "µs", gets, reference="redis-py", targets=targets, rounds=bench.rounds, not_run=absent,
            settle=database.upkeep,
        )  # fmt: skip
        # Fewer: some peers take milliseconds.
        pairs = [(key, values[key]) for key in keys[: calls // 10]]
        sets = {name: timed(peer.set, pairs) for name, peer in present.items()}
        yield compare("set", "µs", sets, reference="redis-py", rounds=bench.rounds, not_run=absent)


@question("many", f"get_many({MANY}) and set_many({MANY}) from Python, 10,000 entries, Zipf keys")
def many(bench: Bench) -> Iterator[Result]:
    entries, calls = (1000, 20) if bench.quick else (10_000, 100)
    keys = [str(key) for key in zipf(calls * MANY, entries)]
    batches = [keys[first : first + MANY] for first in range(0, len(keys), MANY)]
    values = {str(number): entry(number) for number in range(entries)}
    with bench.database("many") as database, ExitStack() as stack:
        cache = stack.enter_context(Cache(database.dsn))
        cache.create_type("fast", durable=False)
        client = peers.redis_client(bench, stack)
        bare = stack.enter_context(psycopg.connect(database.dsn, autocommit=True))
        database.run("CREATE TABLE plain (key text PRIMARY KEY, value jsonb NOT NULL, expires_at timestamptz)")
        select = "SELECT key, value FROM plain WHERE key = ANY(%s)"
        upsert = tables.UPSERT.format("plain", "%s", "%s").encode()

        def redis_get(batch: list[str]) -> dict[str, Any]:
            found = client.mget(batch)
            return {key: json.loads(data) for key, data in zip(batch, found, strict=True) if data is not None}

        def redis_set(batch: dict[str, Any]) -> None:
            pipeline = client.pipeline(transaction=False)
            for key, value in batch.items():
                pipeline.set(key, json.dumps(value), ex=peers.TTL)
            pipeline.execute()

        def bare_get(batch: list[str]) -> dict[str, Any]:
            return dict(bare.execute(select, (batch,), prepare=True).fetchall())

        def bare_set(batch: dict[str, Any]) -> None:
            with bare.cursor() as cursor, bare.transaction():
                cursor.executemany(upsert, [(key, json.dumps(value)) for key, value in batch.items()])

        gets: dict[str, Callable[[list[str]], Any]] = {
            "redis-py, MGET": redis_get,
            "pgcache": lambda batch: cache.get_many("store", batch),
            "pgcache, unlogged type": lambda batch: cache.get_many("fast", batch),
            "psycopg, = ANY": bare_get,
        }
        sets: dict[str, Callable[[dict[str, Any]], Any]] = {
            "redis-py, pipeline": redis_set,
            "pgcache, unlogged type": lambda batch: cache.set_many("fast", batch),
            "pgcache": lambda batch: cache.set_many("store", batch),
            "psycopg, executemany": bare_set,
        }
        for fill in sets.values():
            fill(values)
        for name, get in gets.items():
            if any(get(batch) != {key: values[key] for key in batch} for batch in batches[:10]):
                raise AssertionError(f"{name} does not return what was stored")
        database.settle()
        yield compare(
            "get_many",
            "µs",
            {name: timed(get, [(batch,) for batch in batches]) for name, get in gets.items()},
            reference="redis-py, MGET",
            targets=[Target("pgcache", at_most=1.0, of="redis-py, MGET")],
            rounds=bench.rounds,
            settle=database.upkeep,
        )
        # All keys of a batch are different, so that each sets a hundred.
        slices = [list(values.items())[first : first + MANY] for first in range(0, entries, MANY)][: calls // 2]
        yield compare(
            "set_many",
            "µs",
            {name: timed(set, [(dict(each),) for each in slices]) for name, set in sets.items()},
            reference="redis-py, pipeline",
            targets=[
                Target("pgcache, unlogged type", at_most=1.0, of="redis-py, pipeline"),
                Target("pgcache", at_most=1.0, of="redis-py, pipeline"),
            ],
            rounds=bench.rounds,
        )


@question("join", f"{GETS:,} gets inside one statement, each of another key, joined to a table")
def joined(bench: Bench) -> Iterator[Result]:
    keys = [str(number) for number in range(1, GETS + 1)]
    random.Random(1).shuffle(keys)
    statements = {
        "cache_get for each row": "SELECT count(pgcache.cache_get('store', r.cache_key)) FROM requests r",
        "cache_get_many, joined": """
            SELECT count(g.value) FROM requests r
            JOIN pgcache.cache_get_many('store', ARRAY(SELECT cache_key FROM requests)) g ON g.key = r.cache_key
        """,
        "cache_live, joined": """
            SELECT count(c.value) FROM requests r JOIN pgcache.cache_live('store') c ON c.key = r.cache_key
        """,
        "bare join": "SELECT count(p.value) FROM requests r JOIN plain p ON p.key = r.cache_key",
    }
    with bench.database("joined") as database, ExitStack() as stack:
        client = peers.redis_client(bench, stack)
        tables.pgcache(database, GETS)
        tables.plain(database, GETS)
        database.run("CREATE TABLE requests (id bigint PRIMARY KEY, cache_key text NOT NULL)")
        with database.session.cursor() as cursor, cursor.copy("COPY requests FROM STDIN") as copy:
            for number, key in enumerate(keys):
                copy.write_row((number, key))
        for key in keys:
            client.set(key, json.dumps(entry(int(key))))
        database.settle()

        def one_by_one() -> None:
            for key in keys:
                json.loads(client.get(key))

        arms = {"redis-py, one by one": rate(one_by_one)}
        arms |= {name: rate(partial(database.value, query)) for name, query in statements.items()}
        yield compare(
            "one session",
            "gets/s",
            arms,
            reference="redis-py, one by one",
            targets=[
                Target(name, at_least=30, of="redis-py, one by one") for name in statements if name.startswith("cache")
            ],
            rounds=bench.rounds,
            settle=database.upkeep,
        )


def rate(work: Callable[[], Any]) -> Arm:
    """An arm of gets per second. A statement returns how many hits it had."""

    def run() -> Sample:
        started = perf_counter()
        found = work()
        taken = perf_counter() - started
        if found not in (None, GETS):
            raise AssertionError(f"{found} hits of {GETS}")
        return Sample(GETS / taken, GETS)

    return run
