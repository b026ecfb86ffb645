"""Roles that may see some tenants only: nothing that they say or call reaches, changes or tells what is another's."""

from __future__ import annotations

import re
from contextlib import suppress

import psycopg
import pytest

from tests.conftest import NewRole, NewSession
from tests.sql.conftest import Walled
from tests.sql.test_get_and_set import VALUES
from tests.sql.test_privileges import ADMINISTRATION
from tests.tools.session import Session, refused

pytestmark = pytest.mark.upgraded


def say(session: Session, tenant: str) -> None:
    session("SELECT set_config('pgcache.tenant', %s, false)", tenant)


@pytest.fixture
def filled(ask: Session) -> Session:
    """Each type has an entry k of the tenants acme, other and ''."""
    ask("SELECT cache_create_type('mine'), cache_create_type('typed', fields => '{\"text\": \"string!\"}')")
    for tenant in ("acme", "other", ""):
        say(ask, tenant)
        for type, (value, *_) in {**VALUES, "mine": ["1"], "typed": ['{"text": "t"}']}.items():
            ask("SELECT cache_set(%s, 'k', %s)", type, value)
    say(ask, "other")
    ask("SELECT cache_set('store', 'theirs', '\"secret\"'), cache_set_llm('p', 'm', 'r')")
    ask("SELECT cache_set_audio('t', 'v', 'x', 'y')")
    ask("SELECT cache_set_embedding('t', 'm', '[1]'), cache_set_ai_worker('p', 'm', 'theirs', 's')")
    ask("SELECT cache_set_face('i', 'other', '[1]'), cache_set_phash('i', 'other', 'ff')")
    ask("SELECT crawl_store('u', 'i', 'raw', NULL, 'other')")
    say(ask, "")
    return ask


def held(ask: Session, tenant: str) -> int:
    typed = ask.column("SELECT relation::text FROM pgcache_internal.types WHERE fields IS NOT NULL")
    return sum(ask(f"SELECT count(*) FROM {table} WHERE tenant = %s", tenant) for table in [*typed, "cache_store"])


READS_OF_OTHERS: dict[str, object] = {
    "cache_get('store', 'theirs')": None,
    "(SELECT value FROM cache_get_many('store', '{theirs}'))": None,
    "cache_get_many_json('store', '{theirs}')": {},
    "cache_exists('store', 'theirs')": False,
    "cache_ttl('store', 'theirs')": None,
    "(SELECT count(*) FROM cache_entry('store', 'theirs'))": 0,
    "(SELECT count(*) FROM cache_keys('store') k WHERE k = 'theirs')": 0,
    "(SELECT count(*) FROM get_all_cache_keys(NULL) WHERE cache_key = 'theirs')": 0,
    "(SELECT count(*) FROM cache_top WHERE tenant <> 'acme')": 0,
    "cache_get_llm('p', 'm')": None,
    "cache_get_embedding('t', 'm')": None,
    "(SELECT embedding FROM cache_get_embeddings('{t}', 'm'))": None,
    "(SELECT count(*) FROM cache_get_audio('t', 'v'))": 0,
    "cache_get_ai_worker('p', 'm', 'theirs')": None,
    "cache_get_face('i', 'acme')": None,
    "cache_touch('store', 'theirs')": False,
    "cache_persist('store', 'theirs')": False,
    "cache_delete('store', 'theirs')": False,
    "cache_delete_many('store', '{theirs}')": 0,
    "cache_delete_pattern('store', 'theirs')": 0,
    "cache_invalidate_schema('theirs')": 0,
    "cache_invalidate_user('nobody')": 0,
}
NAMING_ANOTHER = [
    "cache_get_face('i', 'other')", "cache_get_phash('i', 'other')", "crawl_should_skip('u', 'i', 'other')",
    "cache_set_face('i', 'other', '[]')", "cache_set_phash('i', 'other', '0')", "cache_get_face('i', '')",
    "crawl_store('u', 'i', 'r', NULL, NULL)", "cache_invalidate_tenant('other')", "cache_invalidate_tenant('')",
    "cache_forget('other')",
]  # fmt: skip
NOT_FOR_THEM = [
    "SELECT * FROM cache_stats", "SELECT * FROM cache_stats_history", "SELECT * FROM cache_health()",
    "SELECT * FROM cache_stats_since('1 hour')",
    "SELECT * FROM cache_latency", "SELECT * FROM cache_jobs", "SELECT * FROM cache_hot_stats",
    "SELECT * FROM ai_worker_cache_stats", "SELECT * FROM get_cache_index_usage()", "SELECT * FROM cache_live('store')",
    "SELECT cache_trim('store', 1)", "SELECT * FROM pgcache_internal.live_entries",
    "SELECT * FROM cache_store", "SELECT tenant FROM cache_llm_responses", "EXPLAIN SELECT * FROM cache_store",
    "DO 'BEGIN LOCK TABLE cache_store IN ACCESS SHARE MODE; END'", "COPY cache_embeddings TO STDOUT",
    "DELETE FROM cache_store",
    "SELECT * FROM pgcache_internal.hit_log", "SELECT nextval('pgcache_internal.hits_store')",
    "SELECT last_value FROM pgcache_internal.hits_store",
    # From PostgreSQL 17 on it is NULL.
    "SELECT 1 / coalesce(pg_sequence_last_value('pgcache_internal.hits_store'), 0)",
    "SELECT * FROM pgcache_internal.granted_roles", "SELECT * FROM pgcache_internal.change_log",
    "SELECT pgcache_internal.delete_where('store', 'true', NULL)", "SELECT pgcache_internal.measure('store')",
    "SELECT pgcache_internal.fold_hits()", "SELECT pgcache_internal.tenants_of_caller()",
    "SELECT pgcache_internal.hot_get('store', 'k')", "SELECT pgcache_internal.hot_report_hits('store', '{k}', '{1}')",
    "SELECT pgcache_internal.type_stats()", "SELECT cache_grant(current_user, 'write')", "CALL cache_upkeep()",
    *(f"SELECT {call}" for call in ADMINISTRATION),
]  # fmt: skip


