"""What people see in a terminal: tables, statements, progress. Nicer with rich (extra `progress`), plain without it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from ..readable import NONE, ago, count, money, percent, printable, size, span

try:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text
except ImportError:
    RICH = False
else:
    RICH = True

# Where the output is no terminal (a pipe, a log), lines may be longer than a terminal's usual 80 characters.
WIDTH_OF_FILES = 120
WIDE = 100
LONGEST_KEY = 60
Advance = Callable[[int, int], None]


def width(stream: TextIO) -> int:
    """How many characters fit on a line."""
    if not stream.isatty() and "COLUMNS" not in os.environ:
        return WIDTH_OF_FILES
    return shutil.get_terminal_size().columns


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, width=width(sys.stderr if stderr else sys.stdout), highlight=False, soft_wrap=True)


# Parts of the output ------------------------------------------------------------------------------------------------


def line(text: str = "", *, style: str = "") -> None:
    """One line. style: of rich, such as 'bold' or 'dim'."""
    if RICH and style:
        _console().print(Text(text, style=style))
    else:
        print(text)


def heading(text: str) -> None:
    line()
    line(text, style="bold")


def statement(sql: str) -> None:
    """An SQL statement, as one would type it."""
    if RICH:
        console = _console()
        syntax = Syntax(sql, "postgresql", theme="ansi_dark", background_color="default", word_wrap=False)
        console.print(syntax.highlight(sql), end="")
    else:
        print(sql)


def result(text: str, note: str = "") -> None:
    """What a statement returned, and a remark on it."""
    if RICH:
        _console().print(Text.assemble("  ", (text, "green"), (f"  -- {note}" if note else "", "dim")))
    else:
        print(f"  {text}  -- {note}" if note else f"  {text}")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, total: bool = False) -> None:
    """left: how many of the columns are texts; the others are aligned to the right. total: the last row is a sum."""
    if not RICH:
        _plain_table(columns, rows, left)
        return
    console = _console()
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    if sum(widths) + 3 * len(widths) + 1 <= console.width:
        shown = Table(box=box.ROUNDED, header_style="bold", border_style="dim")
    else:
        shown = Table(
            box=box.SIMPLE_HEAD, header_style="bold", border_style="dim", padding=(0, 1, 0, 0), show_edge=False
        )
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number < left else "right", no_wrap=number > 0, overflow="fold")
    for number, row in enumerate(rows):
        last = total and number == len(rows) - 1
        if last:
            shown.add_section()
        # Quiet rows for what is empty, so that the eye finds the others.
        empty = all(cell in ("", "0", NONE, "$0.00", "0 B") for cell in row[left:])
        shown.add_row(*map(escape, row), style="bold" if last else "dim" if empty else "")
    console.print(shown)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, ["-" * width for width in widths], *rows):
        cells = (
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


@contextmanager
def progress(label: str, total: int | None, *, stderr: bool = True) -> Iterator[Advance]:
    """A bar. total: in bytes, if it is known. What is yielded is to be told how many bytes and entries are done."""
    started = time.monotonic()
    entries = 0

    def said() -> str:
        return f"{count(entries)} entries, {count(round(entries / max(time.monotonic() - started, 0.001)))}/s"

    if not RICH:
        done = 0
        shown_at = started
        terminal = sys.stderr.isatty()

        def tell(size: int, stored: int) -> None:
            nonlocal done, entries, shown_at
            done, entries = done + size, entries + stored
            if terminal and time.monotonic() - shown_at > 0.2:
                shown_at = time.monotonic()
                share = f"{100 * done // total:3} %  " if total else ""
                print(f"\r{label}  {share}{said()}  ", end="", file=sys.stderr, flush=True)

        yield tell
        if terminal:
            print(f"\r{label}  {said()}  ", file=sys.stderr)
        return

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(stderr), refresh_per_second=5) as bar:
        task = bar.add_task(label, total=total, said="")

        def advance(size: int, stored: int) -> None:
            nonlocal entries
            entries += stored
            bar.update(task, advance=size, said=said())

        yield advance
        bar.update(task, total=total or 1, completed=total or 1, said=said())


# Tables -------------------------------------------------------------------------------------------------------------


def stats(types: Sequence[Mapping[str, Any]]) -> None:
    """cache_stats, with a line for the sum. Narrow terminals do without what has been removed."""
    wide = width(sys.stdout) >= WIDE
    tokens = "tokens saved" if wide else "tokens"
    columns = "type", "entries", "hits", "misses", "hit rate", tokens, "saved", "size", "evicted", "cleaned"
    rows = [[_marked(t), *_figures(t)] for t in types]
    summed = "entries", "hits", "misses", "tokens_saved", "money_saved", "bytes", "evicted", "cleaned"
    total: dict[str, Any] = {name: sum(t[name] or 0 for t in types) for name in summed}
    requests = total["hits"] + total["misses"]
    total["hit_rate"] = total["hits"] / requests if requests else None
    rows.append(["all", *_figures(total)])
    shown = len(columns) if wide else len(columns) - 2
    table(columns[:shown], [row[:shown] for row in rows], total=True)
    if any(not t["durable"] for t in types):
        line("* not durable: emptied by a crash of the server", style="dim")


def latencies(rows: Sequence[Mapping[str, Any]]) -> None:
    """cache_latency."""
    columns = "type", "operation", "samples", "p50", "p95", "slowest"
    shown = "samples", "p50_ms", "p95_ms", "max_ms"
    table(columns, [[r["type"], r["operation"], *(str(r[name]) for name in shown)] for r in rows], left=2)


def top(entries: Sequence[Mapping[str, Any]]) -> None:
    """Of cache_top. Long keys are cut; a tenant's stand behind its name."""
    rows = []
    for entry in entries:
        key = (f"{entry['tenant']}: " if entry["tenant"] else "") + entry["cache_key"]
        rows.append([entry["type"], printable(key, LONGEST_KEY), count(entry["hit_count"]), size(entry["bytes"])])
    table(("type", "key", "hits", "size"), rows, left=2)


