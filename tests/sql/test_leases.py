"""Leases: one computes, and what it computes is stored only if nothing has changed since it began."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until as until

FETCH = "SELECT * FROM cache_fetch('store', 'k', '{t}', wait => '0')"
SET = "SELECT cache_set('store', 'k', '\"old\"', token => %s)"


def won(session: Session, fetch: str = FETCH) -> int:
    row = session.row(fetch)
    assert (row["value"], row["state"]) == (None, "won")
    assert row["token"]
    return int(row["token"])


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_one_computes_and_stores(shared: Session, type: str) -> None:
    value = VALUES.get(type, ["1"])[0]
    shared("SELECT cache_delete(%s, 'leased')", type)
    row = shared.row("SELECT * FROM cache_fetch(%s, 'leased')", type)
    assert (row["value"], row["state"]) == (None, "won")
    busy = shared.row("SELECT * FROM cache_fetch(%s, 'leased', wait => '1 millisecond')", type)
    assert busy == {"value": None, "state": "busy", "token": None}
    assert shared("SELECT cache_set(%s, 'leased', %s, token => %s)", type, value, row["token"]) is True
    found = shared.row("SELECT * FROM cache_fetch(%s, 'leased')", type)
    assert (found["state"], found["token"]) == ("fresh", None)
    assert found["value"] == shared("SELECT cache_get(%s, 'leased')", type)
    assert shared("SELECT cache_set(%s, 'leased', %s, token => %s)", type, value, row["token"]) is False


def by_a_tag(session: Session) -> None:
    session("SELECT cache_invalidate_tags('t')")


def by_its_group(session: Session) -> None:
    session("SELECT cache_fetch('store', 'l', '{t:1}', wait => '0')")
    session("SELECT cache_invalidate_tags('t')")


def by_delete(session: Session) -> None:
    session("SELECT cache_delete('store', 'k')")


def by_delete_many(session: Session) -> None:
    session("SELECT cache_delete_many('store', '{z,k,k,a}')")


def by_soft_delete(session: Session) -> None:
    session("SELECT cache_delete('store', 'k', soft => true)")


def by_pattern(session: Session) -> None:
    session("SELECT cache_delete_pattern('store', 'k%')".replace("%", "%%"))


def by_clear(session: Session) -> None:
    session("SELECT cache_clear('store')")


def by_clear_all(session: Session) -> None:
    session("SELECT cache_clear_all()")


def by_set(session: Session) -> None:
    session("SELECT cache_set('store', 'k', '\"new\"')")


def by_set_many(session: Session) -> None:
    session("SELECT cache_set_many_json('store', '{\"k\": \"new\"}')")


def by_add(session: Session) -> None:
    session("SELECT cache_add('store', 'k', '\"new\"')")


VOIDS = [by_a_tag, by_its_group, by_delete, by_delete_many, by_soft_delete, by_pattern, by_clear, by_clear_all, by_set,
         by_set_many, by_add]  # fmt: skip
STORES = [by_set, by_set_many, by_add]


@pytest.mark.parametrize("void", VOIDS)
@pytest.mark.parametrize("expired", [False, True], ids=["absent", "expired"])
def test_what_changes_voids_the_token(ask: Session, new_session: NewSession, void: Any, expired: bool) -> None:
    other = new_session()
    if expired:
        ask("SELECT cache_set('store', 'k', '0', '1 millisecond'), pg_sleep(0.002)")
    token = won(ask)
    void(other)
    assert ask(SET, token) is False
    assert ask("SELECT cache_get('store', 'k')") == ("new" if void in STORES else None)


@pytest.mark.parametrize("void", VOIDS)
@pytest.mark.parametrize("commits", [True, False])
def test_what_changes_before_the_claim_and_commits_after_it(
    ask: Session, new_session: NewSession, void: Any, commits: bool
) -> None:
    """The holder reads what was there before the commit: nobody can claim until then, or the token is void."""
    other = new_session()
    other("BEGIN")
    void(other)
    fetched = ask.start("SELECT to_json(f) FROM cache_fetch('store', 'k', '{t}', wait => '30 seconds') f")
    if void in (by_delete, by_delete_many, by_soft_delete):
        until(lambda: not fetched.done() and bool(other("SELECT 1 FROM pg_locks WHERE NOT granted")))
        other("COMMIT" if commits else "ROLLBACK")
        token = fetched.result()["token"]
        assert ask(SET, token) is True, "what it reads now is new"
        return
    token = fetched.result()["token"]
    other("COMMIT" if commits else "ROLLBACK")
    assert ask(SET, token) is not commits


@pytest.mark.parametrize("void", [by_delete, by_delete_many, by_soft_delete, by_pattern, by_clear, by_clear_all,
                                  *STORES])  # fmt: skip
@pytest.mark.parametrize("commits", [True, False])
def test_a_set_waits_for_who_is_deleting_the_entry(
    ask: Session, new_session: NewSession, void: Any, commits: bool
) -> None:
    other = new_session()
    token = won(ask)
    other("BEGIN")
    void(other)
    stored = ask.start(SET, token)
    until(lambda: bool(other("SELECT 1 FROM pg_locks WHERE NOT granted")))
    assert not stored.done()
    other("COMMIT" if commits else "ROLLBACK")
    assert stored.result() is not commits


@pytest.mark.parametrize("void", [by_pattern, by_clear, by_clear_all])
@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("where", ["alone", "in a transaction", "in one that has written before the other one"])
def test_a_deletion_of_many_that_began_before_the_claim_and_commits_after_the_set(
    ask: Session, new_session: NewSession, void: Any, commits: bool, where: str
) -> None:
    """It has found neither the lease nor the entry."""
    other = new_session()
    ask("SELECT cache_set('store', 'l', '1')")
    if where != "alone":
        ask("BEGIN")
    if where.endswith("other one"):
        ask("SELECT pg_current_xact_id()")
    other("BEGIN")
    void(other)
    assert ask(SET, won(ask)) is True
    if where != "alone":
        ask("COMMIT")
    assert ask("SELECT cache_get('store', 'k')") == "old"
    other("COMMIT" if commits else "ROLLBACK")
    assert ask("SELECT cache_get('store', 'k')") == (None if commits else "old")
    assert ask("SELECT cache_get('store', 'l')") == (None if commits and void is not by_pattern else 1)


@pytest.mark.parametrize("mode", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("void", [by_a_tag, by_pattern, by_clear, by_clear_all])
def test_a_computation_in_a_snapshot_from_before_the_commit(
    ask: Session, new_session: NewSession, mode: str, void: Any
) -> None:
    other = new_session()
    other("BEGIN")
    void(other)
    token = won(ask)
    ask(f"BEGIN ISOLATION LEVEL {mode}")
    ask("SELECT 1 FROM pg_class LIMIT 1")  # what it computes is of before the commit
    other("COMMIT")
    ask(SET, token)
    ask("COMMIT")
    assert ask("SELECT cache_get('store', 'k')") is None


def test_an_invalidation_that_commits_while_the_set_is_at_it(ask: Session, new_session: NewSession) -> None:
    """Between the question what has changed, and the answer as of when it is stored."""
    other, third = new_session(), new_session()
    ask("SELECT cache_set('store', 'k', '0')")
    ask("SELECT cache_delete('store', 'k', soft => true)")
    token = won(ask)
    third("BEGIN")
    third("SELECT FROM cache_type_store FOR UPDATE")
    stored = ask.start(SET, token)
    until(lambda: bool(other("SELECT 1 FROM pg_locks WHERE NOT granted")))
    other("SELECT cache_invalidate_tags('t')")
    third("COMMIT")
    stored.result()
    assert ask("SELECT cache_get('store', 'k')") is None


def test_an_invalidation_that_commits_after_the_set(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    other("BEGIN")
    other("SELECT cache_invalidate_tags('t')")
    assert ask(SET, won(ask)) is True
    assert ask("SELECT cache_get('store', 'k')") == "old"
    other("COMMIT")
    assert ask("SELECT cache_get('store', 'k')") is None


def test_tags_of_the_computation_are_captured_at_the_claim_too(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    token = won(ask)
    other("SELECT cache_invalidate_tags('found:1')")
    assert ask("SELECT cache_set('store', 'k', '1', tags => '{found:1}', token => %s)", token) is False
    token = won(ask)
    assert ask("SELECT cache_set('store', 'k', '1', tags => '{found:1}', token => %s)", token) is True
    for tag in ("t", "found:*"):
        other("BEGIN")
        other("SELECT cache_invalidate_tags(%s)", tag)
        assert other("SELECT cache_get('store', 'k')") is None, tag
        other("ROLLBACK")


def test_its_own_transaction_may_change_what_it_has_fetched(ask: Session) -> None:
    ask("BEGIN")
    token = won(ask)
    ask("SELECT cache_invalidate_tags('t')")
    assert ask(SET, token) is False
    token = won(ask)
    assert ask(SET, token) is True
    ask("COMMIT")
    assert ask("SELECT cache_get('store', 'k')") == "old"


def test_a_lease_that_is_given_back(ask: Session) -> None:
    token = won(ask)
    assert ask("SELECT cache_release('store', 'k', %s)", token + 1) is False
    assert ask("SELECT cache_release('store', 'other', %s)", token) is False
    assert ask("SELECT cache_release('store', 'k', NULL)") is False
    assert ask(FETCH.replace("*", "state")) == "busy"
    assert ask("SELECT cache_release('store', 'k', %s)", token) is True
    assert ask(SET, token) is False
    won(ask)


def test_a_holder_that_dies_costs_its_deadline(ask: Session, new_session: NewSession) -> None:
    ask.set_clock("2030-01-01 00:00+00")
    token = won(ask)
    ask.set_clock("2030-01-01 00:00:29.999+00")
    assert ask(FETCH.replace("*", "state")) == "busy"
    ask.set_clock("2030-01-01 00:00:30+00")
    second = won(ask)
    assert ask(SET, token) is False, "another one has it"
    assert ask(SET, second) is True


def test_a_late_holder_may_store_if_nobody_else_has_begun(ask: Session) -> None:
    ask.set_clock("2030-01-01 00:00+00")
    token = won(ask)
    ask.set_clock("2030-01-01 00:10+00")
    assert ask(SET, token) is True


def test_a_claim_that_is_rolled_back(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    other("BEGIN")
    token = won(other)
    waits = ask.start("SELECT state FROM cache_fetch('store', 'k', wait => '30 seconds')")
    until(lambda: bool(other("SELECT 1 FROM pg_locks WHERE NOT granted")))
    other("ROLLBACK")
    assert waits.result() == "won"
    assert other(SET, token) is False


def test_who_waits_does_not_keep_the_holder_from_storing(ask: Session, new_session: NewSession) -> None:
    """Neither one that has met the holder's row before this was committed."""
    other = new_session()
    ask("BEGIN")
    token = won(ask)
    waits = other.start("SELECT to_json(f) FROM cache_fetch('store', 'k', wait => '10 seconds') f")
    until(lambda: bool(ask("SELECT 1 FROM pg_locks WHERE NOT granted")))
    ask("COMMIT")
    assert ask(SET, token) is True
    assert waits.result() == {"value": "old", "state": "fresh", "token": None}