@pytest.mark.parametrize("said", ["", "other", "acme"])
def test_calls_of_a_role_with_one_tenant_are_about_that(filled: Session, walled: Walled, said: str) -> None:
    theirs = walled("acme")
    others = held(filled, "other"), held(filled, "")
    say(theirs, said)
    for type in (*VALUES, "mine", "typed"):
        assert theirs("SELECT cache_get(%s, 'k') IS NOT NULL", type)
    for call, result in READS_OF_OTHERS.items():
        assert theirs(f"SELECT {call}") == result, call
    assert theirs("SELECT count(*) FROM cache_top") == len(VALUES) + 2
    assert theirs("SELECT cache_add('store', 'theirs', '1')")  # whether others have the key, nobody learns
    assert theirs("SELECT cache_incr('store', 'n')") == 1
    assert theirs("SELECT cache_set_face('i', 'acme', '[2]')")
    assert theirs("SELECT cache_invalidate_tenant('acme')") == held(filled, "acme") + len(VALUES) + 2 + 3
    assert (held(filled, "other"), held(filled, "")) == others


def test_statistics_of_tenants(filled: Session, walled: Walled) -> None:
    filled("SELECT cache_set_price('m', 2000000), cache_configure('llm', hit_tracking => 'exact')")
    say(filled, "acme")
    filled("SELECT cache_set_llm('q', 'm', 'r', 7)")
    for _ in range(3):
        filled("SELECT cache_get_llm('q', 'm')")
    say(filled, "")
    filled("CALL cache_upkeep()")
    columns = "tenant, entries, valid, hits, tokens_saved, money_saved"
    query = f"SELECT {columns} FROM cache_tenant_stats() WHERE type = 'llm'"
    assert walled("acme").rows(query) == [("acme", 2, 2, 3, 21, 42)]
    everybodys = filled.rows(query)
    assert [row[:2] for row in everybodys] == [("", 1), ("acme", 2), ("other", 2)]
    assert filled("SELECT sum(entries) FROM cache_tenant_stats()") == filled("SELECT sum(entries) FROM cache_stats")
    assert filled("SELECT sum(bytes) FROM cache_tenant_stats()") == filled("SELECT sum(bytes) FROM cache_stats")
    assert walled("acme", "other").column("SELECT DISTINCT tenant FROM cache_tenant_stats() ORDER BY 1") == [
        "acme",
        "other",
    ]
    filled("SELECT cache_tenant_limit('llm', 'third', 5), cache_tenant_limit('llm', 'acme', NULL, 7000)")
    query = "SELECT tenant, entries, max_entries, max_bytes FROM cache_tenant_stats() WHERE type = 'llm'"
    assert walled("acme").rows(query) == [("acme", 2, None, 7000)]
    assert walled("third").rows(query) == [("third", 0, 5, None)]
    assert walled("fourth").rows("SELECT * FROM cache_tenant_stats()") == []


