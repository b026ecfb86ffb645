"""Cycles of the relay, one at a time: what they deliver, and what is left if they die at any step."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from pgcache_py.relay.cycle import BATCH, Cycle, ForeignPrefix
from pgcache_py.tier_protocol import OWNER, entry_key, lease_key, tier_key
from tests.hot.tools import Tier
from tests.tools.redis import Redis
from tests.tools.session import Session


@pytest.fixture
def relayed(tier: Tier) -> Tier:
    """After a first cycle, with the entry k: 'new' in PostgreSQL, 'old' in Redis."""
    tier.cycle().run()
    tier.ask("SELECT cache_set('store', 'k', '\"old\"')")
    tier.put("k", tier.ask("SELECT version FROM cache_store"), '"old"')
    tier.cycle().run()
    assert tier.hit("k") == '"old"'
    tier.ask("SELECT cache_set('store', 'k', '\"new\"')")
    return tier


def test_the_first_cycle_begins_an_epoch(tier: Tier) -> None:
    report = tier.cycle().run()
    assert report.vouched == "vouched"
    assert report.began
    assert tier.alive == tier.epoch
    assert 0 < tier.redis.pttl("pgcache:alive") <= 5000
    assert tier.redis.ttl("pgcache:epoch") == -1
    assert tier.redis.get("pgcache:owner") == tier.ask("SELECT pgcache_internal.hot_owner()")


def test_further_cycles_keep_it(tier: Tier) -> None:
    tier.cycle().run()
    epoch = tier.epoch
    report = tier.cycle().run()
    assert (report.began, report.delivered, tier.epoch) == ("", 0, epoch)


def test_a_change_removes_the_old_entry(relayed: Tier) -> None:
    assert relayed.cycle().run().delivered == 1
    assert relayed.hit("k") is None
    assert relayed.outbox() == set()
    stats = relayed.ask.row("SELECT * FROM cache_hot_stats WHERE type = 'store'")
    assert (stats["delivered"], stats["flushes"], stats["outbox_length"]) == (2, 1, 0)
    assert stats["epoch"] == relayed.epoch


def test_a_change_leaves_the_new_entry(relayed: Tier) -> None:
    relayed.put("k", relayed.ask("SELECT version FROM cache_store"), '"new"')
    relayed.cycle().run()
    assert relayed.hit("k") == '"new"'


def test_a_change_that_is_not_committed_is_not_delivered(relayed: Tier, new_session: Callable[..., Session]) -> None:
    relayed.cycle().run()
    other = new_session()
    with other.transaction():
        other("SELECT cache_set('store', 'k', '3')")
        assert relayed.cycle().run().delivered == 0
    assert relayed.cycle().run().delivered == 0


def test_many_changes_are_delivered_in_any_order(tier: Tier) -> None:
    tier.ask("SELECT cache_hot_configure(max_staleness => '1 hour')")  # a busy machine looks at them for seconds
    tier.cycle().run()
    rows = [(f"k{number}", version) for number in range(BATCH + 100) for version in (1, 5, 3)]
    random.Random(1).shuffle(rows)
    for key, version in rows:
        tier.ask(
            "INSERT INTO pgcache_internal.change_log (type, tenant, cache_key, version) VALUES ('store', 't', %s, %s)",
            key,
            version,
        )
    for number in range(BATCH + 100):
        tier.put(f"k{number}", 4 + number % 2, tenant="t")
    assert tier.cycle().run().delivered == BATCH + 100
    hits = {number for number in range(BATCH + 100) if tier.hit(f"k{number}", tenant="t")}
    assert hits == set(range(1, BATCH + 100, 2))
    assert tier.outbox() == set()


def test_leases_learn_of_it(relayed: Tier) -> None:
    leases = lease_key("pgcache", "store", "", "k")
    relayed.redis.hset(leases, "token", 1)
    version = relayed.ask("SELECT max(version) FROM pgcache_internal.hot_untold()")
    relayed.cycle().run()
    assert relayed.redis.hget(leases, "after") == str(version)


@pytest.mark.parametrize("key", ["ä:%s {0}", "x" * 1024, "\n'\"\\", "🐘"])
def test_keys_of_all_kinds(tier: Tier, key: str) -> None:
    tier.cycle().run()
    tier.ask("SELECT set_config('pgcache.tenant', 'ü:1', false)")
    tier.ask("SELECT cache_set('store', %s, '1')", key)
    tier.put(key, 0, tenant="ü:1")
    assert tier.hit(key, tenant="ü:1") == "1"
    tier.cycle().run()
    assert tier.hit(key, tenant="ü:1") is None


def test_a_row_that_voids_all_begins_an_epoch(relayed: Tier) -> None:
    before = relayed.epoch
    relayed.ask("TRUNCATE cache_store")
    report = relayed.cycle().run()
    assert report.began
    assert report.vouched == "vouched"
    assert relayed.epoch != before
    assert relayed.hit("k") is None
    assert relayed.outbox() == set()
    assert not relayed.cycle().run().began
    assert relayed.ask("SELECT flushes FROM pgcache_internal.hot_epoch") == 2


# Dying at each step. -------------------------------------------------------------------------------------------------

STEPS = ["hot_state", "look", "hot_pending", "hot_begin_epoch", "begin", "send", "vouch", "hot_delivered"]


class DiedError(Exception):
    pass


def intercepted(cycle: Cycle, step: str, before: Callable[[], Any] | None, after: Callable[[], Any] | None) -> Cycle:
    """The cycle, with something happening before or after one of its steps."""

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if before:
                before()
            result = function(*arguments, **options)
            if after:
                after()
            return result

        return run

    if step.startswith("hot_"):
        call = cycle.call
        cycle.call = lambda name, *arguments: (around(call) if name == step else call)(name, *arguments)
    else:
        setattr(cycle, step, around(getattr(cycle, step)))
    return cycle


def die() -> None:
    raise DiedError


@pytest.mark.once  # the steps are the relay's
@pytest.mark.parametrize("void", [False, True], ids=["deliver", "void"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_dying_at_any_step_shows_nothing_old_and_loses_nothing(relayed: Tier, step: str, when: str, void: bool) -> None:
    if void:
        relayed.ask("TRUNCATE cache_store")
    relayed.redis.delete("pgcache:alive")  # so that a voucher can only come from this cycle
    cycle = intercepted(relayed.cycle(), step, die if when == "before" else None, die if when == "after" else None)
    if void or step not in ("hot_begin_epoch", "begin"):
        with pytest.raises(DiedError):
            cycle.run()
    assert relayed.hit("k") is None
    for _ in range(2):
        assert relayed.cycle().run().vouched == "vouched"
        assert relayed.hit("k") is None
        assert relayed.outbox() == set()
    assert not relayed.cycle().run().began


@pytest.mark.parametrize("step", STEPS)
def test_a_change_during_a_cycle_is_delivered_by_this_one_or_the_next(
    relayed: Tier, step: str, new_session: Callable[..., Session]
) -> None:
    writer = new_session()
    before = relayed.ask("SELECT max(version) FROM cache_store")
    relayed.put("other", before, '"old"')

    def change() -> None:
        writer("SELECT cache_set('store', 'other', '\"new\"')")

    intercepted(relayed.cycle(), step, change, None).run()
    relayed.cycle().run()
    assert relayed.hit("other") is None or step in ("hot_begin_epoch", "begin")  # steps that this cycle has not got
    assert relayed.outbox() == set()


@pytest.mark.parametrize("step", STEPS)
def test_redis_emptied_at_any_step_begins_an_epoch(relayed: Tier, step: str) -> None:
    before = relayed.epoch
    intercepted(relayed.cycle(), step, relayed.redis.flushall, None).run()
    relayed.cycle().run()
    assert relayed.hit("k") is None
    assert relayed.outbox() == set()
    assert relayed.alive == relayed.epoch
    assert (relayed.epoch != before) == (step not in ("hot_begin_epoch", "begin"))


@pytest.mark.parametrize("step", STEPS)
def test_two_relays_at_once_do_no_harm(relayed: Tier, step: str) -> None:
    """The lock keeps them apart, but not one that was asleep for long."""
    other = relayed.cycle()
    intercepted(relayed.cycle(), step, other.run, None).run()
    assert relayed.hit("k") is None
    relayed.cycle().run()
    assert relayed.cycle().run().vouched == "vouched"
    assert relayed.hit("k") is None
    assert relayed.outbox() == set()


def test_what_takes_too_long_is_not_vouched_for_and_yet_is_done(relayed: Tier) -> None:
    relayed.redis.delete("pgcache:alive")
    cycle = relayed.cycle()
    look = cycle.look
    cycle.look = lambda keys: [str(int((reply := look(keys))[0]) - 6000), *reply[1:]]
    assert cycle.run().vouched == "late"
    assert relayed.alive is None
    assert relayed.outbox() == set()
    assert relayed.cycle().run().vouched == "vouched"


def test_the_bound_is_a_setting(relayed: Tier) -> None:
    relayed.ask("SELECT cache_hot_configure(max_staleness => '1 hour')")
    assert relayed.cycle().run().staleness == 3600
    assert relayed.redis.pttl("pgcache:alive") > 3_500_000
    relayed.ask("SELECT cache_hot_configure(max_staleness => '2 seconds')")
    relayed.cycle().run()
    assert 0 < relayed.redis.pttl("pgcache:alive") <= 2000


def test_rows_that_another_session_holds_do_not_hold_it_up(relayed: Tier, new_session: Callable[..., Session]) -> None:
    other = new_session()
    with other.transaction():
        other("SELECT ctid FROM pgcache_internal.change_log FOR UPDATE")
        relayed.ask("SET lock_timeout = '1s'")
        relayed.cycle().run()
        assert relayed.outbox() == set()


def test_what_a_writer_collapses_while_the_relay_reads_is_delivered(
    relayed: Tier, new_session: Callable[..., Session]
) -> None:
    writer = new_session()
    writer("SELECT setval('pgcache_internal.hot_outbox_due', 0)")

    def collapse() -> None:
        writer("SELECT cache_set('store', 'k', '\"newer\"'), pgcache_internal.hot_shrink(256)")

    intercepted(relayed.cycle(), "send", collapse, None).run()
    assert relayed.outbox() == {("store", "", "k")}
    relayed.put("k", relayed.ask("SELECT version FROM cache_store") - 1, '"new"')
    relayed.cycle().run()
    assert relayed.hit("k") is None


# Whose Redis it is, and which.


def test_a_prefix_of_another_database_is_refused(relayed: Tier) -> None:
    relayed.redis.set(tier_key("pgcache", OWNER), "another/1")
    before = relayed.epoch
    with pytest.raises(ForeignPrefix, match="pgcache") as caught:
        relayed.cycle().run()
    assert "cache_hot_configure" in caught.value.hint
    assert relayed.epoch == before
    relayed.ask("SELECT cache_hot_configure(prefix => 'mine')")
    assert relayed.cycle().run().began
    assert relayed.redis.get("mine:alive")


def test_a_prefix_that_was_given_comes_before_the_setting(relayed: Tier) -> None:
    Cycle(relayed.call, relayed.redis, "given").run()
    assert relayed.redis.get("given:alive") == relayed.redis.get("given:epoch")


def test_databases_are_told_apart(tier: Tier, empty_dsn: str) -> None:
    from pgcache_py.setup.install import install

    install(empty_dsn, cron=False)
    other = Session(empty_dsn)
    assert other("SELECT pgcache_internal.hot_database()") != tier.ask("SELECT pgcache_internal.hot_database()")
    other.close()


def test_a_copy_of_a_database_does_not_go_on_with_its_epoch(relayed: Tier) -> None:
    relayed.ask("UPDATE pgcache_internal.hot_epoch SET owner = 'the original'")
    assert relayed.cycle().run().began


def test_an_old_snapshot_of_redis_is_void(tier: Tier, make_redis: Callable[..., Redis]) -> None:
    mine = Tier(tier.ask, make_redis())
    mine.cycle().run()
    mine.put("k", 1, '"old"')
    mine.redis.save()
    before = mine.epoch
    mine.server.restart()
    assert mine.epoch == before
    assert mine.redis.exists(entry_key("pgcache", "store", "", "k"))
    assert mine.cycle().run().began
    assert mine.hit("k") is None
    assert mine.epoch != before


def test_a_redis_that_was_restarted_empty_begins_an_epoch(tier: Tier, make_redis: Callable[..., Redis]) -> None:
    mine = Tier(tier.ask, make_redis())
    mine.cycle().run()
    mine.server.restart()
    assert mine.cycle().run().began
    assert mine.alive == mine.epoch


def test_a_failover_to_a_copy_begins_an_epoch(tier: Tier, make_redis: Callable[..., Redis]) -> None:
    first, second = make_redis(), make_redis()
    Tier(tier.ask, first).cycle().run()
    old = Tier(tier.ask, first).epoch
    second.client.set("pgcache:epoch", old)
    second.client.set("pgcache:owner", tier.ask("SELECT pgcache_internal.hot_owner()"))
    mine = Tier(tier.ask, second)
    mine.put("k", 1)
    assert mine.cycle().run().began
    assert mine.hit("k") is None
    # And back: what is there is older still.
    assert Tier(tier.ask, first).cycle().run().began
