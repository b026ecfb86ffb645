"""The tables and queries that pgcache is compared with, and how they and pgcache's own are filled.

Keys are the numbers from 1 as text, values JSON objects of about 700 bytes, unless said otherwise.
"""

from __future__ import annotations

from tests.bench.machine import Database

VALUE = "jsonb_build_object('id', i, 'text', (SELECT string_agg(md5(i || '/' || j), '') FROM generate_series(1, 20) j))"
LLM_VALUE = f"jsonb_build_object('response', {VALUE} ->> 'text', 'model', 'gpt-4o-mini', 'tokens_used', 200)"
BATCH = 10_000

# Zipf: of 100,000 keys the first is asked for by one request in ten.
ZIPF = "\\set key random_zipfian(1, {}, 1.05)\n"
UNIFORM = "\\set key random(1, {})\n"

PLAIN = """
    CREATE {kind} TABLE {name} (key text PRIMARY KEY, value jsonb NOT NULL, expires_at timestamptz);
    INSERT INTO {name} SELECT i::text, {value}, now() + interval '30 days' FROM generate_series(1, {entries}) i
"""
# An entry with all that pgcache stores of it, but nothing else: no function, no statistics.
SHAPED = """
    CREATE TABLE shaped (LIKE pgcache.cache_type_store INCLUDING ALL);
    INSERT INTO shaped (type, tenant, cache_key, data, expires_at)
    SELECT 'store', '', i::text, {value}, now() + interval '30 days' FROM generate_series(1, {entries}) i
"""
# As seed 000 has it, with all its indexes.
SEED = """
    CREATE {kind} TABLE {name} (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        cache_key varchar(255) UNIQUE NOT NULL,
        cache_value jsonb NOT NULL,
        created_at timestamp DEFAULT now(),
        expires_at timestamp NOT NULL,
        hit_count integer DEFAULT 0,
        last_accessed_at timestamp DEFAULT now()
    );
    CREATE INDEX ON {name} (cache_key);
    CREATE INDEX ON {name} (expires_at);
    CREATE INDEX ON {name} (last_accessed_at);
    INSERT INTO {name} (cache_key, cache_value, expires_at)
    SELECT i::text, {value}, now() + interval '30 days' FROM generate_series(1, {entries}) i
"""
# What any function in this language costs that does no more than the bare SELECT.
FLOOR = """
    CREATE FUNCTION floor_get(key text) RETURNS jsonb LANGUAGE plpgsql AS $$
    DECLARE
        value jsonb;
    BEGIN
        SELECT p.value INTO value FROM plain p WHERE p.key = floor_get.key;
        RETURN value;
    END
    $$
"""

BARE_SELECT = "SELECT value FROM plain WHERE key = :key"
SHAPED_SELECT = """SELECT data FROM shaped WHERE tenant = '' AND cache_key = :key
    AND (expires_at IS NULL OR expires_at > statement_timestamp())"""
SEED_UPDATE = """UPDATE {} SET hit_count = hit_count + 1, last_accessed_at = now()
    WHERE cache_key = :key AND expires_at > now() RETURNING cache_value"""
UPSERT = """INSERT INTO {} (key, value, expires_at) VALUES ({}, {}, now() + interval '1 hour')
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"""


def one_line(query: str) -> str:
    """As pgbench's scripts want it."""
    return " ".join(query.split()) + ";\n"


def plain(database: Database, entries: int, name: str = "plain", kind: str = "") -> None:
    database.run(PLAIN.format(name=name, kind=kind, entries=entries, value=VALUE))


def shaped(database: Database, entries: int) -> None:
    database.run(SHAPED.format(entries=entries, value=VALUE))


def seed(database: Database, entries: int, name: str, kind: str) -> None:
    database.run(SEED.format(name=name, kind=kind, entries=entries, value=VALUE))


def pgcache(database: Database, entries: int, type: str = "store", value: str = VALUE) -> None:
    """Fill a type through the function that is there for it."""
    for first in range(1, entries + 1, BATCH):
        last = min(first + BATCH - 1, entries)
        database.run(
            f"SELECT pgcache.cache_set_many('{type}', array_agg(i::text), array_agg({value}), '30 days')"
            f" FROM generate_series({first}, {last}) i"
        )
