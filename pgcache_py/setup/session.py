"""A session that installs, removes or looks: what these have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from ..errors import PermissionDeniedError, PgcacheError, translated
from .levels import Connection, Facts


def installed_version(connection: Connection) -> str | None:
    """None if pgcache is not installed in this database."""
    return installed(connection).get("pgcache", (None, None))[0]


def installed(connection: Connection) -> dict[str, tuple[str, str]]:
    """The version and the digest of each component."""
    if connection.execute("SELECT to_regclass('pgcache_internal.installed')").fetchone() == (None,):
        return {}
    rows = connection.execute("SELECT component, version, digest FROM pgcache_internal.installed")
    return {component: (version, digest) for component, version, digest in rows}


def connect(conninfo: str, purpose: str = "pgcache") -> Connection:
    """A connection in autocommit, whatever the database's defaults. purpose: its application_name."""
    connection = psycopg.connect(
        conninfo, autocommit=True, prepare_threshold=None, client_encoding="utf-8", application_name=purpose
    )
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    # psycopg reads no intervals in another style.
    connection.execute("SET intervalstyle = postgres; SET datestyle = ISO")
    return connection


@contextmanager
def session(conninfo: str) -> Iterator[Connection]:
    """A session whose transactions are the caller's; its psycopg errors become PgcacheError, with the server's hint."""
    try:
        # In READ COMMITTED, so that installers that waited for the lock see what the first one did.
        with connect(conninfo, "pgcache install") as connection:
            if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,):
                connection.read_only = False
            yield connection
    except psycopg.Error as error:
        raise _translated(error) from error


def _translated(error: psycopg.Error) -> Exception:
    found = translated(error)
    if isinstance(found, PgcacheError) and isinstance(error, psycopg.errors.LockNotAvailable):
        found.hint = "A long transaction uses the cache, see pg_stat_activity. Try again when it has ended."
    return found


def become_owner(connection: Connection, server: Facts) -> None:
    """Act as the schema's owner from here on, so that all objects have one owner, whoever upgrades."""
    row = connection.execute(
        "SELECT pg_get_userbyid(nspowner), pg_has_role(current_user, nspowner, 'MEMBER')"
        " FROM pg_namespace WHERE nspname = 'pgcache'"
    ).fetchone()
    if row is None or row[0] == server.role:
        return
    owner, member = row
    if not member:
        raise PermissionDeniedError(
            f"the schema pgcache in the database {server.database} belongs to {owner}, and you are {server.role}",
            sqlstate=psycopg.errors.InsufficientPrivilege.sqlstate,
            hint=f"Connect as {owner}, as a member of that role, or as a superuser.",
        )
    connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))


def version_numbers(version: str) -> tuple[int, ...]:
    """'1.10.2.dev3' -> (1, 10, 2)."""
    match = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