def _marked(t: Mapping[str, Any]) -> str:
    return f"{t['type']}{'' if t['durable'] else ' *'}{'' if t['enabled'] else ' (disabled)'}"


def _figures(t: Mapping[str, Any]) -> list[str]:
    return [
        count(t["entries"]),
        count(t["hits"]),
        count(t["misses"]),
        percent(t["hit_rate"]),
        count(t["tokens_saved"]),
        money(t["money_saved"]),
        size(t["bytes"]),
        count(t["evicted"]),
        count(t["cleaned"]),
    ]


def limits(types: Sequence[Mapping[str, Any]]) -> None:
    """What each type holds, against what it may hold."""
    columns = "type", "durable", "evicts", "TTL", "entries", "of at most", "size", "of at most"
    table(columns, [
        [
            t["type"] if t["enabled"] else f"{t['type']} (disabled)",
            "yes" if t["durable"] else "no",
            {"none": "nothing"}.get(t["eviction"], t["eviction"]),
            span(t["ttl"]),
            count(t["entries"]),
            count(t["max_entries"]),
            size(t["bytes"]),
            size(t["max_bytes"]),
        ]
        for t in types
    ], left=3)  # fmt: skip


def jobs(rows: Sequence[Mapping[str, Any]]) -> None:
    """cache_jobs."""
    columns = "job", "schedule", "last run", "took", "outcome", "overdue"
    table(columns, [
        [
            job["job_name"],
            job["schedule"] or NONE,
            ago(job["last_run"]),
            NONE if job["duration"] is None else f"{job['duration'].total_seconds():.2f} s",
            job["outcome"] or NONE,
            "yes" if job["overdue"] else "no",
        ]
        for job in rows
    ], left=6)  # fmt: skip
