"""Who may read the key (the owner), who may spend money (who was granted it), and where the key never shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgcache_py.setup.install import install
from tests.plpython.standin import KEY, Reply, Standin
from tests.plpython.tools import host_of
from tests.servers import Server
from tests.tools.session import call, session, user, waiting_for_a_lock
from tests.tools.waiting import Background, wait_until

pytestmark = pytest.mark.needs("plpython3u")

Ask = Callable[..., Any]
PROJECT = Path(__file__).parents[2]
ACCESS = ("read", "write", "admin")


@pytest.mark.parametrize("access", ACCESS)
def test_nobody_else_reads_the_key(
    db: psycopg.Connection, endpoint: Standin, new_role: Callable[[str], str], access: str
) -> None:
    role = new_role(db.info.dsn)
    call(db, "cache_grant", user(role), access)
    call(db, "ai_grant", user(role))
    db.execute("ANALYZE")
    with session(role) as theirs:
        for query in (
            "SELECT * FROM pgcache_internal.ai_secrets",
            "SELECT * FROM pg_stats WHERE tablename = 'ai_secrets' AND attname = 'value'",
            "SELECT * FROM pgcache.ai_settings()",
            "SELECT * FROM pgcache_internal.settings",
            "SELECT * FROM pgcache.cache_stats",
            "SELECT * FROM pgcache.cache_health()",
        ):
            try:
                rows = theirs.execute(query.encode()).fetchall()
            except psycopg.errors.InsufficientPrivilege:
                continue
            assert KEY not in str(rows)
        for statement in (
            "UPDATE pgcache_internal.ai_secrets SET value = 'x'",
            "SELECT pgcache.ai_configure(api_key => 'x')",
            "SELECT pgcache.ai_configure(base_url => 'http://evil.example/v1')",
            "SELECT pgcache.cache_configure_setting('ai_base_url', 'http://evil.example/v1')",
            "SELECT pgcache.ai_grant('postgres')",
        ):
            with pytest.raises(psycopg.Error) as raised:
                theirs.execute(statement.encode())
            assert raised.value.sqlstate in ("42501", "PC010")
    assert db.execute("SELECT value FROM pgcache_internal.ai_secrets").fetchone() == (KEY,)
    stats = db.execute("SELECT * FROM pg_statistic WHERE starelid = 'pgcache_internal.ai_secrets'::regclass").fetchall()
    assert KEY not in str(stats)


@pytest.mark.parametrize("access", ACCESS[:2])
@pytest.mark.parametrize("function", ["ai_worker_generate", "llm_complete", "embed"])
def test_spending_money_is_a_grant_of_its_own(
    db: psycopg.Connection, ask: Ask, endpoint: Standin, new_role: Callable[[str], str], access: str, function: str
) -> None:
    endpoint.sql("known", "SELECT 1")
    role = new_role(db.info.dsn)
    call(db, "cache_grant", user(role), access)
    options = {"schema_version": "v1"} if function == "ai_worker_generate" else {}
    ask(function, "known", **options)
    with session(role) as theirs:
        assert call(theirs, function, "known", **options), "what is cached costs nothing"
        for attempt in (
            lambda: call(theirs, function, "new", **options),
            lambda: theirs.execute("SELECT pgcache_internal.ai_fetch('chat', '{}')"),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
                attempt()
        assert len(endpoint.log) == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
            call(theirs, function, "new", **options)
        assert f"ai_grant('{user(role)}')" in str(raised.value.diag.message_hint)
        call(db, "ai_grant", user(role))
        assert call(theirs, function, "new", **options)
        assert len(endpoint.log) == 2
        call(db, "ai_revoke", user(role))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            call(theirs, function, "newer", **options)


def test_a_role_without_anything_is_given_all_it_needs(
    db: psycopg.Connection, endpoint: Standin, new_role: Callable[[str], str]
) -> None:
    role = new_role(db.info.dsn)
    call(db, "ai_grant", user(role))
    with session(role) as theirs:
        for hit in (False, True):
            assert call(theirs, "llm_complete", "hello")["cache_hit"] is hit
    with pytest.raises(psycopg.Error) as raised:
        call(db, "ai_grant", "nobody_of_that_name")
    assert raised.value.sqlstate == "PC010"


def test_the_key_is_not_in_logs_errors_or_activity(
    server: Server, dsn: str, db: psycopg.Connection, ask: Ask, endpoint: Standin
) -> None:
    with session(dsn) as other:
        for setting in ("log_statement = 'all'", "log_min_duration_statement = 0", "log_error_verbosity = verbose",
                        "client_min_messages = debug1", "log_min_messages = debug2"):  # fmt: skip
            other.execute(f"SET {setting}".encode())
        with endpoint.holding():
            caller = Background(lambda: call(other, "llm_complete", "hello"))
            wait_until(lambda: endpoint.log)
            here = db.execute("SELECT * FROM pg_stat_activity WHERE datname = current_database()")
            assert KEY not in str(here.fetchall())
        caller.result()
        ask("ai_configure", retries=0)
        for step in (
            Reply(status=401, body={"error": {"message": f"bad key {KEY}"}}),
            Reply(how="reset"),
            Reply(how="raw", body=KEY.encode()),
        ):
            endpoint.script = [step]
            with pytest.raises(psycopg.Error) as raised:
                call(other, "llm_complete", "other")
            shown = raised.value.diag
            assert KEY not in f"{raised.value} {shown.message_detail} {shown.message_hint} {shown.context}"
    written = server.log(db.info.dbname)
    if written is not None:
        assert "llm_complete" in written
        # The fixture sets it in a statement that is not logged.
        assert KEY not in written


@pytest.mark.parametrize("key", ["sk with space", "sk\nX-Header: 1", "ключ", "sk\t"])
def test_keys_that_no_key_looks_like(ask: Ask, key: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        ask("ai_configure", api_key=key)
    assert raised.value.sqlstate == "PC010"
    assert key not in str(raised.value)


def test_a_role_without_temporary_objects(
    db: psycopg.Connection, endpoint: Standin, new_role: Callable[[str], str]
) -> None:
    role = new_role(db.info.dsn)
    call(db, "ai_grant", user(role))
    db.execute(f'REVOKE TEMPORARY ON DATABASE "{db.info.dbname}" FROM PUBLIC'.encode())
    with session(role) as theirs, pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
        call(theirs, "ai_worker_generate", "hello")
    assert "GRANT TEMPORARY ON DATABASE" in str(raised.value.diag.message_hint)
    assert not endpoint.log


def test_the_owner_need_not_be_a_superuser(
    admin: psycopg.Connection, empty_dsn: str, new_role: Callable[[str], str]
) -> None:
    """The functions belong to the schema's owner, whoever installed them, and act with the owner's rights."""
    with session(empty_dsn) as db, Standin(host_of(db)) as endpoint:
        owner = user(new_role(empty_dsn))
        theirs = make_conninfo(empty_dsn, user=owner, password="secret")
        db.execute(f"CREATE SCHEMA pgcache AUTHORIZATION {owner}; CREATE SCHEMA pgcache_internal AUTHORIZATION {owner}")
        for dsn in (empty_dsn, theirs, empty_dsn, theirs):  # a superuser, and the owner
            install(dsn, cron=False)
        assert install(theirs, cron=False).action == "current"
        owners = db.execute("SELECT DISTINCT proowner::regrole::text FROM pg_proc"
                            " WHERE pronamespace = 'pgcache'::regnamespace").fetchall()  # fmt: skip
        assert owners == [(owner,)]
        with session(theirs) as connection:
            call(connection, "ai_configure", base_url=endpoint.url, api_key="another-key")
            assert call(connection, "llm_complete", "hello")["response"] == "you said: hello"
        assert endpoint.log[0].key == "Bearer another-key"


def test_what_was_granted_outlasts_an_upgrade_and_admins_do_not_get_it(
    dsn: str, db: psycopg.Connection, endpoint: Standin, new_role: Callable[[str], str]
) -> None:
    spender, administrator = user(new_role(dsn)), user(new_role(dsn))
    call(db, "ai_grant", spender)
    call(db, "cache_grant", administrator, "admin")
    for again in range(2):
        rows = db.execute("SELECT has_function_privilege(r, 'pgcache_internal.ai_fetch(text, jsonb)', 'execute')"
                          " FROM unnest(%s::name[]) r", [[spender, administrator]]).fetchall()  # fmt: skip
        assert rows == [(True,), (False,)]
        if not again:
            db.execute("UPDATE pgcache_internal.installed SET digest = 'old'")
            install(dsn)


def test_the_key_from_standard_input(server: Server, dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    db.execute(f"ALTER DATABASE \"{db.info.dbname}\" SET log_statement = 'all'".encode())

    def command(*options: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pgcache_py", "ai-key", "--dsn", dsn, *options],
            cwd=PROJECT, input=text, text=True, capture_output=True, timeout=60,
        )  # fmt: skip

    assert command(text="sk-from-stdin-42\n").stdout == "stored\n"
    call(db, "llm_complete", "hello")
    assert endpoint.log[0].key == "Bearer sk-from-stdin-42"
    assert command(text="sk-bad one\n").returncode == 1
    assert command(text="\n").returncode == 1
    written = server.log(db.info.dbname)
    if written is not None:
        assert "ai_configure" in written
        assert "sk-" not in written.replace(KEY, "")
    assert command(text="sk-back\\slash\n").stdout == "stored\n"
    assert db.execute("SELECT value FROM pgcache_internal.ai_secrets").fetchone() == ("sk-back\\slash",)
    assert command("--remove").stdout == "removed\n"
    assert db.execute("SELECT count(*) FROM pgcache_internal.ai_secrets").fetchone() == (0,)


def test_the_key_of_an_owner_who_is_no_superuser_is_in_no_log(
    server: Server, empty_dsn: str, new_role: Callable[[str], str]
) -> None:
    """Who cannot switch logging off: neither what the command sends, nor what fails when two run at once."""

    def command(text: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgcache_py", "ai-key", "--dsn", theirs],
            cwd=PROJECT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdin
        process.stdin.write(text)
        process.stdin.flush()
        return process

    with session(empty_dsn) as db:
        owner = user(new_role(empty_dsn))
        theirs = make_conninfo(empty_dsn, user=owner, password="secret")
        db.execute(f"CREATE SCHEMA pgcache AUTHORIZATION {owner}; CREATE SCHEMA pgcache_internal AUTHORIZATION {owner}")
        for dsn in (empty_dsn, theirs, empty_dsn, theirs):
            install(dsn, cron=False)
        for setting in ("log_statement = 'all'", "log_min_duration_statement = 0", "log_error_verbosity = verbose",
                        "statement_timeout = '10s'"):  # fmt: skip
            db.execute(f'ALTER DATABASE "{db.info.dbname}" SET {setting}'.encode())
        with db.transaction():
            db.execute("LOCK TABLE pgcache_internal.ai_secrets IN EXCLUSIVE MODE")
            commands = [command(f"sk-nobody-{n}\n") for n in range(3)]
            wait_until(lambda: waiting_for_a_lock(db) == 3)
        assert [process.communicate()[0] for process in commands] == ["stored\n"] * 3
        assert db.execute("SELECT value FROM pgcache_internal.ai_secrets").fetchone()[0].startswith("sk-nobody")  # type: ignore[index]
        written = server.log(db.info.dbname)
        if written is not None:
            assert "COPY pgcache_internal.ai_secrets" in written
            assert "sk-nobody" not in written


@pytest.mark.parametrize("member", [False, True])
def test_who_may_spend_stays_behind_its_wall(
    db: psycopg.Connection, endpoint: Standin, new_role: Callable[[str], str], member: bool
) -> None:
    """Reading the cache of one tenant, and allowed to spend, a role may write, too: for that tenant."""
    role, group = new_role(db.info.dsn), new_role(db.info.dsn)
    db.execute("SELECT pgcache.cache_grant(%s, 'read', '{acme}')", [user(group if member else role)])
    if member:
        db.execute(f'GRANT "{user(group)}" TO "{user(role)}"'.encode())
    call(db, "ai_grant", user(role))
    db.execute("SELECT pgcache.cache_set('store', 'k', '1')")
    with session(role) as theirs:
        assert call(theirs, "cache_get", "store", "k") is None
        assert theirs.execute("SELECT pgcache.cache_set('store', 'k', '2')").fetchone() == (True,)
    assert db.execute("SELECT tenant FROM pgcache.cache_store WHERE cache_key = 'k' ORDER BY 1").fetchall() == [
        ("",), ("acme",)
    ]  # fmt: skip
