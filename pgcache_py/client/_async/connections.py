"""Where an AsyncCache gets its connection from: its own, the caller's, or a pool."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import psycopg
from psycopg import AsyncConnection, AsyncPipeline, AsyncRawCursor, errors
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo, ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import dict_row
from psycopg.types.string import StrDumperUnknown

from ...errors import InvalidSettingError
from ..calls import Call, T
from ..waiting import AsyncLock, AsyncOwn, AsyncQueue, AsyncSocket, AsyncTurn, forget_in_children, has_input
from ..wire import BinaryDumper, NearestMoment, Params, Row, encoded

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

AnyConnection: TypeAlias = "AsyncConnection[Any]"
AnyCursor: TypeAlias = "AsyncRawCursor[Any]"
AnyPool: TypeAlias = "AsyncConnectionPool[Any]"

FINE = (int(ExecStatus.TUPLES_OK), int(ExecStatus.COMMAND_OK))

# How much longer than the server's own limit the client waits for the server to keep to it, in seconds.
GRACE = 0.25

# Behind a pooler such as PgBouncer, the server process that answers is not the one that libpq knows of. There, settings
# would pass to another client, and prepared statements might be missing; so these are for direct connections only.
INTRODUCTION = """\
SELECT pg_catalog.set_config('statement_timeout', coalesce($1, pg_catalog.current_setting('statement_timeout')), false)
WHERE pg_catalog.pg_backend_pid() = $2::integer"""


class AsyncSource(Protocol):
    """What an AsyncCache runs its calls on.

    unleased_until: no leases are asked for before that moment, since they were refused. private: nobody else can change
    the session's settings, such as whose entries it sees.
    """

    unleased_until: float
    private: bool

    def conninfo(self) -> str:
        """To open another connection to the same database; InvalidSettingError if it is not known how."""

    def alone(self) -> bool:
        """Whether each call is a transaction of its own."""

    async def run(self, call: Call[T], params: Params, tenant: str | None, contained: bool = False) -> T:
        """contained: an error must not abort the caller's transaction."""

    async def report(self, query: str) -> list[Row]: ...

    async def close(self) -> None: ...


class AsyncOwnConnection:
    """A connection over a conninfo string, opened by the first call, and again after it was lost or closed.

    timeout: seconds for a call, in which it also waits for its turn; None for no limit.
    """

    unleased_until = 0.0
    private = True

    def __init__(self, conninfo: str, timeout: float | None) -> None:
        self._conninfo = conninfo
        self._line = AsyncOwn(lambda: AsyncLine(conninfo, timeout), AsyncLine.hang_up)
        forget_in_children(self)

    def conninfo(self) -> str:
        return self._conninfo

    def forget(self) -> None:
        """Leave the connection as it is to others, and start afresh."""
        self._line.forget()

    def alone(self) -> bool:
        return True

    async def run(self, call: Call[T], params: Params, tenant: str | None, contained: bool = False) -> T:
        return await self._line().run(call, params, tenant)

    async def report(self, query: str) -> list[Row]:
        return await self._line().report(query)

    async def close(self) -> None:
        self._line.end_others()
        await self._line().close()


