"""A Redis of the tests' own, a relay, and hybrid caches in the two worlds of tests/client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from pgcache_py import AsyncHybridCache, HybridCache
from pgcache_py.relay.process import Relay
from pgcache_py.tier_protocol import entry_key
from tests.client import conftest as clients
from tests.client.conftest import Async, Blocking, Sync
from tests.client.proxy import Proxy
from tests.tools.names import unique
from tests.tools.redis import Redis
from tests.tools.waiting import wait_until

cache, proxy, source = clients.cache, clients.proxy, clients.source  # the fixtures


class Tier:
    """A Redis, the prefix of a test's keys in it, and relays from the test's database, in threads."""

    def __init__(self, dsn: str, redis: Redis) -> None:
        self.dsn = dsn
        self.redis = redis
        self.prefix = unique("test")
        self.relay_errors: list[Exception] = []
        self._relays: list[tuple[Relay, threading.Thread]] = []

    @property
    def url(self) -> str:
        return self.redis.url

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def key(self, key: str, *, type: str = "store", tenant: str = "") -> str:
        """The name of an entry in Redis."""
        return entry_key(self.prefix, type, tenant, key)

    def has(self, key: str) -> bool:
        return bool(self.client().exists(self.key(key)))

    def alive(self) -> bool:
        return bool(self.client().exists(f"{self.prefix}:alive"))

    def start_relay(self) -> None:
        relay = Relay(self.dsn, self.url, prefix=self.prefix, log=lambda line: None)

        def run() -> None:
            try:
                relay.run()
            except Exception as error:
                self.relay_errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._relays.append((relay, thread))

    def stop_relay(self) -> None:
        while self._relays:
            assert not self.relay_errors
            relay, thread = self._relays.pop()
            relay.stop()
            thread.join(10)

    def settle(self) -> None:
        """Wait until the relay vouches, and has delivered all there was to deliver."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            until(
                lambda: (
                    self.alive()
                    and connection.execute("SELECT count(*) FROM pgcache_internal.hot_untold()").fetchone() == (0,)
                )
            )


until = partial(wait_until, seconds=10)


@pytest.fixture
def tier(dsn: str, shared_redis: Redis) -> Iterator[Tier]:
    """All types are in the hot tier, and a relay is at work."""
    yield from working_tier(dsn, shared_redis)


@pytest.fixture
def private_tier(dsn: str, make_redis: Callable[..., Redis]) -> Iterator[Tier]:
    """The same with a Redis of the test's own, which it can kill."""
    yield from working_tier(dsn, make_redis())


def idle_tier(dsn: str, server: Any) -> Tier:
    """All types are in the hot tier, and nobody relays. server: a Redis, or what has the url of one."""
    tier = Tier(dsn, server)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pgcache.cache_hot_on(type) FROM pgcache_internal.types")
        connection.execute("SELECT pgcache.cache_hot_configure(prefix => %s)", [tier.prefix])
    return tier


def working_tier(dsn: str, server: Redis) -> Iterator[Tier]:
    tier = idle_tier(dsn, server)
    tier.start_relay()
    until(tier.alive)
    yield tier
    tier.stop_relay()


class HybridSync(Sync):
    """The blocking world, in which a cache is a hybrid one. options: its defaults; caches: those that were made."""

    def __init__(self, tier: Tier, **options: Any) -> None:
        super().__init__()
        self.tier = tier
        self.options = {"redis": tier.url, "prefix": tier.prefix, **options}
        self.caches: list[HybridCache | AsyncHybridCache] = []

    def cache(self, source: Any = None, **options: Any) -> Any:
        made = HybridCache(source, **{**self.options, **options})
        self.caches.append(made)
        return self.stack.enter_context(made)


class HybridAsync(Async):
    """The same with asyncio."""

    def __init__(self, tier: Tier, **options: Any) -> None:
        super().__init__()
        self.tier = tier
        self.options = {"redis": tier.url, "prefix": tier.prefix, **options}
        self.caches: list[HybridCache | AsyncHybridCache] = []

    def cache(self, source: Any = None, **options: Any) -> Any:
        source = source.target if isinstance(source, Blocking) else source
        made = AsyncHybridCache(source, **{**self.options, **options})
        self.caches.append(made)
        return self.stack.enter_context(Blocking(made, self.loop))


WORLDS = {"sync": HybridSync, "async": HybridAsync}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tier: Tier, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """The two worlds, with a Redis that does not fail, however busy the machine is."""
    world = WORLDS[request.param](tier, redis_timeout=5.0)
    yield world
    world.close()
    assert [
        record.message
        for record in caplog.get_records("call")
        if record.levelname != "DEBUG" and "Redis" in record.message
    ] == []


@pytest.fixture(params=WORLDS)
def private_world(request: pytest.FixtureRequest, private_tier: Tier) -> Iterator[Any]:
    """The two worlds, with a Redis to be killed."""
    world = WORLDS[request.param](private_tier, redis_timeout=5.0)
    yield world
    world.close()


@pytest.fixture
def redis_proxy(private_tier: Tier) -> Iterator[Proxy]:
    """A relay in front of the Redis of private_tier; see url_of."""
    port = redis.connection.parse_url(private_tier.url)["port"]
    with Proxy(f"host=127.0.0.1 port={port}") as proxy:
        yield proxy


def url_of(proxy: Proxy, tier: Tier) -> str:
    password = redis.connection.parse_url(tier.url)["password"]
    return f"redis://:{password}@127.0.0.1:{conninfo_to_dict(proxy.dsn)['port']}/0"
