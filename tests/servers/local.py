"""The full server: PostgreSQL from the system's packages with every extension, and a Redis."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from functools import cached_property
from pathlib import Path

import psutil

from tests.servers.cluster import Cluster, free_port, run_as_server_user
from tests.servers.server import STATE, ClusterServer


class Redis:
    """A private Redis without persistence, its files in `directory`: on loopback, with a password, and on a socket.

    settings: further lines of its configuration.
    """

    def __init__(self, directory: Path, *settings: str) -> None:
        self._settings = settings
        self._address: tuple[int, str] | None = None
        self.socket = directory / "redis.sock"
        self._pid_file = directory / "redis.pid"
        self._url_file = directory / "redis.url"

    @property
    def url(self) -> str:
        return self._url_file.read_text()

    def running(self) -> bool:
        pid = self._pid_file.read_text().strip() if self._pid_file.exists() else ""
        return bool(pid) and psutil.pid_exists(int(pid))

    def start(self) -> None:
        """After the first time, where it was before."""
        self._address = self._address or (free_port(), secrets.token_urlsafe(12))
        self._pid_file.unlink(missing_ok=True)
        port, password = self._address
        directory = self.socket.parent
        settings = f"""
            bind 127.0.0.1
            port {port}
            requirepass {password}
            unixsocket "{self.socket}"
            dir "{directory}"
            pidfile "{self._pid_file}"
            logfile "{directory / "redis.log"}"
            save ""
            daemonize yes
        """ + "\n".join(self._settings)
        command = [*run_as_server_user(directory.parent), "redis-server", "-"]
        subprocess.run(command, cwd="/", input=settings, text=True, check=True, stdout=subprocess.DEVNULL)
        self._url_file.touch(mode=0o600)
        self._url_file.write_text(f"redis://:{password}@127.0.0.1:{port}/0")
        deadline = time.monotonic() + 30
        while not self.running():  # it listens by the time that it writes its pid
            if time.monotonic() > deadline:
                raise RuntimeError(f"Redis does not start: {(directory / 'redis.log').read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        process = psutil.Process(int(self._pid_file.read_text()))
        process.terminate()
        process.wait(30)

    def kill(self) -> None:
        """Without a word, as the out-of-memory killer does."""
        process = psutil.Process(int(self._pid_file.read_text()))
        process.kill()
        # It may stay on as a zombie, which holds nothing any more.
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.002)


class Local(ClusterServer):
    """The oldest release installed here that pgcache supports and that has pgvector."""

    def __init__(self) -> None:
        self.name = "local"
        for bin_dir in self._installed():
            self.bin_dir = bin_dir
            if 15 <= self.major <= 18 and "vector" in self.extensions:
                self.name = f"local-{self.major}"
                return
        self.why_not = "no PostgreSQL 15 to 18 with pgvector is installed (make test as root installs it)"

    @staticmethod
    def _installed() -> list[Path]:
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
        elsewhere = shutil.which("postgres")
        return [postgres.parent for postgres in (*debian, *([Path(elsewhere)] if elsewhere else []))]

    def offers(self, feature: str) -> bool:
        if feature == "redis":
            return shutil.which("redis-server") is not None
        return super().offers(feature)

    @cached_property
    def redis(self) -> Redis:
        redis = Redis(self.cluster.socket_dir)
        if not redis.running():
            redis.start()
        return redis

    @property
    def redis_url(self) -> str | None:
        """Starts the Redis when a test first asks for it."""
        return self.redis.url if self.offers("redis") else None

    def stop(self) -> None:
        if "redis" in self.__dict__:
            self.redis.stop()
            del self.redis
        super().stop()


class Lasting(Local):
    """The same for a person: it keeps its data, and runs until `down`."""

    def __init__(self) -> None:
        super().__init__()
        if not self.why_not:
            self.cluster = Cluster(self.bin_dir, STATE / "server", self.settings)
            if self.cluster.running():
                self.cluster.attach()

    def start(self) -> None:
        if not self.cluster.data.exists():
            self.cluster.init()
        if not self.cluster.running():
            self.cluster.start()
        self.conninfo = self.cluster.dsn()

    def stop(self) -> None:
        redis = Redis(self.cluster.socket_dir)
        if redis.running():
            redis.stop()
        if self.cluster.running():
            self.cluster.stop()
        if self.cluster.socket_dir != self.cluster.home:
            shutil.rmtree(self.cluster.socket_dir)
