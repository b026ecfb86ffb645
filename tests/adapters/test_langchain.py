"""LangChain: its own suites for caches, and whole calls of models."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite
from pydantic import BaseModel

from pgcache_py import Cache
from pgcache_py.adapters.langchain import PgcacheCache


@pytest.fixture
def cache(dsn: str) -> Iterator[PgcacheCache]:
    with Cache(dsn) as ours:
        yield PgcacheCache(ours)


@pytest.fixture
def used(cache: PgcacheCache) -> Iterator[PgcacheCache]:
    """It, as LangChain's cache of answers."""
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, cache: PgcacheCache) -> PgcacheCache:
        return cache


@pytest.mark.asyncio
class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    def cache(self, cache: PgcacheCache) -> PgcacheCache:
        return cache


def llm_stats(cache: PgcacheCache) -> dict[str, Any]:
    return next(row for row in cache.cache.stats() if row["type"] == "llm")


def test_a_model_is_asked_once(used: PgcacheCache) -> None:
    model = FakeListLLM(responses=["first", "second", "third"])
    assert [model.invoke("p"), model.invoke("p"), model.invoke("other")] == ["first", "first", "second"]
    model = FakeListLLM(responses=["first", "second"], sleep=0.001)
    assert model.invoke("p") == "first", "a model with other settings has answers of its own"
    used.clear()
    assert model.invoke("p") == "second"


def answer(text: str, **metadata: Any) -> AIMessage:
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12, "input_token_details": {"cache_read": 4}}
    call = {"name": "look_up", "args": {"a": [1, "é"]}, "id": "1"}
    return AIMessage(text, usage_metadata=usage, response_metadata=metadata, tool_calls=[call])


def test_tokens_are_counted(used: PgcacheCache) -> None:
    model = GenericFakeChatModel(messages=iter([answer("one"), answer("two")]))
    first = model.invoke([HumanMessage("question")])
    again = model.invoke([HumanMessage("question")])
    assert (again.content, again.tool_calls) == ("one", first.tool_calls)
    assert llm_stats(used)["tokens_saved"] == 12


def test_the_price_is_that_of_the_model(cache: PgcacheCache, dsn: str) -> None:
    for llm_string in (
        "[('model_name', 'gpt-4o'), ('stop', None)]",
        '{"lc": 1, "kwargs": {"model_name": "gpt-4o", "n": 1}}---[(\'stop\', None)]',
    ):
        cache.update("p", llm_string, [ChatGeneration(message=answer("x"))])
        assert cache.lookup("p", llm_string) is not None
        assert cache.lookup("p", llm_string.replace("None", "['x']")) is None
    keys = [key for key, *_ in cache.cache.scan("llm")]
    entries = [cache.cache.get("llm", key) for key in keys]
    assert [entry["model"] for entry in entries] == ["gpt-4o", "gpt-4o"]
    assert [(entry["input_tokens"], entry["cached_input_tokens"]) for entry in entries] == [(5, 4), (5, 4)]


@pytest.mark.parametrize(
    "told",
    [
        {"finish_reason": "length"},
        {"stop_reason": "max_tokens"},
        {"done_reason": "length"},
        {"stopReason": "max_tokens"},
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        {"stop_reason": "model_context_window_exceeded"},
        {"finish_reason": "RECITATION"},
        {"finish_reason": "PROHIBITED_CONTENT"},
        {"finish_reason": "model_length"},
        {"finish_reason": "a reason to come"},
        {"finish_reason": "stop", "refusal": "no"},
    ],
)
def test_what_was_cut_off_is_not_kept(cache: PgcacheCache, told: dict[str, Any]) -> None:
    cache.update("p", "m", [ChatGeneration(message=answer("half", **told))])
    cache.update("p", "m", [ChatGeneration(message=AIMessage("half", additional_kwargs=told))])
    cache.update("p", "m", [Generation(text="half", generation_info=told)])
    cache.update("p", "m", [ChatGeneration(message=answer("whole")), Generation(text="half", generation_info=told)])
    assert cache.lookup("p", "m") is None


