"""OpenAI's own client, against an endpoint that counts what it is asked: what is cached, and comes back as it was."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import openai
import psycopg
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from pydantic import BaseModel

from pgcache_py import AsyncCache, Cache, InvalidTTLError
from pgcache_py.adapters.openai import cached
from pgcache_py.client.answers import chunks
from tests.plpython.standin import Reply, Request, Standin

QUESTION: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
ASKED: dict[str, Any] = {"model": "gpt-4o", "input": "Why is the sky blue?"}
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]


class Endpoint(Standin):
    """Numbers its answers, so that two are never the same, and has tools, responses and streams, too.

    pause: before the last but one event of a stream, until it is set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pause: threading.Event | None = None
        self.left = threading.Event()
        self.change: dict[str, Any] = {}
        self.headers: list[dict[str, str]] = []

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request, step: Reply) -> None:
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        handler.close_connection = step.how == "reset"  # this client keeps its connection
        if not request.body.get("stream") or step != Reply():
            super()._answer(handler, request, step)
            return
        request.status = 200
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("x-request-id", f"req_{len(self.log)}")
        handler.end_headers()
        handler.close_connection = True
        events = list(chunks(self._reply(request), request.body))
        try:
            for place, event in enumerate(events):
                if self.pause and place == len(events) - 1:
                    self.pause.wait(30)
                handler.wfile.write(b": a comment\r\ndata: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")
                handler.wfile.flush()
            if "messages" in request.body:
                handler.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.left.set()

    def _reply(self, request: Request) -> dict[str, Any]:
        number, body = len(self.log), request.body
        if request.path.endswith("/embeddings"):
            return super()._reply(request)
        if request.path.endswith("/chat/completions"):
            message: dict[str, Any] = {"role": "assistant", "content": f"answer {number} \u2028 é", "refusal": None}
            if "tools" in body:
                call = {"name": "look_up", "arguments": json.dumps({"number": number})}
                message["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": call}]
            if "response_format" in body:
                message["content"] = json.dumps({"number": number})
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tools" in body else "stop"}
            usage = {
                "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
                "prompt_tokens_details": {"cached_tokens": 60},
            }  # fmt: skip
            return {
                "id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1, "model": body["model"],
                "choices": [{**choice, **self.change}], "usage": usage,
            }  # fmt: skip
        text = json.dumps({"number": number}) if "text" in body else f"answer {number} é"
        content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [content]}
        return {
            "id": f"resp_{number}", "object": "response", "created_at": 1.0, "status": "completed", "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {}, "model": body["model"],
            "output": [message], "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "tools": [],
            "top_p": 1.0, "usage": {
                "input_tokens": 100, "input_tokens_details": {"cached_tokens": 60}, "output_tokens": 20,
                "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 120,
            }, **self.change,
        }  # fmt: skip


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def cache(dsn: str) -> Iterator[Cache]:
    with Cache(dsn) as ours:
        yield ours


@pytest.fixture
def plain(endpoint: Endpoint) -> Iterator[OpenAI]:
    with OpenAI(api_key="sk-test", base_url=endpoint.url) as client:
        yield client


@pytest.fixture
def client(plain: OpenAI, cache: Cache) -> OpenAI:
    return cached(plain, cache)


def of(client: Any, **fields: Any) -> Any:
    return client.chat.completions.create(**{**QUESTION, **fields})


def streamed(client: Any, **fields: Any) -> str:
    stream = of(client, stream=True, **fields)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_a_chat_completion(client: OpenAI, endpoint: Endpoint, cache: Cache) -> None:
    first, again = of(client), of(client)
    assert (again, len(endpoint.log)) == (first, 1)
    assert type(again) is type(first)
    assert again.choices[0].message.content == "answer 1 \u2028 é"
    assert again.usage.prompt_tokens_details.cached_tokens == 60
    (stats,) = (row for row in cache.stats() if row["type"] == "llm")
    assert (stats["hits"], stats["tokens_saved"]) == (1, 120)


def test_tool_calls_and_a_conversation_with_the_packages_own_objects(client: OpenAI, endpoint: Endpoint) -> None:
    for _ in range(2):
        message = of(client, tools=TOOLS).choices[0].message
        call = message.tool_calls[0]
        assert (call.id, json.loads(call.function.arguments)) == ("call_1", {"number": 1})
        result = {"role": "tool", "tool_call_id": call.id, "content": "7"}
        messages = [*QUESTION["messages"], message, result]
        assert of(client, messages=messages).choices[0].message.content.startswith("answer 2")
    assert len(endpoint.log) == 2


