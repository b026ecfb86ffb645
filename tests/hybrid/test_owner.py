"""Several databases with one Redis: a client uses only what its own database's relay vouches for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgcache_py import UnavailableError
from pgcache_py.hybrid._async import tier as hot_tier_async
from pgcache_py.hybrid._sync import tier as hot_tier
from tests.client.proxy import Proxy
from tests.conftest import fresh_database
from tests.hybrid.conftest import WORLDS, Tier, until, working_tier

pytestmark = pytest.mark.once


@pytest.fixture
def both(request: pytest.FixtureRequest, other: str, private_tier: Tier) -> Iterator[Any]:
    """The worlds again, where warnings are expected; of two databases."""
    world = WORLDS[request.param](private_tier, redis_timeout=5.0)
    yield world
    world.close()


in_both_worlds = pytest.mark.parametrize("both", WORLDS, indirect=True)


@pytest.fixture
def other(server: Any, admin: psycopg.Connection) -> Iterator[str]:
    """The conninfo of another database with pgcache, where all types are in the hot tier, but which has no relay."""
    with fresh_database(server, admin) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SELECT pgcache.cache_hot_on(type) FROM pgcache_internal.types")
        yield dsn


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What to add to the time by which a client distrusts."""
    ahead = [0.0]
    for module in (hot_tier, hot_tier_async):
        monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + ahead[0])
    return ahead


def configure(dsn: str, prefix: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pgcache.cache_hot_configure(prefix => %s)", [prefix])


def counts(cache: Any) -> Any:
    tier = getattr(cache, "target", cache)._tier
    tier.fold()
    return tier.counts


def identity_asked(cache: Any) -> list[None]:
    """Gets an element each time when PostgreSQL is asked."""
    tier = getattr(cache, "target", cache)._tier
    asked: list[None] = []
    identify = tier._identify
    tier._identify = lambda: [asked.append(None), identify()][1]
    return asked


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name == "pgcache"]


def begin_again(tier: Tier) -> bytes:
    """A new epoch; returns it."""
    client = tier.client()
    before = client.get(f"{tier.prefix}:epoch")
    client.delete(f"{tier.prefix}:epoch")
    until(lambda: client.get(f"{tier.prefix}:alive") not in (None, before))
    found = client.get(f"{tier.prefix}:alive")
    assert isinstance(found, bytes)
    return found


