"""Upgrades: of released versions, and of versions made up here that differ in one thing.

An upgraded database is like a fresh one, and what users had is still there.
"""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from pgcache_py.errors import PgcacheError
from pgcache_py.setup.install import install
from pgcache_py.setup.sources import Script, Sources, load
from tests.servers import Server
from tests.sql.test_get_and_set import VALUES
from tests.tools import releases
from tests.tools.catalog import catalog
from tests.tools.session import Session, database, session, user

from .conftest import with_change, with_migration
from .versions import (
    ANOTHER_VIEW,
    PAIRS,
    TIER,
    NewRole,
    Users,
    assert_the_same,
    edited,
    fill,
    make_types,
    seen,
    without,
)


@pytest.mark.every
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
    # What waited for the relay is not kept: it takes all in Redis for void.
    assert ask.rows("SELECT type, cache_key, version FROM pgcache_internal.hot_pending()") == [(None, None, 0)]
    assert ask("SELECT cache_set('phash', 'k2', %s)", VALUES["phash"][0])
    assert ask("SELECT count(*) FROM pgcache_internal.hot_untold() WHERE cache_key = 'k2'") == 1

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


def test_what_was_saved_before_it_was_counted_by_tenant_is_not_lost(release: str, empty_dsn: str) -> None:
    releases.install_frozen(empty_dsn, release, plpython=False)
    ask = Session(empty_dsn)
    ask("SELECT cache_set_price('m', 1000000)")
    for tenant in ("acme", ""):
        ask("SELECT set_config('pgcache.tenant', %s, false)", tenant)
        ask("SELECT cache_set_llm('p', 'm', 'r', 10), cache_set('store', 'k', '1')")
        ask("SELECT cache_get_llm('p', 'm'), cache_get_llm('p', 'm'), cache_get('store', 'k')")
    ask("CALL cache_upkeep()")
    stats = "SELECT type, hits, tokens_saved, money_saved FROM cache_stats WHERE hits > 0 ORDER BY type"
    before = ask.rows(stats)
    releases.upgrade(empty_dsn)
    assert ask.rows(stats) == before
    by_tenant = "SELECT tenant, type, hits, money_saved FROM cache_tenant_stats() WHERE hits > 0 ORDER BY type, tenant"
    assert ask.rows(by_tenant) == [(None, "llm", 4, 40), (None, "store", 2, 0)]
    ask("SELECT cache_get_llm('p', 'm')")
    for _ in range(2):
        assert ask.rows(by_tenant) == [("", "llm", 1, 10), (None, "llm", 4, 40), (None, "store", 2, 0)]
        ask("CALL cache_upkeep()")
    assert ask.stats("llm")["money_saved"] == 50
    ask.close()


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


@pytest.mark.once  # the server's part in it, CREATE OR REPLACE and DROP, is in the upgrade of a released version, too
@pytest.mark.parametrize("pair", PAIRS)
def test_one_difference(pair: str, dsn: str, empty_dsn: str, another_dsn: str, new_role: NewRole) -> None:
    make_older, make_newer = PAIRS[pair]
    older, newer = make_older(), make_newer()
    with_older = dsn if make_older is load else empty_dsn  # the database that has it already
    with_newer = dsn if make_newer is load else another_dsn
    install(with_older, sources=older, cron=False)
    ask = Session(with_older)
    make_types(ask)
    users = Users(with_older, new_role)
    ask("CREATE FUNCTION pgcache.cache_tier(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'")  # a user's own
    ask("CREATE VIEW pgcache.my_view AS SELECT 1 AS a")
    ask("SELECT cache_set('mine', 'k', '1'), cache_set('llm', 'k', '{\"response\": \"r\"}')")
    report = install(with_older, sources=newer, cron=False)
    assert report.action == "upgraded"
    assert ask("SELECT cache_get('mine', 'k')") == 1
    assert ask("SELECT cache_get('llm', 'k')") == {"response": "r"}
    assert ask("SELECT pgcache.cache_tier(7)") == 1
    assert ask("SELECT a FROM pgcache.my_view") == 1
    ask("DROP FUNCTION pgcache.cache_tier(integer)")
    ask("DROP VIEW pgcache.my_view")
    assert install(with_older, sources=newer, cron=False).action == "current"

    install(with_newer, sources=newer, cron=False)
    fresh = Session(with_newer)
    make_types(fresh)
    users.give(with_newer)
    for each in (ask, fresh):
        each("SELECT cache_configure_setting('test_clock', 'on')")  # as it is in what the tests copy
    assert_the_same(catalog(ask), catalog(fresh))
    ask.close()
    fresh.close()


