"""Removes pgcache from a database: all of it, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg

from ..errors import NotInstalledError, PgcacheError
from . import levels, search_path
from .levels import Facts, Job
from .session import Connection, installed_version, session
from .sources import AS_OWNER, LOCK_TIMEOUT, SETTINGS, TAKE_TURN

IN_USE = psycopg.errors.DependentObjectsStillExist.sqlstate
NO_SCHEMA = psycopg.errors.InvalidSchemaName.sqlstate

# What DROP SCHEMA ... CASCADE would take along from outside. Internal dependencies count both ways: a view goes with
# its rule.
DEPENDENTS = b"""
    WITH RECURSIVE doomed AS (
        SELECT 'pg_namespace'::regclass::oid AS classid, n.oid AS objid, 0 AS objsubid
        FROM pg_namespace AS n WHERE n.nspname IN ('pgcache', 'pgcache_internal')
        UNION
        SELECT next.*
        FROM doomed
        CROSS JOIN LATERAL (
            SELECT d.classid, d.objid, d.objsubid
            FROM pg_depend AS d
            WHERE d.refclassid = doomed.classid AND d.refobjid = doomed.objid
                AND (doomed.objsubid = 0 OR d.refobjsubid = doomed.objsubid)
            UNION ALL
            SELECT d.refclassid, d.refobjid, d.refobjsubid
            FROM pg_depend AS d
            WHERE d.classid = doomed.classid AND d.objid = doomed.objid AND d.deptype = 'i'
        ) AS next
    )
    SELECT DISTINCT pg_describe_object(doomed.classid, doomed.objid, doomed.objsubid)
    FROM doomed
    CROSS JOIN LATERAL pg_identify_object(doomed.classid, doomed.objid, doomed.objsubid) AS object
    LEFT JOIN pg_trigger AS t ON doomed.classid = 'pg_trigger'::regclass AND t.oid = doomed.objid
    LEFT JOIN pg_attrdef AS a ON doomed.classid = 'pg_attrdef'::regclass AND a.oid = doomed.objid
    LEFT JOIN pg_policy AS p ON doomed.classid = 'pg_policy'::regclass AND p.oid = doomed.objid
    LEFT JOIN pg_class AS rel ON rel.oid = COALESCE(t.tgrelid, a.adrelid, p.polrelid)
    LEFT JOIN pg_type AS ty ON doomed.classid = 'pg_type'::regclass AND ty.oid = doomed.objid
    WHERE object.type NOT IN ('rule', 'schema')
        AND (ty.oid IS NULL OR (ty.typrelid = 0::oid AND ty.typcategory <> 'A'))  -- those come with something else
        AND (t.oid IS NULL OR NOT starts_with(t.tgname::text, 'pgcache_watch_'))  -- those of watched tables are its own
        AND CASE
            WHEN COALESCE(rel.relnamespace::regnamespace::text, object.schema) IS NULL
                THEN object.type IN ('extension', 'cast', 'event trigger', 'publication namespace')
            ELSE COALESCE(rel.relnamespace::regnamespace::text, object.schema)
                NOT IN ('pgcache', 'pgcache_internal', 'pg_toast')
        END
    ORDER BY 1
"""


@dataclass
class UninstallReport:
    """What `uninstall` removed. dropped: objects outside its schemas that depended on it. notes: what else happened."""

    database: str
    version: str
    dropped: list[str]
    notes: list[str] = field(default_factory=list)


def uninstall(conninfo: str, *, cascade: bool = False, dry_run: bool = False) -> UninstallReport:
    """Remove pgcache with all that it holds: schema, cron jobs, and its place in the database's search_path.

    cascade: also drop objects outside its schemas that depend on it; without it, their existence is an error.
    Extensions are left alone, but for its own. dry_run: do it, report it, and roll it back.

    Raises PgcacheError with a hint: 3F000 not installed, 42501 no privilege, 2BP01 other objects depend on it.
    """
    with session(conninfo) as connection:
        with connection.transaction(force_rollback=dry_run):
            connection.execute(SETTINGS.encode())
            connection.execute(LOCK_TIMEOUT.encode())
            server = levels.look(connection)
            connection.execute((AS_OWNER + TAKE_TURN).encode())
            version = installed_version(connection)
            if version is None:
                raise NotInstalledError(
                    f"pgcache is not installed in the database {server.database}",
                    sqlstate=NO_SCHEMA,
                    hint="All that is left is its extension: DROP EXTENSION pgcache;"
                    if server.extension
                    else "Nothing has to be removed.",
                )
            connection.execute("SET LOCAL search_path TO pg_catalog, public, pg_temp")  # how they are named
            dependents = [name for (name,) in connection.execute(DEPENDENTS)]
            connection.execute("SET LOCAL search_path TO pg_catalog, pg_temp")
            if dependents and not cascade:
                raise PgcacheError(
                    f"other objects depend on pgcache: {', '.join(dependents)}",
                    sqlstate=IN_USE,
                    hint="Drop them, or let uninstall drop them as well: --cascade.",
                )
            report = UninstallReport(server.database, version, dependents)
            if server.cron_database == server.database and "pg_cron" in server.extensions:
                connection.execute("RESET ROLE")  # the jobs belong to whoever installed
                report.notes += _unschedule_here(connection)
                connection.execute(AS_OWNER.encode())
            connection.execute("DROP SCHEMA pgcache, pgcache_internal CASCADE")
            connection.execute("RESET ROLE")
            report.notes += _forget_extension(connection) if server.extension else []
            report.notes += _shorten_search_path(connection, server)
        if server.cron_is_elsewhere and not dry_run:
            report.notes += _unschedule_elsewhere(conninfo, server, levels.wanted_jobs(server))
    return report


def _forget_extension(connection: Connection) -> list[str]:
    """It holds nothing. If somebody else has restored a dump, it is his."""
    try:
        with connection.transaction():
            connection.execute("DROP EXTENSION pgcache")
    except psycopg.Error as error:
        return [f"{error.diag.message_primary}. Let its owner or a superuser say: DROP EXTENSION pgcache;"]
    return ["DROP EXTENSION pgcache;"]


def _shorten_search_path(connection: Connection, server: Facts) -> list[str]:
    statement = search_path.removing(connection)
    if statement is None:
        return []
    if not server.owns_database:
        return [f"search_path still names pgcache. As {server.database_owner}: {statement.as_string(None)};"]
    connection.execute(statement)
    return [f"{statement.as_string(None)};"]


def _unschedule_here(connection: Connection) -> list[str]:
    try:
        with connection.transaction():
            connection.execute(
                "SELECT cron.unschedule(jobid) FROM cron.job WHERE command = ANY(%s) AND database = current_database()",
                [[*levels.JOBS.values(), levels.RELAY]],
            )
    except psycopg.Error as error:
        return [f"the cron jobs are still there, see the table cron.job: {error.diag.message_primary}"]
    return ["its cron jobs are unscheduled"]


def _unschedule_elsewhere(conninfo: str, server: Facts, jobs: list[Job]) -> list[str]:
    try:
        count = levels.unschedule(conninfo, server, jobs)
    except psycopg.Error as error:
        reason = (error.diag.message_primary or str(error)).strip()
        return [f"cron jobs may be left in the database {server.cron_database}: {reason}"]
    return [f"{count} cron jobs in the database {server.cron_database} are unscheduled"] if count else []
