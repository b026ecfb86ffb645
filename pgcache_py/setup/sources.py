"""Finds, orders and renders the SQL that makes up pgcache.

Two lifetimes: a migration runs once in the life of a database and is frozen by its hash once released; everything else
(functions, views, grants) can be run again, and is, whenever one of the files has changed.

What depends on the state of the database is decided in SQL (sql/install/bootstrap.sql), so that `install` and the
printed script do the same: which migrations run, and what an earlier version has made that has to go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

# Their order matters, the order of the files within one of them does not: bodies are not checked while they load.
CODE = (
    "basics/*.sql",
    "access/*.sql",
    "registry/*.sql",
    "freshness/*.sql",
    "entries/*.sql",
    "caches/*.sql",
    "hot/*.sql",
    "near/*.sql",
    "upkeep/*.sql",
    "reports/*.sql",
    "adopt/*.sql",
    "install/prepare_types.sql",
)

PACKAGE = Path(__file__).parents[1]
# These run around the migrations and the code.
BEFORE = ("install/keep_rights.sql",)
AFTER = ("install/drop_leftovers.sql", "install/give_rights.sql")
MIGRATION_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
INCLUDE = re.compile(r"@include ((?:pgcache_py/)?[a-z0-9_/]+\.py)@")
# Between files of this package, which are one body there.
OWN_IMPORT = re.compile(r"^from \.{1,2}\w+ import .*\n", re.MULTILINE)

# What ends a statement, and what a semicolon in it would not end.
TOKEN = re.compile(r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"[^"]*"|\$(\w*)\$.*?\$\1\$|;""", re.DOTALL)
LEADING_COMMENTS = re.compile(r"(?:\s+|--[^\n]*\n)*")
MAKES = re.compile(r"create or replace (?:function|procedure|view)\b", re.IGNORECASE)
IN_PYTHON = re.compile(r"\blanguage plpython3u\b", re.IGNORECASE)

# For the length of one transaction. A session that installs is allowed to take its time, but not to queue for a table
# behind which the application would then queue too.
SETTINGS = """\
SET LOCAL search_path TO pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;
SET LOCAL check_function_bodies = off;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL default_table_access_method = heap;
SET LOCAL default_tablespace = '';
SET LOCAL standard_conforming_strings = on;
SET LOCAL quote_all_identifiers = off;
SET LOCAL transform_null_equals = off;
SET LOCAL array_nulls = on;
SET LOCAL extra_float_digits = 1;
SET LOCAL datestyle = 'ISO, MDY';
SET LOCAL intervalstyle = postgres;
SET LOCAL row_security = on;
"""
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
# Not the schema that the extension vector is in: others may create operators there.
SEARCH_PATH = "SET LOCAL search_path TO pgcache_internal, pgcache, pg_catalog, pg_temp;\n"
# Go on as the owner of the schemas, so that all objects have one, whoever upgrades; or refuse to. An owner can have put
# anything into a schema, and SET ROLE is no barrier to that, since RESET ROLE undoes it: so whoever runs it must trust
# its owner as himself. Superusers trust superusers; and a role that cannot log in, its members.
AS_OWNER = """\
DO $$
DECLARE
    owner pg_roles;
    caller pg_roles := (SELECT r FROM pg_roles AS r WHERE r.rolname = session_user);
BEGIN
    SELECT r.* INTO owner
    FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner
    WHERE n.nspname IN ('pgcache', 'pgcache_internal') ORDER BY r.rolsuper LIMIT 1;
    IF owner.oid <> caller.oid AND (CASE
        WHEN caller.rolsuper THEN NOT owner.rolsuper
        ELSE owner.rolcanlogin OR NOT pg_has_role(owner.oid, 'MEMBER')
    END) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('the schema pgcache in the database %s belongs to %s, and you are %s',
                current_database(), owner.rolname, caller.rolname),
            HINT = format(CASE
                WHEN owner.rolcanlogin THEN 'Connect as %s: what is in its schema would have all of your rights.'
                ELSE 'Connect as a member of %s, which cannot log in itself; not as a superuser.'
            END, owner.rolname);
    ELSIF owner.rolname <> current_user THEN
        EXECUTE format('SET LOCAL ROLE %I', owner.rolname);
    END IF;
END
$$;
"""
# One installation at a time per database; of first ones, one makes the schemas, and the others wait for their names.
# Nobody but the owner can take this lock, as anybody could an advisory one: so it is worth waiting for longer than for
# others' transactions, since those who have it are soon done.
TAKE_TURN = """\
DO $$
DECLARE
    others_timeout text := current_setting('lock_timeout');
BEGIN
    IF to_regclass('pgcache_internal.turns') IS NOT NULL THEN
        SET LOCAL lock_timeout = '2min';
        LOCK TABLE pgcache_internal.turns IN SHARE ROW EXCLUSIVE MODE;
        PERFORM set_config('lock_timeout', others_timeout, true);
    END IF;
END
$$;
"""
CREATE_PLPYTHON = "CREATE EXTENSION IF NOT EXISTS plpython3u;\n"
# Only a superuser can create functions in PL/Python. What runs as one must not look into schemas that others own.
BECOME_SUPERUSER = "RESET ROLE;\nSET LOCAL search_path TO pg_catalog, pg_temp;\n"
# Or it would go on after an error, and its exit code be 0.
FOR_PSQL = "\\set ON_ERROR_STOP on\n"
# Around what is not in a script without that level.
PLPYTHON_BEGINS, PLPYTHON_ENDS = "-- The level plpython3u begins.\n", "-- The level plpython3u ends.\n"


