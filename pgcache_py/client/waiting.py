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
from contextvars import copy_context
from time import monotonic, sleep
from typing import Any, Generic, Protocol, TypeVar, cast

from psycopg.errors import OperationalError, QueryCanceled

T = TypeVar("T")
Lock = threading.Lock
AsyncLock = asyncio.Lock
AsyncSlots = asyncio.Semaphore
pause = sleep
pause_async = asyncio.sleep


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


class Queue:
    """Who waits for a connection. A signal handler may raise at any moment, so a turn belongs to a thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.turn: Turn | None = None


class Turn:
    """One call's turn in a queue. give_back undoes take, however far that had come."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def take(self, deadline: float | None) -> None:
        """Raises QueryCanceled at the deadline."""
        queue = self._queue
        if not queue.lock.acquire(blocking=False) and not queue.lock.acquire(
            timeout=-1 if deadline is None else max(0.0, deadline - monotonic())
        ):
            raise QueryCanceled("the connection was not free in time")
        if queue.turn is not None:
            raise OperationalError("a signal handler cannot call the cache in the middle of another call")
        queue.turn = self

    def give_back(self) -> None:
        queue = self._queue
        try:
            if queue.turn is self:
                queue.turn = None
        finally:
            try:  # noqa: SIM105 (a call to suppress() would leave room for a signal)
                queue.lock.release()
            except RuntimeError:
                pass  # it was never taken


class AsyncQueue(asyncio.Lock):
    """The same for the tasks of an event loop."""


class AsyncTurn:
    """One call's turn in a queue."""

    def __init__(self, queue: AsyncQueue) -> None:
        self._queue = queue
        self._taken = False

    async def take(self, deadline: float | None) -> None:
        """Raises QueryCanceled at the deadline."""
        if deadline is None or not self._queue.locked():
            await self._queue.acquire()
        else:
            # Not wait_for(), which loses the lock if it is cancelled at the moment of success.
            acquiring = asyncio.ensure_future(self._queue.acquire())
            try:
                await asyncio.wait([acquiring], timeout=max(0.0, deadline - monotonic()))
            finally:
                self._taken = acquiring.done() and not acquiring.cancelled()
                acquiring.cancel()
            if not self._taken:
                raise QueryCanceled("the connection was not free in time")
        self._taken = True

    def give_back(self) -> None:
        if self._taken:
            self._queue.release()


class Slots:
    """How many threads may do something at once: as a context manager, which a signal handler may leave at any moment.

    So it is threads that are counted, and not how often they came and went.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._lock = threading.Lock()
        self._threads: set[int] = set()

    def __enter__(self) -> None:
        thread = threading.get_ident()
        while not self._admits(thread):
            sleep(0.001)

    def _admits(self, thread: int) -> bool:
        with self._lock:
            if len(self._threads) >= self._number:
                self._threads &= {each.ident or 0 for each in threading.enumerate()}
            if len(self._threads) < self._number:
                self._threads.add(thread)
            return thread in self._threads

    def __exit__(self, *error: object) -> None:
        self._threads.discard(threading.get_ident())


class Own(Generic[T]):
    """What all threads share. make: makes it."""

    def __init__(self, make: Callable[[], T], end: Callable[[T], object]) -> None:
        self._make = make
        self.forget()

    def __call__(self) -> T:
        return self._one

    def end_others(self) -> None:
        """There are none."""

    def forget(self) -> None:
        self._one = self._make()


class AsyncOwn(Generic[T]):
    """What each event loop has for itself: connections and locks cannot go from one to another.

    make: makes one. end: ends that of another loop, which has been closed, or will run it.
    """

    def __init__(self, make: Callable[[], T], end: Callable[[T], object]) -> None:
        self._make = make
        self._end = end
        self.forget()

    def __call__(self) -> T:
        """That of the running loop; where none runs, that of the last one."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._latest
        try:
            return self._each[loop]
        except KeyError:
            return self._new(loop)

    def end_others(self) -> None:
        here = self()
        with self._lock:
            others = {loop: one for loop, one in self._each.items() if one is not here}
            for loop, one in others.items():
                del self._each[loop]
                try:
                    loop.call_soon_threadsafe(self._end, one)
                except RuntimeError:  # the loop has been closed
                    self._end(one)

    def _new(self, loop: asyncio.AbstractEventLoop) -> T:
        with self._lock:
            for closed in [each for each in self._each if each.is_closed()]:
                self._end(self._each.pop(closed))
            self._latest = self._each[loop] = self._make()
            return self._latest

    def forget(self) -> None:
        self._lock = threading.Lock()
        self._each: dict[asyncio.AbstractEventLoop, T] = {}
        self._latest = self._make()


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


def finish(value: T) -> T:
    """What has been done, and needs no more."""
    return value


async def finish_async(doing: Awaitable[T]) -> T:
    """Do it, even if who waits for it is cancelled, again and again as some libraries do."""
    task = asyncio.ensure_future(doing)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return await asyncio.shield(task)


def end(source: object) -> None:
    """Close what is iterated over, if it can be closed: it may not have come to its end."""
    if close := getattr(source, "close", None):
        close()


async def end_async(source: object) -> None:
    """The same of an asynchronous one."""
    if close := getattr(source, "aclose", None) or getattr(source, "close", None):
        await settle_async(close())


class Aside(Generic[T]):
    """A function that runs in a thread of its own, so that its caller may leave it.

    It does not keep the interpreter from its end.
    """

    def __init__(self, run: Callable[[], T]) -> None:
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._failed: Callable[[BaseException], object] | None = None
        thread = threading.Thread(target=copy_context().run, args=(self._work, run), name="pgcache", daemon=True)
        thread.start()

    def _work(self, run: Callable[[], T]) -> None:
        try:
            self._result = run()
        except BaseException as error:
            self._error = error
        with self._lock:
            self._done.set()
            failed = self._failed
        if self._error and failed:
            failed(self._error)

    def ended(self, seconds: float | None) -> bool:
        """Wait so long at most; whether it has ended."""
        return self._done.wait(seconds)

    def result(self) -> T:
        """What it returned, or raised."""
        self._done.wait()
        if self._error:
            raise self._error
        return self._result

    def leave(self, failed: Callable[[BaseException], object]) -> None:
        """Let it go on by itself. failed: is told of an error."""
        with self._lock:
            self._failed = failed
            ended = self._done.is_set()
        if ended and self._error:
            failed(self._error)

    def cancel(self) -> None:
        """A thread cannot be cancelled."""


_tasks: set[asyncio.Future[Any]] = set()
"""What goes on though nobody waits for it: the event loop itself would lose it."""


class AsyncAside(Generic[T]):
    """The same as a task. If who waits for it is cancelled, so is the task."""

    def __init__(self, run: Callable[[], Awaitable[T]]) -> None:
        self._task = asyncio.ensure_future(run())
        _tasks.add(self._task)
        self._task.add_done_callback(_tasks.discard)

    async def ended(self, seconds: float | None) -> bool:
        """Wait so long at most; whether it has ended."""
        try:
            done, _ = await asyncio.wait([self._task], timeout=seconds)
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        return bool(done)

    async def result(self) -> T:
        """What it returned, or raised."""
        return await self._task

    def leave(self, failed: Callable[[BaseException], object]) -> None:
        """Let it go on by itself. failed: is told of an error."""

        def ended(task: asyncio.Future[T]) -> None:
            if not task.cancelled() and (error := task.exception()):
                failed(error)

        self._task.add_done_callback(ended)

    def cancel(self) -> None:
        self._task.cancel()


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
