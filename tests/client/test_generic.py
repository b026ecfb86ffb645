"""The generic calls, on every kind of source."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from pgcache_py import (
    MISS,
    NEVER,
    Cache,
    Forgotten,
    InvalidKeyError,
    InvalidSettingError,
    InvalidTTLError,
    InvalidValueError,
    NotANumberError,
    Removed,
    UnknownTypeError,
)

pytestmark = pytest.mark.every

VALUES = [
    None,
    True,
    0,
    -1.5,
    10**30,
    "",
    "null",
    "é😀 \"quoted\" 'single' back\\slash \n\t\x01",
    [],
    {},
    [None, {"a": [1, 2, {"ü": ""}]}],
    {"$1": "%s %(x)s {} \\N"},
    "x" * 3_000_000,
]


def test_a_value_comes_back_as_it_was(cache: Any) -> None:
    for value in VALUES:
        assert cache.set("store", "k", value) is True
        assert cache.get("store", "k", MISS) == value
        assert cache.get_many("store", ["k"]) == {"k": value}
    assert cache.set_many("store", {str(n): value for n, value in enumerate(VALUES)}) == len(VALUES)
    assert list(cache.get_many("store", map(str, range(len(VALUES)))).values()) == VALUES


KEYS = ["k", "é😀", "a b", "'", '"', "\\", "{,}", "NULL", "%", "$1", "x" * 1024]


def test_any_text_is_a_key(cache: Any) -> None:
    for key in KEYS:
        cache.set("store", key, 1)
        assert cache.get("store", key) == 1
        assert cache.get_many("store", [key, "other"]) == {key: 1}
        assert cache.keys("store") == [key]
        assert cache.delete_many("store", ["other", key]) == 1


def test_a_miss_is_told_from_a_cached_none(cache: Any) -> None:
    cache.set("store", "none", None)
    assert cache.get("store", "none", "default") is None
    assert cache.get("store", "none", MISS) is None
    assert cache.get("store", "absent") is None
    assert cache.get("store", "absent", "default") == "default"
    assert cache.get("store", "absent", MISS) is MISS
    assert cache.get_many("store", ["absent", "none"]) == {"none": None}
    assert repr(MISS) == "MISS"


@pytest.mark.once
def test_every_call_on_every_source(world: Any, source: Any) -> None:
    cache = world.cache(source)
    assert cache.set("store", "a", {"n": 1}, ttl=60) is True
    assert cache.get("store", "a") == {"n": 1}
    assert cache.add("store", "a", 2) is False
    assert cache.add("store", "b", 2) is True
    assert cache.incr("store", "b") == 3
    assert cache.incr("store", "new", 5, ttl="1 minute") == 5
    assert cache.incr("store", "new", -7) == -2
    assert cache.set_many("store", {"c": "x", "d": [1], "e": None}, ttl=timedelta(minutes=5)) == 3
    assert list(cache.get_many("store", ["d", "zz", "a", "e"]).items()) == [("d", [1]), ("a", {"n": 1}), ("e", None)]
    assert cache.get_many("store", []) == {}
    assert cache.exists("store", "a") is True
    assert cache.exists("store", "zz") is False
    assert cache.keys("store") == ["a", "b", "c", "d", "e", "new"]
    assert cache.keys("store", max_keys=2) == ["a", "b"]
    assert cache.keys("store", "zz%", max_keys=None) == []
    assert cache.delete("store", "a") is True
    assert cache.delete("store", "a") is False
    assert cache.delete_many("store", ["b", "zz"]) == 1
    assert cache.delete_pattern("store", "n%") == 1
    assert cache.warm("store", [{"key": "w", "value": None}, {"key": "v", "value": 1, "ttl": "1 day"}]) == 2
    assert cache.clear("store") == 5
    assert cache.clear_expired() == 0
    assert cache.clear_expired("store") == 0
    assert cache.cleanup() == 0
    assert cache.cleanup("store") == 0
    assert cache.clear_all() == 0
    assert {row["type"] for row in cache.stats()} >= {"llm", "store"}
    assert {row["status"] for row in cache.health()} <= {"ok", "warning", "critical"}
    assert len(cache.index_usage()) > 0


def test_times_that_python_does_not_have(cache: Any, db: psycopg.Connection) -> None:
    assert cache.set("store", "k", 1, "9999 years") is True
    entry = cache.entry("store", "k")
    assert entry.expires_at == datetime.max.replace(tzinfo=timezone.utc)
    assert min(entry.ttl, cache.ttl("store", "k")) > timedelta(days=9000 * 365)
    db.execute("UPDATE pgcache.cache_type_store SET created_at = '-infinity'")
    assert cache.entry("store", "k").created_at == datetime.min.replace(tzinfo=timezone.utc)
    assert {row["type"] for row in cache.stats()} >= {"store"}


def test_time_to_live(world: Any, dsn: str) -> None:
    connection = world.connect(dsn, autocommit=True)
    cache = world.cache(connection)

    def clock(seconds: float) -> None:
        moment = datetime(2030, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
        connection.execute("SELECT set_config('pgcache.clock', %s, false)", [str(moment)])

    clock(0)
    for key, ttl in {"seconds": 90, "float": 89.5, "delta": timedelta(seconds=90), "text": "1.5 minutes"}.items():
        cache.set("store", key, 1, ttl)
    cache.set("store", "default", 1)
    assert cache.ttl("store", "seconds") == timedelta(seconds=90)
    assert cache.ttl("store", "float") == timedelta(seconds=89.5)
    assert cache.ttl("store", "text") == cache.ttl("store", "delta") == timedelta(seconds=90)
    assert cache.ttl("store", "default") == timedelta(hours=1)
    assert cache.ttl("store", "absent") is None
    clock(89.75)
    assert cache.get("store", "float") is None
    assert cache.get("store", "seconds") == 1
    assert cache.touch("store", "text", 600) is True
    assert cache.persist("store", "delta") is True
    assert cache.touch("store", "float", 600) is False
    clock(91)
    assert list(cache.get_many("store", ["seconds", "delta", "text"])) == ["delta", "text"]
    assert cache.ttl("store", "delta") is None
    clock(10**6)
    assert cache.get("store", "delta") == 1
    assert cache.clear_expired("store") == 4


def test_entry_tells_what_is_known(world: Any, dsn: str) -> None:
    connection = world.connect(dsn, autocommit=True)
    cache = world.cache(connection, tenant="t")
    moment = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    connection.execute("SELECT set_config('pgcache.clock', %s, false)", [str(moment)])
    connection.execute("SET TimeZone TO 'America/Caracas'")
    cache.set("store", "k", "x" * 100, ttl=timedelta(days=40, milliseconds=1))
    cache.get("store", "k")
    entry = cache.entry("store", "k")
    assert (entry.tenant, entry.key, entry.created_at, entry.expired) == ("t", "k", moment, False)
    assert entry.ttl == timedelta(days=40, milliseconds=1)
    assert entry.expires_at == moment + entry.ttl
    assert entry.hit_count == 1
    assert 100 < entry.bytes < 1000
    cache.persist("store", "k")
    assert cache.entry("store", "k").expires_at is None
    assert cache.entry("store", "k").ttl is None
    assert cache.entry("store", "absent") is None


def test_jitter_shortens_the_ttl(cache: Any) -> None:
    for key in map(str, range(20)):
        assert cache.set("store", key, 1, ttl=100, jitter=0.5) is True
    assert cache.set_many("store", {f"many:{number}": 1 for number in range(20)}, ttl=100, jitter=0.5) == 20
    left = [cache.ttl("store", key) for key in cache.keys("store")]
    assert timedelta(seconds=40) < min(left) < timedelta(seconds=90)
    assert len({duration.seconds for duration in left}) > 10
    with pytest.raises(InvalidTTLError):
        cache.set("store", "k", 1, jitter=2)
    with pytest.raises(TypeError):
        cache.set("store", "k", 1, jitter="0.5")


def test_a_ttl_of_never(cache: Any) -> None:
    for never in (NEVER, "never", "infinity", float("inf")):
        assert cache.set("store", "set", 1, ttl=never)
        assert cache.set_many("store", {"many": 1}, ttl=never) == 1
        cache.delete("store", "add")
        assert cache.add("store", "add", 1, ttl=never)
        cache.set("store", "touched", 1, ttl=1)
        assert cache.touch("store", "touched", ttl=never)
        cache.delete("store", "incr")
        assert cache.incr("store", "incr", ttl=never) == 1
        for key in ("set", "many", "add", "touched", "incr"):
            assert cache.entry("store", key).expires_at is None, key
    for ttl in (float("nan"), -float("inf")):
        with pytest.raises(InvalidTTLError):
            cache.set("store", "set", 1, ttl=ttl)


def test_a_ttl_for_each_of_many(cache: Any) -> None:
    ttls = {"short": 60, "long": timedelta(days=2), "never": NEVER, "none": None, "other": 5}
    assert cache.set_many("store", {"short": 1, "long": [2], "never": None, "none": "x", "absent": 5}, ttls) == 5
    assert cache.get_many("store", ["short", "long", "never", "none"]) == {
        "short": 1,
        "long": [2],
        "never": None,
        "none": "x",
    }
    left = {key: cache.ttl("store", key) for key in ("short", "long", "never", "none", "absent")}
    assert left.pop("never") is None
    assert {key: round(duration.total_seconds() / 60) for key, duration in left.items()} == {
        "short": 1,
        "long": 2880,
        "none": 60,
        "absent": 60,
    }
    with pytest.raises(TypeError):
        cache.set_many("store", {1: 1}, {"a": 1})
    with pytest.raises(ValueError, match="jitter"):
        cache.set_many("store", {"a": 1}, {"a": 1}, jitter=0.1)
    with pytest.raises(InvalidTTLError):
        cache.set_many("store", {"a": 1, "b": 2}, {"a": -1})
    assert not cache.exists("store", "b")


def test_conditional_writes(cache: Any) -> None:
    assert cache.replace("store", "k", 1) is False
    cache.set("store", "k", None, ttl=60)
    assert cache.replace("store", "k", 2, expected=1) is False
    assert cache.replace("store", "k", 2, expected=None, keep_ttl=True) is True
    assert cache.ttl("store", "k") <= timedelta(seconds=60)
    assert cache.replace("store", "k", [3], ttl=NEVER, expected=2) is True
    assert cache.get_with_ttl("store", "k") == ([3], NEVER)
    assert cache.replace("store", "k", 2, expected=cache.get("store", "absent", MISS)) is False
    assert cache.delete_if("store", "k", 2) is False
    assert cache.delete_if("store", "k", [3]) is True
    assert cache.get_with_ttl("store", "k", MISS) == (MISS, None)
    cache.set("store", "k", None, ttl=60)
    value, ttl = cache.get_with_ttl("store", "k", MISS)
    assert value is None
    assert timedelta(seconds=50) < ttl <= timedelta(seconds=60)


def test_counters(cache: Any) -> None:
    assert cache.incr("store", "n", create_if_missing=False) is None
    assert cache.incr("store", "n", 2, ttl=60, keep_ttl=True) == 2
    assert cache.incr("store", "n", 2, ttl=6000, keep_ttl=True) == 4
    assert cache.ttl("store", "n") <= timedelta(seconds=60)
    assert cache.incr("store", "n", create_if_missing=False) == 5
    assert cache.incr_float("store", "n", 0.5) == 5.5
    assert cache.incr_float("store", "n", Decimal("-0.25")) == 5.25
    assert cache.incr_float("store", "other", 1, create_if_missing=False) is None
    with pytest.raises(NotANumberError):
        cache.incr("store", "n")
    with pytest.raises(TypeError):
        cache.incr("store", "n", 0.5)
    with pytest.raises(TypeError):
        cache.incr_float("store", "n", "1")


def test_namespaces(cache: Any) -> None:
    values = {"user:1": {"a": "é"}, "user:2": None, "user%:3": 3, "other": 4}
    cache.set_many("store", values, ttl={"user:1": NEVER})
    assert cache.count("store") == 4
    assert cache.count("store", "user:") == 2
    first, second = cache.scan("store", "user:")
    assert (first, second.key, second.value) == (("user:1", {"a": "é"}, NEVER), "user:2", None)
    assert timedelta(minutes=59) < second.ttl <= timedelta(hours=1)
    assert [key for key, *_ in cache.scan("store", "user:", after="user:1")] == ["user:2"]
    assert [key for key, *_ in cache.scan("store", max_entries=1)] == ["other"]
    assert cache.delete_prefix("store", "user%") == 1
    assert cache.delete_prefix("store", "user") == 2
    assert cache.scan("store", "user", max_entries=None) == []


def test_explain_tells_why(world: Any, dsn: str) -> None:
    connection = world.connect(dsn, autocommit=True)
    cache = world.cache(connection)
    assert cache.explain("store", "k").cause == "absent: nothing is stored with this key for this tenant"
    cache.set("store", "k", 1, 60, tags=["doc:1"])
    found = cache.explain("store", "k")
    assert (found.type, found.key, found.hit) == ("store", "k", True)
    assert found.cause.startswith("stored at ")
    assert "tags: doc:*, doc:1" in found.notes
    cache.invalidate_tags("doc:1")
    found = cache.explain("store", "k")
    assert not found.hit
    assert found.cause.startswith("invalid: tag doc:1 was invalidated at ")
    cache.set("store", "k", 1, 60)
    connection.execute("SELECT set_config('pgcache.clock', (now() + '61 s')::text, false)")
    assert cache.explain("store", "k").cause.startswith("expired since ")
    with pytest.raises(UnknownTypeError):
        cache.explain("nonsense", "k")


def test_types(cache: Any) -> None:
    cache.create_type("mine", ttl=None, max_entries=10, max_bytes=None, hit_tracking="exact", durable=False)
    cache.set("mine", "k", 1)
    assert cache.ttl("mine", "k") is None
    row = next(row for row in cache.stats() if row["type"] == "mine")
    assert (row["entries"], row["max_entries"], row["max_bytes"], row["durable"]) == (1, 10, None, False)
    cache.configure("mine", ttl=5, max_bytes=1000, reset=["max_entries"])
    row = next(row for row in cache.stats() if row["type"] == "mine")
    assert (row["max_entries"], row["max_bytes"], row["ttl"]) == (None, 1000, timedelta(seconds=5))
    cache.configure("mine", tier="long", max_age=timedelta(days=30))
    row = next(row for row in cache.stats() if row["type"] == "mine")
    assert (row["ttl"], row["tier"], row["max_age"]) == (timedelta(hours=24), "long", timedelta(days=30))
    cache.configure("mine", tenant_share=0.25)
    assert next(row for row in cache.stats() if row["type"] == "mine")["tenant_share"] == Decimal("0.25")
    with pytest.raises(TypeError, match="expected a number"):
        cache.configure("mine", tenant_share="half")
    cache.configure("mine", reset=["ttl", "max_age", "tenant_share"])
    row = next(row for row in cache.stats() if row["type"] == "mine")
    assert (row["ttl"], row["tier"], row["max_age"], row["tenant_share"]) == (None, None, None, None)
    for limits in ({"max_entries": 1}, {"max_bytes": 10_000_000}, {}):
        cache.tenant_limit("mine", "", **limits)
        cache.set("mine", "other", 1)
        assert cache.exists("mine", "k") == ("max_entries" not in limits)
        cache.set("mine", "k", 1)
    with pytest.raises(InvalidSettingError):
        cache.tenant_limit("mine", "a", max_entries=0)
    cache.configure("mine", enabled=False)
    assert cache.set("mine", "k", 1) is False
    cache.drop_type("mine")
    assert "mine" not in {row["type"] for row in cache.stats()}


def test_defaults_of_create_type_are_those_of_sql(cache: Any, db: psycopg.Connection) -> None:
    cache.create_type("python")
    db.execute("SELECT pgcache.cache_create_type('sql')")
    query = "SELECT ttl, max_entries, max_bytes, eviction, hit_tracking, durable, enabled FROM pgcache_internal.types"
    python, sql = db.execute(f"{query} WHERE type IN ('python', 'sql')").fetchall()
    assert python == sql


def test_works_whatever_the_search_path(world: Any, dsn: str) -> None:
    cache = world.cache(world.connect(dsn, autocommit=True, options="-c search_path="))
    cache.set("store", "k", 1)
    assert cache.get("store", "k") == 1
    assert cache.for_tenant("t").get_many("store", ["k"]) == {}
    assert cache.embedding.set("text", "m", [1, 2]) is True
    assert cache.embedding.get("text", "m") == [1, 2]
    assert cache.vector_search.get([1, 2]) is None
    assert cache.stats()


def test_works_whatever_the_encoding_and_the_adapters(world: Any, dsn: str) -> None:
    connection = world.connect(dsn, autocommit=True, client_encoding="latin1")
    adapters = getattr(connection, "target", connection).adapters
    adapters.register_loader("jsonb", psycopg.types.string.TextLoader)
    adapters.register_dumper(str, psycopg.types.string.StrDumperVarchar)
    cache = world.cache(connection)
    cache.set("store", "ké", {"é": "ü"})
    assert cache.get("store", "ké") == {"é": "ü"}
    assert cache.keys("store") == ["ké"]
    assert cache.get_many("store", ["ké"]) == {"ké": {"é": "ü"}}


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", float("nan"), float("inf"), {(1, 2): 3}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="JSON"):
        Cache("").set("store", "k", value)


def test_what_postgresql_cannot_store_is_refused(cache: Any) -> None:
    for value in ("a\0b", {"a\0": 1}, "\ud800", json_nested(100_000)):
        with pytest.raises(ValueError):  # noqa: PT011 (InvalidValueError, or Python's own UnicodeEncodeError)
            cache.set("store", "k", value)
        assert cache.get("store", "k", MISS) is MISS
    with pytest.raises(InvalidValueError, match="NUL"):
        cache.get("store", "a\0b")


def json_nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_a_key_is_a_text(world: Any, source: Any) -> None:
    cache = world.cache(source, fail_soft=True)
    for key in (5, 1.5, ["k"]):
        for call in (cache.get, cache.exists, cache.delete):
            with pytest.raises(TypeError, match="expected str"):
                call("store", key)
        with pytest.raises(TypeError, match="expected str"):
            cache.get_many("store", [key])


def test_one_string_is_not_several_keys(cache: Any) -> None:
    with pytest.raises(TypeError, match="not one"):
        cache.get_many("store", "key")


def test_forget(world: Any, dsn: str) -> None:
    cache = world.cache(dsn, tenant="acme")
    other = cache.for_tenant("other")
    for each in (cache, other):
        each.set("store", "k", 1)
        each.vector_search.set([1.0], ["r"], user_id="ada")
    assert cache.get("store", "k") == 1
    receipt = cache.forget("ada", kind="user")
    assert (receipt.total, receipt.removed[0]) == (1, Removed("vector_search", "entries", 1))
    receipt = cache.forget("acme")
    assert receipt.total == sum(each.removed for each in receipt.removed if each.place != "redis")
    assert receipt.removed[0] == Removed("store", "entries", 1)
    assert cache.get("store", "k") is None
    assert cache.forget("acme") == Forgotten(0, ())
    assert other.get("store", "k") == 1
    assert other.vector_search.get([1.0], user_id="ada") == ["r"]
    for wrong, kind, error in (
        ("", "tenant", InvalidKeyError),
        (None, "user", InvalidKeyError),
        ("a", "x", InvalidSettingError),
    ):
        with pytest.raises(error):
            cache.forget(wrong, kind=kind)