def test_a_response(client: OpenAI, endpoint: Endpoint) -> None:
    first, again = client.responses.create(**ASKED), client.responses.create(**ASKED)
    assert (again, again.output_text, len(endpoint.log)) == (first, "answer 1 é", 1)
    assert type(again) is type(first)
    assert client.responses.create(**ASKED, previous_response_id=again.id).output_text == "answer 2 é"


def test_whatever_else_makes_them(client: OpenAI, endpoint: Endpoint) -> None:
    class Parsed(BaseModel):
        number: int

    for _ in range(2):
        parsed = client.chat.completions.parse(**QUESTION, response_format=Parsed)
        assert parsed.choices[0].message.parsed == Parsed(number=1)
        assert client.responses.parse(**ASKED, text_format=Parsed).output_parsed == Parsed(number=2)
        raw = client.chat.completions.with_raw_response.create(**QUESTION)
        assert raw.parse().id == "chatcmpl-3"
        with client.chat.completions.with_streaming_response.create(**QUESTION) as response:
            assert json.loads(response.read())["id"] == "chatcmpl-3"
        with client.chat.completions.stream(**QUESTION) as stream:
            assert stream.get_final_completion().id == "chatcmpl-3"
        with client.responses.stream(**ASKED) as events:
            assert events.get_final_response().output_text == "answer 4 é"
    assert raw.headers["x-pgcache"] == "hit"
    assert len(endpoint.log) == 4


def test_all_else_passes_through(client: OpenAI, endpoint: Endpoint, cache: Cache) -> None:
    for _ in range(2):
        assert client.embeddings.create(model="m", input="text", encoding_format="float").data[0].embedding
        client.responses.create(**ASKED, conversation="conv_1")
        client.responses.create(**ASKED, background=True, extra_body={"pgcache": {"ttl": 5}})
    assert len(endpoint.log) == 6
    assert not any("pgcache" in request.body for request in endpoint.log)
    assert cache.count("llm") == 0


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream(client: OpenAI, endpoint: Endpoint, cache: Cache, usage: bool) -> None:
    options = {"include_usage": usage}
    assert [streamed(client, stream_options=options) for _ in range(2)] == ["answer 1 \u2028 é"] * 2
    at_once = of(client)
    asked = 1 if usage else 2  # a stream tells what it took only if it is asked to
    assert len(endpoint.log) == asked
    assert at_once.choices[0].message.content == f"answer {asked} \u2028 é"
    assert at_once.usage.total_tokens == 120
    last = list(of(client, stream=True, stream_options=options))[-1]
    assert (last.usage.total_tokens if usage else last.choices[0].finish_reason) == (120 if usage else "stop")
    tools = [chunk.choices[0].delta.tool_calls for chunk in of(client, stream=True, tools=TOOLS) if chunk.choices]
    again = [chunk.choices[0].delta.tool_calls for chunk in of(client, stream=True, tools=TOOLS) if chunk.choices]
    assert tools == again
    assert tools[0][0].function.name == "look_up"
    assert len(endpoint.log) == asked + 1


def test_a_stream_of_a_response(client: OpenAI, endpoint: Endpoint) -> None:
    for _ in range(2):
        events = list(client.responses.create(**ASKED, stream=True))
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "answer 1 é"
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == "answer 1 é"
    assert client.responses.create(**ASKED).id == "resp_1"
    assert len(endpoint.log) == 1


def test_a_stream_that_is_left_is_not_kept(client: OpenAI, endpoint: Endpoint, cache: Cache, dsn: str) -> None:
    endpoint.pause = threading.Event()
    stream = of(client, stream=True)
    assert next(stream).choices[0].delta.content.startswith("answer 1"), "it comes before the last one has come"
    stream.close()
    endpoint.pause.set()
    assert cache.count("llm") == 0
    with psycopg.connect(dsn) as db:
        assert db.execute("SELECT count(*) FROM pgcache_internal.leases WHERE deadline > now()").fetchone() == (0,)
    assert streamed(client).startswith("answer 2")
    assert streamed(client).startswith("answer 2")


