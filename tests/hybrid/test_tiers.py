"""What each call of the clients means for the hot tier: said where the call is described, and true."""

from __future__ import annotations

import inspect
import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from random import Random
from types import ModuleType
from typing import Any

import psycopg
import pytest

from pgcache_py import Audio, Cache
from pgcache_py.client import calls, typed_calls, wire
from pgcache_py.client._sync import bytes as bytes_module
from pgcache_py.client._sync import cache as cache_module
from pgcache_py.client._sync import once, typed
from pgcache_py.client.calls import SEVERAL, Call, Changes, Place, Reads, Writes, located
from pgcache_py.hybrid._sync import cache as hybrid

pytestmark = pytest.mark.once

MODULES = (calls, typed_calls)
CALLS = {name: call for module in MODULES for name, call in vars(module).items() if isinstance(call, Call)}


def methods(module: ModuleType) -> Iterator[tuple[type, str, set[str]]]:
    """The methods of a module's classes, and the calls that each names."""
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if cls.__module__ == module.__name__:
            for name, method in vars(cls).items():
                if inspect.isfunction(method):
                    named = re.findall(r"\b(?:typed_)?calls\.([A-Z_]+)\b", inspect.getsource(method))
                    yield cls, name, {each for each in named if each in CALLS}


CLIENT = [*methods(cache_module), *methods(bytes_module), *methods(once), *methods(typed)]


def test_a_call_that_does_not_say_it_is_none() -> None:
    with pytest.raises(TypeError, match="tier"):
        Call("cache_new($1)", wire.read_nothing)  # type: ignore[call-arg]
    for make in (calls.flag, calls.count):
        with pytest.raises(TypeError, match="tier"):
            make("cache_new($1)")  # type: ignore[call-arg]


def test_the_clients_call_nothing_else() -> None:
    """Each call is used, and no method of the clients runs anything but a call or a report."""
    assert {name for _, _, named in CLIENT for name in named} == CALLS.keys()
    for cls, method, named in CLIENT:
        source = inspect.getsource(getattr(cls, method))
        assert source.count("._run(") == len(re.findall(r"\._run\(\s*(?:typed_)?calls\.[A-Z_]+\b", source)), method
        assert ("._run(" in source) == bool(named), (cls, method)


def test_several_entries_are_named_by_methods_of_the_hybrid_client() -> None:
    ours = {"Bytes": hybrid.HybridCache, "Cache": hybrid.HybridCache, "EmbeddingCache": hybrid.HybridEmbeddingCache}
    found = [(cls, method) for cls, method, named in CLIENT if any(CALLS[name].tier is SEVERAL for name in named)]
    assert len(found) == 6
    for cls, method in found:
        assert method in vars(ours[cls.__name__]), (cls, method)


class Recorder(Cache):
    """Remembers what it called last."""

    last: tuple[Call[Any], tuple[Any, ...]]

    def _run(self, call: Call[Any], *params: Any, **options: Any) -> Any:
        self.last = call, params
        return super()._run(call, *params, **options)


AUDIO = Audio(bytes(range(256)), "opus", 1500, 48000, 2)
FACES = [{"bbox": [1, 2, 3, 4], "embedding": [0.25], "det_score": 0.9}]
# For each type how an entry is stored, and how it is read.
PAIRS: dict[str, tuple[Callable[[Cache], Any], Callable[[Cache], Any]]] = {
    "store": (lambda c: c.set("store", "k", {"a": None}), lambda c: c.get("store", "k")),
    "llm": (
        lambda c: c.llm.set(
            "p", "m", "r", tokens_used=7, context="c", provider="x", input_tokens=5, cached_input_tokens=4
        ),
        lambda c: c.llm.get("p", "m", "c", "x"),
    ),
    "embedding": (lambda c: c.embedding.set("t", "m", [0.5, -2]), lambda c: c.embedding.get("t", "m")),
    "vector_search": (
        lambda c: c.vector_search.set([0.1, -2], ["r", 1.0], {"b": 1, "a": 0.5}, 5, "ä"),
        lambda c: c.vector_search.get([0.1, -2.0], {"a": 0.50, "b": 1.0}, 5, "ä"),
    ),
    "audio": (
        lambda c: c.audio.set("hi", "v", AUDIO, "tts", {"b": 1, "a": 0.5}),
        lambda c: c.audio.get("hi", "v", "tts", {"a": 0.50, "b": 1.0}),
    ),
    "ai_worker": (lambda c: c.ai_worker.set("p", "m", "v", "sql"), lambda c: c.ai_worker.get("p", "m", "v")),
    "face": (lambda c: c.face.set(b"i", "u", FACES), lambda c: c.face.get(b"i", "u")),
    "phash": (lambda c: c.phash.set(b"i", None, "ff"), lambda c: c.phash.get(b"i")),
    "bytes": (lambda c: c.set_bytes("bytes", "k", b"\xff"), lambda c: c.get_bytes("bytes", "k")),
    "crawl": (lambda c: c.crawl.store("u", b"i", "raw"), lambda c: c.crawl.should_skip("u", b"i")),
}
BY_POSTGRESQL = {"ai_worker", "bytes"}  # are read
# Into Redis when they are stored: large, or with keys by PostgreSQL.
NOT_PUT = {"embedding", "audio", "ai_worker", "bytes"}


