"""Versions of pgcache made up here, what users may have in a database, and whether it is still there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import unified_diff
from typing import Any

import psycopg

from pgcache_py.setup.sources import Script, Sources, load
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, session, user

from .conftest import with_migration

NewRole = Callable[[str], str]


def edited(name: str, *changes: tuple[str, str], sources: Sources | None = None) -> Sources:
    """The sources as if a file had been edited: each first text replaced by the second, or the first cut out."""
    sources = sources or load()

    def edit(script: Script) -> Script:
        text = script.text
        for before, after in changes:
            assert before in text, f"{name} has changed: {before}"
            text = text.replace(before, after)
        return replace(script, text=text)

    assert name in {script.name for script in (*sources.code, *sources.plpython)}
    return replace(
        sources,
        code=tuple(edit(script) if script.name == name else script for script in sources.code),
        plpython=tuple(edit(script) if script.name == name else script for script in sources.plpython),
    )


def added(text: str, sources: Sources | None = None) -> Sources:
    sources = sources or load()
    return replace(sources, code=(*sources.code, Script("reports/added.sql", text)))


def without(name: str, begins: str, ends: str) -> Sources:
    """The sources without a part of a file, up to where the next one begins."""
    (text,) = (script.text for script in load().code if script.name == name)
    start = text.index(begins)
    return edited(name, (text[start : text.index(ends, start)], ""))


TIER = "create or replace function pgcache.cache_tier", "create or replace function pgcache.cache_set_price"
# Each is taken for the newer version, and for the older one.
DIFFERENT = {
    "a parameter, of what prepare_types.sql calls": lambda: edited(
        "registry/types.sql",
        ("prepare_type(type text) returns", "prepare_type(type text, quietly boolean default false) returns"),
        ("on function pgcache_internal.prepare_type(text)", "on function pgcache_internal.prepare_type(text, boolean)"),
    ),
    "a parameter, of what users call": lambda: edited(
        "registry/settings.sql",
        ("cache_tier(tier text) returns", "cache_tier(tier text, factor integer default 1) returns"),
        ("on function pgcache.cache_tier(text)", "on function pgcache.cache_tier(text, integer)"),
    ),
    "a parameter, of what is compiled": lambda: edited(
        "entries/get.sql",
        (
            "pgcache.cache_get(type text, key text) returns",
            "pgcache.cache_get(type text, key text, spare text default null) returns",
        ),
        ("on function pgcache.cache_get(text, text)", "on function pgcache.cache_get(text, text, text)"),
    ),
    "the name of a parameter": lambda: edited(
        "registry/settings.sql",
        ("cache_tier(tier text)", "cache_tier(name text)"),
        ("'ttl_' || tier", "'ttl_' || name"),
    ),
    "a default": lambda: edited(
        "registry/settings.sql", ("cache_tier(tier text)", "cache_tier(tier text default 'short')")
    ),
    "a result": lambda: edited(
        "registry/settings.sql",
        ("cache_tier(tier text) returns interval", "cache_tier(tier text) returns text"),
        ("'ttl_' || tier)::interval", "'ttl_' || tier)"),
    ),
    "a result that a view shows, with a column in between": lambda: edited(
        "reports/stats.sql",
        ("    s.hits,\n    s.misses,\n    s.hit_rate,", "    s.hits,\n    s.spare,\n    s.misses,\n    s.hit_rate,"),
        ("misses bigint, ", "misses bigint, spare text, "),
    ),
    "a view with a column in between": lambda: edited(
        "registry/settings.sql", ("    s.name,\n    s.value,", "    s.name,\n    1 as spare,\n    s.value,")
    ),
    "no such function": lambda: without("registry/settings.sql", *TIER),
    "a view more": lambda: added(
        "create or replace view pgcache.later as select 1 as a;\ncomment on view pgcache.later is 'Later.';\n"
    ),
}


def kind(kind: str, result: str) -> Sources:
    return added(
        f"create or replace {kind} pgcache.later(a integer) {result} language plpgsql as $$ begin end $$;\n"
        f"comment on {kind} pgcache.later(integer) is 'Later.';\n"
    )


def grown() -> Sources:
    """A column in every entry table, which new tables have by their template, and others by a migration."""
    column = "                cache_compute_ms real,\n                primary key (tenant, cache_key)"
    sources = edited("registry/fields.sql", (column, column.replace("real,", "real,\n                tags text[],")))
    return with_migration(
        """
        ALTER TABLE pgcache.cache_store ADD COLUMN tags text[];
        DO $$
        DECLARE
            typed regclass;
        BEGIN
            FOR typed IN SELECT t.relation FROM pgcache_internal.types AS t WHERE t.fields IS NOT NULL LOOP
                EXECUTE format('ALTER TABLE %s ADD COLUMN tags text[]', typed);
            END LOOP;
        END
        $$;
        """,
        sources,
    )


# These have no way back, as what was in them would be lost.
GROWN = {
    "a column in every entry table": grown,
    "a setting": lambda: edited("registry/settings.sql", ("('ttl_short',", "('later', '1', 'later'),\n('ttl_short',")),
    "a field of a typed cache": lambda: edited(
        "caches/llm.sql", ('"cached_input_tokens": "count"}', '"cached_input_tokens": "count", "finish": "string"}')
    ),
}
PAIRS = {
    **{f"with {name}": (load, version) for name, version in {**DIFFERENT, **GROWN}.items()},
    **{f"without {name}": (version, load) for name, version in DIFFERENT.items()},
    "with a procedure, not a function": (lambda: kind("function", "returns void"), lambda: kind("procedure", "")),
    "with a function, not a procedure": (lambda: kind("procedure", ""), lambda: kind("function", "returns void")),
}
ANOTHER_VIEW = ("registry/settings.sql", ("    s.name,\n    s.value,", "    s.name,\n    1 as spare,\n    s.value,"))


# What users have ---------------------------------------------------------------------------------------------------


class Users:
    """Roles with access to a database, and rights that the owner gave to them himself."""

    OWN_RIGHTS = (
        "USAGE ON SCHEMA pgcache TO {looker}",
        "SELECT ON pgcache.cache_settings TO {looker}",
        "SELECT (type, hits) ON pgcache.cache_stats TO {looker} WITH GRANT OPTION",
        "EXECUTE ON FUNCTION pgcache.cache_tier TO {looker} WITH GRANT OPTION",
        "EXECUTE ON FUNCTION pgcache.cache_cleanup TO {reader}",  # beyond its kind of access
        "SELECT ON pgcache.cache_settings TO PUBLIC",
    )

    def __init__(self, dsn: str, new_role: NewRole) -> None:
        self.roles = {name: user(new_role(dsn)) for name in ("reader", "writer", "admin", "looker")}
        self.given: list[str] = []
        with session(dsn) as connection:
            self.given = [right for right in self.OWN_RIGHTS if _is_there(connection, right)]
        self.give(dsn)

    def give(self, dsn: str) -> None:
        with session(dsn) as connection:
            for name, access in (("reader", "read"), ("writer", "write"), ("admin", "admin")):
                connection.execute("SELECT pgcache.cache_grant(%s, %s)", [self.roles[name], access])
            for right in self.given:
                if _is_there(connection, right):
                    connection.execute(f"GRANT {right.format(**self.roles)}".encode())


def _is_there(connection: psycopg.Connection, right: str) -> bool:
    *kind, name = right.partition(" ON ")[2].partition(" TO ")[0].split()
    look = f"SELECT to_reg{ {'': 'class', 'FUNCTION': 'proc', 'SCHEMA': 'namespace'}[''.join(kind)] }(%s) IS NOT NULL"
    return connection.execute(look.encode(), [name]).fetchone() == (True,)


def fill(ask: Session) -> None:
    """Entries of each type, with hits and TTLs; types of users; settings, limits, prices, the hot tier."""
    make_types(ask)
    ask("SELECT cache_configure('llm', ttl => '2 hours', max_entries => 500, eviction => 'cost')")
    ask("SELECT cache_configure('audio', max_bytes => 1000000, hit_tracking => 'exact')")
    ask("SELECT cache_configure_setting('ttl_short', '7 minutes'), cache_set_price('m', 2.5)")
    ask("SELECT cache_hot_on('phash', '3 hours'), pgcache_internal.hot_begin_epoch('epoch', 'redis')")
    values = {**VALUES, "mine": ["[1, 2]"], "typed": ['{"text": "t", "tokens_used": 3}']}
    del values["bytes"]  # not in 0.1.0
    for type, (value, *_) in values.items():
        ask("SELECT cache_set(%s, 'k', %s)", type, value)
        ask("SELECT cache_set(%s, 'kept', %s, '30 days')", type, value)
        ask("SELECT cache_get(%s, 'k'), cache_get(%s, 'k'), cache_get(%s, 'absent')", type, type, type)
    ask("SET pgcache.tenant = 'acme'")
    ask("SELECT cache_set('store', 'k', '\"of acme\"')")
    ask("RESET pgcache.tenant")
    ask("CALL cache_upkeep()")
    ask("SELECT cache_get('llm', 'k')")  # a hit that is not folded yet


def make_types(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', ttl => '1 day', max_entries => 100, eviction => 'fifo')")
    fields = '{"text": "string!", "tokens_used": "count"}'
    ask("SELECT cache_create_type('typed', fields => %s, durable => false)", fields)


def seen(ask: Session) -> dict[str, Any]:
    """What a user sees of all that."""
    entries = """
        SELECT t.type, k.key, e.created_at, e.expires_at, e.hit_count, e.last_accessed_at, g.value
        FROM pgcache_internal.types AS t, unnest('{k,kept}'::text[]) AS k (key),
            cache_entry(t.type, k.key) AS e, cache_get_many(t.type, ARRAY[k.key]) AS g
        ORDER BY 1, 2
    """
    statistics = """
        SELECT type, entries, hits, misses, tokens_saved, money_saved, max_entries, max_bytes, ttl, eviction, durable
        FROM cache_stats WHERE type <> 'bytes' ORDER BY type
    """
    with ask.transaction("READ ONLY"):  # where a hit does not count
        shared = ask.rows(entries)
        ask("SET LOCAL pgcache.tenant = 'acme'")
        of_acme = ask.rows(entries)
    assert (len(shared), len(of_acme)) == (2 * len(ask.rows(statistics)), 1)
    return {
        "entries": [shared, of_acme],
        "statistics": ask.rows(statistics),
        "history": ask.rows("SELECT hour, type, entries, hits FROM cache_stats_history ORDER BY 1, 2"),
        "settings": ask.rows(
            "SELECT name, value FROM cache_settings WHERE name IN ('ttl_short', 'test_clock') ORDER BY 1"
        ),
        "prices": ask.rows("SELECT model, usd_per_million_tokens FROM pgcache_internal.model_prices"),
        "hot": ask.rows("SELECT type, ttl FROM pgcache_internal.hot_types"),
    }


def assert_the_same(upgraded: list[str], fresh: list[str]) -> None:
    difference = "\n".join(unified_diff(fresh, upgraded, "fresh", "upgraded", lineterm="", n=0))
    assert not difference, difference
