"""The HTTP server of python -m pgcache_py serve: a page of statistics, metrics, and the AI worker's endpoints.

No logic of its own: each endpoint calls functions of the database, or reads its views.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import psycopg
from psycopg.rows import dict_row

from ..errors import NotInstalledError, PgcacheError, TimedOutError, UnavailableError, translated
from . import figures
from .figures import PERIODS, Figures

try:
    import uvicorn
    from prometheus_client.exposition import choose_encoder
    from psycopg_pool import AsyncConnectionPool, PoolTimeout
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from . import metrics, page
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
# Seconds for which one look at the statistics of all entries is good enough for everybody who has the page open.
FRESH = 1
# What the metrics are made of; the rest would count all entries once more.
MEASURED = ("types", "latencies", "health", "jobs", "watches")
PAGE = "/"
ASK_USER = 'Basic realm="pgcache", charset="UTF-8"'
UNREACHABLE = "Is the server running, and does it let this role in? This is tried anew at each request."

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
        self.looking = asyncio.Lock()
        self.looked: tuple[float, Figures] | None = None
        self.conninfo = conninfo
        self.pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] | None = None

    def app(self) -> Starlette:
        hosts = ["*"]
        if self.options.host in LOOPBACK and not self.options.token:
            hosts = [*LOOPBACK, "[::1]"]  # else a web page could reach us under a name of its own
        routes = {
            ("GET", PAGE): self.page,
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

    async def metrics(self, request: Request) -> Response:
        async with self._connection() as connection:
            found = await figures.look(connection, *MEASURED)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry(found, self.counts)), media_type=content_type)

    async def page(self, request: Request) -> Response:
        period = request.query_params.get("last", "day")
        if period not in PERIODS:
            raise Refusal(400, f"there is no period {period!r:.50}", hint=f"?last= is one of {', '.join(PERIODS)}.")
        async with self.looking:
            if self.looked is None or time.monotonic() > self.looked[0] + FRESH:
                async with self._connection() as connection:
                    self.looked = time.monotonic(), await figures.look(connection)
            _, found = self.looked
        return HTMLResponse(page.statistics(found, period), headers=page.HEADERS)

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
        except ClientDisconnect:
            return Response(status_code=499)
        except Refusal as error:
            refusal = error
        except PoolTimeout:
            refusal = _failed(UnavailableError("the database cannot be reached", hint=UNREACHABLE))
        except psycopg.Error as error:
            refusal = _failed(translated(error))
        if path == PAGE:
            return HTMLResponse(
                page.trouble(refusal.content), refusal.status, {**page.HEADERS, **(refusal.headers or {})}
            )
        return JSONResponse(refusal.content, refusal.status, refusal.headers)

    def _check_caller(self, path: str, request: Request) -> None:
        token = self.options.token
        if token is None:
            if "origin" in request.headers:
                raise Refusal(403, "web pages may not call this", hint="Start the server with a token for that.")
        elif path != "/healthz":
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            scheme, given = scheme.lower(), given.strip()
            if scheme == "basic" and path == PAGE:  # which is all that a browser can ask its user for
                scheme, given = "bearer", _password(given)
            if scheme != "bearer" or not secrets.compare_digest(given.encode(), token.encode()):
                raise Refusal(
                    401, "a bearer token is needed",
                    headers={"WWW-Authenticate": ASK_USER if path == PAGE else "Bearer"},
                    hint="Send the header Authorization: Bearer ..., with the token that the server was started with;"
                    " in a browser it is the password, of any user name.",
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
        async with self._connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query.encode(), arguments)
            return await cursor.fetchall()

    def _connection(self) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
        assert self.pool is not None  # noqa: S101
        return self.pool.connection()


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


def _failed(error: Exception) -> Refusal:
    if not isinstance(error, PgcacheError):  # a rolled-back transaction, class 40
        return Refusal(503, str(error).strip(), headers={"Retry-After": "1"})
    status = STATUSES.get(error.sqlstate or "")
    if status is None:
        unavailable = isinstance(error, UnavailableError | NotInstalledError)
        status = 504 if isinstance(error, TimedOutError) else 503 if unavailable else 500
    if status >= 500:
        log.warning("%s %s", error.sqlstate, error.message)
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return Refusal(status, error.message, headers=headers, sqlstate=error.sqlstate, hint=error.hint)


def _password(given: str) -> str:
    """Of a header of HTTP Basic; empty if that is none."""
    try:
        return base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


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
