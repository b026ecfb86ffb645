"""Installs pgcache into a database, or upgrades it.

One transaction under a lock: an installation that fails leaves nothing behind, and twenty at once succeed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import psycopg
from psycopg import sql

from ..errors import NewerDatabaseError, PermissionDeniedError, PgcacheError, ReadOnlyError
from ..version import __version__
from . import levels, search_path
from .levels import Facts, Level
from .search_path import hiding
from .session import Connection, installed, installed_version, lesser_owner, session, version_numbers
from .sources import (
    AS_OWNER,
    BECOME_SUPERUSER,
    CREATE_PLPYTHON,
    CREATE_VECTOR,
    LOCK_TIMEOUT,
    SEARCH_PATH,
    SETTINGS,
    TAKE_TURN,
    Script,
    Sources,
    load,
    record,
)

NEWER = "PC090"
NO_VECTOR = "PC092"
OTHER_EXTENSION = "PC095"
NO_PRIVILEGE = psycopg.errors.InsufficientPrivilege.sqlstate
READ_ONLY = psycopg.errors.ReadOnlySqlTransaction.sqlstate

# Of two first installations at once, the one that was slower has waited for the other, which has made the same.
MADE_BY_ANOTHER = (psycopg.errors.UniqueViolation.sqlstate, psycopg.errors.DuplicateSchema.sqlstate)

CAN_BE_ASKED = "SELECT to_regprocedure('pgcache_internal.own_objects()') IS NOT NULL"
# Functions and views, and the tables of the built-in types with all of their columns; and rights, without which PUBLIC
# may call everything, as after a dump without privileges.
INTACT = """
    SELECT NOT EXISTS (
        SELECT kind, schema, name, arguments FROM pgcache_internal.made_objects WHERE component = ANY (%s)
        EXCEPT SELECT kind, schema, name, arguments FROM pgcache_internal.own_objects()
    ) AND NOT EXISTS (
        SELECT FROM pgcache_internal.types AS t CROSS JOIN LATERAL (
            SELECT 'cache_key' UNION ALL SELECT jsonb_object_keys(t.fields)
        ) AS c (name)
        WHERE t.builtin AND NOT EXISTS (
            SELECT FROM pg_attribute AS a WHERE a.attrelid = t.relation AND a.attname = c.name AND NOT a.attisdropped
        )
    ) AND (SELECT count(*) FROM pgcache_internal.types WHERE builtin) = %s
    AND NOT EXISTS (
        SELECT FROM pgcache_internal.own_objects() AS o JOIN pg_proc AS p ON p.oid = o.oid
        WHERE o.kind = 'routine' AND p.proacl IS NULL
    )
"""
# By name and body.
IN_PYTHON = """
    SELECT format('%s.%s', pronamespace::regnamespace, proname), prosrc
    FROM pg_proc JOIN pg_language ON pg_language.oid = prolang WHERE lanname = 'plpython3u'
"""
OURS_IN_PYTHON = """
    SELECT oid::regprocedure::text FROM pg_proc
    WHERE format('%%s.%%s', pronamespace::regnamespace, proname) = %s
        AND pg_get_userbyid(proowner) = session_user
"""
RAN = "SELECT version FROM pgcache_internal.schema_migrations"
OBJECTS = """
    SELECT object.type || ' ' || object.identity, oid
    FROM (
        SELECT 'pg_proc'::regclass AS catalog, oid, pronamespace AS namespace FROM pg_proc
        UNION ALL SELECT 'pg_class', oid, relnamespace FROM pg_class WHERE relkind = 'v'
    ) AS o
    CROSS JOIN LATERAL pg_identify_object(catalog, oid, 0) AS object
    WHERE namespace = ANY (ARRAY[to_regnamespace('pgcache'), to_regnamespace('pgcache_internal')]::oid[])
    ORDER BY 1
