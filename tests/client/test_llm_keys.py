"""The key of a request to a model: what has to be in it, what must not, and the same in SQL and in Python."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import psycopg
import pytest

from pgcache_py import InvalidKeyError, UnrepresentableError, cache_key, cache_key_json, cache_llm_key
from tests.client.test_keys import any_json

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"default": None}}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ],
    "tools": [TOOL],
    "temperature": 0.5,
    "logit_bias": {"50256": -100},
}


def chat(**fields: Any) -> dict[str, Any]:
    return {**CHAT, **fields}


def message(place: int, **fields: Any) -> dict[str, Any]:
    messages = [dict(each) for each in CHAT["messages"]]
    messages[place].update(fields)
    return chat(messages=messages)


def without(name: str) -> dict[str, Any]:
    return {field: value for field, value in CHAT.items() if field != name}


# Each differs from CHAT, and from all others here, in something that changes the answer.
DIFFERENT: dict[str, dict[str, Any]] = {
    "model": chat(model="gpt-4o-mini"),
    "no model": without("model"),
    "provider": chat(provider="azure"),
    "base URL": chat(base_url="https://example.org/v1"),
    "another base URL": chat(base_url="https://example.org/v2"),
    "no messages": without("messages"),
    "one message less": chat(messages=CHAT["messages"][:-1]),
    "the order of messages": chat(messages=CHAT["messages"][::-1]),
    "a role": message(0, role="developer"),
    "a text": message(0, content="Be brief"),
    "a text in another form": message(0, content=[{"type": "text", "text": "Be brief."}]),
    "a part's text": message(1, content=[{"type": "text", "text": "hi"}]),
    "two parts": message(1, content=[{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]),
    "an image": message(1, content=[{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]),
    "an image's detail": message(
        1, content=[{"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}]
    ),
    "a name": message(1, name="Ann"),
    "the arguments of a tool call": message(
        2, tool_calls=[{**CALL, "function": {"name": "f", "arguments": '{"a": 1}'}}]
    ),
    "the name of a tool call": message(2, tool_calls=[{**CALL, "function": {"name": "g", "arguments": "{}"}}]),
    "a second tool call": message(2, tool_calls=[CALL, CALL]),
    "the result of a tool": message(3, content="8"),
    "a system prompt of its own": chat(system="Be brief."),
    "instructions": chat(instructions="Be brief."),
    "no tools": without("tools"),
    "an empty list of tools": chat(tools=[]),
    "two tools": chat(tools=[TOOL, TOOL]),
    "a null in a schema": chat(
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}}}}}]
    ),
    "a tool's strictness": chat(tools=[{**TOOL, "strict": True}]),
    "tool_choice": chat(tool_choice="required"),
    "tool_choice by name": chat(tool_choice={"type": "function", "function": {"name": "f"}}),
    "parallel_tool_calls": chat(parallel_tool_calls=False),
    "response_format": chat(response_format={"type": "json_object"}),
    "a schema": chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": None}}}),
    "another schema": chat(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}),
    "temperature": chat(temperature=0.50001),
    "temperature 0": chat(temperature=0),
    "no temperature": without("temperature"),
    "top_p": chat(top_p=0.5),
    "seed": chat(seed=1),
    "another seed": chat(seed=2),
    "a seed that is a text": chat(seed="1"),
    "a seed that is a boolean": chat(seed=True),
    "stop": chat(stop="x"),
    "stop as a list": chat(stop=["x"]),
    "n": chat(n=2),
    "max_tokens": chat(max_tokens=10),
    "max_completion_tokens": chat(max_completion_tokens=10),
    "reasoning_effort": chat(reasoning_effort="low"),
    "logprobs": chat(logprobs=True),
    "logit_bias": chat(logit_bias={"50256": 100}),
    "a null in an object": chat(logit_bias={"50256": -100, "1": None}),
    "presence_penalty": chat(presence_penalty=1),
    "modalities": chat(modalities=["text", "audio"]),
    "a field that nobody knows": chat(new_in_2030=0),
    "previous_response_id": chat(previous_response_id="resp_1"),
    "extra_body": chat(extra_body={"top_k": 5}),
    "extra_query": chat(extra_query={"api-version": "1"}),
}
# Each is CHAT, said otherwise.
SAME: dict[str, dict[str, Any]] = {
    "the order of fields": dict(reversed(CHAT.items())),
    "the order of a message's fields": message(0) | {"messages": [dict(reversed(m.items())) for m in CHAT["messages"]]},
    "how a number is written": json.loads(json.dumps(CHAT).replace("-100", "-100.0")),
    "a field that is null": chat(seed=None, stop=None, tool_choice=None, provider=None, base_url=None),
    "a message's fields that are null": message(2, content=None, refusal=None, function_call=None, audio=None),
    "a part's field that is null": message(1, content=[{"type": "text", "text": "Hi", "annotations": None}]),
    "a tool's field that is null": chat(tools=[{**TOOL, "strict": None}]),
    "stream": chat(stream=True, stream_options={"include_usage": True}),
    "not a stream": chat(stream=False),
    "for whom": chat(user="u", safety_identifier="s", metadata={"a": "b"}),
    "what the provider keeps": chat(store=True, prompt_cache_key="p", prompt_cache_retention="24h"),
    "how fast": chat(service_tier="priority", timeout=3.5, max_retries=9),
    "headers": chat(extra_headers={"X-A": "b"}),
    "what is for the cache": chat(pgcache={"ttl": 60}),
}


def in_sql(db: psycopg.Connection, request: Any, ignored: Any = ()) -> Any:
    row = db.execute("SELECT pgcache.cache_llm_key(%s, %s)", [json.dumps(request), list(ignored)]).fetchone()
    assert row
    return row[0]


def test_what_changes_the_answer_changes_the_key(db: psycopg.Connection) -> None:
    requests = {"as it is": CHAT, **DIFFERENT}
    keys: dict[str, str] = {}
    for what, request in requests.items():
        key = cache_llm_key(request)
        assert key not in keys, f"{what} has the key of {keys.get(key)}"
        keys[key] = what
        assert in_sql(db, request) == key, what
    assert len(requests) > 50


@pytest.mark.parametrize("what", SAME)
def test_what_does_not_change_the_answer_does_not_change_the_key(db: psycopg.Connection, what: str) -> None:
    assert SAME[what] != CHAT or what.startswith(("the order", "how a number")), "it differs"
    assert cache_llm_key(SAME[what]) == cache_llm_key(CHAT) == in_sql(db, SAME[what])


def test_more_may_be_left_out(db: psycopg.Connection) -> None:
    request = chat(trace="t", seed=3)
    key = cache_llm_key(request, ["trace", "seed"])
    assert key == cache_llm_key(CHAT) == cache_llm_key(CHAT, ["absent"]) == in_sql(db, request, ["trace", "seed"])
    assert key != cache_llm_key(request, "trace") == in_sql(db, request, ["trace"])
    assert cache_llm_key(chat(messages=[{"seed": 1}]), ["seed"]) != cache_llm_key(chat(messages=[{}]), ["seed"])


def test_a_slash_at_the_end_of_the_address_is_no_matter(db: psycopg.Connection) -> None:
    ours, theirs = chat(base_url="http://h/v1//"), chat(base_url="http://h/v1")
    assert cache_llm_key(ours) == cache_llm_key(theirs) == in_sql(db, ours)
    assert cache_llm_key(chat(base_url={"a": "/"})) == in_sql(db, chat(base_url={"a": "/"}))


def test_it_is_no_other_key(db: psycopg.Connection) -> None:
    """Of whatever else is in the type llm: llm_key has three parts or four, and this one two."""
    text = json.dumps({"model": "m"}, separators=(",", ":"))
    ours = cache_llm_key({"model": "m"})
    assert ours == cache_key("request", text)
    theirs = db.execute(
        "SELECT unnest(ARRAY[pgcache.llm_key('request', %(t)s), pgcache.llm_key('request', %(t)s, NULL, 'p'),"
        " pgcache.llm_key('', 'request', %(t)s), pgcache.cache_key(%(t)s)])",
        {"t": text},
    ).fetchall()
    assert (ours,) not in theirs
    assert ours != cache_key_json({"model": "m"})


def test_any_request_has_the_same_key_in_both(db: psycopg.Connection) -> None:
    source = Random(11)
    requests = [{f"f{n}": any_json(source, 4) for n in range(source.randrange(6))} for _ in range(800)]
    requests += [{}, {"": None}, {"a": [[{"b": None}], None]}, {"messages": "x" * 100_000}]
    found = db.execute(
        "SELECT pgcache.cache_llm_key(v) FROM unnest(%s::jsonb[]) WITH ORDINALITY AS u (v, place) ORDER BY place",
        [[json.dumps(request) for request in requests]],
    ).fetchall()
    for request, (key,) in zip(requests, found, strict=True):
        assert cache_llm_key(request) == key, request


def test_what_is_no_request(db: psycopg.Connection) -> None:
    assert db.execute("SELECT pgcache.cache_llm_key(NULL)").fetchone() == (None,)
    assert db.execute("SELECT pgcache.cache_llm_key('{}', NULL)").fetchone() == (cache_llm_key({}),)
    for text in ("[]", '"x"', "null", "1"):
        with pytest.raises(psycopg.Error, match="a request to a model is a JSON object") as caught:
            db.execute("SELECT pgcache.cache_llm_key(%s)", [text])
        assert caught.value.sqlstate == "PC002"
        with pytest.raises(InvalidKeyError, match="is a mapping"):
            cache_llm_key(json.loads(text))
    for value in (object(), {1: 2}, b"", float("nan")):
        with pytest.raises(TypeError, match="not a JSON value"):
            cache_llm_key({"messages": [value]})
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("\ud800", 10**5000, deep):
        with pytest.raises(UnrepresentableError):
            cache_llm_key({"messages": value})
