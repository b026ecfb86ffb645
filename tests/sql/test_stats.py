"""cache_stats and its relatives, savings, history, top entries, health."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.conftest import NewRole, NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import Background


def test_one_row_a_type(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 10)")
    assert ask.column("SELECT type FROM cache_stats") == sorted([*VALUES, "mine"])
    assert ask.stats("mine") == {
        "type": "mine", "entries": 0, "valid": 0, "expired": 0, "hits": 0, "misses": 0, "hit_rate": None,
        "hits_per_entry": None, "tokens_saved": 0, "money_saved": 0, "bytes": 0, "oldest": None, "newest": None,
        "evicted": 0, "cleaned": 0, "table_bytes": ask("SELECT pg_total_relation_size('cache_type_mine')"),
        "max_entries": 10, "max_bytes": 4 << 30, "ttl": ask("SELECT interval '1 hour'"), "eviction": "lru",
        "durable": True, "enabled": True, "tier": None, "max_age": None, "tenant_share": None,
    }  # fmt: skip


def test_entries_valid_and_expired(ask: Session) -> None:
    ask("SET timezone = 'UTC'")
    ask.set_clock("2030-01-01 00:00+00")
    ask("SELECT cache_set('store', 'a', '1', '1 minute')")
    ask.advance("1 minute")
    ask("SELECT cache_set('store', 'b', '1', '1 minute'), cache_set('store', 'c', '1', '1 hour')")
    stats = ask.stats("store")
    assert (stats["entries"], stats["valid"], stats["expired"], stats["cleaned"]) == (3, 2, 1, 0)
    assert (str(stats["oldest"]), str(stats["newest"])) == ("2030-01-01 00:00:00+00:00", "2030-01-01 00:01:00+00:00")
    ask("CALL cache_upkeep()")
    stats = ask.stats("store")
    assert (stats["entries"], stats["valid"], stats["expired"], stats["cleaned"]) == (2, 2, 0, 1)


def test_bytes_are_those_of_the_entries(ask: Session) -> None:
    ask("SELECT cache_set_audio('t', 'v', %b, 'wav')", b"\x00" * 1_000_000)
    assert 1_000_000 < ask.stats("audio")["bytes"] < 1_001_000
    assert ask("SELECT bytes FROM cache_entry('audio', audio_key('t', 'v', '', '{}'))") == ask.stats("audio")["bytes"]
    assert ask.stats("audio")["table_bytes"] > 1_000_000
    ask("SELECT cache_clear('audio')")
    assert ask.stats("audio")["bytes"] == 0
    # Compressed, as stored.
    ask("SELECT cache_set('store', 'k', to_jsonb(repeat('x', 1000000)))")
    assert ask.stats("store")["bytes"] < 100_000


def test_tokens_and_money(ask: Session) -> None:
    ask("SELECT cache_set_price('gpt', 10), cache_configure_setting('usd_per_million_tokens', '1')")
    ask(
        "SELECT cache_set_llm('a', 'gpt', 'r', 1000), cache_set_llm('b', 'other', 'r', 500), cache_set_llm('c',"
        " 'gpt', 'r')"
    )
    for _ in range(3):
        ask(
            "SELECT cache_get_llm('a', 'gpt'), cache_get_llm('b', 'other'), cache_get_llm('c', 'gpt'),"
            " cache_get_llm('d', 'gpt')"
        )

    def saved() -> tuple[Decimal, Decimal]:
        stats = ask.stats("llm")
        return stats["tokens_saved"], stats["money_saved"]

    expected = (3 * 1500, Decimal("0.0315"))  # 3 * (1000 * 10 + 500 * 1) / 10^6
    assert saved() == expected
    ask("CALL cache_upkeep()")
    assert saved() == expected
    ask("SELECT * FROM cache_get_many('llm', ARRAY[llm_key('a', 'gpt')])")
    expected = (5500, Decimal("0.0415"))
    assert saved() == expected
    assert ask.stats("store")["tokens_saved"] == 0


def test_savings_outlive_the_entry(ask: Session) -> None:
    ask("SELECT cache_set_price('m', 100)")
    ask("SELECT cache_set_llm('a', 'm', 'r', 1000), cache_set_ai_worker('p', 'm', 'v', 's', 100)")
    ask("SELECT cache_get_llm('a', 'm'), cache_get_ai_worker('p', 'm', 'v')")
    ask("SELECT cache_clear_all()")  # before anything was folded
    assert (ask.stats("llm")["tokens_saved"], ask.stats("llm")["money_saved"]) == (1000, Decimal("0.1"))
    ask("CALL cache_upkeep()")
    assert (ask.stats("llm")["tokens_saved"], ask.stats("llm")["money_saved"]) == (1000, Decimal("0.1"))
    assert (ask.stats("ai_worker")["tokens_saved"], ask.stats("ai_worker")["money_saved"]) == (100, Decimal("0.01"))


def test_savings_are_what_the_value_cost_when_it_was_hit(ask: Session) -> None:
    ask("SELECT cache_set_llm('a', 'm', 'r', 1000)")
    ask("SELECT cache_get_llm('a', 'm')")
    ask("SELECT cache_set_llm('a', 'm', 'shorter', 10)")
    ask("SELECT cache_get_llm('a', 'm')")
    assert ask.stats("llm")["tokens_saved"] == 1010
    ask("CALL cache_upkeep()")
    assert ask.stats("llm")["tokens_saved"] == 1010


@pytest.mark.parametrize("upkeep", [True, False], ids=["after upkeep", "without upkeep"])
def test_a_new_price_is_for_hits_from_then_on(ask: Session, upkeep: bool) -> None:
    ask("SELECT cache_set_price('m', 1), cache_set_llm('a', 'm', 'r', 1000000)")
    ask("SELECT cache_get_llm('a', 'm')")
    if upkeep:
        ask("CALL cache_upkeep()")
    ask("SELECT cache_set_price('m', 5)")
    ask("SELECT cache_get_llm('a', 'm')")
    ask("CALL cache_upkeep()")
    assert ask.stats("llm")["money_saved"] == 6


def test_sampled_hits_save_as_much_as_they_stand_for(ask: Session) -> None:
    ask("SELECT cache_set_llm('a', 'm', 'r', 10)")
    ask(
        "INSERT INTO pgcache_internal.hit_log SELECT 'llm', '', llm_key('a', 'm'), 20,"
        " pgcache_internal.cache_now(), 'm', 10"
    )
    assert ask.stats("llm")["tokens_saved"] == 200
    ask("CALL cache_upkeep()")
    assert ask.stats("llm")["tokens_saved"] == 200


def test_the_ai_workers_view_has_its_columns(ask: Session) -> None:
    assert ask.row("SELECT * FROM ai_worker_cache_stats") == {
        "total_entries": 0, "valid_entries": 0, "expired_entries": 0, "total_hits": 0, "avg_hits_per_entry": 0,
        "total_tokens_saved": 0, "max_hits": 0, "oldest_entry": None, "newest_entry": None,
    }  # fmt: skip


@pytest.mark.parametrize("upkeep", [True, False], ids=["after upkeep", "without upkeep"])
def test_the_ai_workers_view_is_exact(ask: Session, upkeep: bool) -> None:
    ask("SET timezone = 'UTC'")
    ask.set_clock("2030-01-01 00:00+00")
    ask("SELECT count(cache_set_ai_worker('p' || i, 'm', 'v', 's', 30)) FROM generate_series(1, 300) i")
    ask("SELECT count(cache_get_ai_worker('p' || i, 'm', 'v')) FROM generate_series(1, 100) i")
    ask("SELECT cache_get_ai_worker('p7', 'm', 'v')")
    ask.advance("30 minutes")
    ask("SELECT cache_set_ai_worker('late', 'm', 'v', 's', 30)")
    ask.advance("30 minutes")
    ask(f"SELECT pgcache_internal.{'fold_hits' if upkeep else 'log_own_hits'}()")
    row = ask.row("SELECT * FROM ai_worker_cache_stats")
    assert [str(row.pop(name)) for name in ("oldest_entry", "newest_entry")] == [
        "2030-01-01 00:00:00+00:00", "2030-01-01 00:30:00+00:00",
    ]  # fmt: skip
    assert row == {
        "total_entries": 301, "valid_entries": 1, "expired_entries": 300, "total_hits": 101,
        "avg_hits_per_entry": Decimal("0.34"), "total_tokens_saved": 3030, "max_hits": 2,
    }  # fmt: skip


def test_history_is_by_hour(ask: Session) -> None:
    ask("SET timezone = 'UTC'")
    ask.set_clock("2030-01-01 10:15+00")
    ask("SELECT cache_set_llm('a', 'm', 'r', 10, ttl => '1 day')")
    ask("SELECT cache_get_llm('a', 'm'), cache_get_llm('absent', 'm')")
    ask("CALL cache_upkeep()")
    ask.advance("30 minutes")
    ask("SELECT cache_get_llm('a', 'm')")
    ask("CALL cache_upkeep()")  # again in the same hour
    ask.advance("1 hour")
    ask("SELECT cache_get_llm('a', 'm'), cache_get_llm('absent', 'm') FROM generate_series(1, 3)")
    ask("SELECT cache_set_llm('b', 'm', 'r', ttl => '1 minute')")
    ask("CALL cache_upkeep()")
    ask.advance("2 hours")
    ask("CALL cache_upkeep()")
    rows = ask.rows("""
        SELECT hour::text, entries, hits, misses, hit_rate::text, cleaned, tokens_saved
        FROM cache_stats_history WHERE type = 'llm' ORDER BY hour
    """)
    assert rows == [
        ("2030-01-01 10:00:00+00", 1, 2, 1, "0.6667", 0, 20),
        ("2030-01-01 11:00:00+00", 2, 3, 3, "0.5000", 0, 30),
        ("2030-01-01 13:00:00+00", 1, 0, 0, None, 1, 0),
    ]
    assert ask("SELECT count(DISTINCT type) FROM cache_stats_history") == len(VALUES)


COUNTS = ("hits", "misses", "evicted", "cleaned", "tokens_saved", "money_saved")
NEGATIVE = f"SELECT count(*) FROM {{}} WHERE least({', '.join(COUNTS)}) < 0"


def test_history_is_never_negative_though_a_crash_took_counts_that_it_had_told(ask: Session) -> None:
    ask.set_clock("2030-01-01 10:15+00")
    ask("SELECT cache_set_llm('a', 'm', 'r', 10, ttl => '1 day')")
    ask("SELECT cache_get_llm('a', 'm'), cache_get_llm('absent', 'm')")
    ask("CALL cache_upkeep()")
    # As upkeep does between settling and the snapshot.
    ask(
        f"UPDATE pgcache_internal.stats_snapshots SET ({', '.join(COUNTS)}) = ({', '.join(f'{c} + 5' for c in COUNTS)})"
    )
    ask.advance("1 hour")
    ask("SELECT cache_get_llm('absent', 'm') FROM generate_series(1, 8)")
    ask("CALL cache_upkeep()")
    assert ask(NEGATIVE.format("cache_stats_history")) == 0
    later = "SELECT hits, misses, hit_rate FROM cache_stats_history WHERE type = 'llm' ORDER BY hour DESC LIMIT 1"
    assert ask.row(later) == {"hits": 0, "misses": 3, "hit_rate": 0}


def test_a_new_type_does_not_inherit_the_history_of_one_of_its_name(ask: Session) -> None:
    ask.set_clock("2030-01-01 10:15+00")
    ask("SELECT cache_create_type('mine'), cache_set('mine', 'k', '1'), cache_get('mine', 'k')")
    ask("CALL cache_upkeep()")
    ask("SELECT cache_drop_type('mine'), cache_create_type('mine')")
    ask.advance("1 hour")
    ask("SELECT cache_get('mine', 'k')")
    ask("CALL cache_upkeep()")
    assert ask.rows("SELECT hits, misses FROM cache_stats_history WHERE type = 'mine'") == [(0, 1)]


@pytest.mark.breaks("counters", why="a counter is set back, and a hit with it")
@pytest.mark.parametrize("counter", ["hits", "misses", "evicted", "expired"])
def test_a_counter_that_restarted_counts_on(ask: Session, counter: str) -> None:
    shown = {"expired": "cleaned"}.get(counter, counter)
    ask("SELECT pgcache_internal.count_events('store', %s, 10)", counter)
    ask("SELECT pgcache_internal.settle_counters()")
    ask(f"ALTER SEQUENCE pgcache_internal.{counter}_store RESTART")
    for expected in (10, 13, 16):
        assert ask.stats("store")[shown] == expected
        ask("SELECT pgcache_internal.settle_counters()")
        assert ask.stats("store")[shown] == expected
        ask("SELECT pgcache_internal.count_events('store', %s, 3)", counter)


def test_clearing_leaves_no_negative_count(ask: Session) -> None:
    ask("SELECT cache_set_llm('a', 'm', 'r', 10), cache_get_llm('a', 'm')")
    for step in ("cache_clear_all()", "cache_trim('llm', 0)", "cache_cleanup()", "pg_stat_reset()"):
        ask(f"SELECT {step}")
        ask("CALL cache_upkeep()")
        for view in ("cache_stats", "cache_stats_history"):
            assert ask(NEGATIVE.format(view)) == 0, (step, view)
        assert ask("SELECT min(least(entries, valid, expired, bytes)) FROM cache_stats") == 0, step


def test_counts_only_grow_while_others_settle_them(ask: Session, new_session: NewSession) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    settler, reader = new_session(), new_session()

    def settle() -> None:
        for _ in range(100):
            ask("SELECT cache_get('store', 'k') FROM generate_series(1, 20)")
            settler("SELECT pgcache_internal.settle_counters()")

    settling = Background(settle)
    seen = [0]
    while settling.is_alive():
        seen.append(reader("SELECT pgcache_internal.counter_total('store', 'hits')"))
    settling.result()
    assert seen == sorted(seen)
    assert ask.stats("store")["hits"] == 2000


SINCE = """
    SELECT period::text, since::text, hits, misses, hit_rate::text, evicted, cleaned, tokens_saved, money_saved::text
    FROM cache_stats_since('1 hour', '1 day') WHERE type = 'llm'
