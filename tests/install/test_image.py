"""The image that the Dockerfile makes: PostgreSQL with pgcache in it, as it starts first."""

from __future__ import annotations

import psycopg
import pytest

from pgcache_py import __version__
from pgcache_py.setup.status import status
from tests.servers import Server
from tests.tools.session import fetch, session

pytestmark = pytest.mark.needs("image")


def test_its_database_has_all_levels_and_the_hourly_jobs(server: Server) -> None:
    found = status(server.dsn())
    assert (found.version, found.extension) == (__version__, __version__)
    assert [(level.name, level.on) for level in found.levels] == [
        ("core", True),
        ("pg_cron", True),
        ("plpython3u", True),
    ]
    assert found.health[0]["status"] == "ok"
    query = "SELECT cache_set('llm', 'k', '{\"response\": \"r\"}'), cache_get('llm', 'k') ->> 'response'"
    with session(server.dsn()) as connection:  # which finds them by the search_path of the database
        assert connection.execute(query).fetchall() == [(True, "r")]
        assert connection.execute("SELECT cache_delete('llm', 'k')").fetchone() == (True,)


def test_another_database_can_have_it(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pgcache CASCADE")
    assert fetch(empty_dsn, "SELECT pgcache.cache_set('store', 'k', '1')") is True
