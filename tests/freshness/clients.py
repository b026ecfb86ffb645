"""Those who read through the Python clients, from PostgreSQL and through Redis."""

from __future__ import annotations

import asyncio
import os
import random
import time
from functools import cached_property
from inspect import signature
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgcache_py import MISS, AsyncCache, AsyncHybridCache, Cache, HybridCache
from pgcache_py.client.near.store import Near
from pgcache_py.errors import UnavailableError
from tests.freshness.actor import APPLICATION, Actor, Ground, Line, cut_off
from tests.freshness.history import History
from tests.freshness.readers import FETCHES, Checks, SqlReader
from tests.freshness.rows import HOT, KEYED, PROMISED, Entry, Kind, Value

# The granularity of the clock that Redis has, in seconds.
TICK = 0.002
BY_CACHE = "Cache"
BY_ASYNC = "AsyncCache"
BY_HYBRID = "HybridCache"
BY_ASYNC_HYBRID = "AsyncHybridCache"
BY_NEAR = "Cache, near"
BY_ASYNC_NEAR = "AsyncCache, near"
BY_NEAR_HYBRID = "HybridCache, near"
BY_ASYNC_NEAR_HYBRID = "AsyncHybridCache, near"
NEAR = (BY_NEAR, BY_ASYNC_NEAR, BY_NEAR_HYBRID, BY_ASYNC_NEAR_HYBRID)
THROUGH_REDIS = (BY_HYBRID, BY_ASYNC_HYBRID, BY_NEAR_HYBRID, BY_ASYNC_NEAR_HYBRID)
# May return what is older, but not by more than the bound.
BOUNDED = (BY_HYBRID, BY_ASYNC_HYBRID, *NEAR)
# Without them get_or_compute promises nothing.
LEASES = "tags" in signature(Cache.get_or_compute).parameters
LABELS = (BY_CACHE, BY_ASYNC, *BOUNDED)
# How many reads a forked process makes, at most.
READS_OF_A_CHILD = 500


def named(ground: Ground) -> str:
    return make_conninfo(ground.dsn, application_name=APPLICATION)


def hybrid_options(ground: Ground) -> dict[str, Any]:
    # Without PostgreSQL it would serve what is older, as is said of it.
    return {"redis": ground.redis, "prefix": ground.prefix, "serve_when_down": False, "redis_timeout": 1.0}


def near(ground: Ground) -> Near:
    return Near(max_entries=20, max_staleness=ground.bound)


def terms(entry: Entry, chance: random.Random) -> dict[str, Any]:
    return {"tags": entry.tags, "stale_for": chance.choice((None, 2)), "ttl": chance.choice((None, 1, 3600))}


class ClientChecks(Checks):
    """What a client may return: some also what is older, but not by more than the bound."""

    @cached_property
    def newest(self) -> dict[str, Value]:
        """By key, what was committed when it was last asked for."""
        return {}

    def least(self, label: str, entry: Entry, began: float) -> Value:
        self.newest[entry.key] = self.floors(entry)
        if label not in BOUNDED:
            return self.floors(entry)
        moment = began - self.ground.bound - TICK
        return {str(row): self.history.committed_before(row, moment) for row in entry.rows}

    def choose(self, label: str, chance: random.Random) -> list[Entry]:
        """One entry or, now and then, all of a kind."""
        kind: Kind = HOT if label in THROUGH_REDIS and chance.random() < 0.9 else chance.choice(PROMISED)
        return kind.entries if chance.random() < 0.2 else [chance.choice(kind.entries)]

    def take(self, label: str, asked: list[Entry], found: dict[str, Any], least: list[Value], began: float) -> None:
        for entry, floors in zip(asked, least, strict=True):
            self.count(label, "reads")
            value = found.get(entry.key, MISS)
            if value is not MISS:
                self.check(label, entry, value, floors, began)
                if label in BOUNDED and any(value[row] < newest for row, newest in self.newest[entry.key].items()):
                    self.count(label, "older")
                    replaced = min(self.history.replaced(row, value[str(row)]) for row in entry.rows)
                    self.history.was_old(self.number, label, began - replaced)


class ClientReader(ClientChecks, SqlReader):
    """Reads through Cache and HybridCache, and computes what they miss."""

    def __init__(self, ground: Ground, history: History, number: int, seed: str) -> None:
        super().__init__(ground, history, number, seed)
        self.caches: dict[str, Cache] = {
            BY_CACHE: Cache(named(ground)),
            BY_NEAR: Cache(named(ground), near=near(ground)),
        }
        if ground.redis:
            self.caches[BY_HYBRID] = HybridCache(named(ground), **hybrid_options(ground))
            self.caches[BY_NEAR_HYBRID] = HybridCache(named(ground), near=near(ground), **hybrid_options(ground))

    def act(self) -> None:
        label = self.chance.choice(list(self.caches))
        try:
            if LEASES and self.chance.random() < 0.25:
                self.guarded(label, self.direct, lambda: self.get_or_compute(label))
            else:
                self.look_up(label)
        except UnavailableError:
            self.count(label, "cut off")

    def look_up(self, label: str) -> None:
        cache = self.caches[label]
        asked = self.choose(label, self.chance)
        began = monotonic()
        least = [self.least(label, entry, began) for entry in asked]
        if len(asked) == 1:
            found = {asked[0].key: cache.get(asked[0].type, asked[0].key, MISS)}
        else:
            found = cache.get_many(asked[0].type, [entry.key for entry in asked])
        self.take(label, asked, found, least, began)
        for entry in asked:
            if found.get(entry.key, MISS) is MISS:
                self.guarded(FETCHES, self.direct, lambda entry=entry: self.fetch(FETCHES, self.direct, entry))

    def get_or_compute(self, label: str) -> None:
        entry = self.choose(label, self.chance)[0]
        computed = []

        def compute() -> Value:
            computed.append(self.read_source(self.direct, entry))
            self.pause()
            return computed[-1]

        began = monotonic()
        least = self.least(label, entry, began)
        value = self.caches[label].get_or_compute(entry.type, entry.key, compute, **terms(entry, self.chance))
        self.count(label, "reads")
        if computed:
            self.count(label, "computed")
        else:
            self.check(label, entry, value, least, began)


