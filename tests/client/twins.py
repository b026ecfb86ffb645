"""Cache and AsyncCache are twins: a module X.py is X_async.py without what asyncio needs.

Change the async one first; `python -m tests.client.twins` then brings the other up to date.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pgcache_py"
TWINS = ["cache", "cached", "connections", "hot_tier", "hybrid", "typed"]

NESTED = r"((?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*)"
RULES = [
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAwaitable, ", ""),
    (rf"\bAwaitable\[{NESTED}\]", r"\1"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bAbstractAsync", "Abstract"),
    (r"_async\b", ""),
    (r"\bredis\.asyncio\b", "redis"),
    (r"between tasks", "between threads"),
    (r"\b([Aa])n (Cache|HybridCache|psycopg|OwnConnection)", r"\1 \2"),
]


def without_async(text: str) -> str:
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text


def shape(text: str) -> tuple[list[str], list[str]]:
    """What a module imports, and what else it says; its own docstring, comments and layout do not count."""
    module = ast.parse(text)
    body = module.body[1:]
    imports = [node for node in ast.walk(module) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = sorted(ast.unparse(node).partition("import ")[0] + name.name for node in imports for name in node.names)
    rest = [ast.unparse(node) for node in body if node not in imports]
    return names, rest


def write(name: str) -> None:
    """Make the module X.py of X_async.py, but for its docstring."""
    twin = PACKAGE / f"{name}.py"
    text = without_async((PACKAGE / f"{name}_async.py").read_text())
    if twin.exists():
        text = twin.read_text().partition("\n")[0] + "\n" + text.partition("\n")[2]
    twin.write_text(text)
    subprocess.run([sys.executable, "-m", "ruff", "check", "-q", "--select", "I", "--fix", str(twin)], check=True)
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(twin)], check=True)


if __name__ == "__main__":
    for name in TWINS:
        write(name)
