"""cachelib: its own suite; applications with Flask-Caching, whose suite is elsewhere, and Flask-Session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import flask
import flask_caching
import pytest
from cachelib.serializers import BaseRedisSerializer, JSONSerializer
from flask_session import Session
from psycopg.conninfo import make_conninfo

from pgcache_py import NEVER, Cache, InvalidValueError, NotANumberError, UnavailableError
from pgcache_py.adapters.cachelib import PgcacheCache
from tests.adapters.suites import suite
from tests.tools.waiting import at_once

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
FLASK_CACHING = "pgcache_py.adapters.flask_caching.pgcache"

# So cachelib's tests call the file that is beside them.
sys.modules["conftest"] = suite("cachelib", "conftest")
CommonTests: Any = suite("cachelib", "common").CommonTests
ClearTests: Any = suite("cachelib", "clear").ClearTests
HasTests: Any = suite("cachelib", "has").HasTests
DeleteManyWithPrefixTests: Any = suite("cachelib", "delete_many_with_prefix").DeleteManyWithPrefixTests
SerializerTests: Any = suite("cachelib", "serializer").SerializerTests
del sys.modules["conftest"]


class ReprSerializer(BaseRedisSerializer):
    """One that is not the default."""

    def dumps(self, value: Any, protocol: int = 0) -> bytes:
        return repr(value).encode()

    def loads(self, value: Any) -> Any:
        return eval(value)


class OtherCache(PgcacheCache):
    serializer = ReprSerializer()


@pytest.fixture
def cache(dsn: str) -> Iterator[Cache]:
    with Cache(dsn) as cache:
        yield cache


@pytest.mark.parametrize("kind", [PgcacheCache, OtherCache])
@pytest.mark.parametrize("key_prefix", [None, "test-key-prefix:"])
class TestCachelib(CommonTests, ClearTests, HasTests, DeleteManyWithPrefixTests, SerializerTests):
    @pytest.fixture(autouse=True)
    def factory(self, cache: Cache, kind: type[PgcacheCache], key_prefix: str | None) -> None:
        def make(*args: Any, **kwargs: Any) -> PgcacheCache:
            return kind(cache, *args, **{"key_prefix": key_prefix, **kwargs})

        self.cache_factory = make


def test_entries_are_bytes_and_numbers(cache: Cache) -> None:
    ours = PgcacheCache(cache, timedelta(hours=1), "app:")
    assert ours.set_many({"a": [1], "n": 5, "t": True}, timedelta(minutes=1)) == ["a", "n", "t"]
    assert ours.add("huge", 2**64, 0)
    assert cache.get_bytes("bytes", "cachelib:app:n") == 5
    assert isinstance(cache.get_bytes("bytes", "cachelib:app:a"), bytes)
    assert ours.get_dict("a", "n", "t", "huge", "none") == {
        "a": [1], "n": 5, "t": True, "huge": 2**64, "none": None,
    }  # fmt: skip
    assert cache.get_with_ttl("bytes", "cachelib:app:huge")[1] == NEVER
    left = cache.ttl("bytes", "cachelib:app:a")
    assert left is not None
    assert timedelta(seconds=50) < left <= timedelta(minutes=1)


@pytest.mark.parametrize("key", ["", "\0", "\ud800", "'\"\\%", "é" * 1000, "~" + "0" * 64])
def test_keys(cache: Cache, key: str) -> None:
    ours = PgcacheCache(cache, key_prefix="app:")
    assert ours.set(key, "value")
    assert ours.get_many(key, "none") == ["value", None]
    assert ours.has(key)
    assert not ours.add(key, "other")
    assert ours.delete_many(key, "none") == [key, "none"]
    assert ours.inc(key, 3) == 3
    assert ours.clear()
    assert cache.count("bytes") == 0


def test_clear_leaves_what_does_not_begin_with_the_prefix(cache: Cache) -> None:
    ours, other = PgcacheCache(cache, key_prefix="a"), PgcacheCache(cache, key_prefix="b")
    ours.set("k", 1)
    other.set("k", 2)
    cache.set_bytes("bytes", "a", b"")
    assert ours.clear()
    assert not ours.clear(), "there is nothing left"
    assert (ours.get("k"), other.get("k"), cache.exists("bytes", "a")) == (None, 2, True)


def test_counting_at_once(dsn: str) -> None:
    caches = [PgcacheCache(dsn) for _ in range(4)]
    at_once(*(lambda ours=ours: [ours.inc("n") for _ in range(20)] for ours in caches))
    assert caches[0].dec("n", 30) == 50
    ttl = caches[0].cache.ttl("bytes", "cachelib:n")
    assert ttl is not None
    assert ttl <= timedelta(seconds=300)
    for ours in caches:
        ours.cache.close()


def test_what_cannot_be_counted_up_or_stored(cache: Cache) -> None:
    ours = PgcacheCache(cache)
    ours.set("text", "a")
    with pytest.raises(NotANumberError):
        ours.inc("text")
    with pytest.raises(TypeError):
        ours.set("k", 1, "soon")
    with pytest.raises(InvalidValueError, match="not bytes"):
        PgcacheCache(cache, type="store").set("k", "value")
    ours.serializer = JSONSerializer()
    assert ours.set_many({"set": {1}, "list": [1]}) == ["list"]
    assert not ours.set("set", {1})
    assert not ours.add("set", {1})


@pytest.mark.parametrize("kind", [PgcacheCache, OtherCache])
@pytest.mark.parametrize("foreign", [b"!not a pickle", b"garbage", b"\xff", b"!", b"!cnowhere\nNothing\n."])
def test_what_cannot_be_read_is_a_miss(cache: Cache, kind: type[PgcacheCache], foreign: bytes) -> None:
    cache.set_bytes("bytes", "cachelib:k", foreign)
    ours = kind(cache)
    ours.set("fine", 1)
    assert ours.get("k") is None
    assert ours.get_many("k", "fine") == [None, 1]


def test_odd_timeouts(cache: Cache) -> None:
    ours = PgcacheCache(cache)
    for timeout in (10**20, 10**400, 0):
        assert ours.set("k", 1, timeout)
        assert cache.get_with_ttl("bytes", "cachelib:k")[1] == NEVER
    assert ours.set("k", 1, True)
    assert ours.get("k") == 1
    assert not ours.add("k", 2, -1)
    assert ours.set("k", 1, -1)
    assert ours.get("k") is None
    assert ours.add("k", 2, timedelta(seconds=-5))
    assert ours.set_many({"k": 1, "l": 2}, -1) == ["k", "l"]
    assert ours.inc("none") == 1
    assert PgcacheCache(cache, -1).inc("k") == 1
    assert cache.keys("bytes") == ["cachelib:none"]


def test_a_cache_has_its_own_options(cache: Cache) -> None:
    with pytest.raises(TypeError, match="tenant"):
        PgcacheCache(cache, tenant="acme")


def test_what_cannot_be_deleted(dsn: str, cache: Cache) -> None:
    PgcacheCache(cache).set("k", 1)
    reader = PgcacheCache(make_conninfo(dsn, options="-c default_transaction_read_only=on"))
    assert reader.get("k") == 1
    assert reader.delete_many("k", "none") == []
    assert not reader.set("k", 2, -1)
    reader.ignore_delete_many_errors = False
    with pytest.raises(RuntimeError, match="k"):
        reader.delete_many("k")
    assert PgcacheCache(cache).delete_many("k", "none") == ["k", "none"]
    reader.cache.close()


def test_tenants(dsn: str) -> None:
    acme, other = (PgcacheCache(dsn, tenant=tenant) for tenant in ("acme", "other"))
    acme.set("k", "theirs")
    assert other.get("k") is None
    assert not other.clear()
    assert acme.get("k") == "theirs"
    for each in (acme, other):
        each.cache.close()


def test_without_the_cache() -> None:
    ours = PgcacheCache(NOWHERE)
    assert [ours.get("k"), ours.get_many("k", "l"), ours.has("k")] == [None, [None, None], False]
    assert [ours.set("k", 1), ours.add("k", 1), ours.set_many({"k": 1}), ours.delete("k")] == [False, False, [], False]
    assert [ours.inc("k"), ours.dec("k"), ours.clear()] == [None, None, False]
    assert [ours.delete_many("k", "l"), ours.delete_many("k")] == [[], []]
    ours = PgcacheCache(NOWHERE, ignore_delete_many_errors=False)
    for _ in range(2):  # when the server is left alone, too
        with pytest.raises(RuntimeError, match="k"):
            ours.delete_many("k")
    with pytest.raises(UnavailableError):
        PgcacheCache(NOWHERE, fail_soft=False).get("k")


def app_of(**config: Any) -> flask.Flask:
    app = flask.Flask("app")
    app.config.update(TESTING=True, SECRET_KEY="secret", **config)
    return app


def test_flask_caching(dsn: str, cache: Cache) -> None:
    """Two applications, in one type."""
    computed: list[Any] = []
    for name in ("shop", "blog"):
        app = app_of(CACHE_TYPE=FLASK_CACHING, CACHE_ARGS=[dsn], CACHE_KEY_PREFIX=f"{name}:")
        caching = flask_caching.Cache(app)

        @app.route("/")
        @caching.cached(timeout=60)
        def page(name: str = name) -> str:
            computed.append(name)
            return f"the {name}"

        @caching.memoize()
        def double(number: int) -> int:
            computed.append(number)
            return 2 * number

        with app.test_client() as client, app.app_context():
            assert [client.get("/").text for _ in range(2)] == [f"the {name}"] * 2
            assert [double(4), double(4)] == [8, 8]
            caching.delete_memoized(double)
            assert double(4) == 8
            assert caching.cache.default_timeout == 300
            assert caching.delete_many("view//")
            assert client.get("/").text == f"the {name}"
        assert computed == [name, 4, 4, name]
        computed.clear()
        assert cache.count("bytes", f"cachelib:{name}:") > 0
        if name == "blog":
            assert caching.clear()
            assert cache.count("bytes", "cachelib:blog:") == 0
            assert cache.count("bytes", "cachelib:shop:") > 0
        caching.cache.cache.close()


def test_flask_cachings_options(dsn: str) -> None:
    options = {"key_prefix": "mine:", "tenant": "acme", "fail_soft": False}
    app = app_of(CACHE_TYPE=FLASK_CACHING, CACHE_ARGS=[dsn], CACHE_OPTIONS=options, CACHE_SERIALIZER=JSONSerializer())
    with app.app_context():
        caching = flask_caching.Cache(app)
        caching.set("k", [1])
        ours = caching.cache
        assert ours.cache.get_bytes("bytes", "cachelib:mine:k") == b"[1]"
        assert (ours.cache.tenant, caching.get("k")) == ("acme", [1])
        ours.cache.close()


def test_flask_session(cache: Cache) -> None:
    app = app_of(
        SESSION_TYPE="cachelib", SESSION_CACHELIB=PgcacheCache(cache), PERMANENT_SESSION_LIFETIME=timedelta(hours=1)
    )
    Session(app)

    @app.route("/<word>")
    def say(word: str) -> str:
        flask.session["said"] = [*flask.session.get("said", []), word]
        return " ".join(flask.session["said"])

    @app.route("/forget/all")
    def forget() -> str:
        flask.session.clear()
        return ""

    client, other = app.test_client(), app.test_client()
    assert [client.get("/hello").text, client.get("/world").text] == ["hello", "hello world"]
    assert other.get("/bye").text == "bye"
    assert cache.count("bytes", "cachelib:session:") == 2
    left = cache.ttl("bytes", cache.keys("bytes")[0])
    assert left is not None
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    client.get("/forget/all")
    assert cache.count("bytes") == 1
    assert client.get("/again").text == "again"
