"""Runs the blocks of a page, one after the other, and compares what they print with what the page shows."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq

from tests.docs.blocks import Block, Page, matches
from tests.tools.waiting import wait_until

# What follows a statement on its last line.
SQL_RESULT = re.compile(r"^(?P<code>.*;)(?:\s*--> ?(?P<shown>.*)|\s*--.*)?$")
PYTHON_RESULT = re.compile(r"\s*# -> (?P<shown>.*)$")
# Commands of a console that run, and where they are found.
COMMANDS = ("cat", "curl", "echo", "pg_dump", "psql", "python")

NUMBERS = frozenset({20, 21, 23, 26, 700, 701, 1700})


@dataclass
class World:
    """What the names in the pages stand for here.

    dsn: the database, as its owner. names: texts of the pages, with what takes their place when a block runs. programs:
    the folder of psql and pg_dump. folder: where commands run.
    """

    dsn: str
    names: dict[str, str]
    programs: Path
    folder: Path

    def real(self, text: str) -> str:
        for name, meant in self.names.items():
            text = text.replace(name, meant)
        return text

    def documented(self, text: str) -> str:
        for name, meant in self.names.items():
            text = text.replace(meant, name)
        return re.sub(rf"\b{psycopg.conninfo.conninfo_to_dict(self.dsn)['dbname']}\b", "app", text)


@dataclass
class Change:
    """Lines of a page that would have to read otherwise."""

    first: int
    end: int
    lines: list[str]


@dataclass
class Run:
    """A run of a page. differences: where the page shows something else than what is printed."""

    page: Page
    world: World
    differences: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._session: psycopg.Connection | None = None
        self._names: dict[str, Any] = {"__name__": "page"}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._background: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for value in list(self._names.values()):
            if callable(close := getattr(value, "close", None)) and not inspect.isclass(value):
                closing = close()
                if inspect.isawaitable(closing):
                    self.loop.run_until_complete(_wait_for(closing))
        if self._loop:
            self._loop.close()
        if self._session:
            self._session.close()
        for process in self._background:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)

    def all(self) -> None:
        for block in self.page.blocks:
            run = {"sql": self._sql, "python": self._python, "console": self._console}.get(block.language)
            if run:
                run(block)

    def updated(self) -> str:
        """The page with what was printed in place of what it shows."""
        lines = self.page.text.splitlines()
        for change in sorted(self.changes, key=lambda change: change.first, reverse=True):
            lines[change.first : change.end] = change.lines
        return "\n".join(lines) + "\n"

    # Comparing.

    def _differs(self, line: int, code: str, shown: str, printed: str, change: Change) -> None:
        self.differences.append(
            f"{self.page.name}:{line + 1}: {code.strip()}\nshown:\n{shown or '(nothing)'}\nprinted:\n{printed}"
        )
        self.changes.append(change)

    def _compare_text(self, block: Block, printed: str) -> None:
        """All that a block prints, with the block of text that follows it."""
        lines = printed.rstrip("\n").splitlines()
        printed = "\n".join(line.rstrip() for line in lines)
        shown = "\n".join(block.shown.lines) if block.shown else ""
        if matches(shown, printed):
            return
        if block.shown:
            change = Change(block.shown.first, block.shown.end, _kept(block.shown.lines, printed.splitlines()))
        else:
            change = Change(block.end + 1, block.end + 1, ["```text", *printed.splitlines(), "```"])
        self._differs(block.first, "what this block prints", shown, printed, change)

    # SQL.

    @property
    def session(self) -> psycopg.Connection:
        """Opened when the page first needs it: the page may install pgcache before."""
        if self._session is None:
            self._session = psycopg.connect(self.world.dsn, autocommit=True)
            self._session.add_notice_handler(self._notices)
        return self._session

    def _notices(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self._noticed += f"{diagnostic.severity}:  {diagnostic.message_primary}\n"

    def _sql(self, block: Block) -> None:
        printed = ""
        for first, last, statement, shown in _statements(self.page, block):
            self._noticed = ""
            reply = self.session.pgconn.exec_(self.world.real(statement).encode())
            if shown is None:
                printed += self.world.documented(self._noticed + aligned(reply))
                continue
            found = self.world.documented(unaligned(reply))
            if not matches(shown, found):
                line = block.lines[last]
                written = f"{line[: line.rindex('-->')]}--> {found}"
                change = Change(block.first + last, block.first + last + 1, [written])
                self._differs(block.first + first, statement, shown, found, change)
        self._compare_text(block, printed)

    # Python.

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop

    def _python(self, block: Block) -> None:
        source = self.world.real("\n".join(block.lines))
        output = io.StringIO()
        statements = ast.parse(source, self.page.name).body
        ends = {statement.end_lineno for statement in statements if isinstance(statement, ast.Expr)}
        for number, line in enumerate(block.lines, start=1):
            where = f"{self.page.name}:{block.first + number}"
            assert number in ends or not PYTHON_RESULT.search(line), f"{where}: no expression of the block ends here"
        for statement in statements:
            last = (statement.end_lineno or statement.lineno) - 1
            code = ast.get_source_segment(source, statement) or ""
            match = PYTHON_RESULT.search(block.lines[last])
            with redirect_stdout(output):
                value = self._evaluated(statement)
            if not isinstance(statement, ast.Expr):
                continue
            found = "" if value is None and not match else self.world.documented(repr(value))
            shown = match["shown"] if match else ""
            if not matches(shown, found):
                line = block.lines[last]
                written = f"{line[: match.start()] if match else line}  # -> {found}"
                change = Change(block.first + last, block.first + last + 1, [written])
                self._differs(block.first + statement.lineno - 1, code, shown, found, change)
        self._compare_text(block, self.world.documented(output.getvalue()))

    def _evaluated(self, statement: ast.stmt) -> Any:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), self.page.name, "eval", flags), self._names)
        else:
            value = eval(compile(ast.Module([statement], []), self.page.name, "exec", flags), self._names)
        return self.loop.run_until_complete(value) if inspect.iscoroutine(value) else value

    # Commands.

    def _console(self, block: Block) -> None:
        for first, end, command, shown in _commands(block):
            name = command.split()[0]
            assert name in COMMANDS, f"{self.page.name}:{block.first + first + 1}: {name} is not run; mark the block sh"
            if command.endswith("&"):
                printed = self._started(command.removesuffix("&"), shown)
            else:
                done = subprocess.run(self._shell(command), **self._options(), capture_output=True, text=True)
                # Of what succeeds, stderr has the progress only.
                printed = done.stdout + (done.stderr if done.returncode else "")
                assert done.returncode == 0 or re.search(r"^(error|miss|curl): ", shown, re.MULTILINE), printed
            printed = "\n".join(line.rstrip() for line in self.world.documented(printed).rstrip("\n").splitlines())
            if not matches(shown, printed):
                lines = _kept(shown.splitlines(), printed.splitlines())
                change = Change(block.first + first, block.first + end, lines)
                self._differs(block.first + first - 1, command, shown, printed, change)

    def _started(self, command: str, shown: str) -> str:
        """A command that goes on beside those that follow: what it prints first."""
        output = self.world.folder / f"background-{len(self._background)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                self._shell(command), **self._options(), stdout=file, stderr=file, start_new_session=True
            )
        self._background.append(process)

        def printed() -> str:
            return "\n".join(output.read_text().splitlines()[: shown.count("\n") + 1])

        with suppress(AssertionError):  # the caller compares, and says what is there instead
            wait_until(lambda: matches(shown, self.world.documented(printed())) or process.poll() is not None)
        return printed()

    def _shell(self, command: str) -> list[str]:
        return ["bash", "-c", self.world.real(command)]

    def _options(self) -> dict[str, Any]:
        path = [str(Path(sys.executable).parent), str(self.world.programs), os.environ["PATH"]]
        environment = {**os.environ, "PATH": os.pathsep.join(path), "COLUMNS": "120", "NO_COLOR": "1"}
        return {"cwd": self.world.folder, "env": environment, "stdin": subprocess.DEVNULL}


def _kept(shown: list[str], printed: list[str]) -> list[str]:
    """The printed lines, or rather those shown that match them: they may have wildcards."""
    if len(shown) != len(printed):
        return printed
    return [old if matches(old, new) else new for old, new in zip(shown, printed, strict=True)]


async def _wait_for(something: Any) -> Any:
    return await something


def _statements(page: Page, block: Block) -> Iterator[tuple[int, int, str, str | None]]:
    """First and last line, the statement, and the result that is shown behind it, if it is. A statement ends a line."""
    first, code = 0, ""
    for number, line in enumerate(block.lines):
        if not code.strip():
            first, code = number, ""
            if not line.strip() or line.startswith("--"):
                continue
        match = SQL_RESULT.match(line)
        assert match or "-->" not in line, f"{page.name}:{block.first + number + 1}: no statement ends here"
        code += f"{match['code'] if match else line}\n"
        if match and code.count("$$") % 2 == 0:
            yield first, number, code, match["shown"]
            code = ""
    assert not code.strip(), f"{page.name}:{block.first + first + 1}: the statement does not end in a semicolon"


def _commands(block: Block) -> Iterator[tuple[int, int, str, str]]:
    """First and end line of what each command prints, the command and what is shown."""
    starts = [number for number, line in enumerate(block.lines) if line.startswith("$ ")]
    for start, following in zip(starts, [*starts[1:], len(block.lines)], strict=True):
        first = start + 1
        while block.lines[first - 1].endswith("\\"):
            first += 1
        command = "\n".join(block.lines[start:first]).removeprefix("$ ")
        yield first, following, command, "\n".join(block.lines[first:following]).rstrip("\n")


# What psql prints, but for the number of rows.


def aligned(reply: pq.abc.PGresult) -> str:
    """As psql -q does by default."""
    if reply.status == pq.ExecStatus.FATAL_ERROR:
        return _error(reply)
    if reply.status != pq.ExecStatus.TUPLES_OK:
        return ""
    names = [(reply.fname(column) or b"").decode() for column in range(reply.nfields)]
    rows = _rows(reply, null="")
    if not any(any(row) for row in rows) and {reply.ftype(column) for column in range(reply.nfields)} == {2278}:
        return ""  # a function that returns void
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    # Where the blanks cannot be halved, psql has the odd one on the right, and Python, for odd widths, on the left.
    header = " | ".join(_centered(name, width) for name, width in zip(names, widths, strict=True))
    lines = [f" {header} ", "-+-".join("-" * width for width in widths).join("--")]
    for row in rows:
        cells = (
            text.rjust(width) if reply.ftype(column) in NUMBERS else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f" {' | '.join(cells)}")
    return "".join(f"{line.rstrip()}\n" for line in lines) + "\n"


def _centered(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return f"{' ' * left}{text}".ljust(width)


def unaligned(reply: pq.abc.PGresult) -> str:
    """A row, as psql -At does, or the error."""
    if reply.status == pq.ExecStatus.FATAL_ERROR:
        return _error(reply).rstrip("\n")
    return "\n".join("|".join(row) for row in _rows(reply, null="NULL"))


def _rows(reply: pq.abc.PGresult, null: str) -> list[list[str]]:
    return [
        [null if (value := reply.get_value(row, column)) is None else value.decode() for column in range(reply.nfields)]
        for row in range(reply.ntuples)
    ]


def _error(reply: pq.abc.PGresult) -> str:
    fields = {
        "DETAIL": reply.error_field(pq.DiagnosticField.MESSAGE_DETAIL),
        "HINT": reply.error_field(pq.DiagnosticField.MESSAGE_HINT),
    }
    message = (reply.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
    lines = [f"ERROR:  {message}", *(f"{name}:  {text.decode()}" for name, text in fields.items() if text)]
    return "".join(f"{line}\n" for line in lines)
