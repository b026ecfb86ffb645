"""Whole answers of models, in OpenAI's two shapes, chat completions and responses, and the streams they come in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import InvalidValueError
from .failsoft import logger
from .terms import Form
from .wire import Row, WrongResultError, check_names, json_text

Answer: TypeAlias = dict[str, Any]

# How a whole choice ends; and of a stream's chunk the texts that go on from one to the next.
ENDED = ("stop", "tool_calls", "function_call")
GOES_ON = {
    "content", "refusal", "reasoning", "reasoning_content", "arguments", "input", "text", "thinking", "summary", "data",
    "transcript",
}  # fmt: skip
EMPTY: tuple[Any, ...] = (None, "", [], {})


# The usage of an answer that is kept of a stream which did not tell it. Providers have objects there, or null.
UNTOLD = False


class NoAnswerError(InvalidValueError):
    """What is cached is no whole answer: another program stored it, or a stream that did not tell its usage."""


def tells_usage(request: Mapping[str, Any]) -> bool:
    """Whether the stream of a chat completion is to tell how many tokens it took."""
    return bool(mapping(request.get("stream_options")).get("include_usage"))


def form(request: Mapping[str, Any], *, soft: bool = False, with_usage: bool = True) -> Form:
    """How the answer to a request is kept: as JSON text in the field response, so that it comes back as it was.

    soft: what cannot be made plain is returned as it came, and not kept. with_usage: an answer whose usage is not known
    will not do.
    """
    model, provider, n = request.get("model"), request.get("provider"), request.get("n")
    named = {name: value for name, value in (("model", model), ("provider", provider)) if isinstance(value, str)}
    choices = n if isinstance(n, int) else 1

    def checked(computed: Any) -> Any:
        try:
            answer = dumped(computed)
        except InvalidValueError as error:
            if not soft:
                raise
            logger.warning("what was computed is not cached in llm: %s", error)
            return computed
        if not isinstance(answer, Mapping):
            raise WrongResultError(f"compute returned {type(computed).__name__}; due is the whole answer, a mapping")
        return dict(answer)

    def text(answer: Answer) -> str:
        try:
            # In ASCII: whatever is in it, PostgreSQL can hold it, in databases of all encodings.
            response = json.dumps(answer, allow_nan=False, separators=(",", ":"))
            check_names(answer)  # after that, which says so if the answer contains itself
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidValueError(f"the answer is no JSON: {error}", hint="Return it as plain dicts.") from error
        return json_text({"response": response, **named, **_tokens(answer)})

    def found(value: Row) -> Answer:
        try:
            answer = json.loads(value["response"])
        except (KeyError, TypeError, ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not is_whole(answer, choices):
            raise NoAnswerError("what is cached under the key of this request is no whole answer")
        if answer.get("usage") is UNTOLD:
            if with_usage:
                raise NoAnswerError("what is cached under the key of this request came without its usage")
            del answer["usage"]
        return answer

    def keepable(answer: Any) -> bool:
        if isinstance(answer, dict) and not answer.keys() & {"choices", "output", "error"}:
            logger.warning("an answer that is neither a chat completion nor a response is not cached: %.100r", answer)
        return isinstance(answer, dict) and is_whole(answer, choices)

    return Form(checked, text, found, keepable)


def dumped(value: Any) -> Any:
    """An object of a provider's package as plain dicts; all else as it is."""
    if not callable(dump := getattr(value, "model_dump", None)):
        return value
    try:
        return dump(mode="json")
    except Exception as error:  # the package's, whichever that is
        raise InvalidValueError(
            f"model_dump of what was computed, of the class {type(value).__name__}, failed: {error!r}",
            hint="Return it as plain dicts.",
        ) from error


def is_whole(answer: Answer, choices: int = 1) -> bool:
    """Whether it has one of the two shapes, and the model has said all of it.

    Not what was cut off, filtered, refused or ended by an error; nor what chunks() can make no stream of.
    """
    if answer.get("error"):
        return False
    if isinstance(answer.get("choices"), list):
        return len(answer["choices"]) == choices and all(map(_is_whole_choice, answer["choices"]))
    if answer.get("status") != "completed" or answer.get("incomplete_details"):
        return False
    return isinstance(answer.get("output"), list) and all(map(_is_whole_item, answer["output"]))


def _is_whole_choice(choice: Any) -> bool:
    return mapping(choice).get("finish_reason") in ENDED and is_whole_message(choice.get("message"))


