"""A Redis of the tests' own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from tests.servers.cluster import free_port, run_as_server_user, server_user
from tests.servers.server import RUN
from tests.tools.names import unique

INSTALLED = shutil.which("redis-server") is not None


class Redis:
    """A private Redis, its files in `directory`: on loopback, with a password, and on a socket. Nothing lasts but SAVE.

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

    @property
    def port(self) -> int:
        return int(parse_url(self.url)["port"])

    @property
    def password(self) -> str:
        return str(parse_url(self.url)["password"])

    @cached_property
    def client(self) -> Any:
        """A client that does not try again."""
        return redis.Redis.from_url(self.url, decode_responses=True, retry=Retry(NoBackoff(), 0))

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

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(int(self._pid_file.read_text()))

    def stop(self) -> None:
        process = self.process
        process.terminate()
        process.wait(30)

    def kill(self) -> None:
        """Without a word, as the out-of-memory killer does."""
        with suppress(psutil.NoSuchProcess):
            process = self.process
            process.kill()
            # It may stay on as a zombie, which holds nothing any more, and goes at any moment.
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.002)
        self._pid_file.unlink()  # a zombie would be taken for a Redis that runs, later another process for ours
        if "client" in self.__dict__:
            self.client.connection_pool.disconnect()

    def restart(self) -> None:
        self.kill()
        self.start()


@contextmanager
def redis_maker() -> Iterator[Callable[..., Redis]]:
    """Makes running Redises of a test run, until the block ends; arguments: lines of the configuration."""
    made: list[Redis] = []

    def make(*settings: str) -> Redis:
        directory = RUN / unique("redis")
        directory.mkdir(parents=True, mode=0o700)
        os.chown(directory, server_user().pw_uid, -1)
        made.append(Redis(directory, *settings))
        made[-1].start()
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            if each.running():
                each.kill()
