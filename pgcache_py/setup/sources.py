"""Finds, orders and renders the SQL that makes up pgcache.

Two lifetimes: a migration runs once in the life of a database and is frozen by its hash once released; everything else
(functions, views, grants) can be run again, and is, whenever one of the files has changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

# Their order matters, the order of the files within one of them does not: bodies are not checked while they load.
CODE = ("registry/*.sql", "entries/*.sql", "caches/*.sql", "hot/*.sql", "upkeep/*.sql", "reports/*.sql", "prepare.sql")
# One installation at a time per database. The number spells "pgcache".
LOCK = int.from_bytes(b"pgcache", "big")

PACKAGE = Path(__file__).parents[1]
MIGRATION_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
INCLUDE = re.compile(r"@include ((?:pgcache_py/relay/)?[a-z0-9_]+\.py)@")
# Between files of this package, which are one body there.
OWN_IMPORT = re.compile(r"^from \.\w+ import .*\n", re.MULTILINE)

# For the length of one transaction. A session that installs is allowed to take its time, but not to queue for a table
# behind which the application would then queue too.
SETTINGS = """\
SET LOCAL client_min_messages = warning;
SET LOCAL check_function_bodies = off;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL default_table_access_method = heap;
SET LOCAL default_tablespace = '';
"""
TAKE_LOCK = f"SELECT pg_advisory_xact_lock({LOCK});\n"
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '15s';\n"
CREATE_VECTOR = """\
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        IF to_regnamespace('public') IS NULL THEN
            CREATE EXTENSION vector;
        ELSE
            CREATE EXTENSION vector SCHEMA public;
        END IF;
    END IF;
END
$$;
"""
# pg_catalog comes before the schema of vector, in which others may have created things.
SEARCH_PATH = """\
SELECT set_config('search_path', concat_ws(', ', 'pgcache_internal', 'pgcache', 'pg_catalog', (
    SELECT quote_ident(n.nspname)
    FROM pg_catalog.pg_extension AS e
    JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector'
), 'pg_temp'), true);
"""


@dataclass(frozen=True)
class Script:
    """One SQL file; `name` is its path below sql/ or plpython/."""

    name: str
    text: str

    @cached_property
    def sha256(self) -> str:
        return sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Migration(Script):
    version: int

    @property
    def title(self) -> str:
        return Path(self.name).stem


@dataclass(frozen=True)
class Sources:
    """Everything that an installation can run, in the order in which it runs."""

    bootstrap: Script
    migrations: tuple[Migration, ...]
    code: tuple[Script, ...]
    plpython: tuple[Script, ...]
    grants: tuple[Script, ...]

    @property
    def newest(self) -> int:
        """The version that a database has after all migrations; 0 if there are none."""
        return self.migrations[-1].version if self.migrations else 0

    @cached_property
    def digest(self) -> str:
        """Changes whenever a file changes, except for those of the level plpython3u."""
        return _digest((self.bootstrap, *self.migrations, *self.code, *self.grants))

    @cached_property
    def plpython_digest(self) -> str:
        return _digest(self.plpython)

    def render(self, version: str, *, plpython: bool = False) -> str:
        """What `install` runs on a database without pgcache, for `psql -1 -v ON_ERROR_STOP=1`.

        version: recorded as the installed one. plpython: with the level plpython3u, which a superuser has to install.
        """
        return "\n".join(self._rendered(version, plpython))

    def _rendered(self, version: str, plpython: bool) -> Iterator[str]:
        yield f"-- pgcache {version}. Run it as one transaction: psql -1 -v ON_ERROR_STOP=1 -f FILE"
        yield SETTINGS + TAKE_LOCK + LOCK_TIMEOUT
        yield CREATE_VECTOR
        yield _titled(self.bootstrap)
        yield (
            "DO $$ BEGIN\n"
            "    IF EXISTS (SELECT FROM pgcache_internal.schema_migrations) THEN\n"
            "        RAISE EXCEPTION 'pgcache is installed here already'\n"
            "            USING HINT = 'This script is for a new installation: python -m pgcache_py upgrade';\n"
            "    END IF;\n"
            "END $$;"
        )
        yield SEARCH_PATH
        for migration in self.migrations:
            yield _titled(migration)
            yield (
                "INSERT INTO pgcache_internal.schema_migrations (version, name, sha256, pgcache_version) VALUES"  # noqa: S608
                f" ({migration.version}, '{migration.title}', '{migration.sha256}', '{version}');\n"
            )
        yield from map(_titled, self.code)
        installed = {"pgcache": self.digest}
        if plpython:
            yield "CREATE EXTENSION IF NOT EXISTS plpython3u;\n"
            yield from map(_titled, self.plpython)
            installed["plpython"] = self.plpython_digest
        yield from map(_titled, self.grants)
        for component, digest in installed.items():
            yield (
                "INSERT INTO pgcache_internal.installed (component, version, digest) VALUES"  # noqa: S608
                f" ('{component}', '{version}', '{digest}');"
            )
        yield "\n-- Not done here: ALTER DATABASE ... SET search_path = ..., pgcache;  SELECT pgcache.cache_schedule();"


def load(root: Path | None = None) -> Sources:
    """Read the files. `root` holds sql/ and plpython/; by default they are those of this package or of its checkout."""
    if root:
        sql, plpython = root / "sql", root / "plpython"
    elif (PACKAGE / "_sql").is_dir():
        sql, plpython = PACKAGE / "_sql", PACKAGE / "_plpython"
    else:
        sql, plpython = PACKAGE.parent / "sql", PACKAGE.parent / "plpython"
    return Sources(
        bootstrap=_read(sql, sql / "bootstrap.sql"),
        migrations=tuple(_migrations(sql)),
        code=tuple(_read(sql, path) for part in CODE for path in sorted(sql.glob(part))),
        plpython=tuple(_with_includes(plpython, path) for path in sorted(plpython.glob("*.sql"))),
        grants=tuple(_read(sql, path) for path in sql.glob("grants.sql")),
    )


def _read(root: Path, path: Path) -> Script:
    # Line ends are made uniform, as a checkout on Windows would otherwise have other hashes.
    return Script(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))


def _migrations(sql: Path) -> Iterator[Migration]:
    for expected, path in enumerate(sorted((sql / "migrations").glob("*.sql")), start=1):
        match = MIGRATION_NAME.fullmatch(path.name)
        if not match or int(match[1]) != expected:
            raise ValueError(f"{path}: expected the name {expected:04}_what_it_does.sql")
        script = _read(sql, path)
        yield Migration(script.name, script.text, version=expected)


def _with_includes(root: Path, path: Path) -> Script:
    """A header of a PL/Python function, with `@include name.py@` replaced by that file.

    Names that begin with pgcache_py/relay/ are files of this package, which the server and the client share.
    """

    def included(match: re.Match[str]) -> str:
        if match[1].startswith("pgcache_py/"):
            return OWN_IMPORT.sub("", (PACKAGE.parent / match[1]).read_text(encoding="utf-8"))
        return (root / match[1]).read_text(encoding="utf-8")

    return Script(f"plpython/{path.name}", INCLUDE.sub(included, path.read_text(encoding="utf-8")))


def _digest(scripts: Iterable[Script]) -> str:
    return sha256("\n".join(f"{script.name} {script.sha256}" for script in scripts).encode()).hexdigest()


def _titled(script: Script) -> str:
    return f"-- {script.name}\n{script.text}"
