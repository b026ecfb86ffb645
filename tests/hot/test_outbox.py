"""Every change reaches the outbox, in the transaction that makes it; and the outbox stays within its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.hot.tools import deliver
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until

A, B = ("store", "", "a"), ("store", "", "b")
FACE = ("face", "", "f")
ALL_OF_STORE, ALL_OF_FACE, VOID = ("store", None, None), ("face", None, None), (None, None, None)


def outbox(ask: Session) -> set[tuple[Any, ...]]:
    return set(ask.rows("SELECT type, tenant, cache_key FROM pgcache_internal.hot_untold()"))


def triggers(ask: Session) -> list[str]:
    return ask.column("""
        SELECT format('%s %s', tgrelid::regclass, tgname) FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
        WHERE NOT tgisinternal AND relname IN (SELECT split_part(relation::text, '.', -1) FROM pgcache_internal.types)
            AND relnamespace = 'pgcache'::regnamespace
        ORDER BY 1
    """)


@pytest.fixture
def hot(ask: Session) -> Session:
    """store and face in the tier, with the entries a, b and f, and an empty outbox."""
    ask("SELECT cache_hot_on('store'), cache_hot_on('face')")
    ask("SELECT cache_set('store', 'a', '1'), cache_set('store', 'b', '2')")
    ask("SELECT cache_set('face', 'f', '{\"embeddings\": []}')")
    deliver(ask)
    return ask


CHANGES = {
    "SELECT cache_set('store', 'a', '5')": {A},
    "SELECT cache_set('store', 'new', '5')": {("store", "", "new")},
    "SELECT cache_set('face', 'f', '{\"embeddings\": [1]}')": {FACE},
    "SELECT cache_set_many('store', '{a,c}', array['5', '6']::jsonb[])": {A, ("store", "", "c")},
    "SELECT cache_add('store', 'new', '5')": {("store", "", "new")},
    "SELECT cache_incr('store', 'a')": {A},
    "SELECT cache_touch('store', 'a', '1 minute')": {A},
    "SELECT cache_persist('store', 'a')": {A},
    "SELECT cache_delete('store', 'a')": {A},
    "SELECT cache_delete_many('store', '{a,b,c}')": {A, B},
    "SELECT cache_delete_pattern('store', '%')": {A, B},
    "SELECT cache_clear('store')": {A, B},
    "SELECT cache_clear_all()": {A, B, FACE},
    "SELECT cache_invalidate_tenant('')": {A, B, FACE},
    "SELECT cleanup_old_cache_entries(0)": {A, B, FACE},
    "UPDATE cache_store SET data = '9' WHERE cache_key = 'a'": {A},
    "UPDATE cache_type_store SET data = '9' WHERE cache_key = 'a'": {A},
    "UPDATE cache_type_store SET expires_at = now() + interval '1 hour' WHERE cache_key = 'a'": {A},
    "UPDATE cache_type_store SET cache_key = 'z' WHERE cache_key = 'a'": {A, ("store", "", "z")},
    "UPDATE cache_type_store SET tenant = 't' WHERE cache_key = 'a'": {A, ("store", "t", "a")},
    "UPDATE cache_type_store SET version = 1 WHERE cache_key = 'a'": {A},
    "DELETE FROM cache_store WHERE cache_key = 'b'": {B},
    "DELETE FROM face_embeddings_cache": {FACE},
    "INSERT INTO cache_store (cache_key, data) VALUES ('psql', '1')": {("store", "", "psql")},
    "MERGE INTO cache_store t USING (VALUES ('a')) v (k) ON t.cache_key = v.k WHEN MATCHED THEN DELETE": {A},
    "TRUNCATE cache_type_store": {ALL_OF_STORE},
    "TRUNCATE cache_store": {ALL_OF_STORE},
    "SELECT cache_configure('face', enabled => false)": {ALL_OF_FACE},
    "SELECT cache_hot_off('face')": {ALL_OF_FACE},
}
NO_CHANGES = [
    "SELECT cache_get('store', 'a')",
    "SELECT cache_add('store', 'a', '5')",
    "SELECT cache_delete('store', 'nothing')",
    "SELECT cache_touch('store', 'nothing')",
    "SELECT pgcache_internal.fold_log()",
    "CALL cache_upkeep()",
    "SELECT cache_configure('store', hit_tracking => 'exact', ttl => '5 minutes', max_entries => 100)",
    pytest.param(
        "UPDATE cache_store SET hit_count = 5, last_accessed_at = now(), hit_weight = 1",
        marks=pytest.mark.breaks("counters", why="hits that nobody has counted"),
    ),
    "SELECT cache_set('llm', 'k', '{\"response\": \"\"}')",
    "SELECT cache_configure('llm', enabled => false)",
    "SELECT cache_hot_off('llm')",
    "SELECT cache_hot_on('face', '5 minutes')",
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noted(hot: Session, change: str) -> None:
    """And a rollback leaves nothing."""
    with hot.transaction():
        hot(change)
    assert outbox(hot) == set()
    hot(change)
    assert outbox(hot) == CHANGES[change]


@pytest.mark.parametrize("statement", NO_CHANGES)
def test_what_changes_no_entry_of_the_tier_is_not_noted(hot: Session, statement: str) -> None:
    hot("SELECT cache_get('store', 'a')")
    hot(statement)
    assert outbox(hot) == set()


def test_what_has_expired_is_removed_without_a_note(hot: Session) -> None:
    hot("SELECT cache_set('store', 'a', '1', '1 minute')")
    deliver(hot)
    hot.advance("2 minutes")
    hot("SELECT cache_clear_expired('store')")
    hot("DELETE FROM cache_store WHERE cache_key = 'a'")
    assert hot("SELECT count(*) FROM cache_store WHERE cache_key = 'a'") == 0
    assert outbox(hot) == set()


def test_a_set_over_what_has_expired_is_noted(hot: Session) -> None:
    hot.advance("1 year")
    hot("SELECT cache_add('store', 'a', '5')")
    assert outbox(hot) == {A}


def test_evictions_are_noted(ask: Session) -> None:
    """Otherwise a later delete would find nothing to note, and Redis would keep the entry."""
    ask("SELECT cache_create_type('small', max_entries => 20), cache_hot_on('small')")
    for number in range(100):
        ask("SELECT cache_set('small', %s, '1')", f"k{number}")
    gone = {f"k{number}" for number in range(100)} - set(ask.column("SELECT cache_key FROM cache_type_small"))
    assert len(gone) >= 70
    noted = dict(ask.rows("SELECT cache_key, count(*) FROM pgcache_internal.hot_untold() GROUP BY 1"))
    assert {key for key, times in noted.items() if times == 2} == gone


def test_a_type_that_is_dropped_voids_all(ask: Session) -> None:
    ask("SELECT cache_create_type('mine'), cache_hot_on('mine')")
    ask("SELECT cache_drop_type('mine')")
    assert outbox(ask) == {("mine", None, None)}
    ask("SELECT cache_create_type('mine')")
    assert not ask("SELECT pgcache_internal.is_hot('mine')")


def test_disabling_a_type_notes_one_row_however_many_entries_it_had(hot: Session) -> None:
    hot("INSERT INTO cache_store (cache_key, data) SELECT n, '1' FROM generate_series(1, 1000) n")
    deliver(hot)
    hot("SELECT cache_configure('store', enabled => false)")
    assert hot.rows("SELECT type, tenant, cache_key FROM pgcache_internal.hot_untold()") == [ALL_OF_STORE]


def test_no_setting_of_a_session_keeps_a_change_from_being_noted(hot: Session, role: Callable[..., Session]) -> None:
    """Anybody may set anything in pgcache's name, as to the number of its own transaction."""
    hot("SELECT cache_configure_setting('test_clock', 'off')")
    writer = role("write")
    read = hot.column("SELECT DISTINCT m[1] FROM pg_proc, regexp_matches(prosrc, $$'(pgcache[.]\\w+)'$$, 'g') m")
    assert "pgcache.tenant" in read
    writer("BEGIN")
    for name in {*read, "pgcache.hot_voided"} - {"pgcache.tenant"}:
        writer("SELECT set_config(%s, pg_current_xact_id()::text, false)", name)
    writer("SELECT cache_set('store', 'a', '1')")
    writer("SELECT cache_delete('store', 'b')")
    writer("COMMIT")
    assert outbox(hot) == {A, B}


