"""Servers on which tests can put an extension, though the folder for them belongs to the system's packages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from tests.servers.server import ClusterServer, pg_config
from tests.tools.names import unique

PROGRAMS = ("initdb", "pg_config", "pg_ctl", "postgres", "psql")
# From this release on a server can be told of more folders.
CONTROL_PATH = 18


def shadow(bin_dir: Path, copy: Path) -> Path:
    """A PostgreSQL of links to the one in bin_dir, but for a folder of extensions of its own. Returns its programs.

    These look for all else beside the place that they are at themselves: so they have to be copies.
    """
    extensions = Path(pg_config(bin_dir, "--sharedir"), "extension")
    prefix = Path(os.path.commonpath([bin_dir, extensions]))
    _link(prefix, copy, {bin_dir, extensions})
    programs = copy / bin_dir.relative_to(prefix)
    for name in PROGRAMS:
        (programs / name).unlink()
        shutil.copy2(bin_dir / name, programs / name)
    return programs


def _link(original: Path, copy: Path, opened: Collection[Path]) -> None:
    """opened: the folders that are to be folders, as are those that lead to them."""
    copy.mkdir(parents=True)
    for entry in original.iterdir():
        if any(entry == folder or entry in folder.parents for folder in opened):
            _link(entry, copy / entry.name, opened)
        else:
            (copy / entry.name).symlink_to(entry)


class Extensible(ClusterServer):
    """A server of the same release, and the folder in which it finds what is published."""

    def __init__(self, original: ClusterServer) -> None:
        self.name = unique("extensible")
        self.bin_dir = original.bin_dir
        self.folder = self.home / "share" / "postgresql" / "extension"

    @property
    def settings(self) -> dict[str, str]:
        return {} if self.shadowed else {"extension_control_path": f"{self.folder.parent}:$system"}

    @property
    def shadowed(self) -> bool:
        return self.major < CONTROL_PATH

    def start(self) -> None:
        if self.shadowed:
            self.bin_dir = shadow(self.bin_dir, Path(f"{self.home}-programs"))
            self.folder = Path(pg_config(self.bin_dir, "--sharedir"), "extension")
        super().start()
        self.folder.mkdir(parents=True, exist_ok=True)

    def make(self, target: str) -> list[str]:
        """The command, by which the files of an extension get into the folder, or are tried there."""
        prefix = [f"prefix={self.home}"] if target == "install" and not self.shadowed else []
        return ["make", target, f"PG_CONFIG={self.bin_dir / 'pg_config'}", *prefix]

    def publish(self, built: Path) -> None:
        """As make install does with what was written into this folder."""
        for path in (built / "pgcache.control", *built.glob("pgcache--*.sql")):
            shutil.copy(path, self.folder)
