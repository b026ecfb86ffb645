"""cache_key and its relatives."""

from __future__ import annotations

import json
from hashlib import sha256
from itertools import product

from tests.tools.session import Session


def sha(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def test_the_recipe_is_the_documented_one(ask: Session) -> None:
    assert ask("SELECT cache_key('ab', 'c')") == sha("2:ab,1:c")
    assert ask("SELECT cache_key('é😀', '', NULL)") == sha("6:é😀,0:,~")
    assert ask("SELECT cache_key(VARIADIC '{}')") == ask("SELECT cache_key(VARIADIC NULL)") == sha("")
    assert ask("SELECT cache_key(VARIADIC '{{a,b},{c,NULL}}')") == sha("1:a,1:b,1:c,~")
    many = "SELECT cache_key(VARIADIC array_fill('ab'::text, '{300000}'))"
    assert ask(many) == sha(",".join(["2:ab"] * 300_000))
    assert ask("SELECT cache_key(repeat('x', 1000000))") == sha("1000000:" + "x" * 1_000_000)


def test_different_parts_have_different_keys(ask: Session) -> None:
    parts = ["", "a", "b", "ab", ",", ":", "1:a", "~", "0:", "a,1:b", None]
    tuples = [list(key) for length in range(4) for key in product(parts, repeat=length)]
    keys = ask.column(
        "SELECT cache_key(VARIADIC ARRAY(SELECT jsonb_array_elements_text(t))) FROM jsonb_array_elements(%s) t",
        json.dumps(tuples),
    )
    assert len(keys) == len(tuples)
    assert len(set(keys)) == len(tuples)


def test_equal_json_has_one_key(ask: Session) -> None:
    def key(text: str) -> object:
        return ask("SELECT cache_key_json(%s)", text)

    assert key('{"b": [1, {"d": null, "c": "ü"}], "a": 1.50}') == key('{"a":1.5,"b":[1.0,{"c":"\\u00fc","d":null}]}')
    assert key('{"a": 100}') == key('{"a": 1e2}') == key('{"a": 100.00}')
    assert key('{"aa": 1, "b": 2}') == sha('{"aa":1,"b":2}')  # by bytes: jsonb itself puts the shorter key first
    assert key('{"a": "\\" \\\\ \\n"}') == sha('{"a":"\\" \\\\ \\n"}')
    different = [
        "null",
        '"null"',
        "[]",
        "{}",
        "[[]]",
        "[null]",
        '{"a":null}',
        "0",
        '"0"',
        "false",
        "[1,2]",
        "[2,1]",
        "[12]",
    ]
    assert len({key(text) for text in different}) == len(different)
    assert ask("SELECT cache_key_json(NULL)") is None


def test_keys_do_not_depend_on_the_database_or_the_session(ask: Session) -> None:
    before = ask.row("SELECT cache_key('ä', '1') AS a, cache_key_json('{\"ä\": 1, \"z\": 2.0}') AS b")
    ask("SET bytea_output = 'escape'")
    ask("SET extra_float_digits = -15")
    ask("SET lc_numeric = 'C'")
    assert ask.row("SELECT cache_key('ä', '1') AS a, cache_key_json('{\"ä\": 1, \"z\": 2.0}') AS b") == before


def test_the_ai_workers_own_recipe(ask: Session) -> None:
    assert ask("SELECT ai_worker_legacy_key('Get all users', 'gpt-4', 'v1')") == sha("Get all users|gpt-4|v1")
    # Its documented collision, which ours has not.
    assert ask("SELECT ai_worker_legacy_key('a|b', 'c', 'v1') = ai_worker_legacy_key('a', 'b|c', 'v1')")
    assert ask("SELECT ai_worker_key('a|b', 'c', 'v1') <> ai_worker_key('a', 'b|c', 'v1')")


def test_each_typed_key_depends_on_all_that_the_answer_depends_on(ask: Session) -> None:
    keys = ask.column("""
        SELECT * FROM unnest(ARRAY[
            llm_key('p', 'm'), llm_key('p', 'm', 'c'), llm_key('pm', ''), llm_key('p', 'mc'),
            llm_key('p', 'm', '', 'groq'), llm_key('p', 'm', '', 'together'), llm_key('p', 'm', 'groq'),
            audio_key('t', 'v', '', '{}'), audio_key('t', 'w', '', '{}'), audio_key('t', 'v', 'xtts', '{}'),
            audio_key('t', 'v', '', '{"speed": 2}'),
            embedding_key('t', 'm'), embedding_key('t', 'n'),
            vector_search_key('[1,2]', '{}', 10, ''), vector_search_key('[1,2]', '{}', 5, ''),
            vector_search_key('[1,2]', '{"a": 1}', 10, ''), vector_search_key('[1,2]', '{}', 10, 'u'),
            vector_search_key('[2,1]', '{}', 10, ''),
            crawl_key('u', 'x'), crawl_key('u', 'y'), crawl_key('v', 'x'), image_key('x')
        ])
    """)
    assert len(set(keys)) == len(keys)
    for same in ("NULL", "''", "'', NULL", "'', ''"):
        assert ask(f"SELECT llm_key('p', 'm', {same}) = cache_key('p', 'm', '')")
    assert ask("""SELECT audio_key('t', 'v', NULL, '{"a": 1, "b": 2}') = audio_key('t', 'v', '', '{"b":2, "a":1.0}')""")
    assert ask("SELECT vector_search_key('[1,2]', NULL, 10, 'u') = vector_search_key('[1.0,2]', '{}', 10, 'u')")
