"""What is measured on: a PostgreSQL set up as in production, a Redis and a memcached, all of them throw-away."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from pgcache_py.setup.install import install
from tests.bench.harness import Arm, Sample
from tests.servers import Cluster
from tests.servers.cluster import server_user
from tests.servers.local import Local
from tests.servers.runs import run_directory
from tests.servers.server import STATE
from tests.tools.redis import Redis
from tests.tools.waiting import wait_until

HOME = STATE / "bench"
CORES = os.cpu_count() or 1
MEMORY = psutil.virtual_memory().total

# As one would set them for a server of this size; all else is PostgreSQL's default, and here are those that matter.
SETTINGS = {
    "shared_buffers": f"{min(2 << 30, MEMORY // 4) >> 20}MB",
    "max_wal_size": "4GB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
}
PACKAGES = (
    "psycopg", "redis", "hiredis", "pymemcache", "Django", "langchain-community", "SQLAlchemy", "diskcache",
    "cachetools",
)  # fmt: skip

COUNTERS = """
    SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS xids,
        pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal_bytes,
        coalesce(sum(n_tup_ins), 0) AS inserts, coalesce(sum(n_tup_upd), 0) AS updates,
        coalesce(sum(n_tup_hot_upd), 0) AS hot_updates, coalesce(sum(n_tup_del), 0) AS deletes
    FROM pg_stat_user_tables WHERE %(table)s::text IS NULL OR relid = to_regclass(%(table)s)
"""


@dataclass
class Load:
    """What a run of pgbench did. latencies: of each transaction in microseconds, if asked for."""

    per_second: float
    transactions: int
    latencies: list[int] = field(default_factory=list)


class Database:
    """A database with pgcache in it, and a session in it to prepare things and to count."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.dsn = cluster.dsn(name)
        self.tcp_dsn = cluster.tcp_dsn(name)
        self.session = psycopg.connect(self.dsn, autocommit=True)

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.session.execute(statement.encode())

    def value(self, query: str, *params: Any) -> Any:
        row = self.session.execute(query.encode(), params).fetchone()
        return row[0] if row else None

    def upkeep(self) -> None:
        """What pg_cron does every hour."""
        self.run("CALL pgcache.cache_upkeep()")

    def settle(self) -> None:
        """After loading: nothing is left to be done in the background."""
        self.run("VACUUM ANALYZE", "CHECKPOINT")

    def count(self, table: str | None = None) -> dict[str, float]:
        """Transaction ids and WAL used, and rows written to a table or to all; once pgbench's sessions have ended."""
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'"
        wait_until(lambda: not self.value(sessions))
        self.run("SELECT pg_stat_force_next_flush()")  # of what this session itself has written
        with self.session.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            row = cursor.execute(COUNTERS, {"table": table}).fetchone() or {}
        return {name: float(value) for name, value in row.items()}

    def pgbench(
        self,
        script: str,
        clients: int = 1,
        *,
        seconds: int | None = None,
        transactions: int | None = None,
        latencies: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Load:
        """Run a script on so many connections, for so long or so many times each."""
        limit = f"-T{seconds}" if transactions is None else f"-t{transactions}"
        options = ["-n", "-M", "prepared", f"-c{clients}", f"-j{min(clients, CORES)}", limit, "-f", "/dev/stdin"]
        for name, value in (variables or {}).items():
            options += ["-D", f"{name}={value}"]
        with tempfile.TemporaryDirectory() as directory:
            if latencies:
                options += ["-l", "--log-prefix", f"{directory}/log"]
            command = [str(self.cluster.bin_dir / "pgbench"), *options, self.dsn]
            done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=3600)
            if done.returncode != 0:
                raise RuntimeError(f"pgbench failed: {done.stderr}")
            logged = [line.split()[2] for log in Path(directory).iterdir() for line in log.read_text().splitlines()]
        rate = re.search(r"tps = ([\d.]+)", done.stdout)
        number = re.search(r"actually processed: (\d+)", done.stdout)
        if not rate or not number:
            raise RuntimeError(f"pgbench says: {done.stdout}")
        return Load(float(rate[1]), int(number[1]), [int(latency) for latency in logged])

    def arm(self, script: str, clients: int, seconds: int, variables: Mapping[str, str] | None = None) -> Arm:
        """An arm of transactions per second."""

        def run() -> Sample:
            load = self.pgbench(script, clients, seconds=seconds, variables=variables)
            return Sample(load.per_second, load.transactions)

        return run


class Bench:
    """What the questions are asked with: the servers, and how much effort to make."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.rounds = 3 if quick else 10
        self.seconds = 1 if quick else 2
        self.home = HOME / f"run-{os.getpid()}"
        self.stack = ExitStack()

    def __enter__(self) -> Bench:
        local = Local()
        if local.why_not:
            raise SystemExit(local.why_not)
        self.stack.enter_context(run_directory(self.home))
        self.cluster = Cluster(local.bin_dir, self.home / "postgres", SETTINGS)
        try:
            self.cluster.init()
            self.stack.callback(self.cluster.remove)
            self.cluster.start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @contextmanager
    def database(self, name: str) -> Iterator[Database]:
        """A new database, dropped at the end."""
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            install(self.cluster.dsn(name))
            database = Database(self.cluster, name)
            try:
                yield database
            finally:
                database.session.close()
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    @cached_property
    def redis(self) -> Redis | None:
        if not shutil.which("redis-server"):
            return None
        redis = Redis(self.cluster.socket_dir)
        redis.start()
        self.stack.callback(redis.stop)
        return redis

    @cached_property
    def memcached(self) -> Path | None:
        """The socket of a memcached."""
        program = shutil.which("memcached")
        if not program:
            return None
        directory = self.cluster.socket_dir
        socket = directory / "memcached.sock"
        user = ["-u", server_user().pw_name] if os.geteuid() == 0 else []
        process = self.stack.enter_context(subprocess.Popen([program, "-s", socket, "-m", "1024", *user]))
        self.stack.callback(process.terminate)
        wait_until(socket.exists)
        return socket

    def about(self) -> dict[str, Any]:
        """The machine, the settings and the versions that the results hold for."""
        with psycopg.connect(self.cluster.dsn()) as connection:
            server = connection.execute("SELECT current_setting('server_version')").fetchone() or ("",)
        return {
            "at": time.strftime("%Y-%m-%d %H:%M %Z"),
            "cpu": cpu(),
            "cores": CORES,
            "memory_gb": round(MEMORY / 2**30),
            "kernel": platform.release(),
            "load_at_start": round(os.getloadavg()[0], 2),
            "postgresql": server[0],
            "settings": SETTINGS,
            "redis": first_line("redis-server", "--version"),
            "memcached": first_line("memcached", "--version"),
            "python": platform.python_version(),
            "packages": {name: package(name) for name in PACKAGES},
            "effort": "quick" if self.quick else "full",
        }


def cpu() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def first_line(*command: str) -> str | None:
    if not shutil.which(command[0]):
        return None
    return subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[0]


def package(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
