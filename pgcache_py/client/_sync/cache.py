# Made of pgcache_py/client/_async/cache.py by tools/async_to_sync.py: change that one.
"""The client: Cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from types import MethodType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from ... import keys
from ...errors import UnrepresentableError
from .. import calls, typed_calls, wire
from ..calls import Entry, Explanation, Forgotten, Place, Scanned, explained
from ..failsoft import REFUSED_ENTRIES
from ..function_key import FunctionKey, SameResult, UnkeyedError
from ..terms import Computed, Fetched, Terms, check_wait, plain, tags_of, terms
from ..waiting import settle
from ..wire import ANYTHING, MISS, TTL, Row
from .bytes import Bytes
from .once import Once, fetched_by
from .typed import TypedCaches

P = ParamSpec("P")
T = TypeVar("T")


class Cache(Bytes, TypedCaches):
    """A cache in PostgreSQL: Cache("postgresql://...") or over what you have.

    source: a conninfo string or URL, over which the cache opens one connection of its own at the first call, by default
    what DATABASE_URL, or POSTGRES_HOST and its kin, or libpq's variables name; your psycopg.Connection, whose
    transaction the calls then are part of; or your psycopg_pool.ConnectionPool, from which each call takes a
    connection. You close what is yours.

    tenant: whose entries the calls see, None for the session's setting pgcache.tenant.

    fail_soft: a cache that is unreachable, slow, not installed, read-only or broken is a miss, or a False, 0 or empty
    result, logged once (logger "pgcache"), and left alone for half a second, then longer. Mistakes in the call (a bad
    key, type, value or time to live) and calls that manage the cache still raise. On your own connection in a
    transaction each call then has a savepoint, so that the transaction goes on. An invalidation that fails is lost like
    any other call: let entries expire.

    timeout: seconds. Over a conninfo, for connecting (2 at least) and for each call; over a pool, to wait for a
    connection; over your connection its own settings hold. None is no limit, and 5 seconds in fail-soft mode.

    near: Near() for a near cache: this process keeps entries of the types of cache_near_on, and returns them without
    asking PostgreSQL, up to max_staleness old; what it writes itself it sees at once. For a conninfo, or a pool and a
    tenant.

    Raises PgcacheError, whose subclasses tell the SQLSTATEs apart. Safe to share between threads.
    """

    # One entry.

    def get(self, type: str, key: str, default: Any = None) -> Any:
        """The value of an entry, or the default on a miss.

        A cached None is a value; give the default MISS to tell it from a miss.
        """
        near = self._kept
        if near is not None and (value := near.store.read(self._tenant, type, key)) is not MISS:
            return value
        value = self._run(calls.GET, type, key)
        return default if value is MISS else value

    def set(
        self,
        type: str,
        key: str,
        value: Any,
        ttl: TTL = None,
        *,
        tags: Iterable[str] | None = None,
        token: int | None = None,
        jitter: float | None = None,
    ) -> bool:
        """Cache a value, anything that is JSON; True if it was stored, False if the type is disabled.

        ttl: how long it lives, in seconds, as a timedelta or as a text like "5 minutes", or NEVER; None for the type's
        default.
        tags: what it depends on, see invalidate_tags. token: that of fetch; the value is then stored only if nothing
        has changed since, neither the entry nor what its tags stand for, else the result is False. jitter: by which
        share of it, at random from 0 to this, the ttl is shortened (such as 0.1), so that what is stored together does
        not expire together.
        """
        if tags is None and token is None and jitter is None:
            return self._run(calls.SET, type, key, wire.json_text(value), wire.interval(ttl))
        return self._run(
            calls.SET_FRESH,
            type,
            key,
            wire.json_text(value),
            wire.interval(ttl),
            None if tags is None else wire.array(tags),
            wire.number(token),
            wire.fraction(jitter),
        )

    def add(self, type: str, key: str, value: Any, ttl: TTL = None) -> bool:
        """Cache a value only if there is none, or an expired one; True if it was stored."""
        return self._run(calls.ADD, type, key, wire.json_text(value), wire.interval(ttl))

    @overload
    def incr(self, type: str, key: str, by: int = 1, ttl: TTL = None, *, keep_ttl: bool = False) -> int: ...

    @overload
    def incr(
        self,
        type: str,
        key: str,
        by: int = 1,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        create_if_missing: bool,
    ) -> int | None: ...

    def incr(
        self,
        type: str,
        key: str,
        by: int = 1,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        create_if_missing: bool = True,
    ) -> int | None:
        """Add to a whole number and return the sum; an absent one starts from 0 and gets the ttl.

        ttl: that of the sum; None leaves a number that is there its own, and so does keep_ttl whatever the ttl is.
        create_if_missing: False returns None for an absent one, and stores nothing. Raises NotANumberError for another
        value. Fail-soft: 0, or None.
        """
        total = self._run(
            calls.INCR,
            type,
            key,
            wire.number(by),
            wire.interval(ttl),
            wire.boolean(create_if_missing),
            wire.boolean(keep_ttl),
        )
        return total or 0 if create_if_missing else total

    def incr_float(
        self,
        type: str,
        key: str,
        by: float | Decimal,
        ttl: TTL = None,
        *,
        keep_ttl: bool = False,
        create_if_missing: bool = True,
    ) -> float | None:
        """Add to any number, exactly as both are written, and return the sum; else as incr. None if none is stored."""
        total = self._run(
            calls.INCR_FLOAT,
            type,
            key,
            wire.fraction(by),
            wire.interval(ttl),
            wire.boolean(create_if_missing),
            wire.boolean(keep_ttl),
        )
        return None if total is None else float(total)

    def replace(
        self, type: str, key: str, value: Any, ttl: TTL = None, *, expected: Any = ANYTHING, keep_ttl: bool = False
    ) -> bool:
        """Cache a value only in place of a live one; True if it was stored.

        expected: only if that is the one (compare and set); MISS never is. keep_ttl: it expires when the old one would
        have.
        """
        if expected is MISS:
            return False
        return self._run(
            calls.REPLACE,
            type,
            key,
            wire.json_text(value),
            wire.interval(ttl),
            None if expected is ANYTHING else wire.json_text(expected),
            wire.boolean(keep_ttl),
        )

    def get_with_ttl(self, type: str, key: str, default: Any = None) -> tuple[Any, timedelta | float | None]:
        """The value and how long it has left to live, NEVER if it never expires; the default and None on a miss."""
        value, ttl = self._run(calls.GET_WITH_TTL, type, key)
        return (default if value is MISS else value), ttl

    def exists(self, type: str, key: str) -> bool:
        """Whether there is a live entry. Counts as neither hit nor miss."""
        return self._run(calls.EXISTS, type, key)

    def ttl(self, type: str, key: str) -> timedelta | None:
        """How long an entry has left to live; None if there is none, or if it never expires."""
        return self._run(calls.TTL_LEFT, type, key)

    def touch(self, type: str, key: str, ttl: TTL = None) -> bool:
        """Let a live entry expire later, or sooner; True if there is one. ttl: as in set, from now."""
        return self._run(calls.TOUCH, type, key, wire.interval(ttl))

    def persist(self, type: str, key: str) -> bool:
        """Let a live entry never expire; True if there is one."""
        return self._run(calls.PERSIST, type, key)

    def entry(self, type: str, key: str) -> Entry | None:
        """What is known about an entry other than its value; None if there is none."""
        return self._run(calls.ENTRY, type, key)

    def explain(self, type: str, key: str) -> Explanation:
        """Why a get hits or misses now: absent, expired, or which tag was invalidated, when and by whom.

        Counts nothing. Typed caches and cached functions have an explain of their own, which makes the key.
        """
        return explained(Place(type, key), self._run(calls.EXPLAIN, type, key))

    def delete(self, type: str, key: str, *, soft: bool = False) -> bool:
        """Remove an entry; True if there was a live one. Who computes it now will not store it.

        soft: let it expire instead, so that who takes a stale value gets it while one computes it anew.
        """
        return self._run(calls.DELETE, type, key, wire.boolean(soft))

    def delete_if(self, type: str, key: str, expected: Any) -> bool:
        """Remove an entry only if its value is this one; True if it did."""
        return self._run(calls.DELETE_IF, type, key, wire.json_text(expected))

    # Many entries in one round trip.

    def get_many(self, type: str, keys: Iterable[str]) -> dict[str, Any]:
        """The values of the entries that there are, by key, in the order asked. What cannot be a key is a miss.

        With a near cache some may be as of another moment than the others.
        """
        asked = wire.askable(keys)
        try:
            found, others = self._read_near_many(type, asked)
            if others or not asked:
                rest = self._run(calls.GET_MANY, type, wire.array(others), raising=(UnrepresentableError,))
                found |= rest
        except UnrepresentableError:  # one of them, in this database's encoding
            return self._one_by_one(asked, lambda key: self.get(type, key, MISS))
        return {key: found[key] for key in asked if key in found}

    def set_many(
        self, type: str, values: Mapping[str, Any], ttl: TTL | Mapping[str, TTL] = None, *, jitter: float | None = None
    ) -> int:
        """Cache many values, up to 256 MB of JSON, all or none; returns how many were stored.

        ttl: as in set, of all of them; or of some of them, by key. jitter: as in set, if it is one ttl. In fail-soft
        mode those that PostgreSQL cannot hold, or that are too large, are left out.
        """
        if self._soft is not None:
            values = wire.storable(values)
        try:
            if isinstance(ttl, Mapping):
                if jitter is not None:
                    raise ValueError("jitter goes with one ttl for all")
                entries = wire.json_entries(values, ttl)
                return self._run(calls.SET_MANY_TTLS, type, entries, raising=REFUSED_ENTRIES)
            return self._run(
                calls.SET_MANY,
                type,
                wire.json_object(values),
                wire.interval(ttl),
                wire.fraction(jitter),
                raising=REFUSED_ENTRIES,
            )
        except REFUSED_ENTRIES:
            if self._soft is None:
                raise
        ttls = ttl if isinstance(ttl, Mapping) else dict.fromkeys(values, ttl)
        return sum([self.set(type, key, value, ttls.get(key), jitter=jitter) for key, value in values.items()])

    def delete_many(self, type: str, keys: Iterable[str], *, soft: bool = False) -> int:
        """Remove many entries; returns how many live ones there were. soft: as in delete."""
        return self._run(calls.DELETE_MANY, type, wire.array(keys), wire.boolean(soft))

    def delete_pattern(self, type: str, pattern: str, *, soft: bool = False) -> int:
        r"""Remove the entries whose key matches a LIKE pattern ("user:42:%"; \% and \_ are literal); how many.

        soft: as in delete.
        """
        return self._run(calls.DELETE_PATTERN, type, pattern, wire.boolean(soft))

    def delete_prefix(self, type: str, prefix: str, *, soft: bool = False) -> int:
        """Remove the entries whose key begins with a text; how many live ones there were. soft: as in delete."""
        return self._run(calls.DELETE_PREFIX, type, prefix, wire.boolean(soft))

    def count(self, type: str, prefix: str = "") -> int:
        """How many live entries have a key that begins with a text."""
        return self._run(calls.COUNT, type, prefix)

    def scan(
        self, type: str, prefix: str = "", *, after: str | None = None, max_entries: int | None = 1000
    ) -> list[Scanned]:
        """A page of the live entries whose key begins with a text, in byte order: (key, value, ttl) of each.

        after: the last key of the page before. max_entries: None for all. Counts no hits.
        """
        found = self._run(calls.SCAN, type, prefix, after, wire.number(max_entries))
        return list(found)

    def keys(self, type: str, pattern: str = "%", max_keys: int | None = 1000) -> list[str]:
        """The keys of the live entries that match a LIKE pattern, in byte order. max_keys: None for all."""
        return list(self._run(calls.KEYS, type, pattern, wire.number(max_keys)))

    # Invalidation. With a tenant set, these remove that tenant's entries only.

    def invalidate_tags(self, *tags: str) -> None:
        """Invalidate all entries that have one of these tags, however many. "doc:*": all tags that begin with "doc:".

        With a tenant set, that tenant's only.
        """
        self._run(calls.INVALIDATE_TAGS, wire.array(tags))

    def clear(self, type: str) -> int:
        """Remove all entries of a type; returns how many live ones there were."""
        return self._run(calls.CLEAR, type)

    def clear_expired(self, type: str | None = None) -> int:
        """Remove the expired entries of a type, or of all types; returns how many."""
        return self._run(calls.CLEAR_EXPIRED, type)

    def clear_all(self) -> int:
        """Remove all entries of all types; returns how many live ones there were."""
        return self._run(calls.CLEAR_ALL)

    def invalidate_tenant(self, tenant: str) -> int:
        """Remove all entries of a tenant, whatever this cache's own is; returns how many live ones there were."""
        return self._run(calls.INVALIDATE_TENANT, tenant)

    def invalidate_user(self, user_id: str) -> int:
        """Remove a user's entries, of all types that have a field user_id: search results, and your own such types.

        Returns how many live ones there were.
        """
        return self._run(typed_calls.INVALIDATE_USER, user_id)

    # Computing what is not there.

    def fetch(
        self,
        type: str,
        key: str,
        *,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        wait: float = 10.0,
        lease: TTL = 30.0,
    ) -> Fetched:
        """The value of an entry, or the lease to compute it: then `set` it with the token, or `release` that.

        tags: what the value will depend on. stale_for: how long ago it may have expired, None for not at all. wait: for
        how many seconds to wait while another one computes it. lease: after which time another one may compute it.
        get_or_compute does all this.
        """
        check_wait(wait)
        return fetched_by(self, type, key, wire.array(tags), wire.interval(stale_for), wait, wire.interval(lease))

    def release(self, type: str, key: str, token: int | None) -> bool:
        """Give the lease of a fetch back, so that the next one may compute; True if it was still this one's."""
        return self._run(calls.RELEASE, type, key, wire.number(token))

    @overload
    def get_or_compute(
        self,
        type: str,
        key: str,
        compute: Callable[[], Computed[T]],
        ttl: TTL = None,
        *,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> T: ...

    @overload
    def get_or_compute(
        self,
        type: str,
        key: str,
        compute: Callable[[], T | Computed[T]],
        ttl: TTL = None,
        *,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> T: ...

    def get_or_compute(
        self,
        type: str,
        key: str,
        compute: Callable[[], T | Computed[T]],
        ttl: TTL = None,
        *,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> T:
        """The cached value, or else what compute returns, which is cached. A cached None is a value too.

        Of all callers, in whatever process, one computes, and the others wait. What it computes is not stored if
        meanwhile the entry was deleted or stored, or one of its tags was invalidated. compute may return a Computed to
        say what ttl and tags the value has.

        tags: what the value depends on, see invalidate_tags. stale_for: for how long after its end a value is returned
        to others while one computes a new one. stale_if_error: and for how long if to compute it fails, which then is
        tried again after 30 seconds. soft_timeout: after so many seconds also who computes gets that value (see
        stale_for), and the computation goes on in the background. hard_timeout: after so many seconds the call raises
        TooSlowError, whoever computes; and the longest that others leave the computation to one who may have died, if
        that is more than 30 seconds.

        On your own connection in a transaction there is no lease, which nobody else would see, and no time limit.
        """
        chosen = terms(tags, stale_for, stale_if_error, soft_timeout, hard_timeout)
        return Once(self, type, key, compute, ttl, chosen).get()

    @overload
    def recompute(
        self,
        type: str,
        key: str,
        compute: Callable[[], Computed[T]],
        ttl: TTL = None,
        *,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        hard_timeout: float | None = None,
    ) -> T: ...

    @overload
    def recompute(
        self,
        type: str,
        key: str,
        compute: Callable[[], T | Computed[T]],
        ttl: TTL = None,
        *,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        hard_timeout: float | None = None,
    ) -> T: ...

    def recompute(
        self,
        type: str,
        key: str,
        compute: Callable[[], T | Computed[T]],
        ttl: TTL = None,
        *,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        hard_timeout: float | None = None,
    ) -> T:
        """What compute returns, which is cached in place of what is there. See get_or_compute."""
        chosen = terms(tags, stale_for, stale_if_error, None, hard_timeout)
        return Once(self, type, key, compute, ttl, chosen).renew()

    @overload
    def cached(self, type: Callable[P, Computed[T]], /) -> CachedFunction[P, T]: ...

    @overload
    def cached(self, type: Callable[P, T | Computed[T]], /) -> CachedFunction[P, T]: ...

    @overload
    def cached(
        self,
        type: str = "store",
        ttl: TTL = None,
        key: Callable[..., str] | None = None,
        *,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> Decorator: ...

    def cached(
        self,
        type: Any = "store",
        ttl: TTL = None,
        key: Callable[..., str] | None = None,
        *,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> Any:
        """A decorator that caches a function's results, which must be JSON values.

        The key is made of the function's module (of a script its file), name and arguments; those have to be JSON
        values, classes, members of enumerations, or objects with a method __cache_key__ (a method's own object too),
        else a call raises TypeError. So have the variables that a function, or a decorator of it, captures of the one
        around it, as they are when it is decorated. key: makes the key from the arguments instead. tags: may be made
        from the arguments as well, by a function. For the rest see get_or_compute; the function may return a Computed.
        The function gains .invalidate(*args), .refresh(*args) and .key(*args).
        """
        if not isinstance(type, str):
            return self.cached()(type)
        made = tags if callable(tags) else None
        wire.check_ttl(ttl)
        chosen = terms(() if callable(tags) else tags, stale_for, stale_if_error, soft_timeout, hard_timeout)

        def decorate(function: Callable[P, T]) -> CachedFunction[P, T]:
            if not callable(function):
                raise TypeError(f"not a function: {function!r}. Write @classmethod and @property above @cached()")
            keys = FunctionKey(function, key, deferred=self._soft is not None)
            return CachedFunction(self, type, function, ttl, keys, chosen, made)

        return decorate

    @staticmethod
    def key(*parts: str | None) -> str:
        """A key made of any texts, as pgcache.cache_key makes it: 64 hex digits, different for different parts."""
        return keys.cache_key(*parts)

    @staticmethod
    def key_json(value: Any) -> str:
        """A key made of a JSON value, as pgcache.cache_key_json makes it: an object's order is no matter."""
        return keys.cache_key_json(value)

    # Managing the cache. These raise in fail-soft mode too.

    def create_type(
        self,
        type: str,
        *,
        ttl: TTL = "1 hour",
        max_entries: int | None = None,
        max_bytes: int | None = 4 << 30,
        eviction: str = "lru",
        hit_tracking: str = "sampled",
        durable: bool = True,
        enabled: bool = True,
        fields: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        bytes: bool = False,
    ) -> None:
        """Create a type. ttl: its default, None for never. max_...: limits, None for none.

        eviction: lru, cost, fifo or none. hit_tracking: exact, sampled or off. durable: False for a faster type that a
        crash empties. fields: what its values have, each in a column of its own, such as
        {"text": "string!", "tokens_used": "count"}; without them its values are any JSON. exist_ok: a type of this
        name is left as it is, instead of the error. bytes: its values are bytes and whole numbers, see set_bytes.
        Raises TypeExistsError, InvalidSettingError.
        """
        self._run(
            calls.CREATE_TYPE,
            type,
            wire.interval(ttl),
            wire.number(max_entries),
            wire.number(max_bytes),
            eviction,
            hit_tracking,
            wire.boolean(durable),
            wire.boolean(enabled),
            None if fields is None else wire.json_object(fields),
            wire.boolean(exist_ok),
            wire.boolean(bytes),
        )

    def configure(
        self,
        type: str,
        *,
        ttl: TTL = None,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        eviction: str | None = None,
        hit_tracking: str | None = None,
        durable: bool | None = None,
        enabled: bool | None = None,
        dimensions: int | None = None,
        reset: Sequence[str] = (),
        tier: str | None = None,
        max_age: TTL = None,
        tenant_share: float | None = None,
    ) -> None:
        """Change a type; what is None stays as it is. See create_type.

        dimensions: what all vectors of embeddings must have. reset: which of ttl, max_entries, max_bytes, dimensions,
        max_age and tenant_share to take away. tier: short, medium, long or week, whose ttl is the type's from now on.
        max_age: entries that were stored longer ago are removed by the clean-up. tenant_share: what share of the limits
        each tenant keeps, such as 0.5. Raises UnknownTypeError, InvalidSettingError.
        """
        self._run(
            calls.CONFIGURE,
            type,
            wire.interval(ttl),
            wire.number(max_entries),
            wire.number(max_bytes),
            eviction,
            hit_tracking,
            wire.boolean(durable),
            wire.boolean(enabled),
            wire.number(dimensions),
            wire.array(reset),
            tier,
            wire.interval(max_age),
            wire.fraction(tenant_share),
        )

    def tenant_limit(
        self, type: str, tenant: str, *, max_entries: int | None = None, max_bytes: int | None = None
    ) -> None:
        """Limit what one tenant, whatever this cache's own is, may have of a type; both None: no limit any more.

        Its own entries are evicted then; in a type that evicts nothing new keys raise CacheFullError. Raises
        UnknownTypeError, InvalidKeyError, InvalidSettingError.
        """
        self._run(calls.TENANT_LIMIT, type, tenant, wire.number(max_entries), wire.number(max_bytes))

    def drop_type(self, type: str) -> None:
        """Drop a type that a user created, with its entries. Raises UnknownTypeError, BuiltinTypeError."""
        self._run(calls.DROP_TYPE, type)

    def forget(self, subject: str, *, kind: str = "tenant") -> Forgotten:
        """Erase what is stored for a tenant, or (kind "user") for a user, in all types, logs and Redis: the receipt.

        A tenant is forgotten whatever this cache's own is; a user's are the entries of this cache's tenant, of all
        tenants if it has none, in the types that have a field user_id. Stop those who write for the subject first: what
        they have not committed yet stays. Raises InvalidKeyError, InvalidSettingError.
        """
        return self._run(calls.FORGET, subject, kind)

    def cleanup(self, type: str | None = None) -> int:
        """Remove what has expired and bring a type, or all types, within the limits; returns how many entries went."""
        return self._run(calls.CLEANUP, type)

    def warm(self, type: str, entries: Iterable[Mapping[str, Any]]) -> int:
        """Cache many entries, all or none: mappings with key, value and, if wanted, ttl (a text). Returns how many.

        For a file or an endless stream see `python -m pgcache_py warm`.
        """
        return self._run(calls.WARM, type, wire.json_text(list(entries)))

    def stats(self) -> list[Row]:
        """The view cache_stats: a dict for each type, with entries, hits, misses, hit rate, bytes and so on."""
        return self._report(calls.STATS)

    def health(self) -> list[Row]:
        """What cache_health() finds: a dict for each check, with check_name, status, detail and hint."""
        return self._report(calls.HEALTH)

    def index_usage(self) -> list[Row]:
        """What get_cache_index_usage() finds: a dict for each index."""
        return self._report(calls.INDEX_USAGE)


class Decorator(Protocol):
    """What `cached` returns."""

    @overload
    def __call__(self, function: Callable[P, Computed[T]], /) -> CachedFunction[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, T | Computed[T]], /) -> CachedFunction[P, T]: ...


class CachedFunction(Generic[P, T], SameResult):
    """A function whose results are cached. On a hit the result is what JSON makes of it: tuples come back as lists."""

    __name__: str
    __wrapped__: Callable[P, T | Computed[T]]

    def __init__(
        self,
        cache: Cache,
        type: str,
        function: Callable[P, T | Computed[T]],
        ttl: TTL,
        key: Callable[..., str],
        terms: Terms,
        tags: Callable[..., Iterable[str]] | None,
    ) -> None:
        functools.update_wrapper(self, function)
        self._cache = cache
        self._type = type
        self._function = function
        self._ttl = ttl
        self._key = key
        self._terms = terms
        self._tags = tags

    def __get__(self, instance: object, owner: type | None = None) -> CachedFunction[..., T]:
        """The function as a method of an object."""
        if instance is None or isinstance(self._function, staticmethod):
            return self
        method = MethodType(self._function, instance)
        key = functools.partial(self._key, instance)
        tags = self._tags and functools.partial(self._tags, instance)
        return CachedFunction(self._cache, self._type, method, self._ttl, key, self._terms, tags)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        key = self._key_if_any(*args, **kwargs)
        if key is None:
            return plain(settle(self._function(*args, **kwargs)))
        return self._once(key, *args, **kwargs).get()

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute the result again, and cache it in place of what is cached."""
        key = self._key_if_any(*args, **kwargs)
        if key is None:
            return plain(settle(self._function(*args, **kwargs)))
        return self._once(key, *args, **kwargs).renew()

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the result for these arguments; True if there was one."""
        key = self._key_if_any(*args, **kwargs)
        return key is not None and self._cache.delete(self._type, key)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Why a call with these arguments finds its result cached, or not."""
        return self._cache.explain(self._type, self._key(*args, **kwargs))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which the result for these arguments is cached."""
        return self._key(*args, **kwargs)

    def _once(self, key: str, /, *args: P.args, **kwargs: P.kwargs) -> Once[T]:
        terms = self._terms
        if self._tags:
            terms = terms._replace(tags=tags_of(self._tags(*args, **kwargs)))
        compute = functools.partial(self._function, *args, **kwargs)
        return Once(self._cache, self._type, key, compute, self._ttl, terms)

    def _key_if_any(self, *args: P.args, **kwargs: P.kwargs) -> str | None:
        """The key; None if none can be made in fail-soft mode."""
        try:
            return self._key(*args, **kwargs)
        except UnkeyedError as error:
            soft = self._cache._soft
            if soft is None or not soft.absorbs("cached", error):
                raise
            return None
