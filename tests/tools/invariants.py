"""What holds in each database after its test: counters are of what is there, the outbox is explained, nothing is left.

A test that breaks one of these on purpose says which, and why: @pytest.mark.breaks("room", why="...").
"""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.tools.session import database
from tests.tools.waiting import wait_until

INVARIANTS = {"sessions", "locks", "room", "counters", "limits", "outbox"}
IN_THE_DATABASE = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").encode()
# Seconds until a session counts as left behind.
PATIENCE = 20.0
# Asked from another database, in a session that knows its catalog already. For each the invariant, and a row.
LEFT = b"""
    SELECT 'sessions', to_jsonb(s) FROM (
        SELECT a.pid, a.usename, a.application_name, a.backend_type, a.state, a.wait_event, a.query
        FROM pg_stat_activity a WHERE a.datname = %(name)s AND a.pid <> pg_backend_pid()
            AND a.backend_type NOT IN ('autovacuum worker', 'pg_cron launcher')
    ) s
    UNION ALL SELECT 'locks', to_jsonb(l) FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = %(name)s)
    UNION ALL SELECT 'locks', to_jsonb(p) FROM pg_prepared_xacts p WHERE p.database = %(name)s
"""


def excused(node: Any) -> set[str]:
    """What a test, or a module, says that it breaks."""
    names = set()
    for marker in node.iter_markers("breaks"):
        if not INVARIANTS.issuperset(marker.args) or not marker.kwargs.get("why"):
            raise pytest.UsageError(f"{marker}: say which of {sorted(INVARIANTS)}, and why")
        names.update(marker.args)
    return names


def wait_for_the_end(admin: psycopg.Connection, name: str) -> list[Any]:
    """Wait until a database has no sessions and no locks any more. Returns what does not go."""
    found: list[Any] = []

    def gone() -> bool:
        found[:] = admin.execute(LEFT, {"name": name}).fetchall()
        return not found

    with suppress(AssertionError):
        wait_until(gone, PATIENCE)
    return found


def check(dsn: str, admin: psycopg.Connection, breaks: Collection[str] = ()) -> None:
    """Fail where an invariant of a database does not hold once its sessions have ended, but those that the test breaks.

    When this returns, no session is in the database, so it can be dropped at once: a DROP that meets one that is just
    about to end waits a tenth of a second.
    """
    name = database(dsn)
    broken = [f"{invariant}: left behind: {row}" for invariant, row in wait_for_the_end(admin, name)]
    if not broken:
        # Whatever the test has set for its database.
        with psycopg.connect(dsn, autocommit=True, options="-c search_path=pg_catalog -c lock_timeout=0") as connection:
            try:
                connection.execute(IN_THE_DATABASE)
            except psycopg.errors.RaiseException as error:
                broken = [
                    f"{found['invariant']}: {found['what']}: {json.dumps(found['row'])}"
                    for found in json.loads(error.diag.message_detail or "")
                ]
        wait_for_the_end(admin, name)
    broken = [line for line in broken if line.partition(":")[0] not in breaks]
    if broken:
        pytest.fail("\n".join(["in the test's database:", *broken[:20]]), pytrace=False)
