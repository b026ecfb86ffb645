"""Those who change rows, and invalidate what depends on them in the same transaction."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import redis

from tests.freshness import rows
from tests.freshness.actor import Actor, Ground, Line, cut_off, in_conflict
from tests.freshness.history import History
from tests.freshness.rows import ASIDE, KINDS, WRITE, Kind

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
POOLED = "PgBouncer"
LABELS = tuple(f"writes, {where}" for where in (*LEVELS, POOLED))


class Writer(Actor):
    """Changes a row a few times in a row, then leaves it alone, so that what is stale stays for others to see."""

    def __init__(self, ground: Ground, history: History, number: int, seed: str) -> None:
        super().__init__(ground, history, number, seed)
        self.direct = Line(ground.dsn)
        self.pooled = Line(ground.pooled, pooled=True) if ground.pooled else None
        self.redis = redis.Redis.from_url(ground.redis) if ground.redis else None
        self.kinds = [kind for kind in KINDS if self.redis or kind is not ASIDE]

    def act(self) -> None:
        kind = self.chance.choice(self.kinds)
        row = self.chance.choice(kind.rows)
        for _ in range(self.chance.randint(1, 5)):
            self.write(kind, row)
            self.pause()
        time.sleep(0.03 * self.chance.random())

    def write(self, kind: Kind, row: int) -> None:
        level = self.chance.choices(LEVELS, (80, 14, 6))[0] if kind.name in rows.KEEPING_A_SNAPSHOT else LEVELS[0]
        line = self.pooled if self.pooled and self.chance.random() < 0.2 else self.direct
        label = f"writes, {level}" if line is self.direct or level != LEVELS[0] else f"writes, {POOLED}"
        # In a fixed order, as two who lock rows in both would wait for each other.
        changed = sorted({row, self.chance.choice(kind.rows)}) if self.chance.random() < 0.15 else [row]
        self.count(label, "begun")
        self.guarded(label, line, lambda: self.transaction(kind, changed, level, label, line))

    def transaction(self, kind: Kind, changed: list[int], level: str, label: str, line: Line) -> None:
        chance = self.chance
        line.run(f"BEGIN ISOLATION LEVEL {level}")
        self.log("began a transaction", changed[0])
        if chance.random() < 0.3:
            line.row("SELECT count(*) FROM freshness.source")  # its snapshot, or some work
            self.pause()
        if chance.random() < 0.15:
            line.run("SAVEPOINT s")
            self.change(kind, changed, level, line)
            line.run("ROLLBACK TO SAVEPOINT s")
            for row in changed:
                self.log("rolled back to its savepoint", row)
        versions = self.change(kind, changed, level, line)
        if chance.random() < 0.04:
            time.sleep(0.2 * chance.random())
        if chance.random() < 0.15:
            line.run("ROLLBACK")
            for row in changed:
                self.log("rolled back", row)
            return
        try:
            line.run("COMMIT")
        except psycopg.Error as error:
            if in_conflict(error) or not cut_off(error):
                raise
            if not self.was_committed(versions):
                raise
        self.count(label, "committed")
        if kind is ASIDE:
            self.discard(kind, changed)
        for row in changed:
            self.log("committed", row, versions[row])
            self.history.note(row, versions[row])

    def change(self, kind: Kind, changed: list[int], level: str, line: Line) -> dict[int, int]:
        """Write them, and invalidate before or after; returns the versions."""
        versions = {}
        for row in changed:
            ways = rows.ways(kind, level, self.chance)
            if kind.watched and not self.ground.watches:
                ways = [rows.bump]
            early = self.chance.random() < 0.3 and rows.may_come_first(kind, ways)
            if early:
                self.invalidate(kind, row, ways, line)
            versions[row] = int(line.row(WRITE.format(kind.source), row)[0])
            self.log("wrote", row, versions[row])
            self.pause()
            if not early:
                self.invalidate(kind, row, ways, line)
        return versions

    def invalidate(self, kind: Kind, row: int, ways: list[rows.Way], line: Line) -> None:
        for way in ways:
            statement, arguments = way(kind, row)
            line.row(statement, *arguments)
            self.log("invalidated", row)
            self.pause()

    def was_committed(self, versions: dict[int, int]) -> bool:
        """Whether a COMMIT that nobody has answered has happened."""
        for row in versions:
            self.log("was cut off in its COMMIT", row)
        look = Line(self.ground.dsn)
        found: list[Any] = look.rows("SELECT FROM freshness.committed WHERE version = ANY(%s)", list(versions.values()))
        look.connection.close()
        return bool(found)

    def discard(self, kind: Kind, changed: list[int]) -> None:
        """What cache-aside does after the commit. Only once that is done the version counts."""
        assert self.redis is not None
        self.redis.delete(*(f"{self.ground.prefix}:{kind.entry(row).key}" for row in changed))
