"""Sessions with a server, and what can be asked of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

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
def refused(sqlstate: str, hint: str | None = None) -> Iterator[pytest.ExceptionInfo[psycopg.Error]]:
    """The statement fails with this SQLSTATE and with a HINT that contains `hint`."""
    with pytest.raises(psycopg.Error) as caught:
        yield caught
    assert caught.value.sqlstate == sqlstate, caught.value
    if hint is not None:
        assert hint in (caught.value.diag.message_hint or ""), caught.value


def fetch(dsn: str, query: str) -> object:
    """The first column of the first row."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


@contextmanager
def session(dsn: str, **options: Any) -> Iterator[psycopg.Connection]:
    """psycopg's own, for what a Session does not have."""
    with psycopg.connect(dsn, autocommit=True, **options) as connection:
        yield connection


def call(connection: psycopg.Connection, name: str, *positional: Any, **named: Any) -> Any:
    """A function of pgcache."""
    arguments = ["%s"] * len(positional) + [f"{key} => %s" for key in named]
    query = f"SELECT pgcache.{name}({', '.join(arguments)})"
    row = connection.execute(query.encode(), [*positional, *named.values()]).fetchone()
    return row[0] if row else None


def advisory_locks(db: psycopg.Connection) -> int:
    """Of all sessions in the test's database."""
    query = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    row = db.execute(query).fetchone()
    assert row
    return int(row[0])


def waiting_for_a_lock(db: psycopg.Connection) -> int:
    """How many sessions of the test's database wait for a table, or for an advisory lock. Also from inside of a
    transaction, for which pg_stat_activity stands still."""
    query = """SELECT count(*) FROM pg_locks WHERE NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    row = db.execute(query).fetchone()
    assert row
    return int(row[0])


def user(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["user"])


def database(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["dbname"])
