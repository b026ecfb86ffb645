"""What readers and writers have in common: their sessions, which are cut off now and then, and their pauses."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.freshness.history import History

APPLICATION = "freshness"
# A session hangs if a statement takes so long, in seconds.
PATIENCE = 60


@dataclass(frozen=True)
class Ground:
    """Where a run takes place. pooled: through PgBouncer; redis: a URL; prefix: of the keys in Redis.

    watches: whether tables can be watched.
    """

    dsn: str
    pooled: str | None
    redis: str | None
    prefix: str
    bound: float  # of what the hot tier returns, in seconds
    watches: bool


def cut_off(error: psycopg.Error) -> bool:
    """Whether the session was ended by another one, on purpose."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate in ("57P01", "08P01", "08006", "08003")
    )


def in_conflict(error: psycopg.Error) -> bool:
    return error.sqlstate in ("40001", "40P01")


class Line:
    """A session in autocommit, opened anew when it was cut off. pooled: through a pooler in transaction mode."""

    def __init__(self, dsn: str, *, pooled: bool = False) -> None:
        self.dsn = dsn
        self.pooled = pooled
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def connection(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self.dsn, autocommit=True, application_name=APPLICATION, prepare_threshold=None if self.pooled else 2
            )
            if not self.pooled:
                self._connection.execute(f"SET statement_timeout = '{PATIENCE}s'")
        return self._connection

    def row(self, statement: str, *arguments: Any) -> tuple[Any, ...]:
        cursor = self.connection.execute(statement.encode(), arguments)
        row: tuple[Any, ...] | None = cursor.fetchone()
        assert row is not None
        return row

    def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement.encode(), arguments).fetchall()

    def run(self, statement: str, *arguments: Any) -> None:
        self.connection.execute(statement.encode(), arguments or None)

    def rollback(self) -> None:
        """Whatever state it is in."""
        if self._connection is not None:
            try:
                self._connection.rollback()
            except psycopg.Error:
                self._connection.close()


class Actor:
    """A process that does something again and again until the run is over."""

    def __init__(self, ground: Ground, history: History, number: int, seed: str) -> None:
        self.ground = ground
        self.history = history
        self.number = number
        self.chance = random.Random(seed)

    def life(self) -> None:
        logging.getLogger("pgcache").setLevel(logging.ERROR)  # that sessions are ended is known
        try:
            while not self.history.over:
                self.act()
        except BaseException as error:
            self.history.fail(f"{type(self).__name__} {self.number}", error)

    def act(self) -> None:
        raise NotImplementedError

    def count(self, label: str, what: str, by: int = 1) -> None:
        self.history.count(self.number, label, what, by)

    def log(self, what: str, row: int, version: int = 0, token: int | None = None) -> None:
        self.history.log(self.number, what, row, version, token or 0)

    def guarded(self, label: str, line: Line, act: Callable[[], None]) -> None:
        """Do it. A conflict, or a session that is cut off, ends it."""
        try:
            act()
        except psycopg.Error as error:
            line.rollback()
            if cut_off(error):
                self.count(label, "cut off")
            elif in_conflict(error):
                self.count(label, "conflicts")
            else:
                raise

    def pause(self) -> None:
        """Most often none or tiny, so that others come in between as they do on a larger machine; seldom long."""
        number = self.chance.random()
        if number < 0.45:
            time.sleep(0.003 * self.chance.random())
        elif number < 0.5:
            time.sleep(0.04 * self.chance.random())
