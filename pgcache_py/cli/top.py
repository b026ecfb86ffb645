"""The statistics live in a terminal, as the page of `serve` has them: python -m pgcache_py top."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import psycopg

from ..errors import PgcacheError, translated
from ..readable import NONE, ago, count, money, percent, printable, size
from ..serve.figures import PERIODS, Figures, Row, look, total
from . import show

try:
    from rich import box
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise PgcacheError("top needs the package rich", hint="pip install 'pgcache[progress]'") from error

try:
    import termios
    import tty
except ImportError:  # Windows: there it ends with Ctrl-C alone
    termios = tty = None  # type: ignore[assignment]

LOOK_AT = ("types", "since", "health", "latencies", "jobs", "top", "tenants")
TITLES = {"hour": "last hour", "day": "last day", "month": "last 30 days"}
LEFT, RIGHT = ("\x1b[D", "\x1bOD", "h"), ("\x1b[C", "\x1bOC", "l")
QUIT = ("q", "Q", "\x04")
HELP = "  q quit   left right: other period"
LONGEST = 48
BETWEEN = 2  # blanks between columns
# Of the columns of types: what narrow terminals do without, the least wanted first.
SPARE = ("full by bytes", "evicted", "misses", "size", "full", "entries", "gets/s")
STYLES = {"ok": "green", "warning": "yellow", "critical": "bold red"}


def run(conninfo: str, every: float) -> None:
    """Show them until the user has seen enough; once, where the output is no terminal."""
    console = Console(width=None if sys.stdout.isatty() else show.width(sys.stdout), highlight=False)
    try:
        asyncio.run(_follow(conninfo, every, console) if console.is_terminal else _once(conninfo, console))
    except psycopg.Error as error:
        raise translated(error) from error


async def _once(conninfo: str, console: Console) -> None:
    async with await _connect(conninfo) as connection:
        console.print(screen(await look(connection, *LOOK_AT), None, "day", console.width))


async def _connect(conninfo: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, prepare_threshold=None, application_name="pgcache top"
    )


async def _follow(conninfo: str, every: float, console: Console) -> None:
    seen = Seen(await _connect(conninfo))
    try:
        await seen.again()  # what is wrong from the beginning is an error
        with _keys() as keys, Live(seen.shown(console.width), console=console, screen=True, auto_refresh=False) as live:

            async def refresh() -> None:
                while True:
                    live.update(seen.shown(console.width), refresh=True)
                    await asyncio.sleep(every)
                    try:
                        if seen.connection.closed:
                            seen.connection = await _connect(conninfo)
                        await seen.again()
                    except psycopg.Error as error:
                        seen.trouble = translated(error)

            refreshing = asyncio.create_task(refresh())
            try:
                while (key := await keys.get()) not in QUIT:
                    seen.turn(-1 if key in LEFT else 1 if key in RIGHT else 0)
                    live.update(seen.shown(console.width), refresh=True)
            finally:
                refreshing.cancel()
                with suppress(asyncio.CancelledError):
                    await refreshing
    finally:
        await seen.connection.close()


class Seen:
    """The last look, and the one before it."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self.period = "day"
        self.trouble: Exception | None = None
        self.looks: list[tuple[float, Figures]] = []

    async def again(self) -> None:
        figures = await look(self.connection, *LOOK_AT)
        self.looks = [*self.looks[-1:], (monotonic(), figures)]
        self.trouble = None

    def turn(self, step: int) -> None:
        """To the next period, or the one before."""
        names = list(PERIODS)
        self.period = names[(names.index(self.period) + step) % len(names)]

    def shown(self, width: int) -> RenderableType:
        if self.trouble:
            hint = getattr(self.trouble, "hint", None)
            lines = ("error: ", "bold red"), str(getattr(self.trouble, "message", self.trouble)), "\n", hint or ""
            return Group(Text.assemble(*lines), Text("This is tried again every few seconds.  q quit", style="dim"))
        (then, before), (now, figures) = self.looks[0], self.looks[-1]
        speeds = None
        if now > then and before.types and figures.types:
            asked = {row["type"]: row["hits"] + row["misses"] for row in before.types}
            speeds = {
                row["type"]: max(0, row["hits"] + row["misses"] - asked.get(row["type"], 0)) / (now - then)
                for row in figures.types
            }
        return Group(screen(figures, speeds, self.period, width), Text(HELP, style="dim"))


@contextmanager
def _keys() -> Iterator[asyncio.Queue[str]]:
    """The keys that are pressed, each as it is pressed."""
    keys: asyncio.Queue[str] = asyncio.Queue()
    if termios is None or not sys.stdin.isatty():
        yield keys
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    was = termios.tcgetattr(terminal)

    def pressed() -> None:
        # Nothing at all: the terminal has gone.
        keys.put_nowait(os.read(terminal, 32).decode(errors="replace") or QUIT[0])

    tty.setcbreak(terminal)
    loop.add_reader(terminal, pressed)
    try:
        yield keys
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, was)


# What is shown ------------------------------------------------------------------------------------------------------


