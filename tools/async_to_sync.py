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
    (r"\b([Aa])n (Cache|HybridCache|psycopg|OwnConnection)", r"\1 \2"),
]
RUFF = [sys.executable, "-m", "ruff"]


def made_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file that belongs into a folder _sync below `folder`, and its text."""
    for source in sorted(folder.rglob("_async/*.py")):
        text = source.read_text(encoding="utf-8")
        for pattern, replacement in RULES:
            text = re.sub(pattern, replacement, text)
        origin = source.relative_to(folder.parent).as_posix()
        target = source.parents[1] / "_sync" / source.name
        header = f"# Made of {origin} by tools/async_to_sync.py: change that one.\n"
        yield target, formatted(header + text, target)


def formatted(text: str, path: Path) -> str:
    """As the project's linter wants it: the names that are left may sort differently, and fit into fewer lines."""
    for command in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        done = subprocess.run(
            [*RUFF, *command, "--stdin-filename", str(path), "-"],
            input=text.encode(),
            stdout=subprocess.PIPE,
            check=True,
            cwd=PROJECT,
        )
        text = done.stdout.decode()
    return text


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    folders = [Path(argument).resolve() for argument in arguments if argument != "--check"]
    folder = folders[0] if folders else PROJECT / "pgcache_py"
    made = dict(made_files(folder))
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