def test_a_refusal_among_the_parts_is_not_kept(cache: PgcacheCache) -> None:
    message = AIMessage([{"type": "refusal", "refusal": "no"}], response_metadata={"status": "completed"})
    cache.update("p", "m", [ChatGeneration(message=message)])
    assert cache.lookup("p", "m") is None


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"finish_reason": None, "stop_reason": "end_turn"},
        *({"finish_reason": reason} for reason in ("stop", "tool_calls", "function_call", "STOP", "COMPLETE")),
        *({"stop_reason": reason} for reason in ("end_turn", "tool_use", "stop_sequence")),
        {"stopReason": "end_turn"},
        {"done_reason": "stop"},
        {"status": "completed", "incomplete_details": None},
    ],
)
def test_what_is_whole_is_kept(cache: PgcacheCache, told: dict[str, Any]) -> None:
    cache.update("p", "m", [ChatGeneration(message=answer("whole", **told))])
    assert cache.lookup("p", "m") is not None


@pytest.mark.parametrize("count", [-4, 2**31, 2**40, 2**70])
def test_whatever_is_counted_an_answer_is_kept(used: PgcacheCache, count: int) -> None:
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": count, "input_token_details": {"cache_read": count}}
    model = GenericFakeChatModel(messages=iter([AIMessage("one", usage_metadata=usage)]))
    assert [model.invoke("p").content for _ in range(2)] == ["one", "one"]
    (entry,) = used.cache.scan("llm")
    assert [entry.value.get(name) for name in ("tokens_used", "input_tokens", "cached_input_tokens")] == [None, 5, None]


def test_what_cannot_be_serialized_is_not_kept(cache: PgcacheCache) -> None:
    class Parsed(BaseModel):
        a: int

    message = AIMessage("x", additional_kwargs={"parsed": Parsed(a=1)})
    cache.update("p", "m", [ChatGeneration(message=message)])
    assert cache.lookup("p", "m") is None


@pytest.mark.parametrize("failure", [ValueError("x"), RuntimeError("y"), AttributeError("z")])
def test_who_has_paid_for_what_cannot_be_serialized_gets_it(used: PgcacheCache, failure: Exception) -> None:
    class Odd(AIMessage):
        def model_dump(self, **options: Any) -> dict[str, Any]:
            raise failure

    model = GenericFakeChatModel(messages=iter([Odd("one"), Odd("two")]))
    assert [model.invoke("p").content for _ in range(2)] == ["one", "two"]


@pytest.mark.parametrize(
    "text",
    [
        '[{"kind": "PromptTemplate", "text": "x", "info": null}]',
        '[{"kind": "ChatGeneration", "text": "x", "info": null, "message": {"type": "evil", "data": {"content": ""}}}]',
        '[{"lc": 1, "type": "constructor", "id": ["langchain", "prompts", "prompt", "PromptTemplate"], "kwargs": {}}]',
        "an answer that another program stored",
        "[]",
        "{}",
        "[" * 100_000,
        '[{"kind": "ChatGeneration", "info": null, "message": 5}]',
        '[{"kind": "ChatGeneration", "info": null, "message": {"type": "ai", "data": []}}]',
        "[5]",
        "5",
    ],
)
def test_what_is_no_answer_of_ours_is_a_miss(cache: PgcacheCache, text: str) -> None:
    cache.cache.llm.set("p", "", text, context="m")
    assert cache.lookup("p", "m") is None


def test_without_the_cache_models_are_asked() -> None:
    set_llm_cache(PgcacheCache("postgresql://nobody@127.0.0.1:1/none"))
    try:
        model = FakeListLLM(responses=["first", "second"])
        assert [model.invoke("p"), model.invoke("p")] == ["first", "second"]
    finally:
        set_llm_cache(None)


def test_event_loops_in_two_threads(used: PgcacheCache) -> None:
    """More calls than the model has answers, so that it fails if one is not cached."""
    found: list[str] = []

    async def ask() -> None:
        model = FakeListLLM(responses=["answer"])
        found.extend(await asyncio.gather(*(model.ainvoke(f"prompt {number % 5}") for number in range(40))))

    threads = [threading.Thread(target=asyncio.run, args=(ask(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == ["answer"] * 80
    assert used.cache.count("llm") == 5


def test_tenants(dsn: str) -> None:
    acme, other = (PgcacheCache(dsn, tenant=tenant) for tenant in ("acme", "other"))
    acme.update("p", "m", [Generation(text="theirs")])
    assert other.lookup("p", "m") is None
    other.clear()
    assert acme.lookup("p", "m") == [Generation(text="theirs")]
    for each in (acme, other):
        each.cache.close()
