"""Released versions of pgcache, as they were printed (tools/freeze_release.py), to install and to upgrade."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import psycopg

from pgcache_py import __version__
from pgcache_py.setup.install import InstallReport, install
from pgcache_py.setup.session import version_numbers
from pgcache_py.setup.sources import FOR_PSQL, PLPYTHON_BEGINS, PLPYTHON_ENDS, load

FOLDER = Path(__file__).parents[1] / "install" / "released"
CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
VERSIONS = sorted((path.name.removesuffix(".sql.gz") for path in FOLDER.glob("*.sql.gz")), key=version_numbers)


def frozen(version: str, *, plpython: bool) -> str:
    """The script that installed this version."""
    text = gzip.decompress((FOLDER / f"{version}.sql.gz").read_bytes()).decode().replace(FOR_PSQL, "")
    if plpython:
        return text
    begin, end = text.index(PLPYTHON_BEGINS), text.index(PLPYTHON_ENDS)
    return text[:begin] + text[end:]


def migrations(version: str) -> dict[str, str]:
    """The hash of each migration of this version, by title."""
    calls = r"^CALL pgcache_internal\.migrate\(\d+, '(\w+)', '(\w{64})'"
    return dict(re.findall(calls, frozen(version, plpython=False), re.MULTILINE))


def is_released(version: str) -> bool:
    """Until then what is frozen of it may differ from the sources."""
    return f"[{version}] - unreleased" not in CHANGELOG.read_text()


def has_changed_since(version: str) -> bool:
    """Whether no upgrade leads from what is frozen to the sources: not released yet, and a migration has changed."""
    now = {migration.title: migration.sha256 for migration in load().migrations}
    return not is_released(version) and not migrations(version).items() <= now.items()


def install_frozen(dsn: str, version: str, *, plpython: bool) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(frozen(version, plpython=plpython).encode())


def upgrade(dsn: str) -> InstallReport:
    """Bring it up to this version, also where it has this version already."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE pgcache_internal.installed SET digest = 'of the frozen one'")
    report = install(dsn, cron=False)
    assert (report.action, report.version) == ("upgraded", __version__)
    return report
