"""Hits that a session gathers before it logs them: what of them is seen, what is lost, and what nobody can pretend."""

from __future__ import annotations

import pytest

from tests.conftest import NewSession
from tests.sql.conftest import Walled
from tests.tools.session import Session

HITS = 1000


def place(ask: Session, key: str, tenant: str = "") -> str:
    return str(ask("SELECT ctid::text FROM cache_store WHERE cache_key = %s AND tenant = %s", key, tenant))


def logged(ask: Session, tenant: str = "") -> int:
    query = "SELECT coalesce(sum(weight), 0) FROM pgcache_internal.hit_log WHERE type = 'store' AND tenant = %s"
    return int(ask(query, tenant))


def get(session: Session, times: int, key: str = "'k'") -> None:
    """Each in a statement of its own."""
    session(f"DO $$ BEGIN FOR i IN 1..{times} LOOP PERFORM pgcache.cache_get('store', {key}); END LOOP; END $$")


def gathered(session: Session) -> int:
    return int(session("SELECT (length(s) - length(replace(s, '(', ''))) FROM current_setting('pgcache.hits_store') s"))


def test_what_is_logged_and_gathered_is_all_of_it(ask: Session) -> None:
    ask("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 20) i")
    get(ask, HITS, "'k' || 1 + i % 20")
    assert logged(ask) + gathered(ask) == HITS
    assert 0 < gathered(ask) < 60
    ask("CALL cache_upkeep()")  # which begins with what this session has gathered
    assert ask("SELECT sum(hit_count) FROM cache_store") == HITS
    assert ask.stats("store")["hits"] == HITS


