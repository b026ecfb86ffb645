"""What is evicted: requests replayed through cache_get and cache_set, against reference simulations."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue

from tests.bench import workloads
from tests.bench.harness import Result, Target, question, say
from tests.bench.machine import CORES, Bench, Database
from tests.bench.workloads import Answer

CAPACITIES = 0.01, 0.10, 0.25
LRU, SIEVE = "exact LRU, simulated", "SIEVE, simulated"
POLICIES = {
    "lru": "eviction => 'lru'",
    "lru, exact tracking": "eviction => 'lru', hit_tracking => 'exact'",
    "cost": "eviction => 'cost'",
    "fifo": "eviction => 'fifo'",
}
TYPICAL = Answer(bytes=700, tokens=1)
# What pgcache counts for a row besides its answer: see entry_size.
OVERHEAD = 96 + len("12345") + len("gpt-4o-mini") + 4 * 3

# Every request is a transaction of its own. The clock is the server's, and nobody but autovacuum vacuums.
REPLAY = """
    CREATE PROCEDURE replay(
        type text, keys text[], bytes integer[], tokens integer[], INOUT hits bigint, INOUT saved bigint
    )
    LANGUAGE plpgsql AS $$
    DECLARE
        filler constant text := repeat('x', 10000);
    BEGIN
        FOR n IN 1..cardinality(keys) LOOP
            IF pgcache.cache_get(type, keys[n]) IS NOT NULL THEN
                hits := hits + 1;
                saved := saved + tokens[n];
            ELSIF type = 'llm' THEN
                PERFORM pgcache.cache_set(type, keys[n], jsonb_build_object(
                    'response', left(filler, bytes[n]), 'model', 'gpt-4o-mini', 'tokens_used', tokens[n]));
            ELSE
                PERFORM pgcache.cache_set(type, keys[n], to_jsonb(left(filler, bytes[n])));
            END IF;
            COMMIT;
        END LOOP;
    END
    $$
"""
BATCH = 1000


@dataclass
class Replayed:
    """hits and saved: in all, so many requests and tokens. sizes: how many entries there were after each batch.
    heap: the table's bytes at the end."""

    hits: int = 0
    saved: int = 0
    sizes: list[int] = field(default_factory=list)
    heap: int = 0


def replay(database: Database, type: str, requests: Sequence[int], answers: Sequence[Answer] | None) -> Replayed:
    """answers: what each key stands for; None: all the same."""
    done = Replayed()
    relation = database.value("SELECT relation::text FROM pgcache_internal.types WHERE type = %s", type)
    for first in range(0, len(requests), BATCH):
        batch = requests[first : first + BATCH]
        stored = [answers[key] if answers else TYPICAL for key in batch]
        row = database.session.execute(
            "CALL replay(%s, %s, %s, %s, %s, %s)",
            (type, [str(key) for key in batch], [each.bytes for each in stored], [each.tokens for each in stored],
             done.hits, done.saved),
        ).fetchone()  # fmt: skip
        done.hits, done.saved = row or (0, 0)
        done.sizes.append(database.value(f"SELECT count(*) FROM {relation}"))
    done.heap = database.value("SELECT pg_relation_size(%s::regclass)", relation)
    return done


class Replayers:
    """A database for each core, so that as many sequences are replayed at a time: nothing is timed here."""

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        self.idle: SimpleQueue[Database] = SimpleQueue()
        for number in range(CORES):
            database = stack.enter_context(bench.database(f"replay_{number}"))
            database.run(REPLAY, "SET synchronous_commit = off")
            self.idle.put(database)
        self.pool = stack.enter_context(ThreadPoolExecutor(CORES))

    def limited_entries(self, requests: Sequence[int], limit: int, options: str) -> Future[Replayed]:
        """In a new type for JSON values."""

        def run() -> Replayed:
            database = self.idle.get()
            database.run(
                f"SELECT pgcache.cache_create_type('replayed', ttl => NULL, max_entries => {limit}, durable => false,"
                f" {options})"
            )
            done = replay(database, "replayed", requests, None)
            database.run("SELECT pgcache.cache_drop_type('replayed')")
            self.idle.put(database)
            return done

        return self.pool.submit(run)

    def limited_bytes(
        self, requests: Sequence[int], answers: Sequence[Answer], limit: int, policy: str
    ) -> Future[Replayed]:
        """In the type for answers of language models."""

        def run() -> Replayed:
            database = self.idle.get()
            database.run(
                f"SELECT pgcache.cache_configure('llm', max_bytes => {limit}, eviction => '{policy}', ttl => '1 year')"
            )
            done = replay(database, "llm", requests, answers)
            database.run("SELECT pgcache.cache_clear('llm')")
            self.idle.put(database)
            return done

        return self.pool.submit(run)


@question("eviction", "Hit ratio at a limit of entries")
def hit_ratio(bench: Bench) -> Iterable[Result]:
    with ExitStack() as stack:
        replayers = Replayers(bench, stack)
        for workload, requests in workloads.workloads(bench.quick).items():
            keys = len(set(requests))
            for share in CAPACITIES[bench.quick :]:
                limit = int(keys * share)
                replays = {
                    policy: replayers.limited_entries(requests, limit, options) for policy, options in POLICIES.items()
                }
                samples = {
                    LRU: [ratio(workloads.lru(requests, limit))],
                    SIEVE: [ratio(workloads.sieve(requests, limit))],
                }
                facts = {}
                for policy, future in replays.items():
                    done = future.result()
                    samples[policy] = [done.hits / len(requests)]
                    sizes = [size / limit for size in done.sizes]
                    facts[policy] = {
                        "peak / limit": max(sizes),
                        "mean / limit": statistics.mean(sizes),
                        "heap / entries, bytes": done.heap / done.sizes[-1],
                    }
                part = f"{workload}, {share:.0%} of {keys:,} keys"
                say(f"  {part}")
                yield Result(part, "hit ratio", samples, LRU, [Target("lru", at_least=1.0, of=LRU)], facts)


def ratio(hits: Iterable[bool]) -> float:
    outcomes = list(hits)
    return sum(outcomes) / len(outcomes)


@question("cost", "Tokens saved at a limit of bytes, by answers of very different cost")
def tokens_saved(bench: Bench) -> Iterable[Result]:
    requests, keys = (10_000, 2000) if bench.quick else (40_000, 10_000)
    sequence = workloads.zipf(requests, keys, 0.8)
    answers = workloads.answers(keys)
    asked = sum(answers[key].tokens for key in sequence)
    with ExitStack() as stack:
        replayers = Replayers(bench, stack)
        for share in CAPACITIES[bench.quick :]:
            limit = int(share * sum(answer.bytes + OVERHEAD for answer in answers))
            replays = {policy: replayers.limited_bytes(sequence, answers, limit, policy) for policy in ("lru", "cost")}
            hits = workloads.lru(sequence, limit, lambda key: answers[key].bytes + OVERHEAD)
            saved = sum(answers[key].tokens for key, hit in zip(sequence, hits, strict=True) if hit)
            samples, facts = {LRU: [saved / asked]}, {}
            for policy, future in replays.items():
                samples[policy] = [future.result().saved / asked]
                facts[policy] = {"hit ratio": future.result().hits / requests}
            part = f"{share:.0%} of the bytes"
            say(f"  {part}")
            yield Result(part, "of all tokens", samples, "lru", [Target("cost", at_least=1.0, of="lru")], facts)
