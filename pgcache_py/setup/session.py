"""A session that installs, removes or looks: what these have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from ..errors import PgcacheError, translated
from .sources import AS_OWNER

Connection = psycopg.Connection[Any]

PINNED = "SET search_path TO pg_catalog, pg_temp"
LESSER_OWNER = """
    SELECT owner.rolname
    FROM pg_namespace JOIN pg_roles AS owner ON owner.oid = nspowner
    WHERE nspname IN ('pgcache', 'pgcache_internal') AND NOT owner.rolsuper
        AND (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)
"""


def installed_version(connection: Connection) -> str | None:
    """None if pgcache is not installed in this database."""
    return installed(connection).get("pgcache", (None, None))[0]


def installed(connection: Connection) -> dict[str, tuple[str, str]]:
    """The version and the digest of each component."""
    if connection.execute("SELECT to_regclass('pgcache_internal.installed')").fetchone() == (None,):
        return {}
    rows = connection.execute("SELECT component, version, digest FROM pgcache_internal.installed")
    return {component: (version, digest) for component, version, digest in rows}


def connect(conninfo: str, purpose: str = "pgcache", *, untrusted: bool = False) -> Connection:
    """A connection in autocommit and UTF-8 that may write, whatever the defaults. purpose: its application_name.

    Raises PermissionDeniedError for a superuser where another role owns the schemas; untrusted: the caller calls
    nothing in them then, and looks at no table.
    """
    connection = psycopg.connect(
        conninfo, autocommit=True, prepare_threshold=None, client_encoding="utf-8", application_name=purpose
    )
    try:
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        # Before anything else: the database's own may begin with a schema in which others have made operators.
        connection.execute(PINNED)
        # psycopg reads no intervals in another style.
        connection.execute("SET intervalstyle = postgres; SET datestyle = ISO; SET default_transaction_read_only = off")
        if not untrusted and lesser_owner(connection):
            connection.execute(AS_OWNER.encode())  # which is refused
    except BaseException:
        connection.close()
        raise
    return connection


def lesser_owner(connection: Connection) -> str | None:
    """Who owns the schemas, if that is no superuser and this session's role is one."""
    row = connection.execute(LESSER_OWNER).fetchone()
    return row[0] if row else None


@contextmanager
def session(conninfo: str, *, untrusted: bool = False) -> Iterator[Connection]:
    """A session whose transactions are the caller's; its psycopg errors become PgcacheError, with the server's hint.

    untrusted: as for `connect`.
    """
    try:
        # In READ COMMITTED, so that installers that waited for the lock see what the first one did.
        with connect(conninfo, "pgcache install", untrusted=untrusted) as connection:
            yield connection
    except psycopg.Error as error:
        raise _translated(error) from error


def _translated(error: psycopg.Error) -> Exception:
    found = translated(error)
    if isinstance(found, PgcacheError) and isinstance(error, psycopg.errors.LockNotAvailable):
        found.hint = "A long transaction uses the cache, see pg_stat_activity. Try again when it has ended."
    return found


def version_numbers(version: str) -> tuple[int, ...]:
    """'1.10.2.dev3' -> (1, 10, 2)."""
    match = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
