"""Writes that depend on the value that is there, and what tells how long an entry has left."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import NewRole, NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once


def value(ask: Session, type: str = "store") -> Any:
    return ask("SELECT cache_get(%s, 'k')", type)


@pytest.mark.parametrize("type", VALUES)
def test_replace_stores_only_over_what_is_there(ask: Session, type: str) -> None:
    old, new = VALUES[type][0], VALUES[type][-1]
    assert ask("SELECT cache_replace(%s, 'k', %s)", type, new) is False
    assert value(ask, type) is None
    ask("SELECT cache_set(%s, 'k', %s)", type, old)
    assert ask("SELECT cache_replace(%s, 'k', %s)", type, new) is True
    there = json.dumps(value(ask, type))
    assert ask("SELECT cache_replace(%s, 'k', %s, expected => '\"other\"')", type, old) is False
    assert ask("SELECT cache_replace(%s, 'k', %s, expected => %s)", type, old, there) is True
    assert ask("SELECT cache_replace(%s, 'k', %s, expected => %s)", type, old, there) is (old == new)


def test_delete_if(ask: Session) -> None:
    ask("SELECT cache_set('store', 'k', '{\"a\": 1.0, \"b\": []}')")
    assert ask("SELECT cache_delete_if('store', 'k', '2')") is False
    assert ask("SELECT cache_delete_if('store', 'k', '{\"b\": [], \"a\": 1}')") is True
    assert ask("SELECT cache_delete_if('store', 'k', '{\"b\": [], \"a\": 1}')") is False
    ask("SELECT cache_set('store', 'k', 'null')")
    with refused("PC004"):
        ask("SELECT cache_delete_if('store', 'k', NULL)")
    assert ask("SELECT cache_delete_if('store', 'k', 'null')") is True


def test_what_has_expired_or_is_invalid_is_not_there(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'k', '1', '1 minute'), cache_set('store', 'tagged', '1', tags => '{t}')")
    ask("SELECT cache_invalidate_tags('t')")
    ask.advance("1 minute")
    for key in ("k", "tagged"):
        assert ask("SELECT cache_replace('store', %s, '2')", key) is False
        assert ask("SELECT cache_delete_if('store', %s, '1')", key) is False
        assert ask("SELECT cache_incr('store', %s, create_if_missing => false)", key) is None


def test_what_is_replaced_keeps_its_ttl_if_so_asked(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'k', '1', '1 minute'), cache_set('store', 'never', '1', cache_never())")
    ask("SELECT cache_replace('store', 'k', '2', keep_ttl => true)")
    assert ask("SELECT cache_ttl('store', 'k')") == timedelta(minutes=1)
    ask("SELECT cache_replace('store', 'never', '2', keep_ttl => true)")
    found = ask.row("SELECT value, ttl = cache_never() AS never FROM cache_get_with_ttl('store', 'never')")
    assert found == {"value": 2, "never": True}
    ask("SELECT cache_replace('store', 'k', '3')")
    assert ask("SELECT cache_ttl('store', 'k')") == timedelta(hours=1)
    ask("SELECT cache_replace('store', 'k', '3', '2 minutes')")
    assert ask("SELECT cache_ttl('store', 'k')") == timedelta(minutes=2)
    with refused("PC003", "keep_ttl"):
        ask("SELECT cache_replace('store', 'k', '3', '2 minutes', keep_ttl => true)")


def test_of_many_who_compare_and_set_one_does(ask: Session, new_session: NewSession) -> None:
    ask("SELECT cache_set('store', 'k', '0')")
    sessions = [new_session() for _ in range(8)]
    for _ in range(5):
        there = value(ask)
        done = at_once(
            *(
                lambda other=other, number=number, there=there: other(
                    "SELECT cache_replace('store', 'k', to_jsonb(%s::int), expected => to_jsonb(%s::int))",
                    number,
                    there,
                )
                for number, other in enumerate(sessions, 1000 + there)
            )
        )
        assert done.count(True) == 1
    there = value(ask)
    done = at_once(
        *(
            lambda other=other: other("SELECT cache_delete_if('store', 'k', to_jsonb(%s::int))", there)
            for other in sessions
        )
    )
    assert done.count(True) == 1


def test_a_deletion_that_finds_another_value_voids_no_lease(ask: Session) -> None:
    token = ask("SELECT token FROM cache_fetch('store', 'k')")
    assert ask("SELECT cache_delete_if('store', 'k', '1')") is False
    assert ask("SELECT cache_set('store', 'k', '1', token => %s)", token) is True
    ask("SELECT cache_touch('store', 'k', '1 microsecond')")
    token = ask("SELECT token FROM cache_fetch('store', 'k')")
    ask("SELECT cache_set('store', 'k', '2')")
    assert ask("SELECT cache_delete_if('store', 'k', '2')") is True
    assert ask("SELECT cache_set('store', 'k', '3', token => %s)", token) is False


def test_get_with_ttl(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    get = "SELECT value, ttl FROM cache_get_with_ttl('store', 'k')"
    assert ask.row(get) == {"value": None, "ttl": None}
    ask("SELECT cache_set('store', 'k', 'null', '90 seconds')")
    assert ask.row(f"SELECT value::text, ttl FROM ({get}) g") == {"value": "null", "ttl": timedelta(seconds=90)}
    assert ask("SELECT hits FROM cache_stats WHERE type = 'store'") == 1
    ask.advance("90 seconds")
    assert ask.row(get) == {"value": None, "ttl": None}


def test_counters_that_are_not_made(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    assert ask("SELECT cache_incr('store', 'k', create_if_missing => false)") is None
    assert not ask("SELECT cache_exists('store', 'k')")
    assert ask("SELECT cache_incr('store', 'k', 5, '1 minute', keep_ttl => true)") == 5
    ask.advance("30 seconds")
    assert ask("SELECT cache_incr('store', 'k', 5, '1 minute', keep_ttl => true)") == 10
    assert ask("SELECT cache_ttl('store', 'k')") == timedelta(seconds=30)
    assert ask("SELECT cache_incr('store', 'k', 5, '1 minute')") == 15
    assert ask("SELECT cache_ttl('store', 'k')") == timedelta(minutes=1)
    assert ask("SELECT cache_incr('store', 'k', create_if_missing => false)") == 16
    ask.advance("1 minute")
    assert ask("SELECT cache_incr('store', 'k', 3, '1 hour', keep_ttl => true)") == 3
    assert ask("SELECT cache_ttl('store', 'k')") == timedelta(hours=1)


def test_counters_of_any_numbers(ask: Session) -> None:
    assert ask("SELECT cache_incr_float('store', 'k', 0.1)::text") == "0.1"
    assert ask("SELECT cache_incr_float('store', 'k', 0.2)::text") == "0.3"
    assert ask("SELECT cache_incr_float('store', 'k', -1e3)::text") == "-999.7"
    assert value(ask) == -999.7
    with refused("PC011", "cache_incr_float"):
        ask("SELECT cache_incr('store', 'k')")
    assert ask("SELECT cache_incr_float('store', 'big', 1e300)::text") == "1" + "0" * 300
    for by in ("'NaN'", "NULL", "'Infinity'"):
        with refused("PC011", "Pass a number"):
            ask(f"SELECT cache_incr_float('store', 'k', {by})")
    for text in ('"5"', "[1]", "true", "null"):
        ask("SELECT cache_set('store', 'text', %s)", text)
        for call in ("cache_incr('store', 'text')", "cache_incr_float('store', 'text', 1)"):
            with refused("PC011", "cache_get"):
                ask(f"SELECT {call}")
    assert ask("SELECT cache_incr('store', 'n', 9223372036854775807)") == 2**63 - 1
    with refused("PC011"):
        ask("SELECT cache_incr('store', 'n')")


ODD = ["a", "a:", "a:1", "a:2", "a%b", "a_b", "a\\b", "A:1", "é:1", "é:2", "b"]


@pytest.mark.parametrize("prefix", ["", "a", "a:", "a%", "a_", "a\\", "é", "é:1", "x", "'"])
def test_by_the_beginning_of_keys(ask: Session, prefix: str) -> None:
    for key in ODD:
        ask(
            "SELECT cache_set('store', %s, to_jsonb(%s::text), CASE WHEN %s = 'b' THEN cache_never() END)",
            key,
            key,
            key,
        )
    meant = sorted((key for key in ODD if key.startswith(prefix)), key=str.encode)
    found = ask.rows("SELECT key, value, ttl FROM cache_scan('store', %s)", prefix)
    assert [key for key, _, _ in found] == [value for _, value, _ in found] == meant
    assert [key for key, _, ttl in found if ttl is None] == [key for key in meant if key == "b"]
    assert ask("SELECT cache_count('store', %s)", prefix) == len(meant)
    pages, after = [], None
    while page := ask.column("SELECT key FROM cache_scan('store', %s, %s, 2)", prefix, after):
        pages += page
        after = page[-1]
    assert pages == meant
    assert ask("SELECT cache_delete_prefix('store', %s, soft => true)", prefix) == len(meant)
    assert ask("SELECT cache_count('store', %s)", prefix) == 0
    for key in ODD:
        ask("SELECT cache_set('store', %s, '1')", key)
    assert ask("SELECT cache_delete_prefix('store', %s)", prefix) == len(meant)
    assert ask("SELECT cache_count('store')") == len(ODD) - len(meant)


def test_wrong_pages(ask: Session) -> None:
    with refused("PC010"):
        ask("SELECT cache_scan('store', max_entries => -1)")
    for call in ("cache_scan('store', NULL)", "cache_count('store', NULL)", "cache_delete_prefix('store', NULL)"):
        with refused("PC006", "every key"):
            ask(f"SELECT {call}")
    for call in (
        "cache_scan('no')",
        "cache_count('no')",
        "cache_delete_prefix('no', 'a')",
        "cache_get_with_ttl('no', 'k')",
    ):
        with refused("PC001"):
            ask(f"SELECT {call}")


def test_each_tenant_by_itself(ask: Session, role: NewRole) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    theirs = role("write")
    theirs("SET pgcache.tenant = 'acme'")
    assert theirs("SELECT cache_replace('store', 'k', '2')") is False
    assert theirs("SELECT cache_delete_if('store', 'k', '1')") is False
    assert theirs("SELECT cache_count('store')") == 0
    assert theirs.column("SELECT key FROM cache_scan('store')") == []
    assert theirs("SELECT cache_delete_prefix('store', '')") == 0
    assert theirs("SELECT value FROM cache_get_with_ttl('store', 'k')") is None
    assert theirs("SELECT cache_incr('store', 'k', create_if_missing => false)") is None
    assert value(ask) == 1
