"""pgcache: a cache inside PostgreSQL. `Cache` and `AsyncCache` call it; `python -m pgcache_py` installs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .client._async.cache import AsyncCache
from .client._sync.cache import Cache
from .client.calls import Entry, Explanation, Forgotten, Removed, Scanned
from .client.near.store import Near
from .client.terms import Computed, Fetched
from .client.typed_calls import Audio, Skip
from .client.wire import MISS, NEVER
from .errors import (
    AbortedTransactionError,
    BrokenError,
    BuiltinTypeError,
    BusyError,
    CacheFullError,
    CronMissingError,
    DimensionError,
    HotTierError,
    InvalidKeyError,
    InvalidPatternError,
    InvalidSettingError,
    InvalidTagError,
    InvalidTTLError,
    InvalidValueError,
    ModelError,
    NewerDatabaseError,
    NotANumberError,
    NotInstalledError,
    NotTextError,
    PermissionDeniedError,
    PgcacheError,
    ReadOnlyError,
    TimedOutError,
    TooSlowError,
    TypeExistsError,
    UnavailableError,
    UnknownTypeError,
    UnrepresentableError,
)
from .keys import any_key, cache_key, cache_key_json, cache_llm_key
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .hybrid._async.cache import AsyncHybridCache as AsyncHybridCache
    from .hybrid._sync.cache import HybridCache as HybridCache

__all__ = [
    "MISS",
    "NEVER",
    "AbortedTransactionError",
    "AsyncCache",
    "Audio",
    "BrokenError",
    "BuiltinTypeError",
    "BusyError",
    "Cache",
    "CacheFullError",
    "Computed",
    "CronMissingError",
    "DimensionError",
    "Entry",
    "Explanation",
    "Fetched",
    "Forgotten",
    "HotTierError",
    "InvalidKeyError",
    "InvalidPatternError",
    "InvalidSettingError",
    "InvalidTTLError",
    "InvalidTagError",
    "InvalidValueError",
    "ModelError",
    "Near",
    "NewerDatabaseError",
    "NotANumberError",
    "NotInstalledError",
    "NotTextError",
    "PermissionDeniedError",
    "PgcacheError",
    "ReadOnlyError",
    "Removed",
    "Scanned",
    "Skip",
    "TimedOutError",
    "TooSlowError",
    "TypeExistsError",
    "UnavailableError",
    "UnknownTypeError",
    "UnrepresentableError",
    "any_key",
    "cache_key",
    "cache_key_json",
    "cache_llm_key",
]


def __getattr__(name: str) -> Any:
    """HybridCache and AsyncHybridCache, which need redis-py: imported when they are asked for."""
    if name not in ("AsyncHybridCache", "HybridCache"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .hybrid._async.cache import AsyncHybridCache
        from .hybrid._sync.cache import HybridCache
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise ModuleNotFoundError(f"{name} needs redis-py: pip install 'pgcache[redis]'", name="redis") from None
    return HybridCache if name == "HybridCache" else AsyncHybridCache
