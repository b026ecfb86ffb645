"""The installer: once, again, many at once, with few rights, and when it must not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgcache_py import Cache, __version__
from pgcache_py.cli.main import main
from pgcache_py.errors import NewerDatabaseError, PermissionDeniedError, PgcacheError, ReadOnlyError
from pgcache_py.setup import sources
from pgcache_py.setup.install import install
from pgcache_py.setup.status import status
from pgcache_py.setup.uninstall import uninstall
from tests.servers import Cluster
from tests.tools.session import Session, database, fetch, user

from .conftest import with_change, with_migration

CATALOG = """
    SELECT array_agg(object.type || ' ' || object.identity ORDER BY object.type, object.identity)
    FROM pg_depend
    CROSS JOIN LATERAL pg_identify_object(classid, objid, 0) AS object
    WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'pgcache'::regnamespace
"""


@pytest.mark.every
def test_installs_and_is_usable_at_once(empty_dsn: str) -> None:
    report = install(empty_dsn)
    assert (report.action, report.version, report.previous) == ("installed", __version__, None)
    assert report.migrations[0] == "0001_tables"
    assert [level.name for level in report.levels] == ["core", "pg_cron", "plpython3u"]
    assert report.levels[0].on
    assert fetch(empty_dsn, """SELECT cache_set('store', 'k', '{"a": 1}')""") is True
    assert fetch(empty_dsn, "SELECT cache_get('store', 'k')") == {"a": 1}


@pytest.mark.every
def test_a_second_time_changes_nothing(empty_dsn: str) -> None:
    install(empty_dsn)
    before = (
        fetch(empty_dsn, "SELECT array_agg(t ORDER BY t) FROM pgcache_internal.schema_migrations t"),
        fetch(empty_dsn, CATALOG),
    )
    report = install(empty_dsn)
    assert (report.action, report.previous, report.migrations, report.notes) == ("current", __version__, [], [])
    assert before == (
        fetch(empty_dsn, "SELECT array_agg(t ORDER BY t) FROM pgcache_internal.schema_migrations t"),
        fetch(empty_dsn, CATALOG),
    )


def test_twenty_at_once(empty_dsn: str) -> None:
    with ThreadPoolExecutor(20) as pool:
        reports = list(pool.map(lambda _: install(empty_dsn, cron=False), range(20)))
    assert sorted(report.action for report in reports) == ["current"] * 19 + ["installed"]
    assert fetch(empty_dsn, "SELECT count(*) FROM pgcache_internal.schema_migrations") == sources.load().newest
    assert fetch(empty_dsn, "SHOW search_path") == '"$user", public, pgcache'


def test_dry_run_leaves_nothing(empty_dsn: str) -> None:
    report = install(empty_dsn, dry_run=True)
    assert report.action == "installed"
    assert report.dry_run
    assert fetch(empty_dsn, "SELECT to_regnamespace('pgcache')") is None
    assert fetch(empty_dsn, "SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 0
    assert fetch(empty_dsn, "SHOW search_path") == '"$user", public'


def test_a_failure_leaves_nothing_and_names_file_and_line(empty_dsn: str) -> None:
    with pytest.raises(PgcacheError, match=r'^migrations/00\d\d_later.sql:2: .*"nonsense"') as caught:
        install(empty_dsn, sources=with_migration("CREATE TABLE pgcache.good ();\nnonsense;"))
    assert caught.value.sqlstate == "42601"
    assert fetch(empty_dsn, "SELECT to_regnamespace('pgcache')") is None


# Upgrades -----------------------------------------------------------------------------------------------------------


def test_changed_code_runs_again_and_keeps_entries(dsn: str) -> None:
    fetch(dsn, "SELECT pgcache.cache_set('store', 'k', '1')")
    report = install(dsn, sources=with_change())
    assert (report.action, report.migrations) == ("upgraded", [])
    assert fetch(dsn, "SELECT cache_get('store', 'k')") == 1


def test_a_new_migration_runs_once(dsn: str) -> None:
    newer = with_migration("CREATE TABLE pgcache.later (); COMMENT ON TABLE pgcache.later IS 'later';")
    assert install(dsn, sources=newer).migrations == [newer.migrations[-1].title]
    assert install(dsn, sources=newer).action == "current"
    assert install(dsn, sources=with_change(newer)).migrations == []


def test_a_changed_migration_is_refused(dsn: str) -> None:
    first, *rest = sources.load().migrations
    changed = replace(sources.load(), migrations=(replace(first, text=first.text + "\n-- later"), *rest))
    with pytest.raises(PgcacheError, match="0001_tables is not the one that ran") as caught:
        install(dsn, sources=changed)
    assert caught.value.sqlstate == "PC091"
    assert "new migration" in (caught.value.hint or "")
    assert install(dsn).action == "current"


def test_a_newer_database_is_refused(empty_dsn: str) -> None:
    install(empty_dsn, sources=with_migration("SELECT 1;"))
    with pytest.raises(NewerDatabaseError, match="the database is newer") as caught:
        install(empty_dsn)
    assert caught.value.sqlstate == "PC090"
    assert "Upgrade the package" in (caught.value.hint or "")


def test_a_newer_version_without_a_migration_is_refused_too(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE pgcache_internal.installed SET version = '99.10.0'")
    with pytest.raises(NewerDatabaseError, match=r"99\.10\.0"):
        install(dsn)


# Few rights ---------------------------------------------------------------------------------------------------------


def test_the_owner_of_the_database_needs_no_superuser(owned_dsn: str) -> None:
    report = install(owned_dsn)
    assert report.action == "installed"
    assert fetch(owned_dsn, "SELECT cache_set('llm', 'k', '{\"response\": \"hi\"}')") is True
    assert fetch(owned_dsn, "SHOW search_path") == '"$user", public, pgcache'
    assert fetch(owned_dsn, "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'pgcache'") == user(
        owned_dsn
    )
    assert install(owned_dsn).action == "current"
    uninstall(owned_dsn)


def test_who_may_do_nothing_is_told_all_that_is_missing(empty_dsn: str, new_role: Callable[[str], str]) -> None:
    nobody = new_role(empty_dsn)
    with pytest.raises(PermissionDeniedError) as caught:
        install(nobody)
    hint = caught.value.hint or ""
    assert caught.value.sqlstate == "42501"
    assert "CREATE EXTENSION vector" in hint
    create = [f'CREATE SCHEMA {schema} AUTHORIZATION "{user(nobody)}";' for schema in ("pgcache", "pgcache_internal")]
    assert " ".join(create) in hint
    # And doing just that is enough.
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(" ".join(create).encode())
    report = install(nobody)
    assert report.action == "installed"
    assert any("ALTER DATABASE" in note and "belongs to" in note for note in report.notes)
    assert fetch(nobody, "SHOW search_path") == '"$user", public'


def test_vector_is_in_a_schema_that_the_role_may_not_use(owned_dsn: str, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "My Extensions"; ALTER EXTENSION vector SET SCHEMA "My Extensions"')
    with pytest.raises(PermissionDeniedError, match="may not use") as caught:
        install(owned_dsn)
    grant = f'GRANT USAGE ON SCHEMA "My Extensions" TO {user(owned_dsn)};'
    assert (caught.value.sqlstate, grant in (caught.value.hint or "")) == ("42501", True)
    # And doing just that is enough.
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(grant.encode())
    assert install(owned_dsn).action == "installed"
    assert fetch(owned_dsn, "SELECT cache_set('embedding', 'k', '{\"embedding\": [1, 2]}')") is True


def test_somebody_elses_schema_is_left_alone(owned_dsn: str, new_role: Callable[[str], str]) -> None:
    install(owned_dsn)
    other = new_role(owned_dsn)
    for attempt in (install, uninstall):
        with pytest.raises(PermissionDeniedError, match=f"belongs to {user(owned_dsn)}") as caught:
            attempt(other)
        assert f"Connect as {user(owned_dsn)}" in (caught.value.hint or "")


# Servers on which it cannot be --------------------------------------------------------------------------------------


def test_a_server_that_is_too_old(empty_dsn: str) -> None:
    tree = sources.load()
    as_on_14 = tree.bootstrap.text.replace("current_setting('server_version_num')", "'140012'")
    assert as_on_14 != tree.bootstrap.text
    with pytest.raises(PgcacheError, match="needs PostgreSQL 15 or newer, and this server is 14") as caught:
        install(empty_dsn, sources=replace(tree, bootstrap=replace(tree.bootstrap, text=as_on_14)))
    assert caught.value.sqlstate == "0A000"
    assert "15 to 18" in (caught.value.hint or "")
    assert fetch(empty_dsn, "SELECT to_regnamespace('pgcache')") is None


@pytest.mark.needs("cluster")
@pytest.mark.once
def test_a_standby(throwaway_cluster: Callable[..., Cluster]) -> None:
    primary = throwaway_cluster()
    install(primary.dsn(), cron=False)
    standby = throwaway_cluster(standby_of=primary)
    with pytest.raises(ReadOnlyError, match="standby") as caught:
        install(standby.dsn())
    assert "primary" in (caught.value.hint or "")
    found = status(standby.dsn())
    assert found.version == __version__
    assert {row["type"] for row in found.types} >= {"llm", "store"}


def test_a_database_that_is_read_only_by_default(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        for setting in ("default_transaction_read_only = on", "default_transaction_isolation = 'serializable'"):
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {setting}".encode())
    assert install(empty_dsn).action == "installed"


# search_path --------------------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("public, pgcache", "public, pgcache"),
        ('"Odd, name", "$user", "say ""hi"""', '"Odd, name", "$user", "say ""hi""", pgcache'),
        ("''", '"", pgcache'),
    ],
)
def test_search_path_is_added_to(empty_dsn: str, before: str, after: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET search_path = {before}".encode())
        original = fetch(empty_dsn, "SHOW search_path")
    install(empty_dsn)
    assert fetch(empty_dsn, "SHOW search_path") == after
    install(empty_dsn, sources=with_change())
    assert fetch(empty_dsn, "SHOW search_path") == after
    uninstall(empty_dsn)
    assert fetch(empty_dsn, "SHOW search_path") in (original, "public")


def test_search_path_is_left_alone_if_asked(empty_dsn: str) -> None:
    report = install(empty_dsn, search_path=False)
    assert fetch(empty_dsn, "SHOW search_path") == '"$user", public'
    assert not report.notes


def test_roles_with_a_search_path_of_their_own_are_named(empty_dsn: str, new_role: Callable[[str], str]) -> None:
    role = user(new_role(empty_dsn))
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {role} IN DATABASE {database(empty_dsn)} SET search_path = public".encode())
    assert any(role in note for note in install(empty_dsn).notes)


def test_the_callers_search_path_does_not_matter(empty_dsn: str) -> None:
    odd = make_conninfo(empty_dsn, options="-c search_path=")
    assert install(odd).action == "installed"
    assert fetch(empty_dsn, "SHOW search_path") == '"$user", public, pgcache'


# Levels -------------------------------------------------------------------------------------------------------------


def test_levels_that_are_off_say_what_to_do(empty_dsn: str) -> None:
    offered = fetch(empty_dsn, "SELECT array_agg(name::text) FROM pg_available_extensions")
    assert isinstance(offered, list)
    for level in install(empty_dsn).levels:
        assert level.on or level.todo or level.detail == "this version has no function that needs it"
        assert level.name == "core" or not level.on or level.name in offered


PYTHON = (
    sources.Script(
        "plpython/answer.sql",
        "CREATE OR REPLACE FUNCTION pgcache.answer() RETURNS int LANGUAGE plpython3u AS 'return 42';",
    ),
)


@pytest.mark.needs("plpython3u")
def test_plpython_functions_are_installed_by_a_superuser(dsn: str) -> None:
    tree = replace(sources.load(), plpython=PYTHON)
    report = install(dsn, sources=tree)
    assert report.action == "upgraded"
    assert report.levels[2].on
    assert fetch(dsn, "SELECT answer()") == 42
    assert install(dsn, sources=tree).action == "current"


@pytest.mark.needs("plpython3u")
def test_plpython_functions_belong_to_the_owner(empty_dsn: str, owned_dsn: str) -> None:
    tree = replace(sources.load(), plpython=PYTHON)
    report = install(owned_dsn, sources=tree)
    assert not report.levels[2].on
    assert "superuser" in report.levels[2].todo[0]
    assert install(empty_dsn, sources=tree).action == "prepared"  # by the superuser
    assert not status(owned_dsn).levels[2].on
    assert install(owned_dsn, sources=tree).levels[2].on
    assert install(owned_dsn, sources=tree).action == "current"
    assert fetch(owned_dsn, "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'answer'") == user(owned_dsn)
    # Which an upgrade by the owner leaves as it is.
    assert install(owned_dsn, sources=with_change(tree)).action == "upgraded"
    assert fetch(owned_dsn, "SELECT pgcache.answer()") == 42


def test_without_plpython_the_rest_is_installed(empty_dsn: str) -> None:
    report = install(empty_dsn, sources=replace(sources.load(), plpython=PYTHON))
    assert report.action == "installed"
    level = report.levels[2]
    assert level.on == (fetch(empty_dsn, "SELECT count(*) FROM pg_proc WHERE proname = 'answer'") == 1)
    assert level.on or any("plpython3" in step for step in level.todo)


# The same by other means --------------------------------------------------------------------------------------------


def psql(programs: Path, dsn: str, *arguments: str, stdin: str = "") -> str:
    command = [str(programs / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *arguments, dsn]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.every
def test_the_printed_sql_installs_the_same(owned_dsn: str, programs: Path) -> None:
    script = sources.load().render(__version__)
    psql(programs, owned_dsn, stdin=script)
    by_hand = fetch(owned_dsn, CATALOG)
    report = install(owned_dsn)
    assert report.action == "current"
    uninstall(owned_dsn)
    install(owned_dsn)
    assert fetch(owned_dsn, CATALOG) == by_hand
    with pytest.raises(AssertionError, match=rf"for a database with no pgcache, and \w+ has pgcache {__version__}"):
        psql(programs, owned_dsn, stdin=script)


def dumped(programs: Path, dsn: str, *arguments: str) -> str:
    command = [str(programs / "pg_dump"), "--no-owner", f"--dbname={dsn}", *arguments]
    dump = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert dump.returncode == 0, dump.stderr
    # What a newer pg_dump writes and an older server does not know.
    return "".join(line for line in dump.stdout.splitlines(True) if not line.startswith("SET transaction_timeout"))


@pytest.mark.parametrize("part", ["--schema-only", "--exclude-table-data=pgcache_internal.*"])
def test_a_dump_without_data(dsn: str, empty_dsn: str, programs: Path, part: str) -> None:
    psql(programs, empty_dsn, stdin=dumped(programs, dsn, part))
    for dry_run in (True, False):
        with pytest.raises(PgcacheError, match="a part of pgcache without its records") as caught:
            install(empty_dsn, cron=False, dry_run=dry_run)
        assert caught.value.sqlstate == "PC093"
    remedy = "DROP SCHEMA pgcache, pgcache_internal CASCADE"
    assert remedy in (caught.value.hint or "")
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(remedy.encode())
    assert install(empty_dsn, cron=False).action == "installed"


def test_who_may_read_all_data_dumps_all_but_the_secrets(
    dsn: str, empty_dsn: str, programs: Path, new_role: Callable[[str], str]
) -> None:
    reader = new_role(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"GRANT pg_read_all_data TO {user(reader)}".encode())
        connection.execute("SELECT pgcache.cache_set('store', 'k', '[1, 2]')")
        connection.execute("INSERT INTO pgcache_internal.ai_secrets VALUES ('api_key', 'the secret')")
        connection.execute("INSERT INTO pgcache_internal.hot_secrets VALUES ('redis_url', 'the secret')")
    with pytest.raises(AssertionError, match="row-level security"):
        dumped(programs, reader)
    script = dumped(programs, reader, "--exclude-table-data=pgcache_internal.*_secrets")  # as docs/operating.md says
    assert "the secret" not in script
    psql(programs, empty_dsn, stdin=script)
    assert fetch(empty_dsn, "SELECT pgcache.cache_get('store', 'k')") == [1, 2]
    assert install(empty_dsn, cron=False).action == "current"


@pytest.mark.every
def test_a_dump_can_be_restored_into_an_empty_database(dsn: str, empty_dsn: str, programs: Path) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pgcache.cache_set('store', 'k', '[1, 2]', '30 days')")
        connection.execute("SELECT pgcache.cache_create_type('orders', ttl => '30 days')")
        connection.execute("SELECT pgcache.cache_set('orders', 'o', '7')")
        connection.execute("SELECT pgcache.cache_set_embedding('t', 'm', '[1,2,3]')")
        connection.execute("SELECT pgcache.cache_tenant_limit('orders', '', 1)")
        connection.execute("SET pgcache.tenant = 'acme'")
        connection.execute("SELECT pgcache.cache_set_llm('p', 'm', 'r', 7), pgcache.cache_get_llm('p', 'm')")
        connection.execute("SELECT pgcache.cache_clear('llm')")
        connection.execute("RESET pgcache.tenant")
        connection.execute("SELECT pgcache.cache_get('store', 'k')")
        connection.execute("CALL pgcache.cache_upkeep()")
    psql(programs, empty_dsn, stdin=dumped(programs, dsn))
    assert fetch(empty_dsn, "SELECT pgcache.cache_get('store', 'k')") == [1, 2]
    assert fetch(empty_dsn, "SELECT pgcache.cache_get('orders', 'o')") == 7
    assert fetch(empty_dsn, "SELECT pgcache.cache_get_embedding('t', 'm')::text") == "[1,2,3]"
    assert fetch(empty_dsn, "SELECT hits FROM pgcache.cache_stats WHERE type = 'store'") == 2
    assert fetch(empty_dsn, "SELECT tokens_saved FROM pgcache.cache_tenant_stats() WHERE tenant = 'acme'") == 7
    assert install(empty_dsn).action == "current"
    assert fetch(empty_dsn, "SELECT cache_set('orders', 'o', '8')") is True
    assert fetch(empty_dsn, "SELECT cache_get('orders', 'o')") == 8
    assert fetch(empty_dsn, "SELECT cache_set('orders', 'other', '9')") is True
    assert fetch(empty_dsn, "SELECT array_agg(cache_key) FROM pgcache.cache_type_orders") == ["other"]


@pytest.mark.parametrize("options", [(), ("-x",), ("--inserts", "--quote-all-identifiers")])
def test_watches_and_tags_in_a_dump(dsn: str, empty_dsn: str, programs: Path, options: Sequence[str]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Mine"')
        connection.execute('CREATE TABLE "Mine"."The docs" (id int PRIMARY KEY, "a {b" text)')
        connection.execute("CREATE TABLE parts (id int) PARTITION BY LIST (id)")
        connection.execute("CREATE TABLE part PARTITION OF parts FOR VALUES IN (1, 2)")
        connection.execute('INSERT INTO "Mine"."The docs" VALUES (1), (2)')
        connection.execute("SELECT pgcache.cache_watch('\"Mine\".\"The docs\"', 'doc:{id}', '{\"a {b\"}')")
        connection.execute("SELECT pgcache.cache_watch('parts', 'part:{id}')")
        connection.execute("SELECT pgcache.cache_invalidate_tags('doc:1')")
        for key, tag in (("one", "doc:1"), ("two", "doc:2"), ("old", "doc:3"), ("part", "part:1")):
            connection.execute("SELECT pgcache.cache_set('store', %s, '1', '30 days', ARRAY[%s])", [key, tag])
        connection.execute("SELECT pgcache.cache_invalidate_tags('doc:3')")
    psql(programs, empty_dsn, stdin=dumped(programs, dsn, *options))
    with psycopg.connect(empty_dsn, autocommit=True) as connection:

        def hits() -> set[str]:
            keys = connection.execute("SELECT k FROM unnest('{one,two,old,part}'::text[]) k").fetchall()
            get = "SELECT pgcache.cache_get('store', %s) IS NOT NULL"
            return {key for (key,) in keys if connection.execute(get, [key]).fetchone() == (True,)}

        assert hits() == {"one", "two", "part"}
        assert install(empty_dsn, cron=False).action == ("repaired" if "-x" in options else "current")
        connection.execute("CALL pgcache.cache_upkeep()")
        assert connection.execute("SELECT array_agg(DISTINCT state) FROM pgcache.cache_watches").fetchone() == (["ok"],)
        assert hits() == {"one", "two", "part"}
        connection.execute('UPDATE "Mine"."The docs" SET "a {b" = 1 WHERE id = 1')
        assert hits() == {"two", "part"}
        connection.execute("INSERT INTO part VALUES (1)")
        assert hits() == {"two"}


@pytest.mark.once
@pytest.mark.parametrize(
    "settings",
    [
        {"standard_conforming_strings": "off", "escape_string_warning": "off", "quote_all_identifiers": "on"},
        {"datestyle": "German, DMY", "intervalstyle": "sql_standard", "extra_float_digits": "-15"},
        {"default_transaction_isolation": "serializable", "transform_null_equals": "on", "array_nulls": "off"},
    ],
    ids=lambda settings: next(iter(settings.values())),
)
def test_whatever_the_settings_of_the_database(empty_dsn: str, settings: dict[str, str]) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {name} = '{value}'".encode())
    assert install(empty_dsn, cron=False).action == "installed"
    assert install(empty_dsn, cron=False).action == "current"
    assert main(["status", "--dsn", empty_dsn]) == 0
    assert main(["stats", "--dsn", empty_dsn]) == 0
    with Cache(empty_dsn) as cache:
        cache.create_type("mine", ttl="1 day 2 hours")
        cache.llm.set("p", "m", "r", tokens_used=5)
        assert cache.llm.get("p", "m") == {"response": "r", "model": "m", "tokens_used": 5}
        cache.set("store", "a_b", 1)
        assert cache.keys("store", "a\\_%") == ["a_b"]
        (row,) = [row for row in cache.stats() if row["type"] == "mine"]
        assert row["ttl"] == timedelta(days=1, hours=2)


def test_what_hides_ours_is_named(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.ai_worker_cache (id bigint)")
        connection.execute("CREATE SCHEMA later")
        connection.execute("CREATE TABLE later.crawl_cache (id bigint)")
        connection.execute("CREATE VIEW public.cache_stats AS SELECT 1 AS one")
        connection.execute("CREATE FUNCTION public.cache_get(a text, b text) RETURNS text LANGUAGE sql AS 'SELECT a'")
        connection.execute("CREATE FUNCTION public.cache_set(a text) RETURNS text LANGUAGE sql AS 'SELECT a'")
    hidden = {
        "pgcache.ai_worker_cache": "public.ai_worker_cache",
        "pgcache.cache_stats": "public.cache_stats",
        "pgcache.cache_get(text,text)": "public.cache_get(text,text)",
    }
    for _ in range(2):  # also where it is current
        notes = [note for note in install(empty_dsn, cron=False).notes if " hides " in note]
        assert {note.split(" hides ")[1].split(". ")[0]: note.split(" hides ")[0] for note in notes} == hidden
    with psycopg.connect(empty_dsn) as connection:
        rows = connection.execute(
            "SELECT check_name, status, hint FROM pgcache.cache_health() WHERE check_name LIKE 'name:%'"
        ).fetchall()
        assert {name.removeprefix("name: ") for name, _, _ in rows} == hidden.keys()
        assert {status for _, status, _ in rows} == {"warning"}
        assert "ALTER TABLE public.ai_worker_cache RENAME TO" in rows[0][2]
        connection.execute("ALTER TABLE public.ai_worker_cache RENAME TO old")
        connection.execute("ALTER VIEW public.cache_stats RENAME TO old_stats")
        connection.execute("ALTER ROUTINE public.cache_get(text, text) RENAME TO old_get")
        assert not connection.execute("SELECT FROM pgcache_internal.hiding_objects()").fetchall()


def test_nothing_hides_ours_where_pgcache_comes_first_or_is_not_in_the_path(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE public.crawl_cache (id bigint)")
        for schemas, count in ((["pgcache", "public"], 0), (["public"], 0), (["$user", "public", "pgcache"], 1)):
            found = connection.execute("SELECT FROM pgcache_internal.hiding_objects(%s)", [schemas]).fetchall()
            assert len(found) == count, schemas


# Dropped by hand -----------------------------------------------------------------------------------------------------

LOST = {
    "a function": ("DROP FUNCTION pgcache.cache_get_llm", "cache_get_llm('p', 'm')", None),
    "a view": ("DROP VIEW pgcache.cache_settings", "(SELECT count(*) > 0 FROM pgcache.cache_settings)", True),
    "an internal one": ("DROP FUNCTION pgcache_internal.gather_hit CASCADE", "cache_get('store', 'k')", 1),
    "what knows of them": ("DROP FUNCTION pgcache_internal.own_objects CASCADE", "cache_get('store', 'k')", 1),
    "vector": (
        "DROP EXTENSION vector CASCADE",
        "cache_set('embedding', 'k', '{\"model\": \"m\", \"embedding\": [1]}')", True,
    ),
    "a column": ("ALTER TABLE pgcache.cache_llm_responses DROP response", "cache_set_llm('p', 'm', 'r')", True),
    "a table": ("DROP TABLE pgcache.cache_llm_responses", "cache_set_llm('p', 'm', 'r')", True),
    "a partition": ("DROP TABLE pgcache.cache_type_store", "cache_set('store', 'k', '2')", True),
}  # fmt: skip


@pytest.mark.breaks("counters", why="a table is dropped with its entries, which the counters count")
@pytest.mark.parametrize("lost", LOST)
def test_installing_again_brings_back_what_was_dropped(dsn: str, lost: str) -> None:
    statement, call, result = LOST[lost]
    ask = Session(dsn)
    ask("SELECT cache_set('store', 'k', '1'), cache_set('phash', 'p', '{\"phash\": \"f\"}')")
    ask("SELECT cache_set('embedding', 'e', '{\"model\": \"m\", \"embedding\": [1]}')")
    ask(statement)
    assert install(dsn, cron=False).action == "repaired"
    again = Session(dsn)
    assert again(f"SELECT {call}") == result
    assert again("SELECT cache_get('phash', 'p')") == {"phash": "f"}
    assert again("SELECT bool_and(status <> 'critical') FROM cache_health()")
    assert install(dsn, cron=False).action == "current"
    ask.close()
    again.close()
