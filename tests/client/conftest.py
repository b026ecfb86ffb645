"""Both clients under the same tests: a test is written for Cache, and runs on AsyncCache as well."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import psycopg_pool
import pytest

from pgcache_py import AsyncCache, Cache
from tests.client.proxy import Proxy


class Blocking:
    """An object of the async world, used as if it were of the other: its coroutines are run."""

    MODULES = ("pgcache_py", "psycopg")

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.target = target
        self.loop = loop

    def wrap(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            return self.wrap(self.loop.run_until_complete(value))
        if inspect.ismethod(value) or inspect.isfunction(value):
            return lambda *args, **kwargs: self.wrap(value(*args, **kwargs))
        owner = type(value)
        if owner.__module__.startswith(self.MODULES) and any(
            "_async" in base.__module__ or base.__name__.startswith("Async") for base in owner.__mro__
        ):
            return Blocking(value, self.loop)
        return value

    def __getattr__(self, name: str) -> Any:
        return self.wrap(getattr(self.target, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrap(self.target(*args, **kwargs))

    def __enter__(self) -> Blocking:
        self.loop.run_until_complete(self.target.__aenter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self.loop.run_until_complete(self.target.__aexit__(*error))


class Sync:
    """What a test of Cache uses. Everything that it opens is closed after the test."""

    name = "sync"

    def __init__(self) -> None:
        self.stack = ExitStack()

    def cache(self, source: Any = None, **options: Any) -> Any:
        return self.stack.enter_context(Cache(source, **options))

    def connect(self, dsn: str, **options: Any) -> Any:
        connection = psycopg.connect(dsn, **options)
        self.stack.callback(connection.close)
        return connection

    def pool(self, dsn: str, **options: Any) -> Any:
        return self.stack.enter_context(psycopg_pool.ConnectionPool(dsn, min_size=1, open=True, **options))

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as one of this world."""
        return function

    def close(self) -> None:
        self.stack.close()


class Async(Sync):
    """What a test of AsyncCache uses, all of it wrapped so that it looks the same."""

    name = "async"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()

    def cache(self, source: Any = None, **options: Any) -> Any:
        source = source.target if isinstance(source, Blocking) else source
        return self.stack.enter_context(Blocking(AsyncCache(source, **options), self.loop))

    def connect(self, dsn: str, **options: Any) -> Any:
        connection = self.loop.run_until_complete(psycopg.AsyncConnection.connect(dsn, **options))
        self.stack.callback(lambda: self.loop.run_until_complete(connection.close()))
        return Blocking(connection, self.loop)

    def pool(self, dsn: str, **options: Any) -> Any:
        async def opened() -> Any:
            pool = psycopg_pool.AsyncConnectionPool(dsn, min_size=1, open=False, **options)
            await pool.open()
            return pool

        pool = Blocking(self.loop.run_until_complete(opened()), self.loop)
        self.stack.callback(pool.close)
        return pool

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def coroutine_function(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return coroutine_function

    def close(self) -> None:
        super().close()
        self.loop.close()


@pytest.fixture(params=[Sync, Async], ids=lambda world: world.name)
def world(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    """The blocking world, then that of asyncio; its connections are closed before the database goes."""
    world = request.param()
    yield world
    world.close()


@pytest.fixture
def cache(world: Any, dsn: str) -> Any:
    """A cache over a conninfo string."""
    return world.cache(dsn)


SOURCES = {
    "dsn": lambda world, dsn: dsn,
    "connection": lambda world, dsn: world.connect(dsn, autocommit=True),
    "transaction": lambda world, dsn: world.connect(dsn),
    "pool": lambda world, dsn: world.pool(dsn),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, world: Any, dsn: str) -> Any:
    """Everything that a cache can be made of: see SOURCES."""
    return SOURCES[request.param](world, dsn)


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    """A relay in front of the server, whose dsn a client can be given."""
    with Proxy(dsn) as proxy:
        yield proxy
