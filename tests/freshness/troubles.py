"""What befalls those who read and write: sessions are ended, processes killed, the relay stopped, entries removed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg

from tests.freshness.actor import APPLICATION, Ground
from tests.freshness.rows import PROMISED

SLOW_RELAY = Path(__file__).parents[1] / "hybrid" / "slow_relay.py"
A_SESSION = b"""
    SELECT count(pg_terminate_backend(a.pid)) FROM (
        SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s
        ORDER BY (state <> 'idle') DESC, random() LIMIT 1
    ) a
"""
A_POLLER = b"""
    SELECT count(pg_terminate_backend(a.pid)) FROM (
        SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%near_changes(%'
        ORDER BY random() LIMIT 1
    ) a
"""


class Troubles:
    """Makes trouble, each kind at random moments. Call `make` often."""

    def __init__(self, ground: Ground, chance: random.Random, kill_a_reader: Callable[[], None]) -> None:
        self.ground = ground
        self.chance = chance
        self.made: Counter[str] = Counter()
        self._admin: psycopg.Connection[Any] = psycopg.connect(ground.dsn, autocommit=True)
        self._relay: subprocess.Popen[bytes] | None = None
        self._kinds: dict[str, tuple[float, Callable[[], None]]] = {
            "sessions ended": (2.0, self.end_a_session),
            "readers killed": (6.0, kill_a_reader),
            "upkeep": (5.0, self.upkeep),
            "folds": (2.0, self.fold),
            "clears": (5.0, self.clear),
            "polls cut off": (1.0, self.end_a_poller),
            "polls held up": (3.0, self.hold_polls_up),
            "logs lost": (10.0, self.lose_the_log),
            "jumps of the clock": (5.0, self.let_the_clock_jump),
        }
        if ground.redis:
            self.start_relay()
            self._kinds |= {"relays stopped": (5.0, self.stop_the_relay), "relays killed": (15.0, self.kill_the_relay)}
        self._due = {name: self.later(name) for name in self._kinds}

    def later(self, name: str) -> float:
        return monotonic() + 2 * self._kinds[name][0] * self.chance.random()

    def make(self) -> None:
        """Whatever is due."""
        for name, due in self._due.items():
            if due < monotonic():
                self._kinds[name][1]()
                self.made[name] += 1
                self._due[name] = self.later(name)

    def close(self) -> None:
        self._admin.close()
        if self._relay:
            self._relay.kill()
            self._relay.wait()

    def end_a_session(self) -> None:
        """Rather of one that is at work."""
        self._admin.execute(A_SESSION, [APPLICATION])

    def upkeep(self) -> None:
        self._admin.execute("CALL pgcache.cache_upkeep()")

    def fold(self) -> None:
        self._admin.execute("SELECT pgcache_internal.fold_bumps()")

    def clear(self) -> None:
        """Entries may go at any time."""
        kind = self.chance.choice(PROMISED)
        with suppress(psycopg.errors.DeadlockDetected):  # with a writer that deletes two of them
            self._admin.execute("SELECT pgcache.cache_clear(%s)", [kind.type])

    # Near caches

    def end_a_poller(self) -> None:
        self._admin.execute(A_POLLER)

    def hold_polls_up(self) -> None:
        """For about as long as near caches may return what they have."""
        with self.impatiently():
            self._admin.execute("LOCK TABLE pgcache_internal.change_epoch IN ACCESS EXCLUSIVE MODE")
            time.sleep(self.chance.uniform(0.3, 1.5) * self.ground.bound)

    def lose_the_log(self) -> None:
        """As in a crash."""
        with self.impatiently():
            self._admin.execute(
                "TRUNCATE pgcache_internal.change_log, pgcache_internal.change_epoch, pgcache_internal.hot_epoch"
            )

    @contextmanager
    def impatiently(self) -> Iterator[None]:
        """A transaction that gives up before it is in a deadlock with anybody."""
        with suppress(psycopg.errors.LockNotAvailable), self._admin.transaction():
            self._admin.execute("SET LOCAL lock_timeout = '200ms'")
            yield

    def let_the_clock_jump(self) -> None:
        """That of the server, by which the log is pruned."""
        jump = self.chance.choice((-1, 1)) * self.chance.random()
        self._admin.execute(
            "UPDATE pgcache_internal.change_epoch SET next_at = next_at + %s * interval '1 hour'", [jump]
        )

    # The relay

    def start_relay(self) -> None:
        assert self.ground.redis
        seed = str(self.chance.random())
        arguments = [self.ground.dsn, self.ground.redis, self.ground.prefix, seed]
        command = [sys.executable, str(SLOW_RELAY), *arguments]
        self._relay = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop_the_relay(self) -> None:
        """Longer than what it vouches for, now and then."""
        assert self._relay
        self._relay.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.choice((0.05, 0.2, 2 * self.ground.bound)))
        self._relay.send_signal(signal.SIGCONT)

    def kill_the_relay(self) -> None:
        assert self._relay
        self._relay.kill()
        self._relay.wait()
        self.start_relay()


def kill(pid: int) -> None:
    """Without a word."""
    os.kill(pid, signal.SIGKILL)
