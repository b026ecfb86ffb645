"""LiteLLM: whole calls of models, which it does not send, over its own cache and its DualCache. It has no suite."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import litellm
import pytest
from litellm.caching.caching import Cache as LiteLLMCache
from litellm.caching.dual_cache import DualCache
from litellm.caching.in_memory_cache import InMemoryCache

from pgcache_py import Cache
from pgcache_py.adapters.litellm import PgcacheCache
from tests.tools.waiting import wait_until

# LiteLLM's models, of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore:.*ReadOnly:UserWarning")

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def cache(dsn: str) -> Iterator[PgcacheCache]:
    with Cache(dsn) as ours:
        yield PgcacheCache(ours)


def use(cache: PgcacheCache, **options: Any) -> None:
    litellm.cache = LiteLLMCache(**options)
    litellm.cache.cache = cache


@pytest.fixture
def used(cache: PgcacheCache) -> Iterator[PgcacheCache]:
    """It, as LiteLLM's cache."""
    use(cache)
    yield cache
    litellm.disable_cache()


def asked(answer: str, prompt: str = "p", **options: Any) -> str:
    """The answer to a prompt, for which a model that is asked gives this one."""
    messages = [{"role": "user", "content": prompt}]
    response = litellm.completion("gpt-4o-mini", messages, mock_response=answer, caching=True, **options)
    return text_of(response) if not options.get("stream") else "".join(map(chunk_of, response))


async def asked_later(answer: str, prompt: str = "p", **options: Any) -> str:
    messages = [{"role": "user", "content": prompt}]
    response = await litellm.acompletion("gpt-4o-mini", messages, mock_response=answer, caching=True, **options)
    return "".join([chunk_of(each) async for each in response]) if options.get("stream") else text_of(response)


def text_of(response: Any) -> str:
    return str(response.choices[0].message.content)


def chunk_of(response: Any) -> str:
    return response.choices[0].delta.content or ""


def vectors(response: Any) -> list[list[float]]:
    return [each["embedding"] for each in response.data]


def stored(cache: PgcacheCache, count: int) -> None:
    """Wait until so many are: LiteLLM stores answers in the background."""
    wait_until(lambda: cache.cache.count("llm", "litellm:") == count)


async def stored_later(cache: PgcacheCache, count: int) -> None:
    await asyncio.to_thread(stored, cache, count)


def seconds(cache: PgcacheCache) -> float:
    """For how long the one entry is kept."""
    (key,) = cache.cache.keys("llm")
    left = cache.cache.ttl("llm", key)
    assert left is not None
    return left.total_seconds()


def stats(cache: PgcacheCache) -> dict[str, Any]:
    return next(row for row in cache.cache.stats() if row["type"] == "llm")


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_is_asked_once(used: PgcacheCache, stream: bool) -> None:
    assert asked("the first", stream=stream) == "the first"
    stored(used, 1)
    assert asked("the second", stream=stream) == "the first"
    assert asked("other", "q", stream=stream) == "other"
    assert asked("warm", temperature=0.5, stream=stream) == "warm"
    stored(used, 3)
    used.cache.llm.set("p", "gpt-4o-mini", "another program's")
    used.flush_cache()
    assert used.cache.count("llm") == 1
    assert asked("the second", stream=stream) == "the second"


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_is_asked_once_by_coroutines(used: PgcacheCache, stream: bool) -> None:
    assert await asked_later("the first", stream=stream) == "the first"
    await stored_later(used, 1)
    assert await asked_later("the second", stream=stream) == "the first"
    assert await asked_later("other", "q", stream=stream) == "other"


def test_vectors(used: PgcacheCache) -> None:
    def embed(value: float) -> list[list[float]]:
        return vectors(
            litellm.embedding("text-embedding-3-small", input=["a", "b"], mock_response=[value] * 3, caching=True)
        )

    assert embed(0.25) == [[0.25] * 3]
    stored(used, 1)
    assert embed(0.5) == [[0.25] * 3]


@pytest.mark.asyncio
async def test_of_many_vectors_those_that_lack_are_asked_for(used: PgcacheCache) -> None:
    async def embed(*texts: str, value: float) -> list[list[float]]:
        response = await litellm.aembedding(
            "text-embedding-3-small", input=list(texts), mock_response=[value] * 3, caching=True
        )
        return vectors(response)

    assert await embed("a", value=0.25) == [[0.25] * 3]
    await stored_later(used, 1)
    assert await embed("a", "b", value=0.5) == [[0.25] * 3, [0.5] * 3]
    await stored_later(used, 2)
    assert await embed("b", "a", value=0.75) == [[0.5] * 3, [0.25] * 3]


