"""Django: its own suites for caches and for sessions in caches, over a conninfo and over Django's connection."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import django
import psycopg
import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.signing import JSONSerializer
from django.db import DatabaseError, connections, transaction
from django.test import TestCase, override_settings
from psycopg.conninfo import conninfo_to_dict

from pgcache_py import NEVER, Cache, InvalidTTLError, InvalidValueError, UnavailableError
from tests.adapters.suites import suite
from tests.conftest import fresh_database
from tests.servers import Server
from tests.tools.waiting import at_once

BACKEND = "pgcache_py.adapters.django.PgcacheCache"
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
CONTRIB = ("auth", "contenttypes", "sessions")

# Its tests name their modules as they are called there.
sys.path.append(str(Path(suite("django", "cache").__file__).parents[1]))
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
    INSTALLED_APPS=[*(f"django.contrib.{name}" for name in CONTRIB), "cache", "sessions_tests"],
    MIGRATION_MODULES=dict.fromkeys(CONTRIB),
    ALLOWED_HOSTS=["testserver"],
    SECRET_KEY="secret",
    ROOT_URLCONF="cache.urls",
    USE_TZ=False,
)
django.setup()

CACHE, SESSIONS = import_module("cache.tests"), import_module("sessions_tests.tests")

# As for Django's tests of its Redis backend: the limits are the type's.
NOT_OURS = {"cull", "zero_cull"}
# Of an unittest.TestCase at the top of this module pytest would run the tests without a database.
CASES: dict[str, Any] = {
    "cache": type("CacheTests", (CACHE.BaseCacheTests, TestCase), {}),
    "sessions": SESSIONS.CacheSessionTests,
    "cached_db": SESSIONS.CacheDBSessionTests,
}
# Those of sessions in a cache alone may not use Django's connection.
TESTS = [
    pytest.param(source, case, name, id=f"{case}-{source}-{name}")
    for source, cases in {"conninfo": CASES, "connection": ("cache", "cached_db")}.items()
    for case in cases
    for name in unittest.TestLoader().getTestCaseNames(CASES[case])
]


@pytest.fixture(scope="session")
def django_dsn(server: Server, admin: psycopg.Connection) -> Iterator[str]:
    """The database of Django's connection, with the tables of its applications and with pgcache."""
    with fresh_database(server, admin) as dsn:
        parts = conninfo_to_dict(dsn)
        names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
        connections["default"].settings_dict.update({name: parts.get(part, "") for name, part in names.items()})
        call_command("migrate", run_syncdb=True, verbosity=0)
        yield dsn
        connections.close_all()


@pytest.fixture
def settings_of(django_dsn: str) -> Iterator[Any]:
    """The settings of a cache over a conninfo, or over Django's connection."""
    yield {
        "conninfo": {"BACKEND": BACKEND, "LOCATION": django_dsn},
        "connection": {"BACKEND": BACKEND, "OPTIONS": {"DATABASE": "default"}},
    }
    with Cache(django_dsn) as cache:
        cache.clear("bytes")


@contextmanager
def django_cache(params: dict[str, Any]) -> Iterator[Any]:
    with override_settings(CACHES={"default": params}):
        yield (ours := caches["default"])
        if "LOCATION" in params:
            ours.cache.close()


@pytest.mark.parametrize(("source", "case", "name"), TESTS)
def test_suite(settings_of: Any, source: str, case: str, name: str) -> None:
    of_all = CACHE.caches_setting_for_tests(base=settings_of[source], exclude=NOT_OURS)
    outcome = unittest.TestResult()
    with override_settings(CACHES=of_all):
        unittest.TestSuite([CASES[case](name)]).run(outcome)
        if source == "conninfo":
            caches["default"].cache.close()
    for _, why in outcome.skipped:
        pytest.skip(why)
    assert outcome.testsRun == 1
    errors = "\n".join(text for _, text in (*outcome.errors, *outcome.failures))
    if source == "connection" and "aexists" in errors and "SynchronousOnlyOperation" in errors:
        pytest.skip("Django's session store asks this cache in the event loop, where its connections refuse to work")
    assert not errors


