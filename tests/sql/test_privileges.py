"""Who may do what: nobody anything, until cache_grant."""

from __future__ import annotations

import re

import psycopg
import pytest

from tests.conftest import NewRole
from tests.sql.test_bad_input import WRITES
from tests.sql.test_read_only import READS, fill
from tests.sql.test_session_settings import CALLS
from tests.tools.names import unique
from tests.tools.session import Session, refused

pytestmark = pytest.mark.upgraded

ADMINISTRATION = [
    "cache_create_type('other')",
    "cache_configure('store', ttl => '1 hour')",
    "cache_tenant_limit('mine', 'a', 10)",
    "cache_drop_type('mine')",
    "cache_set_price('m', 1)",
    "cache_configure_setting('ttl_short', '5 minutes')",
]


def test_reader(ask: Session, role: NewRole) -> None:
    fill(ask)
    ask('SELECT cache_set(\'crawl\', \'shared\', \'{"url": "u", "image_hash": "h", "raw_key": "r"}\')')
    reader = role("read")
    for call, result in READS.items():
        assert reader(f"SELECT {call}") == result, call
    assert reader("SELECT hits > 0 FROM cache_stats WHERE type = 'store'")
    for call in WRITES + ADMINISTRATION:
        with refused("42501"):
            reader(f"SELECT {call}")
    with refused("42501"):
        reader("CALL cache_upkeep()")
    with refused("42501"):
        reader("DELETE FROM cache_store")


def test_writer(ask: Session, role: NewRole) -> None:
    fill(ask)
    writer = role("write")
    for call in WRITES:
        writer(f"SELECT {call}")
    fill_again = [call for call in READS if call.startswith("cache_get")]
    for call in fill_again:
        writer(f"SELECT {call}")
    for call in ADMINISTRATION:
        with refused("42501"):
            writer(f"SELECT {call}")
    with refused("42501"):
        writer("UPDATE pgcache_internal.types SET ttl = NULL")


@pytest.mark.parametrize("access", ["read", "write", "admin"])
def test_what_a_role_was_given_it_can_call(ask: Session, role: NewRole, access: str) -> None:
    """Down to what is inlined into its own statements, and so runs with its rights."""
    levels = ("read", "write", "admin")
    given = ask.column(
        "SELECT name::text FROM pgcache_internal.callable() WHERE access = ANY(%s)",
        list(levels[: levels.index(access) + 1]),
    )
    theirs = role(access)
    denied = {}
    for call in CALLS:
        if set(re.findall(r"\b((?:cache|get|ai|crawl|cleanup)_[a-z_]+)\(", call)) <= set(given):
            try:
                theirs(f"SELECT {call}".replace("%", "%%"))
            except psycopg.errors.InsufficientPrivilege as error:
                denied[call] = error
            except psycopg.Error:  # as for the owner, which test_session_settings knows
                pass
    assert not denied
    for view in ask.column("SELECT viewname::text FROM pg_views WHERE schemaname = 'pgcache'"):
        theirs(f"SELECT count(*) FROM {view}")


@pytest.mark.parametrize("call", ["cache_grant(%s)", "cache_grant(%s, 'read')", "cache_revoke(%s)"])
def test_the_owner_is_given_nothing_and_loses_nothing(ask: Session, call: str) -> None:
    """All functions act with its rights."""
    ask("SELECT cache_set('store', 'k', '1')")
    with refused("PC010", "CREATE ROLE"):
        ask(f"SELECT {call}", ask("SELECT pgcache_internal.owner()"))
    assert ask("SELECT cache_get('store', 'k')") == 1


@pytest.mark.parametrize("eviction", ["lru", "none"])
def test_writer_at_a_limit(ask: Session, role: NewRole, eviction: str) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 10, eviction => %s)", eviction)
    writer = role("write")
    writer("SELECT count(cache_set('mine', 'k' || i, '1')) FROM generate_series(1, 10) i")
    writer("SELECT cache_delete('mine', 'k1')")
    for key in ("new", "k2"):
        assert writer("SELECT cache_set('mine', %s, '1')", key)
    if eviction == "none":
        with refused("PC009"):
            writer("SELECT cache_set('mine', 'newer', '1')")
    else:
        assert writer("SELECT cache_set('mine', 'newer', '1')")
    assert ask("SELECT count(*) FROM cache_type_mine") == 10


