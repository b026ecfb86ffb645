"""Reads in READ ONLY transactions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session

READS: dict[str, Any] = {
    "cache_get('store', 'k')": 1,
    "cache_get('mine', 'k')": 1,
    "cache_get('volatile', 'k')": 1,
    "cache_get('store', 'absent')": None,
    "(SELECT value FROM cache_get_many('store', '{k}'))": 1,
    "cache_exists('store', 'k')": True,
    "cache_ttl('store', 'k') > '0'": True,
    "(SELECT cache_key FROM cache_entry('store', 'k'))": "k",
    "(SELECT cache_keys('store'))": "k",
    "(SELECT count(*) FROM get_all_cache_keys())": 9,
    "cache_get_llm('p', 'm') ->> 'response'": "r",
    "cache_get_embedding('t', 'm')::text": "[1]",
    "(SELECT embedding::text FROM cache_get_embeddings('{t}', 'm'))": "[1]",
    "cache_get_vector_search('[1]')": [],
    "(SELECT format FROM cache_get_audio('t', 'v'))": "mp3",
    "cache_get_ai_worker('p', 'm', 'v') ->> 'generated_sql'": "s",
    "cache_get_face('x', 't')": [],
    "cache_get_phash('x', 't')": "ff",
    "(SELECT raw_key FROM crawl_should_skip('u', 'x', 't'))": "raw",
    "(SELECT sum(entries) FROM cache_stats)": 12,
    "(SELECT count(*) FROM cache_stats_history)": 0,
    "(SELECT count(DISTINCT period) FROM cache_stats_since('1 hour', '1 day'))": 2,
    "(SELECT count(*) FROM cache_top)": 12,
    "(SELECT count(*) FROM cache_jobs)": 2,
    "(SELECT count(*) >= 0 FROM cache_latency)": True,
    "(SELECT count(*) FROM ai_worker_cache_stats)": 1,
    "(SELECT count(*) > 0 FROM cache_health())": True,
    "(SELECT count(*) > 0 FROM get_cache_index_usage())": True,
    "cache_setting('ttl_short')": "5 minutes",
    "extract(epoch FROM cache_tier('short'))::integer": 300,
}


def fill(ask: Session) -> None:
    ask("SELECT cache_create_type('mine'), cache_create_type('volatile', durable => false)")
    for type in ("store", "mine", "volatile"):
        ask("SELECT cache_set(%s, 'k', '1')", type)
    ask(
        "SELECT cache_set_llm('p', 'm', 'r'), cache_set_embedding('t', 'm', '[1]'),"
        " cache_set_vector_search('[1]', '[]')"
    )
    ask("SELECT cache_set_audio('t', 'v', 'x', 'mp3'), cache_set_ai_worker('p', 'm', 'v', 's')")
    ask(
        "SELECT cache_set_face('x', 't', '[]'), cache_set_phash('x', 't', 'ff'), crawl_store('u', 'x', 'raw',"
        " NULL, 't')"
    )


@pytest.mark.parametrize(
    "mode",
    ["READ ONLY", "ISOLATION LEVEL REPEATABLE READ, READ ONLY", "ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE"],
)
def test_every_read_works_and_records_nothing(ask: Session, mode: str) -> None:
    fill(ask)
    ask("SELECT cache_set('crawl', 'shared', %s)", VALUES["crawl"][1])
    log_size = "SELECT pg_relation_size('pgcache_internal.hit_log')"
    before = ask(log_size)
    with ask.transaction(mode):
        for call, result in READS.items():
            assert ask(f"SELECT {call}") == result, call
        assert ask("SELECT pg_current_xact_id_if_assigned()") is None
    assert ask(log_size) == before
    assert ask("SELECT sum(hits) + sum(misses) FROM cache_stats") == 0


def test_the_transaction_may_end_being_read_only(ask: Session) -> None:
    fill(ask)
    with ask.transaction():
        ask("SET TRANSACTION READ ONLY")
        assert ask("SELECT cache_get('store', 'k')") == 1
    assert ask("SELECT cache_get('store', 'k')") == 1
    assert ask.stats("store")["hits"] == 1
