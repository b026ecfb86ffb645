"""Versions of entries, and what hot_get, hot_set and hot_report_hits return."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.hot.test_outbox import outbox
from tests.hot.tools import deliver
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once, wait_until

VERSION = "SELECT version FROM cache_type_store WHERE cache_key = 'k'"


@pytest.fixture
def hot(ask: Session) -> Session:
    """A type in the tier, and a relay that has been there."""
    ask("SELECT cache_hot_on('store')")
    deliver(ask)
    return ask


def test_a_version_grows_with_each_change(hot: Session) -> None:
    versions = []
    for change in (
        "SELECT cache_set('store', 'k', '1')",
        "SELECT cache_set('store', 'k', '1')",
        "SELECT cache_incr('store', 'k')",
        "SELECT cache_touch('store', 'k')",
        "UPDATE cache_store SET data = '5'",
        "UPDATE cache_store SET version = 0",
    ):
        hot(change)
        versions.append(hot(VERSION))
    assert versions == sorted(set(versions))
    assert versions[0] > 0


def test_upkeep_leaves_the_version(hot: Session) -> None:
    hot("SELECT cache_set('store', 'k', '1')")
    before = hot(VERSION)
    for _ in range(5):
        hot("SELECT cache_get('store', 'k')")
    hot("SELECT pgcache_internal.fold_log()")
    assert hot("SELECT hit_count FROM cache_store") == 5
    assert hot(VERSION) == before


def test_an_entry_from_before_has_version_0(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_hot_on('store')")
    deliver(ask)
    assert ask(VERSION) is None
    assert ask("SELECT version FROM pgcache_internal.hot_get('store', 'k')") == 0


def test_the_version_in_the_outbox_is_that_of_the_entry_or_a_later_one(hot: Session) -> None:
    hot("SELECT cache_set('store', 'k', '1')")
    stored = hot(VERSION)
    assert hot("SELECT max(version) FROM pgcache_internal.hot_untold()") == stored
    hot("SELECT cache_delete('store', 'k')")
    assert hot("SELECT max(version) FROM pgcache_internal.hot_untold()") > stored


def test_versions_grow_under_concurrent_writers(hot: Session, new_session: Callable[..., Session]) -> None:
    """By the order of the commits: of what is committed last, no other note has a higher version."""

    def write(seed: int) -> Callable[[], None]:
        session, chance = new_session(), random.Random(seed)

        def run() -> None:
            for number in range(60):
                with_delete = chance.random() < 0.4
                session("BEGIN")
                if with_delete:
                    session("SELECT cache_delete('store', 'k')")
                session("SELECT cache_set('store', 'k', %s)", json.dumps([seed, number]))
                session("COMMIT" if chance.random() < 0.8 else "ROLLBACK")

        return run

    at_once(*map(write, range(4)))
    hot("SELECT cache_set('store', 'k', '0')")
    last = hot(VERSION)
    assert hot("SELECT max(version) FROM pgcache_internal.hot_untold()") == last
    assert hot("SELECT count(*) = count(DISTINCT version) FROM pgcache_internal.hot_untold()")


def test_an_insert_that_waited_for_a_delete_is_noted_after_it(
    hot: Session, new_session: Callable[..., Session]
) -> None:
    hot("SELECT cache_set('store', 'k', '1')")
    deliver(hot)
    other = new_session()
    hot("BEGIN")
    hot("SELECT cache_delete('store', 'k')")
    writing = other.start("SELECT cache_set('store', 'k', '2')")
    watcher = new_session()
    wait_until(lambda: watcher("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", other.pid) == "Lock")
    hot("COMMIT")
    assert writing.result(20)
    assert len(hot.rows("SELECT FROM pgcache_internal.hot_untold()")) == 2
    # Its version may be the lower one. The entry that it stands for is then refused by Redis, for seconds, never wrong.
    assert hot("SELECT value FROM pgcache_internal.hot_get('store', 'k')") == "2"
    assert hot(VERSION) in hot.column("SELECT version FROM pgcache_internal.hot_untold()")


# hot_get.


def test_a_hit(hot: Session) -> None:
    hot("SELECT cache_set('store', 'k', '{\"a\": 1}')")
    found = hot.row("SELECT * FROM pgcache_internal.hot_get('store', 'k')")
    assert json.loads(found["value"]) == {"a": 1}
    assert found["version"] == hot(VERSION)
    assert found["epoch"] == "epoch"
    assert 3_590_000 < found["ttl_ms"] <= 3_600_000
    assert hot.stats("store")["hits"] == 1


def test_a_miss(hot: Session) -> None:
    assert hot.row("SELECT * FROM pgcache_internal.hot_get('store', 'k')") == {
        "value": None,
        "version": 0,
        "ttl_ms": 3_600_000,
        "epoch": "epoch",
    }
    assert hot.stats("store")["misses"] == 1


def test_redis_keeps_an_entry_no_longer_than_it_lives(hot: Session) -> None:
    hot.set_clock("2030-01-01")
    hot("SELECT cache_set('store', 'k', '1', '90 seconds')")
    hot.advance("30 seconds")
    assert hot("SELECT ttl_ms FROM pgcache_internal.hot_get('store', 'k')") == 60_000
    hot("SELECT cache_persist('store', 'k')")
    assert hot("SELECT ttl_ms FROM pgcache_internal.hot_get('store', 'k')") == 3_600_000
    hot("UPDATE cache_store SET expires_at = 'infinity'")
    assert hot("SELECT ttl_ms FROM pgcache_internal.hot_get('store', 'k')") == 3_600_000


def test_what_has_expired_is_a_miss_like_any_other(hot: Session) -> None:
    hot("SELECT cache_set('store', 'k', '1', '1 minute')")
    hot.advance("1 hour")
    assert hot.row("SELECT * FROM pgcache_internal.hot_get('store', 'k')") == {
        "value": None,
        "version": 0,
        "ttl_ms": 3_600_000,
        "epoch": "epoch",
    }


def test_before_the_relay_has_come_nothing_may_be_put_into_redis(ask: Session) -> None:
    ask("SELECT cache_hot_on('store')")
    assert ask("SELECT epoch FROM pgcache_internal.hot_set('store', 'k', '1')") is None
    assert ask.row("SELECT * FROM pgcache_internal.hot_get('store', 'k')") == {
        "value": "1",
        "version": None,
        "ttl_ms": None,
        "epoch": None,
    }


def test_nor_on_another_server_than_where_the_relay_was(hot: Session) -> None:
    """Or in a database that is a copy of this one, which has the table's row."""
    for part in (1, 2, 3):
        hot("UPDATE pgcache_internal.hot_epoch SET owner = pgcache_internal.hot_owner()")
        assert hot("SELECT epoch FROM pgcache_internal.hot_get('store', 'k')") == "epoch"
        hot(
            "UPDATE pgcache_internal.hot_epoch SET owner ="
            " array_to_string((o.parts)[:%s - 1] || '1'::text || (o.parts)[%s + 1:], '/')"
            " FROM (SELECT string_to_array(pgcache_internal.hot_owner(), '/') AS parts) o",
            part,
            part,
        )
        assert hot("SELECT epoch FROM pgcache_internal.hot_get('store', 'k')") is None