def test_three_transactions_in_a_hundred_write(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    get(ask, 400)
    before = ask("SELECT pg_current_xact_id()::text::bigint")
    ask(f"DO $$ BEGIN FOR i IN 1..{HITS} LOOP PERFORM cache_get('store', 'k'); COMMIT; END LOOP; END $$")
    assert ask("SELECT pg_current_xact_id()::text::bigint") - before - 1 <= 0.03 * HITS


def test_of_few_hits_none_is_lost(new_session: NewSession, ask: Session) -> None:
    """However many sessions there are, as where each request has one of its own."""
    ask("SELECT cache_set('store', 'k', '1')")
    for _ in range(5):
        session = new_session()
        get(session, 15)
        session.close()
    assert logged(ask) == 75
    with_more = new_session()
    get(with_more, 200)
    with_more.close()
    assert 75 + 200 * 7 / 8 <= logged(ask) <= 275


def test_who_asks_rarely_gathers_nothing(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    for number in range(5):  # as if the last hits were logged a minute ago
        ask("SELECT set_config('pgcache.hits_store', repeat(' ', 600), false)")
        minute = int(ask("SELECT extract(epoch FROM clock_timestamp())::bigint - 60"))
        ask("SELECT set_config('pgcache.hits_store', rpad(%s, 600), false)", f"100000 {minute} ")
        ask("SELECT cache_get('store', 'k')")
        assert (logged(ask), gathered(ask)) == (2 * number + 1, 0)
        ask("SELECT cache_get('store', 'k')")
        assert (logged(ask), gathered(ask)) == (2 * number + 2, 0)


def test_a_rollback_undoes_what_it_gathered(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    get(ask, 500)
    before = logged(ask), gathered(ask)
    with ask.transaction():
        get(ask, 100)
        assert logged(ask) + gathered(ask) == 600
    assert (logged(ask), gathered(ask)) == before


def test_a_first_get_that_is_rolled_back(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    with ask.transaction():
        ask("SELECT cache_get('store', 'k')")
    get(ask, 200)
    assert logged(ask) + gathered(ask) == 200
    assert gathered(ask) < 60


def test_read_only_transactions_gather_nothing(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    get(ask, 500)
    before = logged(ask), gathered(ask)
    with ask.transaction("READ ONLY"):
        get(ask, 100)
    assert (logged(ask), gathered(ask)) == before


def test_who_forgets_its_settings_goes_on(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    for _ in range(3):
        get(ask, 100)
        ask("DISCARD ALL")
        ask("SET search_path = public, pgcache")
    assert 300 * 7 / 8 <= logged(ask) <= 300


def test_what_is_gone_or_new_by_then(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '1'), cache_set('store', 'l', '1')")
    get(ask, 500)
    before, held = logged(ask), gathered(ask)
    assert held
    ask("SELECT cache_delete('store', 'k'), cache_set('store', 'l', '2')")
    get(ask, 100, "'l'")
    assert logged(ask) + gathered(ask) == before + 100
    assert ask("SELECT sum(weight) FROM pgcache_internal.hit_log WHERE cache_key = 'l'") == 100 - gathered(ask)


def test_tokens_and_money_are_those_of_the_entry(ask: Session) -> None:
    ask("SELECT cache_set_price('m', 2), cache_set_llm('p', 'm', 'r', 1000000), cache_set_llm('q', 'none', 'r', 7)")
    for _ in range(10):
        ask("SELECT cache_get_llm('p', 'm'), cache_get_llm('q', 'none')")
    stats = ask.stats("llm")
    assert (stats["tokens_saved"], stats["money_saved"]) == (10 * 1_000_007, 20)


@pytest.mark.parametrize("kind", ["logged on its own", "with the others"])
def test_serializable_transactions_read_nothing_else(ask: Session, new_session: NewSession, kind: str) -> None:
    """What they have not asked for may be written by others, without one of them failing."""
    other = new_session()
    ask("SELECT count(cache_set('store', 'k' || i, '1')) FROM generate_series(1, 40) i")
    get(ask, 500, "'k' || 1 + i % 40")
    before = logged(ask) + gathered(ask)
    for session in (ask, other):
        session("BEGIN ISOLATION LEVEL SERIALIZABLE")
    for session, asked in ((ask, "k1"), (other, "k2")):
        get(session, 100, f"'{asked}'")
    ask("SELECT cache_set('store', 'k2', '2')" if kind == "with the others" else "SELECT 1")
    other("SELECT cache_set('store', 'k3', '2')")
    for session in (ask, other):
        session("COMMIT")
    assert abs(logged(ask) + gathered(ask) + gathered(other) - before - 200) <= 2 * 48


@pytest.mark.parametrize(
    "said",
    [
        "", "(", ")", "()", "(1,2", "(1,2)(", "(1,2),(3,4)", "(99999999999999,1)", "(1,99999)", "(-1,1)", "(a,b)", "{}",
        '"', "\\", "NaN 1 ", "99999999999999999999 1 ", "7 99999999999999999999 ", "(0,1)" * 5000, "7 7 (0,1)", "é😀",
        "%s", "(0,0)", "(4294967295,65535)",
    ],
)  # fmt: skip
def test_a_session_may_say_what_it_likes(ask: Session, said: str) -> None:
    ask("SELECT cache_set('store', 'k', '1'), cache_set('store', 'other', '1')")
    for text in (said, said + " " * 600, " " * 600 + said):
        ask("SELECT set_config('pgcache.hits_store', %s, false)", text)
        for _ in range(3):
            assert ask("SELECT cache_get('store', 'k')") == 1
    assert logged(ask) < 9 * 200  # a get counts for no more than a session could have gathered
    get(ask, 500)
    assert gathered(ask) < 60


def test_a_walled_role_says_nothing_of_others(ask: Session, walled: Walled) -> None:
    theirs, others = walled("acme"), walled("other")
    for session in (theirs, others):
        session("SELECT cache_set('store', 'k', '1')")
    said = place(ask, "k", "other") * 200
    for _ in range(3):
        theirs("SELECT set_config('pgcache.hits_store', %s, false)", said)
        assert theirs("SELECT cache_get('store', 'k')") == 1
    assert (logged(ask, "acme"), logged(ask, "other")) == (3, 0)


def test_roles_that_share_a_session_lose_nothing(ask: Session, walled: Walled, new_session: NewSession) -> None:
    roles = [walled(tenant).connection.info.user for tenant in ("acme", "other")]
    pooled = new_session()
    for number in range(400):
        pooled(f"SET ROLE {roles[number % 2]}")
        if number < 2:
            pooled("SELECT cache_set('store', 'k', '1')")
        pooled("SELECT cache_get('store', 'k')")
    assert logged(ask, "acme") + logged(ask, "other") + gathered(pooled) == 400
    assert min(logged(ask, "acme"), logged(ask, "other")) > 150


@pytest.mark.once
@pytest.mark.breaks("counters", why="the log is full of hits that nobody had")
def test_a_crowded_log_drops_no_hits_of_who_is_not_asked(ask: Session, walled: Walled) -> None:
    """Roles behind walls that share a session take turns in logging; whether one's are logged is drawn for its own."""
    theirs, others = walled("acme"), walled("other")
    for session in (theirs, others):
        session("SELECT cache_set('store', 'k', '1')")
    ask(
        "INSERT INTO pgcache_internal.hit_log (type, tenant, cache_key, weight, hit_at)"
        " SELECT 'store', '', 'other', 1, now() FROM generate_series(1, 300000)"
    )
    waiting = place(ask, "k", "other")
    theirs("SELECT set_config('pgcache.hits_store', %s, false)", place(ask, "k", "acme") * 100 + waiting)
    assert theirs("SELECT cache_get('store', 'k')") == 1
    assert (logged(ask, "acme"), logged(ask, "other")) == (0, 0)
    assert waiting in theirs("SELECT current_setting('pgcache.hits_store')")
