"""The clients through PgBouncer in transaction mode: each call may have another connection of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgcache_py import Cache
from tests.tools.pgbouncer import PROGRAM, pgbouncer
from tests.tools.waiting import at_once

pytestmark = [
    pytest.mark.once,  # the client; what it calls is in tests/sql
    pytest.mark.skipif(not PROGRAM, reason="PgBouncer is not installed"),
]


@pytest.fixture
def pooled(dsn: str) -> Iterator[str]:
    """The test's database through a pooler that has two connections to it."""
    with pgbouncer(dsn, connections=2) as conninfo:
        yield make_conninfo(conninfo, dbname=conninfo_to_dict(dsn)["dbname"])


def test_200_callers_compute_once(pooled: str, db: psycopg.Connection) -> None:
    calls: list[str] = []

    def compute(key: str) -> str:
        calls.append(key)
        threading.Event().wait(0.3)
        return key

    with psycopg_pool.ConnectionPool(
        pooled, min_size=1, max_size=40, timeout=300, kwargs={"prepare_threshold": None}
    ) as pool:
        cache = Cache(pool)
        for key in ("a", "b", "c"):
            found = at_once(*[partial(cache.get_or_compute, "store", key, partial(compute, key), tags=["t"])] * 200)
            assert found == [key] * 200
    assert calls == ["a", "b", "c"]


def test_connections_of_their_own(world: Any, pooled: str, db: psycopg.Connection) -> None:
    caches = [world.cache(pooled, tenant="t") for _ in range(3)]
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        return 5

    for cache in caches:
        assert cache.get_or_compute("store", "k", world.function(compute), tags=["t"], hard_timeout=60) == 5
    caches[0].invalidate_tags("t")
    assert [cache.get("store", "k") for cache in caches] == [None] * 3
    assert caches[0].for_tenant(None).get_or_compute("store", "k", world.function(compute)) == 5
    assert len(calls) == 2
