"""A Redis of the tests' own, and what tests of the hot tier do with it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pgcache_py.relay.cycle import STATEMENTS, Cycle
from pgcache_py.relay.process import Relay
from pgcache_py.relay.scripts import ALIVE, EPOCH, entry_key, tier_key
from tests.servers.cluster import free_port
from tests.sql.tools import Session, wait_until

INSTALLED = shutil.which("redis-server") is not None


class RedisServer:
    """A redis-server that can be killed and started again; only `save()` makes anything last."""

    def __init__(self, directory: Path, **settings: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.password = secrets.token_urlsafe(8)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, decode_responses=True, retry=Retry(NoBackoff(), 0))
        self._log = directory / f"redis-{self.port}.log"
        own = {"port": str(self.port), "bind": "127.0.0.1", "requirepass": self.password, "dir": str(directory)}
        own |= {"save": "", "appendonly": "no", "dbfilename": f"{self.port}.rdb", "logfile": str(self._log)}
        self._command = ["redis-server"]
        for name, value in (own | settings).items():
            self._command += [f"--{name}", value]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(self.answers)
        return self

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.client.connection_pool.disconnect()

    def restart(self) -> None:
        self.kill()
        self.start()


class Tier:
    """The hot tier of a database, as a test sees it: sessions, Redis, and cycles of the relay on demand."""

    def __init__(self, ask: Session, server: RedisServer) -> None:
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
        return set(self.ask.rows("SELECT type, tenant, cache_key FROM pgcache_internal.hot_outbox"))

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
