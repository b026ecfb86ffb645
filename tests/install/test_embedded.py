"""The embedded server, and the demo that runs on it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psycopg
import pytest

from pgcache_py.cli import demo
from pgcache_py.cli import main as cli
from pgcache_py.setup.embedded import Embedded, available
from tests.tools.session import fetch

pytestmark = pytest.mark.skipif(not available(), reason="the extra embedded is not installed")


@pytest.fixture
def embedded(tmp_path: Path) -> Embedded:
    return Embedded(tmp_path / "e")


def test_the_last_to_leave_stops_it(embedded: Embedded) -> None:
    other = Embedded(embedded.folder)
    with embedded.using():
        with other.using():
            assert fetch(other.dsn(), "SELECT current_user") == "postgres"
        assert embedded.running
        assert str(fetch(embedded.dsn(), "SHOW server_version")).startswith("18")
    assert not embedded.running
    with embedded.using(), psycopg.connect(embedded.dsn(), autocommit=True) as connection:
        connection.execute('CREATE DATABASE "it\'s"')
        assert fetch(embedded.dsn("it's"), "SELECT current_database()") == "it's"


def test_it_can_be_kept(embedded: Embedded) -> None:
    with embedded.using():
        embedded.keep()
    assert embedded.kept
    with Embedded(embedded.folder).using():
        pass
    assert embedded.running
    embedded.stop()
    assert not embedded.running
    # That was for then, not for ever.
    with embedded.using():
        assert not embedded.kept
    assert not embedded.running


def test_nobody_else_gets_at_it(embedded: Embedded) -> None:
    outside = embedded.folder.parent.parent
    mode = outside.stat().st_mode
    with embedded.using():
        assert embedded.folder.stat().st_mode & 0o777 == 0o700
        assert fetch(embedded.dsn(), "SHOW listen_addresses") == ""
    assert outside.stat().st_mode == mode
    assert (embedded.folder / ".gitignore").read_text() == "*\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
def test_root_needs_no_open_directories(embedded: Embedded) -> None:
    embedded.folder.parent.chmod(0o700)
    with embedded.using():
        assert embedded.running
    assert embedded.folder.parent.stat().st_mode & 0o777 == 0o700


def test_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 25)
    deep.mkdir()
    server = Embedded(deep / "a folder's name")
    with server.using():
        assert fetch(server.dsn(), "SELECT 1") == 1
        socket_dir = Path(str(psycopg.conninfo.conninfo_to_dict(server.dsn())["host"]))
        assert socket_dir != server.folder
    assert not socket_dir.exists()


def test_an_unfinished_start_is_repeated(embedded: Embedded) -> None:
    with embedded.using():
        pass
    (embedded.folder / "data").rename(embedded.folder / "data.unfinished")
    with embedded.using():
        assert embedded.running


def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)  # of pytest-xdist
    for _ in range(2):
        assert cli.main(["demo"]) == 0
        output = capsys.readouterr().out
        for part in (
            "An embedding is a list of numbers",
            "NULL  -- miss",
            "SET pgcache.clock = ",
            "cache_delete_pattern('store', 'flags:%');\n  2  -- entries removed",
            "48 llm",
            "demo --psql",
        ):
            assert part in output
        assert re.search(r"│ llm +│ +49 │", output)
        assert not Embedded().running
    # Each statement can be repeated as it stands.
    server = Embedded()
    statements = re.findall(r"^(?:SELECT|SET|RESET)[^;]*;$", output, re.MULTILINE)
    assert len(statements) > 15
    with server.using(), psycopg.connect(server.dsn(demo.DATABASE), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_the_demo_can_leave_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--psql"]) == 1
    assert "has not run in this folder" in capfd.readouterr().err
    assert cli.main(["demo", "--keep"]) == 0
    output = capfd.readouterr().out
    dsn = re.search(r"psql '(.*)'", output)
    assert dsn
    assert fetch(dsn[1], "SELECT count(*) > 0 FROM cache_llm_responses") is True
    assert cli.main(["demo", "--stop"]) == 0
    assert not Embedded().running
    assert cli.main(["demo", "--stop"]) == 0
