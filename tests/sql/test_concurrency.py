"""Who waits for whom: a read for nobody, and nobody for a read.

With a lock_timeout this short, a statement that has to wait for a lock of another session fails.
"""

from __future__ import annotations

import pytest

from tests.conftest import NewSession
from tests.tools.session import Session
from tests.tools.waiting import wait_until

READS = {
    "get": "SELECT cache_get('store', 'k')",
    "get_many": "SELECT * FROM cache_get_many('store', '{k,l}')",
    "typed get": "SELECT cache_get_llm('p', 'm')",
    "embedding": "SELECT cache_get_embedding('t', 'm')",
    "audio": "SELECT * FROM cache_get_audio('t', 'v')",
    "user's type": "SELECT cache_get('mine', 'k')",
    "entry": "SELECT * FROM cache_entry('store', 'k')",
    "keys": "SELECT cache_keys('store')",
    "stats": "SELECT * FROM cache_stats",
    "health": "SELECT * FROM cache_health()",
}
WRITES = {
    "set": "SELECT cache_set('store', 'k', '2'), cache_set('mine', 'k', '2'), cache_set_llm('p', 'm', 'new')",
    "add": "SELECT cache_add('store', 'k', '2'), cache_add('store', 'new', '2')",
    "incr": "SELECT cache_incr('store', 'k')",
    "set_many": "SELECT cache_set_many('store', '{k,l,m}', '{2,2,2}')",
    "touch": "SELECT cache_touch('store', 'k')",
    "delete": "SELECT cache_delete('store', 'k'), cache_delete('mine', 'k')",
    "delete_pattern": "SELECT cache_delete_pattern('store', '%')",
    "clear_all": "SELECT cache_clear_all()",
    "invalidate_tenant": "SELECT cache_invalidate_tenant('')",
    "clear_expired": "SELECT cache_clear_expired()",
    "cleanup": "SELECT cache_cleanup()",
    "trim": "SELECT cache_trim('store', 0), cache_trim('llm', 0)",
    "evict": "SELECT pgcache_internal.evict(pgcache_internal.check_type(t), 2, 0, 0) FROM"
    " unnest('{store,llm,mine}'::text[]) t",
    "upkeep": "CALL cache_upkeep()",
}