def test_a_stream_that_breaks_is_not_kept(client: OpenAI, endpoint: Endpoint, cache: Cache) -> None:
    whole = [*chunks(endpoint._reply(Request("/v1/chat/completions", None, QUESTION, 0.0)), {})]
    half = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in whole[:1])
    error = b'data: {"error": {"message": "overloaded", "code": 500}}\n\n'
    for body, what in ((half, None), (half + error, openai.APIError), (half + b"data: {oops\n\n", ValueError)):
        endpoint.script = [Reply(how="raw", body=body)]
        if what:
            with pytest.raises(what):
                list(of(client, stream=True))
        else:
            assert len(list(of(client, stream=True))) == 1
        assert cache.count("llm") == 0
    assert streamed(client).startswith("answer 4")


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_packages_own_and_not_kept(
    client: OpenAI, endpoint: Endpoint, cache: Cache, stream: bool
) -> None:
    ask: Callable[[Any], Any] = streamed if stream else of
    once = client.with_options(max_retries=0)
    for status, error in ((400, openai.BadRequestError), (429, openai.RateLimitError), (500, openai.APIStatusError)):
        endpoint.script = [Reply(status=status)]
        with pytest.raises(error, match=f"the stand-in says {status}"):
            ask(once)
    endpoint.script = [Reply(how="reset")]
    with pytest.raises(openai.APIConnectionError):
        ask(once)
    endpoint.script = [Reply(status=500)]
    ask(client.with_options(max_retries=1))
    assert (len(endpoint.log), cache.count("llm")) == (6, 1)


@pytest.mark.parametrize("change", [{"finish_reason": "length"}, {"finish_reason": "content_filter"}])
def test_what_was_cut_off_is_not_kept(client: OpenAI, endpoint: Endpoint, cache: Cache, change: dict[str, Any]) -> None:
    endpoint.change = change
    for ask in (of, streamed, of):
        ask(client)
    endpoint.change = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    client.responses.create(**ASKED)
    assert (len(endpoint.log), cache.count("llm")) == (4, 0)


def test_options_of_a_call(client: OpenAI, endpoint: Endpoint, cache: Cache) -> None:
    def with_options(**options: Any) -> str:
        answer: str = of(client, extra_body={"pgcache": options, "top_k": 5}).choices[0].message.content
        return answer.split()[1]

    assert with_options(no_store=True) == "1"
    assert with_options(ttl=60, tags=["doc:1"]) == "2"
    assert with_options() == with_options(no_store=True) == with_options(max_age=60) == "2"
    assert with_options(refresh=True) == "3"
    assert with_options(max_age=0) == "4"
    assert with_options() == "4"
    (entry,) = cache.scan("llm")
    assert isinstance(entry.ttl, timedelta)
    assert entry.ttl.total_seconds() > 60, "that of the last one that was stored"
    assert [request.body.get("top_k") for request in endpoint.log] == [5] * 4
    assert not any("pgcache" in request.body for request in endpoint.log)


def test_options_that_are_none(client: OpenAI, endpoint: Endpoint) -> None:
    for options, error in (({"tll": 5}, TypeError), ({"ttl": -1}, InvalidTTLError), ([], TypeError)):
        with pytest.raises((error, openai.APIConnectionError)):
            of(client.with_options(max_retries=0), extra_body={"pgcache": options})


def test_defaults(plain: OpenAI, endpoint: Endpoint, cache: Cache) -> None:
    client = cached(plain, cache, ttl=60, ignored=["trace"], tags=["all"])
    of(client, extra_body={"trace": 1})
    of(client, extra_body={"trace": 2})
    (entry,) = cache.scan("llm")
    assert isinstance(entry.ttl, timedelta)
    assert (len(endpoint.log), entry.ttl.total_seconds() <= 60) == (1, True)
    of(client, extra_body={"trace": 2, "pgcache": {"ignored": []}})
    cache.invalidate_tags("all")
    of(client)
    assert len(endpoint.log) == 3


def test_what_is_in_the_key(plain: OpenAI, endpoint: Endpoint, cache: Cache) -> None:
    client = cached(plain, cache)
    of(client)
    of(client, user="u", metadata={"a": "b"}, store=True, extra_headers={"X-A": "b"}, timeout=7, service_tier="flex")
    of(client.with_options(api_key="sk-other", timeout=3))
    assert len(endpoint.log) == 1
    of(client, seed=1)
    of(client, temperature=0)
    of(client, model="gpt-4o-mini")
    of(client, extra_query={"api-version": "2"})
    of(client.with_options(base_url=f"{endpoint.url}/other/v1"))
    of(cached(plain, cache.for_tenant("acme")))
    assert len(endpoint.log) == 7