def screen(figures: Figures, speeds: dict[str, float] | None, period: str, width: int) -> RenderableType:
    """The figures as of one time. speeds: gets in a second, by type; None where they are not known yet."""
    overall = figures.health[0]["status"] if figures.health else ""
    head = Text.assemble(
        ("pgcache", "bold"), f" in {printable(figures.database, LONGEST)}  ", (overall, STYLES.get(overall, "")),
        (f"  as of {figures.now:%d %b %H:%M:%S %Z}, {TITLES[period]}", "dim"),
    )  # fmt: skip
    parts = [head, *(_of_tenants(figures) if figures.walled else _of_types(figures, speeds, period, width))]
    if figures.top:
        rows = [[row["type"], _key(row), count(row["hit_count"]), size(row["bytes"])] for row in figures.top]
        parts.append(_table("Most hits, as of the last clean-up", ("type", "key", "hits", "size"), rows, left=2))
    return Group(*parts)


def _of_tenants(figures: Figures) -> Iterable[RenderableType]:
    rows = [
        [printable(row["tenant"] or "(shared)", LONGEST), row["type"], count(row["entries"]), size(row["bytes"]),
         count(row["hits"]), money(row["money_saved"])]
        for row in figures.tenants or []
    ]  # fmt: skip
    yield _table("Tenants", ("tenant", "type", "entries", "size", "hits", "saved"), rows, left=2)


def _of_types(figures: Figures, speeds: dict[str, float] | None, period: str, width: int) -> Iterable[RenderableType]:
    done = {row["type"]: row for row in figures.since or [] if row["period"] == PERIODS[period]}
    types = figures.types or []

    def line(name: str, did: Row, speed: float | None, held: Row) -> list[str]:
        return [
            name, NONE if speed is None else f"{speed:,.1f}", percent(did["hit_rate"]), count(did["hits"]),
            count(did["misses"]), money(did["money_saved"]), count(did["evicted"]), count(held["entries"]),
            _share(held["entries"], held["max_entries"]), size(held["bytes"]), _share(held["bytes"], held["max_bytes"]),
        ]  # fmt: skip

    rows = [
        line(row["type"], done[row["type"]], speeds[row["type"]] if speeds else None, row)
        for row in sorted(types, key=lambda row: (-done[row["type"]]["hits"], row["type"]))
    ]
    held: Row = {name: sum(row[name] or 0 for row in types) for name in ("entries", "bytes")}
    speed = sum(speeds.values()) if speeds else None
    rows.append(line("all", total(done.values()), speed, {**held, "max_entries": None, "max_bytes": None}))
    yield _fitting(
        (
            "type", "gets/s", "hit rate", "hits", "misses", "saved", "evicted", "entries", "full", "size",
            "full by bytes",
        ), rows, width,
    )  # fmt: skip
    for check in (figures.health or [])[1:]:
        if check["status"] != "ok":
            said = printable(f" {check['check_name']}: {check['detail']}", 300)
            yield Text.assemble((f"  {check['status']}", STYLES[check["status"]]), said)
    if figures.latencies:
        latencies = [
            [row["type"], row["operation"], *(f"{row[name]:g}" for name in ("p50_ms", "p95_ms", "max_ms"))]
            for row in figures.latencies[:5]
        ]
        title = "Milliseconds on the server, in the last hour"
        yield _table(title, ("type", "call", "p50", "p95", "slowest"), latencies, left=2)
    jobs = [
        [row["job_name"], ago(row["last_run"]), (row["outcome"] or NONE) + (", overdue" if row["overdue"] else "")]
        for row in figures.jobs or []
    ]
    yield _table("Jobs", ("job", "last run", "outcome"), jobs, left=3)


def _fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> RenderableType:
    """A table that is no wider than this, without some of SPARE if need be, and without what nothing is known of."""
    cells = {name: values for name, *values in zip(columns, *rows, strict=True) if set(values) != {NONE}}
    widths = {name: BETWEEN + max(len(name), *map(len, values)) for name, values in cells.items()}
    for name in [name for name in SPARE if name in widths]:
        if sum(widths.values()) <= width:
            break
        del widths[name]
    kept = [number for number, name in enumerate(columns) if name in widths]
    return _table("", [columns[number] for number in kept], [[row[n] for n in kept] for row in rows], total=True)


def _share(held: int | None, most: int | None) -> str:
    return NONE if held is None or not most else percent(held / most)


def _key(row: Row) -> str:
    return printable(f"{row['tenant']}: {row['cache_key']}" if row["tenant"] else row["cache_key"], LONGEST)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, total: bool = False
) -> RenderableType:
    """left: how many of the columns are texts. total: the last row is a sum."""
    table = Table(
        box=box.SIMPLE_HEAD, border_style="dim", header_style="dim", padding=(0, BETWEEN - 1, 0, 0), show_edge=False
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    for number, row in enumerate(rows):
        idle = all(cell in ("0", NONE, "$0.00", "0 B", "0.0 %", "0.0") for cell in row[left:])
        last = total and number == len(rows) - 1
        table.add_row(*map(Text, row), style="bold" if last else "dim" if idle else "")
    return Group("", Text(title, style="bold"), table) if title else table
