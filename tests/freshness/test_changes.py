"""The log of changes: each is told once to each who keeps copies, whenever it was committed, and nobody is held up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import NewRole, NewSession
from tests.hot.tools import deliver
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until

CHANGES = "SELECT * FROM pgcache_internal.near_changes(%s::pg_snapshot, %s)"


class Reader:
    """Asks what has changed since it asked the last time."""

    def __init__(self, ask: Session) -> None:
        self.ask = ask
        self.seen: Any = None
        self.epoch: Any = None
        self.whole = False

    def __call__(self) -> set[tuple[Any, ...]]:
        row = self.ask.row(CHANGES, self.seen, self.epoch)
        self.seen, self.epoch, self.whole = row["now"], row["epoch"], row["whole"]
        return set(map(tuple, row["changes"] or []))


@pytest.fixture
def reader(ask: Session, new_session: NewSession) -> Reader:
    ask("SELECT cache_near_on('store')")
    reader = Reader(new_session())
    assert reader() == set()
    assert reader.whole is False
    assert reader.epoch is None, "it was the first of all"
    assert reader() == set()
    assert reader.whole is False
    return reader


def test_what_is_changed_or_removed_is_told_and_what_is_new_is_not(ask: Session, reader: Reader) -> None:
    ask("SELECT cache_set('store', 'k', '1'), cache_set('llm', 'k', '{\"response\": \"x\"}')")
    assert reader() == set()
    assert reader.whole is True
    for change in (
        "cache_set('store', 'k', '2')",
        "cache_incr('store', 'k')",
        "cache_touch('store', 'k', '1 minute')",
        "cache_set('store', 'k', '1', tags => '{t}')",
        "cache_delete('store', 'k', soft => true)",
        "cache_delete('store', 'k')",
    ):
        ask(f"SELECT {change}")
        assert reader() == {("store", "", "k")}, change
        assert reader() == set()
    ask("SELECT cache_set_many('store', '{a,b}', '{1,2}')")
    ask("SET pgcache.tenant = 'acme'")
    ask("SELECT cache_set('store', 'a', '1'), cache_set('store', 'a', '2')")
    ask("RESET pgcache.tenant")
    ask("SELECT cache_clear('store')")
    assert reader() == {("store", "", "a"), ("store", "", "b"), ("store", "acme", "a")}


def test_hits_and_upkeep_tell_nothing(ask: Session, reader: Reader) -> None:
    ask("SELECT cache_set('store', 'k', '1'), cache_get('store', 'k')")
    ask("CALL cache_upkeep()")
    assert ask("SELECT hit_count FROM cache_type_store") == 1
    assert reader() == set()


def test_what_has_expired_is_told_when_it_goes(ask: Session, reader: Reader) -> None:
    """The clocks of processes are others: who still keeps it has to hear of what is stored after it."""
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'k', '1', '1 minute')")
    ask.advance("1 minute")
    ask("SELECT cache_clear_expired('store')")
    assert reader() == {("store", "", "k")}


def test_all_of_a_type(ask: Session, reader: Reader) -> None:
    ask("TRUNCATE cache_type_store")
    assert reader() == {("store", None, None)}
    assert ask("SELECT cache_near_off('store')") is True
    assert ask("SELECT cache_near_off('store')") is False
    assert reader() == {("store", None, None)}
    ask("SELECT cache_create_type('mine'), cache_near_on('mine')")
    ask("SELECT cache_drop_type('mine')")
    assert ("mine", None, None) in reader()
    assert reader.ask.row(CHANGES, None, None)["types"] is None


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_late_commits_are_told(ask: Session, reader: Reader, new_session: NewSession, level: str) -> None:
    for key in "abcd":
        ask("SELECT cache_set('store', %s, '1')", key)
    late, later = new_session(), new_session()
    for session, key in ((late, "a"), (later, "b")):
        session(f"BEGIN ISOLATION LEVEL {level}")
        session("SELECT cache_set('store', %s, '2')", key)
    ask("SELECT cache_set('store', 'c', '2')")
    assert reader() == {("store", "", "c")}
    late("COMMIT")
    assert reader() == {("store", "", "a")}
    later("SAVEPOINT s")
    later("SELECT cache_delete('store', 'd')")
    later("ROLLBACK TO s")
    assert reader() == set()
    later("COMMIT")
    assert reader() == {("store", "", "b")}


def test_what_is_rolled_back_is_not_told(ask: Session, reader: Reader) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    with ask.transaction():
        ask("SELECT cache_set('store', 'k', '2')")
    assert reader() == set()


def test_notes_are_pruned_and_who_was_away_for_long_knows_it(ask: Session, reader: Reader) -> None:
    away = Reader(reader.ask)
    away()
    ask("SELECT cache_set('store', 'k', '1'), cache_set('store', 'other', '1'), cache_delete('store', 'other')")

    def pruned() -> bool:
        """Not as long as a transaction goes on that began before, be it in another database."""
        ask("SELECT cache_set('store', 'k', '2')")
        assert reader() >= {("store", "", "k")}
        assert reader.whole
        ask("UPDATE pgcache_internal.change_epoch SET next_at = clock_timestamp() - interval '1 second'")
        ask("SELECT pgcache_internal.prune_changes()")
        return not ask("SELECT count(*) FROM pgcache_internal.change_log WHERE cache_key = 'other'")

    wait_until(pruned)
    away()
    assert not away.whole
    away()
    assert away.whole


def test_a_long_transactions_notes_stay_until_they_are_told(
    ask: Session, reader: Reader, new_session: NewSession
) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    long = new_session()
    long("BEGIN")
    long("SELECT cache_set('store', 'k', '2')")
    for _ in range(3):
        ask("UPDATE pgcache_internal.change_epoch SET next_at = clock_timestamp() - interval '1 second'")
        ask("SELECT pgcache_internal.prune_changes()")
        assert reader() == set()
        assert reader.whole
    long("COMMIT")
    assert reader() == {("store", "", "k")}


def test_too_many_changes_are_told_as_one(ask: Session, reader: Reader) -> None:
    ask("SELECT count(cache_set('store', i::text, '1')) FROM generate_series(1, 10001) i")
    ask("SELECT cache_clear('store')")
    assert reader() == set()
    assert reader.whole is False
    assert reader() == set()
    assert reader.whole is True


def test_another_epoch_voids_all(ask: Session, reader: Reader) -> None:
    """As after a crash, which empties what is UNLOGGED."""
    ask("TRUNCATE pgcache_internal.change_log, pgcache_internal.change_epoch")
    reader()
    assert reader.whole is False


def test_without_anybody_who_asks_there_are_few_notes(ask: Session) -> None:
    ask("SELECT cache_near_on('store')")
    ask("DO $$ BEGIN FOR n IN 1..3000 LOOP PERFORM cache_set('store', 'k', '1'); END LOOP; END $$")
    assert ask("SELECT count(*) FROM pgcache_internal.change_log") < 3000


def test_only_the_types_that_are_near_bear_its_cost(ask: Session, reader: Reader) -> None:
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname ~ 'note' AND tgrelid = %s::regclass"
    assert ask(triggers, "cache_type_store") == 2
    assert ask(triggers, "cache_llm_responses") == 0
    ask("SELECT cache_near_on('llm')")
    ask("SELECT cache_set_llm('p', 'm', 'r', 5)")
    found = ask.row("SELECT * FROM pgcache_internal.near_get('llm', llm_key('p', 'm'))")
    assert (found["value"]["response"], found["keepable"], found["tenant"]) == ("r", True, "")
    assert ask.stats("llm")["tokens_saved"] == 5
    found = ask.row("SELECT * FROM pgcache_internal.near_get_many('llm', ARRAY[llm_key('p', 'm'), 'absent'])")
    ((key, answer),) = found["entries"].items()
    assert (answer["response"], list(found["kept"]), found["tenant"]) == ("r", [key], "")
    assert 3000 < found["kept"][key] < 10**7
    assert (ask.stats("llm")["tokens_saved"], ask.stats("llm")["hits"], ask.stats("llm")["misses"]) == (10, 2, 1)
    found = ask.row("SELECT * FROM pgcache_internal.near_get('phash', 'absent')")
    assert (found["value"], found["keepable"]) == (None, None)
    found = ask.row("SELECT * FROM pgcache_internal.near_get_many('phash', '{absent}')")
    assert (found["entries"], found["kept"]) == ({}, None)
    assert ask.stats("phash")["misses"] == 2


def test_what_is_refused(ask: Session, role: NewRole) -> None:
    for function in ("cache_near_on", "cache_near_off"):
        with refused("PC001"):
            ask(f"SELECT {function}('nothing')")
        with refused("42501"):
            role("write")(f"SELECT {function}('store')")
    walled = role("write")
    ask("SELECT cache_grant(%s, 'write', '{acme}')", walled("SELECT current_user"))
    for call in ("near_changes(NULL, NULL)", "near_get('store', 'k')", "near_get_many('store', '{k}')"):
        with refused("42501"):
            walled(f"SELECT pgcache_internal.{call}")
    with ask.transaction("READ ONLY"), refused("25006"):
        ask("SELECT pgcache_internal.near_changes(NULL, NULL)")


# Near caches and the relay, of one log.


@pytest.fixture
def both(ask: Session, reader: Reader) -> Reader:
    """The type store is hot, too, and the relay is up to date."""
    ask("SELECT cache_hot_on('store'), cache_set('store', 'k', '1')")
    deliver(ask)
    reader()
    return reader


def outbox(ask: Session) -> set[tuple[Any, ...]]:
    return set(ask.rows("SELECT type, tenant, cache_key FROM pgcache_internal.hot_untold()"))


def prune(ask: Session) -> None:
    """As ten seconds later."""
    ask("UPDATE pgcache_internal.change_epoch SET next_at = clock_timestamp() - interval '1 second'")
    ask("SELECT pgcache_internal.prune_changes()")


def notes(ask: Session) -> int:
    count: int = ask("SELECT count(*) FROM pgcache_internal.change_log WHERE cache_key IS NOT NULL")
    return count


def test_one_note_tells_both(ask: Session, both: Reader) -> None:
    before = notes(ask)
    for change in ("cache_set('store', 'k', '2')", "cache_delete('store', 'k')", "cache_set('store', 'k', '3')"):
        ask(f"SELECT {change}")
    assert notes(ask) == before + 3
    assert (both(), outbox(ask)) == ({("store", "", "k")}, {("store", "", "k")})
    assert (both(), outbox(ask)) == (set(), {("store", "", "k")})
    deliver(ask)
    assert outbox(ask) == set()
    ask("SELECT cache_set('store', 'k', '4')")
    deliver(ask)
    assert both() == {("store", "", "k")}
    ask("TRUNCATE cache_type_store")
    assert (both(), outbox(ask)) == ({("store", None, None)}, {("store", None, None)})


def test_a_type_that_is_one_of_the_two_tells_only_that_one(ask: Session, both: Reader) -> None:
    ask("SELECT cache_near_on('llm'), cache_hot_on('face'), cache_set('face', 'f', '{\"embeddings\": []}')")
    ask("SELECT cache_set('llm', 'k', '{\"response\": \"x\"}'), cache_delete('llm', 'k'), cache_delete('face', 'f')")
    assert (both(), outbox(ask)) == ({("llm", "", "k")}, {("face", "", "f")})
    deliver(ask)
    ask("TRUNCATE cache_llm_responses")
    assert (both(), outbox(ask)) == ({("llm", None, None)}, set())


def test_to_leave_one_of_the_two_keeps_the_other(ask: Session, both: Reader) -> None:
    ask("SELECT cache_hot_off('store')")
    assert (both(), outbox(ask)) == ({("store", None, None)}, {("store", None, None)})
    deliver(ask)
    ask("SELECT cache_set('store', 'k', '2')")
    assert (both(), outbox(ask)) == ({("store", "", "k")}, set())
    ask("SELECT cache_hot_on('store'), cache_near_off('store')")
    both()
    ask("SELECT cache_set('store', 'k', '3')")
    assert (both(), outbox(ask)) == (set(), {("store", "", "k")})
    ask("SELECT cache_hot_off('store')")
    assert ask("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'cache_type_store'::regclass") == 0


def test_more_than_the_relay_may_leave_behind_voids_what_processes_keep_too(ask: Session, both: Reader) -> None:
    ask("SELECT cache_hot_configure(outbox_limit => 300)")
    ask("SELECT count(cache_set('store', i::text, '1')) FROM generate_series(1, 1000) i")
    assert (None, None, None) in both()


def test_a_relay_that_is_away_does_not_hold_up_the_others_and_misses_nothing(ask: Session, both: Reader) -> None:
    ask("SELECT cache_near_on('llm'), cache_set('llm', 'k', '{\"response\": \"x\"}'), cache_delete('llm', 'k')")
    ask("SELECT cache_set('store', 'k', '2')")
    assert both() == {("store", "", "k"), ("llm", "", "k")}

    def only_what_waits() -> bool:
        prune(ask)
        return both() == set() and both.whole and notes(ask) == 1

    wait_until(only_what_waits)
    assert outbox(ask) == {("store", "", "k")}
    deliver(ask)

    def nothing() -> bool:
        prune(ask)
        return notes(ask) == 0

    wait_until(nothing)


def test_a_long_transaction_keeps_its_own_notes_only(ask: Session, both: Reader, new_session: NewSession) -> None:
    long = new_session()
    long("BEGIN")
    long("SELECT cache_set('store', 'mine', '1')")
    ask("SELECT cache_set('store', 'k', '2')")
    assert both() == {("store", "", "k")}
    deliver(ask)

    def only_its_own() -> bool:
        prune(ask)
        return both() == set() and both.whole and ask("SELECT count(*) FROM pgcache_internal.change_log") == 0

    wait_until(only_its_own)
    long("COMMIT")
    assert (both(), outbox(ask)) == ({("store", "", "mine")}, {("store", "", "mine")})
    assert both.whole


def test_pruning_leaves_nothing_untold_where_no_relay_was(ask: Session, both: Reader) -> None:
    """Who begins an epoch in the same transaction as the log begins again once both are committed."""
    ask("TRUNCATE pgcache_internal.change_log, pgcache_internal.change_epoch, pgcache_internal.hot_epoch")
    pending = "SELECT type, cache_key, version FROM pgcache_internal.hot_pending()"
    for told in ((None, None, 0), (None, None, None)):
        ask("SELECT pgcache_internal.hot_begin_epoch('e', 'r')")
        assert ask.rows(pending) == [told]


def test_a_relay_whose_cycle_is_one_transaction_begins_again(ask: Session, both: Reader) -> None:
    """As the one inside the server."""
    ask("TRUNCATE pgcache_internal.change_log, pgcache_internal.change_epoch, pgcache_internal.hot_epoch")
    pending = "SELECT type, cache_key, version FROM pgcache_internal.hot_pending()"
    for told in ((None, None, 0), (None, None, None)):
        ask("BEGIN")
        ask("SELECT pgcache_internal.hot_state()")
        ask("SELECT pgcache_internal.hot_begin_epoch('e', 'r')")
        ask("COMMIT")
        assert ask.rows(pending) == [told]


def test_what_another_server_has_dumped_is_void(ask: Session, both: Reader) -> None:
    """Its transactions have numbers that are yet to come here."""
    ask("UPDATE pgcache_internal.change_log SET xid = '99999999999'")
    ask("UPDATE pgcache_internal.change_epoch SET next = '100000000000:100000000000:'")
    assert (both(), both.whole) == (set(), False)
    assert (both(), both.whole) == (set(), False)
    assert (both(), both.whole) == (set(), True)
    assert (
        ask.rows("SELECT FROM pgcache_internal.change_log") == ask.rows("SELECT FROM pgcache_internal.hot_epoch") == []
    )


def test_nobody_waits_to_prune(ask: Session, both: Reader, new_session: NewSession) -> None:
    ask("SELECT cache_set('store', 'k', '2'), cache_set('store', 'k', '3')")
    deliver(ask)
    other = new_session()
    with other.transaction():
        other("SELECT FROM pgcache_internal.change_log FOR UPDATE")
        ask("SET lock_timeout = '5s'")
        before = ask("SELECT next::text FROM pgcache_internal.change_epoch")
        prune(ask)
        assert ask("SELECT pruned::text FROM pgcache_internal.change_epoch") == before


def test_an_entry_that_came_into_a_disabled_type_goes_as_any_other(ask: Session, both: Reader) -> None:
    ask("SELECT cache_configure('store', enabled => false)")
    ask("INSERT INTO cache_store (cache_key, data) VALUES ('late', '1')")
    both()
    ask("DELETE FROM cache_store WHERE cache_key = 'late'")
    assert both() == {("store", "", "late")}


def test_a_session_in_another_isolation_level_prunes(ask: Session, both: Reader) -> None:
    ask("SET default_transaction_isolation = 'repeatable read'")
    before = ask("SELECT next::text FROM pgcache_internal.change_epoch")
    prune(ask)
    assert ask("SELECT pruned::text FROM pgcache_internal.change_epoch") == before


def test_of_two_relays_the_later_one_counts(ask: Session, both: Reader) -> None:
    early = ask("SELECT seen::text FROM pgcache_internal.hot_pending()")
    ask("SELECT cache_set('store', 'k', '2')")
    deliver(ask)
    ask("SELECT pgcache_internal.hot_delivered(%s, 0)", early)
    assert outbox(ask) == set()


def test_who_prunes_in_a_transaction_does_not_take_what_it_notes_after_it(ask: Session, both: Reader) -> None:
    ask("UPDATE pgcache_internal.change_epoch SET next_at = clock_timestamp() - interval '1 second'")
    ask("BEGIN")
    ask("SELECT cache_set('store', 'k', '2'), pgcache_internal.prune_changes()")
    assert both() == set()
    ask("SELECT cache_set('store', 'k', '3')")
    ask("COMMIT")
    deliver(ask)
    prune(ask)
    assert both() == {("store", "", "k")}
    assert both.whole


def test_a_relay_that_was_killed_in_its_sleep_is_not_called_for_ever(ask: Session, both: Reader) -> None:
    """Commits that notify wait for each other."""
    ask("SELECT pgcache_internal.hot_sleep(true)")
    ask("SELECT count(cache_set('store', 'k', '1')) FROM generate_series(1, 600)")
    assert ask("SELECT last_value FROM pgcache_internal.hot_asleep") == 0
