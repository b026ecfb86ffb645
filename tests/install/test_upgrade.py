"""Upgrades: of released versions, and of versions made up here that differ in one thing.

An upgraded database is like a fresh one, and what users had is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from difflib import unified_diff
from typing import Any

import psycopg
import pytest

from pgcache_py.setup.install import install
from pgcache_py.setup.sources import Script, Sources, load
from tests.conftest import fresh_database
from tests.servers import Server
from tests.sql.test_get_and_set import VALUES
from tests.tools import releases
from tests.tools.catalog import catalog
from tests.tools.session import Session, database, session, user

from .conftest import with_change, with_migration

NewRole = Callable[[str], str]


@pytest.fixture
def another_dsn(server: Server, admin: psycopg.Connection) -> Iterator[str]:
    """A second database without pgcache."""
    yield from fresh_database(server, admin, "template0")


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


# What was there before ----------------------------------------------------------------------------------------------


class Users:
    """Roles with access to a database, and rights that the owner gave to them himself."""

    OWN_RIGHTS = (
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
    *function, name = right.partition(" ON ")[2].partition(" TO ")[0].split()
    look = f"SELECT to_reg{'proc' if function else 'class'}(%s) IS NOT NULL"
    return connection.execute(look.encode(), [name]).fetchone() == (True,)


def fill(ask: Session) -> None:
    """Entries of each type, with hits and TTLs; types of users; settings, limits, prices, the hot tier."""
    make_types(ask)
    ask("SELECT cache_configure('llm', ttl => '2 hours', max_entries => 500, eviction => 'cost')")
    ask("SELECT cache_configure('audio', max_bytes => 1000000, hit_tracking => 'exact')")
    ask("SELECT cache_configure_setting('ttl_short', '7 minutes'), cache_set_price('m', 2.5)")
    ask("SELECT cache_hot_on('phash', '3 hours')")
    values = {**VALUES, "mine": ["[1, 2]"], "typed": ['{"text": "t", "tokens_used": 3}']}
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
        FROM cache_stats ORDER BY type
    """
    with ask.transaction("READ ONLY"):  # where a hit does not count
        shared = ask.rows(entries)
        ask("SET LOCAL pgcache.tenant = 'acme'")
        of_acme = ask.rows(entries)
    assert (len(shared), len(of_acme)) == (2 * ask("SELECT count(*) FROM pgcache_internal.types"), 1)
    return {
        "entries": [shared, of_acme],
        "statistics": ask.rows(statistics),
        "history": ask.rows("SELECT hour, type, entries, hits FROM cache_stats_history ORDER BY 1, 2"),
        "settings": ask.rows(
            "SELECT name, value FROM cache_settings WHERE name IN ('ttl_short', 'test_clock') ORDER BY 1"
        ),
        "prices": ask.rows("SELECT * FROM pgcache_internal.model_prices"),
        "hot": ask.rows("SELECT type, ttl FROM pgcache_internal.hot_types"),
        "outbox": ask.rows("SELECT type, cache_key, version FROM pgcache_internal.hot_outbox ORDER BY id"),
    }


def assert_the_same(upgraded: list[str], fresh: list[str]) -> None:
    difference = "\n".join(unified_diff(fresh, upgraded, "fresh", "upgraded", lineterm="", n=0))
    assert not difference, difference


# Released versions --------------------------------------------------------------------------------------------------


