"""What the frameworks' tests need."""

from __future__ import annotations

import os

from tests.docs.conftest import new_world

__all__ = ["new_world"]

# Read when LiteLLM is imported, which else fetches the prices of all models.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