def test_admin(ask: Session, role: NewRole) -> None:
    fill(ask)
    admin = role("admin")
    for call in WRITES + ADMINISTRATION:
        admin(f"SELECT {call}")
    admin("SELECT cache_set('other', 'k', '1')")
    assert admin("SELECT cache_get('other', 'k')") == 1
    with refused("42501"):  # giving rights on is for the owner
        admin("SELECT cache_grant(current_user, 'admin')")
    with refused("42501"):
        admin("SELECT cache_revoke(current_user)")


def test_a_writers_writes_pay_for_upkeep(ask: Session, role: NewRole) -> None:
    ask("SELECT cache_create_type('small', max_entries => 100)")
    ask("SELECT cache_configure('llm', max_entries => 100), cache_configure('audio', max_bytes => 100000)")
    writer = role("write")
    writer(
        "SELECT count(cache_set('small', 'k' || i, '1')), count(cache_set_llm('p' || i, 'm', 'r'))"
        " FROM generate_series(1, 300) i"
    )
    writer("SELECT count(cache_get('small', 'k' || i)) FROM generate_series(1, 300) i")
    writer(
        "SELECT count(cache_set_audio('t' || i, 'v', decode(repeat('00', 5000), 'hex'), 'wav'))"
        " FROM generate_series(1, 60) i"
    )
    for type in ("small", "llm"):
        assert ask.stats(type)["entries"] <= 105
    assert ask.stats("audio")["bytes"] <= 110_000


def test_writers_see_types_that_are_created_later(ask: Session, role: NewRole) -> None:
    reader, writer = role("read"), role("write")
    ask("SELECT cache_create_type('mine', max_entries => 40)")
    for i in range(60):
        assert writer("SELECT cache_set('mine', %s, '1')", f"k{i}")
    assert reader("SELECT cache_get('mine', 'k59')") == 1
    assert reader("SELECT cache_get('mine', 'absent') IS NULL")
    assert reader("SELECT value FROM cache_get_many('mine', '{k59}')") == 1
    assert writer("SELECT cache_incr('mine', 'n')") == 1
    assert reader("SELECT entries > 0 FROM cache_stats WHERE type = 'mine'")
    with refused("42501"):
        reader("SELECT cache_set('mine', 'k', '1')")


def test_access_replaces_what_was_there_and_can_be_revoked(ask: Session, role: NewRole) -> None:
    session = role("admin")
    name = session("SELECT current_user")
    session("SELECT cache_create_type('mine')")
    ask("SELECT cache_grant(%s, 'read')", name)
    with refused("42501"):
        session("SELECT cache_set('store', 'k', '1')")
    with refused("42501"):
        session("SELECT cache_drop_type('mine')")
    assert session("SELECT cache_get('store', 'k') IS NULL")
    ask("SELECT cache_grant(%s)", name)  # by default, writing
    assert session("SELECT cache_set('store', 'k', '1')")
    ask("SELECT cache_revoke(%s)", name)
    with refused("42501"):
        session("SELECT pgcache.cache_get('store', 'k')")
    assert ask("SELECT count(*) FROM pg_class WHERE relacl::text LIKE %s", f"%{name}%") == 0
    assert ask("SELECT count(*) FROM pg_proc WHERE proacl::text LIKE %s", f"%{name}%") == 0


def test_names_of_roles_are_quoted(ask: Session, admin: object) -> None:
    name = unique('o"dd, role')
    quoted = '"{}"'.format(name.replace('"', '""'))
    ask(f"CREATE ROLE {quoted}")
    try:
        ask("SELECT cache_grant(%s)", name)
        assert ask("SELECT has_function_privilege(%s, 'pgcache.cache_get(text,text)', 'EXECUTE')", name)
        ask("SELECT cache_create_type('mine')")
        ask("SELECT cache_grant(%s, 'tables')", name)
        assert ask("SELECT has_table_privilege(%s, 'cache_type_mine', 'SELECT')", name)
        ask("SELECT cache_revoke(%s)", name)
        assert not ask("SELECT has_table_privilege(%s, 'cache_type_mine', 'SELECT')", name)
        ask("SELECT cache_grant(%s, 'write', ARRAY[%s])", name, "o'acme\" \\")
        ask(f"SET ROLE {quoted}")
        assert ask("SELECT pgcache_internal.current_tenant()") == "o'acme\" \\"
        ask("RESET ROLE")
    finally:
        ask(f"DROP OWNED BY {quoted}")
        ask(f"DROP ROLE {quoted}")


