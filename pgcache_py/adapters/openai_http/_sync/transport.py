# Made of pgcache_py/adapters/openai_http/_async/transport.py by tools/async_to_sync.py: change that one.
"""Between OpenAI's client and its HTTP client: Transport."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ....client._sync.cache import Cache
from ..asked import DONE, EVENTS, HIT, JSON, Asked, Events, UncachedError, answer, asked, event, headers


def transport(http: Any, client: Any, cache: Cache, defaults: Mapping[str, Any], owned: bool) -> Any:
    """A transport of httpx, or httpx2, that answers from the cache or else by what the client gets.

    owned: the cache is to be closed with it.
    """

    class Transport(http.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            found = asked(http, request, defaults)
            if found is None:
                return client.send(request, stream=True)
            answered = Answered(http, client, cache, found)
            try:
                return answered.stream() if found.key.get("stream") else answered.whole()
            except UncachedError as error:
                return error.response

        def close(self) -> None:
            client.close()
            if owned:
                cache.close()

    return Transport()


class Answered:
    """How one request is answered."""

    def __init__(self, http: Any, client: Any, cache: Cache, found: Asked) -> None:
        self._http = http
        self._client = client
        self._cache = cache
        self._asked = found
        self._came: Any = None

    def whole(self) -> Any:
        found = self._cache.llm.request(self._asked.key, self._send_whole, **self._asked.options)
        return self._came or self._http.Response(200, headers={**JSON, **HIT}, content=json.dumps(found).encode())

    def stream(self) -> Any:
        chunks = self._cache.llm.stream(self._asked.key, self._send, **self._asked.options)
        first = next(chunks, None)
        given = {**EVENTS, **HIT} if self._came is None else headers(self._came)
        response = self._http.Response(200, headers=given, content=self._events(first, chunks))
        response.stream.close = chunks.close
        return response

    def _events(self, first: Any, chunks: Iterator[Any]) -> Iterator[bytes]:
        if first is not None:
            yield event(first)
        for chunk in chunks:
            yield event(chunk)
        yield DONE

    def _send_whole(self) -> Any:
        response = self._client.send(self._asked.request, stream=True)
        found = answer(response.read())
        if response.status_code != 200 or found is None:
            raise UncachedError(response)
        self._came = response
        return found

    def _send(self) -> Iterator[Any]:
        response = self._client.send(self._asked.request, stream=True)
        if response.status_code != 200:
            raise UncachedError(response)
        self._came = response
        return self._read(response)

    def _read(self, response: Any) -> Iterator[Any]:
        events = Events()
        try:
            for piece in response.iter_bytes():
                for chunk in events.read(piece):
                    yield chunk
                if events.done:
                    return
        finally:
            response.close()
