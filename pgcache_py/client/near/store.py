"""What a process keeps of entries, and which of it may be returned."""

from __future__ import annotations

import marshal
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Final

from ...errors import InvalidSettingError
from ..calls import Place
from ..wire import MISS
from .calls import UNASKED, Nearby

# Of a suspended machine, too. Where there is no such clock, a process that was suspended may for an instant return what
# is older than max_staleness.
now = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic

# What an entry takes besides its value and its key, in bytes: the objects that hold it.
OVERHEAD = 500
# Values that nobody can change are returned as they are, others as copies.
UNCHANGING: Final = (str, int, float, bool, type(None), bytes)


@dataclass(frozen=True, slots=True)
class Near:
    """A near cache: entries of the types of cache_near_on that this process keeps.

    max_entries, max_bytes: what it holds at most; what was not read lately goes first. max_staleness: how old, in
    seconds, what it returns may be: a value was the current one at some moment within that time. From 0.05 to 10.
    """

    max_entries: int = 10_000
    max_bytes: int = 64 << 20
    max_staleness: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_entries", "max_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidSettingError(f"{name} is a positive whole number, not {value!r}")
        staleness: object = self.max_staleness
        if isinstance(staleness, bool) or not (isinstance(staleness, int | float) and 0.05 <= staleness <= 10):
            raise InvalidSettingError(
                f"max_staleness is a number of seconds from 0.05 to 10, not {self.max_staleness!r}"
            )


class Kept:
    """An entry. value: marshalled, if `copied`. reads: counts them, whatever threads do. seen: lately, for SIEVE."""

    __slots__ = ("copied", "expires", "reads", "reported", "seen", "size", "tenant", "value")

    def __init__(self, value: Any, expires: float, tenant: str, size: int, copied: bool) -> None:
        self.value = value
        self.expires = expires
        self.tenant = tenant
        self.size = size
        self.copied = copied
        self.reads = count()
        self.reported = 0
        self.seen = False

    def unreported(self) -> int:
        reads: int = self.reads.__reduce__()[1][0]  # type: ignore[assignment]
        found, self.reported = reads - self.reported, reads
        return found


class Load:
    """A value that is on its way. void: the entry has changed since it was asked for."""

    __slots__ = ("place", "void")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.void = False


