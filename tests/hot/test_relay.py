"""The relay as a process: woken by NOTIFY, one at work at a time, through failures of both sides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pgcache_py.errors import HotTierError, NotInstalledError, PermissionDeniedError, UnavailableError
from pgcache_py.relay import process as relay_process
from pgcache_py.relay.cycle import PrefixInUse
from pgcache_py.relay.process import TAKE_TURN, Relay
from tests.hot.tools import Tier, left_by_another_server, running
from tests.tools.redis import Redis
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until

pytestmark = pytest.mark.once  # the process; what it asks of the database is in test_cycle

AT_WORK = "at work"
RELAYS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgcache relay' AND datname = current_database()"


class Lines(list[str]):
    """The log."""

    def __call__(self, line: str) -> None:
        self.append(line)

    def wait_for(self, text: str) -> None:
        wait_until(lambda: any(text in line for line in self))

    def wait_for_work(self) -> None:
        """The line itself: another one says that another relay is at work."""
        wait_until(lambda: AT_WORK in self)


@contextmanager
def a_relay(dsn: str, redis: Redis) -> Iterator[Lines]:
    log = Lines()
    with running(Relay(dsn, redis.url, log=log)):
        yield log


def test_a_change_wakes_it(tier: Tier, dsn: str) -> None:
    tier.ask("SELECT cache_hot_configure(max_staleness => '1 hour')")  # it looks by itself once in 12 minutes
    with a_relay(dsn, tier.server) as log:
        log.wait_for_work()
        for number in range(20):
            tier.put("k", 0)
            tier.ask("SELECT cache_set('store', 'k', %s)", str(number))
            wait_until(lambda: tier.hit("k") is None)
            wait_until(lambda: not tier.outbox())
        tier.ask("TRUNCATE cache_store")
        log.wait_for("void: a type has left")


def test_it_looks_by_itself_too(tier: Tier, dsn: str) -> None:
    tier.ask("SELECT cache_hot_configure(max_staleness => '0.5 seconds')")
    with a_relay(dsn, tier.server) as log:
        log.wait_for_work()
        tier.ask(
            "INSERT INTO pgcache_internal.change_log (type, tenant, cache_key, version) VALUES ('store', '', 'k', 1)"
        )
        wait_until(lambda: not tier.outbox())
        drained = tier.ask("SELECT drained_at FROM pgcache_internal.hot_epoch")
        wait_until(lambda: tier.ask("SELECT drained_at FROM pgcache_internal.hot_epoch") > drained)
    assert log[1:] == [AT_WORK, "ended"]


def test_it_delivers_what_it_missed(tier: Tier, dsn: str) -> None:
    tier.cycle().run()
    for number in range(50):
        tier.put(str(number), 0)
        tier.ask("SELECT cache_set('store', %s, '1')", str(number))
    with a_relay(dsn, tier.server) as log:
        log.wait_for_work()
        assert not any(tier.hit(str(number)) for number in range(50))
    assert log == [AT_WORK, "ended"]  # without a new epoch


def test_many_changes_at_once(tier: Tier, dsn: str, new_session: Callable[..., Session]) -> None:
    tier.cycle().run()
    changes = "FOR n IN 1..200 LOOP PERFORM cache_set('store', (n % 9)::text, '1'); COMMIT; END LOOP"
    with a_relay(dsn, tier.server):
        writers = [new_session().start(f"DO $$ BEGIN {changes}; END $$") for _ in range(4)]
        for writer in writers:
            writer.result(60)
        wait_until(lambda: not tier.outbox())
    assert tier.ask("SELECT delivered FROM pgcache_internal.hot_epoch") <= 800


def test_writers_notify_only_a_relay_that_sleeps(tier: Tier, dsn: str, new_session: Callable[..., Session]) -> None:
    """Commits that notify wait for each other, so that eight writers would have the throughput of two."""
    told = new_session().connection
    told.execute("LISTEN pgcache_hot")
    for asleep, notifications in ((True, 1), (False, 0), (True, 1)):
        tier.ask("SELECT pgcache_internal.hot_sleep(%s)", asleep)
        tier.ask("SELECT cache_set('store', 'k', '1')")
        told.execute("SELECT")
        assert len(list(told.notifies(timeout=0))) == notifications
    state = "SELECT last_value FROM pgcache_internal.hot_asleep"
    with a_relay(dsn, tier.server) as log:
        log.wait_for_work()
        for _ in range(3):
            wait_until(lambda: tier.ask(state) == 1)
            wait_until(lambda: tier.ask("SELECT cache_set('store', 'k', '1')") and tier.ask(state) == 0)


def test_a_change_of_who_found_it_awake_is_not_left_behind(
    tier: Tier, dsn: str, new_session: Callable[..., Session]
) -> None:
    """The relay would look by itself after twelve minutes."""
    tier.ask("SELECT cache_hot_configure(max_staleness => '1 hour')")
    sessions = [new_session() for _ in range(3)]
    with a_relay(dsn, tier.server) as log:
        log.wait_for_work()
        for round in range(5):
            for number, session in enumerate(sessions):  # the first one wakes it, the others may find it awake
                session("BEGIN")
                session("SELECT cache_set('store', %s, '1')", f"{round}:{number}")
                if number == 0:
                    session("COMMIT")
            wait_until(lambda: tier.ask("SELECT last_value FROM pgcache_internal.hot_asleep") == 1)  # it wants to sleep
            for session in sessions[1:]:
                session("COMMIT")
            wait_until(lambda: not tier.outbox())


def test_who_waits_for_its_turn_does_not_say_that_it_is_awake(tier: Tier, dsn: str) -> None:
    tier.ask("SELECT cache_hot_configure(max_staleness => '1 hour')")
    with a_relay(dsn, tier.server) as first:
        first.wait_for_work()
        with a_relay(dsn, tier.server) as second:
            second.wait_for("waits: another relay is at work")
            for number in range(3):
                wait_until(lambda: tier.ask("SELECT last_value FROM pgcache_internal.hot_asleep") == 1)
                tier.ask("SELECT cache_set('store', %s, '1')", str(number))
                wait_until(lambda: not tier.outbox())


def test_one_is_at_work_and_another_takes_over(tier: Tier, dsn: str) -> None:
    with a_relay(dsn, tier.server) as first:
        first.wait_for_work()
        with a_relay(dsn, tier.server) as second:
            second.wait_for("waits: another relay is at work")
            # The first one's session ends, as when its machine does.
            tier.ask("SELECT pg_terminate_backend(pid) FROM pgcache_internal.hot_at_work")
            first.wait_for("tries PostgreSQL again")
            wait_until(lambda: AT_WORK in second or first.count(AT_WORK) == 2)
            tier.put("k", 0)
            tier.ask("SELECT cache_set('store', 'k', '1')")
            wait_until(lambda: tier.hit("k") is None)
        assert sum("void" in line for line in first + second) == 1


def test_one_that_says_nothing_any_more_is_not_at_work(tier: Tier, new_session: Callable[..., Session]) -> None:
    """Its session is there still, as when its process is suspended."""
    first, second = new_session(), new_session()
    assert first(TAKE_TURN)
    assert not second(TAKE_TURN)
    age = "UPDATE pgcache_internal.hot_at_work SET seen_at = seen_at - %s::interval"
    tier.ask(age, "40 seconds")
    assert first(TAKE_TURN)  # and says so
    tier.ask(age, "40 seconds")
    assert not second(TAKE_TURN)
    tier.ask("SELECT cache_hot_configure(max_staleness => '1 hour')")
    tier.ask(age, "50 minutes")
    assert not second(TAKE_TURN)
    tier.ask(age, "10 minutes")
    assert second(TAKE_TURN)
    assert not first(TAKE_TURN)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_taking_turns_waits_for_nobody(tier: Tier, new_session: Callable[..., Session], level: str) -> None:
    first, second = new_session(), new_session()
    for session in (first, second):
        session(f"SET default_transaction_isolation = '{level}'")
    with first.transaction():  # as a cycle in the server is
        assert first(TAKE_TURN)
        assert not second(TAKE_TURN)
    with second.transaction():
        assert not second("SELECT count(*) FROM pgcache_internal.hot_at_work")
        first(TAKE_TURN)
        assert not second(TAKE_TURN)
    with refused("25006"), second.transaction("READ ONLY"):
        second(TAKE_TURN)


def test_nobody_else_keeps_it_from_work(tier: Tier, dsn: str, role: Callable[..., Session]) -> None:
    assert Relay(dsn, tier.server.url).once()
    wait_until(lambda: not tier.ask(RELAYS))
    for access in (None, "read", "write"):
        stranger = role(access)
        stranger("SELECT pg_advisory_lock_shared(hashtext('pgcache.hot_relay'))")
        for statement in (TAKE_TURN, "LOCK TABLE pgcache_internal.hot_at_work IN ACCESS SHARE MODE"):
            with stranger.transaction(), refused("42501"):
                stranger(statement)
    assert Relay(dsn, tier.server.url).once()


def test_who_calls_it_in_vain_is_heard_less_and_less(
    tier: Tier, dsn: str, role: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    cycles: list[bool] = []

    def counted(connection: object) -> bool:
        cycles.append(takes_turn(connection))  # type: ignore[arg-type]
        return cycles[-1]

    takes_turn = relay_process._takes_turn
    monkeypatch.setattr(relay_process, "_takes_turn", counted)
    stranger = role(None)
    with a_relay(dsn, tier.server) as log:
        log.wait_for_work()
        for _ in range(400):
            stranger("NOTIFY pgcache_hot")
            stranger("SELECT pg_sleep(0.01)")
        assert len(cycles) < 100
        for number in range(3):  # and a change is heard all the same
            tier.put("k", 0)
            tier.ask("SELECT cache_set('store', 'k', %s)", str(number))
            stranger("NOTIFY pgcache_hot")
            wait_until(lambda: tier.hit("k") is None)


def test_sessions_that_are_ended_are_opened_again(tier: Tier, dsn: str) -> None:
    with a_relay(dsn, tier.server) as log:
        log.wait_for_work()
        for times in (2, 3):
            tier.ask(f"SELECT pg_terminate_backend(pid) FROM ({RELAYS}) r")
            wait_until(lambda times=times: log.count(AT_WORK) == times)
    assert sum("void" in line for line in log) == 1


def test_a_redis_that_is_gone_is_waited_for(tier: Tier, dsn: str, make_redis: Callable[..., Redis]) -> None:
    mine = Tier(tier.ask, make_redis())
    with a_relay(dsn, mine.server) as log:
        log.wait_for_work()
        mine.server.kill()
        log.wait_for("tries Redis again")
        mine.ask("SELECT cache_set('store', 'k', '1')")
        mine.server.start()
        wait_until(lambda: log.count(AT_WORK) == 2)
        assert mine.outbox() == set()
        mine.redis.flushall()
        wait_until(lambda: any("was emptied" in line for line in log))
        wait_until(lambda: mine.alive == mine.epoch)
    assert sum(line.startswith("tries") for line in log) == 1


def test_a_redis_that_refuses_the_password_is_told_from_one_that_is_gone(tier: Tier, dsn: str) -> None:
    log = Lines()
    with running(Relay(dsn, tier.server.url.replace(tier.server.password, "wrong"), log=log)):
        log.wait_for("check the password")


def test_a_redis_that_hangs_does_not_stop_the_writers(tier: Tier, dsn: str, make_redis: Callable[..., Redis]) -> None:
    mine = Tier(tier.ask, make_redis())
    with a_relay(dsn, mine.server) as log:
        log.wait_for_work()
        mine.server.process.suspend()
        mine.ask("SET statement_timeout = '2s'")
        for number in range(100):
            mine.ask("SELECT cache_set('store', %s, '1')", str(number))
        log.wait_for("tries Redis again")
        mine.server.process.resume()
        wait_until(lambda: not mine.outbox())


def test_what_another_server_vouches_for_is_waited_for(tier: Tier, dsn: str) -> None:
    """As a standby does that was just promoted, or for good a copy."""
    left_by_another_server(tier)
    with pytest.raises(HotTierError) as caught:
        Relay(dsn, tier.server.url).once()
    assert (caught.value.sqlstate, caught.value.hint) == ("PC032", PrefixInUse("pgcache").hint)
    with a_relay(dsn, tier.server) as log:
        log.wait_for("waits: in this Redis the prefix pgcache is in use by another server")
        tier.redis.delete("pgcache:alive")
        log.wait_for_work()
    said = [line for line in log if line != "waits: another relay is at work"]  # the first one's session just ends
    assert len(said) == 4
    assert "void" in said[1]


def test_once(tier: Tier, dsn: str, new_session: Callable[..., Session]) -> None:
    tier.ask("SELECT cache_set('store', 'k', '1')")
    report = Relay(dsn, tier.server.url).once()
    assert report
    assert report.vouched == "vouched"
    assert tier.outbox() == set()
    other = new_session()
    assert other(TAKE_TURN)
    assert Relay(dsn, tier.server.url).once() is None
    other.close()
    wait_until(lambda: Relay(dsn, tier.server.url).once())


def test_what_cannot_be_is_an_error_with_a_hint(
    tier: Tier, dsn: str, empty_dsn: str, role: Callable[..., Session]
) -> None:
    url = tier.server.url
    with pytest.raises(HotTierError) as caught:
        Relay(dsn, "http://x")
    assert (caught.value.sqlstate, bool(caught.value.hint)) == ("PC030", True)
    with pytest.raises(HotTierError) as caught:
        Relay(dsn, "redis://127.0.0.1:1").once()
    assert caught.value.sqlstate == "PC031"
    with pytest.raises(NotInstalledError):
        Relay(empty_dsn, url).run()
    with pytest.raises(PermissionDeniedError):
        Relay(role("write").connection.info.dsn + " password=secret", url).run()
    with pytest.raises(UnavailableError):
        Relay("host=127.0.0.1 port=1 dbname=x", url).once()
    tier.redis.set("pgcache:owner", "another/1")
    for run in (Relay(dsn, url).run, Relay(dsn, url).once):
        wait_until(lambda: not tier.ask(RELAYS))  # the sessions before have ended
        with pytest.raises(HotTierError) as caught:
            run()
        assert caught.value.sqlstate == "PC032"
        assert "redis-cli DEL pgcache:owner" in str(caught.value)


def test_an_admin_may_run_it(tier: Tier, role: Callable[..., Session]) -> None:
    admin = role("admin")
    assert Relay(admin.connection.info.dsn + " password=secret", tier.server.url).once()


# The command.


def command(dsn: str, *arguments: str, redis: Redis | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "REDIS_URL": redis.url if redis else ""}
    return subprocess.Popen(
        [sys.executable, "-m", "pgcache_py", "relay", "--dsn", dsn, *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_when_it_is_told_to(tier: Tier, dsn: str, number: signal.Signals) -> None:
    process = command(dsn, redis=tier.server)
    assert process.stdout
    wait_until(lambda: tier.alive)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    lines = [line.split(" ", 2)[2] for line in output.splitlines()]
    assert lines[1:] == [AT_WORK, "ended"]
    wait_until(lambda: not tier.ask(RELAYS))


def test_after_kill_9_the_next_one_goes_on(tier: Tier, dsn: str) -> None:
    process = command(dsn, redis=tier.server)
    wait_until(lambda: tier.alive)
    epoch = tier.epoch
    process.kill()
    process.communicate()
    tier.put("k", 0)
    tier.ask("SELECT cache_set('store', 'k', '1')")
    with a_relay(dsn, tier.server) as log:
        log.wait_for_work()
        assert tier.hit("k") is None
    assert tier.epoch == epoch


def test_the_command_once(tier: Tier, dsn: str) -> None:
    process = command(dsn, "--once", "--redis", tier.server.url, "--prefix", "other")
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert output.endswith("vouched, 0 delivered\n")
    assert tier.redis.get("other:alive")


def test_the_command_without_a_redis(dsn: str) -> None:
    process = command(dsn)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (1, "")
    assert "hint:  --redis" in errors


def test_importing_the_package_does_not_import_redis() -> None:
    check = "import sys, pgcache_py, pgcache_py.cli.main, pgcache_py.relay.process; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_what_the_server_shares_imports_the_standard_library_only() -> None:
    check = """
import sys
sys.modules.update(dict.fromkeys(("psycopg", "redis")))
sys.path.insert(0, %r)
import types
package = types.ModuleType("pgcache_py")
package.__path__ = [%r]
sys.modules["pgcache_py"] = package
import pgcache_py.relay.cycle
ours = {name for name in sys.modules if name.startswith("pgcache_py")}
assert ours == {"pgcache_py", "pgcache_py.relay", "pgcache_py.relay.cycle", "pgcache_py.tier_protocol"}, ours
"""
    from pathlib import Path

    import pgcache_py

    folder = Path(pgcache_py.__file__).parent
    subprocess.run([sys.executable, "-c", check % (str(folder.parent), str(folder))], check=True)
