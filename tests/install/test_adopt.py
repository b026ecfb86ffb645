"""Taking over the tables of the five earlier systems: their own DDL, as their documents have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgcache_py.cli import show
from tests.conftest import NewRole
from tests.install.conftest import Run
from tests.tools.session import SEARCH_PATH, Session, refused

pytestmark = pytest.mark.breaks("counters", why="what is adopted brings the hits that it had")

SEED_000 = """
CREATE TABLE cache_embeddings (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  cache_key VARCHAR(255) UNIQUE NOT NULL,
  embedding VECTOR(3) NOT NULL,
  model VARCHAR(100) NOT NULL,
  created_at TIMESTAMP DEFAULT NOW(),
  expires_at TIMESTAMP NOT NULL,
  hit_count INTEGER DEFAULT 0
);
CREATE TABLE cache_llm_responses (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  cache_key VARCHAR(255) UNIQUE NOT NULL,
  response TEXT NOT NULL,
  model VARCHAR(100) NOT NULL,
  tokens_used INTEGER,
  created_at TIMESTAMP DEFAULT NOW(),
  expires_at TIMESTAMP NOT NULL,
  hit_count INTEGER DEFAULT 0
);
CREATE TABLE cache_vector_search (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  cache_key VARCHAR(255) UNIQUE NOT NULL,
  results JSONB NOT NULL,
  created_at TIMESTAMP DEFAULT NOW(),
  expires_at TIMESTAMP NOT NULL,
  hit_count INTEGER DEFAULT 0
);
CREATE TABLE cache_audio_chunks (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  cache_key VARCHAR(255) UNIQUE NOT NULL,
  audio_data BYTEA NOT NULL,
  format VARCHAR(20) NOT NULL,
  duration_ms INTEGER,
  created_at TIMESTAMP DEFAULT NOW(),
  expires_at TIMESTAMP NOT NULL,
  hit_count INTEGER DEFAULT 0
);
CREATE TABLE cache_sessions (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  cache_key VARCHAR(255) UNIQUE NOT NULL,
  cache_value JSONB NOT NULL,
  created_at TIMESTAMP DEFAULT NOW(),
  expires_at TIMESTAMP NOT NULL,
  hit_count INTEGER DEFAULT 0,
  last_accessed_at TIMESTAMP DEFAULT NOW()
);
CREATE INDEX idx_cache_llm_key ON cache_llm_responses(cache_key);
INSERT INTO cache_embeddings (cache_key, embedding, model, expires_at, hit_count) VALUES
    ('e', '[0.1,0.2,0.3]', 'text-embedding-3-small', NOW() + interval '5 hours', 7),
    ('e-old', '[1,2,3]', 'text-embedding-3-small', NOW() - interval '1 second', 1);
INSERT INTO cache_llm_responses (cache_key, response, model, tokens_used, expires_at, hit_count) VALUES
    ('l', 'hi', 'gpt-4', 12, NOW() + interval '30 minutes', 40),
    ('l-null', '', 'gpt-4', NULL, NOW() + interval '30 minutes', NULL),
    ('', 'no key', 'gpt-4', 1, NOW() + interval '30 minutes', 0),
    ('l-debt', 'negative tokens', 'gpt-4', -1, NOW() + interval '30 minutes', -5),
    ('l-old', 'bye', 'gpt-4', 1, NOW(), 0);
INSERT INTO cache_vector_search (cache_key, results, expires_at) VALUES
    ('v', '[{"id": 1, "score": null}]', NOW() + interval '1 hour'), ('v-null', 'null', NOW() + interval '1 hour');
INSERT INTO cache_audio_chunks (cache_key, audio_data, format, duration_ms, expires_at, hit_count) VALUES
    ('a', decode(repeat('00ff10', 100), 'hex'), 'opus', 800, NOW() + interval '1 day', 3);
INSERT INTO cache_sessions (cache_key, cache_value, expires_at, hit_count) VALUES
    ('session:1', '{"user": [1, 2]}', NOW() + interval '10 minutes', 2);
