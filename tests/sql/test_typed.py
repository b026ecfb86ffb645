"""The typed functions of each cache, and what they share with the generic calls."""

from __future__ import annotations

import json

import pytest

from tests.tools.session import Session, refused

pytestmark = pytest.mark.upgraded


def test_llm(ask: Session) -> None:
    assert ask("SELECT cache_get_llm('What is AI?', 'm')") is None
    assert ask("SELECT cache_set_llm('What is AI?', 'm', 'It is ...', 12)") is True
    assert ask("SELECT cache_get_llm('What is AI?', 'm')") == {"response": "It is ...", "model": "m", "tokens_used": 12}
    assert ask("SELECT cache_get_llm('What is AI?', 'other')") is None
    assert ask("SELECT cache_get_llm('What is AI?', 'm', 'to a child')") is None
    assert ask("SELECT cache_get('llm', llm_key('What is AI?', 'm')) ->> 'response'") == "It is ..."
    ask("SELECT cache_set_llm('p', 'm', 'r', context => 'c', provider => 'openai', ttl => '5 minutes')")
    assert ask("SELECT cache_get_llm('p', 'm', context => 'c')") is None
    assert ask("SELECT cache_get_llm('p', 'm', context => 'c', provider => 'openai')") == {
        "response": "r",
        "model": "m",
        "provider": "openai",
    }
    assert ask("SELECT cache_ttl('llm', llm_key('p', 'm', 'c', 'openai')) <= '5 minutes'")
    assert ask.row("SELECT response, model, provider, tokens_used FROM cache_llm_responses"
" WHERE provider IS NOT NULL") == {
        "response": "r", "model": "m", "provider": "openai", "tokens_used": None,
    }  # fmt: skip


def test_embedding(ask: Session) -> None:
    assert ask("SELECT cache_get_embedding('text', 'm') IS NULL")
    assert ask("SELECT cache_set_embedding('text', 'm', '[0.1,-2,3e-5]')") is True
    assert ask("SELECT cache_get_embedding('text', 'm') = '[0.1,-2,3e-5]'")
    assert ask("SELECT cache_get_embedding('text', 'other') IS NULL")
    assert ask("SELECT cache_get('embedding', embedding_key('text', 'm')) ->> 'model'") == "m"
    assert ask(
        "SELECT cache_set_embedding('text', 'm', '[1,2]', '5 minutes')"
    )  # another dimension, unless they are fixed
    assert ask("SELECT cache_get_embedding('text', 'm')::text") == "[1,2]"
    assert (ask.stats("embedding")["hits"], ask.stats("embedding")["misses"]) == (3, 2)
    # Vectors can be searched where they are.
    assert ask("SELECT model FROM cache_embeddings ORDER BY embedding <-> '[1,1]' LIMIT 1") == "m"


def test_a_vector_of_floats_keeps_every_bit(ask: Session) -> None:
    floats = [0.1, 1 / 3, 1e-38, 3.4028235e38, -0.0, 16777217.0]
    ask("SELECT cache_set_embedding('t', 'm', %s::real[]::vector)", floats)
    assert ask("SELECT cache_get_embedding('t', 'm') = %s::real[]::vector", floats)
    ask("SELECT cache_set('embedding', 'k', jsonb_build_object('embedding', %s::real[]))", floats)
    assert ask("SELECT embedding = %s::real[]::vector FROM cache_embeddings WHERE cache_key = 'k'", floats)


def test_embeddings_in_batches(ask: Session) -> None:
    assert ask("SELECT cache_set_embeddings('{a,b,a}', 'm', ARRAY['[1]', '[2]', '[3]'])") == 2
    rows = ask.rows("SELECT text, embedding::text FROM cache_get_embeddings('{b,absent,a,b}', 'm')")
    assert rows == [("b", "[2]"), ("absent", None), ("a", "[3]"), ("b", "[2]")]
    assert (ask.stats("embedding")["hits"], ask.stats("embedding")["misses"]) == (3, 1)
    assert ask.rows("SELECT * FROM cache_get_embeddings('{}', 'm')") == []
    assert ask("SELECT cache_set_embeddings('{}', 'm', '{}')") == 0
    with refused("PC004"):  # all or none
        ask("SELECT cache_set_embeddings('{x,y}', 'm', ARRAY['[1]', 'no vector'])")
    assert ask("SELECT cache_get_embedding('x', 'm') IS NULL")


