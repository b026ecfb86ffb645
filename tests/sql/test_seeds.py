"""The five systems that pgcache replaces: their queries, their functions, and their faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import NewRole, NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once

pytestmark = pytest.mark.every


def fill(ask: Session) -> None:
    """In each of the tables that the seeds have: an entry that has been read three times, and an expired one."""
    ask("SELECT cache_set_embedding('a', 'm', '[1,2]'), cache_set_embedding('old', 'm', '[1]')")
    ask("SELECT cache_set_llm('a', 'm', 'r', 10), cache_set_llm('old', 'm', 'r', 10)")
    ask("SELECT cache_set_vector_search('[1]', '[]'), cache_set_vector_search('[2]', '[]')")
    ask("SELECT cache_set_audio('a', 'v', 'x', 'mp3'), cache_set_audio('old', 'v', 'x', 'mp3')")
    ask(
        "SELECT cache_set_ai_worker('Get all users', 'm', 'v1', 's', 100), cache_set_ai_worker('old', 'm',"
        " 'v2', 's', 100)"
    )
    for _ in range(3):
        ask("SELECT cache_get_embedding('a', 'm'), cache_get_llm('a', 'm'), cache_get_vector_search('[1]')")
        ask("SELECT * FROM cache_get_audio('a', 'v')")
        ask("SELECT cache_get_ai_worker('Get all users', 'm', 'v1')")
    ask("CALL cache_upkeep()")
    for table in (
        "cache_embeddings",
        "cache_llm_responses",
        "cache_vector_search",
        "cache_audio_chunks",
        "ai_worker_cache",
    ):
        ask(f"UPDATE {table} SET created_at = now() - interval '3 days', last_accessed_at = now() - interval '8 days',"
            " expires_at = now() - interval '1 hour' WHERE hit_count = 0")  # fmt: skip


@pytest.fixture(scope="module")
def filled(shared_session: Session) -> Session:
    """A session in a database that these tests share: they work in transactions that are rolled back."""
    fill(shared_session)
    return shared_session


@dataclass
class Query:
    """As the seed's document has it; and what shows that it did what it should."""

    seed: str
    about: str
    text: str
    probe: str = ""
    result: Any = None

    def __str__(self) -> str:
        return f"{self.seed} {self.about}"


SIZE = """\
SELECT
  schemaname,
  tablename,
  pg_size_pretty(pg_total_relation_size(schemaname||'.'||tablename)) AS size
FROM pg_tables
WHERE tablename LIKE 'cache_%'
ORDER BY pg_total_relation_size(schemaname||'.'||tablename) DESC;"""
ENTRIES = """SELECT array_agg(entries ORDER BY type) FROM cache_stats
    WHERE type IN ('audio', 'embedding', 'llm', 'vector_search')"""
AI_ENTRIES = "SELECT array_agg(prompt_text ORDER BY 1) FROM ai_worker_cache"

