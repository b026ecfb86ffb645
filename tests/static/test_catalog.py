"""Rules about what the installation leaves in the catalog, and the listing of all of it."""

from __future__ import annotations

import os
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.servers import Server
from tests.static.test_functions import CORE
from tests.tools.session import Session

pytestmark = pytest.mark.every

OURS = "('pgcache'::regnamespace, 'pgcache_internal'::regnamespace)"
LISTING = Path(__file__).with_name("catalog.txt")


def test_all_tables_views_and_sequences_have_comments(ask: Session) -> None:
    assert ask.column(f"""
        SELECT oid::regclass::text FROM pg_class
        WHERE relnamespace IN {OURS} AND relkind IN ('r', 'p', 'v', 'S')
            AND obj_description(oid, 'pg_class') IS NULL
            -- Those of identity columns aside.
            AND (relkind <> 'S' OR NOT EXISTS (SELECT FROM pg_depend d WHERE objid = pg_class.oid AND d.deptype = 'i'))
        ORDER BY 1
    """) == []  # fmt: skip


def test_tables_of_users_types_have_comments_too(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    test_all_tables_views_and_sequences_have_comments(ask)


def test_the_schemas_have_comments(ask: Session) -> None:
    for schema in ("pgcache", "pgcache_internal"):
        assert ask("SELECT obj_description(%s::regnamespace, 'pg_namespace')", schema)


def test_types_of_our_own_have_comments(ask: Session) -> None:
    assert (
        ask.column(f"""
        SELECT t.oid::regtype::text FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE t.typnamespace IN {OURS} AND t.typelem = 0 AND (c.oid IS NULL OR c.relkind = 'c')
            AND obj_description(t.oid, 'pg_type') IS NULL
    """)
        == []
    )


def test_nothing_is_granted_to_public(ask: Session) -> None:
    ask("SELECT cache_create_type('mine')")
    # NULL stands for the defaults, which let PUBLIC execute functions.
    assert (
        ask.column(f"""
        SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace IN {OURS}
            AND (proacl IS NULL OR EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee = 0))
        UNION ALL
        SELECT oid::regclass::text FROM pg_class
        WHERE relnamespace IN {OURS} AND EXISTS (SELECT FROM aclexplode(relacl) WHERE grantee = 0)
        UNION ALL
        SELECT nspname FROM pg_namespace
        WHERE nspname ~ '^pgcache' AND EXISTS (SELECT FROM aclexplode(nspacl) WHERE grantee = 0)
    """)
        == []
    )


def test_functions_made_while_it_runs_are_not_granted_to_public_either(ask: Session) -> None:
    ask("SELECT cache_create_type('mine', max_entries => 10), cache_configure('llm', ttl => '5 minutes')")
    ask("SELECT cache_drop_type('mine'), cache_set_price('m', 1)")
    test_nothing_is_granted_to_public(ask)


def test_every_view_and_function_still_matches_its_tables(ask: Session) -> None:
    """Views can be selected from, and the columns that the registry names exist."""
    for view in ask.column(f"SELECT oid::regclass::text FROM pg_class WHERE relnamespace IN {OURS} AND relkind = 'v'"):
        ask.rows(f"SELECT * FROM {view}")


def test_nothing_lies_outside_of_the_schemas(dsn: str) -> None:
    session = Session(dsn)
    # Objects of the database that belong to no extension, by their schemas.
    schemas = session.column("""
        SELECT DISTINCT (pg_identify_object(classid, objid, 0)).schema FROM (
            SELECT 'pg_class'::regclass AS classid, oid AS objid FROM pg_class WHERE oid >= 16384
            UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE oid >= 16384
        ) o
        WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.classid AND d.objid = o.objid AND d.deptype = 'e')
    """)
    session.close()
    assert set(schemas) - {"pg_toast"} == {"pgcache", "pgcache_internal"}


def listing(ask: Session) -> str:
    """All functions, tables and views, a line each."""
    lines = ask.column(f"""
        SELECT format('%s %s.%s(%s)%s %s %s%s', CASE prokind WHEN 'p' THEN 'procedure' ELSE 'function' END,
            pronamespace::regnamespace, p.proname, pg_get_function_arguments(p.oid),
            ' returns ' || pg_get_function_result(p.oid),
            CASE provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
            'parallel ' || CASE proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END,
            CASE WHEN prosecdef THEN ' security definer' ELSE '' END)
        FROM pg_proc p
        WHERE pronamespace IN {OURS}
        ORDER BY pronamespace::regnamespace::text COLLATE "C", proname COLLATE "C",
            pg_get_function_identity_arguments(p.oid) COLLATE "C"
    """)
    lines += ask.column(f"""
        SELECT format('%s %s.%s: %s',
            CASE WHEN relkind = 'v' THEN 'view' WHEN relpersistence = 'u' THEN 'unlogged table' ELSE 'table' END,
            relnamespace::regnamespace, relname, (
                SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod)
                    || CASE WHEN attnotnull THEN ' not null' ELSE '' END, ', ' ORDER BY attnum)
                FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
            ))
        FROM pg_class c
        WHERE relnamespace IN {OURS} AND relkind IN ('r', 'p', 'v')
        ORDER BY relnamespace::regnamespace::text COLLATE "C", relkind = 'v', relname COLLATE "C"
    """)
    lines += ask.column(f"""
        SELECT 'index ' || regexp_replace(pg_get_indexdef(indexrelid), '^CREATE ', '')
        FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
        WHERE relnamespace IN {OURS}
        ORDER BY relnamespace::regnamespace::text COLLATE "C", relname COLLATE "C"
    """)
    return "".join(f"{line}\n" for line in lines).replace("public.", "")


def test_the_catalog_is_as_listed(ask: Session, server: Server) -> None:
    """UPDATE_GOLDEN=1 pytest tests/static --server=... writes the list anew; take a server with every extension."""
    if not LISTING.exists() or os.environ.get("UPDATE_GOLDEN"):
        if "plpython3u" not in server.extensions:
            pytest.skip("this server has not every extension")
        LISTING.write_text(listing(ask))
    expected = LISTING.read_text()
    found = listing(ask)
    if "plpython3u" not in server.extensions:
        lines = expected.splitlines(keepends=True)
        # What plpython/ makes, and with it cannot be here.
        expected = "".join(
            line
            for line in lines
            if not line.startswith(("function", "procedure")) or line.split("(")[0].rpartition(".")[2] in CORE
        )
    difference = "\n".join(
        unified_diff(expected.splitlines(), found.splitlines(), "catalog.txt", server.name, lineterm="", n=0)
    )
    assert not difference, (
        f"{difference}\n\nIf that is what you want: UPDATE_GOLDEN=1 pytest tests/static --server={server.name}"
    )
