"""Functions, operators and types in front of PostgreSQL's own, as others could make them: each warns when it is used.

What is neither pinned to a search_path nor qualified, down to its operators, springs one of them.
"""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

PROJECT = Path(__file__).parents[2]
SOURCE = "\n".join(path.read_text() for part in ("sql", "plpython") for path in sorted((PROJECT / part).rglob("*.*")))
# Each does what that of PostgreSQL does, so that what comes after it is reached, too.
TRAPS = """
    CREATE SCHEMA trap;
    GRANT USAGE ON SCHEMA trap TO PUBLIC;
    DO $do$
    DECLARE
        f record;
        name text;
        arguments text;
        places text;
        body constant text := 'BEGIN RAISE WARNING ''sprung''; RETURN %s; END';
    BEGIN
        FOR f IN
            SELECT p.*, o.oprname, o.oprleft, o.oprright
            FROM pg_proc p LEFT JOIN pg_operator o ON o.oprcode = p.oid AND o.oprnamespace = 'pg_catalog'::regnamespace
            WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
                AND p.provariadic = 0 AND p.proargmodes IS NULL AND (o.oid IS NOT NULL OR p.proname = ANY ('{names}'))
                AND p.prorettype NOT IN ('internal'::regtype, 'void'::regtype, 'trigger'::regtype)
                AND NOT 'internal'::regtype = ANY (p.proargtypes) AND NOT 'cstring'::regtype = ANY (p.proargtypes)
                AND NOT '"any"'::regtype = ANY (p.proargtypes)
        LOOP
            name := format('trap.%I', f.proname);
            arguments := (SELECT coalesce(string_agg(t::regtype::text, ', ' ORDER BY i), '')
                FROM unnest(f.proargtypes) WITH ORDINALITY AS a (t, i));
            places := (SELECT coalesce(string_agg('$' || i, ', '), '') FROM generate_series(1, f.pronargs) AS i);
            BEGIN
                EXECUTE format('CREATE OR REPLACE FUNCTION %s(%s) RETURNS %s LANGUAGE plpgsql STRICT AS %L', name,
                    arguments, f.prorettype::regtype, format(body, format('pg_catalog.%I(%s)', f.proname, places)));
                IF f.oprname IS NOT NULL THEN
                    EXECUTE format('CREATE OPERATOR trap.%s (%s rightarg = %s, function = %s)', f.oprname,
                        CASE WHEN f.oprleft <> 0 THEN format('leftarg = %s,', f.oprleft::regtype) END,
                        f.oprright::regtype, name);
                END IF;
            EXCEPTION WHEN OTHERS THEN
                RAISE NOTICE '%: %', f.oid::regprocedure, SQLERRM;
            END;
        END LOOP;
    END
    $do$;
"""
# What is used by code that is parsed with these in front.
IN_FRONT = "trap, pg_catalog, pgcache"


def set_traps(connection: psycopg.Connection) -> None:
    """Make them, as a superuser."""
    names = sorted(set(re.findall(r"\b([a-z_0-9]+)\(", SOURCE)))
    connection.execute(TRAPS.replace("names}", ",".join(names) + "}").encode())


class Sprung:
    """Collects where traps have sprung in a session: the functions, or None where it was in the statement itself."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.where: set[str | None] = set()
        connection.add_notice_handler(self._hear)

    def _hear(self, told: psycopg.errors.Diagnostic) -> None:
        if told.message_primary == "sprung":
            _trap, *by = re.findall(r"function (?:\w+\.)?(\w+)\(", told.context or "")
            self.where.add(by[0] if by else None)
