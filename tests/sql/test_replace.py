"""Replacement in place: in a full type, a set that is a transaction of its own takes over the row of another entry."""

from __future__ import annotations

import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once, wait_until

LIMIT = 40
# Embeddings and audio are written by functions of their own, which insert.
REPLACED = [type for type in VALUES if type not in ("embedding", "audio")]


def replaced(ask: Session, type: str) -> int:
    return int(ask("SELECT pgcache_internal.counter(%s, 'replaced')", type))


def put(ask: Session, type: str, key: str, value: str, ttl: str | None = None) -> bool | None:
    """A set by a prepared statement, which programs use for what they do often."""
    row = ask.connection.execute("SELECT cache_set(%s, %s, %s, %s)", (type, key, value, ttl), prepare=True).fetchone()
    return row[0] if row else None


def fill(ask: Session, type: str, value: str) -> str:
    """The type, full; returns its table."""
    ask("SELECT cache_configure(%s, max_entries => %s)", type, LIMIT)
    for number in range(LIMIT + 10):
        put(ask, type, f"k{number}", value)
    return str(ask("SELECT relation::text FROM pgcache_internal.types WHERE type = %s", type))


def keys(ask: Session, type: str = "store") -> set[str]:
    return {key for (key,) in ask.rows("SELECT cache_keys(%s)", type)}


@pytest.mark.parametrize("type", REPLACED)
def test_what_takes_over_a_row_is_like_what_is_inserted(ask: Session, type: str) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set(%s, 'new', %s)", type, VALUES[type][-1])
    table = fill(ask, type, VALUES[type][0])
    entry = f"SELECT to_jsonb(t) - 'id' FROM {table} t WHERE cache_key = 'new'"
    ask("SELECT cache_delete(%s, 'new'), cache_set(%s, 'k0', %s)", type, type, VALUES[type][0])
    with ask.transaction():
        ask("SELECT cache_set(%s, 'new', %s)", type, VALUES[type][-1])
        inserted = ask(entry)
    ids = {id for (id,) in ask.rows(f"SELECT id FROM {table}")}
    ask(
        f"UPDATE {table} SET created_at = '2001-01-01', last_accessed_at = '2001-01-01', expires_at = '2031-01-01',"
        " hit_count = 77, hit_weight = 20, tenant = 'other'"
    )
    before = ask(f"SELECT count(*) FROM {table}")
    turn = replaced(ask, type)
    assert put(ask, type, "new", VALUES[type][-1]) is True
    assert replaced(ask, type) != turn
    assert ask(entry) == inserted
    assert ask(f"SELECT id FROM {table} WHERE cache_key = 'new'") not in ids
    assert ask(f"SELECT count(*) FROM {table}") == before


# Whose snapshots keep dead rows: of other tests, or of a replication slot.
KEEPING = """
    SELECT (SELECT count(*) FROM pg_stat_activity
        WHERE backend_xmin IS NOT NULL AND xact_start < clock_timestamp() - interval '1 second')
    + (SELECT count(*) FROM pg_replication_slots WHERE xmin IS NOT NULL)"""


def test_a_full_type_replaces_and_no_longer_inserts_and_deletes(ask: Session) -> None:
    for type in (f"type{number}" for number in range(15)):
        wait_until(lambda: ask(KEEPING) == 0, 120)
        ask("SELECT cache_create_type(%s, max_entries => 200)", type)
        ask(f"""DO $$ BEGIN FOR i IN 1 .. 3000 LOOP
            PERFORM cache_set('{type}', 'k' || i, to_jsonb(repeat('x', 700))); COMMIT; END LOOP; END $$""")
        ask("SELECT pg_stat_force_next_flush()")
        done = ask.row(
            "SELECT n_tup_ins AS inserted, n_tup_upd AS updated, pg_relation_size(relid) / 8192 AS blocks"
            f" FROM pg_stat_user_tables WHERE relid = 'cache_type_{type}'::regclass"
        )
        assert done["inserted"] + done["updated"] == 3000
        assert 190 <= ask(f"SELECT count(*) FROM cache_type_{type}") <= 200
        if done["blocks"] < 100:
            break  # else dead rows were still to be seen, as when an ANALYZE or a new replication slot begins meanwhile
    assert 195 <= done["inserted"] <= 500, done


