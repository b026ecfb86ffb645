"""A Redis that tells its clients what has changed of what they keep (client-side caching): 7.4 or newer."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import docker
import redis
from redis.cache import CacheConfig

from tests.bench.peers import AbsentError
from tests.servers import container
from tests.servers.cluster import free_port
from tests.tools.waiting import wait_until

DOCKERFILE = f"""
FROM {container.BASE_IMAGE}
ARG APT_SOURCES=
RUN if [ -n "$APT_SOURCES" ]; then rm -f /etc/apt/sources.list.d/*; echo "$APT_SOURCES" >/etc/apt/sources.list; fi; \
    apt-get update && apt-get install -y --no-install-recommends redis-server
"""


@contextmanager
def caching_client() -> Iterator[tuple[redis.Redis, redis.Redis]]:
    """A client of such a Redis, in a container of its own, that keeps up to 10,000 answers, and one that keeps none.

    Raises AbsentError where there is no container.
    """
    if why := container.why_not():
        raise AbsentError(why)
    engine = docker.from_env()
    sources = {"APT_SOURCES": container.host_apt_sources()}
    file = io.BytesIO(DOCKERFILE.encode())
    image, _ = engine.images.build(fileobj=file, buildargs=sources, network_mode="host", rm=True)
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    server = engine.containers.run(image, command, network_mode="host", detach=True, remove=True)
    try:
        wait_until(lambda: answers(port))
        with redis.Redis(port=port, protocol=3, cache_config=CacheConfig()) as client, redis.Redis(port=port) as other:
            yield client, other
    finally:
        server.stop(timeout=2)


def answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
