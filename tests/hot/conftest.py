"""The hot tier on top of the test's own database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hot.tools import Tier
from tests.tools.redis import Redis
from tests.tools.session import Session


@pytest.fixture
def redis_server(shared_redis: Redis) -> Iterator[Redis]:
    """Emptied, before and after: what vouches for an hour is not to meet the next one. Not to be killed."""
    shared_redis.client.flushall()
    yield shared_redis
    shared_redis.client.flushall()


@pytest.fixture
def tier(ask: Session, redis_server: Redis) -> Tier:
    """The type store in the hot tier; nothing relays unless the test does."""
    return Tier(ask, redis_server)
