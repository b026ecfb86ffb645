"""What is counted, for types and for entries: exact, sampled, off."""

from __future__ import annotations

import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session
from tests.tools.waiting import at_once

# Of how many lines fold_hits takes care in one call.
BATCH = 10_000


def fold(ask: Session) -> None:
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(*) FROM pgcache_internal.hit_log") == 0


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_hits_and_misses_of_a_type(ask: Session, type: str) -> None:
    if type == "mine":
        ask("SELECT cache_create_type('mine')")
    ask("SELECT cache_set(%s, 'k', %s)", type, VALUES.get(type, ["1"])[0])
    for _ in range(3):
        ask("SELECT cache_get(%s, 'k')", type)
    for _ in range(2):
        ask("SELECT cache_get(%s, 'absent')", type)
    ask("SELECT * FROM cache_get_many(%s, '{k,k,absent}')", type)
    assert ask("SELECT hit_count FROM cache_entry(%s, 'k')", type) == 5  # what is not folded yet included
    stats = ask.stats(type)
    assert (stats["hits"], stats["misses"], float(stats["hit_rate"])) == (5, 3, 0.625)
    assert stats["hits_per_entry"] == 5
    fold(ask)
    assert ask("SELECT hit_count FROM cache_entry(%s, 'k')", type) == 5
    stats = ask.stats(type)
    assert (stats["hits"], stats["misses"], stats["hits_per_entry"]) == (5, 3, 5)
    others = ask.rows("SELECT hits, misses, hit_rate FROM cache_stats WHERE type <> %s", type)
    assert set(others) == {(0, 0, None)}


def test_an_expired_entry_counts_as_a_miss(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'k', '1', '1 minute')")
    ask.advance("1 minute")
    ask("SELECT cache_get('store', 'k')")
    ask("SELECT * FROM cache_get_many('store', '{k}')")
    assert (ask.stats("store")["hits"], ask.stats("store")["misses"]) == (0, 2)


