"""One PostgreSQL server of our own: its data directory, the programs that run it, nothing shared with the system's."""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from psycopg.conninfo import make_conninfo

# As production has it, and room for the tests: 20 installers at once, a standby, background jobs.
SETTINGS = {
    "max_connections": "200",
    "max_worker_processes": "16",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "log_line_prefix": "%m [%p] %d ",
}
CRON_SETTINGS = {
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": "postgres",
    # Jobs run without a connection of their own, so none has to be let in.
    "cron.use_background_workers": "on",
}
# A test server survives its own crash, but not the machine's. Its standby reconnects at once.
FOR_TESTS = {"fsync": "off", "wal_retrieve_retry_interval": "100ms"}

MAX_SOCKET_PATH = 107


def free_port() -> int:
    """A port to listen on, also again after a restart: none that the system gives to connections meanwhile."""
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def server_user() -> pwd.struct_passwd:
    """Whom a server runs as: us or, since PostgreSQL refuses root, its own user, else the one who owns nothing."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def run_as_server_user(*paths: Path) -> list[str]:
    """The command prefix under which a program can use `paths` as the server's user."""
    if os.geteuid() != 0:
        return []
    user = server_user()
    prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    if not all(step.stat().st_mode & stat.S_IXOTH for path in paths for step in (path, *path.parents)):
        # A project below /root, say, is closed to that user unless this capability lets it through. The bit makes
        # access(2) respect the capability, and that is how PostgreSQL looks for its own programs.
        prefix += ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return prefix


class Cluster:
    """A server in `home`: its data, its log and its password; its socket too, unless that path would be too long."""

    def __init__(self, bin_dir: Path, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self.bin_dir = bin_dir
        self.home = home.absolute()
        self.data = self.home / "data"
        self.settings = {**SETTINGS, **(settings or {})}
        self.port = 0
        self.socket_dir = self.home

    def init(self) -> None:
        """Make an empty cluster. Other users of the machine may connect over TCP only, and only with the password."""
        self._make_home()
        password = self.home / "password"
        password.write_text(secrets.token_urlsafe(12))
        os.chown(password, server_user().pw_uid, -1)
        password.chmod(0o600)
        self._run(
            "initdb", f"--pgdata={self.data}", "--username=postgres", f"--pwfile={password}", "--no-sync",
            "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8",
        )  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in self.settings.items())

    def start(self) -> None:
        if not self.port:
            self.port = free_port()
            self.socket_dir = self._find_socket_dir()
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {shlex.quote(str(self.socket_dir))}"
        self._pg_ctl("start", f"--log={self.home / 'log'}", f"--options={options}")

    def stop(self, mode: str = "fast") -> None:
        self._pg_ctl("stop", f"--mode={mode}")

    def kill9(self) -> None:
        """Kill the server and its processes without a word, as the out-of-memory killer does."""
        postmaster = psutil.Process(int(self._postmaster_pid()[0]))
        processes = [postmaster, *postmaster.children()]
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # a session may have just ended
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes)

    def running(self) -> bool:
        return (self.data / "postmaster.pid").exists() and psutil.pid_exists(int(self._postmaster_pid()[0]))

    def attach(self) -> None:
        """Find the address of a server that another process started."""
        lines = self._postmaster_pid()
        self.port, self.socket_dir = int(lines[3]), Path(lines[4])

    def remove(self) -> None:
        if self.running():
            self.stop("immediate")
        for directory in {self.home, self.socket_dir}:
            shutil.rmtree(directory)

    def standby(self, home: Path) -> Cluster:
        """A streaming hot standby of this running server, not yet started."""
        standby = Cluster(self.bin_dir, home)
        standby._make_home()
        shutil.copy2(self.home / "password", standby.home / "password")
        standby._run(
            "pg_basebackup", f"--pgdata={standby.data}", f"--dbname={self.dsn()}", "--write-recovery-conf",
            "--wal-method=stream", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip
        return standby

    def copy(self, home: Path) -> Cluster:
        """The files of this stopped server, as a server of its own, not yet started."""
        copy = Cluster(self.bin_dir, home)
        copy._make_home()
        subprocess.run(["cp", "-a", self.home / "password", self.data, home], check=True)
        return copy

    def dsn(self, dbname: str = "postgres") -> str:
        """Over the socket, as the superuser."""
        return make_conninfo(host=str(self.socket_dir), port=self.port, user="postgres", dbname=dbname)

    def tcp_dsn(self, dbname: str = "postgres") -> str:
        """Over loopback, as the superuser."""
        password = (self.home / "password").read_text()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{dbname}"

    def _make_home(self) -> None:
        self.home.mkdir(parents=True)
        self.home.chmod(0o700)
        os.chown(self.home, server_user().pw_uid, -1)

    def _find_socket_dir(self) -> Path:
        if len(str(self.home / f".s.PGSQL.{self.port}")) <= MAX_SOCKET_PATH:
            return self.home
        directory = Path(tempfile.mkdtemp(prefix="pgcache-"))
        os.chown(directory, server_user().pw_uid, -1)
        return directory

    def _postmaster_pid(self) -> list[str]:
        return (self.data / "postmaster.pid").read_text().splitlines()

    def _pg_ctl(self, action: str, *options: str) -> None:
        self._run("pg_ctl", action, f"--pgdata={self.data}", "--wait", "--silent", *options)

    def _run(self, program: str, *arguments: str) -> None:
        executable = self.bin_dir / program
        command = [*run_as_server_user(executable, self.home.parent), str(executable), *arguments]
        done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            log = self.home / "log"
            tail = log.read_text()[-2000:] if log.exists() else ""
            raise RuntimeError(f"{program} failed: {done.stderr}{done.stdout}{tail}")
