"""The typed caches."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy
import psycopg
import pytest

from pgcache_py import Audio, DimensionError, InvalidKeyError, InvalidValueError, Skip
from tests.client.proxy import Proxy

pytestmark = pytest.mark.every


@pytest.mark.once
def test_every_typed_call_on_every_source(world: Any, source: Any) -> None:
    cache = world.cache(source)
    assert cache.llm.set("p", "m", "answer", tokens_used=7, context="c", provider="x", ttl=60) is True
    assert cache.llm.get("p", "m", "c", "x") == {"response": "answer", "model": "m", "provider": "x", "tokens_used": 7}
    assert cache.llm.get("p", "m") is None
    assert cache.embedding.set("t", "m", [0.5, -2, 3]) is True
    assert cache.embedding.get("t", "m") == [0.5, -2.0, 3.0]
    assert cache.embedding.get("t", "other") is None
    assert cache.embedding.set_many(["a", "b"], "m", [[1, 2, 3], [4, 5, 6]]) == 2
    assert cache.embedding.get_many(["b", "zz", "a"], "m") == [[4, 5, 6], None, [1, 2, 3]]
    assert cache.vector_search.set([1, 2], [{"id": 1}], {"lang": "en"}, 5, "u") is True
    assert cache.vector_search.get([1, 2], {"lang": "en"}, 5, "u") == [{"id": 1}]
    assert cache.vector_search.get([1, 2], {"lang": "de"}, 5, "u") is None
    assert cache.vector_search.get([1, 2], {"lang": "en"}, 5, "v") is None
    assert cache.vector_search.invalidate_user("u") == 1
    assert cache.invalidate_user("u") == 0
    audio = Audio(bytes(range(256)), "opus", duration_ms=1500, sample_rate=48000, channels=2)
    assert cache.audio.set("hi", "anna", audio, "tts", {"speed": 1.0}) is True
    assert cache.audio.get("hi", "anna", "tts", {"speed": 1}) == audio
    assert cache.audio.get("hi", "anna") is None
    assert cache.audio.set("hi", "bob", Audio(b"", "mp3")) is True
    assert cache.audio.get("hi", "bob") == Audio(b"", "mp3")
    assert cache.ai_worker.set("p", "m", "v1", "SELECT 1", tokens_used=9, validated=False) is True
    assert cache.ai_worker.get("p", "m", "v1") == {
        "prompt_text": "p",
        "model": "m",
        "schema_version": "v1",
        "generated_sql": "SELECT 1",
        "validated": False,
        "tokens_used": 9,
    }
    assert cache.ai_worker.get("p", "m", "v2") is None
    assert cache.ai_worker.stats()[0]["total_entries"] == 1
    assert cache.ai_worker.invalidate_schema("v1") == 1
    face = [{"bbox": [1, 2, 3, 4], "embedding": [0.25], "det_score": 0.9}]
    assert cache.face.set(b"image", "t", face) is True
    assert cache.face.get(b"image", "t") == face
    assert cache.face.get(b"image", "other") is None
    assert cache.face.set(b"nobody", "t", []) is True
    assert cache.face.get(b"nobody", "t") == []
    assert cache.phash.set(b"image", "t", "ff00") is True
    assert cache.phash.get(b"image", "t") == "ff00"
    assert cache.phash.get(b"image", "other") is None
    assert cache.crawl.store("https://e.com", b"image", "raw", "thumb", "t") is True
    assert cache.crawl.should_skip("https://e.com", b"image", "t") == Skip(True, "raw")
    assert cache.crawl.should_skip("https://e.com", b"changed", "t") == (False, None)


def test_images_are_the_tenants_own(cache: Any) -> None:
    mine = cache.for_tenant("mine")
    mine.face.set(b"i", None, [])
    mine.phash.set(b"i", None, "ff")
    mine.crawl.store("u", b"i", "raw")
    for view, name in ((mine, None), (cache, "mine")):
        assert view.face.get(b"i", name) == []
        assert view.phash.get(b"i", name) == "ff"
        assert view.crawl.should_skip("u", b"i", name) == (True, "raw")
    for view in (cache, cache.for_tenant("other")):
        assert view.face.get(b"i") is None
        assert view.phash.get(b"i") is None
        assert view.crawl.should_skip("u", b"i") == (False, None)


def test_numpy_arrays(cache: Any) -> None:
    vector = numpy.linspace(-1, 1, 1536, dtype=numpy.float32)
    assert cache.embedding.set("t", "m", vector) is True
    found = cache.embedding.get("t", "m", as_numpy=True)
    assert found.dtype == numpy.float32
    assert numpy.array_equal(found, vector)
    found[0] = 5  # it is the caller's to change
    matrix = numpy.random.default_rng(1).normal(size=(20, 64))
    texts = [f"text {n}" for n in range(20)]
    assert cache.embedding.set_many(texts, "m", matrix) == 20
    many = cache.embedding.get_many(texts[::-1], "m", as_numpy=True)
    assert numpy.array_equal(numpy.array(many)[::-1], matrix.astype(numpy.float32))
    cache.vector_search.set(vector[:8], ["r"])
    assert cache.vector_search.get(vector[:8].tolist()) == ["r"]
    assert cache.embedding.set("int", "m", numpy.arange(3)) is True
    assert cache.embedding.get("int", "m") == [0, 1, 2]


NO_VECTORS = [
    [],
    ["a"],
    [1, None],
    [1e39],
    [float("nan")],
    [float("inf")],
    [0.0] * 16001,
    "[1,2]",
    b"abc",
    {1, 2},
    {1: 2},
    5,
    numpy.ones((2, 2)),
    numpy.array(["a"]),
    numpy.array([1j]),
    numpy.array([1e39]),
    numpy.array([numpy.nan]),
]


def test_what_is_no_vector_is_refused(cache: Any) -> None:
    for vector in NO_VECTORS:
        with pytest.raises(InvalidValueError):
            cache.embedding.set("t", "m", vector)
        with pytest.raises(InvalidValueError):
            cache.embedding.set_many(["t"], "m", [vector])


def test_dimensions(cache: Any) -> None:
    cache.configure("embedding", dimensions=3)
    assert cache.embedding.set("t", "m", [1, 2, 3]) is True
    with pytest.raises(DimensionError) as error:
        cache.embedding.set("t", "m", [1, 2])
    assert error.value.sqlstate == "PC005"
    assert error.value.hint
    with pytest.raises(DimensionError):
        cache.embedding.set_many(["a", "b"], "m", [[1, 2, 3], [1]])
    assert cache.embedding.get("a", "m") is None


def test_no_text_gets_the_vector_of_another(cache: Any) -> None:
    texts = ["", "a", "a,b", '"', "\\", "{}", "NULL", "é", "x" * 5000]
    for number, text in enumerate(texts):
        if number % 2:
            cache.embedding.set(text, "m", [number])
    asked = [*texts, *texts[::-1]]
    expected = [[float(texts.index(text))] if texts.index(text) % 2 else None for text in asked]
    assert cache.embedding.get_many(asked, "m") == expected
    assert cache.embedding.get_many([], "m") == []


def test_get_or_compute(world: Any, cache: Any) -> None:
    asked: list[Any] = []

    def model(answer: Any) -> Any:
        def ask(*args: Any) -> Any:
            asked.append(args)
            return answer

        return world.function(ask)

    for _ in range(2):
        answer = cache.llm.get_or_compute("p", "m", model({"response": "a", "tokens_used": 3}), provider="x")
        assert answer == {"response": "a", "model": "m", "provider": "x", "tokens_used": 3}
        assert cache.llm.get_or_compute("q", "m", model("b")) == {"response": "b", "model": "m"}
        answer = cache.llm.get_or_compute("r", "m", model({"response": "c", "provider": "y", "tokens_used": None}))
        assert answer == {"response": "c", "model": "m", "provider": "y"}
        assert cache.ai_worker.get_or_compute("p", "m", "v1", model("SELECT 1")) == "SELECT 1"
        assert cache.embedding.get_or_compute("t", "m", model([0.1])) == pytest.approx([0.1])
    assert len(asked) == 5
    assert cache.llm.get("p", "m") is None
    cache.embedding.set("b", "m", [2])
    vectors = cache.embedding.get_or_compute_many(["a", "b", "c", "a"], "m", model(numpy.array([[1], [3]])))
    assert vectors == [[1], [2], [3], [1]]
    assert asked[-1] == (["a", "c"],)
    assert cache.embedding.get_or_compute_many(["c", "b"], "m", model(None)) == [[3], [2]]
    assert cache.embedding.get_or_compute_many(iter(["c", "b"]), "m", model(None)) == [[3], [2]]
    assert cache.embedding.get_many(iter(["c", "b"]), "m") == [[3], [2]]
    with pytest.raises(InvalidValueError, match="a vector for each of 2 texts, not 1"):
        cache.embedding.get_or_compute_many(["new", "newer"], "m", model([[1]]))
    for wrong in (None, 5, {}, {"response": None}, b"x"):
        for call in (
            lambda compute: cache.llm.get_or_compute("new", "m", compute),
            lambda compute: cache.ai_worker.get_or_compute("new", "m", "v", compute),
            lambda compute: cache.embedding.get_or_compute("new", "m", compute),
            lambda compute: cache.embedding.get_or_compute_many(["new"], "m", lambda texts: compute()),
        ):
            with pytest.raises(InvalidValueError, match=r"compute (returned|has to return)"):
                call(model(wrong))


@pytest.mark.once
def test_one_round_trip(world: Any, proxy: Proxy) -> None:
    texts = [f"text {n}" for n in range(500)]
    vectors = [[float(n)] * 64 for n in range(500)]
    for cache in (world.cache(proxy.dsn), world.cache(proxy.dsn, tenant="t"), world.cache(world.pool(proxy.dsn))):
        calls = [
            lambda cache=cache: cache.set("store", "k", 1),
            lambda cache=cache: cache.get("store", "k"),
            lambda cache=cache: cache.get("store", "absent"),
            lambda cache=cache: cache.incr("store", "k"),
            lambda cache=cache: cache.set_many("store", dict.fromkeys(texts, 1)),
            lambda cache=cache: cache.get_many("store", texts),
            lambda cache=cache: cache.embedding.set_many(texts, "m", vectors),
            lambda cache=cache: cache.embedding.get_many(texts, "m"),
            lambda cache=cache: cache.audio.get("text", "voice"),
            lambda cache=cache: cache.crawl.should_skip("u", b"i"),
        ]
        for call in calls:
            call()  # connects, prepares the statement
            before = proxy.round_trips
            call()
            assert proxy.round_trips == before + 1


def test_a_view_per_tenant_in_a_transaction_leaves_no_trace(world: Any, dsn: str) -> None:
    connection = world.connect(dsn)
    connection.execute("SET pgcache.tenant = 'session'")
    cache = world.cache(connection)
    view = cache.for_tenant("t")
    assert (cache.tenant, view.tenant) == (None, "t")
    for call in (
        lambda: view.set("store", "k", 1),
        lambda: view.get_many("store", ["k"]),
        lambda: view.keys("store", "zz%"),
        lambda: view.entry("store", "absent"),
        lambda: view.audio.get("text", "voice"),
        lambda: view.crawl.store("u", b"i", "raw"),
    ):
        call()
        assert connection.execute("SELECT current_setting('pgcache.tenant')").fetchone() == ("session",)
    assert cache.get("store", "k") is None
    assert view.get("store", "k") == 1


def test_every_typed_cache_explains_the_key_that_its_get_looks_for(cache: Any) -> None:
    audio = Audio(b"data", "opus")
    kept = [
        (cache.llm, ("p", "m", "c", "x"), lambda: cache.llm.set("p", "m", "answer", context="c", provider="x")),
        (cache.embedding, ("t", "m"), lambda: cache.embedding.set("t", "m", [1, 2])),
        (
            cache.vector_search,
            ([1, 2], {"a": 1}, 5, "u"),
            lambda: cache.vector_search.set([1, 2], [], {"a": 1}, 5, "u"),
        ),
        (cache.audio, ("t", "v", "p", {"s": 1}), lambda: cache.audio.set("t", "v", audio, "p", {"s": 1})),
        (cache.ai_worker, ("p", "m", "v1"), lambda: cache.ai_worker.set("p", "m", "v1", "SELECT 1")),
        (cache.face, (b"image", "t"), lambda: cache.face.set(b"image", "t", [])),
        (cache.phash, (b"image", "t"), lambda: cache.phash.set(b"image", "t", "ff")),
        (cache.crawl, ("url", b"image", "t"), lambda: cache.crawl.store("url", b"image", "raw", None, "t")),
    ]
    for typed, arguments, store in kept:
        assert not typed.explain(*arguments).hit
        store()
        found = typed.explain(*arguments)
        assert found.hit, (found, typed)
        scope = cache.for_tenant("t") if arguments[-1] == "t" else cache
        assert scope.exists(found.type, found.key)
    with pytest.raises(InvalidValueError, match="a get refuses these arguments"):
        cache.llm.explain("\0", "m")
    for explain in (cache.llm.explain, cache.embedding.explain, cache.audio.explain):
        for wrong in ((None, "m"), ("p", None)):
            with pytest.raises(InvalidKeyError):
                explain(*wrong)


def test_needs_neither_numpy_nor_psycopg_pool() -> None:
    code = """