def test_entries_are_bytes_and_numbers(settings_of: Any, django_dsn: str) -> None:
    with django_cache(settings_of["conninfo"] | {"KEY_PREFIX": "shop"}) as ours, Cache(django_dsn) as cache:
        ours.set_many({"page": ["x"], "count": 7, "flag": True, "huge": 2**64}, version=2)
        found = cache.get_many_bytes("bytes", cache.keys("bytes"))
        assert found.keys() == {f"django:shop:2:{key}" for key in ("page", "count", "flag", "huge")}
        assert found["django:shop:2:count"] == 7
        assert ours.get_many(["page", "count", "flag", "huge"], version=2) == {
            "page": ["x"], "count": 7, "flag": True, "huge": 2**64,
        }  # fmt: skip
        assert ours.get("flag", version=2) is True
        with pytest.raises(TypeError, match="no whole number"):
            ours.incr("huge", version=2)


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
def test_clear_leaves_what_is_not_this_caches(settings_of: Any, django_dsn: str) -> None:
    with Cache(django_dsn) as cache, django_cache(settings_of["conninfo"] | {"KEY_PREFIX": "shop"}) as ours:
        cache.set_bytes("bytes", "dogpile:k", b"x")
        for prefix in ("", "shop:1"):
            with django_cache(settings_of["conninfo"] | {"KEY_PREFIX": prefix}) as other:
                other.set("k", "theirs")
        ours.set_many({"k": 1, "k" * 2000: 2})
        ours.set("k", 3, version=2)
        ours.clear()
        assert ours.get_many(["k", "k" * 2000]) == {}
        assert set(cache.keys("bytes")) == {"dogpile:k", "django::1:k", "django:shop%3A1:1:k"}


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
@pytest.mark.parametrize("key", ["", "\0", "\ud800", "'\"\\%", "é" * 1000, "~" + "0" * 64, 7, None])
def test_keys(settings_of: Any, key: Any) -> None:
    with django_cache(settings_of["connection"]) as ours:
        ours.set(key, "value")
        assert ours.get_many([key, "none"]) == {key: "value"}
        assert ours.touch(key, 60)
        assert not ours.add(key, "other")
        assert ours.delete(key)
        assert ours.get(key) is None
        with pytest.raises(ValueError, match="not found"):
            ours.incr(key)


@pytest.mark.parametrize("foreign", [b"garbage", b"", b"\x80\x04c", b"cnowhere\nNothing\n."])
def test_what_cannot_be_read_is_a_miss(settings_of: Any, django_dsn: str, foreign: bytes) -> None:
    with Cache(django_dsn) as cache, django_cache(settings_of["conninfo"]) as ours:
        ours.set("fine", None)
        cache.set_bytes("bytes", "django::1:k", foreign)
        assert ours.get("k", "a miss") == "a miss"
        assert ours.get_many(["k", "fine"]) == {"fine": None}
        assert ours.get_or_set("k", "computed") == "computed"


def test_keys_with_the_same_text(settings_of: Any) -> None:
    with django_cache(settings_of["conninfo"]) as ours:
        ours.set("1", "v")
        assert ours.get_many(iter([1, "1", "2"])) == {1: "v", "1": "v"}


def test_odd_timeouts(settings_of: Any, django_dsn: str) -> None:
    with django_cache(settings_of["conninfo"]) as ours, Cache(django_dsn) as cache:
        ours.set("k", 1, 1e20)
        assert ours.touch("k", 10**400)
        assert cache.get_with_ttl("bytes", "django::1:k")[1] == NEVER
        ours.set("k", 2, True)
        assert ours.get("k") == 2
        ours.set("k", 3, 1e-9)
        assert not ours.has_key("k")


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
@pytest.mark.parametrize("prefix", ["é" * 170, "x" * 2000, "\0"])
def test_a_long_prefix(settings_of: Any, django_dsn: str, prefix: str) -> None:
    with django_cache(settings_of["conninfo"] | {"KEY_PREFIX": prefix}) as ours, Cache(django_dsn) as cache:
        with django_cache(settings_of["conninfo"] | {"KEY_PREFIX": prefix + "x"}) as other:
            other.set("k", "theirs")
        for key in ("k", "k" * 500):
            ours.set(key, key)
            assert ours.get(key) == key
        ours.clear()
        assert ours.get("k") is None
        assert cache.count("bytes") == 1


def test_a_key_function_of_the_users(settings_of: Any, django_dsn: str) -> None:
    def key_of(key: str, prefix: str, version: int) -> str:
        return f"{key}@{version}"

    with Cache(django_dsn) as cache, django_cache(settings_of["conninfo"] | {"KEY_FUNCTION": key_of}) as ours:
        ours.set("k", 1)
        assert (ours.get("k"), cache.keys("bytes")) == (1, ["django::k@1"])
        ours.clear()
        assert ours.get("k") is None


def test_a_set_is_part_of_djangos_transaction(settings_of: Any, django_dsn: str) -> None:
    with Cache(django_dsn) as others, django_cache(settings_of["connection"]) as ours:
        with transaction.atomic():
            ours.set("k", "new")
            assert ours.get("k") == "new"
            assert others.count("bytes") == 0, "nobody sees it before the commit"
        assert others.count("bytes") == 1
        with transaction.atomic():
            ours.delete("k")
            ours.set("other", 1)
            transaction.set_rollback(True)
        assert ours.get_many(["k", "other"]) == {"k": "new"}