def test_these_are_all_types(db: psycopg.Connection) -> None:
    found = db.execute("SELECT type FROM pgcache_internal.types WHERE builtin").fetchall()
    assert {type for (type,) in found} == PAIRS.keys()


@pytest.mark.parametrize("type", PAIRS)
def test_client_and_database_mean_the_same_entry(dsn: str, db: psycopg.Connection, type: str) -> None:
    def value(place: Place) -> Any:
        db.execute("SELECT set_config('pgcache.tenant', %s, false)", ["t" if place.tenant is None else place.tenant])
        row = db.execute("SELECT pgcache.cache_get(%s, %s)", [place.type, place.key]).fetchone()
        assert row
        assert row[0] is not None, place
        return row[0]

    store, read = PAIRS[type]
    with Recorder(dsn, tenant="t") as cache:
        assert store(cache) is True
        call, params = cache.last
        if isinstance(call.tier, Writes):
            write = call.tier.write(*params)
            assert json.loads(write.text) == value(write.place)
        else:
            assert isinstance(call.tier, Changes)
            assert type in NOT_PUT
            assert value(call.tier.place(*params))
        result = read(cache)
        call, params = cache.last
        if isinstance(call.tier, Reads):
            read_again = call.tier.result(value(call.tier.place(*params)))
            # A vector is bytes until the method makes a list of it.
            assert read_again == (wire.vector(result) if type == "embedding" else result)
        assert isinstance(call.tier, Reads) == (type not in BY_POSTGRESQL)


FLOATS = [
    *([number] for number in (0.0, -0.0, 1e-45, -1.1754942e-38, 3.4028235e38, 16777216.0, 5.684341886080801e-14, 1e15)),
    *([math.ldexp(1, exponent)] for exponent in range(-149, 128, 5)),
    *(struct.unpack(">3f", Random(seed).randbytes(12)) for seed in range(300)),
    [0.1] * 16_000,
]


@pytest.mark.parametrize(
    ("filters", "top_k", "user_id"),
    [
        ({}, 10, ""),
        ({"ä": [1e22, 0.0, 1.50, None, "\n\x7f"], "B": {"c": 10**30}}, -1, "u,1:"),
        (None, 2**31 - 1, "🐘"),
    ],
)
def test_the_key_of_a_vector_search(db: psycopg.Connection, filters: Any, top_k: int, user_id: str) -> None:
    for numbers in FLOATS:
        query, text = wire.vector(numbers), wire.json_text(filters or {})
        if not all(map(math.isfinite, numbers)):
            assert located(typed_calls.vector_search, (query, text, str(top_k), user_id)) is None
            continue
        row = db.execute(
            "SELECT pgcache.vector_search_key(%s, %s, %s, %s)", [wire.vector_text(numbers), text, top_k, user_id]
        ).fetchone()
        assert row == (typed_calls.vector_search(query, text, str(top_k), user_id).key,), numbers


@pytest.mark.parametrize(
    "params",
    [(b"\0\0\0\0", "{}", "1", ""), (b"\0\1\0\0\x7f\x80\0\0", "{}", "1", ""), (wire.vector([1]), "{}", str(2**63), "")],
    ids=["no dimension", "infinite", "top_k"],
)
def test_a_vector_search_that_postgresql_refuses_has_no_key(params: tuple[Any, ...]) -> None:
    assert located(typed_calls.vector_search, params) is None
