"""Those who read what is cached, compute what is not, and check what they get."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

import redis

from tests.freshness.actor import Actor, Ground, Line
from tests.freshness.history import History, Stale
from tests.freshness.rows import ASIDE, PLAIN, PROMISED, READ, READ_MANY, Entry, Kind, Value

FETCH = (
    "SELECT value, state, token FROM pgcache.cache_fetch(%s, %s, tags => %s, stale_for => %s, wait => %s, lease => %s)"
)
SET = "SELECT pgcache.cache_set(%s, %s, %s, ttl => %s, tags => %s, token => %s)"
RELEASE = "SELECT pgcache.cache_release(%s, %s, %s)"
GET = "SELECT pgcache.cache_get(%s, %s)"
GET_MANY = "SELECT pgcache.cache_get_many_json(%s, %s)"
# How long a fetch takes that has waited for another one, at least.
WAITED = 0.01
KEEPS = ("REPEATABLE READ", "SERIALIZABLE")

FETCHES = "cache_fetch"
GETS = "cache_get"
GETS_MANY = "cache_get_many_json"
INSIDE = "in a transaction"
READ_ONLY = "READ ONLY"
SNAPSHOT = "REPEATABLE READ, SERIALIZABLE"
POOLED = "PgBouncer"
FROM_SQL = (FETCHES, GETS, GETS_MANY, INSIDE, READ_ONLY, SNAPSHOT, POOLED)
BY_ASIDE = "cache-aside on Redis"
BY_PLAIN = "cache_get, then cache_set"
COMPARED = {BY_ASIDE: ASIDE, BY_PLAIN: PLAIN}


class Late(NamedTuple):
    """A token that is used long after."""

    entry: Entry
    token: int | None
    value: Value
    tags: list[str] | None


class Checks(Actor):
    """What each reader does with what it gets."""

    def floors(self, entry: Entry) -> Value:
        """To be asked before a read begins."""
        return {str(row): self.history.committed(row) for row in entry.rows}

    def check(self, label: str, entry: Entry, value: Value, floors: Value, began: float) -> None:
        """Count a read that the cache has answered, and what is wrong with it."""
        self.count(label, "hits")
        for row in entry.rows:
            self.history.seen[value[str(row)]] = 1
            self.log("read from the cache", row, value[str(row)])
        self.compare(label, entry, value, floors, began, "a version that was committed before the read began")

    def compare(self, label: str, entry: Entry, value: Value, least: Value, began: float, why: str) -> None:
        ended = monotonic()
        old = [row for row in entry.rows if value[str(row)] < least[str(row)]]
        if old:
            version, expected = value[str(old[0])], least[str(old[0])]
            self.count(label, "stale")
            self.log("READ A STALE VALUE", old[0], version)
            self.history.report(Stale(label, self.number, old[0], version, expected, began, ended, why))

    def read_source(self, line: Line, entry: Entry, *, statement_each: bool = False) -> Value:
        """Compute the value of an entry."""
        if statement_each and len(entry.rows) > 1:
            value = {}
            for row in entry.rows:
                value[str(row)] = line.row(READ.format(entry.source), row)[0]
                self.pause()
        else:
            value = {str(row): version for row, version in line.rows(READ_MANY.format(entry.source), list(entry.rows))}
        for row in entry.rows:
            self.log("read from the source", row, value[str(row)])
        return value


class SqlReader(Checks):
    """Reads through functions of SQL, in sessions and transactions of several kinds. It may be killed at any moment."""

    def __init__(self, ground: Ground, history: History, number: int, seed: str) -> None:
        super().__init__(ground, history, number, seed)
        self.direct = Line(ground.dsn)
        self.pooled = Line(ground.pooled, pooled=True) if ground.pooled else None
        self.late: list[Late] = []
        self.ways: dict[str, Callable[[str, Line], None]] = {
            FETCHES: self.fetch,
            GETS: self.get,
            GETS_MANY: self.get_many,
            INSIDE: self.inside,
            READ_ONLY: self.read_only,
            SNAPSHOT: self.in_a_snapshot,
            POOLED: self.through_the_pooler,
        }
        self.shares = [8, 10, 24, 2, 1, 2, 3 if self.pooled else 0]

    def act(self) -> None:
        label = self.chance.choices(list(self.ways), self.shares)[0]
        line = self.pooled if label == POOLED and self.pooled else self.direct
        self.guarded(label, line, lambda: self.ways[label](label, line))

    def some_entry(self) -> Entry:
        kind: Kind = self.chance.choice(PROMISED)
        return self.chance.choice(kind.entries)

    def fetch(self, label: str, line: Line, entry: Entry | None = None, *, keeps: str | None = None) -> None:
        """The protocol: what cache_fetch returns or, with its token, what is computed now.

        keeps: compute and store in a transaction of this level.
        """
        chance = self.chance
        if self.late and chance.random() < 0.1:
            self.come_late(label, line)
        entry = entry or self.some_entry()
        # Tags are known beforehand, or found out by computing.
        beforehand = chance.random() < 0.7
        floors, began = self.floors(entry), monotonic()
        value, state, token = line.row(
            FETCH,
            entry.type,
            entry.key,
            list(entry.tags) if beforehand else [],
            chance.choice((None, "2 seconds")),
            chance.choice(("0", "0.02 seconds", "0.5 seconds")),
            chance.choice(("0.05 seconds", "0.3 seconds")),
        )
        self.count(label, "reads")
        if value is not None:
            self.check(label, entry, value, floors, began)
            if monotonic() - began > WAITED:
                self.count(label, "waits")
        if state == "busy":
            self.count(label, "busy")
        if token is not None:
            for row in entry.rows:
                self.log("claimed the lease, number", row, token=token)
        if value is None or token is not None:
            tags = None if beforehand else list(entry.tags) or None
            self.compute(label, line, entry, token, tags, keeps)

    def compute(
        self, label: str, line: Line, entry: Entry, token: int | None, tags: list[str] | None, keeps: str | None
    ) -> None:
        if keeps:
            line.run(f"BEGIN ISOLATION LEVEL {keeps}")
        value = self.read_source(line, entry, statement_each=self.chance.random() < 0.5)
        self.pause()
        if token is not None:
            number = self.chance.random()
            if number < 0.04:
                self.count(label, "lost")
                self.log("lost the lease on purpose", entry.rows[0], token=token)
            elif number < 0.1:
                self.late.append(Late(entry, token, value, tags))
            elif number < 0.13:
                line.row(RELEASE, entry.type, entry.key, token)
            else:
                self.store(label, line, Late(entry, token, value, tags))
        if keeps:
            line.run("COMMIT")

    def store(self, label: str, line: Line, late: Late) -> None:
        entry, token, value, tags = late
        ttl = self.chance.choice((None, None, "1 second", "1 hour"))
        stored = line.row(SET, entry.type, entry.key, json.dumps(value), ttl, tags, token)[0]
        self.count(label, "fills" if stored else "refused")
        for row in entry.rows:
            self.log("stored" if stored else "was refused", row, value[str(row)], token)

    def come_late(self, label: str, line: Line) -> None:
        """Use a token from long ago. What it stored then, if anything, is checked by all readers."""
        self.store(label, line, self.late.pop(self.chance.randrange(len(self.late))))

    def get(self, label: str, line: Line) -> None:
        entry = self.some_entry()
        floors, began = self.floors(entry), monotonic()
        value = line.row(GET, entry.type, entry.key)[0]
        self.count(label, "reads")
        if value is not None:
            self.check(label, entry, value, floors, began)

    def get_many(self, label: str, line: Line) -> None:
        kind: Kind = self.chance.choice(PROMISED)
        entries = {entry.key: entry for entry in kind.entries}
        floors, began = {key: self.floors(entry) for key, entry in entries.items()}, monotonic()
        found = line.row(GET_MANY, kind.type, list(entries))[0]
        for key, entry in entries.items():
            self.count(label, "reads")
            if key in found:
                self.check(label, entry, found[key], floors[key], began)

    def inside(self, label: str, line: Line) -> None:
        """Statements of one transaction, each of which sees what is committed by then."""
        line.run("BEGIN")
        for _ in range(self.chance.randint(1, 3)):
            self.chance.choice((self.fetch, self.get))(label, line)
        line.run(self.chance.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")))

    def read_only(self, label: str, line: Line) -> None:
        line.run("BEGIN READ ONLY")
        self.late, late = [], self.late
        try:
            for _ in range(self.chance.randint(1, 3)):
                self.chance.choice((self.fetch, self.get))(label, line)
        finally:
            self.late = late
        line.run("COMMIT")

    def through_the_pooler(self, label: str, line: Line) -> None:
        number = self.chance.random()
        way = self.inside if number < 0.2 else self.fetch if number < 0.6 else self.get
        way(label, line)

    def in_a_snapshot(self, label: str, line: Line) -> None:
        """In the same snapshot the cache and the source show the same version."""
        level = self.chance.choice(KEEPS)
        if self.chance.random() < 0.1:
            self.fetch(label, line, keeps=level)
            return
        entries = [self.some_entry() for _ in range(self.chance.randint(1, 3))]
        floors, began = [self.floors(entry) for entry in entries], monotonic()
        line.run(f"BEGIN ISOLATION LEVEL {level}")
        for entry, least in zip(entries, floors, strict=True):
            if self.chance.random() < 0.5:
                value = line.row(GET, entry.type, entry.key)[0]
            else:
                value = line.row(FETCH, entry.type, entry.key, list(entry.tags), None, "0", "1 second")[0]
            self.count(label, "reads")
            source = self.read_source(line, entry)
            if value is not None:
                self.check(label, entry, value, least, began)
                self.compare(label, entry, value, source, began, "what the same snapshot shows in the source")
                if any(value[row] > source[row] for row in source):
                    raise AssertionError(f"{label}: {value} in the cache, {source} in the source of the same snapshot")
            elif entry.tags and self.chance.random() < 0.5:
                self.pause()
                self.store(label, line, Late(entry, None, source, list(entry.tags)))
            self.pause()
        line.run("COMMIT")


class ComparedReader(Checks):
    """Reads as one does without leases: from the cache, or else from the source, and into the cache."""

    def __init__(self, ground: Ground, history: History, number: int, seed: str) -> None:
        super().__init__(ground, history, number, seed)
        self.line = Line(ground.dsn)
        self.redis = redis.Redis.from_url(ground.redis) if ground.redis else None
        self.labels = [label for label in COMPARED if self.redis or label != BY_ASIDE]

    def act(self) -> None:
        label = self.chance.choice(self.labels)
        self.guarded(label, self.line, lambda: self.read(label))

    def read(self, label: str) -> None:
        entry = self.chance.choice(COMPARED[label].entries)
        get, set = (self.get_aside, self.set_aside) if label == BY_ASIDE else (self.get_plain, self.set_plain)
        floors, began = self.floors(entry), monotonic()
        value = get(entry)
        self.count(label, "reads")
        if value is not None:
            self.check(label, entry, value, floors, began)
            return
        value = self.read_source(self.line, entry)
        self.pause()
        set(entry, value)
        self.count(label, "fills")
        self.log("stored", entry.rows[0], value[str(entry.rows[0])])

    def get_aside(self, entry: Entry) -> Value | None:
        assert self.redis is not None
        data: Any = self.redis.get(f"{self.ground.prefix}:{entry.key}")
        return None if data is None else json.loads(data)

    def set_aside(self, entry: Entry, value: Value) -> None:
        assert self.redis is not None
        self.redis.set(f"{self.ground.prefix}:{entry.key}", json.dumps(value))

    def get_plain(self, entry: Entry) -> Value | None:
        value: Value | None = self.line.row(GET, entry.type, entry.key)[0]
        return value

    def set_plain(self, entry: Entry, value: Value) -> None:
        self.line.row("SELECT pgcache.cache_set(%s, %s, %s)", entry.type, entry.key, json.dumps(value))
