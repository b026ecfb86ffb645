"""What a cache's statistics say at one time: the rows of the database's own views, as far as the role may see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]

# By what a link or a key names it.
PERIODS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "month": timedelta(days=30)}
COUNTS = ("hits", "misses", "evicted", "cleaned", "tokens_saved", "money_saved")
HISTORY = f"""
    SELECT date_trunc(%(unit)s, hour) AS begin, {", ".join(f"sum({name}) AS {name}" for name in COUNTS)}
    FROM pgcache.cache_stats_history
    WHERE hour >= date_trunc(%(unit)s, pgcache_internal.cache_now()) - %(before)s GROUP BY 1 ORDER BY 1
"""  # noqa: S608
# A role behind a wall may run the last two only.
QUERIES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "types": (
        "SELECT type, enabled, entries, valid, expired, max_entries, bytes, max_bytes, table_bytes, hits, misses,"
        " evicted, cleaned, tokens_saved, money_saved FROM pgcache.cache_stats ORDER BY type",
        {},
    ),
    "since": ("SELECT * FROM pgcache.cache_stats_since(VARIADIC %(periods)s)", {"periods": [*PERIODS.values()]}),
    "hours": (HISTORY, {"unit": "hour", "before": timedelta(hours=23)}),
    "days": (HISTORY, {"unit": "day", "before": timedelta(days=29)}),
    "health": ("SELECT * FROM pgcache.cache_health()", {}),
    "latencies": ("SELECT * FROM pgcache.cache_latency ORDER BY p95_ms DESC, type, operation", {}),
    "jobs": (
        "SELECT job_name, schedule, last_run, duration, outcome, removed, detail, overdue FROM pgcache.cache_jobs"
        " ORDER BY job_name",
        {},
    ),
    "watches": ("SELECT relation::text, tag, state, detail FROM pgcache.cache_watches ORDER BY state = 'ok', 1, 2", {}),
    "tenants": (
        "SELECT tenant, type, entries, bytes, hits, tokens_saved, money_saved FROM pgcache.cache_tenant_stats()"
        " WHERE entries > 0 OR hits > 0 ORDER BY bytes DESC, tenant, type LIMIT 20",
        {},
    ),
    "top": (
        "SELECT type, tenant, cache_key, hit_count, bytes FROM pgcache.cache_top WHERE hit_count > 0"
        " ORDER BY hit_count DESC, type, cache_key LIMIT 10",
        {},
    ),
}
WHERE = """
    SELECT current_database() AS database, current_user AS role, current_setting('server_version') AS server,
        pg_is_in_recovery() AS standby, pgcache_internal.cache_now() AS now
"""


@dataclass(frozen=True)
class Figures:
    """The rows of each of QUERIES by its name: None where the role may not see them.

    database, role and server: whose they are. now: the time that they are of.
    """

    database: str
    role: str
    server: str
    standby: bool
    now: datetime
    types: list[Row] | None = None
    since: list[Row] | None = None
    hours: list[Row] | None = None
    days: list[Row] | None = None
    health: list[Row] | None = None
    latencies: list[Row] | None = None
    jobs: list[Row] | None = None
    watches: list[Row] | None = None
    tenants: list[Row] | None = None
    top: list[Row] | None = None

    @property
    def walled(self) -> bool:
        """Whether the role may see some tenants only."""
        return self.types is None


async def look(connection: psycopg.AsyncConnection[Any], *names: str) -> Figures:
    """These figures, or all, as of one snapshot. Raises psycopg's error if there are none that the role may see."""
    found: dict[str, Any] = {}
    async with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        # A database's own search_path may begin with a schema in which others have made operators; psycopg reads no
        # intervals in another style.
        await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        await cursor.execute("SET LOCAL search_path TO pg_catalog, pg_temp")
        await cursor.execute("SET LOCAL intervalstyle TO postgres")
        await cursor.execute("SET LOCAL datestyle TO ISO")
        await cursor.execute(WHERE)
        (where,) = await cursor.fetchall()
        for name in names or QUERIES:
            query, parameters = QUERIES[name]
            if name == "tenants" and found["types"] is not None:
                continue  # they are for who may see nothing else
            try:
                async with connection.transaction():
                    await cursor.execute(query.encode(), parameters)
                    found[name] = await cursor.fetchall()
            except psycopg.errors.InsufficientPrivilege as error:
                found[name] = None
                refusal = error
        if all(rows is None for rows in found.values()):
            raise refusal
    return Figures(**where, **found)


def total(rows: Iterable[Mapping[str, Any]]) -> Row:
    """The sums of COUNTS over these rows, and the hit rate that they come to."""
    summed: Row = dict.fromkeys(COUNTS, Decimal(0))
    for row in rows:
        for name in COUNTS:
            summed[name] += row[name] or 0
    return summed | {"hit_rate": hit_rate(summed)}


def hit_rate(row: Mapping[str, Any]) -> Decimal | None:
    """As the views have it."""
    requests = row["hits"] + row["misses"]
    return round(Decimal(row["hits"]) / requests, 4) if requests else None
