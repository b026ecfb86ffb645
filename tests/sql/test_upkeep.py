"""Clean-up on demand, and the hourly upkeep."""

from __future__ import annotations

import psycopg
import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until


def test_clear_expired(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    for type, values in VALUES.items():
        ask(
            "SELECT cache_set(%s, 'short', %s, '1 minute'), cache_set(%s, 'long', %s, '1 hour')",
            type,
            values[0],
            type,
            values[0],
        )
    ask("SELECT set_config('pgcache.tenant', 'other', false)")
    ask("SELECT cache_set('store', 'short', '1', '1 minute')")
    assert ask("SELECT cache_clear_expired()") == 0
    ask.advance("1 minute")
    assert ask("SELECT cache_clear_expired('llm')") == 1
    assert ask("SELECT cache_clear_expired('store')") == 2  # of all tenants
    assert ask("SELECT ai_worker_cleanup_cache()") == 1
    assert ask("SELECT cache_clear_expired()") == len(VALUES) - 3
    assert ask("SELECT cache_clear_expired()") == 0
    assert ask("SELECT sum(entries) FROM cache_stats") == len(VALUES)
    assert ask("SELECT sum(cleaned) FROM cache_stats") == len(VALUES) + 1


def test_cleanup_does_it_all(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine')")
    ask("SELECT count(cache_set('mine', 'k' || i, '1', '1 day')) FROM generate_series(1, 300) i")
    ask("SELECT count(cache_set('store', 'k' || i, '1', '1 minute')) FROM generate_series(1, 20) i")
    ask("SELECT cache_get('mine', 'k7')")
    ask.advance("1 minute")
    ask("SELECT cache_configure('mine', max_entries => 100)")
    removed = ask("SELECT cache_cleanup()")
    assert ask.stats("mine")["entries"] <= 105
    assert removed == 20 + 300 - ask.stats("mine")["entries"]
    assert ask("SELECT count(*) FROM pgcache_internal.hit_log") == 0
    assert ask("SELECT cache_cleanup('mine')") == 0


@pytest.mark.parametrize("eviction", ["lru", "cost", "fifo", "none"])
def test_clean_up_passes_over_no_policy(ask: Session, eviction: str) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_entries => 5, max_bytes => 10000, eviction => %s)", eviction)
    ask("SELECT cache_set('mine', 'k', '1', '1 minute'), cache_set('store', 'k', '1', '1 minute')")
    ask.advance("1 minute")
    assert ask("SELECT cache_cleanup()") == 2
    ask("SELECT cache_set('mine', 'k', '1', '1 minute'), cache_set('store', 'k', '1', '1 minute')")
    ask.advance("1 minute")
    ask("CALL cache_upkeep()")
    assert ask("SELECT sum(entries) FROM cache_stats") == 0


def test_a_run_that_broke_off_is_not_running(ask: Session) -> None:
    ask("ALTER TABLE pgcache_internal.stats_snapshots ADD CHECK (false)")
    with refused("23514"):
        ask("CALL cache_upkeep()")
    rows = ask.rows("SELECT outcome, detail FROM cache_jobs WHERE job_name = 'pgcache_upkeep'")
    assert rows == [("failed", "interrupted")]
    assert ask("SELECT status FROM cache_health() WHERE check_name = 'upkeep: pgcache_upkeep'") == "critical"


def test_upkeep_records_its_run(ask: Session) -> None:
    ask("SELECT count(cache_set('store', 'k' || i, '1', '1 minute')) FROM generate_series(1, 20) i")
    ask.advance("1 minute")
    ask("CALL cache_upkeep()")
    run = ask.row(
        "SELECT job, outcome, removed, detail, finished_at >= started_at AS finished, backend_pid FROM"
        " pgcache_internal.upkeep_runs"
    )
    assert run == {
        "job": "pgcache_upkeep",
        "outcome": "succeeded",
        "removed": 20,
        "detail": None,
        "finished": True,
        "backend_pid": ask.pid,
    }
    job = ask.row("SELECT * FROM cache_jobs WHERE job_name = 'pgcache_upkeep'")
    assert (job["outcome"], job["removed"], job["overdue"]) == ("succeeded", 20, False)


def test_upkeep_of_many_entries_commits_as_it_goes(ask: Session, new_session: NewSession) -> None:
    """What is done stays done, whenever it is interrupted."""
    ask("""INSERT INTO cache_type_store (cache_key, data, expires_at)
        SELECT 'k' || i, to_jsonb(repeat('x', 1500)), now() FROM generate_series(1, 12000) i""")
    assert ask("SELECT pgcache_internal.heap_blocks('cache_type_store')") > 2 * 1024
    blocker = new_session()
    with blocker.transaction():
        blocker("LOCK TABLE pgcache_internal.stats_snapshots IN EXCLUSIVE MODE")
        running = ask.start("CALL cache_upkeep()")
        wait_until(lambda: blocker("SELECT pg_blocking_pids(%s)", ask.pid) == [blocker.pid])
        watcher = new_session()
        assert watcher("SELECT count(*) FROM cache_store") == 0  # committed, though upkeep has not ended
        assert watcher("SELECT outcome FROM pgcache_internal.upkeep_runs") == "running"
        ask.connection.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(20)
    ask("CALL cache_upkeep()")
    runs = ask.rows("SELECT outcome, detail, removed FROM pgcache_internal.upkeep_runs ORDER BY run_id")
    assert runs == [("failed", "interrupted", 0), ("succeeded", None, 0)]
    assert ask.stats("store")["cleaned"] == 12000


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
def test_upkeep_that_is_interrupted_loses_nothing(ask: Session, new_session: NewSession, how: str) -> None:
    ask("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 300) i")
    ask("SELECT cache_set_llm('p', 'm', 'r', 10)")
    ask("SELECT count(cache_get('store', 'k' || i)) FROM generate_series(1, 300) i")
    ask("SELECT cache_get_llm('p', 'm')")
    # Wherever it is: while it folds, sweeps, settles or takes the snapshot.
    for table in (
        "pgcache_internal.tenant_savings", "pgcache.cache_type_store", "pgcache_internal.counters_seen",
        "pgcache_internal.counter_totals", "pgcache_internal.stats_snapshots", "pgcache_internal.upkeep_runs",
    ):  # fmt: skip
        victim, blocker = new_session(), new_session()
        with blocker.transaction():
            blocker(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            running = victim.start("CALL cache_upkeep()")
            wait_until(
                lambda blocker=blocker, victim=victim: (
                    blocker("SELECT pg_blocking_pids(%s)", victim.pid) == [blocker.pid]
                )
            )
            assert blocker(f"SELECT {how}(%s)", victim.pid)
            assert isinstance(running.exception(20), psycopg.OperationalError)
        assert ask.stats("store")["hits"] == 300
        assert ask.stats("llm")["tokens_saved"] == 10
        assert ask("SELECT count(cache_get('store', 'k' || i)) FROM generate_series(1, 0) i") == 0
    ask("CALL cache_upkeep()")
    assert ask("SELECT sum(hit_count) FROM cache_store") == 300
    assert ask("SELECT hit_count FROM cache_llm_responses") == 1
    assert (ask.stats("store")["hits"], ask.stats("llm")["hits"], ask.stats("llm")["tokens_saved"]) == (300, 1, 10)
    assert ask("SELECT count(*) FROM cache_store") == 300
    assert ask("SELECT count(*) FROM pgcache_internal.upkeep_runs WHERE outcome = 'running'") == 0


def test_a_write_that_is_interrupted_while_it_notes_what_is_due(ask: Session, new_session: NewSession) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 40)")
    ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 60) i")
    ask("SELECT cache_get('mine', 'k60')")
    victim, blocker = new_session(), new_session()
    with blocker.transaction():
        blocker("LOCK TABLE pgcache_internal.room_due IN ACCESS EXCLUSIVE MODE")
        running = victim.start("SELECT cache_set('mine', 'new', '1')")
        wait_until(lambda: blocker("SELECT pg_blocking_pids(%s)", victim.pid) == [blocker.pid])
        victim.connection.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(20)
    assert ask("SELECT cache_get('mine', 'new') IS NULL")
    assert ask("SELECT cache_set('mine', 'new', '1')")
    assert ask("SELECT cache_get('mine', 'new')") == 1
    assert ask("SELECT hit_count FROM cache_entry('mine', 'k60')") == 1


