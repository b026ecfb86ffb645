"""LangChain's cache of model answers: set_llm_cache(PgcacheCache("postgresql://...")). Needs the extra langchain."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.messages import message_to_dict, messages_from_dict
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk

from ..client.answers import counts, has_refusal, mapping
from ..client.failsoft import keeping, logger
from ..client.wire import TTL, check_ttl
from .models import is_whole
from .source import cache_of

# LangChain's loads would make objects of whatever classes the text names, and others may write to the cache.
KINDS: dict[str, Any] = {
    each.__name__: each for each in (Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)
}
TOLD = ("response_metadata", "additional_kwargs")  # of the message that an answer is
MODEL = re.compile(r"""["'](?:model_name|model|model_id|deployment_name)["']\s*[:,]\s*["']([^"']+)["']""")


class PgcacheCache(BaseCache):
    """Answers in the type llm, so that the tokens and the money that hits save are counted.

    source: what Cache takes, or a Cache. ttl: default the type's. options: those of Cache, tenant for one; fail_soft is
    True unless you say otherwise, so that without the cache models are asked. Answers that were cut off, filtered or
    refused, or that have parts which are no JSON, are not kept. From a coroutine the calls run in threads, so any
    number of event loops may share a cache; give it a ConnectionPool if they are many. No tags, no leases: LangChain
    asks for an answer and stores it in calls of its own.
    """

    def __init__(self, source: Any = None, *, ttl: TTL = None, **options: Any) -> None:
        check_ttl(ttl)
        self.cache = cache_of(source, options)
        self.ttl = ttl

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        row = self.cache.llm.get(prompt, _model(llm_string), llm_string)
        try:
            return None if row is None else _answer(row["response"]) or None
        except Exception as error:  # another program's, of which LangChain makes whatever errors
            logger.warning("a cached answer of LangChain cannot be read: %s", error)
            return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        text = _text(return_val)
        if text is not None and all(map(_is_whole, return_val)):
            tokens = max(map(_tokens, return_val), key=lambda tokens: tokens.get("tokens_used", 0))
            with keeping("llm"):
                self.cache.llm.set(prompt, _model(llm_string), text, **tokens, context=llm_string, ttl=self.ttl)

    def clear(self, **kwargs: Any) -> None:
        """Remove all entries of the type llm, those of other programs too; of the cache's tenant, if it has one."""
        self.cache.clear("llm")


def _text(answer: Sequence[Generation]) -> str | None:
    """An answer as JSON; None if there is nothing in it, or not all of it comes back the same."""
    try:
        text = json.dumps(list(map(_part, answer)))
        return text if answer and _answer(text) == list(answer) else None
    except Exception:  # of whatever classes its parts are; who has paid for it gets it all the same
        return None


def _part(generation: Generation) -> dict[str, Any]:
    part = {"kind": type(generation).__name__, "text": generation.text, "info": generation.generation_info}
    if isinstance(generation, ChatGeneration):
        part["message"] = message_to_dict(generation.message)
    return part


def _answer(text: str) -> list[Generation]:
    return [
        KINDS[part["kind"]](message=messages_from_dict([part["message"]])[0], generation_info=part["info"])
        if "message" in part
        else KINDS[part["kind"]](text=part["text"], generation_info=part["info"])
        for part in json.loads(text)
    ]


def _model(llm_string: str) -> str:
    found = MODEL.search(llm_string)
    return found[1] if found else ""


def _tokens(generation: Generation) -> dict[str, Any]:
    usage = mapping(getattr(getattr(generation, "message", None), "usage_metadata", None))
    return counts(
        tokens_used=usage.get("total_tokens"),
        input_tokens=usage.get("input_tokens"),
        cached_input_tokens=mapping(usage.get("input_token_details")).get("cache_read"),
    )


def _is_whole(generation: Generation) -> bool:
    message = getattr(generation, "message", None)
    told = [generation.generation_info] + [getattr(message, name, None) for name in TOLD]
    return all(map(is_whole, map(mapping, told))) and not has_refusal(getattr(message, "content", None))
