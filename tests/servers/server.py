"""What every test server offers, and the kind that is a cluster of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path

from psycopg.conninfo import make_conninfo

from tests.servers.cluster import CRON_SETTINGS, FOR_TESTS, Cluster

STATE = Path(__file__).parents[2] / ".state"
MEMORY = Path("/dev/shm")
# Hundreds of databases are created and dropped: 15 ms each in memory, up to 300 on a disk with ext4, which has to pass
# over the files deleted just before.
IN_MEMORY = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30
RUNS = MEMORY if IN_MEMORY else STATE
# Each test run has servers of its own, so that two runs at the same time do not meet. Its processes share them.
RUN = Path(os.environ.setdefault("PGCACHE_TEST_RUN", str(RUNS / f"pgcache-test-{os.getpid()}")))


class Server(ABC):
    """A real PostgreSQL. `why_not` says why this machine cannot run it; None: it can.

    conninfo: the superuser's, once it runs. A process that is told it can use a server that another one started.
    """

    name: str
    why_not: str | None = None
    conninfo: str | None = None
    bin_dir: Path | None = None

    @property
    @abstractmethod
    def major(self) -> int: ...

    @property
    @abstractmethod
    def extensions(self) -> frozenset[str]:
        """Those that can be created."""

    @property
    def preloaded_cron(self) -> bool:
        return "pg_cron" in self.extensions

    def offers(self, feature: str) -> bool:
        """An extension; 'redis', one beside it; 'cluster', programs to make throw-away clusters with; 'image', ours."""
        match feature:
            case "cluster":
                return self.bin_dir is not None
        return feature in self.extensions

    @abstractmethod
    def start(self) -> None:
        """Start it, and set `conninfo`."""

    @abstractmethod
    def stop(self) -> None: ...

    def dsn(self, dbname: str = "postgres") -> str:
        """The superuser's conninfo for one of the server's databases."""
        assert self.conninfo, f"{self.name} does not run"
        return make_conninfo(self.conninfo, dbname=dbname)

    def log(self, dbname: str) -> str | None:
        """What the server has logged for this database, where its log can be read."""
        return None


@cache
def pg_config(bin_dir: Path, option: str) -> str:
    return subprocess.check_output([bin_dir / "pg_config", option], text=True).strip()


@cache
def extensions_for(bin_dir: Path) -> frozenset[str]:
    controls = Path(pg_config(bin_dir, "--sharedir"), "extension").glob("*.control")
    return frozenset(control.stem for control in controls)


class ClusterServer(Server):
    """A server that the programs in `bin_dir` run."""

    bin_dir: Path

    @property
    def major(self) -> int:
        return int(pg_config(self.bin_dir, "--version").split()[1].split(".")[0])

    @property
    def extensions(self) -> frozenset[str]:
        return extensions_for(self.bin_dir)

    @property
    def home(self) -> Path:
        return RUN / self.name

    @property
    def settings(self) -> dict[str, str]:
        return CRON_SETTINGS if self.preloaded_cron else {}

    def start(self) -> None:
        self.cluster = Cluster(self.bin_dir, self.home, {**self.settings, **FOR_TESTS})
        self.cluster.init()
        self.cluster.start()
        self.conninfo = self.cluster.dsn()

    def stop(self) -> None:
        self.cluster.remove()

    def log(self, dbname: str) -> str:
        lines: list[str] = []
        ours = False
        for line in (self.home / "log").read_text(errors="replace").splitlines():
            if not line.startswith("\t"):  # as the further lines of a message do
                ours = f"] {dbname} " in line
            if ours:
                lines.append(line)
        return "\n".join(lines)
