"""Upgrades of databases that others use: what they have made, their rights, and their sessions."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgcache_py import __version__
from pgcache_py.errors import PgcacheError
from pgcache_py.setup.install import install
from pgcache_py.setup.sources import FOR_PSQL, Sources, load
from tests.tools.catalog import catalog
from tests.tools.session import Session, fetch, session, user
from tests.tools.waiting import wait_until

from .conftest import with_change, with_migration
from .versions import (
    ANOTHER_VIEW,
    DIFFERENT,
    NewRole,
    added,
    edited,
)

# What others made ------------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("theirs", "newer", "detail"),
    [
        (
            "CREATE VIEW public.mine AS SELECT name FROM pgcache.cache_settings",
            lambda: edited(*ANOTHER_VIEW),
            "view public.mine depends on view cache_settings",
        ),
        (
            "CREATE VIEW public.mine AS SELECT hits FROM pgcache.cache_stats",
            DIFFERENT["a result that a view shows, with a column in between"],
            "view public.mine depends on view cache_stats",
        ),
        (
            "CREATE VIEW public.mine AS SELECT pgcache.cache_tier('short')",
            DIFFERENT["no such function"],
            "view public.mine depends on function cache_tier(text)",
        ),
        (
            "CREATE FUNCTION public.mine() RETURNS SETOF pgcache.cache_settings LANGUAGE sql"
            " AS 'SELECT * FROM pgcache.cache_settings'",
            lambda: edited(*ANOTHER_VIEW),
            "function public.mine() depends on type cache_settings",
        ),
    ],
)
def test_what_depends_on_what_changes_stops_the_upgrade(
    theirs: str, newer: Callable[[], Sources], detail: str, dsn: str
) -> None:
    ask = Session(dsn)
    ask(theirs)
    before = catalog(ask)
    with pytest.raises(PgcacheError) as caught:
        install(dsn, sources=newer(), cron=False)
    assert (caught.value.sqlstate, caught.value.detail) == ("PC093", detail)
    assert "Drop these objects, install again" in (caught.value.hint or "")
    assert f"DETAIL:  {detail}\nHINT:  Nothing has changed." in str(caught.value)
    assert catalog(ask) == before
    ask("DROP VIEW IF EXISTS mine")
    ask("DROP FUNCTION IF EXISTS mine")
    assert install(dsn, sources=newer(), cron=False).action == "upgraded"
    ask.close()


def test_what_depends_on_what_stays_is_left_alone(dsn: str) -> None:
    with session(dsn) as connection:
        connection.execute("CREATE VIEW public.mine AS SELECT type, hits FROM pgcache.cache_stats")
        connection.execute("CREATE VIEW public.other AS SELECT pgcache.cache_key('a') AS key")
    newer = DIFFERENT["a parameter, of what is compiled"]()
    assert install(dsn, sources=newer, cron=False).remade == []
    assert fetch(dsn, "SELECT count(*) > 0 FROM public.mine CROSS JOIN public.other") is True


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        ("CREATE FUNCTION pgcache.later(b integer) RETURNS integer LANGUAGE sql AS 'SELECT 7'", "later(integer)"),
        ("CREATE VIEW pgcache.later AS SELECT 7 AS b", "later"),
    ],
)
def test_what_a_user_made_is_not_overwritten(theirs: str, name: str, dsn: str) -> None:
    with session(dsn) as connection:
        connection.execute(theirs.encode())
        newer = (
            "create or replace function pgcache.later(b integer) returns integer language sql as 'select 1';"
            if "FUNCTION" in theirs
            else "create or replace view pgcache.later as select 1 as b;"
        )
        with pytest.raises(PgcacheError, match=r"there is a pgcache\.later already") as caught:
            install(dsn, sources=added(newer), cron=False)
        assert caught.value.sqlstate == "PC093"
        call = "SELECT pgcache.later(1)" if "FUNCTION" in theirs else "SELECT b FROM pgcache.later"
        assert connection.execute(call.encode()).fetchone() == (7,)


def test_what_is_dropped_by_hand_is_no_trouble(dsn: str) -> None:
    with session(dsn) as connection:
        connection.execute("DROP FUNCTION pgcache.cache_tier(text)")
    install(dsn, sources=DIFFERENT["no such function"](), cron=False)
    assert install(dsn, cron=False).action == "upgraded"
    assert fetch(dsn, "SELECT cache_tier('short')::text") == "00:05:00"


# Rights -------------------------------------------------------------------------------------------------------------


def test_a_role_that_is_gone_stops_nothing(dsn: str, new_role: NewRole) -> None:
    role = user(new_role(dsn))
    with session(dsn) as connection:
        connection.execute("SELECT pgcache.cache_grant(%s)", [role])
        connection.execute(f"DROP OWNED BY {role}".encode())
        connection.execute(f"DROP ROLE {role}".encode())
        connection.execute(f"CREATE ROLE {role}".encode())  # another one of that name, which has no access
        install(dsn, sources=with_change(), cron=False)
        may = connection.execute("SELECT has_schema_privilege(%s, 'pgcache', 'USAGE')", [role]).fetchone()
        connection.execute(f"DROP ROLE {role}".encode())
    assert may == (False,)


def test_a_dump_without_privileges_opens_nothing(dsn: str, another_dsn: str, programs: Path, new_role: NewRole) -> None:
    reader, writer = new_role(dsn), new_role(dsn)
    with session(dsn) as connection:
        connection.execute("SELECT pgcache.cache_grant(%s, 'read')", [user(reader)])
        connection.execute("SELECT pgcache.cache_grant(%s, 'write', ARRAY['acme'])", [user(writer)])
    rights = """
        SELECT array_agg(p.proname || p.proacl::text ORDER BY p.proname, p.proargtypes::text) FROM pg_proc p
        WHERE p.pronamespace::regnamespace::text ~ '^pgcache'
    """
    before = fetch(dsn, rights)
    dump = subprocess.run([programs / "pg_dump", "-x", dsn], capture_output=True, check=True).stdout
    subprocess.run([programs / "psql", "-X", "-q", another_dsn], input=dump, capture_output=True, check=True)
    assert "cache_clear_all()" in str(
        fetch(
            another_dsn,
            "SELECT array_agg(oid::regprocedure::text) FROM pg_proc"
            " WHERE pronamespace = 'pgcache'::regnamespace AND has_function_privilege('public', oid, 'EXECUTE')",
        )
    )
    assert install(another_dsn, cron=False).action == "repaired"
    assert fetch(another_dsn, rights) == before
    assert install(another_dsn, cron=False).action == "current"


def test_default_privileges_give_a_role_with_access_no_more_than_that(dsn: str, new_role: NewRole) -> None:
    reader = new_role(dsn)
    with session(dsn) as connection:
        connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {user(reader)}".encode())
        connection.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {user(reader)}, PUBLIC".encode())
        connection.execute("SELECT pgcache.cache_grant(%s, 'read')", [user(reader)])
    newer = edited("registry/settings.sql", ("    s.value,", "    1 as spare,\n    s.value,"))
    newer = added(
        "create or replace view pgcache.later as select 1 as a; comment on view pgcache.later is 'Later.';", newer
    )
    newer = edited(
        "registry/settings.sql",
        (
            "cached_input numeric default null\n) returns void",
            "cached_input numeric default null, a int default null\n) returns void",
        ),
        (
            "set_price(text, numeric, numeric, numeric, numeric)",
            "set_price(text, numeric, numeric, numeric, numeric, int)",
        ),
        sources=newer,
    )
    install(dsn, sources=newer, cron=False)
    assert fetch(reader, "SELECT count(*) > 0 FROM pgcache.cache_settings") is True
    for statement in ("DELETE FROM pgcache.cache_settings", "SELECT pgcache.cache_set_price('m', 1, 1)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            fetch(reader, statement)
    query = "SELECT relacl::text FROM pg_class WHERE oid = %s::regclass"
    with session(dsn) as connection:
        for view in ("cache_settings", "later"):
            (acl,) = connection.execute(query, [f"pgcache.{view}"]).fetchone() or ("",)
            assert f"{user(reader)}=r/" in acl
            assert ",=" not in acl  # to PUBLIC


# While others use it ------------------------------------------------------------------------------------------------


def test_many_upgrades_at_once(dsn: str) -> None:
    newer = DIFFERENT["a result"]()
    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(lambda _: install(dsn, sources=newer, cron=False), range(8)))
    assert sorted(report.action for report in reports) == ["current"] * 7 + ["upgraded"]


def test_an_interrupted_upgrade_leaves_everything_as_it_was(dsn: str) -> None:
    ask = Session(dsn)
    before = catalog(ask)
    newer = DIFFERENT["a result that a view shows, with a column in between"]()
    stuck = added("SELECT pg_sleep(600);", with_migration("CREATE TABLE pgcache.later ();", newer))
    with ThreadPoolExecutor(1) as pool:
        upgrade = pool.submit(install, dsn, sources=stuck, cron=False)
        sleeping = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        wait_until(lambda: ask(f"{sleeping} AND wait_event = 'PgSleep'"))
        with pytest.raises(PgcacheError):
            upgrade.result()
    assert catalog(ask) == before
    assert install(dsn, sources=newer, cron=False).action == "upgraded"
    ask.close()


def test_sessions_go_on_with_their_prepared_statements_and_transactions(dsn: str) -> None:
    prepared, writing = Session(dsn), Session(dsn)
    prepared("SELECT cache_create_type('small', max_entries => 100)")
    prepared("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")
    prepared("PREPARE get (text) AS SELECT cache_get('llm', $1)")
    prepared("PREPARE setting AS SELECT * FROM cache_settings")
    for _ in range(10):  # more than five, so that the plan is a generic one
        assert prepared("EXECUTE get ('k')") == {"response": "r"}
    writing("BEGIN")  # with what is to be done at its commit
    writing("SELECT count(cache_set('small', 'k' || i, '1')) FROM generate_series(1, 300) AS i")
    newer = edited(*ANOTHER_VIEW, sources=DIFFERENT["a parameter, of what is compiled"]())
    assert install(dsn, sources=newer, cron=False).action == "upgraded"
    assert prepared("EXECUTE get ('k')") == {"response": "r"}
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="must not change result type"):
        prepared("EXECUTE setting")
    writing("COMMIT")
    assert prepared("SELECT count(*) FROM cache_type_small") <= 105
    prepared.close()
    writing.close()


def test_a_type_is_created_before_or_after_an_upgrade(dsn: str) -> None:
    newer = DIFFERENT["a parameter, of what prepare_types.sql calls"]()
    blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ask, user_session = Session(dsn), Session(dsn)
    with ThreadPoolExecutor(1) as pool:
        user_session("BEGIN")
        user_session("SELECT cache_create_type('before')")
        upgrade = pool.submit(install, dsn, sources=newer, cron=False)
        wait_until(lambda: ask(blocked))
        user_session("COMMIT")
        assert upgrade.result().action == "upgraded"

    script = load().render("0.2.0", upgrade_from=__version__).replace(FOR_PSQL, "")
    upgrading = Session(dsn)
    upgrading(script[: script.rindex("COMMIT;")])
    created = user_session.start("SELECT cache_create_type('after')")
    assert wait_until(lambda: ask(blocked)) == 1
    assert ask("SELECT cache_set('store', 'k', '1')")  # others are not held up
    upgrading("COMMIT")
    created.result(20)
    for type in ("before", "after"):
        assert ask("SELECT cache_set(%s, 'k', '1')", type)
        assert ask("SELECT cache_get(%s, 'k')", type) == 1
    for each in (ask, user_session, upgrading):
        each.close()


def test_an_upgrade_fails_no_call(dsn: str) -> None:
    newer = edited(*ANOTHER_VIEW, sources=DIFFERENT["a result"]())
    newer = with_migration("CREATE TABLE pgcache.later ();", newer)
    over = threading.Event()
    calls = 0

    def use(number: int) -> None:
        nonlocal calls
        ask = Session(dsn, prepare_threshold=1)
        try:
            while not over.is_set():
                ask("SELECT cache_set('llm', %s, '{\"response\": \"r\"}')", f"k{number}")
                ask("SELECT cache_set_many('store', '{a,b}', '{1,2}')")
                assert ask("SELECT cache_get('llm', %s)", f"k{number}") == {"response": "r"}
                ask("SELECT cache_incr('store', 'n'), cache_delete('store', 'a')")
                calls += 1
        finally:
            ask.close()

    with ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use, number) for number in range(4)]
        try:
            wait_until(lambda: calls > 20)
            for sources in (newer, load(), newer):
                if sources.newest < newer.newest:  # a migration does not go away
                    sources = replace(sources, migrations=newer.migrations)
                assert install(dsn, sources=sources, cron=False).action == "upgraded"
                done = calls
                wait_until(lambda done=done: calls > done + 20 or any(user.done() for user in users))
        finally:
            over.set()
        for each in users:
            each.result()
