"""pg_cron, wherever on the server it lives."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgcache_py.setup.install import install
from pgcache_py.setup.levels import Level
from pgcache_py.setup.status import status
from pgcache_py.setup.uninstall import uninstall
from tests.servers import Cluster
from tests.servers.cluster import CRON_SETTINGS
from tests.tools.session import database, fetch, user

pytestmark = pytest.mark.needs("pg_cron")


def cron_level(levels: list[Level]) -> Level:
    return next(level for level in levels if level.name == "pg_cron")


def jobs(cron: psycopg.Connection, name: str) -> list[tuple[str, ...]]:
    query = "SELECT jobname, schedule, command, database FROM cron.job WHERE jobname LIKE %s ORDER BY jobname"
    return cron.execute(query, [f"%({name})"]).fetchall()


def test_in_another_database(cron: psycopg.Connection, empty_dsn: str) -> None:
    name = database(empty_dsn)
    report = install(empty_dsn)
    assert cron_level(report.levels).on, cron_level(report.levels)
    assert [job[:2] + job[3:] for job in jobs(cron, name)] == [
        (f"ai_worker_cleanup_cache ({name})", "0 * * * *", name),
        (f"pgcache_prune_runs ({name})", "0 * * * *", "postgres"),
        (f"pgcache_upkeep ({name})", "0 * * * *", name),
    ]
    assert cron_level(status(empty_dsn).levels).on
    cron.execute(jobs(cron, name)[1][2].encode())
    report_of_removal = uninstall(empty_dsn)
    assert any("3 cron jobs" in note for note in report_of_removal.notes)
    assert jobs(cron, name) == []


def test_the_caches_own_database_knows_the_schedules(cron: psycopg.Connection, empty_dsn: str) -> None:
    known = "SELECT array_agg(DISTINCT schedule) FROM cache_jobs"
    install(empty_dsn)
    assert fetch(empty_dsn, known) == ["0 * * * *"]
    cron.execute(
        "SELECT cron.schedule_in_database(jobname, '*/5 * * * *', command, database) FROM cron.job"
        " WHERE jobname LIKE %s",
        [f"%({database(empty_dsn)})"],
    )
    install(empty_dsn, dry_run=True)
    assert fetch(empty_dsn, known) == ["0 * * * *"]
    install(empty_dsn)
    assert fetch(empty_dsn, known) == ["*/5 * * * *"]
    uninstall(empty_dsn)


def test_whatever_the_session_defaults(
    cron: psycopg.Connection, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c client_encoding=SQL_ASCII -c default_transaction_read_only=on")
    level = cron_level(install(empty_dsn).levels)
    assert level.on, level
    assert len(jobs(cron, database(empty_dsn))) == 3
    assert cron_level(status(empty_dsn).levels).on
    uninstall(empty_dsn)
    assert jobs(cron, database(empty_dsn)) == []


def test_a_changed_schedule_is_kept(cron: psycopg.Connection, empty_dsn: str) -> None:
    name = database(empty_dsn)
    install(empty_dsn)
    cron.execute(
        "SELECT cron.schedule_in_database(jobname, '*/5 * * * *', command, database) FROM cron.job WHERE jobname = %s",
        [f"pgcache_upkeep ({name})"],
    )
    assert cron_level(install(empty_dsn).levels).on
    assert jobs(cron, name)[2][1] == "*/5 * * * *"
    uninstall(empty_dsn)


def test_it_can_be_left_alone(cron: psycopg.Connection, empty_dsn: str) -> None:
    report = install(empty_dsn, cron=False)
    assert not cron_level(report.levels).on
    assert jobs(cron, database(empty_dsn)) == []


def test_a_dry_run_schedules_nothing(cron: psycopg.Connection, empty_dsn: str) -> None:
    level = cron_level(install(empty_dsn, dry_run=True).levels)
    assert level.on, level
    assert jobs(cron, database(empty_dsn)) == []


def test_a_dry_run_says_what_this_role_may_not_do(cron: psycopg.Connection, owned_dsn: str) -> None:
    level = cron_level(install(owned_dsn, dry_run=True).levels)
    assert not level.on
    assert [step.partition("SELECT ")[2][:25] for step in level.todo] == ["cron.schedule_in_database"] * 3
    assert level == cron_level(install(owned_dsn).levels)


def test_who_may_not_see_the_jobs_sees_whether_they_run(cron: psycopg.Connection, owned_dsn: str) -> None:
    for step in cron_level(install(owned_dsn).levels).todo:
        cron.execute(step.partition(": ")[2].encode())
    assert not cron_level(status(owned_dsn).levels).on
    with psycopg.connect(owned_dsn, autocommit=True) as owner:
        owner.execute("CALL pgcache.cache_upkeep()")
        level = cron_level(status(owned_dsn).levels)
        assert (level.on, level.todo) == (True, ())
        assert f"{user(owned_dsn)} may not see its jobs" in level.detail
        owner.execute("UPDATE pgcache_internal.upkeep_runs SET started_at = now() - interval '3 hours'")
    assert not cron_level(status(owned_dsn).levels).on


def test_who_may_not_schedule_is_told_what_a_superuser_has_to_do(cron: psycopg.Connection, owned_dsn: str) -> None:
    name = database(owned_dsn)
    level = cron_level(install(owned_dsn).levels)
    assert not level.on
    assert len(level.todo) == 3
    # And doing just that is enough.
    for step in level.todo:
        assert step.startswith("as a superuser, in the database postgres (SHOW cron.database_name): SELECT cron.")
        cron.execute(step.partition(": ")[2].encode())
    assert {job[0] for job in jobs(cron, name)} == {
        f"{job} ({name})" for job in ("ai_worker_cleanup_cache", "pgcache_prune_runs", "pgcache_upkeep")
    }


def test_jobs_run_in_the_name_of_the_owner(cron: psycopg.Connection, owned_dsn: str, empty_dsn: str) -> None:
    """What a superuser's job calls could do anything: the owner may change it."""
    whose = "SELECT DISTINCT username FROM cron.job WHERE jobname LIKE %s"
    names = f"%({database(owned_dsn)})"
    install(owned_dsn)
    cron.execute(
        "SELECT cron.schedule_in_database(%s, '0 * * * *', 'CALL pgcache.cache_upkeep()', %s)",
        [f"pgcache_upkeep ({database(owned_dsn)})", database(owned_dsn)],
    )
    assert cron.execute(whose, [names]).fetchall() == [("postgres",)]  # as an earlier version did
    level = cron_level(install(empty_dsn).levels)
    assert level.on, level
    assert cron.execute(whose, [names]).fetchall() == [(user(owned_dsn),)]
    assert cron.execute("SELECT count(*) FROM cron.job WHERE jobname LIKE %s", [names]).fetchone() == (3,)
    with psycopg.connect(owned_dsn, autocommit=True) as owner:
        owner.execute("CALL pgcache.cache_upkeep()")
    assert cron_level(status(owned_dsn).levels).on
    cron.execute("SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname LIKE %s", [names])


