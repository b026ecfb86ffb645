"""What a process keeps, without a server: what is returned, what goes, what is not kept."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from pgcache_py.client.near import store as module
from pgcache_py.client.near.calls import Nearby
from pgcache_py.client.near.store import Near, Store
from pgcache_py.client.wire import MISS
from pgcache_py.errors import InvalidSettingError

pytestmark = pytest.mark.once


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its first item is the time."""
    moment = [1000.0]
    monkeypatch.setattr(module, "now", lambda: moment[0])
    return moment


def make(clock: list[float], **limits: Any) -> Store:
    store = Store(Near(**limits))
    store.vouch(["store"], clock[0])
    return store


def keep(
    store: Store, clock: list[float], key: str, value: Any, *, ttl: float = math.inf, tenant: str | None = None
) -> None:
    loads = store.begin(tenant, "store", [key])
    assert loads
    store.end(loads, {key: Nearby(value, ttl, True, tenant or "")}, clock[0])


@pytest.mark.parametrize("value", [None, True, 0, -1.5, 10**30, "", "ü", [], {}, [None, {"a": [1, {"b": ""}]}]])
def test_a_value_comes_back_as_it_was(clock: list[float], value: Any) -> None:
    store = make(clock)
    keep(store, clock, "k", value)
    found = store.read(None, "store", "k")
    assert (found, type(found)) == (value, type(value))


def test_who_gets_a_value_may_change_it(clock: list[float]) -> None:
    store = make(clock)
    keep(store, clock, "k", {"a": [1]})
    store.read(None, "store", "k")["a"].append(2)
    assert store.read(None, "store", "k") == {"a": [1]}


def test_nothing_is_returned_but_while_somebody_vouches(clock: list[float]) -> None:
    store = make(clock, max_staleness=2.0)
    keep(store, clock, "k", 1)
    clock[0] += 1.999
    assert store.read(None, "store", "k") == 1
    clock[0] += 0.001
    assert store.read(None, "store", "k") is MISS
    assert store.begin(None, "store", ["k"]) == []
    store.vouch(["store"], clock[0] - 1)
    assert store.read(None, "store", "k") == 1


