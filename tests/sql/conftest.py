"""A session that the tests of a module share, and sessions of roles behind a wall."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import NewRole
from tests.tools.session import Session

Walled = Callable[..., Session]


@pytest.fixture(scope="module")
def shared_session(shared_dsn: str) -> Iterator[Session]:
    """A session in the database that a module's tests share, with a type `mine`."""
    session = Session(shared_dsn)
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
def walled(ask: Session, role: NewRole) -> Walled:
    """A session of a new role that may see these tenants."""

    def make(*tenants: str, access: str = "write") -> Session:
        session = role()
        ask("SELECT cache_grant(%s, %s, %s)", session("SELECT current_user"), access, list(tenants))
        return session

    return make
