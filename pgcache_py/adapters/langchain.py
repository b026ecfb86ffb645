"""LangChain's cache of model answers: set_llm_cache(PgcacheCache("postgresql://...")). Needs the extra langchain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from langchain_core import messages
from langchain_core.caches import BaseCache
from langchain_core.load import Serializable, dumps, loads
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk

from ..client._sync.cache import Cache
from ..client.wire import TTL

# What an answer may be made of. Others who may write to the cache could otherwise have any class made.
CLASSES: list[type[Serializable]] = [
    *(Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk),
    *(each for each in vars(messages).values() if isinstance(each, type) and issubclass(each, messages.BaseMessage)),
]
MODEL = re.compile(r"""["'](?:model_name|model|model_id|deployment_name)["']\s*[:,]\s*["']([^"']+)["']""")
# An answer that ended so is not the whole of it.
CUT_OFF = {"length", "max_tokens", "content_filter", "refusal", "SAFETY", "MAX_TOKENS"}


class PgcacheCache(BaseCache):
    """Answers in the type llm, so that the tokens and the money that hits save are counted.

    source: what Cache takes, or a Cache. ttl: default the type's. options: those of Cache, tenant for one; fail_soft is
    True unless you say otherwise, so that without the cache models are asked. Answers that were cut off or filtered, or
    that have parts which LangChain cannot serialize, are not kept. From a coroutine the calls run in threads, so any
    number of event loops may share a cache; give it a ConnectionPool if they are many. No tags, no leases: LangChain
    asks for an answer and stores it in calls of its own.
    """

    def __init__(self, source: Any = None, *, ttl: TTL = None, **options: Any) -> None:
        self.cache = source if isinstance(source, Cache) else Cache(source, **{"fail_soft": True, **options})
        self.ttl = ttl

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        row = self.cache.llm.get(prompt, _model(llm_string), llm_string)
        if row is None:
            return None
        answer: list[Generation] = loads(row["response"], allowed_objects=CLASSES)
        return answer

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        text = dumps(list(return_val))
        if return_val and '"not_implemented"' not in text and not any(map(_is_cut_off, return_val)):
            tokens = max(map(_tokens, return_val)) or None
            self.cache.llm.set(prompt, _model(llm_string), text, tokens_used=tokens, context=llm_string, ttl=self.ttl)

    def clear(self, **kwargs: Any) -> None:
        """Remove all entries of the type llm, those of other programs too; of the cache's tenant, if it has one."""
        self.cache.clear("llm")


def _model(llm_string: str) -> str:
    found = MODEL.search(llm_string)
    return found[1] if found else ""


def _tokens(generation: Generation) -> int:
    usage = getattr(getattr(generation, "message", None), "usage_metadata", None) or {}
    return int(usage.get("total_tokens", 0))


def _is_cut_off(generation: Generation) -> bool:
    metadata = getattr(getattr(generation, "message", None), "response_metadata", None) or {}
    told = {**(generation.generation_info or {}), **metadata}
    return not CUT_OFF.isdisjoint({str(told.get("finish_reason")), str(told.get("stop_reason"))})
