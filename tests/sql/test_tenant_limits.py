"""cache_tenant_limit: how much one tenant may have of a type; what it has too much goes, and nothing of others."""

from __future__ import annotations

import psycopg
import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.sql.test_limits import VALUE
from tests.sql.test_tenant_shares import FLOODS, flood, held
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once

LIMIT = 200
# What making room leaves of a limit: 1/50, at least 8 entries if that is not above 1/32.
KEPT = 0.95


def limit(ask: Session, tenant: str, entries: int | None = None, size: int | None = None, type: str = "mine") -> None:
    ask("SELECT cache_tenant_limit(%s, %s, %s, %s)", type, tenant, entries, size)


def limits(ask: Session, type: str = "mine") -> dict[str, tuple[int | None, int | None]]:
    query = "SELECT tenant, max_entries, max_bytes FROM cache_tenant_stats() WHERE type = %s"
    return {tenant: (entries, size) for tenant, entries, size in ask.rows(query, type) if entries or size}


def bytes_of(ask: Session, tenant: str, type: str = "mine") -> int:
    return int(ask("SELECT sum(bytes) FROM cache_tenant_stats() WHERE type = %s AND tenant = %s", type, tenant))


@pytest.fixture
def limited(ask: Session) -> Session:
    """A type in which the tenant a is limited, and b has 300 entries."""
    ask("SELECT cache_create_type('mine')")
    limit(ask, "a", LIMIT)
    flood(ask, "b", 300, how="batch", at_a_time=300)
    return ask


@pytest.mark.parametrize("how", FLOODS)
def test_a_flood_takes_its_own_entries_only(limited: Session, how: str) -> None:
    for part in range(8):
        flood(limited, "a", 100, how=how, at_a_time=50, prefix=f"{part} ")
        assert held(limited)["a"] <= LIMIT
    assert held(limited)["a"] >= LIMIT * KEPT
    assert held(limited)["b"] == 300
    assert limited.stats("mine")["evicted"] == 800 - held(limited)["a"]
    assert limits(limited) == {"a": (LIMIT, None)}


@pytest.mark.once
@pytest.mark.parametrize("entries", [1, 2, 31, 32, 100])
def test_small_limits(ask: Session, entries: int) -> None:
    ask("SELECT cache_create_type('mine')")
    limit(ask, "a", entries)
    for last in range(1, entries + 10):
        flood(ask, "a", 1, prefix=f"{last} ")
        assert held(ask)["a"] <= entries
        assert last > entries or held(ask)["a"] == last
    assert held(ask)["a"] >= entries - entries // 32


@pytest.mark.once
@pytest.mark.parametrize("policy", ["lru", "cost", "fifo"])
def test_the_worst_go_by_the_policy_of_the_type(ask: Session, policy: str) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', ttl => NULL, eviction => %s, hit_tracking => 'exact')", policy)
    limit(ask, "a", 100)
    ask("SET pgcache.tenant = 'a'")
    for n in range(10):
        ask.advance("1 second")
        ask("SELECT cache_set('mine', %s, '1')", f"read {n}")
    for turn in range(20):
        ask.advance("1 minute")
        ask("SELECT count(cache_get('mine', 'read ' || n)) FROM generate_series(0, 9) n")
        flood(ask, "a", 20, prefix=f"{turn} ")
    kept = ask("SELECT count(*) FROM cache_type_mine WHERE cache_key LIKE 'read%'")
    assert kept == (0 if policy == "fifo" else 10)


