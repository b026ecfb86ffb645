"""What adapters have in common: where their cache comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..client._sync.cache import Cache


def cache_of(source: Any, options: Mapping[str, Any]) -> Cache:
    """The cache that a framework's user has, or one over what Cache takes, which is a miss when it cannot be had."""
    return source if isinstance(source, Cache) else Cache(source, **{"fail_soft": True, **options})
