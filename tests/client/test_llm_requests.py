"""Whole answers of models: what goes in comes out, at once or as a stream, and what is not whole is not kept."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgcache_py import AsyncCache, Cache, Computed, InvalidKeyError, InvalidTTLError, InvalidValueError, cache_llm_key
from pgcache_py.client import answers
from tests.tools.waiting import Background, at_once, wait_until

pytestmark = pytest.mark.once

REQUEST: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "provider": "openai"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": "é\\u0000"}'}}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Héllo \ud83d\0", "tool_calls": [CALL], "refusal": None},
            "logprobs": {"content": [{"token": "a", "logprob": -0.0}], "refusal": None},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60},
    },
    "service_tier": "default",
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1.5,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "model": "gpt-4o",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "So ..."}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello", "annotations": [{"type": "url_citation"}]}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    ],
    "usage": {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60},
        "output_tokens": 20,
        "total_tokens": 120,
    },
}


def changed(answer: dict[str, Any], change: Callable[[Any], object]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(answer))
    change(copied)
    return copied


def choice(**fields: Any) -> Callable[[Any], object]:
    return lambda answer: answer["choices"][0].update(fields)


NOT_WHOLE = {
    "cut off": changed(CHAT, choice(finish_reason="length")),
    "filtered": changed(CHAT, choice(finish_reason="content_filter")),
    "not ended": changed(CHAT, choice(finish_reason=None)),
    "ended as nobody knows": changed(CHAT, choice(finish_reason="abort")),
    "refused": changed(CHAT, choice(message={"role": "assistant", "content": None, "refusal": "No."})),
    "no message": changed(CHAT, choice(message=None)),
    "no choices": {**CHAT, "choices": []},
    "a choice more than asked for": {**CHAT, "choices": CHAT["choices"] * 2},
    "an error": {"error": {"message": "x"}, **CHAT},
    "a response that was cut off": {
        **RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
    },
    "a response in the background": {**RESPONSE, "status": "queued", "output": []},
    "a response that was cancelled": {**RESPONSE, "status": "cancelled"},
    "a response that failed": {**RESPONSE, "status": "failed", "error": {"code": "server_error"}},
    "a response that was refused": {
        **RESPONSE, "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}],
    },
    "an end that is no text": changed(CHAT, choice(finish_reason=["stop"])),
    "tool calls that are none": changed(CHAT, choice(message={"role": "assistant", "tool_calls": "look_up"})),
    "a refusal among the parts": changed(CHAT, choice(message={"content": [{"type": "refusal", "refusal": "No."}]})),
    "nothing known": {"content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn"},
}  # fmt: skip


FAILURES = [ValueError("x"), RuntimeError("y"), KeyError("z")]


class Dumped:
    """An object of a provider's package, which makes this of itself."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def model_dump(self, mode: str) -> Any:
        assert mode == "json"
        if isinstance(self._plain, Exception):
            raise self._plain
        return self._plain


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"odd": value}
    return value