def test_what_is_replaced_is_evicted_or_has_expired(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    fill(ask, "store", "1")
    evicted = ask.stats("store")["evicted"]
    ask("SELECT cache_set('store', 'more', '1')")
    assert ask.stats("store")["evicted"] == evicted + 1
    ask("SELECT cache_touch('store', 'k45', '1 minute')")
    ask.advance("1 minute")
    cleaned = ask.stats("store")["cleaned"]
    ask("SELECT cache_set('store', 'even more', '1')")
    assert "k45" not in keys(ask)
    assert ask.stats("store")["cleaned"] == cleaned + 1


def test_bad_calls_replace_nothing(ask: Session) -> None:
    fill(ask, "llm", VALUES["llm"][0])
    there = keys(ask, "llm")
    for state, key, value, ttl in [
        ("PC004", "new", "1", None),
        ("PC002", "", VALUES["llm"][0], None),
        ("PC003", "new", VALUES["llm"][0], "-1 hour"),
    ]:
        with refused(state):
            put(ask, "llm", key, value, ttl)
    assert keys(ask, "llm") == there
    ask("SELECT cache_configure('llm', enabled => false)")
    assert put(ask, "llm", "new", VALUES["llm"][0]) is False


def test_keys_that_are_there_are_overwritten(ask: Session) -> None:
    fill(ask, "store", "1")
    there = keys(ask)
    some = next(iter(there))
    assert put(ask, "store", some, "2") is True
    assert ask("SELECT cache_add('store', %s, '3')", some) is False
    assert ask("SELECT cache_get('store', %s)", some) == 2
    assert keys(ask) == there


def test_a_transaction_that_has_begun_locks_nothing_that_others_write(ask: Session, new_session: NewSession) -> None:
    fill(ask, "store", "1")
    there = keys(ask)
    turn = replaced(ask, "store")
    other = new_session()
    other("SET lock_timeout = '1ms'")
    with ask.transaction():
        for number in range(5):
            put(ask, "store", f"new{number}", "2")
        ask("SELECT cache_set('store', 'one more', '2')")
        for key in there:
            assert other("SELECT cache_set('store', %s, '3')", key) is True
    assert replaced(ask, "store") == turn


def test_what_is_a_transaction_of_its_own(ask: Session) -> None:
    """By the protocol's simple query, by a prepared statement, and in a procedure after each COMMIT."""
    fill(ask, "store", "1")
    turns = [replaced(ask, "store")]
    ask("SELECT cache_set('store', 'simple', '2')")
    turns.append(replaced(ask, "store"))
    put(ask, "store", "prepared", "2")
    turns.append(replaced(ask, "store"))
    ask("DO $$ BEGIN COMMIT; PERFORM cache_set('store', 'procedure', '2'); COMMIT; END $$")
    turns.append(replaced(ask, "store"))
    assert [turn % 8 + 1 for turn in turns[:-1]] == turns[1:]
    with ask.connection.pipeline():
        for number in range(5):
            put(ask, "store", f"in a pipeline {number}", "2")
    assert len(keys(ask)) <= LIMIT


def test_several_in_one_statement_replace_one(ask: Session) -> None:
    fill(ask, "store", "1")
    turn = replaced(ask, "store")
    ask("SELECT count(cache_set('store', 'new' || i, '2')) FROM generate_series(1, 5) i")
    assert replaced(ask, "store") == turn % 8 + 1
    assert {f"new{i}" for i in range(1, 6)} <= keys(ask)
    assert len(keys(ask)) <= LIMIT


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_where_others_cannot_be_seen_nothing_is_replaced(ask: Session, new_session: NewSession, level: str) -> None:
    fill(ask, "store", "1")
    ask(f"SET default_transaction_isolation = '{level}'")
    turn = replaced(ask, "store")
    assert ask("SELECT cache_set('store', 'new', '2')") is True
    assert replaced(ask, "store") == turn


def test_the_same_new_key_by_many_at_once(ask: Session, new_session: NewSession) -> None:
    fill(ask, "store", "1")
    sessions = [new_session() for _ in range(4)]
    for number in range(60):
        key = f"new{number}"
        assert at_once(*(lambda s=s, key=key: put(s, "store", key, "2") for s in sessions)) == [True] * 4
        assert ask("SELECT cache_get('store', %s)", key) == 2
    assert len(keys(ask)) <= LIMIT


def test_of_many_who_add_the_same_new_key_one_does(ask: Session, new_session: NewSession) -> None:
    fill(ask, "store", "1")
    sessions = [new_session() for _ in range(4)]
    for number in range(30):
        key = f"new{number}"
        added = at_once(*(lambda s=s, key=key: s("SELECT cache_add('store', %s, '2')", key) for s in sessions))
        assert sum(added) == 1


def test_redis_is_told_of_both_keys(ask: Session) -> None:
    ask("SELECT cache_hot_on('store')")
    fill(ask, "store", "1")
    there = keys(ask)
    noted = ask("SELECT max(version) FROM pgcache_internal.hot_untold()")
    ask("SELECT cache_set('store', 'new', '2')")
    (gone,) = there - keys(ask)
    news = ask.rows("SELECT cache_key FROM pgcache_internal.hot_untold() WHERE version > %s", noted)
    assert {key for (key,) in news} == {"new", gone}
    assert ask("SELECT version FROM cache_type_store WHERE cache_key = 'new'") > 0


def test_values_of_other_sizes_keep_to_the_limit_of_bytes(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_bytes => 400000)")
    value = "to_jsonb((SELECT string_agg(md5(i || ' ' || n), '') FROM generate_series(1, 1 + i * 7919 % {}) n))"
    for largest, first in ((20, 0), (60, 3000), (5, 6000), (60, 9000)):
        ask(f"""DO $$ BEGIN FOR i IN {first} .. {first + 1500} LOOP
            PERFORM cache_set('mine', 'k' || i, {value.format(largest)}); COMMIT; END LOOP; END $$""")
        assert ask.stats("mine")["bytes"] <= 400000 * 1.05
    assert ask.stats("mine")["bytes"] >= 300000
