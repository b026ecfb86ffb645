"""One cycle of the relay, which tells Redis what has changed in PostgreSQL.

The process `python -m pgcache_py relay` and the PL/Python function hot_cycle share this file; in the latter it follows
the text of tier_protocol.py. So it imports nothing but that and the standard library, and says what goes wrong in a
form that both can raise.

Why it is right: a cycle asks Redis for the time, then reads all that is committed, delivers it, and only then vouches,
as of that time. So what was committed before a voucher's time has been delivered, whatever dies or is delayed in
between; and each step may be done twice, or by two relays at once.
"""

import uuid
from time import monotonic
from typing import Any

from ..tier_protocol import ALIVE, ASOF, BEGIN, DELIVER, EPOCH, LOOK, OWNER, VOUCH, entry_key, lease_key, tier_key

BATCH = 500
"""Entries that one script call delivers: a few milliseconds for which Redis does nothing else."""

STATEMENTS = {
    "hot_state": (
        "SELECT epoch, redis, began_as, owner, staleness_ms, prefix, erasing FROM pgcache_internal.hot_state()"
    ),
    "hot_pending": "SELECT seen::text, type, tenant, cache_key, version FROM pgcache_internal.hot_pending()",
    "hot_begin_epoch": "SELECT pgcache_internal.hot_begin_epoch($1::text, $2::text)",
    "hot_delivered": "SELECT pgcache_internal.hot_delivered($1::pg_snapshot, $2::bigint)",
    "hot_erasing": "SELECT id, type, tenant, redis, place FROM pgcache_internal.hot_erasing()",
    "hot_erased": "SELECT pgcache_internal.hot_erased($1::bigint[], $2::text, $3::text)",
}


class ForeignPrefix(Exception):  # noqa: N818
    """The prefix belongs to another database. waits: that may pass by itself."""

    sqlstate = "PC032"
    waits = False
    told = "in this Redis the prefix {prefix} belongs to the hot tier of another database"
    advice = (
        "Give each database a prefix of its own: SELECT cache_hot_configure(prefix => '...'). If that database is"
        " gone, or was moved to where this one is: redis-cli DEL {owner}"
    )

    def __init__(self, prefix: str) -> None:
        super().__init__(self.told.format(prefix=prefix))
        self.hint = self.advice.format(owner=tier_key(prefix, OWNER))


class PrefixInUse(ForeignPrefix):
    """It belongs to this database, but on another server, or as it was before this one was started."""

    waits = True
    told = "in this Redis the prefix {prefix} is in use by another server that has this database"
    advice = (
        "If that one is gone, or is this one before it was started anew, the relay goes on within max_staleness."
        " Else one of the two is a copy: give it a prefix of its own, SELECT cache_hot_configure(prefix => '...'),"
        " or another Redis."
    )


class Report:
    """What a cycle did.

    vouched: 'vouched', or why not. began: why an epoch was begun, '' if none was. delivered: of how many entries Redis
    was told. staleness: the setting max_staleness, in seconds.
    """

    def __init__(self, vouched: str, began: str, delivered: int, staleness: float) -> None:
        self.vouched = vouched
        self.began = began
        self.delivered = delivered
        self.staleness = staleness


