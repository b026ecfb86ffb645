"""Whatever is killed, flushed, rolled back or delayed, no read through the tier returns what it may not.

The sleeps in here are what is tested: they are the delays that the protocol has to bear.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
import redis

from pgcache_py import MISS, AsyncHybridCache, Cache, HybridCache
from tests.hybrid.conftest import Tier, until
from tests.hybrid.history import ABSENT, History
from tests.tools.redis import Redis

BOUND = 0.5
KEYS = [f"key {number}" for number in range(24)]
DELAYS = (0.001, 0.01, 0.1, 0.8)  # the last one is longer than the bound
TROUBLES = ("KILL", "FLUSHALL", "SCRIPT FLUSH", "CLIENT KILL TYPE normal", "CLIENT PAUSE 200 ALL")
SCRIPT = Path(__file__).with_name("slow_relay.py")


# Where a client may dawdle, and how often. Most often where it does most harm: between PostgreSQL and Redis.
STEPS = {"_exchange": 0.003, "lease": 0.03, "push": 0.15}


def pause(chance: random.Random, often: float = 0.03) -> float:
    """Seconds to wait at a step of the protocol: most often none."""
    return chance.choice(DELAYS) if chance.random() < often else 0.0


def busy() -> list[str]:
    """The keys that are written just now. The others are left alone, so that a stale value would not be replaced."""
    third = int(monotonic() / 0.8) % 3
    return KEYS[third::3]


def delayed(cache: HybridCache, chance: random.Random) -> HybridCache:
    """The cache, which now and then dawdles before and after its steps."""

    def slow(step: Callable[..., Any], often: float) -> Callable[..., Any]:
        def slowed(*args: Any) -> Any:
            time.sleep(pause(chance, often))
            result = step(*args)
            time.sleep(pause(chance, often))
            return result

        return slowed

    delayed: HybridCache = with_steps(cache, slow)
    return delayed


def delayed_async(cache: AsyncHybridCache, chance: random.Random) -> AsyncHybridCache:
    """The same with asyncio."""

    def slow(step: Callable[..., Any], often: float) -> Callable[..., Any]:
        async def slowed(*args: Any) -> Any:
            await asyncio.sleep(pause(chance, often))
            result = await step(*args)
            await asyncio.sleep(pause(chance, often))
            return result

        return slowed

    delayed: AsyncHybridCache = with_steps(cache, slow)
    return delayed


def with_steps(cache: Any, slow: Callable[[Callable[..., Any], float], Callable[..., Any]]) -> Any:
    for name, often in STEPS.items():
        setattr(cache._tier, name, slow(getattr(cache._tier, name), often))
    cache._source.run = slow(cache._source.run, 0.01)
    return cache


class SeedCache:
    """The protocol that had none: Redis, else PostgreSQL and into Redis; a write to PostgreSQL, then to Redis."""

    def __init__(self, dsn: str, url: str, chance: random.Random) -> None:
        self.postgres = Cache(dsn)
        self.redis = redis.Redis.from_url(url, socket_timeout=0.05)
        self.chance = chance

    def get(self, type: str, key: str, default: Any = None) -> Any:
        with suppress(redis.RedisError):
            if (data := self.redis.get(key)) is not None:
                return json.loads(data)
        time.sleep(pause(self.chance))
        value = self.postgres.get(type, key, MISS)
        if value is MISS:
            return default
        time.sleep(pause(self.chance))
        with suppress(redis.RedisError):
            self.redis.set(key, json.dumps(value), ex=3600)
        return value

    def set(self, type: str, key: str, value: Any, ttl: Any = None) -> bool:
        stored = self.postgres.set(type, key, value, ttl)
        time.sleep(pause(self.chance))
        with suppress(redis.RedisError):
            self.redis.set(key, json.dumps(value), ex=3600)
        return stored

    def delete(self, type: str, key: str) -> bool:
        deleted = self.postgres.delete(type, key)
        time.sleep(pause(self.chance))
        with suppress(redis.RedisError):
            self.redis.delete(key)
        return deleted

    def get_many(self, type: str, keys: list[str]) -> dict[str, Any]:
        found = {key: self.get(type, key, MISS) for key in keys}
        return {key: value for key, value in found.items() if value is not MISS}

    def set_many(self, type: str, values: dict[str, Any]) -> int:
        return sum(self.set(type, key, value) for key, value in values.items())

    def close(self) -> None:
        self.redis.close()
        self.postgres.close()


class Chaos:
    """Runs the actors, each in a thread."""

    def __init__(self, tier: Tier, seed: int) -> None:
        self.tier = tier
        self.seed = seed
        self.history = History()
        self.over = threading.Event()
        self.events: list[str] = []
        self._troubles: list[str] = []
        self._threads: list[threading.Thread] = []
        self._actors = 0

    def chance(self) -> random.Random:
        self._actors += 1
        return random.Random(f"{self.seed}/{self._actors}")

    def start(self, act: Callable[[random.Random], None], every: float = 0.0) -> None:
        """Let somebody act again and again. every: seconds in between, about."""
        chance = self.chance()

        def life() -> None:
            while not self.over.wait(every * 2 * chance.random()):
                try:
                    act(chance)
                except Exception as error:
                    self.history.errors.append(f"{act.__name__}: {error!r}")
                    return

        self._threads.append(threading.Thread(target=life))

    def run(self, enough: Callable[[], object], seconds: float = 120) -> None:
        """Until it was enough, or somebody failed; for so many seconds at most."""
        for thread in self._threads:
            thread.start()
        end = monotonic() + seconds
        while not (enough() or self.history.errors or monotonic() > end):
            self.over.wait(0.3)
        self.over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    # Those who use a cache.

    def reader(self, cache: Any) -> Callable[[random.Random], None]:
        who = type(cache).__name__

        def reads(chance: random.Random) -> None:
            key = chance.choice(KEYS)
            start = monotonic()
            if chance.random() < 0.8:
                found = {key: cache.get("store", key, MISS)}
                asked = [key]
            else:
                asked = chance.sample(KEYS, 3)
                found = cache.get_many("store", asked)
            self._saw(who, asked, found, start, monotonic())

        return reads

    def writer(self, cache: Any) -> Callable[[random.Random], None]:
        def writes(chance: random.Random) -> None:
            key, number = chance.choice(busy()), chance.random()
            value = self.history.new_value()
            start = monotonic()
            changes: dict[str, str | None] = {key: value}
            ttl = inf
            if number < 0.55:
                call = partial(cache.set, "store", key, {"v": value})
            elif number < 0.65:
                ttl = 0.3
                call = partial(cache.set, "store", key, {"v": value}, ttl)
            elif number < 0.75:
                changes = {key: self.history.new_value() for key in chance.sample(busy(), 2)}
                call = partial(cache.set_many, "store", {key: {"v": value} for key, value in changes.items()})
            elif number < 0.98 or isinstance(cache, SeedCache):
                changes = {key: ABSENT}
                call = partial(cache.delete, "store", key)
            else:
                changes = {key: ABSENT for key in KEYS if key.startswith("key 1")}
                call = partial(cache.delete_pattern, "store", "key 1%")
            try:
                call()
                end = monotonic()
            except psycopg.errors.DeadlockDetected:  # see psql
                end = inf
            for changed, now in changes.items():
                self.history.wrote(changed, now, start, end, ttl)

        return writes

    async def async_client(self, cache: AsyncHybridCache, chance: random.Random) -> None:
        """Reads, mostly, and writes."""
        while not self.over.is_set():
            number, start = chance.random(), monotonic()
            key = chance.choice(KEYS if number < 0.7 else busy())
            if number < 0.7:
                value = await cache.get("store", key, MISS)
                self._saw("AsyncHybridCache", [key], {key: value}, start, monotonic())
            elif number < 0.9:
                asked = chance.sample(KEYS, 3)
                found = await cache.get_many("store", asked)
                self._saw("AsyncHybridCache", asked, found, start, monotonic())
            elif number < 0.97:
                value = self.history.new_value()
                await cache.set("store", key, {"v": value})
                self.history.wrote(key, value, start, monotonic())
            else:
                await cache.delete("store", key)
                self.history.wrote(key, ABSENT, start, monotonic())
            await asyncio.sleep(0.003 * chance.random())

    def _saw(self, who: str, asked: list[str], found: dict[str, Any], start: float, end: float) -> None:
        for key in asked:
            value = found.get(key, MISS)
            self.history.read(who, key, ABSENT if value is MISS else value["v"], start, end)

    # Those who do not.

    def psql(self, chance: random.Random) -> None:
        """Changes the table past all functions, also in transactions that take their time or are rolled back."""
        with psycopg.connect(self.tier.dsn) as connection:
            start, number = monotonic(), chance.random()
            keys = KEYS if number < 0.02 else sorted(chance.sample(busy(), chance.randint(1, 2)))
            changes: dict[str, str | None] = dict.fromkeys(keys, ABSENT)
            try:
                if keys is KEYS:
                    connection.execute("TRUNCATE pgcache.cache_type_store")
                else:
                    for key in keys:
                        if chance.random() >= 0.3:
                            changes[key] = self.history.new_value()
                        self._change(connection, key, changes[key], chance)
                        time.sleep(pause(chance))
                back = chance.random() < 0.3
            except psycopg.errors.DeadlockDetected:  # with delete_pattern, which takes the keys in another order
                back = True
            if back:
                connection.rollback()
                self.history.rolled_back.update(value for value in changes.values() if value)
                return
            connection.commit()
            for key, value in changes.items():
                self.history.wrote(key, value, start, monotonic())

    def _change(self, connection: psycopg.Connection[Any], key: str, value: str | None, chance: random.Random) -> None:
        if value is ABSENT:
            connection.execute("DELETE FROM pgcache.cache_store WHERE cache_key = %s", (key,))
            return
        if chance.random() < 0.5:
            connection.execute("SELECT pgcache.cache_set('store', %s, %s)", (key, json.dumps({"v": value})))
        else:
            connection.execute(
                "INSERT INTO pgcache.cache_store (type, tenant, cache_key, data) VALUES ('store', '', %s, %s)"
                " ON CONFLICT (type, tenant, cache_key) DO UPDATE SET data = excluded.data, expires_at = NULL",
                (key, json.dumps({"v": value})),
            )

    def transaction(self, chance: random.Random) -> None:
        """A hybrid cache on a connection in a transaction, which sees its own changes."""
        with psycopg.connect(self.tier.dsn) as connection:
            cache = HybridCache(connection, self.tier.url, prefix=self.tier.prefix)
            key, value, start = chance.choice(busy()), self.history.new_value(), monotonic()
            cache.set("store", key, {"v": value})
            time.sleep(pause(chance))
            assert cache.get("store", key) == {"v": value}, "a transaction sees its own changes"
            if chance.random() < 0.5:
                connection.rollback()
                self.history.rolled_back.add(value)
            else:
                connection.commit()
                self.history.wrote(key, value, start, monotonic())

    def off_and_on(self, chance: random.Random) -> None:
        """Takes the type out of the tier for a moment."""
        with psycopg.connect(self.tier.dsn, autocommit=True) as connection:
            connection.execute("SELECT pgcache.cache_hot_off('store')")
            time.sleep(pause(chance))
            connection.execute("SELECT pgcache.cache_hot_on('store')")
        self.events.append("off and on")

    # What befalls Redis and the relay.

    def redis_trouble(self, chance: random.Random) -> None:
        """One after the other, in an order of chance."""
        if not self._troubles:
            self._troubles = chance.sample(TROUBLES, len(TROUBLES))
        trouble = self._troubles.pop()
        if trouble == "KILL":
            self.tier.redis.kill()
            time.sleep(0.3 * chance.random())
            self.tier.redis.start()
        else:
            with suppress(redis.RedisError):
                self.tier.client().execute_command(*trouble.split())
        self.events.append(trouble)

    @contextmanager
    def relays(self) -> Iterator[None]:
        """Two relays, of which one waits. They are killed, and stopped for a while, at any moment."""
        running: list[subprocess.Popen[bytes]] = []
        chance = self.chance()

        def start() -> subprocess.Popen[bytes]:
            seed = str(chance.random())
            command = [sys.executable, str(SCRIPT), self.tier.dsn, self.tier.url, self.tier.prefix, seed]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def relay_trouble(chance: random.Random) -> None:
            place = chance.randrange(len(running))
            if chance.random() < 0.5:
                running[place].kill()
                running[place].wait()
                time.sleep(chance.choice((0.0, 1.0)))
                running[place] = start()
                self.events.append("relay killed")
            else:
                running[place].send_signal(signal.SIGSTOP)
                time.sleep(chance.choice((0.1, 1.0)))
                running[place].send_signal(signal.SIGCONT)
                self.events.append("relay stopped")

        running.extend([start(), start()])
        until(self.tier.alive)
        self.start(relay_trouble, 1.0)
        try:
            yield
        finally:
            for each in running:
                each.kill()
                each.wait()

    def verdict(self) -> list[str]:
        return self.history.violations(BOUND)


@pytest.fixture
def chaotic_tier(dsn: str, make_redis: Callable[..., Redis]) -> Tier:
    tier = Tier(dsn, make_redis())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"SELECT pgcache.cache_hot_configure(max_staleness => '{BOUND} s')".encode())
        connection.execute("SELECT pgcache.cache_hot_on('store')")
    return tier


@pytest.mark.once
@pytest.mark.parametrize("seed", [1, 2])
def test_no_read_returns_what_it_may_not(chaotic_tier: Tier, seed: int) -> None:
    tier = chaotic_tier
    chaos = Chaos(tier, seed)
    options: dict[str, Any] = {"prefix": tier.prefix, "timeout": 60}
    with chaos.relays():
        caches = [delayed(HybridCache(tier.dsn, tier.url, **options), chaos.chance()) for _ in range(3)]
        caches.append(delayed(HybridCache(tier.dsn, tier.url, negative=True, **options), chaos.chance()))
        for cache in caches * 3:
            chaos.start(chaos.reader(cache), 0.001)
        for cache in caches[1:]:
            chaos.start(chaos.writer(cache), 0.02)
        plain = Cache(tier.dsn)
        chaos.start(chaos.writer(plain), 0.02)
        chaos.start(chaos.psql, 0.02)
        chaos.start(chaos.transaction, 0.1)
        chaos.start(chaos.off_and_on, 3.0)
        chaos.start(chaos.redis_trouble, 1.2)
        async_caches = [
            delayed_async(AsyncHybridCache(tier.dsn, tier.url, **options), chaos.chance()) for _ in range(2)
        ]

        async def async_clients() -> None:
            await asyncio.gather(
                *(chaos.async_client(cache, chaos.chance()) for cache in async_caches for _ in range(6))
            )
            for cache in async_caches:
                await cache.close()

        chaos.start(lambda _: asyncio.run(async_clients()))
        counts: Counter[str] = Counter()
        hybrids: list[HybridCache | AsyncHybridCache] = [*caches, *async_caches]

        def was_a_test() -> bool:
            """Redis answered, refused, and was killed, and so was the relay."""
            counts.clear()
            for hybrid in hybrids:
                hybrid._tier.fold()
                counts.update(hybrid._tier.counts)
            enough = all(counts[each] > 10 for each in ("redis_hits", "postgres_hits", "backfills", "refused"))
            return enough and {*TROUBLES, "relay killed", "relay stopped", "off and on"} <= set(chaos.events)

        chaos.run(was_a_test)
    for each in (*caches, plain):
        each.close()
    violations = chaos.verdict()
    assert not violations, f"seed {seed}: {len(violations)} of {len(chaos.history.reads)}: {violations[:5]}"
    assert was_a_test(), (counts, chaos.events)
    assert counts["served_unvouched"] == 0


@pytest.mark.once
def test_the_same_check_finds_what_the_protocol_of_the_seed_does_wrong(chaotic_tier: Tier) -> None:
    tier = chaotic_tier
    chaos = Chaos(tier, 3)
    caches = [SeedCache(tier.dsn, tier.url, chaos.chance()) for _ in range(3)]
    for cache in caches:
        chaos.start(chaos.reader(cache), 0.001)
    for cache in caches[1:]:
        chaos.start(chaos.writer(cache), 0.02)
    chaos.start(chaos.psql, 0.05)

    def found() -> bool:
        return any("longer than allowed" in violation for violation in chaos.verdict())

    chaos.run(found)
    for cache in caches:
        cache.close()
    assert found()
