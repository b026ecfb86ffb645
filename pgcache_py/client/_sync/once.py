# Made of pgcache_py/client/_async/once.py by tools/async_to_sync.py: change that one.
"""Computing what is not there: of all callers, in whatever process, one computes an entry, and the others wait for it.

Who computes has a lease (sql/freshness/leases.sql), and stores with its token. Who waits asks again and again: one call
that waits would hold a connection, which who computes might need.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

import psycopg

from ...errors import NotInstalledError, PermissionDeniedError, PgcacheError, TooSlowError
from .. import calls, wire
from ..calls import UNFETCHED, Fetch
from ..failsoft import keeping, logger
from ..terms import ANY, NOBODY, REFUSED, THROTTLE, TURNS, Computed, Fetched, Form, Pauses, Terms, plain
from ..waiting import Aside, finish, pause, settle
from ..wire import MISS, TTL
from .base import Base

T = TypeVar("T")

# Without a lease, where there can be none: stored as `set` does. And for who has waited long enough: not stored.
UNLEASED = Fetch(MISS, "won", None, False, False, None)
UNKEPT = Fetch(MISS, "busy", None, False, False, None)


class Made(NamedTuple):
    """What was computed, or what is returned instead, which is not stored."""

    value: Any
    ttl: TTL = None
    tags: tuple[str, ...] = ()
    new: bool = True


class Once(Generic[T]):
    """An entry, and how it is computed. form: how its type keeps it."""

    def __init__(
        self,
        cache: Base,
        type: str,
        key: str,
        compute: Callable[[], T | Computed[T]],
        ttl: TTL,
        terms: Terms,
        form: Form = ANY,
    ) -> None:
        wire.check_ttl(ttl)
        self._cache = cache
        self._type = type
        self._key = key
        self._compute = compute
        self._ttl = ttl
        self._terms = terms
        self._form = form
        self._began = monotonic()
        self._late = False

    def get(self, *, looked: bool = False) -> T:
        """The cached value, or else a new one. looked: the caller has looked already, and found none."""
        value, fetched = self.find(looked=looked)
        if fetched is None:
            found: T = value
            return found
        return self._get_computed(fetched)

    def find(self, *, looked: bool = False) -> tuple[Any, Fetch | None]:
        """The cached value, or else by which fetch one is to be computed."""
        cache = self._cache
        if not looked and self._terms.max_age is None:  # Redis does not know how old it is
            looked, value = cache._look(self._type, self._key)
            if value is not MISS:
                return self._found(value), None
        if not cache._source.alone():  # nobody else would see a lease, before it is of no use any more
            return self._find_unleased(looked)
        seen, holders, pauses = self._began, set[bytes](), Pauses()
        while True:
            fetched = self._fetch(again=looked)
            looked = True
            if fetched is UNFETCHED:
                return self._find_unleased(looked=False)
            if fetched.state in ("fresh", "stale"):
                return self._found(fetched.value), None
            if fetched.state in ("won", "stale_won"):
                return None, fetched
            if fetched.held_since:
                seen = monotonic()
                holders.add(fetched.held_since)
            if fetched.state == "failed" or len(holders) > TURNS or monotonic() - seen > NOBODY:
                return None, fetched
            if not (left := self._left()):
                if fetched.spare:
                    return self._found(fetched.value), None
                raise self._too_slow("another one computes it, and")
            pause(pauses.next(left))

    def renew(self) -> T:
        """A new value, whatever is cached. Who computes one already does not store it any more."""
        return self._get_computed(self.claim(), soft=False)

    def claim(self) -> Fetch:
        """By which fetch a new value is to be computed, whatever is cached."""
        fetched = UNLEASED
        if self._cache._source.alone():
            terms = self._terms
            with suppress(NotInstalledError, PermissionDeniedError):
                token = self._cache._run(
                    calls.CLAIM,
                    self._type,
                    self._key,
                    wire.array(terms.tags),
                    terms.stale_for,
                    terms.stale_if_error,
                    terms.lease(0.0),
                )
                if token is not None:
                    fetched = UNLEASED._replace(token=token) if int(token) else UNKEPT
        return fetched

    def look(self) -> Any:
        """The cached value, or MISS: without a lease."""
        max_age = self._terms.max_age
        if max_age is None:
            value = self._cache._run(calls.GET, self._type, self._key)
        else:
            value = self._cache._run(calls.GET_YOUNGER, self._type, self._key, max_age)
        return value if value is MISS else self._found(value)

    def keep(self, fetched: Fetch, value: Any) -> bool:
        """Store what was computed by a fetch; whether there is nothing to give back."""
        return self._keep(fetched, Made(value, self._ttl))

    def give_back(self, fetched: Fetch) -> None:
        """Let another one compute."""
        finish(self._give_back(fetched))

    # How.

    def _fetch(self, *, again: bool) -> Fetch:
        """UNFETCHED if there are no leases to be had."""
        source, terms = self._cache._source, self._terms
        if source.unleased_until and monotonic() < source.unleased_until:
            return UNFETCHED
        fetched = UNFETCHED
        with suppress(NotInstalledError, PermissionDeniedError):
            fetched = self._cache._run(
                calls.FETCH,
                self._type,
                self._key,
                wire.array(terms.tags),
                terms.stale_for,
                terms.stale_if_error,
                terms.lease(monotonic() - self._began),
                wire.boolean(again),
                terms.max_age,
                f"{monotonic() - self._began:.3f} seconds",
            )
        source.unleased_until = monotonic() + REFUSED if fetched is UNFETCHED else 0.0
        return fetched

    def _find_unleased(self, looked: bool) -> tuple[Any, Fetch | None]:
        if not looked:
            value = self.look()
            if value is not MISS:
                return value, None
        return None, UNLEASED

    def _get_computed(self, fetched: Fetch, *, soft: bool = True) -> T:
        """A new value, or, if it takes too long, the one that there is."""
        soft_timeout = self._terms.soft_timeout if soft and fetched.servable else None
        left = self._left()
        if not self._cache._source.alone() or (soft_timeout is None and left == inf):
            return self._make_and_keep(fetched)
        aside = Aside(partial(self._make_and_keep, fetched))
        if soft_timeout is not None and soft_timeout < left:
            if not aside.ended(soft_timeout):
                aside.leave(self._failed_alone)
                return self._found(fetched.value)
        elif not aside.ended(left):
            self._late = True
            aside.cancel()
            aside.leave(self._failed_alone)
            if fetched.spare:
                return self._found(fetched.value)
            raise self._too_slow("after")
        return aside.result()

    def _make_and_keep(self, fetched: Fetch) -> T:
        try:
            made = self._make()
        except GeneratorExit:
            raise  # nothing can be awaited any more
        except BaseException as error:
            usable = fetched.spare and (self._late or isinstance(error, Exception))
            finish(self._give_back(fetched, hold=usable))
            if not (usable and isinstance(error, Exception)):
                raise
            logger.warning("an old value in %s is used on, since to compute it failed: %r", self._type, error)
            return self._found(fetched.value)
        try:
            kept = self._keep(fetched, made)
        except GeneratorExit:
            raise
        except BaseException:
            finish(self._give_back(fetched))
            raise
        if not kept:
            self._give_back(fetched)
        value: T = made.value
        return value

    def _make(self) -> Made:
        computed = settle(self._compute())
        value = self._form.checked(plain(computed))
        if isinstance(computed, Computed):
            return Made(value, self._ttl if computed.ttl is None else computed.ttl, tuple(computed.tags))
        return Made(value, self._ttl)

    def _keep(self, fetched: Fetch, made: Made) -> bool:
        """Store what was computed; whether there is nothing to give back."""
        if fetched.state not in ("won", "stale_won"):
            return True
        if not self._form.keepable(made.value):
            return False
        tags = made.tags if fetched.token else (*self._terms.tags, *made.tags)
        cache = self._cache._in_savepoints()
        with keeping(self._type):
            text, ttl = self._form.text(made.value), wire.interval(made.ttl)
            if not tags and fetched.token is None:
                return cache._run(calls.SET, self._type, self._key, text, ttl)
            tags_text = wire.array(tags) if tags else None
            return cache._run(calls.SET_FRESH, self._type, self._key, text, ttl, tags_text, fetched.token, None)
        return False

    def _give_back(self, fetched: Fetch, *, hold: bool = False) -> bool:
        """Let another one compute; hold: but not at once."""
        if fetched.token is None:
            return False
        cache = self._cache._in_savepoints()
        with suppress(PgcacheError, psycopg.Error):  # then it ends by itself
            if not hold:
                return cache._run(calls.RELEASE, self._type, self._key, fetched.token)
            return cache._run(calls.HOLD, self._type, self._key, fetched.token, wire.interval(THROTTLE))
        return False

    def _found(self, value: Any) -> T:
        found: T = self._form.found(value)
        return found

    def _left(self) -> float:
        """How much of the time for all of this is left, in seconds."""
        limit = self._terms.hard_timeout
        return inf if limit is None else max(0.0, self._began + limit - monotonic())

    def _too_slow(self, why: str) -> TooSlowError:
        return TooSlowError(
            f"{why} {self._terms.hard_timeout} seconds have not been enough for an entry of {self._type}",
            hint="Raise hard_timeout, or let an old value be used with stale_for and soft_timeout.",
        )

    def _failed_alone(self, error: BaseException) -> None:
        logger.warning("a computation for %s that nobody waits for any more has failed: %r", self._type, error)


def fetched_by(
    cache: Base, type: str, key: str, tags: str, stale_for: str | None, wait: float, lease: str | None
) -> Fetched:
    """Cache.fetch, with its arguments as PostgreSQL reads them."""
    until, pauses, again = monotonic() + wait, Pauses(), False
    while True:
        found = cache._run(calls.FETCH, type, key, tags, stale_for, None, lease, wire.boolean(again), None, None)
        left = until - monotonic()
        if found.state not in ("busy", "failed") or left <= 0:
            break
        again = True
        pause(pauses.next(left))
    state: Any = "busy" if found.state == "failed" else found.state
    value = found.value if state in ("fresh", "stale", "stale_won") else None
    return Fetched(value, state, None if found.token is None else int(found.token))
