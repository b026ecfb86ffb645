"""Which server a command is for: --dsn, else what a variable names, else the embedded one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..environment import Named, for_libpq, postgresql
from ..errors import PgcacheError
from .embedded import FOLDER, INSTALL_EXTRA, Embedded, available


@dataclass(frozen=True)
class Target:
    """conninfo: what libpq takes. origin: where it came from, for people."""

    conninfo: str
    origin: str

    def __str__(self) -> str:
        """Database, server and user; never a password."""
        fields = conninfo_to_dict(self.conninfo)
        names = ("dbname", "PGDATABASE"), ("host", "PGHOST"), ("port", "PGPORT"), ("user", "PGUSER")
        known = {field: fields.get(field) or os.environ.get(variable) for field, variable in names}
        return " ".join(f"{field}={value}" for field, value in known.items() if value) or self.origin


@contextmanager
def target(dsn: str | None, *, create: bool = False) -> Iterator[Target]:
    """The server to use. An embedded one runs inside the with block; `create`: make it if there is none yet.

    dsn: what the option says, if it was given. Raises PgcacheError if there is no server to be found.
    """
    if dsn is not None and not dsn.strip():
        raise PgcacheError(
            "--dsn is empty", hint="Is a variable unset? Without --dsn, DATABASE_URL or libpq's variables are used."
        )
    named = Named(for_libpq(dsn), "--dsn") if dsn else postgresql()
    if named:
        yield Target(_checked(named), named.origin)
        return
    server = Embedded()
    if not available():
        raise PgcacheError(
            "which PostgreSQL?",
            hint="Name it in one of four ways: --dsn postgresql://user@host/database; the variable DATABASE_URL;"
            " variables such as POSTGRES_HOST or libpq's PGHOST;"
            f" or none at all, with the embedded server: {INSTALL_EXTRA}",
        )
    if not server.exists and not create:
        raise PgcacheError(
            f"no server is named, and there is no embedded one in {server.folder}",
            hint="python -m pgcache_py install makes one here; --dsn, DATABASE_URL or PGHOST name another.",
        )
    with server.using():
        yield Target(server.dsn(), f"the embedded server in {FOLDER}")


def _checked(named: Named) -> str:
    """In libpq's form. What does not parse is not repeated: there may be a password in it."""
    try:
        return make_conninfo(named.conninfo)
    except psycopg.ProgrammingError:
        raise PgcacheError(
            f"{named.origin} is no PostgreSQL address",
            hint="For example postgresql://user:password@host:5432/database, or host=... dbname=... user=...",
        ) from None
