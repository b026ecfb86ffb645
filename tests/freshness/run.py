"""A run: a database of its own, those who read and write in processes, what befalls them, and what came of it."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pgcache_py import HybridCache
from pgcache_py.setup.install import install
from tests.freshness import clients, readers, rows, writers
from tests.freshness.actor import PATIENCE, Actor, Ground
from tests.freshness.history import FORK, History, Stale
from tests.freshness.rows import HOT, KINDS, PROMISED, ROWS
from tests.freshness.troubles import Troubles, kill
from tests.tools.names import unique
from tests.tools.pgbouncer import PROGRAM, pgbouncer
from tests.tools.redis import INSTALLED, redis_maker

# Of the hot tier and of near caches, in seconds.
BOUND = 0.5
ACTORS: list[type[Actor]] = [
    *[writers.Writer] * 3,
    *[readers.SqlReader] * 4,
    *[clients.ClientReader] * 2,
    clients.AsyncReader,
    readers.ComparedReader,
]
PROMISED_TO = (*readers.FROM_SQL, *clients.LABELS)
LABELS = (*PROMISED_TO, *readers.COMPARED, *writers.LABELS)


@dataclass
class Outcome:
    """What came of a run. not_run: what could not be had here, and why."""

    seed: int
    seconds: float
    history: History
    troubles: Counter[str]
    not_run: list[str]
    stale: list[Stale]
    failures: list[str]
    invented: list[int]
    at_rest: list[str]
    checked_at_rest: int
    judged: tuple[str, ...] = PROMISED_TO
    names: dict[int, str] = field(default_factory=dict)
    bound: float = BOUND

    def total(self, what: str) -> int:
        return sum(self.history.total(label, what) for label in self.judged)

    @property
    def wrong(self) -> bool:
        return bool(self.total("stale") or self.failures or self.invented or self.at_rest)

    @property
    def blind(self) -> list[str]:
        """Those that it was to catch, and did not."""
        return [
            label
            for label in readers.COMPARED
            if self.history.total(label, "reads") and not self.history.total(label, "stale")
        ]


@contextmanager
def database(server: str) -> Iterator[str]:
    """The conninfo of a new database with pgcache and the source in it."""
    name = f"pgcache_{unique('freshness')}_{random.randrange(10**6)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            dsn = make_conninfo(server, dbname=name)
            install(dsn, cron=False)
            with psycopg.connect(dsn, autocommit=True) as connection:
                rows.prepare(connection)
            yield dsn
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def ground(server: str) -> Iterator[tuple[Ground, list[str]]]:
    """What a run needs; and what there is not, and why."""
    not_run = []
    with ExitStack() as stack:
        dsn = stack.enter_context(database(server))
        pooled = url = None
        if PROGRAM:
            through = stack.enter_context(pgbouncer(server))
            pooled = make_conninfo(through, dbname=psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
        else:
            not_run.append("through a pooler: pgbouncer is not installed")
        prefix = unique("freshness")
        with psycopg.connect(dsn, autocommit=True) as connection:
            for kind in PROMISED:
                connection.execute("SELECT pgcache.cache_near_on(%s)", [kind.type])
        if INSTALLED:
            url = stack.enter_context(redis_maker())().url
            with psycopg.connect(dsn, autocommit=True) as connection:
                options = [f"{BOUND} s", prefix]
                connection.execute(
                    "SELECT pgcache.cache_hot_configure(max_staleness => %s::interval, prefix => %s)", options
                )
                connection.execute("SELECT pgcache.cache_hot_on(%s)", [HOT.type])
        else:
            not_run.append("with Redis: redis-server is not installed")
        with psycopg.connect(dsn) as connection:
            watches = rows.watches(connection)
        yield Ground(dsn, pooled, url, prefix, BOUND, watches), not_run


class Run:
    """judged: the readers who may never get a stale value. near: how many processes only read what they keep."""

    def __init__(
        self, ground: Ground, seed: int, folder: Path, judged: tuple[str, ...] = PROMISED_TO, near: int = 0
    ) -> None:
        self.ground = ground
        self.seed = seed
        self.judged = judged
        self.chance = random.Random(f"{seed}/run")
        self.actors = [*ACTORS, *[clients.NearReader] * near]
        self.history = History(len(KINDS) * ROWS, len(self.actors), LABELS, folder)
        self._processes: dict[int, ForkProcess] = {}
        self._births = 0

    def start(self, number: int) -> None:
        self._births += 1
        seed = f"{self.seed}/{number}/{self._births}"

        def life() -> None:
            self.actors[number](self.ground, self.history, number, seed).life()

        self._processes[number] = FORK.Process(target=life, daemon=True)
        self._processes[number].start()

    def kill_a_reader(self) -> None:
        number = self.chance.choice([n for n, actor in enumerate(self.actors) if actor is readers.SqlReader])
        process = self._processes[number]
        if process.pid is not None and process.is_alive():
            kill(process.pid)
        process.join()
        self.history.log(number, "was killed", 0)
        self.start(number)

    def checked(self) -> int:
        return sum(self.history.total(label, "hits") for label in self.judged)

    def found(self) -> bool:
        return any(self.history.total(label, "stale") for label in self.judged)

    def go(self, seconds: float, checks: int, not_run: list[str]) -> Outcome:
        """For so long, or until so many reads are checked; until a stale one is found, at most."""
        with psycopg.connect(self.ground.dsn, autocommit=True) as connection:
            for kind in KINDS:
                for row in kind.rows:
                    found = connection.execute(rows.READ.format(kind.source).encode(), [row]).fetchone()
                    self.history.note(row, found[0] if found else 0)
        troubles = Troubles(self.ground, random.Random(f"{self.seed}/troubles"), self.kill_a_reader)
        began = monotonic()
        try:
            for number in range(len(self.actors)):
                self.start(number)
            while not (self.history.over or self.found()):
                if self.checked() >= checks if checks else monotonic() - began >= seconds:
                    break
                troubles.make()
                sleep(0.01)
                for number, process in self._processes.items():
                    if process.exitcode and not self.history.over:
                        self.history.fail(f"{self.actors[number].__name__} {number}", RuntimeError("has died"))
        finally:
            self.history.end()
            self.join()
            troubles.close()
        took = monotonic() - began
        at_rest, checked_at_rest = ([], 0) if self.found() or self.judged is not PROMISED_TO else self.at_rest()
        return Outcome(
            self.seed, took, self.history, troubles.made, not_run, self.history.stale(), self.history.failures(),
            self.invented(), at_rest, checked_at_rest, self.judged,
            {number: f"{actor.__name__} {number}" for number, actor in enumerate(self.actors)}, self.ground.bound,
        )  # fmt: skip

    def join(self) -> None:
        for number, process in self._processes.items():
            process.join(PATIENCE)
            if process.is_alive():
                self.history.fail(f"{self.actors[number].__name__} {number}", RuntimeError("does not come to an end"))
                process.kill()
                process.join()

    # Afterwards.

    def at_rest(self) -> tuple[list[str], int]:
        """What is still in the cache when nobody writes any more is what is in the source."""
        wrong, checked = [], 0

        def compare(where: str, entry: rows.Entry, value: Any, source: dict[str, int]) -> None:
            if value != {str(row): source[str(row)] for row in entry.rows}:
                wrong.append(f"{where}: {entry.key} is {value}, and the source has {source}")

        sleep(2 * self.ground.bound if self.ground.redis else 0)
        with psycopg.connect(self.ground.dsn, autocommit=True) as connection, ExitStack() as stack:
            found = connection.execute(
                "SELECT id::text, version FROM freshness.source"
                " UNION ALL SELECT id::text, version FROM freshness.watched"
            ).fetchall()
            source: dict[str, int] = dict(found)
            hybrid = None
            if self.ground.redis:
                options = clients.hybrid_options(self.ground)
                hybrid = stack.enter_context(HybridCache(self.ground.dsn, **options))
            for kind in PROMISED:
                for entry in kind.entries:
                    row = connection.execute(readers.GET, [entry.type, entry.key]).fetchone()
                    values = {"cache_get": row[0] if row else None}
                    if hybrid and kind is HOT:
                        values["HybridCache"] = hybrid.get(entry.type, entry.key)
                    for where, value in values.items():
                        if value is not None:
                            checked += 1
                            compare(where, entry, value, source)
        return wrong, checked

    def invented(self) -> list[int]:
        """Versions that were read from the cache, and that nobody has committed."""
        with psycopg.connect(self.ground.dsn) as connection:
            return self.history.seen_but_not(
                row[0] for row in connection.execute("SELECT version FROM freshness.committed")
            )


def run(
    server: str,
    *,
    seconds: float,
    checks: int = 0,
    seed: int | None = None,
    judged: tuple[str, ...] = PROMISED_TO,
    near: int = 0,
) -> Outcome:
    """On a server, whose superuser the conninfo is for."""
    seed = random.randrange(10**6) if seed is None else seed
    with tempfile.TemporaryDirectory() as folder, ground(server) as (place, not_run):
        return Run(place, seed, Path(folder), judged, near).go(seconds, checks, not_run)