def test_a_read_that_a_poll_overtakes(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has heard of a change does not vouch for what was found before it."""
    store = make(clock)
    keep(store, clock, "k", 1)
    clock[0] += 5

    def overtaken() -> float:
        store.changed("store", "k", [None])
        store.vouch(["store"], clock[0])
        return clock[0]

    monkeypatch.setattr(module, "now", overtaken)
    assert store.read(None, "store", "k") is MISS


def test_what_has_expired_is_not_returned(clock: list[float]) -> None:
    store = make(clock, max_staleness=10)
    keep(store, clock, "k", 1, ttl=5)
    clock[0] += 4.999
    assert store.read(None, "store", "k") == 1
    clock[0] += 0.001
    assert store.read(None, "store", "k") is MISS


def test_a_value_that_has_changed_on_its_way_is_not_kept(clock: list[float]) -> None:
    store = make(clock)
    answer = {"k": Nearby(1, math.inf, True, "")}
    for change in (
        lambda: store.changed("store", "k", [None]),
        lambda: store.clear("store"),
        lambda: store.clear(),
    ):
        loads = store.begin(None, "store", ["k"])
        assert loads
        change()
        store.end(loads, answer, clock[0])
        assert store.read(None, "store", "k") is MISS
    loads = store.begin(None, "store", ["k"])
    assert loads
    store.changed("store", "k", ["other"])
    store.changed("store", "l", [None])
    store.clear("another")
    store.end(loads, answer, clock[0])
    assert store.read(None, "store", "k") == 1


def test_of_many_those_are_kept_that_have_not_changed(clock: list[float]) -> None:
    store = make(clock)
    keep(store, clock, "a", 0)
    assert store.read_many(None, "store", "abcd") == ({"a": 0}, ["b", "c", "d"])
    loads = store.begin(None, "store", ["b", "c", "d"])
    again = store.begin(None, "store", ["c"])
    store.changed("store", "b", [None])
    store.end(loads, {key: Nearby(key, math.inf, True, "") for key in "bc"}, clock[0])
    assert store.read_many(None, "store", "abcd") == ({"a": 0, "c": "c"}, ["b", "d"])
    store.changed("store", "c", [None])
    store.end(again, {"c": Nearby("old", math.inf, True, "")}, clock[0])
    assert store.read_many(None, "store", "abcd") == ({"a": 0}, ["b", "c", "d"])
    assert not store._loads


def test_what_may_not_be_kept(clock: list[float]) -> None:
    store = make(clock, max_bytes=8000)
    assert store.begin(None, "llm", ["k"]) == []
    for found in (Nearby(MISS, 0, False, ""), Nearby(1, 9, False, ""), Nearby("x" * 1000, 9, True, "")):
        loads = store.begin(None, "store", ["k"])
        assert loads
        store.end(loads, {"k": found}, clock[0])
        assert (len(store), store.bytes) == (0, 0)


def test_tenants_are_apart(clock: list[float]) -> None:
    store = make(clock)
    keep(store, clock, "k", "a", tenant="acme")
    assert store.read("other", "store", "k") is MISS
    assert store.read(None, "store", "k") is MISS
    assert store.read("acme", "store", "k") == "a"


@pytest.mark.parametrize("key", [["a"], {}, None, 5])
def test_what_is_no_key(clock: list[float], key: Any) -> None:
    assert make(clock).read(None, "store", key) is MISS


def test_what_is_wanted_is_forgotten_in_time(clock: list[float]) -> None:
    store = make(clock, max_entries=2, max_staleness=1)
    store.want(None, "store", "a")
    store.want(None, "llm", "a")
    wanted = [store.wanted(tenant, type, "a") for tenant, type in ((None, "store"), ("acme", "store"), (None, "llm"))]
    assert wanted == [True, False, False]
    for key in "bcd":
        store.want(None, "store", key)
    assert [store.wanted(None, "store", key) for key in "abcd"] == [True] * 4
    store.want(None, "store", "e")
    assert [store.wanted(None, "store", key) for key in "abcde"] == [False, False, True, True, True]
    clock[0] += 1
    assert not store.wanted(None, "store", "e"), "nobody vouches"


def test_limits_hold_and_what_is_read_stays(clock: list[float]) -> None:
    store = make(clock, max_entries=100)
    for number in range(100):
        keep(store, clock, str(number), number)
    for round in range(20):
        for number in range(50):
            assert store.read(None, "store", str(number)) == number
        for number in range(30):
            keep(store, clock, f"new {round} {number}", number)
        assert len(store) == 100
    store.clear()
    assert (len(store), store.bytes) == (0, 0)


def test_bytes_are_counted(clock: list[float]) -> None:
    store = make(clock, max_bytes=100_000)
    for number in range(1000):
        keep(store, clock, str(number), ["x" * 500])
        assert store.bytes <= 100_000
    assert 80 < len(store) < 100


def test_reads_are_told_once(clock: list[float]) -> None:
    store = make(clock)
    keep(store, clock, "a", 1)
    keep(store, clock, "b", 1, tenant="acme")
    for _ in range(3):
        store.read(None, "store", "a")
    store.read("acme", "store", "b")
    store.read(None, "store", "absent")
    assert store.take_reads() == {("", "store"): {"a": 3}, ("acme", "store"): {"b": 1}}
    assert store.take_reads() == {}
    store.read(None, "store", "a")
    store.changed("store", "a", [None])
    assert store.take_reads() == {("", "store"): {"a": 1}}


def test_many_threads(clock: list[float]) -> None:
    store = make(clock, max_entries=50)
    reads = [0] * 4

    def work(me: int) -> None:
        for number in range(3000):
            key = str(number % 80)
            if store.read(None, "store", key) is MISS:
                keep(store, clock, key, number)
            else:
                reads[me] += 1
            if number % 100 == me:
                store.changed("store", key, [None])

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) <= 50
    assert sum(store.take_reads()[("", "store")].values()) == sum(reads)


@pytest.mark.parametrize(
    "options",
    [
        {"max_entries": 0},
        {"max_entries": True},
        {"max_entries": 1.5},
        {"max_bytes": -1},
        {"max_staleness": 0},
        {"max_staleness": 11},
        {"max_staleness": float("nan")},
        {"max_staleness": True},
    ],
)
def test_what_is_no_near_cache(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettingError):
        Near(**options)