"""


def test_what_is_counted_since(ask: Session) -> None:
    ask("SET timezone = 'UTC'")
    ask.set_clock("2030-01-01 10:15+00")
    ask("SELECT cache_set_price('m', 1000)")
    ask("SELECT cache_set_llm('a', 'm', 'r', 10, ttl => '90 minutes'), cache_get_llm('a', 'm')")
    # Nothing is recorded: so it is all that there was.
    everything = (None, 1, 0, "1.0000", 0, 0, 10, "0.010000")
    assert ask.rows(SINCE) == [("01:00:00", *everything), ("1 day", *everything)]
    ask("CALL cache_upkeep()")
    ask.advance("40 minutes")
    ask("SELECT cache_get_llm('a', 'm'), cache_get_llm('absent', 'm')")
    ask("CALL cache_upkeep()")  # again in the same hour, at 10:55
    ask.advance("59 minutes")
    assert ask.rows(SINCE)[0][1:4] == (None, 2, 1)  # the record of 10:00 is of 10:55, not yet an hour ago
    ask.advance("1 minute")
    ask("SELECT cache_get_llm('absent', 'm') FROM generate_series(1, 3)")
    ask("SELECT cache_cleanup('llm')")
    assert ask.rows(SINCE) == [
        ("01:00:00", "2030-01-01 10:55:00+00", 0, 3, "0.0000", 0, 1, 0, "0"),
        ("1 day", None, 2, 4, "0.3333", 0, 1, 20, "0.020000"),
    ]
    assert ask("SELECT count(*) FROM cache_stats_since('1 hour', '1 day')") == 2 * len(VALUES)
    assert ask("SELECT count(*) FROM cache_stats_since(VARIADIC '{}')") == 0


@pytest.mark.parametrize("period", ["NULL", "'0'", "'-1 hour'", "'101 years'", "'1 hour', NULL"])
def test_since_when_cannot_be(ask: Session, period: str) -> None:
    with refused("PC010", "up to 100 years"):
        ask(f"SELECT * FROM cache_stats_since(VARIADIC ARRAY[{period}]::interval[])")


def test_history_is_pruned(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("CALL cache_upkeep()")
    ask.advance("89 days")
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(DISTINCT hour) FROM cache_stats_history") == 2
    ask.advance("2 days")
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(DISTINCT hour) FROM cache_stats_history") == 2
    ask("SELECT cache_configure_setting('keep_history', '1 hour')")
    ask.advance("1 day")
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(DISTINCT hour) FROM cache_stats_history") == 1


def test_top(ask: Session) -> None:
    ask("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 12) i")
    ask("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")
    ask("SELECT set_config('pgcache.tenant', 't', false)")
    ask("SELECT cache_set('store', 'k12', '1')")
    ask("SELECT set_config('pgcache.tenant', '', false)")
    ask("SELECT count(cache_get('store', 'k' || i)) FROM generate_series(1, 12) i, generate_series(1, i)")
    ask("CALL cache_upkeep()")
    rows = ask.rows("SELECT cache_key, tenant, hit_count FROM cache_top WHERE type = 'store'")
    assert rows == [(f"k{i}", "", i) for i in range(12, 2, -1)]
    assert ask("SELECT cache_key FROM cache_top WHERE type = 'llm'") == "k"
    assert ask.column("SELECT cache_key FROM pgcache_internal.top_entries(2)") == ["k", "k12", "k11"]
    assert ask("SELECT count(*) FROM pgcache_internal.top_entries(NULL)") == 14
    assert ask("SELECT bytes > 96 AND created_at <= now() AND expires_at > now() FROM cache_top LIMIT 1")


def test_top_entries_are_live(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'k', '1', '1')")
    assert ask("SELECT count(*) FROM cache_top") == 1
    ask.advance("1 second")
    assert ask("SELECT count(*) FROM cache_top") == 0


def test_trim(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    for i in range(10):
        ask.advance("1 second")
        ask("SELECT cache_set_audio(%s, 'v', 'x', 'mp3')", f"t{i}")
    ask.advance("1 second")
    ask("SELECT * FROM cache_get_audio('t0', 'v')")
    assert ask("SELECT cache_trim('audio', 20)") == 0
    assert ask("SELECT cache_trim('audio', 3)") == 7
    kept = ask.column(
        "SELECT t FROM generate_series(0, 9) t WHERE cache_exists('audio', audio_key('t' || t, 'v', '', '{}'))"
    )
    assert kept == [0, 8, 9]
    assert ask.stats("audio")["evicted"] == 7
    assert ask("SELECT cache_trim('audio', 0)") == 3


def test_trim_skips_what_is_locked(ask: Session, dsn: str) -> None:
    other = Session(dsn)
    ask("SELECT cache_set_many('store', '{a,b,c}', '{1,2,3}')")
    with other.transaction():
        other("SELECT FROM cache_store WHERE cache_key = 'a' FOR UPDATE")
        ask("SET lock_timeout = '10ms'")
        assert ask("SELECT cache_trim('store', 0)") == 2
    assert ask("SELECT cache_trim('store', 0)") == 1
    other.close()


def test_index_usage(ask: Session) -> None:
    ask("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")
    ask("SET enable_seqscan = off")
    ask("SELECT cache_get('llm', 'k') FROM generate_series(1, 5)")
    ask("SELECT pg_stat_force_next_flush()")
    rows = ask.rows("SELECT table_name, index_name, index_scans, index_bytes FROM get_cache_index_usage()")
    assert len(rows) == len(VALUES)
    assert ("cache_llm_responses", "cache_llm_responses_pkey") in [row[:2] for row in rows]
    assert next(row[2] for row in rows if row[0] == "cache_llm_responses") >= 5
    assert all(row[3] > 0 for row in rows)


# Latency.

LATENCY = "SELECT operation, samples > 0 AND p50_ms > 0 AND p50_ms <= p95_ms AND p95_ms <= max_ms FROM cache_latency"


def test_gets_are_timed(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', hit_tracking => 'exact'), cache_set('mine', 'k', '1')")
    for _ in range(2000):  # one in 64 is timed
        ask("SELECT cache_get('mine', 'k')")
    assert ask.rows(f"{LATENCY} WHERE operation = 'get'") == [("get", True)]
    assert ask("SELECT samples BETWEEN 5 AND 100 FROM cache_latency WHERE operation = 'get'")


def test_sets_are_timed_that_make_room(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 10)")
    ask("SELECT cache_set('mine', 'k', '1')")
    ask("SELECT * FROM pgcache.cache_add('mine', 'l', '1')")
    assert ask.rows(LATENCY) == [("set", True)]
    assert ask("SELECT samples FROM cache_latency") == 2


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT cache_set('mine', 'k' || i, '1') FROM generate_series(1, 50) i",
        "DO $$ BEGIN PERFORM cache_set('mine', 'k', '1'); END $$",
        "SELECT cache_set_many('mine', '{k}', '{1}')",
        "SELECT answer()",
    ],
)
def test_what_a_call_is_only_a_part_of_is_no_latency(ask: Session, statement: str) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 10)")
    ask("CREATE FUNCTION answer() RETURNS boolean LANGUAGE sql AS $$ SELECT pgcache.cache_set('mine', 'k', '1') $$")
    ask(statement)
    assert ask("SELECT count(*) FROM cache_latency") == 0


@pytest.mark.parametrize("access", ["read", "write", "admin"])
def test_whoever_gets_may_be_timed(ask: Session, role: NewRole, access: str) -> None:
    ask("SELECT cache_create_type('mine', hit_tracking => 'exact'), cache_set('mine', 'k', '1')")
    session = role(access)
    session("SELECT count(cache_get('mine', 'k')) FROM generate_series(1, 1000)")  # one in 64 is timed
    assert ask("SELECT count(*) BETWEEN 2 AND 60 FROM pgcache_internal.timings WHERE operation = 'get'")
    if access != "read":
        session("SELECT ai_worker_cleanup_cache(), cache_clear('mine')")


def timings(ask: Session, milliseconds: float, number: int, age: str = "0 minutes") -> None:
    ask(
        "INSERT INTO pgcache_internal.timings SELECT 'store', 'get', clock_timestamp() - %s::interval - i * interval"
        " '1 ms', %s FROM generate_series(1, %s) i",
        age, milliseconds, number,
    )  # fmt: skip


def test_percentiles(ask: Session) -> None:
    ask(
        "INSERT INTO pgcache_internal.timings SELECT 'store', 'get', clock_timestamp() - i * interval '1 ms', i"
        " FROM generate_series(1, 100) i"
    )
    expected = {"samples": 100, "p50_ms": 50, "p95_ms": 95, "max_ms": 100}
    assert ask.row(f"SELECT {', '.join(expected)} FROM cache_latency") == expected


def test_slow_gets_are_a_warning(ask: Session) -> None:
    assert health(ask, "latency") == {"status": "ok", "detail": "not enough samples yet", "hint": None}
    timings(ask, 50, 19)
    assert health(ask, "latency")["status"] == "ok"  # 19 samples say little
    timings(ask, 50, 1, "30 minutes")
    warning = health(ask, "latency")
    assert warning["status"] == "warning"
    assert str(warning["detail"]).startswith("p95 50.000 ms of 20 samples of get store")
    assert "cache_latency" in str(warning["hint"])
    timings(ask, 0.1, 380)
    assert health(ask, "latency")["status"] == "ok"  # one in twenty may be slow
    ask("SELECT cache_configure_setting('alert_latency', '0.05 ms')")
    assert health(ask, "latency")["status"] == "warning"


def test_a_slow_past_is_over_after_an_hour(ask: Session) -> None:
    timings(ask, 50, 100, "61 minutes")
    timings(ask, 50, 1, "50 minutes")
    assert health(ask, "latency")["status"] == "ok"
    assert ask("SELECT samples FROM cache_latency") == 1
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(*) FROM pgcache_internal.timings") == 1


# Health.


def health(ask: Session, check: str) -> dict[str, object]:
    return ask.row("SELECT status, detail, hint FROM cache_health() WHERE check_name = %s", check)


def test_a_new_installation_is_healthy(ask: Session) -> None:
    rows = ask.rows("SELECT check_name, status, hint FROM cache_health()")
    assert {row[1:] for row in rows} == {("ok", None)}
    checks = {row[0] for row in rows}
    assert {f"hit rate: {type}" for type in VALUES} | {f"size: {type}" for type in VALUES} <= checks
    assert {"upkeep: pgcache_upkeep", "upkeep: ai_worker_cleanup_cache", "hit log"} <= checks


def test_a_low_hit_rate_is_a_warning(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 68)")
    ask("SELECT cache_get('store', 'absent') FROM generate_series(1, 31)")
    assert health(ask, "hit rate: store")["status"] == "ok"  # 99 requests say little
    ask("SELECT cache_get('store', 'k')")
    warning = health(ask, "hit rate: store")
    assert (warning["status"], warning["detail"]) == ("warning", "69.0 % of 100 requests")
    assert "cache_entry" in str(warning["hint"])
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 4)")
    assert health(ask, "hit rate: store")["status"] == "ok"
    ask("SELECT cache_configure_setting('alert_hit_rate', '0.9')")
    assert health(ask, "hit rate: store")["status"] == "warning"


def test_a_good_past_does_not_hide_a_bad_present(ask: Session) -> None:
    ask.set_clock("2030-01-01 00:30+00")
    ask("SELECT cache_set('store', 'k', '1', '1 year')")
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 20000)")
    ask("CALL cache_upkeep()")
    ask("SELECT cache_get('store', 'absent') FROM generate_series(1, 50)")
    assert health(ask, "hit rate: store")["status"] == "ok"  # 50 requests say little
    ask.set_clock("2030-01-01 01:15+00")
    ask("SELECT cache_get('store', 'absent') FROM generate_series(1, 4950)")
    for moment in ("2030-01-01 01:20+00", "2030-01-01 02:10+00"):
        warning = health(ask, "hit rate: store")
        assert (warning["status"], str(warning["detail"])[:23]) == ("warning", "0.0 % of 5000 requests "), moment
        assert health(ask, "overall")["status"] == "warning"
        ask("CALL cache_upkeep()")
        ask.set_clock(moment)
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 1000)")
    assert health(ask, "hit rate: store")["status"] == "ok"


def test_the_worst_comes_first(ask: Session) -> None:
    first = ask.row("SELECT * FROM cache_health() LIMIT 1")
    count = ask("SELECT count(*) - 1 FROM cache_health()")
    assert first == {
        "check_name": "overall", "status": "ok", "detail": f"{count} of {count} checks are ok", "hint": None,
    }  # fmt: skip
    ask("INSERT INTO pgcache_internal.upkeep_runs (job, started_at) VALUES ('pgcache_upkeep', now())")
    ask("UPDATE pgcache_internal.upkeep_runs SET outcome = 'failed', finished_at = now()")
    assert ask("SELECT status FROM cache_health() LIMIT 1") == "critical"


def test_a_size_near_its_limit_is_a_warning(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 100)")
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 80) i")
    assert health(ask, "size: mine")["status"] == "ok"
    ask("SELECT count(cache_set('mine', 'l' || i, '1')) FROM generate_series(1, 10) i")
    warning = health(ask, "size: mine")
    assert warning["status"] == "warning"
    assert "90 entries" in str(warning["detail"])
    assert "cache_configure('mine', max_entries => ..." in str(warning["hint"])
    ask("SELECT cache_configure_setting('alert_size', '0.95')")
    assert health(ask, "size: mine")["status"] == "ok"


def test_bytes_near_their_limit_are_a_warning(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_bytes => 1000000)")
    ask(
        "SELECT count(cache_set('mine', 'k' || i, to_jsonb(encode(sha256(i::text::bytea), 'hex'))))"
        " FROM generate_series(1, 5200) i"
    )
    assert 800_000 < ask.stats("mine")["bytes"] < 1_000_000
    assert health(ask, "size: mine")["status"] == "warning"


@pytest.mark.breaks("counters", why="lines of the hit log without hits")
def test_a_large_hit_log_is_a_warning_until_it_is_folded(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask("INSERT INTO pgcache_internal.hit_log SELECT 'store', '', 'x', 1, now() FROM generate_series(1, 60000)")
    warning = health(ask, "hit log")
    assert warning["status"] == "warning"
    assert "cache_upkeep" in str(warning["hint"])
    ask("CALL cache_upkeep()")
    assert health(ask, "hit log")["status"] == "ok"


def money(ask: Session) -> list[Decimal]:
    """What the hits of the type llm have saved, as all reports have it."""
    tenants = ask("SELECT sum(money_saved) FROM cache_tenant_stats() WHERE type = 'llm'")
    return [ask.stats("llm")["money_saved"], tenants]


def test_input_output_and_cached_input_have_prices_of_their_own(ask: Session) -> None:
    ask("SELECT cache_set_price('m', input => 2, output => 10, cached_input => 0.5)")
    ask("SELECT cache_set_llm('a', 'm', 'r', 1000000, input_tokens => 900000, cached_input_tokens => 600000)")
    ask("SELECT cache_set_llm('b', 'm', 'r', 1000000, input_tokens => 900000)")
    ask("SELECT cache_set_llm('c', 'm', 'r', 1000000)")  # nobody knows: as input, which costs less
    saved = Decimal(0)
    for prompt, usd in (("a", "1.9"), ("b", "2.8"), ("c", "2")):  # 1 + 0.6 + 0.3, 1 + 1.8, 2
        ask("SELECT cache_get_llm(%s, 'm')", prompt)
        saved += Decimal(usd)
        assert money(ask) == [saved, saved]
    ask("CALL cache_upkeep()")
    assert money(ask) == [saved, saved]
    keys = "ARRAY[llm_key('a', 'm'), llm_key('b', 'm'), llm_key('c', 'm')]"
    for query in (
        f"SELECT count(*) FROM cache_get_many('llm', {keys})",
        f"SELECT cache_get_many_json('llm', {keys}) IS NOT NULL",
        f"SELECT pgcache_internal.hot_report_hits('llm', {keys}, '{{1,1,1}}')",
    ):
        ask(query)
        saved += Decimal("6.7")
        assert money(ask) == [saved, saved]
    assert ask.stats("llm")["tokens_saved"] == 12_000_000
    ask("CALL cache_upkeep()")
    assert money(ask) == [saved, saved]


def test_prices_of_some_kinds(ask: Session) -> None:
    """What is not said is as what it is part of: cached input as input, all else as all tokens."""
    ask("SELECT cache_set_llm('a', 'm', 'r', 1000000, input_tokens => 900000, cached_input_tokens => 600000)")
    ask("SELECT cache_configure_setting('usd_per_million_tokens', '1')")
    saved = Decimal(0)
    for prices, usd in (
        (None, "1"),  # the setting
        ("4", "4"),
        ("4, output => 10", "4.6"),  # 1 + 3.6
        ("4, input => 2", "2.2"),  # 0.4 + 1.8
        ("4, cached_input => 0", "1.6"),  # 0.4 + 1.2
        ("input => 2", "2"),
        ("input => 0, output => 10", "1"),
        ("5", "5"),  # the others are gone
    ):
        if prices:
            ask(f"SELECT cache_set_price('m', {prices})")
        ask("SELECT cache_get_llm('a', 'm')")
        saved += Decimal(usd)
        assert money(ask) == [saved, saved], prices


def test_kinds_of_tokens_that_cannot_be(ask: Session) -> None:
    """More of a kind than there are at all: nothing is negative."""
    ask("SELECT cache_set_price('m', input => 1, output => 1000, cached_input => 0)")
    ask("SELECT cache_set_llm('a', 'm', 'r', 1000000, input_tokens => 5000000, cached_input_tokens => 7000000)")
    ask("SELECT cache_set_llm('b', 'm', 'r', NULL, input_tokens => 5)")
    ask("SELECT cache_get_llm('a', 'm'), cache_get_llm('b', 'm')")
    assert money(ask) == [0, 0]
    ask("CALL cache_upkeep()")
    assert money(ask) == [0, 0]


def test_a_type_of_a_users_has_kinds_of_tokens(ask: Session) -> None:
    ask("SELECT cache_set_price('m', input => 1, output => 3)")
    fields = '{"model": "string", "tokens_used": "count", "input_tokens": "%s"}'
    for type, kind, usd in (("counted", "count", 2), ("named", "string", 1)):
        ask("SELECT cache_create_type(%s, fields => %s)", type, fields.replace("%s", kind))
        value = '{"model": "m", "tokens_used": 1000000, "input_tokens": 500000}'
        ask("SELECT cache_set(%s, 'k', %s)", type, value if kind == "count" else value.replace("500000", '"500000"'))
        ask("SELECT cache_get(%s, 'k')", type)
        assert ask.stats(type)["money_saved"] == usd


@pytest.mark.parametrize(
    ("counts", "saved"),
    [
        ("110, input_tokens => 100, cached_input_tokens => 500", 225),
        ("NULL, input_tokens => 100", 0),
        ("100, input_tokens => 200", 250),
        ("100, cached_input_tokens => 200", None),
    ],
)
def test_odd_counts_of_an_entry_spoil_no_sums(ask: Session, counts: str, saved: int | None) -> None:
    """The savings of a hit are those of its entry: never less than nothing, whatever others have counted."""
    ask("SELECT cache_set_price('m', input => 2.5, output => 10, cached_input => 1.25)")
    ask("SELECT cache_set_llm('good', 'm', 'r', 110, input_tokens => 100), cache_get_llm('good', 'm')")
    before = ask.stats("llm")["money_saved"]
    ask(f"SELECT cache_set_llm('odd', 'm', 'r', {counts}), cache_get_llm('odd', 'm')")
    gained = (ask.stats("llm")["money_saved"] - before) * 1000000
    assert gained >= 0
    if saved is not None:
        assert gained == saved
    ask("CALL cache_upkeep()")
    assert (ask.stats("llm")["money_saved"] - before) * 1000000 == gained
