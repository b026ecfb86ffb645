"""cache_explain: why a get hits or misses now."""

from __future__ import annotations

from tests.conftest import NewRole, NewSession
from tests.tools.session import Session, refused


def explained(ask: Session, key: str = "k") -> tuple[str, str, list[str]]:
    (outcome, cause), *notes = ask.rows("SELECT outcome, reason FROM cache_explain('store', %s)", key)
    assert {note for note, _ in notes} <= {"note"}
    assert (outcome == "hit") is ask("SELECT cache_get('store', %s) IS NOT NULL", key)
    return outcome, cause, [reason for _, reason in notes]


def test_what_is_absent_there_and_expired(ask: Session) -> None:
    outcome, cause, notes = explained(ask)
    assert (outcome, cause.split(":")[0], notes) == ("miss", "absent", [])
    ask("SELECT cache_set('store', 'k', '1', '1 hour')")
    outcome, cause, notes = explained(ask)
    assert outcome == "hit"
    assert cause.startswith("stored at")
    assert notes[0].startswith("expires at")
    ask.advance("2 hours")
    outcome, cause, notes = explained(ask)
    assert outcome == "miss"
    assert cause.startswith("expired since")


def test_which_tag_was_invalidated_by_whom(ask: Session) -> None:
    ask("CREATE TABLE docs (id int)")
    ask("SELECT cache_watch('docs', 'doc:{id}'), cache_invalidate_tags('user:7')")
    ask("SELECT cache_set('store', 'k', '1', tags => '{doc:1, user:7}')")
    assert "tags: doc:*, doc:1, user:*, user:7" in explained(ask)[2]
    ask("INSERT INTO docs VALUES (1)")
    ask("SELECT cache_invalidate_tags('user:7')")
    cause = explained(ask)[1]
    assert cause.startswith("invalid: tag doc:1 was invalidated at")
    assert cause.endswith("by cache_watch of public.docs")
    ask("CALL cache_upkeep()")
    ask("SELECT cache_set('store', 'k', '1', tags => '{user:7}'), cache_invalidate_tags('user:7')")
    ask("SELECT pgcache_internal.fold_bumps()")
    assert explained(ask)[1].endswith("by cache_invalidate_tags")


def test_a_lease_a_disabled_and_a_full_type(ask: Session) -> None:
    ask("SELECT cache_fetch('store', 'k')")
    assert any(note.startswith("is being computed: its lease is held until") for note in explained(ask)[2])
    ask("SELECT cache_configure('store', enabled => false)")
    assert any("is disabled" in note for note in explained(ask)[2])
    ask("SELECT cache_configure('store', enabled => true, max_entries => 1, eviction => 'none')")
    ask("SELECT cache_set('store', 'other', '1'), cache_cleanup('store')")
    assert any("is full" in note for note in explained(ask)[2])


def test_how_much_others_write_is_not_for_a_walled_role(ask: Session, role: NewRole) -> None:
    ask("SELECT cache_configure('store', max_entries => 1)")
    ask("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 5) i")
    ask("SELECT cache_cleanup('store')")
    assert "the type store is full: it has evicted 4 entries" in explained(ask)[2]
    walled = role("read")
    ask("SELECT cache_grant(%s, 'read', tenants => '{b}')", walled("SELECT current_user"))
    assert explained(walled)[2] == ["the type store is full"]


def test_other_tenants_are_named_to_who_may_see_them(ask: Session, role: NewRole) -> None:
    ask("SET pgcache.tenant = 'a'")
    ask("SELECT cache_set('store', 'k', '1')")
    ask("RESET pgcache.tenant")
    assert explained(ask)[2] == ["the tenant 'a' has an entry with this key"]
    walled = role("read")
    ask("SELECT cache_grant(%s, 'read', tenants => '{b}')", walled("SELECT current_user"))
    assert explained(walled)[2] == []


def test_it_writes_nothing(ask: Session, new_session: NewSession) -> None:
    with ask.transaction("READ ONLY"):
        assert explained(ask)[0] == "miss"
    with refused("PC001"):
        ask("SELECT cache_explain('nope', 'k')")
    with refused("PC002"):
        ask("SELECT cache_explain('store', '')")