def is_whole_message(message: Any) -> bool:
    """Whether it is the message of a chat completion, and no refusal."""
    message = mapping(message)
    content = message.get("content")
    parts = [message.get("tool_calls")] if isinstance(content, str) else [message.get("tool_calls"), content]
    return bool(message) and not message.get("refusal") and all(map(_are_whole_parts, parts))


def _is_whole_item(item: Any) -> bool:
    return isinstance(item, Mapping) and all(_are_whole_parts(item.get(name)) for name in ("content", "summary"))


def _are_whole_parts(parts: Any) -> bool:
    """Whether they are a list of mappings, if there are any, and none is a refusal."""
    return parts is None or (
        isinstance(parts, list | tuple) and all(isinstance(part, Mapping) for part in parts) and not has_refusal(parts)
    )


def _tokens(answer: Answer) -> dict[str, int]:
    """What the provider has counted, as the type llm has it."""
    usage = mapping(answer.get("usage"))
    sent = usage.get("prompt_tokens", usage.get("input_tokens"))
    received = usage.get("completion_tokens", usage.get("output_tokens"))
    details = mapping(usage.get("prompt_tokens_details")) or mapping(usage.get("input_tokens_details"))
    total = usage.get("total_tokens")
    if total is None and _is_count(sent):
        total = sent + (received if _is_count(received) else 0)
    return counts(tokens_used=total, input_tokens=sent, cached_input_tokens=details.get("cached_tokens"))


def has_refusal(content: Any) -> bool:
    """Whether a part of a message's content is the model's refusal."""
    return any(mapping(part).get("type") == "refusal" for part in items(content))


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, if it is one; else an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> Sequence[Any]:
    """The value, if it is a list; else none."""
    return value if isinstance(value, list | tuple) else ()


def counts(**tokens: Any) -> dict[str, int]:
    """Those of the numbers of tokens that the type llm can hold: an answer is kept whatever the others are."""
    return {name: count for name, count in tokens.items() if _is_count(count)}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class Collected:
    """The answer that a stream's chunks add up to. ended: nothing more is to come, as the stream itself has said."""

    def __init__(self) -> None:
        self.ended = False
        self._broken = False
        self._answer: Answer = {}
        self._choices: dict[int, Answer] = {}

    def add(self, chunk: Any) -> None:
        """What is no chunk, or not to be understood, is no reason to fail: it only makes no answer."""
        if not self._broken:
            try:
                self._add(dumped(chunk))
            except (AttributeError, TypeError, ValueError, RecursionError) as error:
                self._broken = True
                logger.warning("what came as a stream is not cached in llm: %s", error)

    def _add(self, chunk: Mapping[str, Any]) -> None:
        kind = chunk.get("type")
        if isinstance(kind, str):  # an event of a response: the last one has all of it
            if kind == "response.completed" and isinstance(chunk.get("response"), Mapping):
                self.ended = True
                self._answer = dict(chunk["response"])
            elif kind in ("error", "response.failed", "response.incomplete"):
                self._broken = True
            return
        for name, value in chunk.items():
            if value is not None and name not in ("choices", "object", "obfuscation"):
                self._answer[name] = value or self._answer.get(name, value)
        for part in chunk.get("choices") or ():
            if "message" in part or "text" in part:
                raise ValueError("not all of a choice is in its delta")
            if not isinstance(place := part.get("index") or 0, int):
                raise TypeError(f"the index of a choice is {place!r:.40}")
            choice = self._choices.setdefault(place, {"message": {"role": "assistant", "content": None}})
            _merge(choice["message"], part.get("delta") or {})
            _merge(choice, {name: value for name, value in part.items() if name != "delta"})

    def answer(self) -> Answer:
        """All of it, at the end; of a stream that has ended early, what there is, which is_whole tells."""
        if self._broken or (self.ended and self._choices):
            return {"error": "the stream has failed"}
        if not self._choices:
            return self._answer
        choices = [choice for _, choice in sorted(self._choices.items())]
        for choice in choices:
            for call in items(choice["message"].get("tool_calls")):
                call.pop("index", None)
        return {"usage": UNTOLD, **self._answer, "object": "chat.completion", "choices": choices}


