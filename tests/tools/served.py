"""Processes of python -m pgcache_py serve."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers.cluster import free_port
from tests.tools.waiting import wait_until

PROJECT = Path(__file__).parents[2]


class Served(httpx.Client):
    """A client of a server process of its own."""

    port: int
    process: subprocess.Popen[str]


Serve = Callable[..., Served]


@contextmanager
def serving() -> Iterator[Serve]:
    """What it yields starts `python -m pgcache_py serve` for a database, and returns a client for it."""
    clients: list[Served] = []

    def start(dsn: str, *options: str, port: int = 0, token: str = "", headers: Any = None) -> Served:
        port = port or free_port()
        command = [sys.executable, "-m", "pgcache_py", "serve", "--dsn", dsn, "--port", str(port), *options]
        environ = {**os.environ, "PGCACHE_HTTP_TOKEN": token}
        client = Served(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=headers)
        client.port = port
        client.process = subprocess.Popen(
            command, cwd=PROJECT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        clients.append(client)
        wait_until(lambda: client.process.poll() is not None or listens(port))
        assert client.process.poll() is None, client.process.communicate()[0]
        return client

    try:
        yield start
    finally:
        for client in clients:
            client.close()
            client.process.terminate()
            client.process.communicate(timeout=30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