@pytest.mark.once
@pytest.mark.parametrize("access", [None, "read", "write", "admin"])
def test_nobody_locks_what_makes_others_wait(ask: Session, role: NewRole, access: str | None) -> None:
    """That an advisory lock is anybody's who may connect, and there is none: see tests/static/test_functions.py."""
    ours = "namespace::regnamespace::text ~ '^pgcache'"
    session = role(access)
    tables = ask.column(
        f"SELECT format('%s.%I', relnamespace::regnamespace, relname) FROM pg_class WHERE rel{ours} AND relkind = 'r'"
    )
    assert "pgcache_internal.turn_store" in tables
    some = ["pgcache_internal.turn_store", "pgcache_internal.tenant_savings"]
    for table in tables if access in (None, "read") else some:
        with session.transaction(), refused("42501"):
            session(f"LOCK TABLE {table} IN SHARE MODE")
    ask("SELECT cache_create_type('mine', max_entries => 10)")
    with ask.transaction():  # nor does what is locked for one type hold up another
        ask("SELECT cache_set('mine', 'k' || i, '1') FROM generate_series(1, 20) i")
        if access in ("write", "admin"):
            session("SELECT cache_set('store', 'k', '1')")


@pytest.mark.once
@pytest.mark.parametrize("access", ["read", "write"])
def test_definers_rights_are_no_way_in(ask: Session, role: NewRole, access: str) -> None:
    """What acts with the owner's rights ignores what the caller has in front of its search_path."""
    fill(ask)
    ask("GRANT CREATE ON SCHEMA public TO PUBLIC")
    session = role(access)
    session(
        "CREATE FUNCTION public.check_type(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION"
        " ''trapped''; END'"
    )
    session(
        "CREATE FUNCTION public.cache_now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION"
        " ''trapped''; END'"
    )
    session(
        "CREATE FUNCTION public.nextval(regclass) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION"
        " ''trapped''; END'"
    )
    session(
        "CREATE FUNCTION public.floor(float8) RETURNS float8 LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION"
        " ''trapped''; END'"
    )
    session("CREATE TEMP TABLE types (type text, relation regclass)")
    session("CREATE TEMP TABLE hit_log (x int)")
    session("SET search_path = public, pg_temp, pgcache")
    session("SELECT pgcache.cache_get('store', 'k'), cache_get('mine', 'k')")
    session("SELECT * FROM cache_get_many('store', '{k}')")
    session("SELECT * FROM cache_stats")
    session("SET search_path = public, pg_temp, pgcache, pg_catalog")
    if access == "write":
        for call in (
            "cache_set('store', 'k', '1')",
            "cache_set_many('store', '{k}', '{1}')",
            "cache_clear_expired()",
            "cache_cleanup()",
        ):
            session(f"SELECT {call}")


def test_types_named_by_others_cannot_inject(ask: Session, role: NewRole) -> None:
    admin = role("admin")
    for name in (
        "x'); DROP TABLE pgcache_internal.types; --",
        'x"; DROP TABLE pgcache_internal.types; --',
        "%I",
        "%s",
        "$1",
    ):
        with refused("PC010"):
            admin("SELECT cache_create_type(%s)", name)
        with refused("PC001"):
            admin("SELECT cache_get(%s, 'k')", name)
        admin("SELECT cache_set('store', %s, '1')", name)
        assert admin("SELECT cache_delete_pattern('store', %s)", name.replace("%", "\\%")) == 1
        admin(
            "SELECT cache_invalidate_tenant(%s), cache_invalidate_user(%s), cache_invalidate_schema(%s)",
            name,
            name,
            name,
        )
        admin("SELECT set_config('pgcache.tenant', %s, false)", name)
        assert admin("SELECT cache_set('store', 'k', '1')")
        assert admin("SELECT cache_clear('store')") == 1
        admin("RESET pgcache.tenant")