def test_a_tenant_that_forgets_itself_keeps_its_limit(filled: Session, walled: Walled) -> None:
    theirs = walled("acme")
    filled("SELECT cache_tenant_limit('store', 'acme', 3)")
    theirs("SELECT * FROM cache_forget('acme')")
    theirs("SELECT count(cache_set('store', i::text, '1')) FROM generate_series(1, 9) i")
    assert filled("SELECT count(*) FROM cache_store WHERE tenant = 'acme'") == 3
    filled("SELECT cache_configure('store', eviction => 'none')")
    with refused("PC009"):
        theirs("SELECT cache_set('store', 'new', '1')")


def test_calls_about_many_entries_leave_those_of_others(filled: Session, walled: Walled) -> None:
    theirs = walled("acme")
    others = held(filled, "other"), held(filled, "")
    filled("UPDATE cache_llm_responses SET expires_at = '2001-01-01'")
    assert theirs("SELECT cache_clear_expired()") == 1
    assert theirs("SELECT cache_cleanup()") == 0
    assert theirs("SELECT ai_worker_cleanup_cache()") == 0
    assert theirs("SELECT cache_clear('store')") == 1
    assert theirs("SELECT sum(deleted) FROM cleanup_old_cache_entries(0)") == len(VALUES)
    theirs("SELECT cache_set('store', 'k', '1')")
    assert theirs("SELECT cache_clear_all()") == 1
    assert (held(filled, "other"), held(filled, ""), held(filled, "acme")) == (*others, 0)


def test_a_role_of_the_shared_tenant_clears_that_alone(filled: Session, walled: Walled) -> None:
    theirs, others = walled(""), held(filled, "other")
    assert theirs("SELECT cache_clear_all()") == len(VALUES) + 2
    assert held(filled, "other") == others


@pytest.mark.parametrize("tenants", [("acme",), ("acme", "third")])
def test_naming_another_tenant_is_an_error(filled: Session, walled: Walled, tenants: tuple[str, ...]) -> None:
    theirs = walled(*tenants)
    say(theirs, "acme")
    for call in NAMING_ANOTHER:
        with refused("42501", "acme"):
            theirs(f"SELECT {call}")
    assert theirs("SELECT cache_get('llm', 'k')")
    assert theirs("SELECT pgcache_internal.current_tenant()") == "acme"


def test_the_rest_is_not_for_them(filled: Session, walled: Walled) -> None:
    theirs = walled("acme")
    for statement in NOT_FOR_THEM:
        with pytest.raises(psycopg.Error) as caught:
            theirs(statement)
        assert caught.value.sqlstate in ("42501", "22012" if "last_value(" in statement else "42501"), statement
    assert theirs("SELECT count(*) FROM pg_stats WHERE schemaname LIKE 'pgcache%%'") == 0
    with refused("42501"):
        walled("acme", access="read")("SELECT cache_set('store', 'k', '1')")


def test_of_several_tenants_the_setting_names_one(filled: Session, walled: Walled) -> None:
    theirs = walled("acme", "third", "a \"quoted' one")
    calls = [
        "cache_get('store', 'k')", "cache_get_many('store', '{k}')", "cache_get_many_json('store', '{k}')",
        "cache_set('store', 'k', '1')", "cache_add('store', 'new', '1')", "cache_incr('store', 'n')",
        "cache_set_many('store', '{k}', '{1}')", "cache_set_embedding('t', 'm', '[1]')", "cache_exists('store', 'k')",
        "cache_set_audio('t', 'v', 'x', 'mp3')", "cache_get_audio('t', 'v')", "cache_get_embedding('t', 'm')",
        "cache_get_embeddings('{t}', 'm')", "cache_keys('store')", "cache_delete('store', 'k')", "cache_clear('store')",
        "cache_clear_all()", "cache_touch('store', 'k')", "cache_entry('store', 'k')", "cleanup_old_cache_entries(0)",
        "cache_clear_expired()", "cache_delete_pattern('store', '%%')", "cache_invalidate_user('u')",
        "cache_invalidate_schema('v1')",
    ]  # fmt: skip
    for said in ("", "other", "Acme"):
        say(theirs, said)
        for call in calls:
            with refused("42501", "acme"):
                theirs(f"SELECT {call}")
    for said in ("acme", "a \"quoted' one"):
        say(theirs, said)
        assert theirs("SELECT cache_set('store', 'k', '1')")
        assert theirs("SELECT cache_get('store', 'k')") == 1
        assert theirs("SELECT cache_keys('store')") == "k"
    say(theirs, "third")
    assert theirs("SELECT cache_get('store', 'k')") is None


