"""Look for stale reads: python -m tests.freshness --seconds 60.

Writers change rows of a source and invalidate what depends on them, readers read through every client, sessions are
ended, processes killed. No read that began after a change was committed may return what was there before; from Redis,
and from what a process keeps, not once that is older than the bound. Exit status: 1 for a stale read or an error, 2 if
the two that are known to be wrong were not caught, so that the run proves nothing.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.freshness import cold, readers, report
from tests.freshness import run as freshness
from tests.servers import Server, all_servers
from tests.servers.runs import run_directory
from tests.servers.server import RUN, STATE
from tests.tools.pgbouncer import PROGRAM

PROVISION = STATE.parent / "tests" / "servers" / "provision.sh"
JUDGED = {"pgcache": freshness.PROMISED_TO, "plain": (readers.BY_PLAIN,), "redis": (readers.BY_ASIDE,)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.freshness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for how long (default 60)")
    parser.add_argument(
        "--checks", type=int, default=0, help="until so many reads are checked, however long that takes"
    )
    parser.add_argument(
        "--near", type=int, default=0, metavar="PROCESSES", help="let so many more read what they keep themselves"
    )
    parser.add_argument("--seed", type=int, help="of the random numbers (default: another one each time)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", help="on this one of the test servers (default: the first with all there is)")
    where.add_argument("--dsn", help="in a new database on this server, as its superuser")
    parser.add_argument(
        "--judge", choices=JUDGED, default="pgcache", help="whose stale reads end the run, with a story"
    )
    parser.add_argument(
        "--cold", type=int, metavar="TRIES", help=f"instead: let {cold.CLIENTS} clients ask at once for an absent key"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with run_directory(RUN):
        if options.dsn:
            return ask(options, None)
        subprocess.run([PROVISION, STATE, "pgbouncer"])
        servers = {server.name: server for server in all_servers() if not server.why_not}
        if not servers or options.server not in (None, *servers):
            parser.error(f"the servers that can run here are: {', '.join(servers)}")
        best = max(servers.values(), key=lambda server: (server.offers("redis"), len(server.extensions)))
        return ask(options, servers[options.server] if options.server else best)


def ask(options: argparse.Namespace, server: Server | None) -> int:
    """server: None for the one of --dsn."""
    if options.cold:
        if server is None or server.bin_dir is None:
            raise SystemExit("--cold needs a --server of which this machine has the programs: it starts one of its own")
        return ask_cold(server.name, server.bin_dir, options.cold)
    run = partial(
        freshness.run,
        seconds=options.seconds,
        checks=options.checks,
        seed=options.seed,
        judged=JUDGED[options.judge],
        near=options.near,
    )
    if server is None:
        outcome = run(options.dsn)
    else:
        server.start()
        try:
            print(f"{server.name}, ", end="")
            outcome = run(server.dsn())
        finally:
            server.stop()
    for line in report.lines(outcome):
        print(line)
    if outcome.wrong:
        return 1
    if outcome.blind:
        print(f"This proves nothing: it has not seen that these are wrong: {', '.join(outcome.blind)}")
        return 2
    return 0


def ask_cold(name: str, bin_dir: Path, tries: int) -> int:
    ways = {"direct": cold.direct}
    if PROGRAM:
        ways["through PgBouncer in transaction mode"] = cold.pooled
    else:
        print("not run: through a pooler: pgbouncer is not installed")
    all_good = True
    with cold.cold_cluster(bin_dir) as dsn:
        for way, run in ways.items():
            found = run(dsn, tries)
            good = sum(each.good for each in found)
            all_good = all_good and good == tries
            slowest = max(each.seconds for each in found)
            print(f"{name}, {way}: {cold.CLIENTS} clients, 1 computation in {good} of {tries} tries", end="")
            print(f", {sum(each.seconds for each in found) / tries:.2f} s on average, {slowest:.2f} at most")
            for each in found:
                if not each.good:
                    print(f"  {each.computations} computations, {each.stored} stored: {dict(each.states)}")
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
