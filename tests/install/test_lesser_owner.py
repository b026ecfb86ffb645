"""A superuser in a database where another role owns pgcache's schemas: nothing of what that role made may run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgcache_py.errors import PermissionDeniedError
from pgcache_py.setup.adopt import adopt
from pgcache_py.setup.install import install
from pgcache_py.setup.sources import load
from pgcache_py.setup.status import status
from pgcache_py.setup.uninstall import uninstall
from tests.tools.session import Session, database, fetch, session, user
from tests.tools.traps import Sprung, set_traps

from .conftest import Run, with_change
from .test_upgrade_script import psql

# What becomes a superuser when a superuser runs it, be it after SET ROLE; and it in place of all functions and views,
# and as a trigger on all tables.
TRAP = """
    CREATE SCHEMA trap;
    GRANT ALL ON SCHEMA trap TO PUBLIC;
    CREATE FUNCTION trap.spring() RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        RESET ROLE;
        IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            ALTER ROLE {owner} SUPERUSER;
        END IF;
    END $$;
    CREATE FUNCTION trap.row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM trap.spring(); RETURN new; END';
    DO $do$
    DECLARE
        made record;
    BEGIN
        FOR made IN SELECT * FROM pg_class WHERE relnamespace::regnamespace::text ~ '^pgcache' AND relkind IN ('r', 'v')
        LOOP
            IF made.relkind = 'r' THEN
                EXECUTE format('CREATE TRIGGER sprung BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW'
                    ' EXECUTE FUNCTION trap.row()', made.oid::regclass);
            ELSE
                EXECUTE format('CREATE OR REPLACE VIEW %s AS SELECT v.* FROM (SELECT trap.spring()) AS s, (%s) AS v',
                    made.oid::regclass, rtrim(pg_get_viewdef(made.oid), ';'));
            END IF;
        END LOOP;
        FOR made IN
            SELECT p.*, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
            FROM pg_proc p JOIN pg_language l ON l.oid = prolang
            WHERE p.pronamespace::regnamespace::text ~ '^pgcache' AND p.prokind = 'f'
                AND l.lanname IN ('sql', 'plpgsql') AND p.prorettype <> 'trigger'::regtype
        LOOP
            EXECUTE format('CREATE OR REPLACE FUNCTION %s.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
                made.pronamespace::regnamespace, made.proname, made.arguments, made.result,
                'BEGIN PERFORM trap.spring(); RAISE ''sprung''; END');
        END LOOP;
    END $do$;
"""


@contextmanager
def trapped(owned_dsn: str) -> Iterator[Session]:
    """The owner's session, once it has set the trap, which it takes away in the end."""
    owner = Session(owned_dsn)
    owner("SET check_function_bodies = off")
    owner(TRAP.replace("{owner}", user(owned_dsn)))
    yield owner
    owner("DROP SCHEMA pgcache, pgcache_internal CASCADE")
    owner.close()


def is_superuser(session: Session) -> bool:
    return bool(session("SELECT rolsuper FROM pg_roles WHERE rolname = session_user"))


@pytest.mark.once
def test_a_superuser_runs_nothing_of_it(
    owned_dsn: str, empty_dsn: str, programs: Path, run: Run, tmp_path: Path
) -> None:
    install(owned_dsn, cron=False)
    with trapped(owned_dsn) as owner:
        script = load().render("0.2.0", upgrade_from="0.2.0", plpython=True)
        assert f"belongs to {user(owned_dsn)}" in psql(programs, empty_dsn, script).stderr
        (tmp_path / "lines").write_text('{"type": "store", "key": "k", "value": 1}')
        for command in (
            "status", "upgrade", "uninstall --yes", "adopt --yes", "stats", "cleanup", "get store k", "set store k 1",
            "delete store k", f"warm {tmp_path / 'lines'}", "ai-key --remove", "relay --once --redis redis://127.0.0.1:1/0",
            "serve --port 1",
        ):  # fmt: skip
            code, _, complaint = run(*command.split(), "--dsn", empty_dsn)
            assert code == 1, command
            assert f"belongs to {user(owned_dsn)}" in complaint, command
            assert f"Connect as {user(owned_dsn)}" in complaint, command
        for options in ({}, {"dry_run": True}, {"sources": with_change()}):
            assert install(empty_dsn, **options).action == "prepared"
        assert not is_superuser(owner)


