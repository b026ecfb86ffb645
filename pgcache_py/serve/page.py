"""The page of statistics: HTML and SVG that need nothing else, and change by themselves where JavaScript runs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import readable
from ..version import __version__
from . import charts
from .figures import PERIODS, Figures, Row, total

HERE = Path(__file__).parent
STYLE, SCRIPT = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
LONGEST = 500
LONGEST_KEY = 96
TITLES = {"hour": "last hour", "day": "last day", "month": "last 30 days"}


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    # The page's own style and script, and its own address to look again.
    "Content-Security-Policy": f"default-src 'none'; style-src {_digest(STYLE)}; script-src {_digest(SCRIPT)};"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def statistics(figures: Figures, period: str) -> str:
    """The page. period: of PERIODS, what the figures of types and the charts are about."""
    slots = []
    if not figures.walled:
        by_day = period == "month"
        slots = (
            charts.days(figures.days or [], figures.now) if by_day else charts.hours(figures.hours or [], figures.now)
        )
    since = {name: [row for row in figures.since or [] if row["period"] == PERIODS[name]] for name in PERIODS}
    return _render(
        "statistics.html",
        figures=figures,
        period=period,
        columns=[
            *((TITLES[name], since[name], _earliest(since[name])) for name in PERIODS),
            ("ever", figures.types or [], None),
        ],
        counted={row["type"]: row for row in since[period]},
        since=_earliest(since[period]),
        charts=list(charts.charts(slots)) if slots else [],
        recorded=charts.recorded(slots),
        slots=slots,
    )


def trouble(content: Mapping[str, str]) -> str:
    """The page where there is nothing to show. content: as in the answers of other endpoints."""
    return _render("trouble.html", content=content)


def _earliest(rows: Sequence[Row]) -> Any:
    """From when on they count; None if it is from the beginning."""
    return min((row["since"] for row in rows if row["since"]), default=None)


def _used(row: Row) -> float | None:
    """How much of its tighter limit a type uses; None if it has none."""
    limits = ("entries", "max_entries"), ("bytes", "max_bytes")
    shares = [row[held] / row[most] for held, most in limits if row[most] and row[held] is not None]
    return max(shares, default=None)


def _shown_by(form: Callable[[Any], str]) -> Callable[[Any], Markup]:
    """A filter for numbers: what people read, with the value itself for programs."""

    def shown(value: Any) -> Markup:
        if value is None:
            return Markup('<span class="none">-</span>')
        exact = format(value, "f") if isinstance(value, Decimal) else str(value)
        return Markup('<data value="{}">{}</data>').format(exact, form(value))

    return shown


def _visible(value: Any) -> Any:
    """Whatever a template puts in: texts are strangers' unless they are markup already."""
    return readable.printable(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def _render(template: str, **values: Any) -> str:
    return _environment.get_template(template).render(version=__version__, titles=TITLES, **values)


_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    finalize=_visible,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals |= {
    "style": Markup(STYLE),  # noqa: S704
    "script": Markup(SCRIPT),  # noqa: S704
    "width": charts.WIDTH,
    "height": charts.HEIGHT,
    "floor": charts.FLOOR,
    "ceiling": charts.TOP,
    "total": total,
    "used": _used,
}
_environment.filters |= {
    "count": _shown_by(readable.count),
    "percent": _shown_by(readable.percent),
    "money": _shown_by(readable.money),
    "size": _shown_by(readable.size),
    "ms": _shown_by(lambda value: f"{value:.3g}" if value < 100 else f"{value:.0f}"),
    "seconds": _shown_by("{:.2f}".format),
    "key": lambda text: readable.printable(text, LONGEST_KEY),
}
