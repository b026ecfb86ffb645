"""tenant_share: nobody is pushed below his share of a type's limits by what others write."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.sql.test_limits import TOLERANCE, VALUE
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once

pytestmark = pytest.mark.once  # floods take long, and no version differs in this
LIMIT = 1000
# What a tenant keeps of its share, at least.
KEPT = 0.9

# How a tenant writes new entries of type {type}, i from {first} to {last}.
FLOODS = {
    "each": """DO $$ BEGIN FOR i IN {first}..{last} LOOP
        PERFORM cache_set('{type}', '{prefix}' || i, {value}); COMMIT; END LOOP; END $$""",
    "statement": "SELECT count(cache_set('{type}', '{prefix}' || i, {value})) FROM generate_series({first}, {last}) i",
    "batch": "SELECT cache_set_many_json('{type}', jsonb_object_agg('{prefix}' || i, {value}))"
    " FROM generate_series({first}, {last}) i",
}


def flood(
    session: Session, tenant: str, total: int, *, how: str = "each", at_a_time: int = 250, type: str = "mine",
    value: str = "'1'::jsonb", prefix: str = "k",
) -> None:  # fmt: skip
    session("SELECT set_config('pgcache.tenant', %s, false)", tenant)
    for first in range(0, total, at_a_time):
        last = min(total, first + at_a_time) - 1
        session(FLOODS[how].format(type=type, prefix=prefix, value=value, first=first, last=last))


def table_of(ask: Session, type: str) -> str:
    return str(ask("SELECT relation::text FROM pgcache_internal.types WHERE type = %s", type))


def held(ask: Session, type: str = "mine") -> dict[str, int]:
    return dict(ask.rows(f"SELECT tenant, count(*) FROM {table_of(ask, type)} GROUP BY 1"))


def over(ask: Session, type: str = "mine") -> list[str] | None:
    tenants: list[str] | None = ask("SELECT pgcache_internal.tenants_over(%s)", type)
    return tenants


@pytest.fixture
def shared(ask: Session) -> Session:
    ask("SELECT cache_create_type('mine', max_entries => %s)", LIMIT)
    ask("SELECT cache_configure('mine', tenant_share => 0.5)")
    return ask


@pytest.mark.parametrize("how", FLOODS)
@pytest.mark.parametrize("reads", [True, False])
def test_a_flood_leaves_a_neighbour_what_it_has(shared: Session, how: str, reads: bool) -> None:
    flood(shared, "b", 200)
    for part in range(10):
        flood(shared, "a", 500, how=how, prefix=f"{part} ")
        if reads:
            shared("SET pgcache.tenant = 'b'")
            shared("SELECT count(cache_get('mine', 'k' || i)) FROM generate_series(1, 100) i")
    assert held(shared)["b"] >= 200 * KEPT
    assert LIMIT * KEPT <= sum(held(shared).values()) <= LIMIT * TOLERANCE


@pytest.mark.parametrize("how", FLOODS)
def test_a_flood_leaves_a_neighbour_its_share(shared: Session, how: str) -> None:
    """Who had more keeps that much of it."""
    flood(shared, "b", 900)
    flood(shared, "a", 5000, how=how)
    assert held(shared)["b"] >= LIMIT / 2 * KEPT
    assert over(shared) == ["a"]
    assert LIMIT * KEPT <= sum(held(shared).values()) <= LIMIT * TOLERANCE


def test_without_a_share_a_flood_takes_all(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => %s)", LIMIT)
    flood(ask, "b", 200)
    flood(ask, "a", 5000)
    assert held(ask).get("b", 0) < 20


@pytest.mark.parametrize("how", FLOODS)
def test_floods_from_several_sessions_at_once(shared: Session, new_session: NewSession, how: str) -> None:
    flood(shared, "b", 400)
    sessions = [new_session() for _ in range(4)]
    at_once(
        *(
            lambda n=n: flood(sessions[n], "a", 1500, how=how, at_a_time=100, prefix=f"{n} ")
            for n in range(len(sessions))
        )
    )
    assert held(shared)["b"] >= 400 * KEPT
    assert sum(held(shared).values()) <= LIMIT * TOLERANCE


def test_what_others_are_evicting_is_not_made_up_for(shared: Session, new_session: NewSession) -> None:
    """Who cannot wait for them any longer finds what should go locked, and leaves the rest to a later write."""
    flood(shared, "b", 400)
    flood(shared, "a", 3000)
    assert over(shared) == ["a"]
    others, late = new_session(), new_session()
    with others.transaction():
        others("LOCK TABLE pgcache_internal.turn_mine IN SHARE UPDATE EXCLUSIVE MODE")
        others(f"SELECT FROM {table_of(shared, 'mine')} WHERE tenant = 'a' FOR UPDATE")
        before = held(shared)["b"]
        flood(late, "a", 100, how="statement", at_a_time=100, prefix="late ")
        assert held(shared)["b"] == before
    flood(late, "a", 500, how="statement", prefix="later ")
    assert held(shared)["b"] >= 400 * KEPT
    assert sum(held(shared).values()) <= LIMIT * TOLERANCE


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_flood_of_transactions_that_keep_their_snapshot(shared: Session, isolation: str) -> None:
    flood(shared, "b", 400)
    shared("SET pgcache.tenant = 'a'")
    for first in range(0, 4000, 50):
        with shared.transaction(f"ISOLATION LEVEL {isolation}"):
            shared(FLOODS["statement"].format(type="mine", prefix="k", value="'1'", first=first, last=first + 49))
            shared("COMMIT")
    assert held(shared)["b"] >= 400 * KEPT


def test_one_huge_batch(shared: Session) -> None:
    """What has to go is more than what the one has too much, and than what the other has."""
    flood(shared, "b", 600)
    flood(shared, "a", 8000, how="batch", at_a_time=8000)
    assert held(shared)["b"] >= LIMIT / 2 * KEPT
    assert held(shared)["a"] >= LIMIT / 2 * KEPT
    assert sum(held(shared).values()) <= LIMIT * TOLERANCE


def test_both_are_over_when_the_limit_falls(shared: Session) -> None:
    flood(shared, "b", 500)
    flood(shared, "a", 490)
    shared("SELECT cache_configure('mine', max_entries => 400)")
    assert over(shared) == ["a", "b"]
    shared("SELECT cache_cleanup('mine')")
    assert min(held(shared).values()) >= 200 * KEPT
    assert sum(held(shared).values()) <= 400 * TOLERANCE


@pytest.mark.parametrize("policy", ["lru", "cost", "fifo"])
def test_three_tenants_with_a_third_each(ask: Session, policy: str) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 900, eviction => %s)", policy)
    ask("SELECT cache_configure('mine', tenant_share => 0.3333)")
    flood(ask, "c", 300)
    flood(ask, "b", 300)
    flood(ask, "a", 3000)
    assert min(held(ask)[tenant] for tenant in "bc") >= 300 * KEPT
    assert ask.stats("mine")["tenant_share"] == Decimal("0.3333")


def test_what_is_left_over_is_used_by_who_writes(shared: Session) -> None:
    """A share is no quota: who is alone has all, and no entry of his is evicted before the type is full."""
    flood(shared, "a", 950)
    assert held(shared) == {"a": 950}
    flood(shared, "a", 2000)
    assert held(shared)["a"] >= LIMIT * KEPT


def test_the_shared_tenant_is_one_like_others(shared: Session) -> None:
    flood(shared, "", 300)
    flood(shared, "a", 3000)
    assert held(shared)[""] >= 300 * KEPT


@pytest.mark.parametrize("type", ["llm", "embedding", "audio", "crawl", "store"])
def test_shares_of_the_built_in_types(ask: Session, type: str) -> None:
    ask("SELECT cache_configure(%s, max_entries => 400, tenant_share => 0.5)", type)
    value = f"'{VALUES[type][0]}'::jsonb"
    flood(ask, "b", 150, type=type, value=value, at_a_time=30)
    flood(ask, "a", 1500, type=type, value=value)
    assert held(ask, type)["b"] >= 150 * KEPT


def test_shares_of_bytes(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_bytes => 2000000)")
    ask("SELECT cache_configure('mine', tenant_share => 0.4)")
    flood(ask, "b", 250, value=VALUE.format(size=2560), at_a_time=50)
    before = held(ask)["b"]
    flood(ask, "a", 2000, value=VALUE.format(size=3200))
    assert held(ask)["b"] >= before * KEPT
    assert ask.stats("mine")["bytes"] <= 2_000_000 * TOLERANCE


def test_expired_entries_go_first_whose_ever_they_are(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', max_entries => 400)")
    ask("SELECT cache_configure('mine', tenant_share => 0.5, max_age => '1 hour')")
    ask("SET pgcache.tenant = 'b'")
    ask("SELECT count(cache_set('mine', 'short' || i, '1', '1 minute')) FROM generate_series(1, 100) i")
    ask("SELECT count(cache_set('mine', 'long' || i, '1', '1 day')) FROM generate_series(1, 50) i")
    ask.advance("10 minutes")
    flood(ask, "a", 260)
    flood(ask, "a", 260, prefix="more ")
    assert ask("SELECT count(*) FROM cache_type_mine WHERE cache_key LIKE 'long%'") == 50


def test_who_has_more_is_noted_and_forgotten(shared: Session) -> None:
    flood(shared, "a", LIMIT)
    assert over(shared) == ["a"]
    shared("SELECT cache_clear('mine')")
    shared("SELECT pgcache_internal.measure('mine')")
    assert over(shared) is None
    flood(shared, "a", LIMIT)
    shared("SELECT cache_configure('mine', reset => '{tenant_share}')")
    assert over(shared) is None
    assert shared.stats("mine")["tenant_share"] is None
    shared("SELECT cache_configure('mine', tenant_share => 0.2)")
    assert over(shared) == ["a"]
    shared("SELECT cache_drop_type('mine')")
    assert shared("SELECT count(*) FROM pgcache_internal.tenants_over") == 0


def test_who_is_forgotten_is_not_noted_any_more(shared: Session) -> None:
    flood(shared, "a", LIMIT)
    shared("RESET pgcache.tenant")
    shared("SELECT cache_forget('b')")
    assert over(shared) == ["a"]
    shared("SELECT cache_forget('a')")
    assert shared("SELECT count(*) FROM pgcache_internal.tenants_over") == 0


def test_to_note_it_waits_for_nobody(shared: Session, new_session: NewSession) -> None:
    other = new_session()
    with other.transaction():
        other("LOCK TABLE pgcache_internal.tenants_over IN SHARE ROW EXCLUSIVE MODE")
        flood(shared, "a", 2000)
        assert sum(held(shared).values()) <= LIMIT * TOLERANCE


def test_names_of_tenants_are_any_text(shared: Session) -> None:
    name = """q'u"o\\te, {ü} NULL %s $$"""
    flood(shared, "b", 200)
    flood(shared, name, 2000)
    assert over(shared) == [name]
    assert held(shared)["b"] >= 200 * KEPT


def test_what_no_share_can_be(ask: Session) -> None:
    for wrong in ("0", "-1", "0.009", "1.01", "NaN"):
        with refused("PC010", "a number from 0.01 to 1"):
            ask("SELECT cache_configure('store', tenant_share => %s)", wrong)
    with refused("PC010", "nothing else"):
        ask("SELECT cache_configure('store', tenant_share => 0.5, reset => '{tenant_share}')")


def test_types_without_a_share_have_nothing_of_it(shared: Session) -> None:
    """Neither in what is compiled nor in what is noted."""
    for function in ("sweep", "replace_worst", "count_entries"):
        _, *branches = shared("SELECT prosrc FROM pg_proc WHERE proname = %s", function).split("if type = ")
        assert len(branches) > 5
        assert [branch.split("'")[1] for branch in branches if re.search("over is null|all_entries", branch)] == [
            "mine"
        ]