class Cycle:
    """call: call(name, *arguments) executes one of STATEMENTS and returns its rows as tuples. redis: a client of
    redis-py. prefix: of the keys; None for the setting hot_prefix.
    """

    def __init__(self, call: Any, redis: Any, prefix: "str | None" = None) -> None:
        self.call = call
        self.prefix = prefix
        self.pipeline = redis.pipeline
        self.scan, self.unlink = redis.scan, redis.unlink
        self.look = redis.register_script(LOOK)
        self.begin = redis.register_script(BEGIN)
        self.deliver = redis.register_script(DELIVER)
        self.vouch = redis.register_script(VOUCH)

    def run(self) -> Report:
        """Deliver what waits, and vouch. Raises ForeignPrefix, and what `call` and the client of Redis raise."""
        [(known_epoch, known_redis, began_as, owner, staleness_ms, prefix, erasing)] = self.call("hot_state")
        prefix = self.prefix or prefix
        alive, epoch_key, owner_key = tier_key(prefix, ALIVE), tier_key(prefix, EPOCH), tier_key(prefix, OWNER)
        looked_at, identity, epoch, found, vouched = map(text, self.look([epoch_key, owner_key, alive]))
        # Nobody vouches any more for what this server began before it was stopped; after a crash it does not know that.
        left_behind = known_epoch if found == began_as and known_epoch == epoch else ""
        if found not in ("", owner):
            if database_of(found) != database_of(owner):
                raise ForeignPrefix(prefix)
            if vouched not in ("", left_behind):
                raise PrefixInUse(prefix)
        rows = self.call("hot_pending")
        seen = rows[0][0]
        newest = {(type, tenant, key): version for _, type, tenant, key, version in rows if version is not None}
        began = why_void(known_epoch if began_as == owner else None, known_redis, epoch, identity, found, newest)
        if began:
            epoch, newest = uuid.uuid4().hex, {}
            self.call("hot_begin_epoch", epoch, identity)
            begun = text(self.begin([alive, epoch_key, owner_key], [epoch, identity, owner, found, left_behind]))
            if begun == "owner":
                raise PrefixInUse(prefix)
            if begun != "begun":
                return Report(begun, "", 0, staleness_ms / 1000)
        self.send(prefix, epoch, newest)
        as_of = tier_key(prefix, ASOF)
        vouched = text(self.vouch([alive, epoch_key, as_of], [epoch, identity, looked_at, staleness_ms]))
        # If it is late, they are delivered all the same; and without them the next cycle will be in time.
        if vouched in ("vouched", "late"):
            self.call("hot_delivered", seen, len(newest))
            if erasing:
                self.erase(prefix, identity, staleness_ms / 4000)
        return Report(vouched, began, len(newest), staleness_ms / 1000)

    def send(self, prefix: str, epoch: str, newest: "dict[tuple[str, str, str], int]") -> None:
        changes = list(newest.items())
        pipeline = self.pipeline(transaction=False)
        for start in range(0, len(changes), BATCH):
            keys = []
            arguments = [epoch]
            for entry, version in changes[start : start + BATCH]:
                keys += [lease_key(prefix, *entry), entry_key(prefix, *entry)]
                arguments.append(str(version))
            self.deliver(keys, arguments, client=pipeline)
        if changes:
            pipeline.execute()

    def erase(self, prefix: str, identity: str, seconds: float) -> None:
        """Remove what cache_forget has asked for, leases too, for so many seconds; the next cycle goes on with it."""
        rows = self.call("hot_erasing")
        if not rows:
            return
        wanted = {(type, tenant) for _, type, tenant, _, _ in rows}
        place = int(rows[0][4]) if rows[0][3] == identity else 0
        until = monotonic() + seconds
        while True:
            place, names = self.scan(place, match=pattern(prefix, wanted), count=1000)
            found = [name for name in names if concerns(prefix, name, wanted)]
            if found:
                self.unlink(*found)
            if place == 0 or monotonic() > until:
                break
        self.call("hot_erased", [row[0] for row in rows], identity, str(place))


def pattern(prefix: str, wanted: "set[tuple[Any, Any]]") -> str:
    """For SCAN: what entries and leases are called that are wanted by (type, tenant), of which None is any."""
    type, tenant = next(iter(wanted)) if len(wanted) == 1 else (None, None)
    whose = "*" if tenant is None else f"{len(tenant)}:{literal(tenant)}:*"
    return f"{literal(prefix)}:[el]:{type or '*'}:{whose}"


def literal(name: str) -> str:
    return "".join("\\" + each if each in "\\*?[]^-" else each for each in name)


def concerns(prefix: str, name: Any, wanted: "set[tuple[Any, Any]]") -> bool:
    """Whether a key is that of an entry, or of its leases, that is wanted: a pattern may find more."""
    type, _, rest = text(name)[len(prefix) + len(":e:") :].partition(":")
    length, _, rest = rest.partition(":")
    tenant = rest[: int(length)] if length.isdecimal() else None
    return not wanted.isdisjoint({(type, tenant), (type, None), (None, tenant), (None, None)})


def database_of(owner: str) -> str:
    return owner.rpartition("/")[0]


def why_void(known_epoch: Any, known_redis: Any, epoch: str, identity: str, owner: str, newest: Any) -> str:
    """Why what Redis has is void; '' if it is not."""
    if known_epoch is None:
        return "the relay has not been here since the server started anew"
    if known_redis != identity:
        return "this is another Redis, or another run of it"
    if known_epoch != epoch or not owner:
        return "Redis was emptied"
    if any(key is None for _, _, key in newest):
        return "a type has left the tier or was emptied, or the outbox was too long"
    return ""


def permanent(error: Exception) -> bool:
    """Whether Redis can be reached, but refuses: the password, the number of the database."""
    return type(error).__name__ in ("AuthenticationError", "NoPermissionError", "ResponseError")


def text(reply: Any) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply
