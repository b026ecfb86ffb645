"""Between OpenAI's client and its HTTP client: AsyncTransport."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ....client._async.cache import AsyncCache
from ..asked import DONE, EVENTS, HIT, JSON, Asked, Events, UncachedError, answer, asked, event, headers


def async_transport(http: Any, client: Any, cache: AsyncCache, defaults: Mapping[str, Any], owned: bool) -> Any:
    """A transport of httpx, or httpx2, that answers from the cache or else by what the client gets.

    owned: the cache is to be closed with it.
    """

    class AsyncTransport(http.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any:
            found = asked(http, request, defaults)
            if found is None:
                return await client.send(request, stream=True)
            answered = AsyncAnswered(http, client, cache, found)
            try:
                return await (answered.stream() if found.key.get("stream") else answered.whole())
            except UncachedError as error:
                return error.response

        async def aclose(self) -> None:
            await client.aclose()
            if owned:
                await cache.close()

    return AsyncTransport()


class AsyncAnswered:
    """How one request is answered."""

    def __init__(self, http: Any, client: Any, cache: AsyncCache, found: Asked) -> None:
        self._http = http
        self._client = client
        self._cache = cache
        self._asked = found
        self._came: Any = None

    async def whole(self) -> Any:
        found = await self._cache.llm.request(self._asked.key, self._send_whole, **self._asked.options)
        return self._came or self._http.Response(200, headers={**JSON, **HIT}, content=json.dumps(found).encode())

    async def stream(self) -> Any:
        chunks = self._cache.llm.stream(self._asked.key, self._send, **self._asked.options)
        first = await anext(chunks, None)
        given = {**EVENTS, **HIT} if self._came is None else headers(self._came)
        response = self._http.Response(200, headers=given, content=self._events(first, chunks))
        response.stream.aclose = chunks.aclose
        return response

    async def _events(self, first: Any, chunks: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        if first is not None:
            yield event(first)
        async for chunk in chunks:
            yield event(chunk)
        yield DONE

    async def _send_whole(self) -> Any:
        response = await self._client.send(self._asked.request, stream=True)
        found = answer(await response.aread())
        if response.status_code != 200 or found is None:
            raise UncachedError(response)
        self._came = response
        return found

    async def _send(self) -> AsyncIterator[Any]:
        response = await self._client.send(self._asked.request, stream=True)
        if response.status_code != 200:
            raise UncachedError(response)
        self._came = response
        return self._read(response)

    async def _read(self, response: Any) -> AsyncIterator[Any]:
        events = Events()
        try:
            async for piece in response.aiter_bytes():
                for chunk in events.read(piece):
                    yield chunk
                if events.done:
                    return
        finally:
            await response.aclose()