def test_who_waits_gets_the_value(ask: Session, new_session: NewSession) -> None:
    token = won(ask)
    others = [new_session() for _ in range(4)]
    fetch = "SELECT to_json(f) FROM cache_fetch('store', 'k', wait => '30 seconds') f"
    values = [other.start(fetch) for other in others]
    assert ask(SET, token) is True
    assert [value.result() for value in values] == [{"value": "old", "state": "fresh", "token": None}] * 4


@pytest.mark.parametrize("mode", ["ISOLATION LEVEL REPEATABLE READ", "ISOLATION LEVEL SERIALIZABLE", "READ ONLY"])
def test_no_lease_where_it_could_not_be_kept(ask: Session, mode: str) -> None:
    with ask.transaction(mode):
        assert ask.row(FETCH) == {"value": None, "state": "won", "token": None}
        assert ask.row(FETCH) == {"value": None, "state": "won", "token": None}
    token = won(ask)
    if "READ ONLY" not in mode:
        with ask.transaction(mode):
            assert ask(SET, token) is True


def test_a_disabled_type_has_no_leases(ask: Session) -> None:
    ask("SELECT cache_configure('store', enabled => false)")
    assert ask.row(FETCH) == {"value": None, "state": "won", "token": None}


def test_stale_within_a_bound(ask: Session) -> None:
    ask.set_clock("2030-01-01 00:00+00")
    fetch = "SELECT * FROM cache_fetch('store', 'k', '{t}', stale_for => '10 minutes', wait => '0')"
    assert ask("SELECT cache_set('store', 'k', '\"old\"', '1 hour', token => %s)", won(ask, fetch)) is True
    ask.set_clock("2030-01-01 01:00+00")
    row = ask.row(fetch)
    assert (row["value"], row["state"]) == ("old", "stale_won")
    assert ask.row(fetch) == {"value": "old", "state": "stale", "token": None}
    assert ask.row(FETCH) == {"value": None, "state": "busy", "token": None}, "who asks for none gets none"
    assert ask("SELECT cache_get('store', 'k')") is None
    ask.set_clock("2030-01-01 01:10+00")
    won(ask, fetch)


