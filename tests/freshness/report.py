"""What a run prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.freshness import clients, readers, writers
from tests.freshness.history import Event, Stale
from tests.freshness.run import LABELS, Outcome

# Of a row's history, how much before and after the read is shown.
BEFORE = 60
AFTER = 5
READS = {
    "reads": "reads", "hits": "from the cache", "waits": "waited", "busy": "busy", "computed": "computed",
    "fills": "stored", "refused": "refused", "lost": "leases lost", "conflicts": "conflicts", "cut off": "cut off",
    "older": "older, within the bound", "stale": "stale", "forks": "forks",
}  # fmt: skip
WRITES = {"begun": "begun", "committed": "committed", "conflicts": "conflicts", "cut off": "cut off"}
NOTE = (
    "Readers and writers pause at random between their steps, most often for less than 3 ms: on a few cores the other"
    " processes would seldom come in between, as they do on many, or where a computation takes longer. A pause makes a"
    " race more frequent; it makes none that was not there."
)


def lines(outcome: Outcome) -> Iterator[str]:
    history = outcome.history
    yield f"seed {outcome.seed}, {outcome.seconds:.0f} s"
    yield ""
    yield from table("readers", [label for label in LABELS if label not in writers.LABELS], READS, outcome)
    yield ""
    yield from table("writers", writers.LABELS, WRITES, outcome)
    yield ""
    yield "meanwhile: " + ", ".join(f"{times:,} {what}" for what, times in outcome.troubles.items())
    yield NOTE
    yield from (f"not run: {why}" for why in outcome.not_run)
    yield ""
    for label in clients.BOUNDED:
        if oldest := history.oldest(label):
            age, bound = round(1000 * oldest), round(1000 * outcome.bound)
            yield f"{label} returned what had been replaced {age} ms before, of {bound} ms that it may"
    for label in readers.COMPARED:
        stale, hits = history.total(label, "stale"), history.total(label, "hits")
        if history.total(label, "reads"):
            yield f"{stale:,} of {hits:,} reads were stale with {label} ({stale / max(hits, 1):.2%})"
    yield from (f"ERROR {failure}" for failure in outcome.failures)
    if outcome.invented:
        yield f"{len(outcome.invented)} versions were read that nobody has committed: {outcome.invented[:10]}"
    yield from (f"AT REST {wrong}" for wrong in outcome.at_rest)
    if outcome.total("stale"):
        yield from story(outcome)
    if outcome.checked_at_rest:
        yield f"{len(outcome.at_rest)} of {outcome.checked_at_rest} entries were stale when all had ended"
    yield f"{outcome.total('stale'):,} of {outcome.total('hits'):,} reads were stale"


def table(title: str, labels: Sequence[str], columns: dict[str, str], outcome: Outcome) -> Iterator[str]:
    counts = {label: [outcome.history.total(label, what) for what in columns] for label in labels}
    counts = {label: counted for label, counted in counts.items() if any(counted)}
    cells = [[title, *columns.values()]]
    cells += [[label, *(f"{count:,}" for count in counted)] for label, counted in counts.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        yield "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])])


def story(outcome: Outcome) -> Iterator[str]:
    """What befell the row of the first stale read."""
    stale = next(stale for stale in outcome.stale if stale.who in outcome.judged)
    events = outcome.history.events([stale.row])
    place = next((n for n, event in enumerate(events) if is_it(event, stale)), len(events))
    yield f"{outcome.names[stale.process]}, {stale.who}, has read version {stale.version} of row {stale.row}"
    bound = f", and {1000 * outcome.bound:.0f} ms before that" if stale.who in clients.BOUNDED else ""
    yield f"though it should have been {stale.expected} at least, {stale.why}{bound}. Milliseconds before and after:"
    for event in events[max(0, place - BEFORE) : place + AFTER]:
        version = f" version {event.version}" if event.version else ""
        token = f" ({event.token})" if event.token else ""
        milliseconds = (event.at - stale.began) * 1000
        yield f"{milliseconds:+10.2f}  {outcome.names[event.process]:16} {event.what}{version}{token}"
    yield ""


def is_it(event: Event, stale: Stale) -> bool:
    return event.what.isupper() and event.process == stale.process and event.version == stale.version
