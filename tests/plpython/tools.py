"""Helpers of the tests of the AI functions."""

from __future__ import annotations

import psycopg


def host_of(db: psycopg.Connection) -> str:
    """This machine as the server sees it: a container reaches us at the address from which we come."""
    row = db.execute("SELECT host(inet_client_addr())").fetchone()
    return row[0] if row and row[0] else "127.0.0.1"


def claimed(db: psycopg.Connection, prompt: str) -> bool:
    """Whether another session's transaction is asking what llm_complete would ask."""
    query = """SELECT pgcache_internal.ai_claim(
        'llm', ARRAY[pgcache.llm_key(%s, pgcache_internal.ai_setting('model'))], clock_timestamp()
    ) <> '{}'"""
    with db.transaction(force_rollback=True):
        row = db.execute(query, [prompt]).fetchone()
    assert row
    return bool(row[0])