"""

SEED_001 = """
CREATE TABLE cache_vector_searches (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  user_id UUID NOT NULL,
  query_hash VARCHAR(64) NOT NULL,
  results JSONB NOT NULL,
  created_at TIMESTAMP DEFAULT NOW(),
  expires_at TIMESTAMP NOT NULL
);
CREATE TABLE cache_llm_responses (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  prompt_hash VARCHAR(64) NOT NULL,
  response TEXT NOT NULL,
  model VARCHAR(100) NOT NULL,
  created_at TIMESTAMP DEFAULT NOW(),
  expires_at TIMESTAMP NOT NULL
);
-- The document names these, and what they hold; columns as Prisma writes them.
CREATE TABLE embedding_cache (
  id text PRIMARY KEY, "queryHash" text UNIQUE, embedding double precision[], "createdAt" timestamp(3),
  "expiresAt" timestamp(3)
);
CREATE TABLE vector_search_cache (
  id text PRIMARY KEY, "queryHash" text, "userId" text, results jsonb, "createdAt" timestamp(3),
  "expiresAt" timestamp(3)
);
CREATE TABLE llm_response_cache (
  id text PRIMARY KEY, "promptHash" text, response text, provider text, "hitCount" integer,
  "createdAt" timestamp(3), "expiresAt" timestamp(3)
);
CREATE TABLE audio_chunk_cache (
  id text PRIMARY KEY, "cacheKey" text UNIQUE, "audioData" bytea, format text, "durationMs" integer,
  "sampleRate" integer, channels integer, compression text, "storagePath" text, metadata jsonb,
  "hitCount" integer, "lastAccessedAt" timestamp(3), "createdAt" timestamp(3), "expiresAt" timestamp(3)
);
INSERT INTO cache_vector_searches (user_id, query_hash, results, created_at, expires_at)
SELECT u::uuid, q, r::jsonb, NOW() - age::interval, NOW() + life::interval FROM (VALUES
    ('00000000-0000-0000-0000-000000000001', 'q', '["old"]', '2 minutes', '1 hour'),
    ('00000000-0000-0000-0000-000000000001', 'q', '["new"]', '1 minute', '1 hour'),
    ('00000000-0000-0000-0000-000000000001', 'q', '["newest, expired"]', '0', '-1 second'),
    ('00000000-0000-0000-0000-000000000001', 'both', '["of 1"]', '2 minutes', '1 hour'),
    ('00000000-0000-0000-0000-000000000002', 'both', '["of 2"]', '1 minute', '1 hour')) v (u, q, r, age, life);
INSERT INTO cache_llm_responses (prompt_hash, response, model, created_at, expires_at) VALUES
    ('p', 'old', 'gpt-4', NOW() - interval '2 minutes', NOW() + interval '2 hours'),
    ('p', 'new', 'gpt-4', NOW() - interval '1 minute', NOW() + interval '1 hour');
INSERT INTO embedding_cache VALUES ('1', 'eq', '{0.1,2}', NOW(), NOW() + interval '1 hour'),
    ('2', 'nan', '{0.1,NaN}', NOW(), NOW() + interval '1 hour'),
    ('3', 'huge', '{0.1,1e300}', NOW(), NOW() + interval '1 hour');
INSERT INTO vector_search_cache VALUES ('1', 'vq', 'user-123', '[1]', NOW(), NOW() + interval '5 minutes');
INSERT INTO llm_response_cache VALUES ('1', 'lp', 'AI is...', 'gemini-flash', 45, NOW(), NOW() + interval '1 hour');
INSERT INTO audio_chunk_cache VALUES ('1', 'ak', 'x', 'opus', 1000, 16000, 1, 'opus', NULL, '{}', 78, NOW(), NOW(),
    NOW() + interval '5 minutes');
"""

SEED_002 = """
CREATE TABLE cache_store (
    cache_key VARCHAR(500) PRIMARY KEY,
    data JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMP WITH TIME ZONE
);
CREATE INDEX idx_cache_store_cache_key ON cache_store(cache_key);
CREATE INDEX idx_cache_store_expires_at ON cache_store(expires_at);
CREATE INDEX idx_cache_store_data_gin ON cache_store USING GIN (data);
INSERT INTO cache_store (cache_key, data, expires_at) VALUES
    ('retrieval:python:5', '{"results": [1], "total_found": 10}', NOW() + interval '30 minutes'),
    ('for-ever', 'null', NULL), ('infinity', '1', 'infinity'), ('gone', '2', NOW() - interval '1 minute');
"""

SEED_003 = """
CREATE TABLE ai_worker_cache (
    cache_key VARCHAR(64) PRIMARY KEY,
    prompt_text TEXT NOT NULL,
    model VARCHAR(100) NOT NULL,
    schema_version VARCHAR(20) NOT NULL,
    generated_sql TEXT NOT NULL,
    validated BOOLEAN NOT NULL DEFAULT true,
    tokens_used INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMP NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMP NOT NULL,
    last_accessed_at TIMESTAMP NOT NULL DEFAULT NOW(),
    hit_count INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX idx_ai_cache_expires ON ai_worker_cache(expires_at);
CREATE VIEW ai_worker_cache_stats AS SELECT count(*) AS total_entries FROM ai_worker_cache;
CREATE FUNCTION ai_worker_cleanup_cache() RETURNS integer LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM public.ai_worker_cache WHERE expires_at < NOW() RETURNING 1)
    SELECT count(*)::integer FROM gone $$;
INSERT INTO ai_worker_cache (cache_key, prompt_text, model, schema_version, generated_sql, tokens_used, expires_at,
    hit_count, validated)
SELECT encode(sha256(convert_to(p || '|gpt-4|v1', 'UTF8')), 'hex'), p, 'gpt-4', 'v1', 'SELECT 1', 123,
    NOW()::timestamp + life, 4, valid
FROM (VALUES ('Get all users', interval '1 hour', true), ('old', interval '-1 hour', true),
    ('bad', interval '1 hour', false)) v (p, life, valid);