def _merge(into: Answer, delta: Mapping[str, Any]) -> None:
    """Add what a chunk says to what was said before: texts and lists go on, but list items have an index.

    What is empty changes nothing. What is followed by something else is neither, which is a ValueError.
    """
    for name, value in delta.items():
        before = into.get(name)
        if value in EMPTY and name in into:
            continue
        if before in EMPTY:
            before = None
        if isinstance(value, list) and isinstance(before, list | None):
            into[name] = before = before or []
            for each in value:
                _merge_item(before, each, named=name == "tool_calls")
        elif isinstance(value, Mapping) and isinstance(before, dict | None):
            into[name] = before = before or {}
            _merge(before, value)
        elif isinstance(value, str) and isinstance(before, str) and name in GOES_ON:
            into[name] = before + value
        elif before in (None, value) or (isinstance(value, int | float) and isinstance(before, int | float)):
            into[name] = value
        else:
            raise ValueError(f"{name} is followed by another one, or it is not known that it goes on")


def _merge_item(into: list[Any], each: Any, *, named: bool) -> None:
    """named: without an index it is one of its own, so it has to have an id."""
    place = each.get("index") if isinstance(each, Mapping) else None
    if place is None:
        if named and not each.get("id"):
            raise ValueError("which tool call goes on is not known")
        into.append(each)
        return
    item = next((item for item in into if item.get("index") == place), None)
    if item is None:
        into.append(item := {})
        into.sort(key=lambda item: item.get("index", place))
    _merge(item, each)


def chunks(answer: Answer, request: Mapping[str, Any]) -> Iterator[Answer]:
    """An answer as the stream in which it would have come, in as few chunks as it takes."""
    if isinstance(answer.get("choices"), list):
        return _chat_chunks(answer, tells_usage(request))
    return ({**event, "sequence_number": number} for number, event in enumerate(_response_events(answer)))


def _chat_chunks(answer: Answer, with_usage: bool) -> Iterator[Answer]:
    said = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    said["object"] = "chat.completion.chunk"
    if with_usage:
        said["usage"] = None
    for place, choice in enumerate(answer["choices"]):
        delta = dict(choice["message"])
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
        part = {"index": place, **choice, "delta": delta, "finish_reason": None}
        del part["message"]
        yield {**said, "choices": [part]}
        yield {
            **said,
            "choices": [{"index": part["index"], "delta": {}, "finish_reason": choice["finish_reason"]}],
        }
    if with_usage:
        yield {**said, "choices": [], "usage": answer.get("usage")}


def _response_events(answer: Answer) -> Iterator[Answer]:
    begun = {**answer, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for place, item in enumerate(answer["output"]):
        at = {"output_index": place, "item_id": item.get("id")}
        empty: Answer = {
            name: type(item[name])() for name in ("content", "summary", "arguments", "input") if item.get(name)
        }
        if "status" in item:
            empty["status"] = "in_progress"
        yield {"type": "response.output_item.added", "output_index": place, "item": {**item, **empty}}
        for number, part in enumerate(item.get("summary") or ()):
            yield from _text_events(
                "reasoning_summary_part", "reasoning_summary_text", part, {**at, "summary_index": number}
            )
        for number, part in enumerate(item.get("content") or ()):
            name = "reasoning_text" if item.get("type") == "reasoning" else "output_text"
            yield from _text_events("content_part", name, part, {**at, "content_index": number})
        for kind, name in (("function_call", "arguments"), ("mcp_call", "arguments"), ("custom_tool_call", "input")):
            if item.get("type") == kind and item.get(name):
                yield {"type": f"response.{kind}_{name}.delta", **at, "delta": item[name]}
                yield {"type": f"response.{kind}_{name}.done", **at, name: item[name], "name": item.get("name")}
        yield {"type": "response.output_item.done", "output_index": place, "item": item}
    yield {"type": "response.completed", "response": answer}


def _text_events(kind: str, name: str, part: Answer, at: Answer) -> Iterator[Answer]:
    """How a part of an item comes: begun, its text at once, its end."""
    has_text = isinstance(part.get("text"), str)
    more = {"logprobs": part.get("logprobs") or []} if name == "output_text" else {}
    yield {"type": f"response.{kind}.added", **at, "part": {**part, "text": ""} if has_text else part}
    if has_text:
        yield {"type": f"response.{name}.delta", **at, "delta": part["text"], **more}
        for number, note in enumerate(items(part.get("annotations"))):
            yield {
                "type": "response.output_text.annotation.added",
                **at,
                "annotation_index": number,
                "annotation": note,
            }
        yield {"type": f"response.{name}.done", **at, "text": part["text"], **more}
    yield {"type": f"response.{kind}.done", **at, "part": part}
