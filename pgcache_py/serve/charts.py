"""Where the bars and lines of a small chart stand. The template draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from ..readable import count, money, percent
from .figures import Row, hit_rate

WIDTH, HEIGHT = 360, 120
TOP, BOTTOM = 18, 18  # room for the largest value, and for the times
GAP = 0.25  # of a slot
FLOOR = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Slot:
    """An hour or a day, and what was recorded in it."""

    name: str
    row: Row | None


@dataclass(frozen=True)
class Bar:
    """One slot's: `parts` have a kind, and where they begin and how high they are. tip: the values as text."""

    x: float
    width: float
    tip: str
    parts: list[tuple[str, float, float]]


@dataclass(frozen=True)
class Chart:
    """key: what it is called in the document. most: the value at its top. lines: through x and y of neighbours."""

    key: str
    title: str
    summary: str
    most: str
    legend: Mapping[str, str]
    bars: list[Bar] = field(default_factory=list)
    lines: list[list[tuple[float, float]]] = field(default_factory=list)
    ticks: list[tuple[float, str, str]] = field(default_factory=list)


def hours(rows: Sequence[Row], now: datetime) -> list[Slot]:
    """The last 24, the present one included."""
    known = {row["begin"].astimezone(timezone.utc): row for row in rows}
    last = now.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)
    begins = [last - timedelta(hours=back) for back in range(23, -1, -1)]
    return [Slot(f"{begin.astimezone(now.tzinfo):%H:%M}", known.get(begin)) for begin in begins]


def days(rows: Sequence[Row], now: datetime) -> list[Slot]:
    """The last 30, today included."""
    known: dict[date, Row] = {row["begin"].date(): row for row in rows}
    begins = [now.date() - timedelta(days=back) for back in range(29, -1, -1)]
    return [Slot(f"{begin.day} {begin:%b}", known.get(begin)) for begin in begins]


def charts(slots: Sequence[Slot]) -> Iterator[Chart]:
    """What was recorded in these."""
    yield stacked("requests", "Requests", {"hits": "hits", "misses": "misses"}, slots, count)
    yield rates(slots)
    yield stacked("money", "Money saved", {"money_saved": "saved"}, slots, money)
    yield stacked("removed", "Removed", {"evicted": "evicted", "cleaned": "expired"}, slots, count)


def stacked(
    key: str, title: str, legend: Mapping[str, str], slots: Sequence[Slot], shown: Callable[[Decimal], str]
) -> Chart:
    """Bars of the values of these columns, one on the other."""
    recorded = [slot.row for slot in slots if slot.row]
    most = max((sum(row[column] for column in legend) for row in recorded), default=Decimal(0))
    step = WIDTH / len(slots)
    bars = []
    for place, slot in enumerate(slots):
        if slot.row is None:
            continue
        parts, y = [], float(FLOOR)
        for column in legend:
            height = float(slot.row[column] / most) * (FLOOR - TOP) if most else 0.0
            y -= height
            parts.append((column, y, height))
        values = ", ".join(f"{shown(slot.row[column])} {label}" for column, label in legend.items())
        bars.append(Bar((place + GAP / 2) * step, (1 - GAP) * step, f"{slot.name}: {values}", parts))
    sums = ", ".join(f"{shown(sum(row[column] for row in recorded))} {label}" for column, label in legend.items())
    return Chart(key, title, sums, shown(most), legend, bars=bars, ticks=ticks(slots))


def rates(slots: Sequence[Slot]) -> Chart:
    """A line, which is broken where nobody asked."""
    step = WIDTH / len(slots)
    lines: list[list[tuple[float, float]]] = [[]]
    bars = []
    found = [hit_rate(slot.row) if slot.row else None for slot in slots]
    for place, (slot, rate) in enumerate(zip(slots, found, strict=True)):
        if rate is None:
            lines.append([])
            continue
        lines[-1].append(((place + 0.5) * step, FLOOR - float(rate) * (FLOOR - TOP)))
        bars.append(Bar(place * step, step, f"{slot.name}: {percent(rate)}", []))
    known = [rate for rate in found if rate is not None]
    summary = f"from {percent(min(known))} to {percent(max(known))}" if known else "no requests"
    return Chart(
        "rates", "Hit rate", summary, "100 %", {}, bars=bars, lines=[line for line in lines if line], ticks=ticks(slots)
    )


def ticks(slots: Sequence[Slot]) -> list[tuple[float, str, str]]:
    """The first, a middle and the last slot's: x, where the text is anchored, the text."""
    middle = len(slots) // 2
    return [
        (0, "start", slots[0].name),
        ((middle + 0.5) * WIDTH / len(slots), "middle", slots[middle].name),
        (WIDTH, "end", slots[-1].name),
    ]


def recorded(slots: Sequence[Slot]) -> list[dict[str, Any]]:
    """The rows of the table beside the charts, the latest first."""
    return [{"name": slot.name, "hit_rate": hit_rate(slot.row), **slot.row} for slot in reversed(slots) if slot.row]
