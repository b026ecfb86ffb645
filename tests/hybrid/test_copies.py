"""A server and a copy of it, with the same Redis: neither's clients see what the other's have written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from pgcache_py.setup.install import install
from tests.hybrid.conftest import WORLDS, Tier, idle_tier, until
from tests.hybrid.test_owner import clock, counts, in_both_worlds, warnings
from tests.servers import Cluster
from tests.sql.test_crash import connected
from tests.tools.redis import Redis

pytestmark = [pytest.mark.once, pytest.mark.needs("cluster")]
__all__ = ["clock"]


@pytest.fixture
def original(throwaway_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = throwaway_cluster()
    install(cluster.dsn(), cron=False)
    return cluster


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def both(request: pytest.FixtureRequest, original: Cluster, shared_redis: Redis, stack: ExitStack) -> Iterator[Any]:
    """The two worlds, with the original's relay at work."""
    tier = idle_tier(original.dsn(), shared_redis)
    relayed(tier, stack)
    world = WORLDS[request.param](tier, redis_timeout=5.0)
    yield world
    world.close()


def relayed(tier: Tier, stack: ExitStack) -> None:
    tier.start_relay()
    stack.callback(tier.stop_relay)
    until(tier.alive)


def copied(tier: Tier, copy: Cluster, stack: ExitStack) -> None:
    """The copy has a relay, too, that would take over."""
    other = Tier(copy.dsn(), tier.redis)
    other.prefix = tier.prefix
    relayed(other, stack)


def check_apart(mine: Any, theirs: Any, clock: list[float], log: pytest.LogCaptureFixture) -> None:
    """mine: a client of the original, whose prefix it is. theirs: one of the copy."""
    until(lambda: mine.set("store", "k", "mine") and counts(mine)["pushed"])
    before = counts(mine)["redis_hits"]
    for number in range(3):
        assert theirs.set("store", "k", "theirs")
        assert theirs.get("store", "k") == "theirs"
        assert theirs.set("store", "other", number)
        assert theirs.get_many("store", ["k", "other"]) == {"k": "theirs", "other": number}
        assert theirs.get("store", "only mine") is None
        assert mine.get("store", "other") is None
        assert mine.set("store", "only mine", number)
        until(lambda: mine.get("store", "k") == "mine" and counts(mine)["redis_hits"] > before)
        assert mine.get("store", "only mine") == number
        clock[0] += 6
    assert counts(theirs)["redis_hits"] == counts(theirs)["pushed"] == 0
    (warning,) = warnings(log)
    assert "in use by another server that has this database" in warning
    assert "cache_hot_configure(prefix =>" in warning


@in_both_worlds
def test_a_copy_that_recovered_from_a_backup(
    both: Any,
    original: Cluster,
    throwaway_cluster: Callable[..., Cluster],
    stack: ExitStack,
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy = throwaway_cluster(standby_of=original)
    with psycopg.connect(copy.dsn(), autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
    copied(both.tier, copy, stack)
    check_apart(both.cache(original.dsn()), both.cache(copy.dsn()), clock, caplog)


@in_both_worlds
def test_a_copy_of_the_files_of_a_stopped_server(
    both: Any,
    original: Cluster,
    throwaway_cluster: Callable[..., Cluster],
    stack: ExitStack,
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = both.cache(original.dsn(), timeout=20)
    mine.set("store", "k", "before")
    assert mine.get("store", "k") == "before"
    epoch = both.tier.client().get(f"{both.tier.prefix}:epoch")
    original.stop()
    copy = throwaway_cluster(copy_of=original)
    original.start()
    connected(original).close()
    until(lambda: both.tier.alive() and both.tier.client().get(f"{both.tier.prefix}:epoch") != epoch)
    copied(both.tier, copy, stack)
    clock[0] += 6  # the client asks again
    theirs = both.cache(copy.dsn())
    assert theirs.get("store", "k") == "before"
    check_apart(mine, theirs, clock, caplog)


@in_both_worlds
def test_a_standby_that_is_promoted_under_its_clients(
    both: Any, original: Cluster, throwaway_cluster: Callable[..., Cluster], clock: list[float]
) -> None:
    """They trust what the primary's relay vouches for until they hear that their server is another one."""
    standby = throwaway_cluster(standby_of=original)
    mine, theirs = both.cache(original.dsn()), both.cache(standby.dsn())
    with psycopg.connect(standby.dsn(), autocommit=True) as connection:
        mine.set("store", "k", "mine")
        until(lambda: theirs.get("store", "k") == "mine" and counts(theirs)["redis_hits"])
        connection.execute("SELECT pg_promote()")
    theirs.set("store", "k", "theirs")
    theirs.set("store", "other", "theirs")
    assert theirs.get_many("store", ["k", "other"]) == {"k": "theirs", "other": "theirs"}
    assert counts(theirs)["pushed"] == 0
    assert mine.get_many("store", ["k", "other"]) == {"k": "mine"}
    clock[0] += 6
    mine.set("store", "k", "mine again")
    before = counts(theirs)["redis_hits"]
    assert theirs.get("store", "k") == "theirs"
    assert counts(theirs)["redis_hits"] == before
