# Made of pgcache_py/client/_async/cached.py by tools/async_to_sync.py: change that one.
"""The decorator: results of a function, cached under its name and arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from ..calls import TTL

if TYPE_CHECKING:
    from .cache import Cache

P = ParamSpec("P")
T = TypeVar("T")


class CachedFunction(Generic[P, T]):
    """A function whose results are cached. On a hit the result is what JSON makes of it: tuples come back as lists."""

    def __init__(
        self,
        cache: Cache,
        type: str,
        function: Callable[P, T],
        ttl: TTL,
        key: Callable[..., str],
    ) -> None:
        functools.update_wrapper(self, function)
        self._cache = cache
        self._type = type
        self._function = function
        self._ttl = ttl
        self._key = key

    def __get__(self, instance: object, owner: type | None = None) -> CachedFunction[..., T]:
        """The function as a method of an object."""
        if instance is None:
            return self
        method = MethodType(self._function, instance)
        return CachedFunction(self._cache, self._type, method, self._ttl, functools.partial(self._key, instance))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        compute = functools.partial(self._function, *args, **kwargs)
        return self._cache.get_or_compute(self._type, self.key(*args, **kwargs), compute, self._ttl)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute the result again, and cache it in place of what is cached."""
        compute = functools.partial(self._function, *args, **kwargs)
        return self._cache.recompute(self._type, self.key(*args, **kwargs), compute, self._ttl)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the result for these arguments; True if there was one."""
        return self._cache.delete(self._type, self.key(*args, **kwargs))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which the result for these arguments is cached."""
        return self._key(*args, **kwargs)
