"""What all processes know: which versions are committed, what each of them did, and how often. In shared memory.

Nothing that a process which may be killed does here takes a lock.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import NamedTuple

FORK = multiprocessing.get_context("fork")
# How many versions are noted: one a write, be it rolled back.
VERSIONS = 1 << 22
# Of a row, the latest versions with the time of their commit; of a process, the latest events.
NOTES = 64
EVENTS = 1 << 13
EVENT = struct.Struct("<dqqii")
COUNTED = (
    "reads", "hits", "computed", "fills", "refused", "waits", "busy", "lost", "conflicts", "cut off", "stale", "begun",
    "committed", "older", "forks",
)  # fmt: skip
WHAT = (
    "began a transaction", "wrote", "invalidated", "committed", "rolled back", "was cut off in its COMMIT",
    "claimed the lease, number", "read from the source", "stored", "was refused", "lost the lease on purpose",
    "read from the cache", "waits for another one", "READ A STALE VALUE", "was killed", "rolled back to its savepoint",
)  # fmt: skip
CODES = {what: code for code, what in enumerate(WHAT)}


class Event(NamedTuple):
    at: float
    process: int
    row: int
    what: str
    version: int
    token: int


@dataclass(frozen=True)
class Stale:
    """A read that returned what it may not. expected: a version that was committed before it began."""

    who: str
    process: int
    row: int
    version: int
    expected: int
    began: float
    ended: float
    why: str


class History:
    """labels: the kinds of those who read and write; processes: how many there are."""

    def __init__(self, rows: int, processes: int, labels: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self.labels = list(labels)
        self._places = {label: place * len(COUNTED) for place, label in enumerate(labels)}
        self._size = len(labels) * len(COUNTED)
        self._committed = FORK.RawArray("q", rows)
        self._notes = [FORK.RawArray("q", 2 * NOTES) for _ in range(rows)]
        self._noted = FORK.RawArray("q", rows)
        self._lock = FORK.Lock()
        self.seen = FORK.RawArray("b", VERSIONS)
        self._counts = FORK.RawArray("q", processes * self._size)
        self._oldest = FORK.RawArray("d", processes * len(labels))
        self._events = [FORK.RawArray("b", EVENT.size * EVENTS) for _ in range(processes)]
        self._written = FORK.RawArray("q", processes)
        self._over = FORK.RawValue("b", 0)

    # The end.

    @property
    def over(self) -> bool:
        return bool(self._over.value)

    def end(self) -> None:
        self._over.value = 1

    # Committed versions. Writers are never killed, so they may lock.

    def note(self, row: int, version: int) -> None:
        """The COMMIT of this version has returned, or is known to have happened."""
        with self._lock:
            if version <= self._committed[row]:
                return
            place = 2 * (self._noted[row] % NOTES)
            self._notes[row][place] = version
            self._notes[row][place + 1] = int(monotonic() * 1e9)
            self._noted[row] += 1
            self._committed[row] = version

    def committed(self, row: int) -> int:
        """What a read that begins now must return at least."""
        return int(self._committed[row])

    def committed_before(self, row: int, moment: float) -> int:
        """The same, as of a moment; 0 where that is not known any more."""
        with self._lock:
            last = self._noted[row]
            for number in range(last - 1, max(-1, last - NOTES - 1), -1):
                place = 2 * (number % NOTES)
                if self._notes[row][place + 1] <= moment * 1e9:
                    return int(self._notes[row][place])
        return 0

    def replaced(self, row: int, version: int) -> float:
        """When the COMMIT of the version after this one had returned; infinite if none has, or that is not known."""
        moment = inf
        with self._lock:
            last = self._noted[row]
            for number in range(last - 1, max(-1, last - NOTES - 1), -1):
                place = 2 * (number % NOTES)
                if self._notes[row][place] <= version:
                    break
                moment = self._notes[row][place + 1] / 1e9
        return moment

    # What each does.

    def count(self, process: int, label: str, what: str, by: int = 1) -> None:
        self._counts[process * self._size + self._places[label] + COUNTED.index(what)] += by

    def total(self, label: str, what: str) -> int:
        place = self._places[label] + COUNTED.index(what)
        return sum(self._counts[place :: self._size])

    def was_old(self, process: int, label: str, age: float) -> None:
        """age: for how long, in seconds, what was read had been replaced when the read began."""
        place = process * len(self.labels) + self.labels.index(label)
        self._oldest[place] = max(self._oldest[place], age)

    def oldest(self, label: str) -> float:
        """The greatest of these ages; 0.0 if nothing was old."""
        return float(max(self._oldest[self.labels.index(label) :: len(self.labels)]))

    def log(self, process: int, what: str, row: int, version: int = 0, token: int = 0) -> None:
        place = self._written[process] % EVENTS
        EVENT.pack_into(self._events[process], place * EVENT.size, monotonic(), version, token, row, CODES[what])
        self._written[process] += 1

    def report(self, stale: Stale) -> None:
        """Note it in a file. Of each process the first few will do."""
        path = self.folder / f"stale-{os.getpid()}"
        if not path.exists() or path.stat().st_size < 100_000:
            with path.open("a") as file:
                file.write(json.dumps(asdict(stale)) + "\n")

    def fail(self, who: str, error: BaseException) -> None:
        """An error that nobody may get: the run is over."""
        with (self.folder / f"failed-{os.getpid()}").open("a") as file:
            file.write(f"{who}: {type(error).__name__}: {error}\n")
        self.end()

    # Afterwards.

    def stale(self) -> list[Stale]:
        lines = (line for path in self.folder.glob("stale-*") for line in path.read_text().splitlines())
        return sorted((Stale(**json.loads(line)) for line in lines), key=lambda stale: stale.ended)

    def failures(self) -> list[str]:
        return [line for path in self.folder.glob("failed-*") for line in path.read_text().splitlines()]

    def events(self, rows: Iterable[int]) -> list[Event]:
        """What is still known of these rows, in order."""
        wanted = set(rows)
        return sorted(event for event in self._all_events() if event.row in wanted)

    def _all_events(self) -> Iterator[Event]:
        for process, (events, written) in enumerate(zip(self._events, self._written, strict=True)):
            for place in range(min(written, EVENTS)):
                at, version, token, row, code = EVENT.unpack_from(events, place * EVENT.size)
                yield Event(at, process, row, WHAT[code], version, token)

    def seen_but_not(self, committed: Iterable[int]) -> list[int]:
        """The versions that were read from the cache and are none of these: nobody has committed them."""
        known = set(committed)
        data = bytes(self.seen)
        return [version for version in range(VERSIONS) if data[version] and version not in known]
