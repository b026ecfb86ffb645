# Made of pgcache_py/hybrid/_async/tier.py by tools/async_to_sync.py: change that one.
"""What HybridCache does in Redis, and what becomes of that when Redis fails. The protocol: see tier_protocol."""

from __future__ import annotations

import secrets
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from hashlib import sha1
from itertools import count
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import psycopg
import redis as redis_py
from redis.exceptions import ConnectionError, NoScriptError, RedisError, ResponseError

from ...client.failsoft import logger
from ...client.waiting import Own, Slots, forget_in_children
from ...client.wire import json_value
from ...errors import REDIS_URL_HINT, HotTierError
from ...tier_protocol import ALIVE, ASOF, EPOCH, LEASE, OWNER, PUSH, tier_key
from ..breaker import Breaker
from ..hot_calls import Identity

T = TypeVar("T")
AnyRedis: TypeAlias = "redis_py.Redis"
Parse: TypeAlias = Callable[[list[Any]], T]

# How many connections there are at most; who finds none free waits.
CONNECTIONS = 64
# What Redis does, and what becomes of an answer that is none. Nothing else: signal handlers, too, may raise.
FAILURES = (RedisError, OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
# Of how many entries hits may wait to be reported to PostgreSQL, and how often they are, in seconds.
UNREPORTED = 50_000
REPORT_EVERY = 1.0
# For how long a prefix of another database's is not looked at again, and PostgreSQL not asked whose it has to be.
DISTRUST = 5.0
# When it is asked again though nothing is amiss, since the same address may lead to another server, as after a restore;
# and when after it could not say.
CONFIRM = 5.0
CONFIRM_LATER = 60.0
# How many rounds a count of the leases may take, of a thousand keys each.
SCANS = 100


class Outcome(Enum):
    """What a look into Redis yields other than a value."""

    MISSING = "nothing there, but PostgreSQL's answer may be put there"
    AWAY = "no use asking: Redis has failed, or nobody vouches for what it holds"
    ABSENT = "known not to be in PostgreSQL"


MISSING: Final = Outcome.MISSING
AWAY: Final = Outcome.AWAY
ABSENT: Final = Outcome.ABSENT


class Lease(NamedTuple):
    """The right to put one entry, unless it changes meanwhile."""

    name: bytes
    token: bytes
    epoch: bytes


class Push(NamedTuple):
    """An entry to put. ttl_ms: counted from the lease."""

    lease: Lease
    version: int
    ttl_ms: int
    text: bytes


class _Script:
    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.sha = sha1(self.source).hexdigest().encode()  # noqa: S324 (it is Redis that names scripts so)

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> bytes:
        return command(b"EVALSHA", self.sha, b"%d" % len(keys), *keys, *arguments)


_LEASE, _PUSH = _Script(LEASE), _Script(PUSH)


def command(*parts: bytes) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n%b" % (len(parts), b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]))


class HotTier:
    """Never raises for what Redis does: it is a cache of a cache.

    Talks to redis-py's connections rather than through its client, with ready-made commands: a third faster for a get.

    redis: a URL or a client, of which only address and credentials are used. timeout: seconds for each step. identify:
    asks PostgreSQL whose the prefix has to be; None if it is known to be unreachable.
    """

    def __init__(
        self, redis: str | AnyRedis, prefix: str, timeout: float, identify: Callable[[], Identity | None]
    ) -> None:
        if not (isinstance(redis, str | redis_py.Redis)):
            raise TypeError(f"redis is a URL or a redis.Redis, not {type(redis).__name__}")
        try:
            pool = redis_py.ConnectionPool.from_url(redis) if isinstance(redis, str) else redis.connection_pool
        except ValueError as error:
            raise HotTierError(
                f"the URL of Redis is not understood: {error}", sqlstate="PC030", hint=REDIS_URL_HINT
            ) from None
        ours: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "decode_responses": False,
            "health_check_interval": 0,
            "protocol": 2,
            "retry": None,
            "retry_on_error": [],
        }
        # What redis-py adds for notifications about maintenance belongs to the pool.
        theirs = {
            name: value for name, value in pool.connection_kwargs.items() if not name.startswith(("maint", "orig"))
        }
        self._connect: Callable[[], Any] = partial(pool.connection_class, **{**theirs, **ours})
        self._pool = pool  # which may know where a Sentinel's master is

        self.prefix = prefix
        self._alive, self._epoch = tier_key(prefix, ALIVE).encode(), tier_key(prefix, EPOCH).encode()
        self._owner = tier_key(prefix, OWNER).encode()
        self._mget = b"*3\r\n$4\r\nMGET\r\n$%d\r\n%b\r\n" % (len(self._alive), self._alive)
        self._kind = len(prefix.encode()) + 1  # where a name says whether it is an entry's or that of its leases

        self.breaker = Breaker("Redis failed, the calls go on with PostgreSQL alone", "Redis works again")
        self.pushes = Breaker("Redis takes no entries, though it can be read", "Redis takes entries again")
        self.counts: Counter[str] = Counter()
        # The types that are in the tier, and those that are not, as far as the clients know, and until when.
        self.hot: dict[str, float] = {}
        self.off: dict[str, float] = {}
        self._fence = 0  # the moment, in ms by Redis, of the last change of entries that are not known
        self._spoilt = False
        # Of an epoch it must be known that it is one of this database's: others may use the same Redis.
        self._identify = identify
        self._identity: Identity | None = None
        self._trusted: bytes | None = None
        self._distrusted: tuple[bytes | None, float] = (None, 0.0)  # the epoch, and until when
        self._warned = self._told = False
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """Leave the connections as they are to others, and start afresh."""
        self._lines = Own(Lines, Lines.drop)
        # Tokens never repeat: a lease taken again under an old one would not know what happened in between.
        self._tokens = map(f"{secrets.token_hex(8)}.{{}}".format, count())
        self._returned: deque[bytes] = deque()
        # Nor are the hits that others will report.
        self.hits: deque[tuple[str, str, str]] = deque()
        self._unreported: Counter[tuple[str, str, str]] = Counter()
        self._report_at = monotonic() + REPORT_EVERY
        self._lock = threading.Lock()
        self._identify_at = self._confirm_at = 0.0

    def close(self) -> None:
        self._lines.end_others()
        self._lines().disconnect()

    # Reading.

    def read(self, name: bytes) -> Any:
        """The value of an entry, or an Outcome."""
        if self._fence and not self._passed():
            return AWAY
        if monotonic() >= self._confirm_at:
            self._known()
        found = self._ask(lambda: b"%b$%d\r\n%b\r\n" % (self._mget, len(name), name), 1, self._found, AWAY)
        if not isinstance(found, Unsettled):
            return found
        if isinstance(found, Doubt):
            return self.read(name) if self._trusts(found.epoch) else AWAY
        return self._sound(name, found)

    def read_many(self, names: Sequence[bytes], *, vouched: bool = True) -> list[Any]:
        """The same for each name. vouched: False for the values that there were when somebody last vouched for them."""
        if vouched and self._fence and not self._passed():
            return [AWAY] * len(names)
        if vouched and monotonic() >= self._confirm_at:
            self._known()
        epoch = self._alive if vouched else self._epoch
        found = self._ask(lambda: command(b"MGET", epoch, *names), 1, self._found_many, [AWAY] * len(names))
        if isinstance(found, Doubt):
            if not self._trusts(found.epoch, ask=vouched):
                return [AWAY] * len(names)
            return self.read_many(names, vouched=vouched)
        return [self._sound(name, each) for name, each in zip(names, found, strict=True)]

    # Putting.

    def lease(self, names: Sequence[bytes]) -> list[Lease | None]:
        """Take leases; to be done before the statement in PostgreSQL begins."""
        none: list[Lease | None] = [None] * len(names)
        if monotonic() >= self._confirm_at:
            self._known()
        if not names or monotonic() < self._distrusted[1] or not self.pushes.admits():
            return none
        tokens: dict[bytes, bytes] = {}
        returned = taken(self._returned, 100)

        def build() -> list[bytes]:
            tokens.update((name, next(self._tokens).encode()) for name in names)
            taking = [_LEASE.call((self._alive, self._leases(name)), (token,)) for name, token in tokens.items()]
            return taking + returned

        def parse(replies: list[Any]) -> list[Lease | None]:
            epochs = replies[: len(names)]
            if any(self._refused(reply) for reply in epochs):
                return none
            return [
                None if epoch is None else Lease(name, tokens[name], bytes(epoch))
                for name, epoch in zip(names, epochs, strict=True)
            ]

        leases = self._call(_LEASE, build, len(names) + len(returned), parse, none)
        for lease in leases:
            if lease and lease.epoch != self._trusted and not self._trusts(lease.epoch):
                self.give_back(leases)
                return none
        return leases

    def push(self, pushes: Sequence[Push]) -> list[bool]:
        """Put entries; whether each is there now."""

        def build() -> list[bytes]:
            return [
                _PUSH.call(
                    (self._alive, self._leases(lease.name), lease.name),
                    (lease.token, lease.epoch, b"%d" % version, b"%d" % ttl_ms, text),
                )
                for lease, version, ttl_ms, text in pushes
            ]

        def parse(replies: list[Any]) -> list[bool]:
            stored = [not self._refused(reply) and reply == b"stored" for reply in replies]
            if any(stored):
                self.pushes.succeeded()
            return stored

        stored = self._call(_PUSH, build, len(pushes), parse, [False] * len(pushes)) if pushes else []
        self.counts["pushed"] += sum(stored)
        self.counts["refused"] += len(stored) - sum(stored)
        return stored

    def give_back(self, leases: Iterable[Lease | None]) -> None:
        """What is not put. Redis is told with the next leases."""
        for lease in leases:
            if lease:
                self._returned.append(command(b"HDEL", self._leases(lease.name), lease.token))

    # Invalidation. The relay does it anyway; this is for the caller's own next read.

    def discard(self, names: Sequence[bytes]) -> None:
        """Remove entries, and the leases with which older values could be put."""
        if names:
            both = [each for name in names for each in (self._leases(name), name)]
            self._ask(lambda: command(b"UNLINK", *both), 1, none, None)

    def fence(self) -> None:
        """Read nothing until the relay vouches for a later moment than this: for a change of unknown entries."""

        def parse(replies: list[Any]) -> int:
            seconds, microseconds = raised(replies[0])
            return int(seconds) * 1000 + int(microseconds) // 1000

        self._fence = self._ask(lambda: command(b"TIME"), 1, parse, self._fence)

    def _passed(self) -> bool:
        """Whether it does."""
        as_of = tier_key(self.prefix, ASOF).encode()
        fence = self._fence
        passed = self._ask(
            lambda: command(b"GET", as_of), 1, lambda replies: int(raised(replies[0]) or 0) > fence, False
        )
        if passed and self._fence == fence:
            self._fence = 0
        return passed

    # Statistics.

    def hit(self, tenant: str, type: str, key: str) -> None:
        """Note a hit, to be counted and reported later."""
        self.hits.append((tenant, type, key))
        if len(self.hits) > 1000:
            self.fold()

    def fold(self) -> None:
        """Sum the hits up."""
        with self._lock:
            hits = taken(self.hits, len(self.hits))
            self.counts["redis_hits"] += len(hits)
            room = len(self._unreported) < UNREPORTED
            self._unreported.update(hit for hit in hits if room or hit in self._unreported)

    def due(self) -> bool:
        """Whether to report hits to PostgreSQL."""
        return monotonic() >= self._report_at and bool(self.hits or self._unreported)

    def report(self) -> list[tuple[str, str, dict[str, int]]]:
        """Tenant, type, and how often each key was hit since the last report."""
        self.fold()
        self._report_at = monotonic() + REPORT_EVERY
        with self._lock:
            hits, self._unreported = self._unreported, Counter()
        grouped: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for (tenant, type, key), number in hits.items():
            grouped[tenant, type][key] = number
        return [(*group, keys) for group, keys in grouped.items()]

    def put_off(self, seconds: float) -> None:
        """Report no hits for a while."""
        self._report_at = monotonic() + seconds

    def info(self) -> dict[str, Any] | None:
        """What Redis says of itself, None if it does not."""

        def parse(replies: list[Any]) -> dict[str, Any]:
            lines = [line.partition(":") for reply in replies[:2] for line in raised(reply).decode().splitlines()]
            return {**{name: value for name, _, value in lines}, "alive": raised(replies[2]) == 1}

        def build() -> bytes:
            return command(b"INFO", b"memory") + command(b"INFO", b"stats") + command(b"EXISTS", self._alive)

        return self._ask(build, 3, parse, None)

    def leases(self) -> int | None:
        """How many keys have leases or tombstones; None if there are too many keys to look through."""
        cursor, found = b"0", 0
        names: list[bytes]
        pattern = "".join(f"\\{each}" if each in "\\*?[]^-" else each for each in self.prefix) + ":l:*"

        def scan() -> bytes:
            return command(b"SCAN", cursor, b"MATCH", pattern.encode(), b"COUNT", b"1000")

        for _ in range(SCANS):
            cursor, names = self._ask(scan, 1, lambda replies: raised(replies[0]), (b"", []))
            found += len(names)
            if cursor == b"0":
                return found
            if cursor == b"":
                return None
        return None

    # How.

    def _leases(self, name: bytes) -> bytes:
        return name[: self._kind] + b"l" + name[self._kind + 1 :]

    def _refused(self, reply: Any) -> bool:
        """Whether Redis refused to write, as it does when it is full, or a replica."""
        if not isinstance(reply, ResponseError):
            return False
        self.pushes.failed(reply)
        return True

    def _found(self, replies: list[Any]) -> Any:
        epoch, entry = raised(replies[0])
        return Doubt(epoch) if epoch is None or epoch != self._trusted else content(epoch, entry)

    def _found_many(self, replies: list[Any]) -> Any:
        epoch, *entries = raised(replies[0])
        if epoch is None or epoch != self._trusted:
            return Doubt(epoch)
        return [content(epoch, entry) for entry in entries]

    def _trusts(self, epoch: bytes | None, *, ask: bool = True) -> bool:
        """Whether an epoch is one of this database's. None: nobody vouches. ask: PostgreSQL, if need be."""
        if epoch is not None and epoch == self._trusted:
            return True
        refused, until = self._distrusted
        if epoch == refused and monotonic() < until:
            return False
        identity = self._known() if ask else self._identity
        if identity is None or (epoch is None and (self._warned or identity.prefix == self.prefix)):
            return False

        def parse(replies: list[Any]) -> list[Any]:
            found = raised(replies[0])
            return found if isinstance(found, list) and len(found) == 2 else [None, None]

        # Both at once, or the owner might be one that came later.
        found = self._ask(lambda: command(b"MGET", self._owner, self._epoch), 1, parse, None)
        if found is None:
            return False
        owner, current = found
        if epoch is not None and owner == identity.owner and current == epoch:
            self._trusted, self._distrusted = epoch, (None, 0.0)
            return True
        if owner != identity.owner:
            self._distrusted = epoch, monotonic() + DISTRUST
            copy = isinstance(owner, bytes) and owner.rpartition(b"/")[0] == identity.owner.rpartition(b"/")[0]
            # After a restart of the server its relay takes a moment. A copy of it finds that somebody else vouches.
            if identity.prefix != self.prefix or (epoch == refused if copy else owner is not None):
                self._warn(identity, copy=copy)
        return False

    def _known(self) -> Identity | None:
        """What PostgreSQL says it is, or has said lately, or last if it cannot be asked."""
        with self._lock:
            if monotonic() < self._identify_at:
                return self._identity
            self._identify_at = self._confirm_at = inf  # one asks, and the others do not wait for it
        pause = CONFIRM_LATER if self._identity else CONFIRM
        try:
            found = self._identify()
            if found:
                pause = CONFIRM
                if self._identity and found.owner != self._identity.owner:
                    self._trusted = None
                self._identity = found
                if not (found.any_hot or self._told):
                    self._told = True
                    logger.warning(
                        "Redis is not used: no type is in the hot tier. SELECT cache_hot_on('llm') takes one into it"
                    )
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.UndefinedFunction):  # else all other calls fail too, and say so
                self._warn(error)
        finally:
            self._identify_at = monotonic() + DISTRUST
            self._confirm_at = monotonic() + pause
        return self._identity

    def _warn(self, why: Identity | psycopg.Error, *, copy: bool = False) -> None:
        """Say once why Redis is not used."""
        with self._lock:
            warned, self._warned = self._warned, True
        if warned:
            return
        if isinstance(why, psycopg.Error):
            logger.warning("Redis is not used before pgcache in the database is upgraded: %s", why)
        elif why.prefix != self.prefix:
            logger.warning(
                "Redis is not used: this client has the prefix %r, but its database has %r. Pass"
                " HybridCache(prefix=%r), or change that of the database with SELECT cache_hot_configure(prefix => %r)"
                " if no other database uses it",
                *(self.prefix, why.prefix, why.prefix, self.prefix),
            )
        elif copy:
            logger.warning(
                "Redis is not used: there the prefix %r is in use by another server that has this database. One is a"
                " copy: give it a prefix of its own with SELECT cache_hot_configure(prefix => '...'), and pass the same"
                " to HybridCache(prefix=...), or give it another Redis",
                self.prefix,
            )
        else:
            logger.warning(
                "Redis is not used: there the prefix %r belongs to another database. Give this database a prefix of its"
                " own with SELECT cache_hot_configure(prefix => '...'), and pass the same to HybridCache(prefix=...)",
                self.prefix,
            )

    def _sound(self, name: bytes, found: Any) -> Any:
        if not isinstance(found, Spoilt):
            return found
        self.discard([name])
        if not self._spoilt:
            self._spoilt = True
            logger.warning("an entry in Redis made no sense and was removed; further ones are silent: %r", name)
        return MISSING

    def _call(
        self, script: _Script, build: Callable[[], list[bytes]], replies: int, parse: Parse[T], otherwise: T
    ) -> T:
        """Call a script, which a Redis that was restarted does not have."""
        lost = False

        def look(found: list[Any]) -> T:
            nonlocal lost
            lost = any(isinstance(reply, NoScriptError) for reply in found)
            return otherwise if lost else parse(found)

        result = self._ask(lambda: b"".join(build()), replies, look, otherwise)
        if lost:
            self._ask(lambda: command(b"SCRIPT", b"LOAD", script.source), 1, none, None)
            result = self._ask(lambda: b"".join(build()), replies, look, otherwise)
        return result

    def _ask(self, build: Callable[[], bytes], replies: int, parse: Parse[T], otherwise: T) -> T:
        """What the replies mean; the last argument if there are none, or none that mean anything."""
        breaker = self.breaker
        if not (breaker.closed or breaker.admits()):
            return otherwise
        try:
            meaning = parse(self._exchange(build, replies))
        except FAILURES as error:
            breaker.failed(error)
            return otherwise
        if not breaker.closed:
            breaker.succeeded()
        return meaning

    def _exchange(self, build: Callable[[], bytes], replies: int) -> list[Any]:
        """Send commands in one go and read the replies, of which one may be an error."""
        lines = self._lines()
        with lines.slots:
            while True:
                try:
                    connection, fresh = lines.free.pop(), False
                except IndexError:
                    connection, fresh = self._connect(), True
                try:
                    connection.send_packed_command((build(),), check_health=False)
                    found = [reply(connection) for _ in range(replies)]
                except ConnectionError:
                    # An idle connection may have ended long ago, and the others with it.
                    if fresh:
                        raise
                    lines.disconnect()
                else:
                    lines.free.append(connection)
                    return found


