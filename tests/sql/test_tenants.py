"""No tenant sees, changes or removes what is another's."""

from __future__ import annotations

import pytest

from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused


def be(ask: Session, tenant: str) -> None:
    ask("SELECT set_config('pgcache.tenant', %s, false)", tenant)


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_no_generic_call_reaches_another_tenants_entry(ask: Session, type: str) -> None:
    if type == "mine":
        ask("SELECT cache_create_type('mine')")
    value = VALUES.get(type, ["1"])[0]
    be(ask, "a")
    ask("SELECT cache_set(%s, 'k', %s, '10 minutes')", type, value)
    for tenant in ("b", "", "A", "a ", "%"):
        be(ask, tenant)
        assert ask("SELECT cache_get(%s, 'k') IS NULL", type)
        assert ask("SELECT value IS NULL FROM cache_get_many(%s, '{k}')", type)
        assert ask("SELECT cache_exists(%s, 'k')", type) is False
        assert ask("SELECT cache_ttl(%s, 'k')", type) is None
        assert ask.rows("SELECT * FROM cache_entry(%s, 'k')", type) == []
        assert ask("SELECT count(*) FROM cache_keys(%s)", type) == 0
        assert ask("SELECT cache_touch(%s, 'k', '1 hour')", type) is False
        assert ask("SELECT cache_persist(%s, 'k')", type) is False
        assert ask("SELECT cache_delete(%s, 'k')", type) is False
        assert ask("SELECT cache_delete_many(%s, '{k}')", type) == 0
        assert ask("SELECT cache_delete_pattern(%s, '%%')", type) == 0
        assert ask("SELECT cache_add(%s, 'k', %s)", type, value) is True
        assert ask("SELECT cache_delete(%s, 'k')", type) is True
        assert ask("SELECT cache_set(%s, 'k', %s)", type, value) is True
        assert ask("SELECT cache_set_many(%s, '{k}', ARRAY[%s::jsonb])", type, value) == 1
        assert ask("SELECT cache_delete_many(%s, '{k}')", type) == 1
        if tenant:
            assert ask("SELECT cache_clear(%s)", type) == 0
            assert ask("SELECT cache_clear_all()") == 0
        ask("SELECT cache_get(%s, 'k')", type)
    be(ask, "a")
    assert ask("SELECT cache_get(%s, 'k') = %s::jsonb", type, value)
    assert ask("SELECT cache_ttl(%s, 'k') BETWEEN '9 minutes' AND '10 minutes'", type)
    assert ask("SELECT hit_count FROM cache_entry(%s, 'k')", type) == 1
    ask("CALL cache_upkeep()")
    assert ask("SELECT hit_count FROM cache_entry(%s, 'k')", type) == 1


def test_counters_of_tenants_are_their_own(ask: Session) -> None:
    for tenant in ("a", "b"):
        be(ask, tenant)
        assert ask("SELECT cache_incr('store', 'n')") == 1
        assert ask("SELECT cache_incr('store', 'n')") == 2


def test_clear_with_a_tenant_set_is_that_tenants_alone(ask: Session) -> None:
    for tenant in ("a", "b", ""):
        be(ask, tenant)
        ask("SELECT cache_set('store', 'k', '1'), cache_set('llm', 'k', '{\"response\": \"r\"}')")
        ask("SELECT cache_set_ai_worker('p', 'm', 'v1', 's'), cache_set_vector_search('[1]', '[]', user_id => 'u')")
    be(ask, "a")
    assert ask("SELECT cache_clear('store')") == 1
    assert ask("SELECT cache_invalidate_schema('v1')") == 1
    assert ask("SELECT cache_invalidate_user('u')") == 1
    assert ask("SELECT cache_clear_all()") == 1
    assert ask("SELECT sum(entries) FROM cache_stats") == 8
    be(ask, "")
    assert ask("SELECT cache_invalidate_user('u')") == 1
    assert ask("SELECT cache_clear('store')") == 2  # without a tenant, everybody's
    assert ask("SELECT cache_invalidate_schema('v1')") == 2
    assert ask("SELECT cache_clear_all()") == 3


def test_invalidate_tenant(ask: Session) -> None:
    for tenant in ("a", "b", ""):
        be(ask, tenant)
        for type, values in VALUES.items():
            ask("SELECT cache_set(%s, 'k', %s)", type, values[0])
    be(ask, "")
    ask("SELECT cache_set_face('image', 'a', '[]')")
    assert ask("SELECT cache_invalidate_tenant('a')") == len(VALUES) + 1
    assert ask("SELECT cache_invalidate_tenant('a')") == 0
    assert ask("SELECT cache_invalidate_tenant('nobody')") == 0
    assert ask("SELECT sum(entries) FROM cache_stats") == 2 * len(VALUES)
    assert ask("SELECT cache_invalidate_tenant('')") == len(VALUES)


