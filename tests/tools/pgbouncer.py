"""A PgBouncer in transaction mode in front of a server of the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.servers.cluster import free_port, run_as_server_user, server_user
from tests.servers.server import RUN
from tests.tools.names import unique
from tests.tools.waiting import wait_until

# Debian's is where only root looks for programs.
PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SERVER = ("host", "hostaddr", "port", "user", "password")


@contextmanager
def pgbouncer(conninfo: str, *, connections: int = 20) -> Iterator[str]:
    """A conninfo through it for all databases of the server, as the conninfo's user: add dbname.

    connections: how many it opens to the server; its clients take turns in using them, by transaction.
    """
    if not PROGRAM:
        raise RuntimeError("pgbouncer is not installed")
    directory = RUN / unique("pgbouncer")
    directory.mkdir(parents=True, mode=0o700)
    server = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if name in SERVER}
    user, password, port = server.get("user", "postgres"), secrets.token_urlsafe(12), free_port()
    users, settings = directory / "users", directory / "pgbouncer.ini"
    users.write_text(f'"{user}" "{password}"\n')
    settings.write_text(f"""
        [databases]
        * = {make_conninfo(**server)}
        [pgbouncer]
        pool_mode = transaction
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = plain
        auth_file = {users}
        default_pool_size = {connections}
        max_client_conn = 1000
        server_idle_timeout = 10
        ignore_startup_parameters = extra_float_digits
        logfile = {directory / "log"}
        pidfile = {directory / "pid"}
    """)
    for path in (directory, users, settings):
        os.chown(path, server_user().pw_uid, -1)
    command = [*run_as_server_user(directory), PROGRAM, "--daemon", "--quiet", str(settings)]
    subprocess.run(command, cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pid_file = directory / "pid"
    try:
        wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
        yield make_conninfo(host="127.0.0.1", port=port, user=user, password=password)
    finally:
        end(pid_file)
        shutil.rmtree(directory)


def end(pid_file: Path) -> None:
    with suppress(OSError, ValueError, psutil.NoSuchProcess):
        process = psutil.Process(int(pid_file.read_text()))
        process.kill()
        process.wait(30)
