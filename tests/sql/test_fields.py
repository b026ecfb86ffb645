"""Typed caches of users: types whose values have fields, each in a column of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import NewRole, NewSession
from tests.tools.session import Session, refused

TRANSLATION = '{"source_lang": "string!", "text": "string!", "tokens_used": "integer", "model": "string"}'
ANSWER = '{"source_lang": "de", "text": "Guten Tag", "tokens_used": 7, "model": "m"}'

# kind: what comes back as it went in; what is refused.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "string": (["", "a", "ä€😀", "'; --", '"', "\\", "@type {}", "x" * 5000], [1, True, [], {}]),
    "count": ([0, 7, 999999999], [-1, 1.5, 1000000000, "7", "x", True, [7]]),
    "integer": ([0, -7, 2**63 - 1, -(2**63)], [1.5, 2**63, -(2**63) - 1, 10**19, "7", "x", False, {}]),
    "number": ([0, -1.5, 6.02214076e23, 10**40, 0.1], ["1", "x", True, []]),
    "boolean": ([True, False], ["true", "x", 0, 1, []]),
    "array": ([[], [1, None, {"a": None}], [[]]], [{}, "[]", 1]),
    "object": ([{}, {"a": None, "b": {"c": []}}], [[], "{}", 1]),
    "any": ([1, "1", [None], {"a": None}, False], []),
    "base64": (["", "AA==", "AAAA"], ["AAA", "AA==\n", "!!!!", 1, []]),
    "vector": ([[1, 2.5, -3], [0.5]], [[], "[1,2]", [1, "2"], [None], [1e300], [[1]], 1]),
}
NO_VECTORS: list[Any] = [[], [1e300], [[1]]]
"""Arrays without texts, which pgvector refuses."""


def create(session: Session, fields: str, options: str = "") -> None:
    session(f"SELECT cache_create_type('mine', fields => %s{options})", fields)


def test_every_kind_is_tried(ask: Session) -> None:
    assert ask.column("SELECT kind FROM pgcache_internal.field_kinds() ORDER BY 1") == sorted(VALUES)


@pytest.mark.once
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("required", [True, False])
def test_kinds(ask: Session, kind: str, required: bool) -> None:
    create(ask, json.dumps({"f": kind + "!" * required, "other": "string"}))
    fine, wrong = VALUES[kind]
    for number, content in enumerate(fine):
        value = {"f": content, "other": "x"}
        key = f"k{number}"
        assert ask("SELECT cache_set('mine', %s, %s::jsonb)", key, json.dumps(value))
        assert ask("SELECT cache_get('mine', %s) = %s::jsonb", key, json.dumps(value)), content
        assert ask("SELECT cache_set_many('mine', ARRAY[%s], ARRAY[%s::jsonb])", key, json.dumps({"f": content})) == 1
        assert ask("SELECT value = %s::jsonb FROM cache_get_many('mine', ARRAY[%s])", json.dumps({"f": content}), key)
    for content in wrong:
        for call in ("cache_set('mine', 'bad', %s::jsonb)", "cache_set_many('mine', '{bad}', ARRAY[%s::jsonb])"):
            with refused("PC004"):
                ask(f"SELECT {call}", json.dumps({"f": content}))
    assert not ask("SELECT cache_exists('mine', 'bad')")


def test_what_may_be_absent(ask: Session) -> None:
    create(ask, json.dumps({kind: kind for kind in VALUES}))
    assert ask("SELECT cache_set('mine', 'k', '{}')")
    assert ask("SELECT cache_get('mine', 'k')") == {}
    assert ask("SELECT cache_set('mine', 'k', %s::jsonb)", json.dumps(dict.fromkeys(VALUES)))
    assert ask("SELECT cache_get('mine', 'k')") == {}
    everything = {kind: fine[-1] for kind, (fine, _) in VALUES.items()}
    assert ask("SELECT cache_set('mine', 'k', %s::jsonb)", json.dumps(everything))
    assert ask("SELECT cache_get('mine', 'k') = %s::jsonb", json.dumps(everything))
    assert ask("SELECT cache_set('mine', 'k', '{}')")  # overwriting takes away what is absent now
    assert ask("SELECT cache_get('mine', 'k')") == {}


def test_what_is_stored_where_a_field_is_absent(ask: Session) -> None:
    create(ask, '{"text": "string=none", "n": "count=3", "ok": "boolean=true", "list": "array=[1]"}')
    assert ask("SELECT cache_set('mine', 'k', '{\"n\": null}')")
    assert ask("SELECT cache_get('mine', 'k')") == {"text": "none", "n": 3, "ok": True, "list": [1]}
    assert ask("SELECT cache_set('mine', 'k', '{\"n\": 0, \"ok\": false}')")
    assert ask("SELECT cache_get('mine', 'k')") == {"text": "none", "n": 0, "ok": False, "list": [1]}


def test_columns_are_real(ask: Session) -> None:
    create(
        ask,
        '{"zeta": "string!", "alpha": "vector", "camelCase": "base64", "order": "number", "tokens_used": "integer"}',
    )
    columns = ask.rows("""
        SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
        WHERE attrelid = 'cache_type_mine'::regclass AND attnum > 0 ORDER BY attnum
    """)
    assert columns[3:8] == [
        ("zeta", "text", True), ("alpha", "vector", False), ("camelCase", "bytea", False), ("order", "numeric", False),
        ("tokens_used", "integer", False),
    ]  # fmt: skip
    assert ask("SELECT cache_set('mine', 'k', '{\"zeta\": \"z\", \"order\": 1.50}')")
    assert ask('SELECT "order"::text FROM cache_type_mine WHERE zeta = %s', "z") == "1.50"
    assert ask("SELECT obj_description('cache_type_mine'::regclass)")


def test_tokens_count(ask: Session) -> None:
    create(ask, TRANSLATION)
    ask("SELECT cache_set_price('m', 2)")
    ask("SELECT cache_set('mine', 'k', %s::jsonb)", ANSWER)
    for _ in range(3):
        assert ask("SELECT cache_get('mine', 'k')") == json.loads(ANSWER)
    assert ask.stats("mine")["tokens_saved"] == 21
    assert float(ask.stats("mine")["money_saved"]) == pytest.approx(21 * 2 / 1e6)
    ask("CALL cache_upkeep()")
    stats = ask.stats("mine")
    assert (stats["tokens_saved"], stats["hits"], stats["hits_per_entry"]) == (21, 3, 3)


def test_tokens_without_a_model_count_too(ask: Session) -> None:
    create(ask, '{"text": "string!", "tokens_used": "count"}', ", eviction => 'cost', max_entries => 100")
    ask("SELECT cache_configure_setting('usd_per_million_tokens', '3')")
    ask("SELECT cache_set('mine', 'k', '{\"text\": \"t\", \"tokens_used\": 5}'), cache_get('mine', 'k')")
    assert ask.rows("SELECT * FROM cache_get_many('mine', '{k}')")
    assert ask.stats("mine")["tokens_saved"] == 10
    ask("SELECT count(cache_set('mine', 'k' || i, '{\"text\": \"t\"}')) FROM generate_series(1, 400) i")
    assert ask.stats("mine")["entries"] <= 105


def test_batches_expire_and_overwrite_as_single_sets_do(ask: Session) -> None:
    create(ask, TRANSLATION)
    ask("SELECT set_config('pgcache.clock', '2026-01-01', false)")
    ask("SELECT cache_set_many('mine', '{a,b,a}', ARRAY[%s, %s, %s]::jsonb[], '1 minute')",
        ANSWER, ANSWER, '{"source_lang": "fr", "text": "t"}')  # fmt: skip
    assert ask("SELECT cache_get('mine', 'a')") == {"source_lang": "fr", "text": "t"}
    assert ask("SELECT cache_add('mine', 'a', %s::jsonb)", ANSWER) is False
    ask.advance("2 minutes")
    assert ask("SELECT cache_get('mine', 'b')") is None
    assert ask("SELECT cache_add('mine', 'a', %s::jsonb)", ANSWER) is True


def test_a_vectors_dimensions(ask: Session) -> None:
    create(ask, '{"v": "vector!"}')
    ask("SELECT cache_configure('mine', dimensions => 2)")
    assert ask("SELECT cache_set('mine', 'k', '{\"v\": [1, 2]}')")
    for call in ("cache_set('mine', 'k', %s::jsonb)", "cache_set_many('mine', '{k}', ARRAY[%s::jsonb])"):
        with refused("PC005", "reset"):
            ask(f"SELECT {call}", '{"v": [1, 2, 3]}')
    ask("SELECT cache_configure('mine', reset => '{dimensions}')")
    assert ask("SELECT cache_set('mine', 'k', '{\"v\": [1, 2, 3]}')")


@pytest.mark.once
@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ("[]", "no JSON object"),
        ("{}", "no JSON object"),
        ("null", "no JSON object"),
        ('"string"', "no JSON object"),
        ('{"a": "text"}', "kind 'text'"),
        ('{"a": ""}', "kind ''"),
        ('{"a": null}', "kind NULL"),
        ('{"a": {}}', "kind"),
        ('{"a": "string!!"}', "kind"),
        ('{"a": "string=x!", "a": "string"}', "twice"),
        ('{"": "string"}', "cannot name a field"),
        ('{"1a": "string"}', "cannot name a field"),
        ('{"a b": "string"}', "cannot name a field"),
        ('{"ä": "string"}', "cannot name a field"),
        ('{"a\\"; drop table x": "string"}', "cannot name a field"),
        (json.dumps({"a" * 64: "string"}), "cannot name a field"),
        ('{"tenant": "string"}', "every entry has such a column"),
        ('{"version": "string"}', "every entry has such a column"),
        ('{"ctid": "string"}', "every entry has such a column"),
        ('{"tokens_used": "string"}', "count"),
        ('{"tokens_used": "count", "model": "object"}', "model"),
        ('{"a": "count=-1"}', "is no count"),
        ('{"a": "count=x"}', "is no count"),
        ('{"a": "boolean=maybe"}', "is no boolean"),
        ('{"a": "vector=[1]"}', "cannot have a value"),
        (json.dumps({f"f{i}": "string" for i in range(101)}), "100 fields"),
    ],
)
def test_a_declaration_that_cannot_be(ask: Session, fields: str, what: str) -> None:
    before = ask("SELECT count(*) FROM pg_class")
    with refused("PC010", "Kinds: string, ") as caught:
        create(ask, fields)
    assert what in str(caught.value)
    assert ask("SELECT count(*) FROM pg_class") == before


def test_it_is_a_type_like_the_others(ask: Session) -> None:
    create(ask, TRANSLATION, ", ttl => '5 minutes', durable => false")
    ask("SELECT cache_set('mine', 'k', %s::jsonb), cache_get('mine', 'none')", ANSWER)
    assert ask("SELECT cache_touch('mine', 'k', '1 hour')")
    assert ask.column("SELECT cache_keys('mine')") == ["k"]
    assert ask("SELECT bytes > 0 FROM cache_entry('mine', 'k')")
    assert ask("SELECT count(*) FROM cache_top WHERE type = 'mine'") == 1
    assert ask("SELECT misses FROM cache_stats WHERE type = 'mine'") == 1
    assert ask("SELECT cache_delete('mine', 'k')")
    with refused("PC004", "JSON type of your own"):
        ask("SELECT cache_incr('mine', 'n')")
    with refused("PC004", "cache_type_mine"):
        ask("SELECT * FROM cache_live('mine')")
    for option in ("durable => true", "eviction => 'none', max_entries => 1", "hit_tracking => 'exact'"):
        ask(f"SELECT cache_configure('mine', {option})")
    ask("SELECT cache_set('mine', 'k', %s::jsonb)", ANSWER)
    with refused("PC009"):
        ask("SELECT cache_set_many('mine', '{b}', ARRAY[%s]::jsonb[])", ANSWER)
    ask("SELECT cache_cleanup(), cache_clear_all()")
    ask("CALL cache_upkeep()")
    ask("SELECT cache_drop_type('mine')")
    assert ask("SELECT to_regclass('cache_type_mine')") is None


def test_the_hot_tier_has_it(ask: Session) -> None:
    create(ask, TRANSLATION)
    ask("SELECT cache_hot_on('mine')")
    stored = ask.row("SELECT * FROM pgcache_internal.hot_set('mine', 'k', %s::jsonb)", ANSWER)
    assert stored["stored"]
    assert stored["version"] > 0
    assert json.loads(stored["stored_value"]) == json.loads(ANSWER)
    assert ask("SELECT pgcache_internal.hot_report_hits('mine', '{k}', '{3}')") == 3
    assert ask.stats("mine")["tokens_saved"] == 21


def test_roles_may_use_it(ask: Session, role: NewRole) -> None:
    writer, reader = role("write"), role("read")
    create(ask, TRANSLATION)
    assert writer("SELECT cache_set('mine', 'k', %s::jsonb)", ANSWER)
    assert reader("SELECT cache_get('mine', 'k')") == json.loads(ANSWER)
    with refused("42501"):
        reader("SELECT cache_set('mine', 'k', %s::jsonb)", ANSWER)


def test_who_goes_through_all_types_holds_it(ask: Session, new_session: NewSession) -> None:
    create(ask, TRANSLATION)
    other = new_session()
    with other.transaction():
        other("SELECT count(*) FROM pgcache_internal.types_here()")
        ask("SET lock_timeout = '100ms'")
        with refused("55P03"):
            ask("SELECT cache_drop_type('mine')")


@pytest.mark.once
def test_as_many_types_as_a_user_likes(ask: Session) -> None:
    for number in range(30):
        ask("SELECT cache_create_type(%s, fields => %s)", f"t{number}", TRANSLATION)
    for number in range(30):
        ask("SELECT cache_set(%s, 'k', %s::jsonb)", f"t{number}", ANSWER)
        assert ask("SELECT cache_get(%s, 'k')", f"t{number}") == json.loads(ANSWER)
