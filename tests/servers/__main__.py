"""Provision the test servers, or run the full one: python -m tests.servers {provision,up,down,status}."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from tests.servers import all_servers
from tests.servers.container import pull_base_image
from tests.servers.local import Lasting
from tests.servers.server import STATE
from tests.tools.redis import INSTALLED


def provision() -> None:
    """Install what the servers need. What cannot be installed is reported, and its server not run."""
    subprocess.run([Path(__file__).with_name("provision.sh"), STATE, "pgbouncer"])
    pull_base_image()


def up() -> None:
    """Start the full local server and Redis, and print how to connect."""
    server = Lasting()
    if server.why_not:
        sys.exit(server.why_not)
    server.start()
    print(f"PostgreSQL {server.major}: psql {shlex.quote(server.dsn())}")
    print(f"         over TCP: {server.cluster.tcp_dsn()}")
    print(f"            Redis: {server.redis.url if INSTALLED else 'redis-server is not installed'}")
    print("make stop ends them; the data stays until make clean.")


def down() -> None:
    """Stop what `up` started."""
    server = Lasting()
    if not server.why_not:
        server.stop()


def status() -> None:
    """Say which servers the tests can run on here."""
    for server in all_servers():
        print(f"{server.name:14}", f"cannot run: {server.why_not}" if server.why_not else "can run")


COMMANDS = {command.__name__: command for command in (provision, up, down, status)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    COMMANDS[parser.parse_args().command]()
