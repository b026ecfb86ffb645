"""Who imports whom in pgcache_py: no circles, only the arrows between rooms that are meant, and psycopg alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pgcache_py"
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())

# What a room takes from outside of it. The package itself is for users: no room imports it.
ARROWS = {
    "adapters": {"client", "errors", "keys"},
    "cli": {"client", "environment", "errors", "readable", "relay", "serve", "setup", "version"},
    "client": {"environment", "errors", "keys"},
    "hybrid": {"client", "environment", "errors", "keys", "tier_protocol"},
    "relay": {"errors", "tier_protocol"},
    "serve": {"errors", "readable", "version"},
    "setup": {"environment", "errors", "version"},
}


def modules(package: Path) -> dict[str, Path]:
    """The files of a package by their dotted names."""
    paths = {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def imported(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules among `known` that one of them imports, be it within a function or for a type checker only."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if whole in known:
                members = [f"{whole}.{alias.name}" for alias in node.names]
                yield from (member if member in known else whole for member in members)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return visit(ast.parse(path.read_text(encoding="utf-8")))


def arrows(package: Path) -> dict[str, set[str]]:
    known = modules(package)
    return {name: set(imported(name, path, known)) for name, path in known.items()}


def between_rooms(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same for the parts of the package: its folders, and the files beside them."""
    parts: dict[str, set[str]] = {}
    for name, others in arrows.items():
        here = part(name)
        parts.setdefault(here, set()).update(there for other in others if (there := part(other)) != here)
    return parts


def part(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """The parts of a circle, one after the other; none if there is no circle."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_is_no_circle_of_modules() -> None:
    assert circle(arrows(PACKAGE)) == []


def test_there_is_no_circle_of_rooms() -> None:
    assert circle(between_rooms(arrows(PACKAGE))) == []


def test_arrows_between_rooms() -> None:
    found = between_rooms(arrows(PACKAGE))
    assert {room: found[room] for room in ROOMS} == ARROWS


def test_rooms_hold_modules_only() -> None:
    """A name is imported from the module that defines it, so that the arrows are what they seem to be."""
    for path in PACKAGE.glob("*/**/__init__.py"):
        assert len(ast.parse(path.read_text()).body) == 1, path


CIRCLES = {
    "of two files": {"a.py": "from . import b", "b.py": "from .a import x"},
    "of absolute imports": {"a.py": "import p.b", "b.py": "from p import a"},
    "within a function": {"a.py": "from .b import x", "b.py": "def f():\n    from .a import y"},
    "for types": {
        "a.py": "from .b import x",
        "b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import y",
    },
    "of three": {"a.py": "from . import b", "b.py": "from .r.c import x", "r/c.py": "from .. import a"},
}


@pytest.mark.parametrize("files", CIRCLES.values(), ids=CIRCLES)
def test_circles_are_found(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "p" / "r").mkdir(parents=True)
    for name, text in {"__init__.py": "", "r/__init__.py": "", **files}.items():
        (tmp_path / "p" / name).write_text(text)
    assert circle(arrows(tmp_path / "p"))


def test_circles_of_rooms_are_found(tmp_path: Path) -> None:
    """Though none of their files is in a circle."""
    for name, text in {
        "__init__.py": "", "r/__init__.py": "", "s/__init__.py": "", "r/a.py": "from ..s import a", "s/a.py": "",
        "s/b.py": "from ..r.b import x", "r/b.py": "x = 1",
    }.items():  # fmt: skip
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / name).write_text(text)
    found = arrows(tmp_path / "p")
    assert circle(found) == []
    assert sorted(set(circle(between_rooms(found)))) == ["r", "s"]


def test_importing_the_client_needs_psycopg_and_nothing_else() -> None:
    code = """
import sys
from importlib.metadata import packages_distributions
before = set(sys.modules)
import pgcache_py
new = sys.modules.keys() - before
distributions = packages_distributions()
print(*{found for name in new for found in distributions.get(name.partition(".")[0], [])})
print(*{name.split(".")[1] for name in new if name.startswith("pgcache_py.")})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages, parts = (set(line.split()) for line in done.stdout.splitlines())
    # typing_extensions is psycopg's.
    assert packages - {"pgcache", "psycopg-binary", "psycopg-c", "typing_extensions"} == {"psycopg"}
    assert parts == {"client", "environment", "errors", "keys", "version"}
