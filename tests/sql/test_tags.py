"""Tags: one statement invalidates all entries that depend on something, for everybody and by transaction."""

from __future__ import annotations

import pytest

from tests.conftest import NewRole, NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until

HIT = "SELECT cache_get('store', 'k') IS NOT NULL"


def test_an_entry_is_valid_until_one_of_its_tags_is_invalidated(shared: Session) -> None:
    shared("SELECT cache_set('mine', 'k', '1', tags => '{doc:42, user:7}')")
    shared("SELECT cache_set('mine', 'other', '1', tags => '{doc:43}'), cache_set('mine', 'untagged', '1')")
    shared("SELECT cache_invalidate_tags('doc:4', 'doc', 'DOC:42', 'user')")
    assert shared("SELECT cache_get('mine', 'k')") == 1
    shared("SELECT cache_invalidate_tags('doc:42')")
    assert shared("SELECT cache_get('mine', 'k')") is None
    assert shared.column("SELECT key FROM cache_live('mine') ORDER BY key") == ["other", "untagged"]


def test_a_group_is_all_tags_that_begin_with_its_name(shared: Session) -> None:
    shared("SELECT cache_set('mine', 'k', '1', tags => '{doc:42:page:1}')")
    shared("SELECT cache_set('mine', 'l', '1', tags => '{doc}')")
    shared("SELECT cache_invalidate_tags('doc:42:*', 'do:*', '*', 'doc%')")
    assert shared("SELECT cache_get('mine', 'k')") == 1
    shared("SELECT cache_invalidate_tags('doc:*')")
    assert shared("SELECT cache_get('mine', 'k')") is None
    assert shared("SELECT cache_get('mine', 'l')") == 1


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_all_that_reads_an_invalid_entry_misses_it(shared: Session, type: str) -> None:
    value = VALUES.get(type, ["1"])[0]
    shared("SELECT cache_clear(%s)", type)
    shared("SELECT cache_set(%s, 'k', %s, tags => '{t}')", type, value)
    assert shared("SELECT cache_get(%s, 'k') IS NOT NULL", type)
    hits, misses = shared.rows("SELECT hits, misses FROM cache_stats WHERE type = %s", type)[0]
    shared("SELECT cache_invalidate_tags('t')")
    assert shared("SELECT cache_get(%s, 'k')", type) is None
    assert shared("SELECT value IS NULL FROM cache_get_many(%s, '{k}')", type)
    assert shared("SELECT cache_get_many_json(%s, '{k}')::text", type) == "{}"
    assert shared("SELECT cache_exists(%s, 'k')", type) is False
    assert shared("SELECT cache_ttl(%s, 'k')", type) is None
    assert shared("SELECT cache_touch(%s, 'k')", type) is False
    assert shared("SELECT cache_persist(%s, 'k')", type) is False
    assert shared("SELECT count(*) FROM cache_keys(%s)", type) == 0
    assert shared("SELECT expired FROM cache_entry(%s, 'k')", type) is True
    assert shared("SELECT count(*) FROM cache_top WHERE type = %s", type) == 0
    assert shared.rows(
        "SELECT entries, valid, expired, hits, misses FROM cache_stats WHERE type = %s", type
    ) == [(1, 0, 1, hits, misses + 3)]  # fmt: skip
    assert shared("SELECT sum(valid) FROM cache_tenant_stats() WHERE type = %s", type) == 0
    assert shared("SELECT cache_delete(%s, 'k')", type) is False


@pytest.mark.parametrize("writer", ["cache_set('mine', 'k', '2')", "cache_set_many_json('mine', '{\"k\": 2}')",
                                    "cache_add('mine', 'k', '2')", "cache_incr('mine', 'k', 2)"])  # fmt: skip
def test_what_is_stored_in_its_place_has_no_tags(shared: Session, writer: str) -> None:
    shared("SELECT cache_set('mine', 'k', '1', tags => '{t}'), cache_invalidate_tags('t')")
    assert shared(f"SELECT {writer}")
    assert shared("SELECT cache_get('mine', 'k')") == 2
    shared("SELECT cache_invalidate_tags('t')")
    assert shared("SELECT cache_get('mine', 'k')") == 2