"""


@dataclass
class InstallReport:
    """What `install` did.

    action: repaired: of what this version had made before, something was missing. prepared: another role owns the
    schemas, for which a superuser has done what only superusers can; that role is to install the rest.
    previous: the version that was there before, None for a new installation. migrations: those that ran.
    dropped: functions and views that this version has no more, or with other parameters. remade: those that were
    dropped and made again, as their result is another one; the rights to them are kept.
    notes: what else the user should know, a sentence each.
    """

    action: Literal["installed", "upgraded", "repaired", "current", "prepared"]
    version: str
    database: str
    previous: str | None = None
    dry_run: bool = False
    migrations: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def install(
    conninfo: str,
    *,
    search_path: bool = True,
    dry_run: bool = False,
    cron: bool = True,
    sources: Sources | None = None,
) -> InstallReport:
    """Install pgcache into the database, or bring it up to this version; does nothing where it is current.

    search_path: append pgcache to the database's search_path, if this role may. cron: schedule the clean-up, where
    pg_cron is. dry_run: do everything, report it, and roll it back. sources: other SQL than this version's.

    Raises PgcacheError with a hint: 0A000 server too old, 42501 no privilege, 25006 read-only server, PC090 the
    database is newer than this package, PC091 a migration that ran here has changed since, PC092 no extension vector,
    PC093 other objects depend on what an upgrade drops, or have the name of what it makes, PC095 it is an extension of
    another version.
    """
    sources = sources or load()
    try:
        return _install(conninfo, search_path, dry_run, cron, sources)
    except PgcacheError as error:
        if error.sqlstate not in MADE_BY_ANOTHER:
            raise
    return _install(conninfo, search_path, dry_run, cron, sources)


def _install(conninfo: str, search_path: bool, dry_run: bool, cron: bool, sources: Sources) -> InstallReport:
    with session(conninfo, untrusted=True) as connection:
        with connection.transaction(force_rollback=dry_run):
            installation = _Installation(connection, sources)
            report = installation.run()
            report.dry_run = dry_run
            report.notes += _extend_search_path(connection, installation.extend_path) if search_path else []
            server = levels.look(connection)
            trusted = report.action != "prepared"
            report.notes += hiding(connection) if trusted else []
            jobs = levels.wanted_jobs(server, *[levels.keep_runs(connection)] if trusted else [])
            # Another database is another transaction, which must see this one committed.
            if cron and not server.cron_is_elsewhere:
                cron_level = levels.cron(conninfo, connection, server, jobs, change=True)
        if not cron:
            cron_level = Level("pg_cron", False, "left alone, as asked")
        elif server.cron_is_elsewhere:
            cron_level = levels.cron(conninfo, connection, server, jobs, change=True, record=trusted, dry_run=dry_run)
    report.levels = [levels.core(server), cron_level, installation.plpython]
    return report


class _Installation:
    """The part that runs in one transaction."""

    def __init__(self, connection: Connection, sources: Sources) -> None:
        self.connection = connection
        self.sources = sources

    def run(self) -> InstallReport:
        connection, sources = self.connection, self.sources
        connection.execute(SETTINGS.encode())
        connection.execute(LOCK_TIMEOUT.encode())
        if connection.info.server_version < 150000:
            self._run(sources.bootstrap)  # raises: what follows asks for what older servers do not have
        server = levels.look(connection)
        if server.standby:
            raise ReadOnlyError(
                "this server is a standby, which cannot be written to",
                sqlstate=READ_ONLY,
                hint="Connect to the primary server; the installation reaches the standby by replication.",
            )
        self.extend_path = search_path.appending(connection)
        if owner := lesser_owner(connection):
            return self._give_python(server, owner)
        self._prepare(server)
        connection.execute((AS_OWNER + TAKE_TURN).encode())
        previous = installed_version(connection)
        self._refuse_newer(previous)
        self._refuse_extension(server)
        self.plpython = levels.plpython(server, needed=bool(sources.plpython), loaded=self._has_python())
        report = InstallReport("installed", __version__, server.database, previous)
        recorded = self._is_recorded()
        if recorded and self._is_intact():
            report.action = "current"
            connection.execute("RESET ROLE")
            return report
        if previous is not None:
            report.action = "repaired" if recorded else "upgraded"
        before = dict(connection.execute(OBJECTS).fetchall())
        self._run(sources.bootstrap)
        connection.execute(SEARCH_PATH.encode())
        for script in sources.before:
            self._run(script)
        report.migrations = self._migrate()
        for script in sources.code:
            self._run(script, script.made("pgcache"))
        connection.execute(record("pgcache", __version__, sources.digest).encode())
        if sources.plpython and self.plpython.on:
            self._run_plpython(server)
        for script in sources.after:
            self._run(script)
        if previous is not None:
            after = dict(connection.execute(OBJECTS).fetchall())
            report.dropped = [name for name in before if name not in after]
            report.remade = [name for name in before if name in after and before[name] != after[name]]
        connection.execute("RESET ROLE")
        connection.execute("SET LOCAL search_path TO pg_catalog, pg_temp")
        return report

    def _run_plpython(self, server: Facts) -> None:
        for script in self.sources.plpython:
            self._run(script, script.made("plpython", but_python=not server.superuser))
        self.connection.execute(record("plpython", __version__, self.sources.plpython_digest).encode())
        if server.superuser:
            self._make_python()
            self.connection.execute(AS_OWNER.encode())
            self.connection.execute(SEARCH_PATH.encode())

    def _make_python(self) -> None:
        self.connection.execute(BECOME_SUPERUSER.encode())
        self.connection.execute(CREATE_PLPYTHON.encode())
        for script in self.sources.plpython:
            self._run(script, script.made_in_python())

    def _has_python(self) -> bool:
        """Whether a superuser has made the functions in PL/Python, those of this version."""
        functions = [function for script in self.sources.plpython for function in script.in_python]
        made = self.connection.execute(IN_PYTHON).fetchall()
        return {(function.name, function.body) for function in functions} <= set(made)

    def _give_python(self, server: Facts, owner: str) -> InstallReport:
        """What a superuser can do for a lesser owner: nothing that runs, or looks at, what that owner has made."""
        report = InstallReport("prepared", __version__, server.database)
        self.plpython = levels.plpython(server, needed=bool(self.sources.plpython))
        self.connection.execute(CREATE_VECTOR.encode())
        report.notes.append(f"Now as {owner}, who owns the schemas: {levels.INSTALL}")
        if self._missing_schemas():
            self.plpython = Level("plpython3u", False, "after the rest", (f"then again, as {server.role}",))
        elif self.plpython.on:
            self._make_python()
            for function in (function for script in self.sources.plpython for function in script.in_python):
                for (signature,) in self.connection.execute(OURS_IN_PYTHON, [function.name]).fetchall():
                    self.connection.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC".encode())
                    give = sql.SQL(f"ALTER FUNCTION {signature} OWNER TO {{}}")
                    self.connection.execute(give.format(sql.Identifier(owner)))
        return report

    def _prepare(self, server: Facts) -> None:
        """Extension vector and schema pgcache; or one error that says all that somebody else has to do first."""
        role = sql.Identifier(server.role).as_string(None)
        database = sql.Identifier(server.database).as_string(None)
        todo = []
        sqlstate = NO_PRIVILEGE
        if "vector" not in server.extensions:
            if "vector" not in server.available:
                todo.append(f"install the package {server.package('vector')} on the server")
                sqlstate = NO_VECTOR
            try:
                with self.connection.transaction():
                    self.connection.execute(CREATE_VECTOR.encode())
            except psycopg.errors.UniqueViolation:
                raise  # another installation has just made it
            except psycopg.DatabaseError:
                todo.append(f"as a superuser, in the database {server.database}: CREATE EXTENSION vector;")
        if not server.may_create_schema and (missing := self._missing_schemas()):
            create = " ".join(f"CREATE SCHEMA {schema} AUTHORIZATION {role};" for schema in missing)
            todo.append(
                f"as {server.database_owner} or a superuser, in the database {server.database}:"
                f" {create} or GRANT CREATE ON DATABASE {database} TO {role};"
            )
        if todo:
            kind = PermissionDeniedError if sqlstate == NO_PRIVILEGE else PgcacheError
            raise kind(
                f"the role {server.role} cannot install pgcache in the database {server.database} yet",
                sqlstate=sqlstate,
                hint="First " + " Then ".join(todo) + f" Then again: {levels.INSTALL}",
            )

    def _missing_schemas(self) -> list[str]:
        wanted = "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regnamespace(name) IS NULL"
        return [name for (name,) in self.connection.execute(wanted, [["pgcache", "pgcache_internal"]])]

    def _refuse_newer(self, previous: str | None) -> None:
        if previous is None:
            return
        row = self.connection.execute("SELECT max(version) FROM pgcache_internal.schema_migrations").fetchone()
        ledger = row[0] if row else None
        if (ledger or 0) > self.sources.newest or version_numbers(previous) > version_numbers(__version__):
            raise NewerDatabaseError(
                f"the database is newer: it has pgcache {previous} (migration {ledger}), and this package is"
                f" {__version__} (migration {self.sources.newest})",
                sqlstate=NEWER,
                hint="Upgrade the package: pip install --upgrade pgcache",
            )

    def _refuse_extension(self, server: Facts) -> None:
        """What PostgreSQL says of its version has to stay true."""
        if server.extension not in (None, __version__):
            raise PgcacheError(
                f"pgcache is an extension in the database {server.database}, of version {server.extension}, and this"
                f" package is {__version__}",
                sqlstate=OTHER_EXTENSION,
                hint=f"Where the server has its files: ALTER EXTENSION pgcache UPDATE TO '{__version__}'; or DROP"
                f" EXTENSION pgcache; which leaves the cache as it is, and then again: {levels.INSTALL}",
            )

    def _wanted(self) -> dict[str, tuple[str, str]]:
        """The version and the digest of each component."""
        wanted = {"pgcache": (__version__, self.sources.digest)}
        if self.sources.plpython and self.plpython.on:
            wanted["plpython"] = (__version__, self.sources.plpython_digest)
        return wanted

    def _is_recorded(self) -> bool:
        """Whether this was installed last."""
        return self._wanted().items() <= installed(self.connection).items()

    def _is_intact(self) -> bool:
        """Whether all of it is still there: it may have been dropped since."""
        if self.connection.execute(CAN_BE_ASKED).fetchone() != (True,):
            return False
        types = sum(script.text.count("select pgcache_internal.declare_type(") for script in self.sources.code)
        return self.connection.execute(INTACT, [list(self._wanted()), types]).fetchone() == (True,)

    def _migrate(self) -> list[str]:
        """Run the migrations that have not run here, and return their titles."""
        ran = {version for (version,) in self.connection.execute(RAN)}
        for migration in self.sources.migrations:
            self._run(migration, migration.call(__version__))
        return [migration.title for migration in self.sources.migrations if migration.version not in ran]

    def _run(self, script: Script, statements: str | None = None) -> None:
        """statements: what to run of the file, if not its text."""
        try:
            self.connection.execute((script.text if statements is None else statements).encode())
        except psycopg.Error as error:
            if script is self.sources.bootstrap or isinstance(error, psycopg.OperationalError):
                raise
            raise PgcacheError(
                f"{script.name}{_line(script, error)}: {error.diag.message_primary}",
                sqlstate=error.sqlstate,
                hint=error.diag.message_hint,
                detail=error.diag.message_detail,
            ) from error


def _line(script: Script, error: psycopg.Error) -> str:
    """Where in the file it went wrong, if PostgreSQL says so."""
    found = error.diag
    if found.internal_query and found.internal_position:  # in a statement that is an argument
        offset = script.text.find(found.internal_query)
        position = offset + int(found.internal_position) if offset >= 0 else 0
    else:
        position = int(found.statement_position or 0)
    return f":{script.text.count(chr(10), 0, position) + 1}" if position else ""


def _extend_search_path(connection: Connection, statement: sql.Composed | None) -> list[str]:
    if statement is None:
        return []
    server = levels.look(connection)
    text = statement.as_string(None)
    if not server.owns_database:
        return [
            f"search_path is as it was, since {server.database} belongs to {server.database_owner}. To call the"
            f' functions without "pgcache.", as {server.database_owner}: {text};'
        ]
    connection.execute(statement)
    notes = [f'{text}; new sessions find the functions without "pgcache."']
    roles = search_path.overriding_roles(connection)
    if roles:
        notes.append(f"These roles have a search_path of their own, which wins: {', '.join(roles)}")
    return notes
