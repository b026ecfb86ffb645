"""What a function does depends on no setting of the caller's but pgcache's own."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from tests.conftest import NewSession, fresh_database
from tests.servers import Server
from tests.tools.session import Session

pytestmark = pytest.mark.every

# What drivers, ORMs, poolers, tools and administrators change: each of them in one of these sessions.
SESSIONS: dict[str, dict[str, str]] = {
    "numbers, strings and times": {
        "extra_float_digits": "0",
        "standard_conforming_strings": "off",
        "escape_string_warning": "off",
        "bytea_output": "escape",
        "array_nulls": "off",
        "quote_all_identifiers": "on",
        "transform_null_equals": "on",
        "xmlbinary": "hex",
        "xmloption": "document",
        "client_encoding": "latin1",
        "datestyle": "German, DMY",
        "intervalstyle": "sql_standard",
        "timezone": "Asia/Kathmandu",
        "timezone_abbreviations": "India",
        "lc_messages": "C",
        "lc_monetary": "C",
        "lc_numeric": "C",
        "lc_time": "C",
        "row_security": "off",
        "client_min_messages": "error",
    },
    "fewer digits, other times, serializable": {
        "extra_float_digits": "-15",
        "standard_conforming_strings": "off",
        "backslash_quote": "off",
        "escape_string_warning": "on",
        "gin_fuzzy_search_limit": "1",
        "datestyle": "SQL, MDY",
        "intervalstyle": "iso_8601",
        "timezone": "America/St_Johns",
        "client_min_messages": "debug1",
        "synchronous_commit": "off",
        "check_function_bodies": "off",
        "default_tablespace": "",
        "default_transaction_isolation": "serializable",
        "plpgsql.variable_conflict": "use_variable",
        "plpgsql.check_asserts": "off",
        "plpgsql.print_strict_params": "on",
        "session_replication_role": "local",
    },
    "repeatable read, generic plans": {
        "default_transaction_isolation": "repeatable read",
        "default_transaction_deferrable": "on",
        "intervalstyle": "postgres_verbose",
        "datestyle": "Postgres, YMD",
        "lock_timeout": "30s",
        "statement_timeout": "60s",
        "idle_in_transaction_session_timeout": "60s",
        "application_name": "'; --",
        "plpgsql.variable_conflict": "use_column",
        "plan_cache_mode": "force_generic_plan",
        "join_collapse_limit": "1",
        "from_collapse_limit": "1",
        "geqo_threshold": "2",
        "work_mem": "64kB",
        "hash_mem_multiplier": "1",
        "plpgsql.extra_errors": "all",
        "plpgsql.extra_warnings": "all",
    },
}
# Each statement starts a worker, which takes half a minute. So these run on one server: what they might find is in SQL
# that is the same on all.
PARALLEL_AND_CUSTOM_PLANS = {
    "plan_cache_mode": "force_custom_plan",
    "force_parallel_mode": "on",
    "debug_parallel_query": "on",
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "min_parallel_table_scan_size": "0",
    "constraint_exclusion": "on",
    "cursor_tuple_fraction": "1",
}

VECTOR = "[0.12345671,-1e-7,123456789]"
# Calls and, by the SQLSTATE, what is refused; in an order that fills, reads, changes and empties the cache.
CALLS = [
    "cache_set('store', 'k', '{\"a\": [1.50, 1e20, \"x\", null]}', '1 hour')",
    "cache_set('store', 'it''s', '\"x\"')",
    "cache_set('store', 'it''s', '\"x\"', cache_never())",
    "cache_set('store', 'jittered', '1', '1 hour', jitter => 0.5)",
    "cache_set('store', 'jittered', '1', jitter => 1.5)",
    "cache_add('store', 'k', '1')",
    "cache_add('store', 'new', '2')",
    "cache_get('store', 'k')",
    "cache_get('store', 'absent')",
    "cache_incr('store', 'new', 3)",
    "cache_set('store', 'tagged', '1', tags => '{\"it''s, \\\\ a tag:1\"}')",
    "cache_invalidate_tags('it''s, \\ a tag:1')",
    "cache_fetch('store', 'fetched', '{a}', '5 hours', wait => '0') IS NOT NULL",
    "cache_set('store', 'fetched', '1', token => 7)",
    "cache_release('store', 'fetched', 7)",
    "cache_incr('store', 'new', 3, '1 hour', false, true)",
    "cache_incr_float('store', 'float', 1.50)",
    "cache_replace('store', 'float', '{\"a\": 1.50}', expected => '1.5')",
    "(SELECT value FROM cache_get_with_ttl('store', 'float'))",
    "cache_count('store', 'f')",
    "(SELECT string_agg(key || value, ' ') FROM cache_scan('store', 'f'))",
    "cache_set_bytes('bytes', 'b', decode('00ff', 'hex'))",
    "cache_add_bytes('bytes', 'b', 'x')",
    "encode(cache_get_bytes('bytes', 'b'), 'hex')",
    "cache_set_many_bytes('bytes', '{c,d}', array['x', NULL]::bytea[], '1 day', array[NULL, 7])",
    "cache_incr('bytes', 'd')",
    "(SELECT string_agg(key || encode(value, 'hex'), ' ') FROM cache_get_many_bytes('bytes', '{b,c,d,e}'))",
    "cache_delete_if('store', 'float', '{\"a\": 1.5}')",
    "cache_delete_prefix('store', 'fl')",
    "cache_set('nope', 'k', '1')",
    "cache_get('nope', 'k')",
    "cache_set('store', '', '1')",
    "cache_set('store', NULL, '1')",
    "cache_set('store', 'k', '1', '-1 second')",
    "cache_set('llm', 'k', '5')",
    "cache_set_llm('p', 'm', 'r', 5)",
    'cache_set(\'llm\', \'k\', \'{"response": "r", "tokens_used": "x"}\')',
    "cache_set('llm', 'k', '{\"response\": \"r\", \"tokens_used\": 7}')",
    "cache_get_llm('p', 'm')",
    f"cache_set_embedding('t', 'm', '{VECTOR}')",
    "cache_get_embedding('t', 'm')::text",
    "cache_get('embedding', embedding_key('t', 'm'))",
    "cache_set('embedding', 'v', '{\"embedding\": [0.12345671, 1e-7]}')",
    "cache_get('embedding', 'v')",
    f"cache_set_embeddings('{{a,b}}', 'm', ARRAY['{VECTOR}', '[1]'])",
    "(SELECT string_agg(text || embedding::text, ' ') FROM cache_get_embeddings('{a,b,c}', 'm'))",
    f"cache_set_vector_search('{VECTOR}', '[{{\"doc\": \"A\"}}]', '{{\"b\": 1.0, \"a\": [null]}}', 5, 'u')",
    f"cache_get_vector_search('{VECTOR}', '{{\"a\": [null], \"b\": 1}}', 5, 'u')",
    "cache_get_vector_search('[0.12345672,-1e-7,123456789]', '{\"a\": [null], \"b\": 1}', 5, 'u')",
    f"vector_search_key('{VECTOR}', '{{}}', 10, '')",
    "cache_set_audio('t', 'v', decode('fe00ff27', 'hex'), 'mp3', 5, 8000, 1, 'p', '{\"speed\": 1.50}')",
    "(SELECT encode(audio_data, 'hex') || format FROM cache_get_audio('t', 'v', 'p', '{\"speed\": 1.5}'))",
    "cache_get('audio', audio_key('t', 'v', 'p', '{\"speed\": 1.5}'))",
    'cache_set(\'audio\', \'x\', \'{"audio_data": "/gD/Jw==", "format": "mp3"}\')',
    'cache_set(\'audio\', \'x\', \'{"audio_data": "/gD/J", "format": "mp3"}\')',
    "cache_set_ai_worker('p', 'm', 'v1', 'SELECT ''x''', 3)",
    "cache_get_ai_worker('p', 'm', 'v1')",
    "ai_worker_legacy_key('p', 'm', 'v1')",
    "cache_set_face(decode('ff25', 'hex'), 'a', '[{\"bbox\": [1.5]}]')",
    "cache_get_face(decode('ff25', 'hex'), 'a')",
    "cache_set_phash(decode('ff25', 'hex'), 'a', 'ff')",
    "cache_get_phash(decode('ff25', 'hex'), 'a')",
    "image_key(decode('ff25', 'hex'))",
    "crawl_store('http://x/a', decode('ff', 'hex'), 'raw', NULL, 'a')",
    "(SELECT (should_skip, raw_key)::text FROM crawl_should_skip('http://x/a', decode('ff', 'hex'), 'a'))",
    "cache_key('ab', NULL, '', chr(92))",
    'cache_key_json(\'{"b": [1.0, 1e2, "x"], "a": null}\')',
    "llm_key('p', 'm')",
    'cache_llm_key(\'{"model": "m", "a": [1.50, 1e2, {"b": null}]}\', \'{x}\')',
    "cache_llm_key('[]')",
    "crawl_key('u', 'x')",
    "ai_worker_key('p', 'm', 'v')",
    "(SELECT count(*) FROM cache_adopt())",
    "cache_set_many('store', '{m1,m2}', ARRAY['1', '\"x\"']::jsonb[], '5 hours')",
    "cache_set_many('store', ARRAY['m3', NULL], '{1,2}')",
    "cache_set_many('llm', '{l1,l2}', ARRAY['{\"response\": \"a\"}', '{\"response\": \"b\" }']::jsonb[])",
    "cache_set_many_json('store', '{\"j1\": null, \"j2\": [1.5]}')",
    "(SELECT json_object_agg(key, value) FROM cache_get_many('store', '{m2,k,absent,m1}'))",
    "cache_get_many_json('store', '{m2,k,absent}')",
    "cache_get_many_json('llm', '{l1,l2}')",
    "(SELECT json_object_agg(key, value ORDER BY key) FROM cache_live('store'))",
    "cache_exists('store', 'k')",
    "cache_ttl('store', 'k') BETWEEN '59 minutes' AND '1 hour'",
    "cache_touch('store', 'k', '2 days 3 hours')",
    "cache_ttl('store', 'k') BETWEEN '2 days' AND '2 days 3 hours'",
    "cache_persist('store', 'k')",
    "cache_ttl('store', 'k')",
    "(SELECT (tenant, cache_key, expires_at, hit_count, bytes)::text FROM cache_entry('store', 'k'))",
    "(SELECT array_agg(outcome) FROM cache_explain('store', 'k'))",
    "(SELECT array_agg(k) FROM cache_keys('store', 'm_') k)",
    "(SELECT array_agg(k) FROM cache_keys('store', 'a%') k)",
    "cache_keys('store', E'm\\\\')",
    "(SELECT count(*) FROM get_all_cache_keys())",
    "cache_create_type('t1', ttl => '1 day 2 hours', max_entries => 100)",
    "cache_tenant_limit('t1', E'it''s \\\\', 10)",
    "cache_set('t1', 'k', '1')",
    "cache_ttl('t1', 'k') BETWEEN '1 day 01:59' AND '1 day 2 hours'",
    """cache_create_type('t2', fields =>
        '{"s": "string=a b", "v": "vector", "n": "number", "b": "base64"}')""",
    'cache_set(\'t2\', \'k\', \'{"v": [0.12345671], "n": 1.50, "b": "/gD/Jw=="}\')',
    "cache_get('t2', 'k')",
    "cache_create_type('Bad name')",
    "cache_create_type('llm')",
    "cache_create_type('t3', fields => '{\"1a\": \"string\"}')",
    "cache_configure('t1', ttl => '1 month 3 days 00:00:01.5', max_entries => 50, eviction => 'fifo')",
    "(SELECT (ttl = '1 month 3 days 00:00:01.5', max_entries, eviction)::text FROM cache_stats WHERE type = 't1')",
    "(SELECT count(cache_set('t1', 'k' || i, '1')) FROM generate_series(1, 300) i)",
    "(SELECT entries <= 55 FROM cache_stats WHERE type = 't1')",
    "cache_configure('t1', hit_tracking => 'exact')",
    "cache_configure('t1', eviction => 'nope')",
    "cache_trim('t1', 10) > 20",
    "cache_setting('ttl_short')",
    "cache_configure_setting('ttl_short', '6 minutes')",
    "cache_tier('short') = '6 minutes'",
    "cache_configure_setting('ttl_short', 'soon')",
    "cache_set_price('m', 2.5)",
    "cache_set_price('m', input => 1.5, output => 2.5, cached_input => 0.5)",
    "(SELECT (hits, misses, tokens_saved, money_saved::text)::text FROM cache_stats WHERE type = 'llm')",
    "(SELECT count(*) FROM cache_stats)",
    "(SELECT (sum(entries) > 0, count(DISTINCT tenant) > 0)::text FROM cache_tenant_stats())",
    "(SELECT array_agg(cache_key ORDER BY cache_key) FROM cache_top WHERE type = 'llm')",
    "(SELECT array_agg(job_name ORDER BY job_name) FROM cache_jobs)",
    "(SELECT count(*) FROM ai_worker_cache_stats)",
    "(SELECT array_agg(check_name ORDER BY check_name) FROM cache_health())",
    "(SELECT count(*) FROM get_cache_index_usage())",
    "(SELECT count(*) FROM cache_stats_history)",
    "(SELECT count(*) FROM cache_stats_since('1 hour', '1 day'))",
    "(SELECT count(*) >= 0 FROM cache_latency)",
    'cache_warm(\'store\', \'[{"key": "w", "value": 1, "ttl": "1 day"}, {"key": "x", "value": null}]\')',
    "cache_watch('watched', 'doc:{id}', columns => '{title}')",
    "(SELECT count(*) FROM cache_watches)",
    "cache_unwatch('watched')",
    "cache_hot_on('store', '10 minutes')",
    "cache_hot_configure(max_staleness => '3 seconds')",
    "cache_set('store', 'hot', '1')",
    "cache_delete('store', 'hot')",
    "cache_hot_off('store')",
    "cache_near_on('store')",
    "cache_near_off('store')",
    "cache_grant('pg_monitor', 'read')",
    "cache_revoke('pg_monitor')",
    "cache_delete('store', 'k')",
    "cache_delete_many('store', '{m1,absent}')",
    "cache_delete_pattern('store', E'm\\\\_%')",
    "cache_delete_pattern('store', 'm%')",
    "cache_invalidate_user('u')",
    "cache_invalidate_schema('v1')",
    "cache_invalidate_tenant('a')",
    "(SELECT array_agg((type, place, removed)::text) FROM cache_forget('u', 'user'))",
    "(SELECT array_agg((type, place, removed)::text ORDER BY type, place) FROM cache_forget('a'))",
    "(SELECT cache_forget(''))",
    "cache_clear_expired()",
    "cache_cleanup()",
    "ai_worker_cleanup_cache()",
    "(SELECT sum(deleted) FROM cleanup_old_cache_entries(7))",
    "cache_clear('llm')",
    "cache_drop_type('t1')",
    "cache_drop_type('llm')",
    "cache_clear_all()",
]
# They need a model, pg_cron or a Redis, have tests of their own, and read no setting.
ELSEWHERE = re.compile(
    r"ai_(?!worker_(cleanup|key|legacy))|embed(_many)?$|llm_complete|cache_(hot_)?(un)?schedule|.*hot_re"
)


def outcomes(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = {}
    session("CREATE TABLE IF NOT EXISTS public.watched (id int, title text)")
    for call in CALLS:
        try:
            with session.connection.cursor(binary=True) as cursor:
                row = cursor.execute(f"SELECT {call}".encode()).fetchone()
                found[call] = row and row[0]
        except psycopg.Error as error:
            found[call] = error.sqlstate
    session("CALL cache_upkeep()")
    return found


@pytest.fixture(scope="module")
def expected(server: Server, admin: psycopg.Connection) -> dict[str, Any]:
    """What the calls return with the settings as they are."""
    with fresh_database(server, admin) as dsn:
        session = Session(dsn)
        found = outcomes(session)
        session.close()
    return found


def test_every_public_function_is_called(ask: Session) -> None:
    called = set(re.findall(r"\b([a-z_]+)\(", " ".join(CALLS))) | {"cache_upkeep"}
    public = ask.column("SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pgcache'::regnamespace")
    assert {name for name in public if not ELSEWHERE.match(name)} <= called


def test_the_calls_do_what_they_should(expected: dict[str, Any]) -> None:
    """Spot checks, so that it is not two times the same failure that is compared."""
    sqlstates = {call: result for call, result in expected.items() if re.fullmatch(r"[0-9A-Z]{5}", str(result))}
    assert all(sqlstate.startswith("PC") for sqlstate in sqlstates.values()), sqlstates
    assert len(sqlstates) == 19

    assert expected[f"cache_get_vector_search('{VECTOR}', '{{\"a\": [null], \"b\": 1}}', 5, 'u')"] == [{"doc": "A"}]


@pytest.mark.parametrize("settings", SESSIONS.values(), ids=SESSIONS)
def test_settings(expected: dict[str, Any], new_session: NewSession, settings: dict[str, str]) -> None:
    check_outcomes(new_session(), settings, expected)


@pytest.mark.once
def test_parallel_and_custom_plans(expected: dict[str, Any], new_session: NewSession) -> None:
    check_outcomes(new_session(), PARALLEL_AND_CUSTOM_PLANS, expected)


def check_outcomes(session: Session, settings: dict[str, str], expected: dict[str, Any]) -> None:
    for name, value in settings.items():
        if "." in name or session("SELECT count(*) FROM pg_settings WHERE name = %s", name):
            session("SELECT set_config(%s, %s, false)", name, value)
    found = outcomes(session)
    differing = [f"{call}: {found[call]}, not {expected[call]}" for call in CALLS if found[call] != expected[call]]
    assert not differing, "\n".join(differing)
