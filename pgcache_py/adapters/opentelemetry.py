"""Spans and metrics of the clients' calls for OpenTelemetry: `instrument()`, once, where the program sets it up.

Names are those of its semantic conventions (db.*, gen_ai.*, error.type), and cache.* where these have none. A key is
there as a hash, as in the log; values, prompts and messages of errors are not.
"""

from __future__ import annotations

from time import time_ns
from typing import Any

from ..client.trace import Done, listeners
from ..errors import PgcacheError

try:
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer
except ImportError as error:
    raise PgcacheError(
        f"OpenTelemetry is not installed: {error.name}", hint="pip install 'pgcache[opentelemetry]'"
    ) from error

SCOPE = "pgcache"
# Seconds: a get of this process' own server takes a tenth of a millisecond.
BOUNDARIES = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10]
SYSTEMS = {"PostgreSQL": "postgresql", "Redis": "redis"}
# What became of a read, of which the log says more. Who waits for another (busy, failed) asks again.
READ = {"hit": "hit", "fresh": "hit", "stale": "hit", "miss": "miss", "won": "miss", "stale_won": "miss"}


class Telemetry:
    """Makes a span of each call that is over, and counts it."""

    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        self.tracer = get_tracer(SCOPE, tracer_provider=tracer_provider)
        meter = get_meter(SCOPE, meter_provider=meter_provider)
        self.duration = meter.create_histogram(
            "db.client.operation.duration", "s", "Duration of calls.", explicit_bucket_boundaries_advisory=BOUNDARIES
        )
        self.requests = meter.create_counter("cache.requests", "{request}", "Reads of one entry, by cache.result.")
        self.tokens = meter.create_counter("cache.tokens_saved", "{token}", "Tokens of the answers that hits returned.")

    def __call__(self, done: Done) -> None:
        common: dict[str, Any] = {"db.system.name": SYSTEMS[done.where], "db.operation.name": done.call}
        if done.place is not None:
            common["cache.type"] = done.place.type
        if done.error is not None:
            common["error.type"] = type(done.error).__qualname__
        self.duration.record(done.seconds, common)
        model = self._count(done, common)
        now = time_ns()
        span = self.tracer.start_span(
            " ".join(["cache", done.call.removeprefix("cache_"), *([done.place.type] if done.place else [])]),
            kind=SpanKind.CLIENT,
            start_time=now - int(done.seconds * 1e9),
        )
        if span.is_recording():
            span.set_attributes({**common, **model})
            if done.place is not None:
                span.set_attributes({"cache.result": done.what, "cache.key.hash": done.digest or ""})
            if done.error is not None:
                if sqlstate := getattr(done.error, "sqlstate", None):
                    span.set_attribute("db.response.status_code", sqlstate)
                span.set_status(Status(StatusCode.ERROR))
        span.end(now)

    def _count(self, done: Done, common: dict[str, Any]) -> dict[str, Any]:
        """Counts a read; returns what is known of the model whose answer it returned."""
        found = READ.get(done.what)
        if found is None or done.place is None:
            return {}
        self.requests.add(1, {**common, "cache.result": found})
        if found == "miss" or not isinstance(done.value, dict) or not isinstance(done.value.get("model"), str):
            return {}
        # The usage of an answer from the cache is none, so what it once cost is no gen_ai.usage.
        saved = done.value.get("tokens_used")
        model = {"gen_ai.response.model": done.value["model"]}
        if isinstance(provider := done.value.get("provider"), str):
            model["gen_ai.provider.name"] = provider
        if not isinstance(saved, int):
            return model
        self.tokens.add(saved, {"cache.type": done.place.type, **model})
        return {**model, "cache.tokens_saved": saved}


def instrument(*, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None) -> None:
    """Tell OpenTelemetry of all calls of all clients in this process, in place of whom an earlier call named.

    Without providers the global ones are used.
    """
    uninstrument()
    listeners.append(Telemetry(tracer_provider, meter_provider))


def uninstrument() -> None:
    """Tell it no more."""
    listeners[:] = [listener for listener in listeners if not isinstance(listener, Telemetry)]
