"""Values come back as they went in, or are refused; what was computed is returned in any case."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pgcache_py import MISS, Cache, InvalidValueError, NotTextError, UnrepresentableError

pytestmark = pytest.mark.once  # the client; what it calls is in tests/sql

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda f: f != 0 or math.copysign(1, f) > 0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(JSON)
@example(6.02214076e23)
@example({"e+": [1e16, -1e22, 1.7976931348623157e308, 5e-324, 1e-7]})
@example([10**16, 10**4000, -(10**30), 1e16, 0.1 + 0.2])
@example({"": {"": [[], {}, [None]]}})
@example([0.0, -0.05, "-0.0", 0])
@example("\\u0000 \ufeff \ufdd0 \U0010ffff \u2028")
def round_trip(cache: Any, value: Any) -> None:
    assert cache.set("store", "k", value) is True
    assert same(cache.get("store", "k", MISS), value)
    assert same(cache.get_many("store", ["k"])["k"], value)


def same(left: Any, right: Any) -> bool:
    """Equal, with equal types: 1.0 is not 1, nor True."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def test_any_json_comes_back(dsn: str) -> None:
    """AsyncCache has the same code for it."""
    with Cache(dsn) as cache:
        round_trip(cache)


UNJSON = {
    "int as a key": {1: "a", "1": "b"},
    "True as a key": [{True: 1}],
    "None as a key": {"a": {None: 1}},
    "float as a key": ({1.5: 1},),
    "bytes as a key": {b"a": 1},
    "NaN": [float("nan")],
    "infinity": -math.inf,
    "negative zero": {"a": [1, (-0.0,)]},
    "long int": 10**5000,
    "bytes": b"a",
}


