"""What the tests of the installer share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgcache_py.setup.sources import Migration, Script, Sources, load
from tests.servers import Server
from tests.tools.names import unique


@pytest.fixture
def as_new_role(admin: psycopg.Connection) -> Callable[[str], str]:
    """Makes a role without any privilege; takes a conninfo, and returns it for that role."""

    def make(dsn: str) -> str:
        name = unique("installer")
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(sql.Identifier(name)))
        return make_conninfo(dsn, user=name, password="secret")

    return make


@pytest.fixture
def owned_dsn(empty_dsn: str, as_new_role: Callable[[str], str]) -> str:
    """A database without pgcache but with the extension vector, as its owner, who is no superuser."""
    owner = as_new_role(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                sql.Identifier(connection.info.dbname), sql.Identifier(user(owner))
            )
        )
    return owner


@pytest.fixture
def programs(server: Server) -> Path:
    """Where psql and pg_dump are, of the server's release or a newer one."""
    if server.bin_dir:
        return server.bin_dir
    from pgcache_py.setup.embedded import Embedded

    return Embedded().program("psql").parent


def user(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn)["user"])


def database(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])


def fetch(dsn: str, query: str) -> object:
    """The first column of the first row."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def with_change(sources: Sources | None = None) -> Sources:
    """As if a function had changed since."""
    sources = sources or load()
    return replace(sources, code=(*sources.code, Script("registry/later.sql", "-- later\n")))


def with_migration(text: str, sources: Sources | None = None) -> Sources:
    """As if a migration had been added since."""
    sources = sources or load()
    version = sources.newest + 1
    added = Migration(f"migrations/{version:04}_later.sql", text, version=version)
    return replace(sources, migrations=(*sources.migrations, added))
