"""Sessions for the tests of the SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.conftest import fresh_database
from tests.servers import Server
from tests.sql.tools import Session

NewSession = Callable[..., Session]
NewRole = Callable[..., Session]


@pytest.fixture
def new_session(dsn: str) -> Iterator[NewSession]:
    """Opens further sessions in the test's database; options are psycopg's."""
    with ExitStack() as stack:

        def make(**options: Any) -> Session:
            session = Session(dsn, **options)
            stack.callback(session.close)
            return session

        yield make


@pytest.fixture
def ask(new_session: NewSession) -> Session:
    """A session in the test's own database: ask("SELECT cache_get('store', %s)", key)."""
    return new_session()


@pytest.fixture(scope="module")
def shared_session(server: Server, admin: psycopg.Connection) -> Iterator[Session]:
    """A session in a database that a module's tests share, with a type `mine`."""
    for dsn in fresh_database(server, admin):
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


@pytest.fixture
def role(dsn: str, admin: psycopg.Connection) -> Iterator[NewRole]:
    """Makes a role with access to the cache, and opens a session for it. access: None for none at all."""
    made: list[str] = []
    with ExitStack() as stack:

        def make(access: str | None = None) -> Session:
            name = f"tester_{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}_{len(made)}"
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(sql.Identifier(name)))
            made.append(name)
            if access:
                with psycopg.connect(dsn, autocommit=True) as owner:
                    owner.execute("SELECT pgcache.cache_grant(%s, %s)", [name, access])
            session = Session(make_conninfo(dsn, user=name, password="secret"))
            stack.callback(session.close)
            return session

        yield make
    if made:
        names = sql.SQL(", ").join(map(sql.Identifier, made))
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute(sql.SQL("DROP OWNED BY {}").format(names))
        admin.execute(sql.SQL("DROP ROLE {}").format(names))
