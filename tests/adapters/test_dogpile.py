"""dogpile.cache: its own suites for backends, mutexes and serializers, and processes that compute together."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import psycopg
import pytest
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE
from dogpile.cache.region import CacheRegion
from dogpile.testing.fixtures import _GenericBackendTestSuite, _GenericMutexTestSuite, _GenericSerializerTestSuite
from psycopg.conninfo import make_conninfo

from pgcache_py import Cache, InvalidTTLError, InvalidValueError, UnavailableError
from tests.tools.session import user
from tests.tools.waiting import Background

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


class Configured:
    backend = "pgcache"
    config_args: ClassVar[Any] = {"arguments": {"source": NOWHERE}}

    @pytest.fixture(autouse=True)
    def arguments(self, dsn: str) -> Iterator[None]:
        with Cache(dsn) as cache:
            type(self).config_args = {"arguments": {"source": cache}}
            yield
            self.teardown()

    def teardown(self) -> None:
        """What the suite does after it, when there is no database any more."""
        self.teardown_method(None)  # type: ignore[attr-defined]
        self._region_inst = self._backend_inst = None


class TestBackend(Configured, _GenericBackendTestSuite):
    pass


class TestSerializer(_GenericSerializerTestSuite, TestBackend):
    pass


class TestMutex(Configured, _GenericMutexTestSuite):
    pass


@pytest.fixture
def cache(dsn: str) -> Iterator[Cache]:
    with Cache(dsn) as cache:
        yield cache


def region_of(source: Any, **arguments: Any) -> CacheRegion:
    return make_region().configure("pgcache", expiration_time=3600, arguments={"source": source, **arguments})


def test_values_are_bytes_of_the_type_that_is_named(cache: Cache) -> None:
    cache.create_type("pages", bytes=True, ttl="1 hour")
    region = region_of(cache, type="pages", ttl=60)
    region.set("k", {"a": (1, "é")})
    assert region.get("k") == {"a": (1, "é")}
    assert isinstance(cache.get_bytes("pages", "dogpile:k"), bytes)
    left = cache.ttl("pages", "dogpile:k")
    assert left is not None
    assert 50 < left.total_seconds() <= 60
    assert cache.count("bytes") == 0


@pytest.mark.parametrize("key", ["", "\0", "\ud800", "'\"\\%", "é" * 1000, "dogpile-lock:k", "~" + "0" * 64])
def test_keys(cache: Cache, key: str) -> None:
    region = region_of(cache)
    region.set(key, "one")
    region.set_multi({key: "two", "other": 3})
    assert region.get_multi([key, "none", "other"]) == ["two", NO_VALUE, 3]
    assert region.get_or_create(key, lambda: "another") == "two"
    region.delete(key)
    assert region.get_or_create(key, lambda: "computed") == "computed"
    region.delete_multi([key, "other"])
    assert cache.count("bytes") == 0, "neither values nor locks are left"


@pytest.mark.parametrize(
    "foreign",
    [b"garbage", b"", b"[1]|x", b'{"ct": 1, "v": 1}|x', b'dogpile:{"ct": 1, "v": 1}|garbage', b"dogpile", 5],
)
def test_what_cannot_be_read_is_a_miss(cache: Cache, foreign: bytes | int) -> None:
    cache.set_bytes("bytes", "dogpile:k", foreign)
    region = region_of(cache)
    assert region.get("k") is NO_VALUE
    assert region.get_multi(["k"]) == [NO_VALUE]
    assert region.get_or_create("k", lambda: "computed") == "computed"
    assert region.get("k") == "computed"


@pytest.mark.parametrize("seconds", [0, -1, 4000, float("nan"), None, "30"])
def test_a_time_for_which_no_lock_is_held(cache: Cache, seconds: Any) -> None:
    with pytest.raises(InvalidTTLError):
        region_of(cache, lock_timeout=seconds)


def test_mistyped_arguments_are_logged(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    region_of(dsn, tenant="acme")
    assert not caplog.records
    region_of(dsn, tennant="acme")
    assert "tennant" in caplog.text


def test_tenants(dsn: str) -> None:
    ours, theirs = region_of(dsn, tenant="ours"), region_of(dsn, tenant="theirs")
    ours.set("k", 1)
    assert theirs.get("k") is NO_VALUE
    first, second = ours.backend.get_mutex("k"), theirs.backend.get_mutex("k")
    assert first.acquire(False)
    assert second.acquire(False), "nor do they wait for each other"
    assert [first.locked(), ours.backend.get_mutex("other").locked()] == [True, False]
    for region in (ours, theirs):
        region.backend.cache.close()


PROCESS = """
import pathlib, sys, time
from dogpile.cache import make_region
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
region = make_region().configure("pgcache", arguments={"source": sys.argv[3]})