def test_a_savepoint_takes_voiding_back_with_it(hot: Session) -> None:
    hot("BEGIN")
    hot("SAVEPOINT before")
    hot("TRUNCATE cache_type_store")
    hot("ROLLBACK TO before")
    hot("SELECT cache_set('store', 'a', '1')")
    hot("COMMIT")
    assert outbox(hot) == {A}


def test_a_released_savepoint_keeps_it(hot: Session) -> None:
    hot("BEGIN")
    hot("SAVEPOINT before")
    hot("TRUNCATE cache_type_store")
    hot("RELEASE before")
    hot("SELECT cache_set('store', 'a', '1')")
    hot("COMMIT")
    assert outbox(hot) == {ALL_OF_STORE, A}


def test_changes_that_logical_replication_would_apply_are_noted(hot: Session) -> None:
    hot("SET session_replication_role = 'replica'")
    hot("SELECT cache_set('store', 'a', '9')")
    assert outbox(hot) == {A}


def test_entries_of_tenants_are_told_apart(hot: Session) -> None:
    hot("SET pgcache.tenant = 't'")
    hot("SELECT cache_set('store', 'a', '9')")
    assert outbox(hot) == {("store", "t", "a")}


def test_a_rewritten_table_keeps_its_triggers(ask: Session) -> None:
    ask("SELECT cache_create_type('mine'), cache_hot_on('mine')")
    ask("SELECT cache_configure('mine', durable => false)")
    ask("SELECT cache_set('mine', 'a', '1')")
    assert outbox(ask) == {("mine", "", "a")}


