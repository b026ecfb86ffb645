"""LiteLLM's cache of model answers: litellm.cache.cache = PgcacheCache("postgresql://..."). Needs the extra litellm."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from litellm.caching.base_cache import BaseCache

from ..client.answers import counts, has_refusal, is_whole_message, items, mapping
from ..client.wire import TTL, check_ttl
from ..keys import any_key
from .models import is_whole
from .source import cache_of, in_thread, lifetime

PREFIX = "litellm:"


class PgcacheCache(BaseCache):
    """Answers and embeddings in the type llm, so that the tokens and the money that hits save are counted.

    source: what Cache takes, or a Cache. ttl: of what LiteLLM gives none; default the type's. options: those of Cache,
    tenant for one; fail_soft is True unless you say otherwise, so that without the cache models are asked. From a
    coroutine the calls run in threads, so any number of event loops may share a cache; give it a ConnectionPool if they
    are many. Answers that were cut off, filtered or refused are not kept; what is no JSON raises TypeError, which
    LiteLLM logs. No tags, no leases: LiteLLM asks for an answer and stores it in calls of its own. No counters: for its
    routers' limits LiteLLM takes Redis.
    """

    def __init__(self, source: Any = None, *, ttl: TTL = None, **options: Any) -> None:
        super().__init__()
        check_ttl(ttl)
        self.cache = cache_of(source, options)
        self.ttl = ttl

    def get_cache(self, key: str, **kwargs: Any) -> Any:
        return _value(self.cache.get("llm", _key(key)))

    def batch_get_cache(self, key_list: Iterable[str], parent_otel_span: Any = None) -> dict[str, Any]:
        keys = {_key(key): key for key in key_list}
        return {keys[key]: _value(row) for key, row in self.cache.get_many("llm", keys).items()}

    def set_cache(self, key: str, value: Any, **kwargs: Any) -> None:
        self.set_cache_pipeline([(key, value)], **kwargs)

    def set_cache_pipeline(self, cache_list: Iterable[tuple[str, Any]], **kwargs: Any) -> None:
        ttl = self.ttl if kwargs.get("ttl") is None else lifetime(float(kwargs["ttl"]))
        rows = {_key(key): _row(value, kwargs.get("model")) for key, value in cache_list if _is_whole(_answer(value))}
        if ttl == 0:
            self.cache.delete_many("llm", rows)
        else:
            self.cache.set_many("llm", rows, ttl)

    def delete_cache(self, key: str) -> None:
        self.cache.delete("llm", _key(key))

    def flush_cache(self) -> None:
        """Remove what LiteLLM has stored; of the cache's tenant, if it has one."""
        self.cache.delete_prefix("llm", PREFIX)

    def _delete_many(self, keys: Iterable[str]) -> None:
        self.cache.delete_many("llm", map(_key, keys))

    def _ttl(self, key: str) -> int | None:
        left = self.cache.ttl("llm", _key(key))
        return None if left is None else int(left.total_seconds())

    def _close(self) -> None:
        self.cache.close()

    async_get_cache = in_thread(get_cache)
    async_batch_get_cache = in_thread(batch_get_cache)
    async_set_cache = in_thread(set_cache)
    async_set_cache_pipeline = in_thread(set_cache_pipeline)
    async_delete_cache = in_thread(delete_cache)
    delete_cache_keys = in_thread(_delete_many)
    async_get_ttl = in_thread(_ttl)
    disconnect = in_thread(_close)


def _key(key: str) -> str:
    return any_key(key, PREFIX)


def _row(value: Any, model: str | None) -> dict[str, Any]:
    """A value as an entry of the type llm."""
    answer = _answer(value)
    usage = mapping(answer.get("usage")) or answer  # an embedding counts its own
    tokens = counts(
        tokens_used=usage.get("total_tokens", usage.get("prompt_tokens")),
        input_tokens=usage.get("prompt_tokens"),
        cached_input_tokens=mapping(usage.get("prompt_tokens_details")).get("cached_tokens"),
    )
    return {"response": json.dumps(value), "model": str(model or answer.get("model") or ""), **tokens}


def _answer(value: Any) -> Mapping[str, Any]:
    """What the model said, in what LiteLLM keeps: {"timestamp", "response"}, where that is often JSON in a text."""
    answer: Any = mapping(value).get("response")
    with suppress(RecursionError, TypeError, ValueError):
        answer = json.loads(answer)
    return mapping(answer)


def _is_whole(answer: Mapping[str, Any]) -> bool:
    """LiteLLM keeps other things, too, which nothing is known of."""
    if isinstance(answer.get("output"), list):
        return is_whole(answer) and not any(has_refusal(mapping(item).get("content")) for item in answer["output"])
    return all(map(_is_whole_choice, items(answer.get("choices"))))


def _is_whole_choice(choice: Any) -> bool:
    choice = mapping(choice)
    message = choice.get("message")
    if message is None:
        return isinstance(choice.get("text"), str) and is_whole(choice)  # of a completion that is no chat
    return is_whole_message(message) and is_whole(choice) and is_whole(message)


def _value(row: Any) -> Any:
    try:
        value = None if row is None else json.loads(row["response"])
    except (KeyError, RecursionError, TypeError, ValueError):  # another program's
        return None
    return value if _is_whole(_answer(value)) else None  # of what is not whole LiteLLM makes errors
