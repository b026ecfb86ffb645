"""What clients did and saw, and whether that can be.

Each value is written once, so that a read tells which write it saw. A write takes effect at one moment between the call
and its return (for a transaction: between its first statement and the return of its commit). A read from r0 to r1
through a tier of the bound B may return what was current at some moment from r0 - B to r1. So the value of a write W
is wrong if

- nobody wrote it, or its transaction was rolled back;
- W began after r1;
- it had expired: r0 is later than the return of W and its time to live, and that without any bound;
- it was certainly superseded before r0 - B: some write of the same key began after W had returned, and had itself
  returned before r0 - B.

Where two writes overlap, either may have been the last: that is given the benefit of the doubt, for as long as it
takes until a later write settles it. A miss is the value of a deletion, and of the beginning, when nothing was there;
and it may be that of an expiry. All times are of one clock, but Redis counts in milliseconds: that much is granted.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from dataclasses import dataclass
from math import inf
from typing import Any

ABSENT = None
TICK = 0.002


@dataclass(frozen=True)
class Write:
    """end: inf if it is not known whether and when it took effect. ttl: of the value."""

    key: str
    value: str | None
    start: float
    end: float
    ttl: float = inf


@dataclass(frozen=True)
class Read:
    who: str
    key: str
    value: str | None
    start: float
    end: float


class History:
    """Lists that threads append to, judged when all have ended."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.rolled_back: set[str] = set()
        self.errors: list[str] = []
        self._numbers = itertools.count(1)

    def new_value(self) -> str:
        return f"value {next(self._numbers)}"

    def wrote(self, key: str, value: str | None, start: float, end: float, ttl: float = inf) -> None:
        self.writes.append(Write(key, value, start, end, ttl))

    def read(self, who: str, key: str, value: Any, start: float, end: float) -> None:
        self.reads.append(Read(who, key, value, start, end))

    def violations(self, bound: float) -> list[str]:
        """What cannot be, in words."""
        by_key: defaultdict[str, list[Write]] = defaultdict(list)
        for write in self.writes:
            by_key[write.key].append(write)
        keys = {key: _Key(writes) for key, writes in by_key.items()}
        found = [f"raised: {error}" for error in self.errors]
        for read in self.reads:
            why = keys.get(read.key, _Key([])).wrong(read, bound)
            if why and read.value in self.rolled_back:
                why = "it was rolled back"
            if why:
                found.append(f"{read.who} read {read.value!r} of {read.key} at {read.start:.3f}: {why}")
        return found


class _Key:
    """The writes of a key."""

    def __init__(self, writes: list[Write]) -> None:
        writes = sorted([Write("", ABSENT, -inf, -inf), *writes], key=lambda write: write.end)
        self._by_value = {write.value: write for write in writes if write.value is not ABSENT}
        expiries = [Write("", ABSENT, write.start + write.ttl, write.end + write.ttl) for write in writes]
        self._absent = [write for write in (*writes, *expiries) if write.value is ABSENT and write.start < inf]
        self._ends = [write.end for write in writes]
        # The latest start of those that had ended by then.
        self._latest_starts = list(itertools.accumulate((write.start for write in writes), max))

    def wrong(self, read: Read, bound: float) -> str | None:
        if read.value is ABSENT:
            candidates = [write for write in self._absent if write.start <= read.end]
        elif read.value in self._by_value:
            candidates = [self._by_value[read.value]]
        else:
            return "nobody wrote that"
        if candidates[0].start > read.end:
            return "it was not yet written"
        if candidates[0].end + candidates[0].ttl < read.start - TICK:
            return "it had expired"
        place = bisect.bisect_left(self._ends, read.start - bound - TICK)
        settled = self._latest_starts[place - 1] if place else -inf
        newest = max(write.end for write in candidates)
        if settled <= newest:
            return None
        return f"superseded for {read.start - bound - self._superseded(newest):.3f} s longer than allowed"

    def _superseded(self, end: float) -> float:
        """When it was certain that what had returned by then was superseded."""
        return next(when for when, start in zip(self._ends, self._latest_starts, strict=True) if start > end)
