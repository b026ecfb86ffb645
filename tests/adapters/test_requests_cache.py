"""requests-cache: its own suites for backends, with a server of HTTP on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from requests_cache import CachedSession
from requests_cache.models import CachedResponse

from pgcache_py import NEVER, Cache
from pgcache_py.adapters.requests_cache import PgcacheCache, PgcacheStorage
from tests.adapters.suites import suite
from tests.tools.waiting import at_once

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
STORAGES: Any = suite("requests-cache", "integration.base_storage_test").BaseStorageTest
CACHES: Any = suite("requests-cache", "integration.base_cache_test").BaseCacheTest


@pytest.fixture(scope="module", autouse=True)
def url(httpbin: Any) -> str:
    """Of the server, of which the suite asks the environment."""
    os.environ["HTTPBIN_URL"] = httpbin.url
    return str(httpbin.url)


@pytest.fixture(scope="module", autouse=True)
def ours(shared_dsn: str) -> Iterator[Cache]:
    """Where the suites have their entries."""
    with Cache(shared_dsn) as cache:
        TestStorage.init_kwargs = {"cache": cache}
        TestCache.init_kwargs = {"source": shared_dsn, "fail_soft": False}
        yield cache


class TestStorage(STORAGES):
    storage_class = PgcacheStorage


class TestCache(CACHES):
    backend_class = PgcacheCache


@pytest.fixture
def session(dsn: str) -> Iterator[CachedSession]:
    with CachedSession(backend=PgcacheCache(source=dsn)) as session:
        yield session


def storage(cache: Cache, name: str = "responses", **options: Any) -> Any:
    return PgcacheStorage("http_cache", name, cache, **options)


def test_as_users_make_it(session: CachedSession, url: str) -> None:
    responses = [session.get(f"{url}/bytes/1000") for _ in range(2)]
    assert [response.from_cache for response in responses] == [False, True]
    assert responses[0].content == responses[1].content
    session.cache.clear()
    assert not session.get(f"{url}/bytes/1000").from_cache


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
def test_serializers(dsn: str, url: str, serializer: str) -> None:
    with CachedSession(backend=PgcacheCache(source=dsn, serializer=serializer)) as session:
        responses = [session.get(f"{url}/encoding/utf8") for _ in range(2)]
        assert [response.from_cache for response in responses] == [False, True]
        assert responses[0].content == responses[1].content


def test_for_how_long(dsn: str, url: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        backend = PgcacheCache(source=connection, ttl_offset=500)
        with CachedSession(backend=backend, expire_after=60) as session:
            session.get(f"{url}/get")
            session.get(f"{url}/headers", expire_after=-1)
            left = [backend.cache.get_with_ttl("bytes", key)[1] for key in backend.cache.keys("bytes")]
            (limited,) = (ttl for ttl in left if isinstance(ttl, timedelta))
            assert timedelta(seconds=550) < limited <= timedelta(seconds=560)
            assert NEVER in left


@pytest.mark.parametrize("key", ["", "k" * 3000, "nul \0", "\ud800", "~" + "0" * 64, "%_' \" é", "a:b"])
def test_any_key(dsn: str, key: str) -> None:
    with Cache(dsn) as cache:
        both = [storage(cache, name) for name in ("responses", "redirects")]
        for number, each in enumerate(both):
            each[key] = number
        assert [(each[key], key in each, len(each)) for each in both] == [(0, True, 1), (1, True, 1)]
        both[0].bulk_delete([key, "none"])
        assert key not in both[0]
        assert both[1][key] == 1
        del both[1][key]
        assert not both[1]


def test_other_keys_are_none_of_it(dsn: str) -> None:
    with Cache(dsn) as cache:
        cache.set_bytes("bytes", "another program's", b"x")
        named = PgcacheStorage("http_cachf", "responses", cache)
        mine = storage(cache)
        named["k"] = mine["k"] = "value"
        mine["100%"] = "other"
        assert dict(mine.items()) == {"k": "value", "100%": "other"}
        mine.clear()
        assert (list(mine), list(named), cache.count("bytes")) == ([], ["k"], 2)


@pytest.mark.parametrize("stored", [b"no pickle", b"", 7])
def test_what_is_no_value_of_ours_is_none(session: CachedSession, url: str, stored: Any) -> None:
    session.get(f"{url}/get")
    (key,) = session.cache.cache.keys("bytes")
    session.cache.cache.set_bytes("bytes", key, stored)
    assert not session.get(f"{url}/get").from_cache
    assert session.get(f"{url}/get").from_cache


def test_without_the_cache_requests_are_sent(url: str) -> None:
    with CachedSession(backend=PgcacheCache(source=NOWHERE)) as session:
        assert [session.get(f"{url}/redirect/2").from_cache for _ in range(2)] == [False, False]
        assert list(session.cache.responses) == list(session.cache.responses.values()) == []
        session.cache.clear()
        session.cache.delete(expired=True)


def test_mistyped_arguments(dsn: str) -> None:
    with pytest.raises(TypeError, match="source="):
        PgcacheCache(NOWHERE)
    with pytest.raises(TypeError, match="tennant"):
        PgcacheCache(source=dsn, tennant="acme")


def test_tenants(dsn: str) -> None:
    acme, other = (PgcacheCache(source=dsn, tenant=tenant) for tenant in ("acme", "other"))
    acme.responses["k"] = CachedResponse(status_code=404)
    assert "k" not in other.responses
    other.clear()
    assert acme.get_response("k").status_code == 404
    for each in (acme, other):
        each.close()


def test_a_type_of_its_own(dsn: str, url: str) -> None:
    with Cache(dsn) as cache:
        cache.create_type("http", bytes=True, max_entries=100)
        session = CachedSession(backend=PgcacheCache(source=cache, type="http"))
        session.get(f"{url}/get")
        assert (cache.count("http"), cache.count("bytes")) == (1, 0)


def test_threads(session: CachedSession, url: str) -> None:
    session.get(f"{url}/get")
    found = at_once(*[lambda: session.get(f"{url}/get").from_cache] * 8)
    assert found == [True] * 8
