"""Takes over the tables of earlier cache systems: cache_adopt does it, in one transaction; this shows how far it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

from ..errors import PgcacheError
from .session import Connection, session

PROGRESS = re.compile(r"(\d+) rows of (.*)")


@dataclass
class Adopted:
    """A table, view or function that an earlier system has left.

    entries: how many of its rows are taken; left_out: how many are not, by reason; becomes: its new name. None where it
    has no rows, or keeps its name.
    """

    object: str
    type: str | None
    entries: int | None
    left_out: dict[str, int | None] | None
    becomes: str | None


def adopt(
    conninfo: str,
    *,
    dry_run: bool = False,
    keep: bool = False,
    time_zone: str | None = None,
    tenant: str = "",
    tables: Sequence[str] | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> list[Adopted]:
    """dry_run: only say what it would do. tables: only these, with their schemas; None for all.

    on_progress: is told of each table how many of its rows are done so far.
    """

    def tell(notice: psycopg.errors.Diagnostic) -> None:
        if on_progress and (match := PROGRESS.fullmatch(notice.message_primary or "")):
            on_progress(match[2], int(match[1]))

    with session(conninfo) as connection, connection.cursor(row_factory=class_row(Adopted)) as cursor:
        connection.add_notice_handler(tell)
        connection.execute("SET statement_timeout = 0; SET client_min_messages = notice")
        connection.execute("SELECT set_config('pgcache.tenant', %s, false)", [tenant])
        if tables is not None:
            _check_names(connection, tables)
        query = "SELECT * FROM pgcache.cache_adopt(%s, %s, %s, %s::text[]::regclass[])"
        return cursor.execute(query, [dry_run, keep, time_zone, tables]).fetchall()


def _check_names(connection: Connection, tables: Sequence[str]) -> None:
    for table in tables:
        try:
            connection.execute("SELECT %s::text::regclass", [table])
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
            raise PgcacheError(
                f"there is no table {table or 'with an empty name'}: {error.diag.message_primary}",
                sqlstate="PC010",
                hint='Name it with its schema, as adopt --dry-run shows it: public.cache_store, or app."Cache".',
            ) from error