@pytest.mark.breaks("counters", why="the type could not be measured")
def test_a_lock_timeout_of_the_callers_fails_no_write(ask: Session, new_session: NewSession) -> None:
    """The share of upkeep is given up instead."""
    ask("SELECT cache_create_type('mine', max_entries => 40)")
    other = new_session()
    with other.transaction():
        other("LOCK TABLE pgcache_internal.room_due, pgcache_internal.tenant_savings IN ACCESS EXCLUSIVE MODE")
        ask("SET lock_timeout = '10ms'")
        for i in range(30):
            assert ask("SELECT cache_set('mine', %s, '1')", f"k{i}") is True
    assert ask.stats("mine")["entries"] == 30


def test_space_is_reused(ask: Session) -> None:
    """A cache of a steady number of entries does not grow."""
    ask("SELECT cache_create_type('mine', max_entries => 500)")
    sizes = []
    for turn in range(5):
        ask(
            "SELECT count(cache_set('mine', %s || i, to_jsonb(repeat('x', 200)))) FROM generate_series(1, 1000) i",
            f"{turn} ",
        )
        ask("VACUUM cache_type_mine")
        sizes.append(ask("SELECT pgcache_internal.heap_blocks('cache_type_mine')"))
    assert sizes[-1] <= sizes[1] * 1.3


