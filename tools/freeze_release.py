"""Writes tests/install/released/VERSION.sql.gz: what installs this version, for the tests that upgrade it.

It is what `python -m pgcache_py sql --plpython` prints, and has the hash of each migration in it: a test fails when one
of these is changed later. The same sources make the same file. Until CHANGELOG.md says that a version is released, it
can be frozen again; after that it stays as it is.

    python tools/freeze_release.py
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

from pgcache_py import __version__
from pgcache_py.setup.sources import load

PROJECT = Path(__file__).parents[1]
FROZEN = PROJECT / "tests" / "install" / "released" / f"{__version__}.sql.gz"


def main() -> int:
    heading = re.search(
        rf"^## \[{re.escape(__version__)}\] - (.*)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    if not heading:
        print(f"CHANGELOG.md does not say what is new in {__version__}", file=sys.stderr)
        return 1
    script = load().render(__version__, plpython=True).encode()
    path = FROZEN.relative_to(PROJECT)
    if FROZEN.exists() and gzip.decompress(FROZEN.read_bytes()) == script:
        print(f"{path} is up to date")
        return 0
    if FROZEN.exists() and heading[1] != "unreleased":
        print(f"{__version__} was released on {heading[1]}: give this one another version", file=sys.stderr)
        return 1
    FROZEN.parent.mkdir(exist_ok=True)
    FROZEN.write_bytes(gzip.compress(script, mtime=0))
    print(f"{path}: {FROZEN.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