@pytest.mark.once
def test_the_trap_springs(owned_dsn: str, empty_dsn: str) -> None:
    """Else the test above would show nothing."""
    install(owned_dsn, cron=False)
    with trapped(owned_dsn) as owner:
        with session(empty_dsn) as superuser:
            superuser.execute("UPDATE pgcache_internal.turns SET taken = taken")
        assert is_superuser(owner)


@pytest.mark.once
@pytest.mark.parametrize("schema", ["pgcache", "pgcache_internal"])
def test_a_schema_that_waits_for_a_superuser(owned_dsn: str, empty_dsn: str, schema: str) -> None:
    owner = Session(owned_dsn)
    owner(f"CREATE SCHEMA {schema}")
    owner(f"CREATE TABLE {schema}.installed (component text, version text, digest text)")
    report = install(empty_dsn, cron=False)
    assert report.action == "prepared"
    assert f"Now as {user(owned_dsn)}" in report.notes[0]
    assert owner("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgcache%'") == 1
    owner.close()


@pytest.mark.once
def test_a_schema_that_a_third_role_has_made(owned_dsn: str, empty_dsn: str, new_role: Callable[[str], str]) -> None:
    with session(empty_dsn) as superuser:
        superuser.execute(f"CREATE SCHEMA pgcache_internal AUTHORIZATION {user(new_role(empty_dsn))}".encode())
    with pytest.raises(PermissionDeniedError):
        install(owned_dsn)
    assert fetch(empty_dsn, "SELECT to_regnamespace('pgcache')") is None


@pytest.mark.once
def test_members_install_for_an_owner_that_cannot_log_in(
    owned_dsn: str, empty_dsn: str, new_role: Callable[[str], str]
) -> None:
    install(owned_dsn, cron=False)
    member = new_role(owned_dsn)
    with session(empty_dsn) as superuser:
        superuser.execute(f"GRANT {user(owned_dsn)} TO {user(member)}".encode())
        with pytest.raises(PermissionDeniedError, match="belongs to"):
            install(member, cron=False)
        superuser.execute(f"ALTER ROLE {user(owned_dsn)} NOLOGIN".encode())
        assert install(member, sources=with_change(), cron=False).action == "upgraded"
        assert install(empty_dsn, sources=with_change(), cron=False).action == "prepared"
        query = (
            "SELECT DISTINCT pg_get_userbyid(proowner)::text FROM pg_proc WHERE pronamespace = 'pgcache'::regnamespace"
        )
        assert superuser.execute(query.encode()).fetchall() == [(user(owned_dsn),)]


@pytest.mark.once
def test_no_trap_springs(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of a database chooses its search_path: with pg_catalog at its end even exact names are captured."""
    with session(empty_dsn) as superuser:
        set_traps(superuser)
        setting = f"ALTER DATABASE {database(empty_dsn)} SET search_path = trap, pg_catalog"
        superuser.execute(setting.encode())
    heard: list[Sprung] = []
    connect = psycopg.connect

    def listening(*arguments: Any, **options: Any) -> psycopg.Connection:
        connection = connect(*arguments, **options)
        heard.append(Sprung(connection))
        return connection

    monkeypatch.setattr(psycopg, "connect", listening)
    assert install(empty_dsn).action == "installed"
    assert install(empty_dsn).action == "current"
    assert install(empty_dsn, sources=with_change()).action == "upgraded"
    assert status(empty_dsn).version
    assert adopt(empty_dsn) == []
    assert fetch(empty_dsn, "SHOW search_path") == "trap, pg_catalog, pgcache"
    uninstall(empty_dsn)
    assert not [each.where for each in heard if each.where]