@dataclass(frozen=True)
class PythonFunction:
    """A function in PL/Python, by the statement that makes it."""

    statement: str

    @property
    def name(self) -> str:
        return self.statement[: self.statement.index("(")].split()[-1]

    @property
    def body(self) -> str:
        """As the catalog has it."""
        *_, literal = (token[0] for token in TOKEN.finditer(self.statement) if token[0][0] in "'$")
        return literal[1:-1].replace("''", "'") if literal[0] == "'" else literal.split("$", 2)[2].rsplit("$", 2)[0]

    @property
    def note(self) -> str:
        return f"CALL pgcache_internal.note_python('{self.name}');"


@dataclass(frozen=True)
class Script:
    """One SQL file; `name` is its path below sql/ or plpython/."""

    name: str
    text: str

    @cached_property
    def sha256(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> Iterator[tuple[str, str]]:
        """Each with the comments before it."""
        start = 0
        for token in TOKEN.finditer(self.text):
            if token[0] == ";":
                body = _after_comments(self.text, start)
                yield self.text[start:body], self.text[body : token.end()]
                start = token.end()
        yield self.text[start:], ""

    def made(self, component: str, *, but_python: bool = False) -> str:
        """The text to run: functions and views are made by pgcache_internal.make, which knows what is there already.

        Those in PL/Python are made in PL/pgSQL, as their owner can; `made_in_python` then gives them their language.
        but_python: a superuser has made those already, so they are only noted.
        """
        noted = {function.statement: function.note for function in self.in_python} if but_python else {}
        return "".join(
            comments + (noted.get(statement) or (_make(statement, component) if MAKES.match(statement) else statement))
            for comments, statement in self.statements
        )

    @property
    def in_python(self) -> list[PythonFunction]:
        return [PythonFunction(statement) for _, statement in self.statements if IN_PYTHON.search(statement)]

    def made_in_python(self) -> str:
        return "".join(f"{function.statement}\n" for function in self.in_python)


@dataclass(frozen=True)
class Migration(Script):
    version: int

    @property
    def title(self) -> str:
        return Path(self.name).stem

    def call(self, pgcache_version: str) -> str:
        """The statement that runs it, where it has not run yet."""
        arguments = f"{self.version}, '{self.title}', '{self.sha256}', '{pgcache_version}'"
        return f"CALL pgcache_internal.migrate({arguments}, $migration${self.text}$migration$);\n"


@dataclass(frozen=True)
class Sources:
    """Everything that an installation can run, in the order in which it runs; after plpython comes `after`."""

    bootstrap: Script
    before: tuple[Script, ...]
    migrations: tuple[Migration, ...]
    code: tuple[Script, ...]
    after: tuple[Script, ...]
    plpython: tuple[Script, ...]

    @property
    def newest(self) -> int:
        """The version that a database has after all migrations; 0 if there are none."""
        return self.migrations[-1].version if self.migrations else 0

    @cached_property
    def digest(self) -> str:
        """Changes whenever a file changes, except for those of the level plpython3u."""
        return _digest((self.bootstrap, *self.before, *self.migrations, *self.code, *self.after))

    @cached_property
    def plpython_digest(self) -> str:
        return _digest(self.plpython)

    def render(self, version: str, *, upgrade_from: str | None = None, plpython: bool = False) -> str:
        """What `install` runs, as a script for psql.

        version: recorded as the installed one. upgrade_from: the version that the database must have; None: it must
        have none. plpython: with the level plpython3u, which a superuser has to install.
        """
        return "\n".join(self._rendered(version, upgrade_from, plpython))

    def _rendered(self, version: str, upgrade_from: str | None, plpython: bool) -> Iterator[str]:
        what = f"from {upgrade_from} to {version}" if upgrade_from else version
        yield f"-- pgcache {what}. Run it with psql -f FILE: all or nothing, it is one transaction."
        yield FOR_PSQL + "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
        yield SETTINGS + LOCK_TIMEOUT
        yield CREATE_VECTOR
        yield AS_OWNER + TAKE_TURN
        yield _expect(upgrade_from)
        yield _titled(self.bootstrap, self.bootstrap.text)
        yield SEARCH_PATH
        for script in self.before:
            yield _titled(script, script.text)
        for migration in self.migrations:
            yield _titled(migration, migration.call(version))
        for script in self.code:
            yield _titled(script, script.made("pgcache"))
        yield record("pgcache", version, self.digest)
        if plpython:
            yield PLPYTHON_BEGINS
            for script in self.plpython:
                yield _titled(script, script.made("plpython"))
            yield record("plpython", version, self.plpython_digest)
            yield BECOME_SUPERUSER + CREATE_PLPYTHON
            for script in self.plpython:
                yield script.made_in_python()
            yield AS_OWNER + SEARCH_PATH
            yield PLPYTHON_ENDS
        for script in self.after:
            yield _titled(script, script.text)
        yield "COMMIT;"
        yield "-- Not done here: ALTER DATABASE ... SET search_path = ..., pgcache;  SELECT pgcache.cache_schedule();"


def folders(root: Path | None = None) -> tuple[Path, Path]:
    """Those of sql/ and plpython/. `root` holds them; by default they are in this package, or in its checkout."""
    if root is None and (PACKAGE / "_sql").is_dir():
        return PACKAGE / "_sql", PACKAGE / "_plpython"
    root = root or PACKAGE.parent
    return root / "sql", root / "plpython"


def load(root: Path | None = None) -> Sources:
    """Read the files. root: as for `folders`."""
    sql, plpython = folders(root)
    return Sources(
        bootstrap=_read(sql, sql / "install" / "bootstrap.sql"),
        before=tuple(_read(sql, path) for name in BEFORE for path in sql.glob(name)),
        migrations=tuple(_migrations(sql)),
        code=tuple(_read(sql, path) for part in CODE for path in sorted(sql.glob(part))),
        after=tuple(_read(sql, path) for name in AFTER for path in sql.glob(name)),
        plpython=tuple(_with_includes(plpython, path) for path in sorted(plpython.glob("*.sql"))),
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

    Names that begin with pgcache_py/ are files of this package, which the server and the client share.
    """

    def included(match: re.Match[str]) -> str:
        if match[1].startswith("pgcache_py/"):
            return OWN_IMPORT.sub("", (PACKAGE.parent / match[1]).read_text(encoding="utf-8"))
        return (root / match[1]).read_text(encoding="utf-8")

    return Script(f"plpython/{path.name}", INCLUDE.sub(included, path.read_text(encoding="utf-8")))


def _digest(scripts: Iterable[Script]) -> str:
    return sha256("\n".join(f"{script.name} {script.sha256}" for script in scripts).encode()).hexdigest()


def record(component: str, version: str, digest: str) -> str:
    """The statement that notes what is installed."""
    return f"""\
INSERT INTO pgcache_internal.installed (component, version, digest) VALUES ('{component}', '{version}', '{digest}')
ON CONFLICT (component) DO UPDATE
SET version = excluded.version, digest = excluded.digest, installed_at = excluded.installed_at;
"""  # noqa: S608


def _expect(version: str | None) -> str:
    """The statement that fails where the database has not this version, or None, none at all."""
    return f"""\
DO $$
DECLARE
    expected text := {f"'{version}'" if version else "NULL"};
    found text;
BEGIN
    IF to_regclass('pgcache_internal.installed') IS NOT NULL THEN
        SELECT i.version INTO found FROM pgcache_internal.installed AS i WHERE component = 'pgcache';
    END IF;
    IF found IS DISTINCT FROM expected THEN
        RAISE EXCEPTION USING ERRCODE = 'PC094',
            MESSAGE = format('this script is for a database with %s, and %s has %s', COALESCE('pgcache ' || expected,
                'no pgcache'), current_database(), COALESCE('pgcache ' || found, 'none')),
            HINT = COALESCE('Print the one for it: python -m pgcache_py sql --upgrade-from ' || found,
                'Print the one for it: python -m pgcache_py sql');
    END IF;
END
$$;
"""  # noqa: S608


def _after_comments(text: str, start: int) -> int:
    match = LEADING_COMMENTS.match(text, start)
    return match.end() if match else start


def _make(statement: str, component: str) -> str:
    in_plpgsql = IN_PYTHON.sub("language plpgsql", statement.removesuffix(";"))
    of_component = "" if component == "pgcache" else f", '{component}'"
    return f"CALL pgcache_internal.make($make${in_plpgsql}$make${of_component});"


def _titled(script: Script, text: str) -> str:
    return f"-- {script.name}\n{text}"
