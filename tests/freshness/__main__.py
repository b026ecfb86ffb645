"""Look for stale reads: python -m tests.freshness --seconds 60.

Writers change rows of a source and invalidate what depends on them, readers read through every client, sessions are
ended, processes killed. No read that began after a change was committed may return what was there before; through Redis
not once that is older than the tier's bound. Exit status: 1 for a stale read or an error, 2 if the two that are known
to be wrong were not caught, so that the run proves nothing.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from tests.freshness import readers, report
from tests.freshness import run as freshness
from tests.servers import all_servers
from tests.servers.server import RUN, STATE, end_abandoned_runs

PROVISION = STATE.parent / "tests" / "servers" / "provision.sh"
JUDGED = {"pgcache": freshness.PROMISED_TO, "plain": (readers.BY_PLAIN,), "redis": (readers.BY_ASIDE,)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.freshness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for how long (default 60)")
    parser.add_argument(
        "--checks", type=int, default=0, help="until so many reads are checked, however long that takes"
    )
    parser.add_argument("--seed", type=int, help="of the random numbers (default: another one each time)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", help="on this one of the test servers (default: the first with all there is)")
    where.add_argument("--dsn", help="in a new database on this server, as its superuser")
    parser.add_argument(
        "--judge", choices=JUDGED, default="pgcache", help="whose stale reads end the run, with a story"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    end_abandoned_runs()
    run = partial(
        freshness.run, seconds=options.seconds, checks=options.checks, seed=options.seed, judged=JUDGED[options.judge]
    )
    if options.dsn:
        outcome = run(options.dsn)
    else:
        subprocess.run([PROVISION, STATE, "pgbouncer"])
        servers = {server.name: server for server in all_servers() if not server.why_not}
        if not servers or options.server not in (None, *servers):
            parser.error(f"the servers that can run here are: {', '.join(servers)}")
        best = max(servers.values(), key=lambda server: (server.offers("redis"), len(server.extensions)))
        server = servers[options.server] if options.server else best
        server.start()
        try:
            print(f"{server.name}, ", end="")
            outcome = run(server.dsn())
        finally:
            server.stop()
    shutil.rmtree(RUN, ignore_errors=True)
    for line in report.lines(outcome):
        print(line)
    if outcome.wrong:
        return 1
    if outcome.blind:
        print(f"This proves nothing: it has not seen that these are wrong: {', '.join(outcome.blind)}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
