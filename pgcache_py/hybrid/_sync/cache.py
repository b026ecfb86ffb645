# Made of pgcache_py/hybrid/_async/cache.py by tools/async_to_sync.py: change that one.
"""The client with a hot tier in Redis: HybridCache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from ... import environment
from ...client import calls, wire
from ...client._sync.cache import Cache
from ...client._sync.connections import AnyConnection, AnyPool
from ...client._sync.typed import EmbeddingCache
from ...client.calls import SWEEPS, Call, Changes, Forgotten, Place, Reads, Write, Writes, located
from ...client.near.calls import REPORT_HITS, report
from ...client.near.keeper import Keeper
from ...client.near.store import Near
from ...client.trace import began, one
from ...client.typed_calls import Skip
from ...client.wire import MISS, TTL, Array, Row
from ...errors import HotTierError, PgcacheError, UnavailableError
from ...keys import cache_key
from ...tier_protocol import entry_key
from ..hot_calls import (
    HOT_GET,
    HOT_GET_MANY,
    HOT_IDENTITY,
    HOT_SET,
    IS_HOT,
    OUTBOX,
    UNREAD,
    WAKE,
    Found,
    Identity,
)
from .tier import ABSENT, MISSING, AnyRedis, HotTier, Lease, Outcome, Push

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")
Self = TypeVar("Self", bound="HybridCache")

# For how long it is believed whether a type is in the tier, in seconds.
BELIEVED = 5.0
# For how long Redis keeps the knowledge that there is no entry, at most, in milliseconds.
NEGATIVE_MS = 60_000
# What a client counts, and the tables whose entries the service that came before counted.
COUNTED = ("redis_hits", "postgres_hits", "misses", "backfills", "pushed", "refused", "served_unvouched")
OF_THE_OUTBOX = ("outbox_length", "outbox_age", "drained_at", "delivered", "flushes")
TABLES = {"face": "face_embeddings_cache", "phash": "perceptual_hash_cache", "crawl": "crawl_cache"}
# When hits are reported again after that failed, in seconds.
REPORT_AGAIN = 60.0


class HybridCache(Cache):
    """A Cache with Redis in front, for the types for which cache_hot_on was called in the database.

    A read asks Redis, then PostgreSQL, whose answer is put into Redis; a write goes to PostgreSQL, then to Redis. What
    Redis returns was current at some moment within the last max_staleness (see cache_hot_configure), whatever fails;
    only while PostgreSQL cannot be reached it may be older. What Redis does never raises: while it fails, PostgreSQL
    does all the work, and the log (logger "pgcache") says so once.

    Parameters are those of Cache, and:

    redis: a URL ("redis://...", "unix://...") or a redis.Redis, of which the address and the credentials are
    used; by default what REDIS_URL says. prefix: what the keys in Redis begin with, as the relay has it; one that
    belongs to another database is not used, which is logged. redis_timeout: seconds for each step.
    negative: put into Redis also that there is no entry. serve_when_down: go on reading Redis while PostgreSQL cannot
    be reached.

    near: as in Cache. A read then asks the process, Redis, PostgreSQL. What Redis returns is not kept; who asks
    again for it gets it from PostgreSQL, and from then on from the process.

    tenant: None for the shared one, never the session's setting. On your own connection in a transaction all calls go
    to PostgreSQL alone; Redis hears of the changes after the commit.
    """

    _shared = Cache._shared | {"_tier", "_connection", "_negative", "_serve_when_down"}

    def __init__(
        self,
        source: str | AnyConnection | AnyPool | None = None,
        redis: str | AnyRedis | None = None,
        *,
        prefix: str = "pgcache",
        tenant: str | None = None,
        fail_soft: bool = False,
        timeout: float | None = None,
        redis_timeout: float = 0.05,
        negative: bool = False,
        serve_when_down: bool = True,
        near: Near | None = None,
    ) -> None:
        redis = redis or environment.redis()
        if redis is None:
            raise HotTierError(
                "which Redis?", sqlstate="PC030", hint="HybridCache takes its URL, or finds it in REDIS_URL."
            )
        super().__init__(source, tenant=tenant or "", fail_soft=fail_soft, timeout=timeout, near=near)
        pg, soft = self._source, self._soft

        def identify() -> Identity | None:
            if soft and soft.unreachable():
                return None
            return pg.run(HOT_IDENTITY, (), None)

        self._tier = HotTier(redis, prefix, redis_timeout, identify)
        self._connection = source if isinstance(source, psycopg.Connection) else None
        self._negative = negative
        self._serve_when_down = serve_when_down

    @cached_property
    def _heads(self) -> dict[str, bytes]:
        """What the names of a type's entries begin with, for this tenant."""
        return {}

    def close(self) -> None:
        """Report the last hits to PostgreSQL, and close the cache's own connections. On a view it does nothing."""
        if not self._view:
            if not self._inside():
                self._tier.put_off(0.0)
                self._report_hits()
            self._tier.close()
            super().close()

    def for_tenant(self: Self, tenant: str | None) -> Self:
        """The same cache on the same connections, for another tenant. Cheap: make one per request."""
        return super().for_tenant(tenant or "")

    # Through the tier.

    def get(self, type: str, key: str, default: Any = None) -> Any:
        """The value of an entry, or the default on a miss.

        A cached None is a value; give the default MISS to tell it from a miss.
        """
        near = self._kept
        if near is not None and (value := near.store.read(self._tenant, type, key)) is not MISS:
            return value
        name = self._name(type, key)
        value = self._run(calls.GET, type, key) if name is None else self._read(type, key, name)
        return default if value is MISS else value

    def get_many(self, type: str, keys: Iterable[str]) -> dict[str, Any]:
        """The values of the entries that there are, by key, in the order asked."""
        keys = wire.askable(keys)
        found = {key: self._name(type, key) for key in keys if isinstance(key, str)}
        names = {key: name for key, name in found.items() if name}
        if not names or len(names) < len(found) or not all(key in names for key in keys):
            return super().get_many(type, keys)
        return self._read_many(type, names)

    def set_many(
        self, type: str, values: Mapping[str, Any], ttl: TTL | Mapping[str, TTL] = None, *, jitter: float | None = None
    ) -> int:
        """Cache many values, up to 256 MB of JSON, all or none; returns how many were stored."""
        stored = super().set_many(type, values, ttl, jitter=jitter)
        self._changed(type, values)
        return stored

    def set_many_bytes(self, type: str, values: Mapping[str, bytes | int], ttl: TTL | Mapping[str, TTL] = None) -> int:
        """Cache bytes and numbers, all or none; returns how many were stored. ttl: of all, or of some, by key."""
        stored = super().set_many_bytes(type, values, ttl)
        self._changed(type, values)
        return stored

    def delete_many(self, type: str, keys: Iterable[str], *, soft: bool = False) -> int:
        """Remove many entries; returns how many live ones there were. soft: as in delete."""
        keys = keys if isinstance(keys, str) else list(keys)
        removed = super().delete_many(type, keys, soft=soft)
        self._changed(type, keys)
        return removed

    def forget(self, subject: str, *, kind: str = "tenant") -> Forgotten:
        """Erase what is stored for a tenant, or (kind "user") for a user, in all types, logs and Redis: the receipt.

        As Cache.forget. Redis forgets when the relay comes by: then cache_hot_stats.erasing is 0.
        """
        if not self._inside():  # else what was hit would be logged later
            self._tier.put_off(0.0)
            self._report_hits()
        return super().forget(subject, kind=kind)

    def warm(self, type: str, entries: Iterable[Mapping[str, Any]]) -> int:
        """Cache many entries, all or none: mappings with key, value and, if wanted, ttl (a text). Returns how many.

        For a file or an endless stream see `python -m pgcache_py warm`.
        """
        entries = list(entries)
        stored = super().warm(type, entries)
        self._changed(type, [entry.get("key", "") for entry in entries])
        return stored

    @cached_property
    def embedding(self) -> EmbeddingCache:
        """Vectors of texts."""
        return HybridEmbeddingCache(self)

    # The calls of the Hybrid Cache Service V2.

    def cache_face_embeddings(self, content: bytes, tenant_id: str, embeddings: Sequence[Mapping[str, Any]]) -> bool:
        """Cache the faces of an image."""
        return self.face.set(content, tenant_id, embeddings)

    def get_cached_face_embeddings(self, content: bytes, tenant_id: str) -> list[Row] | None:
        """The faces of an image, [] if there are none; None on a miss."""
        return self.face.get(content, tenant_id)

    def cache_perceptual_hash(self, content: bytes, tenant_id: str, phash: str) -> bool:
        """Cache the perceptual hash of an image."""
        return self.phash.set(content, tenant_id, phash)

    def get_cached_perceptual_hash(self, content: bytes, tenant_id: str) -> str | None:
        """The perceptual hash of an image; None on a miss."""
        return self.phash.get(content, tenant_id)

    def should_skip_crawled_image(self, url: str, image_bytes: bytes, tenant_id: str) -> Skip:
        """Whether this image from this URL is stored already, and under which key: (should_skip, raw_key)."""
        return self.crawl.should_skip(url, image_bytes, tenant_id)

    def store_crawled_image(
        self, url: str, image_bytes: bytes, raw_key: str, thumbnail_key: str | None, tenant_id: str
    ) -> bool:
        """Record that an image from a URL is stored under raw_key."""
        return self.crawl.store(url, image_bytes, raw_key, thumbnail_key, tenant_id)

    def invalidate_tenant_cache(self, tenant_id: str) -> int:
        """Remove all entries of a tenant; returns how many live ones there were."""
        return self.invalidate_tenant(tenant_id)

    def clear_all_cache(self) -> bool:
        """Remove all entries of all types; True unless that failed, in fail-soft mode."""
        self.clear_all()
        return not (self._soft and self._soft.unreachable())

    def get_cache_stats(self) -> dict[str, Any]:
        """Both tiers in one answer; what is not to be had is None or left out.

        tier: what became of this client's reads and writes since it was made, and the outbox. redis_stats: what Redis
        says of itself, its hit_rate in percent, and how many keys have leases or tombstones. postgres_stats: entries by
        table, and by_type the view cache_stats.
        """
        self._tier.fold()
        counts = self._tier.counts
        reads = counts["redis_hits"] + counts["postgres_hits"] + counts["misses"]
        tier: dict[str, Any] = {name: counts[name] for name in COUNTED}
        tier["hit_rate"] = round(100 * counts["redis_hits"] / reads, 1) if reads else None
        tier["breaker"] = self._tier.breaker.state
        postgres: dict[str, Any] = {}
        with suppress(PgcacheError):
            types = self.stats()
            postgres = {f"{TABLES[row['type']]}_count": row["entries"] for row in types if row["type"] in TABLES}
            postgres["by_type"] = types
            hot = self._report(OUTBOX)
            tier["types"] = {row["type"]: row["ttl"] for row in hot if row["hot"]}
            tier |= {name: hot[0][name] for name in OF_THE_OUTBOX}
        redis = self._tier.info()
        if redis is not None:
            redis["leases_and_tombstones"] = self._tier.leases()
            asked = int(redis["keyspace_hits"]) + int(redis["keyspace_misses"])
            redis["hit_rate"] = round(100 * int(redis["keyspace_hits"]) / asked, 2) if asked else 0.0
        return {"tier": tier, "redis_stats": redis, "postgres_stats": postgres}

    # How.

    def _look(self, type: str, key: str) -> tuple[bool, Any]:
        name = self._name(type, key)
        if name is None:
            return super()._look(type, key)
        return True, self._read(type, key, name)

    def _run(self, call: Call[T], *params: str | bytes | None, raising: tuple[type[PgcacheError], ...] = ()) -> T:
        if self._inside():
            return super()._run(call, *params, raising=raising)
        tier = call.tier
        if isinstance(tier, Reads):
            place = located(tier.place, params)
            view, name = self._find(place)
            if place and name:
                value = view._read(place.type, place.key, name)
                if value is MISS:
                    missed: T = call.otherwise  # type: ignore[assignment]
                    return missed
                with suppress(AttributeError, KeyError, TypeError, ValueError):
                    found: T = tier.result(value)
                    return found
                self._tier.discard([name])  # JSON, but no value of this type
        elif isinstance(tier, Writes):
            write = located(tier.write, params)
            view, name = self._find(write and write.place)
            if write and name:
                stored: T = view._store(write, name)  # type: ignore[assignment]
                return stored
        done = super()._run(call, *params, raising=raising)
        if tier is SWEEPS:
            if done != 0 and not self._unreached():
                self._tier.fence()
                with suppress(psycopg.Error):
                    self._source.run(WAKE, (), None)
        elif isinstance(tier, Changes) and (place := located(tier.place, params)):
            self._changed(place.type, [place.key])
        self._report_hits()
        return done

    def _inside(self) -> bool:
        """Whether calls are part of a transaction of the caller's, whose own changes Redis cannot know."""
        connection = self._connection
        if connection is None:
            return False
        # Of a lost connection nothing is known, and Redis may go on.
        idle = connection.pgconn.transaction_status in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)
        return not (connection.autocommit and idle)

    def _unreached(self) -> bool:
        return self._soft is not None and self._soft.unreachable()

    def _find(self, place: Place | None) -> tuple[HybridCache, bytes | None]:
        """The view for the tenant of an entry, and the name of the entry; None if it is not in the tier."""
        if place is None:
            return self, None
        view = self if place.tenant in (None, self._tenant) else self.for_tenant(place.tenant)
        return view, view._name(place.type, place.key)

    def _name(self, type: str, key: str) -> bytes | None:
        if self._connection is not None and self._inside():
            return None
        try:
            head = self._heads.get(type) or self._head(type)
            return head and head + key.encode()
        except (AttributeError, TypeError, ValueError):
            return None  # wrong in a way that PostgreSQL will say

    def _head(self, type: str) -> bytes | None:
        if monotonic() < self._tier.off.get(type, 0.0):
            return None
        self._tier.off.pop(type, None)
        head = self._heads[type] = entry_key(self._tier.prefix, type, self._tenant or "", "").encode()
        return head

    def _left(self, type: str) -> None:
        """Do not ask Redis for a type that has left the tier, or never was in it."""
        self._tier.off[type] = monotonic() + BELIEVED
        self._heads.pop(type, None)

    def _read(self, type: str, key: str, name: bytes) -> Any:
        tier, near = self._tier, self._kept
        if near is not None:
            kept, value = self._read_kept(near, type, key)
            if kept:
                return value
        begin = began()
        value = tier.read(name)
        if value.__class__ is not Outcome:
            tier.hit(self._tenant or "", type, key)
            if near is not None:
                near.store.want(self._tenant, type, key)
            if begin:
                one(begin, "hit", type, key, "Redis")
            return value
        if value is ABSENT:
            tier.counts["misses"] += 1
            if begin:
                one(begin, "miss", type, key, "Redis")
            return MISS
        (lease,) = tier.lease([name]) if value is MISSING else (None,)
        try:
            value = self._read_and_push(type, key, lease) if lease else super()._run(calls.GET, type, key)
        except UnavailableError:
            last = self._last([name])
            if not last:
                raise
            return last[name]
        if value is MISS and self._unreached():
            return (self._last([name])).get(name, MISS)
        tier.counts["misses" if value is MISS else "postgres_hits"] += 1
        if near is not None and value is not MISS:
            near.store.want(self._tenant, type, key)
        self._report_hits()
        return value

    def _read_kept(self, near: Keeper, type: str, key: str) -> tuple[bool, Any]:
        """What this process keeps, or will keep from now on; or whether others have to answer.

        What Redis returns may be older than a change that this process has heard of already, and would not hear of
        again. So it is not kept: who asks for the first time gets it, who asks again is answered by PostgreSQL.
        """
        value = near.store.read(self._tenant, type, key)
        if value is not MISS:
            return True, value
        near.start(self._source)
        if not near.store.wanted(self._tenant, type, key):
            return False, MISS
        kept = False
        with suppress(UnavailableError):  # Redis may still answer
            kept, value = self._load(near, self._tenant, type, key)
        if kept:
            self._tier.counts["misses" if value is MISS else "postgres_hits"] += 1
            self._report_hits()
        return kept, value

    def _read_kept_many(self, type: str, keys: Sequence[str]) -> tuple[dict[str, Any], Sequence[str]]:
        """The same of many: the values, and the keys that others have to answer."""
        near = self._kept
        if near is None:
            return {}, keys
        found, missing = near.store.read_many(self._tenant, type, keys)
        near.start(self._source)
        wanted = [key for key in missing if near.store.wanted(self._tenant, type, key)]
        if wanted:
            kept, unanswered = len(found), set(wanted)
            with suppress(UnavailableError):
                unanswered = set((self._load_many(near, type, wanted, found))[1])
            self._tier.counts["postgres_hits"] += len(found) - kept
            answered = set(wanted) - unanswered
            missing = [key for key in missing if key not in answered]
        return found, missing

    def _read_and_push(self, type: str, key: str, lease: Lease) -> Any:
        """PostgreSQL's answer, which is put into Redis."""
        try:
            found = self._ask(HOT_GET, type, key)
        except BaseException:
            self._tier.give_back([lease])
            raise
        self._push(type, {key: lease}, {key: found})
        return found.value

    def _read_many(self, type: str, names: dict[str, bytes]) -> dict[str, Any]:
        tier, near = self._tier, self._kept
        begin = began()
        values, others = self._read_kept_many(type, list(names))
        if not others:
            return {key: values[key] for key in names if key in values}
        looked = dict(zip(others, tier.read_many([names[key] for key in others]), strict=True))
        hits = {key: value for key, value in looked.items() if not isinstance(value, Outcome)}
        values |= hits
        for key in hits:
            tier.hit(self._tenant or "", type, key)
            if begin:
                one(begin, "hit", type, key, "Redis")
        missing = [key for key, value in looked.items() if key not in hits and value is not ABSENT]
        if missing:
            wanted = [key for key in missing if looked[key] is MISSING]
            leases = dict(zip(wanted, tier.lease([names[key] for key in wanted]), strict=True))
            try:
                found = self._read_and_push_many(type, missing, leases)
            except UnavailableError:
                found = self._last_many(missing, names)
                if len(found) < len(missing):
                    raise
            else:
                if self._unreached():
                    found = self._last_many(missing, names)
                tier.counts["postgres_hits"] += len(found)
            values |= found
            self._report_hits()
        if near is not None:
            for key in others:
                if key in values:
                    near.store.want(self._tenant, type, key)
        tier.counts["misses"] += len(names) - len(values)
        return {key: values[key] for key in names if key in values}

    def _read_and_push_many(self, type: str, keys: Sequence[str], leases: Mapping[str, Lease | None]) -> dict[str, Any]:
        if not any(leases.values()):
            return super()._run(calls.GET_MANY, type, wire.array(keys))
        try:
            found = super()._run(HOT_GET_MANY, type, wire.array(keys))
        except BaseException:
            self._tier.give_back(leases.values())
            raise
        self._push(type, leases, found)
        return {key: each.value for key, each in found.items() if each.value is not MISS}

    def _push(self, type: str, leases: Mapping[str, Lease | None], answers: Mapping[str, Found]) -> None:
        """Put PostgreSQL's answers into Redis."""
        tier, pushes = self._tier, []
        for key, lease in leases.items():
            found = answers.get(key, UNREAD)
            mine = lease and found.epoch == lease.epoch  # else this is not whose entries these are, or not now
            if lease and mine and found.text is not None:
                pushes.append(Push(lease, found.version, found.ttl_ms, found.text))
            elif lease and mine and self._negative:
                pushes.append(Push(lease, found.version, min(found.ttl_ms, NEGATIVE_MS), b""))
            else:
                tier.give_back([lease])
        tier.counts["backfills"] += sum(tier.push(pushes))
        if not any(found.epoch for found in answers.values()) and not self._unreached():
            self._ask_whether_hot(type)

    def _store(self, write: Write, name: bytes) -> bool:
        (type, key, _), text, ttl = write
        (lease,) = self._tier.lease([name])
        if not lease:
            done = super()._run(calls.SET, type, key, text, ttl)
            self._discard([name])
            self._report_hits()
            return done
        try:
            stored = super()._run(HOT_SET, type, key, text, ttl)
        except BaseException:
            self._tier.give_back([lease])
            raise
        pushed = False
        if stored.text is not None and stored.epoch == lease.epoch:
            (pushed,) = self._tier.push([Push(lease, stored.version, stored.ttl_ms, stored.text)])
        else:
            self._tier.give_back([lease])
            if stored.stored and stored.text is None:
                self._left(type)
        if not pushed:
            self._discard([name])
        self._report_hits()
        return stored.stored

    def _changed(self, type: str, keys: Iterable[str]) -> None:
        """Let no call of this client see what was there before. The relay does so for all clients."""
        if not self._inside():
            self._discard([name for key in keys if (name := self._name(type, key))])

    def _discard(self, names: Sequence[bytes]) -> None:
        if not self._unreached():  # else nothing has changed, and this is all that readers have
            self._tier.discard(names)

    def _last(self, names: Sequence[bytes]) -> dict[bytes, Any]:
        """What Redis has, though nobody vouches for it: PostgreSQL cannot be asked."""
        if not self._serve_when_down:
            return {}
        found = zip(names, self._tier.read_many(names, vouched=False), strict=True)
        last = {name: value for name, value in found if not isinstance(value, Outcome)}
        self._tier.counts["served_unvouched"] += len(last)
        return last

    def _last_many(self, keys: Sequence[str], names: Mapping[str, bytes]) -> dict[str, Any]:
        found = self._last([names[key] for key in keys])
        return {key: found[names[key]] for key in keys if names[key] in found}

    def _ask_whether_hot(self, type: str) -> None:
        """PostgreSQL allows no entry to be put into Redis: for this type, or just not here, as on a standby."""
        if monotonic() < self._tier.hot.get(type, 0.0):
            return
        with suppress(PgcacheError):
            if super()._run(IS_HOT, type):
                self._tier.hot[type] = monotonic() + BELIEVED
            elif not self._unreached():
                self._left(type)

    def _report_hits(self) -> None:
        if not self._tier.due() or self._unreached():
            return
        for tenant, type, hits in self._tier.report():
            try:
                self._source.run(REPORT_HITS, report(type, hits), tenant)
            except psycopg.Error:
                self._tier.put_off(REPORT_AGAIN)


class HybridEmbeddingCache(EmbeddingCache):
    """The embeddings of a HybridCache."""

    def set_many(
        self, texts: Sequence[str], model: str, vectors: Sequence[Array] | NDArray[Any], *, ttl: TTL = None
    ) -> int:
        """Cache the vectors of many texts, all or none. Returns how many were stored."""
        stored = super().set_many(texts, model, vectors, ttl=ttl)
        cache = self._cache
        if isinstance(cache, HybridCache):
            cache._changed("embedding", [cache_key(text, model) for text in texts])
        return stored
