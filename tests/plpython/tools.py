"""Helpers of the tests of the AI functions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg


def call(connection: psycopg.Connection, name: str, *positional: Any, **named: Any) -> Any:
    arguments = ["%s"] * len(positional) + [f"{key} => %s" for key in named]
    query = f"SELECT pgcache.{name}({', '.join(arguments)})"
    row = connection.execute(query.encode(), [*positional, *named.values()]).fetchone()
    return row[0] if row else None


def host_of(db: psycopg.Connection) -> str:
    """This machine as the server sees it: a container reaches us at the address from which we come."""
    row = db.execute("SELECT host(inet_client_addr())").fetchone()
    return row[0] if row and row[0] else "127.0.0.1"


def user_of(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn)["user"])


@contextmanager
def session(dsn: str, **options: Any) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True, **options) as connection:
        yield connection


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


def wait_for(condition: Callable[[], Any], timeout: float = 20) -> Any:
    deadline = time.monotonic() + timeout
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def advisory_locks(db: psycopg.Connection) -> int:
    """Of all sessions in the test's database."""
    query = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    row = db.execute(query).fetchone()
    assert row
    return int(row[0])
