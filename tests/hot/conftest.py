"""A Redis for all tests, emptied for each, and the hot tier on top of the test's own database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.hot.tools import INSTALLED, RedisServer, Tier
from tests.servers.server import RUN
from tests.sql.conftest import ask, new_session, role
from tests.sql.tools import Session
from tests.tools.names import unique

__all__ = ["ask", "new_session", "role"]


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    if not INSTALLED:
        pytest.skip("no redis-server is installed")
    server = RedisServer(RUN / unique("hot-redis")).start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """Emptied, and not to be killed."""
    shared_redis.client.flushall()
    return shared_redis


@pytest.fixture
def own_redis() -> Iterator[Callable[..., RedisServer]]:
    """Makes running Redis servers of the test's own; keyword arguments are settings."""
    if not INSTALLED:
        pytest.skip("no redis-server is installed")
    made: list[RedisServer] = []

    def make(**settings: str) -> RedisServer:
        made.append(RedisServer(RUN / unique("hot-redis"), **settings).start())
        return made[-1]

    yield make
    for server in made:
        server.kill()


@pytest.fixture
def tier(ask: Session, redis_server: RedisServer) -> Tier:
    """The type store in the hot tier; nothing relays unless the test does."""
    return Tier(ask, redis_server)