def fill(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', hit_tracking => 'exact')")
    ask("SELECT cache_set_many('store', '{k,l}', '{1,1}'), cache_set('mine', 'k', '1'), cache_set_llm('p', 'm', 'r')")
    ask("SELECT cache_set_embedding('t', 'm', '[1]'), cache_set_audio('t', 'v', 'x', 'mp3')")
    ask("SET lock_timeout = '10ms'")


def heavy_locks(observer: Session, pid: int) -> set[tuple[str, str]]:
    """What a session has locked, apart from itself and from weak locks on tables, which keep nobody from anything."""
    return {
        (kind, mode)
        for kind, mode in observer.rows("SELECT locktype, mode FROM pg_locks WHERE pid = %s AND granted", pid)
        if kind not in ("virtualxid", "transactionid") and mode not in ("AccessShareLock", "RowExclusiveLock")
    }


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_has_read_holds_nobody_up(ask: Session, new_session: NewSession, isolation: str) -> None:
    reader, observer = new_session(), new_session()
    fill(ask)
    with reader.transaction(f"ISOLATION LEVEL {isolation}"):
        for _ in range(2):
            for read in READS.values():
                reader(read)
        assert heavy_locks(observer, reader.pid) <= {
            ("relation", "SIReadLock"),
            ("page", "SIReadLock"),
            ("tuple", "SIReadLock"),
        }
        for write in WRITES.values():
            ask(
                "SELECT cache_set_many('store', '{k,l}', '{1,1}'), cache_set('mine', 'k', '1'),"
                " cache_set_llm('p', 'm', 'r')"
            )
            ask(write)
        assert observer("SELECT state FROM pg_stat_activity WHERE pid = %s", reader.pid) == "idle in transaction"


@pytest.mark.parametrize("write", [name for name in WRITES if name != "upkeep"])
def test_reads_wait_for_no_transaction_that_has_written(ask: Session, new_session: NewSession, write: str) -> None:
    writer = new_session()
    fill(ask)
    with writer.transaction():
        writer(WRITES[write])
        for _ in range(2):
            for read in READS.values():
                ask(read)
        assert ask("SELECT cache_get('store', 'k')") == 1  # the old value, until the other commits


def test_eviction_and_cleanup_skip_what_others_have_locked(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_entries => 50)")
    ask("SELECT count(cache_set('mine', 'k' || i, '1', '1 hour')) FROM generate_series(1, 45) i")
    ask("SET lock_timeout = '10ms'")
    with other.transaction():
        other("SELECT FROM cache_store WHERE cache_key IN ('k1', 'k2', 'k3') FOR UPDATE")
        ask("SELECT count(cache_set('mine', 'l' || i, '1', '1 day')) FROM generate_series(1, 100) i")
        kept = "SELECT array_agg(cache_key ORDER BY cache_key) FROM cache_store WHERE cache_key LIKE 'k%'"
        assert ask(kept) == ["k1", "k2", "k3"]
        ask.advance("1 hour")
        assert ask("SELECT cache_clear_expired('mine')") == 0
        ask("SELECT cache_cleanup()")
        ask("CALL cache_upkeep()")
        assert ask(kept) == ["k1", "k2", "k3"]
    assert ask("SELECT cache_clear_expired('mine')") == 3


def test_a_writer_waits_for_the_writer_of_the_same_key_only(ask: Session, new_session: NewSession) -> None:
    first, second = new_session(), new_session()
    first("BEGIN")
    first("SELECT cache_set('store', 'k', '1')")
    ask("SET lock_timeout = '10ms'")
    ask("SELECT cache_set('store', 'other', '1')")
    waiting = second.start("SELECT cache_set('store', 'k', '2')")
    wait_until(lambda: ask("SELECT pg_blocking_pids(%s)", second.pid) == [first.pid])
    assert ask("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", second.pid) == "Lock"
    assert ask("SELECT cache_get('store', 'k') IS NULL")
    first("COMMIT")
    assert waiting.result(20) is True
    assert ask("SELECT cache_get('store', 'k')") == 2


def test_the_share_of_upkeep_that_a_write_pays_locks_no_entry_for_the_rest_of_its_transaction(
    ask: Session, new_session: NewSession
) -> None:
    """A transaction that stores one key must not hold others up that write other keys: it might be for long."""
    writer = new_session()
    ask("SELECT cache_create_type('mine', max_entries => 40)")  # every write pays
    ask("SELECT cache_set_many('store', '{a,b,c}', '{1,1,1}')")
    ask("SELECT cache_get('store', 'a'), cache_get('store', 'b')")
    ask("SET lock_timeout = '10ms'")
    with writer.transaction():
        writer("SELECT cache_set('mine', 'k', '1')")
        assert ask("SELECT cache_set_many('store', '{a,b,c}', '{2,2,2}')") == 3


def test_a_transaction_that_fills_a_type_locks_no_entry_of_others(ask: Session, new_session: NewSession) -> None:
    """What it evicts goes when it commits: until then everybody can write it, and nobody misses it."""
    writer = new_session()
    ask("SELECT cache_create_type('mine', max_entries => 100)")
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 100) i")
    ask("SELECT count(cache_get('mine', 'k' || i)) FROM generate_series(1, 100) i")
    ask("SET lock_timeout = '10ms'")
    with writer.transaction():
        for part in range(10):
            writer("SELECT count(cache_set('mine', %s || i, '1')) FROM generate_series(1, 20) i", f"new {part} ")
        keys = "ARRAY(SELECT 'k' || i FROM generate_series(1, 100) i)"
        assert ask(f"SELECT cache_set_many('mine', {keys}, array_fill('2'::jsonb, '{{100}}'))") == 100
        writer("COMMIT")
    assert 90 <= ask.stats("mine")["entries"] <= 105


