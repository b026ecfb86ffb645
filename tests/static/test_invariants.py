"""The check that each test's database undergoes in the end notices what it should: each invariant broken once."""

from __future__ import annotations

from collections.abc import Collection

import psycopg
import pytest

from tests.conftest import fresh_database
from tests.servers import Server
from tests.tools import invariants
from tests.tools.invariants import excused
from tests.tools.session import Session

pytestmark = pytest.mark.once
# What is in a database before it is spoilt: a type with a limit, one that evicts nothing, one in the hot tier with a
# change that waits; each with an entry, and a hit of one.
THINGS = """
    SELECT cache_create_type('mine', max_entries => 100, max_bytes => 1000000),
        cache_create_type('full', max_entries => 3, eviction => 'none'), cache_hot_on('store');
    SELECT cache_set(type, 'k', '1') FROM unnest('{mine,full,store}'::text[]) type;
    SELECT cache_get('mine', 'k'), pgcache_internal.measure('mine'), pgcache_internal.settle_counters();
"""
COPIES = "INSERT INTO {} (type, cache_key, data) SELECT '{}', 'c' || i, '1' FROM generate_series(1, {}) i"
OUTBOX = "pgcache_internal.change_log (type, tenant, cache_key, version, noted_at)"
# What is done -> what is said of it.
SPOILT = {
    "INSERT INTO pgcache_internal.room_due VALUES ('1', 'mine', 1, false)": "room: due after",
    "CREATE UNLOGGED SEQUENCE pgcache_internal.hits_gone": "counters: not those of the types",
    "DROP SEQUENCE pgcache_internal.hand_store": "counters: not those of the types",
    "DELETE FROM pgcache_internal.counter_totals WHERE type = 'mine'": "counters: more is settled",
    "UPDATE pgcache_internal.counter_totals SET total = 0": "counters: more is settled",
    "SELECT setval(pgcache_internal.sequence_of('mine', 'hits'), 0)": "counters: more is settled",
    "UPDATE cache_type_mine SET hit_count = 2": "counters: entries have more hits",
    "INSERT INTO pgcache_internal.hit_log VALUES ('mine', '', 'k', 1, now())": "counters: entries have more hits",
    COPIES.format("cache_store", "mine", 20): "counters: more entries have come",
    COPIES.format("cache_store", "full", 2): "counters: more entries have come",
    # What count_entries says, which is compared with the table, and is of the newest types.
    """DO $$ BEGIN EXECUTE replace(pg_get_functiondef('pgcache_internal.count_entries'::regproc),
        'count(*) as entries', 'count(*) + 1 as entries'); END $$""": "counters: what is counted is not what is there",
    COPIES.format("cache_store", "mine", 110) + "; SELECT pgcache_internal.set_counter('mine', 'entries', 110)":
        "limits: more than max_entries",
    COPIES.format("cache_store", "full", 3) + "; SELECT pgcache_internal.set_counter('full', 'entries', 3)":
        "limits: more than max_entries",
    "UPDATE pgcache_internal.types SET max_bytes = 90 WHERE type = 'mine';"
    "SELECT pgcache_internal.set_counter('mine', 'bytes', 1)": "limits: more than max_bytes",
    f"INSERT INTO {OUTBOX} VALUES ('mine', '', 'k', 1, now())": "outbox: of a type that is not",
    f"INSERT INTO {OUTBOX} VALUES ('store', '', 'k', 9, now())": "outbox: of a version that was not given",
    f"INSERT INTO {OUTBOX} VALUES ('store', '', 'k', 1, now())": "outbox: of a version of another change",
    f"INSERT INTO {OUTBOX} VALUES ('store', '', 'k', 1, now() + '1 hour')": "outbox: of the future",
    "DROP TRIGGER hot_note_gone ON cache_type_store": "outbox: triggers not those",
    "ALTER TABLE cache_type_store ENABLE TRIGGER hot_note": "outbox: triggers not those",
    "DELETE FROM pgcache_internal.hot_types; DELETE FROM pgcache_internal.change_log": "outbox: triggers not those",
    "DELETE FROM pgcache_internal.change_log": "outbox: a change is not in it",
    "ALTER TABLE cache_type_store DISABLE TRIGGER ALL; UPDATE cache_type_store SET version = 9":
        "outbox: an entry has a version",
}  # fmt: skip


def spoil(server: Server, admin: psycopg.Connection, statements: str = "", breaks: Collection[str] = ()) -> None:
    with fresh_database(server, admin, breaks=breaks) as dsn:
        session = Session(dsn)
        session.connection.execute(THINGS.encode())
        session.connection.execute(statements.encode())
        session.close()


def test_as_it_is_it_holds(server: Server, admin: psycopg.Connection) -> None:
    spoil(server, admin)


@pytest.mark.parametrize(("statements", "said"), SPOILT.items(), ids=range(len(SPOILT)))
def test_what_is_spoilt_is_noticed(server: Server, admin: psycopg.Connection, statements: str, said: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=said):
        spoil(server, admin, statements)
    spoil(server, admin, statements, breaks=[said.partition(":")[0]])


def test_what_is_left_is_noticed(server: Server, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "PATIENCE", 0.1)
    with fresh_database(server, admin) as dsn:
        session = Session(dsn)
        session("SELECT pg_advisory_lock(1)")
        with pytest.raises(pytest.fail.Exception, match=r"(?s)sessions: .*pg_advisory_lock.*locks: .*advisory"):
            invariants.check(dsn, admin)
        session.close()


def test_a_mark_says_what_and_why(request: pytest.FixtureRequest) -> None:
    mark = pytest.mark.breaks("room", why="for this test")
    request.node.add_marker(mark)
    assert excused(request.node) == {"room"}
    for wrong in (pytest.mark.breaks("rooms", why="there are none"), pytest.mark.breaks("room")):
        request.node.add_marker(wrong)
        with pytest.raises(pytest.UsageError):
            excused(request.node)
        request.node.own_markers.pop()
