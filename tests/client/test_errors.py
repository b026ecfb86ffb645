"""Errors: a class for each SQLSTATE, with a hint, and psycopg's error as the cause."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import pgcache_py
from pgcache_py import errors
from pgcache_py.errors import (
    AbortedTransactionError,
    BrokenError,
    BuiltinTypeError,
    BusyError,
    CacheFullError,
    CronMissingError,
    DimensionError,
    InvalidKeyError,
    InvalidPatternError,
    InvalidSettingError,
    InvalidTTLError,
    InvalidValueError,
    ModelError,
    NewerDatabaseError,
    NotANumberError,
    NotInstalledError,
    PermissionDeniedError,
    PgcacheError,
    ReadOnlyError,
    TimedOutError,
    TypeExistsError,
    UnavailableError,
    UnknownTypeError,
    translated,
)
from tests.client.test_loops_and_signals import connected
from tests.tools.waiting import wait_until

pytestmark = pytest.mark.once  # the client; what it calls is in tests/sql

CLASSES = {
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
    "PC023": ModelError,
    "PC090": NewerDatabaseError,
    "25006": ReadOnlyError,
    "25P02": AbortedTransactionError,
    "42501": PermissionDeniedError,
    "3F000": NotInstalledError,
    "42883": NotInstalledError,
    "42P01": NotInstalledError,
    "57014": TimedOutError,
    "55P03": BusyError,
    "57P01": UnavailableError,
    "53300": UnavailableError,
    "08006": UnavailableError,
    "XX001": BrokenError,
    "22023": InvalidValueError,
    "54000": InvalidValueError,
    "22007": InvalidTTLError,
    "22015": InvalidTTLError,
    "P0001": PgcacheError,
    "PC999": PgcacheError,
}

BAD: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "unknown type": (lambda c: c.get("nope", "k"), "PC001", "llm"),
    "unknown type to set": (lambda c: c.set("nope", "k", 1), "PC001", "cache_create_type"),
    "None as type": (lambda c: c.get(None, "k"), "PC001", "llm"),
    "empty key": (lambda c: c.get("store", ""), "PC002", "cache_key"),
    "None as key": (lambda c: c.set("store", None, 1), "PC002", "cache_key"),
    "long key": (lambda c: c.set("store", "é" * 513, 1), "PC002", "cache_key"),
    "one bad key of many": (lambda c: c.delete_many("store", ["a", None]), "PC002", "cache_key"),
    "no time to live": (lambda c: c.set("store", "k", 1, 0), "PC003", "."),
    "negative time to live": (lambda c: c.set("store", "k", 1, -1), "PC003", "."),
    "tiny time to live": (lambda c: c.set("store", "k", 1, 1e-9), "PC003", "."),
    "text that is no interval": (lambda c: c.set("store", "k", 1, "soon"), "22007", ""),
    "huge interval": (lambda c: c.set("store", "k", 1, "10000000000 years"), "22015", ""),
    "value that does not fit": (lambda c: c.set("llm", "k", {"model": "m"}), "PC004", "response"),
    "pattern with a lone escape": (lambda c: c.delete_pattern("store", "a\\"), "PC006", "escape"),
    "type that exists": (lambda c: c.create_type("llm"), "PC007", "cache_configure"),
    "name of a type": (lambda c: c.create_type("No good"), "PC010", "letter"),
    "built-in type": (lambda c: c.drop_type("llm"), "PC008", "cache_clear"),
    "eviction": (lambda c: c.configure("llm", eviction="random"), "PC010", "lru"),
    "limit": (lambda c: c.configure("llm", max_entries=0), "PC010", "positive"),
    "not a number": (lambda c: c.incr("store", "text"), "PC011", "."),
}


@pytest.mark.parametrize("fail_soft", [False, True], ids=["strict", "fail-soft"])
def test_mistakes_raise_in_both_modes(world: Any, dsn: str, fail_soft: bool) -> None:
    cache = world.cache(dsn, fail_soft=fail_soft)
    cache.set("store", "text", "x")
    for case, (call, sqlstate, hint) in BAD.items():
        with pytest.raises(PgcacheError) as caught:
            call(cache)
        error = caught.value
        assert (error.sqlstate, type(error)) == (sqlstate, CLASSES[sqlstate]), case
        assert re.search(hint, error.hint or ""), case
        assert isinstance(error.__cause__, psycopg.Error)
        assert cache.get("store", "text") == "x"  # nothing is left broken


@pytest.mark.parametrize("ttl", [True, float("nan"), -float("inf"), [], object()])
def test_what_is_no_time_to_live(ttl: Any) -> None:
    with pytest.raises(InvalidTTLError, match="time to live"):
        pgcache_py.Cache("").set("store", "k", 1, ttl)


def fail(db: psycopg.Connection, sqlstate: str, message: str = "what") -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        db.execute(f"DO $$ BEGIN RAISE '{message}' USING ERRCODE = '{sqlstate}', HINT = 'what next'; END $$")
    return caught.value


def test_a_class_for_each_sqlstate(db: psycopg.Connection) -> None:
    for sqlstate, cls in CLASSES.items():
        ours = cls is NotInstalledError
        error = translated(fail(db, sqlstate, "»pgcache.cache_get(text)« fehlt" if ours else "what"))
        assert isinstance(error, PgcacheError)
        assert (type(error), error.sqlstate) == (cls, sqlstate)
        if not ours:
            assert error.hint == "what next"
            assert str(error) == "what\nHINT:  what next"


def test_a_rolled_back_transaction_stays_psycopgs(db: psycopg.Connection) -> None:
    for sqlstate in ("40001", "40P01"):
        error = fail(db, sqlstate)
        assert translated(error) is error


def test_every_class_is_exported() -> None:
    classes = {name for name, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__}
    assert classes <= set(pgcache_py.__all__)
    assert all(inspect.getdoc(getattr(errors, name)) for name in classes)
    for name in (
        "InvalidKeyError",
        "InvalidTTLError",
        "InvalidValueError",
        "InvalidPatternError",
        "InvalidSettingError",
    ):
        assert issubclass(getattr(errors, name), ValueError)


def test_not_installed(empty_dsn: str, world: Any) -> None:
    cache = world.cache(empty_dsn)
    for call in (lambda: cache.get("store", "k"), lambda: cache.set("store", "k", 1), cache.stats):
        with pytest.raises(NotInstalledError) as caught:
            call()
        assert "python -m pgcache_py install" in str(caught.value)


@pytest.mark.parametrize("missing", ["schema app", "function f()", "relation app.pgcache_entries"])
def test_what_is_missing_may_be_the_users_own(db: psycopg.Connection, missing: str) -> None:
    for sqlstate in ("3F000", "42883", "42P01"):
        error = translated(fail(db, sqlstate, f"{missing} does not exist"))
        assert isinstance(error, PgcacheError)
        assert (type(error), error.hint) == (PgcacheError, "what next")


def test_a_trigger_of_the_users_names_what_is_not_there(world: Any, dsn: str, db: psycopg.Connection) -> None:
    db.execute("CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (1); END'")
    db.execute("CREATE TRIGGER audit AFTER INSERT ON pgcache.cache_llm_responses EXECUTE FUNCTION audit()")
    for fail_soft in (False, True):
        with pytest.raises(PgcacheError, match="log") as caught:
            world.cache(dsn, fail_soft=fail_soft).set("llm", "k", {"response": "r"})
        assert (type(caught.value), caught.value.sqlstate) == (PgcacheError, "42P01")
        assert not caught.value.hint


def test_read_only(world: Any, dsn: str) -> None:
    world.cache(dsn).set("store", "k", 1)
    cache = world.cache(world.connect(dsn, autocommit=True, options="-c default_transaction_read_only=on"))
    assert cache.get("store", "k") == 1
    assert cache.get("store", "absent") is None
    assert cache.get_many("store", ["k"]) == {"k": 1}
    for call in (
        lambda: cache.set("store", "k", 2),
        lambda: cache.delete("store", "k"),
        lambda: cache.incr("store", "k"),
    ):
        with pytest.raises(ReadOnlyError) as caught:
            call()
        assert caught.value.sqlstate == "25006"
        assert caught.value.hint


def test_no_privilege(world: Any, dsn: str, db: psycopg.Connection) -> None:
    role = f"nobody_{db.info.dbname}"
    db.execute(f"CREATE ROLE {role}")
    try:
        cache = world.cache(world.connect(dsn, autocommit=True, options=f"-c role={role}"))
        with pytest.raises(PermissionDeniedError, match="cache_grant") as caught:
            cache.get("store", "k")
        assert caught.value.sqlstate == "42501"
    finally:
        db.execute(f"DROP ROLE {role}")


def test_full(cache: Any) -> None:
    cache.create_type("small", max_entries=1, eviction="none")
    cache.set("small", "a", 1)

    def fill() -> None:
        for n in range(100):
            cache.set("small", f"b{n}", 1)

    with pytest.raises(CacheFullError):
        fill()


def test_wrong_sources() -> None:
    for cls in (pgcache_py.Cache, pgcache_py.AsyncCache):
        for source in (5, object(), b"host=x"):
            with pytest.raises(TypeError, match=cls.__name__):
                cls(source)  # type: ignore[arg-type]
    for timeout in (0, -1, float("nan"), math.inf, 1e9, "5", True, 10**400):
        with pytest.raises(InvalidValueError, match="a timeout is a positive number"):
            pgcache_py.Cache("", timeout=timeout)  # type: ignore[arg-type]


def test_the_other_worlds_connections_are_refused(dsn: str) -> None:
    with psycopg.connect(dsn) as connection, pytest.raises(TypeError, match="AsyncConnection"):
        pgcache_py.AsyncCache(connection)  # type: ignore[arg-type]


def test_a_bad_conninfo_is_a_mistake(world: Any) -> None:
    for fail_soft in (False, True):
        with pytest.raises(PgcacheError, match="nonsense"):
            world.cache("nonsense=1", fail_soft=fail_soft).get("store", "k")


def test_closed(world: Any, dsn: str, db: psycopg.Connection) -> None:
    cache = world.cache(dsn, fail_soft=True)
    view = cache.for_tenant("t")
    assert cache.set("store", "k", 1) is True
    view.close()
    assert cache.get("store", "k") == 1
    cache.close()
    cache.close()
    wait_until(lambda: not connected(db))
    for closed in (cache, view):
        assert closed.set("store", "k", 2) is True
        assert connected(db)
        cache.close()
