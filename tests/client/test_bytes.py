"""Bytes through the clients, on every kind of source."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgcache_py import (
    MISS,
    NEVER,
    Cache,
    CacheFullError,
    InvalidKeyError,
    InvalidTTLError,
    InvalidValueError,
    NotANumberError,
    UnknownTypeError,
    UnrepresentableError,
)

VALUES: list[bytes | int] = [b"", b"\0", b"5", bytes(range(256)), b"x" * 3_000_000, 0, -1, 2**63 - 1, -(2**63)]


def test_a_value_comes_back_as_it_was(cache: Any) -> None:
    for value in VALUES:
        assert cache.set_bytes("bytes", "k", value) is True
        found = cache.get_bytes("bytes", "k", MISS)
        assert (found, type(found)) == (value, type(value))
        assert cache.get_many_bytes("bytes", ["k"]) == {"k": value}
    values = {str(n): value for n, value in enumerate(VALUES)}
    assert cache.set_many_bytes("bytes", values) == len(VALUES)
    assert cache.get_many_bytes("bytes", [*values, "absent"]) == values
    assert cache.set_many_bytes("bytes", {}) == 0
    assert cache.get_many_bytes("bytes", []) == {}
    for like_bytes in (bytearray(b"ab"), memoryview(b"ab")):
        cache.set_bytes("bytes", "k", like_bytes)
        assert cache.get_bytes("bytes", "k") == b"ab"


def test_a_miss(cache: Any) -> None:
    assert cache.get_bytes("bytes", "k") is None
    assert cache.get_bytes("bytes", "k", MISS) is MISS
    assert cache.get_many_bytes("bytes", ["k"]) == {}


def test_numbers_are_counted_up(cache: Any) -> None:
    cache.set_bytes("bytes", "n", 5)
    assert cache.incr("bytes", "n", -7) == -2
    assert cache.get_bytes("bytes", "n") == -2
    assert cache.add_bytes("bytes", "n", 1) is False
    assert cache.add_bytes("bytes", "m", 1) is True
    assert cache.incr("bytes", "m", create_if_missing=False, keep_ttl=True) == 2
    cache.set_bytes("bytes", "b", b"5")
    with pytest.raises(NotANumberError):
        cache.incr("bytes", "b")
    with pytest.raises(InvalidValueError):
        cache.incr_float("bytes", "n", 0.5)


def test_times_to_live_tags_and_tokens(cache: Any) -> None:
    cache.set_bytes("bytes", "k", b"x")
    assert cache.get_with_ttl("bytes", "k")[1] == NEVER
    for value in (b"x", 5):
        cache.set_bytes("bytes", "k", value, 60, jitter=0.5)
        assert timedelta(seconds=20) < cache.ttl("bytes", "k") <= timedelta(minutes=1)
        cache.set_bytes("bytes", "k", value, tags=["t"])
        cache.invalidate_tags("t")
        assert cache.get_bytes("bytes", "k") is None
        token = cache.fetch("bytes", "leased").token
        assert cache.set_bytes("bytes", "leased", value, token=token) is True
        assert cache.set_bytes("bytes", "leased", value, token=token) is False
        cache.delete("bytes", "leased")
    cache.set_many_bytes("bytes", {"a": b"1", "b": 2, "c": b"3"}, {"a": 60, "b": "1 hour"})
    assert [cache.ttl("bytes", key) for key in "abc"][2] is None
    assert timedelta(minutes=59) < cache.ttl("bytes", "b") <= timedelta(hours=1)
    assert cache.set_many_bytes("bytes", {"a": b"1"}, 30) == 1
    assert cache.ttl("bytes", "a") <= timedelta(seconds=30)


def test_types_of_ones_own(cache: Any) -> None:
    cache.create_type("files", bytes=True, ttl=None, exist_ok=True)
    cache.set_bytes("files", "k", b"\xff")
    assert cache.get_bytes("files", "k") == b"\xff"
    assert cache.get("files", "k") == {"bytes": "/w=="}
    assert cache.count("files") == 1
    assert cache.for_tenant("acme").get_bytes("files", "k") is None
    cache.drop_type("files")


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("text", TypeError),
        (None, TypeError),
        (True, TypeError),
        (1.5, TypeError),
        ([1], TypeError),
        (2**63, InvalidValueError),
    ],
)
def test_what_is_no_value(cache: Any, value: Any, error: type[Exception]) -> None:
    for store in (
        lambda: cache.set_bytes("bytes", "k", value),
        lambda: cache.add_bytes("bytes", "k", value),
        lambda: cache.set_many_bytes("bytes", {"a": b"fine", "k": value}),
    ):
        with pytest.raises(error):
            store()
    assert cache.count("bytes") == 0


def test_what_is_refused(cache: Any) -> None:
    for error, call in [
        (InvalidValueError, lambda: cache.get_bytes("store", "k")),
        (InvalidValueError, lambda: cache.set_bytes("store", "k", b"x")),
        (InvalidValueError, lambda: cache.set_bytes("store", "k", b"x", tags=["t"])),
        (InvalidValueError, lambda: cache.set_bytes("audio", "k", b"x")),
        (InvalidValueError, lambda: cache.set_bytes("store", "k", 1)),
        (InvalidValueError, lambda: cache.set_bytes("store", "k", 1, tags=["t"])),
        (InvalidValueError, lambda: cache.add_bytes("store", "k", 1)),
        (InvalidTTLError, lambda: cache.set_bytes("bytes", "k", b"x", 10**400)),
        (InvalidTTLError, lambda: cache.set_bytes("bytes", "k", b"x", 1e20)),
        (UnknownTypeError, lambda: cache.get_bytes("nothing", "k")),
        (InvalidKeyError, lambda: cache.set_bytes("bytes", "", b"x")),
        (InvalidTTLError, lambda: cache.set_bytes("bytes", "k", b"x", 0)),
        (TypeError, lambda: cache.set_many_bytes("bytes", {1: b"x"})),
        (TypeError, lambda: cache.get_many_bytes("bytes", "k")),
    ]:
        with pytest.raises(error):
            call()
    assert cache.count("store") == cache.count("bytes") == 0


def test_a_key_that_cannot_be_one_is_a_miss_among_many(cache: Any) -> None:
    cache.set("store", "k", 1)
    cache.set_bytes("bytes", "k", b"x")
    odd = ["", "\0", "a\ud800", "x" * 1025, "ä" * 513]
    assert cache.get_many("store", [*odd, "k"]) == {"k": 1}
    assert cache.get_many_bytes("bytes", [*odd, "k"]) == {"k": b"x"}
    with pytest.raises(TypeError):
        cache.get_many("store", ["k", 5])
    with pytest.raises(UnknownTypeError):
        cache.get_many("nothing", odd)


@pytest.mark.once
def test_in_fail_soft_mode_what_fits_is_stored(dsn: str) -> None:
    with Cache(dsn) as strict, Cache(dsn, fail_soft=True) as soft:
        strict.create_type("small", max_bytes=1_000_000)
        strict.create_type("files", bytes=True, max_bytes=1_000_000)
        values = {"a": 1, "large": "".join(map(chr, range(1000, 40_000))) * 20, "nul": "a\0", "b": 2}
        with pytest.raises((CacheFullError, UnrepresentableError)):
            strict.set_many("small", values)
        assert strict.count("small") == 0
        assert soft.set_many("small", values, 60, jitter=0.1) == 2
        assert soft.get_many("small", values) == {"a": 1, "b": 2}
        assert soft.set_many("small", values, {"a": 60}) == 2
        data: dict[str, bytes | int] = {"a": b"x", "large": b"x" * 1_000_001, "n": 5}
        with pytest.raises(CacheFullError):
            strict.set_many_bytes("files", data)
        assert soft.set_many_bytes("files", data, {"a": 60}) == 2
        assert soft.get_many_bytes("files", data) == {"a": b"x", "n": 5}


@pytest.mark.once
def test_in_fail_soft_mode_what_cannot_be_a_key_is_left_out(dsn: str) -> None:
    odd = ["", "\0", "a\ud800", "x" * 1025, "ä" * 513]
    with Cache(dsn) as strict, Cache(dsn, fail_soft=True) as soft:
        assert soft.set_many("store", {**dict.fromkeys(odd, 1), "k": 2}) == 1
        assert soft.set_many("store", {**dict.fromkeys(odd, 1), "k": 2}, dict.fromkeys(odd, 60)) == 1
        assert soft.set_many_bytes("bytes", {**dict.fromkeys(odd, b""), "k": b"x"}) == 1
        assert (soft.get_many("store", ["k"]), soft.get_many_bytes("bytes", ["k"])) == ({"k": 2}, {"k": b"x"})
        for key in odd:
            with pytest.raises((InvalidKeyError, UnrepresentableError)):
                strict.set_many("store", {key: 1, "l": 2})
            with pytest.raises((InvalidKeyError, UnrepresentableError)):
                strict.set_many_bytes("bytes", {key: b"", "l": b"x"})
        assert (strict.count("store"), strict.count("bytes")) == (1, 1)
        values: dict[Any, Any] = {5: b"x"}
        for call in (soft.set_many, soft.set_many_bytes):
            with pytest.raises(TypeError):
                call("bytes", values)


@pytest.mark.once
def test_in_fail_soft_mode_without_a_server() -> None:
    soft = Cache("postgresql://127.0.0.1:1/x", fail_soft=True, timeout=1)
    assert soft.get_bytes("bytes", "k", MISS) is MISS
    assert soft.set_bytes("bytes", "k", b"x") is False
    assert soft.set_bytes("bytes", "k", 5) is False
    assert soft.add_bytes("bytes", "k", b"x") is False
    assert soft.get_many_bytes("bytes", ["k"]) == {}
    assert soft.set_many_bytes("bytes", {"k": b"x"}) == 0


@pytest.mark.once
def test_in_a_transaction_of_the_callers(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        cache = Cache(connection)
        cache.set_bytes("bytes", "k", b"x")
        connection.rollback()
        assert cache.get_bytes("bytes", "k") is None