def test_the_tenant_of_a_transaction(ask: Session) -> None:
    with ask.transaction():
        ask("SET LOCAL pgcache.tenant = 'a'")
        assert ask("SELECT cache_set('store', 'k', '1')")
        assert ask("SELECT cache_get('store', 'k')") == 1
        ask("SET LOCAL pgcache.tenant = 'b'")
        assert ask("SELECT cache_get('store', 'k') IS NULL")
        ask("COMMIT")
    assert ask("SELECT cache_get('store', 'k') IS NULL")
    assert ask("SELECT pgcache_internal.current_tenant()") == ""
    be(ask, "a")
    assert ask("SELECT cache_get('store', 'k')") == 1


def test_one_statement_may_change_the_tenant(ask: Session) -> None:
    """Plans are kept, so the tenant must not be part of them."""
    for tenant in ("a", "b", "c"):
        be(ask, tenant)
        ask("SELECT cache_set('store', 'k', to_jsonb(%s::text))", tenant)
    for _ in range(7):  # past the point where a plan becomes generic
        for tenant in ("a", "b", "c"):
            be(ask, tenant)
            assert ask("SELECT cache_get('store', 'k')") == tenant


def test_image_calls_name_their_tenant_and_leave_the_setting_alone(ask: Session) -> None:
    be(ask, "mine")
    assert ask("SELECT cache_set_face('image', 'a', '[1]'), cache_set_phash('image', 'a', 'ff')")
    assert ask("SELECT crawl_store('u', 'image', 'raw', 'thumb', 'a')")
    assert ask("SELECT pgcache_internal.current_tenant()") == "mine"
    for tenant in ("b", "mine", None, ""):
        assert ask("SELECT cache_get_face('image', %s) IS NULL", tenant)
        assert ask("SELECT cache_get_phash('image', %s) IS NULL", tenant)
        assert ask("SELECT should_skip FROM crawl_should_skip('u', 'image', %s)", tenant) is False
    assert ask("SELECT cache_get_face('image', 'a')") == [1]
    assert ask("SELECT cache_get_phash('image', 'a')") == "ff"
    assert ask.rows("SELECT * FROM crawl_should_skip('u', 'image', 'a')") == [(True, "raw")]
    assert ask("SELECT pgcache_internal.current_tenant()") == "mine"
    with ask.transaction():
        ask("SAVEPOINT s")
        try:
            ask("SELECT cache_set_face('image', 'a', '{}')")
        except Exception:
            ask("ROLLBACK TO s")
        assert ask("SELECT pgcache_internal.current_tenant()") == "mine"
    assert ask("""SELECT pgcache_internal.current_tenant() FROM (SELECT cache_set_phash('x', 'a', 'p')) s""") == "mine"
    # Inside a function that catches the error, too.
    ask("""DO $$ BEGIN PERFORM cache_set_face('image', 'a', '{}'); EXCEPTION WHEN SQLSTATE 'PC004' THEN NULL; END $$""")
    assert ask("SELECT pgcache_internal.current_tenant()") == "mine"


def test_images_of_the_null_tenant_are_shared(ask: Session) -> None:
    ask("SELECT cache_set_phash('image', NULL, 'ff')")
    assert ask("SELECT cache_get_phash('image', '')") == "ff"


@pytest.mark.parametrize(
    "call",
    [
        "cache_set('store', 'k', '1')", "cache_add('store', 'k', '1')", "cache_incr('store', 'k')",
        "cache_set_many('store', ARRAY['k'], ARRAY['1']::jsonb[])", "cache_set_llm('p', 'm', 'r')",
        "cache_set_embedding('t', 'm', '[1]')", "cache_set_phash('i', {long}, 'f')",
        "crawl_store('u', 'i', 'r', 'h', {long})", "cache_delete('store', 'k')", "cache_delete_pattern('store', 'k%%')",
        "cache_clear('store')", "cache_invalidate_tags('t')", "cache_invalidate_tenant({long})", "cache_forget({long})",
        "cache_fetch('store', 'k')",
    ],
)  # fmt: skip
def test_a_long_tenant_is_refused(ask: Session, call: str) -> None:
    """Whether or not it can be compressed, which an index does."""
    digits = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 33) i)"
    for long in (digits, "repeat('x', 1025)"):
        ask(f"SELECT set_config('pgcache.tenant', {long}, false)")
        with refused("PC002", "Hash it"):
            ask(f"SELECT {call.format(long=long)}")
    ask("SELECT set_config('pgcache.tenant', repeat('é', 512), false)")
    assert ask("SELECT cache_set('store', repeat('k', 1024), '1')")
