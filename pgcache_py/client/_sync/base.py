# Made of pgcache_py/client/_async/base.py by tools/async_to_sync.py: change that one.
"""What every client has: connections, a tenant, and a way to run a call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar, cast

import psycopg

from ... import environment
from ...errors import PgcacheError, UnrepresentableError, translated
from ..calls import RAISE, Call, Place, Reads, located
from ..failsoft import TIMEOUT, FailSoft, check_timeout
from ..near.calls import MANY_UNASKED, NEAR_GET, NEAR_GET_MANY, UNASKED
from ..near.keeper import Keeper, changed, keeper_of
from ..near.store import Near, now
from ..trace import began, ended, failed
from ..wire import MISS, Row, array
from .connections import (
    AnyConnection,
    AnyPool,
    BorrowedConnection,
    OwnConnection,
    PooledConnections,
    Source,
)

T = TypeVar("T")
Self = TypeVar("Self", bound="Base")


class Base:
    """Cache without its calls; its parameters are described there."""

    _shared = frozenset({"_source", "_soft", "_near"})  # with the views for tenants

    def __init__(
        self,
        source: str | AnyConnection | AnyPool | None = None,
        *,
        tenant: str | None = None,
        fail_soft: bool = False,
        timeout: float | None = None,
        near: Near | None = None,
    ) -> None:
        check_timeout(timeout)
        if timeout is None and fail_soft:
            timeout = TIMEOUT
        self._tenant = tenant
        self._view = False
        self._contained = False
        self._soft = FailSoft() if fail_soft else None
        self._source = self._open(source, fail_soft, timeout)
        self._near = None if near is None else keeper_of(self._source.conninfo(), near)
        self._kept = self._kept_by()

    @staticmethod
    def _open(source: object, fail_soft: bool, timeout: float | None) -> Source:
        if source is None:
            found = environment.postgresql()
            if found is None:
                raise PgcacheError(
                    "which PostgreSQL?",
                    hint="Pass its address, or set DATABASE_URL, POSTGRES_HOST or libpq's variables such as PGHOST.",
                )
            source = found.conninfo
        if isinstance(source, str):
            return OwnConnection(environment.for_libpq(source), timeout)
        if isinstance(source, psycopg.Connection):
            return BorrowedConnection(source, contained=fail_soft)
        # psycopg_pool need not be installed.
        if "ConnectionPool" in (base.__name__ for base in type(source).__mro__):
            return PooledConnections(cast(AnyPool, source), timeout)
        raise TypeError(
            "Cache takes a conninfo string, a psycopg.Connection or a psycopg_pool.ConnectionPool,"
            f" not {type(source).__name__}"
        )

    def close(self) -> None:
        """Close the cache's own connection, if it has one. On a view for a tenant it does nothing."""
        if not self._view:
            if self._near is not None:
                self._near.leave(self._source)
            self._source.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def for_tenant(self: Self, tenant: str | None) -> Self:
        """The same cache on the same connection, for another tenant. Cheap: make one per request."""
        view = copy.copy(self)
        for name in view.__dict__.keys() - self._shared:
            del view.__dict__[name]  # the typed caches, which belong to this one
        view._tenant = tenant
        view._kept = view._kept_by()
        view._contained = self._contained
        view._view = True
        return view

    def _in_savepoints(self: Self) -> Self:
        """The same cache, whose errors do not abort a transaction of the caller's."""
        view = self.for_tenant(self._tenant)
        view._contained = True
        return view

    @property
    def tenant(self) -> str | None:
        """Whose entries the calls see; None for the session's setting."""
        return self._tenant

    def __cache_key__(self) -> str | None:
        """What of it matters to the key of a function that uses it: whose entries it sees."""
        return self._tenant

    def _run(self, call: Call[T], *params: str | bytes | None, raising: tuple[type[PgcacheError], ...] = ()) -> T:
        """raising: what is raised in fail-soft mode, too."""
        near = self._near
        if near is None:
            return self._ask(call, *params, raising=raising)
        if isinstance(call.tier, Reads) and (place := located(call.tier.place, params)):
            kept, value = self._read_near(near, place)
            if kept:
                with suppress(AttributeError, KeyError, TypeError, ValueError):
                    result: T = call.otherwise if value is MISS else call.tier.result(value)  # type: ignore[assignment]
                    return result
        try:
            return self._ask(call, *params, raising=raising)
        finally:
            changed(near, call, params, self._tenant, known=self._kept is not None)

    def _kept_by(self) -> Keeper | None:
        """Who keeps the entries of this cache's tenant.

        Nobody if that is the session's own, and the session a pool's: it may be another one each time.
        """
        return None if self._tenant is None and not self._source.private else self._near

    def _read_near(self, near: Keeper, place: Place) -> tuple[bool, Any]:
        """The value that this process keeps, or that it will keep from now on; or whether there is none to be kept."""
        tenant = self._tenant if place.tenant is None else place.tenant
        if tenant is None and self._kept is None:
            return False, MISS
        value = near.store.read(tenant, place.type, place.key)
        return (True, value) if value is not MISS else self._load(near, tenant, place.type, place.key)

    def _load(self, near: Keeper, tenant: str | None, type: str, key: str) -> tuple[bool, Any]:
        """Ask PostgreSQL for what this process does not keep: whether it was asked, and the value, or MISS."""
        near.start(self._source)
        store = near.store  # in a forked process it is another one
        loads = store.begin(tenant, type, [key])
        if not loads:
            return False, MISS
        view = self if tenant == self._tenant else self.for_tenant(tenant)
        found, asked_at = UNASKED, now()
        try:
            found = view._ask(NEAR_GET, type, key)
        finally:
            store.end(loads, {key: found}, asked_at)
        return found is not UNASKED, found.value

    def _read_near_many(self, type: str, keys: Sequence[str]) -> tuple[dict[str, Any], Sequence[str]]:
        """The values that this process keeps, or will keep from now on, and the keys that others have to answer."""
        near = self._kept
        if near is None:
            return {}, keys
        found, missing = near.store.read_many(self._tenant, type, keys)
        return self._load_many(near, type, missing, found) if missing else (found, [])

    def _load_many(
        self, near: Keeper, type: str, keys: Sequence[str], found: dict[str, Any]
    ) -> tuple[dict[str, Any], Sequence[str]]:
        """Ask PostgreSQL for what this process does not keep, and add it to what was found."""
        near.start(self._source)
        keys, store = list(dict.fromkeys(keys)), near.store
        asked = array(keys)
        loads = store.begin(self._tenant, type, keys)
        if not loads:
            return found, keys
        answers, asked_at = MANY_UNASKED, now()
        try:
            answers = self._ask(NEAR_GET_MANY, type, asked, raising=(UnrepresentableError,))
        finally:
            store.end(loads, answers, asked_at)
        found |= {key: answer.value for key, answer in answers.items()}
        return found, keys if answers is MANY_UNASKED else []

    def _ask(self, call: Call[T], *params: str | bytes | None, raising: tuple[type[PgcacheError], ...] = ()) -> T:
        """PostgreSQL's answer."""
        soft = self._soft
        begin = began()
        if soft is None or call.otherwise is RAISE:
            try:
                result = self._source.run(call, params, self._tenant, self._contained)
            except psycopg.Error as error:
                failure = translated(error)
                if begin:
                    failed(begin, call, params, failure)
                raise failure from error
            if begin:
                ended(begin, call, params, result)
            return result
        if soft.resting():
            return call.otherwise
        try:
            result = self._source.run(call, params, self._tenant, self._contained)
        except (psycopg.Error, UnrepresentableError) as error:
            failure = error if isinstance(error, UnrepresentableError) else translated(error)
            if begin:
                failed(begin, call, params, failure)
            if not isinstance(failure, raising) and soft.absorbs(call.name, failure):
                return call.otherwise
            if failure is error:
                raise
            raise failure from error
        if soft.incidents:
            soft.succeeded(call.name)
        if begin:
            ended(begin, call, params, result)
        return result

    def _look(self, type: str, key: str) -> tuple[bool, Any]:
        """Look an entry up where that is cheaper than with a lease: whether it did, and the value, or MISS."""
        if self._near is None:
            return False, MISS
        return self._read_near(self._near, Place(type, key))

    def _one_by_one(self, keys: Iterable[str], get: Callable[[str], Any]) -> dict[str, Any]:
        """What many keys have, one of which PostgreSQL cannot hold: that is a miss. get: returns MISS for one."""
        found = {}
        for key in keys:
            with suppress(UnrepresentableError):
                if (value := get(key)) is not MISS:
                    found[key] = value
        return found

    def _report(self, query: str) -> list[Row]:
        try:
            return self._source.report(query)
        except psycopg.Error as error:
            raise translated(error) from error
