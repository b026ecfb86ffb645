"""200 clients that ask at once for what nobody has computed yet cost one computation, also through a pooler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.freshness import cold
from tests.servers import Server
from tests.tools.pgbouncer import PROGRAM

pytestmark = [pytest.mark.needs("cluster"), pytest.mark.once]
TRIES = 2


@pytest.fixture(scope="module")
def cold_dsn(server: Server) -> Iterator[str]:
    assert server.bin_dir
    with cold.cold_cluster(server.bin_dir) as dsn:
        yield dsn


def test_one_of_200_sessions_computes(cold_dsn: str) -> None:
    tries = cold.direct(cold_dsn, TRIES)
    assert [each.good for each in tries] == [True] * TRIES, tries
    assert tries[0].states == Counter(won=1, fresh=cold.CLIENTS - 1)


@pytest.mark.skipif(not PROGRAM, reason="pgbouncer is not installed")
def test_one_of_200_clients_of_a_pooler_computes(cold_dsn: str) -> None:
    tries = cold.pooled(cold_dsn, TRIES)
    assert [each.good for each in tries] == [True] * TRIES, tries
