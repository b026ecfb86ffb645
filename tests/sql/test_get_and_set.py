"""The generic calls for one entry: cache_get, cache_set, cache_add, cache_incr."""

from __future__ import annotations

import pytest

from tests.conftest import NewSession
from tests.tools.session import Session, refused
from tests.tools.waiting import at_once

pytestmark = pytest.mark.every

# One value for each type, as its columns hold it: all fields, and only those that must be there.
VALUES = {
    "llm": [
        '{"response": "Paris", "model": "m", "provider": "p", "tokens_used": 7}',
        '{"response": ""}',
        '{"response": "é😀 \'quoted\' \\"too\\" \\\\ %s $1 {}"}',
    ],
    "embedding": ['{"embedding": [0.5, -1.25, 3], "model": "m"}', '{"embedding": [1]}'],
    "vector_search": ['{"results": [{"id": 1, "score": 0.5}], "user_id": "u"}', '{"results": {}}', '{"results": ""}'],
    "audio": [
        '{"audio_data": "AAEC/w==", "format": "opus", "duration_ms": 10, "sample_rate": 16000, "channels": 1,'
        ' "voice": "v"}',
        '{"audio_data": "", "format": "mp3"}',
    ],
    "ai_worker": [
        '{"prompt_text": "p", "model": "m", "schema_version": "v1", "generated_sql": "SELECT 1", "validated": false,'
        ' "tokens_used": 3}'
    ],
    "face": ['{"embeddings": [{"bbox": [1, 2, 3, 4], "embedding": [0.1], "det_score": 0.9}]}', '{"embeddings": []}'],
    "phash": ['{"phash": "ffe0"}'],
    "crawl": [
        '{"url": "https://e.x/?q=ä", "image_hash": "ab", "raw_key": "r", "thumbnail_key": "t"}',
        '{"url": "u", "image_hash": "h", "raw_key": "r"}',
    ],
    "bytes": ['{"bytes": "AAEC/w=="}', '{"number": 7}', '{"bytes": ""}', '{"number": -9223372036854775808}'],
    "store": [
        "null", "true", "0", "-1.50", "123456789012345678901234567890.5", '""', '"null"', '"é😀\\n\\t"', "[]", "{}",
        '[null, {"a": [1, {"": ""}]}]', '{"$1": "%s", "ключ": "\\\\N"}',
    ],
}  # fmt: skip


@pytest.mark.parametrize("type", VALUES)
def test_a_value_comes_back_as_it_was(shared: Session, type: str) -> None:
    for value in VALUES[type]:
        assert shared("SELECT cache_set(%s, 'k', %s)", type, value) is True
        assert shared("SELECT cache_get(%s, 'k') = %s::jsonb", type, value), value
        assert shared("SELECT value = %s::jsonb FROM cache_get_many(%s, '{k}')", value, type), value


