"""The AI worker's endpoints over HTTP, and metrics for Prometheus: python -m pgcache_py serve.

No logic of its own: each endpoint calls one function of the database, or reads one view.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import psycopg
from psycopg.rows import dict_row

from ..errors import NotInstalledError, PgcacheError, TimedOutError, UnavailableError, translated

try:
    import uvicorn
    from psycopg_pool import AsyncConnectionPool, PoolTimeout
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise PgcacheError(
        f"the HTTP face needs packages that are not installed: {error.name}", hint="pip install 'pgcache[http,pool]'"
    ) from error

PORT = 8088
# Connections on which no request is under way, be it that it has come in half: beyond so many the oldest is ended, and
# each after so many seconds. A body has as many to come in.
MOST_WAITING = 100
PATIENCE = 10
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FIELDS = {"prompt": True, "mode": False, "schema_version": False, "model": False}  # whether it must be there
# The seed's order; a jsonb has none.
ANSWER = ("sql", "validated", "tokens_used", "schema_version", "cache_hit", "hit_count", "reason")
STATUSES = {
    "PC010": 400, "PC020": 503, "PC021": 502, "PC022": 502, "PC023": 429, "PC024": 502, "PC025": 400,
    "25006": 503, "42501": 403, "57014": 504,
}  # fmt: skip
# Of the columns of cache_stats: the metric, what it is, and how it behaves.
METRICS = {
    "valid": ("pgcache_entries", "gauge", "Entries that have not expired."),
    "expired": ("pgcache_expired_entries", "gauge", "Expired entries that wait for clean-up."),
    "bytes": ("pgcache_bytes", "gauge", "Size of the entries."),
    "table_bytes": ("pgcache_table_bytes", "gauge", "Size of the table with its index, TOAST and free space."),
    "max_entries": ("pgcache_max_entries", "gauge", "Limit of the entries."),
    "max_bytes": ("pgcache_max_bytes", "gauge", "Limit of the entries' size."),
    "enabled": ("pgcache_enabled", "gauge", "Whether the type is enabled."),
    "hits": ("pgcache_hits_total", "counter", "Reads that found an entry."),
    "misses": ("pgcache_misses_total", "counter", "Reads that found none."),
    "evicted": ("pgcache_evicted_total", "counter", "Entries evicted to keep a limit."),
    "cleaned": ("pgcache_cleaned_total", "counter", "Expired entries that were removed."),
    "tokens_saved": ("pgcache_tokens_saved_total", "counter", "Tokens that hits saved."),
    "money_saved": ("pgcache_money_saved_usd_total", "counter", "US dollars that hits saved."),
}

log = logging.getLogger("pgcache.http")


@dataclass(frozen=True)
class Options:
    """host, port: where to listen. token: what clients send as a bearer token; None: nothing is asked of them.

    concurrency: how many prompts at once; more are told to come back. max_body: bytes of a request. timeout: seconds
    that a statement may take. grace: seconds that running requests get when the server is told to stop.
    """

    host: str = LOOPBACK[0]
    port: int = PORT
    token: str | None = None
    concurrency: int = 16
    max_body: int = 1 << 18
    timeout: float = 180
    grace: float = 10


class Refusal(Exception):  # noqa: N818
    """An answer other than 200."""

    def __init__(self, status: int, message: str, *, headers: dict[str, str] | None = None, **more: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.content = {"error": message} | {name: text for name, text in more.items() if text}
        self.headers = headers


Endpoint = Callable[[Request], Awaitable[Response]]


class Face:
    """The endpoints, over one pool of connections."""

    def __init__(self, conninfo: str, options: Options) -> None:
        self.options = options
        self.counts: Counter[tuple[str, int]] = Counter()
        self.prompts = asyncio.Semaphore(options.concurrency)
        self.conninfo = conninfo
        self.pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None

    def app(self) -> Starlette:
        hosts = ["*"]
        if self.options.host in LOOPBACK and not self.options.token:
            hosts = [*LOOPBACK, "[::1]"]  # else a web page could reach us under a name of its own
        routes = {
            ("POST", "/generate"): self.generate,
            ("GET", "/cache/stats"): self.stats,
            ("POST", "/cache/cleanup"): self.cleanup,
            ("GET", "/healthz"): self.health,
            ("GET", "/metrics"): self.metrics,
        }
        return Starlette(
            routes=[Route(path, self._guarded(path, run), methods=[method]) for (method, path), run in routes.items()],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        milliseconds = f"{self.options.timeout * 1000:.0f}"

        async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute("SELECT set_config('statement_timeout', %s, false)", [milliseconds])

        async with AsyncConnectionPool(
            self.conninfo,
            min_size=1,
            max_size=self.options.concurrency + 3,  # so that prompts leave some for the other endpoints
            kwargs={"autocommit": True, "fallback_application_name": "pgcache http", "connect_timeout": 5},
            configure=configure,
            check=AsyncConnectionPool.check_connection,
            timeout=2,
            reconnect_timeout=2,  # soon given up, and so soon tried afresh, by the next request
            open=False,
        ) as self.pool:
            yield

    # The endpoints ---------------------------------------------------------------------------------------------------

    async def generate(self, request: Request) -> Response:
        arguments = await self._arguments(request)
        if self.prompts.locked():
            raise Refusal(503, "too many prompts at once", headers={"Retry-After": "1"})
        async with self.prompts:
            (row,) = await self._rows(
                "SELECT pgcache.ai_worker_generate(%(prompt)s, %(schema_version)s, %(model)s, %(mode)s) AS answer",
                arguments,
            )
        answer = row["answer"]
        return JSONResponse({name: answer[name] for name in ANSWER if name in answer})

    async def stats(self, _: Request) -> Response:
        (row,) = await self._rows("SELECT * FROM pgcache.ai_worker_cache_stats")
        return JSONResponse({name: _plain(value) for name, value in row.items()})

    async def cleanup(self, _: Request) -> Response:
        (row,) = await self._rows("SELECT pgcache.ai_worker_cleanup_cache() AS deleted")
        return JSONResponse({"deleted_entries": row["deleted"], "message": "Cleanup completed"})

    async def health(self, _: Request) -> Response:
        await self._rows("SELECT pgcache_internal.cache_now()")
        return JSONResponse({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        rows = await self._rows("SELECT * FROM pgcache.cache_stats ORDER BY type")
        return PlainTextResponse("".join(self._exposition(rows)), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _exposition(self, rows: list[dict[str, Any]]) -> Iterable[str]:
        for column, (name, kind, meaning) in METRICS.items():
            yield f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"
            for row in rows:
                if row[column] is not None:
                    yield f'{name}{{type="{row["type"]}"}} {_number(row[column])}\n'
        yield "# HELP pgcache_http_requests_total Requests answered.\n# TYPE pgcache_http_requests_total counter\n"
        for (path, status), count in sorted(self.counts.items()):
            yield f'pgcache_http_requests_total{{path="{path}",status="{status}"}} {count}\n'

    # What they share -------------------------------------------------------------------------------------------------

    def _guarded(self, path: str, run: Endpoint) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            response = await self._answer(path, run, request)
            self.counts[path, response.status_code] += 1
            return response

        return endpoint

    async def _answer(self, path: str, run: Endpoint, request: Request) -> Response:
        try:
            self._check_caller(path, request)
            return await run(request)
        except Refusal as refusal:
            return JSONResponse(refusal.content, refusal.status, refusal.headers)
        except ClientDisconnect:
            return Response(status_code=499)
        except PoolTimeout:
            return _failed(UnavailableError("the database cannot be reached", hint="Try again later."))
        except psycopg.Error as error:
            return _failed(translated(error))

    def _check_caller(self, path: str, request: Request) -> None:
        token = self.options.token
        if token is None:
            if "origin" in request.headers:
                raise Refusal(403, "web pages may not call this", hint="Start the server with a token for that.")
        elif path != "/healthz":
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), token.encode()):
                raise Refusal(
                    401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"},
                    hint="Send the header Authorization: Bearer ..., with the token that the server was started with.",
                )  # fmt: skip

    async def _arguments(self, request: Request) -> dict[str, str | None]:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "the body must be JSON", hint="Send the header Content-Type: application/json")
        try:
            body = await asyncio.wait_for(self._body(request), PATIENCE)
        except TimeoutError:
            raise Refusal(408, f"the body did not come within {PATIENCE} s", headers={"Connection": "close"}) from None
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise Refusal(400, "the body is no JSON", hint='For example {"prompt": "Get all users"}') from None
        if not isinstance(given, dict):
            raise Refusal(400, "the body is no JSON object", hint='For example {"prompt": "Get all users"}')
        for name, needed in FIELDS.items():
            value = given.get(name)
            if needed and value is None:
                raise Refusal(400, f"the field {name} is missing", hint='For example {"prompt": "Get all users"}')
            if value is not None and not isinstance(value, str):
                raise Refusal(400, f"the field {name} is no text", hint='For example {"prompt": "Get all users"}')
            if value is not None and ("\0" in value or not _encodable(value)):
                raise Refusal(400, f"the field {name} has characters that PostgreSQL cannot store", hint="Remove them.")
        return {name: given.get(name) for name in FIELDS} | {"mode": given.get("mode") or "sql_only"}

    async def _body(self, request: Request) -> bytes:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.options.max_body:
                raise Refusal(
                    413, f"the body is longer than {self.options.max_body} bytes", headers={"Connection": "close"}
                )
        return body

    async def _rows(self, query: str, arguments: dict[str, str | None] | None = None) -> list[dict[str, Any]]:
        assert self.pool is not None  # noqa: S101
        async with self.pool.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query.encode(), arguments)
            return await cursor.fetchall()


class Connection(H11Protocol):
    """Does not wait for ever for a request: half ones would use up all connections that a process may have."""

    waiting: ClassVar[dict[Connection, asyncio.TimerHandle]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._go_on()

    def _watch(self) -> None:
        if self.cycle and not self.cycle.response_complete:
            self._go_on()
        elif self not in self.waiting and not self.transport.is_closing():
            self.waiting[self] = self.loop.call_later(PATIENCE, self.transport.abort)
            if len(self.waiting) > MOST_WAITING:
                next(iter(self.waiting)).transport.abort()

    def _go_on(self) -> None:
        if timer := self.waiting.pop(self, None):
            timer.cancel()


def serve(conninfo: str, options: Options) -> None:
    """Run the server until it gets SIGINT or SIGTERM; requests that run then may still end."""
    uvicorn.run(
        Face(conninfo, options).app(),
        http=Connection,
        host=options.host,
        port=options.port,
        timeout_graceful_shutdown=round(options.grace),
        server_header=False,
        log_level="info",
    )


def _failed(error: Exception) -> Response:
    if not isinstance(error, PgcacheError):  # a rolled-back transaction, class 40
        return JSONResponse({"error": str(error).strip()}, 503, {"Retry-After": "1"})
    status = STATUSES.get(error.sqlstate or "")
    if status is None:
        unavailable = isinstance(error, UnavailableError | NotInstalledError)
        status = 504 if isinstance(error, TimedOutError) else 503 if unavailable else 500
    if status >= 500:
        log.warning("%s %s", error.sqlstate, error.message)
    content = {"error": error.message, "sqlstate": error.sqlstate, "hint": error.hint}
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({name: text for name, text in content.items() if text}, status, headers)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _plain(value: Any) -> Any:
    """As the seed writes it."""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return value if value is None or isinstance(value, int) else float(value)


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) or value == int(value) else repr(float(value))
