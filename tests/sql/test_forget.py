"""Erasure: nothing of a tenant or a user is left, whatever table it is in, and the receipt says what there was."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.conftest import NewRole, NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until

pytestmark = pytest.mark.upgraded

NAMES = ["acme", "ü 'quoted\" %_\\", "{a,b}", "NULL", "x" * 1024]
Receipt = dict[tuple[str | None, str], int]


def say(session: Session, tenant: str) -> None:
    session("SELECT set_config('pgcache.tenant', %s, false)", tenant)


def forget(session: Session, subject: str, kind: str = "tenant") -> Receipt:
    rows = session.rows("SELECT * FROM cache_forget(%s, %s)", subject, kind)
    assert rows[-1][:2] == (None, "total")
    return {(type, place): removed for type, place, removed in rows}


def fill(ask: Session, tenant: str) -> None:
    """An entry k of each type, and an expired one in store; one hit of each."""
    say(ask, tenant)
    for type, (value, *_) in {**VALUES, "mine": ["1"], "typed": ['{"text": "t"}']}.items():
        ask("SELECT cache_set(%s, 'k', %s), cache_get(%s, 'k')", type, value, type)
    ask("INSERT INTO cache_store (tenant, cache_key, data, expires_at) VALUES (%s, 'old', '1', '2000-01-01')", tenant)
    say(ask, "")


@pytest.fixture
def filled(ask: Session) -> Session:
    ask("SELECT cache_create_type('mine'), cache_create_type('typed', fields => '{\"text\": \"string!\"}')")
    for tenant in ("", "other", *NAMES):
        fill(ask, tenant)
    return ask


def named(ask: Session, name: str) -> list[str]:
    """In which tables of pgcache a name is in any row, and in which statistics of ANALYZE."""
    tables = ask.column("""
        SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relkind = 'r' AND c.relnamespace IN ('pgcache'::regnamespace, 'pgcache_internal'::regnamespace)""")
    found = [table for table in tables if ask(f"SELECT count(*) FROM {table} t WHERE to_jsonb(t)::text LIKE "
        "'%%' || replace(replace(replace(to_jsonb(%s::text)::text, '\\', '\\\\'), '%%', '\\%%'), '_', '\\_') || '%%'",
        name)]  # fmt: skip
    return found + ask.column(
        """SELECT 'statistics of ' || tablename FROM pg_stats
        WHERE schemaname LIKE 'pgcache%%' AND %s = ANY(
            CASE WHEN attname IN ('tenant', 'user_id', 'cache_key')
            THEN coalesce(most_common_vals::text::text[], '{}') || coalesce(histogram_bounds::text::text[], '{}') END
        )""",
        name,
    )


ALL = len(VALUES) + 2


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "logged"])
def test_nothing_names_the_tenant_any_more(filled: Session, folded: bool) -> None:
    if folded:
        filled("CALL cache_upkeep()")
    filled("ANALYZE")
    others = filled.rows("SELECT * FROM cache_tenant_stats() WHERE tenant = 'other'")
    sums = filled.rows("SELECT type, hits, tokens_saved, money_saved FROM cache_stats ORDER BY 1")
    for name in NAMES:
        assert named(filled, name)
        receipt = forget(filled, name)
        assert receipt["store", "entries"] == 2 - folded  # what has expired counts, too
        assert receipt["llm", "totals" if folded else "hit_log"] == 1
        assert len(receipt) == 2 * ALL + 1
        assert receipt[None, "total"] == 2 * ALL + 1 - folded == sum(receipt.values()) / 2
        assert named(filled, name) == []
        assert forget(filled, name) == {(None, "total"): 0}
    assert filled.rows("SELECT * FROM cache_tenant_stats() WHERE tenant = 'other'") == others
    assert filled.rows("SELECT type, hits, tokens_saved, money_saved FROM cache_stats ORDER BY 1") == sums
    by_type = "SELECT type, sum(hits)::integer FROM cache_tenant_stats() GROUP BY 1 ORDER BY 1"
    for _ in range(2):
        assert filled.rows(by_type) == [(type, hits) for type, hits, *_ in sums]
        filled("CALL cache_upkeep()")


def test_statistics_alone_may_name_it(filled: Session) -> None:
    filled("ANALYZE")
    filled("SELECT cache_invalidate_tenant('acme')")
    filled("SELECT pgcache_internal.fold_log()")
    assert any("statistics" in place for place in named(filled, "acme"))
    forget(filled, "acme")
    assert named(filled, "acme") == []


def test_a_user(ask: Session) -> None:
    for kind in ("string", "string!", "integer", "count"):
        name = f"t_{kind.strip('!')}" + "_r" * kind.endswith("!")
        ask("SELECT cache_create_type(%s, fields => json_build_object('user_id', %s::text))", name, kind)
    ask("SELECT cache_create_type('json')")
    for tenant in ("", "acme"):
        say(ask, tenant)
        for user in ("42", "ada"):
            ask("SELECT cache_set_vector_search('[1]', '[]', user_id => %s)", user)
            ask("SELECT cache_set('t_string', %s, jsonb_build_object('user_id', %s::text))", user, user)
        for type in ("t_integer", "t_count"):
            ask("SELECT cache_set(%s, 'a', '{\"user_id\": 42}'), cache_set(%s, 'b', '{\"user_id\": 421}')", type, type)
        ask("SELECT cache_set('json', 'k', '{\"user_id\": \"42\"}')")
    for tenant in ("", "acme"):  # not before: who writes a type for the first time folds what is logged
        say(ask, tenant)
        ask("SELECT cache_get('t_string', '42'), cache_get('t_string', 'ada')")
    expected = {
        ("vector_search", "entries"): 1, ("t_string", "entries"): 1, ("t_string", "hit_log"): 1,
        ("t_integer", "entries"): 1, ("t_count", "entries"): 1, (None, "total"): 5,
    }  # fmt: skip
    assert forget(ask, "42", "user") == expected
    assert forget(ask, "42", "user") == {(None, "total"): 0}
    say(ask, "")
    assert ask("SELECT count(*) FROM cache_vector_search WHERE user_id = '42' AND tenant = ''") == 1
    assert forget(ask, "ada", "user")[None, "total"] == 6  # in all tenants
    assert forget(ask, "42", "user") == expected
    assert ask("SELECT count(*) FROM cache_store WHERE type = 'json'") == 2
    assert ask("SELECT sum(hits) FROM cache_tenant_stats() WHERE type = 't_string' AND tenant = 'acme'") == 2
    assert named(ask, "ada") == []


MISTAKES = {
    "cache_forget(NULL)": ("PC002", "Pass the tenant's name"),
    "cache_forget('')": ("PC002", "cache_invalidate_tenant('')"),
    "cache_forget('', 'user')": ("PC002", "cache_invalidate_user('')"),
    "cache_forget(NULL, 'user')": ("PC002", "Pass the user's name"),
    "cache_forget('a', 'tag')": ("PC010", "kind => 'user'"),
    "cache_forget('a', NULL)": ("PC010", "kind => 'user'"),
}


@pytest.mark.parametrize("call", MISTAKES)
def test_mistakes(filled: Session, call: str) -> None:
    before = filled("SELECT sum(entries) FROM cache_stats")
    with refused(*MISTAKES[call]):
        filled(f"SELECT {call}")
    assert filled("SELECT sum(entries) FROM cache_stats") == before


def test_it_writes(filled: Session) -> None:
    with filled.transaction():
        filled("SET TRANSACTION READ ONLY")
        with refused("25006", "READ WRITE"):
            filled("SELECT cache_forget('acme')")


def test_it_is_transactional(filled: Session, new_session: NewSession) -> None:
    before = filled.rows("SELECT * FROM cache_tenant_stats() ORDER BY 1, 2")
    other = new_session()
    with filled.transaction():  # which rolls back
        forget(filled, "acme")
        assert other.rows("SELECT * FROM cache_tenant_stats() ORDER BY 1, 2") == before
        other("SET lock_timeout = '1s'")
        other("SELECT cache_set('store', 'new', '1')")
        assert other("SELECT pgcache_internal.fold_hits()") == 0  # nobody waits for it
        other("SELECT cache_cleanup()")
        other("CALL cache_upkeep()")
    assert filled("SELECT count(*) FROM cache_tenant_stats() WHERE tenant = 'acme' AND entries > 0") == ALL


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE cache_store SET data = '2' WHERE tenant = 'acme'",
        "SELECT FROM cache_store WHERE tenant = 'acme' FOR UPDATE",
        "SELECT set_config('pgcache.tenant', 'acme', true), cache_set('store', 'k', '2')",
        "SELECT set_config('pgcache.tenant', 'acme', true), cache_clear('store')",
        "SELECT cache_cleanup()",
    ],
)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_it_waits_for_who_has_changed_an_entry(filled: Session, new_session: NewSession, change: str, end: str) -> None:
    other = new_session()
    other("BEGIN")
    other(change)
    running = filled.start("SELECT * FROM cache_forget('acme')")
    wait_until(lambda: other("SELECT pg_blocking_pids(%s)", filled.pid) == [other.pid])
    other(end)
    running.result(20)
    assert named(filled, "acme") == []


def test_what_is_new_and_not_committed_it_does_not_see(filled: Session, new_session: NewSession) -> None:
    """As the docs say: the writers are to be stopped first, or it is forgotten again."""
    other = new_session()
    other("BEGIN")
    other("SELECT set_config('pgcache.tenant', 'acme', true), cache_set('store', 'new', '1')")
    forget(filled, "acme")
    other("COMMIT")
    assert named(filled, "acme")
    assert forget(filled, "acme") == {("store", "entries"): 1, (None, "total"): 1}
    assert named(filled, "acme") == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_it_leaves_nothing_out_that_others_have_changed(filled: Session, new_session: NewSession, level: str) -> None:
    with filled.transaction():
        filled(f"SET TRANSACTION ISOLATION LEVEL {level}")
        filled("SELECT count(*) FROM cache_store")
        new_session()("UPDATE cache_store SET data = '2' WHERE tenant = 'acme'")
        with pytest.raises(psycopg.errors.SerializationFailure):
            filled("SELECT cache_forget('acme')")
    forget(filled, "acme")
    assert named(filled, "acme") == []


def test_walls(filled: Session, role: NewRole) -> None:
    def session(*tenants: str, access: str = "write") -> Session:
        made = role()
        filled("SELECT cache_grant(%s, %s, %s)", made("SELECT current_user"), access, list(tenants))
        return made

    one, several, reader = session("acme"), session("acme", "other"), session("acme", access="read")
    for caller, names in ((one, ["other", "nobody"]), (several, ["third"])):
        for name in names:
            with refused("42501"):
                caller("SELECT cache_forget(%s)", name)
    with refused("42501"):
        reader("SELECT cache_forget('acme')")
    with refused("42501"):
        several("SELECT cache_forget('u', 'user')")  # in whose tenant?
    for tenant in ("acme", "other"):
        say(filled, tenant)
        filled("SELECT cache_set_vector_search('[1]', '[]', user_id => 'w')")
    say(filled, "")
    assert forget(one, "w", "user") == {("vector_search", "entries"): 1, (None, "total"): 1}
    assert filled("SELECT count(*) FROM cache_vector_search WHERE user_id = 'w'") == 1
    for caller, name in ((one, "acme"), (several, "other")):
        assert forget(caller, name)[None, "total"] == 2 * ALL + 1 + (name == "other")
        assert named(filled, name) == ["pgcache_internal.granted_roles"]
        assert caller.rows("SELECT * FROM cache_tenant_stats() WHERE tenant IS NULL") == []


def test_types_that_are_unlogged_disabled_or_just_dropped(filled: Session, new_session: NewSession) -> None:
    filled("SELECT cache_configure('mine', durable => false), cache_configure('llm', hit_tracking => 'off')")
    other = new_session()
    with other.transaction():
        other("SELECT cache_drop_type('typed')")
        running: Any = filled.start("SELECT * FROM cache_forget('acme')")
        wait_until(lambda: other("SELECT pg_blocking_pids(%s)", filled.pid) == [other.pid])
        other("COMMIT")
        running.result(20)
        other("BEGIN")
    assert named(filled, "acme") == []