def test_what_was_invalidated_is_never_served_stale(ask: Session) -> None:
    fetch = "SELECT * FROM cache_fetch('store', 'k', '{t}', stale_for => '10 minutes', wait => '0')"
    ask("SELECT cache_set('store', 'k', '\"old\"', token => %s)", won(ask, fetch))
    ask("SELECT cache_invalidate_tags('t')")
    token = won(ask, fetch)
    ask("SELECT cache_set('store', 'k', '\"old\"', token => %s)", token)
    ask("SELECT cache_delete('store', 'k')")
    won(ask, fetch)


def test_a_soft_delete_marks_it_stale(ask: Session) -> None:
    fetch = "SELECT * FROM cache_fetch('store', 'k', stale_for => '10 minutes', wait => '0')"
    ask("SELECT cache_set('store', 'k', '\"old\"')")
    assert ask("SELECT cache_delete('store', 'k', soft => true)") is True
    assert ask("SELECT cache_delete('store', 'k', soft => true)") is False
    assert ask("SELECT cache_get('store', 'k')") is None
    assert ask("SELECT state FROM cache_fetch('store', 'k', wait => '0')") == "won"
    row = ask.row(fetch)
    assert (row["value"], row["state"]) == ("old", "stale")


def test_a_slow_entry_is_renewed_early_by_one(ask: Session) -> None:
    ask.set_clock("2030-01-01 00:00+00")
    ask("SELECT cache_set('store', 'k', '1', '1 hour', token => %s)", won(ask))
    ask("UPDATE cache_type_store SET cache_compute_ms = 60000")
    states = """SELECT (f).state, count(*), count((f).token)
        FROM (SELECT cache_fetch('store', 'k') AS f FROM generate_series(1, 200) OFFSET 0) fetched GROUP BY 1"""
    ask.set_clock("2030-01-01 00:00:01+00")
    assert ask.rows(states) == [("fresh", 200, 0)]
    ask.set_clock("2030-01-01 00:59:30+00")
    assert {state: (n > 0, tokens) for state, n, tokens in ask.rows(states)} == {
        "fresh": (True, 0), "stale_won": (True, 1)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sqlstate"),
    [
        ("'store', 'k', wait => '-1 s'", "PC003"), ("'store', 'k', wait => NULL", "PC003"),
        ("'store', 'k', wait => '2 hours'", "PC003"), ("'store', 'k', wait => '178000000 years'", "PC003"),
        ("'store', 'k', lease => '0'", "PC003"),
        ("'store', 'k', lease => NULL", "PC003"), ("'store', 'k', lease => 'infinity'", None),
        ("'store', 'k', stale_for => '-1 s'", "PC003"), ("'store', ''", "PC002"), ("'store', NULL", "PC002"),
        ("NULL, 'k'", "PC001"), ("'nope', 'k'", "PC001"), ("'store', 'k', NULL", None),
    ],
)  # fmt: skip
def test_bad_calls(shared: Session, arguments: str, sqlstate: str | None) -> None:
    if sqlstate:
        with refused(sqlstate, ""):
            shared(f"SELECT cache_fetch({arguments})")


