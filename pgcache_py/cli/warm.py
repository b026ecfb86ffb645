"""Loads entries from JSON Lines: fast, in constant memory, and past lines that are bad. The module lines reads them."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import psycopg

from ..errors import InvalidValueError, PgcacheError, translated
from ..setup.session import Connection, connect
from .warm_lines import SET_MANY, Entry, entry, shapes

STDIN = "-"
# A transaction ends after so many entries (more would not be faster) or bytes (long values must not fill the memory).
BATCH_ENTRIES = 1000
BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class BadLine:
    file: str
    line: int
    problem: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


@dataclass
class WarmReport:
    """entries: how many were stored, by type. refused: how many were not, as their type is disabled.

    bad: how many lines were not understood. seconds: how long it took.
    """

    entries: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    bad: int = 0
    seconds: float = 0.0

    @property
    def stored(self) -> int:
        return sum(self.entries.values())

    @property
    def rate(self) -> float:
        """Entries per second."""
        return self.stored / self.seconds if self.seconds else 0.0


def warm(
    conninfo: str,
    files: Iterable[str],
    *,
    strict: bool = False,
    on_bad: Callable[[BadLine], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> WarmReport:
    """Load the files ('-': standard input) and say what was stored. Of entries with the same key, the last one stays.

    strict: stop at the first bad line, with InvalidValueError; what was stored before it stays. on_bad: is told of each
    bad line. on_progress: is told, every now and then, how many bytes were read and how many entries stored since.

    Raises PgcacheError if the trouble is not with a line: no server, pgcache not installed, no privilege.
    """
    started = time.monotonic()
    try:
        with connect(conninfo, "pgcache warm") as connection:
            loader = _Loader(connection, strict, on_bad, on_progress)
            for name in files:
                loader.load(name)
    except psycopg.Error as error:
        raise translated(error) from error
    loader.report.seconds = time.monotonic() - started
    return loader.report


class _Loader:
    def __init__(
        self,
        connection: Connection,
        strict: bool,
        on_bad: Callable[[BadLine], None] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.connection = connection
        self.typed = shapes(connection)
        self.strict = strict
        self.on_bad = on_bad
        self.on_progress = on_progress
        self.report = WarmReport()
        self.file = ""

    def load(self, name: str) -> None:
        """Load one file."""
        if name == STDIN:
            self._load("standard input", Path(), sys.stdin.buffer)
            return
        shown = os.fsencode(name).decode(errors="backslashreplace")
        try:
            with Path(name).open("rb") as opened:
                self._load(shown, Path(name).parent, opened)
        except OSError as error:
            raise PgcacheError(f"{shown}: {error.strerror}") from None

    def _load(self, name: str, folder: Path, opened: BinaryIO) -> None:
        self.file = name
        batch: list[Entry] = []
        size = 0
        for number, line in enumerate(opened, start=1):
            size += len(line)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    batch.append(entry(number, text, folder, self.typed))
            except UnicodeDecodeError:
                self._bad(number, "this is no UTF-8")
            except InvalidValueError as error:
                self._bad(number, error.message, error.hint)
            if len(batch) == BATCH_ENTRIES or size > BATCH_BYTES:
                self._store(batch, size)
                batch, size = [], 0
        self._store(batch, size)

    def _store(self, batch: list[Entry], size: int) -> None:
        before = self.report.stored
        self._store_or_split(batch)
        if self.on_progress:
            self.on_progress(size, self.report.stored - before)

    def _store_or_split(self, batch: list[Entry]) -> None:
        """Store what is good. A batch with a bad line is refused as a whole, so that line is searched for by halves."""
        if not batch:
            return
        try:
            self._store_all(batch)
        except (psycopg.Error, UnicodeEncodeError) as error:
            if not _is_about_a_line(error):
                raise
            if len(batch) == 1:
                problem = translated(error) if isinstance(error, psycopg.Error) else error
                hint = problem.hint if isinstance(problem, PgcacheError) else None
                self._bad(batch[0].line, problem.message if isinstance(problem, PgcacheError) else str(problem), hint)
                return
            middle = len(batch) // 2
            self._store_or_split(batch[:middle])
            self._store_or_split(batch[middle:])

    def _store_all(self, batch: list[Entry]) -> None:
        """Store all or none, in the order of the file."""
        stored: Counter[str] = Counter()
        # Neighbours that go together go to the server together.
        groups = groupby(batch, key=lambda e: (e.call, e.type, e.tenant, e.ttl))
        with self.connection.transaction(), self.connection.cursor() as cursor:
            scope = ""
            for (call, kind, tenant, ttl), entries in groups:
                if tenant != scope:
                    cursor.execute("SELECT set_config('pgcache.tenant', %s, true)", [tenant])
                    scope = tenant
                arguments = [e.arguments for e in entries]
                if call is SET_MANY:
                    members = ",".join(member for (member,) in arguments)
                    cursor.execute(call.encode(), [kind, f"{{{members}}}", ttl])
                    # Of a key that is there twice, both lines count.
                    stored[kind] += len(arguments) if _first(cursor) else 0
                else:
                    cursor.executemany(call.encode(), [[*each, ttl] for each in arguments], returning=True)
                    stored[kind] += _first(cursor)
                    while cursor.nextset():
                        stored[kind] += _first(cursor)
        self.report.entries += +stored
        self.report.refused += len(batch) - stored.total()

    def _bad(self, line: int, problem: str, hint: str | None = None) -> None:
        bad = BadLine(self.file, line, problem, hint)
        if self.strict:
            raise InvalidValueError(str(bad), hint=hint)
        self.report.bad += 1
        if self.on_bad:
            self.on_bad(bad)


def _first(cursor: psycopg.Cursor[Any]) -> int:
    row = cursor.fetchone()
    return int(row[0]) if row else 0


def _is_about_a_line(error: psycopg.Error | UnicodeEncodeError) -> bool:
    """Whether another line might fare better: wrong data, a limit of the format, an error of pgcache but 'full'."""
    if isinstance(error, UnicodeEncodeError):
        return True
    if error.sqlstate is None:
        return isinstance(error, psycopg.DataError)
    return error.sqlstate[:2] in ("22", "23", "54", "PC") and error.sqlstate != "PC009"