@in_both_worlds
def test_the_same_prefix(both: Any, dsn: str, other: str, caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    prefix = both.tier.prefix
    for each in (dsn, other):
        configure(each, prefix)
    owner, stranger = both.cache(dsn), both.cache(other)
    asked = identity_asked(stranger)
    owner.set("store", "k", "owner's")
    assert owner.get("store", "k") == "owner's"
    for _ in range(3):
        assert stranger.get("store", "k") is None
        assert stranger.get_many("store", ["k"]) == {}
        assert stranger.set("store", "own", "stranger's")
        assert stranger.get("store", "own") == "stranger's"
        assert stranger.get_many("store", ["own", "k"]) == {"own": "stranger's"}
        assert stranger.for_tenant("t").get("store", "k") is None
        assert not both.tier.has("own")
        assert owner.get("store", "own") is None
        assert owner.get("store", "k") == "owner's"
        clock[0] += 6
    assert counts(stranger)["redis_hits"] == counts(stranger)["pushed"] == 0
    assert counts(owner)["pushed"] == 1
    stranger.clear_all()
    assert stranger.get("store", "own") is None
    assert len(asked) <= 4
    (warning,) = warnings(caplog)
    assert f"prefix '{prefix}' belongs to another database" in warning
    assert "cache_hot_configure(prefix =>" in warning
    assert "HybridCache(prefix=" in warning


@in_both_worlds
def test_no_leases_are_left_in_the_others_way(both: Any, dsn: str, other: str) -> None:
    stranger = both.cache(other)
    for _ in range(5):
        stranger.set("store", "k", 1)
    leases = both.tier.client().hlen(f"{both.tier.prefix}:l:store:0::k")
    assert leases <= 1


@in_both_worlds
def test_the_prefix_becomes_free(
    both: Any, dsn: str, other: str, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """The stranger's own relay takes it over, as the relay's message says."""
    tier = both.tier
    configure(other, tier.prefix)
    owner, stranger = both.cache(dsn), both.cache(other)
    owner.set("store", "k", "owner's")
    assert owner.get("store", "k") == "owner's"
    assert stranger.get("store", "k") is None
    tier.stop_relay()
    tier.client().delete(f"{tier.prefix}:owner")
    tier.dsn = other
    tier.start_relay()
    until(lambda: stranger.set("store", "k", "stranger's") and counts(stranger)["pushed"])
    until(lambda: stranger.get("store", "k") == "stranger's" and counts(stranger)["redis_hits"])
    assert owner.get("store", "k") == "owner's"
    assert counts(owner)["redis_hits"] == 1
    assert len(warnings(caplog)) == 2


@in_both_worlds
def test_prefixes_of_their_own(both: Any, dsn: str, other: str, caplog: pytest.LogCaptureFixture) -> None:
    generator = working_tier(other, both.tier.redis)
    second = next(generator)
    caches = both.cache(dsn), both.cache(other, prefix=second.prefix)
    for number, cache in enumerate(caches):
        assert cache.set("store", "k", number)
    for number, cache in enumerate(caches):
        assert cache.get("store", "k") == number
        assert counts(cache)["redis_hits"] == counts(cache)["pushed"] == 1
    assert warnings(caplog) == []
    next(generator, None)


@in_both_worlds
@pytest.mark.parametrize("taken", [True, False])
def test_a_prefix_that_the_database_does_not_have(
    both: Any, dsn: str, other: str, taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    configure(other, "mine")
    cache = both.cache(other, prefix=both.tier.prefix if taken else "nobodys")
    for _ in range(3):
        cache.set("store", "k", 1)
        assert cache.get("store", "k") == 1
    assert counts(cache)["redis_hits"] == 0
    (warning,) = warnings(caplog)
    assert "'mine'" in warning
    assert (repr(both.tier.prefix) if taken else "'nobodys'") in warning


@in_both_worlds
@pytest.mark.parametrize("first", ["get", "get_many", "set"])
def test_no_type_in_the_tier_is_said_once(
    both: Any, dsn: str, db: psycopg.Connection, first: str, caplog: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    db.execute("SELECT pgcache.cache_hot_off(type) FROM pgcache_internal.types")
    cache = both.cache(dsn)
    calls = {
        "get": lambda: cache.get("store", "k"),
        "get_many": lambda: cache.get_many("store", ["k"]),
        "set": lambda: cache.set("store", "k", 1),
    }
    calls[first]()
    (warning,) = warnings(caplog)
    assert "SELECT cache_hot_on('llm')" in warning
    for call in calls.values():
        clock[0] += 6
        call()
    assert len(warnings(caplog)) == 1


def test_who_may_only_read(world: Any, dsn: str, db: psycopg.Connection) -> None:
    world.cache(dsn).set("store", "k", 1)
    name = sql.Identifier(f"reader_{db.info.dbname}")
    db.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(name))
    try:
        db.execute("SELECT pgcache.cache_grant(%s, 'read')", [f"reader_{db.info.dbname}"])
        reader = world.cache(make_conninfo(dsn, user=f"reader_{db.info.dbname}", password="secret"))
        assert reader.get("store", "k") == 1
        assert reader.get_many("store", ["k"]) == {"k": 1}
        assert counts(reader)["redis_hits"] == 2
        reader.close()
    finally:
        db.execute(sql.SQL("DROP OWNED BY {}").format(name))
        db.execute(sql.SQL("DROP ROLE {}").format(name))


def test_postgresql_is_asked_once_in_a_while(world: Any, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    for module in (hot_tier, hot_tier_async):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    cache = world.cache(dsn)
    asked = identity_asked(cache)
    for times in (1, 2):
        for key in ("a", "b"):
            cache.set("store", key, 1)
            cache.for_tenant("t").get("store", key)
            begin_again(world.tier)
        cache.set("store", "a", 2)
        assert cache.get("store", "a") == 2
        assert counts(cache)["pushed"] == 3 * times
        assert len(asked) == times
        now[0] += hot_tier.CONFIRM


def test_a_transaction_of_the_callers_is_left_alone(world: Any, dsn: str) -> None:
    connection = world.connect(dsn)
    cache = world.cache(connection)
    asked = identity_asked(cache)
    cache.set("store", "k", 1)
    assert cache.get("store", "k") == 1
    assert asked == []


@in_both_worlds
def test_a_new_epoch_while_postgresql_is_down(both: Any, dsn: str) -> None:
    with Proxy(dsn) as proxy:
        cache, late = both.cache(proxy.dsn, timeout=2), both.cache(proxy.dsn, timeout=2)
        cache.set("store", "k", 1)
        assert cache.get("store", "k") == 1
        epoch = begin_again(both.tier)
        with_own_connection = both.cache(dsn)
        with_own_connection.set("store", "k", 2)
        assert with_own_connection.get("store", "k") == 2
        proxy.refuse()
        assert cache.get("store", "k") == 2
        assert counts(cache)["redis_hits"] == 2
        with pytest.raises(UnavailableError):
            late.get("store", "k")  # which does not know whose that is
        both.tier.stop_relay()
        client = both.tier.client()
        client.delete(f"{both.tier.prefix}:alive")
        assert cache.get("store", "k") == 2
        assert counts(cache)["served_unvouched"] == 1
        client.set(f"{both.tier.prefix}:epoch", epoch[::-1])
        client.set(both.tier.key("k"), epoch[::-1] + b":1:3")
        assert cache.get("store", "k") == 3  # the owner is the same
        client.set(f"{both.tier.prefix}:epoch", "another")
        client.set(both.tier.key("k"), b"another:1:4")
        client.set(f"{both.tier.prefix}:owner", "another")
        with pytest.raises(UnavailableError):
            cache.get("store", "k")
        proxy.admit()
        assert late.get("store", "k") == 2