class Store:
    """Entries by place. Any number of threads may read at once; what changes it takes a lock.

    Nothing is returned but while somebody vouches for it (vouch). What is loaded is kept only if nothing has voided it
    since it was asked for (begin, end). SIEVE decides what goes.
    """

    def __init__(self, near: Near) -> None:
        self.near = near
        self.types: frozenset[str] = frozenset()
        self.bytes = 0
        self._vouched_until = 0.0
        # By where they are; tenant None is that of the caller's session.
        self._entries: dict[tuple[str, str, str | None], Kept] = {}
        self._loads: dict[Place, list[Load]] = {}
        # What was read elsewhere lately, and before that: as many each as may be kept.
        self._wanted: set[tuple[str, str, str | None]] = set()
        self._wanted_before: set[tuple[str, str, str | None]] = set()
        self._unreported: dict[tuple[str, str, str], int] = {}
        self._hand: list[tuple[str, str, str | None]] = []  # keys that the hand has yet to look at, the next one last
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, tenant: str | None, type: str, key: str) -> Any:
        """A value of its own for who asks, or MISS."""
        # Before the look at the entries: what is vouched for afterwards may be another value, or none any more.
        until = self._vouched_until
        try:
            kept = self._entries.get((type, key, tenant))
        except TypeError:  # no text: the server says so
            return MISS
        if kept is None:
            return MISS
        moment = now()
        if moment >= until or moment >= kept.expires:
            return MISS
        next(kept.reads)
        kept.seen = True
        return marshal.loads(kept.value) if kept.copied else kept.value  # noqa: S302 (written by end)

    def read_many(self, tenant: str | None, type: str, keys: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
        """The values that there are, by key, and the keys that miss."""
        looked = [(key, self.read(tenant, type, key)) for key in keys]
        found = {key: value for key, value in looked if value is not MISS}
        return found, [key for key, value in looked if value is MISS]

    def vouches(self, type: str) -> bool:
        """Whether entries of a type may be kept and returned now."""
        return type in self.types and now() < self._vouched_until

    def want(self, tenant: str | None, type: str, key: str) -> None:
        """An entry was read elsewhere that might be kept here: the next one who reads it is to load it."""
        if type in self.types:
            if len(self._wanted) >= self.near.max_entries:
                self._wanted, self._wanted_before = set(), self._wanted
            self._wanted.add((type, key, tenant))

    def wanted(self, tenant: str | None, type: str, key: str) -> bool:
        """Whether an entry that is not kept is to be loaded."""
        place = type, key, tenant
        return self.vouches(type) and (place in self._wanted or place in self._wanted_before)

    def begin(self, tenant: str | None, type: str, keys: Sequence[str]) -> list[Load]:
        """Before values are asked for; none if they would not be kept."""
        if not self.vouches(type):
            return []
        loads = [Load(Place(type, key, tenant)) for key in keys]
        with self._lock:
            for load in loads:
                self._loads.setdefault(load.place, []).append(load)
        return loads

    def end(self, loads: Iterable[Load], answers: Mapping[str, Nearby], asked_at: float) -> None:
        """The answers have come, by key, to a question that was asked at that moment; to what has none there is none.

        To be called for whatever has begun.
        """
        for load in loads:
            self._end(load, answers.get(load.place.key, UNASKED), asked_at)

    def _end(self, load: Load, found: Nearby, asked_at: float) -> None:
        place, value, size = load.place, found.value, 0
        copied = not isinstance(value, UNCHANGING)
        keepable = found.keepable and value is not MISS
        if keepable:
            value = marshal.dumps(value) if copied else value
            size = OVERHEAD + len(place.key) + (len(value) if isinstance(value, bytes | str) else 0)
        with self._lock:
            others = self._loads[place]
            others.remove(load)
            if not others:
                del self._loads[place]
            if not keepable or load.void or size > self.near.max_bytes // 8:
                return
            self._remove(place)
            self._entries[place] = Kept(value, asked_at + found.ttl, found.tenant, size, copied)
            self.bytes += size
            while len(self._entries) > self.near.max_entries or self.bytes > self.near.max_bytes:
                self._evict()

    def changed(self, type: str, key: str, tenants: Iterable[str | None]) -> None:
        """An entry has changed: of these tenants, whichever way callers name them."""
        with self._lock:
            for tenant in tenants:
                self._remove(place := Place(type, key, tenant))
                for load in self._loads.get(place, ()):
                    load.void = True

    def clear(self, type: str | None = None) -> None:
        """All entries of a type have changed, or all."""
        with self._lock:
            for place in [place for place in self._entries if type in (None, place[0])]:
                self._remove(place)
            for place, loads in self._loads.items():
                if type in (None, place.type):
                    for load in loads:
                        load.void = True

    def vouch(self, types: Iterable[str], asked_at: float) -> None:
        """All that was committed before asked_at has been taken note of."""
        self.types = frozenset(types)
        self._vouched_until = asked_at + self.near.max_staleness

    def take_reads(self) -> dict[tuple[str, str], dict[str, int]]:
        """By tenant and type, how often entries were read since this was asked the last time."""
        with self._lock:
            for place, kept in self._entries.items():
                if kept.seen:
                    self._count(place, kept)
            found, self._unreported = self._unreported, {}
        grouped: dict[tuple[str, str], dict[str, int]] = {}
        for (tenant, type, key), reads in found.items():
            grouped.setdefault((tenant, type), {})[key] = reads
        return grouped

    def _remove(self, place: tuple[str, str, str | None]) -> None:
        kept = self._entries.pop(place, None)
        if kept is not None:
            self.bytes -= kept.size
            self._count(place, kept)

    def _count(self, place: tuple[str, str, str | None], kept: Kept) -> None:
        """Note the reads of an entry that nobody was told of."""
        if reads := kept.unreported():
            type, key, _ = place
            whose = kept.tenant, type, key
            self._unreported[whose] = self._unreported.get(whose, 0) + reads

    def _evict(self) -> None:
        """SIEVE (Zhang and others, NSDI 2024).

        The hand goes from the oldest entry on, spares what was read since it was there, and takes the first other one.
        """
        while True:
            if not self._hand:
                self._hand = list(reversed(self._entries))
            place = self._hand.pop()
            kept = self._entries.get(place)
            if kept is None:
                continue
            if not kept.seen:
                self._remove(place)
                return
            kept.seen = False
