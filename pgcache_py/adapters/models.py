"""What the adapters for models have in common: how a whole answer ends, whatever the provider calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..client.answers import ENDED

# Where providers say why an answer ended, in small letters without "_"; and what they say of a whole one. Of the many
# other reasons, and of those to come, none is the end of a whole answer.
REASONS = {"finishreason", "stopreason", "donereason", "completionreason", "status"}
WHOLE = {
    *ENDED, "complete", "completed", "end_turn", "endoftext", "eos", "eos_token", "finish", "stop_sequence",
    "succeeded", "tool_call", "tool_use",
}  # fmt: skip


def is_whole(told: Mapping[str, Any]) -> bool:
    """Whether nothing that is told about an answer says that it was cut off, filtered or refused."""
    ends = (reason for name, reason in told.items() if str(name).replace("_", "").lower() in REASONS)
    return not told.get("refusal") and all(
        end is None or str(getattr(end, "name", end)).lower() in WHOLE for end in ends
    )
