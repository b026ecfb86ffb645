"""Who asks PostgreSQL what has changed, for all caches of a process that keep entries of one database."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any

import psycopg

from ...errors import InvalidSettingError
from .. import typed_calls
from ..calls import BYPASSES, GET_MANY, Asks, Call, Changes, Reads, Writes, located
from ..failsoft import logger
from ..waiting import forget_in_children
from ..wire import Params
from .calls import REPORT_HITS, report
from .store import Near, Store, now

CHANGES = (
    "SELECT epoch, now::pg_catalog.text, whole, types, changes, pg_catalog.current_setting('pgcache.tenant', true)"
    " FROM pgcache_internal.near_changes($1::pg_catalog.pg_snapshot, $2::pg_catalog.text)"
)
# A server that is gone without a word is noticed within ten seconds.
SESSION: Mapping[str, Any] = {
    "application_name": "pgcache near",
    "connect_timeout": 5,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# How often it asks within max_staleness, and how often it tells of reads, in seconds.
LOOKS = 4
REPORTS_EVERY = 2.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
AT_ONCE = 1000


class Keeper:
    """A store, and the thread that keeps it true as long as somebody uses it.

    It polls: NOTIFY would have commits wait for each other, and does not pass through poolers. store.vouch is told of
    the moment before each question, so who is cut off, slow, suspended or dead vouches for nothing any more.
    """

    def __init__(self, conninfo: str, near: Near) -> None:
        self._conninfo = conninfo
        self._near = near
        self._begin()
        forget_in_children(self)

    def _begin(self) -> None:
        self.store = Store(self._near)
        self._lock = threading.Lock()
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._default = ""
        self._told = 0.0
        self._failed = False

    def forget(self) -> None:
        """In a forked process: there is no thread, and a lock may be held by one that there was."""
        self._begin()

    def start(self, user: object) -> None:
        """See to it that the thread runs, as long as there is a user."""
        if user in self._users and self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            self._users.add(user)
            if self._thread is None or not self._thread.is_alive():
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=_run, args=(weakref.ref(self), self._stop), name="pgcache near", daemon=True
                )
                self._thread.start()

    def leave(self, user: object) -> None:
        """The user is closed; with the last one the thread ends."""
        with self._lock:
            self._users.discard(user)
            if self._users or self._thread is None:
                return
            thread, self._thread = self._thread, None
            self._stop.set()
        thread.join(1.0)  # longer only if the server does not answer

    def changed(self, tenant: str | None, type: str, key: str) -> None:
        """This process has changed an entry."""
        self.store.changed(type, key, {tenant, None, self._default if tenant is None else tenant})

    def connect(self) -> psycopg.Connection[Any]:
        given = psycopg.conninfo.conninfo_to_dict(self._conninfo)
        session = {name: value for name, value in SESSION.items() if name not in given}
        return psycopg.connect(
            self._conninfo, autocommit=True, prepare_threshold=None, client_encoding="utf-8", **session
        )

    def look(self, connection: psycopg.Connection[Any], seen: Any, epoch: Any) -> tuple[Any, Any]:
        """One question and its consequences; returns what to ask from the next time."""
        store = self.store
        asked_at = now()
        rows = psycopg.RawCursor(connection).execute(CHANGES, (seen, epoch)).fetchall()
        ((epoch, seen, whole, types, changes, default),) = rows
        self._default = default or ""
        if not whole:
            store.clear()
        for type, tenant, key in changes or ():
            if key is None:
                store.clear(type)
            else:
                store.changed(type, key, (tenant, None))
        store.vouch(types or (), asked_at)
        if asked_at - self._told > REPORTS_EVERY:
            self._told = asked_at
            self.report(connection)
        return seen, epoch

    def report(self, connection: psycopg.Connection[Any]) -> None:
        """Tell the database of the reads, for its statistics and for what it evicts."""
        cursor = psycopg.RawCursor(connection)
        for (tenant, type), reads in self.store.take_reads().items():
            pairs = list(reads.items())
            for start in range(0, len(pairs), AT_ONCE):
                params = report(type, dict(pairs[start : start + AT_ONCE]))
                statement, params = REPORT_HITS.statement(params, tenant)
                cursor.execute(statement.encode(), params)

    def failed(self, error: Exception) -> None:
        if not self._failed:
            logger.warning("the near cache keeps nothing for now: %s", str(error).partition("\n")[0])
        self._failed = True

    def works(self) -> None:
        if self._failed:
            logger.info("the near cache works again")
        self._failed = False


def _run(reference: weakref.ref[Keeper], stop: threading.Event) -> None:
    """The thread, which ends when it is told to, or nobody has the keeper any more."""
    pause = FIRST_PAUSE
    while (keeper := reference()) is not None and not stop.is_set():
        try:
            with keeper.connect() as connection:
                seen, epoch = None, None
                while keeper is not None and not stop.is_set():
                    begun = now()
                    seen, epoch = keeper.look(connection, seen, epoch)
                    keeper.works()
                    pause = FIRST_PAUSE
                    longest = keeper.store.near.max_staleness / LOOKS
                    keeper = None  # for as long as it waits
                    stop.wait(max(0.0, begun + longest - now()))
                    keeper = reference()
                if keeper is not None:
                    keeper.report(connection)
        except psycopg.Error as error:
            if keeper is not None:
                keeper.failed(error)
            keeper = None
            stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


_keepers: weakref.WeakValueDictionary[tuple[str, Near], Keeper] = weakref.WeakValueDictionary()
_guard = threading.Lock()


def keeper_of(conninfo: str, near: Near) -> Keeper:
    """The one of this process, for this database and these limits."""
    if not isinstance(near, Near):
        raise InvalidSettingError(f"near is a Near, not {near!r:.100}", hint="Pass near=Near(), or with limits.")
    with _guard:
        found = _keepers.get((conninfo, near))
        if found is None:
            found = _keepers[conninfo, near] = Keeper(conninfo, near)
        return found


# Of those that are about several entries, these read.
READING = (GET_MANY, typed_calls.GET_EMBEDDINGS)


def changed(keeper: Keeper, call: Call[Any], params: Params, tenant: str | None, *, known: bool) -> None:
    """What a call of this process means for what it keeps. known: whose entries it is about, if it does not say."""
    tier = call.tier
    if tier is BYPASSES or isinstance(tier, Reads | Asks) or call in READING:
        return
    place = None
    if isinstance(tier, Changes):
        place = located(tier.place, params)
    elif isinstance(tier, Writes):
        place = (write := located(tier.write, params)) and write.place
    if place is None:  # several, or the server has refused it
        keeper.store.clear()
    elif place.tenant is None and not known:
        keeper.store.clear(place.type)
    else:
        keeper.changed(tenant if place.tenant is None else place.tenant, place.type, place.key)