def test_a_type_outside_of_the_tier_may_not_be_put_into_redis(hot: Session) -> None:
    hot("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")
    found = hot.row("SELECT * FROM pgcache_internal.hot_get('llm', 'k')")
    assert json.loads(found.pop("value"))["response"] == "r"
    assert found == {"version": None, "ttl_ms": None, "epoch": None}


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot_may_not_be_put_into_redis(hot: Session, isolation: str) -> None:
    with hot.transaction(f"ISOLATION LEVEL {isolation}"):
        assert hot("SELECT epoch FROM pgcache_internal.hot_get('store', 'k')") is None


def test_what_might_be_rolled_back_may_not_be_put_into_redis(hot: Session) -> None:
    with hot.transaction():
        assert hot("SELECT epoch FROM pgcache_internal.hot_get('store', 'k')") == "epoch"
        hot("SELECT cache_set('store', 'k', '1')")
        assert hot("SELECT epoch FROM pgcache_internal.hot_get('store', 'k')") is None


def test_a_hit_that_logs_itself_does_not_count_as_such_a_write(hot: Session) -> None:
    hot("SELECT cache_configure('store', hit_tracking => 'exact'), cache_set('store', 'k', '1')")
    assert hot("SELECT epoch FROM pgcache_internal.hot_get('store', 'k')") == "epoch"


@pytest.mark.parametrize("type", VALUES)
def test_the_value_is_that_of_cache_get(ask: Session, type: str) -> None:
    ask("SELECT cache_hot_on(%s)", type)
    deliver(ask)
    for value in VALUES[type]:
        stored = ask.row("SELECT * FROM pgcache_internal.hot_set(%s, 'k', %s)", type, value)
        found = ask.row("SELECT * FROM pgcache_internal.hot_get(%s, 'k')", type)
        assert found["value"] == ask("SELECT cache_get(%s, 'k')::text", type)
        assert stored["stored"]
        assert (stored["stored_value"], stored["version"]) == (found["value"], found["version"])


# hot_get_many.


def test_many_are_as_each(hot: Session) -> None:
    hot.set_clock("2030-01-01")
    hot("SELECT cache_configure('store', hit_tracking => 'exact')")
    hot("SELECT cache_set('store', 'a', '1', '1 minute'), cache_set('store', 'b', '[2]')")
    hot("SELECT cache_set('store', 'expired', '3', '1 second')")
    hot.advance("30 seconds")
    keys = ["b", "nothing", "a", "b", "expired"]
    each = [hot.row("SELECT %s AS key, * FROM pgcache_internal.hot_get('store', %s)", key, key) for key in keys]
    many = hot.rows("SELECT * FROM pgcache_internal.hot_get_many('store', %s)", keys)
    assert many == [tuple(row.values()) for row in each]
    assert all(row[-1] for row in many)  # though the first one's hit was logged


