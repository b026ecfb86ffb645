"""What is asked in an HTTP request to a model, and how answers and chunks are written there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

PATHS = ("/chat/completions", "/responses")
HIT = {"x-pgcache": "hit"}
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
DONE = b"data: [DONE]\n\n"
# Of how the body was sent, which is not how it is passed on.
OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")


class UncachedError(Exception):
    """Carries a response that is no answer through the cache."""

    def __init__(self, response: Any) -> None:
        super().__init__("the model has not answered")
        self.response = response


class Asked(NamedTuple):
    """A request that can be answered from the cache. key: of what the key is made. request: what is sent."""

    key: Mapping[str, Any]
    options: dict[str, Any]
    request: Any


def asked(http: Any, request: Any, defaults: Mapping[str, Any]) -> Asked | None:
    """None for a request that passes through."""
    address = str(request.url).partition("?")[0]
    path = next((path for path in PATHS if address.endswith(path)), None)
    if request.method != "POST" or path is None:
        return None
    try:
        body = json.loads(request.content)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    options = body.pop("pgcache", None)
    if options is not None:
        if not isinstance(options, dict):
            raise TypeError(f'extra_body={{"pgcache": ...}} takes a dict, not {options!r:.100}')
        headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() != "content-length"]
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        request = http.Request(
            request.method, request.url, headers=headers, content=content, extensions=request.extensions
        )
    if body.get("conversation") or body.get("background"):
        return Asked(body, {"no_store": True, "refresh": True}, request)
    key = {**body, "base_url": address.removesuffix(path), "query": request.url.query.decode() or None}
    return Asked(key, {**defaults, **(options or {})}, request)


def answer(content: bytes) -> Any:
    """The answer in the body of a response; None if there is none."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def headers(response: Any) -> list[tuple[str, str]]:
    """Those of a response whose stream is passed on."""
    return [(name, value) for name, value in response.headers.multi_items() if name.lower() not in OF_THE_BODY]


def event(chunk: Mapping[str, Any]) -> bytes:
    """A chunk as an event of a stream."""
    kind = chunk.get("type")
    name = f"event: {kind}\n" if isinstance(kind, str) else ""
    return f"{name}data: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode()


class Events:
    """The events in a stream of bytes. done: there are no more."""

    def __init__(self) -> None:
        self.done = False
        self._rest = b""
        self._data: list[bytes] = []

    def read(self, piece: bytes) -> Iterator[dict[str, Any]]:
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif not line and self._data:
                text = b"\n".join(self._data).strip()
                self._data.clear()
                if self.done or text == b"[DONE]":
                    self.done = True
                    return
                chunk = json.loads(text)
                if isinstance(chunk, dict):
                    yield chunk
