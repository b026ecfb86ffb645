"""Invalidation."""

from __future__ import annotations

import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused

SIX = "array_fill('1'::jsonb, '{6}')"


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_delete(shared: Session, type: str) -> None:
    value = VALUES.get(type, ["1"])[0]
    shared("SELECT cache_set(%s, 'k', %s), cache_set(%s, 'other', %s)", type, value, type, value)
    assert shared("SELECT cache_delete(%s, 'k')", type) is True
    assert shared("SELECT cache_delete(%s, 'k')", type) is False
    assert shared("SELECT cache_get(%s, 'k') IS NULL", type)
    assert shared("SELECT cache_get(%s, 'other') IS NOT NULL", type)
    assert shared("SELECT cache_clear(%s)", type) == 1
    assert shared("SELECT cache_get(%s, 'other') IS NULL", type)


def test_delete_pattern(ask: Session) -> None:
    ask(f"SELECT cache_set_many('store', '{{user:1:a,user:1:b,user:2:a,100%,100x,a_b}}', {SIX})")
    assert ask("SELECT cache_delete_pattern('store', 'user:1:%')") == 2
    assert ask(r"SELECT cache_delete_pattern('store', '100\%')") == 1
    assert ask("SELECT cache_exists('store', '100x')")
    assert ask("SELECT cache_delete_pattern('store', 'absent%')") == 0
    assert ask("SELECT cache_delete_pattern('store', '_\\__')") == 1
    assert ask("SELECT cache_delete_pattern('store', '%')") == 2
    ask("SELECT cache_set_many('store', ARRAY['a\\b', 'a''b', 'ab$1'], array_fill('1'::jsonb, '{3}'))")
    assert ask("SELECT cache_delete_pattern('store', 'a\\\\b')") == 1
    assert ask("SELECT cache_delete_pattern('store', 'a''%')") == 1
    assert ask("SELECT cache_delete_pattern('store', '%$1')") == 1


def test_a_pattern_with_a_fixed_beginning_uses_the_index(ask: Session) -> None:
    ask("SELECT count(cache_set('llm', 'k' || i, '{\"response\": \"r\"}')) FROM generate_series(1, 5000) i")
    ask("VACUUM ANALYZE cache_llm_responses")

    def rows_scanned() -> int:
        ask("SELECT pg_stat_force_next_flush()")
        return int(ask("SELECT pg_stat_get_tuples_returned('cache_llm_responses'::regclass)"))

    before = rows_scanned()
    assert ask("SELECT cache_delete_pattern('llm', 'k123%')") == 11
    assert rows_scanned() == before


