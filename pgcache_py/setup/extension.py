"""Writes pgcache as an extension: what `make install` puts on a server, what PGXN takes, and scripts for pg_tle.

It is another way to run the statements of an installation, and leaves the same in a database. One script serves CREATE
EXTENSION and ALTER EXTENSION ... UPDATE, as these statements find out what is there. What is special about an extension
is in sql/extension/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import PgcacheError
from ..version import __version__
from .sources import AS_OWNER, LOCK_TIMEOUT, SEARCH_PATH, SETTINGS, TAKE_TURN, Script, Sources, folders, load, record

# The releases from which ALTER EXTENSION ... UPDATE leads here: 0.2.0 is the first that can be an extension.
EARLIER: tuple[str, ...] = ()

LOOK, TAKE_IN, LET_GO = "look.sql", "take_in.sql", "let_go.sql"
NOT_FOR_PSQL = '\\echo Use "CREATE EXTENSION pgcache" to load this file. \\quit\n'
COMMENT = re.compile(r"^comment = '(.*)'$", re.MULTILINE)
# The former is set by look.sql, the latter when it is known who the owner is.
INSTALLS, INSTALLS_PYTHON = "pgcache.installs", "pgcache.installs_python"
FIND_PYTHON = """\
SELECT set_config('pgcache.installs_python', 'on', true) FROM pg_roles
WHERE rolname = current_user AND rolsuper AND EXISTS (SELECT FROM pg_extension WHERE extname = 'plpython3u');
"""


def write(
    folder: Path, *, version: str = __version__, earlier: Iterable[str] = EARLIER, sources: Sources | None = None
) -> None:
    """Write the files into a folder that is empty, or not there yet.

    earlier: the versions that it upgrades. sources: other SQL than this version's.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise PgcacheError(f"{folder} is there, and is no empty folder", hint="Remove it, or name another one.")
    try:
        for name, text in _files(version, earlier, sources or load()):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())  # with the same ends of lines on every system
    except OSError as error:
        raise PgcacheError(f"cannot write to {folder}: {error.strerror}") from error


def _files(version: str, earlier: Iterable[str], sources: Sources) -> Iterator[tuple[str, str]]:
    root = folders()[0] / "extension"
    texts = {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        .replace("@version@", version)
        .replace("@newest@", str(sources.newest))
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    script = "\n".join(_script(version, sources, *map(texts.pop, (LOOK, TAKE_IN, LET_GO))))
    yield from texts.items()
    yield f"pgcache--{version}.sql", NOT_FOR_PSQL + script
    comment = "".join(COMMENT.findall(texts["pgcache.control"]))
    body = f"$pgtle$\n{script}$pgtle$"
    yield "pgtle.sql", f"SELECT pgtle.install_extension('pgcache', '{version}', '{comment}', {body}, '{{vector}}');\n"
    for old in earlier:
        yield f"pgcache--{old}--{version}.sql", NOT_FOR_PSQL + script
        yield (
            f"pgtle--{old}--{version}.sql",
            f"SELECT pgtle.install_update_path('pgcache', '{old}', '{version}', {body});\n"
            f"SELECT pgtle.set_default_version('pgcache', '{version}');\n",
        )


def _script(version: str, sources: Sources, look: str, take_in: str, let_go: str) -> Iterator[str]:
    yield look
    yield SETTINGS + LOCK_TIMEOUT
    yield _where(INSTALLS, AS_OWNER, TAKE_TURN, take_in, sources.bootstrap.text)
    yield _where(INSTALLS, SEARCH_PATH, *(script.text for script in sources.before))
    yield _where(INSTALLS, *(migration.call(version) for migration in sources.migrations))
    yield _where(INSTALLS, *(script.made("pgcache") for script in sources.code))
    yield _where(INSTALLS, record("pgcache", version, sources.digest), FIND_PYTHON)
    yield _where(
        INSTALLS_PYTHON,
        *(script.made("plpython") for script in sources.plpython),
        record("plpython", version, sources.plpython_digest),
        *(script.made_in_python() for script in sources.plpython),
    )
    yield _where(INSTALLS, *(script.text for script in sources.after))
    yield let_go


def _where(setting: str, *texts: str) -> str:
    """Each statement by itself, which runs where the setting is on. In a long one nobody would find an error."""
    return "".join(
        f"{comments}DO $pgcache$ BEGIN IF pg_catalog.current_setting('{setting}')::pg_catalog.bool THEN\n"
        f"EXECUTE $statement${statement}$statement$;\nEND IF; END $pgcache$;\n"
        for text in texts
        for comments, statement in Script("", text).statements
        if statement
    )
