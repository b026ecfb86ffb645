"""LangGraph: what its own tests ask of its caches, written for this one, and whole graphs."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langgraph.cache.base import FullKey
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy
from psycopg_pool import ConnectionPool

from pgcache_py import Cache
from pgcache_py.adapters.langgraph import PgcacheCache

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
A: FullKey = (("graph", "a"), "k")
B: FullKey = (("graph", "b"), "k")
BELOW: FullKey = (("graph", "a", "below"), "k")
WHOLE: FullKey = ((), "k")


@dataclass
class World:
    """A cache by its plain calls, or by those of coroutines."""

    cache: PgcacheCache
    awaited: bool

    def get(self, *keys: FullKey) -> dict[FullKey, Any]:
        return asyncio.run(self.cache.aget(keys)) if self.awaited else self.cache.get(keys)

    def set(self, values: dict[FullKey, Any], ttl: int | None = None) -> None:
        pairs = {key: (value, ttl) for key, value in values.items()}
        if self.awaited:
            asyncio.run(self.cache.aset(pairs))
        else:
            self.cache.set(pairs)

    def clear(self, *namespaces: tuple[str, ...]) -> None:
        if self.awaited:
            asyncio.run(self.cache.aclear(namespaces or None))
        else:
            self.cache.clear(namespaces or None)


@pytest.fixture(params=["plain", "awaited"])
def make(request: pytest.FixtureRequest) -> Callable[..., World]:
    return lambda *args, **options: World(PgcacheCache(*args, **options), request.param == "awaited")


@pytest.fixture
def world(dsn: str, make: Callable[..., World]) -> Iterator[World]:
    with Cache(dsn) as ours:
        yield make(ours)


def test_what_was_set_is_got(world: World) -> None:
    world.set({A: {"result": 42}})
    assert world.get(A) == {A: {"result": 42}}
    assert world.get(A, B) == {A: {"result": 42}}
    world.set({A: None})
    assert world.get(A) == {A: None}, "a value that is None is no miss"


def test_many_at_once(world: World) -> None:
    values = {A: 1, B: [2.5, None], BELOW: "three", WHOLE: b"\0four"}
    world.set(values)
    assert world.get(*values) == values


def test_nothing_at_once(world: World) -> None:
    world.set({})
    assert world.get() == {}


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, tzinfo=timezone.utc),
        {1: [{2}, None], "text": "\0é", "many": list(range(100_000))},
        [["writes", {"messages": ["x" * 1000] * 100}]],
        b"",
        "",
    ],
)
def test_values_come_back_as_they_were(world: World, value: Any) -> None:
    world.set({A: value})
    assert world.get(A) == {A: value}


def test_a_time_to_live(dsn: str, make: Callable[..., World]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        world = make(Cache(connection))
        for key, ttl in ((A, 60), (B, None), (BELOW, 120)):
            world.set({key: ttl}, ttl)
        connection.execute("SELECT set_config('pgcache.clock', (now() + '61 s')::text, false)")
        assert world.get(A, B, BELOW) == {B: None, BELOW: 120}
        connection.execute("SELECT set_config('pgcache.clock', (now() + '100 years')::text, false)")
        assert world.get(A, B, BELOW) == {B: None}


def test_namespaces_do_not_mix(world: World) -> None:
    keys: list[FullKey] = [
        (("a", "b"), "k"),
        (("ab",), "k"),
        (("a",), "bk"),
        (("a", "b", "k"), ""),
        (("a:b",), "k"),
        (("a",), "b:k"),
        ((), "a:b:k"),
        (("",), "k"),
    ]
    world.set({key: number for number, key in enumerate(keys)})
    assert world.get(*keys) == {key: number for number, key in enumerate(keys)}


def test_clear(world: World) -> None:
    world.cache.cache.set_bytes("bytes", "another program's", b"x")
    world.set({A: 1, B: 2, BELOW: 3, WHOLE: 4})
    world.clear(A[0])
    assert world.get(A, B, BELOW, WHOLE) == {B: 2, BELOW: 3, WHOLE: 4}, "those below it are others"
    world.clear(B[0], WHOLE[0], ("none",))
    assert world.get(A, B, BELOW, WHOLE) == {BELOW: 3}
    world.clear()
    assert world.get(A, B, BELOW, WHOLE) == {}
    assert world.cache.cache.count("bytes") == 1


@pytest.mark.parametrize("text", ["", "k" * 3000, "nul \0", "\ud800", "~" + "0" * 64, "%_' \" é", "a:b"])
def test_any_key(world: World, text: str) -> None:
    key, other = (("graph", "a"), text), (("graph", "a"), text + "2")
    world.set({key: 1, other: 2})
    assert world.get(key, other) == {key: 1, other: 2}
    world.clear(key[0])
    assert world.get(key, other) == {}


@pytest.mark.parametrize("stored", [b"", b"no kind", b"msgpack:\xc1", b"\xff:", b"none:of:these", 7])
def test_what_is_no_value_of_ours_is_a_miss(world: World, stored: Any) -> None:
    world.set({A: 1, B: 2})
    (key,) = (
        key for key in world.cache.cache.keys("bytes") if world.cache.cache.get_bytes("bytes", key).endswith(b"\1")
    )
    world.cache.cache.set_bytes("bytes", key, stored)
    assert world.get(A, B) == {B: 2}


def test_without_the_cache_all_is_a_miss(make: Callable[..., World]) -> None:
    world = make(NOWHERE)
    world.set({A: 1})
    assert world.get(A) == {}
    world.clear()


def test_tenants(dsn: str, make: Callable[..., World]) -> None:
    acme, other = (make(dsn, tenant=tenant) for tenant in ("acme", "other"))
    acme.set({A: "theirs"})
    assert other.get(A) == {}
    other.clear()
    assert acme.get(A) == {A: "theirs"}
    for each in (acme, other):
        each.cache.cache.close()


def test_a_type_of_its_own(world: World, make: Callable[..., World]) -> None:
    world.cache.cache.create_type("nodes", bytes=True, ttl="1 day")
    nodes = make(world.cache.cache, type="nodes")
    nodes.set({A: 1})
    assert (world.get(A), nodes.get(A)) == ({}, {A: 1})
    (entry,) = world.cache.cache.scan("nodes")
    assert entry.ttl is not None, "where the policy has no ttl, that of the type holds"


# Whole graphs.


class State(TypedDict):
    question: str
    words: Annotated[list[str], operator.add]


def graph(cache: PgcacheCache, ran: list[str], ttl: int | None = None) -> Any:
    """Two nodes, one after the other, of which the first is cached."""

    def slow(state: State) -> dict[str, list[str]]:
        ran.append(f"slow {state['question']}")
        return {"words": ["slow", state["question"]]}

    def quick(state: State) -> dict[str, list[str]]:
        ran.append("quick")
        return {"words": ["quick"]}

    made = StateGraph(State)
    made.add_node("slow", slow, cache_policy=CachePolicy(ttl=ttl))
    made.add_node("quick", quick)
    made.add_edge(START, "slow")
    made.add_edge("slow", "quick")
    return made.compile(cache=cache)


def test_a_node_runs_once(world: World) -> None:
    ran: list[str] = []
    compiled = graph(world.cache, ran, ttl=3600)

    def run(question: str) -> list[str]:
        given: Any = {"question": question, "words": []}
        found = asyncio.run(compiled.ainvoke(given)) if world.awaited else compiled.invoke(given)
        return list(found["words"])

    assert [run("a"), run("a"), run("b")] == [["slow", "a", "quick"]] * 2 + [["slow", "b", "quick"]]
    assert sorted(ran) == ["quick", "quick", "quick", "slow a", "slow b"]
    assert world.cache.cache.count("bytes", "langgraph:") == 2
    if world.awaited:
        asyncio.run(compiled.aclear_cache())
    else:
        compiled.clear_cache()
    assert world.cache.cache.count("bytes") == 0
    run("a")
    assert ran.count("slow a") == 2


@pytest.mark.parametrize("ttl", [0, -5, -1e20])
def test_what_expires_at_once_is_not_kept(dsn: str, ttl: Any) -> None:
    with Cache(dsn) as source:
        cache = PgcacheCache(source)
        key, other = (("a",), "k"), (("a",), "other")
        cache.set({key: ("old", None)})
        cache.set({key: ("new", ttl), other: ("other", 10**20)})
        assert cache.get([key, other]) == {other: "other"}


def test_any_namespace(dsn: str) -> None:
    with Cache(dsn) as source:
        cache = PgcacheCache(source)
        names = [("a\ud800",), ("a\ud801",), ("",), ("a\0",), ("a" * 2000,), ("a", "b"), ("ab",)]
        cache.set({(name, "k"): (number, 60) for number, name in enumerate(names)})
        assert list(cache.get([(name, "k") for name in names]).values()) == list(range(len(names)))
        cache.clear([names[0]])
        assert len(cache.get([(name, "k") for name in names])) == len(names) - 1


def test_without_the_cache_nodes_run() -> None:
    ran: list[str] = []
    compiled = graph(PgcacheCache(NOWHERE), ran)
    for _ in range(2):
        assert compiled.invoke({"question": "a", "words": []})["words"] == ["slow", "a", "quick"]
    assert ran.count("slow a") == 2


@pytest.mark.parametrize("pooled", [False, True])
def test_event_loops_in_two_threads(dsn: str, pooled: bool) -> None:
    with ExitStack() as stack:
        source: Any = stack.enter_context(ConnectionPool(dsn, min_size=0, max_size=3) if pooled else Cache(dsn))
        in_two_threads(PgcacheCache(source))


def in_two_threads(cache: PgcacheCache) -> None:
    ran: list[str] = []
    found: list[list[str]] = []
    compiled = graph(cache, ran)
    compiled.invoke({"question": "a", "words": []})

    async def run() -> None:
        results = await asyncio.gather(*(compiled.ainvoke({"question": "a", "words": []}) for _ in range(20)))
        found.extend(each["words"] for each in results)

    threads = [threading.Thread(target=asyncio.run, args=(run(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [["slow", "a", "quick"]] * 40
    assert ran.count("slow a") == 1
