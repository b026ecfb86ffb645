"""plpgsql_check over every function: no error, and no warning but those that are explained here."""

from __future__ import annotations

import pytest

from tests.static.test_functions import CORE
from tests.tools.session import Session

pytestmark = pytest.mark.needs("plpgsql_check")

NEVER_RETURNS_VARIABLES = "it returns rows with RETURN QUERY EXECUTE, which the checker cannot look into"
OURS = "what is put into the statement comes from this project's own code, not from a caller"
# (function, the beginning of the message) -> why it may stand.
EXPLAINED = {
    ("adopt_table", "text type variable is not sanitized"): OURS + ": earlier_entries, which quotes names",
    ("cache_upkeep", "cannot commit while a subtransaction is active"): "it is the error that is wanted",
    ("check_commit_error", "invalid transaction termination"): "it is the error that is wanted",
    ("cache_entry", "OUT variable"): NEVER_RETURNS_VARIABLES,
    ("cache_tenant_stats", "OUT variable"): NEVER_RETURNS_VARIABLES,
    ("take_lines", "text type variable is not sanitized"): OURS + ": the condition that reach() returns",
    ("forget_entries", "text type variable is not sanitized"): OURS + ": the condition that cache_forget makes",
    ("top_entries", "OUT variable"): NEVER_RETURNS_VARIABLES,
    ("declare_type", "text type variable is not sanitized"): OURS + ": the definition of a column, already quoted",
    ("delete_where", "text type variable is not sanitized"): OURS
    + ": the conditions are in entries/delete.sql and caches/",
    ("cache_delete_if", "text type variable is not sanitized"): OURS + ": the expression of fields, already quoted",
    ("cache_replace", "text type variable is not sanitized"): OURS + ": the expression of fields, already quoted",
    ("cache_scan", "text type variable is not sanitized"): OURS + ": the expression of fields, already quoted",
    ("cache_scan", "OUT variable"): NEVER_RETURNS_VARIABLES,
    ("peek", "text type variable is not sanitized"): OURS + ": the expression of fields, already quoted",
    ("give_rights", "text type variable is not sanitized"): OURS + ": what regprocedure and regclass write",
    ("give_spending", "text type variable is not sanitized"): OURS + ": what regprocedure writes",
    ("hot_set", "text type variable is not sanitized"): OURS + ": the expression of fields, already quoted",
    ("log_gathered", "target type is different type than source type"): "the input function of arrays is wanted",
    ("make", "text type variable is not sanitized"): OURS + ": its files",
    ("make_watch", "text type variable is not sanitized"): OURS + ": what regrole writes",
    ("migrate", "text type variable is not sanitized"): OURS + ": its files",
    ("see_to_triggers", "text type variable is not sanitized"): OURS + ": what watch_triggers writes",
    ("set_aside", "text type variable is not sanitized"): OURS + ": what regprocedure and regclass write",
    ("unmake", "text type variable is not sanitized"): OURS + ": what regprocedure and regclass write",
    ("value_has", "text type variable is not sanitized"): OURS + ": a condition that fields_of has quoted",
    (
        "put_embedding",
        "target type is different type than source type",
    ): "it is the input function of vector that is wanted",
    ("to_vector", "target type is different type than source type"): "the same",
}
# The functions for pg_cron look into its tables.
CRON = """
    CREATE SCHEMA cron;
    CREATE TABLE cron.job (jobid bigint, schedule text, command text, nodename text, nodeport integer, database text,
        username text, active boolean, jobname text);
    CREATE TABLE cron.job_run_details (jobid bigint, runid bigint, job_pid integer, database text, username text,
        command text, status text, return_message text, start_time timestamptz, end_time timestamptz);
    CREATE FUNCTION cron.schedule(text, text, text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
    CREATE FUNCTION cron.unschedule(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
"""


def test_no_error_and_no_warning_that_is_not_explained(ask: Session) -> None:
    ask("CREATE EXTENSION plpgsql_check")
    ask(CRON)
    ask("SELECT cache_hot_on('store'), cache_near_on('llm'), cache_configure('store', tenant_share => 0.5)")
    ask("SET search_path = pgcache_internal, pgcache, public")
    rows = ask.rows("""
        SELECT p.proname, c.level, coalesce(c.sqlstate, ''), c.lineno, c.message, coalesce(c.detail, '')
        FROM pg_proc p
        JOIN pg_language l ON l.oid = p.prolang
        -- A trigger's function is checked for one of the tables that it works on.
        LEFT JOIN LATERAL (SELECT tgrelid FROM pg_trigger WHERE tgfoid = p.oid LIMIT 1) t ON true
        CROSS JOIN LATERAL plpgsql_check_function_tb(p.oid, coalesce(t.tgrelid, 0),
            fatal_errors => false, other_warnings => true, extra_warnings => true,
            security_warnings => true, compatibility_warnings => true) c
        WHERE l.lanname = 'plpgsql' AND p.pronamespace IN ('pgcache'::regnamespace, 'pgcache_internal'::regnamespace)
            AND p.proname = ANY(%s)
        ORDER BY 1, 4
    """, sorted(CORE))  # fmt: skip
    used = {
        (name, start)
        for name, *_, message, _ in rows
        for (function, start) in EXPLAINED
        if function == name and message.startswith(start)
    }
    surprises = [
        row for row in rows if not any(function == row[0] and row[4].startswith(start) for function, start in EXPLAINED)
    ]
    assert not surprises, "\n".join(map(str, surprises))
    assert set(EXPLAINED) == used  # the list is no longer than it must be


def test_the_checker_would_find_an_error(ask: Session) -> None:
    ask("CREATE EXTENSION plpgsql_check")
    ask(
        "CREATE FUNCTION pgcache.wrong() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM nothing"
        " FROM pgcache_internal.types; END'"
    )
    assert ask("SELECT level FROM plpgsql_check_function_tb('pgcache.wrong()')") == "error"
