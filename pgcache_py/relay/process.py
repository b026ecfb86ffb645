"""The relay: the process that tells Redis what has changed in PostgreSQL, for the hot tier.

Any number may run; one of them is at work, and when it ends another takes over. It needs a session of its own, not one
of a pooler that shares sessions: by its session others see that it is at work, and NOTIFY wakes it when it sleeps.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from ..errors import REDIS_URL_HINT, BusyError, HotTierError, PgcacheError, ReadOnlyError, UnavailableError, translated
from .cycle import STATEMENTS, Cycle, ForeignPrefix, PrefixInUse, Report, permanent

TAKE_TURN = "SELECT pgcache_internal.hot_take_turn()"
SLEEP = "SELECT pgcache_internal.hot_sleep(%s)"
ALL_ENDED = "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()) >= %s::pg_catalog.xid8"
# A server that is gone without a word is noticed within ten seconds.
SESSION: dict[str, str | int | None] = {
    "application_name": "pgcache relay",
    "connect_timeout": 5,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# What may pass by itself: a standby may be promoted.
PASSING = (UnavailableError, BusyError, ReadOnlyError)
REDIS_TIMEOUT = 2.0
STANDBY_PAUSE = 0.5
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
# Between the beginnings of two cycles, however many changes there are; and if they take long, since many writers leave
# little of the machine, so many times what the last one took, or the longest.
SHORTEST_CYCLE, LONGEST_CYCLE = 0.01, 0.05
SHARE = 5
# Between two cycles while a transaction goes on that may have noted a change and will not wake the relay.
LONGEST_NAP = 0.1


class Stop:
    """Ends a relay, from a signal handler or from another thread: stop()."""

    def __init__(self) -> None:
        self.asked = False
        self._heard, self._said = socket.socketpair()

    def __call__(self, *_: object) -> None:
        self._said.send(b"\0")
        self.asked = True

    def wait(self, seconds: float, *others: Any) -> None:
        """Until it is asked, or one of the others can be read, or time is up."""
        with selectors.DefaultSelector() as selector:
            for readable in (self._heard, *others):
                selector.register(readable, selectors.EVENT_READ)
            if not self.asked:
                selector.select(max(0.0, seconds))

    def close(self) -> None:
        self._heard.close()
        self._said.close()


class Relay:
    """Delivers changes from the database of `conninfo` to the Redis of `url`, until it is stopped.

    prefix: of the keys in Redis; None for the setting hot_prefix. log: gets one line for each change of state.
    """

    def __init__(
        self, conninfo: str, url: str, *, prefix: str | None = None, log: Callable[[str], None] = print
    ) -> None:
        given = conninfo_to_dict(conninfo)
        self._conninfo = make_conninfo(
            conninfo, **{name: value for name, value in SESSION.items() if name not in given}
        )
        self._redis, self._redis_error = _redis(url)
        self._prefix = prefix
        self._log = log
        self._state = ""
        self._pause = FIRST_PAUSE
        self.stop = Stop()

    def once(self) -> Report | None:
        """One cycle; None if another relay is at work. Raises PgcacheError."""
        try:
            with self._session() as connection:
                return self._cycle(connection).run() if _takes_turn(connection) else None
        except ForeignPrefix as error:
            raise _foreign(error) from None
        except self._redis_error as error:
            raise HotTierError(f"Redis: {error}", sqlstate="PC031") from error
        except psycopg.Error as error:
            raise translated(error) from error

    def run(self) -> None:
        """Until it is stopped. Failures of PostgreSQL and of Redis are waited out; raises PgcacheError for others."""
        try:
            while not self.stop.asked:
                try:
                    with self._session() as connection:
                        self._relay(connection)
                except psycopg.Error as error:
                    found = translated(error)
                    if isinstance(found, PgcacheError) and not isinstance(found, PASSING):
                        raise found from error
                    self._failed("PostgreSQL", found)
                except ForeignPrefix as error:
                    raise _foreign(error) from None
            self._say("ended")
        finally:
            self._redis.close()
            self.stop.close()

    def _session(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            self._conninfo, autocommit=True, row_factory=tuple_row, prepare_threshold=None, client_encoding="utf-8"
        )

    def _cycle(self, connection: psycopg.Connection[tuple[Any, ...]]) -> Cycle:
        cursor = psycopg.RawCursor(connection)

        def call(name: str, *arguments: Any) -> Sequence[tuple[Any, ...]]:
            return cursor.execute(STATEMENTS[name].encode(), arguments).fetchall()

        return Cycle(call, self._redis, self._prefix)

    def _relay(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        woken = _Woken(connection)
        sleep = _Sleep(connection)
        cycle = self._cycle(connection)
        deaf, called = SHORTEST_CYCLE, False
        while not self.stop.asked:
            begun = time.monotonic()
            woken.clear()
            if not _takes_turn(connection):
                self._say("waits: another relay is at work")
                self._pause = FIRST_PAUSE
                sleep = _Sleep(connection)  # the other one may have said otherwise
                self.stop.wait(STANDBY_PAUSE)
                continue
            asleep = sleep.is_sound()
            try:
                report = cycle.run()
            except self._redis_error as error:
                self._failed("Redis", error)
                continue
            except PrefixInUse as error:
                self._say(f"waits: {error}", f". {error.hint}")
                self.stop.wait(STANDBY_PAUSE)
                continue
            self._tell(report)
            busy = bool(report.delivered or report.began)
            nap = sleep.after(busy)
            deaf = min(2 * deaf, report.staleness / 5) if called and not busy else SHORTEST_CYCLE
            pace = min(SHARE * (time.monotonic() - begun), LONGEST_CYCLE, report.staleness / 10)
            self.stop.wait(begun + max(pace, SHORTEST_CYCLE) - time.monotonic())
            called = woken.already()
            if not called and not busy:
                longest = report.staleness / 5 if asleep else min(nap, report.staleness / 5)
                self.stop.wait(begun + longest - time.monotonic(), connection)
                called = woken.already()
            # NOTIFY is for anybody who may connect: whoever calls in vain again and again is heard less and less often.
            if called and begun + deaf > time.monotonic():
                woken.listen(False)
                self.stop.wait(begun + deaf - time.monotonic())
                woken.listen(True)
        sleep.leave()

    def _tell(self, report: Report) -> None:
        if report.began:
            self._log(f"all entries in Redis are void: {report.began}")
        if report.vouched == "vouched":
            self._pause = FIRST_PAUSE
            self._say("at work")
        elif report.vouched == "late":
            self._say(f"too slow: a cycle takes longer than max_staleness ({report.staleness:g} s)")

    def _failed(self, server: str, error: Exception) -> None:
        advice = "; check the password and the database in --redis" if permanent(error) else ""
        self._say(f"tries {server} again", f": {_first_line(error)}{advice}")
        self.stop.wait(self._pause)
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    def _say(self, state: str, detail: str = "") -> None:
        if state != self._state:
            self._state = state
            self._log(state + detail)


class _Sleep:
    """Whether who changes an entry wakes the relay, which for them is slow, or it looks by itself."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._awake = False  # as far as those know who change entries
        self._horizon: object = None
        self._sound = False
        self._nap = SHORTEST_CYCLE

    def is_sound(self) -> bool:
        """Whether the relay would be woken for all that the next cycle does not find."""
        if self._horizon is not None and not self._sound:
            self._sound = bool(self._ask(ALL_ENDED, self._horizon))
        return self._sound

    def after(self, busy: bool) -> float:
        """What a cycle found decides whether the relay is to sleep; how long it may nap until it does."""
        if busy:
            if not self._awake:
                self._ask(SLEEP, False)
            self._awake, self._horizon, self._sound, self._nap = True, None, False, SHORTEST_CYCLE
        elif self._horizon is None:
            self._horizon = self._ask(SLEEP, True)
            self._awake = False
        else:
            self._nap = min(2 * self._nap, LONGEST_NAP)
        return self._nap

    def leave(self) -> None:
        """Nobody is to be woken any more."""
        if self._horizon is not None:
            self._ask(SLEEP, False)

    def _ask(self, statement: str, argument: object) -> object:
        row = self._connection.execute(statement.encode(), [argument]).fetchone()
        return row[0] if row else None


