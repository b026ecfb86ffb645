"""Many entries in one call: cache_get_many, cache_set_many, both with JSON, cache_delete_many, cache_warm."""

from __future__ import annotations

import json

import pytest

from tests.conftest import NewSession
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once

pytestmark = pytest.mark.every


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_get_many_answers_in_the_order_asked(shared: Session, type: str) -> None:
    value = VALUES.get(type, ["[1]"])[0]
    assert shared("SELECT cache_set_many(%s, '{b,a,c}', array_fill(%s::jsonb, '{3}'))", type, value) == 3
    rows = shared.rows(
        "SELECT key, value = %s::jsonb FROM cache_get_many(%s, '{c,absent,a,c,other,b}')", value, type
    )  # fmt: skip
    assert rows == [("c", True), ("absent", None), ("a", True), ("c", True), ("other", None), ("b", True)]
    stats = shared.stats(type)
    assert (stats["hits"], stats["misses"]) == (4, 2)


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_get_many_json_has_the_hits(shared: Session, type: str) -> None:
    value = json.loads(VALUES.get(type, ["[1]"])[0])
    assert shared("SELECT cache_set_many_json(%s, %s)", type, json.dumps({"b": value, "a": value, "c": value})) == 3
    stored = shared("SELECT cache_get(%s, 'a')", type)
    before = shared.stats(type)
    # A key that is asked for twice is one hit, or one miss.
    found = shared("SELECT cache_get_many_json(%s, '{c,absent,a,c,other,absent}')", type)
    assert found == {"a": stored, "c": stored}
    assert shared("SELECT cache_get_many_json(%s, '{a,b,a}')", type) == {"a": stored, "b": stored}
    stats = shared.stats(type)
    assert (stats["hits"] - before["hits"], stats["misses"] - before["misses"]) == (4, 2)


@pytest.mark.parametrize("key", ['quo"te', "back\\slash", "new\nline", "é🐘", "{}", "null", " ", "1", "k" * 1024])
def test_keys_survive_json(ask: Session, key: str) -> None:
    assert ask("SELECT cache_set_many_json('store', %s)", json.dumps({key: None, "other": {key: [key]}})) == 2
    assert ask("SELECT cache_get_many_json('store', ARRAY[%s, 'other'])", key) == {key: None, "other": {key: [key]}}
    assert ask("SELECT cache_get('store', %s)::text", key) == "null"


def test_hits_of_get_many_json_reach_the_entries(ask: Session) -> None:
    ask("SELECT cache_set_many_json('llm', %s)", '{"a": {"response": "r", "model": "m", "tokens_used": 7}}')
    for _ in range(3):
        ask("SELECT cache_get_many_json('llm', '{a,absent}')")
    ask("CALL cache_upkeep()")
    assert ask("SELECT hit_count FROM cache_entry('llm', 'a')") == 3
    assert ask.stats("llm")["tokens_saved"] == 21


def test_set_many_json_is_all_or_none(ask: Session) -> None:
    for entries in (None, "null", "[]", "1", '"a"', '[{"a": 1}]'):
        with refused("PC004", "For example: SELECT cache_set_many_json"):
            ask("SELECT cache_set_many_json('store', %s)", entries)
    for key in ("", "x" * 1025):
        with refused("PC002"):
            ask("SELECT cache_set_many_json('store', %s)", json.dumps({"a": 1, key: 2}))
        with refused("PC002"):
            ask("SELECT cache_get_many_json('store', ARRAY['a', %s])", key)
    with refused("PC004", "response (string, required)"):
        ask("SELECT cache_set_many_json('llm', %s)", '{"a": {"response": "r"}, "b": {}}')
    with refused("PC003"):
        ask("SELECT cache_set_many_json('store', '{\"a\": 1}', '0')")
    for call in ("cache_set_many_json('nosuch', '{}')", "cache_get_many_json('nosuch', '{a}')"):
        with refused("PC001"):
            ask(f"SELECT {call}")
    with refused("PC002"):
        ask("SELECT cache_get_many_json('store', NULL)")
    with refused("PC002"):
        ask("SELECT cache_get_many_json('store', '{a,NULL}')")
    assert ask("SELECT sum(entries) FROM cache_stats") == 0
    with refused("25006"):
        ask("BEGIN READ ONLY")
        ask("SELECT cache_set_many_json('store', '{\"a\": 1}')")


def test_nothing_in_nothing_out(ask: Session) -> None:
    assert ask("SELECT cache_get_many_json('store', '{}')") == {}
    assert ask("SELECT cache_set_many_json('store', '{}')") == 0
    assert ask.rows("SELECT * FROM cache_get_many('store', '{}')") == []
    assert ask("SELECT cache_set_many('store', '{}', '{}')") == 0
    assert ask("SELECT cache_delete_many('store', '{}')") == 0
    assert ask("SELECT cache_warm('store', '[]')") == 0