def test_an_http_client_of_the_users_own(endpoint: Endpoint, cache: Cache) -> None:
    sent: list[Any] = []
    own = openai.DefaultHttpxClient(
        headers={"X-Own": "a"}, cookies={"c": "d"}, params={"p": "q"}, event_hooks={"request": [sent.append]}
    )
    with cached(OpenAI(api_key="k", base_url=endpoint.url, http_client=own), cache) as client:
        assert of(client) == of(client)
    assert (len(sent), endpoint.log[0].path) == (1, "/v1/chat/completions?p=q")
    assert (endpoint.headers[0]["x-own"], endpoint.headers[0]["cookie"]) == ("a", "c=d")


def test_azure(endpoint: Endpoint, cache: Cache) -> None:
    azure = AzureOpenAI(api_key="k", azure_endpoint=endpoint.url, api_version="2024-10-21")
    with cached(azure, cache) as client:
        assert of(client) == of(client)
        of(client, model="other")
    assert [request.path.partition("?")[0] for request in endpoint.log] == [
        f"/v1/openai/deployments/{model}/chat/completions" for model in ("gpt-4o", "other")
    ]


def test_of_many_callers_one_asks(endpoint: Endpoint, cache: Cache, dsn: str) -> None:
    answers = []

    def ask() -> None:
        with Cache(dsn) as ours, cached(OpenAI(api_key="k", base_url=endpoint.url), ours) as client:
            answers.append(of(client).id)

    with endpoint.holding():
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == ["chatcmpl-1"] * 6


def test_without_the_cache_the_model_is_asked(plain: OpenAI, endpoint: Endpoint) -> None:
    client = cached(plain, "postgresql://nobody@127.0.0.1:1/none")
    assert [of(client).id, streamed(client).split()[1]] == ["chatcmpl-1", "2"]


def test_the_client_that_it_is_made_of_is_not_changed(plain: OpenAI, client: OpenAI, endpoint: Endpoint) -> None:
    of(client)
    assert [of(plain).id, of(client).id] == ["chatcmpl-2", "chatcmpl-1"]
    assert client.base_url == plain.base_url
    client.close()
    assert plain.is_closed()


def test_a_client_that_nobody_else_has(endpoint: Endpoint, cache: Cache) -> None:
    """It goes on though the one that it is made of is gone."""
    client = cached(OpenAI(api_key="k", base_url=endpoint.url), cache)
    assert [of(client, seed=seed).id for seed in (1, 2, 1)] == ["chatcmpl-1", "chatcmpl-2", "chatcmpl-1"]


def test_which_cache_for_which_client(plain: OpenAI, dsn: str) -> None:
    with pytest.raises(TypeError, match="Cache takes a conninfo"):
        cached(plain, AsyncCache(dsn))
    with pytest.raises(TypeError, match="AsyncCache takes a conninfo"):
        cached(AsyncOpenAI(api_key="k"), Cache(dsn))


def test_async(endpoint: Endpoint, dsn: str) -> None:
    class Parsed(BaseModel):
        number: int

    async def main() -> None:
        made_of = AsyncOpenAI(api_key="k", base_url=endpoint.url)
        async with AsyncCache(dsn) as cache, cached(made_of, cache, ttl=60) as client:
            found = await asyncio.gather(*(client.chat.completions.create(**QUESTION) for _ in range(8)))
            assert {answer.id for answer in found} == {"chatcmpl-1"}
            for _ in range(2):
                stream = await client.chat.completions.create(**QUESTION, seed=1, stream=True)
                texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
                assert "".join(texts) == "answer 2 \u2028 é"
                assert (await client.responses.parse(**ASKED, text_format=Parsed)).output_parsed == Parsed(number=3)
            endpoint.pause = threading.Event()
            stream = await client.chat.completions.create(**QUESTION, seed=3, stream=True)
            async for _ in stream:
                break
            await stream.close()
            endpoint.pause.set()
            assert await cache.count("llm") == 3
            endpoint.script = [Reply(status=400)]
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(**QUESTION, seed=4, stream=True)
            assert len(endpoint.log) == 5

    asyncio.run(main())
