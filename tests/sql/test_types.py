"""Types that users create, and what can be configured."""

from __future__ import annotations

import threading

import psycopg
import pytest

from pgcache_py.errors import UnknownTypeError, translated
from tests.conftest import NewRole, NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once, wait_until


def test_create_with_defaults(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    row = ask.row("SELECT * FROM pgcache_internal.types WHERE type = 'mine'")
    assert (row["builtin"], row["eviction"], row["hit_tracking"], row["durable"], row["enabled"]) == (
        False, "lru", "sampled", True, True,
    )  # fmt: skip
    assert (str(row["ttl"]), row["max_entries"], row["max_bytes"]) == ("1:00:00", None, 4 << 30)
    assert ask.stats("mine")["entries"] == 0


def test_create_with_everything(ask: Session) -> None:
    ask("SELECT cache_create_type('m', '5 minutes', 100, 100000, 'fifo', 'exact', false, true)")
    ask("SELECT cache_create_type('n', ttl => NULL, max_bytes => NULL)")
    stats = ask.stats("m")
    assert (stats["eviction"], stats["durable"], stats["max_entries"], stats["max_bytes"]) == (
        "fifo",
        False,
        100,
        100000,
    )
    assert ask("SELECT relpersistence FROM pg_class WHERE oid = 'cache_type_m'::regclass") == "u"
    assert ask("SELECT cache_set('m', 'k', '1')")
    assert ask("SELECT cache_ttl('m', 'k') <= '5 minutes'")
    assert ask("SELECT cache_set('n', 'k', '1')")
    assert ask("SELECT cache_ttl('n', 'k')") is None
    assert (ask.stats("n")["ttl"], ask.stats("n")["max_bytes"]) == (None, None)


# Names that meet those of tables, sequences, indexes and keywords of ours, and of PostgreSQL's.
NAMES = [
    "a", "a" * 40, "x_1_2", "select", "user", "table", "null", "log", "totals", "seen", "type", "types", "entries",
    "octets", "hits", "stats", "value", "tenant", "a_pkey",
]  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_any_name_works(shared: Session, name: str) -> None:
    shared("SELECT cache_create_type(%s, max_entries => 40)", name)
    for key in "abcdefgh":
        assert shared("SELECT cache_set(%s, %s, '1')", name, key)
    assert shared("SELECT cache_get(%s, 'h')", name) == 1
    assert shared("SELECT cache_add(%s, 'n', '1')", name)
    assert shared("SELECT cache_incr(%s, 'n')", name) == 2
    assert shared("SELECT cache_set_many(%s, '{a,b}', '{1,2}')", name) == 2
    assert shared("SELECT count(*) FROM cache_get_many(%s, '{a,b,x}')", name) == 3
    shared("SELECT cache_cleanup(%s)", name)
    assert shared.stats(name)["entries"] == 9
    assert shared.stats(name)["hits"] >= 1
    shared("SELECT cache_configure(%s, max_entries => 30, durable => false)", name)
    shared("CALL cache_upkeep()")
    shared("SELECT cache_drop_type(%s)", name)
    shared("SELECT cache_create_type(%s)", name)
    shared("SELECT cache_set(%s, 'k', '1')", name)
    shared("SELECT cache_drop_type(%s)", name)


def test_names_that_end_alike_live_side_by_side(ask: Session) -> None:
    for name in ("a_pkey", "a", "hits_a", "a_hits"):
        ask("SELECT cache_create_type(%s)", name)
        ask("SELECT cache_set(%s, 'k', to_jsonb(%s::text))", name, name)
    for name in ("a_pkey", "a", "hits_a", "a_hits"):
        assert ask("SELECT cache_get(%s, 'k')", name) == name


def test_names_that_our_tables_and_indexes_have_are_refused(ask: Session) -> None:
    ask("SELECT cache_create_type('a')")
    for name in ("store_pkey", "a_pkey"):
        with refused("PC010", "another name"):
            ask("SELECT cache_create_type(%s)", name)


def test_creating_a_type_waits_for_no_writer(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    with other.transaction():
        other("SELECT cache_set('store', 'k', '1'), cache_live('store')")
        ask("SET lock_timeout = '1s'")
        ask("SELECT cache_create_type('mine', max_entries => 10)")
        assert ask("SELECT cache_set('mine', 'k', '1')")
        other("COMMIT")


def test_drop(ask: Session) -> None:
    before = ask.rows(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text ~ '^pgcache' ORDER BY 1"
    )
    ask("SELECT cache_create_type('mine')")
    ask("SELECT cache_set('mine', 'k', '1'), cache_get('mine', 'k'), cache_get('mine', 'absent')")
    ask("CALL cache_upkeep()")
    ask("SELECT cache_get('mine', 'k')")
    ask("SELECT cache_drop_type('mine')")
    after = ask.rows(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace::regnamespace::text ~ '^pgcache' ORDER BY 1"
    )
    assert after == before
    assert ask("SELECT count(*) FROM cache_store") == 0
    for table in ("counter_totals", "counters_seen", "tenant_savings", "hit_log", "stats_snapshots"):
        assert ask(f"SELECT count(*) FROM pgcache_internal.{table} WHERE type = 'mine'") == 0
    assert ask("SELECT count(*) FROM cache_stats WHERE type = 'mine'") == 0
    with refused("PC001"):
        ask("SELECT cache_get('mine', 'k')")
    ask("SELECT cache_create_type('mine')")
    stats = ask.stats("mine")
    assert (stats["entries"], stats["hits"], stats["misses"]) == (0, 0, 0)
    ask("CALL cache_upkeep()")


def test_many_create_the_same_type_at_once(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(5)]

    def create(session: Session) -> str:
        try:
            session("SELECT cache_create_type('mine')")
        except Exception as error:
            return str(getattr(error, "sqlstate", error))
        return "created"

    results = at_once(*(lambda session=session: create(session) for session in sessions))
    assert sorted(results) == ["PC007"] * 4 + ["created"]
    assert sessions[0]("SELECT cache_set('mine', 'k', '1')")


def test_a_create_that_rolls_back_leaves_nothing(ask: Session) -> None:
    with ask.transaction():
        ask("SELECT cache_create_type('mine')")
        assert ask("SELECT cache_set('mine', 'k', '1')")
        assert ask("SELECT cache_get('mine', 'k')") == 1
    assert ask("SELECT count(*) FROM cache_stats WHERE type = 'mine'") == 0
    with refused("PC001"):
        ask("SELECT cache_get('mine', 'k')")
    ask("SELECT cache_create_type('mine')")


def test_configure_changes_what_it_is_told_and_nothing_else(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', '5 minutes', 100, 200000, 'fifo', 'exact', false)")
    before = ask.row("SELECT * FROM pgcache_internal.types WHERE type = 'mine'")
    ask("SELECT cache_configure('mine')")
    assert ask.row("SELECT * FROM pgcache_internal.types WHERE type = 'mine'") == before
    ask("SELECT cache_configure('mine', ttl => '1 hour', eviction => 'cost')")
    after = ask.row("SELECT * FROM pgcache_internal.types WHERE type = 'mine'")
    assert {name for name in after if after[name] != before[name]} == {"ttl", "eviction"}
    ask("SELECT cache_configure('mine', reset => '{ttl,max_entries,max_bytes}')")
    after = ask.row("SELECT ttl, max_entries, max_bytes FROM pgcache_internal.types WHERE type = 'mine'")
    assert after == {"ttl": None, "max_entries": None, "max_bytes": None}


def test_a_new_default_ttl_is_for_what_is_written_from_now_on(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    for session in (ask, other):
        session.set_clock("2030-01-01")
        session("SELECT cache_set('store', 'k', '1'), cache_set('llm', 'k', '{\"response\": \"r\"}')")
    ask("SELECT cache_configure('store', ttl => '5 minutes'), cache_configure('llm', ttl => '6 minutes')")
    assert ask("SELECT cache_ttl('store', 'k')::text") == "01:00:00"
    for session in (ask, other):  # whatever plans the session has kept
        session("SELECT cache_set('store', 'k', '1'), cache_set('llm', 'k', '{\"response\": \"r\"}')")
        assert session("SELECT cache_ttl('store', 'k')::text") == "00:05:00"
        assert session("SELECT cache_ttl('llm', 'k')::text") == "00:06:00"
        session("SELECT cache_set_many('store', '{k}', '{1}'), cache_incr('store', 'n')")
        assert session("SELECT cache_ttl('store', 'k')::text") == "00:05:00"
        assert session("SELECT cache_ttl('store', 'n')::text") == "00:05:00"


@pytest.mark.once
@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_durable_can_be_changed_back_and_forth(shared: Session, type: str) -> None:
    shared("SELECT cache_set(%s, 'k', %s)", type, VALUES.get(type, ["1"])[0])
    for durable in (False, True, True, False):
        shared("SELECT cache_configure(%s, durable => %s)", type, durable)
        assert shared.stats(type)["durable"] is durable
        persistence = (
            "SELECT relpersistence FROM pg_class c, pgcache_internal.types t WHERE c.oid = t.relation AND type = %s"
        )
        assert shared(persistence, type) == ("p" if durable else "u")
        assert shared("SELECT cache_get(%s, 'k') IS NOT NULL", type)
        assert shared("SELECT cache_set(%s, 'k', %s)", type, VALUES.get(type, ["1"])[0])


def test_dimensions(ask: Session) -> None:
    ask("SELECT cache_set_embedding('t', 'm', '[1,2]')")
    ask("SELECT cache_configure('embedding', dimensions => 3)")
    assert ask("SELECT cache_get_embedding('t', 'm')::text") == "[1,2]"  # what is there stays
    with refused("PC005"):
        ask("SELECT cache_set_embedding('t', 'm', '[1,2]')")
    assert ask("SELECT cache_set_embedding('t', 'm', '[1,2,3]')")


def test_settings(ask: Session) -> None:
    assert ask("SELECT cache_configure_setting('alert_hit_rate', '0.5')") == "0.70"
    assert ask("SELECT cache_setting('alert_hit_rate')") == "0.5"
    names = ask.column("SELECT name FROM pgcache_internal.settings WHERE description <> '' ORDER BY 1")
    assert names == ask.column("SELECT name FROM pgcache_internal.settings ORDER BY 1")
    ours = {
        "alert_hit_rate", "alert_size", "keep_history", "keep_runs", "overdue_after", "ttl_long", "ttl_medium",
        "ttl_short", "ttl_week", "usd_per_million_tokens",
    }  # fmt: skip
    assert ours <= set(names)
    for name in ours:
        value = ask("SELECT cache_setting(%s)", name)
        assert ask("SELECT cache_configure_setting(%s, %s)", name, value) == value


def test_the_registry_and_the_tables_agree(ask: Session) -> None:
    assert ask(
        "SELECT bool_and(durable = (relpersistence = 'p')) FROM pgcache_internal.types t JOIN pg_class c ON"
        " c.oid = relation"
    )
    columns = ask.column("""
        SELECT t.type FROM pgcache_internal.types t, jsonb_object_keys(fields) field
        WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE attrelid = relation AND attname = field)
    """)
    assert columns == []


# What goes through all types while one of them is dropped.

THROUGH_ALL = [
    "SELECT count(*) FROM cache_stats", "SELECT count(*) FROM cache_health()", "SELECT count(*) FROM cache_top",
    "SELECT count(*) FROM get_all_cache_keys()", "SELECT cache_clear_expired(NULL)", "SELECT cache_cleanup()",
    "SELECT cache_invalidate_tenant('q')", "SELECT count(*) FROM cleanup_old_cache_entries(1)",
    "SELECT cache_clear_all()", "CALL cache_upkeep()",
]  # fmt: skip


def test_a_type_that_is_dropped_meanwhile_is_skipped(new_session: NewSession) -> None:
    done = threading.Event()

    def create_and_drop() -> None:
        session = new_session()
        try:
            for _ in range(10):
                session("SELECT cache_create_type('zz')")
                session("SELECT cache_set('zz', 'k', '1'), cache_get('zz', 'k')")
                session("SELECT cache_drop_type('zz')")
        finally:
            done.set()

    def go_through(calls: list[str]) -> None:
        session = new_session()
        while not done.is_set():
            for call in calls:
                session(call)

    at_once(create_and_drop, lambda: go_through(THROUGH_ALL), lambda: go_through(THROUGH_ALL[::-1]))


@pytest.mark.parametrize("call", THROUGH_ALL[:-1])
def test_whoever_meets_a_type_being_dropped_waits_and_skips_it(new_session: NewSession, call: str) -> None:
    dropping, session, other = new_session(), new_session(), new_session()
    dropping("SELECT cache_create_type('zz')")
    dropping("SELECT cache_set('zz', 'k', '1')")
    with dropping.transaction():
        dropping("SELECT cache_drop_type('zz')")
        called = session.start(call)
        wait_until(lambda: other("SELECT cardinality(pg_blocking_pids(%s)) > 0", session.pid))
        dropping("COMMIT")
        called.result(20)


def test_a_type_stays_until_those_who_use_it_are_done(new_session: NewSession) -> None:
    dropping, session, other = new_session(), new_session(), new_session()
    dropping("SELECT cache_create_type('zz')")
    with session.transaction():
        session("SELECT count(*) FROM cache_stats")
        dropped = dropping.start("SELECT cache_drop_type('zz')")
        wait_until(lambda: other("SELECT cardinality(pg_blocking_pids(%s)) > 0", dropping.pid))
        session("SET lock_timeout = '5s'")  # the one that drops waits for this one, not the other way round
        for call in THROUGH_ALL[:-1]:
            session(call)
        session("COMMIT")
    dropped.result(20)


@pytest.mark.parametrize(
    ("first", "then"),
    [("SELECT cache_get('zz', 'k')", "SELECT cache_incr('store', 'n')"),
     ("SELECT cache_incr('store', 'n')", "SELECT cache_get('zz', 'k')")],
)  # fmt: skip
def test_a_transaction_that_uses_other_types_too_does_not_deadlock(
    new_session: NewSession, first: str, then: str
) -> None:
    dropping, session, other = new_session(), new_session(), new_session()
    dropping("SELECT cache_create_type('zz')")
    with session.transaction():
        session(first)
        dropped = dropping.start("SELECT cache_drop_type('zz')")
        wait_until(lambda: other("SELECT cardinality(pg_blocking_pids(%s)) > 0", dropping.pid))
        session(then)
        session("COMMIT")
    dropped.result(20)
    assert session("SELECT to_regclass('pgcache.cache_type_zz')") is None


@pytest.mark.parametrize("call", ["cache_incr('zz', 'n')", "cache_set('zz', 'k', '1')", "cache_get('zz', 'k')"])
def test_who_has_waited_for_a_type_that_is_then_gone(new_session: NewSession, call: str) -> None:
    dropping, session, other = new_session(), new_session(), new_session()
    dropping("SELECT cache_create_type('zz')")
    with dropping.transaction():
        dropping("SELECT cache_drop_type('zz')")
        called = session.start(f"SELECT {call}")
        wait_until(lambda: other("SELECT cardinality(pg_blocking_pids(%s)) > 0", session.pid))
        dropping("COMMIT")
        with pytest.raises(psycopg.Error) as caught:
            called.result(20)
    if "cache_set" in call:  # it looks at a counter first, and a sequence that is dropped has no name any more
        assert caught.value.sqlstate in ("42P01", "XX000")
    else:
        error = translated(caught.value)
        assert isinstance(error, UnknownTypeError)
        assert error.hint
    with refused("PC001"):
        session(f"SELECT {call}")


# A table that somebody has dropped.


@pytest.mark.breaks("counters", why="a table is dropped with its entries, which the counters count")
@pytest.mark.parametrize("fields", [None, '{"a": "string!"}'])
@pytest.mark.parametrize(
    "call",
    [
        "SELECT cache_drop_type('lost')", "SELECT cache_create_type('lost')", "SELECT cache_create_type('other')",
        "SELECT cache_create_type('lost', exist_ok => true)", "SELECT cache_configure('store', enabled => true)",
        "CALL cache_upkeep()",
    ],
)  # fmt: skip
def test_a_type_without_its_table_is_gone(ask: Session, call: str, fields: str | None) -> None:
    ask("SELECT cache_create_type('lost', hit_tracking => 'exact', fields => %s)", fields)
    ask("SELECT cache_set('lost', 'k', '{\"a\": \"b\"}'), cache_get('lost', 'k')")
    ask("DROP TABLE pgcache.cache_type_lost")
    ask(call)
    assert ask("SELECT count(*) FROM pgcache_internal.types WHERE type = 'lost'") == int("create_type('lost'" in call)
    assert ask("SELECT cache_set('store', 'k', '1')")
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(*) FROM cache_stats WHERE type = 'store'") == 1


@pytest.mark.breaks("counters", why="a table is dropped with its entries, which the counters count")
def test_a_role_gets_access_though_a_table_is_lost(ask: Session, role: NewRole) -> None:
    ask("SELECT cache_create_type('lost')")
    ask("DROP TABLE pgcache.cache_type_lost")
    assert role("write")("SELECT cache_set('store', 'k', '1')")
