# Made of pgcache_py/client/_async/base.py by tools/async_to_sync.py: change that one.
"""What every client has: connections, a tenant, and a way to run a call."""

from __future__ import annotations

import copy
from types import TracebackType
from typing import Any, TypeVar, cast

import psycopg

from ... import environment
from ...errors import PgcacheError, UnrepresentableError, translated
from ..calls import RAISE, Call
from ..failsoft import TIMEOUT, FailSoft, check_timeout
from ..trace import began, ended
from ..wire import MISS, Row
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

    _shared = frozenset({"_source", "_soft"})  # with the views for tenants

    def __init__(
        self,
        source: str | AnyConnection | AnyPool | None = None,
        *,
        tenant: str | None = None,
        fail_soft: bool = False,
        timeout: float | None = None,
    ) -> None:
        check_timeout(timeout)
        if timeout is None and fail_soft:
            timeout = TIMEOUT
        self._tenant = tenant
        self._view = False
        self._contained = False
        self._soft = FailSoft() if fail_soft else None
        self._source = self._open(source, fail_soft, timeout)

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
        soft = self._soft
        begin = began()
        if soft is None or call.otherwise is RAISE:
            try:
                result = self._source.run(call, params, self._tenant, self._contained)
            except psycopg.Error as error:
                raise translated(error) from error
            if begin:
                ended(begin, call, params, result)
            return result
        if soft.resting():
            return call.otherwise
        try:
            result = self._source.run(call, params, self._tenant, self._contained)
        except (psycopg.Error, UnrepresentableError) as error:
            failure = error if isinstance(error, UnrepresentableError) else translated(error)
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
        return False, MISS

    def _report(self, query: str) -> list[Row]:
        try:
            return self._source.report(query)
        except psycopg.Error as error:
            raise translated(error) from error
