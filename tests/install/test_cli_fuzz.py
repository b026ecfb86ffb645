"""Whatever the commands are given, they say what is wrong in a line: no traceback, no error of another library."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.install.conftest import Run

pytestmark = pytest.mark.once  # on one server: what is tried here is the commands' own
STRANGE = [
    "", " ", "\udcff", "a" * 2000, "-1", "%s %(x)s", "'; DROP TABLE x; --", "é😀", "\x1b[31m", "{", "[" * 5000,
    "[" * 100_000 + "]" * 100_000, "1e5000", "9" * 5000, "NaN", "Infinity", "null", '"\\u0000"', '"\\ud800"', '""', "0",
    "1e-400", "1 day ago", "infinity", "$1", "\\", "\n", "../..", "//", "C:\\x", "{}", "-", "@",
]  # fmt: skip
COMMANDS: list[list[str | None]] = [  # None: what is strange
    ["get", None, "k"], ["get", "store", None], ["get", "store", "k", "--tenant", None], ["set", None, "k", "1"],
    ["set", "store", None, "1"], ["set", "store", "k", None], ["set", "llm", "k", None],
    ["set", "store", "k", "1", "--ttl", None], ["set", "store", "k", "1", "--tenant", None], ["delete", None, "k"],
    ["delete", "store", None], ["forget", None, "--yes"], ["forget", "a", "--user", "--yes", "--tenant", None],
    ["cleanup", "--type", None], ["warm", None], ["relay", "--once", "--redis", None], ["serve", "--port", None],
    ["serve", "--timeout", None], ["serve", "--max-body", None], ["serve", "--concurrency", None],
    ["sql", "--upgrade-from", None], [None],
]  # fmt: skip


@pytest.fixture
def said(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def said(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n{"), "utf-8"))
        code, output, errors = run(*arguments)
        assert code in (0, 1, 2), ascii(arguments)[:200]
        assert "Traceback" not in errors, ascii(arguments)[:200]
        assert code == 0 or errors.strip(), ascii(arguments)[:200]
        return code, output, errors

    return said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(word or "..." for word in command))
def test_a_strange_argument(dsn: str, said: Run, command: Sequence[str | None]) -> None:
    for strange in STRANGE:
        with_dsn = [] if command[0] in ("sql", None) else [f"--dsn={dsn}"]
        said(*(f"{strange}" if word is None else word for word in command), *with_dsn)


def test_a_strange_server(said: Run) -> None:
    for strange in STRANGE:
        if strange not in ("-", "@", "\n"):
            code, _, _ = said("get", "store", "k", f"--dsn={strange}")
            assert code, strange


def test_strange_lines(dsn: str, said: Run, tmp_path: Path) -> None:
    values = [text for text in STRANGE if text.strip() and "\udcff" not in text]
    lines = [f'{{"type": "store", "key": "k", "value": {text}}}' for text in values]
    lines += [f'{{"type": "llm", "prompt": "p", "model": "m", "value": {text}}}' for text in values]
    lines += [f'{{"type": "phash", "file": {text}, "value": "ff"}}' for text in values]
    good = '{"type": "store", "key": "good", "value": 1}'
    (tmp_path / "lines").write_text("\n".join(f"{line}\n{good}" for line in lines))
    _, output, _ = said("warm", "lines", f"--dsn={dsn}")
    assert int(output.split()[0]) >= len(lines)  # each good one


def test_variables_that_are_no_utf8(said: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "PGHOST", "PGDATABASE", "PGUSER"):
        monkeypatch.setenv(name, os.fsdecode(b"\xff"))
        assert said("get", "store", "k")[0] == 1, name
        monkeypatch.delenv(name)


def test_half_a_surrogate_in_a_line(dsn: str, said: Run, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"type": "store", "key": "\\ud800", "value": 1}\n')
    code, _, errors = said("warm", "lines", f"--dsn={dsn}")
    assert (code, "lines:1" in errors) == (1, True)
