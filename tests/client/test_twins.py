"""Cache and AsyncCache offer the same, and so do the hybrid ones: what does not wait is made of what waits."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgcache_py import AsyncCache, AsyncHybridCache, Cache, HybridCache

PROJECT = Path(__file__).parents[2]
CACHE = "client/_sync/cache.py"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of pgcache_py, to be changed."""
    return shutil.copytree(
        PROJECT / "pgcache_py", tmp_path / "pgcache_py", ignore=shutil.ignore_patterns("__pycache__", "demo_data")
    )


def tool(package: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "tools" / "async_to_sync.py"), *options, str(package)]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_is_made_is_up_to_date() -> None:
    done = tool(PROJECT / "pgcache_py", "--check")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [("# One entry.", "# An entry."), ("from __future__", "\nfrom __future__"), ("def persist(", "def persists(")],
    ids=["comment", "layout", "code"],
)
def test_a_change_of_what_is_made_is_found_and_made_good(package: Path, before: str, after: str) -> None:
    path = package / CACHE
    made = path.read_text()
    assert before in made
    path.write_text(made.replace(before, after, 1))
    done = tool(package, "--check")
    assert done.returncode == 1
    assert done.stdout == f"pgcache_py/{CACHE} is not what its file in _async makes: make sync\n"
    assert tool(package).returncode == 0
    assert path.read_text() == made


def test_a_change_of_what_it_is_made_of_is_found(package: Path) -> None:
    source = package / CACHE.replace("_sync", "_async")
    source.write_text(source.read_text().replace("# One entry.", "# An entry."))
    assert CACHE in tool(package, "--check").stdout
    assert tool(package).returncode == 0
    assert "# An entry." in (package / CACHE).read_text()
    assert tool(package, "--check").returncode == 0


def test_files_that_are_made_of_nothing_go_and_new_ones_come(package: Path) -> None:
    extra = package / "client" / "_sync" / "extra.py"
    extra.write_text("")
    (package / CACHE).unlink()
    done = tool(package, "--check")
    assert done.returncode == 1
    assert "extra.py is made of no file in _async" in done.stdout
    assert f"{CACHE} is not what its file in _async makes" in done.stdout
    assert tool(package).returncode == 0
    assert not extra.exists()
    assert (package / CACHE).read_text() == (PROJECT / "pgcache_py" / CACHE).read_text()


def public(cls: type) -> dict[str, object]:
    return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}


@pytest.mark.parametrize("twins", [(Cache, AsyncCache), (HybridCache, AsyncHybridCache)])
def test_every_method_has_its_twin_with_the_same_parameters(twins: tuple[type, type]) -> None:
    blocking, waiting = map(public, twins)
    assert blocking.keys() == waiting.keys()
    for name, method in blocking.items():
        if callable(method):
            ours, theirs = inspect.signature(method), inspect.signature(waiting[name])  # type: ignore[arg-type]
            assert list(ours.parameters) == list(theirs.parameters), name
            defaults = [parameter.default for parameter in theirs.parameters.values()]
            assert [parameter.default for parameter in ours.parameters.values()] == defaults, name


@pytest.mark.parametrize("cls", [Cache, AsyncCache, HybridCache, AsyncHybridCache])
def test_every_public_method_says_what_it_does(cls: type) -> None:
    assert [name for name, member in public(cls).items() if not inspect.getdoc(member)] == []
