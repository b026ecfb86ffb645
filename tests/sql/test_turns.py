"""What changes types, settings and rights takes turns: two sessions that do so at the same time both succeed."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.conftest import NewSession
from tests.install.conftest import with_change
from tests.tools.session import Session, refused, user
from tests.tools.waiting import Background, at_once, wait_until

# The call, and what has to be so before it. {n} differs from call to call.
CALLS = {
    "SELECT cache_create_type('new_{n}')": None,
    "SELECT cache_create_type('new_{n}', exist_ok => true, fields => '{{\"a\": \"string!\"}}')": None,
    "SELECT cache_create_type('same', exist_ok => true)": None,
    "SELECT cache_configure('store', ttl => '{n} minutes')": None,
    "SELECT cache_configure('store', max_entries => {n}, eviction => 'fifo')": None,
    "SELECT cache_configure('store', durable => {n} % 2 = 0, hit_tracking => 'exact')": None,
    "SELECT cache_drop_type('old_{n}')": "SELECT cache_create_type('old_{n}')",
    "SELECT cache_grant('{role}')": None,
    "SELECT cache_grant('{role}', 'admin')": None,
    "SELECT cache_revoke('{role}')": "SELECT cache_grant('{role}')",
    "SELECT cache_hot_on('llm')": None,
    "SELECT cache_hot_off('llm')": "SELECT cache_hot_on('llm')",
    "SELECT cache_hot_configure(prefix => 'p{n}')": None,
    "SELECT cache_configure_setting('test_clock', 'on')": None,
    "SELECT cache_set_price('m', {n})": None,
}
IN_PYTHON = {
    "SELECT ai_grant('{role}')": None,
    "SELECT ai_revoke('{role}')": "SELECT ai_grant('{role}')",
    "SELECT ai_configure(retries => {n} % 10, api_key => 'k')": None,
    "SELECT cache_hot_redis('redis://localhost/{n}')": None,
}


def waits(ask: Session, pid: int) -> bool:
    return bool(ask("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", pid))


def every_other_after(
    first: str, calls: dict[str, str | None], new_session: NewSession, new_role: Callable[[str], str]
) -> None:
    one, other, observer = new_session(), new_session(), new_session()
    role = user(new_role(one.connection.info.dsn))
    for n, (second, condition) in enumerate(calls.items(), 1):
        for needed, number in ((calls[first], n), (condition, n + 100)):
            if needed:
                one(needed.format(n=number, role=role))
        with one.connection.transaction():
            one(first.format(n=n, role=role))
            running = other.start(second.format(n=n + 100, role=role))
            wait_until(lambda running=running: running.done() or waits(observer, other.pid))
        running.result(60)
    assert one("SELECT cache_set('store', 'k', '1'), cache_get('store', 'k')")
    for (type,) in one.rows("SELECT type FROM pgcache_internal.types WHERE type LIKE 'new%'"):
        assert one("SELECT cache_get(%s, 'k')", type) is None  # is compiled


@pytest.mark.once
@pytest.mark.parametrize("first", CALLS)
def test_every_pair(first: str, new_session: NewSession, new_role: Callable[[str], str]) -> None:
    every_other_after(first, CALLS, new_session, new_role)


@pytest.mark.needs("plpython3u")
@pytest.mark.parametrize("first", IN_PYTHON)
def test_every_pair_of_the_level_plpython3u(
    first: str, new_session: NewSession, new_role: Callable[[str], str]
) -> None:
    every_other_after(first, {**IN_PYTHON, **CALLS}, new_session, new_role)


def test_many_workers_create_their_types_when_they_start(new_session: NewSession) -> None:
    def start(session: Session) -> None:
        for name in ("one", "two", "three"):
            session(f"SELECT cache_create_type('{name}', exist_ok => true)")
            session(f"SELECT cache_set('{name}', 'k', '1')")

    sessions = [new_session() for _ in range(6)]
    at_once(*(lambda session=session: start(session) for session in sessions))
    assert sessions[0]("SELECT count(*) FROM pgcache_internal.types WHERE NOT builtin") == 3


def test_a_type_that_exists_is_left_as_it_is(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', '5 minutes')")
    ask("SELECT cache_create_type('mine', '1 hour', exist_ok => true)")
    assert ask("SELECT ttl = '5 minutes' FROM pgcache_internal.types WHERE type = 'mine'")
    with ask.transaction("READ ONLY"):
        ask("SELECT cache_create_type('mine', exist_ok => true)")
    with refused("PC007"):
        ask("SELECT cache_create_type('mine')")


def test_an_old_snapshot_does_not_forget_what_others_have_created(new_session: NewSession) -> None:
    one, other = new_session(), new_session()
    with one.connection.transaction():
        one("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        one("SELECT count(*) FROM cache_store")
        other("SELECT cache_create_type('mine')")
        with pytest.raises(psycopg.errors.SerializationFailure), one.connection.transaction():
            one("SELECT cache_configure('store', ttl => '1 minute')")
    assert one("SELECT cache_set('mine', 'k', '1')")


def test_an_upgrade_waits_for_its_turn(dsn: str, new_session: NewSession) -> None:
    from pgcache_py.setup.install import install

    one, observer = new_session(), new_session()
    with one.connection.transaction():
        one("SELECT cache_create_type('mine')")
        upgrade = Background(lambda: install(dsn, cron=False, sources=with_change()))
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        wait_until(lambda: observer(blocked))
    assert upgrade.result().action == "upgraded"
    assert one("SELECT cache_set('mine', 'k', '1')")


def test_management_in_a_read_only_transaction(ask: Session) -> None:
    for call in ("cache_configure('store', ttl => '1 minute')", "cache_drop_type('store')", "cache_hot_on('store')"):
        with ask.transaction("READ ONLY"), refused("25006", "READ WRITE"):
            ask(f"SELECT {call}")