def test_vector_search(ask: Session) -> None:
    results = [{"id": 1, "score": 0.9}, {"id": 2, "score": 0.8}]
    assert ask("SELECT cache_get_vector_search('[1,2]')") is None
    assert ask("SELECT cache_set_vector_search('[1,2]', %s)", json.dumps(results))
    assert ask("SELECT cache_get_vector_search('[1,2]')") == results
    assert ask("SELECT cache_get_vector_search('[1,2]', top_k => 5)") is None
    assert ask("SELECT cache_get_vector_search('[1,2]', filters => '{\"a\": 1}')") is None
    assert ask("SELECT cache_get_vector_search('[1,2]', user_id => 'u')") is None
    assert ask("SELECT cache_get_vector_search('[2,1]')") is None
    ask("SELECT cache_set_vector_search('[1,2]', '[]', '{\"b\": [1], \"a\": 1}', 5, 'u', '5 minutes')")
    assert ask("SELECT cache_get_vector_search('[1,2]', '{\"a\": 1.0, \"b\": [1]}', 5, 'u')") == []
    assert ask("SELECT user_id FROM cache_vector_search WHERE user_id <> ''") == "u"


def test_audio(ask: Session) -> None:
    sound = bytes(range(256)) * 40
    assert ask.rows("SELECT * FROM cache_get_audio('Hello', 'voice-1')") == []
    assert ask("SELECT cache_set_audio('Hello', 'voice-1', %b, 'opus', 1000, 16000, 1)", sound) is True
    assert ask.rows("SELECT * FROM cache_get_audio('Hello', 'voice-1')") == [(sound, "opus", 1000, 16000, 1)]
    assert ask.rows("SELECT * FROM cache_get_audio('Hello', 'voice-2')") == []
    assert ask.rows("SELECT * FROM cache_get_audio('Hello', 'voice-1', 'xtts-v2')") == []
    assert ask.rows("SELECT * FROM cache_get_audio('Hello', 'voice-1', settings => '{\"speed\": 2}')") == []
    assert (ask.stats("audio")["hits"], ask.stats("audio")["misses"]) == (1, 4)
    ask("SELECT cache_set_audio('t', 'v', '', 'mp3', provider => 'p', settings => '{\"a\": 1}', ttl => '1 minute')")
    assert ask.rows("SELECT * FROM cache_get_audio('t', 'v', 'p', '{\"a\": 1}')") == [(b"", "mp3", None, None, None)]
    assert (
        ask(
            "SELECT attstorage FROM pg_attribute WHERE attrelid = 'cache_audio_chunks'::regclass"
            " AND attname = 'audio_data'"
        )
        == "e"
    )


def test_ai_worker(ask: Session) -> None:
    value = {
        "prompt_text": "Get all users", "model": "gpt-4", "schema_version": "v1",
        "generated_sql": "SELECT * FROM users", "validated": True, "tokens_used": 123,
    }  # fmt: skip
    call = "cache_get_ai_worker('Get all users', 'gpt-4', 'v1')"
    assert ask(f"SELECT {call}") is None
    assert ask("SELECT cache_set_ai_worker('Get all users', 'gpt-4', 'v1', 'SELECT * FROM users', 123)") is True
    assert ask(f"SELECT {call}") == value
    assert ask("SELECT cache_get_ai_worker('Get all users', 'gpt-4', 'v2')") is None
    assert (ask.stats("ai_worker")["hits"], ask.stats("ai_worker")["misses"]) == (1, 2)


def test_rows_that_the_cpp_ai_worker_left_are_found(ask: Session) -> None:
    ask("""
        INSERT INTO ai_worker_cache (cache_key, prompt_text, model, schema_version, generated_sql, expires_at)
        VALUES (ai_worker_legacy_key('a|b', 'c', 'v1'), 'a|b', 'c', 'v1', 'SELECT 1', now() + interval '1 hour')
    """)
    assert ask("SELECT cache_get_ai_worker('a|b', 'c', 'v1') ->> 'generated_sql'") == "SELECT 1"
    assert ask("SELECT cache_get_ai_worker('a', 'b|c', 'v1')") is None  # although they share that key
    ask("SELECT cache_set_ai_worker('a|b', 'c', 'v1', 'SELECT 2')")
    assert ask("SELECT cache_get_ai_worker('a|b', 'c', 'v1') ->> 'generated_sql'") == "SELECT 2"
    assert (ask.stats("ai_worker")["hits"], ask.stats("ai_worker")["misses"]) == (2, 1)
    assert ask("SELECT total_hits FROM ai_worker_cache_stats") == 2


