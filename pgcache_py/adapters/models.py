"""What the adapters for models have in common: how a whole answer ends, and what may be counted of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..client.answers import ENDED

# Where providers say why an answer ended, in small letters without "_"; and what they say of a whole one. Of the many
# other reasons, and of those to come, none is the end of a whole answer.
REASONS = {"finishreason", "stopreason", "donereason", "completionreason", "status"}
WHOLE = ENDED | {
    "complete", "completed", "end_turn", "endoftext", "eos", "eos_token", "finish", "stop_sequence", "succeeded",
    "tool_call", "tool_use",
}  # fmt: skip


def is_whole(told: Mapping[str, Any]) -> bool:
    """Whether nothing that is told about an answer says that it was cut off, filtered or refused."""
    ends = (reason for name, reason in told.items() if name.replace("_", "").lower() in REASONS)
    return not told.get("refusal") and all(
        end is None or str(getattr(end, "name", end)).lower() in WHOLE for end in ends
    )


def has_refusal(content: Any) -> bool:
    """Whether a part of a message's content is the model's refusal."""
    parts: Iterable[Any] = content if isinstance(content, list) else ()
    return any(isinstance(part, Mapping) and part.get("type") == "refusal" for part in parts)


def counts(**tokens: Any) -> dict[str, int]:
    """Those of the numbers of tokens that the type llm can hold: an answer is kept whatever the others are."""
    return {name: count for name, count in tokens.items() if type(count) is int and 0 <= count < 2**31}


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