def test_a_rollback_undoes_the_call_for_upkeep_too(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 100)")
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 100) i")
    many = "SELECT count(cache_set('mine', 'new' || i, '1')) FROM generate_series(1, 60) i"
    with ask.transaction():
        ask(many)
    with ask.transaction():
        ask("SAVEPOINT s")
        ask(many)
        ask("ROLLBACK TO s")
        ask("COMMIT")
    assert ask.stats("mine")["entries"] >= 95
    assert ask("SELECT count(*) FROM cache_type_mine WHERE cache_key LIKE 'k%'") + ask.stats("mine")["evicted"] == 100
    with ask.transaction():
        ask(many)
        ask("SAVEPOINT s")
        ask(many.replace("new", "newer"))
        ask("ROLLBACK TO s")
        ask("COMMIT")
    assert 90 <= ask.stats("mine")["entries"] <= 105


def test_a_type_may_be_dropped_in_the_transaction_that_has_written_it(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 40)")
    with ask.transaction():
        ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 60) i")
        ask("SELECT cache_drop_type('mine')")
        ask("COMMIT")
    assert ask("SELECT count(*) FROM pgcache_internal.types WHERE type = 'mine'") == 0


def test_transactions_that_make_room_for_each_other_s_keys_do_not_deadlock(new_session: NewSession) -> None:
    """Each writes a key that the other may have evicted, or folded hits into, after keys of its own."""
    sessions = [new_session() for _ in range(2)]
    ask = new_session()
    ask("SELECT cache_create_type('mine', max_entries => 40)")
    for _ in range(15):
        ask("SELECT cache_set_many('mine', '{a,b}', '{1,1}'), cache_get('mine', 'a'), cache_get('mine', 'b')")
        ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 40) i")
        for session in sessions:
            session("BEGIN")
            session("SELECT count(cache_set('mine', %s || i, '1')) FROM generate_series(1, 20) i", f"{session.pid} ")
        # Were one of them evicted by the other, and that one waiting for it in turn, one would fail.
        writing = [
            session.start(f"SELECT cache_set('mine', '{key}', '2')")
            for session, key in zip(sessions, "ab", strict=True)
        ]
        for future in writing:
            future.result(20)
        for session in sessions:
            session("COMMIT")


def test_writers_of_many_keys_do_not_deadlock(new_session: NewSession) -> None:
    """Sets, reads that are folded, and eviction, all at once, in transactions of several statements."""
    sessions = [new_session() for _ in range(4)]
    sessions[0]("SELECT cache_create_type('mine', max_entries => 100)")
    work = """DO $$ BEGIN
        FOR turn IN 1 .. 60 LOOP
            FOR i IN 1 .. 5 LOOP
                PERFORM cache_get('mine', 'k' || (random() * 150)::integer);
                PERFORM cache_set('mine', 'k' || turn || ' ' || i || ' ' || pg_backend_pid(), '1');
            END LOOP;
            COMMIT;
        END LOOP;
    END $$"""
    for future in [session.start(work) for session in sessions]:
        future.result(60)
    assert sessions[0].stats("mine")["entries"] <= 125


def test_two_upkeeps_at_once(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(3)]
    sessions[0]("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 2000) i")
    sessions[0]("SELECT count(cache_get('store', 'k' || i)) FROM generate_series(1, 2000) i")
    for future in [session.start("CALL cache_upkeep()") for session in sessions]:
        future.result(60)
    sessions[0]("CALL cache_upkeep()")
    assert sessions[0]("SELECT sum(hit_count) FROM cache_store") == 2000
    assert sessions[0].stats("store")["hits"] == 2000
    assert sessions[0]("SELECT bool_and(outcome = 'succeeded') FROM pgcache_internal.upkeep_runs")