def test_tokens_are_counted(used: PgcacheCache) -> None:
    asked("first")
    stored(used, 1)
    (entry,) = used.cache.scan("llm")
    assert entry.value["model"] == "gpt-4o-mini"
    assert entry.value["tokens_used"] > entry.value["input_tokens"] > 0
    asked("second")
    assert stats(used)["tokens_saved"] == entry.value["tokens_used"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"usage": {"total_tokens": 9, "prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}}, [9, 7, 5]),
        ({"usage": {"total_tokens": 9, "prompt_tokens": 7, "prompt_tokens_details": None}}, [9, 7, None]),
        ({"embedding": [0.5], "prompt_tokens": 7}, [7, 7, None]),
        ({"usage": {"total_tokens": "9", "prompt_tokens": -1}}, [None, None, None]),
        ({"usage": {"total_tokens": 2**40, "prompt_tokens": True}}, [None, None, None]),
        ({"usage": None}, [None, None, None]),
        ({}, [None, None, None]),
    ],
)
@pytest.mark.parametrize("form", [lambda answer: answer, json.dumps])
def test_whose_tokens(cache: PgcacheCache, answer: Any, expected: list[int | None], form: Callable[[Any], Any]) -> None:
    cache.set_cache("k", {"timestamp": 1.5, "response": form(answer)}, model="m")
    row = cache.cache.get("llm", "litellm:k")
    assert [row.get(name) for name in ("tokens_used", "input_tokens", "cached_input_tokens")] == expected
    assert cache.get_cache("k") == {"timestamp": 1.5, "response": form(answer)}


def test_for_how_long(dsn: str) -> None:
    with Cache(dsn) as ours:
        for cache, options, expected in (
            (PgcacheCache(ours), {}, 3600),
            (PgcacheCache(ours, ttl="1 day"), {}, 86400),
            (PgcacheCache(ours), {"ttl": 120}, 120),
        ):
            use(cache, **options)
            cache.flush_cache()
            asked("first")
            stored(cache, 1)
            assert expected - 60 < seconds(cache) <= expected
        cache.flush_cache()
        asked("first", cache={"ttl": 30})
        stored(cache, 1)
        assert seconds(cache) <= 30
    litellm.disable_cache()


@pytest.mark.parametrize("ttl", [0, -1, "0", 1e-9])
def test_what_expires_at_once_is_not_kept(cache: PgcacheCache, ttl: Any) -> None:
    cache.set_cache("k", "old")
    cache.set_cache("k", "new", ttl=ttl)
    assert cache.get_cache("k") is None
    cache.set_cache("k", "newest", ttl=1e20)
    assert cache.get_cache("k") == "newest"


def test_below_a_cache_in_memory(cache: PgcacheCache) -> None:
    one, two = (DualCache(InMemoryCache(), cache) for _ in range(2))
    one.set_cache("a", {"n": [1, None, "\0é"]})
    one.set_cache("b", "text")
    assert two.get_cache("a") == {"n": [1, None, "\0é"]}
    assert two.batch_get_cache(["c", "b", "a"]) == [None, "text", {"n": [1, None, "\0é"]}]
    one.delete_cache("a")
    assert cache.get_cache("a") is None
    one.flush_cache()
    assert cache.get_cache("b") is None


@pytest.mark.asyncio
async def test_below_a_cache_in_memory_for_coroutines(cache: PgcacheCache) -> None:
    one, two, three = (DualCache(InMemoryCache(), cache) for _ in range(3))
    await one.async_set_cache("a", {"n": 1}, ttl=100)
    await one.async_set_cache_pipeline([("b", "text"), ("c", [1.5])], ttl=100)
    assert await two.async_get_cache("a") == {"n": 1}
    assert await two.async_batch_get_cache(["d", "c", "b"]) == [None, [1.5], "text"]
    assert 90 < (await three.async_get_ttl("b") or 0) <= 100
    assert await three.async_get_ttl("d") is None
    await one.async_delete_cache("a")
    await one.async_delete_cache_keys(["b", "d"])
    assert await three.async_batch_get_cache(["a", "b", "c"]) == [None, None, [1.5]]
    await cache.disconnect()
    assert await cache.async_get_cache("c") == [1.5], "it connects again"


