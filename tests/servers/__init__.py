"""The real servers that the tests run on. `python -m tests.servers` handles them from the command line."""

from tests.servers.cluster import Cluster
from tests.servers.server import Server

__all__ = ["Cluster", "Server", "all_servers"]


def all_servers() -> list[Server]:
    from tests.servers.container import Container
    from tests.servers.embedded import Embedded
    from tests.servers.local import Local

    return [Embedded(18), Embedded(16), Local(), Container()]
