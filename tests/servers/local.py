"""The full server: PostgreSQL from the system's packages with every extension, and a Redis."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path

from tests.servers.cluster import Cluster
from tests.servers.server import STATE, ClusterServer
from tests.tools.redis import INSTALLED, Redis


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
            return INSTALLED
        return super().offers(feature)


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
        if INSTALLED and not self.redis.running():
            self.redis.start()

    @cached_property
    def redis(self) -> Redis:
        return Redis(self.cluster.socket_dir)

    def stop(self) -> None:
        if self.redis.running():
            self.redis.stop()
        if self.cluster.running():
            self.cluster.stop()
        if self.cluster.socket_dir != self.cluster.home:
            shutil.rmtree(self.cluster.socket_dir)
