"""Reads on a streaming hot standby."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pgcache_py.setup.install import install
from tests.servers import Cluster
from tests.servers.server import RUN, Server
from tests.sql.test_bad_input import WRITES
from tests.sql.test_get_and_set import VALUES
from tests.sql.test_read_only import READS, fill
from tests.tools.names import unique
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until

pytestmark = [pytest.mark.needs("cluster")]


@pytest.fixture(scope="module")
def pair(server: Server) -> Iterator[tuple[Session, Session]]:
    """A session on a primary that the cache is installed on, and one on its standby."""
    from tests.servers.cluster import FOR_TESTS

    assert server.bin_dir is not None
    primary = Cluster(server.bin_dir, RUN / unique("primary"), FOR_TESTS)
    primary.init()
    primary.start()
    try:
        install(primary.dsn())
        ask = Session(primary.dsn())
        fill(ask)
        ask('SELECT cache_set(\'crawl\', \'shared\', \'{"url": "u", "image_hash": "h", "raw_key": "r"}\')')
        ask("SELECT cache_create_type('mostly', max_entries => 100)")
        ask("SELECT cache_get('store', 'k'), cache_get('store', 'absent')")
        ask("CALL cache_upkeep()")
        ask("SELECT cache_get('store', 'k')")
        standby = primary.standby(RUN / unique("standby"))
        try:
            standby.start()
            yield ask, Session(standby.dsn())
        finally:
            standby.remove()
    finally:
        primary.remove()


def caught_up(pair: tuple[Session, Session]) -> Session:
    """The standby's session, when it has replayed all that the primary has written."""
    primary, standby = pair
    # Unlogged work leaves a commit record that is not flushed; switching the segment writes all of it.
    lsn = primary("SELECT pg_switch_wal()")
    wait_until(lambda: standby("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn))
    return standby


# What differs from a READ ONLY transaction on the primary: the entry of an UNLOGGED type is not here.
STORED = READS["(SELECT count(*) FROM cache_top)"]
THERE: dict[str, object] = {
    "cache_get('volatile', 'k')": None,
    "(SELECT sum(entries) FROM cache_stats)": None,
    "(SELECT count(*) FROM cache_stats_history)": len(VALUES) + 3,
    "(SELECT count(*) FROM cache_stats_since('1 second', '1 day'))": 2 * (len(VALUES) + 3),
    "(SELECT count(*) FROM cache_top)": STORED - 1,
    "(SELECT count(*) FROM get_all_cache_keys())": READS["(SELECT count(*) FROM get_all_cache_keys())"] - 1,
}


@pytest.mark.parametrize("call", READS)
def test_reads(pair: tuple[Session, Session], call: str) -> None:
    standby = caught_up(pair)
    assert standby("SELECT pg_is_in_recovery()")
    assert standby(f"SELECT {call}") == THERE.get(call, READS[call])


def test_an_unlogged_type_is_a_miss(pair: tuple[Session, Session]) -> None:
    primary, standby = pair[0], caught_up(pair)
    assert primary("SELECT cache_get('volatile', 'k')") == 1
    assert standby("SELECT cache_get('volatile', 'k') IS NULL")
    assert standby.rows("SELECT * FROM cache_get_many('volatile', '{k,l}')") == [("k", None), ("l", None)]
    assert standby("SELECT cache_exists('volatile', 'k')") is False
    assert standby("SELECT cache_ttl('volatile', 'k')") is None
    assert standby.rows("SELECT * FROM cache_entry('volatile', 'k')") == []
    assert standby.column("SELECT cache_keys('volatile')") == []


@pytest.mark.parametrize("type", ["llm", "embedding", "audio", "vector_search", "ai_worker", "store"])
def test_a_built_in_type_that_is_unlogged_is_a_miss(pair: tuple[Session, Session], type: str) -> None:
    primary = pair[0]
    primary("SELECT cache_configure(%s, durable => false)", type)
    try:
        standby = caught_up(pair)
        assert standby("SELECT cache_get(%s, 'k') IS NULL", type)
        typed = {
            "llm": "cache_get_llm('p', 'm') IS NULL",
            "embedding": "cache_get_embedding('t', 'm') IS NULL",
            "audio": "NOT EXISTS (SELECT FROM cache_get_audio('t', 'v'))",
            "vector_search": "cache_get_vector_search('[1]') IS NULL",
            "ai_worker": "cache_get_ai_worker('p', 'm', 'v') IS NULL",
            "store": "cache_get('store', 'k') IS NULL",
        }[type]
        assert standby(f"SELECT {typed}")
        assert standby("SELECT count(*) FROM cache_get_many(%s, '{k}')", type) == 1
        assert standby("SELECT cache_get('mine', 'k')") == 1
        for view in ("cache_stats", "cache_top", "cache_jobs", "cache_health()", "ai_worker_cache_stats"):
            standby.rows(f"SELECT * FROM {view}")
    finally:
        primary("SELECT cache_configure(%s, durable => true)", type)


def test_wrong_calls_are_told_there_as_well(pair: tuple[Session, Session]) -> None:
    standby = caught_up(pair)
    for call in ("cache_get(%s, 'k')", "cache_exists(%s, 'k')", "cache_entry(%s, 'k')", "cache_keys(%s)"):
        for unknown in ("lmm", None, "x y"):
            with refused("PC001", "ai_worker, audio"):
                standby(f"SELECT {call}", unknown)
    for key in (None, "", "x" * 1025):
        for type in ("store", "mine", "volatile", "llm"):
            with refused("PC002", "cache_key("):
                standby("SELECT cache_get(%s, %s)", type, key)


def test_writes_are_refused_with_the_reason(pair: tuple[Session, Session]) -> None:
    standby = caught_up(pair)
    for call in WRITES:
        with refused("25006", "primary"):
            standby(f"SELECT {call}")
    with refused("25006", "primary"):
        standby("CALL cache_upkeep()")


def test_statistics_are_those_of_the_last_upkeep(pair: tuple[Session, Session]) -> None:
    standby = caught_up(pair)
    stats = standby.stats("store")
    assert (stats["hits"], stats["misses"], stats["entries"]) == (1, 1, None)
    tenants = "SELECT type, hits, entries FROM cache_tenant_stats() WHERE type IN ('store', 'volatile') ORDER BY type"
    assert standby.rows(tenants) == [("store", 1, 1)]
    assert standby("SELECT bool_and(table_bytes > 0) FROM cache_stats WHERE durable")


def test_a_standby_that_is_promoted_writes_and_counts(
    server: Server, throwaway_cluster: Callable[..., Cluster]
) -> None:
    primary = throwaway_cluster()
    install(primary.dsn())
    ask = Session(primary.dsn())
    fill(ask)
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 5)")
    ask("CALL cache_upkeep()")
    ask("SELECT pg_switch_wal()")
    standby = throwaway_cluster(standby_of=primary)
    promoted = Session(standby.dsn())
    lsn = ask("SELECT pg_current_wal_flush_lsn()")
    wait_until(lambda: promoted("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", lsn))
    assert promoted("SELECT pg_promote()")
    assert promoted("SELECT cache_get('store', 'k')") == 1
    assert promoted("SELECT cache_get('volatile', 'k') IS NULL")
    assert promoted("SELECT cache_set('volatile', 'k', '2'), cache_set('store', 'l', '2')")
    assert promoted("SELECT cache_get('volatile', 'k')") == 2
    assert promoted.stats("store")["hits"] == 6
    promoted("CALL cache_upkeep()")
    assert promoted.stats("store")["hits"] == 6
    ask.close()
    promoted.close()


def test_the_relay_is_watched_on_the_primary_only(pair: tuple[Session, Session]) -> None:
    pair[0]("SELECT cache_hot_on('store')")
    try:
        checks = "SELECT count(*) FROM cache_health() WHERE check_name = 'hot tier'"
        assert (pair[0](checks), caught_up(pair)(checks)) == (1, 0)
    finally:
        pair[0]("SELECT cache_hot_off('store')")