class Model:
    """What computes in either world: counts how often it is asked, and whether its streams were closed."""

    def __init__(self, world: Any, answer: Any = CHAT, more: Any = None) -> None:
        self.asked = 0
        self.closed = 0
        self.answer = answer
        self._is_async = world.name == "async"
        self.compute = world.function(self._compute)
        self.stream = world.function(self._stream)

    def _compute(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _chunks(self) -> Iterator[Any]:
        try:
            for chunk in self.answer:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.closed += 1

    def _stream(self) -> Any:
        self.asked += 1

        async def chunks() -> Any:
            try:
                for chunk in self.answer:
                    if isinstance(chunk, Exception):
                        raise chunk
                    yield chunk
            finally:
                self.closed += 1

        return chunks() if self._is_async else self._chunks()


@pytest.fixture
def model(world: Any) -> Model:
    return Model(world)


class Streamed:
    """A stream of either world, read step by step."""

    def __init__(self, world: Any, stream: Any) -> None:
        self._run = world.loop.run_until_complete if world.name == "async" else None
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        if not self._run:
            yield from self._stream
            return
        while True:
            try:
                yield self._run(anext(self._stream))
            except StopAsyncIteration:
                return

    def close(self) -> None:
        if self._run:
            self._run(self._stream.aclose())
        else:
            self._stream.close()


@pytest.fixture
def streamed(world: Any, cache: Any) -> Callable[..., Streamed]:
    return lambda request, model, **options: Streamed(world, cache.llm.stream(request, model.stream, **options))


def entries(db: psycopg.Connection) -> int:
    row = db.execute("SELECT count(*) FROM pgcache.cache_llm_responses").fetchone()
    assert row
    return int(row[0])


def leases(db: psycopg.Connection) -> int:
    row = db.execute("SELECT count(*) FROM pgcache_internal.leases WHERE deadline > clock_timestamp()").fetchone()
    assert row
    return int(row[0])


def age(db: psycopg.Connection, interval: str) -> None:
    """Let all entries have been stored longer ago."""
    db.execute("UPDATE pgcache.cache_llm_responses SET created_at = created_at - %s::interval", [interval])


# At once.


@pytest.mark.parametrize("answer", [CHAT, RESPONSE], ids=["chat", "response"])
def test_a_whole_answer_comes_back_whole(cache: Any, model: Model, db: psycopg.Connection, answer: Any) -> None:
    model.answer = answer
    db.execute("SELECT pgcache.cache_set_price('gpt-4o', input => 1, output => 10, cached_input => 0.5)")
    for _ in range(3):
        assert cache.llm.request(REQUEST, model.compute) == answer
    assert cache.llm.request({**REQUEST, "stream": True, "user": "u"}, model.compute) == answer
    assert model.asked == 1
    entry = cache.get("llm", cache_llm_key(REQUEST))
    kinds = (entry.pop("tokens_used"), entry.pop("input_tokens"), entry.pop("cached_input_tokens"))
    assert kinds == (120, 100, 60)
    assert json.loads(entry.pop("response")) == answer
    assert entry == {"model": "gpt-4o", "provider": "openai"}
    (stats,) = (row for row in cache.stats() if row["type"] == "llm")
    assert (stats["hits"], stats["tokens_saved"]) == (4, 480)
    assert float(stats["money_saved"]) == pytest.approx(4 * (40 * 1 + 60 * 0.5 + 20 * 10) / 1e6)


def test_another_request_is_another_answer(cache: Any, model: Model) -> None:
    cache.llm.request(REQUEST, model.compute)
    cache.llm.request({**REQUEST, "seed": 1}, model.compute)
    cache.llm.request({**REQUEST, "trace": 1}, model.compute, ignored=["trace"])
    cache.for_tenant("acme").llm.request(REQUEST, model.compute)
    assert model.asked == 3


@pytest.mark.parametrize("what", NOT_WHOLE)
def test_what_is_not_whole_is_returned_but_not_kept(
    cache: Any, model: Model, db: psycopg.Connection, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    model.answer = NOT_WHOLE[what]
    for _ in range(2):
        assert cache.llm.request(REQUEST, model.compute) == model.answer
    assert (model.asked, entries(db), leases(db)) == (2, 0, 0)
    assert ("is not cached" in caplog.text) == (what == "nothing known")


def test_several_choices_if_they_were_asked_for(cache: Any, model: Model) -> None:
    model.answer = {**CHAT, "choices": CHAT["choices"] * 2}
    for _ in range(2):
        cache.llm.request({**REQUEST, "n": 2}, model.compute)
    assert model.asked == 1


def test_no_store_looks_but_does_not_store(cache: Any, model: Model, db: psycopg.Connection) -> None:
    cache.llm.request(REQUEST, model.compute, no_store=True)
    assert (model.asked, entries(db), leases(db)) == (1, 0, 0)
    cache.llm.request(REQUEST, model.compute)
    assert cache.llm.request(REQUEST, model.compute, no_store=True) == CHAT
    assert model.asked == 2
    age(db, "1 hour")
    cache.llm.request(REQUEST, model.compute, no_store=True, max_age="1 minute")
    cache.llm.request(REQUEST, model.compute, no_store=True, refresh=True)
    assert model.asked == 4
    assert cache.llm.request(REQUEST, model.compute) == CHAT
    assert model.asked == 4


def test_refresh_stores_in_place(cache: Any, model: Model) -> None:
    cache.llm.request(REQUEST, model.compute)
    model.answer = RESPONSE
    assert cache.llm.request(REQUEST, model.compute, refresh=True) == RESPONSE
    assert cache.llm.request(REQUEST, model.compute) == RESPONSE
    model.answer = NOT_WHOLE["cut off"]
    cache.llm.request(REQUEST, model.compute, refresh=True)
    assert cache.llm.request(REQUEST, model.compute) == RESPONSE, "what was there stays"
    assert model.asked == 3


@pytest.mark.parametrize("kind", ["dsn", "transaction", "reader"])
def test_what_is_older_is_computed_anew(
    world: Any, model: Model, db: psycopg.Connection, dsn: str, kind: str, new_role: Callable[[str], str]
) -> None:
    cache = world.cache(dsn)
    cache.llm.request(REQUEST, model.compute)
    if kind == "transaction":
        cache = world.cache(world.connect(dsn))
    elif kind == "reader":
        role = new_role(dsn)
        db.execute("SELECT pgcache.cache_grant(%s, 'read')", [role_name(role)])
        cache = world.cache(role)
    age(db, "10 minutes")
    assert cache.llm.request(REQUEST, model.compute, max_age="20 minutes") == CHAT
    assert cache.llm.request(REQUEST, model.compute, max_age=700) == CHAT
    assert model.asked == 1
    model.answer = RESPONSE
    assert cache.llm.request(REQUEST, model.compute, max_age="5 minutes") == RESPONSE
    assert model.asked == 2
    if kind == "reader":
        assert cache.llm.request(REQUEST, model.compute) == CHAT
    else:
        assert cache.llm.request(REQUEST, model.compute, max_age=60) == RESPONSE
        assert cache.llm.request(REQUEST, model.compute) == RESPONSE
    assert model.asked == 2
    if kind == "dsn":
        (stats,) = (row for row in cache.stats() if row["type"] == "llm")
        assert (stats["hits"], stats["misses"]) == (4, 2), "what was too old is no hit"


def role_name(dsn: str) -> Any:
    return psycopg.conninfo.conninfo_to_dict(dsn)["user"]


@pytest.mark.parametrize("max_age", [0, 60])
def test_of_many_who_want_it_younger_one_computes(dsn: str, db: psycopg.Connection, max_age: int) -> None:
    with Cache(dsn) as first:
        first.llm.request(REQUEST, lambda: CHAT)
    age(db, "10 minutes")
    asked = []

    def compute() -> Any:
        asked.append(1)
        wait_until(lambda: len(waiting) == 4)
        return RESPONSE

    waiting: list[int] = []

    def one() -> Any:
        with Cache(dsn) as cache:
            waiting.append(1)
            return cache.llm.request(REQUEST, compute, max_age=max_age)

    assert at_once(one, one, one, one) == [RESPONSE] * 4
    assert len(asked) in ((1,) if max_age else (1, 2)), "to 0 nothing is young enough but what has come since"


@pytest.mark.parametrize("max_age", [-1, "soon"])
def test_a_max_age_that_is_none(cache: Any, model: Model, max_age: Any) -> None:
    with pytest.raises((InvalidTTLError, ValueError, psycopg.Error)):
        cache.llm.request(REQUEST, model.compute, max_age=max_age)
    assert model.asked == 0


def test_ttl_tags_and_what_compute_says_of_them(cache: Any, model: Model, db: psycopg.Connection) -> None:
    cache.llm.request(REQUEST, model.compute, ttl="1 day", tags=["doc:1"])
    assert cache.ttl("llm", cache_llm_key(REQUEST)).total_seconds() > 86_000
    cache.invalidate_tags("doc:1")
    model.answer = Computed(CHAT, ttl=60, tags=["doc:2"])
    assert cache.llm.request(REQUEST, model.compute) == CHAT
    assert cache.ttl("llm", cache_llm_key(REQUEST)).total_seconds() <= 60
    cache.invalidate_tags("doc:2")
    cache.llm.request(REQUEST, model.compute)
    assert model.asked == 3


def test_an_old_answer_if_the_model_fails(cache: Any, model: Model, db: psycopg.Connection) -> None:
    cache.llm.request(REQUEST, model.compute, stale_if_error="1 hour")
    db.execute("UPDATE pgcache.cache_llm_responses SET expires_at = now() - interval '1 minute'")
    model.answer = RuntimeError("no model")
    assert cache.llm.request(REQUEST, model.compute, stale_if_error="1 hour") == CHAT
    with pytest.raises(RuntimeError, match="no model"):
        cache.llm.request({**REQUEST, "seed": 2}, model.compute)
    assert leases(db) == 1  # held, after the failure, so that not each one tries


def test_what_another_program_stored_under_the_key_is_no_answer(cache: Any, model: Model, streamed: Any) -> None:
    for text in ("Hello", "[1]", "null"):
        cache.set("llm", cache_llm_key(REQUEST), {"response": text})
        assert cache.llm.request(REQUEST, model.compute, no_store=True) == CHAT
        assert cache.llm.request(REQUEST, model.compute) == CHAT
        assert json.loads(cache.get("llm", cache_llm_key(REQUEST))["response"]) == CHAT
    assert model.asked == 6
    cache.set("llm", cache_llm_key(REQUEST), {"response": "Hello"})
    model.answer = CHUNKS
    assert list(streamed(REQUEST, model)) == CHUNKS
    assert model.asked == 7


@pytest.mark.parametrize("wrong", [[], "x", None, 5])
def test_what_is_no_answer_is_refused(cache: Any, model: Model, db: psycopg.Connection, wrong: Any) -> None:
    model.answer = wrong
    for options in ({}, {"no_store": True}):
        with pytest.raises(TypeError, match="the whole answer, a mapping"):
            cache.llm.request(REQUEST, model.compute, **options)
    assert leases(db) == 0


def test_what_is_no_json_is_returned_all_the_same(
    cache: Any, model: Model, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    model.answer = {**CHAT, "extra": float("nan"), "more": object}
    assert cache.llm.request(REQUEST, model.compute) == model.answer
    assert "is not cached in llm" in caplog.text
    assert (entries(db), leases(db)) == (0, 0)


def test_requests_that_are_none(world: Any, cache: Any, model: Model, dsn: str) -> None:
    with pytest.raises(InvalidKeyError):
        cache.llm.request([REQUEST], model.compute)
    with pytest.raises(TypeError):
        cache.llm.request({"messages": [object()]}, model.compute)
    assert model.asked == 0
    soft = world.cache(dsn, fail_soft=True)
    for _ in range(2):
        assert soft.llm.request({"messages": "\ud800"}, model.compute) == CHAT
    assert model.asked == 2


def test_without_the_cache_the_model_is_asked(
    world: Any, model: Model, caplog: pytest.LogCaptureFixture, db: psycopg.Connection
) -> None:
    caplog.set_level(logging.WARNING, "pgcache")
    soft = world.cache("postgresql://nobody@127.0.0.1:1/none", fail_soft=True)
    for options in ({}, {"max_age": 5}, {"no_store": True}, {"refresh": True}):
        assert soft.llm.request(REQUEST, model.compute, **options) == CHAT
        model.answer = CHUNKS
        assert list(Streamed(world, soft.llm.stream(REQUEST, model.stream, **options))) == CHUNKS
        model.answer = CHAT
    assert model.asked == 8


# As a stream.


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    said = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "obfuscation": "xx"}
    part = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {**said, "choices": [part], "usage": None, **more}


USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "prompt_tokens_details": {"cached_tokens": 1}}
CHUNKS: list[Any] = [
    chunk({"role": "assistant", "content": "", "refusal": None}),
    chunk({"content": "Hé"}),
    chunk({"content": "llo", "reasoning_content": "So"}),
    chunk({"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}]}),
    chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": '"x": 1}'}}], "reasoning_content": " ..."}),
    chunk({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}),
    chunk({}, "tool_calls"),
    {**chunk({}), "choices": [], "usage": USAGE},
]
COLLECTED = {
    "id": "chatcmpl-1", "created": 1, "model": "gpt-4o", "object": "chat.completion", "usage": USAGE,
    "choices": [{
        "index": 0, "finish_reason": "tool_calls", "logprobs": None,
        "message": {
            "role": "assistant", "content": "Héllo", "refusal": None, "reasoning_content": "So ...",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
    }],
}  # fmt: skip
EVENTS: list[Any] = [
    {"type": "response.created", "sequence_number": 0, "response": {**RESPONSE, "status": "in_progress", "output": []}},
    {"type": "response.output_text.delta", "sequence_number": 1, "delta": "Hello"},
    {"type": "response.completed", "sequence_number": 2, "response": RESPONSE},
]
WITH_USAGE = {**REQUEST, "stream": True, "stream_options": {"include_usage": True}}


def collected(chunks: list[Any]) -> Any:
    all_of_it = answers.Collected()
    for each in chunks:
        all_of_it.add(each)
    return all_of_it.answer()


@pytest.mark.parametrize(
    ("given", "whole"), [(CHUNKS, COLLECTED), (EVENTS, RESPONSE)], ids=["chat completion", "response"]
)
def test_a_stream_passes_through_and_comes_again(
    cache: Any, model: Model, streamed: Any, db: psycopg.Connection, given: list[Any], whole: Any
) -> None:
    model.answer = given
    assert list(streamed(WITH_USAGE, model)) == given
    assert model.closed == 1
    again = list(streamed(WITH_USAGE, model))
    assert model.asked == 1
    assert collected(again) == whole
    assert cache.llm.request(REQUEST, model.compute) == whole, "also to who wants it at once"
    assert (model.asked, leases(db)) == (1, 0)
    entry = cache.get("llm", cache_llm_key(REQUEST))
    assert entry["tokens_used"] == whole["usage"]["total_tokens"]


def test_a_stream_without_usage_is_no_answer_to_who_is_due_it(cache: Any, model: Model, streamed: Any) -> None:
    request = {**REQUEST, "stream": True}
    model.answer = [each for each in CHUNKS if not each.get("usage")]
    for _ in range(2):
        chunks = list(streamed(request, model))
        assert collected(chunks)["choices"] == COLLECTED["choices"]
        assert not any(each.get("usage") for each in chunks)
    assert model.asked == 1
    model.answer = CHAT
    assert cache.llm.request(REQUEST, model.compute) == CHAT
    assert cache.llm.request(REQUEST, model.compute, no_store=True) == CHAT
    assert collected(list(streamed(WITH_USAGE, model))) == CHAT
    assert model.asked == 2


@pytest.mark.parametrize("answer", [CHAT, RESPONSE], ids=["chat completion", "response"])
def test_what_came_at_once_comes_as_a_stream(cache: Any, model: Model, streamed: Any, answer: Any) -> None:
    model.answer = answer
    cache.llm.request(REQUEST, model.compute)
    found = collected(list(streamed(WITH_USAGE, model)))
    assert found == answer
    assert all(each.get("usage") is None for each in streamed(REQUEST, model) if "choices" in each)
    assert model.asked == 1


def test_the_events_of_a_response() -> None:
    events = list(answers.chunks(RESPONSE, REQUEST))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.annotation.added",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "output_item.added", "output_item.done",
        "completed",
    ]  # fmt: skip
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item.get("summary", item.get("content", item.get("arguments"))) for item in added] == [[], [], "", None]


ENDS = {
    "an exception": ([*CHUNKS[:4], RuntimeError("gone")], 9),
    "no finish_reason": (CHUNKS[:4], 9),
    "nothing at all": ([], 9),
    "cut off": ([*CHUNKS[:2], chunk({}, "length")], 9),
    "filtered": ([*CHUNKS[:2], chunk({}, "content_filter")], 9),
    "refused": ([chunk({"refusal": "No."}), chunk({}, "stop")], 9),
    "an error among the chunks": ([*CHUNKS, {"error": {"message": "overloaded"}}], 99),
    "its reader leaves it": (CHUNKS, 3),
    "its reader leaves it before the first chunk is used": (CHUNKS, 1),
    "no completed": (EVENTS[:2], 9),
    "incomplete": ([*EVENTS[:2], {"type": "response.incomplete", "response": {**RESPONSE, "status": "incomplete"}}], 9),
    "failed": ([*EVENTS[:2], {"type": "response.failed", "response": {**RESPONSE, "status": "failed"}}], 9),
    "an event of an error": ([*EVENTS[:2], {"type": "error", "message": "x"}], 9),
    "chunks that are none": ([*CHUNKS[:-1], {"choices": [5]}], 99),
    "a tool call that is none": ([chunk({"tool_calls": ["look_up"]}), chunk({}, "tool_calls")], 99),
    "tool calls that are no list": ([chunk({"tool_calls": {"a": 1}}), chunk({}, "tool_calls")], 99),
    "an index that is none": ([chunk({"content": "a"}, "stop"), {"choices": [{"index": "b", "delta": {}}]}], 99),
    "nested too deeply": ([chunk({"odd": nested(5000)}), chunk({}, "stop")], 99),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_stream_that_ends_early_is_not_kept(
    model: Model, streamed: Any, db: psycopg.Connection, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    model.answer, most = ENDS[end]
    for asked in (1, 2):
        seen = []
        stream = streamed(WITH_USAGE, model)
        try:
            for each in stream:
                seen.append(each)
                if len(seen) == most:
                    break
        except RuntimeError as error:
            assert (str(error), end) == ("gone", "an exception")  # noqa: PT017
        stream.close()
        assert seen == [each for each in model.answer if isinstance(each, dict)][:most]
        assert (model.asked, model.closed, entries(db), leases(db)) == (asked, asked, 0, 0)


def test_chunks_that_are_no_mappings_pass_through(model: Model, streamed: Any, db: psycopg.Connection) -> None:
    model.answer = [*CHUNKS, "[DONE]", None]
    assert list(streamed(REQUEST, model)) == model.answer
    assert (entries(db), leases(db)) == (0, 0)


@pytest.mark.parametrize(
    ("given", "whole"), [(CHUNKS, COLLECTED), (EVENTS, RESPONSE)], ids=["chat completion", "response"]
)
def test_chunks_that_are_objects_stay_what_they_are_and_come_again_as_dicts(
    cache: Any, model: Model, streamed: Any, given: list[Any], whole: Any
) -> None:
    model.answer = [Dumped(each) for each in given]
    assert list(streamed(WITH_USAGE, model)) == model.answer
    again = list(streamed(WITH_USAGE, model))
    assert all(type(each) is dict for each in again)
    assert (collected(again), model.asked) == (whole, 1)
    assert cache.llm.request(REQUEST, model.compute) == whole


def test_chunks_that_cannot_be_dumped_reach_who_asked(
    model: Model, streamed: Any, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    model.answer = [Dumped(CHUNKS[0]), *(Dumped(each) for each in FAILURES), Dumped(CHUNKS[-1])]
    assert list(streamed(REQUEST, model)) == model.answer
    assert caplog.text.count("is not cached in llm: model_dump") == 1
    assert (entries(db), leases(db)) == (0, 0)


def test_who_stops_after_the_last_event_of_a_response_has_read_all_of_it(
    cache: Any, model: Model, streamed: Any, db: psycopg.Connection
) -> None:
    model.answer = EVENTS
    stream = streamed(REQUEST, model)
    for event in stream:
        if event["type"] == "response.completed":
            break
    stream.close()
    assert (entries(db), leases(db), model.closed) == (1, 0, 1)


def test_several_choices_in_a_stream(cache: Any, model: Model, streamed: Any, db: psycopg.Connection) -> None:
    request = {**REQUEST, "n": 2}
    model.answer = [chunk({"content": "b"}, index=1), chunk({"content": "a"}, "stop"), chunk({}, "stop", 1), CHUNKS[-1]]
    list(streamed(request, model))
    answer = cache.llm.request(request, model.compute)
    assert [each["message"]["content"] for each in answer["choices"]] == ["a", "b"]
    model.answer = model.answer[1:2]  # one has not come
    list(streamed({**request, "seed": 1}, model))
    assert (model.asked, entries(db)) == (2, 1)


def test_options_of_a_stream(cache: Any, model: Model, streamed: Any, db: psycopg.Connection) -> None:
    model.answer = CHUNKS
    list(streamed(REQUEST, model, no_store=True))
    assert (model.asked, entries(db)) == (1, 0)
    list(streamed(REQUEST, model, ttl="1 day", tags=["t"]))
    assert cache.ttl("llm", cache_llm_key(REQUEST)).total_seconds() > 86_000
    list(streamed(REQUEST, model, no_store=True))
    age(db, "10 minutes")
    list(streamed(REQUEST, model, max_age="20 minutes"))
    assert model.asked == 2
    list(streamed(REQUEST, model, max_age=60))
    list(streamed(REQUEST, model, max_age=60))
    assert model.asked == 3
    list(streamed(REQUEST, model, refresh=True))
    list(streamed(REQUEST, model, refresh=True, no_store=True))
    assert model.asked == 5
    list(streamed({**REQUEST, "trace": 1}, model, ignored=["trace"]))
    assert model.asked == 5
    cache.invalidate_tags("t")
    list(streamed(REQUEST, model))
    assert (model.asked, leases(db)) == (5, 0), "the new one has no tag"


def test_what_was_invalidated_while_it_came_is_not_kept(model: Model, streamed: Any, db: psycopg.Connection) -> None:
    model.answer = CHUNKS
    stream = iter(streamed(REQUEST, model, tags=["doc:1"]))
    next(stream)
    db.execute("SELECT pgcache.cache_invalidate_tags('doc:1')")
    list(stream)
    assert (entries(db), leases(db)) == (0, 0)


def test_others_wait_for_the_stream_of_one(dsn: str, db: psycopg.Connection) -> None:
    def never() -> Any:
        raise AssertionError("another one asks already")

    with Cache(dsn) as first, Cache(dsn) as second:
        stream = first.llm.stream(REQUEST, lambda: iter(CHUNKS))
        next(stream)
        waiting = Background(lambda: list(second.llm.stream(WITH_USAGE, never)))
        assert list(stream) == CHUNKS[1:]
        assert collected(waiting.result()) == COLLECTED


def test_a_cancelled_task_gives_its_turn_back(dsn: str, db: psycopg.Connection) -> None:
    async def read(cache: AsyncCache, begun: asyncio.Event) -> None:
        async def source() -> Any:
            yield CHUNKS[0]
            begun.set()
            await asyncio.Event().wait()

        async def compute() -> Any:
            return source()

        async for _ in cache.llm.stream(REQUEST, compute):
            pass

    async def main() -> None:
        async with AsyncCache(dsn) as cache:
            begun = asyncio.Event()
            task = asyncio.create_task(read(cache, begun))
            await begun.wait()
            assert leases(db) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (leases(db), entries(db)) == (0, 0)

    db.autocommit = True
    asyncio.run(main())


def of_chunks(*choices: dict[str, Any]) -> dict[str, Any]:
    collected = answers.Collected()
    for choice in choices:
        collected.add({"id": "1", "choices": [{"index": 0, **choice}]})
    return collected.answer()


def test_what_a_stream_says_again_is_not_joined() -> None:
    """Only of texts that are known to go on, what comes is added; with others it is not known."""
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    answer = of_chunks(
        {"delta": {"content": "a"}, "content_filter_results": safe},
        {"delta": {"content": "b"}, "content_filter_results": safe, "finish_reason": "stop"},
    )
    assert answer["choices"][0]["content_filter_results"] == safe
    assert answer["choices"][0]["message"]["content"] == "ab"
    details = {"type": "reasoning.text", "text": "a", "format": "v1", "index": 0}
    answer = of_chunks(
        {"delta": {"reasoning_details": [details]}},
        {"delta": {"reasoning_details": [{**details, "text": "b"}]}, "finish_reason": "stop"},
    )
    assert answer["choices"][0]["message"]["reasoning_details"][0]["text"] == "ab"
    assert answer["choices"][0]["message"]["reasoning_details"][0]["format"] == "v1"
    answer = of_chunks({"delta": {"odd": "a"}}, {"delta": {"odd": "b"}, "finish_reason": "stop"})
    assert not answers.is_whole(answer)


def calling(arguments: str = "", **call: Any) -> dict[str, Any]:
    """A choice of a chunk: a piece of a tool call."""
    function = {name: call.pop(name) for name in ("name",) if name in call}
    return {"delta": {"tool_calls": [{"index": 0, **call, "function": {**function, "arguments": arguments}}]}}


ENDING = {"delta": {}, "finish_reason": "tool_calls"}
FIRST = calling("{", id="a", type="function", name="f")


@pytest.mark.parametrize("empty", ["", None])
def test_what_is_empty_does_not_change_what_was_said(empty: Any) -> None:
    of_it: dict[str, Any] = dict.fromkeys(("role", "content", "tool_calls"), empty)
    answer = of_chunks(
        {"delta": {"role": "assistant", "content": "a"}, "finish_reason": empty},
        FIRST,
        {**calling("}", id=empty, type=empty, name=empty), "finish_reason": empty},
        ENDING,
        {"delta": of_it, "finish_reason": empty},
        {"delta": {**of_it, "tool_calls": []}},
    )
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "a", "tool_calls": [call]}
    assert answer["choices"] == [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    all_of_it = answers.Collected()
    for each in ({"id": "", "model": ""}, {"id": "1", "model": "m", "created": 5}, {"id": empty, "created": 0}):
        all_of_it.add(each)
    assert all_of_it.answer() == {"id": "1", "model": "m", "created": 5}


@pytest.mark.parametrize(
    "choices",
    [
        [FIRST, calling("{}", id="b", type="function", name="f")],
        [FIRST, calling("{}", id="a", name="g")],
        [FIRST, calling("{}", type="custom")],
        [FIRST, {"delta": {"tool_calls": [{"function": {"arguments": "}"}}]}}],
        [FIRST, {"delta": {"tool_calls": "f"}}],
        [FIRST, {"delta": {"tool_calls": {"index": 0}}}],
        [FIRST, {"delta": {"tool_calls": [{"index": 0, "function": "f"}]}}],
        [FIRST, {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": {"a": 1}}}]}}],
        [{"delta": {"content": "a"}}, {"delta": {"content": [{"type": "text", "text": "b"}]}}],
        [{"delta": {"content": [{"type": "text", "text": "b"}]}}, {"delta": {"content": "a"}}],
        [{"delta": {"content": "a"}}, {"delta": {"content": 5}}],
        [{"delta": {"content": 5}}, {"delta": {"content": "a"}}],
        [{"delta": {"content": "a"}}, {"delta": {}, "message": {"role": "assistant", "content": "a"}}],
        [{"delta": {"content": "a"}}, {"delta": {}, "finish_reason": "length"}],
        [{"text": "a"}],
    ],
)
def test_what_does_not_go_together_is_no_answer(choices: list[Any]) -> None:
    assert answers.is_whole(of_chunks(FIRST, ENDING))
    assert not answers.is_whole(of_chunks(*choices, ENDING))


def test_two_answers_in_a_stream_are_none() -> None:
    for given in ([*CHUNKS, *EVENTS], [*EVENTS, *CHUNKS]):
        assert not answers.is_whole(collected(given))


def of_another(answer: dict[str, Any], *path: Any, **fields: Any) -> str:
    """What another program has stored: the answer, with other fields at a place in it."""
    copied = changed(answer, lambda answer: None)
    place: Any = copied
    for step in path:
        place = place[step]
    place.update(fields)
    return json.dumps(copied)


MESSAGE = ("choices", 0, "message")
ODD: list[str] = [
    "{}", '{"choices": 5}', '{"choices": [5]}', '{"output": [1]}', '{"choices": [{}]}', '{"choices": []}',
    '{"choices": [{"message": {}, "finish_reason": "stop"}]}',
    '{"choices": [{"message": {"role": "assistant", "content": "Hello"}}]}',
    *(of_another(CHAT, *MESSAGE, tool_calls=calls) for calls in ("f", 5, {"a": 1}, ["f"], [None])),
    *(of_another(CHAT, *MESSAGE, content=content) for content in (5, {"a": 1}, ["a"], [None])),
    *(of_another(CHAT, "choices", 0, finish_reason=end) for end in (None, 5, ["stop"], "length")),
    *(of_another(CHAT, "choices", 0, message=message) for message in (None, "a", [1])),
    *(of_another(RESPONSE, "output", 1, content=content) for content in ("Hello", 5, {"a": 1}, ["a"], [None])),
    *(of_another(RESPONSE, "output", 0, summary=summary) for summary in ("So", 5, {"a": 1}, ["a"], [None])),
    *(of_another(RESPONSE, output=output) for output in ("Hello", {"a": 1}, ["a"])),
    of_another(RESPONSE, status=None),
]  # fmt: skip


def test_what_has_no_parts_is_no_answer(cache: Any, model: Model, streamed: Any) -> None:
    chat = changed(CHAT, choice(finish_reason="stop"))
    for text in ODD:
        for given, ask in (
            (chat, lambda: cache.llm.request(REQUEST, model.compute)),
            (chat, lambda: cache.llm.request(REQUEST, model.compute, no_store=True)),
            (CHUNKS, lambda: list(streamed(REQUEST, model))),
        ):
            cache.set("llm", cache_llm_key(REQUEST), {"response": text})
            model.answer = given
            assert ask() == given, text
    assert model.asked == 3 * len(ODD)


def test_whatever_is_in_an_answer_it_comes_as_a_stream(cache: Any, streamed: Any, model: Model) -> None:
    """What is stored by others, too: of what is taken for an answer a stream can be made."""
    part = {"type": "output_text", "text": 5, "annotations": 5, "logprobs": "x"}
    item = {
        "type": "message",
        "id": [],
        "content": [part, {**part, "text": "a"}, {}],
        "arguments": 5,
        "input": {"a": 1},
    }
    for answer in (
        {"status": "completed", "output": [item, {}, {"type": ["function_call"], "status": 5}]},
        {"choices": [{"message": {"content": [{}], "tool_calls": [{}], "function_call": 5}, "finish_reason": "stop"}]},
    ):
        cache.set("llm", cache_llm_key(REQUEST), {"response": json.dumps(answer)})
        assert json.loads(json.dumps(list(streamed(WITH_USAGE, model))))
    two = [{"message": {"content": text}, "finish_reason": "stop"} for text in "ab"]
    found = collected(list(answers.chunks({"choices": two}, REQUEST)))
    assert [each["message"]["content"] for each in found["choices"]] == ["a", "b"], "without an index, too"
    assert model.asked == 0


def test_an_object_of_a_providers_package(cache: Any, model: Model) -> None:
    model.answer = Dumped(CHAT)
    assert [cache.llm.request(REQUEST, model.compute) for _ in range(2)] == [CHAT, CHAT]
    assert model.asked == 1


@pytest.mark.parametrize("failure", FAILURES)
def test_an_object_that_cannot_be_dumped(
    world: Any, dsn: str, model: Model, db: psycopg.Connection, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    """In fail-soft mode who has paid for it gets it all the same."""
    model.answer = Dumped(failure)
    soft, strict = world.cache(dsn, fail_soft=True), world.cache(dsn)
    for asked, options in enumerate(({}, {"no_store": True}, {"refresh": True}), 1):
        assert soft.llm.request(REQUEST, model.compute, **options) is model.answer
        assert caplog.text.count("is not cached in llm: model_dump") == asked
        with pytest.raises(InvalidValueError, match="model_dump") as error:
            strict.llm.request(REQUEST, model.compute, **options)
        assert error.value.hint
    model.answer = Computed(model.answer, ttl=60)
    assert soft.llm.request({"messages": "\ud800"}, model.compute) is model.answer.value
    assert (model.asked, entries(db), leases(db)) == (7, 0, 0)


def test_what_json_would_change_is_returned_but_not_kept(cache: Any, model: Model, db: psycopg.Connection) -> None:
    endless = changed(CHAT, lambda answer: answer)
    endless["itself"] = endless
    for answer in (changed(CHAT, choice(f={"g": 1})), endless):
        model.answer = answer
        if answer is not endless:
            answer["choices"][0]["f"] = {1: 2}
        assert cache.llm.request(REQUEST, model.compute)["id"] == CHAT["id"]
        assert (entries(db), leases(db)) == (0, 0)