def test_the_plan_of_a_get_stays_what_it_is(filled: Session, walled: Walled, role: NewRole) -> None:
    """A tenant of another collation would not be looked up in the index."""
    walled("acme")
    walled("acme", "third")
    condition = "EXPLAIN SELECT * FROM pgcache.cache_llm_responses t WHERE t.tenant = pgcache_internal.current_tenant()"
    filled("SET enable_seqscan = off")
    plan = "\n".join(filled.column(f"{condition} AND t.cache_key = 'k'"))
    assert re.search(r"Index Cond: \(\(tenant = .*\) AND \(cache_key", plan)
    assert "current_tenant" not in plan


def test_who_calls(filled: Session, walled: Walled, role: NewRole, admin: object) -> None:
    """By SET ROLE, as a member, after a new name; an open role and the owner are as before."""
    theirs, opened, nobody = walled("acme"), role("write"), role()
    me, member = theirs("SELECT current_user"), nobody("SELECT current_user")
    seen = "SELECT pgcache.cache_get('store', 'theirs')"
    for session in (opened, filled):
        assert session(seen) is None
        say(session, "other")
        assert session(seen) == "secret"
    filled(f"SET ROLE {me}")  # what a pool does
    assert filled(seen) is None
    assert filled("SELECT pgcache_internal.current_tenant()") == "acme"
    filled("RESET ROLE")
    filled(f"GRANT {me} TO {member}")
    try:
        say(nobody, "other")
        assert nobody(seen) is None
        assert nobody("SELECT pgcache_internal.current_tenant()") == "acme"
        assert nobody("SELECT cache_clear_all()") == len(VALUES) + 2
        with refused("42501"):
            nobody("SELECT cache_invalidate_tenant('other')")
    finally:
        filled(f"REVOKE {me} FROM {member}")
    filled(f"ALTER ROLE {me} RENAME TO {me}_renamed")
    try:
        with refused("42501", "cache_grant"):
            theirs(seen)
        with refused("42501", "cache_grant"):
            theirs("SELECT cache_set('store', 'k', '1')")
    finally:
        filled(f"ALTER ROLE {me}_renamed RENAME TO {me}")
    filled("SELECT cache_grant(%s, 'read')", me)
    say(theirs, "other")
    assert theirs(seen) == "secret"


def test_a_wall_stands_when_types_and_roles_come_and_go(filled: Session, walled: Walled, role: NewRole) -> None:
    theirs = walled("acme")
    filled("SELECT cache_create_type('later')")
    say(filled, "other")
    filled("SELECT cache_set('later', 'k', '1')")
    role("read")
    filled("SELECT cache_revoke(%s)", role("write")("SELECT current_user"))
    say(theirs, "other")
    assert theirs("SELECT cache_get('later', 'k')") is None
    assert theirs("SELECT cache_set('later', 'k', '2')")
    assert filled("SELECT cache_get('later', 'k')") == 1
    filled("SELECT cache_drop_type('later')")
    filled("SELECT cache_revoke(%s)", theirs("SELECT current_user"))
    assert "walled" not in filled("SELECT prosrc FROM pg_proc WHERE proname = 'current_tenant'")


@pytest.mark.parametrize(
    "arguments",
    ["'admin', '{a}'", "'tables', '{a}'", "'write', '{}'", "'write', '{NULL}'", "'write', ARRAY[repeat('x', 1025)]"],
)
def test_what_cannot_be_granted(ask: Session, role: NewRole, arguments: str) -> None:
    with refused("PC010"):
        ask(f"SELECT cache_grant(%s, {arguments})", role()("SELECT current_user"))


