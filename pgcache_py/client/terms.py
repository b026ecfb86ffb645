"""On what terms a value is computed: what it depends on, how old it may be, how long that may take."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from ..errors import InvalidValueError
from . import wire
from .calls import as_it_is
from .failsoft import check_timeout
from .wire import TTL

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Tags: TypeAlias = Iterable[str]

# How long a lease is, in seconds: the time that a holder costs who dies. Who knows that it may take longer says so with
# hard_timeout; and who has waited for others in vain claims one twice as long as that.
LEASE = 30.0
LONGEST_LEASE = 3600.0
# After a computation has failed, and an expired value is used instead: when the next one may try, in seconds.
THROTTLE = 30.0
# For how many others one waits, if they all fail or cannot store what they compute.
TURNS = 3
# How long one waits, in seconds, if nobody is seen to compute: another transaction has the lease, or deletes the entry.
NOBODY = 5.0
# How long nobody asks for a lease after that was refused, as it is to a role that may only read, in seconds.
REFUSED = 5.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What `fetch` returns. value: None in the states won and busy. token: for `set` or `release`, of who computes.

    state: fresh; stale: it has expired, and another one computes it; won: there is none, compute it; stale_won: the
    same, and meanwhile there is this one; busy: another one still computes it.
    """

    value: Any
    state: Literal["fresh", "stale", "won", "stale_won", "busy"]
    token: int | None


@dataclass(frozen=True, slots=True)
class Computed(Generic[T_co]):
    """What a computation may return, for it to say how long the value lives and what it depends on.

    ttl: instead of that of the call. tags: besides those of the call.
    """

    value: T_co
    ttl: TTL = None
    tags: Tags = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tags_of(self.tags))


def plain(computed: T | Computed[T]) -> T:
    """The value of what was computed."""
    return computed.value if isinstance(computed, Computed) else computed


def tags_of(tags: Tags) -> tuple[str, ...]:
    found = tuple(wire.several(tags))
    wire.array(found)  # says what is no text
    return found


class Terms(NamedTuple):
    """The arguments of get_or_compute, checked, and the durations as PostgreSQL reads them."""

    tags: Sequence[str] = ()
    stale_for: str | None = None
    stale_if_error: str | None = None
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    max_age: str | None = None

    def lease(self, waited: float) -> str:
        """How long a lease is to be, for one who has waited so long."""
        return f"{min(max(LEASE, self.hard_timeout or 0.0, 2 * waited), LONGEST_LEASE):.3f} seconds"


def terms(
    tags: Tags, stale_for: TTL, stale_if_error: TTL, soft_timeout: float | None, hard_timeout: float | None
) -> Terms:
    check_timeout(soft_timeout)
    check_timeout(hard_timeout)
    return Terms(tags_of(tags), wire.interval(stale_for), wire.interval(stale_if_error), soft_timeout, hard_timeout)


def check_wait(wait: object) -> None:
    number = isinstance(wait, int | float) and not isinstance(wait, bool)
    if not (number and 0 <= wait <= LONGEST_LEASE):  # type: ignore[operator]
        raise InvalidValueError(f"wait is a number of seconds from 0 to {LONGEST_LEASE:,.0f}, not {wait!r}")


class Form(NamedTuple):
    """How a type keeps what is computed.

    checked: what the caller gets, made of what was computed. text: that as JSON. found: the same of a cached value.
    keepable: whether what was computed is to be stored.
    """

    checked: Callable[[Any], Any]
    text: Callable[[Any], str]
    found: Callable[[Any], Any]
    keepable: Callable[[Any], bool] = lambda value: True


ANY = Form(as_it_is, wire.json_text, as_it_is)


class Pauses:
    """How long to wait, in seconds, before asking again whether it is computed: from a few milliseconds to 0.1 s."""

    def __init__(self) -> None:
        self._pause = 0.004

    def next(self, most: float) -> float:
        self._pause = min(0.1, 1.5 * self._pause)
        return max(0.0, min(most, self._pause * (0.5 + random.random())))  # noqa: S311 (nobody is to guess nothing)