# Triggers.


def test_a_type_that_is_not_in_the_tier_has_no_triggers(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    assert triggers(ask) == []
    ask("SELECT cache_hot_on('mine')")
    names = ["hot_note", "hot_note_gone", "hot_note_moved", "hot_stamp", "note_truncate"]
    assert triggers(ask) == [f"cache_type_mine {name}" for name in names]
    ask("SELECT cache_hot_on('mine')")
    assert len(triggers(ask)) == len(names)
    assert ask("SELECT cache_hot_off('mine')") is True
    assert triggers(ask) == []
    assert ask("SELECT cache_hot_off('mine')") is False


def test_the_notes_triggers_know_all_columns_but_those_of_upkeep(hot: Session) -> None:
    for relation, trigger, columns in hot.rows("""
        SELECT tgrelid::regclass::text, tgname, (
            SELECT array_agg(attname::text) FROM pg_attribute a
            WHERE attrelid = tgrelid AND attnum > 0 AND NOT attisdropped AND attnum <> ALL(tgattr::int2[]))
        FROM pg_trigger WHERE tgname IN ('hot_note', 'hot_stamp')
    """):
        assert set(columns) == {"hit_count", "last_accessed_at", "hit_weight"}, (relation, trigger)


# The limit.


def fill(session: Session, first: int, last: int) -> None:
    session(
        "INSERT INTO cache_store (cache_key, data) SELECT n, '1' FROM generate_series(%s::integer, %s) n", first, last
    )


def test_the_outbox_collapses_to_the_newest_version_of_each_entry(hot: Session) -> None:
    hot("SELECT cache_hot_configure(outbox_limit => 1000)")
    for _ in range(300):
        hot("UPDATE cache_store SET data = data")
    assert 2 <= hot("SELECT count(*) FROM pgcache_internal.hot_untold()") <= 300
    newest = "SELECT max(version) FROM pgcache_internal.hot_untold() WHERE cache_key = %s"
    for key in "ab":
        assert hot(newest, key) == hot("SELECT version FROM cache_store WHERE cache_key = %s", key)


def test_beyond_the_limit_one_row_voids_all(hot: Session) -> None:
    hot("SELECT cache_hot_configure(outbox_limit => 1000)")
    for start in range(0, 3000, 100):
        fill(hot, start, start + 99)
        assert hot("SELECT count(*) FROM pgcache_internal.hot_untold()") <= 1400
    assert VOID in outbox(hot)


def test_one_big_transaction_stays_within_the_limit(hot: Session) -> None:
    hot("SELECT cache_hot_configure(outbox_limit => 1000)")
    fill(hot, 1, 20_000)
    assert VOID in outbox(hot)
    assert hot("SELECT count(*) FROM pgcache_internal.hot_untold()") <= 1256
    deliver(hot)
    hot("SELECT cache_clear('store')")
    assert VOID in outbox(hot)
    assert hot("SELECT count(*) FROM pgcache_internal.hot_untold()") <= 1256


def test_a_rollback_brings_back_what_it_had_collapsed(hot: Session) -> None:
    hot("SELECT cache_hot_configure(outbox_limit => 1000)")
    hot("SELECT cache_set('store', 'a', '7')")
    with hot.transaction():
        fill(hot, 1, 5000)
        assert A not in outbox(hot)
    assert outbox(hot) == {A}


def test_nobody_waits_to_collapse(hot: Session, new_session: Callable[..., Session]) -> None:
    hot("SELECT cache_hot_configure(outbox_limit => 300)")
    hot("SELECT cache_set('store', 'a', '7')")
    other = new_session()
    with other.transaction():
        other("SELECT ctid FROM pgcache_internal.change_log FOR UPDATE")
        hot("SET lock_timeout = '1s'")
        fill(hot, 1, 2000)
    assert {A, VOID} <= outbox(hot)


def test_in_repeatable_read_a_write_does_not_fail_for_what_others_have_drained(
    hot: Session, new_session: Callable[..., Session]
) -> None:
    hot("SELECT cache_hot_configure(outbox_limit => 300)")
    fill(hot, 1, 250)
    other = new_session()
    with hot.transaction("ISOLATION LEVEL REPEATABLE READ"):
        hot("SELECT 1 FROM pgcache_internal.types")
        deliver(other)
        fill(hot, 1001, 3000)
        hot("COMMIT")
    assert hot("SELECT count(*) FROM pgcache_internal.hot_untold()") >= 1


def test_each_change_wakes_the_relay(hot: Session, new_session: Callable[..., Session]) -> None:
    listener = new_session()
    listener("LISTEN pgcache_hot")
    hot("SELECT cache_set('store', 'a', '1')")
    assert not list(listener.connection.notifies(timeout=0.1))  # there is none yet
    hot("SELECT pgcache_internal.hot_sleep(true)")
    for change in ("SELECT cache_set('store', 'a', '5')", "SELECT cache_delete('store', 'a')", "TRUNCATE cache_store"):
        hot(change)
        [notice] = listener.connection.notifies(timeout=20, stop_after=1)
        assert notice.channel == "pgcache_hot"


# The settings.


def test_the_ttl_in_redis_is_set_by_type(ask: Session) -> None:
    for type in ("face", "vector_search", "phash", "crawl", "llm"):
        ask("SELECT cache_hot_on(%s)", type)
    assert dict(ask.rows("SELECT type, ttl::text FROM cache_hot_stats WHERE hot")) == {
        "face": "01:00:00",
        "vector_search": "00:05:00",
        "phash": "02:00:00",
        "crawl": "24:00:00",
        "llm": "01:00:00",
    }
    ask("SELECT cache_hot_on('face', '10 seconds')")
    ask("SELECT cache_hot_on('face')")
    assert ask("SELECT ttl::text FROM pgcache_internal.hot_types WHERE type = 'face'") == "00:00:10"


@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("cache_hot_on('nope')", "PC001"),
        ("cache_hot_on(NULL)", "PC001"),
        ("cache_hot_on('face', '0')", "PC003"),
        ("cache_hot_off('nope')", "PC001"),
        ("cache_hot_configure(max_staleness => '0')", "PC010"),
        ("cache_hot_configure(max_staleness => '2 hours')", "PC010"),
        ("cache_hot_configure(max_staleness => '119000 months -3570000 days 1 minute')", "PC010"),
        ("cache_hot_configure(outbox_limit => 0)", "PC010"),
        ("cache_hot_configure(prefix => '')", "PC010"),
        ("cache_hot_configure(prefix => 'a b')", "PC010"),
        ("pgcache_internal.hot_get('nope', 'k')", "PC001"),
        ("pgcache_internal.hot_get('store', '')", "PC002"),
        ("pgcache_internal.hot_set('nope', 'k', '1')", "PC001"),
        ("pgcache_internal.hot_set('face', 'k', '1')", "PC004"),
        ("pgcache_internal.hot_report_hits('nope', '{a}', '{1}')", "PC001"),
        ("pgcache_internal.hot_report_hits('store', NULL, NULL)", "PC002"),
        ("pgcache_internal.hot_report_hits('store', '{a}', '{}')", "PC010"),
        ("pgcache_internal.hot_report_hits('store', '{a}', '{0}')", "PC010"),
        ("pgcache_internal.hot_report_hits('store', '{a}', '{NULL}')", "PC010"),
    ],
)
def test_bad_input_has_an_error_of_its_own(shared_dsn: str, call: str, sqlstate: str) -> None:
    ask = Session(shared_dsn)
    with refused(sqlstate, " "):
        ask(f"SELECT {call}")
    ask.close()