@pytest.mark.parametrize(
    ("arguments", "sqlstate"),
    [
        ("lease => '1 month -30 days 1 minute'", "PC003"), ("lease => '119000 months -3570000 days 1 minute'", "PC003"),
        ("lease => '1000 years'", "PC003"), ("stale_for => '3500000 months -104999970 days'", "PC003"),
        ("stale_for => '178000000 years'", "PC003"), ("tags => array_fill('t'::text, '{1000}')", "PC013"),
        ("tags => array[e'\\x01store\\x01']", "PC013"),
    ],
)  # fmt: skip
def test_what_no_lease_can_have(shared: Session, arguments: str, sqlstate: str) -> None:
    """A comparison takes a month for 30 days; a lease until the year 2169 would be one for good."""
    shared("SELECT cache_clear('store')")
    name, _, value = arguments.partition(" => ")
    given = {"tags": "'{}'", "stale_for": "NULL", "lease": "'1 minute'", name: value}
    anew = "pgcache_internal.claim_anew('store', 'k', {tags}, {stale_for}, NULL, {lease})".format(**given)
    calls = [f"cache_fetch('store', 'k', {arguments})", anew]
    for call in calls:
        with refused(sqlstate):
            shared(f"SELECT {call}")
    shared(SET, won(shared))
    shared("UPDATE cache_type_store SET cache_compute_ms = 1e30")  # so that whoever reads it renews it
    for call in calls:
        with refused(sqlstate):
            shared(f"SELECT {call}")
    assert shared("SELECT count(*) FROM pgcache_internal.leases WHERE deadline > now()") == 0
    if name == "lease":
        token = shared("SELECT token FROM cache_fetch('store', 'k')")
        with refused(sqlstate):
            shared(f"SELECT pgcache_internal.hold_lease('store', 'k', %s, {value})", token)
        shared("SELECT cache_release('store', 'k', %s)", token)