def test_clear(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask(f"SELECT cache_set_many('store', '{{a,b,c,d,e,f}}', {SIX})")
    ask("SELECT cache_set('store', 'expires', '1', '1'), cache_set('llm', 'k', '{\"response\": \"r\"}')")
    ask.advance("1 second")
    assert ask("SELECT cache_clear('store')") == 6
    assert ask("SELECT entries FROM cache_stats WHERE type = 'store'") == 0
    assert ask("SELECT cache_clear('store')") == 0
    assert ask("SELECT cache_exists('llm', 'k')")


def test_clear_all(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    for type, values in {**VALUES, "mine": ["1"]}.items():
        ask("SELECT cache_set(%s, 'k', %s)", type, values[0])
    assert ask("SELECT cache_clear_all()") == len(VALUES) + 1
    assert ask("SELECT sum(entries) FROM cache_stats") == 0
    assert ask("SELECT count(*) FROM pgcache_internal.types") == len(VALUES) + 1


def test_cleanup_old_cache_entries(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set_face('old', 't', '[]'), cache_set_face('old too', 't', '[]')")
    ask("SELECT cache_set('store', 'expired', '1', '1 hour'), cache_set('store', 'live', '1', '30 days')")
    ask.advance("7 days")
    ask("SELECT cache_set_face('new', 't', '[]')")
    ask.advance("1 second")
    deleted = dict(ask.rows("SELECT * FROM cleanup_old_cache_entries(7)"))
    assert {type: count for type, count in deleted.items() if count} == {"face": 2, "store": 1}
    assert set(deleted) == set(VALUES)
    assert ask("SELECT cache_get_face('new', 't') IS NOT NULL")
    assert ask("SELECT count(*) FROM cache_store") == 0
    assert sum(dict(ask.rows("SELECT * FROM cleanup_old_cache_entries(0)")).values()) == 1


def test_invalidate_schema(ask: Session) -> None:
    for version, prompt in (("v1", "a"), ("v1", "b"), ("v2", "a")):
        ask("SELECT cache_set_ai_worker(%s, 'm', %s, 'SELECT 1')", prompt, version)
    assert ask("SELECT cache_invalidate_schema('v1')") == 2
    assert ask("SELECT cache_get_ai_worker('a', 'm', 'v1') IS NULL")
    assert ask("SELECT cache_get_ai_worker('a', 'm', 'v2') IS NOT NULL")
    assert ask("SELECT cache_invalidate_schema('v1')") == 0


@pytest.mark.parametrize("what", ["schema", "user", "tenant"])
def test_to_invalidate_null_is_a_mistake(ask: Session, what: str) -> None:
    """A silent 0 would leave the caller with stale entries."""
    with refused("PC002", "pass the"):
        ask(f"SELECT cache_invalidate_{what}(NULL)")


def test_invalidate_user(ask: Session) -> None:
    for user in ("u1", "u2", ""):
        for query in ("[1,2]", "[2,1]"):
            ask("SELECT cache_set_vector_search(%s::vector, '[]', user_id => %s)", query, user)
    assert ask("SELECT cache_invalidate_user('u1')") == 2
    assert ask("SELECT cache_get_vector_search('[1,2]', user_id => 'u1') IS NULL")
    assert ask("SELECT cache_get_vector_search('[1,2]', user_id => 'u2') IS NOT NULL")
    assert ask("SELECT cache_get_vector_search('[1,2]') IS NOT NULL")
    assert ask("SELECT cache_invalidate_user('')") == 2
    assert ask("SELECT cache_invalidate_user('u1')") == 0


def test_invalidate_user_goes_through_all_types_that_know_users(ask: Session) -> None:
    ask("""SELECT cache_create_type('profile', fields => '{"user_id": "string!", "name": "string"}'),
        cache_create_type('other', fields => '{"user_id": "integer"}'), cache_create_type('json')""")
    for user in ("u1", "u2"):
        ask("SELECT cache_set('profile', %s, jsonb_build_object('user_id', %s::text))", f"key of {user}", user)
        ask("SELECT cache_set_vector_search('[1]', '[]', user_id => %s)", user)
    ask("SELECT cache_set('other', 'k', '{\"user_id\": 1}'), cache_set('json', 'k', '{\"user_id\": \"u1\"}')")
    assert ask("SELECT cache_invalidate_user('u1')") == 2
    left = "SELECT array_agg(type || ' ' || entries ORDER BY type) FROM cache_stats WHERE entries > 0"
    assert ask(left) == ["json 1", "other 1", "profile 1", "vector_search 1"]


def test_invalidate_user_finds_what_the_generic_call_stored(ask: Session) -> None:
    ask("SELECT cache_set('vector_search', 'my own key', '{\"results\": [], \"user_id\": \"u1\"}')")
    assert ask("SELECT cache_invalidate_user('u1')") == 1
    assert ask("SELECT cache_get('vector_search', 'my own key') IS NULL")


INVALIDATIONS = {
    "cache_delete('store', 'k')": True,
    "cache_delete_many('store', '{k}')": 1,
    "cache_delete_pattern('store', 'k%')": 1,
    "cache_clear('store')": 1,
    "cache_clear_all()": 1,
    "cache_invalidate_tenant('')": 1,
    "cache_set('store', 'k', '\"new\"')": True,
}


@pytest.mark.parametrize("call", INVALIDATIONS, ids=lambda call: call.partition("(")[0])
def test_invalidation_is_transactional(ask: Session, new_session: NewSession, call: str) -> None:
    other = new_session()
    ask("SELECT cache_set('store', 'k', '\"old\"')")
    with ask.transaction():  # which rolls back
        assert ask(f"SELECT {call}") == INVALIDATIONS[call]
        assert ask("SELECT cache_get('store', 'k') IS DISTINCT FROM '\"old\"'")
        assert other("SELECT cache_get('store', 'k')") == "old"
    assert other("SELECT cache_get('store', 'k')") == "old"
    ask("BEGIN")
    ask(f"SELECT {call}")
    assert other("SELECT cache_get('store', 'k')") == "old"
    ask("COMMIT")
    assert other("SELECT cache_get('store', 'k') IS DISTINCT FROM '\"old\"'")
