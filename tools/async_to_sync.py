"""Makes the files of each folder _sync from those of the folder _async beside it: the same without what asyncio needs.

    python tools/async_to_sync.py            (make sync) writes them
    python tools/async_to_sync.py --check    (in make lint) says which are not what it would write, and fails

A third argument is the folder to look in, by default pgcache_py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).resolve().parents[1]

NESTED = r"((?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*)"
RULES = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAwaitable, ", ""),
    (rf"\bAwaitable\[{NESTED}\]", r"\1"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bAbstractAsync", "Abstract"),
    (r"\._async\b", "._sync"),
    (r"_async\b", ""),
    (r"\bredis\.asyncio\b", "redis"),
    (r"between tasks", "between threads"),
    (r"\ba(close|iter_bytes|next|read)\b", r"\1"),
    (r"\basync_transport\b", "transport"),
    (r"\bhandle_async_request\b", "handle_request"),
    (r"\b([Aa])n (Cache|HybridCache|psycopg|OwnConnection)", r"\1 \2"),
]
RUFF = [sys.executable, "-m", "ruff"]


def made_files(folder: Path) -> dict[Path, str]:
    """Each file that belongs into a folder _sync below `folder`, and its text."""
    made = {}
    for source in folder.rglob("_async/*.py"):
        text = source.read_text(encoding="utf-8")
        for pattern, replacement in RULES:
            text = re.sub(pattern, replacement, text)
        origin = source.relative_to(folder.parent).as_posix()
        header = f"# Made of {origin} by tools/async_to_sync.py: change that one.\n"
        made[source.parents[1] / "_sync" / source.name] = header + text
    return dict(formatted(made))


def formatted(files: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    """As the project's linter wants them: the names that are left may sort differently, and fit into fewer lines."""
    with TemporaryDirectory() as folder:
        copies = {path: Path(folder, f"{number}.py") for number, path in enumerate(sorted(files))}
        for path, copy in copies.items():
            copy.write_text(files[path], encoding="utf-8")
        for command in (["check", "--select", "I", "--fix"], ["format"]):
            subprocess.run([*RUFF, *command, "--quiet", "--config", PROJECT / "pyproject.toml", folder], check=True)
        for path, copy in copies.items():
            yield path, copy.read_text(encoding="utf-8")


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    folders = [Path(argument).resolve() for argument in arguments if argument != "--check"]
    folder = folders[0] if folders else PROJECT / "pgcache_py"
    made = made_files(folder)
    old = {path: path.read_bytes() for path in folder.rglob("_sync/*.py")}
    wrong = [path for path, text in made.items() if old.get(path) != text.encode()]
    extra = sorted(old.keys() - made.keys())
    if check:
        for path in wrong:
            print(f"{path.relative_to(folder.parent)} is not what its file in _async makes: make sync")
        for path in extra:
            print(f"{path.relative_to(folder.parent)} is made of no file in _async: make sync removes it")
        return 1 if wrong or extra else 0
    for path in wrong:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(made[path].encode())
    for path in extra:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