@pytest.mark.parametrize("value", UNJSON.values(), ids=UNJSON)
def test_what_would_come_back_as_something_else_is_refused(cache: Any, value: Any) -> None:
    cache.set("store", "k", "as it was")
    with pytest.raises(InvalidValueError, match="not a JSON value"):
        cache.set("store", "k", value)
    with pytest.raises(InvalidValueError, match="not a JSON value"):
        cache.set_many("store", {"k": value})
    assert cache.get("store", "k") == "as it was"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_what_sql_stored_and_python_cannot_read(
    world: Any, dsn: str, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    db.execute("SELECT pgcache.cache_set('store', 'deep', %s)", [nested(3000)])
    db.execute("SELECT pgcache.cache_set('store', 'long', '[1e5000, 1.5, -12]')")
    for source in (dsn, world.connect(dsn, autocommit=True)):
        strict, soft = world.cache(source), world.cache(source, fail_soft=True)
        for cache in (strict, soft):
            assert cache.get("store", "long") == [10**5000, 1.5, -12]
            assert cache.get_many("store", ["long"]) == {"long": [10**5000, 1.5, -12]}
        with pytest.raises(UnrepresentableError, match="nested too deeply"):
            strict.get("store", "deep")
        assert soft.get("store", "deep", MISS) is MISS
        assert soft.get_many("store", ["deep"]) == {}
        assert soft.get_or_compute("store", "deep", world.function(lambda: 1)) == 1
        db.execute("SELECT pgcache.cache_set('store', 'deep', %s)", [nested(3000)])
    assert "nested too deeply" in caplog.text


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udfff"])
def test_texts_that_postgresql_cannot_hold(world: Any, source: Any, text: str) -> None:
    strict, soft = world.cache(source), world.cache(source, fail_soft=True)
    assert strict.set("store", "k", 1) is True
    for call in (
        lambda cache: cache.get("store", text),
        lambda cache: cache.set("store", text, 1),
        lambda cache: cache.llm.set("p", "m", text),
        lambda cache: cache.delete("store", text),
        lambda cache: cache.for_tenant(text).get("store", "k"),
    ):
        with pytest.raises(UnrepresentableError):
            call(strict)
        assert not call(soft)
    assert soft.set("store", "k", {"text": [text]}) is False
    assert strict.get_many("store", [text, "k"]) == soft.get_many("store", [text, "k"]) == {"k": 1}
    assert strict.get("store", "k") == 1


def test_bytes_are_no_text(world: Any, source: Any) -> None:
    strict, soft = world.cache(source), world.cache(source, fail_soft=True)
    for key in (b"k", b"\xff"):
        with pytest.raises(NotTextError, match="expected str, not bytes"):
            strict.get("store", key)
        with pytest.raises(TypeError):
            strict.llm.get(key, "m")
        assert soft.get("store", key) is None
        assert soft.set("store", key, 1) is False


def test_a_text_that_the_connections_encoding_lacks(world: Any, dsn: str) -> None:
    connection = world.connect(dsn, client_encoding="latin1")
    with pytest.raises(UnrepresentableError, match="u20ac"):
        world.cache(connection).get("store", "€")
    assert world.cache(connection, fail_soft=True).set("store", "€", 1) is False
    assert connection.execute("SELECT 1").fetchone() == (1,)


# What was computed.


@pytest.mark.parametrize("fail_soft", [False, True], ids=["strict", "fail-soft"])
def test_what_was_paid_for_is_returned(
    world: Any, source: Any, fail_soft: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cache = world.cache(source, fail_soft=fail_soft)
    asked: list[Any] = []

    def returning(value: Any) -> Any:
        return world.function(lambda *args: asked.append(value) or value)

    for value in ("ok\0", "\ud800"):
        answer = cache.llm.get_or_compute("p", "m", returning(value), provider="x")
        assert answer == {"response": value, "model": "m", "provider": "x"}
        assert cache.get_or_compute("store", "k", returning([value])) == [value]
        assert cache.recompute("store", "k", returning({"v": value})) == {"v": value}
        assert cache.cached(key=lambda: "k")(returning(value))() == value
        if fail_soft:
            assert cache.llm.get_or_compute(value, "m", returning("r"))["response"] == "r"
    for other in (float("nan"), math.inf, {1, 2}, {1: 2}):
        assert cache.get_or_compute("store", "k", returning(other)) is other
    assert math.isnan(cache.embedding.get_or_compute("t", "m", returning([math.nan, 1.0]))[0])
    assert ("cache_set failed" if fail_soft else "is not cached in llm") in caplog.text
    assert "is not cached in store" in caplog.text
    assert "is not cached in embedding" in caplog.text
    assert len(asked) == 13 + 2 * fail_soft
    assert cache.set("store", "k", 1) is True  # the transaction goes on


def test_what_can_be_stored_is(world: Any, source: Any) -> None:
    cache = world.cache(source)
    vectors = [[1.0, 2.0], [math.nan, 2.0], [3.0, 4.0]]
    found = cache.embedding.get_or_compute_many(["a", "b", "c"], "m", world.function(lambda missing: vectors))
    assert (found[0], found[2], found[1][1]) == ([1.0, 2.0], [3.0, 4.0], 2.0)
    assert cache.embedding.get_many(["a", "b", "c"], "m") == [[1.0, 2.0], None, [3.0, 4.0]]


def test_a_mistake_in_the_call_raises(cache: Any, world: Any) -> None:
    from pgcache_py import InvalidTTLError

    with pytest.raises(InvalidTTLError):
        cache.get_or_compute("store", "k", world.function(lambda: 1), ttl=-1)


def test_a_type_that_is_full(world: Any, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = world.cache(dsn)
    cache.create_type("small", max_entries=1, eviction="none")
    values = {n: cache.get_or_compute("small", str(n), world.function(lambda n=n: n)) for n in range(20)}
    assert values == {n: n for n in range(20)}
    assert "small" in caplog.text


def test_on_a_read_only_server(world: Any, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pgcache")
    cache = world.cache(world.connect(dsn, options="-c default_transaction_read_only=on"))
    assert cache.get_or_compute("store", "k", world.function(lambda: json.loads("[1]"))) == [1]
    assert "READ ONLY" in caplog.text.upper()
