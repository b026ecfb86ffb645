"""Adds pgcache to a database's search_path, and removes it: what is there already stays as it is."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import sql

SCHEMA = "pgcache"
NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s]+))\s*(?:,|$)')

SETTING_OF_DATABASE = """
    SELECT substr(option, strpos(option, '=') + 1)
    FROM pg_db_role_setting
    CROSS JOIN LATERAL unnest(setconfig) AS option
    JOIN pg_database ON pg_database.oid = setdatabase
    WHERE datname = current_database() AND setrole = 0 AND split_part(option, '=', 1) = 'search_path'
"""
# What applies where the database has no setting of its own. A session sees it only if nothing closer overrides it. All
# names are qualified, as it runs with the search_path that the session has begun with.
SETTING_OF_SERVER = """
    SELECT CASE
        WHEN s.source OPERATOR(pg_catalog.=) ANY ('{default,configuration file,command line}'::pg_catalog.text[])
            THEN s.reset_val
        ELSE s.boot_val
    END
    FROM pg_catalog.pg_settings AS s WHERE s.name OPERATOR(pg_catalog.=) 'search_path'
"""
DEFAULT = "SELECT boot_val FROM pg_settings WHERE name = 'search_path'"
ROLES_WITH_THEIR_OWN = """
    SELECT rolname
    FROM pg_db_role_setting
    JOIN pg_roles ON pg_roles.oid = setrole
    WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND EXISTS (SELECT FROM unnest(setconfig) AS option WHERE option LIKE 'search\\_path=%')
    ORDER BY rolname
"""


def parse(setting: str) -> list[str]:
    """The schema names in a search_path as PostgreSQL stores it: quoted where needed, else folded to lower case."""
    return [
        quoted.replace('""', '"') if bare is None else bare.lower()
        for quoted, bare in ((match[1], match[2]) for match in NAME.finditer(setting))
    ]


def current(connection: psycopg.Connection[Any]) -> list[str]:
    """The names that new sessions get, unless their role has a search_path of its own."""
    if setting := _value(connection, SETTING_OF_DATABASE):
        return parse(setting)
    with connection.transaction(force_rollback=True):  # so that the session's own is back afterwards
        connection.execute("RESET search_path")
        return parse(_value(connection, SETTING_OF_SERVER) or "")


def overriding_roles(connection: psycopg.Connection[Any]) -> list[str]:
    """The roles whose own search_path wins over the database's here."""
    return [name for (name,) in connection.execute(ROLES_WITH_THEIR_OWN)]


def hiding(connection: psycopg.Connection[Any]) -> list[str]:
    """What comes before ours in the search_path that new sessions get, a sentence each."""
    query = "SELECT ours, theirs, hint FROM pgcache_internal.hiding_objects(%s)"
    rows = connection.execute(query, [current(connection)])
    return [f"{theirs} hides {ours}. {hint}" for ours, theirs, hint in rows]


def appending(connection: psycopg.Connection[Any]) -> sql.Composed | None:
    """The statement that appends pgcache; None if it is there."""
    names = current(connection)
    return None if SCHEMA in names else _statement(connection, [*names, SCHEMA])


def removing(connection: psycopg.Connection[Any]) -> sql.Composed | None:
    """The statement that takes pgcache out of the database's own setting; None if it is not in there."""
    setting = _value(connection, SETTING_OF_DATABASE)
    names = parse(setting or "")
    if SCHEMA not in names:
        return None
    rest = [name for name in names if name != SCHEMA]
    if rest == parse(_value(connection, DEFAULT) or ""):
        return sql.SQL("ALTER DATABASE {} RESET search_path").format(_database(connection))
    return _statement(connection, rest)


def _value(connection: psycopg.Connection[Any], query: str) -> str | None:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def _database(connection: psycopg.Connection[Any]) -> sql.Identifier:
    return sql.Identifier(_value(connection, "SELECT current_database()") or "")


def _statement(connection: psycopg.Connection[Any], names: list[str]) -> sql.Composed:
    # Name by name, not as one text, which would be taken for one name. An empty one is allowed, but no identifier.
    path = sql.SQL(", ").join(sql.Identifier(name) if name else sql.Literal("") for name in names or [""])
    return sql.SQL("ALTER DATABASE {} SET search_path = {}").format(_database(connection), path)