def test_autovacuum_suits_the_churn(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    for options in ask.column(
        "SELECT c.reloptions FROM pgcache_internal.types t JOIN pg_class c ON c.oid = t.relation"
    ):
        settings = dict(option.split("=") for option in options)
        assert float(settings["autovacuum_vacuum_scale_factor"]) <= 0.05
        assert int(settings["fillfactor"]) <= 90


def test_each_table_has_one_index(ask: Session) -> None:
    """Each further one taxes every set, and forbids HOT updates. The primary key is not there twice either."""
    ask("SELECT cache_create_type('mine')")
    indexes = ask.rows(
        "SELECT relation::text, (SELECT count(*) FROM pg_index WHERE indrelid = relation) FROM pgcache_internal.types"
    )
    assert {count for _, count in indexes} == {1}
    assert ask("SELECT count(*) FROM pg_index WHERE indrelid = 'cache_store'::regclass") == 1


def test_expired_entries_go_without_any_upkeep(ask: Session) -> None:
    """Writes pay for it."""
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_entries => 4000)")
    ask("SELECT count(cache_set('mine', 'old' || i, '1', '1 minute')) FROM generate_series(1, 1000) i")
    ask.advance("1 minute")
    ask("SELECT count(cache_set('mine', 'new' || i, '1')) FROM generate_series(1, 3000) i")
    assert ask("SELECT count(*) FROM cache_type_mine WHERE cache_key LIKE 'old%'") < 100
    assert ask.stats("mine")["evicted"] == 0