def test_the_settings_can_be_changed(ask: Session) -> None:
    ask("SELECT cache_hot_configure(max_staleness => '1 second', outbox_limit => 5, prefix => '{mine}')")
    assert dict(ask.rows("SELECT name, value FROM pgcache_internal.settings WHERE name LIKE 'hot%%'", *[])) == {
        "hot_max_staleness": "00:00:01",
        "hot_outbox_limit": "5",
        "hot_prefix": "{mine}",
    }


# Who may do what.


def test_writers_note_changes_and_nothing_else(hot: Session, role: Callable[..., Session]) -> None:
    writer = role("write")
    writer("SELECT cache_set('store', 'a', '5'), cache_delete('store', 'b')")
    assert outbox(hot) == {A, B}
    for forbidden in (
        "DELETE FROM pgcache_internal.change_log",
        "UPDATE pgcache_internal.change_log SET version = 1",
        "INSERT INTO pgcache_internal.change_log (type, tenant, cache_key, version, noted_at) VALUES"
        " ('store', '', 'k', 1, now())",
        "SELECT pgcache_internal.hot_pending()",
        "SELECT pgcache_internal.hot_delivered('1:1:', 0)",
        "SELECT pgcache_internal.hot_begin_epoch('e', 'r')",
        "SELECT pgcache_internal.hot_state()",
        "SELECT cache_hot_on('llm')",
        "SELECT cache_hot_off('store')",
        "SELECT cache_hot_configure(outbox_limit => 1)",
        "UPDATE pgcache_internal.hot_types SET ttl = '1 year'",
    ):
        with refused("42501"):
            writer(forbidden)
    assert outbox(hot) == {A, B}


