"""On the caller's connection in a transaction, calls see its own state, and Redis hears of it after the commit."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgcache_py import MISS
from tests.hybrid.conftest import until

pytestmark = pytest.mark.once  # the clients and Redis; the database's part is in tests/hot


def hits(cache: Any) -> int:
    number: int = cache.get_cache_stats()["tier"]["redis_hits"]
    return number


def test_a_transaction_sees_its_own_changes_and_nobody_else_does(world: Any, dsn: str) -> None:
    other = world.cache(dsn)
    other.set_many("store", {"k": "old", "l": "old"})
    assert other.get_many("store", ["k", "l"]) == {"k": "old", "l": "old"}
    connection = world.connect(dsn)
    cache = world.cache(connection)
    cache.set("store", "k", "mine")
    cache.delete("store", "l")
    for _ in range(2):
        assert cache.get("store", "k") == "mine"
        assert cache.get_many("store", ["k", "l"]) == {"k": "mine"}
        assert other.get_many("store", ["k", "l"]) == {"k": "old", "l": "old"}
    connection.rollback()
    assert cache.get_many("store", ["k", "l"]) == {"k": "old", "l": "old"}
    connection.commit()
    assert other.get_many("store", ["k", "l"]) == {"k": "old", "l": "old"}
    assert hits(cache) == 0


def test_redis_hears_of_a_commit(world: Any, dsn: str) -> None:
    other = world.cache(dsn)
    other.set_many("store", {"k": "old", "l": "old"})
    other.get_many("store", ["k", "l"])
    connection = world.connect(dsn)
    cache = world.cache(connection)
    cache.set("store", "k", "new")
    cache.delete("store", "l")
    connection.commit()
    until(lambda: other.get_many("store", ["k", "l"]) == {"k": "new"})


def test_a_block_on_a_connection_in_autocommit(world: Any, dsn: str) -> None:
    connection = world.connect(dsn, autocommit=True)
    cache = world.cache(connection)
    cache.set("store", "k", "old")
    assert cache.get("store", "k") == "old"
    before = hits(cache)
    assert before == 1
    connection.execute("BEGIN")
    cache.set("store", "k", "new")
    assert cache.get("store", "k") == "new"
    connection.execute("ROLLBACK")
    assert cache.get("store", "k") == "old"
    assert hits(cache) == before + 1


def test_a_snapshot_stays_what_it_was(world: Any, dsn: str) -> None:
    """In REPEATABLE READ, and what it reads never gets into Redis."""
    other = world.cache(dsn)
    other.set("store", "k", "old")
    connection = world.connect(dsn)
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    cache = world.cache(connection)
    assert cache.get("store", "k") == "old"
    other.set("store", "k", "new")
    assert cache.get("store", "k") == "old"
    assert other.get("store", "k") == "new"
    connection.commit()
    assert cache.get("store", "k") == "new"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_sessions_whose_statements_see_an_old_snapshot(
    world: Any, dsn: str, level: str, db: psycopg.Connection
) -> None:
    db.execute("SELECT pgcache.cache_set('store', 'k', '1')")
    world.tier.settle()
    escaped = level.replace(" ", "\\ ")
    cache = world.cache(world.connect(dsn, autocommit=True, options=f"-c default_transaction_isolation={escaped}"))
    assert cache.get("store", "k") == 1
    assert cache.get_many("store", ["k"]) == {"k": 1}
    assert not world.tier.has("k")


def test_fail_soft_in_a_transaction_that_failed(world: Any, dsn: str) -> None:
    connection = world.connect(dsn)
    cache = world.cache(connection, fail_soft=True)
    assert cache.set("store", "k", 1) is True
    with pytest.raises(psycopg.Error):
        connection.execute("SELECT nonsense")
    assert cache.get("store", "k", MISS) is MISS
    assert cache.set("store", "k", 2) is False
    connection.rollback()
    assert cache.get("store", "k", MISS) is MISS
