"""How things are measured: arms in turn, round by round, each compared with another of the same round.

Whatever else the machine does meanwhile then slows both sides of a ratio, and a median over the rounds forgets the
rounds in which it slowed only one.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from tests.bench.machine import Bench

Facts = Mapping[str, float]


class Sample(NamedTuple):
    """What one run of an arm yields. calls: how many calls it made, by which facts are divided."""

    value: float
    calls: int = 1


Arm = Callable[[], Sample]


class Spread(NamedTuple):
    """A median between its quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True)
class Target:
    """What is asked of an arm: a bound of its ratio to another arm or, without that, of its value."""

    arm: str
    at_least: float | None = None
    at_most: float | None = None
    of: str | None = None

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        return f"{bound} x {self.of}" if self.of else bound

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass
class Result:
    """The arms of one part of a question. samples: by arm, a value for each round.

    reference: the arm that ratios are printed to. facts: by arm, what was counted rather than timed, per call.
    not_run: by arm, why not.
    """

    part: str
    unit: str
    samples: dict[str, list[float]]
    reference: str | None = None
    targets: Sequence[Target] = ()
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    not_run: Mapping[str, str] = field(default_factory=dict)

    def value(self, arm: str) -> Spread:
        return Spread.of(self.samples[arm])

    def ratio(self, arm: str, of: str) -> Spread:
        pairs = zip(self.samples[arm], self.samples[of], strict=True)
        return Spread.of([a / b if b else float("inf") for a, b in pairs])

    def judged(self, target: Target) -> float:
        """The figure that a target is about."""
        return (self.ratio(target.arm, target.of) if target.of else self.value(target.arm)).median


def compare(
    part: str,
    unit: str,
    arms: Mapping[str, Arm],
    *,
    rounds: int,
    reference: str | None = None,
    targets: Sequence[Target] = (),
    count: Callable[[], Facts] | None = None,
    settle: Callable[[], None] = lambda: None,
    warm_up: bool = True,
    not_run: Mapping[str, str] | None = None,
) -> Result:
    """Run the arms in turn: forwards in one round, backwards in the next, so that a drift favours none.

    count: reads counters, such as transaction ids used; what each arm adds to them goes into its facts. settle: what
    to do between the warm-up and the first round.
    """
    result = Result(part, unit, {name: [] for name in arms}, reference, targets, not_run=not_run or {})
    if warm_up:
        for arm in arms.values():
            arm()
    settle()
    calls = dict.fromkeys(arms, 0)
    forwards = list(arms)
    for number in range(rounds):
        for name in forwards if number % 2 == 0 else forwards[::-1]:
            before = count() if count else {}
            sample = arms[name]()
            after = count() if count else {}
            result.samples[name].append(sample.value)
            calls[name] += sample.calls
            facts = result.facts.setdefault(name, {})
            for fact, now in after.items():
                facts[fact] = facts.get(fact, 0) + now - before[fact]
        say(f"  {part}: round {number + 1} of {rounds}", last=number == rounds - 1)
    for name, facts in result.facts.items():
        result.facts[name] = {fact: total / max(calls[name], 1) for fact, total in facts.items()}
    return result


def say(text: str, *, last: bool = True) -> None:
    """Progress, on a line that the next one replaces if this is a terminal and not the last."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
    elif last:
        print(text, file=sys.stderr, flush=True)


Ask = Callable[["Bench"], Iterable[Result]]


@dataclass(frozen=True)
class Question:
    """chart: the medians as bars, or the rounds as a line over time."""

    name: str
    title: str
    ask: Ask
    chart: Literal["bars", "time"] = "bars"


def question(name: str, title: str, chart: Literal["bars", "time"] = "bars") -> Callable[[Ask], Question]:
    """Makes a question of the function that answers it."""
    return lambda ask: Question(name, title, ask, chart)
