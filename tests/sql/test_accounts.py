"""What each tenant's hits have saved: kept when the entries are gone, and nobody waits for that."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.conftest import NewRole, NewSession
from tests.tools.session import Session

pytestmark = pytest.mark.upgraded

TENANTS = ["", "acme", "ü 'quoted\" %", "x" * 1024]


def say(session: Session, tenant: str) -> None:
    session("SELECT set_config('pgcache.tenant', %s, false)", tenant)


def account(ask: Session, type: str = "llm") -> dict[str | None, tuple[int, Decimal, Decimal]]:
    """Hits, tokens and US dollars by tenant, of those that have had any."""
    query = """SELECT tenant, hits, tokens_saved, money_saved FROM cache_tenant_stats()
        WHERE type = %s AND (tenant IS NOT NULL OR hits > 0)"""
    return {tenant: tuple(figures) for tenant, *figures in ask.rows(query, type)}


@pytest.fixture
def hit(ask: Session) -> Session:
    """Tenant number n has n + 1 hits of 10 tokens each, at 1 dollar a token."""
    ask("SELECT cache_set_price('m', 1000000)")
    for number, tenant in enumerate(TENANTS):
        say(ask, tenant)
        ask("SELECT cache_set_llm('p', 'm', 'r', 10)")
        for _ in range(number + 1):
            ask("SELECT cache_get_llm('p', 'm')")
    say(ask, "")
    return ask


EXPECTED = {tenant: (number + 1, 10 * (number + 1), 10 * (number + 1)) for number, tenant in enumerate(TENANTS)}


@pytest.mark.parametrize("upkeep", [True, False], ids=["after upkeep", "without upkeep"])
@pytest.mark.parametrize(
    "end",
    ["cache_clear('llm')", "cache_clear_all()", "cache_trim('llm', 0)", "cache_configure('llm', enabled => false)"],
)
def test_savings_of_a_tenant_outlive_its_entries(hit: Session, end: str, upkeep: bool) -> None:
    assert account(hit) == EXPECTED
    if upkeep:
        hit("CALL cache_upkeep()")
        assert account(hit) == EXPECTED
    hit(f"SELECT {end}")
    assert account(hit) == EXPECTED
    hit("CALL cache_upkeep()")
    assert account(hit) == EXPECTED
    assert hit("SELECT bool_and((entries, valid, bytes) = (0, 0, 0)) FROM cache_tenant_stats()")
    stats = hit.stats("llm")
    assert (stats["hits"], stats["tokens_saved"], stats["money_saved"]) == (10, 100, 100)
    assert hit("SELECT (sum(hits), sum(money_saved)) = (10, 100) FROM cache_tenant_stats() WHERE type = 'llm'")


def test_types_without_tokens_have_hits(ask: Session) -> None:
    say(ask, "acme")
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 3)")
    ask("SELECT cache_delete('store', 'k')")
    ask("CALL cache_upkeep()")
    assert account(ask, "store") == {"acme": (3, 0, 0)}


def test_a_hit_of_an_entry_that_is_locked_counts_once(hit: Session, new_session: NewSession) -> None:
    other = new_session()
    with other.transaction():
        other("SELECT FROM cache_llm_responses FOR UPDATE")
        for _ in range(3):
            hit("CALL cache_upkeep()")
            assert account(hit) == EXPECTED
    hit("CALL cache_upkeep()")
    assert account(hit) == EXPECTED
    assert hit("SELECT sum(hit_count) FROM cache_llm_responses") == 10


def test_sampled_hits_count_as_many_as_they_stand_for(ask: Session) -> None:
    ask("SELECT setseed(0.25), cache_set_llm('p', 'm', 'r', 10)")
    ask("SELECT cache_get_llm('p', 'm') FROM generate_series(1, 3000)")
    ask("CALL cache_upkeep()")
    # 16 hits exactly, the others in lines that stand for several.
    ask("SELECT cache_get_llm('p', 'm') FROM generate_series(1, 3000)")
    ask("CALL cache_upkeep()")
    hits, tokens, _ = account(ask)[""]
    assert ask("SELECT hit_count FROM cache_llm_responses") == hits
    assert tokens == 10 * hits
    assert 5000 < hits < 7000


def test_hits_that_are_not_tracked_are_no_tenants(ask: Session) -> None:
    ask("SELECT cache_configure('llm', hit_tracking => 'off'), cache_set_llm('p', 'm', 'r', 10)")
    ask("SELECT cache_get_llm('p', 'm')")
    ask("CALL cache_upkeep()")
    assert account(ask) == {"": (0, 0, 0)}
    assert ask.stats("llm")["hits"] == 1


def test_a_price_is_that_of_its_time(hit: Session) -> None:
    hit("SELECT cache_set_price('m', 0)")
    hit("SELECT cache_get_llm('p', 'm'), cache_clear('llm')")
    assert account(hit)[""] == (2, 20, 10)


def test_models_with_and_without_a_name_or_a_price(ask: Session) -> None:
    ask("SELECT cache_set_price('dear', 1000000), cache_configure_setting('usd_per_million_tokens', '500000')")
    for model, tokens in (("dear", 1), ("other", 2), (None, 4), ("none", None)):
        ask("""SELECT cache_set('llm', 'k', jsonb_strip_nulls(jsonb_build_object(
            'response', 'r', 'model', %s::text, 'tokens_used', %s::integer)))""", model, tokens)  # fmt: skip
        ask("SELECT cache_get('llm', 'k')")
    assert account(ask) == {"": (4, 7, 4)}
    ask("CALL cache_upkeep()")
    assert account(ask) == {"": (4, 7, 4)}


def test_walled_roles_see_their_own_though_they_have_no_entries(hit: Session, role: NewRole) -> None:
    walled = role()
    hit("SELECT cache_grant(%s, 'read', '{acme}')", walled("SELECT current_user"))
    hit("SELECT cache_clear_all()")
    assert account(walled) == {"acme": EXPECTED["acme"]}
    hit("CALL cache_upkeep()")
    assert account(walled) == {"acme": EXPECTED["acme"]}
    hit("UPDATE pgcache_internal.tenant_savings SET tenant = NULL WHERE tenant = ''")
    assert account(walled) == {"acme": EXPECTED["acme"]}
    assert account(hit)[None] == EXPECTED[""]


def test_another_type_of_the_same_name_begins_anew(ask: Session) -> None:
    for kept in (False, True):
        ask("SELECT cache_create_type('mine', fields => '{\"tokens_used\": \"count\"}')")
        ask("SELECT cache_set('mine', 'k', '{\"tokens_used\": 3}'), cache_get('mine', 'k')")
        if kept:
            ask("CALL cache_upkeep()")
        assert account(ask, "mine") == {"": (1, 3, 0)}
        ask("SELECT cache_drop_type('mine')")
        assert ask("SELECT count(*) FROM pgcache_internal.tenant_savings") == 0


def test_hits_of_a_type_that_is_gone_do_no_harm(ask: Session) -> None:
    ask("INSERT INTO pgcache_internal.hit_log VALUES ('gone', '', 'k', 1, now())")
    ask("SELECT cache_set('store', 'k', '1'), cache_get('store', 'k')")
    ask("CALL cache_upkeep()")
    assert ask("SELECT count(*) FROM pgcache_internal.hit_log") == 0
    assert account(ask, "store") == {"": (1, 0, 0)}


def test_who_clears_in_a_long_transaction_holds_nobody_up(hit: Session, new_session: NewSession) -> None:
    """Neither who folds, nor who clears another tenant's, in whatever order."""
    hit("SELECT cache_set_ai_worker('p', 'm', 'v', 's', 1), cache_get_ai_worker('p', 'm', 'v')")
    first, second = new_session(), new_session()
    say(first, "acme")
    say(second, "ü 'quoted\" %")
    for session in (first, second, hit):
        session("SET lock_timeout = '1s'")
    first("BEGIN")
    second("BEGIN")
    first("SELECT cache_clear('llm')")
    second("SELECT cache_clear('ai_worker'), cache_clear('llm')")
    first("SELECT cache_clear('ai_worker')")
    hit("CALL cache_upkeep()")
    assert account(hit) == EXPECTED
    first("COMMIT")
    second("ROLLBACK")
    hit("CALL cache_upkeep()")
    assert account(hit) == EXPECTED
    assert hit("SELECT count(*) FROM pgcache_internal.hit_log") == 0


def test_many_tenants(ask: Session) -> None:
    """More than one batch, of which each changes what the one before has made."""
    ask("""INSERT INTO pgcache_internal.hit_log (type, tenant, cache_key, weight, hit_at, model, tokens)
        SELECT 'llm', 't' || i % 1000, 'gone', 1, now(), 'm', 2 FROM generate_series(1, 25000) i""")
    ask("SELECT cache_cleanup()")
    found: dict[Any, Any] = account(ask)
    assert len(found) == 1000
    assert set(found.values()) == {(25, 50, 0)}
    assert ask.stats("llm")["tokens_saved"] == 50000