def test_many_of_a_type_outside_of_the_tier(hot: Session) -> None:
    hot("SELECT cache_set('phash', 'k', '{\"phash\": \"f\"}')")
    assert hot.rows("SELECT * FROM pgcache_internal.hot_get_many('phash', '{k,l}')") == [
        ("k", '{"phash": "f"}', None, None, None),
        ("l", None, None, None, None),
    ]
    assert hot.rows("SELECT * FROM pgcache_internal.hot_get_many('store', '{}')") == []


# hot_set.


def test_a_set(hot: Session) -> None:
    hot.set_clock("2030-01-01 00:00+00")
    stored = hot.row("SELECT * FROM pgcache_internal.hot_set('store', 'k', '1.0', '1 minute')")
    assert stored == {
        "stored": True,
        "version": hot(VERSION),
        "ttl_ms": 60_000,
        "stored_value": "1.0",
        "epoch": "epoch",
    }
    assert outbox(hot) == {("store", "", "k")}


def test_what_is_not_stored_has_no_version(hot: Session) -> None:
    nothing = {"stored": False, "version": None, "ttl_ms": None, "stored_value": None, "epoch": None}
    hot("SELECT cache_configure('store', enabled => false)")
    assert hot.row("SELECT * FROM pgcache_internal.hot_set('store', 'k', '1')") == nothing
    assert hot.row("SELECT * FROM pgcache_internal.hot_set('phash', 'k', '{\"phash\": \"f\"}')") == {
        **nothing,
        "stored": True,
    }


def test_tenants_have_entries_of_their_own(hot: Session) -> None:
    hot("SET pgcache.tenant = 't'")
    hot("SELECT pgcache_internal.hot_set('store', 'k', '1')")
    hot("SET pgcache.tenant = ''")
    assert hot.row("SELECT * FROM pgcache_internal.hot_get('store', 'k')")["value"] is None


# hot_report_hits.


def entry(session: Session, key: str) -> dict[str, Any]:
    session("SELECT pgcache_internal.fold_log()")
    return session.row("SELECT * FROM cache_entry('store', %s)", key)


def test_hits_in_redis_count_as_hits(hot: Session) -> None:
    hot("SELECT cache_set('store', 'a', '1'), cache_set('store', 'b', '1')")
    assert hot("SELECT pgcache_internal.hot_report_hits('store', '{a,b,gone}', '{3,40,1}')") == 44
    assert hot.stats("store")["hits"] == 44
    assert (entry(hot, "a")["hit_count"], entry(hot, "b")["hit_count"]) == (3, 40)


def test_more_hits_than_there_can_have_been_are_not_counted(hot: Session) -> None:
    """Whoever may read may say any number; it costs as much as counting a million."""
    hot("SELECT cache_set('store', 'a', '1')")
    report = "SELECT pgcache_internal.hot_report_hits('store', array_fill('a'::text, %s), array_fill(%s, %s))"
    assert hot(report, [1], 1_000_000, [1]) == 1_000_000
    assert hot(report, [1000], 2**31 - 1, [1000]) == 1_000_000
    assert hot.stats("store")["hits"] == 2_000_000
    assert entry(hot, "a")["hit_count"] <= 1001 * 100_000


def test_hits_keep_an_entry_from_being_evicted(ask: Session) -> None:
    ask("SELECT cache_create_type('small', max_entries => 40), cache_hot_on('small')")
    ask("SELECT cache_set('small', 'favourite', '1')")
    for number in range(400):
        ask("SELECT cache_set('small', %s, '1')", f"k{number}")
        ask("SELECT pgcache_internal.hot_report_hits('small', '{favourite}', '{5}')")
    assert ask("SELECT cache_exists('small', 'favourite')")


def test_hits_save_tokens(ask: Session) -> None:
    ask("SELECT cache_hot_on('llm')")
    ask('SELECT cache_set(\'llm\', \'k\', \'{"response": "r", "model": "m", "tokens_used": 100}\')')
    ask("SELECT pgcache_internal.hot_report_hits('llm', '{k}', '{7}')")
    ask("SELECT pgcache_internal.fold_log()")
    assert ask("SELECT tokens FROM pgcache_internal.tenant_savings WHERE type = 'llm'") == 700


def test_hits_are_not_logged_where_hits_are_not_tracked(hot: Session) -> None:
    hot("SELECT cache_configure('store', hit_tracking => 'off')")
    hot("SELECT pgcache_internal.hot_report_hits('store', '{a}', '{3}')")
    assert hot.stats("store")["hits"] == 3
    assert hot("SELECT count(*) FROM pgcache_internal.hit_log") == 0


def test_hits_belong_to_the_tenant(hot: Session) -> None:
    hot("SET pgcache.tenant = 't'")
    hot("SELECT cache_set('store', 'a', '1'), pgcache_internal.hot_report_hits('store', '{a}', '{3}')")
    assert entry(hot, "a")["hit_count"] == 3


def test_nothing_to_report_is_fine(hot: Session) -> None:
    assert hot("SELECT pgcache_internal.hot_report_hits('store', '{}', '{}')") == 0


def test_a_key_that_is_too_long_is_refused(hot: Session) -> None:
    with refused("PC002"):
        hot("SELECT pgcache_internal.hot_report_hits('store', array[repeat('x', 1025)], '{1}')")
