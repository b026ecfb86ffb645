"""What the tests of the SQL share: sessions, errors, waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

# As a database is after an installation.
SEARCH_PATH = '"$user", public, pgcache'


class Session:
    """A session in autocommit. Called with a statement, it returns the first column of the first row."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True, **options)
        self.connection.execute(f"SET search_path = {SEARCH_PATH}")
        self.pid = self.connection.info.backend_pid

    def __call__(self, statement: str, *arguments: Any) -> Any:
        cursor = self.connection.execute(statement.encode(), arguments or None)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement.encode(), arguments or None).fetchall()

    def row(self, statement: str, *arguments: Any) -> dict[str, Any]:
        """The only row, by column."""
        cursor = self.connection.execute(statement.encode(), arguments or None)
        values, *others = cursor.fetchall()
        assert not others
        assert cursor.description
        return dict(zip((column.name for column in cursor.description), values, strict=True))

    def column(self, statement: str, *arguments: Any) -> list[Any]:
        return [row[0] for row in self.rows(statement, *arguments)]

    def stats(self, type: str) -> dict[str, Any]:
        return self.row("SELECT * FROM cache_stats WHERE type = %s", type)

    def set_clock(self, moment: str) -> None:
        self("SELECT set_config('pgcache.clock', %s, false)", moment)

    def advance(self, interval: str) -> None:
        """Move the clock on, and stop it there."""
        self("SELECT set_config('pgcache.clock', (pgcache_internal.cache_now() + %s::interval)::text, false)", interval)

    @contextmanager
    def transaction(self, mode: str = "") -> Iterator[None]:
        self(f"BEGIN {mode}")
        try:
            yield
        finally:
            self("ROLLBACK")

    def start(self, statement: str, *arguments: Any) -> Future[Any]:
        """Run the statement in a thread of its own, while the caller looks on."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(self(statement, *arguments))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def close(self) -> None:
        self.connection.close()


@contextmanager
def refused(sqlstate: str, hint: str | None = None) -> Iterator[None]:
    """The statement fails with this SQLSTATE and with a HINT that contains `hint`."""
    with pytest.raises(psycopg.Error) as caught:
        yield
    assert caught.value.sqlstate == sqlstate, caught.value
    if hint is not None:
        assert hint in (caught.value.diag.message_hint or ""), caught.value


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Ask until it is so. For states of other processes, of which nothing informs us."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for does not happen"
        pause.wait(0.005)


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
