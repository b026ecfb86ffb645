"""Every bad input has its SQLSTATE, and a HINT that says what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psycopg
import pytest

from tests.conftest import NewRole
from tests.sql.test_fields import NO_VECTORS
from tests.sql.test_fields import VALUES as KINDS
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session, refused

# Calls with a type, a key, ttl, ... to be replaced by what is wrong.
TAKE_A_TYPE = [
    "cache_get({type}, 'k')",
    "cache_set({type}, 'k', '1')",
    "cache_add({type}, 'k', '1')",
    "cache_incr({type}, 'k')",
    "cache_get_many({type}, '{{k}}')",
    "cache_set_many({type}, '{{k}}', '{{1}}')",
    'cache_warm({type}, \'[{{"key": "k", "value": 1}}]\')',
    "cache_exists({type}, 'k')",
    "cache_ttl({type}, 'k')",
    "cache_touch({type}, 'k')",
    "cache_persist({type}, 'k')",
    "cache_entry({type}, 'k')",
    "cache_keys({type})",
    "cache_delete({type}, 'k')",
    "cache_delete_many({type}, '{{k}}')",
    "cache_delete_pattern({type}, 'k%%')",
    "cache_clear({type})",
    "cache_trim({type}, 10)",
    "cache_configure({type}, ttl => '1 hour')",
    "cache_drop_type({type})",
]
TAKE_A_KEY = [
    "cache_get('store', {key})",
    "cache_get('llm', {key})",
    "cache_get('mine', {key})",
    "cache_set('store', {key}, '1')",
    "cache_set('mine', {key}, '1')",
    "cache_set('embedding', {key}, '{{\"embedding\": [1]}}')",
    'cache_set(\'audio\', {key}, \'{{"audio_data": "", "format": "mp3"}}\')',
    "cache_add('store', {key}, '1')",
    "cache_incr('store', {key})",
    "cache_get_many('store', ARRAY['k', {key}])",
    "cache_set_many('store', ARRAY['k', {key}], '{{1,2}}')",
    "cache_exists('store', {key})",
    "cache_ttl('store', {key})",
    "cache_touch('store', {key})",
    "cache_persist('store', {key})",
    "cache_entry('store', {key})",
    "cache_delete('store', {key})",
    "cache_delete_many('store', ARRAY['k', {key}])",
]
# What the key of a typed call is made of, to be replaced by NULL one by one.
TAKE_PARTS = [
    "cache_get_llm({'p'}, {'m'})",
    "cache_set_llm({'p'}, {'m'}, 'r')",
    "cache_get_embedding({'t'}, {'m'})",
    "cache_set_embedding({'t'}, {'m'}, '[1]')",
    "cache_get_embeddings(ARRAY['a', {'t'}], {'m'})",
    "cache_set_embeddings(ARRAY['a', {'t'}], {'m'}, ARRAY['[1]', '[2]'])",
    "cache_get_vector_search({'[1]'}, top_k => {1})",
    "cache_set_vector_search({'[1]'}, '[]', top_k => {1})",
    "cache_get_audio({'t'}, {'v'})",
    "cache_set_audio({'t'}, {'v'}, 'x', 'mp3')",
    "cache_get_ai_worker({'p'}, {'m'}, {'v'})",
    "cache_set_ai_worker({'p'}, {'m'}, {'v'}, 's')",
    "cache_get_face({'x'}, 't')",
    "cache_set_face({'x'}, 't', '[]')",
    "cache_get_phash({'x'}, 't')",
    "cache_set_phash({'x'}, 't', 'p')",
    "crawl_should_skip({'u'}, {'x'}, 't')",
    "crawl_store({'u'}, {'x'}, 'r', 't', 'tenant')",
]
PART = re.compile(r"\{('[^']*'|1)\}")
TAKE_A_TTL = [
    "cache_set('store', 'k', '1', {ttl})",
    "cache_set('llm', 'k', '{{\"response\": \"r\"}}', {ttl})",
    "cache_add('store', 'k', '1', {ttl})",
    "cache_incr('store', 'n', 1, {ttl})",
    "cache_set_many('store', '{{k}}', '{{1}}', {ttl})",
    "cache_touch('store', 'there', {ttl})",
    "cache_create_type('other', ttl => {ttl})",
    "cache_configure('store', ttl => {ttl})",
    "cache_set_llm('p', 'm', 'r', ttl => {ttl})",
    "cache_set_embedding('t', 'm', '[1]', {ttl})",
    "cache_set_embeddings('{{t}}', 'm', '{{[1]}}', {ttl})",
    "cache_set_vector_search('[1]', '[]', ttl => {ttl})",
    "cache_set_audio('t', 'v', 'x', 'mp3', ttl => {ttl})",
    "cache_set_ai_worker('p', 'm', 'v', 's', ttl => {ttl})",
    "cache_set_face('x', 't', '[]', {ttl})",
    "cache_set_phash('x', 't', 'p', {ttl})",
    "crawl_store('u', 'x', 'r', 't', 'tenant', {ttl})",
]


@pytest.mark.parametrize("call", TAKE_A_TYPE, ids=lambda call: call.partition("(")[0])
def test_unknown_type(shared: Session, call: str) -> None:
    for unknown in ("'lmm'", "NULL", "''", "'Store'", "'x y'", "'types'", "repeat('x', 200)", "'ä''\"'"):
        with refused("PC001", ", ".join(sorted([*VALUES, "mine"]))):
            shared(f"SELECT {call}".format(type=unknown).replace("%%", "%"))


def test_unknown_type_in_cleanup(shared: Session) -> None:
    for call in ("cache_clear_expired('lmm')", "cache_cleanup('lmm')"):
        with refused("PC001", "cache_create_type"):
            shared(f"SELECT {call}")


@pytest.mark.parametrize("call", TAKE_A_KEY)
def test_key(shared: Session, call: str) -> None:
    for key in ("NULL", "''", "repeat('x', 1025)", "repeat('ä', 513)"):
        with refused("PC002", "cache_key("):
            shared(f"SELECT {call}".format(key=key))
    assert shared("SELECT sum(entries) FROM cache_stats") == 0


@pytest.mark.parametrize("call", TAKE_PARTS)
def test_part_of_a_key(shared: Session, call: str) -> None:
    parts = PART.findall(call)
    assert parts
    for null in range(len(parts)):
        statement = "SELECT " + PART.sub("{}", call).format(
            *("NULL" if place == null else part for place, part in enumerate(parts))
        )
        with refused("PC002", "a typed call is NULL where"):
            shared(statement)
    assert shared("SELECT sum(entries) FROM cache_stats") == 0


def test_arrays_of_keys_that_are_null(shared: Session) -> None:
    for call in (
        "cache_get_many('store', NULL)", "cache_delete_many('store', NULL)", "cache_get_embeddings(NULL, 'm')",
    ):  # fmt: skip
        with refused("PC002", "array"):
            shared(f"SELECT {call}")
    for call in (
        "cache_set_many('store', NULL, '{}')", "cache_set_many('store', '{}', NULL)",
        "cache_set_embeddings(NULL, 'm', NULL)", "cache_set_embeddings('{}', 'm', NULL)",
    ):  # fmt: skip
        with refused("PC004", "same length"):
            shared(f"SELECT {call}")


@pytest.mark.parametrize("call", TAKE_A_TTL)
def test_ttl(shared: Session, call: str) -> None:
    for ttl in ("'0'", "'-1 second'", "'-00:00:00.000001'", "'1 month -31 days'", "'10000 years'", "'178000000 years'"):
        with refused("PC003", "positive interval"):
            shared(f"SELECT {call}".format(ttl=ttl))
    if shared.connection.info.server_version >= 170000:
        with refused("PC003", "positive interval"):
            shared(f"SELECT {call}".format(ttl="'-infinity'"))


@pytest.mark.parametrize("call", [call for call in TAKE_A_TTL if call.startswith(("cache_create", "cache_configure"))])
def test_ttl_of_a_type(shared: Session, call: str) -> None:
    """With months less days, which compare as one and add another, each set of the type could fail."""
    for ttl in ("'-80000 months 2400030 days'", "'3507000 months -105209970 days'"):
        with refused("PC003", "positive interval"):
            shared(f"SELECT {call}".format(ttl=ttl))


SETS = ("cache_set(%s, 'k', %s)", "cache_add(%s, 'k', %s)", "cache_set_many(%s, '{k}', ARRAY[%s::jsonb])")


def unfit(session: Session, type: str, value: str, problem: str) -> None:
    for call in SETS:
        with pytest.raises(psycopg.Error) as caught:
            session(f"SELECT {call}", type, value)
        assert caught.value.sqlstate == "PC004", value
        assert problem in (caught.value.diag.message_primary or ""), value
        assert caught.value.diag.message_hint


@pytest.mark.once
@pytest.mark.parametrize("type", [type for type, values in VALUES.items() if isinstance(json.loads(values[0]), dict)])
def test_each_field_of_a_type(shared: Session, type: str) -> None:
    fields = shared.rows(
        "SELECT f.name, f.kind, f.required FROM pgcache_internal.types t,"
        " pgcache_internal.fields_of(t.type, t.fields) f WHERE t.type = %s",
        type,
    )
    whole = json.loads(VALUES[type][0])
    of_bytes = type == "bytes"  # which has one of its fields
    assert {name for name, _, required in fields if required} <= whole.keys() <= {name for name, *_ in fields}
    for name, kind, required in fields:
        for wrong in KINDS[kind][1]:
            problem = "not a vector" if kind == "vector" and wrong in NO_VECTORS else f"{name} should be of kind {kind}"
            unfit(shared, type, json.dumps({**({} if of_bytes else whole), name: wrong}), problem)
        if required:
            unfit(shared, type, json.dumps({**whole, name: None}), f"{name} is missing")
            unfit(shared, type, json.dumps({n: v for n, v in whole.items() if n != name}), f"{name} is missing")
    unfit(shared, type, json.dumps({**whole, "nmae": 1}), "unknown field nmae")
    for other, kind in {"null": "null", "[]": "array", '"text"': "string", "1": "number", "true": "boolean"}.items():
        unfit(shared, type, other, f"it is a JSON {kind}, not an object")
    assert shared("SELECT sum(entries) FROM cache_stats") == 0


def test_the_hint_of_a_misfit_is_the_types_shape(shared: Session) -> None:
    with refused("PC004", "response (string, required)"):
        shared("SELECT cache_set('llm', 'k', '{}')")
    with refused("PC004", "tokens_used (count)"):
        shared("SELECT cache_set('llm', 'k', '{}')")


@pytest.mark.parametrize("type", [*VALUES, "mine"])
def test_a_value_that_is_null(shared: Session, type: str) -> None:
    for call in (
        "cache_set(%s, 'k', NULL)",
        "cache_add(%s, 'k', NULL)",
        "cache_set_many(%s, '{k}', ARRAY[NULL]::jsonb[])",
    ):
        with refused("PC004", "cache_delete"):
            shared(f"SELECT {call}", type)


def test_dimensions(ask: Session) -> None:
    ask("SELECT cache_configure('embedding', dimensions => 3)")
    calls = [
        "cache_set_embedding('t', 'm', '[1,2]')",
        "cache_set_embeddings('{t}', 'm', '{\"[1,2,3,4]\"}')",
        "cache_set('embedding', 'k', '{\"embedding\": [1]}')",
        "cache_add('embedding', 'k', '{\"embedding\": [1]}')",
        "cache_set_many('embedding', '{k}', ARRAY['{\"embedding\": [1]}'::jsonb])",
    ]
    for call in calls:
        with refused("PC005", "reset => '{dimensions}'"):
            ask(f"SELECT {call}")
    assert ask("SELECT cache_set_embedding('t', 'm', '[1,2,3]')")
    ask("SELECT cache_configure('embedding', reset => '{dimensions}')")
    assert ask("SELECT cache_set_embedding('t', 'm', '[1,2]')")


def test_not_a_vector(shared: Session) -> None:
    for text in ("", "[]", "[1,]", "1,2", "[NaN]", "[1e99]", "[" + "1," * 16000 + "1]"):
        with refused("PC004", "[0.1,0.2,0.3]"):
            shared("SELECT cache_set_embeddings('{t}', 'm', ARRAY[%s])", text)
    with refused("PC004"):
        shared("SELECT cache_set_embedding('t', 'm', NULL)")
    with refused("PC004", "same length"):
        shared("SELECT cache_set_embeddings('{a,b}', 'm', '{[1]}')")


def test_typed_sets_without_their_value(shared: Session) -> None:
    for call in (
        "cache_set_llm('p', 'm', NULL)",
        "cache_set_vector_search('[1]', NULL)",
        "cache_set_audio('t', 'v', NULL, 'mp3')",
        "cache_set_audio('t', 'v', 'x', NULL)",
        "cache_set_ai_worker('p', 'm', 'v', NULL)",
        "cache_set_face('x', 't', NULL)",
        "cache_set_face('x', 't', '{}')",
        "cache_set_phash('x', 't', NULL)",
        "crawl_store('u', 'x', NULL, 'th', 't')",
    ):
        with refused("PC004", "takes a JSON object of"):
            shared(f"SELECT {call}")


@pytest.mark.parametrize("function", ["cache_delete_pattern", "cache_keys"])
def test_patterns(ask: Session, function: str) -> None:
    ask("SELECT cache_set('store', 'a', '1')")
    for pattern in ("", None, "a\\", "\\", "100%\\", "a\\\\\\"):
        with refused("PC006", "%"):
            ask(f"SELECT {function}('store', %s)", pattern)
    ask(f"SELECT {function}('store', %s)", "a\\\\")
    assert ask("SELECT cache_exists('store', 'a')")


def test_types(shared: Session) -> None:
    for taken in ("llm", "store", "mine"):
        with refused("PC007", "cache_configure"):
            shared("SELECT cache_create_type(%s)", taken)
    for builtin in VALUES:
        with refused("PC008", "enabled => false"):
            shared("SELECT cache_drop_type(%s)", builtin)
    for name in ("", None, "Mine", "1st", "a-b", "a b", "ä", "_a", "a" * 41, "a;drop", 'a"b', "a\n"):
        with refused("PC010", "1 to 40"):
            shared("SELECT cache_create_type(%s)", name)
    assert shared("SELECT count(*) FROM pgcache_internal.types") == len(VALUES) + 1


@pytest.mark.parametrize(
    "call", ["cache_create_type('other', {option} => {value})", "cache_configure('store', {option} => {value})"]
)
def test_options(shared: Session, call: str) -> None:
    for option, value, hint in (
        ("max_entries", "0", "positive number of entries"),
        ("max_entries", "-5", "positive number of entries"),
        ("max_bytes", "0", "positive number of bytes"),
        ("eviction", "'lfu'", "lru, cost, fifo, none"),
        ("eviction", "''", "lru, cost, fifo, none"),
        ("hit_tracking", "'some'", "exact, sampled or off"),
    ):
        with refused("PC010", hint):
            shared(f"SELECT {call}".format(option=option, value=value))


def test_configure(shared: Session) -> None:
    for wrong in (0, 16_001):
        with refused("PC010", "dimensions is a number from 1 to 16000"):
            shared("SELECT cache_configure('embedding', dimensions => %s)", wrong)
    with refused("PC010", "embedding"):
        shared("SELECT cache_configure('llm', dimensions => 3)")
    with refused("PC010", "max_entries"):
        shared("SELECT cache_configure('llm', reset => '{eviction}')")
    for name, value in {"ttl": "1 hour", "max_entries": 5, "max_bytes": 5, "dimensions": 5}.items():
        with refused("PC010", "Name in reset") as caught:
            shared(f"SELECT cache_configure('embedding', {name} => %s, reset => '{{ttl,max_bytes,{name}}}')", value)
        assert f"{name} cannot be set and reset" in str(caught.value)
    shared("SELECT cache_configure('llm', ttl => '1 hour', reset => '{max_entries}')")


def test_settings(shared: Session) -> None:
    with refused("PC010", "ttl_short"):
        shared("SELECT cache_setting('nope')")
    with refused("PC010", "ttl_short"):
        shared("SELECT cache_configure_setting('nope', '1')")
    for tier in ("tiny", "", None):
        with refused("PC010", "short, medium, long, week"):
            shared("SELECT cache_tier(%s)", tier)
    for name, value, takes in (
        ("ttl_short", "soon", "interval"), ("ttl_short", "0", "interval"), ("ttl_short", None, "interval"),
        ("keep_history", "-1 day", "interval"), ("keep_history", "9999 years", "interval"),
        ("keep_runs", "3500000 months -104999970 days", "interval"), ("alert_latency", "-1 month 31 days", "interval"),
        ("overdue_after", "", "interval"), ("alert_hit_rate", "high", "from 0 to 1"),
        ("alert_hit_rate", "-0.1", "from 0 to 1"), ("alert_hit_rate", "7", "from 0 to 1"),
        ("alert_size", None, "from 0 to 1"), ("usd_per_million_tokens", "-1", "0 or more"),
        ("usd_per_million_tokens", "NaN", "0 or more"), ("test_clock", "yes", "on or off"),
    ):  # fmt: skip
        with refused("PC010", takes):
            shared("SELECT cache_configure_setting(%s, %s)", name, value)
        with refused("PC010", takes):
            shared("UPDATE cache_settings SET value = %s WHERE name = %s", value, name)
    for name in ("hot_prefix", "hot_max_staleness", "hot_outbox_limit", "ai_timeout", "ai_base_url", "ai_max_tokens"):
        with refused("PC010", "It takes "):
            shared("UPDATE cache_settings SET value = 'no such ' WHERE name = %s", name)
    shared("UPDATE cache_settings SET value = value")  # what they are at first is good, and each is known
    assert (
        shared.column("""
        SELECT name FROM cache_settings LEFT JOIN pgcache_internal.setting_kinds() ON name = ANY (names)
        WHERE names IS NULL
    """)
        == []
    )
    for name in shared.column("SELECT name FROM cache_settings WHERE name LIKE 'hot%' OR name LIKE 'ai%'"):
        with refused("PC010", "cache_hot_configure" if name.startswith("hot") else "ai_configure"):
            shared("SELECT cache_configure_setting(%s, '1')", name)
    for prices in ("input => -1", "input => 1, output => 'NaN'", "1, cached_input => 2e12", "output => 1"):
        with refused("PC010", "cache_set_price("):
            shared(f"SELECT cache_set_price('m', {prices})")
    for model, price in (("m", None), (None, 1), ("m", -1), ("m", "NaN")):
        with refused("PC010", "cache_set_price("):
            shared("SELECT cache_set_price(%s, %s::numeric)", model, price)


def test_other_arguments(shared: Session) -> None:
    with refused("PC011", "Pass a number"):
        shared("SELECT cache_incr('store', 'n', NULL)")
    for type in set(VALUES) - {"store", "bytes"}:
        with refused("PC004", "store"):
            shared("SELECT cache_incr(%s, 'n')", type)
    for days in (None, -1, 2**31 - 1, 2**31):
        with refused("PC003", "cleanup_old_cache_entries(7)"):
            shared("SELECT * FROM cleanup_old_cache_entries(%s)", days)
    for keep in (None, -1):
        with refused("PC010", "0 or more"):
            shared("SELECT cache_trim('store', %s)", keep)
    for access in ("all", "", None):
        with refused("PC010", "read"):
            shared("SELECT cache_grant('pg_monitor', %s)", access)
    for role in ("nobody at all", "", None, "public", "PUBLIC"):
        for function in ("cache_grant", "cache_revoke"):
            with refused("PC010", "CREATE ROLE cache_users" if role in ("public", "PUBLIC") else "CREATE ROLE"):
                shared(f"SELECT {function}(%s)", role)
    for entries in ("[1]", "[[1]]", '["key", "value"]', "[null]", "{}", '[{"key": "k"}]'):
        with refused("PC004", "For example"):
            shared("SELECT cache_warm('store', %s)", entries)


@pytest.mark.parametrize("number", [-1, 10**9, 2**31, 2**63 - 1])
def test_counts(shared: Session, number: int) -> None:
    for call in (
        "cache_set_llm('p', 'm', 'r', {n})", "cache_set_ai_worker('p', 'm', 'v', 's', {n})",
        "cache_set_audio('t', 'v', 'x', 'mp3', duration_ms => {n})",
        "cache_set_audio('t', 'v', 'x', 'mp3', sample_rate => {n})",
        "cache_set_audio('t', 'v', 'x', 'mp3', channels => {n})",
    ):  # fmt: skip
        with refused("PC004", "(count"):
            shared("SELECT " + call.format(n=number))
    if number > 0:
        for call in ("cache_keys('store', '%', {n})", "get_all_cache_keys({n})"):
            assert shared.column("SELECT " + call.format(n=number)) == []
        assert shared(f"SELECT cache_get_vector_search('[1]', top_k => {number})") is None


def test_upkeep_in_a_transaction(shared: Session) -> None:
    for begin in ("BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"):
        shared(begin)
        with refused("25001", "by itself"):
            shared("CALL cache_upkeep()")
        shared("ROLLBACK")
    with refused("25001", "by itself"):
        shared("SELECT 1; CALL cache_upkeep()")
    shared("DO $$ BEGIN CALL pgcache.cache_upkeep(); END $$")


@pytest.mark.parametrize(
    "call", ["cache_keys('store', '%', -1)", "get_all_cache_keys(-1)", "pgcache_internal.top_entries(-1)"]
)
def test_negative_numbers_of_rows(shared: Session, call: str) -> None:
    with refused("PC010", "0 or more"):
        shared(f"SELECT {call}")


WRITES = [
    "cache_set('store', 'k', '1')",
    "cache_set('mine', 'k', '1')",
    "cache_add('store', 'k', '1')",
    "cache_incr('store', 'n')",
    "cache_set_many('store', '{k}', '{1}')",
    'cache_warm(\'store\', \'[{"key": "k", "value": 1}]\')',
    "cache_touch('store', 'k')",
    "cache_persist('store', 'k')",
    "cache_delete('store', 'k')",
    "cache_delete_many('store', '{k}')",
    "cache_delete_pattern('store', 'k%')",
    "cache_clear('store')",
    "cache_clear_all()",
    "cache_clear_expired()",
    "cache_invalidate_tenant('t')",
    "cache_forget('t')",
    "cache_invalidate_user('u')",
    "cache_invalidate_schema('v1')",
    "cleanup_old_cache_entries(7)",
    "ai_worker_cleanup_cache()",
    "cache_cleanup()",
    "cache_trim('store', 5)",
    "cache_set_llm('p', 'm', 'r')",
    "cache_set_embedding('t', 'm', '[1]')",
    "cache_set_embeddings('{t}', 'm', '{[1]}')",
    "cache_set_vector_search('[1]', '[]')",
    "cache_set_audio('t', 'v', 'x', 'mp3')",
    "cache_set_ai_worker('p', 'm', 'v', 's')",
    "cache_set_face('x', 't', '[]')",
    "cache_set_phash('x', 't', 'p')",
    "crawl_store('u', 'x', 'r', 't', 'tenant')",
]


def test_writes_in_a_read_only_transaction(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    ask("SELECT cache_set('store', 'k', '1')")
    ask("SET default_transaction_read_only = on")
    for call in WRITES:
        with refused("25006", "READ WRITE"):
            ask(f"SELECT {call}")
    with refused("25006"):
        ask("CALL cache_upkeep()")
    for call in ("cache_create_type('other')", "cache_configure('store', ttl => '1 day')", "cache_drop_type('mine')",
                 "cache_set_price('m', 1)", "cache_configure_setting('ttl_short', '1 minute')"):  # fmt: skip
        with refused("25006"):
            ask(f"SELECT {call}")
    assert ask("SELECT cache_get('store', 'k')") == 1


def test_errors_that_are_caught_leave_the_transaction_usable(ask: Session) -> None:
    with ask.transaction():
        for call in ("cache_set('llm', 'k', '1')", "cache_get('nope', 'k')", "cache_set('store', 'k', '1', '0')"):
            ask("SAVEPOINT s")
            with pytest.raises(psycopg.Error):
                ask(f"SELECT {call}")
            ask("ROLLBACK TO s")
        assert ask("SELECT cache_set('store', 'k', '1')")
        assert ask("SELECT cache_get('store', 'k')") == 1


def test_not_installed(empty_dsn: str) -> None:
    session = Session(empty_dsn)
    with refused("3F000"):
        session("SELECT pgcache.cache_get('store', 'k')")
    with refused("42883"):
        session("SELECT cache_get('store', 'k')")
    session.close()


def test_a_server_that_is_too_old(empty_dsn: str) -> None:
    bootstrap = (Path(__file__).parents[2] / "sql" / "install" / "bootstrap.sql").read_text()
    as_if_old = bootstrap.replace("current_setting('server_version_num')", "'140012'")
    assert as_if_old != bootstrap
    session = Session(empty_dsn)
    with refused("0A000", "PostgreSQL 15 to 18"):
        session(as_if_old)
    assert session("SELECT to_regnamespace('pgcache')") is None
    session.close()


def test_no_privilege(role: NewRole) -> None:
    session = role()
    with refused("42501"):
        session("SELECT pgcache.cache_get('store', 'k')")
