"""What adapters have in common: where their cache comes from, their keys, and calls from coroutines."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ..client._sync.cache import Cache
from ..client.wire import NEVER
from ..errors import InvalidTTLError
from ..keys import any_key, cache_key

P = ParamSpec("P")
T = TypeVar("T")

# What Cache takes beside its source.
OPTIONS = frozenset({"fail_soft", "tenant", "timeout"})
TEN_THOUSAND_YEARS = 10_000 * 360 * 86400  # as PostgreSQL compares intervals


def cache_of(source: Any, options: Mapping[str, Any]) -> Cache:
    """The cache that a framework's user has, or one over what Cache takes, which is a miss when it cannot be had."""
    if not isinstance(source, Cache):
        return Cache(source, **{"fail_soft": True, **options})
    if options:  # above all a tenant
        raise TypeError(f"the Cache that is given has options of its own: give it {', '.join(options)}")
    return source


def in_thread(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The method for coroutines: event loops cannot share a connection, threads can."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_thread(method, *args, **kwargs)

    return call


def lifetime(seconds: float | timedelta) -> float:
    """The time to live for a framework's number of seconds: 0 for what expires at once, NEVER beyond what is possible.

    Raises InvalidTTLError for what is no number.
    """
    seconds = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if not isinstance(seconds, int | float) or seconds != seconds:
        raise InvalidTTLError(f"a timeout is a number of seconds, not {seconds!r:.100}")
    if seconds >= TEN_THOUSAND_YEARS:
        return NEVER
    return float(seconds) if seconds >= 1e-6 else 0


def prefix(framework: str, *parts: str) -> str:
    """What all keys begin with that belong to these parts, and no others: framework:cache_key(parts):."""
    return f"{framework}:{cache_key(*map(any_key, parts))}:"  # any_key: of half a surrogate, too
