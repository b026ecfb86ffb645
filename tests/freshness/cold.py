"""Many clients that ask at once for what nobody has computed yet: one of them computes, the others get its value."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgcache_py.setup.install import install
from tests.freshness.actor import APPLICATION
from tests.servers import Cluster
from tests.servers.cluster import FOR_TESTS
from tests.servers.server import RUN
from tests.tools.names import unique
from tests.tools.pgbouncer import pgbouncer

FETCH = b"SELECT value, state, token FROM pgcache.cache_fetch('store', %s, tags => %s, wait => %s, lease => '60 s')"
SET = b"SELECT pgcache.cache_set('store', %s, %s, token => %s)"
# How long a computation takes, and after which time one asks again who does not wait in the server; in seconds.
COMPUTING = 0.02
AGAIN = 0.02
CLIENTS = 200
Connection = psycopg.AsyncConnection[Any]


@dataclass
class Try:
    """What came of one key. computations: how many clients computed it; states: what their last fetch said."""

    computations: int = 0
    stored: int = 0
    values: set[str] = field(default_factory=set)
    states: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.computations == self.stored == len(self.values) == 1


class Cold:
    """Clients with a connection each. in_server: wait in the server for who computes, else ask again and again.

    A pooler with fewer connections than clients needs the latter: all of them could be waiting for one that gets none.
    """

    def __init__(self, dsn: str, clients: int, *, in_server: bool, prepared: bool) -> None:
        self.dsn = dsn
        self.clients = clients
        self.wait = "60 seconds" if in_server else "0"
        self.threshold = 2 if prepared else None

    async def tries(self, number: int) -> list[Try]:
        connections: list[Connection] = []
        try:
            for start in range(0, self.clients, 20):  # the server's queue of new ones is not endless
                some = [self.connect() for _ in range(start, min(start + 20, self.clients))]
                connections += await asyncio.gather(*some)
            return [await self.one_try(connections, f"cold {secrets.token_hex(8)}") for _ in range(number)]
        finally:
            for connection in connections:
                await connection.close()

    async def connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(
            self.dsn, autocommit=True, application_name=APPLICATION, prepare_threshold=self.threshold
        )

    async def one_try(self, connections: list[Connection], key: str) -> Try:
        found, began = Try(), monotonic()
        await asyncio.gather(*(self.client(number, each, key, found) for number, each in enumerate(connections)))
        found.seconds = monotonic() - began
        return found

    async def client(self, number: int, connection: Connection, key: str, found: Try) -> None:
        while True:
            row: Any = await (await connection.execute(FETCH, [key, ["cold"], self.wait])).fetchone()
            value, state, token = row
            if state != "busy" or self.wait != "0":
                break
            await asyncio.sleep(AGAIN)
        found.states[state] += 1
        if value is None:
            found.computations += 1
            await asyncio.sleep(COMPUTING)
            value = f"computed by {number}"
            row = await (await connection.execute(SET, [key, f'"{value}"', token])).fetchone()
            found.stored += row[0]
        found.values.add(value)


@contextmanager
def cold_cluster(bin_dir: Path) -> Iterator[str]:
    """A conninfo of a database with pgcache, on a server that takes so many connections."""
    cluster = Cluster(bin_dir, RUN / unique("cold"), {**FOR_TESTS, "max_connections": str(CLIENTS + 20)})
    cluster.init()
    try:
        cluster.start()
        install(cluster.dsn(), cron=False)
        yield cluster.dsn()
    finally:
        cluster.remove()


def direct(dsn: str, tries: int, clients: int = CLIENTS) -> list[Try]:
    """Clients with a session each, which wait in the server."""
    return asyncio.run(Cold(dsn, clients, in_server=True, prepared=True).tries(tries))


def pooled(dsn: str, tries: int, clients: int = CLIENTS) -> list[Try]:
    """Clients of a PgBouncer in transaction mode with a tenth as many sessions."""
    with pgbouncer(dsn, connections=max(2, clients // 10)) as through:
        conninfo = make_conninfo(through, dbname=conninfo_to_dict(dsn)["dbname"])
        return asyncio.run(Cold(conninfo, clients, in_server=False, prepared=False).tries(tries))
