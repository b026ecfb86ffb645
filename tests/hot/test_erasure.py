"""cache_forget and Redis: what is there of a tenant is removed, whoever knows of it."""

from __future__ import annotations

import psycopg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from pgcache_py.relay import cycle as module
from pgcache_py.tier_protocol import entry_key, lease_key
from tests.hot.tools import Tier
from tests.sql.test_forget import forget

TENANTS = ["acme", "acme2", "", "a*me", "ü:1", "[a-z]me", "\\", "x:4:acme:"]


def names(tier: Tier, tenant: str = "acme") -> set[str]:
    """What Redis has of a tenant, whatever the type and the epoch."""
    return {
        str(name)
        for name in tier.redis.scan_iter("pgcache:*", count=1000)
        if str(name).split(":", 3)[3:] and str(name).split(":", 3)[3].startswith(f"{len(tenant)}:{tenant}:")
    }


def put(tier: Tier, tenant: str) -> None:
    """Entries and leases that no row knows of: of several types, of another epoch, and of one that is not there."""
    for type in ("store", "llm", "gone"):
        for key in ("k", "5:acme:k", "ü"):
            tier.put(key, 1, type=type, tenant=tenant)
            tier.redis.hset(lease_key(tier.prefix, type, tenant, key), "token", "1")
    tier.redis.set(entry_key(tier.prefix, "store", tenant, "void"), "before:1:2")


@pytest.fixture
def relayed(tier: Tier) -> Tier:
    tier.cycle().run()
    return tier


def erasing(tier: Tier) -> int:
    return int(tier.ask("SELECT DISTINCT erasing FROM cache_hot_stats"))


def test_entries_that_are_known_leave_redis_as_after_any_delete(relayed: Tier) -> None:
    relayed.ask("SELECT set_config('pgcache.tenant', 'acme', false), cache_set('store', 'k', '1')")
    relayed.ask("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")  # which is not in the tier
    relayed.cycle().run()
    relayed.put("k", relayed.ask("SELECT version FROM cache_store"), tenant="acme")
    receipt = {("store", "entries"): 1, ("store", "redis"): 1, ("llm", "entries"): 1, (None, "total"): 2}
    assert forget(relayed.ask, "acme") == receipt
    assert relayed.hit("k", tenant="acme") == "1"
    relayed.cycle().run()
    assert names(relayed) == set()
    assert erasing(relayed) == 0


@pytest.mark.parametrize("tenant", TENANTS)
def test_what_no_row_knows_of_goes_too_and_nothing_else(relayed: Tier, tenant: str) -> None:
    for each in TENANTS:
        put(relayed, each)
    relayed.redis.set("pgcache2:e:store:4:acme:k", "another database's")
    before = {each: names(relayed, each) for each in TENANTS}
    assert len(before["acme"]) == 19
    if tenant:
        forget(relayed.ask, tenant)
    else:
        relayed.ask("SELECT pgcache_internal.hot_erase(NULL, '')")
    assert erasing(relayed) == 1
    relayed.cycle().run()
    assert erasing(relayed) == 0
    assert names(relayed, tenant) == set()
    assert {each: names(relayed, each) for each in TENANTS if each != tenant} == {
        each: found for each, found in before.items() if each != tenant
    }
    assert relayed.redis.exists("pgcache2:e:store:4:acme:k")


def test_several_at_once(relayed: Tier) -> None:
    for each in TENANTS:
        put(relayed, each)
    for tenant in ("acme", "ü:1", "acme"):
        forget(relayed.ask, tenant)
    assert erasing(relayed) == 3
    relayed.cycle().run()
    assert (erasing(relayed), names(relayed), names(relayed, "ü:1")) == (0, set(), set())
    assert len(names(relayed, "acme2")) == 19


def test_of_a_user_redis_loses_all_entries_of_the_types_that_know_users(relayed: Tier) -> None:
    for tenant in ("acme", ""):
        for type in ("store", "vector_search"):
            relayed.put("k", 1, type=type, tenant=tenant)
    relayed.ask("SELECT set_config('pgcache.tenant', 'acme', false)")
    forget(relayed.ask, "u", "user")
    relayed.cycle().run()
    found = {name for name in relayed.redis.scan_iter() if ":e:" in name}
    assert found == {"pgcache:e:store:4:acme:k", "pgcache:e:store:0::k", "pgcache:e:vector_search:0::k"}
    relayed.ask("RESET pgcache.tenant")
    forget(relayed.ask, "u", "user")
    relayed.cycle().run()
    assert not relayed.redis.exists("pgcache:e:vector_search:0::k")