@pytest.mark.parametrize("key", ["", "k" * 3000, "nul \0", "\ud800", "~" + "0" * 64, "%_' \" é"])
def test_any_key(cache: PgcacheCache, key: str) -> None:
    cache.set_cache(key, "value")
    cache.set_cache(key + "2", "other")
    assert cache.get_cache(key) == "value"
    assert cache.batch_get_cache([key, "none", key + "2"]) == {key: "value", key + "2": "other"}
    cache.delete_cache(key)
    assert cache.get_cache(key) is None


@pytest.mark.parametrize("response", ["no JSON", '{"', "", "[" * 100_000])
def test_what_is_no_value_of_ours_is_a_miss(cache: PgcacheCache, response: str) -> None:
    cache.cache.set("llm", "litellm:k", {"response": response})
    assert cache.get_cache("k") is None


@pytest.mark.parametrize(
    "value", [{"response": "{"}, {"response": '{"usage": 1, "model": 2}'}, [], "", 0, {"a": "\ud800"}]
)
def test_any_json(cache: PgcacheCache, value: Any) -> None:
    cache.set_cache("k", value)
    assert cache.get_cache("k") == value


@pytest.mark.parametrize("form", [lambda answer: answer, json.dumps])
@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ({"choices": [{"finish_reason": "stop", "message": {"content": "x"}}]}, True),
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": "length"}]}, False),
        ({"choices": [{"finish_reason": "content_filter"}]}, False),
        ({"choices": [{"finish_reason": "stop", "message": {"refusal": "no"}}]}, False),
        ({"choices": [{"finish_reason": "stop", "text": "x", 5: 5}]}, True),
        *(({"choices": [choice]}, False) for choice in (5, {"message": 5}, {"finish_reason": "stop"})),
        *(({"choices": [{"message": {"content": content}}]}, False) for content in (5, ["x"], [{"type": "refusal"}])),
        *(({"choices": [{"message": {"tool_calls": calls}}]}, False) for calls in (5, ["f"], {"a": 1})),
        ({"choices": 5}, True),
        ({"status": "incomplete", "output": []}, False),
        ({"status": "completed", "output": [{"content": [{"type": "refusal"}]}]}, False),
        ({"status": "completed", "output": [{"content": [{"type": "output_text"}]}, 5]}, True),
        ({"status": "what a router keeps"}, True),
    ],
)
def test_what_was_cut_off_is_not_kept(
    cache: PgcacheCache, answer: Any, whole: bool, form: Callable[[Any], Any]
) -> None:
    value = {"timestamp": 1.5, "response": form(answer)}
    cache.set_cache("k", value)
    assert (cache.get_cache("k") is not None) == whole
    cache.cache.set("llm", "litellm:k", {"response": json.dumps(value)})  # as another program may do
    assert (cache.get_cache("k") is not None) == whole


def test_an_odd_answer_of_another_program_is_a_miss(used: PgcacheCache) -> None:
    asked("first")
    stored(used, 1)
    (key,) = used.cache.keys("llm")
    value = json.dumps({"timestamp": 1e12, "response": {"choices": [{"message": {"tool_calls": 5}}]}})
    used.cache.set("llm", key, {"response": value})
    assert asked("again") == "again"


def test_what_is_no_json_is_refused(cache: PgcacheCache) -> None:
    with pytest.raises(TypeError):
        cache.set_cache("k", {"response": object()})
    assert cache.get_cache("k") is None


def test_without_the_cache_models_are_asked() -> None:
    use(PgcacheCache(NOWHERE))
    try:
        assert [asked("first"), asked("second")] == ["first", "second"]
        assert asyncio.run(asked_later("third")) == "third"
    finally:
        litellm.disable_cache()


def test_event_loops_in_two_threads(used: PgcacheCache) -> None:
    for number in range(5):
        asked("answer", f"prompt {number}")
    stored(used, 5)
    found: list[str] = []

    async def ask() -> None:
        found.extend(await asyncio.gather(*(asked_later("another", f"prompt {number % 5}") for number in range(20))))

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == ["answer"] * 40


def test_tenants(dsn: str) -> None:
    acme, other = (PgcacheCache(dsn, tenant=tenant) for tenant in ("acme", "other"))
    acme.set_cache("k", "theirs")
    assert other.get_cache("k") is None
    other.flush_cache()
    assert acme.get_cache("k") == "theirs"
    for each in (acme, other):
        each.cache.close()