def test_tables_are_a_right_of_their_own(ask: Session, role: NewRole, new_session: NewSession, walled: Walled) -> None:
    session = role("write")
    name = session("SELECT current_user")
    session("SELECT cache_set_ai_worker('p', 'm', 'v', 's')")
    with refused("42501"):
        session("SELECT * FROM ai_worker_cache")
    for _ in range(2):
        ask("SELECT cache_grant(%s, 'tables')", name)
        ask("SELECT cache_create_type('mine', exist_ok => true)")
        assert session("SELECT generated_sql FROM ai_worker_cache") == "s"
        assert session("SELECT count(*) FROM cache_type_mine") == 0
        assert session("SELECT cache_set('mine', 'k', '1')")
        for statement in ("DELETE FROM ai_worker_cache", "TABLE pgcache_internal.hit_log", "TABLE cache_store_id"):
            with refused("42501"):
                session(statement)
        session("SELECT cache_delete('mine', 'k')")
    with refused("PC010", "all tenants first"):
        ask("SELECT cache_grant(%s, 'tables')", walled("acme")("SELECT current_user"))
    ask("SELECT cache_grant(%s, 'read', '{acme}')", name)
    with refused("42501"):
        session("SELECT * FROM ai_worker_cache")


def test_rights_are_to_execute_functions_and_no_more(ask: Session, role: NewRole, walled: Walled) -> None:
    """Nothing but views that show what functions return is open to any role."""
    for session in (role("read"), role("write"), role("admin"), walled("acme")):
        name = session("SELECT current_user")
        opened = ask.rows(
            """
            SELECT c.relkind::text, a.privilege_type
            FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
            WHERE a.grantee = %s::regrole GROUP BY 1, 2
            """,
            name,
        )
        assert opened == [("v", "SELECT")]
        executable = ask.column(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'pgcache_internal'::regnamespace"
            " AND has_function_privilege(%s, oid, 'execute')",
            name,
        )
        assert not {"note_writes", "measure", "fold_hits", "evict", "sweep", "hot_shrink", "delete_where"} & set(
            executable
        )


def test_each_public_function_is_for_somebody(ask: Session) -> None:
    """What callable() does not name is for the owner alone; a new one is to be named, or to stand here."""
    for_the_owner = {
        "ai_configure", "ai_grant", "ai_revoke", "cache_adopt", "cache_grant", "cache_hot_redis",
        "cache_hot_schedule", "cache_hot_unschedule", "cache_revoke", "cache_schedule", "cache_unschedule",
        "cache_unwatch", "cache_watch",
    }  # fmt: skip
    unnamed = ask.column(
        """
        SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'pgcache'::regnamespace AND p.prokind = 'f'
        EXCEPT SELECT name FROM pgcache_internal.callable()
        """
    )
    assert set(unnamed) <= for_the_owner
    unknown = ask.column("SELECT name FROM pgcache_internal.callable() EXCEPT SELECT proname FROM pg_proc")
    assert {name for name in unknown if not name.startswith("ai_")} <= {
        "embed", "embed_many", "llm_complete", "hot_cycle",
    }  # fmt: skip


# What each tenant's calls cost is measured in blocks that they look at.
COSTS = {
    "SELECT cache_get('store', 'tagged')": None,
    "SELECT cache_set('store', 'k', '1', tags => '{t}')": None,
    "SELECT cache_set('store', 'k', '1', token => {token})": "SELECT token FROM cache_fetch('store', 'k', '{t}')",
    "SELECT cache_release('store', 'k', {token})": "SELECT token FROM cache_fetch('store', 'k', '{t}')",
    "SELECT cache_fetch('store', 'none', wait => '0')": None,
    "SELECT cache_delete('store', 'none')": None,
    "SELECT cache_delete_pattern('store', 'none%')": None,
    "SELECT cache_invalidate_tags('u')": None,
}


def cost(session: Session, call: str) -> int:
    return min(blocks(session, call) for _ in range(8))  # the first ones plan, and look into the catalog


