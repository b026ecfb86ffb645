"""OpenAI's client, with answers from the cache: cached(OpenAI(), "postgresql://..."). Needs the extra openai."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

from openai import AsyncOpenAI, OpenAI

from ..client._async.cache import AsyncCache
from ..client._sync.cache import Cache
from .openai_http._async.transport import async_transport
from .openai_http._sync.transport import transport

Client = TypeVar("Client", OpenAI, AsyncOpenAI)


def cached(client: Client, source: Any = None, **defaults: Any) -> Client:
    """A client with the same settings, whose chat completions and responses come from the cache, in the type llm.

    source: a Cache, for an AsyncOpenAI an AsyncCache; or what these take, and then without the cache the model is
    asked. defaults: ttl, max_age, no_store, refresh, ignored, tags, stale_for, stale_if_error and hard_timeout, as
    `llm.request` has them; a call has others with extra_body={"pgcache": {"ttl": 60}}, which the model is not sent.

    It is the client's HTTP requests that are answered, so all that makes these two is cached: create, parse and stream,
    with_raw_response too. All others pass through, and so do responses in a conversation or in the background, which
    depend on more than the request. Of many callers, in whatever process, one asks. The tenant is the cache's. The
    address is in the key, the API key is not. Errors of the model are not cached; those of the cache are raised as they
    are, by releases of openai before 3 as APIConnectionError. To close the client closes the one that it is made of,
    and a cache that is not yours.
    """
    kind, make = (AsyncCache, async_transport) if isinstance(client, AsyncOpenAI) else (Cache, transport)
    owned = not isinstance(source, kind)
    cache: Any = kind(source, fail_soft=True) if owned else source
    inner: Any = client._client  # httpx's, or that of httpx2, which later releases have
    http: Any = import_module(
        next(base.__module__.partition(".")[0] for base in type(inner).__mro__ if base.__name__ == "BaseClient")
    )
    outer = getattr(http, "AsyncClient" if kind is AsyncCache else "Client")(
        transport=make(http, inner, cache, defaults, owned),
        headers=inner.headers,
        params=inner.params,
        cookies=inner.cookies,
        timeout=inner.timeout,
    )
    return client.copy(http_client=outer)