def test_without_a_relay_there_is_nothing_in_redis(tier: Tier) -> None:
    forget(tier.ask, "acme")
    assert erasing(tier) == 0


def test_it_is_transactional(relayed: Tier) -> None:
    put(relayed, "acme")
    with relayed.ask.transaction():
        forget(relayed.ask, "acme")
    relayed.cycle().run()
    assert len(names(relayed)) == 19


def test_a_large_redis_takes_several_cycles_that_vouch(relayed: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them by another relay, which goes on where the one before has come."""
    pipeline = relayed.redis.pipeline()
    for number in range(20_000):
        pipeline.set(entry_key("pgcache", "store", "acme" if number % 100 == 0 else "other", f"k{number}"), "x:1:1")
    pipeline.execute()
    monkeypatch.setattr(module, "monotonic", lambda: 0.0)  # no time passes, but ...
    forget(relayed.ask, "acme")
    forgotten_later = False
    places = []
    for _ in range(100):
        hasty = relayed.cycle()
        erase = hasty.erase
        hasty.erase = lambda prefix, identity, seconds, erase=erase: erase(prefix, identity, -1.0)  # type: ignore[method-assign]
        assert hasty.run().vouched == "vouched"
        places.append(relayed.ask("SELECT min(place) FROM pgcache_internal.hot_erasures WHERE place IS NOT NULL"))
        if not forgotten_later:
            forget(relayed.ask, "third")  # waits for the next pass
            forgotten_later = True
        if not erasing(relayed):
            break
    assert erasing(relayed) == 0
    assert len(set(places)) > 10
    assert names(relayed) == set()
    assert len(names(relayed, "other")) == 19_800


def test_another_redis_is_looked_through_from_the_beginning(relayed: Tier) -> None:
    put(relayed, "acme")
    forget(relayed.ask, "acme")
    relayed.ask("UPDATE pgcache_internal.hot_erasures SET redis = 'another', place = '12345'")
    relayed.cycle().run()
    assert names(relayed) == set()


@pytest.mark.parametrize("step", ["scan", "unlink"])
def test_a_relay_that_dies_is_followed_by_one_that_does_it_all(relayed: Tier, step: str) -> None:
    put(relayed, "acme")
    forget(relayed.ask, "acme")
    dying = relayed.cycle()

    def die(*arguments: object, **options: object) -> None:
        raise RedisConnectionError

    setattr(dying, step, die)
    with pytest.raises(RedisConnectionError):
        dying.run()
    assert erasing(relayed) == 1
    relayed.cycle().run()
    assert (erasing(relayed), names(relayed)) == (0, set())


def test_a_lease_from_before_puts_nothing(relayed: Tier) -> None:
    from pgcache_py.tier_protocol import LEASE, PUSH, tier_key

    alive, leases = tier_key("pgcache", "alive"), lease_key("pgcache", "store", "acme", "k")
    entry = entry_key("pgcache", "store", "acme", "k")
    relayed.ask("SELECT set_config('pgcache.tenant', 'acme', false), cache_set('store', 'k', '1')")
    epoch = relayed.redis.eval(LEASE, 2, alive, leases, "token")
    version = relayed.ask("SELECT version FROM cache_store")
    forget(relayed.ask, "acme")
    relayed.cycle().run()
    assert relayed.redis.eval(PUSH, 3, alive, leases, entry, "token", epoch, version, 60_000, "1") == "lease"
    assert names(relayed) == set()


@pytest.mark.needs("plpython3u", "redis")
def test_the_relay_inside_the_server_does_it_too(relayed: Tier) -> None:
    put(relayed, "acme")
    forget(relayed.ask, "acme")
    relayed.ask("SELECT cache_hot_redis(%s)", relayed.server.url)
    report = relayed.ask("SELECT pgcache_internal.hot_cycle()")
    assert "error" not in report, report
    assert (erasing(relayed), names(relayed)) == (0, set())
    forget(relayed.ask, "nobody")
    assert "error" not in relayed.ask("SELECT pgcache_internal.hot_cycle()")
    assert erasing(relayed) == 0


def test_what_waits_is_no_secret_of_the_tables(relayed: Tier, dsn: str) -> None:
    """Statistics of ANALYZE keep no name of it."""
    forget(relayed.ask, "acme")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE pgcache_internal.hot_erasures, pgcache_internal.change_log")
        found = connection.execute("SELECT FROM pg_stats WHERE attname = 'tenant' AND tablename LIKE 'hot%'").fetchall()
    assert found == []
