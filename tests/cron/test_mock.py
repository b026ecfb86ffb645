"""The functions for pg_cron, on a schema that looks like its own: so on every server, and without waiting."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgcache_py.setup.install import install
from pgcache_py.setup.levels import JOBS as JOBS_OF_THE_PACKAGE
from tests.conftest import NewRole
from tests.tools.session import Session, database, refused

# What pg_cron has, as far as we use it.
CRON = """
    CREATE SCHEMA cron;
    CREATE TABLE cron.job (
        jobid bigserial PRIMARY KEY, schedule text NOT NULL, command text NOT NULL, nodename text DEFAULT 'localhost',
        nodeport integer DEFAULT 5432, database text DEFAULT current_database(), username text DEFAULT current_user,
        active boolean DEFAULT true, jobname text, UNIQUE (jobname, username)
    );
    CREATE TABLE cron.job_run_details (
        jobid bigint, runid bigserial PRIMARY KEY, job_pid integer, database text DEFAULT current_database(),
        username text DEFAULT current_user, command text, status text, return_message text, start_time timestamptz,
        end_time timestamptz
    );
    CREATE FUNCTION cron.schedule(job_name text, schedule text, command text) RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE
        id bigint;
    BEGIN
        IF schedule !~ '^(\\S+ ){4}\\S+$' THEN
            RAISE EXCEPTION 'invalid schedule: %', schedule USING errcode = 'invalid_parameter_value';
        END IF;
        INSERT INTO cron.job AS j (jobname, schedule, command) VALUES (job_name, schedule.schedule, schedule.command)
        ON CONFLICT (jobname, username) DO UPDATE SET schedule = excluded.schedule, command = excluded.command
        RETURNING j.jobid INTO id;
        RETURN id;
    END $$;
    CREATE FUNCTION cron.unschedule(job_id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM cron.job WHERE jobid = job_id;
        RETURN found;
    END $$;
"""
JOBS = "SELECT jobname, schedule, command FROM cron.job ORDER BY 1"


@pytest.fixture
def cron(ask: Session) -> Session:
    ask(CRON)
    return ask


def run(cron: Session, job: str, started: str, seconds: int, status: str = "succeeded", message: str = "1 row") -> None:
    """As if the job had run at `started`, as an interval from now."""
    cron(
        "INSERT INTO cron.job_run_details (jobid, command, status, return_message, start_time, end_time)"
        " SELECT jobid, command, %s, %s, now() + %s::interval, CASE WHEN %s <> 'running' THEN now() +"
" %s::interval + make_interval(secs => %s) END"
        " FROM cron.job WHERE jobname = %s",
        status, message, started, status, started, seconds, job,
    )  # fmt: skip


def job(cron: Session, name: str) -> dict[str, object]:
    return cron.row(
        "SELECT schedule, active, extract(epoch FROM now() - last_run)::integer AS ago, extract(epoch"
" FROM duration)::integer AS seconds,"
        " outcome, detail, overdue FROM cache_jobs WHERE job_name = %s", name,
    )  # fmt: skip


def test_without_pg_cron(ask: Session, dsn: str) -> None:
    for call in ("cache_schedule()", "cache_unschedule()"):
        with refused("PC012", "cache_upkeep"):
            ask(f"SELECT {call}")
    name = database(dsn)
    ask("INSERT INTO pgcache_internal.jobs_elsewhere VALUES ('pgcache_upkeep', '0 * * * *', 'postgres')")
    for call, there in {
        "cache_schedule('* * * * *')": "cron.alter_job(jobid, schedule => '* * * * *')",
        "cache_unschedule()": "cron.unschedule(jobid)",
    }.items():
        with refused("PC012", f"SELECT {there} FROM cron.job WHERE jobname IN ('pgcache_upkeep ({name})')"):
            ask(f"SELECT {call}")


def test_schedule_and_unschedule(cron: Session) -> None:
    assert len(cron.column("SELECT cache_schedule()")) == 2
    assert cron.rows(JOBS) == [
        ("ai_worker_cleanup_cache", "0 * * * *", "SELECT pgcache.ai_worker_cleanup_cache()"),
        ("pgcache_upkeep", "0 * * * *", "CALL pgcache.cache_upkeep()"),
    ]
    ids = cron.column("SELECT jobid FROM cron.job ORDER BY 1")
    assert sorted(cron.column("SELECT cache_schedule('*/10 * * * *')")) == ids  # in place of the earlier ones
    assert {schedule for _, schedule, _ in cron.rows(JOBS)} == {"*/10 * * * *"}
    cron("SELECT cron.schedule('somebody else''s', '0 0 * * *', 'SELECT 1')")
    assert cron("SELECT cache_unschedule()") == 2
    assert [name for name, *_ in cron.rows(JOBS)] == ["somebody else's"]
    assert cron("SELECT cache_unschedule()") == 0


def test_jobs_of_other_databases_are_left_alone(cron: Session) -> None:
    cron(
        "INSERT INTO cron.job (jobname, schedule, command, database, username) VALUES ('pgcache_upkeep', '0 *"
        " * * *', 'CALL pgcache.cache_upkeep()', 'other', 'other')"
    )
    assert cron("SELECT cache_unschedule()") == 0
    assert job(cron, "pgcache_upkeep")["schedule"] is None
    cron("SELECT cache_schedule()")
    assert cron("SELECT cache_unschedule()") == 2
    assert cron("SELECT database FROM cron.job") == "other"


def test_the_commands_do_their_work(cron: Session) -> None:
    cron("SELECT cache_schedule()")
    cron("SET search_path = pg_catalog")  # as in pg_cron's own session, whatever it is there
    for command in cron.column("SELECT command FROM cron.job"):
        cron(command)
    assert cron("SELECT outcome FROM pgcache_internal.upkeep_runs") == "succeeded"


@pytest.mark.parametrize("schedule", ["", "hourly", "0 * * *", "* * * * * * *", "; DROP SCHEMA pgcache"])
def test_a_schedule_that_is_none(cron: Session, schedule: str) -> None:
    with refused("PC010", "Five fields"):
        cron("SELECT cache_schedule(%s)", schedule)
    assert cron.rows(JOBS) == []


def test_no_schedule_at_all(cron: Session) -> None:
    with refused("PC010", "Five fields"):
        cron("SELECT cache_schedule(NULL)")


def test_jobs_that_have_not_run_yet(cron: Session) -> None:
    cron("SELECT cache_schedule()")
    for name in ("pgcache_upkeep", "ai_worker_cleanup_cache"):
        assert job(cron, name) == {
            "schedule": "0 * * * *", "active": True, "ago": None, "seconds": None, "outcome": None, "detail": None,
            "overdue": False,
        }  # fmt: skip
    cron("SELECT set_config('pgcache.clock', (now() + interval '3 hours')::text, false)")
    assert job(cron, "pgcache_upkeep")["overdue"] is True
    assert job(cron, "ai_worker_cleanup_cache")["overdue"] is True


def test_runs_that_pg_cron_has_recorded(cron: Session) -> None:
    cron("SELECT cache_schedule()")
    run(cron, "pgcache_upkeep", "-2 hours", 5, "failed", "out of memory")
    run(cron, "pgcache_upkeep", "-1 hour", 7)
    run(cron, "ai_worker_cleanup_cache", "-1 hour", 1, "failed", "permission denied")
    assert job(cron, "pgcache_upkeep") == {
        "schedule": "0 * * * *", "active": True, "ago": 3600, "seconds": 7, "outcome": "succeeded", "detail": "1 row",
        "overdue": False,
    }  # fmt: skip
    failed = job(cron, "ai_worker_cleanup_cache")
    assert (failed["outcome"], failed["detail"]) == ("failed", "permission denied")
    health = cron.rows("SELECT check_name, status, detail FROM cache_health() WHERE check_name LIKE 'upkeep:%'")
    assert [(name, status) for name, status, _ in sorted(health)] == [
        ("upkeep: ai_worker_cleanup_cache", "critical"), ("upkeep: pgcache_upkeep", "ok"),
    ]  # fmt: skip
    assert "permission denied" in sorted(health)[0][2]


def test_a_job_that_stopped_running_is_overdue(cron: Session) -> None:
    cron("SELECT cache_schedule()")
    run(cron, "pgcache_upkeep", "-119 minutes", 5)
    run(cron, "ai_worker_cleanup_cache", "-121 minutes", 5)
    assert job(cron, "pgcache_upkeep")["overdue"] is False
    assert job(cron, "ai_worker_cleanup_cache")["overdue"] is True
    status = "SELECT status FROM cache_health() WHERE check_name = 'upkeep: ai_worker_cleanup_cache'"
    assert cron(status) == "warning"
    cron("SELECT cache_configure_setting('overdue_after', '3 hours')")
    assert cron(status) == "ok"


def test_a_job_that_is_running(cron: Session) -> None:
    cron("SELECT cache_schedule()")
    run(cron, "pgcache_upkeep", "-10 seconds", 0, "running")
    assert job(cron, "pgcache_upkeep") == {
        "schedule": "0 * * * *", "active": True, "ago": 10, "seconds": None, "outcome": "running", "detail": "1 row",
        "overdue": False,
    }  # fmt: skip


def test_a_job_that_is_switched_off(cron: Session) -> None:
    cron("SELECT cache_schedule()")
    cron("UPDATE cron.job SET active = false")
    assert job(cron, "pgcache_upkeep")["active"] is False


def test_a_run_by_hand_counts_too(cron: Session) -> None:
    cron("SELECT cache_schedule()")
    run(cron, "pgcache_upkeep", "-3 hours", 5, "failed", "out of memory")
    assert job(cron, "pgcache_upkeep")["overdue"] is True
    cron("CALL cache_upkeep()")
    later = job(cron, "pgcache_upkeep")
    assert (later["outcome"], later["overdue"]) == ("succeeded", False)


def test_upkeep_by_an_owner_who_may_not_see_cron(empty_dsn: str, admin: psycopg.Connection) -> None:
    superuser = Session(empty_dsn)
    superuser("CREATE EXTENSION vector")
    superuser(CRON)
    superuser("CREATE ROLE plain_owner LOGIN PASSWORD 'secret'")
    try:
        superuser("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO plain_owner', current_database()); END $$")
        dsn = make_conninfo(empty_dsn, user="plain_owner", password="secret")
        install(dsn, cron=False)
        owner = Session(dsn)
        owner("CALL cache_upkeep()")
        assert owner("SELECT outcome FROM cache_jobs WHERE job_name = 'pgcache_upkeep'") == "succeeded"
        assert owner("SELECT count(*) > 0 FROM cache_health()")
        owner.close()
    finally:
        superuser("REASSIGN OWNED BY plain_owner TO CURRENT_USER")
        superuser("DROP OWNED BY plain_owner")
        superuser("DROP ROLE plain_owner")
        superuser.close()


def test_the_relay_is_listed_if_it_is_scheduled(cron: Session) -> None:
    name = "pgcache_hot_relay"
    assert name not in cron.column("SELECT job_name FROM cache_jobs")
    cron("SELECT cron.schedule(%s, '* * * * *', 'CALL pgcache.hot_relay()')", name)
    cron("SELECT set_config('pgcache.clock', (now() + interval '3 hours')::text, false)")
    assert job(cron, name) == {
        "schedule": "* * * * *", "active": True, "ago": None, "seconds": None, "outcome": None, "detail": None,
        "overdue": False,
    }  # fmt: skip
    cron("RESET pgcache.clock")
    run(cron, name, "-0.1 seconds", 0, "running", "")
    assert job(cron, name)["outcome"] == "running"
    run(cron, name, "-1 minute", 59, "failed", "Redis cannot be reached")
    found = job(cron, name)
    assert (found["outcome"], found["seconds"], found["detail"]) == ("failed", 59, "Redis cannot be reached")
    health = cron.row("SELECT status, hint FROM cache_health() WHERE check_name = 'upkeep: pgcache_hot_relay'")
    assert (health["status"], "hot_relay" in health["hint"]) == ("critical", True)


def test_runs_are_pruned_and_only_ours(cron: Session) -> None:
    cron("SELECT cache_schedule(), cron.schedule('other', '0 0 * * *', 'SELECT 1')")
    for name in ("pgcache_upkeep", "ai_worker_cleanup_cache", "other"):
        run(cron, name, "-8 days", 5)
        run(cron, name, "-6 days", 5)
    cron(
        "INSERT INTO cron.job_run_details (database, command, end_time) VALUES ('elsewhere', 'CALL"
        " pgcache.cache_upkeep()', now() - interval '8 days')"
    )
    cron("CALL cache_upkeep()")
    left = cron.rows(
        "SELECT command, database <> current_database(), count(*)::integer FROM cron.job_run_details"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert left == [
        ("CALL pgcache.cache_upkeep()", False, 1), ("CALL pgcache.cache_upkeep()", True, 1), ("SELECT 1", False, 2),
        ("SELECT pgcache.ai_worker_cleanup_cache()", False, 1),
    ]  # fmt: skip
    cron("SELECT cache_configure_setting('keep_runs', '1 day')")
    cron("CALL cache_upkeep()")
    assert (
        cron(
            "SELECT count(*) FROM cron.job_run_details WHERE command LIKE '%pgcache%' AND database = current_database()"
        )
        == 0
    )


def test_who_may_not_see_cron_still_sees_our_jobs(cron: Session, role: NewRole) -> None:
    cron("SELECT cache_schedule()")
    cron("CALL cache_upkeep()")
    reader = role("read")
    jobs = reader.rows("SELECT job_name, schedule, outcome FROM cache_jobs ORDER BY 1")
    assert jobs == [
        ("ai_worker_cleanup_cache", "0 * * * *", None),
        ("pgcache_upkeep", "0 * * * *", "succeeded"),
    ]
    admin = role("admin")
    with refused("42501"):
        admin("SELECT cache_schedule()")


@pytest.mark.parametrize(
    ("schedule", "period"),
    [
        ("0 * * * *", "1 hour"), ("*/10 * * * *", "10 minutes"), ("* * * * *", "1 minute"), ("30 3 * * *", "1 day"),
        ("0 */6 * * *", "6 hours"), ("0 0 * * 1", "7 days"), ("0 0 1 * *", "31 days"), ("0 0 * 1 1", "366 days"),
        ("5,35 * * * *", "1 hour"), ("30 seconds", "30 seconds"), ("@daily", "1 day"), (" 0  * * * * ", "1 hour"),
        ("*/999 */999 */999 * *", "31 days"), ("never", None), (None, None),
    ],
)  # fmt: skip
def test_how_long_a_schedule_may_take(ask: Session, schedule: str | None, period: str | None) -> None:
    assert ask("SELECT pgcache_internal.cron_period(%s) IS NOT DISTINCT FROM %s::interval", schedule, period)


def test_a_job_is_given_two_periods_of_its_schedule(cron: Session) -> None:
    cron("SELECT cache_schedule('0 3 * * *')")
    for name in ("pgcache_upkeep", "ai_worker_cleanup_cache"):
        run(cron, name, "-47 hours", 5)
    assert not job(cron, "pgcache_upkeep")["overdue"]
    cron("SELECT set_config('pgcache.clock', (now() + interval '2 hours')::text, false)")
    assert job(cron, "pgcache_upkeep")["overdue"]
    assert job(cron, "ai_worker_cleanup_cache")["overdue"]


def test_a_clean_up_by_hand_is_a_run(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set_ai_worker('p', 'm', 'v', 's', ttl => '1 second')")
    ask.advance("1 second")
    assert ask("SELECT ai_worker_cleanup_cache()") == 1
    query = "SELECT outcome, removed FROM cache_jobs WHERE job_name = 'ai_worker_cleanup_cache'"
    assert ask.row(query) == {"outcome": "succeeded", "removed": 1}


def test_the_installation_schedules_the_same(ask: Session) -> None:
    jobs = dict(ask.rows("SELECT job_name, command FROM pgcache_internal.scheduled_jobs()"))
    assert jobs == JOBS_OF_THE_PACKAGE


FAKE = (
    CRON
    + """
    CREATE FUNCTION cron.sprung() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'sprung'; END $$;
    CREATE TRIGGER sprung BEFORE INSERT OR DELETE ON cron.job FOR EACH STATEMENT EXECUTE FUNCTION cron.sprung();
    CREATE TRIGGER sprung BEFORE INSERT OR DELETE ON cron.job_run_details
        FOR EACH STATEMENT EXECUTE FUNCTION cron.sprung();
    ALTER TABLE cron.job RENAME TO job_table;
    CREATE FUNCTION cron.sprung_too() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'sprung'; END $$;
    CREATE VIEW cron.job AS SELECT *, cron.sprung_too() AS sprung FROM cron.job_table;
    GRANT USAGE ON SCHEMA cron TO PUBLIC;
    GRANT ALL ON ALL TABLES IN SCHEMA cron TO PUBLIC;
"""
)


def test_what_others_call_cron_is_not_believed(ask: Session, role: NewRole) -> None:
    """Or a role that may create schemas could have its code run by the upkeep."""
    theirs = role()
    ask(f"GRANT CREATE ON DATABASE {theirs.connection.info.dbname} TO {theirs('SELECT current_user')}")
    theirs(FAKE)
    ask("CALL cache_upkeep()")
    for call in ("cache_schedule()", "cache_unschedule()"):
        with refused("PC012", "cache_upkeep"):
            ask(f"SELECT {call}")
    assert ask("SELECT outcome FROM cache_jobs WHERE job_name = 'pgcache_upkeep'") == "succeeded"
    assert ask("SELECT count(*) FROM cache_health() WHERE check_name LIKE 'upkeep:%'") == 2
    if ask("SELECT to_regprocedure('hot_relay(interval)') IS NOT NULL"):
        with refused("PC030"):
            ask("CALL hot_relay('0 seconds')")
        for call in ("cache_hot_schedule()", "cache_hot_unschedule()"):
            with refused("PC012"):
                ask(f"SELECT {call}")
