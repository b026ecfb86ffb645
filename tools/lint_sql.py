"""What sqlfluff does not see in SQL, since a function's body is one string to it. In make lint:

    python tools/lint_sql.py

A line has at most 120 columns, no tab and no blank at its end; a file ends with one line break. Keywords and names are
in lower case. Where a literal goes on in the next line, the blank between them begins the second piece.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
WIDTH = 120

# Comments, literals, quoted names, bodies in Python, and what format() fills in. Dollar quotes hold code.
NOT_CODE = re.compile(r"""--[^\n]*|'(?:[^']|'')*'|"[^"]*"|\$python\$.*?\$python\$|%(?:\d+\$)?[IL]""", re.DOTALL)
CONTINUED = re.compile(r" '\n\s*'")


def faults(text: str) -> Iterator[tuple[int, str]]:
    """The number of a line, and what is wrong with it."""
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if len(line) > WIDTH:
            yield number, f"{len(line)} columns"
        if "\t" in line:
            yield number, "a tab"
        if line != line.rstrip():
            yield number, "a blank at its end"
    if lines[-1] or lines[-2:-1] == [""]:
        yield len(lines), "the file does not end with one line break"
    for match in CONTINUED.finditer(text):
        yield _line(text, match.start()), "a literal goes on after a blank: let that begin the next piece"
    code = NOT_CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for match in re.finditer(r"\w*[A-Z]\w*", code):
        yield _line(code, match.start()), f"{match[0]} in upper case"


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def main() -> int:
    found = 0
    for folder in ("sql", "plpython", "tests"):
        for path in sorted((PROJECT / folder).rglob("*.sql")):
            for number, fault in sorted(faults(path.read_text(encoding="utf-8"))):
                print(f"{path.relative_to(PROJECT)}:{number}: {fault}")
                found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