def test_get_many_does_not_return_what_has_expired(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'a', '1', '1 minute'), cache_set('store', 'b', '2', '2 minutes')")
    ask.advance("1 minute")
    assert ask.rows("SELECT * FROM cache_get_many('store', '{a,b}')") == [("a", None), ("b", 2)]


def test_set_many_replaces_and_takes_the_last_of_equal_keys(ask: Session) -> None:
    ask("SELECT cache_set('store', 'a', '0')")
    assert ask("SELECT cache_set_many('store', '{a,b,a}', ARRAY['1', '2', '3']::jsonb[], '5 minutes')") == 2
    assert ask.rows("SELECT * FROM cache_get_many('store', '{a,b}')") == [("a", 3), ("b", 2)]
    assert ask("SELECT cache_ttl('store', 'a') <= '5 minutes'")
    ask("SELECT cache_set_many('llm', '{a,a}', ARRAY['{\"response\": \"1\"}', '{\"response\": \"2\"}']::jsonb[])")
    assert ask("SELECT cache_get('llm', 'a')") == {"response": "2"}


def test_set_many_is_all_or_none(ask: Session) -> None:
    for type, good in (("store", "1"), ("llm", '{"response": "r"}')):
        with refused("PC002"):
            ask("SELECT cache_set_many(%s, '{a,NULL}', array_fill(%s::jsonb, '{2}'))", type, good)
        with refused("PC004"):
            ask("SELECT cache_set_many(%s, '{a,b}', ARRAY[%s, NULL]::jsonb[])", type, good)
        with refused("PC004", "same length"):
            ask("SELECT cache_set_many(%s, '{a,b}', ARRAY[%s]::jsonb[])", type, good)
        with refused("PC003"):
            ask("SELECT cache_set_many(%s, '{a}', ARRAY[%s]::jsonb[], '0')", type, good)
    with refused("PC004", "response (string, required)"):
        ask("SELECT cache_set_many('llm', '{a,b}', ARRAY['{\"response\": \"r\"}', '{}']::jsonb[])")
    with refused("PC005"):
        ask("SELECT cache_configure('embedding', dimensions => 2)")
        ask(
            "SELECT cache_set_many('embedding', '{a,b}', ARRAY['{\"embedding\": [1,2]}',"
            " '{\"embedding\": [1]}']::jsonb[])"
        )
    assert ask("SELECT sum(entries) FROM cache_stats") == 0


def test_nested_arrays_and_odd_bounds(ask: Session) -> None:
    assert ask("SELECT cache_set_many('store', '[5:6]={a,b}', '[-1:0]={1,2}'::jsonb[])") == 2
    assert ask("SELECT cache_get('store', 'b')") == 2
    assert ask.column("SELECT value FROM cache_get_many('store', '[0:1]={b,a}')") == [2, 1]
    assert ask("SELECT cache_set_many('store', '{{c,d}}', '{{3,4}}'::jsonb[])") == 2
    assert ask("SELECT cache_get('store', 'd')") == 4


def test_ten_thousand_at_once(ask: Session) -> None:
    keys = "ARRAY(SELECT 'k' || i FROM generate_series(1, 10000) i)"
    values = "ARRAY(SELECT to_jsonb(i) FROM generate_series(1, 10000) i)"
    assert ask(f"SELECT cache_set_many('store', {keys}, {values})") == 10_000
    assert ask(f"SELECT cache_set_many('store', {keys}, {values})") == 10_000
    assert ask(f"SELECT sum(value::bigint) FROM cache_get_many('store', {keys})") == 10_000 * 10_001 / 2
    assert ask(f"SELECT cache_delete_many('store', {keys})") == 10_000


