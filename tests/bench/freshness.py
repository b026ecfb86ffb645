"""What freshness costs: tags, leases, invalidations; and from which time of computing on a cached get pays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from time import perf_counter
from typing import Any

import psycopg

from tests.bench import tables
from tests.bench.from_python import entry
from tests.bench.harness import Arm, Result, Sample, Target, compare, question, say
from tests.bench.machine import Bench, Database
from tests.bench.over_time import waiting

ENTRIES = 10_000
# Small ones, stored as if cache_set had done so one by one, which takes minutes.
TAGGED = """
    UPDATE pgcache.cache_type_store SET cache_tags = '{all}',
        cache_epoch = pgcache_internal.tags_epoch(tenant, '{all}')
"""
GET = "SELECT pgcache.cache_get('store', %s)"
SET = "SELECT pgcache.cache_set('store', %s, %s)"
SET_TAGGED = "SELECT pgcache.cache_set('store', %s, %s, tags => '{doc:1}')"
FETCH = "SELECT value, state, token FROM pgcache.cache_fetch('store', %s)"
FETCH_TAGGED = "SELECT value, state, token FROM pgcache.cache_fetch('store', %s, '{doc:1}')"
STORE = "SELECT pgcache.cache_set('store', %s, %s, token => %s)"
DELETE = "SELECT pgcache.cache_delete('store', %s)"
NUMBERS = count(1)


@question("freshness", "Tags, leases and invalidations; from which time of computing on a cached get pays")
def freshness(bench: Bench) -> Iterator[Result]:
    with bench.database("freshness") as database:
        yield from gets(bench, database)
    with bench.database("freshness") as database:
        yield from calls(bench, database)
    with bench.database("freshness") as database:
        yield from invalidations(bench, database)
    with bench.database("freshness") as database:
        yield from watches(bench, database)


def gets(bench: Bench, database: Database) -> Iterator[Result]:
    """By pgbench. All tags have been invalidated once, so that each has a row."""
    entries = ENTRIES // (10 if bench.quick else 1)
    tables.pgcache(database, entries)
    first = {"no tag": 1, "1 tag": entries + 1, "3 tags": 2 * entries + 1}
    for tags, start in ((1, first["1 tag"]), (3, first["3 tags"])):
        of_entry = ", ".join(f"'{group}:' || i" for group in ("doc", "user", "team")[:tags])
        numbers = f"FROM generate_series({start}, {start + entries - 1}) i"
        database.run(
            f"SELECT count(pgcache.cache_invalidate_tags({of_entry})) {numbers}",
            f"SELECT count(pgcache.cache_set('store', i::text, {tables.VALUE}, '1 day', ARRAY[{of_entry}])) {numbers}",
        )
    database.settle()

    def arm(query: str, start: int) -> Arm:
        return waiting(database, f"\\set key random({start}, {start + entries - 1})\n{query};\n", bench.seconds)

    yield compare(
        "get, 1 client",
        "µs",
        {name: arm("SELECT pgcache.cache_get('store', :key)", start) for name, start in first.items()},
        reference="no tag",
        targets=[Target("1 tag", at_most=1.25, of="no tag")],
        rounds=bench.rounds,
        settle=database.upkeep,
    )
    yield compare(
        "hit, 1 client",
        "µs",
        {
            "cache_get": arm("SELECT pgcache.cache_get('store', :key)", 1),
            "cache_fetch": arm("SELECT value, state, token FROM pgcache.cache_fetch('store', :key)", 1),
        },
        reference="cache_get",
        rounds=bench.rounds,
        settle=database.upkeep,
    )


def calls(bench: Bench, database: Database) -> Iterator[Result]:
    """From a program with one connection, which commits each call."""
    number = 100 if bench.quick else 500
    value = json.dumps(entry(1))
    with psycopg.connect(database.dsn, autocommit=True) as connection:

        def run(query: str, *arguments: Any) -> Any:
            row: Any = connection.execute(query.encode(), arguments, prepare=True).fetchone()
            return row

        def timed(call: Callable[[str], Any], prepare: Callable[[str], Any] = lambda key: None) -> Arm:
            """An arm of microseconds for a call with a key that no other has had."""

            def measured() -> Sample:
                keys = [f"key {next(NUMBERS)}" for _ in range(number)]
                for key in keys:
                    prepare(key)
                started = perf_counter()
                for key in keys:
                    call(key)
                return Sample((perf_counter() - started) / number * 1e6, number)

            return measured

        def fill(key: str) -> None:
            run(STORE, key, value, run(FETCH, key)[2])

        def fill_tagged(key: str) -> None:
            run(STORE, key, value, run(FETCH_TAGGED, key)[2])

        def plain_fill(key: str) -> None:
            run(GET, key)
            run(SET, key, value)

        yield compare(
            "set",
            "µs",
            {
                "cache_set": timed(lambda key: run(SET, key, value)),
                "cache_set, 1 tag": timed(lambda key: run(SET_TAGGED, key, value)),
            },
            reference="cache_set",
            rounds=bench.rounds,
        )
        yield compare(
            "delete",
            "µs",
            {
                "of an entry": timed(lambda key: run(DELETE, key), lambda key: run(SET, key, value)),
                "of none": timed(lambda key: run(DELETE, key)),
                "of a lease": timed(lambda key: run(DELETE, key), lambda key: run(FETCH, key)),
            },
            reference="of an entry",
            rounds=bench.rounds,
        )
        hit = "key 0"
        run(SET, hit, value)
        filled = compare(
            "miss and set",
            "µs",
            {
                "cache_get, cache_set": timed(plain_fill),
                "cache_fetch, cache_set with the token": timed(fill),
                "the same, 1 tag": timed(fill_tagged),
            },
            reference="cache_get, cache_set",
            rounds=bench.rounds,
        )
        yield filled
        hits = compare("hit", "µs", {"cache_fetch": timed(lambda key: run(FETCH, hit))}, rounds=bench.rounds)
        yield Result(
            "a cached get pays from this time of computing on",
            "µs",
            {
                f"{share:.0%} hits": break_even(
                    hits.samples["cache_fetch"], filled.samples["cache_fetch, cache_set with the token"], share
                )
                for share in (0.5, 0.9, 0.99)
            },
        )


def break_even(hits: Sequence[float], fills: Sequence[float], share: float) -> list[float]:
    """The c for which hits at this share and, for the rest, fills and c take as long as c each time."""
    return [hit + (1 - share) / share * fill for hit, fill in zip(hits, fills, strict=True)]


def invalidations(bench: Bench, database: Database) -> Iterator[Result]:
    entries = 20_000 if bench.quick else 1_000_000
    tables.pgcache(database, entries, value="to_jsonb(i)")
    database.run(TAGGED)
    database.settle()
    say(f"  {entries:,} entries are there")
    get = f"SELECT pgcache.cache_get('store', '{entries // 2}')"
    if database.value(get) != entries // 2:
        raise AssertionError("what was stored is not returned")

    def invalidate() -> Sample:
        started = perf_counter()
        database.run("SELECT pgcache.cache_invalidate_tags('all')")
        taken = perf_counter() - started
        if database.value(get) is not None:
            raise AssertionError("what was invalidated is returned")
        return Sample(taken * 1000)

    yield compare(
        f"a tag of {entries:,} entries",
        "ms",
        {"cache_invalidate_tags": invalidate},
        targets=[Target("cache_invalidate_tags", at_most=5)],
        rounds=bench.rounds,
        warm_up=False,
    )


def watches(bench: Bench, database: Database) -> Iterator[Result]:
    """What a watch costs those who write the table. 100,000 rows of some 100 bytes."""
    for table in ("plain", "watched"):
        database.run(
            f"CREATE TABLE {table} (id int PRIMARY KEY, title text, views int NOT NULL DEFAULT 0)",
            f"INSERT INTO {table} SELECT i, repeat('title ', 12) FROM generate_series(1, 100000) i",
        )
    database.run("SELECT pgcache.cache_watch('watched', 'doc:{id}')")
    database.settle()

    def one(table: str) -> Arm:
        script = f"\\set id random(1, 100000)\nUPDATE {table} SET views = views + 1 WHERE id = :id;\n"
        return waiting(database, script, bench.seconds)

    def many(table: str) -> Arm:
        def measured() -> Sample:
            first = 1 + 10_000 * (next(NUMBERS) % 10)
            started = perf_counter()
            database.run(f"UPDATE {table} SET views = views + 1 WHERE id BETWEEN {first} AND {first + 9999}")
            return Sample((perf_counter() - started) * 1000)

        return measured

    for name, unit, arm, at_most in (("1 row", "µs", one, 1.3), ("10,000 rows", "ms", many, 1.1)):
        yield compare(
            f"UPDATE of {name} of a table",
            unit,
            {"not watched": arm("plain"), "watched": arm("watched")},
            reference="not watched",
            targets=[Target("watched", at_most=at_most, of="not watched")],
            rounds=bench.rounds,
        )