def blocks(session: Session, call: str) -> int:
    session("BEGIN")
    session("SELECT cache_delete('store', 'k')")
    before = COSTS[call]
    token = session(before) if before else 0
    plan = session("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + call.replace("{token}", str(token)))[0]["Plan"]
    session("ROLLBACK")
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_what_others_invalidate_and_compute_costs_a_tenant_nothing(ask: Session, walled: Walled) -> None:
    mine, other = walled("acme"), walled("other")
    mine("SELECT cache_set('store', 'tagged', '1', tags => '{t}')")
    costs = {call: cost(mine, call) for call in COSTS}
    other("SELECT count(cache_delete_pattern('store', 'p' || i)) FROM generate_series(1, 3000) i")
    other("SELECT count(cache_fetch('store', 'k' || i, '{t}')) FROM generate_series(1, 2000) i")
    other("SELECT cache_invalidate_tags(VARIADIC array(SELECT 't' || i FROM generate_series(1, 10000) i))")
    for _ in range(3):
        other("SELECT cache_invalidate_tags('t', 'u') FROM generate_series(1, 100)")
    dearer = {call: (before, now) for call, before in costs.items() if (now := cost(mine, call)) > 1.5 * before + 10}
    assert not dearer


def test_what_others_invalidate_voids_no_token(ask: Session, walled: Walled) -> None:
    mine, other = walled("acme"), walled("other")
    mine("SELECT cache_invalidate_tags('t')")
    token = mine("SELECT token FROM cache_fetch('store', 'k', '{t}')")
    other("SELECT cache_invalidate_tags('t') FROM generate_series(1, 3000)")
    assert ask("SELECT count(*) FROM pgcache_internal.tag_bumps WHERE scope = '=other'") < 2000  # it was folded
    ask("SELECT pgcache_internal.fold_bumps()")
    assert mine("SELECT cache_set('store', 'k', '1', token => %s)", token) is True


# What one might find out whether {key}, which is another tenant's or nobody's, is there.
PROBES = [
    "cache_get('store', '{key}')", "cache_get_many('store', '{{{key}}}')",
    "cache_get_many_json('store', '{{{key}}}')::text", "cache_exists('store', '{key}')",
    "cache_ttl('store', '{key}')", "cache_entry('store', '{key}')",
    "cache_explain('store', '{key}')", "cache_keys('store', '{key}%')", "cache_touch('store', '{key}')",
    "cache_persist('store', '{key}')", "cache_set('store', '{key}', '1')", "cache_add('store', '{key}', '1')",
    "cache_set('store', '{key}', '1', tags => '{{{key}}}')", "cache_set_many('store', '{{{key}}}', '{{1}}')",
    "cache_incr('store', '{key}')", "cache_delete('store', '{key}')", "cache_delete('store', '{key}', soft => true)",
    "cache_delete_many('store', '{{{key}}}')", "cache_delete_pattern('store', '{key}%')",
    "cache_delete_pattern('store', '{key}%', soft => true)", "cache_invalidate_tags('{key}')",
    "(SELECT (state, token IS NULL)::text FROM cache_fetch('store', '{key}', wait => '0'))",
    "(SELECT (state, held_since)::text"
    " FROM pgcache_internal.client_fetch('store', '{key}', '{{}}', NULL, NULL, '1 s', true))",
    "(SELECT ROW(value, state)::text"
    " FROM pgcache_internal.client_fetch('store', '{key}', '{{}}', NULL, NULL, '1 s', false, '0', '0'))",
    "pgcache_internal.get_younger('store', '{key}', '1 hour')",
    "pgcache_internal.claim_anew('store', '{key}', '{{}}', NULL, NULL, '1 s') <> 0",
    "cache_release('store', '{key}', 1)", "pgcache_internal.hold_lease('store', '{key}', 1, '1 s')",
    "cache_forget('{key}', kind => 'user')", "cache_scan('store', '{key}')", "cache_count('store', '{key}')",
    "cache_delete_prefix('store', '{key}')", "cache_replace('store', '{key}', '1')",
    "cache_delete_if('store', '{key}', '1')", "cache_get_with_ttl('store', '{key}')",
    "cache_incr('store', '{key}', create_if_missing => false)", "cache_incr_float('store', '{key}', 1)",
    "cache_get_bytes('bytes', '{key}')", "cache_get_many_bytes('bytes', '{{{key}}}')", "cache_incr('bytes', '{key}')",
    "cache_set_bytes('bytes', '{key}', 'x')", "cache_add_bytes('bytes', '{key}', 'x')",
    "cache_set_many_bytes('bytes', '{{{key}}}', '{{x}}')", "cache_set_bytes('bytes', '{key}', NULL, number => 1)",
]  # fmt: skip
TOUCHED = """
    SELECT jsonb_object_agg(relname, array[seq_tup_read, idx_tup_fetch, n_tup_ins, n_tup_upd, n_tup_del])
    FROM pg_stat_xact_all_tables WHERE schemaname ~ '^pgcache' AND seq_tup_read + idx_scan + n_tup_ins > 0
"""


def traces(session: Session, call: str, key: str) -> dict[str, object]:
    """What a call leaves that its session can see: what it returns, the rows that it has touched, what it was planned
    for."""
    printed: list[str] = []
    handler = session.connection.add_notice_handler
    handler(note := lambda message: printed.append(message.message_detail or ""))
    call = call.format(key=key)
    for _ in range(3):  # what is planned, or read from the catalog, once only is no trace
        printed.clear()
        session("BEGIN")
        before = session(TOUCHED) or {}
        session("SET LOCAL debug_print_plan = on")
        session("SET LOCAL client_min_messages = log")
        found = session.rows(f"SELECT {call}")
        session("SET LOCAL client_min_messages = notice")
        session("SET LOCAL debug_print_plan = off")
        after = session(TOUCHED) or {}
        session("ROLLBACK")
    session.connection.remove_notice_handler(note)
    return {
        "returned": str(found).replace(key, ""),
        "touched": {
            name: touched
            for name, counts in after.items()
            if any(touched := [now - was for now, was in zip(counts, before.get(name, [0] * 5), strict=True)])
        },
        "planned": re.findall(r":plan_rows ([\d.]+)", "".join(printed)),
    }


@pytest.mark.once
def test_no_call_leaves_a_trace_of_what_others_have(ask: Session, walled: Walled) -> None:
    """Not what it returns, nor how many rows it touches, nor what the planner expects, who knows the keys of all."""
    mine, other = walled("acme"), walled("other")
    mine("SET plan_cache_mode = force_custom_plan")
    mine("SELECT count(cache_set('store', 'mine' || i, '1')) FROM generate_series(1, 1000) i")
    other("SELECT count(cache_set('store', 'theirs' || i, '1')) FROM generate_series(1, 1000) i")
    other("SELECT count(cache_set_bytes('bytes', 'theirs' || i, '1')) FROM generate_series(1, 1000) i")
    other("SELECT count(cache_fetch('store', 'theirs' || i, wait => '0')) FROM generate_series(1001, 1100) i")
    ask("ANALYZE")
    for present, absent in (("theirs1", "theirsx"), ("theirs", "nobodys"), ("theirs1001", "theirs100x")):
        for call in PROBES:
            for _ in range(4):  # one in a hundred invalidations folds those before it
                there, not_there = traces(mine, call, present), traces(mine, call, absent)
                if there == not_there:
                    break
            assert there == not_there, call


@pytest.mark.once
@pytest.mark.parametrize("eviction", ["lru", "none"])
def test_no_write_looks_at_what_others_tag_and_invalidate(ask: Session, walled: Walled, eviction: str) -> None:
    """Though it looks at their entries for those that may go: a walled role could else stop all who write a type."""
    mine, other = walled("acme"), walled("other")
    ask("SELECT cache_create_type('mine', max_entries => 300, eviction => %s)", eviction)

    def looks() -> int:
        for session in (mine, other):
            session("SELECT pg_stat_force_next_flush()")
        return int(ask("SELECT idx_scan FROM pg_stat_all_tables WHERE relname = 'tag_bumps'"))

    other("SELECT count(cache_set('mine', 'k' || i, '1', tags => '{a, b}')) FROM generate_series(1, 250) i")
    other("SELECT cache_invalidate_tags('a')")
    before = looks()
    mine("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 40) i")
    for i in range(80):  # one by one: they replace
        with suppress(psycopg.errors.DatabaseError):
            mine("SELECT cache_set('mine', %s, '1')", f"n{i}")
    assert mine("SELECT entries FROM cache_tenant_stats() WHERE type = 'mine'") >= 50
    assert looks() == before
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(*) FROM cache_type_mine WHERE tenant = 'other'") == 0
