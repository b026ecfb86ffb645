"""The relay inside the server: the procedure in PL/Python, and its job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.hot.tools import Tier, left_by_another_server
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until

pytestmark = pytest.mark.needs("plpython3u", "redis")

RELAY = "CALL hot_relay('0 seconds')"


@pytest.fixture
def configured(tier: Tier) -> Tier:
    tier.ask("SELECT cache_hot_redis(%s)", tier.server.url)
    return tier


def test_it_delivers(configured: Tier) -> None:
    configured.ask(RELAY)
    assert configured.alive == configured.epoch
    configured.put("k", 0)
    configured.ask("SELECT cache_set('store', 'k', '1')")
    configured.ask(RELAY)
    assert configured.hit("k") is None
    assert configured.outbox() == set()


def test_it_says_what_it_did(configured: Tier) -> None:
    report = configured.ask("SELECT pgcache_internal.hot_cycle()")
    assert report.pop("began")
    assert report == {"vouched": "vouched", "delivered": 0, "staleness": 5}
    configured.ask("SELECT cache_set('store', 'a', '1'), cache_set('store', 'ä', '2')")
    assert configured.ask("SELECT pgcache_internal.hot_cycle()") == {
        "vouched": "vouched",
        "began": "",
        "delivered": 2,
        "staleness": 5,
    }


def test_it_goes_on_for_as_long_as_it_is_told(configured: Tier, new_session: Callable[..., Session]) -> None:
    relay = new_session()
    running = relay.start("CALL hot_relay('1 hour')")
    wait_until(lambda: configured.alive)
    configured.put("k", 0)
    configured.ask("SELECT cache_set('store', 'k', '1')")
    wait_until(lambda: configured.hit("k") is None)
    wait_until(lambda: not configured.outbox())
    running_one = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'CALL hot_relay%%' AND pid <> %s AND datname = current_database()"
    )
    configured.ask(running_one, configured.ask.pid)
    with refused("57014"):
        running.result(20)
    relay.close()
    wait_until(lambda: configured.ask("SELECT pgcache_internal.hot_take_turn()"))


def test_at_its_end_another_takes_over(configured: Tier, new_session: Callable[..., Session]) -> None:
    for session in (configured.ask, new_session(), configured.ask):
        configured.redis.flushall()
        session(RELAY)
        assert configured.alive


def test_it_waits_while_another_relay_is_at_work(configured: Tier, new_session: Callable[..., Session]) -> None:
    other = new_session()
    assert other("SELECT pgcache_internal.hot_take_turn()")
    configured.ask(RELAY)
    assert configured.alive is None
    running = new_session().start("CALL hot_relay('1 hour')")
    other.close()
    wait_until(lambda: configured.alive)
    configured.ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'CALL hot_relay(%1 hour%' AND datname = current_database()"
    )
    with pytest.raises(psycopg.OperationalError):
        running.result(20)


def test_errors_say_what_to_do(tier: Tier) -> None:
    with refused("PC030", "cache_hot_redis"):
        tier.ask(RELAY)
    tier.ask("SELECT cache_hot_redis('redis://:secret@127.0.0.1:1')")
    with pytest.raises(psycopg.Error) as caught:
        tier.ask(RELAY)
    assert caught.value.sqlstate == "PC031"
    assert "goes on" in str(caught.value.diag.message_hint)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://x", "", "redis://", "redis:// x", None])
def test_what_is_no_url_is_refused(tier: Tier, url: str | None) -> None:
    if url == "":
        tier.ask("SELECT cache_hot_redis('')")
        assert tier.ask("SELECT count(*) FROM pgcache_internal.hot_secrets") == 0
        return
    with refused("PC010", "redis://"):
        tier.ask("SELECT cache_hot_redis(%s)", url)


def test_a_server_without_redis_py_says_so(configured: Tier) -> None:
    configured.ask("DO LANGUAGE plpython3u 'import sys; sys.modules[\"redis\"] = None'")
    with refused("PC030", "python3-redis"):
        configured.ask(RELAY)


def test_a_prefix_of_another_database_is_refused(configured: Tier) -> None:
    configured.redis.set("pgcache:owner", "another/1")
    with refused("PC032", "cache_hot_configure"):
        configured.ask("CALL hot_relay('1 hour')")


def test_what_another_server_vouches_for_is_waited_for(configured: Tier, new_session: Callable[..., Session]) -> None:
    left_by_another_server(configured)
    with refused("PC032", "max_staleness"):
        configured.ask(RELAY)
    running = new_session().start("CALL hot_relay('1 hour')")
    configured.redis.delete("pgcache:alive")
    wait_until(lambda: configured.alive)
    configured.ask(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'CALL hot_relay(%1 hour%' AND datname = current_database()"
    )
    with pytest.raises(psycopg.OperationalError):
        running.result(20)


def test_the_url_is_shown_to_nobody_and_set_by_the_owner(configured: Tier, role: Callable[..., Session]) -> None:
    admin = role("admin")
    with refused("42501"):
        admin("SELECT count(*) FROM pgcache_internal.hot_secrets")
    with refused("42501"):
        admin("SELECT cache_hot_redis('redis://elsewhere')")
    with refused("42501"):
        admin("CALL hot_relay('0 seconds')")
    with refused("42501"):
        admin("SELECT cache_hot_schedule()")
    assert admin("SELECT pgcache_internal.hot_cycle() ->> 'vouched'") == "vouched"
    with refused("42501"):
        role("write")("SELECT pgcache_internal.hot_cycle()")
    seen = configured.ask("SELECT string_agg(s::text, '') FROM pgcache_internal.settings s")
    assert configured.server.password not in seen


def test_redis_may_be_emptied_between_two_cycles_of_a_session(configured: Tier) -> None:
    configured.ask(RELAY)
    before = configured.epoch
    configured.redis.flushall()
    configured.redis.client_kill_filter(_type="normal", skipme=True)
    configured.ask(RELAY)
    assert configured.alive == configured.epoch != before


# The job.


def test_without_pg_cron_there_is_no_job(tier: Tier) -> None:
    for call in ("cache_hot_schedule", "cache_hot_unschedule"):
        with refused("PC012", " "):
            tier.ask(f"SELECT {call}()")


@pytest.mark.needs("cluster", "pg_cron")
def test_pg_cron_runs_it(throwaway_cluster: Callable[..., Any], tier: Tier) -> None:
    """It starts jobs on the minute, so this takes up to one."""
    from pgcache_py.setup.install import install
    from pgcache_py.setup.uninstall import uninstall
    from tests.servers.cluster import CRON_SETTINGS

    cluster = throwaway_cluster(**CRON_SETTINGS)
    install(cluster.dsn())
    mine = Tier(Session(cluster.dsn()), tier.server)
    with refused("PC030", "cache_hot_redis"):
        mine.ask("SELECT cache_hot_schedule()")
    mine.ask("SELECT cache_hot_redis(%s)", mine.server.url)
    job = mine.ask("SELECT cache_hot_schedule()")
    assert mine.ask("SELECT cache_hot_schedule()") == job
    mine.ask(
        "INSERT INTO cron.job_run_details (jobid, runid, database, username, command, status, end_time)"
        " VALUES (-1, nextval('cron.runid_seq'), current_database(), current_user, 'CALL pgcache.hot_relay()',"
        " 'succeeded', now() - interval '8 days')"
    )
    wait_until(lambda: mine.alive, 90)
    mine.put("k", 0)
    mine.ask("SELECT cache_set('store', 'k', '1')")
    wait_until(lambda: mine.hit("k") is None)
    assert mine.ask("SELECT count(*) FROM cron.job_run_details WHERE jobid = -1") == 0
    assert mine.ask("SELECT cache_hot_unschedule()") is True
    assert mine.ask("SELECT cache_hot_unschedule()") is False
    mine.ask("SELECT cache_hot_schedule()")
    uninstall(cluster.dsn())
    assert mine.ask("SELECT count(*) FROM cron.job") == 0
    mine.ask.close()