def compute():
    with (folder / "computed").open("a") as file:
        print(name, file=file)
    while len(list(folder.glob("asking-*"))) < 4:
        time.sleep(0.01)
    return "the value"

(folder / f"asking-{name}").touch()
print(region.get_or_create("k", compute))
"""


def test_of_many_processes_one_computes(dsn: str, tmp_path: Any) -> None:
    """It goes on until all have asked."""
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(number), str(tmp_path), dsn], stdout=subprocess.PIPE)
        for number in range(4)
    ]
    assert [process.communicate(timeout=60)[0] for process in processes] == [b"the value\n"] * 4
    assert len((tmp_path / "computed").read_text().splitlines()) == 1


def test_the_lock_of_who_dies_ends(dsn: str) -> None:
    with Cache(dsn) as now, Cache(make_conninfo(dsn, options="-c pgcache.clock=2100-01-01")) as later:
        assert region_of(now).backend.get_mutex("k").acquire()
        assert not region_of(now).backend.get_mutex("k").acquire(False)
        mutex = region_of(later).backend.get_mutex("k")
        assert mutex.acquire(False)
        mutex.release()


def test_who_comes_too_late_does_not_release_the_lock_of_another_one(dsn: str) -> None:
    with Cache(dsn) as now, Cache(make_conninfo(dsn, options="-c pgcache.clock=2100-01-01")) as later:
        late = region_of(now).backend.get_mutex("k")
        late.acquire()
        assert (mutex := region_of(later).backend.get_mutex("k")).acquire(False)
        late.release()
        assert mutex.locked()


def test_who_waits_gets_the_lock(dsn: str) -> None:
    with Cache(dsn) as first, Cache(dsn) as second:
        held = region_of(first).backend.get_mutex("k")
        held.acquire()
        waiting = region_of(second).backend.get_mutex("k")
        others = Background(waiting.acquire)
        assert others.is_alive()
        held.release()
        assert others.result() is True
        assert held.locked()


def test_while_one_renews_the_others_use_the_old_value(cache: Cache) -> None:
    region = region_of(cache)
    region.set("k", "old")
    region.invalidate(hard=False)
    asked, renewed = threading.Event(), threading.Event()

    def renew() -> str:
        asked.set()
        renewed.wait(30)
        return "new"

    first = Background(lambda: region.get_or_create("k", renew))
    assert asked.wait(30)
    assert region.get_or_create("k", lambda: "not computed") == "old"
    renewed.set()
    assert first.result() == "new"
    assert region.get("k") == "new"


def test_without_the_cache_all_compute() -> None:
    region = region_of(NOWHERE)
    assert region.get_or_create("k", lambda: "computed") == "computed"
    assert region.get_or_create_multi(["a", "b"], lambda *keys: list(keys)) == ["a", "b"]
    assert not region.key_is_locked("k")
    region.delete("k")
    with pytest.raises(UnavailableError):
        region_of(NOWHERE, fail_soft=False).get("k")


def test_a_type_of_other_values_is_refused(cache: Cache) -> None:
    with pytest.raises(InvalidValueError, match="not bytes"):
        region_of(cache, type="store").set("k", 1)


def test_a_role_that_may_only_read_computes(cache: Cache, dsn: str, new_role: Callable[[str], str]) -> None:
    reader = new_role(dsn)
    with psycopg.connect(dsn) as owner:
        owner.execute("SELECT pgcache.cache_grant(%s, 'read')", [user(reader)])
    region = region_of(reader)
    assert region.get_or_create("k", lambda: "computed") == "computed"
    assert region.get("k") is NO_VALUE
    region_of(cache).set("k", "theirs")
    assert region.get_or_create("k", lambda: "computed") == "theirs"
    region.backend.cache.close()


@pytest.mark.parametrize("mode", ["READ COMMITTED", "REPEATABLE READ"])
def test_over_a_connection_in_a_transaction(dsn: str, mode: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {mode}".encode())
        region = region_of(Cache(connection))
        assert [region.get_or_create("k", lambda number=number: number) for number in range(2)] == [0, 0]
        connection.rollback()
        assert region.get("k") is NO_VALUE
        assert region.get_or_create("k", lambda: "another") == "another"