def test_images(ask: Session) -> None:
    faces = [{"bbox": [100, 150, 200, 250], "embedding": [0.5, 0.25], "det_score": 0.95}]
    assert ask("SELECT cache_get_face('image', 't')") is None
    assert ask("SELECT cache_set_face('image', 't', %s)", json.dumps(faces)) is True
    assert ask("SELECT cache_get_face('image', 't')") == faces
    assert ask("SELECT cache_set_face('faceless', 't', '[]')")
    assert ask("SELECT cache_get_face('faceless', 't')") == []
    assert ask("SELECT cache_get_phash('image', 't')") is None
    assert ask("SELECT cache_set_phash('image', 't', 'ffe0aa')") is True
    assert ask("SELECT cache_get_phash('image', 't')") == "ffe0aa"
    assert ask("SELECT cache_get_phash('another image', 't')") is None
    for type in ("face", "phash"):
        table = ask("SELECT relation FROM pgcache_internal.types WHERE type = %s", type)
        assert ask(f"SELECT bool_and(expires_at IS NULL) FROM {table}")
    assert ask("SELECT cache_set_phash('image', 't', 'x', '5 minutes')")
    assert ask("SELECT expires_at IS NOT NULL FROM perceptual_hash_cache WHERE phash = 'x'")


def test_crawl(ask: Session) -> None:
    url = "https://example.com/image.jpg"
    assert ask.rows("SELECT * FROM crawl_should_skip(%s, 'bytes', 't')", url) == [(False, None)]
    assert ask("SELECT crawl_store(%s, 'bytes', 'raw', 'thumb', 't')", url) is True
    assert ask.rows("SELECT * FROM crawl_should_skip(%s, 'bytes', 't')", url) == [(True, "raw")]
    assert ask.rows("SELECT * FROM crawl_should_skip(%s, 'changed', 't')", url) == [(False, None)]
    assert ask.rows("SELECT * FROM crawl_should_skip('https://other', 'bytes', 't')") == [(False, None)]
    assert ask("SELECT crawl_store('u', 'x', 'raw', NULL, 't', '1 day')") is True
    assert ask.rows("SELECT * FROM crawl_should_skip('u', 'x', 't')") == [(True, "raw")]
    assert ask.row("SELECT tenant, url, raw_key, thumbnail_key FROM crawl_cache WHERE url = 'u'") == {
        "tenant": "t", "url": "u", "raw_key": "raw", "thumbnail_key": None,
    }  # fmt: skip


@pytest.mark.parametrize("tracking", ["exact", "sampled", "off"])
def test_typed_gets_count_as_cache_get_does(ask: Session, tracking: str) -> None:
    for type in ("embedding", "audio"):
        ask("SELECT cache_configure(%s, hit_tracking => %s)", type, tracking)
    ask("SELECT cache_set_embedding('t', 'm', '[1]'), cache_set_audio('t', 'v', 'x', 'mp3')")
    for _ in range(3):
        ask("SELECT cache_get_embedding('t', 'm'), cache_get_embedding('absent', 'm')")
        ask("SELECT * FROM cache_get_audio('t', 'v')")
        ask("SELECT * FROM cache_get_audio('absent', 'v')")
    ask("CALL cache_upkeep()")
    for type, table in (("embedding", "cache_embeddings"), ("audio", "cache_audio_chunks")):
        assert (ask.stats(type)["hits"], ask.stats(type)["misses"]) == (3, 3)
        assert ask(f"SELECT hit_count FROM {table}") == (0 if tracking == "off" else 3)


def test_no_type_loses_its_values_when_its_table_is_altered(ask: Session) -> None:
    """Users may add columns of their own to the tables."""
    for table in ask.column("SELECT relation FROM pgcache_internal.types WHERE type NOT IN ('store')"):
        ask(f"ALTER TABLE {table} ADD COLUMN extra text DEFAULT 'x'")
    ask("ALTER TABLE cache_store ADD COLUMN extra text DEFAULT 'x'")
    test_llm(ask)
    test_images(ask)
    test_crawl(ask)
    ask("SELECT cache_set('store', 'k', '1')")
    assert ask("SELECT cache_get('store', 'k')") == 1
    ask("CALL cache_upkeep()")
