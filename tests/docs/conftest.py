"""A world for each page: a database with what its names stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis
from psycopg import sql

from pgcache_py.setup.embedded import Embedded
from tests.conftest import TEMPLATE, fresh_database
from tests.docs.blocks import Page
from tests.docs.run import World
from tests.plpython.standin import Standin
from tests.plpython.tools import host_of
from tests.servers import Server
from tests.servers.cluster import free_port
from tests.tools.invariants import excused
from tests.tools.redis import Redis

PASSWORD = "secret"
# What the model of the pages says.
ANSWERS = {
    "Summarise: ...": "In short: ...",
    "All customers": "SELECT name FROM customers",
    "Customers without an order": "SELECT name FROM customers WHERE id NOT IN (SELECT customer_id FROM orders)",
}
ROLES = ("app", "ops", "report")
# What a page may need that is not the server's: a database without pgcache, a Redis.
OURS = ("empty", "redis")


def uri(dsn: str, **changes: str) -> str:
    """A conninfo as a URI that needs no quoting in a shell."""
    parts = {**psycopg.conninfo.conninfo_to_dict(dsn), **changes}
    user, host, port, name = (quote(str(parts[key]), safe="") for key in ("user", "host", "port", "dbname"))
    password = f":{quote(str(parts['password']), safe='')}" if "password" in parts else ""
    return f"postgresql://{user}{password}@{host}:{port}/{name}"


@pytest.fixture
def new_world(
    server: Server, admin: psycopg.Connection, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[[Page], World]]:
    """Makes the world of a page."""
    with ExitStack() as stack:

        def make(page: Page) -> World:
            lacking = [need for need in page.needs if need not in OURS and not server.offers(need)]
            if lacking:
                pytest.skip(f"{server.name} has no {', '.join(lacking)}")
            empty = "empty" in page.needs
            template = "template0" if empty else TEMPLATE
            dsn = stack.enter_context(fresh_database(server, admin, template, breaks=excused(request.node)))
            stack.callback(drop_jobs, admin, str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))
            make_roles(admin)
            names = {
                "postgresql://me@host/app": uri(dsn),
                "postgresql://app@host/app": uri(dsn, user="app", password=PASSWORD),
                "127.0.0.1:8088": f"127.0.0.1:{(port := free_port())}",
                "--port 8088": f"--port {port}",
            }
            if not empty:
                with psycopg.connect(dsn, autocommit=True) as connection:
                    # As the installation leaves it, which a copy of a database does not have.
                    name = sql.Identifier(connection.info.dbname)
                    connection.execute(
                        sql.SQL('ALTER DATABASE {} SET search_path = "$user", public, pgcache').format(name)
                    )
                    connection.execute("SELECT pgcache.cache_grant('app')")
                    if "plpython3u" in page.needs:
                        standin = stack.enter_context(Standin(host_of(connection)))
                        standin.answers |= ANSWERS
                        names["http://127.0.0.1:11434/v1"] = standin.url
            if "redis" in page.needs:
                shared: Redis = request.getfixturevalue("shared_redis")
                with redis.Redis.from_url(shared.url) as client:
                    client.flushall()
                names["redis://host:6379/0"] = shared.url
            return World(dsn, names, programs(server), tmp_path)

        yield make


def make_roles(admin: psycopg.Connection) -> None:
    """Those that the pages name. Roles are the server's, not a database's, so they may be there already."""
    for name in ROLES:
        role = sql.Identifier(name)
        # Another process may be making it at this moment.
        with suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))


def drop_jobs(admin: psycopg.Connection, database: str) -> None:
    """Those of pg_cron that an installation in this database made: they are in the database postgres."""
    if admin.execute("SELECT FROM pg_extension WHERE extname = 'pg_cron'").rowcount:
        admin.execute(
            "SELECT cron.unschedule(jobid) FROM cron.job WHERE position(%s IN jobname) > 0", [f"({database})"]
        )


def programs(server: Server) -> Path:
    """Where psql and pg_dump are, of the server's release or a newer one."""
    return server.bin_dir or Embedded().program("psql").parent
