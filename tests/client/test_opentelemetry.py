"""Spans and metrics of OpenTelemetry, by its own SDK, whose exporters keep them in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import db_attributes, error_attributes
from opentelemetry.semconv.metrics.db_metrics import DB_CLIENT_OPERATION_DURATION
from opentelemetry.trace import SpanKind, StatusCode

from pgcache_py.adapters.opentelemetry import instrument, uninstrument
from pgcache_py.client import trace
from tests.client.proxy import Proxy

pytestmark = pytest.mark.once  # the clients
KNOWN = {
    value
    for module in (db_attributes, error_attributes, gen_ai_attributes)
    for value in vars(module).values()
    if isinstance(value, str)
}


class Heard:
    """What an application's OpenTelemetry has been told."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        instrument(tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def metric(self, name: str) -> Any:
        data = self.reader.get_metrics_data()
        assert data
        (scope,) = data.resource_metrics[0].scope_metrics
        return next(metric for metric in scope.metrics if metric.name == name)

    def counted(self, name: str, *labels: str) -> dict[tuple[Any, ...], int]:
        points = self.metric(name).data.data_points
        return {tuple(point.attributes[label] for label in labels): point.value for point in points}


@pytest.fixture
def heard() -> Iterator[Heard]:
    yield Heard()
    uninstrument()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_span_for_each_call(cache: Any, heard: Heard) -> None:
    cache.get("store", "user:secret")
    cache.set("store", "user:secret", {"password": "hunter2"})
    cache.get("store", "user:secret")
    cache.delete("store", "user:secret")
    cache.get_many("store", ["user:secret"])
    digest = sha256(b"user:secret").hexdigest()[:12]
    assert [(span.name, attributes(span).get("cache.result")) for span in heard.spans] == [
        ("cache get store", "miss"), ("cache set store", "set"), ("cache get store", "hit"),
        ("cache delete store", "cache_delete"), ("cache get_many_json", None),
    ]  # fmt: skip
    for span in heard.spans:
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        assert span.start_time
        assert span.end_time
        assert 0 < span.end_time - span.start_time < 60e9
        found = attributes(span)
        assert found["db.system.name"] == "postgresql"
        assert found["db.operation.name"].startswith("cache_")
        assert found.get("cache.key.hash") in (digest, None)
        assert {name for name in found if not name.startswith("cache.")} <= KNOWN
        assert "secret" not in span.to_json()
        assert "hunter2" not in span.to_json()


def test_it_is_the_child_of_what_the_program_does(cache: Any, heard: Heard) -> None:
    with heard.tracers.get_tracer("mine").start_as_current_span("request"):
        cache.get("store", "k")
    child, parent = heard.spans
    assert child.parent
    assert parent.context
    assert child.parent.span_id == parent.context.span_id
    assert child.instrumentation_scope
    assert child.instrumentation_scope.name == "pgcache"


def test_an_answer_of_a_model_says_whose_it_is(cache: Any, heard: Heard) -> None:
    cache.llm.set("prompt", "gpt-4o-mini", "answer", tokens_used=120, provider="openai")
    assert cache.llm.get("prompt", "gpt-4o-mini", provider="openai")
    cache.llm.get("another", "gpt-4o-mini")
    assert cache.llm.get_or_compute("prompt", "gpt-4o-mini", lambda: "never", provider="openai")["response"] == "answer"
    hit, miss, fetched = (attributes(span) for span in heard.spans[1:])
    for found in (hit, fetched):
        assert found["gen_ai.response.model"] == "gpt-4o-mini"
        assert found["gen_ai.provider.name"] == "openai"
        assert found["cache.tokens_saved"] == 120
        assert {name for name in found if not name.startswith("cache.")} <= KNOWN
        assert not [name for name in found if name.startswith("gen_ai.usage")]  # nothing was used
    assert not [name for name in miss if name.startswith("gen_ai")]
    assert heard.counted("cache.tokens_saved", "gen_ai.response.model") == {("gpt-4o-mini",): 240}


def test_metrics(cache: Any, heard: Heard) -> None:
    cache.set("store", "k", 1)
    for key in ("k", "k", "absent"):
        cache.get("store", key)
    cache.get_or_compute("store", "computed", lambda: 2)
    cache.get_or_compute("store", "computed", lambda: 3)
    assert heard.counted("cache.requests", "db.operation.name", "cache.result") == {
        ("cache_get", "hit"): 2, ("cache_get", "miss"): 1, ("client_fetch", "hit"): 1, ("client_fetch", "miss"): 1,
    }  # fmt: skip
    duration = heard.metric("db.client.operation.duration")
    assert (duration.name, duration.unit) == (DB_CLIENT_OPERATION_DURATION, "s")
    points = {point.attributes["db.operation.name"]: point for point in duration.data.data_points}
    assert points["cache_get"].count == 3
    assert 0 < points["cache_get"].sum < 30
    assert points["cache_get"].explicit_bounds[0] == 0.0001


@pytest.mark.parametrize("fail_soft", [False, True])
def test_failures(world: Any, dsn: str, proxy: Proxy, heard: Heard, fail_soft: bool) -> None:
    """In fail-soft mode, too, where the program does not see them."""
    cache = world.cache(proxy.dsn, fail_soft=fail_soft)
    cache.get("store", "k")
    with suppress(Exception):
        cache.get("no_such_type", "secret")
    proxy.refuse()
    proxy.cut()
    with suppress(Exception):
        cache.get("store", "secret")
    unknown, lost = heard.spans[1:]
    for span, error, state in ((unknown, "UnknownTypeError", "PC001"), (lost, "UnavailableError", None)):
        found = attributes(span)
        assert span.status.status_code is StatusCode.ERROR
        assert (found["error.type"], found.get("db.response.status_code")) == (error, state)
        assert "secret" not in span.to_json()
    assert heard.counted("cache.requests", "cache.result") == {("miss",): 1}


def test_once_and_no_more(cache: Any, heard: Heard) -> None:
    another = Heard()
    cache.get("store", "k")
    assert (len(heard.spans), len(another.spans)) == (0, 1)
    uninstrument()
    uninstrument()
    assert trace.listeners == []
    assert trace.began() == 0.0
    cache.get("store", "k")
    assert len(another.spans) == 1


def test_the_client_does_not_import_it(server: object) -> None:
    code = "import pgcache_py, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_the_package_it_says_what_to_do(server: object) -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
try:
    import pgcache_py.adapters.opentelemetry
except Exception as error:
    print(type(error).__name__, error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "PgcacheError pip install 'pgcache[opentelemetry]'\n"
