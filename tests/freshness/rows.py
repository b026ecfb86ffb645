"""What is cached: rows of a source, a few of each kind, and entries that are computed from them.

Kinds differ by what their entries depend on, and so by how a writer has to invalidate them. Each version of a row is a
number that comes from one sequence and is given once, so that a value tells which write it saw.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

# Of each kind: few, so that all meet.
ROWS = 6
SCHEMA = """
    CREATE SCHEMA freshness;
    CREATE SEQUENCE freshness.versions;
    CREATE TABLE freshness.source (id integer PRIMARY KEY, version bigint NOT NULL) WITH (fillfactor = 50);
    CREATE TABLE freshness.watched (LIKE freshness.source INCLUDING ALL);
    CREATE TABLE freshness.committed (version bigint NOT NULL, id integer NOT NULL);
"""
FILL = """
    WITH first AS (
        INSERT INTO {} SELECT id, nextval('freshness.versions') FROM generate_series(%s::integer, %s) id RETURNING *
    )
    INSERT INTO freshness.committed SELECT version, id FROM first
"""
# Who has waited for another one's commit computes the row anew, and so gets a higher number.
WRITE = """
    WITH written AS (
        UPDATE {} SET version = nextval('freshness.versions') WHERE id = %s RETURNING version, id
    )
    INSERT INTO freshness.committed SELECT version, id FROM written RETURNING version
"""
READ = "SELECT version FROM {} WHERE id = %s"
READ_MANY = "SELECT id, version FROM {} WHERE id = ANY(%s)"

Value = dict[str, int]  # the version of each row
Way = Callable[["Kind", int], tuple[str, list[Any]]]


@dataclass(frozen=True)
class Entry:
    """What is computed from some rows of a table. tags: what says that one of them has changed."""

    type: str
    key: str
    rows: tuple[int, ...]
    tags: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Kind:
    """Some rows. tagged: whether entries have tags. several: each is computed from three rows. hot: in the hot tier.
    watched: whether the table says itself what has changed.
    """

    name: str
    number: int
    tagged: bool = False
    several: bool = False
    hot: bool = False
    watched: bool = False

    @property
    def source(self) -> str:
        return "freshness.watched" if self.watched else "freshness.source"

    @property
    def type(self) -> str:
        return f"fresh_{self.name}"

    @property
    def rows(self) -> range:
        return range(self.number * ROWS, (self.number + 1) * ROWS)

    def tag(self, row: int) -> str:
        return f"{self.name}:{row}"

    def entry(self, row: int) -> Entry:
        rows = tuple(self.rows[(row + step) % ROWS] for step in range(3)) if self.several else (row,)
        return Entry(
            self.type, f"{self.name} {row}", rows, tuple(map(self.tag, rows)) if self.tagged else (), self.source
        )

    @property
    def entries(self) -> list[Entry]:
        return [self.entry(row) for row in self.rows]


KEYED = Kind("keyed", 0)
TAGGED = Kind("tagged", 1, tagged=True)
SEVERAL = Kind("several", 2, tagged=True, several=True)
HOT = Kind("hot", 3, hot=True)
ASIDE = Kind("aside", 4)
PLAIN = Kind("plain", 5)
WATCHED = Kind("watched", 6, tagged=True, watched=True)
PROMISED = (KEYED, TAGGED, SEVERAL, HOT, WATCHED)
# What the others do, for comparison.
COMPARED = (ASIDE, PLAIN)
KINDS = (*PROMISED, *COMPARED)


# How a writer invalidates what depends on a row, in the transaction in which it changes the row.


def delete(kind: Kind, row: int) -> tuple[str, list[Any]]:
    return "SELECT pgcache.cache_delete(%s, %s)", [kind.type, kind.entry(row).key]


def delete_many(kind: Kind, row: int) -> tuple[str, list[Any]]:
    keys = [kind.entry(row).key, "absent", kind.entry(kind.rows[0]).key]
    return "SELECT pgcache.cache_delete_many(%s, %s)", [kind.type, keys]


def delete_pattern(kind: Kind, row: int) -> tuple[str, list[Any]]:
    return "SELECT pgcache.cache_delete_pattern(%s, %s)", [kind.type, f"{kind.name} {str(row)[0]}%"]


def clear(kind: Kind, row: int) -> tuple[str, list[Any]]:
    return "SELECT pgcache.cache_clear(%s)", [kind.type]


def bump(kind: Kind, row: int) -> tuple[str, list[Any]]:
    return "SELECT pgcache.cache_invalidate_tags(%s)", [kind.tag(row)]


def bump_group(kind: Kind, row: int) -> tuple[str, list[Any]]:
    return "SELECT pgcache.cache_invalidate_tags('other', %s)", [f"{kind.name}:*"]


def store(kind: Kind, row: int) -> tuple[str, list[Any]]:
    """The new value, of one row: at the end of the transaction, as it needs the version."""
    entry = kind.entry(row)
    return (
        "SELECT pgcache.cache_set(%s, %s, (SELECT jsonb_build_object(s.id::text, s.version) FROM freshness.source s"
        " WHERE s.id = %s), tags => %s)",
        [kind.type, entry.key, row, list(entry.tags) or None],
    )


# A deletion removes what it sees. In REPEATABLE READ that is not what was stored since the snapshot of its transaction:
# that of a key fails then, that of many keys does not. Where others store without a token, it has to come after the row
# is written, and so locked.
WAYS: dict[str, Sequence[Way]] = {
    KEYED.name: [delete] * 8 + [delete_many] * 4 + [delete_pattern, clear],
    TAGGED.name: [bump] * 8 + [bump_group, delete, store],
    SEVERAL.name: [bump] * 9 + [bump_group],
    HOT.name: [delete] * 6 + [delete_many] * 2 + [store] * 3 + [delete_pattern],
    PLAIN.name: [delete],
    ASIDE.name: [],
    WATCHED.name: [],
}
KEEPING_A_SNAPSHOT: dict[str, Sequence[Way]] = {
    KEYED.name: [delete] * 3 + [delete_many],
    TAGGED.name: [bump, bump, store],
    SEVERAL.name: [bump],
    HOT.name: [delete, store],
    WATCHED.name: [],
}
EARLY = (bump, bump_group)


def ways(kind: Kind, level: str, chance: random.Random) -> list[Way]:
    """How to invalidate a row this time."""
    possible = (WAYS if level == "READ COMMITTED" else KEEPING_A_SNAPSHOT)[kind.name]
    if not possible:
        return []
    way = chance.choice(possible)
    # To store the value alone would leave valid, by its other tags, what others compute from the row.
    return [bump, way] if kind.tagged and way in (store, delete) else [way]


def may_come_first(kind: Kind, ways: Sequence[Way]) -> bool:
    """Whether it may be done before the row is written."""
    return store not in WAYS[kind.name] or all(way in EARLY for way in ways)


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Make the source and the types, in a database with pgcache."""
    connection.execute(SCHEMA.encode())
    for kind in KINDS:
        connection.execute(FILL.format(kind.source).encode(), [kind.rows[0], kind.rows[-1]])
        if kind is not ASIDE:
            connection.execute("SELECT pgcache.cache_create_type(%s)", [kind.type])
    if watches(connection):
        connection.execute("SELECT pgcache.cache_watch('freshness.watched', %s)", [f"{WATCHED.name}:{{id}}"])


def watches(connection: psycopg.Connection[Any]) -> bool:
    """Whether tables can be watched. If not, writers have to say what they change."""
    found = connection.execute("SELECT FROM pg_proc WHERE proname = 'cache_watch'")
    return found.fetchone() is not None
