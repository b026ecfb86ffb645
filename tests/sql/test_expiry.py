"""Expiry, by a clock that the tests set; and what changes or tells an entry's time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_an_entry_lives_until_the_moment_it_expires(shared: Session, type: str) -> None:
    shared.set_clock("2030-01-01 00:00:00+00")
    shared("SELECT cache_set(%s, 'k', %s, '10 minutes')", type, VALUES.get(type, ["1"])[0])
    shared.set_clock("2030-01-01 00:09:59.999999+00")
    assert shared("SELECT cache_get(%s, 'k') IS NOT NULL", type)
    assert shared("SELECT cache_exists(%s, 'k')", type)
    shared.set_clock("2030-01-01 00:10:00+00")
    assert shared("SELECT cache_get(%s, 'k') IS NULL", type)
    assert shared("SELECT value IS NULL FROM cache_get_many(%s, '{k}')", type)
    assert not shared("SELECT cache_exists(%s, 'k')", type)
    assert shared("SELECT cache_ttl(%s, 'k')", type) is None
    assert shared("SELECT count(*) FROM cache_keys(%s)", type) == 0
    assert shared("SELECT cache_touch(%s, 'k', '1 hour')", type) is False
    assert shared("SELECT cache_persist(%s, 'k')", type) is False
    assert shared("SELECT cache_delete(%s, 'k')", type) is False
    assert shared("SELECT entries FROM cache_stats WHERE type = %s", type) == 0


def test_the_clock_goes_on_inside_a_transaction(ask: Session) -> None:
    """now() stands still there: an entry would neither expire in a long transaction nor be younger than its start."""
    with ask.transaction():
        ask("SELECT cache_set('store', 'k', '1')")
        assert ask("SELECT created_at > now() FROM cache_entry('store', 'k')")
        assert ask("SELECT pgcache_internal.cache_now() > now()")


def test_the_clock_goes_on_inside_a_statement(ask: Session) -> None:
    ask("""
        DO $$
        BEGIN
            PERFORM cache_set('store', 'k', '1', '1 millisecond');
            PERFORM pg_sleep(0.002);
            ASSERT cache_get('store', 'k') IS NULL;
            ASSERT NOT cache_exists('store', 'k');
            ASSERT (SELECT value IS NULL FROM cache_get_many('store', '{k}'));
            PERFORM cache_set('store', 'k', '2', '1 hour');
            ASSERT cache_get('store', 'k') = '2';
            ASSERT cache_ttl('store', 'k') > '59 minutes';
        END $$
    """)


def test_the_clock_of_one_session_is_its_own(ask: Session) -> None:
    assert ask("SELECT pgcache_internal.cache_now() BETWEEN statement_timestamp() AND clock_timestamp()")
    ask.set_clock("2030-01-01 00:00+00")
    assert ask("SELECT pgcache_internal.cache_now() = '2030-01-01 00:00+00'")
    ask.set_clock("")
    assert ask("SELECT pgcache_internal.cache_now() BETWEEN statement_timestamp() AND clock_timestamp()")
    ask("RESET pgcache.clock")
    assert ask("SELECT pgcache_internal.cache_now() BETWEEN statement_timestamp() AND clock_timestamp()")


def test_without_the_setting_no_session_sets_the_clock(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1', '1 minute')")
    ask.set_clock("2000-01-01 00:00+00")
    assert ask("SELECT cache_configure_setting('test_clock', 'off')") == "on"
    assert ask("SELECT pgcache_internal.cache_now() BETWEEN statement_timestamp() AND clock_timestamp()")
    assert ask("SELECT cache_ttl('store', 'k') <= '1 minute'")
    assert ask("SELECT cache_configure_setting('test_clock', 'on')") == "off"
    assert ask("SELECT pgcache_internal.cache_now() = '2000-01-01 00:00+00'")
    for wrong in ("1", "yes", None):
        with refused("PC010"):
            ask("SELECT cache_configure_setting('test_clock', %s)", wrong)


def test_touch(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'k', '1', '1 minute')")
    ask.advance("30 seconds")
    assert ask("SELECT cache_touch('store', 'k', '10 minutes')") is True
    assert ask("SELECT cache_ttl('store', 'k')::text") == "00:10:00"
    assert ask("SELECT cache_touch('store', 'k')") is True
    assert ask("SELECT cache_ttl('store', 'k')::text") == "01:00:00"
    assert ask("SELECT cache_touch('store', 'absent')") is False
    ask("SELECT cache_configure('store', reset => '{ttl}')")
    assert ask("SELECT cache_touch('store', 'k')") is True
    assert ask("SELECT expires_at FROM cache_entry('store', 'k')") is None


def test_persist(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'k', '1', '1 minute')")
    assert ask("SELECT cache_persist('store', 'k')") is True
    assert ask("SELECT cache_persist('store', 'absent')") is False
    ask.set_clock("2999-01-01")
    assert ask("SELECT cache_get('store', 'k')") == 1
    assert ask("SELECT cache_ttl('store', 'k')") is None
    assert ask("SELECT cache_exists('store', 'k')")
    assert ask("SELECT cache_add('store', 'k', '2')") is False
    assert ask("SELECT cache_clear_expired()") == 0
    ask("SELECT cache_set('store', 'k', '2', '1 minute')")  # which gives it an expiry again
    assert ask("SELECT cache_ttl('store', 'k')::text") == "00:01:00"


@pytest.mark.parametrize(
    ("ttl", "expires"),
    [
        ("3600", "2030-01-31 01:00"),
        ("1 hour", "2030-01-31 01:00"),
        ("0.5 seconds", "2030-01-31 00:00:00.5"),
        ("00:00:00.000001", "2030-01-31 00:00:00.000001"),
        ("1 month", "2030-02-28 00:00"),
        ("7 days", "2030-02-07 00:00"),
        ("9999 years", "12029-01-31 00:00"),
        ("P1DT2H", "2030-02-01 02:00"),
    ],
)
def test_ttls(shared: Session, ttl: str, expires: str) -> None:
    shared("SET timezone = 'UTC'")
    shared.set_clock("2030-01-31 00:00+00")
    shared("SELECT cache_set('store', 'k', '1', %s)", ttl)
    assert shared("SELECT expires_at = %s FROM cache_entry('store', 'k')", expires)


def test_a_days_ttl_over_the_change_to_summer_time(ask: Session) -> None:
    ask("SET timezone = 'Europe/Berlin'")
    ask.set_clock("2030-03-30 12:00+01")
    ask("SELECT cache_set('store', 'day', '1', '1 day'), cache_set('store', 'hours', '1', '24 hours')")
    assert ask("SELECT expires_at = '2030-03-31 12:00+02' FROM cache_entry('store', 'day')")
    assert ask("SELECT expires_at = '2030-03-31 13:00+02' FROM cache_entry('store', 'hours')")


def test_entry_tells_why_a_get_hits_or_misses(ask: Session) -> None:
    ask.set_clock("2030-01-01 00:00+00")
    assert ask.rows("SELECT * FROM cache_entry('store', 'k')") == []
    ask("SELECT cache_set('store', 'k', '\"value\"', '10 minutes')")
    ask.advance("1 minute")
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 3)")
    ask.advance("1 minute")
    entry = ask.row("""
        SELECT tenant, cache_key, created_at = '2030-01-01 00:00+00' AS created,
            expires_at = '2030-01-01 00:10+00' AS expires, ttl::text, hit_count, bytes, expired
        FROM cache_entry('store', 'k')
    """)
    size = entry.pop("bytes")
    assert 96 < size < 200
    assert entry == {
        "tenant": "", "cache_key": "k", "created": True, "expires": True, "ttl": "00:08:00", "hit_count": 3,
        "expired": False,
    }  # fmt: skip
    ask("CALL cache_upkeep()")
    entry = ask.row(
        "SELECT hit_count, last_accessed_at = '2030-01-01 00:01+00' AS accessed FROM cache_entry('store', 'k')"
    )
    assert entry == {"hit_count": 3, "accessed": True}
    ask.advance("8 minutes")
    assert ask.row("SELECT expired, ttl::text FROM cache_entry('store', 'k')") == {"expired": True, "ttl": "00:00:00"}


def test_what_looks_at_entries_counts_neither_hit_nor_miss(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_exists('store', 'k'), cache_exists('store', 'absent'), cache_ttl('store', 'k')")
    ask("SELECT cache_entry('store', 'k'), cache_keys('store'), cache_touch('store', 'k')")
    assert (ask.stats("store")["hits"], ask.stats("store")["misses"]) == (0, 0)


def test_keys(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask(
        "SELECT cache_set_many('store', ARRAY['user:1:a', 'user:1:b', 'user:2:a', 'user_1', 'ä', 'Z', 'a'],"
        " array_fill('1'::jsonb, '{7}'))"
    )
    ask("SELECT cache_set('store', 'user:1:expired', '1', '1')")
    ask.advance("1 second")
    assert ask.column("SELECT cache_keys('store')") == ["Z", "a", "user:1:a", "user:1:b", "user:2:a", "user_1", "ä"]
    assert ask.column("SELECT cache_keys('store', 'user:1:%')") == ["user:1:a", "user:1:b"]
    assert ask.column("SELECT cache_keys('store', E'user\\\\_1')") == ["user_1"]
    assert ask.column("SELECT cache_keys('store', 'user_1%')") == ["user:1:a", "user:1:b", "user_1"]
    assert ask.column("SELECT cache_keys('store', '%', 2)") == ["Z", "a"]
    assert len(ask.column("SELECT cache_keys('store', max_keys => NULL)")) == 7
    ask("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")
    everything = ask.rows("SELECT * FROM get_all_cache_keys()")
    assert everything[0] == ("llm", "k")
    assert len(everything) == 8
    assert len(ask.rows("SELECT * FROM get_all_cache_keys(3)")) == 3


def test_tiers(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    tiers = dict(
        ask.rows(
            "SELECT t, extract(epoch FROM cache_tier(t))::integer FROM unnest('{short,medium,long,week}'::text[]) t"
        )
    )
    assert tiers == {"short": 300, "medium": 3600, "long": 86400, "week": 604800}
    ask("SELECT cache_set('store', 'k', '1', cache_tier('short'))")
    assert ask("SELECT cache_ttl('store', 'k')::text") == "00:05:00"
    assert ask("SELECT cache_configure_setting('ttl_short', '10 minutes')") == "5 minutes"
    assert ask("SELECT cache_tier('short')::text") == "00:10:00"


def test_types_follow_a_tier(ask: Session, new_session: NewSession) -> None:
    other = new_session()
    for session in (ask, other):
        session.set_clock("2030-01-01")

    def ttl(session: Session) -> str:
        session("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")
        return str(session("SELECT cache_ttl('llm', 'k')::text"))

    ask("SELECT cache_configure('llm', tier => 'short')")
    assert (ttl(ask), ttl(other)) == ("00:05:00", "00:05:00")
    assert [ask.stats("llm")[name] for name in ("ttl", "tier")] == [timedelta(minutes=5), "short"]
    ask("SELECT cache_configure_setting('ttl_short', '10 minutes'), cache_configure_setting('ttl_medium', '2 hours')")
    assert (ttl(ask), ttl(other)) == ("00:10:00", "00:10:00")
    ask("UPDATE cache_settings SET value = '11 minutes' WHERE name = 'ttl_short'")
    ask("SELECT cache_configure('llm', max_entries => 100)")
    assert (ttl(ask), ttl(other)) == ("00:11:00", "00:11:00")
    assert ask("SELECT ttl::text FROM cache_stats WHERE type = 'store'") == "01:00:00"
    for change, left in {"ttl => '3 minutes'": "00:03:00", "reset => '{ttl}'": "None"}.items():
        ask("SELECT cache_configure('llm', tier => 'short')")
        ask(f"SELECT cache_configure('llm', {change})")
        ask("SELECT cache_configure_setting('ttl_short', '12 minutes')")
        assert ttl(other) == left
    with refused("PC010", "ttl, or tier"):
        ask("SELECT cache_configure('llm', tier => 'short', ttl => '1 hour')")
    with refused("PC010", "Name in reset"):
        ask("SELECT cache_configure('llm', tier => 'short', reset => '{ttl}')")
    with refused("PC010", "short, medium, long, week"):
        ask("SELECT cache_configure('llm', tier => 'tiny')")


@pytest.mark.parametrize("how", ["CALL cache_upkeep()", "SELECT cache_cleanup()", "SELECT cache_clear_expired('llm')"])
def test_entries_get_no_older_than_the_type_says(ask: Session, how: str) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_configure('llm', max_age => '30 days', reset => '{ttl}')")
    value = '\'{"response": "r"}\''
    ask(f"SELECT cache_set('llm', 'old', {value}), cache_set('llm', 'rewritten', {value}),"
        f" cache_set('llm', 'touched', {value}, '1 year'), cache_set_face('x', '', '[]')")  # fmt: skip
    ask.advance("20 days")
    ask(f"SELECT cache_set('llm', 'rewritten', {value}), cache_touch('llm', 'touched', '5 years')")
    ask(how)
    assert ask.stats("llm")["entries"] == 3
    ask.advance("11 days")
    ask(how)
    assert ask.column("SELECT * FROM cache_keys('llm')") == ["rewritten"]
    assert (ask.stats("llm")["cleaned"], ask.stats("llm")["evicted"], ask.stats("face")["entries"]) == (2, 0, 1)
    ask("SELECT cache_configure('llm', reset => '{max_age}')")
    ask.advance("10 years")
    ask(how)
    assert ask.column("SELECT * FROM cache_keys('llm')") == ["rewritten"]
    for wrong in ("0", "-1 day", "1001 years", "3500000 months -104999970 days"):
        with refused("PC010", "at most 1000 years such as '30 days'"):
            ask("SELECT cache_configure('llm', max_age => %s)", wrong)


def test_what_is_too_old_makes_room_first(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine', ttl => NULL, max_entries => 100)")
    ask("SELECT cache_configure('mine', max_age => '1 day')")
    ask("SELECT cache_set_many_json('mine', jsonb_object_agg('old' || n, n)) FROM generate_series(1, 80) n")
    ask.advance("2 days")
    ask("SELECT cache_set('mine', 'new' || n, '1') FROM generate_series(1, 60) n")
    assert ask.stats("mine")["evicted"] == 0
    assert ask("SELECT count(*) FROM cache_keys('mine', 'new%')") == 60


JITTERED = (
    "cache_set(%s, 'k' || n, %s, %s, jitter => 0.5)",
    "cache_set(%s, 'k' || n, %s, %s, '{a}', jitter => 0.5)",
    "cache_set_many(%s, ARRAY['k' || n], ARRAY[%s]::jsonb[], %s, 0.5)",
)


@pytest.mark.parametrize("ttl", ["10 minutes", None])
@pytest.mark.parametrize("call", JITTERED)
@pytest.mark.parametrize("type", ["store", "llm", "embedding"])
def test_jitter_shortens_the_ttl_at_random(shared: Session, type: str, call: str, ttl: str | None) -> None:
    shared.set_clock("2030-01-01 00:00:00+00")
    shared("SELECT cache_clear(%s)", type)
    longest = timedelta(minutes=10) if ttl else shared("SELECT ttl FROM cache_stats WHERE type = %s", type)
    shared(f"SELECT count({call}) FROM generate_series(1, 100) n", type, VALUES.get(type, ["1"])[0], ttl)
    left = shared("SELECT array_agg(cache_ttl(%s, k)) FROM cache_keys(%s) k", type, type)
    assert len(left) == 100
    assert len(set(left)) > 90
    assert longest / 2 <= min(left) < longest * 0.7
    assert longest * 0.8 < max(left) <= longest


def test_jitter_of_a_whole_batch(shared: Session) -> None:
    shared("SELECT cache_clear('store')")
    entries = "(SELECT jsonb_object_agg(n, n) FROM generate_series(1, 100) n)"
    shared(f"SELECT cache_set_many_json('store', {entries}, '1 hour', 1)")
    assert shared("SELECT count(DISTINCT cache_ttl('store', k)) FROM cache_keys('store') k") > 90


def test_what_never_expires_has_no_jitter(shared: Session) -> None:
    shared("SELECT cache_set('phash', 'k', '{\"phash\": \"f\"}', jitter => 1)")
    assert shared("SELECT cache_exists('phash', 'k')")
    assert shared("SELECT cache_ttl('phash', 'k')") is None


@pytest.mark.parametrize("jitter", ["-0.1", "1.01", "'NaN'", "'Infinity'"])
def test_a_jitter_that_is_no_share(shared: Session, jitter: str) -> None:
    for call in (
        f"cache_set('store', 'j', '1', jitter => {jitter})",
        f"cache_set('store', 'j', '1', tags => '{{a}}', jitter => {jitter})",
        f"cache_set_many('store', '{{j}}', '{{1}}', jitter => {jitter})",
        f"cache_set_many_json('store', '{{\"j\": 1}}', jitter => {jitter})",
    ):
        with refused("PC003", "a share from 0 to 1"):
            shared(f"SELECT {call}")
    assert not shared("SELECT cache_exists('store', 'j')")


NEVER_EXPIRES = [
    "cache_set('store', 'k', '1', {never})",
    "cache_set('store', 'k', '1', {never}, '{{a}}', jitter => 0.5)",
    "cache_set('llm', 'k', '{{\"response\": \"r\"}}', {never}, jitter => 0.5)",
    "cache_set('embedding', 'k', '{{\"embedding\": [1]}}', {never})",
    'cache_set(\'audio\', \'k\', \'{{"audio_data": "", "format": "f"}}\', {never})',
    "cache_add('store', 'k', '1', {never})",
    "cache_incr('store', 'k', 1, {never})",
    "cache_set_many('store', '{{k}}', '{{1}}', {never}, 0.5)",
    "cache_set_many_json('store', '{{\"k\": 1}}', {never})",
    'cache_warm(\'store\', \'[{{"key": "k", "value": 1, "ttl": "never"}}]\')',
    'cache_warm(\'store\', \'[{{"key": "k", "value": 1, "ttl": "infinity"}}]\')',
    "cache_set('store', 'k', '1') AND cache_touch('store', 'k', {never})",
]


@pytest.mark.parametrize("call", NEVER_EXPIRES)
def test_a_ttl_of_never(shared: Session, call: str) -> None:
    spellings = ["cache_never()", "'2147483647 months'"]
    if shared.connection.info.server_version >= 170000:
        spellings.append("'infinity'")
    type = next(type for type in ("llm", "embedding", "audio", "store") if f"'{type}'" in call)
    for never in spellings:
        shared("SELECT cache_delete(%s, 'k')", type)
        shared(f"SELECT {call}".format(never=never))
        assert shared("SELECT cache_exists(%s, 'k')", type)
        assert shared("SELECT expires_at FROM cache_entry(%s, 'k')", type) is None
        shared("SELECT cache_set('store', 'k', '1')")


def test_a_type_whose_entries_never_expire(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', ttl => cache_never())")
    assert ask("SELECT ttl FROM cache_stats WHERE type = 'mine'") is None
    ask("SELECT cache_set('mine', 'k', '1')")
    assert ask("SELECT expires_at FROM cache_entry('mine', 'k')") is None
    ask("SELECT cache_configure('store', ttl => cache_never())")
    ask("SELECT cache_set('store', 'k', '1')")
    assert ask("SELECT expires_at FROM cache_entry('store', 'k')") is None
    with refused("PC003"):
        ask("SELECT cache_hot_on('store', cache_never())")


def test_a_counter_that_was_never_to_expire_keeps_to_that(ask: Session) -> None:
    ask("SELECT cache_incr('store', 'k', 1, cache_never()), cache_incr('store', 'k')")
    assert ask("SELECT expires_at FROM cache_entry('store', 'k')") is None
    ask("SELECT cache_incr('store', 'k', 1, '1 hour')")
    assert ask("SELECT cache_ttl('store', 'k')") <= timedelta(hours=1)
