"""What the tests of the installer share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pgcache_py.cli import main as cli
from pgcache_py.setup.sources import Migration, Script, Sources, load
from tests.conftest import fresh_database
from tests.servers import Server
from tests.tools import releases
from tests.tools.invariants import excused
from tests.tools.session import user

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def owned_dsn(empty_dsn: str, new_role: Callable[[str], str]) -> str:
    """A database without pgcache but with the extension vector, as its owner, who is no superuser."""
    owner = new_role(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                sql.Identifier(connection.info.dbname), sql.Identifier(user(owner))
            )
        )
    return owner


@pytest.fixture
def another_dsn(server: Server, admin: psycopg.Connection, request: pytest.FixtureRequest) -> Iterator[str]:
    """A second database without pgcache."""
    with fresh_database(server, admin, "template0", breaks=excused(request.node)) as dsn:
        yield dsn


@pytest.fixture(params=releases.VERSIONS)
def release(request: pytest.FixtureRequest) -> str:
    version: str = request.param
    if releases.has_changed_since(version):
        pytest.skip(f"a migration has changed since {version} was frozen, before its release: make freeze")
    return version


@pytest.fixture
def cron(server: Server, admin: psycopg.Connection) -> psycopg.Connection:
    """A superuser's session in the database where pg_cron is, as it is before any test has installed it there."""
    with suppress(psycopg.errors.UniqueViolation):  # another process has just done so
        admin.execute("CREATE EXTENSION IF NOT EXISTS pg_cron")
    return admin


@pytest.fixture
def programs(server: Server) -> Path:
    """Where psql and pg_dump are, of the server's release or a newer one."""
    if server.bin_dir:
        return server.bin_dir
    from pgcache_py.setup.embedded import Embedded

    return Embedded().program("psql").parent


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


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command; returns its exit code, its output and what it wrote to stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        output = capsys.readouterr()
        return code, output.out, output.err

    return run
