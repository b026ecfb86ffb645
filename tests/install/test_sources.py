"""The SQL that is installed: found, ordered, and carried by the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pgcache_py.setup.sources import CODE, Script, load

PROJECT = Path(__file__).parents[2]


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"sql/install/bootstrap.sql": "-- bootstrap", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_order(tmp_path: Path) -> None:
    files = {
        "sql/install/give_rights.sql": "", "sql/reports/a.sql": "", "sql/registry/b.sql": "", "sql/registry/a.sql": "",
        "sql/caches/z.sql": "", "sql/upkeep/a.sql": "", "sql/install/prepare_types.sql": "", "sql/README.md": "",
        "sql/install/keep_rights.sql": "", "sql/install/drop_leftovers.sql": "",
        "sql/migrations/0002_second.sql": "", "sql/migrations/0001_first.sql": "", "plpython/worker.sql": "",
    }  # fmt: skip
    sources = load(tree(tmp_path, files))
    assert [(m.version, m.title) for m in sources.migrations] == [(1, "0001_first"), (2, "0002_second")]
    assert [script.name for script in sources.code] == [
        "registry/a.sql", "registry/b.sql", "caches/z.sql", "upkeep/a.sql", "reports/a.sql",
        "install/prepare_types.sql",
    ]  # fmt: skip
    assert [script.name for script in (*sources.before, *sources.plpython, *sources.after)] == [
        "install/keep_rights.sql", "plpython/worker.sql", "install/drop_leftovers.sql", "install/give_rights.sql",
    ]  # fmt: skip


def test_what_makes_functions_is_found_in_whatever_is_around_it() -> None:
    one = "create or replace function f() returns text as $$ select ';' -- ;\n$$ language sql;"
    view = "CREATE OR REPLACE VIEW v AS SELECT 'it''s; /*' AS \"odd;name\";"
    other = "select define($frame$ create or replace function g() ... ; $frame$);"
    text = (
        f"-- First; that.\n\n{one}\ncomment on function f() is '$$;';\n/* ; */ {other}\n\n-- A view.\n{view}\n-- End;\n"
    )
    script = Script("registry/a.sql", text)
    assert "".join(before + statement for before, statement in script.statements) == text
    made = script.made("pgcache")
    for statement in (one, view):
        assert f"CALL pgcache_internal.make($make${statement[:-1]}$make$);" in made
    assert made.count("CALL") == 2
    assert other in made


def test_all_that_is_made_is_found() -> None:
    sources = load()
    for script in (*sources.code, *sources.plpython):
        assert "".join(before + statement for before, statement in script.statements) == script.text
        assert "$make$" not in script.text, script.name
        made = re.findall(r"^(.*)\ncreate or replace (?:function|procedure|view) ", "\n" + script.text, re.MULTILINE)
        # Not those that are compiled when all are there.
        expected = [before for before in made if not before.endswith(("$frame$", "$function$"))]
        assert script.made("pgcache").count("CALL pgcache_internal.make($make$") == len(expected), script.name
    assert not any("$migration$" in script.text for script in sources.migrations)


def test_python_comes_after_the_declaration_by_the_owner() -> None:
    script = Script(
        "plpython/f.sql", "create or replace function f() returns int\nlanguage plpython3u as $$1;$$;\nselect 1;\n"
    )
    assert script.made_in_python() == "create or replace function f() returns int\nlanguage plpython3u as $$1;$$;\n"
    assert script.made("plpython") == (
        "CALL pgcache_internal.make($make$create or replace function f() returns int\nlanguage plpgsql as $$1;$$$make$,"
        " 'plpython');\nselect 1;\n"
    )


@pytest.mark.parametrize("name", ["0002_gap.sql", "1_short.sql", "0001_Upper.sql", "first.sql"])
def test_names_of_migrations(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"expected the name 0001_what_it_does\.sql"):
        load(tree(tmp_path, {f"sql/migrations/{name}": ""}))


def test_python_bodies_are_included(tmp_path: Path) -> None:
    header = "CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS $py$\n@include f.py@$py$;"
    sources = load(tree(tmp_path, {"plpython/f.sql": header, "plpython/f.py": "return 42\n"}))
    assert "AS $py$\nreturn 42\n$py$;" in sources.plpython[0].text


def test_the_digest_follows_every_file_but_not_its_line_ends(tmp_path: Path) -> None:
    names = [
        "sql/install/bootstrap.sql",
        "sql/install/keep_rights.sql",
        "sql/migrations/0001_first.sql",
        "sql/install/drop_leftovers.sql",
        "sql/install/give_rights.sql",
    ]
    names += [f"sql/{part.replace('*', 'a')}" for part in CODE]
    original = load(tree(tmp_path, dict.fromkeys(names, "SELECT 1;\n"))).digest
    for name in names:
        (tmp_path / name).write_text("SELECT 2;\n")
        assert load(tmp_path).digest != original, name
        (tmp_path / name).write_bytes(b"SELECT 1;\r\n")
        assert load(tmp_path).digest == original


def test_without_plpython(tmp_path: Path) -> None:
    assert load(tree(tmp_path, {})).plpython == ()


def test_the_wheel_carries_all_of_it(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(PROJECT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    names = {path.relative_to(PROJECT).as_posix() for path in PROJECT.glob("sql/**/*.sql")}
    carried = {
        path.relative_to(tmp_path / "installed") for path in (tmp_path / "installed").rglob("*") if path.is_file()
    }
    assert {Path("pgcache_py/_sql") / Path(name).relative_to("sql") for name in names} <= carried
    assert Path("pgcache_py/cli/demo_data/audio/welcome.opus") in carried
    # And the package finds it there.
    printed = subprocess.run(
        [sys.executable, "-c", "from pgcache_py.setup import sources; print(sources.load().digest)"],
        cwd=tmp_path / "installed",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert printed.stdout.strip() == load().digest, printed.stderr


def test_no_lock_that_anybody_could_hold_keeps_an_installation_waiting() -> None:
    assert "pg_advisory" not in load().render("0.2.0")