class Lines:
    """Connections to Redis: those that nobody uses, and a slot for each that there may be."""

    def __init__(self) -> None:
        self.free: deque[Any] = deque()
        self.slots = Slots(CONNECTIONS)

    def disconnect(self) -> None:
        for connection in taken(self.free, len(self.free)):
            connection.disconnect()

    def drop(self) -> None:
        """Their event loop is closed, and they with it."""
        self.free.clear()


def taken(queue: deque[T], most: int) -> list[T]:
    """The first elements, which are removed, whoever else does so at the same time."""
    found: list[T] = []
    with suppress(IndexError):
        while len(found) < most:
            found.append(queue.popleft())
    return found


def reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class Unsettled:
    """What is no answer yet."""


class Spoilt(Unsettled):
    """An entry that makes no sense."""


class Doubt(Unsettled):
    """An epoch that is not known to be one of this database's; None if nobody vouches."""

    def __init__(self, epoch: bytes | None) -> None:
        if not isinstance(epoch, bytes | None):
            raise TypeError(f"{epoch!r} is no epoch")
        self.epoch = epoch


def content(epoch: bytes, entry: bytes | None) -> Any:
    """The value in an entry, or what there is instead."""
    if entry is None or not entry.startswith(epoch) or entry[len(epoch) : len(epoch) + 1] != b":":
        return MISSING
    try:
        text = entry[entry.index(b":", len(epoch) + 1) + 1 :].decode()
        if not text:
            return ABSENT
        value, end = json_value(text)
    except ValueError:
        return Spoilt()
    return value if end == len(text) else Spoilt()


def raised(reply: Any) -> Any:
    """A reply, unless it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def none(replies: list[Any]) -> None:
    for each in replies:
        raised(each)