class AsyncLine:
    """One connection, which the calls take turns in using.

    Talks to libpq rather than through psycopg's cursors, with statements prepared once: a third faster for a get.
    """

    def __init__(self, conninfo: str, timeout: float | None) -> None:
        self._conninfo = conninfo
        self._timeout = timeout
        self._queue = AsyncQueue()
        self._connection: AnyConnection | None = None
        self._direct = False
        self._prepared: dict[str, bytes] = {}

    async def run(self, call: Call[T], params: Params, tenant: str | None) -> T:
        statement, params = call.statement(params, tenant)
        deadline = self._deadline()
        turn = AsyncTurn(self._queue)
        try:
            await turn.take(deadline)
            connection = self._connection
            # If the connection is at its end, a call that must not be repeated has to know before, not after.
            if connection and (call.repeatable or not has_input(connection.fileno())):
                try:
                    return call.read(await self._execute(connection, call, statement, params, deadline), "utf-8")
                except psycopg.Error as error:
                    if not self._worth_repeating(call, error):
                        raise
            connection = await self._reconnect()
            return call.read(await self._execute(connection, call, statement, params, deadline), "utf-8")
        finally:
            turn.give_back()

    async def report(self, query: str) -> list[Row]:
        turn = AsyncTurn(self._queue)
        try:
            await turn.take(self._deadline())
            connection = self._connection
            if connection is None or has_input(connection.fileno()):
                connection = await self._reconnect()
            return await rows(connection, query)
        finally:
            turn.give_back()

    async def close(self) -> None:
        turn = AsyncTurn(self._queue)
        try:
            await turn.take(None)
            await self._disconnect()
        finally:
            turn.give_back()

    def hang_up(self) -> None:
        """Close at once, whoever may be using it."""
        if self._connection is not None:
            self._connection.pgconn.finish()

    def _deadline(self) -> float | None:
        return None if self._timeout is None else monotonic() + self._timeout + GRACE

    async def _reconnect(self) -> AnyConnection:
        await self._disconnect()
        connection = await AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            prepare_threshold=None,
            client_encoding="utf-8",
            fallback_application_name="pgcache",
            connect_timeout=None if self._timeout is None else ceil(self._timeout),
        )
        try:
            milliseconds = None if self._timeout is None else f"{self._timeout * 1000:.0f}"
            cursor = AsyncRawCursor(connection)
            await cursor.execute(INTRODUCTION, (milliseconds, connection.pgconn.backend_pid))
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        self._socket = AsyncSocket(connection.fileno())
        self._direct = cursor.rowcount == 1
        self._prepared = {}
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _worth_repeating(self, call: Call[T], error: psycopg.Error) -> bool:
        if isinstance(error, errors.FeatureNotSupported):
            return True  # a prepared statement is obsolete since an upgrade, and has not run
        lost = self._connection is None and isinstance(error, psycopg.OperationalError)
        return lost and call.repeatable and not isinstance(error, errors.QueryCanceled)

    async def _execute(
        self, connection: AnyConnection, call: Call[T], statement: str, params: Params, deadline: float | None
    ) -> PGresult:
        pgconn = connection.pgconn
        values, formats = encoded(params, takes_bytes=call.takes_bytes)
        try:
            if self._direct:
                name = self._prepared.get(statement) or await self._prepare(pgconn, statement, deadline)
                pgconn.send_query_prepared(name, values, formats, call.binary)
            else:
                pgconn.send_query_params(statement.encode(), values, None, formats, call.binary)
            return await self._reply(pgconn, deadline)
        except BaseException:
            # Lost, or left in the middle of a reply by the deadline or by Ctrl-C.
            if pgconn.transaction_status != TransactionStatus.IDLE:
                await self._disconnect()
            raise

    async def _prepare(self, pgconn: PGconn, statement: str, deadline: float | None) -> bytes:
        name = b"pgcache_%d" % len(self._prepared)
        pgconn.send_prepare(name, statement.encode())
        await self._reply(pgconn, deadline)
        self._prepared[statement] = name
        return name

    async def _reply(self, pgconn: PGconn, deadline: float | None) -> PGresult:
        """Send what libpq has been given, and wait for the result."""
        while pgconn.flush():
            await self._socket.wait_to_write(deadline)
            pgconn.consume_input()
        last = None
        while True:
            while pgconn.is_busy():
                await self._socket.wait(deadline)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                break
            last = result
        if last is None:
            raise psycopg.OperationalError("the connection was lost")
        if last.status not in FINE:
            raise errors.error_from_result(last)
        return last


class AsyncBorrowedConnection:
    """The caller's connection: calls are part of the caller's transaction, and its settings and time limits hold.

    contained: no error must abort that transaction, so each call in one gets a savepoint, in the same round trip.
    """

    unleased_until = 0.0
    private = False

    def __init__(self, connection: AnyConnection, contained: bool) -> None:
        self._connection = connection
        self._contained = contained
        self._lock = AsyncLock()

    def conninfo(self) -> str:
        raise InvalidSettingError("on your connection there is no near cache", hint="Pass a conninfo, or a pool.")

    def alone(self) -> bool:
        return self._connection.autocommit and self._connection.pgconn.transaction_status == TransactionStatus.IDLE

    async def run(self, call: Call[T], params: Params, tenant: str | None, contained: bool = False) -> T:
        connection = self._connection
        status = connection.pgconn.transaction_status
        if not (self._contained or contained) or (connection.autocommit and status == TransactionStatus.IDLE):
            return await execute(connection, call, params, tenant)
        if status == TransactionStatus.INERROR:
            raise errors.InFailedSqlTransaction("the transaction is aborted already")
        async with self._lock:
            return await self._run_contained(call, params, tenant)

    async def report(self, query: str) -> list[Row]:
        return await rows(self._connection, query)

    async def close(self) -> None:
        """Nothing to do: the connection is the caller's to close."""

    async def _run_contained(self, call: Call[T], params: Params, tenant: str | None) -> T:
        connection = self._connection
        failure: psycopg.Error | None = None
        try:
            async with pipeline(connection):
                try:
                    await connection.execute("SAVEPOINT pgcache", prepare=False)
                    cursor = await send(connection, call, params, tenant)
                    await connection.execute("RELEASE SAVEPOINT pgcache", prepare=False)
                except psycopg.Error as error:
                    # Not raised here: psycopg would log what it then finds on its way out of the pipeline.
                    failure = error
        except psycopg.Error as error:
            failure = failure or error
        finally:
            if connection.pgconn.transaction_status == TransactionStatus.INERROR:
                with suppress(psycopg.Error):
                    await connection.execute("ROLLBACK TO SAVEPOINT pgcache", prepare=False)
                    await connection.execute("RELEASE SAVEPOINT pgcache", prepare=False)
        if failure:
            raise failure
        return receive(cursor, call)


