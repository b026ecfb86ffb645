"""Keys made in Python are those made in SQL."""

from __future__ import annotations

import enum
import json
import random
import re
import string
from typing import Any

import psycopg
import pytest

from pgcache_py import AsyncCache, Cache, InvalidKeyError, any_key, cache_key, cache_key_json


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("",),
        (None,),
        ("~",),
        ("ab", "c"),
        ("a", "bc"),
        ("a,1:b",),
        ("a", "b"),
        ("é", "😀", None, ""),
        ("x" * 10000, "\n\\'\""),
    ],
)
def test_cache_key(db: psycopg.Connection, parts: tuple[str | None, ...]) -> None:
    row = db.execute("SELECT pgcache.cache_key(VARIADIC %s::text[])", [list(parts)]).fetchone()
    assert row == (cache_key(*parts),)
    assert Cache.key(*parts) == AsyncCache.key(*parts) == cache_key(*parts)


def test_different_parts_have_different_keys() -> None:
    parts = [(), ("",), (None,), ("~",), ("ab", "c"), ("a", "bc"), ("abc",), ("a,1:b",), ("a", "b"), ("a", "b", None)]
    assert len({cache_key(*each) for each in parts}) == len(parts)


def any_json(random: random.Random, depth: int = 3) -> Any:
    kind = random.randrange(9 if depth else 7)
    text = "".join(random.choices(string.printable + "é😀\u2028\x7f\x01", k=random.randrange(8)))
    match kind:
        case 0:
            return random.choice([None, True, False])
        case 1:
            return random.randrange(-(10 ** random.randrange(1, 40)), 10 ** random.randrange(1, 40))
        case 2:
            return random.uniform(-1, 1) * 10.0 ** random.randrange(-320, 300)
        case 3:
            return float(random.randrange(-100, 100)) / random.choice([1, 2, 10])
        case 4 | 5 | 6:
            return text
        case 7:
            return [any_json(random, depth - 1) for _ in range(random.randrange(4))]
    return {f"{text}{n}"[n % 2 :]: any_json(random, depth - 1) for n in range(random.randrange(5))}


def test_cache_key_json(db: psycopg.Connection) -> None:
    source = random.Random(7)
    values = [any_json(source) for _ in range(2000)]
    values += [1, 1.0, -0.0, 0, 100, 1e2, 1.5e300, 5e-324, "", [], {}]
    values += [{"b": 1, "a": 2, "aa": 3, "é": 4, "ZZ": 5, "😀": 6, "\uffff": 7}]
    found = db.execute(
        "SELECT pgcache.cache_key_json(v) FROM unnest(%s::jsonb[]) WITH ORDINALITY AS u (v, place) ORDER BY place",
        [[json.dumps(value) for value in values]],
    ).fetchall()
    for value, (key,) in zip(values, found, strict=True):
        assert cache_key_json(value) == key, value
    assert Cache.key_json({"a": 1, "b": [2]}) == AsyncCache.key_json({"b": (2.0,), "a": 1.0})


def test_cache_key_json_of_what_json_makes_of_it() -> None:
    class Colour(str, enum.Enum):
        RED = "red"

    class Number(enum.IntEnum):
        ONE = 1

    assert cache_key_json([Colour.RED, Number.ONE]) == cache_key_json(["red", 1])
    for value in ({1: 2}, {1}, b"", object(), float("nan"), [float("inf")]):
        with pytest.raises(TypeError, match="not a JSON value"):
            cache_key_json(value)


@pytest.mark.parametrize("part", [1, b"a", 1.5, ["a"]])
def test_a_part_that_is_no_text_is_named(part: object) -> None:
    with pytest.raises(TypeError, match="a part of a key is a str or None"):
        cache_key("a", part)  # type: ignore[arg-type]


FINE = ["a", "user:42", "é😀", "x" * 1022, "~", "~abc", " ", "'%_\\"]
ODD = ["a\0b", "\0", "half \ud800", "\udfff", "x" * 1023, "ä" * 512, any_key("")]


@pytest.mark.parametrize("key", FINE)
def test_any_key_of_what_can_be_one(key: str) -> None:
    assert any_key(key) == key
    assert any_key(key, "p:") == f"p:{key}"


@pytest.mark.parametrize("key", ODD)
def test_any_key_of_what_cannot_be_one(key: str, db: psycopg.Connection) -> None:
    made = any_key(key, "p:")
    assert re.fullmatch("p:~[0-9a-f]{64}", made)
    assert db.execute("SELECT pgcache.cache_set('store', %s, '1')", [made]).fetchone() == (True,)


def test_different_texts_have_different_keys() -> None:
    texts = ["", *FINE, *ODD]
    for prefix in ("", "p:"):
        assert len({any_key(text, prefix) for text in texts}) == len(texts)


def test_nor_do_prefixes_share_them() -> None:
    hashed = any_key("x" * 2000)
    for size in range(len(hashed) + 1):
        assert any_key(hashed[size:], hashed[:size]) != hashed, size
    assert any_key("x" * 2000, "a") != any_key(any_key("x" * 2000), "a")


def test_what_is_no_text_is_no_key() -> None:
    wrong: list[Any] = [5, None, b"k", ["k"]]
    for each in wrong:
        with pytest.raises(TypeError, match="str"):
            any_key(each)
        with pytest.raises(TypeError, match="str"):
            any_key("k", each)


@pytest.mark.parametrize("prefix", ["x" * 960, "\0", "\ud800", "ä" * 500])
def test_a_prefix_that_no_key_can_have(prefix: str) -> None:
    with pytest.raises(InvalidKeyError):
        any_key("\0", prefix)
