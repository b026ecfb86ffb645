"""What adapters have in common: where their cache comes from, their keys, and calls from coroutines."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Callable, Coroutine, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ..client._sync.cache import Cache
from ..keys import cache_key

P = ParamSpec("P")
T = TypeVar("T")


def cache_of(source: Any, options: Mapping[str, Any]) -> Cache:
    """The cache that a framework's user has, or one over what Cache takes, which is a miss when it cannot be had."""
    return source if isinstance(source, Cache) else Cache(source, **{"fail_soft": True, **options})


def in_thread(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The method for coroutines: event loops cannot share a connection, threads can."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_thread(method, *args, **kwargs)

    return call


def prefix(framework: str, *parts: str) -> str:
    """What all keys begin with that belong to these parts, and no others: framework:cache_key(parts):."""
    return f"{framework}:{cache_key(*parts)}:"
