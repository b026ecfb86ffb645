"""Waiting for a socket or a lock until a deadline: the one thing that blocking and async code do differently."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Protocol, TypeVar, cast

from psycopg.errors import QueryCanceled

T = TypeVar("T")
Lock = threading.Lock
AsyncLock = asyncio.Lock
Slots = threading.Semaphore
AsyncSlots = asyncio.Semaphore


def _poll(fileno: int, *, write: bool = False) -> Callable[[float | None], object]:
    """A function that waits so many milliseconds for a socket, and returns whether it is ready."""
    if sys.platform == "win32":
        both = [fileno] if write else []
        return lambda left: any(select.select([fileno], both, [], None if left is None else left / 1000))
    poll = select.poll()
    poll.register(fileno, select.POLLIN | select.POLLOUT if write else select.POLLIN)
    return poll.poll


def has_input(fileno: int) -> bool:
    """Whether there is something to read: on an idle connection, most often its end."""
    return bool(_poll(fileno)(0))


class Socket:
    """The socket of a connection, to wait for. At the deadline, that raises QueryCanceled."""

    def __init__(self, fileno: int) -> None:
        self._poll = _poll(fileno)
        self._poll_both = _poll(fileno, write=True)

    def wait(self, deadline: float | None) -> None:
        """Return when there is something to read."""
        if not self._poll(None if deadline is None else max(0.0, (deadline - monotonic()) * 1000)):
            raise QueryCanceled("no reply in time")

    def wait_to_write(self, deadline: float | None) -> None:
        """Return when there is room to write, or something to read."""
        if not self._poll_both(None if deadline is None else max(0.0, (deadline - monotonic()) * 1000)):
            raise QueryCanceled("no reply in time")


class AsyncSocket:
    """The same in an event loop."""

    def __init__(self, fileno: int) -> None:
        self._fileno = fileno

    async def wait(self, deadline: float | None, *, write: bool = False) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def wake(error: Exception | None = None) -> None:
            if ready.done():
                return
            if error:
                ready.set_exception(error)
            else:
                ready.set_result(None)

        loop.add_reader(self._fileno, wake)
        if write:
            loop.add_writer(self._fileno, wake)
        timer = (
            None
            if deadline is None
            else loop.call_at(loop.time() + deadline - monotonic(), wake, QueryCanceled("no reply in time"))
        )
        try:
            await ready
        finally:
            loop.remove_reader(self._fileno)
            if write:
                loop.remove_writer(self._fileno)
            if timer:
                timer.cancel()

    async def wait_to_write(self, deadline: float | None) -> None:
        await self.wait(deadline, write=True)


def acquire(lock: threading.Lock, deadline: float | None) -> None:
    """Take the lock. Raises QueryCanceled at the deadline."""
    if lock.acquire(blocking=False):
        return
    if not lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - monotonic())):
        raise QueryCanceled("the connection was not free in time")


async def acquire_async(lock: asyncio.Lock, deadline: float | None) -> None:
    """The same in an event loop."""
    if deadline is None or not lock.locked():
        await lock.acquire()
        return
    try:
        await asyncio.wait_for(lock.acquire(), max(0.0, deadline - monotonic()))
    except asyncio.TimeoutError:
        raise QueryCanceled("the connection was not free in time") from None


def settle(value: T) -> T:
    """What a function returned, which has to be a plain one."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError("a Cache cannot await a coroutine: use AsyncCache, or a plain function")
    return value


async def settle_async(value: Awaitable[T]) -> T:
    """What a function returned, awaited unless it was a plain one after all."""
    return await value if inspect.isawaitable(value) else cast(T, value)


class Forkable(Protocol):
    def forget(self) -> None: ...


_forkable: weakref.WeakSet[Forkable] = weakref.WeakSet()


def forget_in_children(owner: Forkable) -> None:
    """Let the owner of a connection forget it in processes that are forked from this one, which must not share it."""
    _forkable.add(owner)


def _forget() -> None:
    for owner in list(_forkable):
        owner.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
