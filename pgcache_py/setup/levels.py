"""The three levels of a server: core, pg_cron, plpython3u. Says which are on, and for the others exactly what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row

from .session import Connection, connect
from .sources import AS_OWNER

FACTS = b"""
    SELECT
        current_database() AS database,
        current_user AS role,
        (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
        (
            SELECT CASE WHEN rolcanlogin THEN rolname END
            FROM pg_namespace JOIN pg_roles ON pg_roles.oid = nspowner WHERE nspname = 'pgcache'
        ) AS owner,
        pg_get_userbyid(datdba) AS database_owner,
        pg_has_role(current_user, datdba, 'USAGE') AS owns_database,
        has_database_privilege(current_user, oid, 'CREATE') AS may_create_schema,
        pg_is_in_recovery() AS standby,
        current_setting('server_version_num')::integer / 10000 AS major,
        current_setting('server_version') AS version,
        COALESCE(
            (SELECT setting FROM pg_settings WHERE name = 'cron.database_name'),
            (SELECT current_database() FROM pg_extension WHERE extname = 'pg_cron'),
            -- The setting is hidden from most roles. This is its default.
            (SELECT 'postgres' FROM pg_available_extensions
             WHERE name = 'pg_cron' AND NOT pg_has_role(current_user, 'pg_read_all_settings', 'USAGE'))
        ) AS cron_database,
        ARRAY(SELECT name::text FROM pg_available_extensions) AS available,
        (SELECT json_object_agg(extname, extversion) FROM pg_extension) AS extensions
    FROM pg_database
    WHERE datname = current_database()
"""
PACKAGES = {
    "vector": "postgresql-{0}-pgvector (Debian, Ubuntu) or pgvector_{0} (Red Hat)",
    "pg_cron": "postgresql-{0}-cron (Debian, Ubuntu) or pg_cron_{0} (Red Hat)",
    "plpython3u": "postgresql-plpython3-{0} (Debian, Ubuntu) or postgresql{0}-plpython3 (Red Hat)",
}
HOURLY = "0 * * * *"
# As scheduled_jobs() has them. Not asked for, as what it says would run in the name of whoever asks.
JOBS = {
    "pgcache_upkeep": "CALL pgcache.cache_upkeep()",
    "ai_worker_cleanup_cache": "SELECT pgcache.ai_worker_cleanup_cache()",
}
# What cache_hot_schedule lets pg_cron run.
RELAY = "CALL pgcache.hot_relay()"
INSTALL = "python -m pgcache_py install"
AGAIN = f"then again: {INSTALL}"
WITHOUT_CRON = "or let any other scheduler run this every hour: python -m pgcache_py cleanup"


@dataclass(frozen=True)
class Level:
    """`todo`: what turns it on, a step each, for people; empty if it is on or nothing can be done."""

    name: str
    on: bool
    detail: str
    todo: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What the server offers to this session. cron_database: where pg_cron lives, None if it is not loaded.

    owner: of the schema pgcache, None if there is none yet, or if it cannot log in.
    """

    database: str
    role: str
    superuser: bool
    owner: str | None
    database_owner: str
    owns_database: bool
    may_create_schema: bool
    standby: bool
    major: int
    version: str
    cron_database: str | None
    available: list[str]
    extensions: dict[str, str]

    @property
    def runs_jobs(self) -> str:
        """As whom jobs are to run: what is in a schema can do whatever that role can."""
        return self.owner or self.role

    @property
    def cron_is_elsewhere(self) -> bool:
        return self.cron_database not in (None, self.database)

    @property
    def extension(self) -> str | None:
        """The version of the extension pgcache; None where it is installed without one, or not at all."""
        return self.extensions.get("pgcache")

    def package(self, extension: str) -> str:
        """The names of the package that holds the extension for this server."""
        return PACKAGES[extension].format(self.major)


@dataclass(frozen=True)
class Job:
    """What pg_cron runs, and in which database."""

    job_name: str
    schedule: str
    command: str
    database: str


def look(connection: Connection) -> Facts:
    """Ask the server. It must be one that pgcache supports."""
    with connection.cursor(row_factory=class_row(Facts)) as cursor:
        found = cursor.execute(FACTS).fetchone()
    assert found is not None  # noqa: S101
    return found


def core(server: Facts) -> Level:
    return Level("core", True, f"PostgreSQL {server.version} with pgvector {server.extensions.get('vector', '?')}")


def plpython(server: Facts, *, needed: bool, loaded: bool = False) -> Level:
    """needed: this version has functions in PL/Python. loaded: they are in the database, else: may they be?"""
    if not needed:
        return Level("plpython3u", "plpython3u" in server.extensions, "this version has no function that needs it")
    if loaded or (server.superuser and "plpython3u" in server.available):
        return Level("plpython3u", True, "functions in Python run inside the server")
    again = f"as a superuser: {INSTALL} --dsn ... (only superusers may create functions in it)"
    if "plpython3u" in server.available:
        return Level("plpython3u", False, f"{server.role} is not a superuser", (again,))
    package = f"install the package {server.package('plpython3u')}; managed servers do not have it"
    return Level("plpython3u", False, "it is not on the server", (package, again))


def wanted_jobs(server: Facts, keep_runs: str = "7 days") -> list[Job]:
    """The jobs that the installed version wants. keep_runs: that setting."""
    jobs = [Job(name, HOURLY, command, server.database) for name, command in JOBS.items()]
    if not server.cron_is_elsewhere or server.cron_database is None:
        return jobs
    # There, other databases may have the same jobs; and the record of their runs, which only grows, is there too.
    prune = sql.SQL("DELETE FROM cron.job_run_details WHERE database = {} AND end_time < now() - {}::interval")
    command = prune.format(server.database, keep_runs).as_string(None)
    jobs.append(Job("pgcache_prune_runs", HOURLY, command, server.cron_database))
    return [replace(job, job_name=f"{job.job_name} ({server.database})") for job in jobs]


def keep_runs(connection: Connection) -> str:
    """The setting of the installed version."""
    row = connection.execute("SELECT pgcache.cache_setting('keep_runs')").fetchone()
    return str(row[0]) if row else ""


def cron(
    conninfo: str,
    connection: Connection,
    server: Facts,
    wanted: Sequence[Job],
    *,
    change: bool,
    record: bool = True,
    dry_run: bool = False,
) -> Level:
    """Schedule the jobs, in the database where pg_cron lives; or only look, without `change`.

    Never fails: what goes wrong is in the level. Jobs that are there keep the schedule that they have. record: tell the
    cache of them. dry_run: roll back what is done in another database.
    """
    if server.cron_database is None:
        return _not_loaded(server)
    try:
        with connection.transaction():
            if not server.cron_is_elsewhere:
                return _cron_in(connection, server, wanted, change)
        with _connect_to(conninfo, server.cron_database) as there, there.transaction(force_rollback=dry_run):
            found = _cron_in(there, server, wanted, change)
            scheduled = _scheduled(there, wanted).values() if found.on else ()
        if found.on and change and record and not dry_run:
            _record(connection, server, scheduled)
        return found
    except psycopg.Error as error:
        return _cron_failed(error, server, wanted)


def _record(connection: Connection, server: Facts, scheduled: Iterable[Job]) -> None:
    """Tell the cache's own database what runs by which schedule: from there nobody sees pg_cron's."""
    with connection.transaction():
        connection.execute(AS_OWNER.encode())
        connection.execute("DELETE FROM pgcache_internal.jobs_elsewhere")
        for job in scheduled:
            name = job.job_name.removesuffix(f" ({server.database})")
            connection.execute(
                "INSERT INTO pgcache_internal.jobs_elsewhere (job_name, schedule, cron_database) VALUES (%s, %s, %s)",
                [name, job.schedule, server.cron_database],
            )


def unschedule(conninfo: str, server: Facts, jobs: Sequence[Job]) -> int:
    """Remove the jobs from the other database in which pg_cron lives; returns how many there were."""
    with _connect_to(conninfo, server.cron_database or "") as there:
        if "pg_cron" not in look(there).extensions:
            return 0
        names = [job.job_name for job in jobs]
        query = (
            "SELECT count(cron.unschedule(jobid)) FROM cron.job"
            " WHERE jobname = ANY(%s) OR (command = %s AND database = %s)"
        )
        removed = there.execute(query, [names, RELAY, server.database]).fetchone()
    return int(removed[0]) if removed else 0


def _not_loaded(server: Facts) -> Level:
    preload = (
        "in postgresql.conf: shared_preload_libraries = 'pg_cron' (after what is listed there already) and "
        f"cron.database_name = '{server.database}'; then restart the server"
    )
    if "pg_cron" in server.available:
        return Level("pg_cron", False, "it is on the server, but not loaded", (preload, AGAIN, WITHOUT_CRON))
    package = f"install the package {server.package('pg_cron')}, or turn it on in the console of a managed server"
    return Level("pg_cron", False, "it is not on the server", (package, preload, AGAIN, WITHOUT_CRON))


def _cron_in(there: Connection, server: Facts, wanted: Sequence[Job], change: bool) -> Level:
    """`there`: a session, in a transaction, in the database where pg_cron lives."""
    if there.execute("SELECT FROM pg_extension WHERE extname = 'pg_cron'").rowcount == 0:
        absent = f"it is not in the database {server.cron_database} yet"
        if not change:
            todo = (INSTALL,) if server.superuser else _steps_of_superuser(server, wanted, create=True)
            return Level("pg_cron", False, absent, todo)
        try:
            with there.transaction():
                # As newer versions do by themselves. It must not be taken for a part of whatever schema is first in
                # the path.
                there.execute("CREATE EXTENSION pg_cron SCHEMA pg_catalog")
        except psycopg.Error as error:
            todo = _steps_of_superuser(server, wanted, create=True)
            return Level("pg_cron", False, f"{absent}: {error.diag.message_primary}", todo)
    if change and server.superuser:
        _unschedule_others(there, server, wanted)
    existing = _scheduled(there, wanted)
    stale = [job for job in wanted if job.job_name not in existing or existing[job.job_name].command != job.command]
    schedules = [existing[job.job_name].schedule for job in wanted if job.job_name in existing]
    schedule = schedules[0] if schedules else HOURLY
    if stale and not change:
        seen = "" if server.superuser else f", as far as {server.role} may see"
        return Level("pg_cron", False, f"its jobs are not scheduled{seen}", (INSTALL,))
    for job in stale:
        # For another role, or for another database, that takes a superuser.
        simple = server.runs_jobs == server.role and not server.cron_is_elsewhere
        there.execute(
            "SELECT cron.schedule(%s, %s, %s)" if simple else "SELECT cron.schedule_in_database(%s, %s, %s, %s, %s)",
            [job.job_name, schedule, job.command] + ([] if simple else [job.database, server.runs_jobs]),
        )
    when = "every hour" if schedule == HOURLY else f"at '{schedule}'"
    return Level("pg_cron", True, f"tidies up {when} (table cron.job in the database {server.cron_database})")


def _unschedule_others(there: Connection, server: Facts, wanted: Sequence[Job]) -> None:
    """End the jobs that run as another role than they should."""
    query = (
        "SELECT count(cron.unschedule(jobid)) FROM cron.job"
        " WHERE jobname = ANY(%s) AND database = ANY(%s) AND username <> %s"
    )
    names, databases = [job.job_name for job in wanted], [job.database for job in wanted]
    there.execute(query, [names, databases, server.runs_jobs])


def _scheduled(there: Connection, wanted: Sequence[Job]) -> dict[str, Job]:
    """Those of the jobs that are there, as far as this role may see, by name."""
    with there.cursor(row_factory=class_row(Job)) as cursor:
        query = "SELECT jobname AS job_name, schedule, command, database FROM cron.job WHERE jobname = ANY(%s)"
        found = cursor.execute(query, [[job.job_name for job in wanted]]).fetchall()
    databases = {job.job_name: job.database for job in wanted}
    return {job.job_name: job for job in found if job.database == databases[job.job_name]}


def _cron_failed(error: psycopg.Error, server: Facts, jobs: Sequence[Job]) -> Level:
    reason = (error.diag.message_primary or str(error)).strip()
    create = not server.cron_is_elsewhere and "pg_cron" not in server.extensions
    return Level("pg_cron", False, reason, _steps_of_superuser(server, jobs, create=create) or (INSTALL,))


def _steps_of_superuser(server: Facts, jobs: Sequence[Job], *, create: bool) -> tuple[str, ...]:
    """create: the extension is not in pg_cron's database yet."""
    superuser = f"as a superuser, in the database {server.cron_database} (SHOW cron.database_name): "
    extension = "CREATE EXTENSION pg_cron"
    if not server.cron_is_elsewhere:
        grant = sql.SQL("GRANT USAGE ON SCHEMA cron TO {}").format(sql.Identifier(server.role)).as_string(None)
        return (f"{superuser}{extension}; {grant}" if create else superuser + grant, AGAIN)
    calls = [
        sql.SQL("SELECT cron.schedule_in_database({}, {}, {}, {}, {})")
        .format(job.job_name, job.schedule, job.command, job.database, server.runs_jobs)
        .as_string(None)
        for job in jobs
    ]
    return tuple(superuser + step for step in ([extension, *calls] if create else calls))


@contextmanager
def _connect_to(conninfo: str, database: str) -> Iterator[Connection]:
    """A session in another database of the same server, in a transaction that is committed at the end."""
    where = make_conninfo(conninfo, dbname=database)
    with connect(where, "pgcache install", untrusted=True) as connection, connection.transaction():
        connection.execute("SET LOCAL client_min_messages = warning")
        yield connection