class NearReader(ClientReader):
    """Reads what its process keeps, again and again, also in processes that it is forked into."""

    def __init__(self, ground: Ground, history: History, number: int, seed: str) -> None:
        super().__init__(ground, history, number, seed)
        self.caches = {label: cache for label, cache in self.caches.items() if label in NEAR}
        self.let_the_clock_jump()

    def choose(self, label: str, chance: random.Random) -> list[Entry]:
        """Entries that may be kept, most often."""
        if chance.random() < 0.1:
            return super().choose(label, chance)
        kind: Kind = chance.choice((KEYED, HOT))
        return kind.entries if chance.random() < 0.1 else [chance.choice(kind.entries)]

    def act(self) -> None:
        number = self.chance.random()
        if number < 0.0002:
            self.go_on_in_a_child()
        elif number < 0.001:
            self.jump = self.chance.choice((0, 1, -1)) * self.chance.random() * 1e5
        else:
            self.read_or_compute()

    def read_or_compute(self) -> None:
        if self.chance.random() < 0.02:
            super().act()
        else:
            label = self.chance.choice(list(self.caches))
            entry = self.choose(label, self.chance)[0]
            for _ in range(self.chance.randint(1, 100)):
                if not self.read(label, entry):
                    break

    def read(self, label: str, entry: Entry) -> bool:
        """Whether there is one; what is not there is left to the others."""
        began = monotonic()
        least = [self.least(label, entry, began)]
        try:
            found = {entry.key: self.caches[label].get(entry.type, entry.key, MISS)}
        except UnavailableError:
            self.count(label, "cut off")
            return False
        self.take(label, [entry], found, least, began)
        return found[entry.key] is not MISS

    def let_the_clock_jump(self) -> None:
        """That on the wall, which nothing may depend on."""
        clock, self.jump = time.time, 0.0
        time.time = lambda: clock() + self.jump

    def go_on_in_a_child(self) -> None:
        """Which has what this process has, and is alone to count: this one waits."""
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            if status:
                raise RuntimeError(f"a forked process has ended with {status}")
            self.count(BY_NEAR, "forks")
            return
        status = 1
        try:
            self.direct = Line(self.ground.dsn)
            for _ in range(self.chance.randint(1, READS_OF_A_CHILD)):
                if self.history.over:
                    break
                self.read_or_compute()
            status = 0
        except BaseException as error:
            self.history.fail(f"a child of {type(self).__name__} {self.number}", error)
        finally:
            os._exit(status)


class AsyncReader(ClientChecks, Actor):
    """The same with asyncio, many at once; what is missed is left to the others."""

    def act(self) -> None:
        asyncio.run(self.all_of_them())

    async def all_of_them(self) -> None:
        caches: dict[str, AsyncCache] = {
            BY_ASYNC: AsyncCache(named(self.ground)),
            BY_ASYNC_NEAR: AsyncCache(named(self.ground), near=near(self.ground)),
        }
        if self.ground.redis:
            options = hybrid_options(self.ground)
            caches[BY_ASYNC_HYBRID] = AsyncHybridCache(named(self.ground), **options)
            caches[BY_ASYNC_NEAR_HYBRID] = AsyncHybridCache(named(self.ground), near=near(self.ground), **options)
        seeds = [self.chance.random() for _ in range(3)]
        await asyncio.gather(*(
            self.one_of_them(label, cache, random.Random(seed)) for label, cache in caches.items() for seed in seeds
        ))  # fmt: skip
        for cache in caches.values():
            await cache.close()

    async def one_of_them(self, label: str, cache: AsyncCache, chance: random.Random) -> None:
        line = Line(self.ground.dsn)
        while not self.history.over:
            asked = self.choose(label, chance)
            began = monotonic()
            least = [self.least(label, entry, began) for entry in asked]
            try:
                if LEASES and chance.random() < 0.25:
                    await self.get_or_compute(label, cache, asked[0], least[0], chance, line)
                    continue
                if len(asked) == 1:
                    found = {asked[0].key: await cache.get(asked[0].type, asked[0].key, MISS)}
                else:
                    found = await cache.get_many(asked[0].type, [entry.key for entry in asked])
            except UnavailableError:
                self.count(label, "cut off")
                continue
            except psycopg.OperationalError as error:
                if not cut_off(error):
                    raise
                line.rollback()
                self.count(label, "cut off")
                continue
            self.take(label, asked, found, least, began)
            await asyncio.sleep(0.002 * chance.random())

    async def get_or_compute(
        self, label: str, cache: AsyncCache, entry: Entry, least: Value, chance: random.Random, line: Line
    ) -> None:
        computed = []

        async def compute() -> Value:
            computed.append(await asyncio.to_thread(self.read_source, line, entry))
            await asyncio.sleep(0.003 * chance.random())
            return computed[-1]

        began = monotonic()
        value = await cache.get_or_compute(entry.type, entry.key, compute, **terms(entry, chance))
        self.count(label, "reads")
        if computed:
            self.count(label, "computed")
        else:
            self.check(label, entry, value, least, began)
