"""What a cache becomes as it is used: rows written, growth, clean-up, churn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread
from time import perf_counter

import psycopg

from tests.bench import tables
from tests.bench.harness import Arm, Result, Sample, Target, compare, question, say
from tests.bench.machine import Bench, Database, percentile

STORE = "pgcache.cache_type_store"
HIT_LOG = "pgcache_internal.hit_log"
GET = "SELECT pgcache.cache_get('store', :key);\n"


def size(database: Database, table: str) -> int:
    return int(database.value("SELECT pg_total_relation_size(%s)", table))


@question("writes", "What a million hits write, 8 clients, Zipf keys, upkeep after every tenth of them")
def writes(bench: Bench) -> Iterator[Result]:
    hits, batches, clients = (80_000 if bench.quick else 1_000_000), 10, 8
    # Autovacuum takes a few transaction ids of its own.
    limits = {"sampled": 0.06, "off": 0.0001}
    for keys in (1000, 10_000):
        per_hit: dict[str, dict[str, float]] = {}
        for mode in limits:
            with hurried_autovacuum(bench), bench.database("writes") as database:
                database.run(f"SELECT pgcache.cache_configure('store', hit_tracking => '{mode}')")
                tables.pgcache(database, keys)
                database.settle()
                per_hit[mode] = written(database, keys, hits, batches, clients)
            say(f"  {keys:,} keys, {mode}")
        for what in per_hit["sampled"]:
            growth = what.endswith("growth")
            yield Result(
                f"{keys:,} keys: {what}",
                "of the table" if growth else "per hit",
                {mode: [facts[what]] for mode, facts in per_hit.items()},
                targets=[Target(mode, at_most=0.05 if growth else limit) for mode, limit in limits.items()],
            )


def written(database: Database, keys: int, hits: int, batches: int, clients: int) -> dict[str, float]:
    """What the hits and the upkeep have written and used, per hit; and growth, as a share of the table's size."""
    before = {table: (database.count(table), size(database, table)) for table in (STORE, HIT_LOG)}
    ids = 0.0
    table_size = before[STORE][1]
    for _ in range(batches):
        start = database.count()["xids"]
        database.pgbench(tables.ZIPF.format(keys) + GET, clients, transactions=hits // batches // clients)
        ids += database.count()["xids"] - start
        database.upkeep()
    found: dict[str, float] = {}
    for table, name in ((STORE, "entries"), (HIT_LOG, "hit log")):
        counted, was = before[table]
        now = database.count(table)
        rows = sum(now[kind] - counted[kind] for kind in ("inserts", "updates", "deletes"))
        found[f"row writes, {name}"] = rows / hits
        found[f"{name}, growth"] = (size(database, table) - was) / table_size
    return {**found, "transaction ids": ids / hits}


@question("scale", "A get at 10 thousand, 1 million and 10 million small entries, 1 client")
def scale(bench: Bench) -> Iterator[Result]:
    sizes = {"10 thousand": 10_000, "1 million": 1_000_000, "10 million": 10_000_000}
    if bench.quick:
        sizes = {"10 thousand": 10_000, "200 thousand": 200_000}
    first, *_, last = sizes
    bare = f"SELECT data FROM {STORE} WHERE tenant = '' AND cache_key = :key AND type = 'store';\n"
    with ExitStack() as stack:
        databases = {}
        for number, (name, entries) in enumerate(sizes.items()):
            database = stack.enter_context(bench.database(f"scale_{number}"))
            tables.pgcache(database, entries, value="to_jsonb(i)")
            database.settle()
            databases[name] = database
            say(f"  {name} entries are there")
        for distribution, prologue in (("Zipf keys", tables.ZIPF), ("uniform keys", tables.UNIFORM)):
            for call, query in (("cache_get", GET), ("bare SELECT", bare)):
                yield compare(
                    f"{call}, {distribution}",
                    "µs",
                    {
                        name: waiting(database, prologue.format(sizes[name]) + query, bench.seconds)
                        for name, database in databases.items()
                    },
                    reference=first,
                    targets=[Target(last, at_most=1.3, of=first)] if call == "cache_get" else [],
                    rounds=bench.rounds,
                )


def waiting(database: Database, script: str, seconds: int) -> Arm:
    """An arm of microseconds for a transaction of a single client."""

    def run() -> Sample:
        load = database.pgbench(script, seconds=seconds)
        return Sample(1e6 / load.per_second, load.transactions)

    return run


@question("cleaning", "Get while the upkeep removes a million expired entries, 1 client")
def cleaning(bench: Bench) -> Iterator[Result]:
    live, expired = (10_000, 100_000) if bench.quick else (100_000, 1_000_000)
    script = tables.ZIPF.format(live) + GET
    medians: dict[str, list[float]] = {"quiet": [], "upkeep": []}
    took: list[float] = []
    with bench.database("cleaning") as database:
        tables.pgcache(database, live)

        def sample(arm: str, latencies: list[int]) -> Sample:
            medians[arm].append(percentile(latencies, 0.5))
            return Sample(percentile(latencies, 0.99), len(latencies))

        def quiet() -> Sample:
            database.settle()
            return sample("quiet", database.pgbench(script, seconds=2 * bench.seconds, latencies=True).latencies)

        def cleaned() -> Sample:
            database.run(
                f"INSERT INTO {STORE} (type, tenant, cache_key, data, expires_at)"
                " SELECT 'store', '', 'expired ' || i, to_jsonb(repeat('x', 100)), now()"
                f" FROM generate_series(1, {expired}) i"
            )
            database.settle()
            started = perf_counter()
            upkeep = Thread(target=database.upkeep)
            upkeep.start()
            latencies: list[int] = []
            while upkeep.is_alive():
                latencies += database.pgbench(script, seconds=1, latencies=True).latencies
            upkeep.join()
            took.append(perf_counter() - started)
            return sample("upkeep", latencies)

        p99 = compare(
            "p99",
            "µs",
            {"quiet": quiet, "upkeep": cleaned},
            reference="quiet",
            targets=[Target("upkeep", at_most=2.0, of="quiet")],
            rounds=bench.rounds,
            warm_up=False,
        )
    p99.facts["upkeep"] = {"seconds": sum(took) / len(took)}
    yield p99
    yield Result("p50", "µs", medians, "quiet")


# An hour of production is ten seconds here: so long does an entry live, and so often does the upkeep run.
CHURN = r"""
\set key random_zipfian(1, {keys}, 1.05)
SELECT (pgcache.cache_get('store', :key) IS NULL)::integer AS miss \gset
\if :miss
SELECT pgcache.cache_set('store', :key, :value, '10 seconds');
\endif
"""


@question("churn", "Gets, sets after misses, expiry and eviction for hours, compressed into minutes", chart="time")
def churn(bench: Bench) -> Iterator[Result]:
    keys, limit, hour = (5000, 2000, 2) if bench.quick else (100_000, 20_000, 10)
    hours = 4 if bench.quick else 15
    script = CHURN.format(keys=keys)
    sizes: dict[str, list[float]] = {}
    with ExitStack() as stack:
        stack.enter_context(hurried_autovacuum(bench))
        arms: dict[str, Arm] = {}
        for number, name in enumerate(("no long transaction", "one transaction held open")):
            database = stack.enter_context(bench.database(f"churn_{number}"))
            database.run(f"SELECT pgcache.cache_configure('store', max_entries => {limit})")
            value = database.value(f"SELECT {tables.VALUE}::text FROM generate_series(1, 1) i")
            if number:
                # It holds back vacuum in its own database only, so both can be measured in turn.
                holder = stack.enter_context(psycopg.connect(database.dsn))
                holder.execute("SELECT pg_current_xact_id()")
            sizes[name] = []
            arms[name] = churned(database, script, hour, value, sizes[name])
        rate = compare(
            "throughput",
            "requests/s",
            arms,
            reference="no long transaction",
            rounds=hours,
            warm_up=False,
        )
        yield rate
        yield Result("size of table and index", "MB", sizes, "no long transaction")


def churned(database: Database, script: str, hour: int, value: str, sizes: list[float]) -> Arm:
    def run() -> Sample:
        load = database.pgbench(script, 4, seconds=hour, variables={"value": value})
        database.upkeep()
        sizes.append(size(database, STORE) / 2**20)
        return Sample(load.per_second, load.transactions)

    return run


@contextmanager
def hurried_autovacuum(bench: Bench) -> Iterator[None]:
    """Autovacuum as often, in an hour that takes seconds, as in one that takes an hour."""
    with psycopg.connect(bench.cluster.dsn(), autocommit=True) as session:
        for change in "SET autovacuum_naptime = '1s'", "RESET autovacuum_naptime":
            session.execute(f"ALTER SYSTEM {change}".encode())
            session.execute("SELECT pg_reload_conf()")
            if change.startswith("SET"):
                yield
