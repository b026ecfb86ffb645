"""A cache that has been at work for a month: what its statistics are made of."""

from __future__ import annotations

import json
import math

from tests.tools.session import Session

MODEL = "gpt-4o-mini"
# By type: requests in an hour, and how many of them hit.
TRAFFIC = {"llm": (420, 0.83), "embedding": (900, 0.94), "store": (260, 0.71), "sessions": (150, 0.97)}
TOP = ("What is a cache?", "How do I reset my password?", "What are your opening hours?", "Where is my order?")


def fill(ask: Session) -> None:
    """Entries, and hits of them, with what warns: a type near its limit, a watch that is broken."""
    ask("SELECT cache_create_type('sessions', ttl => '20 minutes', max_entries => 1000)")
    ask("SELECT cache_set_price(%s, input => 150, output => 600)", MODEL)
    ask("SELECT cache_configure('llm', max_entries => 20000, hit_tracking => 'exact')")
    sessions = {f"s{number}": {"user": number} for number in range(860)}
    users = {f"user:{number}": {"name": "Ada", "roles": ["admin"] * (number % 9)} for number in range(1200)}
    for type, entries in (("sessions", sessions), ("store", users)):
        ask("SELECT cache_set_many_json(%s, %s)", type, json.dumps(entries))
    ask("SELECT cache_set_llm(q, %s, repeat('An answer. ', 60), 240) FROM unnest(%s::text[]) q", MODEL, list(TOP))
    ask(
        "SELECT cache_set_llm('question ' || n, %s, repeat('Some answer. ', 9 + n %% 70), 180)"
        " FROM generate_series(1, 700) n", MODEL,
    )  # fmt: skip
    ask("SELECT cache_set_embedding('text ' || n, 'm', ARRAY[n, 1, 2]::vector) FROM generate_series(1, 300) n")
    for type in ("docs", "orders"):
        ask(f"CREATE TABLE public.{type} (id integer PRIMARY KEY, body text)")
        ask(f"SELECT cache_watch('public.{type}', tag => '{type}:{{id}}')")
    ask("ALTER TABLE orders DISABLE TRIGGER USER")


def month(ask: Session) -> None:
    """A month of requests: what was recorded every other day, and in the last two days by hour, up to an hour ago."""
    for back in (*range(24 * 29, 47, -48), *range(35, 0, -1)):
        ask("SELECT set_config('pgcache.clock', (statement_timestamp() - %s * interval '1 hour')::text, false)", back)
        hour = ask("SELECT extract(hour FROM pgcache_internal.cache_now() AT TIME ZONE 'UTC')::integer")
        busy = 48 if back > 47 else 0.35 + 0.65 * math.sin(math.pi * ((hour - 4) % 24) / 24) ** 2
        events = [("sessions", "evicted", 14 * busy), ("sessions", "expired", 33 * busy)]
        for number, (type, (requests, rate)) in enumerate(TRAFFIC.items()):
            asked = requests * busy * (1 + 0.12 * math.sin(back * (number + 2)))
            found = asked * (rate + 0.06 * math.sin(back / 3 + number))
            events += [(type, "hits", found), (type, "misses", asked - found)]
        ask(
            "SELECT pgcache_internal.count_events(e ->> 0, e ->> 1, round((e ->> 2)::numeric)::bigint)"
            " FROM jsonb_array_elements(%s) e",
            json.dumps(events),
        )
        ask_the_model(ask, 11 * busy if busy < 2 else 60)
        ask("SELECT pgcache_internal.take_snapshot()")
    ask("RESET pgcache.clock")
    latencies(ask)
    ask("CALL cache_upkeep()")
    # Since then.
    ask("SELECT pgcache_internal.count_events('store', 'hits', 231)")
    ask("SELECT pgcache_internal.count_events('store', 'misses', 57)")
    ask_the_model(ask, 9)


def ask_the_model(ask: Session, times: float) -> None:
    """What was asked before, the first question so many times."""
    ask(
        "SELECT cache_get_llm(q, %s) FROM unnest(%s::text[]) WITH ORDINALITY q (q, n),"
        " generate_series(1, (%s / n)::integer)", MODEL, list(TOP), times,
    )  # fmt: skip


def latencies(ask: Session) -> None:
    """What was timed in the last hour."""
    for type, operation, milliseconds in (("llm", "get", 0.21), ("llm", "set", 0.9), ("store", "get", 0.14)):
        ask(
            "INSERT INTO pgcache_internal.timings SELECT %s, %s, clock_timestamp() - n * interval '1 second',"
            " %s * (1 + n %% 7 / 4.0 + (n %% 40 = 0)::integer * 20) FROM generate_series(1, 400) n",
            type, operation, milliseconds,
        )  # fmt: skip