# The report ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_it_would_drop_and_which_migrations_would_run(dsn: str) -> None:
    older = edited(*ANOTHER_VIEW, sources=without("registry/settings.sql", *TIER))
    newer = with_migration("CREATE TABLE pgcache.later ();", older)
    ask = Session(dsn)
    before = catalog(ask)
    report = install(dsn, sources=newer, cron=False, dry_run=True)
    assert (report.action, report.dry_run, report.migrations) == ("upgraded", True, [newer.migrations[-1].title])
    assert report.dropped == ["function pgcache.cache_tier(pg_catalog.text)"]
    assert report.remade == ["view pgcache.cache_settings"]
    assert catalog(ask) == before
    again = install(dsn, sources=newer, cron=False)
    assert (again.dropped, again.remade, again.migrations) == (report.dropped, report.remade, report.migrations)
    ask.close()


# The level plpython3u -----------------------------------------------------------------------------------------------


def with_python(head: str, comment: str) -> Sources:
    text = f"{head} language plpython3u as 'return 42';\ncomment on function pgcache.{comment} is 'An answer.';\n"
    return replace(load(), plpython=(Script("plpython/answer.sql", text),))


@pytest.mark.needs("plpython3u")
def test_functions_in_python_change_like_others(empty_dsn: str, new_role: NewRole) -> None:
    first = with_python("create or replace function pgcache.answer() returns integer", "answer()")
    later = with_python(
        "create or replace function pgcache.answer(a integer default 0) returns text", "answer(integer)"
    )
    install(empty_dsn, sources=first, cron=False)
    role = user(new_role(empty_dsn))
    with session(empty_dsn) as connection:
        connection.execute(f"GRANT EXECUTE ON FUNCTION pgcache.answer() TO {role}".encode())
        # Without the level what it has made stays as it is.
        install(empty_dsn, sources=with_change(replace(first, plpython=())), cron=False)
        assert connection.execute("SELECT pgcache.answer()").fetchone() == (42,)
        assert install(empty_dsn, sources=later, cron=False).dropped == ["function pgcache.answer()"]
        assert connection.execute("SELECT pgcache.answer()").fetchone() == ("42",)
        may = connection.execute("SELECT has_function_privilege(%s, 'pgcache.answer(integer)', 'EXECUTE')", [role])
        assert may.fetchone() == (True,)
        language = "SELECT lanname FROM pg_language l JOIN pg_proc p ON l.oid = prolang WHERE proname = 'answer'"
        assert connection.execute(language).fetchall() == [("plpython3u",)]


def test_a_new_type_of_ours_does_not_take_the_place_of_a_users(dsn: str) -> None:
    declared = Script(
        "caches/headline.sql",
        """select pgcache_internal.declare_type('headline', 'headline_cache', 'x', fields => '{"text": "string!"}');""",
    )
    sources = load()
    newer = replace(sources, code=(*sources.code[:-1], declared, sources.code[-1]))
    ask = Session(dsn)
    ask("SELECT cache_create_type('headline'), cache_set('headline', 'k', '1')")
    with pytest.raises(PgcacheError, match="a cache type 'headline' of its own") as caught:
        install(dsn, sources=newer, cron=False)
    assert (caught.value.sqlstate, "cache_drop_type('headline')" in (caught.value.hint or "")) == ("PC007", True)
    assert ask("SELECT cache_get('headline', 'k')") == 1
    ask("SELECT cache_drop_type('headline')")
    assert install(dsn, sources=newer, cron=False).action == "upgraded"
    assert ask("SELECT cache_set('headline', 'k', '{\"text\": \"t\"}')")
    ask.close()
