"""A Redis of the tests' own, and what tests of the hot tier do with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from pgcache_py.relay.cycle import STATEMENTS, Cycle
from pgcache_py.relay.process import Relay
from pgcache_py.tier_protocol import ALIVE, EPOCH, OWNER, entry_key, tier_key
from tests.tools.redis import Redis
from tests.tools.session import Session


class Tier:
    """The hot tier of a database, as a test sees it: sessions, Redis, and cycles of the relay on demand."""

    def __init__(self, ask: Session, server: Redis) -> None:
        self.ask = ask
        self.server = server
        self.redis = server.client
        self.prefix = "pgcache"
        ask("SELECT cache_hot_on('store')")

    def call(self, name: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return psycopg.RawCursor(self.ask.connection).execute(STATEMENTS[name].encode(), arguments).fetchall()

    def cycle(self) -> Cycle:
        return Cycle(self.call, self.redis)

    def outbox(self) -> set[tuple[Any, ...]]:
        return set(self.ask.rows("SELECT type, tenant, cache_key FROM pgcache_internal.hot_untold()"))

    @property
    def alive(self) -> str | None:
        found: str | None = self.redis.get(tier_key(self.prefix, ALIVE))
        return found

    @property
    def epoch(self) -> str | None:
        found: str | None = self.redis.get(tier_key(self.prefix, EPOCH))
        return found

    def put(self, key: str, version: int, value: str = "1", type: str = "store", tenant: str = "") -> None:
        """An entry in Redis, of the present epoch."""
        self.redis.set(entry_key(self.prefix, type, tenant, key), f"{self.epoch}:{version}:{value}", px=60_000)

    def hit(self, key: str, type: str = "store", tenant: str = "") -> str | None:
        """What a client's read would find in Redis."""
        alive, entry = self.redis.mget(tier_key(self.prefix, ALIVE), entry_key(self.prefix, type, tenant, key))
        if alive is None or entry is None or not entry.startswith(f"{alive}:"):
            return None
        return str(entry.split(":", 2)[2])


def left_by_another_server(tier: Tier) -> None:
    """As if another one, of which the test's is a copy, vouched for what is in Redis."""
    tier.redis.set(tier_key(tier.prefix, OWNER), tier.ask("SELECT pgcache_internal.hot_database() || '/1'"))
    for name in (ALIVE, EPOCH):
        tier.redis.set(tier_key(tier.prefix, name), "its epoch")


def deliver(ask: Session) -> None:
    """Empties the outbox, as a relay does that has told Redis of all."""
    ask("SELECT pgcache_internal.begin_changes()")
    ask("SELECT pgcache_internal.hot_begin_epoch('epoch', 'redis')")
    ask("SELECT pgcache_internal.hot_delivered(seen, 0) FROM pgcache_internal.hot_pending() LIMIT 1")


@contextmanager
def running(relay: Relay) -> Iterator[threading.Thread]:
    """The relay, in a thread, for as long as the block lasts."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            relay.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        if thread.is_alive():
            relay.stop()
        thread.join(20)
        assert not thread.is_alive()
    if failed:
        raise failed[0]