def test_a_value_of_a_users_type_comes_back_as_it_was(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    for value in VALUES["store"]:
        assert ask("SELECT cache_set('mine', 'k', %s)", value) is True
        assert ask("SELECT cache_get('mine', 'k')::text = %s::jsonb::text", value), value


def test_fields_that_are_null_are_as_if_absent(ask: Session) -> None:
    ask("""SELECT cache_set('llm', 'k', '{"response": "r", "model": null, "tokens_used": null}')""")
    assert ask("SELECT cache_get('llm', 'k')") == {"response": "r"}
    ask("""SELECT cache_set('ai_worker', 'k', '{"prompt_text": "p", "model": "m", "schema_version": "v",
        "generated_sql": "s", "validated": null, "tokens_used": null}')""")
    assert ask("SELECT cache_get('ai_worker', 'k') -> 'validated'") is True
    assert ask("SELECT cache_get('ai_worker', 'k') -> 'tokens_used'") == 0


def test_a_miss_is_null_and_a_json_null_is_not(ask: Session) -> None:
    assert ask("SELECT cache_get('store', 'k') IS NULL")
    ask("SELECT cache_set('store', 'k', 'null')")
    assert ask("SELECT cache_get('store', 'k') IS NOT NULL")
    assert ask("SELECT cache_get('store', 'k')::text") == "null"
    assert ask("SELECT value IS NOT NULL FROM cache_get_many('store', '{k}')")
    assert ask("SELECT cache_exists('store', 'k')")
    assert ask.stats("store")["hits"] == 3


KEYS = [
    "k",
    "K",
    " ",
    "é😀",
    "'",
    '"',
    "\\",
    "%",
    "_",
    "{,}",
    "NULL",
    "a\nb",
    "\x7f",
    "x" * 1024,
    "ä" * 512,
    "😀" * 256,
]


@pytest.mark.parametrize("type", ["store", "mine"])
def test_any_text_up_to_1024_bytes_is_a_key(ask: Session, type: str) -> None:
    if type == "mine":
        ask("SELECT cache_create_type('mine')")
    for place, key in enumerate(KEYS):
        assert ask("SELECT cache_set(%s, %s, %s)", type, key, str(place))
    for place, key in enumerate(KEYS):
        assert ask("SELECT cache_get(%s, %s)", type, key) == place, key
    assert sorted(ask.column("SELECT cache_keys(%s)", type)) == sorted(KEYS)
    for key in KEYS:
        assert ask("SELECT cache_delete(%s, %s)", type, key), key


@pytest.mark.parametrize(
    "key", ["x" * 1025, "x" + "ä" * 512, "x" + "😀" * 256], ids=["ascii", "two bytes", "four bytes"]
)
def test_the_limit_of_a_key_is_in_bytes(ask: Session, key: str) -> None:
    with refused("PC002", "cache_key("):
        ask("SELECT cache_set('store', %s, '1')", key)
    with refused("PC002", "cache_key("):
        ask("SELECT cache_get('store', %s)", key)


def test_keys_that_a_collation_takes_for_equal_are_not(ask: Session) -> None:
    ask("SELECT cache_set('store', E'e\\u0301', '1')")  # e and an accent
    ask("SELECT cache_set('store', E'\\u00e9', '2')")  # the two in one character
    assert ask("SELECT cache_get('store', E'e\\u0301')") == 1
    assert ask("SELECT cache_get('store', E'\\u00e9')") == 2


def test_huge_values(ask: Session) -> None:
    text = "é" * 3_000_000
    ask("SELECT cache_set('store', 'k', to_jsonb(%s::text))", text)
    assert ask("SELECT cache_get('store', 'k')") == text
    ask("SELECT cache_set('llm', 'k', jsonb_build_object('response', %s::text))", text)
    assert ask("SELECT cache_get('llm', 'k')") == {"response": text}
    assert ask("SELECT cache_set_audio('t', 'v', %b, 'wav')", bytes(range(256)) * 20_000)
    assert ask("SELECT audio_data FROM cache_get_audio('t', 'v')") == bytes(range(256)) * 20_000
    assert ask("SELECT length(cache_get('audio', audio_key('t', 'v', '', '{}')) ->> 'audio_data')") > 6_000_000


def test_huge_audio_as_json(ask: Session) -> None:
    value = "SELECT jsonb_build_object('format', 'wav', 'audio_data', translate(encode(%b, 'base64'), E'\\n', ''))"
    assert ask(f"SELECT cache_set('audio', 'k', ({value}))", b"\x00\xff" * 2_000_000)
    assert ask("SELECT octet_length(audio_data) FROM cache_audio_chunks") == 4_000_000


def test_set_replaces_value_and_expiry(ask: Session) -> None:
    ask.set_clock("2030-01-01 12:00+00")
    ask('SELECT cache_set(\'llm\', \'k\', \'{"response": "old", "model": "m", "tokens_used": 5}\', \'1 minute\')')
    ask.advance("30 seconds")
    ask("SELECT cache_set('llm', 'k', '{\"response\": \"new\"}', '5 minutes')")
    assert ask("SELECT cache_get('llm', 'k')") == {"response": "new"}
    entry = ask.row(
        "SELECT *, created_at = pgcache_internal.cache_now() AS just_now, ttl::text AS left FROM"
        " cache_entry('llm', 'k')"
    )
    assert (entry["just_now"], entry["left"]) == (True, "00:05:00")
    assert ask("SELECT count(*) FROM cache_llm_responses") == 1


def test_the_default_ttl_is_the_types(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    defaults = dict(ask.rows("SELECT type, ttl::text FROM cache_stats"))
    assert defaults.keys() == VALUES.keys()
    assert (defaults["llm"], defaults["audio"], defaults["face"]) == ("01:00:00", "24:00:00", None)
    for type, ttl in defaults.items():
        ask("SELECT cache_set(%s, 'k', %s)", type, VALUES[type][0])
        assert ask("SELECT cache_ttl(%s, 'k') IS NOT DISTINCT FROM %s::interval", type, ttl)
        ask("SELECT cache_set(%s, 'k', %s, '90')", type, VALUES[type][0])
        assert ask("SELECT cache_ttl(%s, 'k')::text", type) == "00:01:30"


def test_set_works_whatever_the_callers_search_path_holds(ask: Session) -> None:
    ask("CREATE SCHEMA evil")
    ask("CREATE TABLE evil.types (type text)")
    ask("CREATE FUNCTION evil.nextval(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1/0'")
    ask("CREATE FUNCTION evil.octet_length(text) RETURNS integer LANGUAGE sql AS 'SELECT 1/0'")
    ask("CREATE FUNCTION evil.jsonb_typeof(jsonb) RETURNS text LANGUAGE sql AS 'SELECT ''evil'''")
    ask("CREATE TEMP TABLE cache_store (type text)")
    ask("CREATE TEMP TABLE hit_log (type text)")
    for path in ("", "evil", "evil, pgcache, public", "public, pg_temp, pgcache"):
        ask("SELECT set_config('search_path', %s, false)", path)
        for type in VALUES:
            assert ask("SELECT pgcache.cache_set(%s, 'k', %s)", type, VALUES[type][0])
            assert ask("SELECT pgcache.cache_get(%s, 'k') = %s::jsonb", type, VALUES[type][0])
        assert ask("SELECT pgcache.cache_incr('store', 'n' || gen_random_uuid())") == 1
        assert ask("SELECT pgcache.cache_set_many('store', '{a,b}', '{1,2}')") == 2
        assert ask("SELECT pgcache.cache_set_embedding('t', 'm', %s::public.vector)", "[1,2]")
        assert ask("SELECT pgcache.cache_get_embedding('t', 'm')::text") == "[1,2]"
        assert ask("SELECT pgcache.cache_set_vector_search('[1,2]'::public.vector, '[]')")
        assert ask("SELECT pgcache.cache_get_vector_search('[1,2]'::public.vector)") == []
        assert ask("SELECT pgcache.cache_delete('store', 'a')")
        assert ask("SELECT pgcache.cache_cleanup()") == 0


def test_get_gives_each_type_what_is_its_own(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    ask("SELECT cache_set('mine', 'k', '1')")
    ask("SELECT cache_set('store', 'k', '2')")
    assert ask("SELECT cache_get('mine', 'k')") == 1
    assert ask("SELECT cache_get('store', 'k')") == 2
    assert ask("SELECT cache_get('llm', 'k') IS NULL")
    assert ask("SELECT cache_delete('store', 'k')")
    assert ask("SELECT cache_get('mine', 'k')") == 1


def test_gets_in_one_statement(ask: Session) -> None:
    ask("SELECT count(cache_set('store', 'k' || i, to_jsonb(i))) FROM generate_series(1, 500) i")
    assert ask("SELECT sum(cache_get('store', 'k' || i)::integer) FROM generate_series(1, 1000) i") == 500 * 501 / 2
    assert (ask.stats("store")["hits"], ask.stats("store")["misses"]) == (500, 500)


# cache_add


def test_add_stores_only_what_is_not_there(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    for type, values in VALUES.items():
        assert ask("SELECT cache_add(%s, 'k', %s, '1 minute')", type, values[0]) is True
        assert ask("SELECT cache_add(%s, 'k', %s, '1 hour')", type, values[-1]) is False
        assert ask("SELECT cache_get(%s, 'k') = %s::jsonb", type, values[0])
        assert ask("SELECT cache_ttl(%s, 'k')::text", type) == "00:01:00"
    ask.advance("1 minute")
    for type, values in VALUES.items():
        assert ask("SELECT cache_add(%s, 'k', %s)", type, values[-1]) is True
        assert ask("SELECT cache_get(%s, 'k') = %s::jsonb", type, values[-1])


def test_add_reports_bad_input_also_if_the_key_is_taken(ask: Session) -> None:
    ask("SELECT cache_set('llm', 'k', '{\"response\": \"r\"}')")
    with refused("PC004"):
        ask("SELECT cache_add('llm', 'k', '{}')")
    with refused("PC003"):
        ask("SELECT cache_add('llm', 'k', '{\"response\": \"r\"}', '0')")


def test_of_many_adds_at_once_exactly_one_is_true(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(8)]
    for session in sessions:
        session("SELECT cache_add('store', 'warm up', '0')")
    for key in "abcdefghij":
        results = at_once(
            *(
                lambda session=session, n=n, key=key: session("SELECT cache_add('store', %s, %s)", key, str(n))
                for n, session in enumerate(sessions)
            )
        )
        assert sorted(results) == [False] * 7 + [True]
        assert sessions[0]("SELECT cache_get('store', %s)", key) == results.index(True)


def test_of_many_adds_at_once_over_an_expired_entry_exactly_one_is_true(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(6)]
    sessions[0].set_clock("2020-01-01")
    sessions[0]("SELECT cache_set('store', 'k', '0')")
    for session in sessions:
        session.set_clock("2030-01-01")
    adds = [lambda session=session: session("SELECT cache_add('store', 'k', '1')") for session in sessions]
    assert sum(at_once(*adds)) == 1


# cache_incr


def test_incr_counts(ask: Session) -> None:
    assert ask("SELECT cache_incr('store', 'n')") == 1
    assert ask("SELECT cache_incr('store', 'n', 41)") == 42
    assert ask("SELECT cache_incr('store', 'n', by => -50)") == -8
    assert ask("SELECT cache_incr('store', 'n', 0)") == -8
    assert ask("SELECT cache_get('store', 'n')") == -8
    ask("SELECT cache_set('store', 'n', '9223372036854775806')")
    assert ask("SELECT cache_incr('store', 'n')") == 2**63 - 1
    with refused("PC011", "64-bit"):
        ask("SELECT cache_incr('store', 'n')")
    ask("SELECT cache_create_type('counters')")
    assert ask("SELECT cache_incr('counters', 'n', 7)") == 7
    assert ask("SELECT cache_get('store', 'n')") == 2**63 - 1


def test_incr_keeps_the_expiry_unless_told(ask: Session) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_incr('store', 'n', 1, '10 minutes')")
    ask.advance("4 minutes")
    ask("SELECT cache_incr('store', 'n')")
    assert ask("SELECT cache_ttl('store', 'n')::text") == "00:06:00"
    ask("SELECT cache_incr('store', 'n', ttl => '1 hour')")
    assert ask("SELECT cache_ttl('store', 'n')::text") == "01:00:00"
    ask.advance("1 hour")
    assert ask("SELECT cache_incr('store', 'n', 5)") == 5
    assert ask("SELECT cache_ttl('store', 'n')::text") == "01:00:00"


@pytest.mark.parametrize("value", ['"5"', "1.5", "null", "[]", '{"n": 1}', "1e30"])
def test_incr_refuses_what_is_no_whole_number(ask: Session, value: str) -> None:
    ask.set_clock("2030-01-01")
    ask("SELECT cache_set('store', 'n', %s)", value)
    with refused("PC011", "cache_set"):
        ask("SELECT cache_incr('store', 'n')")
    assert ask("SELECT cache_get('store', 'n') = %s::jsonb", value)
    ask.advance("1 hour")  # expired, it is as if absent
    assert ask("SELECT cache_incr('store', 'n')") == 1


def test_incr_in_a_transaction_leaves_it_usable_after_an_error_that_was_caught(ask: Session) -> None:
    ask("SELECT cache_set('store', 'n', '\"x\"')")
    ask("""DO $$ BEGIN PERFORM cache_incr('store', 'n'); EXCEPTION WHEN SQLSTATE 'PC011' THEN
        PERFORM cache_set('store', 'caught', '1'); END $$""")
    assert ask("SELECT cache_get('store', 'caught')") == 1


def test_concurrent_increments_add_up(new_session: NewSession) -> None:
    sessions = [new_session() for _ in range(6)]

    def count(session: Session) -> None:
        for _ in range(50):
            session("SELECT cache_incr('store', 'n', 3)")

    at_once(*(lambda session=session: count(session) for session in sessions))
    assert sessions[0]("SELECT cache_get('store', 'n')") == 6 * 50 * 3


def test_a_disabled_type_stores_nothing(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    for type, values in {**VALUES, "mine": ["1"]}.items():
        ask("SELECT cache_set(%s, 'k', %s)", type, values[0])
        ask("SELECT cache_configure(%s, enabled => false)", type)
        assert ask("SELECT cache_get(%s, 'k') IS NULL", type)
        assert ask("SELECT cache_set(%s, 'k', %s)", type, values[0]) is False
        assert ask("SELECT cache_add(%s, 'k', %s)", type, values[0]) is False
        assert ask("SELECT cache_set_many(%s, '{k}', ARRAY[%s::jsonb])", type, values[0]) == 0
        assert ask("SELECT cache_get(%s, 'k') IS NULL", type)
    assert ask("SELECT cache_incr('mine', 'n')") is None
    assert ask('SELECT cache_warm(\'store\', \'[{"key": "k", "value": 1}]\')') == 0
    assert ask("SELECT cache_set_embedding('t', 'm', '[1]')") is False
    assert ask("SELECT cache_set_embeddings('{t}', 'm', '{[1]}')") == 0
    assert ask("SELECT cache_set_audio('t', 'v', 'x', 'mp3')") is False
    assert ask("SELECT sum(entries) FROM cache_stats") == 0
    with refused("PC004"):  # what is wrong with a call is wrong all the same
        ask("SELECT cache_set('llm', 'k', '1')")
    ask("SELECT cache_configure('store', enabled => true)")
    assert ask("SELECT cache_set('store', 'k', '1')") is True


# What an entry keeps when it is overwritten: where it is, its hits, and what the hot tier numbers.
KEPT = ["id", "type", "tenant", "cache_key", "hit_count", "hit_weight", "version"]
WRITERS = (
    "cache_set(%s, 'k', %s)", "cache_add(%s, 'k', %s)", "cache_set_many_json(%s, jsonb_build_object('k', %s::jsonb))",
    "cache_incr(%s, 'k', %s)",
)  # fmt: skip


@pytest.mark.parametrize("type", VALUES)
def test_nothing_is_left_of_an_entry_that_has_expired_and_is_overwritten(ask: Session, type: str) -> None:
    ask("SET pgcache.clock = '2030-01-01'")
    table, fields = ask.rows("SELECT relation::text, fields FROM pgcache_internal.types WHERE type = %s", type)[0]
    columns = ask.rows(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND NOT attname = ANY(%s)",
        table, [*KEPT, *(fields or ["data"])],
    )  # fmt: skip
    assert {"created_at", "expires_at", "last_accessed_at"} <= dict(columns).keys()
    something = {"timestamp with time zone": "'2001-01-01'", "boolean": "true", "text": "'x'", "text[]": "'{x}'"}
    old = ", ".join(f"{name} = {something.get(kind, '77')}" for name, kind in columns)
    entry = f"SELECT to_jsonb(t) - ARRAY['id', 'version'] FROM {table} t"
    for writer in WRITERS if type == "store" else WRITERS[:-1]:
        value = "5" if "incr" in writer else VALUES[type][-1]
        ask(f"DELETE FROM {table}")
        assert ask(f"SELECT {writer}", type, value)
        fresh = ask(entry)
        ask(f"UPDATE {table} SET {old}")
        assert ask(entry) != fresh
        assert ask(f"SELECT {writer}", type, value)
        assert ask(entry) == fresh, writer