class AsyncPooledConnections:
    """A pool of the caller's: each call takes a connection for as long as it lasts.

    timeout: seconds to wait for one; None for the pool's own limit.
    """

    unleased_until = 0.0
    private = False

    def __init__(self, pool: AnyPool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout

    def conninfo(self) -> str:
        pool = self._pool
        if callable(pool.conninfo) or callable(pool.kwargs):
            raise InvalidSettingError("a near cache cannot follow a pool whose conninfo is a function")
        names = {option.keyword.decode() for option in Conninfo.get_defaults()}
        return make_conninfo(
            pool.conninfo, **{name: value for name, value in (pool.kwargs or {}).items() if name in names}
        )

    def alone(self) -> bool:
        return True

    async def run(self, call: Call[T], params: Params, tenant: str | None, contained: bool = False) -> T:
        connection = await self._take(call)
        try:
            return await execute_alone(connection, call, params, tenant)
        except psycopg.OperationalError:
            if not (call.repeatable and connection.closed):
                raise
        finally:
            await self._pool.putconn(connection)
        await self._pool.check()  # what befell one connection will have befallen the others
        async with self._pool.connection(self._timeout) as connection:
            return await execute_alone(connection, call, params, tenant)

    async def report(self, query: str) -> list[Row]:
        async with self._pool.connection(self._timeout) as connection:
            return await rows(connection, query)

    async def close(self) -> None:
        """Nothing to do: the pool is the caller's to close."""

    async def _take(self, call: Call[T]) -> AnyConnection:
        while True:
            connection: AnyConnection = await self._pool.getconn(self._timeout)
            # See AsyncLine.run.
            if call.repeatable or not (connection.closed or has_input(connection.fileno())):
                return connection
            await connection.close()
            await self._pool.putconn(connection)


async def execute(connection: AnyConnection, call: Call[T], params: Params, tenant: str | None) -> T:
    """Run a call on a connection as it is."""
    if connection.pgconn.pipeline_status == PipelineStatus.OFF:
        cursor = await send(connection, call, params, tenant)
    else:
        async with connection.pipeline():
            cursor = await send(connection, call, params, tenant)
    return receive(cursor, call)


async def execute_alone(connection: AnyConnection, call: Call[T], params: Params, tenant: str | None) -> T:
    """Run a call in a transaction of its own, in one round trip."""
    if connection.autocommit:
        return await execute(connection, call, params, tenant)
    await connection.set_autocommit(True)
    try:
        return await execute(connection, call, params, tenant)
    finally:
        if not connection.closed:
            await connection.set_autocommit(False)


async def send(connection: AnyConnection, call: Call[T], params: Params, tenant: str | None) -> AnyCursor:
    statement, params = call.statement(params, tenant)
    _, formats = encoded(params, takes_bytes=call.takes_bytes, encoding=connection.info.encoding)  # and checks them
    cursor = AsyncRawCursor(connection)
    # Whatever the caller has registered.
    cursor.adapters.register_dumper(str, StrDumperUnknown)
    if formats:
        cursor.adapters.register_dumper(bytes, BinaryDumper)
    # Without a threshold psycopg prepares nothing, which is how it is told of an old PgBouncer in between. And in a
    # pipeline it would think a statement prepared even if that failed.
    prepare = connection.prepare_threshold is not None and connection.pgconn.pipeline_status == PipelineStatus.OFF
    return await cursor.execute(statement.encode(), params, prepare=prepare, binary=call.binary)


def receive(cursor: AnyCursor, call: Call[T]) -> T:
    if cursor.pgresult is None:
        raise psycopg.InterfaceError("there is no reply")
    return call.read(cursor.pgresult, cursor.connection.info.encoding)


async def rows(connection: AnyConnection, query: str) -> list[Row]:
    cursor = AsyncRawCursor(connection, row_factory=dict_row)
    cursor.adapters.register_loader("timestamptz", NearestMoment)
    await cursor.execute(query.encode(), prepare=False, binary=True)  # not as DateStyle and IntervalStyle have it
    return await cursor.fetchall()


def pipeline(connection: AnyConnection) -> AbstractAsyncContextManager[Any]:
    """Several statements in one round trip, if this libpq can do that."""
    return connection.pipeline() if AsyncPipeline.is_supported() else nullcontext()
