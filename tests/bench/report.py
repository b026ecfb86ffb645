"""What comes out: a table for people, a plot for each question, JSON for programs; all of it in .state/bench."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pgcache_py.cli import show
from tests.bench.harness import Question, Result
from tests.bench.machine import HOME

Answers = Mapping[Question, Sequence[Result]]
COLUMNS = ["arm", "median", "ratio (quartiles)", "counted per call", "target"]
WIDTH = 180
FACTS = {
    "xids": "xids",
    "wal_bytes": "B WAL",
    "peak / limit": "x limit at most",
    "mean / limit": "on average",
    "hit ratio": "hit ratio",
    "seconds": "s",
}


def figure(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


Cells = list[str]


def parts(answers: Answers) -> Iterator[tuple[str, list[Cells]]]:
    """The table: for each part of a question its heading, and a row for each arm."""
    for question, results in answers.items():
        for result in results:
            absent = [[arm, f"not run: {why}", "", "", ""] for arm, why in result.not_run.items()]
            yield f"{question.name}: {result.part}", [arm_cells(result, arm) for arm in result.samples] + absent


def arm_cells(result: Result, arm: str) -> Cells:
    value = f"{figure(result.value(arm).median)} {result.unit}"
    ratio = ""
    if result.reference and arm != result.reference:
        low, median, high = result.ratio(arm, result.reference)
        ratio = f"{median:.2f} ({low:.2f} - {high:.2f})" if len(result.samples[arm]) > 1 else f"{median:.2f}"
    facts = result.facts.get(arm, {})
    counted = ", ".join(f"{figure(facts[name])} {label}" for name, label in FACTS.items() if name in facts)
    verdicts = []
    for target in result.targets:
        if target.arm == arm:
            found = result.judged(target)
            verdicts.append(f"{'met' if target.met(found) else 'MISSED'}: {found:.3g} {target}")
    return [arm, value, ratio, counted, "; ".join(verdicts)]


def print_table(answers: Answers) -> None:
    if show.RICH:
        from rich.console import Console
        from rich.table import Table

        table = Table(*COLUMNS, header_style="bold", border_style="dim")
        for heading, rows in parts(answers):
            table.add_section()
            table.add_row(heading, style="bold")
            for row in rows:
                table.add_row(*row, style="red" if "MISSED" in row[-1] else "")
        # Not cut to the terminal's width: what does not fit there is read in a file.
        Console(width=WIDTH, highlight=False).print(table, soft_wrap=True)
    else:
        print(markdown(answers))
    results = [result for each in answers.values() for result in each]
    met = [target.met(result.judged(target)) for result in results for target in result.targets]
    show.line(f"{sum(met)} of {len(met)} targets met", style="bold")


def markdown(answers: Answers) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    for heading, rows in parts(answers):
        lines += [[f"**{heading}**", *[""] * (len(COLUMNS) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(answers: Answers, about: Mapping[str, Any]) -> Path:
    """Store everything in a folder of its own."""
    folder = HOME / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    results = {question.name: [as_json(result) for result in each] for question, each in answers.items()}
    (folder / "results.json").write_text(json.dumps({"about": about, "results": results}, indent=1, ensure_ascii=False))
    (folder / "table.md").write_text(markdown(answers))
    for question, each in answers.items():
        if each:
            plot(question, each, folder / f"{question.name}.svg")
    return folder


def as_json(result: Result) -> dict[str, Any]:
    judged = [
        {**asdict(target), "value": result.judged(target), "met": target.met(result.judged(target))}
        for target in result.targets
    ]
    spreads = {arm: result.value(arm)._asdict() for arm in result.samples}
    ratios = {arm: result.ratio(arm, result.reference)._asdict() for arm in result.samples} if result.reference else {}
    return {**asdict(result), "values": spreads, "ratios": ratios, "targets": judged}


def plot(question: Question, results: Sequence[Result], path: Path) -> None:
    """One chart for each unit, below each other."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    units = list(dict.fromkeys(result.unit for result in results))
    figure, axes = pyplot.subplots(len(units), 1, figsize=(10, 4.5 * len(units)), squeeze=False, layout="constrained")
    for axis, unit in zip(axes[:, 0], units, strict=True):
        of_unit = [result for result in results if result.unit == unit]
        (lines if question.chart == "time" else bars)(axis, of_unit)
        axis.set_ylabel(unit)
        axis.grid(axis="y", alpha=0.3)
        axis.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(question.title)
    figure.savefig(path)
    pyplot.close(figure)


def bars(axis: Any, results: Sequence[Result]) -> None:
    """Groups of bars: a group for each part, a bar for each arm, from quartile to quartile a line."""
    arms = list(dict.fromkeys(arm for result in results for arm in result.samples))
    width = 0.8 / len(arms)
    medians = []
    for number, arm in enumerate(arms):
        present = [(place, result.value(arm)) for place, result in enumerate(results) if arm in result.samples]
        places = [place + (number + 0.5) * width - 0.4 for place, _ in present]
        heights = [spread.median for _, spread in present]
        errors = [[s.median - s.low for _, s in present], [s.high - s.median for _, s in present]]
        axis.bar(places, heights, width, yerr=errors, label=arm, error_kw={"elinewidth": 1})
        medians += [height for height in heights if height > 0]
    if medians and max(medians) > 30 * min(medians):
        axis.set_yscale("log")
    slant = {"rotation": 20, "ha": "right"} if len(results) > 3 else {}
    axis.set_xticks(range(len(results)), [result.part for result in results], **slant)


def lines(axis: Any, results: Sequence[Result]) -> None:
    for result in results:
        for arm, values in result.samples.items():
            axis.plot(range(1, len(values) + 1), values, marker=".", label=arm)
    axis.set_xlabel("round")
    axis.set_ylim(bottom=0)
