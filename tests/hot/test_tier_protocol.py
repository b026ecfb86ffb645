"""The scripts in Redis: what may be put there, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from pgcache_py.tier_protocol import (
    BEGIN,
    DELIVER,
    LEASE,
    LEASE_MS,
    LEASES,
    LOOK,
    PUSH,
    VOUCH,
    entry_key,
    lease_key,
    tier_key,
)
from tests.tools.redis import Redis

ALIVE, ASOF, EPOCH, OWNER = (tier_key("p", name) for name in ("alive", "asof", "epoch", "owner"))
LEASES_OF_K, K = lease_key("p", "store", "", "k"), entry_key("p", "store", "", "k")


class Scripts:
    def __init__(self, client: Any) -> None:
        self.redis = client
        self._scripts = {text: client.register_script(text) for text in (LEASE, PUSH, DELIVER, LOOK, BEGIN, VOUCH)}

    def lease(self, token: str = "t") -> Any:
        return self._scripts[LEASE]([ALIVE, LEASES_OF_K], [token])

    def push(self, version: int, token: str = "t", epoch: str = "e1", ttl_ms: int = 60_000, json: str = "1") -> Any:
        return self._scripts[PUSH]([ALIVE, LEASES_OF_K, K], [token, epoch, version, ttl_ms, json])

    def deliver(self, version: int, epoch: str = "e1") -> Any:
        return self._scripts[DELIVER]([LEASES_OF_K, K], [epoch, version])

    def look(self) -> Any:
        return self._scripts[LOOK]([EPOCH, OWNER])

    def begin(self, epoch: str = "e1", owner: str = "db", identity: str | None = None) -> Any:
        return self._scripts[BEGIN]([ALIVE, EPOCH, OWNER], [epoch, identity or self.look()[1], owner])

    def vouch(self, epoch: str = "e1", ago: int = 0, bound: int = 5000, identity: str | None = None) -> Any:
        now, own = self.look()[:2]
        return self._scripts[VOUCH]([ALIVE, EPOCH, ASOF], [epoch, identity or own, int(now) - ago, bound])

    @property
    def entry(self) -> str | None:
        found: str | None = self.redis.get(K)
        return found


@pytest.fixture
def scripts(redis_server: Redis) -> Scripts:
    """In epoch e1, alive."""
    found = Scripts(redis_server.client)
    found.begin()
    found.vouch(bound=3_600_000)
    return found


def test_what_was_read_under_a_lease_is_stored(scripts: Scripts) -> None:
    assert scripts.lease() == "e1"
    assert scripts.push(7, json='{"a": ":"}') == "stored"
    assert scripts.entry == 'e1:7:{"a": ":"}'
    assert 55_000 < scripts.redis.pttl(K) <= 60_000


def test_a_lease_is_used_once(scripts: Scripts) -> None:
    scripts.lease()
    scripts.push(7)
    assert scripts.push(8) == "lease"
    assert not scripts.redis.exists(LEASES_OF_K)


def test_without_a_voucher_there_is_no_lease_and_nothing_is_stored(scripts: Scripts) -> None:
    scripts.lease()
    scripts.redis.delete(ALIVE)
    assert scripts.lease("other") is None
    assert scripts.push(7) == "epoch"
    assert scripts.entry is None


def test_a_lease_of_another_epoch_is_worth_nothing(scripts: Scripts) -> None:
    scripts.lease()
    scripts.begin("e2")
    scripts.vouch("e2")
    assert scripts.push(7) == "epoch"


def test_a_lease_that_was_lost_is_worth_nothing(scripts: Scripts) -> None:
    scripts.lease()
    scripts.redis.unlink(LEASES_OF_K)
    assert scripts.push(7) == "lease"


def test_leases_last_for_seconds(scripts: Scripts) -> None:
    scripts.lease()
    assert 0 < scripts.redis.pttl(LEASES_OF_K) <= LEASE_MS
    scripts.redis.pexpire(LEASES_OF_K, 10)
    scripts.lease("other")
    assert scripts.redis.pttl(LEASES_OF_K) > 10


def test_what_was_delivered_since_the_lease_refuses_what_is_older(scripts: Scripts) -> None:
    for token in "abc":
        scripts.lease(token)
    scripts.deliver(8)
    assert scripts.push(7, "a") == "version"
    assert scripts.push(8, "b") == "stored"
    assert scripts.push(9, "c") == "stored"


def test_the_tombstone_keeps_the_highest_version(scripts: Scripts) -> None:
    scripts.lease()
    scripts.deliver(9)
    scripts.deliver(8)
    assert scripts.push(8) == "version"


def test_a_tombstone_outlives_the_lease_that_it_was_for(scripts: Scripts) -> None:
    scripts.lease("a")
    scripts.lease("b")
    scripts.deliver(8)
    scripts.push(7, "a")
    assert scripts.push(7, "b") == "version"


def test_leases_do_not_prolong_a_tombstone(scripts: Scripts) -> None:
    """Or a version that is too low, as that of an insert may be, would keep a much-read key out for good."""
    scripts.lease("a")
    scripts.deliver(8)
    scripts.redis.pexpire(LEASES_OF_K, 5000)
    scripts.lease("b")
    assert scripts.redis.pttl(LEASES_OF_K) <= 5000


def test_a_newer_entry_is_not_replaced(scripts: Scripts) -> None:
    for token in "abcd":
        scripts.lease(token)
    assert scripts.push(7, "a", json='"a"') == "stored"
    assert scripts.push(6, "b", json='"b"') == "newer"
    assert scripts.push(7, "c", json='"c"') == "newer"
    assert scripts.entry == 'e1:7:"a"'
    assert scripts.push(8, "d", json='"d"') == "stored"


def test_an_entry_of_another_epoch_is_replaced_whatever_its_version(scripts: Scripts) -> None:
    scripts.redis.set(K, "e0:99:1")
    scripts.lease()
    assert scripts.push(7) == "stored"


@pytest.mark.parametrize("nonsense", ["", "x", "e1:", "e1::1", "e1:x:1", ":", "\x00\xff"])
def test_nonsense_is_replaced(scripts: Scripts, nonsense: str) -> None:
    scripts.redis.set(K, nonsense)
    scripts.lease()
    assert scripts.push(7) == "stored"


def test_the_time_since_the_lease_counts(scripts: Scripts) -> None:
    scripts.lease()
    scripts.redis.hset(LEASES_OF_K, "t", int(scripts.look()[0]) - 3000)
    assert scripts.push(7, ttl_ms=4000) == "stored"
    assert scripts.redis.pttl(K) <= 1000


@pytest.mark.parametrize("ttl_ms", [0, -5, 3000])
def test_what_has_expired_since_the_lease_is_not_stored(scripts: Scripts, ttl_ms: int) -> None:
    scripts.lease()
    scripts.redis.hset(LEASES_OF_K, "t", int(scripts.look()[0]) - 3000)
    assert scripts.push(7, ttl_ms=ttl_ms) == "expired"
    assert scripts.entry is None


def test_only_so_many_leases_of_a_key_are_given(scripts: Scripts) -> None:
    """Else a key that is asked for and never there would fill Redis with leases that nobody uses."""
    for number in range(LEASES):
        assert scripts.lease(str(number))
    assert scripts.lease("one more") is None
    scripts.redis.hdel(LEASES_OF_K, "0")
    assert scripts.lease("one more")


def test_a_delivery_removes_what_is_older(scripts: Scripts) -> None:
    scripts.lease()
    scripts.push(7)
    assert scripts.deliver(7) == 0
    assert scripts.deliver(6) == 0
    assert scripts.entry == "e1:7:1"
    assert scripts.deliver(8) == 1
    assert scripts.entry is None


@pytest.mark.parametrize("stored", ["e0:99:1", "nonsense", ""])
def test_a_delivery_removes_what_has_no_place_there(scripts: Scripts, stored: str) -> None:
    scripts.redis.set(K, stored)
    scripts.deliver(7)
    assert scripts.entry is None


def test_a_delivery_copes_with_foreign_kinds_of_values(scripts: Scripts) -> None:
    scripts.redis.rpush(K, "x")
    scripts.redis.set(LEASES_OF_K, "x")
    assert scripts.deliver(7) == 1
    assert not scripts.redis.exists(K, LEASES_OF_K)


def test_a_delivery_leaves_nothing_where_nobody_waits(scripts: Scripts) -> None:
    scripts.deliver(7)
    assert not scripts.redis.exists(K, LEASES_OF_K)


def test_a_delivery_is_about_many_keys(scripts: Scripts) -> None:
    names = [(lease_key("p", "t", "a", str(n)), entry_key("p", "t", "a", str(n))) for n in range(3)]
    for number, (leases, entry) in enumerate(names):
        scripts.redis.set(entry, f"e1:{number + 5}:1")
        scripts.redis.hset(leases, "t", 1)
    keys = [key for pair in names for key in pair]
    assert scripts.redis.register_script(DELIVER)(keys, ["e1", 6, 6, 8]) == 2
    assert [scripts.redis.exists(entry) for _, entry in names] == [0, 1, 0]
    assert [scripts.redis.hget(leases, "after") for leases, _ in names] == ["6", "6", "8"]


def test_versions_are_compared_as_numbers(scripts: Scripts) -> None:
    scripts.lease("a")
    scripts.deliver(10)
    assert scripts.push(9, "a") == "version"
    scripts.redis.delete(LEASES_OF_K)
    scripts.lease("b")
    scripts.push(9, "b")
    assert scripts.deliver(10) == 1
    # Beyond 14 digits, which is what Lua prints of a number.
    scripts.lease("c")
    scripts.deliver(123_456_789_012_345_678)
    assert scripts.redis.hget(LEASES_OF_K, "after") == "123456789012345678"


def test_a_full_redis_takes_no_lease_yet_every_delivery(make_redis: Callable[..., Redis]) -> None:
    scripts = Scripts(make_redis().client)
    scripts.begin()
    scripts.vouch()
    scripts.lease("a")
    scripts.push(7, "a")
    scripts.lease("b")
    scripts.redis.config_set("maxmemory", 1)
    for refused in (lambda: scripts.lease("c"), lambda: scripts.push(9, "b")):
        with pytest.raises(redis.RedisError):
            refused()
    assert scripts.deliver(8) == 1
    assert not scripts.redis.exists(LEASES_OF_K)  # no room for a tombstone, so no lease
    assert scripts.vouch() == "vouched"  # what is there may still be used
    scripts.redis.config_set("maxmemory", 0)
    assert scripts.push(7, "b") == "lease"


# The relay's.


def test_a_voucher_lasts_as_long_as_the_bound_since_its_time(scripts: Scripts) -> None:
    assert scripts.vouch(ago=3000, bound=5000) == "vouched"
    assert scripts.redis.get(ALIVE) == "e1"
    assert 0 < scripts.redis.pttl(ALIVE) <= 2000
    assert scripts.vouch(ago=1000, bound=5000) == "vouched"
    assert 2000 < scripts.redis.pttl(ALIVE) <= 4000


@pytest.mark.parametrize("ago", [5000, 60_000])
def test_too_late_a_voucher_is_refused(scripts: Scripts, ago: int) -> None:
    scripts.redis.delete(ALIVE)
    assert scripts.vouch(ago=ago, bound=5000) == "late"
    assert scripts.redis.get(ALIVE) is None


def test_a_voucher_is_for_the_present_epoch(scripts: Scripts) -> None:
    scripts.begin("e2")
    assert scripts.redis.get(ALIVE) is None
    assert scripts.vouch("e1") == "epoch"
    assert scripts.vouch("e2") == "vouched"
    scripts.redis.flushall()
    assert scripts.vouch("e2") == "epoch"


def test_a_voucher_is_for_the_redis_in_which_the_epoch_began(make_redis: Callable[..., Redis]) -> None:
    server = make_redis()
    scripts = Scripts(server.client)
    scripts.begin()
    before = scripts.look()[1]
    server.client.save()
    server.restart()
    assert scripts.look()[2:] == ["e1", "db"]
    assert scripts.look()[1] != before
    assert scripts.vouch(identity=before) == "redis"
    assert scripts.begin("e2", identity=before) == "redis"


def test_a_copy_that_is_promoted_is_another_redis(make_redis: Callable[..., Redis]) -> None:
    first, second = make_redis(), make_redis()
    scripts = Scripts(second.client)
    before = scripts.look()[1]
    second.client.config_set("masterauth", first.password)
    second.client.replicaof("127.0.0.1", first.port)
    second.client.replicaof("NO", "ONE")
    assert scripts.look()[1] != before


def test_a_prefix_has_one_owner(scripts: Scripts) -> None:
    assert scripts.begin("e2", owner="another") == "owner"
    assert scripts.redis.get(EPOCH) == "e1"
    scripts.redis.delete(OWNER)
    assert scripts.begin("e2", owner="another") == "begun"


def test_names_of_keys_cannot_be_confused() -> None:
    names = {
        entry_key("p", *entry)
        for entry in [("t", "", "a:b"), ("t", "a", "b"), ("t", "a:b", ""), ("t:0", "", "a"), ("t", "1:a", "b")]
    }
    assert len(names) == 5
