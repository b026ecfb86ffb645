"""Servers that are started anew, and copies of them with the same Redis: one is the owner, and the others wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pgcache_py.relay.cycle import PrefixInUse
from pgcache_py.setup.install import install
from pgcache_py.tier_protocol import ALIVE, OWNER, tier_key
from tests.hot.test_cycle import intercepted
from tests.hot.tools import Tier, left_by_another_server
from tests.servers import Cluster
from tests.sql.test_crash import connected
from tests.tools.redis import Redis
from tests.tools.waiting import wait_until

OWNER_KEY, ALIVE_KEY = tier_key("pgcache", OWNER), tier_key("pgcache", ALIVE)
IDENTITY = "SELECT owner FROM pgcache_internal.hot_identity()"


def contents(tier: Tier) -> dict[str, str]:
    return {key: tier.redis.get(key) for key in tier.redis.scan_iter()}


# As the relay sees it, on one server.


def test_another_server_that_vouches_is_left_alone(tier: Tier) -> None:
    left_by_another_server(tier)
    tier.ask("SELECT cache_set('store', 'k', '1')")
    before = contents(tier)
    with pytest.raises(PrefixInUse, match="pgcache"):
        tier.cycle().run()
    assert contents(tier) == before
    assert tier.outbox() == {("store", "", "k")}
    assert tier.ask("SELECT count(*) FROM pgcache_internal.hot_epoch") == 0


def test_when_it_vouches_no_more_its_prefix_is_taken(tier: Tier) -> None:
    left_by_another_server(tier)
    tier.put("k", 1)
    tier.redis.delete(ALIVE_KEY)
    report = tier.cycle().run()
    assert (report.vouched, bool(report.began)) == ("vouched", True)
    assert tier.redis.get(OWNER_KEY) == tier.ask("SELECT pgcache_internal.hot_owner()")
    assert tier.hit("k") is None


def test_it_may_vouch_again_at_the_last_moment(tier: Tier) -> None:
    left_by_another_server(tier)
    owner = tier.redis.get(OWNER_KEY)
    tier.redis.delete(ALIVE_KEY)
    cycle = intercepted(tier.cycle(), "begin", lambda: tier.redis.set(ALIVE_KEY, "its epoch"), None)
    with pytest.raises(PrefixInUse):
        cycle.run()
    assert (tier.redis.get(OWNER_KEY), tier.alive, tier.epoch) == (owner, "its epoch", "its epoch")
    with pytest.raises(PrefixInUse):
        tier.cycle().run()


def test_two_copies_that_wait_do_not_both_get_it(tier: Tier) -> None:
    left_by_another_server(tier)
    tier.redis.delete(ALIVE_KEY)
    cycle = intercepted(tier.cycle(), "begin", lambda: tier.redis.set(OWNER_KEY, "a third"), None)
    with pytest.raises(PrefixInUse):
        cycle.run()
    assert tier.redis.get(OWNER_KEY) == "a third"


# With real servers.


class Tiers:
    """The databases of several servers, with one Redis. A voucher lasts for an hour."""

    def __init__(self, redis: Redis, stack: ExitStack) -> None:
        self.redis = redis
        self.stack = stack

    def __call__(self, cluster: Cluster) -> Tier:
        session = connected(cluster)
        self.stack.callback(session.close)
        return Tier(session, self.redis)

    def first(self, cluster: Cluster) -> Tier:
        """On a new server: with an entry in Redis, of an epoch that its relay has begun."""
        install(cluster.dsn(), cron=False)
        tier = self(cluster)
        tier.ask("SELECT cache_hot_configure(max_staleness => '1 hour')")
        tier.cycle().run()
        tier.put("k", 1)
        assert not tier.cycle().run().began
        assert tier.hit("k")
        return tier


@pytest.fixture
def tiers(redis_server: Redis) -> Iterator[Tiers]:
    with ExitStack() as stack:
        yield Tiers(redis_server, stack)


@pytest.mark.needs("cluster")
def test_a_crash_of_postgresql_begins_an_epoch(throwaway_cluster: Callable[..., Any], tiers: Tiers) -> None:
    cluster = throwaway_cluster()
    tier = tiers.first(cluster)
    tier.ask.close()
    cluster.kill9()
    cluster.start()
    tier = tiers(cluster)
    with pytest.raises(PrefixInUse):  # it might be a copy
        tier.cycle().run()
    tier.redis.delete(ALIVE_KEY)
    assert tier.cycle().run().began
    assert tier.hit("k") is None


@pytest.mark.needs("cluster")
def test_a_clean_restart_of_postgresql_begins_an_epoch_at_once(
    throwaway_cluster: Callable[..., Any], tiers: Tiers
) -> None:
    cluster = throwaway_cluster()
    tier = tiers.first(cluster)
    tier.ask.close()
    cluster.stop()
    cluster.start()
    tier = tiers(cluster)
    assert tier.cycle().run().began
    assert tier.hit("k") is None
    assert tier.alive == tier.epoch
    assert not tier.cycle().run().began


@pytest.mark.needs("cluster")
def test_a_standby_knows_whose_prefix_is_its_own(throwaway_cluster: Callable[..., Any], tiers: Tiers) -> None:
    primary = throwaway_cluster()
    install(primary.dsn(), cron=False)
    writer = tiers(primary)
    standby = throwaway_cluster(standby_of=primary)
    reader = connected(standby)
    owner = writer.ask(IDENTITY)
    assert reader(IDENTITY) == owner.rpartition("/")[0] + "/"
    writer.cycle().run()
    assert writer.redis.get(OWNER_KEY) == owner
    wait_until(lambda: reader(IDENTITY) == owner)
    # As after it was promoted and its relay had come.
    primary.stop()
    reader("SELECT pg_promote()")
    reader.close()
    promoted = tiers(standby)
    assert promoted.ask(IDENTITY) not in (owner, None)
    with pytest.raises(PrefixInUse):
        promoted.cycle().run()
    promoted.redis.delete(ALIVE_KEY)
    assert promoted.cycle().run().began
    assert promoted.redis.get(OWNER_KEY) == promoted.ask(IDENTITY)


@pytest.mark.needs("cluster")
def test_a_standby_that_is_promoted_while_the_primary_goes_on(
    throwaway_cluster: Callable[..., Any], tiers: Tiers
) -> None:
    """As a restored backup is, too: it recovers, and then is a server of its own."""
    original = throwaway_cluster()
    tier = tiers.first(original)
    copy = throwaway_cluster(standby_of=original)
    connected(copy)("SELECT pg_promote()")
    copied = tiers(copy)
    with pytest.raises(PrefixInUse):
        copied.cycle().run()
    assert not tier.cycle().run().began
    assert tier.hit("k")
    # The original's relay is away for long, and then comes back.
    tier.redis.delete(ALIVE_KEY)
    assert copied.cycle().run().began
    with pytest.raises(PrefixInUse):
        tier.cycle().run()
    assert copied.cycle().run().vouched == "vouched"


@pytest.mark.needs("cluster")
@pytest.mark.parametrize("first", [0, 1], ids=["the original first", "the copy first"])
def test_a_copy_of_the_files_of_a_stopped_server(
    throwaway_cluster: Callable[..., Any], tiers: Tiers, first: int
) -> None:
    original = throwaway_cluster()
    tiers.first(original).ask.close()
    original.stop()
    copy = throwaway_cluster(copy_of=original)
    original.start()
    both = [tiers(original), tiers(copy)]
    owner, other = both[first], both[1 - first]
    assert owner.cycle().run().began
    assert owner.hit("k") is None
    for _ in range(2):
        with pytest.raises(PrefixInUse):
            other.cycle().run()
        assert not owner.cycle().run().began
    assert owner.redis.get(OWNER_KEY) == owner.ask(IDENTITY) != other.ask(IDENTITY)
    assert owner.ask("SELECT pgcache_internal.hot_present_epoch()") == owner.epoch
    assert other.ask("SELECT pgcache_internal.hot_present_epoch()") is None
    # A prefix of its own, as the hint says.
    other.ask("SELECT cache_hot_configure(prefix => 'copy')")
    assert other.cycle().run().vouched == "vouched"
    assert not owner.cycle().run().began