# Without a probe, the query's own first row is looked at.
VERBATIM = [
    Query("000", "hourly clean-up", """\
DELETE FROM cache_embeddings WHERE expires_at < NOW();
DELETE FROM cache_llm_responses WHERE expires_at < NOW();
DELETE FROM cache_vector_search WHERE expires_at < NOW();
DELETE FROM cache_audio_chunks WHERE expires_at < NOW();""", ENTRIES, [1, 1, 1, 1]),
    Query("000", "hit rate", """\
SELECT
  'embeddings' as cache_type,
  COUNT(*) as total_entries,
  SUM(hit_count) as total_hits,
  AVG(hit_count) as avg_hits_per_entry,
  COUNT(*) FILTER (WHERE expires_at > NOW()) as valid_entries
FROM cache_embeddings

UNION ALL

SELECT
  'llm_responses',
  COUNT(*),
  SUM(hit_count),
  AVG(hit_count),
  COUNT(*) FILTER (WHERE expires_at > NOW())
FROM cache_llm_responses;""", result=("embeddings", 2, 3, 1.5, 1)),
    Query("000", "cache size", SIZE),
    Query("000", "most frequently accessed", """\
SELECT
  cache_key,
  hit_count,
  created_at,
  last_accessed_at
FROM cache_embeddings
ORDER BY hit_count DESC
LIMIT 10;"""),
    Query("000", "are entries expiring too quickly?", """\
SELECT
  AVG(EXTRACT(EPOCH FROM (expires_at - created_at))) as avg_ttl_seconds
FROM cache_embeddings;"""),
    Query("000", "increase TTL", """\
UPDATE cache_embeddings
SET expires_at = expires_at + INTERVAL '1 hour'
WHERE expires_at > NOW();""", "SELECT cache_ttl('embedding', embedding_key('a', 'm')) > '24 hours 59 minutes'", True),
    Query("000", "size of one table", "SELECT pg_size_pretty(pg_total_relation_size('cache_embeddings'));"),
    Query("000", "aggressive clean-up", """\
DELETE FROM cache_embeddings
WHERE last_accessed_at < NOW() - INTERVAL '7 days';""", "SELECT count(*) FROM cache_embeddings", 1),
    Query("000", "are indexes being used?", """\
EXPLAIN ANALYZE
SELECT * FROM cache_embeddings
WHERE cache_key = 'test-key' AND expires_at > NOW();"""),
    Query("000", "rebuild indexes", "REINDEX TABLE cache_embeddings;", ENTRIES, [2, 2, 2, 2]),
    Query("001", "clean-up", """\
DELETE FROM cache_llm_responses WHERE expires_at < NOW();
DELETE FROM cache_audio_chunks WHERE expires_at < NOW();""", ENTRIES, [1, 2, 1, 2]),
    Query("001", "cache size", SIZE),
    Query("002", "check indexes", "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'cache_store';",
          result=("cache_store_pkey",
                  "CREATE UNIQUE INDEX cache_store_pkey ON ONLY pgcache.cache_store"
" USING btree (tenant, cache_key, type)")),
    Query("003", "all cached queries", """\
SELECT prompt_text, generated_sql, hit_count, expires_at
FROM ai_worker_cache
WHERE expires_at > NOW()
ORDER BY hit_count DESC;"""),
    Query("003", "most popular queries", """\
SELECT prompt_text, hit_count, tokens_used
FROM ai_worker_cache
WHERE expires_at > NOW()
ORDER BY hit_count DESC
LIMIT 10;""", result=("Get all users", 3, 100)),
    Query("003", "statistics", "SELECT * FROM ai_worker_cache_stats;",
          "SELECT (total_entries, valid_entries, expired_entries, total_hits, total_tokens_saved, max_hits)::text"
" FROM ai_worker_cache_stats",
          "(2,1,1,3,300,3)"),
    Query("003", "clean-up", "SELECT ai_worker_cleanup_cache();", AI_ENTRIES, ["Get all users"]),
    Query("003", "invalidate a schema version", "DELETE FROM ai_worker_cache"
" WHERE schema_version = 'v1';", AI_ENTRIES, ["old"]),
    Query("003", "clear all", "TRUNCATE TABLE ai_worker_cache;", AI_ENTRIES, None),
    Query("003", "savings", """\
WITH stats AS (
    SELECT 
        COUNT(*) as total_entries,
        SUM(hit_count) as total_hits,
        SUM(tokens_used * hit_count) as tokens_saved
    FROM ai_worker_cache
    WHERE expires_at > NOW()
)
SELECT 
    total_entries,
    total_hits,
    tokens_saved,
    ROUND(tokens_saved * 0.0001, 2) as estimated_savings_usd
FROM stats;"""),  # noqa: W291, as in the document
    Query("003", "does the table exist?", """\
SELECT EXISTS (
    SELECT FROM information_schema.tables 
    WHERE table_name = 'ai_worker_cache'
);""", result=(True,)),  # noqa: W291
    Query("003", "why is there no hit?", """\
SELECT 
    cache_key,
    prompt_text,
    model,
    schema_version,
    expires_at,
    hit_count
FROM ai_worker_cache
WHERE prompt_text LIKE '%your search%'
ORDER BY created_at DESC;"""),  # noqa: W291
    Query("003", "delete entries with low hit counts", """\
DELETE FROM ai_worker_cache 
WHERE hit_count < 2 AND created_at < NOW() - INTERVAL '1 day';""", AI_ENTRIES, ["Get all users"]),  # noqa: W291
    Query("003", "keep only the top N", """\
DELETE FROM ai_worker_cache
WHERE cache_key NOT IN (
    SELECT cache_key FROM ai_worker_cache
    ORDER BY hit_count DESC
    LIMIT 1000
);""", AI_ENTRIES, ["Get all users", "old"]),
    Query("003", "daily report", """\
SELECT 
    DATE(created_at) as date,
    COUNT(*) as new_entries,
    SUM(hit_count) as total_hits,
    AVG(hit_count) as avg_hits
FROM ai_worker_cache
GROUP BY DATE(created_at)
ORDER BY date DESC
LIMIT 7;"""),  # noqa: W291
    Query("003", "retention", """\
DELETE FROM ai_worker_cache 
WHERE created_at < NOW() - INTERVAL '30 days';""", AI_ENTRIES, ["Get all users", "old"]),  # noqa: W291
    Query("003", "revoke", "REVOKE ALL ON ai_worker_cache FROM PUBLIC;", AI_ENTRIES, ["Get all users", "old"]),
    Query("004", "statistics", "SELECT * FROM cache_stats;"),
    Query("004", "clean-up", "SELECT * FROM cleanup_old_cache_entries(7);", ENTRIES, [2, 2, 2, 2]),
    Query("004", "index usage", "SELECT * FROM get_cache_index_usage();"),
]  # fmt: skip


