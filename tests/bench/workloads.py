"""Sequences of requests, and reference simulations of what other caches would make of them."""

from __future__ import annotations

import lzma
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy

# Given out beside the project, not part of it.
TRACE = Path(__file__).parents[3] / "shared" / "data" / "web07.trace.xz"
SEED = 20_240


def zipf(requests: int, keys: int, exponent: float = 1.0, seed: int = SEED) -> list[int]:
    """Numbers from 0: the n-th most popular key is asked for in proportion to 1 / n ** exponent."""
    weights = 1 / numpy.arange(1, keys + 1) ** exponent
    popular = numpy.random.default_rng(seed).permutation(keys)
    chosen = numpy.random.default_rng(seed + 1).choice(keys, requests, p=weights / weights.sum())
    return [int(key) for key in popular[chosen]]


def scan_polluted(requests: int, keys: int) -> list[int]:
    """Zipf, and in every 10,000 requests a run of 2,000 keys that are asked for this once."""
    regular = iter(zipf(requests, keys, 0.9))
    return [keys + number if number % 10_000 >= 8000 else next(regular) for number in range(requests)]


def shifting(requests: int, keys: int) -> list[int]:
    """Zipf, but every 10,000 requests other keys are the popular ones."""
    parts = (zipf(10_000, keys, 1.0, SEED + start) for start in range(0, requests, 10_000))
    return [key for part in parts for key in part][:requests]


def web07() -> list[int]:
    return [int(key) for key in numpy.frombuffer(lzma.decompress(TRACE.read_bytes()), ">i4")]


def workloads(quick: bool) -> dict[str, list[int]]:
    requests, keys = (20_000, 4000) if quick else (80_000, 20_000)
    makers: dict[str, Callable[[], list[int]]] = {
        "zipf": partial(zipf, requests, keys, 0.9),
        "scan-polluted": partial(scan_polluted, requests, keys),
        "shifting": partial(shifting, requests, keys),
    }
    if TRACE.exists():
        makers = {"web07": (lambda: web07()[:requests]) if quick else web07, **makers}
    return {name: make() for name, make in makers.items()}


@dataclass(frozen=True)
class Answer:
    """An answer of a language model. bytes: its length, which says little about what it cost."""

    bytes: int
    tokens: int


def answers(keys: int) -> list[Answer]:
    """Most are cheap; a few, with long prompts or much reasoning, cost a hundred times as much."""
    random = numpy.random.default_rng(SEED)
    sizes = random.integers(200, 1600, keys)
    tokens = numpy.minimum(random.lognormal(6, 1.5, keys), 100_000)
    return [Answer(int(size), int(cost) + 1) for size, cost in zip(sizes, tokens, strict=True)]


# Reference simulations: for each request, whether it is a hit.


def lru(requests: Iterable[int], capacity: float, size: Callable[[int], int] = lambda key: 1) -> Iterator[bool]:
    """Exact LRU. size: of an entry, in the capacity's unit."""
    cached: OrderedDict[int, int] = OrderedDict()
    used = 0
    for key in requests:
        hit = key in cached
        if hit:
            cached.move_to_end(key)
        else:
            cached[key] = size(key)
            used += cached[key]
            while used > capacity:
                used -= cached.popitem(last=False)[1]
        yield hit


def sieve(requests: Sequence[int], capacity: int) -> Iterator[bool]:
    """SIEVE (Zhang et al., NSDI 2024): a queue, a visited mark for each entry, and a hand that passes over the marked.

    The queue is a list linked both ways, newest first, through the entry None.
    """
    newer: dict[int | None, int | None] = {None: None}
    older: dict[int | None, int | None] = {None: None}
    visited: dict[int, bool] = {}
    hand: int | None = None
    for key in requests:
        hit = key in visited
        if hit:
            visited[key] = True
        else:
            if len(visited) >= capacity:
                hand = newer[None] if hand is None else hand
                while hand is None or visited[hand]:
                    if hand is not None:
                        visited[hand] = False
                    hand = newer[hand]
                before, after = newer[hand], older[hand]
                older[before], newer[after] = after, before
                del visited[hand], newer[hand], older[hand]
                hand = before
            head = older[None]
            older[None], newer[key], older[key], newer[head] = key, None, head, key
            visited[key] = False
        yield hit
