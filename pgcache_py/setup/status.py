"""How pgcache is in a database. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import dict_row

from ..version import __version__
from . import levels
from .levels import Facts, Level
from .session import Connection, installed, installed_version, session, version_numbers
from .sources import load

UPDATE = "ALTER EXTENSION pgcache UPDATE TO '{}';"


@dataclass
class Status:
    """How pgcache is in a database.

    version: what is installed, None if nothing is. extension: the version as an extension, None if it is none. types,
    jobs and health: the rows of cache_stats, cache_jobs and cache_health(). todo: what to do next, a step each; each
    level and each row of health has steps of its own.
    """

    database: str
    version: str | None
    package_version: str
    extension: str | None = None
    levels: list[Level] = field(default_factory=list)
    types: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    health: list[dict[str, Any]] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)


def status(conninfo: str) -> Status:
    """How pgcache is in this database. Changes nothing."""
    with session(conninfo) as connection:
        server = levels.look(connection)
        found = Status(server.database, installed_version(connection), __version__, server.extension)
        if found.version is None:
            found.todo.append(levels.INSTALL)
            return found
        found.jobs = _rows(connection, "SELECT * FROM pgcache.cache_jobs ORDER BY job_name")
        jobs = levels.wanted_jobs(server, levels.keep_runs(connection))
        found.levels = [
            levels.core(server),
            _cron(levels.cron(conninfo, connection, server, jobs, change=False), server, found.jobs),
            levels.plpython(server, needed=bool(load().plpython), loaded="plpython" in installed(connection)),
        ]
        found.types = _rows(connection, "SELECT * FROM pgcache.cache_stats ORDER BY type")
        found.health = _rows(connection, "SELECT * FROM pgcache.cache_health()")
    if found.extension not in (None, found.version):
        found.todo.append(f"as an extension it is still {found.extension}: {UPDATE.format(found.version)}")
    if version_numbers(found.version) < version_numbers(__version__):
        step = UPDATE.format(__version__) if found.extension else "python -m pgcache_py upgrade"
        found.todo.append(f"this package is newer: {step} ({found.version} -> {__version__})")
    return found


def _cron(level: Level, server: Facts, jobs: list[dict[str, Any]]) -> Level:
    """Jobs that this role may not see are known by their runs."""
    upkeep = next(job for job in jobs if job["job_name"] == "pgcache_upkeep")
    if level.on or server.superuser or server.cron_database is None or upkeep["overdue"] or not upkeep["last_run"]:
        return level
    detail = f"{server.role} may not see its jobs ({level.detail}); the last upkeep was at {upkeep['last_run']}"
    return Level(level.name, True, detail)


def _rows(connection: Connection, query: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode()).fetchall()