class _Woken:
    """Whether a NOTIFY has come, during a statement or after it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._heard = False
        connection.add_notify_handler(self._hear)
        self.listen(True)

    def listen(self, whether: bool) -> None:
        self._connection.execute(b"LISTEN pgcache_hot" if whether else b"UNLISTEN pgcache_hot")

    def _hear(self, _: psycopg.Notify) -> None:
        self._heard = True

    def clear(self) -> None:
        self._heard = False

    def already(self) -> bool:
        self._connection.pgconn.consume_input()
        while self._connection.pgconn.notifies():
            self._heard = True
        return self._heard


def _takes_turn(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """Whether this relay is the one at work."""
    row = connection.execute(TAKE_TURN).fetchone()
    return bool(row and row[0])


def _redis(url: str) -> tuple[Any, type[Exception]]:
    """A client, and the class of its errors."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise HotTierError(
            "the relay needs the package redis", sqlstate="PC030", hint="pip install 'pgcache[redis]'"
        ) from None
    try:
        client = redis.Redis.from_url(
            url, socket_timeout=REDIS_TIMEOUT, socket_connect_timeout=REDIS_TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        raise HotTierError(
            f"the URL of Redis is not understood: {error}",
            sqlstate="PC030",
            hint=REDIS_URL_HINT,
        ) from None
    return client, redis.RedisError


def _foreign(error: ForeignPrefix) -> HotTierError:
    return HotTierError(str(error), sqlstate=error.sqlstate, hint=error.hint)


def _first_line(error: Exception) -> str:
    return (error.message if isinstance(error, PgcacheError) else str(error)).strip().partition("\n")[0]
