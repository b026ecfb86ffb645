"""The alarm for the hot tier."""

from __future__ import annotations

import pytest

from tests.hot.tools import deliver
from tests.tools.session import Session

CHECK = "SELECT status, detail, hint FROM cache_health() WHERE check_name = 'hot tier'"


@pytest.fixture
def hot(ask: Session) -> Session:
    """A type in the tier, and a relay that was there just now."""
    ask("SELECT cache_hot_on('store')")
    deliver(ask)
    return ask


def seen(hot: Session, ago: str) -> None:
    """As if the relay had been there so long ago, and the type in the tier since a day."""
    hot("UPDATE pgcache_internal.hot_types SET since = now() - interval '1 day'")
    hot("UPDATE pgcache_internal.hot_epoch SET drained_at = clock_timestamp() - %s::interval", ago)


def test_without_types_in_the_tier_there_is_no_check(ask: Session) -> None:
    assert ask.rows(CHECK) == []
    ask("SELECT cache_hot_on('store')")
    assert ask.row(CHECK)["status"] == "ok"  # a relay has time to come
    ask("SELECT cache_hot_off('store')")
    assert ask.rows(CHECK) == []


def test_a_relay_that_is_away_for_a_minute_is_a_warning(hot: Session) -> None:
    seen(hot, "50 seconds")
    check = hot.row(CHECK)
    assert (check["status"], check["hint"]) == ("ok", None)
    seen(hot, "61 seconds")
    hot("SELECT cache_set('store', 'k', '1')")
    check = hot.row(CHECK)
    assert check["status"] == "warning"
    assert check["detail"] == hot(
        "SELECT 'no relay since ' || drained_at || ', 1 changes in the outbox' FROM pgcache_internal.hot_epoch"
    )
    assert "python -m pgcache_py relay" in check["hint"]
    assert "cache_hot_schedule()" in check["hint"]
    hot("SELECT cache_hot_configure('1 minute')")
    seen(hot, "170 seconds")
    assert hot.row(CHECK)["status"] == "ok"
    seen(hot, "181 seconds")
    assert hot.row(CHECK)["status"] == "warning"
    hot("SELECT pgcache_internal.hot_delivered(pg_current_snapshot(), 0)")
    assert hot.row(CHECK)["status"] == "ok"


def test_so_is_one_that_never_came(hot: Session) -> None:
    seen(hot, "0")
    hot("DELETE FROM pgcache_internal.hot_epoch")
    check = hot.row(CHECK)
    assert check["status"] == "warning"
    assert check["detail"] == hot(
        "SELECT 'no relay since ' || since || ', 0 changes in the outbox' FROM pgcache_internal.hot_types"
    )


def test_a_tier_that_began_anew_gives_it_time(hot: Session) -> None:
    seen(hot, "1 hour")
    hot("UPDATE pgcache_internal.hot_types SET since = now()")
    assert hot.row(CHECK)["status"] == "ok"


def test_a_long_outbox_is_a_warning(hot: Session) -> None:
    hot("SELECT cache_hot_configure(outbox_limit => 10)")
    hot("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 5) i")
    assert hot.row(CHECK)["status"] == "ok"
    hot("SELECT cache_set('store', 'k', '1')")
    check = hot.row(CHECK)
    assert (check["status"], check["hint"] is None) == ("warning", False)
    assert "6 changes" in check["detail"]


def test_who_may_only_read_sees_it(hot: Session, role: object) -> None:
    assert role("read").row(CHECK)["status"] == "ok"  # type: ignore[operator]