def test_cleaning_a_clean_cache_writes_nothing(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_cleanup()")
    with ask.transaction():
        assert ask("SELECT cache_clear_expired()") == 0
        assert ask("SELECT pg_current_xact_id_if_assigned()") is None


def test_unknown_jobs_have_not_run(ask: Session) -> None:
    assert ask.rows("SELECT job_name, schedule, active, last_run, outcome, overdue FROM cache_jobs ORDER BY 1") == [
        ("ai_worker_cleanup_cache", None, None, None, None, False),
        ("pgcache_upkeep", None, None, None, None, False),
    ]


def test_upkeep_that_nobody_runs_is_overdue(ask: Session) -> None:
    ask("SELECT set_config('pgcache.clock', (now() + interval '119 minutes')::text, false)")
    overdue = "SELECT overdue FROM cache_jobs WHERE job_name = 'pgcache_upkeep'"
    status = "SELECT status FROM cache_health() WHERE check_name = 'upkeep: pgcache_upkeep'"
    ask("CALL cache_upkeep()")
    ask("RESET pgcache.clock")
    assert (ask(overdue), ask(status)) == (False, "ok")
    ask("SELECT set_config('pgcache.clock', (now() + interval '119 minutes')::text, false)")
    assert (ask(overdue), ask(status)) == (False, "ok")
    ask.advance("2 minutes")
    assert (ask(overdue), ask(status)) == (True, "warning")
    ask("SELECT cache_configure_setting('overdue_after', '1 day')")
    assert (ask(overdue), ask(status)) == (False, "ok")


def test_upkeep_that_failed_is_critical(ask: Session) -> None:
    ask(
        "INSERT INTO pgcache_internal.upkeep_runs (job, started_at, finished_at, outcome, detail) VALUES"
        " ('pgcache_upkeep',"
        " now(), now(), 'failed', 'disk full')"
    )
    health = ask.row("SELECT status, detail, hint FROM cache_health() WHERE check_name = 'upkeep: pgcache_upkeep'")
    assert health["status"] == "critical"
    assert "disk full" in health["detail"]
    assert "cache_upkeep" in health["hint"]


def test_old_runs_are_pruned(ask: Session) -> None:
    ask(
        "INSERT INTO pgcache_internal.upkeep_runs (job, started_at, outcome) VALUES ('pgcache_upkeep', now()"
        " - interval '8 days',"
        " 'succeeded')"
    )
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(*) FROM pgcache_internal.upkeep_runs") == 1


POISON = [
    "last_accessed_at = 'infinity'", "last_accessed_at = '-infinity'", "created_at = 'infinity'",
    "created_at = '-infinity'", "hit_count = 9223372036854775807", "hit_weight = -32768", "expires_at = '-infinity'",
]  # fmt: skip


@pytest.mark.parametrize("eviction", ["lru", "cost", "fifo"])
def test_no_value_of_a_row_fails_a_write_or_the_statistics(ask: Session, eviction: str) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 40, eviction => %s)", eviction)
    ask("SELECT cache_configure('llm', max_entries => 40, eviction => %s)", eviction)
    for i, poison in enumerate(POISON):
        ask("SELECT cache_set('mine', %s, '1'), cache_set_llm(%s, 'm', 'r', 999999999)", f"p{i}", f"p{i}")
        for table in ("cache_type_mine", "cache_llm_responses"):
            ask(f"UPDATE {table} SET {poison} WHERE created_at = (SELECT max(created_at) FROM {table})")
    for i in range(40):
        ask("SELECT cache_get('mine', 'p4'), cache_get_llm('p4', 'm')")
        ask("SELECT cache_set('mine', %s, '1'), cache_set_llm(%s, 'm', 'r')", f"k{i}", f"k{i}")
    ask("SELECT count(*) FROM cache_stats, ai_worker_cache_stats, cache_top, cache_health()")
    ask("SELECT cache_cleanup()")
    ask("CALL cache_upkeep()")


def test_a_long_hit_log_slows_no_look_up(ask: Session) -> None:
    """One that is as long as mode exact lets it become: what does not need it does not read it."""
    ask("SELECT cache_set('store', 'k', '1')")
    ask(
        "INSERT INTO pgcache_internal.hit_log SELECT 'llm', '', i::text, 2147483647, now(), 'm' || i % 9, 2147483647"
        " FROM generate_series(1, 20000) i"
    )
    assert "hit_log" not in "".join(ask.column("SELECT prosrc FROM pg_proc WHERE proname ~ 'live_expiry|cache_ttl'"))
    assert ask("SELECT tokens_saved FROM cache_stats WHERE type = 'llm'") == 20000 * 2147483647**2
    ask("CALL cache_upkeep()")
    assert ask("SELECT tokens_saved FROM cache_stats WHERE type = 'llm'") == 20000 * 2147483647**2


def test_upkeep_at_commit_never_fails_a_transaction(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 40)")
    ask("CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no$$; END'")
    ask("CREATE TRIGGER refuse BEFORE DELETE ON cache_type_mine FOR EACH ROW EXECUTE FUNCTION public.refuse()")
    assert ask("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 200) i") == 200
    with refused("P0001"):  # what is wrong, upkeep says
        ask("CALL cache_upkeep()")
    ask("DROP TRIGGER refuse ON cache_type_mine")
    ask("UPDATE pgcache_internal.upkeep_runs SET outcome = 'failed', finished_at = now() WHERE outcome = 'running'")
    ask("CALL cache_upkeep()")
    assert ask.stats("mine")["entries"] <= 40