import sys
sys.modules["numpy"] = sys.modules["psycopg_pool"] = None
import pgcache_py
try:
    pgcache_py.Cache(object())
except TypeError:
    pass
from pgcache_py.client import wire
assert wire.vector_list(wire.vector([1, 2])) == [1, 2]
assert not {name for name in sys.modules if name.startswith(("redis", "rich"))}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_vectors_of_a_connection_that_knows_pgvector(world: Any, dsn: str, db: psycopg.Connection) -> None:
    """As pgvector.psycopg.register_vector does: the cache's replies do not depend on it."""
    connection = world.connect(dsn, autocommit=True)
    oid = db.execute("SELECT 'vector'::regtype::oid").fetchone()
    assert oid
    adapters = getattr(connection, "target", connection).adapters
    adapters.register_loader(oid[0], psycopg.types.string.TextLoader)
    cache = world.cache(connection)
    cache.embedding.set("t", "m", [1, 2])
    assert cache.embedding.get("t", "m") == [1, 2]
    assert cache.embedding.get_many(["t"], "m") == [[1, 2]]


def test_bytes_are_bytes(cache: Any) -> None:
    image = b"\\x00\xff"
    for same in (bytearray(image), memoryview(image)):
        assert cache.phash.set(same, None, "ff") is True
        assert cache.phash.get(image) == "ff"
        assert cache.phash.get(same) == "ff"
    assert cache.audio.set("t", "v", Audio(bytearray(image), "mp3"))  # type: ignore[arg-type]
    assert cache.audio.get("t", "v") == Audio(image, "mp3")
    for call in (
        lambda: cache.phash.get("text"), lambda: cache.phash.set("text", None, "ff"), lambda: cache.face.get("text"),
        lambda: cache.face.set("text", None, []), lambda: cache.crawl.should_skip("u", "text"),
        lambda: cache.crawl.store("u", "text", "r"), lambda: cache.phash.get(None), lambda: cache.phash.get(5),
        lambda: cache.audio.set("t", "v", Audio("text", "mp3")),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(TypeError, match="expected bytes"):
            call()
    with pytest.raises(TypeError, match="expected an Audio"):
        cache.audio.set("t", "v", b"bytes")


def test_whole_numbers_are_whole(cache: Any) -> None:
    for call in (
        lambda: cache.incr("store", "n", by=1.5), lambda: cache.incr("store", "n", by="1"),
        lambda: cache.llm.set("p", "m", "r", tokens_used="5"), lambda: cache.create_type("mine", max_entries=1.5),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="expected a whole number"):
            call()