def test_a_writer_shrinks_the_outbox_too(hot: Session, role: Callable[..., Session]) -> None:
    hot("SELECT cache_hot_configure(outbox_limit => 300)")
    role("write")("SELECT count(cache_set('store', n::text, '1')) FROM generate_series(1, 3000) n")
    assert VOID in outbox(hot)


def test_half_a_note_is_refused(hot: Session) -> None:
    """The relay could do nothing with it."""
    with refused("23514"):
        hot("INSERT INTO pgcache_internal.change_log (type, cache_key, version) VALUES ('store', 'k', 1)")


def test_a_writer_may_void_by_truncating_only_what_it_may_truncate(hot: Session, role: Callable[..., Session]) -> None:
    with refused("42501"):
        role("write")("TRUNCATE cache_store")


def test_readers_use_the_tier(hot: Session, role: Callable[..., Session]) -> None:
    reader = role("read")
    assert reader("SELECT value FROM pgcache_internal.hot_get('store', 'a')") == "1"
    assert reader("SELECT pgcache_internal.hot_report_hits('store', '{a}', '{2}')") == 2
    assert reader("SELECT count(*) FROM cache_hot_stats WHERE hot") == 2
    with refused("42501"):
        reader("SELECT pgcache_internal.hot_set('store', 'a', '1')")


def test_admins_manage_it_and_may_relay(hot: Session, role: Callable[..., Session]) -> None:
    admin = role("admin")
    admin("SELECT cache_hot_on('llm'), cache_hot_off('face'), cache_hot_configure(outbox_limit => 5000)")
    admin(
        "SELECT pgcache_internal.hot_state(), pgcache_internal.hot_pending(),"
        " pgcache_internal.hot_begin_epoch('e', 'r'), pgcache_internal.hot_delivered('1:1:', 1)"
    )