@pytest.mark.once
def test_what_has_expired_goes_first(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine')")
    limit(ask, "a", 100)
    ask("SET pgcache.tenant = 'a'")
    ask("SELECT count(cache_set('mine', 'short' || i, '1', '1 minute')) FROM generate_series(1, 50) i")
    ask("SELECT count(cache_set('mine', 'long' || i, '1', '1 day')) FROM generate_series(1, 40) i")
    ask.advance("1 hour")
    flood(ask, "a", 58)
    assert ask("SELECT count(*) FROM cache_type_mine WHERE cache_key LIKE 'long%'") == 40
    stats = ask.stats("mine")
    assert stats["evicted"] == 0 < stats["expired"]


@pytest.mark.parametrize("type", VALUES)
def test_built_in_types(ask: Session, type: str) -> None:
    value = f"'{VALUES[type][0]}'::jsonb"
    limit(ask, "a", 50, type=type)
    flood(ask, "b", 60, type=type, value=value, how="statement")
    flood(ask, "a", 80, type=type, value=value, at_a_time=20)
    flood(ask, "a", 80, type=type, value=value, how="batch", at_a_time=20, prefix="more ")
    assert 50 * KEPT <= held(ask, type)["a"] <= 50
    assert held(ask, type)["b"] == 60


def test_each_way_to_write(limited: Session) -> None:
    limit(limited, "a", 10)
    limited("SET pgcache.tenant = 'a'")
    for call in (
        "cache_add('mine', 'add' || i, '1')",
        "cache_incr('mine', 'incr' || i)",
        "cache_set('mine', 'tagged' || i, '1', tags => '{x}')",
        "cache_set('mine', 'won' || i, '1', token => (cache_fetch('mine', 'won' || i)).token)",
        "cache_warm('mine', jsonb_build_array(jsonb_build_object('key', 'warm' || i, 'value', 1)))",
    ):
        limited(f"SELECT {call} FROM (VALUES (0)) v (i)")
        assert held(limited)["a"] <= 10
        limited(f"SELECT count({call}) FROM generate_series(1, 30) i")
        assert held(limited) == {"a": 10, "b": 300}
    limit(limited, "a", 10, type="embedding")
    limited("SELECT count(cache_set_embedding(i::text, 'm', '[1,2]')) FROM generate_series(1, 30) i")
    limited(
        "SELECT cache_set_embeddings(ARRAY(SELECT 'x' || i FROM generate_series(1, 30) i), 'm',"
        " array_fill('[1,2]'::text, '{30}'))"
    )
    assert held(limited, "embedding") == {"a": 10}
    limited("RESET pgcache.tenant")
    limit(limited, "a", 10, type="face")
    limited("SELECT count(cache_set_face(i::text::bytea, 'a', '[]')) FROM generate_series(1, 30) i")
    assert held(limited, "face") == {"a": 10}


def test_one_huge_batch(limited: Session) -> None:
    flood(limited, "a", 5000, how="batch", at_a_time=5000)
    assert LIMIT * KEPT <= held(limited)["a"] <= LIMIT
    assert held(limited)["b"] == 300


def test_a_long_transaction(limited: Session, new_session: NewSession) -> None:
    """It may itself see more than the limit; others never do."""
    writer = new_session()
    with writer.transaction():
        for part in range(20):
            flood(writer, "a", 20, how="statement", prefix=f"{part} ")
        assert held(writer)["a"] == 400
        assert writer("SELECT count(*) FROM pgcache_internal.room_due WHERE tenant = 'a'") == 1
        assert "a" not in held(limited)
        writer("COMMIT")
    assert LIMIT * KEPT <= held(limited)["a"] <= LIMIT


@pytest.mark.once
@pytest.mark.parametrize("how", FLOODS)
def test_floods_from_several_sessions_at_once(limited: Session, new_session: NewSession, how: str) -> None:
    sessions = [new_session() for _ in range(5)]
    at_once(*(lambda n=n: flood(sessions[n], "a", 300, how=how, at_a_time=30, prefix=f"{n} ") for n in range(5)))
    assert LIMIT * 0.8 <= held(limited)["a"] <= LIMIT * (1 + 5 / 32)
    flood(limited, "a", 10)
    assert held(limited)["a"] <= LIMIT
    assert held(limited)["b"] == 300


@pytest.mark.once
@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_transactions_that_keep_their_snapshot(limited: Session, new_session: NewSession, isolation: str) -> None:
    sessions = [new_session() for _ in range(3)]
    for first in range(0, 600, 20):
        for n, session in enumerate(sessions):
            session("SET pgcache.tenant = 'a'")
            session(f"BEGIN ISOLATION LEVEL {isolation}")
            session(FLOODS["statement"].format(type="mine", prefix=f"{n} ", value="'1'", first=first, last=first + 19))
        for session in sessions:
            try:
                session("COMMIT")
            except psycopg.errors.SerializationFailure:
                assert isolation == "SERIALIZABLE"
    # Each leaves a twelfth, and of what others add meanwhile it sees nothing.
    assert held(limited)["a"] <= LIMIT * 1.5
    flood(limited, "a", 20)
    assert LIMIT * KEPT <= held(limited)["a"] <= LIMIT
    assert held(limited)["b"] == 300


def test_who_rolls_back_does_not_get_around_it(limited: Session) -> None:
    for part in range(20):
        flood(limited, "a", 19, how="statement", prefix=f"{part} ")
        with limited.transaction():
            flood(limited, "a", 5, prefix="undone ", how="statement")
    assert LIMIT * KEPT <= held(limited)["a"] <= LIMIT


def test_bytes(limited: Session) -> None:
    for size, total in ((640, 400), (3200, 100), (12_800, 40)):
        limit(limited, "a", size=100_000)
        flood(limited, "a", total, value=VALUE.format(size=size))
        assert 80_000 <= bytes_of(limited, "a") <= 100_000
        flood(limited, "a", total, value=VALUE.format(size=size), how="batch", prefix="more ")
        assert 80_000 <= bytes_of(limited, "a") <= 100_000
    assert held(limited)["b"] == 300
    limit(limited, "a", 5, 100_000)
    flood(limited, "a", 1)
    assert held(limited)["a"] == 5


@pytest.mark.parametrize("eviction", ["lru", "none"])
def test_a_value_that_is_too_large_for_its_tenant(limited: Session, eviction: str) -> None:
    limited("SELECT cache_configure('mine', eviction => %s)", eviction)
    limit(limited, "a", size=50_000)
    large = VALUE.format(size=64_000)
    flood(limited, "a", 10)
    for call in (
        f"cache_set('mine', 'large', {large})",
        f"cache_set('mine', 'k1', {large})",
        f"cache_set_many('mine', '{{k2,large}}', ARRAY['1'::jsonb, {large}])",
    ):
        with refused("PC009", "cache_tenant_limit('mine', 'a', max_bytes =>"):
            limited(f"SELECT {call} FROM (VALUES (1)) v (i)")
    assert held(limited)["a"] == 10
    assert limited("SELECT cache_set('mine', 'compressed', to_jsonb(repeat('x', 64000)))")
    flood(limited, "b", 1, value=large, prefix="large ")


def test_none_refuses_new_keys(limited: Session) -> None:
    limited.set_clock("2030-01-01")
    limited("SELECT cache_configure('mine', eviction => 'none')")
    limit(limited, "a", 100)
    for part in range(10):
        flood(limited, "a", 10, prefix=f"{part} ")
    for call in (
        "cache_set('mine', 'new', '1')",
        "cache_add('mine', 'new', '1')",
        "cache_incr('mine', 'new')",
        "cache_set_many('mine', '{new}', '{1}')",
        "cache_set('mine', 'new', '1', tags => '{x}')",
    ):
        with refused("PC009", "Delete entries of this tenant, or raise its limit"):
            limited(f"SELECT {call}")
    assert held(limited)["a"] == 100
    assert limited("SELECT cache_set('mine', '0 1', '2', '1 minute')")  # what is there may be replaced
    flood(limited, "b", 10, prefix="more ")
    limited("SET pgcache.tenant = 'a'")
    assert limited("SELECT cache_delete('mine', '0 0')")
    assert limited("SELECT cache_set('mine', 'new', '1')")
    with refused("PC009"):
        limited("SELECT cache_set('mine', 'newer', '1')")
    limited.advance("10 minutes")
    assert limited("SELECT cache_set('mine', 'newer', '1')")  # what has expired makes room
    assert limited.stats("mine")["evicted"] == 0
    for limit_now in (500, None):
        limit(limited, "a", limit_now)
        flood(limited, "a", 200, prefix=f"{limit_now} ")
    assert held(limited)["a"] >= 500


def test_none_takes_back_what_is_rolled_back(limited: Session) -> None:
    limited("SELECT cache_configure('mine', eviction => 'none')")
    for how in ("each", "statement"):
        with limited.transaction():
            flood(limited, "a", LIMIT, how="statement", prefix=how)
    flood(limited, "a", LIMIT)
    assert held(limited)["a"] == LIMIT
    with refused("PC009"):
        flood(limited, "a", 10, prefix="new", how="batch")
    assert held(limited)["a"] == LIMIT


def test_none_keeps_within_bytes(limited: Session) -> None:
    limited("SELECT cache_configure('mine', eviction => 'none')")
    for size in (64, 1280, 6400):
        limited("SET pgcache.tenant = 'a'")
        limited("SELECT cache_clear('mine')")
        limit(limited, "a", size=100_000)
        with refused("PC009", "raise its limit"):
            flood(limited, "a", 2000, value=VALUE.format(size=size), prefix=f"{size} ")
        assert 100_000 - 2 * size <= bytes_of(limited, "a") <= 100_000 + 2 * size
    for key in limited.column("SELECT cache_key FROM cache_type_mine WHERE tenant = 'a'"):
        with refused("PC009"):
            limited(f"SELECT cache_set('mine', %s, {VALUE.format(size=12_800)}) FROM (VALUES (1)) v (i)", key)
            limited(f"SELECT cache_set('mine', %s, {VALUE.format(size=12_800)}) FROM (VALUES (1)) v (i)", key)
        break


@pytest.mark.once
def test_none_holds_for_concurrent_sessions(limited: Session, new_session: NewSession) -> None:
    limited("SELECT cache_configure('mine', eviction => 'none')")
    sessions = [new_session() for _ in range(5)]

    def until_refused(n: int) -> None:
        with refused("PC009"):
            flood(sessions[n], "a", LIMIT * 2, prefix=f"{n} ", at_a_time=10)

    # Nobody is who does not know yet what there is, as after a crash.
    at_once(*(lambda n=n: flood(sessions[n], "a", 1, prefix=f"first {n} ") for n in range(5)))
    at_once(*(lambda n=n: until_refused(n) for n in range(5)))
    assert LIMIT * 0.9 <= held(limited)["a"] <= LIMIT


@pytest.mark.once
def test_in_a_full_type_others_keep_what_they_have(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 1000)")
    flood(ask, "b", 980)
    limit(ask, "a", 100)
    for how in FLOODS:
        flood(ask, "a", 1000, how=how, prefix=how)
        assert held(ask)["a"] <= 100
        assert held(ask)["b"] >= 840
        assert sum(held(ask).values()) <= 1000


def test_a_lower_limit_holds_with_the_next_write_or_the_clean_up(limited: Session) -> None:
    flood(limited, "a", LIMIT)
    flood(limited, "", LIMIT)
    for tenant in ("a", ""):
        limit(limited, tenant, 50)
    assert held(limited)["a"] > 150
    flood(limited, "a", 1)
    assert held(limited)["a"] <= 50
    limited("RESET pgcache.tenant")
    assert limited("SELECT cache_cleanup()") == LIMIT - 50
    assert held(limited)[""] == 50
    limit(limited, "", 20)
    limited("CALL cache_upkeep()")
    assert held(limited)[""] == 20
    assert limited("SELECT cache_cleanup()") == 0
    assert limits(limited) == {"a": (50, None), "": (20, None)}


def test_limits_are_kept_whatever_becomes_of_the_entries(limited: Session) -> None:
    """Not even who is forgotten loses his limit: it is the owner's, and a tenant may forget itself."""
    flood(limited, "a", 10)
    limited("RESET pgcache.tenant")
    limited("SELECT cache_forget('a')")
    assert limits(limited) == {"a": (LIMIT, None)}
    limited("SELECT cache_configure('mine', enabled => false)")
    limited("SELECT cache_configure('mine', enabled => true, eviction => 'fifo', durable => false)")
    flood(limited, "a", LIMIT * 2)
    assert held(limited)["a"] <= LIMIT


def test_limits_go_with_their_type(limited: Session) -> None:
    limit(limited, "c", 10)
    limited("SELECT cache_drop_type('mine')")
    assert limited("SELECT count(*) FROM pgcache_internal.tenant_limits") == 0
    limited("SELECT cache_create_type('mine')")
    flood(limited, "a", LIMIT * 2)
    assert held(limited)["a"] == LIMIT * 2
    assert limits(limited) == {}
    limit(limited, "b", 10)
    limited("DROP TABLE pgcache.cache_type_mine")
    limited("SELECT cache_create_type('mine')")
    assert limits(limited) == {}
    assert not limited("SELECT pgcache_internal.tenant_is_limited('mine', 'b')")


def test_counters_are_used_again(limited: Session) -> None:
    counters = "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relname LIKE 'tenant_room%'"
    limit(limited, "c", 10)
    assert limited(counters) == ["tenant_room_1", "tenant_room_2"]
    limit(limited, "a")
    limit(limited, "d", 10)
    limit(limited, "d", None, 10)
    limit(limited, "c", 10)
    assert limited(counters) == ["tenant_room_1", "tenant_room_2"]
    assert limits(limited) == {"c": (10, None), "d": (None, 10)}


def test_any_text_is_a_tenant_and_any_positive_number_a_limit(limited: Session) -> None:
    name = """q'u"o\\te, {ü} NULL %s $$"""
    limit(limited, name, 10)
    limit(limited, "", 9223372036854775807, 9223372036854775807)
    for tenant in (name, ""):
        flood(limited, tenant, 50)
        flood(limited, tenant, 50, how="batch")
    assert held(limited) == {name: 10, "": 50, "b": 300}
    assert limits(limited)[name] == (10, None)


def test_what_no_limit_can_be(limited: Session) -> None:
    for arguments, sqlstate, hint in (
        ("'nope', 'a', 1", "PC001", "The types"),
        ("NULL, 'a', 1", "PC001", "The types"),
        ("'mine', NULL, 1", "PC002", "1024 bytes"),
        ("'mine', repeat('x', 1025), 1", "PC002", "1024 bytes"),
        ("'mine', 'a', 0", "PC010", "a positive number"),
        ("'mine', 'a', -1", "PC010", "cache_tenant_limit('mine', 'a')"),
        ("'mine', 'a', 1, 0", "PC010", "a positive number"),
    ):
        with refused(sqlstate, hint):
            limited(f"SELECT cache_tenant_limit({arguments})")
    assert limits(limited) == {"a": (LIMIT, None)}


def test_a_crash_forgets_no_limit(limited: Session) -> None:
    """The counters restart; then the next write counts what there is."""
    flood(limited, "a", LIMIT)
    limited("ALTER SEQUENCE pgcache_internal.tenant_room_1 RESTART")
    flood(limited, "a", 1, prefix="new ")
    assert LIMIT * KEPT <= held(limited)["a"] <= LIMIT


def test_types_without_limits_of_tenants_have_nothing_of_it(limited: Session) -> None:
    plan = "EXPLAIN (VERBOSE) SELECT pgcache_internal.tenant_is_limited({}, current_setting('pgcache.tenant'))"
    assert "Output: false" in "".join(limited.column(plan.format("'store'")))
    assert "jsonb" in "".join(limited.column(plan.format("'mine'")))
