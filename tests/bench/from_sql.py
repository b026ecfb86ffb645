"""Single gets and sets from SQL, by pgbench with prepared statements."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench import tables
from tests.bench.harness import Arm, Result, Target, compare, question
from tests.bench.machine import Bench, Database

ENTRIES = 100_000
GETS = {
    "bare SELECT": tables.BARE_SELECT,
    "bare SELECT, pgcache's columns": tables.SHAPED_SELECT,
    "bare SELECT in PL/pgSQL": "SELECT floor_get(:key)",
    "cache_get, store": "SELECT pgcache.cache_get('store', :key)",
    "cache_get, llm": "SELECT pgcache.cache_get('llm', :key)",
    "seed's UPDATE, unlogged": tables.SEED_UPDATE.format("seed_unlogged"),
    "seed's UPDATE, logged": tables.SEED_UPDATE.format("seed_logged"),
}

# Of what is stored by prepare_typed. The keys are made of a prompt of 600 characters in the server.
PROMPT = "repeat('What is a cache? ', 35) || :key"
TYPED = {
    "cache_get, llm": "SELECT pgcache.cache_get('llm', 'key ' || :key)",
    "cache_get_llm": f"SELECT pgcache.cache_get_llm({PROMPT}, 'gpt-4o')",
    "cache_get_embedding": f"SELECT pgcache.cache_get_embedding({PROMPT}, 'small')",
    "cache_get_audio": f"""SELECT * FROM pgcache.cache_get_audio({PROMPT}, 'alto', '', '{{"speed": 1.5}}')""",
    "cache_get_vector_search": """
        SELECT pgcache.cache_get_vector_search(('[1,2,' || :key || ']')::vector, '{"a": 1}')""",
    "cache_get_ai_worker": f"SELECT pgcache.cache_get_ai_worker({PROMPT}, 'gpt-4o', 'v1')",
}


def prepare_typed(database: Database, entries: int) -> None:
    prompt = PROMPT.replace(":key", "i")
    for call in (
        "cache_set('llm', 'key ' || i, '{\"response\": \"A place.\"}')",
        f"cache_set_llm({prompt}, 'gpt-4o', 'A place.')",
        f"cache_set_embedding({prompt}, 'small', '[1,2,3]')",
        f"""cache_set_audio({prompt}, 'alto', 'x', 'mp3', settings => '{{"speed": 1.5}}')""",
        """cache_set_vector_search(('[1,2,' || i || ']')::vector, '[]', '{"a": 1}')""",
        f"cache_set_ai_worker({prompt}, 'gpt-4o', 'v1', 'SELECT')",
    ):
        database.run(f"SELECT count(pgcache.{call}) FROM generate_series(1, {entries}) i")


def prepare_gets(database: Database, entries: int) -> None:
    tables.plain(database, entries)
    tables.shaped(database, entries)
    tables.seed(database, entries, "seed_logged", "")
    tables.seed(database, entries, "seed_unlogged", "UNLOGGED")
    tables.pgcache(database, entries)
    tables.pgcache(database, entries, "llm", tables.LLM_VALUE)
    database.run(tables.FLOOR)
    database.settle()


def arms(database: Database, bench: Bench, prologue: str, queries: dict[str, str], clients: int) -> dict[str, Arm]:
    return {
        name: database.arm(prologue + tables.one_line(query), clients, bench.seconds) for name, query in queries.items()
    }


@question("get-sql", "Single get from SQL, 100,000 entries, Zipf keys")
def get_from_sql(bench: Bench) -> Iterator[Result]:
    entries = ENTRIES // (10 if bench.quick else 1)
    with bench.database("get_sql") as database:
        prepare_gets(database, entries)
        for clients in (1, 2, 8):
            targets = [
                Target("cache_get, store", at_least=0.80, of="bare SELECT"),
                Target("cache_get, llm", at_least=0.80, of="bare SELECT"),
                Target("cache_get, store", at_least=5, of="seed's UPDATE, logged"),
            ]
            yield compare(
                f"{clients} client{'s'[: clients - 1]}",
                "gets/s",
                arms(database, bench, tables.ZIPF.format(entries), GETS, clients),
                reference="bare SELECT",
                targets=targets if clients == 8 else [],
                rounds=bench.rounds,
                count=database.count,
                settle=database.upkeep,
            )


@question("get-fresh", "Single get from SQL of entries that no upkeep has seen, 100,000 entries, Zipf keys")
def get_fresh(bench: Bench) -> Iterator[Result]:
    """Without a VACUUM, too: as on a day on which a team tries it."""
    entries = ENTRIES // (10 if bench.quick else 1)
    with bench.database("get_fresh") as database:
        tables.plain(database, entries)
        database.run(tables.FLOOR)
        for type, value in (("store", tables.VALUE), ("llm", tables.LLM_VALUE)):
            tables.pgcache(database, entries, type, value)
        names = ("bare SELECT", "bare SELECT in PL/pgSQL", "cache_get, store", "cache_get, llm")
        for clients, bound in ((1, 0.60), (8, 0.70)):
            yield compare(
                f"{clients} client{'s'[: clients - 1]}",
                "gets/s",
                arms(database, bench, tables.ZIPF.format(entries), {name: GETS[name] for name in names}, clients),
                reference="bare SELECT",
                targets=[Target(name, at_least=bound, of="bare SELECT") for name in names[2:]],
                rounds=bench.rounds,
                count=database.count,
            )


@question("typed", "Gets of typed caches from SQL, which make their keys of what is asked; 1,000 entries")
def get_typed(bench: Bench) -> Iterator[Result]:
    with bench.database("typed") as database:
        prepare_typed(database, 1000)
        yield compare(
            "8 clients",
            "gets/s",
            arms(database, bench, "\\set key random(1, 1000)\n", TYPED, 8),
            reference="cache_get, llm",
            targets=[Target("cache_get_llm", at_least=0.5, of="cache_get, llm")],
            rounds=bench.rounds,
        )


@question("hot-key", "One hot key, 8 clients")
def hot_key(bench: Bench) -> Iterator[Result]:
    with bench.database("hot_key") as database:
        prepare_gets(database, 1000)
        yield compare(
            "8 clients",
            "gets/s",
            arms(database, bench, "\\set key 500\n", GETS, 8),
            reference="bare SELECT",
            targets=[Target("cache_get, store", at_least=10, of="seed's UPDATE, logged")],
            rounds=bench.rounds,
            count=database.count,
            settle=database.upkeep,
        )


@question("set-sql", "Single set from SQL, 100,000 entries, uniform keys")
def set_from_sql(bench: Bench) -> Iterator[Result]:
    entries = ENTRIES // (10 if bench.quick else 1)
    sets = {
        "bare upsert, unlogged": tables.UPSERT.format("plain_unlogged", ":key", ":value"),
        "cache_set, unlogged": "SELECT pgcache.cache_set('fast', :key, :value)",
        "cache_set, store unlogged": "SELECT pgcache.cache_set('store', :key, :value)",
        "bare upsert, logged": tables.UPSERT.format("plain", ":key", ":value"),
        "cache_set, llm logged": "SELECT pgcache.cache_set('llm', :key, :llm_value)",
    }
    with bench.database("set_sql") as database:
        tables.plain(database, entries)
        tables.plain(database, entries, "plain_unlogged", "UNLOGGED")
        database.run(
            "SELECT pgcache.cache_configure('store', durable => false)",
            "SELECT pgcache.cache_create_type('fast', durable => false)",
        )
        tables.pgcache(database, entries)
        tables.pgcache(database, entries, "fast")
        tables.pgcache(database, entries, "llm", tables.LLM_VALUE)
        database.settle()
        values = {
            "value": database.value(f"SELECT {tables.VALUE}::text FROM generate_series(1, 1) i"),
            "llm_value": database.value(f"SELECT {tables.LLM_VALUE}::text FROM generate_series(1, 1) i"),
        }
        for clients in (1, 8):
            prologue = tables.UNIFORM.format(entries)
            yield compare(
                f"{clients} client{'s'[: clients - 1]}",
                "sets/s",
                {
                    name: database.arm(prologue + tables.one_line(query), clients, bench.seconds, values)
                    for name, query in sets.items()
                },
                reference="bare upsert, unlogged",
                targets=[
                    Target("cache_set, store unlogged", at_least=0.8, of="bare upsert, unlogged"),
                    Target("cache_set, unlogged", at_least=0.8, of="bare upsert, unlogged"),
                ],
                rounds=bench.rounds,
                count=database.count,
            )
