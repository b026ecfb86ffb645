"""Values as people read them: counts, shares, money, sizes, times, and texts of strangers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

NONE = "-"


def count(number: int | Decimal | None) -> str:
    return NONE if number is None else f"{int(number):,}"


def percent(share: Decimal | float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f} %"


def money(dollars: Decimal | None) -> str:
    if dollars is None:
        return NONE
    return f"${dollars:,.2f}" if dollars == 0 or dollars >= 1 else f"${dollars:.4f}"


def size(number: int | Decimal | None) -> str:
    """Bytes in the unit that suits them."""
    if number is None:
        return NONE
    rest = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if rest < 1000:
            return f"{rest:.0f} {unit}" if unit == "B" or rest >= 100 else f"{rest:.1f} {unit}"
        rest /= 1024
    return f"{rest:.1f} TB"


def span(time_to_live: timedelta | None) -> str:
    if time_to_live is None:
        return "never"
    seconds = time_to_live.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def ago(moment: datetime | None) -> str:
    if moment is None:
        return "never"
    seconds = (datetime.now(timezone.utc) - moment).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def printable(text: str, longest: int) -> str:
    """In one line of so many characters at most; what cannot be seen, or turns the line round, is \\x1b or the like."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:longest])
    return shown if max(len(shown), len(text)) <= longest else shown[: longest - 3] + "..."
