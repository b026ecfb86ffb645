"""What can go wrong: one class for each SQLSTATE of pgcache. Messages may change, SQLSTATEs do not."""

from __future__ import annotations

import re

import psycopg

REDIS_URL_HINT = "redis://[:password@]host[:port][/database], rediss:// for TLS, or unix://path"


class PgcacheError(Exception):
    """The base of all errors of pgcache.

    sqlstate: PostgreSQL's five characters, None if the error is not the server's. hint: what to do next, if known.
    detail: more about the cause, if there is more. `__cause__` is psycopg's error, if there was one.

    PC091: a migration that ran in this database has changed since.
    PC092: the server has no extension vector.
    PC093: objects that are not pgcache's own depend on what an upgrade changes, or have the name of what it makes.
    PC094: the printed SQL is for a database with another version of pgcache, or with none.
    PC095: pgcache is an extension in this database, whose version is not the package's.
    """

    default_hint: str | None = None

    def __init__(
        self, message: str, *, sqlstate: str | None = None, hint: str | None = None, detail: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.hint = hint or self.default_hint
        self.detail = detail

    def __str__(self) -> str:
        more = {"DETAIL": self.detail, "HINT": self.hint}
        return "\n".join([self.message, *(f"{name}:  {text}" for name, text in more.items() if text)])


class UnknownTypeError(PgcacheError):
    """PC001, or 42P01 of one that is being dropped: there is no such cache type; the hint lists those that are."""

    default_hint = "Create it with cache_create_type, as a program may when it starts: exist_ok => true."


class InvalidKeyError(PgcacheError, ValueError):
    """PC002: a key is None or empty, a key or a tenant over 1,024 bytes, or what to invalidate or forget is None."""


class InvalidTTLError(PgcacheError, ValueError):
    """PC003, 22007, 22008, 22015: a time to live is zero, negative, or no interval."""

    default_hint = "Pass seconds, a timedelta, or a text like '5 minutes'; more than zero."


class InvalidValueError(PgcacheError, ValueError):
    """PC004, 22, 54: a value is no JSON, does not fit its type, or is more than PostgreSQL can take."""


class UnrepresentableError(InvalidValueError):
    """22021, 22P05, or the client's own check: a text or value that PostgreSQL, or Python, cannot hold.

    NUL, half a surrogate, a character that the database's encoding lacks; a value that SQL stored and that is nested
    too deeply for Python's JSON. In fail-soft mode a miss, since it comes with the data.
    """


class NotTextError(UnrepresentableError, TypeError):
    """Bytes where a text is due, such as for a key."""

    default_hint = "Decode it, or make a text of it with .hex()."


class DimensionError(InvalidValueError):
    """PC005: a vector does not have the dimensions that the type is configured for."""


class InvalidPatternError(PgcacheError, ValueError):
    """PC006: a pattern is empty, or ends in a lone escape character."""


class TypeExistsError(PgcacheError):
    """PC007: the type to create exists already."""


class BuiltinTypeError(PgcacheError):
    """PC008: a built-in type cannot be dropped."""


class CacheFullError(PgcacheError):
    """PC009: the type is at its limit and evicts nothing, or the value is larger than its max_bytes."""


class InvalidSettingError(PgcacheError, ValueError):
    """PC010: a setting of a type is out of range."""


class NotANumberError(PgcacheError):
    """PC011: incr found a value that is not a whole number."""


class CronMissingError(PgcacheError):
    """PC012: scheduling needs the extension pg_cron."""


class InvalidTagError(PgcacheError, ValueError):
    """PC013: what cannot be a tag, or too many tags for one entry."""


class TooSlowError(PgcacheError, TimeoutError):
    """The client's own: hard_timeout is over, and the value is not computed yet."""


class ModelError(PgcacheError):
    """The model could not be asked.

    PC020: not configured: there is no key, or no usable address.
    PC021: the endpoint is unreachable, too slow, cut off, or answers HTTP 5xx, after all retries.
    PC022: the endpoint refused the request: its key, model or length.
    PC023: the endpoint's rate limit, after waiting as its Retry-After says.
    PC024: an answer that is no answer, or embeddings that cannot be told apart.
    PC025: the prompt or text is empty, or the mode unknown.
    """


class HotTierError(PgcacheError):
    """The hot tier, or its relay, cannot do its work.

    PC030: it is not set up: no URL of a Redis, or a missing package or extension.
    PC031: Redis cannot be reached, or fails.
    PC032: the prefix belongs to another database, or to another server that has this one, too.
    """


class NewerDatabaseError(PgcacheError):
    """PC090: the database holds a newer pgcache than this package can install."""


class ReadOnlyError(PgcacheError):
    """25006: the call writes, and the transaction is READ ONLY or the server a standby. `get` works there."""

    default_hint = "Write on the primary server, outside of a READ ONLY transaction."


class AbortedTransactionError(PgcacheError):
    """25P02: the caller's transaction had failed before this call."""

    default_hint = "Roll the transaction back first."


class PermissionDeniedError(PgcacheError):
    """42501: the role may not do that."""

    default_hint = (
        "Ask the cache's owner: SELECT pgcache.cache_grant('role') lets a role get and set, with 'admin' also create"
        " and configure types; the rest is for the owner."
    )


class NotInstalledError(PgcacheError):
    """3F000, 42883, 42P01: the database has no pgcache, or an older one than the client.

    The same about what is not pgcache's, such as a table that a trigger of yours names, is a PgcacheError.
    """

    default_hint = "python -m pgcache_py install --dsn ..."


class UnavailableError(PgcacheError):
    """08, 28, 53, 57, 58, or no SQLSTATE at all: the server cannot be reached, lets nobody in, or is going down."""


class TimedOutError(UnavailableError):
    """57014, or the client's own limit: the call took longer than it may, or was cancelled."""


class BusyError(PgcacheError):
    """55P03: another session holds a lock, for longer than the setting lock_timeout lets this one wait."""


class BrokenError(PgcacheError):
    """XX: the server found a fault inside itself, such as a damaged index."""


_CLASSES: dict[str, type[PgcacheError]] = {
    "PC001": UnknownTypeError,
    "PC002": InvalidKeyError,
    "PC003": InvalidTTLError,
    "PC004": InvalidValueError,
    "PC005": DimensionError,
    "PC006": InvalidPatternError,
    "PC007": TypeExistsError,
    "PC008": BuiltinTypeError,
    "PC009": CacheFullError,
    "PC010": InvalidSettingError,
    "PC011": NotANumberError,
    "PC012": CronMissingError,
    "PC013": InvalidTagError,
    **{f"PC02{digit}": ModelError for digit in range(6)},
    **{f"PC03{digit}": HotTierError for digit in range(3)},
    "PC090": NewerDatabaseError,
    "22007": InvalidTTLError,
    "22008": InvalidTTLError,
    "22015": InvalidTTLError,
    "22021": UnrepresentableError,
    "22P05": UnrepresentableError,
    "25006": ReadOnlyError,
    "25P02": AbortedTransactionError,
    "3F000": NotInstalledError,
    "42501": PermissionDeniedError,
    "42883": NotInstalledError,
    "42P01": NotInstalledError,
    "55P03": BusyError,
    "57014": TimedOutError,
    # Whole classes of conditions.
    "08": UnavailableError,
    "22": InvalidValueError,
    "28": UnavailableError,
    "53": UnavailableError,
    "54": InvalidValueError,
    "57": UnavailableError,
    "58": UnavailableError,
    "XX": BrokenError,
}

# The table of a type that was dropped while the call waited for it.
_DROPPED = re.compile(r"\bcache_type_(?!store\b)([a-z][a-z0-9_]*)\b")
# What is missing may be anybody's: a table that a trigger of the user's names, say. Names are in messages of all
# languages.
_OWN_NAME = re.compile(r"\bpgcache(_internal)?\b")


def translated(error: psycopg.Error) -> PgcacheError | psycopg.Error:
    """pgcache's error for one of psycopg's. Decided by SQLSTATE; where there is none, the connection is the trouble.

    Of what does not exist it counts, too, whether it is pgcache's.

    A rolled-back transaction (class 40) is the caller's to repeat, in a loop that knows psycopg's errors: left alone.
    """
    sqlstate = error.sqlstate
    if sqlstate is None:
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        found = UnavailableError if lost else PgcacheError
    elif sqlstate.startswith("40"):
        return error
    else:
        found = _CLASSES.get(sqlstate) or _CLASSES.get(sqlstate[:2]) or PgcacheError
    message = (error.diag.message_primary or str(error)).strip()
    if sqlstate == "42P01" and (dropped := _DROPPED.search(message)):
        return UnknownTypeError(f"the cache type {dropped[1]!r} has been dropped", sqlstate=sqlstate)
    if found is NotInstalledError and not _OWN_NAME.search(message):
        found = PgcacheError
    return found(
        message,
        sqlstate=sqlstate,
        # "No function matches the given name and argument types" leads nowhere.
        hint=None if found is NotInstalledError else error.diag.message_hint,
        detail=error.diag.message_detail,
    )
