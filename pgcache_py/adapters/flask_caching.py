"""Flask-Caching's cache: CACHE_TYPE = "pgcache_py.adapters.flask_caching.pgcache". Needs Flask-Caching.

It makes what has "cachelib" in its path without the application's settings, such as CACHE_KEY_PREFIX: two applications
would share their keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .cachelib import PgcacheCache


def pgcache(app: object, config: Mapping[str, Any], args: Sequence[Any], options: Mapping[str, Any]) -> PgcacheCache:
    """args: CACHE_ARGS, of which the first is what Cache takes. options: CACHE_OPTIONS, those of PgcacheCache."""
    return PgcacheCache(*args, **{"key_prefix": config["CACHE_KEY_PREFIX"], **options})
