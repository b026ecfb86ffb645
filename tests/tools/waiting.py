"""Waiting, and doing things at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found], seconds: float = 20) -> Found:
    """Ask until it is so; returns the answer. For states of other processes, of which nothing informs us."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "what the test waits for does not happen"
        pause.wait(0.005)
    return found


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """Run them all at the same time; returns their results, or raises the first error."""
    barrier = threading.Barrier(len(tasks))
    futures: list[Future[Any]] = [Future() for _ in tasks]

    def run(task: Callable[[], Any], future: Future[Any]) -> None:
        try:
            barrier.wait(30)
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(tasks, futures, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [future.result() for future in futures]


class Background(threading.Thread):
    """Runs something beside the test; `result()` waits for it, and raises what it raised."""

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = run
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        started = time.monotonic()
        try:
            self._outcome: Any = self._call()
            self._error: BaseException | None = None
        except BaseException as error:
            self._error = error
        self.seconds = time.monotonic() - started

    def result(self, timeout: float = 60) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "it still runs"
        if self._error:
            raise self._error
        return self._outcome