"""

# The document has the calls and the names of the tables.
SEED_004 = """
CREATE TABLE face_embeddings_cache (
    cache_key VARCHAR(255) PRIMARY KEY, tenant_id VARCHAR(100) NOT NULL, content_hash VARCHAR(64) NOT NULL,
    embeddings_data JSONB NOT NULL, created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE perceptual_hash_cache (
    cache_key VARCHAR(255) PRIMARY KEY, tenant_id VARCHAR(100) NOT NULL, content_hash VARCHAR(64) NOT NULL,
    phash VARCHAR(32) NOT NULL, created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE crawl_cache (
    cache_key VARCHAR(255) PRIMARY KEY, tenant_id VARCHAR(100) NOT NULL, url TEXT, content_hash VARCHAR(64) NOT NULL,
    phash VARCHAR(32), raw_key TEXT, thumbnail_key TEXT, created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE VIEW cache_stats AS SELECT 'crawl_cache' AS cache_type, count(*) AS total_entries FROM crawl_cache;
CREATE FUNCTION cleanup_old_cache_entries(retention_days integer DEFAULT 7)
RETURNS TABLE (table_name text, deleted_count bigint) LANGUAGE sql AS $$ SELECT 'old', 0::bigint $$;
CREATE FUNCTION get_cache_index_usage() RETURNS TABLE (table_name text) LANGUAGE sql AS $$ SELECT 'old' $$;
INSERT INTO face_embeddings_cache SELECT 'embedding:' || t || ':1', t, encode(sha256('image'), 'hex'),
    jsonb_build_array(jsonb_build_object('det_score', 0.95, 'of', t)), now() - interval '400 days'
FROM unnest('{tenant_123,default}'::text[]) t;
INSERT INTO perceptual_hash_cache SELECT 'phash:tenant_123:1', 'tenant_123', encode(sha256('image'), 'hex'), 'abcd';
INSERT INTO crawl_cache
SELECT k, 'tenant_123', u, encode(sha256('image'), 'hex'), 'abcd', r, 'thumb_key'
FROM (VALUES ('1', 'https://example.com/image.jpg', 'raw'), ('2', NULL, 'raw'),
    ('3', 'https://example.com/none', NULL)) v (k, u, r);
"""

IMAGE = b"image"
Adopted = dict[str, tuple[Any, ...]]


@pytest.fixture
def old(dsn: str) -> Iterator[Session]:
    """A session in whose search_path the old tables come first, as an installation leaves it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET search_path = {SEARCH_PATH}".encode())
    session = Session(dsn)
    yield session
    session.close()


def adopted(old: Session, arguments: str = "false") -> Adopted:
    """What cache_adopt returns, by the name of the object without public."""
    rows = old.rows(f"SELECT object, type, entries, left_out, becomes FROM pgcache.cache_adopt({arguments})")
    return {row[0].removeprefix("public."): row[1:] for row in rows}


def renamed(name: str) -> str:
    return f"public.{name}_before_pgcache"


def entry(old: Session, type: str, key: str) -> tuple[Any, ...]:
    """Its hits, how long it is valid, and since when it is there, in minutes."""
    return old.rows(
        "SELECT hit_count, round(extract(epoch FROM expires_at - now()) / 60)::integer,"
        " round(extract(epoch FROM now() - created_at) / 60)::integer FROM cache_entry(%s, %s)",
        type,
        key,
    )[0]


def get(old: Session, type: str, key: str) -> Any:
    return old("SELECT cache_get(%s, %s)", type, key)


def test_conversational_clone(old: Session) -> None:
    old(SEED_000)
    assert adopted(old) == {
        "cache_audio_chunks": ("audio", 1, None, renamed("cache_audio_chunks")),
        "cache_embeddings": ("embedding", 1, {"expired": 1}, renamed("cache_embeddings")),
        "cache_llm_responses": ("llm", 2, {
            "expired": 1,
            "PC002 a cache key cannot be empty": 1,
            "PC004 the value does not fit the type llm: its field tokens_used should be of kind count": 1,
        }, renamed("cache_llm_responses")),
        "cache_sessions": ("store", 1, None, renamed("cache_sessions")),
        "cache_vector_search": ("vector_search", 1, {
            "PC004 the value does not fit the type vector_search: its field results is missing": 1,
        }, renamed("cache_vector_search")),
    }  # fmt: skip
    assert get(old, "embedding", "e") == {"embedding": [0.1, 0.2, 0.3], "model": "text-embedding-3-small"}
    assert get(old, "llm", "l") == {"response": "hi", "model": "gpt-4", "tokens_used": 12}
    assert get(old, "llm", "l-null") == {"response": "", "model": "gpt-4"}
    assert get(old, "vector_search", "v") == {"results": [{"id": 1, "score": None}]}
    assert get(old, "audio", "a")["duration_ms"] == 800
    assert old("SELECT audio_data = decode(repeat('00ff10', 100), 'hex') FROM cache_audio_chunks") is True
    assert get(old, "store", "session:1") == {"user": [1, 2]}
    assert get(old, "llm", "l-old") is None
    # The gets above are among the hits.
    assert entry(old, "embedding", "e")[:2] == (8, 300)
    assert entry(old, "llm", "l")[1] == 30
    assert old("SELECT hit_count FROM cache_llm_responses WHERE cache_key = 'l'") == 40
    assert old("SELECT hit_weight FROM cache_llm_responses WHERE cache_key = 'l'") == 8
    assert old("SELECT count(*) FROM cache_llm_responses") == 2
    assert adopted(old) == {}


def test_tables_of_a_type_of_ones_own(old: Session) -> None:
    old(SEED_000)
    old("SELECT pgcache.cache_create_type('sessions')")
    assert adopted(old)["cache_sessions"][:2] == ("sessions", 1)
    assert get(old, "sessions", "session:1") == {"user": [1, 2]}


def test_digitwin_live(old: Session) -> None:
    old(SEED_001)
    assert adopted(old) == {
        "audio_chunk_cache": ("audio", 1, None, renamed("audio_chunk_cache")),
        "cache_llm_responses": ("llm", 1, {"older row of the same key": 1}, renamed("cache_llm_responses")),
        "cache_vector_searches": ("vector_search", 1, {
            "expired": 1, "older row of the same key": 1, "several users have the same key": 2,
        }, renamed("cache_vector_searches")),
        "embedding_cache": ("embedding", 1, {
            "PC004 the value does not fit the type embedding: its field embedding should be of kind vector": 2,
        }, renamed("embedding_cache")),
        "llm_response_cache": ("llm", 1, None, renamed("llm_response_cache")),
        "vector_search_cache": ("vector_search", 1, None, renamed("vector_search_cache")),
    }  # fmt: skip
    user = "00000000-0000-0000-0000-000000000001"
    assert get(old, "vector_search", "q") == {"results": ["new"], "user_id": user}
    assert get(old, "vector_search", "both") is None
    assert get(old, "llm", "p") == {"response": "new", "model": "gpt-4"}
    assert entry(old, "llm", "p")[1:] == (60, 1)
    assert get(old, "embedding", "eq") == {"embedding": [0.1, 2]}
    assert get(old, "vector_search", "vq") == {"results": [1], "user_id": "user-123"}
    assert get(old, "llm", "lp") == {"response": "AI is...", "provider": "gemini-flash"}
    assert old("SELECT hit_count FROM cache_llm_responses WHERE cache_key = 'lp'") == 45
    speech = get(old, "audio", "ak")
    assert (speech["sample_rate"], speech["channels"], speech["duration_ms"]) == (16000, 1, 1000)
    assert old("SELECT cache_invalidate_user(%s)", user) == 1


def test_cache_manager(old: Session) -> None:
    old(SEED_002)
    assert adopted(old) == {"cache_store": ("store", 3, {"expired": 1}, renamed("cache_store"))}
    assert get(old, "store", "retrieval:python:5") == {"results": [1], "total_found": 10}
    assert entry(old, "store", "retrieval:python:5")[1] == 30
    assert old("SELECT cache_get('store', 'for-ever')::text") == "null"
    for key in ("for-ever", "infinity"):
        assert entry(old, "store", key)[1] is None
    assert old("SELECT count(*) FROM cache_store") == 3
    assert adopted(old) == {}


def test_ai_worker(old: Session) -> None:
    """Statements of the document reach the old table before, and ours then."""
    old(SEED_003)
    assert adopted(old) == {
        "ai_worker_cache": ("ai_worker", 1, {"expired": 1, "not validated": 1}, renamed("ai_worker_cache")),
        "ai_worker_cache_stats": (None, None, None, renamed("ai_worker_cache_stats")),
        "ai_worker_cleanup_cache()": (None, None, None, renamed("ai_worker_cleanup_cache")),
    }
    found = old("SELECT cache_get_ai_worker('Get all users', 'gpt-4', 'v1')")
    assert (found["generated_sql"], found["tokens_used"]) == ("SELECT 1", 123)
    key = old("SELECT ai_worker_legacy_key('Get all users', 'gpt-4', 'v1')")
    assert entry(old, "ai_worker", key)[:2] == (5, 60)
    assert old("SELECT valid_entries FROM ai_worker_cache_stats") == 1
    assert old("SELECT ai_worker_cleanup_cache()") == 0
    assert old.connection.execute("DELETE FROM ai_worker_cache WHERE schema_version = 'v1'").rowcount == 1
    assert old("SELECT cache_get_ai_worker('Get all users', 'gpt-4', 'v1')") is None
    assert old("SELECT count(*) FROM ai_worker_cache_before_pgcache") == 3
    assert not old.rows("SELECT * FROM pgcache_internal.hiding_objects()")


def test_hybrid(old: Session) -> None:
    old(SEED_004)
    missing = "PC004 the value does not fit the type crawl: its field {} is missing"
    assert adopted(old) == {
        "crawl_cache": ("crawl", 1, {missing.format("url"): 1, missing.format("raw_key"): 1}, renamed("crawl_cache")),
        "face_embeddings_cache": ("face", 2, None, renamed("face_embeddings_cache")),
        "perceptual_hash_cache": ("phash", 1, None, renamed("perceptual_hash_cache")),
        "cache_stats": (None, None, None, renamed("cache_stats")),
        "cleanup_old_cache_entries(integer)": (None, None, None, renamed("cleanup_old_cache_entries")),
        "get_cache_index_usage()": (None, None, None, renamed("get_cache_index_usage")),
    }
    for tenant in ("tenant_123", "default"):
        assert old("SELECT cache_get_face(%s, %s)", IMAGE, tenant) == [{"det_score": 0.95, "of": tenant}]
    assert old("SELECT cache_get_face(%s, 'another')", IMAGE) is None
    assert old("SELECT cache_get_phash(%s, 'tenant_123')", IMAGE) == "abcd"
    url = "https://example.com/image.jpg"
    assert old.rows("SELECT * FROM crawl_should_skip(%s, %s, 'tenant_123')", url, IMAGE) == [(True, "raw")]
    assert old("SELECT cleanup_old_cache_entries(7) IS NOT NULL") is True
    assert old("SELECT count(*) FROM cache_stats WHERE type = 'crawl'") == 1


SEEDS = {"000": SEED_000, "001": SEED_001, "002": SEED_002, "003": SEED_003, "004": SEED_004}


def objects(old: Session) -> dict[str, int | None]:
    """What there is in public, with the number of rows, and of entries with their hits."""
    names = old.column("""
        SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
        UNION ALL
        SELECT proname FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')""")
    found = {name: old(f"SELECT count(*) FROM public.{name}") if old(f"SELECT to_regclass('public.{name}')") else None
        for name in names}  # fmt: skip
    return {**found, "entries": old("SELECT sum(1 + hit_count) FROM pgcache.cache_store")}


@pytest.mark.once
@pytest.mark.parametrize("seed", SEEDS)
def test_a_dry_run_says_what_a_run_does_and_changes_nothing(old: Session, seed: str) -> None:
    old(SEEDS[seed])
    before = objects(old)
    shown = adopted(old, "")
    assert objects(old) == before
    assert shown == adopted(old, "true")
    assert shown == adopted(old, "false")
    assert adopted(old, "") == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_keep_leaves_what_is_there(old: Session, seed: str) -> None:
    old(SEEDS[seed])
    before = objects(old)
    first = adopted(old, "false, true")
    assert objects(old).keys() == before.keys()
    assert all(becomes is None for *_, becomes in first.values())
    again = adopted(old, "false, true")
    for name, (_, entries, _, _) in first.items():
        if entries is not None:
            assert (again[name][1], again[name][2]["here already"]) == (0, entries)


def test_what_is_here_stays(old: Session) -> None:
    old(SEED_002)
    old("SELECT pgcache.cache_set('store', 'for-ever', '\"ours\"')")
    old("SELECT pgcache.cache_set('store', 'infinity', '\"old\"', '1 ms')")
    old.advance("1 second")
    assert adopted(old)["cache_store"][1:3] == (2, {"expired": 1, "here already": 1})
    assert get(old, "store", "for-ever") == "ours"
    assert get(old, "store", "infinity") == 1


def test_times_without_a_zone(old: Session) -> None:
    old("SET TimeZone = 'America/New_York'")
    old(SEED_003)
    old("SET TimeZone = 'UTC'")
    assert adopted(old, "")["ai_worker_cache"][1] == 0
    assert adopted(old, "false, time_zone => 'america/new_york'")["ai_worker_cache"][1] == 1
    assert entry(old, "ai_worker", old("SELECT cache_key FROM ai_worker_cache"))[1] == 60
    with refused("PC010", hint="pg_timezone_names"):
        adopted(old, "time_zone => 'Mars'")


def test_tenants(old: Session) -> None:
    old(SEED_002)
    old("SET pgcache.tenant = 'ours'")
    assert adopted(old)["cache_store"][1] == 3
    assert get(old, "store", "infinity") == 1
    old("RESET pgcache.tenant")
    assert get(old, "store", "infinity") is None


@pytest.mark.parametrize("statement", ["cache_configure('store', enabled => false)",
    "cache_configure('store', max_entries => 2, eviction => 'none')"])  # fmt: skip
def test_a_type_that_takes_none_leaves_the_table(old: Session, statement: str) -> None:
    old(SEED_002 + SEED_003)
    old(f"SELECT pgcache.{statement}")
    store = adopted(old)["cache_store"]
    assert (store[1], store[3]) == (0, None)
    assert store[2]["expired"] == 1
    assert [rows for reason, rows in store[2].items() if "disabled" in reason or "PC009" in reason] == [3]
    assert old("SELECT count(*) FROM pgcache.cache_store") == 0
    assert old("SELECT cache_get_ai_worker('Get all users', 'gpt-4', 'v1') IS NOT NULL") is True
    old("SELECT pgcache.cache_configure('store', enabled => true, max_entries => 100)")
    assert adopted(old)["cache_store"][1] == 3


def test_limits_hold(old: Session) -> None:
    old(SEED_002)
    old("SELECT pgcache.cache_configure('store', max_entries => 100, max_bytes => 100000)")
    old("INSERT INTO cache_store SELECT 'k' || n, to_jsonb(repeat(n::text, 20)) FROM generate_series(1, 5000) n")
    old("INSERT INTO cache_store VALUES ('large', (SELECT to_jsonb(string_agg(md5(n::text), '')) FROM"
        " generate_series(1, 9000) n))")  # fmt: skip
    assert adopted(old)["cache_store"][2]["larger than max_bytes"] == 1
    assert old("SELECT count(*) FROM cache_store") <= 100


def test_the_hot_tier_is_told(old: Session) -> None:
    old(SEED_002)
    old("SELECT pgcache.cache_hot_on('store')")
    adopted(old)
    keys = old.column("SELECT cache_key FROM pgcache_internal.hot_untold() WHERE type = 'store' ORDER BY 1")
    assert keys == ["for-ever", "infinity", "retrieval:python:5"]


def test_strange_rows(old: Session) -> None:
    """JSON in a column of type text, keys that are too long or NULL, a user's table that only looks so."""
    old("""
        CREATE TABLE "Old Cache" ("Cache_Key" text, data text, created_at date, expires_at timestamptz);
        INSERT INTO "Old Cache" VALUES ('j', '{"a": 1}', now(), NULL), ('no json', '{', now(), NULL),
            (NULL, '1', now(), NULL), (repeat('k', 1025), '1', now(), NULL), (repeat('l', 1024), '2', NULL, NULL),
            ('x', NULL, now(), NULL);
        CREATE TABLE prices (cache_key text, data jsonb, created_at timestamptz, expires_at bigint);
        CREATE TABLE ai_worker_cache (id integer);
        CREATE TABLE cache_llm_responses (cache_key text, response text, model text, "expiresAt" bigint, extra point);
        CREATE DOMAIN vec AS float8[];
        CREATE TABLE cache_embeddings (cache_key text, embedding vec, expires_at timestamptz);
        CREATE TEMP TABLE cache_store (cache_key text, data jsonb, created_at timestamptz, expires_at timestamptz);
        CREATE TABLE copied AS TABLE pgcache.cache_store;
        CREATE TABLE "Old Cache_before_pgcache" ()""")
    assert adopted(old) == {
        '"Old Cache"': ("store", 2, {
            "PC004 the value is NULL": 2, "PC002 a cache key cannot be NULL": 1,
            "PC002 a cache key of 1025 bytes is too long: the limit is 1024": 1,
        }, 'public."Old Cache_before_pgcache1"'),
        "ai_worker_cache": (None, None, {"a table that is not known hides pgcache.ai_worker_cache": None}, None),
        "cache_llm_responses": (None, None, {
            'its column "expiresAt" is of type bigint, not timestamp, timestamptz or date; it hides'
            " pgcache.cache_llm_responses": None,
        }, None),
        "cache_embeddings": (None, None, {
            "its column embedding is of type public.vec, which is neither PostgreSQL's nor pgvector's; it hides"
            " pgcache.cache_embeddings": None,
        }, None),
    }  # fmt: skip
    assert get(old, "store", "j") == {"a": 1}
    assert old("SELECT to_regclass('prices') IS NOT NULL AND to_regclass('ai_worker_cache') IS NOT NULL") is True


def test_vectors_that_are_none(old: Session) -> None:
    """Each is said to be one that is wrong, not one that is missing."""
    old("""
        CREATE TABLE vectors (cache_key text, embedding float8[], expires_at timestamptz);
        INSERT INTO vectors VALUES ('fine', '{1,2}', NULL), ('nan', '{1,NaN}', NULL), ('deep', '{{1,2},{3,4}}', NULL),
            ('infinite', '{Infinity}', NULL), ('large', '{1e300}', NULL), ('empty', '{}', NULL),
            ('hole', '{1,NULL}', NULL), ('none', NULL, NULL);
        CREATE TABLE written (cache_key text, embedding text, expires_at timestamptz);
        INSERT INTO written VALUES ('text', '[1,2]', NULL), ('nan', '[NaN]', NULL), ('word', 'none', NULL)""")
    wrong = "PC004 the value does not fit the type embedding: its field embedding should be of kind vector"
    missing = "PC004 the value does not fit the type embedding: its field embedding is missing"
    assert {name: row[1:3] for name, row in adopted(old).items()} == {
        "vectors": (1, {wrong: 6, missing: 1}),
        "written": (1, {wrong: 2}),
    }


def test_strange_columns(old: Session) -> None:
    """Columns of other types, or with values that ours cannot have: the rows are taken as far as that goes."""
    live = "now() + interval '1 day'"
    old(f"""
        CREATE TABLE texts (cache_key text, data jsonb, created_at timestamptz, expires_at timestamptz, hit_count text);
        INSERT INTO texts VALUES ('t', '1', now(), {live}, 'many');
        CREATE TABLE floats (cache_key text, data jsonb, created_at date, expires_at date, hit_count float8);
        INSERT INTO floats VALUES ('f-nan', '1', 'infinity', 'infinity', 'NaN'), ('f-inf', '1', '0044-01-01 BC',
            '5874897-01-01', 'infinity'), ('f', '1', '-infinity', '9999-12-31', 7),
            ('f-gone', '1', now(), '-infinity', 1);
        CREATE TABLE numbers (cache_key text, data jsonb, created_at timestamp, expires_at timestamp,
            hit_count numeric, last_accessed_at timestamp);
        INSERT INTO numbers VALUES ('n-nan', '1', '-infinity', '294276-12-31 23:59:59', 'NaN', '-infinity'),
            ('n-inf', '1', '4713-01-01 BC', 'infinity', '-infinity', 'infinity'),
            ('n', '1', now(), NULL, 1e300, '0001-01-01');
        CREATE TABLE large (cache_key text, data jsonb, created_at timestamptz, expires_at timestamptz,
            hit_count bigint);
        INSERT INTO large SELECT 'l' || n, '1', '-infinity', {live}, 9223372036854775807 FROM generate_series(1, 3) n;
        CREATE TABLE ai_worker_cache (cache_key text, prompt_text text, model text, schema_version text,
            generated_sql text, validated text, expires_at timestamptz);
        CREATE TABLE faces (tenant_id text, content_hash text, embeddings jsonb, expires_at text);
        INSERT INTO faces VALUES (NULL, 'h', '[]', 'never'), ('t', 'h', '[1]', 'never');
        SET TimeZone = 'America/New_York'""")
    dry = adopted(old, "true")
    assert adopted(old) == dry
    assert {name: row[1:3] for name, row in dry.items()} == {
        "ai_worker_cache": (None, {
            "its column validated is of type text, not boolean; it hides pgcache.ai_worker_cache": None,
        }),
        "faces": (2, {"its column expires_at is of type text, not timestamp, timestamptz or date": None}),
        "floats": (3, {"expired": 1}),
        "large": (3, None),
        "numbers": (3, None),
        "texts": (1, {"its column hit_count is of type text, not a number": None}),
    }  # fmt: skip
    hits = dict(old.rows("SELECT cache_key, hit_count FROM pgcache.cache_store"))
    assert hits == {"t": 0, "f-nan": 0, "f-inf": 10**12, "f": 7, "n-nan": 0, "n-inf": 0, "n": 10**12,
        "l1": 10**12, "l2": 10**12, "l3": 10**12}  # fmt: skip
    faces = old.rows("SELECT tenant, embeddings FROM pgcache.face_embeddings_cache ORDER BY tenant")
    assert faces == [("", []), ("t", [1])]
    # What Python cannot read would raise.
    assert old.rows("SELECT * FROM pgcache.cache_stats, pgcache.cache_top")
    assert old.rows("SELECT created_at, last_accessed_at, expires_at FROM pgcache.cache_store")
    old("CALL pgcache.cache_upkeep()")


NAMES = {"schema": '"Odd .""Sch%s"', "table": '"T.%I""b @table {source} é"', "long": f'"{"é" * 31}"'}


@pytest.mark.parametrize("table", ["table", "long"])
def test_names_that_need_quotes(old: Session, dsn: str, table: str) -> None:
    """Tables, views and functions that hide ours too, in a schema of such a name in the search_path."""
    schema, name = NAMES["schema"], NAMES[table]
    old(f"""
        CREATE SCHEMA {schema};
        CREATE TABLE {schema}.{name} ("cache""Key" text, "Cache_Key" text, "DATA" jsonb, "created%Iat" text,
            "CreatedAt" timestamp, "expiresAt" timestamp);
        INSERT INTO {schema}.{name} ("Cache_Key", "DATA") VALUES ('k', '1');
        CREATE TABLE {schema}.{name.replace("T", "U").replace("éé", "ée", 1)} (LIKE {schema}.{name});
        CREATE TABLE {schema}.cache_llm_responses (id integer);
        CREATE VIEW {schema}.cache_stats AS SELECT 1 AS one;
        CREATE FUNCTION {schema}.cache_cleanup(type text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
        SET search_path = {schema}, pgcache, public""")
    before = f"ALTER DATABASE {old.connection.info.dbname} SET search_path = {schema}, pgcache, public"
    old(before)
    session = Session(dsn)
    try:
        dry = adopted(session, "true")
        assert adopted(session) == dry
        kinds = {key.removeprefix(schema + "."): row[1] for key, row in dry.items()}
        assert (len(kinds), kinds[name], kinds["cache_stats"]) == (5, 1, None)
        assert {row[3] for row in dry.values() if row[3]} == set(
            session.column("""
            SELECT format('%I.%I', n.nspname, o.name) FROM (
                SELECT relnamespace, relname FROM pg_class WHERE relkind IN ('r', 'v')
                UNION ALL SELECT pronamespace, proname FROM pg_proc
            ) o (namespace, name) JOIN pg_namespace n ON n.oid = namespace WHERE o.name LIKE '%_before_pgcache%'""")
        )
        assert session("SELECT pgcache.cache_get('store', 'k')") == 1
        assert session.column("SELECT hint FROM pgcache_internal.hiding_objects()") == [
            f"Rename it: ALTER TABLE {schema}.cache_llm_responses RENAME TO ..., or write pgcache.cache_llm_responses."
        ]
    finally:
        session.close()


def test_a_table_that_fails_is_named(old: Session) -> None:
    """An error that nobody has foreseen."""
    old(SEED_002 + SEED_003)
    old("ALTER TABLE pgcache.cache_store ADD CHECK (cache_key <> 'infinity')")
    with refused("PC010", hint="Name the other tables") as caught:
        adopted(old)
    assert "the table public.cache_store cannot be adopted: " in str(caught.value)
    assert adopted(old, "false, tables => '{ai_worker_cache}'")["ai_worker_cache"][1] == 1


def test_single_tables(old: Session) -> None:
    old(SEED_003 + SEED_002)
    old("CREATE TABLE prices (cache_key text, data jsonb, created_at timestamptz, expires_at bigint)")
    for table, why in {"prices": "its column expires_at is of type bigint", "pg_class": "not known"}.items():
        for dry_run in (True, False):
            with refused("PC010", hint="known by its columns") as caught:
                old("SELECT * FROM cache_adopt(%s, tables => ARRAY['cache_store', %s]::regclass[])", dry_run, table)
            assert why in str(caught.value)
    before = objects(old)
    for dry_run in (True, False):
        shown = old.column("SELECT object FROM cache_adopt(%s, tables => '{cache_store}')", dry_run)
        assert shown == ["public.cache_store"]
    assert objects(old).keys() - before.keys() == {"cache_store_before_pgcache"}
    assert get(old, "store", "infinity") == 1


def test_other_schemas(old: Session) -> None:
    old("CREATE SCHEMA app; SET search_path = app")
    old(SEED_003.replace("public.", "app."))
    assert {name: row[3] for name, row in adopted(old).items()} == {
        "app.ai_worker_cache": "app.ai_worker_cache_before_pgcache",
        "app.ai_worker_cache_stats": "app.ai_worker_cache_stats_before_pgcache",
        "app.ai_worker_cleanup_cache()": "app.ai_worker_cleanup_cache_before_pgcache",
    }


def test_a_failure_leaves_everything(old: Session) -> None:
    """The last of what it does is to rename a function."""
    old(SEED_002 + SEED_003)
    old("""
        CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE 'no' USING ERRCODE = 'PC099'; END $$;
        CREATE EVENT TRIGGER forbid ON ddl_command_start WHEN TAG IN ('ALTER FUNCTION', 'ALTER ROUTINE')
            EXECUTE FUNCTION forbid()""")
    before = objects(old)
    with refused("PC099"):
        adopted(old)
    assert objects(old) == before


def test_whose_it_is_not(old: Session, role: NewRole) -> None:
    old(SEED_003)
    theirs = role("write")
    theirs("SET search_path = public, pgcache")
    with refused("42501"):
        adopted(theirs)
    name = theirs("SELECT current_user")
    for all_of in ("TABLES", "FUNCTIONS", "PROCEDURES"):
        old(f"GRANT ALL ON ALL {all_of} IN SCHEMA pgcache, pgcache_internal TO {name}")
    shown = adopted(theirs, "")["ai_worker_cache"]
    assert shown == ("ai_worker", None, {"42501 not yours to read and rename": None}, None)
    with refused("42501", hint="Connect as"):
        adopted(theirs)
    old(f"ALTER SCHEMA pgcache OWNER TO {name}")
    with refused("42501", hint="may create in that table's schema"):
        adopted(theirs)


@pytest.mark.once
def test_command(old: Session, dsn: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("adopt", "--dsn", dsn)[:2] == (0, "No earlier cache system has left anything here.\n")
    old(SEED_003)
    old("""INSERT INTO ai_worker_cache (cache_key, prompt_text, model, schema_version, generated_sql, expires_at)
        SELECT n, n, 'm', 'v1', 'SELECT 1', now() + interval '1 day' FROM generate_series(1, 25000) n""")
    code, out, _ = run("adopt", "--dsn", dsn, "--dry-run", "--time-zone", "UTC")
    assert (code, out.splitlines()) == (0, [
        "public.ai_worker_cache: 25,001 rows to ai_worker, renamed to public.ai_worker_cache_before_pgcache",
        "  1 left out: expired",
        "  1 left out: not validated",
        "public.ai_worker_cache_stats, renamed to public.ai_worker_cache_stats_before_pgcache",
        "public.ai_worker_cleanup_cache(), renamed to public.ai_worker_cleanup_cache_before_pgcache",
        "Dry run: nothing was changed.",
    ])  # fmt: skip
    code, _, err = run("adopt", "--dsn", dsn)
    assert (code, "Confirm it with --yes" in err) == (1, True)
    code, out, _ = run("adopt", "--dsn", dsn, "--dry-run", "--table", "public.ai_worker_cache")
    assert (code, len(out.splitlines())) == (0, 4)
    for table in ("ai_worker_cache", "nowhere.nothing", "", '"', "a.b.c.d", "public."):
        code, _, err = run("adopt", "--dsn", dsn, "--table", table)
        assert (code, err.startswith("error: there is no table "), "with its schema" in err) == (1, True, True), err
    steps: list[int] = []
    monkeypatch.setattr(show, "progress", told(steps))
    code, out, _ = run("adopt", "--dsn", dsn, "--yes", "--tenant", "t", "--time-zone", "UTC")
    assert (code, out.splitlines()[0].startswith("public.ai_worker_cache: 25,001 rows to ai_worker")) == (0, True)
    assert steps == [10_000, 10_000, 5001]
    old("SET pgcache.tenant = 't'")
    assert old("SELECT cache_get_ai_worker('Get all users', 'gpt-4', 'v1') IS NOT NULL") is True
    assert run("adopt", "--dsn", dsn)[:2] == (0, "No earlier cache system has left anything here.\n")


def told(steps: list[int]) -> Any:
    """In place of show.progress."""

    @contextmanager
    def progress(label: str, total: int | None) -> Iterator[show.Advance]:
        assert (label, total) == ("adopting", 25_001)
        yield lambda size, _: steps.append(size)

    return progress