def test_a_token_that_is_none(ask: Session) -> None:
    assert ask("SELECT cache_set('store', 'k', '1', token => 0)") is False
    assert ask("SELECT cache_set('store', 'k', '1', token => -1)") is False
    assert ask(SET, won(ask)) is True
    ask("DELETE FROM pgcache.cache_store WHERE cache_key = 'k'")  # as if it were evicted
    assert ask("SELECT cache_set('store', 'k', '1', token => 0)") is False, "what is left of a lease is none"
    ask("SELECT cache_delete('store', 'k')")
    assert ask("SELECT cache_set('store', 'k', '1', token => 0)") is False
    with refused("PC004"):
        ask("SELECT cache_set('store', 'k', NULL, token => %s)", won(ask))


@pytest.mark.parametrize("mode", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("expired", [False, True], ids=["absent", "expired"])
def test_who_deletes_what_it_does_not_see_is_told(
    ask: Session, new_session: NewSession, mode: str, expired: bool
) -> None:
    """Its snapshot is older than the entry, which was computed from what it is changing."""
    deleter = new_session()
    if expired:
        ask("SELECT cache_set('store', 'k', '0', '1 millisecond'), pg_sleep(0.002)")
    deleter(f"BEGIN ISOLATION LEVEL {mode}")
    deleter("SELECT 1 FROM pg_class LIMIT 1")
    assert ask(SET, won(ask)) is True
    with refused("40001"):
        deleter("SELECT cache_delete('store', 'k')")
    deleter("ROLLBACK")
    with deleter.transaction(f"ISOLATION LEVEL {mode}"):
        assert deleter("SELECT cache_delete('store', 'k')") is True


def test_a_type_that_was_emptied_or_made_anew_has_no_old_leases(ask: Session) -> None:
    token = won(ask)
    ask("SELECT cache_configure('store', enabled => false), cache_configure('store', enabled => true)")
    assert ask(SET, token) is False
    ask("SELECT cache_create_type('mine')")
    fetch = "SELECT token FROM cache_fetch('mine', 'k')"
    token = ask(fetch)
    ask("SELECT cache_drop_type('mine'), cache_create_type('mine')")
    assert ask("SELECT cache_set('mine', 'k', '1', token => %s)", token) is False
    assert ask(fetch)


def test_who_comes_too_late_to_compute_leaves_a_trace_of_who_did(ask: Session, new_session: NewSession) -> None:
    """Of two who missed it at the same time the second one claims what is left of the first one's lease."""
    deleter, late = new_session(), new_session()
    deleter("BEGIN ISOLATION LEVEL REPEATABLE READ")
    deleter("SELECT 1 FROM pg_class LIMIT 1")
    assert ask(SET, won(ask)) is True
    found = late("SELECT state FROM pgcache_internal.fetch_missing('store', 'k', '{t}', NULL, '0', '30 seconds')")
    assert found == "fresh"
    with refused("40001"):
        deleter("SELECT cache_delete('store', 'k')")
    deleter("ROLLBACK")


def test_sql_for_a_schema_that_has_changed_meanwhile(ask: Session) -> None:
    token = ask("SELECT token FROM cache_fetch('ai_worker', 'k')")
    ask("SELECT cache_invalidate_schema('v1')")
    value = '{"prompt_text": "p", "model": "m", "schema_version": "v1", "generated_sql": "SELECT 1"}'
    assert ask("SELECT cache_set('ai_worker', 'k', %s, token => %s)", value, token) is False


AHEAD = "(pg_current_xact_id()::text::bigint + 1000000000)::text::xid8"


@pytest.mark.parametrize("folded", [False, True])
def test_bumps_of_another_server_refuse_no_token(ask: Session, folded: bool) -> None:
    """Restored where the numbers of transactions are lower, they seem to be of transactions that have not begun."""
    ask("SELECT cache_invalidate_tags('doc:1')")
    ask(f"UPDATE pgcache_internal.tag_bumps SET xid = {AHEAD}, bumped_at = bumped_at - interval '1 day'")
    if folded:
        ask("UPDATE pgcache_internal.tag_bumps SET last_xid = xid, folded_at = bumped_at")
    token = ask("SELECT token FROM cache_fetch('store', 'k', '{doc:1}')")
    assert ask("SELECT cache_set('store', 'k', '1', token => %s)", token) is True
    assert ask("SELECT cache_get('store', 'k')") == 1
    ask("SELECT cache_delete('store', 'k')")
    token = ask("SELECT token FROM cache_fetch('store', 'k', '{doc:1}')")
    ask("SELECT cache_invalidate_tags('doc:1')")
    assert ask("SELECT cache_set('store', 'k', '1', token => %s)", token) is False
    ask("CALL cache_upkeep()")
    assert ask(f"SELECT count(*) FROM pgcache_internal.tag_bumps WHERE greatest(xid, last_xid) >= {AHEAD}") == 0


def test_a_token_of_another_server_is_void(ask: Session) -> None:
    token = ask("SELECT token FROM cache_fetch('store', 'k')")
    ask("UPDATE pgcache_internal.leases SET seen = format('%1$s:%1$s:', " + AHEAD + ")::pg_snapshot")
    assert ask("SELECT cache_set('store', 'k', '1', token => %s)", token) is False
