"""The metrics for Prometheus: its own parsers read them, and they say what the views say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read

from pgcache_py.serve.metrics import OF_TYPES
from tests.tools.served import Serve
from tests.tools.session import Session

UNITS = ("bytes", "seconds", "total", "usd")


def values(families: list[Metric]) -> dict[tuple[str, ...], float]:
    """By the name and the labels' values."""
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, *sample.labels.values()): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


@pytest.fixture
def busy(ask: Session) -> Session:
    ask("SELECT cache_create_type('sessions', max_entries => 100)")
    ask("SELECT cache_set_llm('p', 'm', 'answer', 50), cache_set_price('m', 2)")
    ask("SELECT cache_get_llm('p', 'm'), cache_get_llm('q', 'm')")
    ask("CREATE TABLE public.docs (id integer PRIMARY KEY)")
    ask("SELECT cache_watch('public.docs', tag => 'doc:{id}')")
    ask(
        "INSERT INTO pgcache_internal.timings SELECT 'store', 'get', clock_timestamp() - n * interval '1 s', n"
        " FROM generate_series(1, 40) n"
    )
    ask("CALL cache_upkeep()")
    return ask


def test_they_say_what_the_views_say(dsn: str, busy: Session, serve: Serve) -> None:
    client = serve(dsn)
    client.get("/healthz")
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found = values(list(read(answer.text)))
    expected: dict[tuple[str, ...], Any] = {("pgcache_http_requests_total", "/healthz", "200"): 1}
    for type, *row in busy.rows(f"SELECT type, {', '.join(OF_TYPES)} FROM cache_stats"):
        expected |= {(name, type): value for (name, _), value in zip(OF_TYPES.values(), row, strict=True)}
    for type, operation, *row in busy.rows("SELECT type, operation, p50_ms, p95_ms FROM cache_latency"):
        labels = {quantile: ("pgcache_latency_seconds", operation, quantile, type) for quantile in ("0.5", "0.95")}
        expected |= dict(zip(labels.values(), (value / 1000 for value in row), strict=True))
    for status in ("ok", "warning", "critical"):
        query = "SELECT count(*) FROM cache_health() WHERE status = %s AND check_name <> 'overall'"
        expected["pgcache_health_checks", status] = busy(query, status)
    for job, overdue, last in busy.rows("SELECT job_name, overdue, extract(epoch FROM last_run) FROM cache_jobs"):
        expected["pgcache_job_overdue", job] = overdue
        expected["pgcache_job_last_run_timestamp_seconds", job] = last
    expected["pgcache_watches", "ok"] = 1
    assert found == {name: pytest.approx(float(value)) for name, value in expected.items() if value is not None}
    assert found["pgcache_hits_total", "llm"] == found["pgcache_misses_total", "llm"] == 1
    assert found["pgcache_money_saved_usd_total", "llm"] == 0.0001


def test_the_newer_format_for_who_asks_for_it(dsn: str, busy: Session, serve: Serve) -> None:
    answer = serve(dsn).get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert values(list(read_openmetrics(answer.text)))["pgcache_hits_total", "llm"] == 1


def test_names_keep_the_rules_of_prometheus(dsn: str, busy: Session, serve: Serve) -> None:
    """Lower case and one prefix; counters end in _total, and no other does; base units, at the end."""
    for family in read(serve(dsn).get("/metrics").text):
        assert re.fullmatch(r"pgcache_[a-z]+(_[a-z]+)*", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent|count|sum|bucket)$", family.name)
        assert family.documentation.endswith(".")
        for unit in UNITS:
            assert f"_{unit}_" not in family.name