@pytest.mark.parametrize("query", VERBATIM, ids=str)
def test_their_queries_run_as_they_are_written(filled: Session, query: Query) -> None:
    with filled.transaction():
        rows = filled.connection.execute(query.text.encode())
        if query.probe:
            assert filled(query.probe) == query.result
        elif query.result:
            assert rows.fetchone() == query.result
        else:
            assert rows.description
            assert rows.rowcount > 0 or "your search" in query.text


# What PostgreSQL refuses: (query, SQLSTATE, what replaces it, its result).
REFUSED = [
    (
        # Below 10,000 rows the limit is negative.
        Query("000", "LRU eviction", """\
DELETE FROM cache_embeddings
WHERE id IN (
  SELECT id FROM cache_embeddings
  ORDER BY last_accessed_at ASC
  LIMIT (
    SELECT COUNT(*) - 10000
    FROM cache_embeddings
  )
);"""),
        "2201W", "cache_trim('embedding', 10000)", 0,
    ),
    (
        # The seed's own typed tables have no column of this name.
        Query("000", "setCache", """\
    INSERT INTO cache_embeddings (cache_key, cache_value, expires_at)
    VALUES ('k', '1', now())
    ON CONFLICT (cache_key) 
    DO UPDATE SET 
      cache_value = '1',
      hit_count = cache_embeddings.hit_count + 1,
      last_accessed_at = NOW()"""),  # noqa: W291
        "42703", "cache_set('embedding', 'k', '{\"embedding\": [1]}', '3600')", True,
    ),
    (
        Query("000", "getCache", """\
    UPDATE cache_llm_responses
    SET 
      hit_count = hit_count + 1,
      last_accessed_at = NOW()
    WHERE cache_key = 'k' 
      AND expires_at > NOW()
    RETURNING cache_value"""),  # noqa: W291
        "42703", "cache_get('llm', llm_key('a', 'm')) ->> 'response'", "r",
    ),
    (
        # This table has another name in the seed, as have all in its package.
        Query("001", "clean-up of searches", "DELETE FROM cache_vector_searches WHERE expires_at < NOW();"),
        "42P01", "cache_clear_expired('vector_search')", 1,
    ),
    (
        # It looks for the columns of the caches in the catalog.
        Query("001", "hit rate", """\
SELECT
  table_name,
  COUNT(*) as total_entries,
  COUNT(*) FILTER (WHERE expires_at > NOW()) as active_entries
FROM information_schema.tables
WHERE table_name LIKE 'cache_%'
GROUP BY table_name;"""),
        "42703", "(SELECT (entries, valid)::text FROM cache_stats WHERE type = 'llm')", "(2,1)",
    ),
    (
        # now() is not immutable, and an index is not brought up to date as time goes by. Nothing replaces it:
        # cache_get finds the key by the primary key.
        Query("001", "partial index", """\
CREATE INDEX idx_cache_active
  ON cache_llm_responses(cache_key)
  WHERE expires_at > NOW();"""),
        "42P17", "cache_exists('llm', llm_key('a', 'm'))", True,
    ),
    (
        # pg_cron lives in one database of the server; its job here is made by the installation. See tests/cron.
        Query("003", "schedule", """\
SELECT cron.schedule(
    'cleanup-ai-cache',
    '0 * * * *',  -- Every hour
    'SELECT ai_worker_cleanup_cache()'
);"""),
        "3F000", "(SELECT count(*) FROM pgcache_internal.scheduled_jobs() WHERE command LIKE"
" '%ai_worker_cleanup_cache()')", 1,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("query", "sqlstate", "call", "result"), REFUSED, ids=str)
def test_what_postgresql_refuses_has_a_replacement(
    filled: Session, query: Query, sqlstate: str, call: str, result: object
) -> None:
    with refused(sqlstate):
        filled(query.text)
    with filled.transaction():
        assert filled(f"SELECT {call}") == result


def test_the_grants_of_seed_003(ask: Session, role: NewRole, admin: object) -> None:
    """Its three statements run; schema pgcache is closed to others, though, so that the replacement is cache_grant."""
    fill(ask)
    aiworker = role()
    name = aiworker("SELECT current_user")
    ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ai_worker_cache TO {name}")
    ask(f"GRANT EXECUTE ON FUNCTION ai_worker_cleanup_cache() TO {name}")
    ask("REVOKE ALL ON ai_worker_cache FROM PUBLIC")
    with refused("42501"):
        aiworker("SELECT count(*) FROM pgcache.ai_worker_cache")
    ask("SELECT cache_grant(%s), cache_grant(%s, 'tables')", name, name)
    assert aiworker("SELECT ai_worker_cleanup_cache()") == 1
    assert aiworker("SELECT count(*) FROM ai_worker_cache") == 1


# Every function of every seed's API: its name there, then ours, each with its result.
API: list[tuple[str, str, list[tuple[str, object]]]] = [
    ("000", "setCache(type, key, value, ttl)", [
        ("cache_set('store', 'k', '{\"a\": 1}', '3600')", True),
        ("cache_get('store', 'k')", {"a": 1}),
    ]),
    ("000", "getCache(type, key)", [
        ("cache_get('llm', llm_key('a', 'm')) ->> 'response'", "r"),
        ("cache_get('llm', 'x')", None),
    ]),
    ("000", "invalidateCache(type, key)", [
        ("cache_delete('llm', llm_key('a', 'm'))", True),
        ("cache_get_llm('a', 'm')", None),
    ]),
    ("000", "invalidateCachePattern(type, pattern)", [
        ("cache_delete_pattern('llm', '%')", 1),
        ("cache_get_llm('a', 'm')", None),
    ]),
    ("000", "clearExpiredCache(type)", [("cache_clear_expired('llm')", 1), ("cache_clear_expired('llm')", 0)]),
    ("000", "CACHE_TTL_SHORT", [("extract(epoch FROM cache_tier('short'))::int", 300)]),
    ("000", "CACHE_TTL_MEDIUM", [("extract(epoch FROM cache_tier('medium'))::int", 3600)]),
    ("000", "CACHE_TTL_LONG", [("extract(epoch FROM cache_tier('long'))::int", 86400)]),
    ("001", "db.cache_vector_searches.findFirst", [
        ("cache_get_vector_search('[1]')", []),
        ("cache_get_vector_search('[9]')", None),
    ]),
    ("001", "db.cache_vector_searches.create", [
        ("cache_set_vector_search('[7]', '[{\"id\": 1}]', user_id => 'u', ttl => cache_tier('medium'))", True),
        ("cache_get_vector_search('[7]', user_id => 'u')", [{"id": 1}]),
    ]),
    ("001", "cacheService.get", [("cache_get('store', 'absent')", None)]),
    ("001", "cacheService.set", [("cache_set('store', 'k', '1', '60')", True), ("cache_get('store', 'k')", 1)]),
    ("001", "cacheService.delete", [("cache_set('store', 'k', '1')", True), ("cache_delete('store', 'k')", True)]),
    ("001", "embedding.get", [
        ("cache_get_embedding('a', 'm')::text", "[1,2]"),
        ("cache_get_embedding('b', 'm')", None),
    ]),
    ("001", "embedding.set", [
        ("cache_set_embedding('What is AI?', 'm', '[0.5]')", True),
        ("cache_get_embedding('What is AI?', 'm')::text", "[0.5]"),
    ]),
    ("001", "llmResponse.get", [
        ("cache_get_llm('a', 'm') ->> 'response'", "r"),
        ("cache_get_llm('a', 'm', 'User is a beginner')", None),
    ]),
    ("001", "llmResponse.set", [
        ("cache_set_llm('Explain', 'm', 'It ...', context => 'beginner', provider => 'gemini-flash')", True),
        ("cache_get_llm('Explain', 'm', "
         "'beginner', 'gemini-flash')", {"response": "It ...", "model": "m", "provider": "gemini-flash"}),
    ]),
    ("001", "vectorSearch.get", [
        ("cache_get_vector_search('[1]', top_k => 10)", []),
        ("cache_get_vector_search('[1]', top_k => 5)", None),
    ]),
    ("001", "vectorSearch.set", [
        ("cache_set_vector_search('[1]', '[1]', '{}', 5, 'user-123')", True),
        ("cache_get_vector_search('[1]', '{}', 5, 'user-123')", [1]),
    ]),
    ("001", "audioChunk.get", [
        ("(SELECT format FROM cache_get_audio('a', 'v'))", "mp3"),
        ("(SELECT format FROM cache_get_audio('a', 'v', 'xtts-v2'))", None),
    ]),
    ("001", "audioChunk.set", [
        ("cache_set_audio('Hello world', 'voice-123', 'x', 'opus', 1000, 16000, 1, 'xtts-v2')", True),
        ("(SELECT duration_ms FROM cache_get_audio('Hello world', 'voice-123', 'xtts-v2'))", 1000),
    ]),
    ("001", "audioChunk's LRU clean-up", [
        ("cache_trim('audio', 1)", 1),
        ("(SELECT format FROM cache_get_audio('a', 'v'))", "mp3"),
    ]),
    ("001", "getStats()", [
        ("(SELECT (entries, valid, expired)::text FROM cache_stats WHERE type = 'embedding')", "(2,1,1)"),
    ]),
    ("001", "getStats(): total size of audio", [("(SELECT bytes > 0 FROM cache_stats WHERE type = 'audio')", True)]),
    ("001", "getStats(): average hit count", [
        ("(SELECT hits_per_entry::float8 FROM cache_stats WHERE type = 'audio')", 1.5),
    ]),
    ("001", "getStats(): top cached responses", [
        ("(SELECT hit_count FROM cache_top WHERE type = 'llm' LIMIT 1)", 3),
    ]),
    ("001", "pnpm cache:cleanup", [("cache_cleanup()", 5), ("(SELECT sum(expired) FROM cache_stats)", 0)]),
    ("001", "pnpm cache:stats", [("(SELECT count(*) FROM cache_stats)", len(VALUES) + 1)]),
    ("001", "warmup({embeddings, llmResponses})", [
        ("cache_set_embeddings('{What is AI?,How does ML work?}', 'm', ARRAY['[0.1]', '[0.3]'])", 2),
        ("cache_warm('llm', jsonb_build_array(jsonb_build_object('key', llm_key('Explain AI', "
         "'m'), 'value', '{\"response\": \"AI is...\"}'::jsonb)))", 1),
        ("cache_get_llm('Explain AI', 'm')", {"response": "AI is..."}),
    ]),
    ("001", "invalidateUser(user)", [
        ("cache_set_vector_search('[1]', '[]', user_id => 'user-123')", True),
        ("cache_invalidate_user('user-123')", 1),
        ("cache_get_vector_search('[1]', user_id => 'user-123')", None),
    ]),
    ("001", "TTL.WEEK", [("extract(epoch FROM cache_tier('week'))::int", 604800)]),
    ("001", "ENABLE_CACHING=false", [
        ("cache_configure('llm', enabled => false)::text", ""),
        ("cache_set_llm('b', 'm', 'r')", False),
        ("cache_get_llm('a', 'm')", None),
    ]),
    ("001", "alert: hit rate below 70 %", [
        ("(SELECT status FROM cache_health() WHERE check_name = 'hit rate: llm')", "ok"),
    ]),
    ("001", "alert: size above 80 %", [("(SELECT status FROM cache_health() WHERE check_name = 'size: llm')", "ok")]),
    ("001", "alert: clean-up failures", [
        ("(SELECT status FROM cache_health() WHERE check_name = 'upkeep: pgcache_upkeep')", "ok"),
    ]),
    ("002", "set_cache(key, data, ttl_minutes)", [
        ("cache_set('store', 'retrieval:python:5', '{\"total_found\": 10}', make_interval(mins => 30))", True),
        ("cache_ttl('store', 'retrieval:python:5') > '29 minutes'", True),
    ]),
    ("002", "get_cache(key)", [
        ("cache_set('store', 'my_key', '{\"data\": \"value\"}')", True),
        ("cache_get('store', 'my_key')", {"data": "value"}),
        ("cache_get('store', 'other')", None),
    ]),
    ("002", "delete_cache(key)", [
        ("cache_set('store', 'k', '1')", True),
        ("cache_delete('store', 'k')", True),
        ("cache_delete('store', 'k')", False),
    ]),
    ("002", "generate_cache_key(prefix, *args)", [
        ("length(cache_key('retrieval', 'query', '5'))", 64),
        ("cache_key('a', 'b') = cache_key('a', 'b')", True),
    ]),
    ("002", "generate_cache_key(prefix, **kwargs)", [
        ("cache_key_json('{\"query\": \"q\", \"model\": \"gpt-4\"}') = cache_key_json('{\"model\": \"gpt-4\", "
         "\"query\": \"q\"}')", True),
    ]),
    ("002", "clear_expired_cache()", [("cache_clear_expired()", 5)]),
    ("002", "health_check()", [("(SELECT bool_and(status = 'ok') FROM cache_health())", True)]),
    ("002", "health_check()['total_entries']", [("(SELECT sum(entries) FROM cache_stats)", 10)]),
    ("002", "get_cache_stats()", [("(SELECT (sum(valid), sum(expired))::text FROM cache_stats)", "(5,5)")]),
    ("002", "get_all_cache_keys(limit)", [
        ("(SELECT count(*) FROM get_all_cache_keys(3))", 3),
        ("(SELECT count(*) FROM get_all_cache_keys())", 5),
    ]),
    ("002", "CACHE_DEFAULT_TTL_MINUTES", [
        ("cache_configure('store', ttl => '60 minutes')::text", ""),
        ("cache_set('store', 'k', '1')", True),
        ("cache_ttl('store', 'k') <= '1 hour'", True),
    ]),
    ("002", "CACHE_MAX_ENTRIES", [
        ("cache_configure('store', max_entries => 10000)::text", ""),
        ("(SELECT max_entries FROM cache_stats WHERE type = 'store')", 10000),
    ]),
    ("003", "POST /generate: look-up", [
        ("cache_get_ai_worker('Get all users', 'm', 'v1') ->> 'generated_sql'", "s"),
        ("cache_get_ai_worker('Get all users', 'm', 'v2')", None),
    ]),
    ("003", "POST /generate: hit_count", [
        ("(SELECT hit_count FROM cache_entry('ai_worker', ai_worker_key('Get all users', 'm', 'v1')))", 3),
    ]),
    ("003", "POST /generate: store", [
        ("cache_set_ai_worker('p', 'm', 'v1', 'SELECT 1', 123)", True),
        ("cache_get_ai_worker('p', 'm', 'v1') -> 'tokens_used'", 123),
    ]),
    ("003", "GET /cache/stats", [
        ("(SELECT (total_entries, valid_entries, total_hits)::text FROM ai_worker_cache_stats)", "(2,1,3)"),
    ]),
    ("003", "POST /cache/cleanup", [("ai_worker_cleanup_cache()", 1), ("ai_worker_cleanup_cache()", 0)]),
    ("003", "schema version changes", [
        ("cache_invalidate_schema('v1')", 1),
        ("cache_get_ai_worker('Get all users', 'm', 'v1')", None),
    ]),
    ("003", "SHA256(prompt|model|version)", [("length(ai_worker_legacy_key('p', 'm', 'v'))", 64)]),
    ("003", "default_ttl", [
        ("cache_configure('ai_worker', ttl => '300')::text", ""),
        ("cache_set_ai_worker('p', 'm', 'v', 's')", True),
    ]),
    ("004", "cache_face_embeddings", [("cache_set_face('image', 'tenant_123', '[{\"bbox\": [1, 2, 3, 4]}]')", True)]),
    ("004", "get_cached_face_embeddings", [
        ("cache_set_face('image', 'tenant_123', '[]')", True),
        ("cache_get_face('image', 'tenant_123')", []),
        ("cache_get_face('image', 'other')", None),
    ]),
    ("004", "cache_perceptual_hash", [("cache_set_phash('image', 'tenant_123', 'ff00')", True)]),
    ("004", "get_cached_perceptual_hash", [
        ("cache_set_phash('image', 'tenant_123', 'ff00')", True),
        ("cache_get_phash('image', 'tenant_123')", "ff00"),
        ("cache_get_phash('image', 'other')", None),
    ]),
    ("004", "should_skip_crawled_image", [
        ("(SELECT f::text FROM crawl_should_skip('u', 'image', 'tenant_123') f)", "(f,)"),
    ]),
    ("004", "store_crawled_image", [
        ("crawl_store('u', 'image', 'raw', 'thumb', 'tenant_123')", True),
        ("(SELECT f::text FROM crawl_should_skip('u', 'image', 'tenant_123') f)", "(t,raw)"),
    ]),
    ("004", "invalidate_tenant_cache", [
        ("cache_set_face('image', 'tenant_123', '[]') AND cache_set_phash('image', 'tenant_123', 'ff')", True),
        ("cache_invalidate_tenant('tenant_123')", 2),
        ("cache_get_face('image', 'tenant_123')", None),
    ]),
    ("004", "get_cache_stats", [("(SELECT count(*) FROM cache_stats WHERE type IN ('face', 'phash', 'crawl'))", 3)]),
    ("004", "clear_all_cache", [("cache_clear_all()", 5), ("(SELECT sum(entries) FROM cache_stats)", 0)]),
    ("004", "cleanup_old_cache_entries(days)", [("(SELECT sum(deleted) FROM cleanup_old_cache_entries(0))", 5)]),
    ("004", "get_cache_index_usage()", [("(SELECT count(*) FROM get_cache_index_usage())", len(VALUES) + 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "theirs", "calls"), API, ids=lambda part: part if isinstance(part, str) else "")
def test_each_function_of_theirs_has_its_replacement(
    filled: Session, seed: str, theirs: str, calls: list[tuple[str, object]]
) -> None:
    with filled.transaction():
        for call, result in calls:
            assert filled(f"SELECT {call}") == result, call


# Faults that must not come back.


@pytest.mark.parametrize("type", ["llm", "ai_worker"])
def test_000_and_003_a_read_is_no_update(ask: Session, type: str) -> None:
    fill(ask)
    table = ask("SELECT relation FROM pgcache_internal.types WHERE type = %s", type)
    rows = ask.rows(f"SELECT ctid::text, xmin::text, hit_count, last_accessed_at FROM {table} ORDER BY 1")
    key = ask(f"SELECT cache_key FROM {table} WHERE hit_count = 3")
    ask("SELECT pg_stat_force_next_flush()")
    writes = "SELECT n_tup_upd + n_tup_ins + n_tup_del FROM pg_stat_user_tables WHERE relid = %s::regclass"
    before = ask(writes, table)
    for _ in range(100):
        ask("SELECT cache_get(%s, %s)", type, key)
    ask("SELECT pg_stat_force_next_flush()")
    assert ask(writes, table) == before
    assert ask.rows(f"SELECT ctid::text, xmin::text, hit_count, last_accessed_at FROM {table} ORDER BY 1") == rows


def test_000_trimming_a_small_cache_is_no_error(ask: Session) -> None:
    fill(ask)
    assert ask("SELECT cache_trim('embedding', 10000)") == 0
    assert ask("SELECT cache_trim('embedding', 1)") == 1


def test_000_generic_calls_know_the_columns_of_every_type(ask: Session) -> None:

    for type, values in VALUES.items():
        assert ask("SELECT cache_set(%s, 'k', %s)", type, values[0])
        assert ask("SELECT cache_get(%s, 'k') = %s::jsonb", type, values[0])


def test_001_a_key_is_there_once(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(4)]

    def write(session: Session) -> None:
        for _ in range(20):
            session(
                "SELECT cache_set_llm('p', 'm', 'r'), cache_set_embedding('t', 'm', '[1]'),"
                " cache_set_vector_search('[1]', '[]')"
            )

    at_once(*(lambda session=session: write(session) for session in sessions))
    assert sessions[0]("SELECT max(entries) FROM cache_stats") == 1


def test_001_no_index_needs_the_time(ask: Session) -> None:
    assert (
        ask(
            "SELECT count(*) FROM pg_index i JOIN pgcache_internal.types t ON t.relation = indrelid WHERE"
            " indpred IS NOT NULL"
        )
        == 0
    )


def test_000_to_003_misses_are_counted(ask: Session) -> None:
    fill(ask)
    ask("SELECT cache_get_llm('absent', 'm'), cache_get_ai_worker('absent', 'm', 'v')")
    for type in ("llm", "ai_worker"):
        assert float(ask.stats(type)["hit_rate"]) == 0.75


def test_002_values_are_not_indexed_and_keys_once(ask: Session) -> None:
    indexes = ask.rows("""
        SELECT t.type, count(*), min(am.amname), min(pg_get_indexdef(i.indexrelid)) FROM pgcache_internal.types t
        JOIN pg_index i ON i.indrelid = t.relation
        JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_am am ON am.oid = c.relam
        GROUP BY 1
    """)
    assert len(indexes) == len(VALUES)
    for _, count, method, definition in indexes:
        assert (count, method) == (1, "btree")
        assert "(tenant, cache_key" in definition


def test_003_parts_of_a_key_do_not_run_together(ask: Session) -> None:
    ask("SELECT cache_set_ai_worker('a|b', 'c', 'v1', 'SELECT 1')")
    assert ask("SELECT cache_get_ai_worker('a', 'b|c', 'v1') IS NULL")
    ask("SELECT cache_set_llm('a', 'bc', 'r'), cache_set_llm('x', 'y', 'r', context => 'z')")
    assert ask("SELECT cache_get_llm('ab', 'c') IS NULL AND cache_get_llm('x', 'yz') IS NULL")


def test_004_a_backfill_that_races_an_invalidation_does_not_bring_the_old_value_back(new_session: NewSession) -> None:
    """Within PostgreSQL: a reader's cache_add after a miss cannot replace what a writer has stored meanwhile."""
    reader, writer = new_session(), new_session()
    assert reader("SELECT cache_get('store', 'k') IS NULL")
    writer("SELECT cache_set('store', 'k', '\"new\"')")
    assert reader("SELECT cache_add('store', 'k', '\"old\"')") is False
    assert reader("SELECT cache_get('store', 'k')") == "new"