@pytest.mark.needs("cluster")
@pytest.mark.once
def test_in_the_same_database(throwaway_cluster: Callable[..., Cluster]) -> None:
    cluster = throwaway_cluster(**CRON_SETTINGS)
    dsn = cluster.dsn()
    report = install(dsn)
    assert cron_level(report.levels).on, cron_level(report.levels)
    names = "SELECT array_agg(jobname ORDER BY jobname) FROM cron.job WHERE database = current_database()"
    assert fetch(dsn, names) == ["ai_worker_cleanup_cache", "pgcache_upkeep"]
    fetch(dsn, "SELECT array_agg(j) FROM cache_schedule('*/10 * * * *') AS j")
    level = cron_level(install(dsn).levels)
    assert level.on
    assert "'*/10 * * * *'" in level.detail
    assert uninstall(dsn).notes[0] == "its cron jobs are unscheduled"
    assert fetch(dsn, names) is None


@pytest.mark.needs("cluster")
@pytest.mark.once
def test_without_privilege_in_the_same_database(throwaway_cluster: Callable[..., Cluster]) -> None:
    cluster = throwaway_cluster(**CRON_SETTINGS)
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE ROLE app LOGIN")
        connection.execute("GRANT CREATE ON DATABASE postgres TO app")
        app = make_conninfo(cluster.dsn(), user="app")
        level = cron_level(install(app).levels)
        assert not level.on
        assert "CREATE EXTENSION pg_cron; GRANT USAGE ON SCHEMA cron TO" in level.todo[0]
        connection.execute(level.todo[0].partition(": ")[2].encode())
    assert cron_level(install(app).levels).on
    assert user(app) == fetch(app, "SELECT DISTINCT username FROM cron.job")


@pytest.mark.needs("cluster")
@pytest.mark.once
def test_without_privilege_in_another_database_that_lacks_the_extension(
    throwaway_cluster: Callable[..., Cluster],
) -> None:
    cluster = throwaway_cluster(**CRON_SETTINGS)
    with psycopg.connect(cluster.dsn(), autocommit=True) as postgres:
        postgres.execute("CREATE ROLE app LOGIN")
        postgres.execute("CREATE DATABASE app OWNER app")
        with psycopg.connect(cluster.dsn("app"), autocommit=True) as superuser:
            superuser.execute("CREATE EXTENSION vector")
        app = make_conninfo(cluster.dsn("app"), user="app")
        level = cron_level(install(app).levels)
        assert not level.on
        assert level.detail.startswith("it is not in the database postgres yet: permission denied")
        assert level.todo == cron_level(status(app).levels).todo
        for step in level.todo:
            postgres.execute(step.partition(": ")[2].encode())
        assert postgres.execute("SELECT count(*) FROM cron.job WHERE username = 'app'").fetchone() == (3,)


@pytest.mark.needs("cluster")
@pytest.mark.once
def test_not_loaded(throwaway_cluster: Callable[..., Cluster]) -> None:
    level = cron_level(install(throwaway_cluster().dsn()).levels)
    assert not level.on
    assert any("shared_preload_libraries" in step for step in level.todo)
    assert any("pgcache_py cleanup" in step for step in level.todo)