def test_an_aborted_transaction(settings_of: Any) -> None:
    with django_cache(settings_of["connection"]) as ours:
        ours.set("k", 1)
        with transaction.atomic(), connections["default"].cursor() as cursor:
            with pytest.raises(DatabaseError), transaction.atomic():
                cursor.execute("SELECT 1 / 0")
            assert ours.get("k") == 1, "after the savepoint"
            with pytest.raises(DatabaseError):
                cursor.execute("SELECT 1 / 0")
            assert ours.get("k", "a miss") == "a miss"
            transaction.set_rollback(True)
        assert ours.get("k") == 1


def test_a_failure_of_the_cache_does_not_abort_djangos_transaction(settings_of: Any) -> None:
    with django_cache(settings_of["connection"]) as ours, transaction.atomic():
        ours.set("k", "value")
        with pytest.raises(TypeError):
            ours.incr("k")
        ours.set("\ud800", 1)
        assert ours.get("k") == "value"


def test_after_django_has_closed_its_connection(settings_of: Any) -> None:
    with django_cache(settings_of["connection"]) as ours:
        ours.set("k", 1)
        connections["default"].close()
        assert ours.get("k") == 1


def test_threads_share_a_connection(settings_of: Any, django_dsn: str) -> None:
    name = "of Django's threads"
    location = psycopg.conninfo.make_conninfo(django_dsn, application_name=name)
    with django_cache(settings_of["conninfo"] | {"LOCATION": location}) as ours:
        ours.set("count", 0)

        def count() -> Any:
            for _ in range(10):
                caches["default"].incr("count")
            return caches["default"]

        assert len(set(map(id, at_once(*[count] * 4)))) == 4, "each has a backend"
        assert ours.get("count") == 40
        with psycopg.connect(django_dsn) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
            assert connection.execute(query, [name]).fetchone() == (1,)


def test_tenants_and_a_type_of_its_own(settings_of: Any, django_dsn: str) -> None:
    with Cache(django_dsn) as cache:
        cache.create_type("pages", bytes=True, exist_ok=True)
        params = settings_of["conninfo"]
        of_type = params | {"OPTIONS": {"type": "pages", "tenant": "acme"}}
        with django_cache(of_type) as ours, override_settings(CACHES={"default": params}):
            ours.set("k", "acme's")
            assert caches["default"].get("k") is None
            assert (cache.count("pages"), cache.for_tenant("acme").count("pages")) == (0, 1)
            ours.clear()
            assert cache.for_tenant("acme").count("pages") == 0


@pytest.mark.parametrize("serializer", ["django.core.signing.JSONSerializer", JSONSerializer()])
def test_another_serializer(settings_of: Any, django_dsn: str, serializer: Any) -> None:
    with (
        Cache(django_dsn) as cache,
        django_cache(settings_of["conninfo"] | {"OPTIONS": {"serializer": serializer}}) as ours,
    ):
        ours.set("k", {"a": [1]})
        assert ours.get("k") == {"a": [1]}
        assert cache.get_bytes("bytes", "django::1:k") == b'{"a":[1]}'


def test_without_the_cache(settings_of: Any) -> None:
    with django_cache({"BACKEND": BACKEND, "LOCATION": NOWHERE}) as ours:
        ours.set("k", 1)
        assert [ours.get("k", "a miss"), ours.get_many(["k"]), ours.has_key("k")] == ["a miss", {}, False]
        assert [ours.add("k", 1), ours.touch("k"), ours.delete("k")] == [False, False, False]
        assert ours.set_many({"k": 1, "other": 2}) == ["k", "other"]
        assert ours.get_or_set("k", lambda: "computed") == "computed"
        with pytest.raises(ValueError, match="not found"):
            ours.incr("k")
        ours.clear()
    strict = {"BACKEND": BACKEND, "LOCATION": NOWHERE, "OPTIONS": {"fail_soft": False}}
    with django_cache(strict) as ours, pytest.raises(UnavailableError):
        ours.get("k")


def test_mistakes_are_told(settings_of: Any) -> None:
    params = settings_of["conninfo"]
    with django_cache(params | {"OPTIONS": {"type": "store"}}) as ours, pytest.raises(InvalidValueError, match="bytes"):
        ours.set("k", "value")
    for options in ({"MAX_ENTRIES": 30}, {"CULL_FREQUENCY": 2}, {"tennant": "acme"}):
        with (
            override_settings(CACHES={"default": params | {"OPTIONS": options}}),
            pytest.raises(ImproperlyConfigured, match=next(iter(options))),
        ):
            caches["default"].get("k")
    with django_cache(params) as ours, pytest.raises(InvalidTTLError):
        ours.set("k", 1, float("nan"))
    for wrong in ({"LOCATION": [params["LOCATION"]]}, {"OPTIONS": {"DATABASE": "default"}}):
        with override_settings(CACHES={"default": params | wrong}), pytest.raises(ImproperlyConfigured, match="one"):
            caches["default"].get("k")
