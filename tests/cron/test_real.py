"""A real pg_cron runs a real job. It starts jobs on the minute, so this takes up to one: one test a server."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from pgcache_py.setup.install import install
from pgcache_py.setup.uninstall import uninstall
from tests.servers import Cluster, Server
from tests.servers.cluster import CRON_SETTINGS
from tests.tools.session import Session, database, refused
from tests.tools.waiting import wait_until

pytestmark = pytest.mark.needs("pg_cron")


def test_jobs_run_in_another_database_than_pg_crons(
    server: Server, empty_dsn: str, dsn: str, ask: Session, admin: psycopg.Connection
) -> None:
    install(empty_dsn)
    # Here they fail before they can say so.
    install(dsn)
    failing = database(dsn)
    admin.execute(f"ALTER DATABASE {failing} SET default_transaction_read_only = on".encode())
    name = database(empty_dsn)
    healthy, cron = Session(empty_dsn), Session(server.dsn())
    try:
        # Work for them, and old records to prune: of ours, and of another's.
        healthy(
            "SELECT cache_set('store', 'k', '1', '1 second'), cache_set_ai_worker('p', 'm',"
            " 'v', 's', ttl => '1 second')"
        )
        healthy("UPDATE cache_store SET expires_at = now() - interval '1 minute'")
        healthy("UPDATE ai_worker_cache SET expires_at = now() - interval '1 minute'")
        for where in (name, "other"):
            cron(
                "INSERT INTO cron.job_run_details (jobid, runid, database, username, command, status, end_time)"
                " VALUES (-1, nextval('cron.runid_seq'), %s, current_user, 'CALL pgcache.cache_upkeep()', 'succeeded',"
" now() - interval '8 days')",
                where,
            )  # fmt: skip
        jobs = cron.rows("SELECT jobid, jobname, database FROM cron.job WHERE jobname LIKE %s ORDER BY 2", f"%({name})")
        assert [(job, where) for _, job, where in jobs] == [
            (f"ai_worker_cleanup_cache ({name})", name),
            (f"pgcache_prune_runs ({name})", "postgres"),
            (f"pgcache_upkeep ({name})", name),
        ]
        broken = cron.column(
            "SELECT jobid FROM cron.job WHERE jobname LIKE %s AND database = %s", f"%({failing})", failing
        )
        ids = [jobid for jobid, *_ in jobs]
        for jobid in (*ids, *broken):
            cron("SELECT cron.alter_job(%s, schedule => '* * * * *')", jobid)

        def ran() -> bool:
            done = "SELECT count(DISTINCT jobid) FROM cron.job_run_details WHERE jobid = ANY(%s) AND status = ANY(%s)"
            return bool(cron(done, [*ids, *broken], ["succeeded", "failed"]) == len(ids) + len(broken))

        wait_until(ran, 90)
        records = cron.rows("SELECT d.status, d.return_message FROM cron.job_run_details d WHERE jobid = ANY(%s)", ids)
        assert {status for status, _ in records} <= {"succeeded", "running", "starting"}, records

        assert healthy("SELECT sum(entries) FROM cache_stats") == 0
        assert healthy("SELECT sum(cleaned) FROM cache_stats") == 2
        runs = healthy.rows(
            "SELECT job_name, outcome, overdue, last_run > now() - interval '2 minutes', schedule FROM cache_jobs"
        )
        assert sorted(runs) == [
            (job, "succeeded", False, True, "0 * * * *") for job in ("ai_worker_cleanup_cache", "pgcache_upkeep")
        ]

        failed = "SELECT count(DISTINCT jobid) FROM cron.job_run_details WHERE jobid = ANY(%s) AND status = 'failed'"
        assert cron(failed, broken) == 2
        health = "SELECT check_name, status, hint FROM cache_health() WHERE check_name LIKE 'upkeep: %' ORDER BY 1"
        assert [status for _, status, _ in ask.rows(health)] == ["ok", "ok"]
        ask.set_clock(str(ask("SELECT now() + interval '121 minutes'")))
        for check, status, hint in ask.rows(health):
            assert status == "warning", check
            assert "in the database postgres: SELECT * FROM cron.job_run_details" in hint
        types = healthy("SELECT count(*) FROM pgcache_internal.types")
        assert healthy("SELECT count(*) FROM cache_stats_history") == types
        old = "SELECT array_agg(database) FROM cron.job_run_details WHERE jobid = -1 AND database IN (%s, 'other')"
        assert cron(old, name) == ["other"]
    finally:
        healthy.close()
        admin.execute(f"ALTER DATABASE {failing} RESET default_transaction_read_only".encode())
        uninstall(empty_dsn)
        cron("SELECT count(cron.unschedule(jobid)) FROM cron.job WHERE jobname LIKE %s", f"%({failing})")
        cron("DELETE FROM cron.job_run_details WHERE jobid = -1")
        cron.close()
    assert admin.execute("SELECT count(*) FROM cron.job WHERE database = %s", [name]).fetchone() == (0,)


@pytest.mark.needs("cluster")
def test_in_pg_crons_own_database_seed_003_schedules_as_it_is_written(
    throwaway_cluster: Callable[..., Cluster],
) -> None:
    cluster = throwaway_cluster(**CRON_SETTINGS)
    install(cluster.dsn())
    ask = Session(cluster.dsn())
    hourly = ask.rows("SELECT jobname, schedule FROM cron.job ORDER BY 1")
    assert hourly == [("ai_worker_cleanup_cache", "0 * * * *"), ("pgcache_upkeep", "0 * * * *")]
    ask("CREATE EXTENSION IF NOT EXISTS pg_cron;")
    assert ask("""\
SELECT cron.schedule(
    'cleanup-ai-cache',
    '0 * * * *',  -- Every hour
    'SELECT ai_worker_cleanup_cache()'
);""")
    assert len(ask.rows("SELECT * FROM cron.job;")) == 3
    assert ask("SELECT cache_unschedule()") == 2
    assert len(ask.column("SELECT cache_schedule('*/5 * * * *')")) == 2
    with refused("PC010", "Five fields"):
        ask("SELECT cache_schedule('every hour')")
    with refused("PC010", "Five fields"):
        ask("SELECT cache_schedule(NULL)")
    assert ask("SELECT schedule FROM cache_jobs WHERE job_name = 'pgcache_upkeep'") == "*/5 * * * *"
    ask.close()