def test_add_keeps_a_tagged_entry_that_is_valid(shared: Session) -> None:
    shared("SELECT cache_set('mine', 'k', '1', tags => '{t}')")
    assert shared("SELECT cache_add('mine', 'k', '2')") is False
    assert shared("SELECT cache_get('mine', 'k')") == 1


def test_a_counter_keeps_its_tags(shared: Session) -> None:
    shared("SELECT cache_set('mine', 'n', '1', tags => '{t}'), cache_incr('mine', 'n')")
    assert shared("SELECT cache_get('mine', 'n')") == 2
    shared("SELECT cache_invalidate_tags('t')")
    assert shared("SELECT cache_get('mine', 'n')") is None


def test_an_invalidation_is_part_of_its_transaction(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    ask("SELECT cache_set('store', 'k', '1', tags => '{t}')")
    with ask.transaction():
        ask("SELECT cache_invalidate_tags('t')")
        assert ask(HIT) is False, "the transaction sees its own"
        assert other(HIT) is True, "others do not"
    assert ask(HIT) is True, "it was rolled back"
    with other.transaction("ISOLATION LEVEL REPEATABLE READ"):
        assert other(HIT) is True
        ask("SELECT cache_invalidate_tags('t')")
        assert ask(HIT) is False
        assert other(HIT) is True, "as of when the transaction began"
    assert other(HIT) is False


def test_what_was_read_before_the_commit_is_invalid_after_it(ask: Session, new_session: NewSession) -> None:
    """Whatever the order in which one stores and the other commits."""
    writer = new_session()
    writer("BEGIN")
    writer("SELECT cache_invalidate_tags('t')")
    ask("SELECT cache_set('store', 'k', '\"old\"', tags => '{t}')")  # what it has read is older than the commit
    assert ask(HIT) is True
    writer("COMMIT")
    assert ask(HIT) is False


def test_two_invalidations_do_not_cancel_out(ask: Session) -> None:
    ask("SELECT setseed(0.5)")
    ask("SELECT cache_set('store', 'k', '1', tags => '{t}'), cache_invalidate_tags('t', 't')")
    ask("SELECT setseed(0.5), cache_invalidate_tags('t')")
    ask("SELECT setseed(0.5), cache_invalidate_tags('t')")
    assert ask(HIT) is False


def test_tenants_invalidate_their_own(ask: Session, role: NewRole) -> None:
    for tenant in ("", "a", "b"):
        ask("SELECT set_config('pgcache.tenant', %s, false)", tenant)
        ask("SELECT cache_set('store', 'k', '1', tags => '{t}')")

    def hits() -> list[bool]:
        found = []
        for tenant in ("", "a", "b"):
            ask("SELECT set_config('pgcache.tenant', %s, false)", tenant)
            found.append(ask(HIT))
        return found

    ask("SET pgcache.tenant = 'a'")
    ask("SELECT cache_invalidate_tags('t')")
    assert hits() == [True, False, True]
    walled = role("write")
    user = walled("SELECT current_user")
    ask("SELECT cache_grant(%s, 'write', tenants => '{b}')", user)
    walled("SELECT cache_invalidate_tags('t')")
    assert hits() == [True, False, False]
    ask("RESET pgcache.tenant")
    ask("SELECT cache_invalidate_tags('t')")
    assert hits() == [False, False, False]


@pytest.mark.parametrize("tags", ["{NULL}", "{''}", '{"\\u0001"}', "{%s}" % ("x" * 257), '{"a\nb"}'])
def test_what_cannot_be_a_tag(shared: Session, tags: str) -> None:
    tags = tags.replace("''", '""').replace("\\u0001", "\x01")
    with refused("PC013", "1 to 256 bytes"):
        shared("SELECT cache_set('mine', 'k', '1', tags => %s)", tags)
    with refused("PC013"):
        shared("SELECT cache_fetch('mine', 'absent', %s)", tags)
    with refused("PC013"):
        shared("SELECT cache_invalidate_tags(VARIADIC %s::text[])", tags)


def test_how_many_tags(shared: Session) -> None:
    many = [f"tag:{i}" for i in range(33)]
    with refused("PC013", "a look-up"):
        shared("SELECT cache_set('mine', 'k', '1', tags => %s)", many)
    assert shared("SELECT cache_set('mine', 'k', '1', tags => %s)", many[1:])
    shared("SELECT cache_invalidate_tags(VARIADIC %s)", [f"tag:{i}" for i in range(1000)])
    assert shared("SELECT cache_get('mine', 'k')") is None
    shared("SELECT cache_invalidate_tags(VARIADIC '{}')")
    with refused("PC002"):
        shared("SELECT cache_invalidate_tags(VARIADIC NULL)")


@pytest.mark.parametrize("tag", ["ä:ö", "it's", 'say "hi"', "a%b_c\\", "doc:{id}", "a,b", "💾" * 64])
def test_any_text_may_be_a_tag(shared: Session, tag: str) -> None:
    shared("SELECT cache_set('mine', 'k', '1', tags => %s)", [tag])
    assert shared("SELECT cache_get('mine', 'k')") == 1
    shared("SELECT cache_invalidate_tags(%s)", tag)
    assert shared("SELECT cache_get('mine', 'k')") is None


def test_the_clean_up_removes_what_is_invalid_and_forgets_its_tags(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k' || i, '1', NULL, ARRAY['doc:' || i]) FROM generate_series(1, 100) i")
    ask("SELECT cache_invalidate_tags('doc:' || i), cache_invalidate_tags('doc:' || i) FROM generate_series(1, 50) i")

    def bumped() -> list[str]:
        ask("CALL cache_upkeep()")
        return ask.column("SELECT tag FROM pgcache_internal.tag_bumps")

    # Not before transactions have ended that ran when they came, or were folded, those of other databases, too.
    wait_until(lambda: len(bumped()) == 50)
    assert ask.stats("store")["entries"] == 50
    assert ask("SELECT count(*) FROM cache_keys('store')") == 50
    ask("SELECT cache_set('store', 'k1', '1', tags => '{doc:1}')")
    ask("UPDATE pgcache_internal.tag_bumps SET folded_at = folded_at - interval '3 hours'")
    wait_until(lambda: bumped() == ["doc:1"])
    assert ask(HIT.replace("'k'", "'k1'")) is True
    ask("SELECT cache_invalidate_tags('doc:1')")
    assert ask(HIT.replace("'k'", "'k1'")) is False


def test_a_hot_tag_does_not_collect_bumps(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1', tags => '{t}')")
    ask("SELECT cache_invalidate_tags('t') FROM generate_series(1, 3000)")
    assert ask("SELECT count(*) FROM pgcache_internal.tag_bumps") < 2000
    assert ask(HIT) is False


def test_invalid_entries_make_room_first(ask: Session) -> None:
    ask("SELECT cache_configure('store', max_entries => 1000)")
    ask("SELECT cache_set('store', 'k' || i, '1', NULL, CASE WHEN i % 2 = 0 THEN '{t}'::text[] END)"
        " FROM generate_series(1, 900) i")  # fmt: skip
    ask("SELECT cache_invalidate_tags('t')")
    for first in range(0, 450, 50):
        ask("SELECT cache_set('store', 'n' || i, '1') FROM generate_series(%s::int, %s::int) i", first, first + 49)
    kept = set(ask.column("SELECT * FROM cache_keys('store', 'k%%', NULL)"))
    assert len(kept) >= 400, "the valid ones were spared"


def test_what_may_be_served_stale_is_not_cleaned_up(ask: Session) -> None:
    ask.set_clock("2030-01-01 00:00+00")
    token = ask("SELECT token FROM cache_fetch('store', 'k', stale_for => '10 minutes')")
    ask("SELECT cache_set('store', 'k', '1', '1 hour', token => %s)", token)
    ask.set_clock("2030-01-01 01:05+00")
    assert ask("SELECT cache_cleanup()") == 0
    assert ask("SELECT state FROM cache_fetch('store', 'k', stale_for => '10 minutes')") == "stale_won"
    ask.set_clock("2030-01-01 01:10+00")
    assert ask("SELECT cache_cleanup()") == 1