@pytest.fixture(params=releases.VERSIONS)
def release(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    if releases.has_changed_since(version):
        pytest.skip(f"a migration has changed since {version} was frozen, before its release: make freeze")
    return version


def test_a_released_version(
    release: str, server: Server, empty_dsn: str, another_dsn: str, new_role: NewRole, admin: psycopg.Connection
) -> None:
    plpython = "plpython3u" in server.extensions
    releases.install_frozen(empty_dsn, release, plpython=plpython)
    ask = Session(empty_dsn)
    fill(ask)
    users = Users(empty_dsn, new_role)
    if plpython:
        ask("SELECT ai_configure(api_key => 'secret', model => 'mine'), ai_grant(%s)", users.roles["writer"])
    before = seen(ask)
    releases.upgrade(empty_dsn)
    assert seen(ask) == before
    assert ask("SELECT cache_set('phash', 'k2', %s)", VALUES["phash"][0])
    assert ask("SELECT count(*) FROM pgcache_internal.hot_outbox WHERE cache_key = 'k2'") == 1

    install(another_dsn, cron=False)
    fresh = Session(another_dsn)
    make_types(fresh)
    fresh("SELECT cache_configure('llm', ttl => '2 hours', max_entries => 500, eviction => 'cost')")
    fresh("SELECT cache_configure('audio', max_bytes => 1000000, hit_tracking => 'exact')")
    fresh("SELECT cache_configure_setting('ttl_short', '7 minutes'), cache_hot_on('phash')")
    users.give(another_dsn)
    if plpython:
        fresh("SELECT ai_configure(model => 'mine'), ai_grant(%s)", users.roles["writer"])
    assert_the_same(catalog(ask), catalog(fresh))
    ask.close()
    fresh.close()


@pytest.mark.needs("pg_cron")
def test_a_schedule_is_kept(release: str, empty_dsn: str, cron: psycopg.Connection) -> None:
    releases.install_frozen(empty_dsn, release, plpython=False)
    job = f"pgcache_upkeep ({database(empty_dsn)})"
    cron.execute(
        "SELECT cron.schedule_in_database(%s, '*/7 * * * *', 'CALL pgcache.cache_upkeep()', %s)",
        [job, database(empty_dsn)],
    )
    install(empty_dsn, sources=with_change())
    assert cron.execute("SELECT schedule FROM cron.job WHERE jobname = %s", [job]).fetchall() == [("*/7 * * * *",)]
    cron.execute("SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname LIKE %s", [f"%({database(empty_dsn)})"])


@pytest.mark.parametrize("version", releases.VERSIONS)
def test_released_migrations_are_as_they_were(version: str) -> None:
    if not releases.is_released(version):
        pytest.skip(f"{version} is not released yet")
    now = {migration.title: migration.sha256 for migration in load().migrations}
    assert releases.migrations(version).items() <= now.items(), "what has to change goes into a new migration"


# Versions that differ in one thing ----------------------------------------------------------------------------------

TIER = "create or replace function pgcache.cache_tier", "create or replace function pgcache.cache_set_price"
# Each is taken for the newer version, and for the older one.
DIFFERENT = {
    "a parameter, of what prepare.sql calls": lambda: edited(
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
    column = "                version bigint,\n                primary key (tenant, cache_key)"
    sources = edited(
        "registry/fields.sql", (column, column.replace("bigint,", "bigint,\n                tags text[],"))
    )
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
        "caches/llm.sql", ('"tokens_used": "count"}', '"tokens_used": "count", "finish": "string"}')
    ),
}
PAIRS = {
    **{f"with {name}": (load, version) for name, version in {**DIFFERENT, **GROWN}.items()},
    **{f"without {name}": (version, load) for name, version in DIFFERENT.items()},
    "with a procedure, not a function": (lambda: kind("function", "returns void"), lambda: kind("procedure", "")),
    "with a function, not a procedure": (lambda: kind("procedure", ""), lambda: kind("function", "returns void")),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_one_difference(pair: str, empty_dsn: str, another_dsn: str, new_role: NewRole) -> None:
    older, newer = (make() for make in PAIRS[pair])
    install(empty_dsn, sources=older, cron=False)
    ask = Session(empty_dsn)
    make_types(ask)
    users = Users(empty_dsn, new_role)
    ask("CREATE FUNCTION pgcache.cache_tier(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'")  # a user's own
    ask("CREATE VIEW pgcache.my_view AS SELECT 1 AS a")
    ask("SELECT cache_set('mine', 'k', '1'), cache_set('llm', 'k', '{\"response\": \"r\"}')")
    report = install(empty_dsn, sources=newer, cron=False)
    assert report.action == "upgraded"
    assert ask("SELECT cache_get('mine', 'k')") == 1
    assert ask("SELECT cache_get('llm', 'k')") == {"response": "r"}
    assert ask("SELECT pgcache.cache_tier(7)") == 1
    assert ask("SELECT a FROM pgcache.my_view") == 1
    ask("DROP FUNCTION pgcache.cache_tier(integer)")
    ask("DROP VIEW pgcache.my_view")

    install(another_dsn, sources=newer, cron=False)
    fresh = Session(another_dsn)
    make_types(fresh)
    users.give(another_dsn)
    assert_the_same(catalog(ask), catalog(fresh))
    assert install(empty_dsn, sources=newer, cron=False).action == "current"
    ask.close()
    fresh.close()