def test_a_rollback_does_not_undo_the_counts_of_the_type(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    with ask.transaction():
        ask("SELECT cache_get('store', 'k'), cache_get('store', 'absent')")
        ask("SELECT * FROM cache_get_many('store', '{k,absent}')")
    assert (ask.stats("store")["hits"], ask.stats("store")["misses"]) == (2, 2)


def test_the_counts_of_many_sessions_are_exact(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(6)]
    sessions[0]("SELECT cache_set('store', 'k', '1'), cache_set('llm', 'k', '{\"response\": \"r\"}')")

    def read(session: Session) -> None:
        for _ in range(60):
            session("SELECT cache_get('store', 'k'), cache_get('store', 'absent'), cache_get('llm', 'k')")

    at_once(*(lambda session=session: read(session) for session in sessions), lambda: sessions[0].pid)
    stats = sessions[0].stats("store")
    assert (stats["hits"], stats["misses"]) == (360, 360)
    assert sessions[0].stats("llm")["hits"] == 360


def test_counts_survive_clearing_and_overwriting(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_get('store', 'k')")
    ask("SELECT cache_set('store', 'k', '2')")
    ask("SELECT cache_get('store', 'k')")
    ask("SELECT cache_clear_all()")
    ask("SELECT cache_get('store', 'k')")
    fold(ask)
    assert (ask.stats("store")["hits"], ask.stats("store")["misses"]) == (2, 1)


def test_settling_twice_adds_nothing(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_get('store', 'k'), cache_get('store', 'absent')")
    for _ in range(3):
        ask("SELECT pgcache_internal.settle_counters()")
        assert (ask.stats("store")["hits"], ask.stats("store")["misses"]) == (1, 1)
    assert ask("SELECT total FROM pgcache_internal.counter_totals WHERE type = 'store' AND counter = 'hits'") == 1
    ask("SELECT cache_get('store', 'k')")
    assert ask.stats("store")["hits"] == 2


def test_a_settlement_is_seen_as_a_whole_or_not_at_all(new_session: NewSession) -> None:
    reader, settler = new_session(), new_session()
    settler("SELECT cache_set('store', 'k', '1')")
    settler("SELECT count(cache_get('store', 'k')) FROM generate_series(1, 1000)")
    settler("BEGIN")
    settler("SELECT pgcache_internal.settle_counters()")
    assert reader.stats("store")["hits"] == 1000
    settler("COMMIT")
    assert reader.stats("store")["hits"] == 1000


# Of entries.


def test_exact_counts_every_hit(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', hit_tracking => 'exact')")
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 20) i")
    ask("SELECT count(cache_get('mine', 'k' || i)) FROM generate_series(1, 20) i, generate_series(1, i * 20)")
    ask("SELECT * FROM cache_get_many('mine', array_fill('k1'::text, '{100}'))")
    fold(ask)
    ask("SELECT count(cache_get('mine', 'k' || i)) FROM generate_series(1, 20) i, generate_series(1, i)")
    counts = ask.rows("SELECT e.cache_key, e.hit_count FROM cache_store t, cache_entry('mine', t.cache_key) e")
    assert dict(counts) == {f"k{i}": i * 21 + (100 if i == 1 else 0) for i in range(1, 21)}


@pytest.mark.once
def test_exact_is_exact_in_a_burst_too(ask: Session) -> None:
    """More hits than maintenance folds in one go, and than a megabyte of log holds, with nobody folding."""
    ask("SELECT cache_create_type('mine', hit_tracking => 'exact')")
    ask("SELECT cache_set('mine', 'k', '1')")
    ask("SELECT count(cache_get('mine', 'k')) FROM generate_series(1, 40000)")
    fold(ask)
    assert ask("SELECT hit_count FROM cache_entry('mine', 'k')") == 40_000


def test_off_counts_for_the_type_only(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', hit_tracking => 'off')")
    ask(
        "SELECT cache_set('mine', 'k', '1'), cache_set_many('mine', '{l}', '{1}'), cache_incr('mine', 'n'),"
        " cache_add('mine', 'a', '1')"
    )
    ask(
        "SELECT cache_get('mine', k), (SELECT count(*) FROM cache_get_many('mine', ARRAY[k]))"
        " FROM unnest('{k,l,n,a}'::text[]) k"
    )
    assert ask("SELECT count(*) FROM pgcache_internal.hit_log") == 0
    assert ask.stats("mine")["hits"] == 8
    fold(ask)
    assert ask("SELECT max(hit_count) FROM cache_store") == 0


def test_a_hit_in_off_mode_has_no_transaction_id(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', hit_tracking => 'off')")
    ask("SELECT cache_set('mine', 'k', '1')")
    with ask.transaction():
        ask("SELECT cache_get('mine', 'k'), cache_get('mine', 'absent')")
        ask("SELECT * FROM cache_get_many('mine', '{k,absent}')")
        assert ask("SELECT pg_current_xact_id_if_assigned()") is None


def test_the_mode_can_be_changed(ask: Session, new_session: NewSession) -> None:
    reader = new_session()
    ask("SELECT cache_create_type('mine')")
    ask("SELECT cache_set('mine', 'k', '1')")
    for mode, expected in (("off", 0), ("exact", 7), ("off", 7), ("sampled", 14)):
        ask("SELECT cache_configure('mine', hit_tracking => %s)", mode)
        for _ in range(7):
            reader("SELECT cache_get('mine', 'k')")
        fold(ask)
        assert ask("SELECT hit_count FROM cache_entry('mine', 'k')") == expected
        ask("SELECT cache_set('mine', 'k', '2')")
        ask("SELECT cache_set('mine', %s, '1')", f"stored in mode {mode}")
        reader("SELECT cache_get('mine', %s)", f"stored in mode {mode}")
        fold(ask)
        assert ask("SELECT hit_count FROM cache_entry('mine', %s)", f"stored in mode {mode}") == (mode != "off")


def test_sampled_is_exact_up_to_16(ask: Session) -> None:
    ask("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 16) i")
    # Folding in between, as in life; and not folding.
    for _ in range(2):
        ask("SELECT count(cache_get('store', 'k' || i)) FROM generate_series(1, 16) i, generate_series(1, i / 2)")
        fold(ask)
    ask("SELECT count(cache_get('store', 'k' || i)) FROM generate_series(1, 16) i, generate_series(1, i % 2)")
    fold(ask)
    assert ask.rows("SELECT hit_count, cache_key FROM cache_store ORDER BY 1") == [(i, f"k{i}") for i in range(1, 17)]


@pytest.mark.once
def test_sampled_is_within_its_error_at_ten_thousand(ask: Session) -> None:
    """Of 300 entries with 10,000 hits each, folded ten times on the way.

    The standard error of one is 4.5 % (hit_weight_at). That of their mean is so 0.26 %, and the mean is off by more
    than 1.5 % (5.8 standard errors) once in 10^8 runs. One entry is off by more than 10 % (2.2 standard errors) with a
    probability of 2.6 %: 8 of 300 are expected, and 30 or more (a binomial tail) come once in 10^8 runs.
    """
    ask("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 300) i")
    # What a get does after its look-up, 3 million times: the log gets lines as by the weight which the row shows.
    for part in [16, 84, 400, 500, 1000, 1500, 1500, 1500, 1500, 2000]:
        ask("""
            INSERT INTO pgcache_internal.hit_log (type, tenant, cache_key, weight, hit_at)
            SELECT 'store', '', t.cache_key, t.hit_weight, pgcache_internal.cache_now()
            FROM cache_type_store t, generate_series(1, %s) i
            WHERE random() * t.hit_weight < 1 + 0 * i
        """, part)  # fmt: skip
        fold(ask)
    counts = ask.column("SELECT hit_count FROM cache_store")
    assert len(counts) == 300
    assert abs(sum(counts) / 300 - 10_000) < 150
    assert sum(abs(count - 10_000) > 1000 for count in counts) < 30


@pytest.mark.once
def test_gets_sample_as_the_weight_says(ask: Session) -> None:
    """50,000 gets of an entry with weight 20 are logged as 2,500 draws, with a standard deviation of 49.

    Off by more than 290, six of them, comes once in 5 * 10^8 runs.
    """
    ask("SELECT cache_set('store', 'k', '1')")
    ask("UPDATE cache_store SET hit_count = 5000, hit_weight = 20")
    ask("SELECT count(cache_get('store', 'k')) FROM generate_series(1, 25000)")
    ask("SELECT count(*) FROM cache_get_many('store', array_fill('k'::text, '{25000}'))")
    ask("SELECT pgcache_internal.log_own_hits()")
    assert abs(ask("SELECT sum(weight) FROM pgcache_internal.hit_log") / 20 - 2500) < 290
    assert ask("SELECT count(*) FROM pgcache_internal.hit_log WHERE weight % 20 <> 0") == 0
    assert ask.stats("store")["hits"] == 50_000


def test_the_weight_follows_the_count(ask: Session) -> None:
    counts = "'{0,1,15,16,50,100,9999,10000,1000000,100000000000}'::bigint[]"
    weights = f"SELECT array_agg(pgcache_internal.hit_weight_at(%s, n) ORDER BY n) FROM unnest({counts}) n"
    assert ask(weights, "exact") == [-1] * 10
    assert ask(weights, "off") == [32767] * 10
    sampled = ask(weights, "sampled")
    assert sampled[:3] == [1, 1, 1]
    assert sampled == sorted(sampled)


@pytest.mark.once
def test_no_hit_is_lost_of_entries_that_are_overwritten_meanwhile(new_session: NewSession) -> None:
    ask, writer = new_session(), new_session()
    ask("SELECT cache_create_type('mine', hit_tracking => 'exact')")
    write = "SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 3000) i"
    ask(write)
    for _ in range(5):
        ask("SELECT count(cache_get('mine', 'k' || i)) FROM generate_series(1, 3000) i")
        writing = writer.start(write)
        while not writing.done():
            ask("SELECT pgcache_internal.fold_hits(200)")
        writing.result()
    fold(ask)
    assert ask("SELECT sum(hit_count) FROM cache_type_mine") == 15_000


def test_last_access_is_that_of_the_last_hit(ask: Session) -> None:
    ask.set_clock("2030-01-01 00:00+00")
    ask("SELECT cache_set('store', 'k', '1', '1 day'), cache_set('store', 'unread', '1', '1 day')")
    ask.advance("1 hour")
    ask("SELECT cache_get('store', 'k')")
    ask.advance("1 hour")
    ask("SELECT cache_get('store', 'k')")
    ask.advance("1 hour")
    fold(ask)
    accessed = (
        "SELECT extract(epoch FROM last_accessed_at - '2030-01-01 00:00+00') / 3600 FROM cache_entry('store', %s)"
    )
    assert ask(accessed, "k") == 2
    assert ask(accessed, "unread") == 0


def test_hits_of_entries_that_are_gone_are_dropped(ask: Session) -> None:
    ask("SELECT cache_set_many('store', '{a,b}', '{1,2}')")
    ask("SELECT cache_get('store', 'a'), cache_get('store', 'b')")
    ask("SELECT cache_delete('store', 'a')")
    fold(ask)
    assert ask.rows("SELECT cache_key, hit_count FROM cache_store") == [("b", 1)]


# Folding.


def test_folding_is_hot(ask: Session) -> None:
    """The updates of hit counts stay on their page and touch no index, if the page has room.

    Here it has: transactions in other databases may keep PostgreSQL from reusing at once what is replaced.
    """
    ask("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 1000) i")
    ask("SELECT count(cache_delete('store', 'k' || i)) FROM generate_series(1, 1000) i WHERE i % 20 > 9")
    ask("VACUUM cache_type_store")
    for _ in range(3):
        ask("SELECT count(cache_get('store', 'k' || i)) FROM generate_series(1, 1000, 20) i")
        fold(ask)
    ask("SELECT pg_stat_force_next_flush()")
    updates = ask.row("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'cache_type_store'")
    assert updates == {"n_tup_upd": 150, "n_tup_hot_upd": 150}


def test_a_read_does_not_touch_the_entry(ask: Session) -> None:
    ask("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")
    row = "SELECT ctid::text, xmin::text, xmax::text, hit_count, last_accessed_at FROM cache_llm_responses"
    before = ask.row(row)
    for _ in range(20):
        ask("SELECT cache_get('llm', 'k')")
        ask("SELECT * FROM cache_get_many('llm', '{k}')")
    assert ask.row(row) == before
    ask("SELECT pg_stat_force_next_flush()")
    assert ask("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'cache_llm_responses'") == 0


def test_folding_skips_entries_that_are_locked_and_keeps_their_hits(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    ask("SELECT cache_set_many('store', '{a,b}', '{1,2}')")
    ask("SELECT cache_get('store', 'a'), cache_get('store', 'b') FROM generate_series(1, 5)")
    with other.transaction():
        other("SELECT FROM cache_store WHERE cache_key = 'a' FOR UPDATE")
        ask("SET lock_timeout = '10ms'")
        ask("SET statement_timeout = '20s'")
        for call in ("SELECT pgcache_internal.fold_hits()", "SELECT cache_cleanup()", "CALL cache_upkeep()"):
            ask(call)
            assert ask.rows("SELECT cache_key, hit_count FROM cache_store ORDER BY 1") == [("a", 0), ("b", 5)]
        assert ask("SELECT hit_count FROM cache_entry('store', 'a')") == 5
    fold(ask)
    assert ask.rows("SELECT cache_key, hit_count FROM cache_store ORDER BY 1") == [("a", 5), ("b", 5)]
    assert ask.stats("store")["hits"] == 10


def test_one_folds_at_a_time_and_nobody_waits(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_get('store', 'k')")
    with other.transaction():
        assert other("SELECT pgcache_internal.fold_hits()") == 1
        ask("SET lock_timeout = '10ms'")
        assert ask("SELECT pgcache_internal.fold_hits()") == 0
        ask("SELECT cache_get('store', 'k')")
    assert ask("SELECT pgcache_internal.fold_hits()") == 2  # the other rolled back
    assert ask("SELECT hit_count FROM cache_store") == 2


def test_upkeep_ends_while_others_go_on_reading(ask: Session, new_session: NewSession) -> None:
    ask("SELECT cache_create_type('mine', hit_tracking => 'exact')")
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 500) i")
    readers = [new_session(), new_session()]
    going = [
        reader.start(
            "DO $$ BEGIN LOOP PERFORM cache_get('mine', 'k' || (random() * 500)::integer); COMMIT; END LOOP; END $$"
        )
        for reader in readers
    ]
    try:
        ask("SET statement_timeout = '20s'")
        for _ in range(3):
            ask("CALL cache_upkeep()")
            ask("SELECT cache_cleanup()")
    finally:
        for reader in readers:
            reader.connection.cancel()
        for future in going:
            assert future.exception(20)
    ask("CALL cache_upkeep()")
    assert ask("SELECT sum(hit_count) FROM cache_store") > 0


def test_more_than_one_batch_is_folded(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask(
        "INSERT INTO pgcache_internal.hit_log SELECT 'store', '', 'k', 1, pgcache_internal.cache_now() FROM"
        " generate_series(1, %s)",
        2 * BATCH + 100,
    )
    assert ask("SELECT pgcache_internal.fold_hits(100)") == 100
    assert ask("SELECT hit_count FROM cache_store") == 100
    fold(ask)
    assert ask("SELECT hit_count FROM cache_store") == 2 * BATCH + 100


@pytest.mark.once
def test_the_log_does_not_grow_without_bound(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', hit_tracking => 'sampled')")
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 200) i")
    ask("SELECT count(cache_get('mine', 'k' || i)) FROM generate_series(1, 200) i, generate_series(1, 150)")
    assert ask("SELECT pg_relation_size('pgcache_internal.hit_log')") < 5 << 20
    assert ask.stats("mine")["hits"] == 30_000


def test_a_clear_takes_the_hits_that_are_not_folded_yet(ask: Session) -> None:
    for clear in ("cache_clear('llm')", "cache_clear_all()"):
        ask("SELECT cache_set_llm('p', 'm', 'r', 10), cache_set('store', 'k', '1')")
        ask("SELECT cache_get_llm('p', 'm'), cache_get('store', 'k') FROM generate_series(1, 5)")
        saved = ask.stats("llm")["tokens_saved"]
        ask(f"SELECT {clear}")
        ask("SELECT cache_set_llm('p', 'm', 'r', 10)")
        ask("SELECT cache_get_llm('p', 'm')")
        fold(ask)
        assert ask("SELECT hit_count FROM cache_entry('llm', llm_key('p', 'm'))") == 1
        assert ask.stats("llm")["tokens_saved"] == saved + 10


def test_a_clear_that_is_rolled_back_takes_no_hits(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_get('store', 'k')")
    with ask.transaction():
        ask("SELECT cache_clear('store')")
    fold(ask)
    assert ask("SELECT hit_count FROM cache_entry('store', 'k')") == 1


def test_a_tenants_clear_takes_its_hits_only(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    other("SET pgcache.tenant = 't'")
    for session in (ask, other):
        session("SELECT cache_set('store', 'k', '1')")
        session("SELECT cache_get('store', 'k') FROM generate_series(1, 3)")
    other("SELECT cache_clear('store')")
    other("SELECT cache_set('store', 'k', '1')")
    fold(ask)
    hits = "SELECT hit_count FROM cache_entry('store', 'k')"
    assert (ask(hits), other(hits)) == (3, 0)


@pytest.mark.once
@pytest.mark.parametrize(
    "call",
    [
        "cache_get_many('store', array_fill('k'::text, '{200000}'))",
        "pgcache_internal.hot_report_hits('store', array_fill('k'::text, '{200000}'), array_fill(1, '{200000}'))",
    ],
)
def test_many_hits_at_once_do_not_flood_the_log(ask: Session, call: str) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask(f"SELECT count(*) FROM {call}")
    lines, hits = ask.rows("SELECT count(*), sum(weight) FROM pgcache_internal.hit_log")[0]
    assert lines < 35_000
    assert abs(hits - 200_000) < 10_000


@pytest.mark.once
def test_no_session_chooses_what_is_logged(ask: Session) -> None:
    """By setseed it could have each of its hits drawn, whatever the log's size."""
    ask("SELECT cache_set('store', 'k', '1')")
    ask(
        "INSERT INTO pgcache_internal.hit_log (type, tenant, cache_key, weight, hit_at)"
        " SELECT 'store', '', 'other', 1, now() FROM generate_series(1, 80000)"
    )
    assert ask("SELECT pgcache_internal.hit_log_crowding()") >= 16
    second = "SELECT (array(SELECT random() FROM generate_series(1, 2)))[2]"  # the first one draws the hit
    seed = next(i / 1000 for i in range(1000) if ask("SELECT setseed(%s)", i / 1000) == "" and ask(second) < 1 / 64)
    for _ in range(200):
        ask("SELECT setseed(%s), cache_get('store', 'k')", seed)
    assert ask("SELECT count(*) FROM pgcache_internal.hit_log") < 80_100
    ask("DELETE FROM pgcache_internal.hit_log")