def test_delete_many(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set_many('store', '{a,b,c,d}', '{1,2,3,4}')")
    ask("SELECT cache_touch('store', 'd', '1 minute')")
    ask.advance("1 minute")
    # Expired ones go too, but only what was live counts.
    assert ask("SELECT cache_delete_many('store', '{a,absent,a,b,d}')") == 2
    assert ask.column("SELECT cache_key FROM cache_store") == ["c"]


def test_batches_that_overlap_do_not_deadlock(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(4)]

    def write(session: Session, order: str) -> int:
        keys = f"ARRAY(SELECT 'k' || i FROM generate_series(1, 300) i ORDER BY i {order})"
        return sum(
            session(f"SELECT cache_set_many('store', {keys}, array_fill('1'::jsonb, '{{300}}'))") for _ in range(5)
        )

    orders = ["ASC", "DESC", "ASC", "DESC"]
    results = at_once(
        *(
            lambda session=session, order=order: write(session, order)
            for session, order in zip(sessions, orders, strict=True)
        )
    )
    assert results == [1500] * 4


def test_warm(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    entries = [
        {"key": "a", "value": {"response": "x"}},
        {"key": "b", "value": {"response": "y"}, "ttl": "5 minutes"},
        {"key": "c", "value": {"response": "z"}, "ttl": "300"},
        {"key": "a", "value": {"response": "last"}},
    ]
    assert ask("SELECT cache_warm('llm', %s)", json.dumps(entries)) == 3
    assert ask("SELECT cache_get('llm', 'a')") == {"response": "last"}
    ttls = ask.rows("SELECT k, cache_ttl('llm', k)::text FROM unnest('{a,b,c}'::text[]) k ORDER BY k")
    assert ttls == [("a", "01:00:00"), ("b", "00:05:00"), ("c", "00:05:00")]
    assert ask('SELECT cache_warm(\'store\', \'[{"key": "n", "value": null}]\')') == 1
    assert ask("SELECT cache_get('store', 'n')::text") == "null"


@pytest.mark.parametrize(
    "entries",
    [
        "null",
        "{}",
        '"a"',
        "1",
        "[1]",
        "[[]]",
        '[{"key": "w"}]',
        '[{"value": 1}]',
        '[{"key": "w", "value": 1}, null]',
        '[{"key": "w", "value": 1, "tl": "1 hour"}]',
    ],
)
def test_warm_says_what_it_takes(shared: Session, entries: str) -> None:
    with refused("PC004", "cache_warm("):
        shared("SELECT cache_warm('store', %s)", entries)
    assert shared("SELECT count(*) FROM cache_store WHERE cache_key = 'w'") == 0


def test_warm_reports_bad_keys_and_ttls(ask: Session) -> None:
    for key in ("null", '""', f'"{"x" * 1025}"'):
        with refused("PC002"):
            ask("SELECT cache_warm('store', %s)", f'[{{"key": {key}, "value": 1}}]')
    for ttl in ('"0"', '"-1 hour"'):
        with refused("PC003"):
            ask("SELECT cache_warm('store', %s)", f'[{{"key": "k", "value": 1, "ttl": {ttl}}}]')


def test_warm_reports_a_ttl_that_is_none(ask: Session) -> None:
    for ttl in ('"soon"', "{}"):
        with refused("PC003", "interval"):
            ask("SELECT cache_warm('store', %s)", f'[{{"key": "k", "value": 1, "ttl": {ttl}}}]')


def test_the_live_entries_of_a_json_type_can_be_joined(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_create_type('mine')")
    ask("SELECT cache_set_many('mine', '{a,b}', ARRAY['1', '2']::jsonb[], '1 day'), cache_set('store', 'a', '7')")
    ask("SELECT cache_set('mine', 'brief', '3', '1 minute')")
    ask("SET pgcache.tenant = 'other'; SELECT cache_set('mine', 'theirs', '4')")
    ask("RESET pgcache.tenant")
    ask.advance("1 minute")
    asked = "SELECT unnest('{a,b,brief,theirs,a}'::text[]) AS key"
    joined = f"SELECT array_agg(c.value) FROM ({asked}) o LEFT JOIN cache_live(%s) c USING (key) WHERE o.key = %s"
    for type, key, values in (
        ("mine", "a", [1, 1]),
        ("mine", "b", [2]),
        ("mine", "brief", [None]),
        ("mine", "theirs", [None]),
        ("store", "a", [7, 7]),
        ("store", "b", [None]),
    ):
        assert ask(joined, type, key) == values
    assert ask.stats("mine")["hits"] == 0


def test_live_entries_are_those_of_json_types_only(ask: Session) -> None:
    for wrong, code in (("llm", "PC004"), ("unknown", "PC001"), (None, "PC001")):
        with refused(code):
            ask.rows("SELECT * FROM cache_live(%s)", wrong)
        with refused(code):
            ask.rows("SELECT t.type, c.* FROM (SELECT %s::text AS type OFFSET 0) t, cache_live(t.type) c", wrong)


def test_live_entries_become_a_part_of_the_query(ask: Session) -> None:
    """So that one that names a key finds it by the index."""
    ask("SET enable_seqscan = off")  # the table is small
    plan = "\n".join(ask.column("EXPLAIN (COSTS OFF) SELECT value FROM cache_live('store') WHERE key = '7'"))
    assert "cache_type_store_pkey" in plan, plan
    assert "Function Scan" not in plan
