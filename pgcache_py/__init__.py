"""pgcache: a cache inside PostgreSQL. `Cache` and `AsyncCache` call it; `python -m pgcache_py` installs it."""

from .cache import Cache
from .cache_async import AsyncCache
from .calls import MISS, Audio, Entry, Skip
from .errors import (
    AbortedTransactionError,
    BrokenError,
    BuiltinTypeError,
    BusyError,
    CacheFullError,
    CronMissingError,
    DimensionError,
    InvalidKeyError,
    InvalidPatternError,
    InvalidSettingError,
    InvalidTTLError,
    InvalidValueError,
    ModelError,
    NewerDatabaseError,
    NotANumberError,
    NotInstalledError,
    PermissionDeniedError,
    PgcacheError,
    ReadOnlyError,
    TimedOutError,
    TypeExistsError,
    UnavailableError,
    UnknownTypeError,
)
from .keys import cache_key, cache_key_json

__version__ = "0.1.0"

__all__ = [
    "MISS",
    "AbortedTransactionError",
    "AsyncCache",
    "Audio",
    "BrokenError",
    "BuiltinTypeError",
    "BusyError",
    "Cache",
    "CacheFullError",
    "CronMissingError",
    "DimensionError",
    "Entry",
    "InvalidKeyError",
    "InvalidPatternError",
    "InvalidSettingError",
    "InvalidTTLError",
    "InvalidValueError",
    "ModelError",
    "NewerDatabaseError",
    "NotANumberError",
    "NotInstalledError",
    "PermissionDeniedError",
    "PgcacheError",
    "ReadOnlyError",
    "Skip",
    "TimedOutError",
    "TypeExistsError",
    "UnavailableError",
    "UnknownTypeError",
    "cache_key",
    "cache_key_json",
]
