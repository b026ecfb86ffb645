"""Removing pgcache: all of it, and nothing else."""

from __future__ import annotations

import psycopg
import pytest

from pgcache_py.errors import NotInstalledError, PgcacheError
from pgcache_py.setup.install import install
from pgcache_py.setup.uninstall import uninstall
from tests.servers import Server
from tests.tools.session import fetch

EVERYTHING = """
    SELECT array_agg(t ORDER BY t) FROM (
        SELECT 'extension ' || extname AS t FROM pg_extension
        UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
        UNION ALL SELECT 'role setting ' || array_to_string(setconfig, ',') FROM pg_db_role_setting
            WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    ) AS all_of_it (t)
"""


def test_uninstall_removes_everything(server: Server, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        # Extensions stay: others may use them.
        connection.execute("CREATE EXTENSION vector")
        if server.offers("plpython3u"):
            connection.execute("CREATE EXTENSION plpython3u")
    before = fetch(empty_dsn, EVERYTHING)
    install(empty_dsn)
    fetch(empty_dsn, "SELECT cache_set('store', 'k', '1')")
    assert fetch(empty_dsn, EVERYTHING) != before
    report = uninstall(empty_dsn)
    assert report.dropped == []
    assert fetch(empty_dsn, EVERYTHING) == before
    assert install(empty_dsn).action == "installed"


def test_not_installed(empty_dsn: str) -> None:
    with pytest.raises(NotInstalledError) as caught:
        uninstall(empty_dsn)
    assert caught.value.sqlstate == "3F000"


def test_a_dry_run_removes_nothing(dsn: str) -> None:
    assert uninstall(dsn, dry_run=True).version
    assert fetch(dsn, "SELECT count(*) > 0 FROM pgcache_internal.types") is True


def test_objects_that_depend_on_it_are_not_dropped_unasked(empty_dsn: str) -> None:
    install(empty_dsn)
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("CREATE VIEW v AS SELECT * FROM pgcache.cache_store")
        connection.execute("CREATE VIEW w AS SELECT cache_key FROM v")
        connection.execute("CREATE TABLE t (id int, key text DEFAULT pgcache.cache_key('a'), x pgcache_internal.types)")
        connection.execute("CREATE FUNCTION f() RETURNS text BEGIN ATOMIC SELECT pgcache.cache_key('a'); END")
        connection.execute("CREATE DOMAIN d AS pgcache_internal.types")
        connection.execute("CREATE TABLE untouched (id int)")
    with pytest.raises(PgcacheError) as caught:
        uninstall(empty_dsn)
    assert caught.value.sqlstate == "2BP01"
    assert caught.value.message == (
        "other objects depend on pgcache: column x of table t, default value for column key of table t, function f(),"
        " type d, view v, view w"
    )
    assert "--cascade" in (caught.value.hint or "")
    report = uninstall(empty_dsn, cascade=True)
    assert len(report.dropped) == 6
    assert fetch(
        empty_dsn,
        "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'v')"
        " AND relnamespace = 'public'::regnamespace",
    ) == ["t", "untouched"]


def test_uninstall_leaves_no_trigger_on_a_watched_table(empty_dsn: str) -> None:
    install(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE docs (id int, part int) PARTITION BY LIST (part)")
        connection.execute("CREATE TABLE docs_1 PARTITION OF docs FOR VALUES IN (1)")
        connection.execute("SELECT pgcache.cache_watch('docs', 'doc:{id}')")
    report = uninstall(empty_dsn)
    assert report.dropped == []
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM pg_trigger").fetchall() == [(0,)]
        connection.execute("INSERT INTO docs VALUES (1, 1)")
