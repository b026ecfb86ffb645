"""A database that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import fresh_database
from tests.servers import Server
from tests.tools.invariants import excused
from tests.tools.session import Session


@pytest.fixture(scope="module")
def shared_session(
    server: Server, admin: psycopg.Connection, template: str, request: pytest.FixtureRequest
) -> Iterator[Session]:
    """A session in a database that a module's tests share, with a type `mine`."""
    with fresh_database(server, admin, template, breaks=excused(request.node)) as dsn:
        session = Session(dsn)
        session("SELECT cache_create_type('mine')")
        yield session
        session.close()


@pytest.fixture
def shared(shared_session: Session) -> Iterator[Session]:
    """The same: for tests that do not mind what others have left there."""
    yield shared_session
    for setting in ("pgcache.clock", "pgcache.tenant", "timezone"):
        shared_session(f"RESET {setting}")