def test_the_url_of_redis_is_for_the_owner(hot: Session, role: Callable[..., Session]) -> None:
    hot("INSERT INTO pgcache_internal.hot_secrets VALUES ('redis_url', 'redis://:secret@host')")
    for access in ("read", "write", "admin"):
        with refused("42501"):
            role(access)("SELECT count(*) FROM pgcache_internal.hot_secrets")


# What cannot be.


def test_a_read_only_transaction_can_read(hot: Session) -> None:
    with hot.transaction("READ ONLY"):
        assert hot("SELECT value FROM pgcache_internal.hot_get('store', 'a')") == "1"
        assert hot("SELECT pgcache_internal.hot_report_hits('store', '{a}', '{2}')") == 0
    for call in ("pgcache_internal.hot_set('store', 'a', '1')", "pgcache_internal.hot_state()"):
        with hot.transaction("READ ONLY"), refused("25006", "READ WRITE"):
            hot(f"SELECT {call}")


MADE = "SELECT tgname, xmin::text, tgenabled, cardinality(tgattr::int2[]) FROM pg_trigger WHERE tgrelid = %s::regclass"


@pytest.fixture
def table(hot: Session) -> str:
    return str(hot("SELECT relation::text FROM pgcache_internal.types WHERE type = 'store'"))


def test_triggers_that_are_as_they_should_be_are_left_alone(
    hot: Session, table: str, new_session: Callable[..., Session]
) -> None:
    """To make them anew would wait for whoever has written the type."""
    before = hot.rows(MADE, table)
    other = new_session()
    with other.transaction():
        other("SELECT cache_set('store', 'a', '5')")
        hot("SET lock_timeout = '1s'")
        hot("SELECT cache_hot_on('store', '10 minutes'), pgcache_internal.attach_changes('store')")
    assert hot.rows(MADE, table) == before


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE {} DISABLE TRIGGER hot_note",
        "ALTER TABLE {} ENABLE TRIGGER hot_note",
        "DROP TRIGGER note_truncate ON {}",
        "COMMENT ON TRIGGER hot_stamp ON {} IS 'what an earlier version made it of'",
    ],
)
def test_triggers_that_are_not_are_made_anew(hot: Session, table: str, change: str) -> None:
    before = [(row[0], *row[2:]) for row in hot.rows(MADE + " ORDER BY 1", table)]
    hot(change.format(table))
    hot("SELECT pgcache_internal.attach_changes('store')")
    assert [(row[0], *row[2:]) for row in hot.rows(MADE + " ORDER BY 1", table)] == before
    made = hot.rows(MADE + " ORDER BY 1", table)
    hot("SELECT pgcache_internal.attach_changes('store')")
    assert hot.rows(MADE + " ORDER BY 1", table) == made


@pytest.mark.needs("cluster")
def test_a_standby_reads_and_does_nothing_else(throwaway_cluster: Callable[..., Any]) -> None:
    from pgcache_py.setup.install import install

    primary = throwaway_cluster()
    install(primary.dsn(), cron=False)
    writer = Session(primary.dsn())
    writer("SELECT cache_hot_on('store'), cache_set('store', 'a', '1')")
    standby = throwaway_cluster(standby_of=primary)
    reader = Session(standby.dsn())
    wait_until(lambda: reader("SELECT count(*) FROM cache_store") == 1)
    found = reader.row("SELECT * FROM pgcache_internal.hot_get('store', 'a')")
    assert (found["value"], found["epoch"]) == ("1", None)
    assert writer("SELECT outbox_length FROM cache_hot_stats LIMIT 1") == 1
    assert reader("SELECT outbox_length FROM cache_hot_stats LIMIT 1") == 0  # it is unlogged
    assert reader("SELECT pgcache_internal.hot_report_hits('store', '{a}', '{1}')") == 0
    with refused("25006", "primary"):
        reader("SELECT * FROM pgcache_internal.hot_state()")
    for session in (reader, writer):
        session.close()
