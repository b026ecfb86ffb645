"""The full server in a container, built from the project's Dockerfile."""

from __future__ import annotations

import secrets
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import docker
import psycopg
from docker.errors import DockerException, ImageNotFound
from psycopg.conninfo import make_conninfo
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage

from tests.servers.cluster import FOR_TESTS, SETTINGS
from tests.servers.server import IN_MEMORY, Server

BASE_IMAGE = "debian:trixie-slim"
PROJECT = Path(__file__).parents[2]


def pull_base_image() -> None:
    """Have the base image here, if there is a Docker engine and it can be had."""
    try:
        client = docker.from_env(timeout=300)
        if not client.images.list(BASE_IMAGE):
            client.images.pull(BASE_IMAGE)
    except DockerException:
        pass  # why_not() says which


def why_not() -> str | None:
    try:
        docker.from_env(timeout=10).images.get(BASE_IMAGE)
    except ImageNotFound:
        return f"the image {BASE_IMAGE} is not here and cannot be pulled"
    except DockerException:
        return "no Docker engine answers"
    return None


def host_apt_sources() -> str:
    """Debian 13's package sources on the mirror that this machine's own apt uses; '' if it is no Debian.

    Where only that mirror can be reached, a build needs it; the image as such names the usual one. Not over https,
    which the slim image cannot verify.
    """
    if not shutil.which("apt-get"):
        return ""
    targets = ["apt-get", "indextargets", "--format", "$(LABEL) $(SITE)", "Created-By: Packages", "Component: main"]
    suites = {"Debian": "trixie", "Debian-Security": "trixie-security"}
    known = [line.split() for line in subprocess.check_output(targets, text=True).splitlines()]
    lines = {
        f"deb {site} {suites[label]} main" for label, site in known if label in suites and site.startswith("http:")
    }
    return "\n".join(sorted(lines))


class Container(Server):
    name = "container-17"
    major = 17
    extensions = frozenset({"vector", "pg_cron", "plpython3u", "plpgsql_check", "pgtap", "plproxy"})

    def __init__(self) -> None:
        self.why_not = why_not()
        self._password = secrets.token_urlsafe(12)

    def offers(self, feature: str) -> bool:
        return feature == "image" or super().offers(feature)

    def start(self) -> None:
        # Neither a name server nor a route need be reachable from Docker's own network.
        build: dict[str, Any] = {"network_mode": "host", "buildargs": {"APT_SOURCES": host_apt_sources()}}
        image = DockerImage(PROJECT, tag="pgcache-test", clean_up=False, **build).build()
        settings = [part for name, value in (SETTINGS | FOR_TESTS).items() for part in ("-c", f"{name}={value}")]
        memory: dict[str, Any] = {"env": {"PGDATA": "/dev/shm/data"}, "shm_size": "8g"} if IN_MEMORY else {}
        self.container = DockerContainer(str(image), command=shlex.join(settings), ports=[5432], **memory)
        self.container.with_env("POSTGRES_PASSWORD", self._password).start()
        try:
            self.conninfo = self._answering()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.container.stop()

    def _answering(self) -> str:
        """The conninfo by which the container is reached, once it answers.

        Either a port of the engine's host or the container's own address, as the engine's networks and ours may be.
        """
        client, id = self.container.get_docker_client(), self.container.get_wrapped_container().id
        mapped = self.container.get_container_host_ip(), self.container.get_exposed_port(5432)
        places = [mapped, (client.bridge_ip(id), 5432)]
        given: dict[str, Any] = {"user": "postgres", "password": self._password, "connect_timeout": 5}
        deadline = time.monotonic() + 180
        while True:
            errors = []
            for host, port in places:
                conninfo = make_conninfo(host=host, port=port, **given)
                try:
                    psycopg.connect(conninfo).close()
                except (psycopg.OperationalError, TimeoutError) as error:
                    errors.append(str(error))
                else:
                    return conninfo
            if time.monotonic() > deadline:
                logs = b"".join(self.container.get_logs()).decode()
                raise RuntimeError("\n".join(["the container does not answer", *errors, logs]))
            time.sleep(0.1)
