"""The statistics in a terminal: a pseudo-terminal, read as a terminal would show it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from pgcache_py.setup.install import install
from tests.conftest import NewRole
from tests.serve import world
from tests.servers import Cluster
from tests.tools.session import Session
from tests.tools.waiting import wait_until

pytestmark = pytest.mark.once

PROJECT = Path(__file__).parents[2]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()=>][A-Z0-9]?|\r")
ALTERNATE, BACK = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """python -m pgcache_py top in a terminal of 120 columns."""

    def __init__(self, dsn: str) -> None:
        self.ours, theirs = os.openpty()
        termios.tcsetwinsize(self.ours, (60, 120)) if hasattr(termios, "tcsetwinsize") else None
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pgcache_py", "top", "--every", "1", "--dsn", dsn],
            cwd=PROJECT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "60"},
        )  # fmt: skip
        self.said = ""

    def shows(self, text: str) -> bool:
        """Whether it does since this was last asked for, by what has come by now."""
        while select.select([self.ours], [], [], 0)[0]:
            self.said += os.read(self.ours, 65536).decode(errors="replace")
        if text not in CONTROL.sub("", self.said) and text not in self.said:
            return False
        self.last, self.said = self.said, ""
        return True

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal() -> Iterator[Callable[[str], Terminal]]:
    made: list[Terminal] = []

    def make(dsn: str) -> Terminal:
        made.append(Terminal(dsn))
        return made[-1]

    yield make
    for one in made:
        one.close()


def once(dsn: str, columns: int = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgcache_py", "top", "--dsn", dsn],
        cwd=PROJECT, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": str(columns)},
    )  # fmt: skip


def test_it_is_live_and_ends_with_q(dsn: str, ask: Session, terminal: Callable[[str], Terminal]) -> None:
    ask("SELECT cache_set('store', 'k', '1')")
    shown = terminal(dsn)
    wait_until(lambda: shown.shows("last day"))
    assert ALTERNATE in shown.last
    ask("SELECT cache_get('store', 'k') FROM generate_series(1, 4321)")
    wait_until(lambda: shown.shows("4,321"))
    right, left = "\x1b[C", "\x1b[D"
    for key, period in ((right, "last 30 days"), (right, "last hour"), (left, "last 30 days"), ("h", "last day")):
        shown.press(key)
        wait_until(lambda period=period: shown.shows(period))
    shown.press("q")
    assert shown.process.wait(10) == 0
    wait_until(lambda: shown.shows(BACK))
    assert termios.tcgetattr(shown.theirs) == shown.before


def test_ctrl_c_is_clean(dsn: str, terminal: Callable[[str], Terminal]) -> None:
    shown = terminal(dsn)
    wait_until(lambda: shown.shows("last day"))
    shown.process.send_signal(signal.SIGINT)
    assert shown.process.wait(10) == 130
    wait_until(lambda: shown.shows(BACK))
    assert "Traceback" not in shown.last
    assert termios.tcgetattr(shown.theirs) == shown.before


@pytest.mark.needs("cluster")
def test_a_server_that_goes_and_comes_back(
    throwaway_cluster: Callable[..., Cluster], terminal: Callable[[str], Terminal]
) -> None:
    cluster = throwaway_cluster()
    install(cluster.dsn(), cron=False)
    shown = terminal(cluster.dsn())
    wait_until(lambda: shown.shows("last day"))
    cluster.stop("immediate")
    wait_until(lambda: shown.shows("error:"))
    cluster.start()
    wait_until(lambda: shown.shows("last day"), 30)
    shown.press("q")
    assert shown.process.wait(10) == 0


def test_where_there_is_no_terminal_it_prints_once(dsn: str, ask: Session) -> None:
    world.fill(ask)
    world.latencies(ask)
    ask("SELECT set_config('pgcache.tenant', 'acme', false)")
    ask("SELECT cache_set('store', E'\\x1b[31m[bold]red', '1')")
    ask("SELECT cache_get('store', E'\\x1b[31m[bold]red') FROM generate_series(1, 16)")
    ask("CALL cache_upkeep()")
    done = once(dsn)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    for row in ask.rows("SELECT type, entries FROM cache_stats"):
        assert re.search(rf"^{row[0]} .* {row[1]:,} ", done.stdout, re.MULTILINE), row
    assert re.search(rf"^all .* {ask('SELECT sum(entries) FROM cache_stats'):,} ", done.stdout, re.MULTILINE)
    assert "\u2026" not in done.stdout
    narrow = once(dsn, 80).stdout
    assert max(map(len, narrow.splitlines())) <= 80
    assert "\u2026" not in narrow
    assert "evicted" not in narrow
    for text in ("acme: \\x1b[31m[bold]red", "warning size: sessions", "p95", "pgcache_upkeep"):
        assert text in done.stdout


def test_a_role_behind_a_wall(dsn: str, ask: Session, role: NewRole) -> None:
    name = role()("SELECT current_user")
    ask("SELECT cache_grant(%s, 'read', '{acme}'), set_config('pgcache.tenant', 'acme', false)", name)
    ask("SELECT cache_set('store', 'k', '1')")
    done = once(make_conninfo(dsn, user=name, password="secret"))
    assert done.returncode == 0
    assert re.search(r"^acme +store +1 ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("missing", ["access", "pgcache", "server"])
def test_what_is_wrong_from_the_beginning_is_an_error(empty_dsn: str, dsn: str, role: NewRole, missing: str) -> None:
    wrong: dict[str, Any] = {
        "access": make_conninfo(dsn, user=role()("SELECT current_user"), password="secret"),
        "pgcache": empty_dsn,
        "server": "postgresql://127.0.0.1:1/x",
    }
    done = once(wrong[missing])
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert missing == "server" or "hint:" in done.stderr
