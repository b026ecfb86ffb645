"""The statistics as metrics for Prometheus, by its own library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from .figures import Figures

# Of the columns of cache_stats: the metric, and what it is. Those that end in _total are counters.
OF_TYPES = {
    "valid": ("pgcache_entries", "Entries that have not expired."),
    "expired": ("pgcache_expired_entries", "Expired entries that wait for clean-up."),
    "bytes": ("pgcache_bytes", "Size of the entries."),
    "table_bytes": ("pgcache_table_bytes", "Size of the table with its index, TOAST and free space."),
    "max_entries": ("pgcache_max_entries", "Limit of the entries."),
    "max_bytes": ("pgcache_max_bytes", "Limit of the entries' size."),
    "enabled": ("pgcache_enabled", "Whether the type is enabled."),
    "hits": ("pgcache_hits_total", "Reads that found an entry."),
    "misses": ("pgcache_misses_total", "Reads that found none."),
    "evicted": ("pgcache_evicted_total", "Entries evicted to keep a limit."),
    "cleaned": ("pgcache_cleaned_total", "Expired entries that were removed."),
    "tokens_saved": ("pgcache_tokens_saved_total", "Tokens that hits saved."),
    "money_saved": ("pgcache_money_saved_usd_total", "US dollars that hits saved."),
}
QUANTILES = {"0.5": "p50_ms", "0.95": "p95_ms"}


class Exposed(Collector):
    """One look at the database, and how many requests this process has answered, by path and status."""

    def __init__(self, figures: Figures, requests: Mapping[tuple[str, int], int]) -> None:
        self.figures = figures
        self.requests = requests

    def collect(self) -> Iterator[Metric]:
        types = self.figures.types or []
        for column, (name, meaning) in OF_TYPES.items():
            yield family(name, meaning, ["type"], ([row["type"], row[column]] for row in types))
        yield family(
            "pgcache_latency_seconds", "How long gets and sets took on the server in the last hour.",
            ["type", "operation", "quantile"],
            (
                [row["type"], row["operation"], quantile, row[column] / 1000]
                for row in self.figures.latencies or []
                for quantile, column in QUANTILES.items()
            ),
        )  # fmt: skip
        checks = [check["status"] for check in (self.figures.health or [])[1:]]
        yield family(
            "pgcache_health_checks", "Checks of cache_health() by their status.",
            ["status"], ([status, checks.count(status)] for status in ("ok", "warning", "critical")),
        )  # fmt: skip
        jobs = self.figures.jobs or []
        yield family(
            "pgcache_job_overdue", "Whether a job of the upkeep is overdue.",
            ["job_name"], ([row["job_name"], row["overdue"]] for row in jobs),
        )  # fmt: skip
        yield family(
            "pgcache_job_last_run_timestamp_seconds", "When a job of the upkeep last ran.",
            ["job_name"], ([row["job_name"], row["last_run"] and row["last_run"].timestamp()] for row in jobs),
        )  # fmt: skip
        watches = [row["state"] for row in self.figures.watches or []]
        yield family(
            "pgcache_watches", "Watched tables by the state of their watch.",
            ["state"], ([state, watches.count(state)] for state in sorted({"ok", *watches})),
        )  # fmt: skip
        yield family(
            "pgcache_http_requests_total", "Requests answered.",
            ["path", "status"], ([path, str(status), count] for (path, status), count in sorted(self.requests.items())),
        )  # fmt: skip


def family(name: str, meaning: str, labels: Sequence[str], samples: Iterable[Sequence[object]]) -> Metric:
    """A metric whose samples are the values of its labels, and its own; those without one are left out."""
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    metric = kind(name, meaning, labels=labels)
    for *values, value in samples:
        if value is not None:
            metric.add_metric([str(text) for text in values], float(value))  # type: ignore[arg-type]
    return metric


def registry(figures: Figures, requests: Mapping[tuple[str, int], int]) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(Exposed(figures, requests))
    return found
