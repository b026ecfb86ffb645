"""Completions that want to do something: whatever they are, pgcache executes nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.plpython.standin import Standin
from tests.tools.session import advisory_locks, call, session, user

pytestmark = pytest.mark.needs("plpython3u")

Ask = Callable[..., Any]

# Functions that lie about being IMMUTABLE or STABLE. What they do is not undone by a rollback.
LIARS = """
    CREATE SEQUENCE tripwire;
    CREATE FUNCTION trip() RETURNS int LANGUAGE plpgsql VOLATILE AS $$
        BEGIN PERFORM nextval('public.tripwire'); PERFORM pg_advisory_lock(666); RETURN 1; END $$;
    CREATE FUNCTION liar() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN PERFORM nextval('public.tripwire'); PERFORM pg_advisory_lock(666); RETURN 1; END $$;
    CREATE FUNCTION stable_liar() RETURNS int LANGUAGE plpgsql STABLE AS $$
        BEGIN PERFORM nextval('public.tripwire'); PERFORM pg_advisory_lock(666); RETURN 1; END $$;
    CREATE FUNCTION sql_liar() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT public.trip()';
    CREATE FUNCTION python_liar() RETURNS int LANGUAGE plpython3u IMMUTABLE AS $$
        plpy.execute("SELECT pg_advisory_lock(666)"); return 1 $$;
    CREATE FUNCTION liar_of(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN public.liar(); END';
    CREATE FUNCTION liar_of(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN public.liar(); END';
    CREATE OPERATOR @@@ (leftarg = int, rightarg = int, function = liar_of);
    CREATE TYPE wrapped AS (value int);
    CREATE FUNCTION wrap(int) RETURNS wrapped LANGUAGE plpgsql IMMUTABLE AS
        'BEGIN PERFORM public.liar(); RETURN ROW($1); END';
    CREATE CAST (int AS wrapped) WITH FUNCTION wrap(int);
    CREATE AGGREGATE liar_sum(int) (sfunc = liar_of, stype = int);
    CREATE DOMAIN checked AS int CHECK (liar() = VALUE);
    CREATE TABLE holder (c checked, a checked[]);
    CREATE VIEW innocent AS SELECT liar() AS id;
    CREATE VIEW nested AS SELECT id FROM innocent;
    CREATE TABLE guarded (id int);
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON guarded USING (liar() = 1);
"""

MANY = "there is more than one statement"
PARSED = None  # refused by PostgreSQL, in its own words
HOSTILE = [
    # More than one statement.
    ("SELECT 1; DROP TABLE users", MANY),
    ("SELECT * FROM users; DELETE FROM users; SELECT 1", MANY),
    ("SELECT 1;\nCOMMIT;\nDROP TABLE users;\nBEGIN", MANY),
    ("SELECT 1 -- \n; DROP TABLE users", MANY),
    ("SELECT 1 /* /* */ -- */ ; DROP TABLE users", MANY),
    ("SELECT 1 /* */; DROP TABLE users /* */", MANY),
    ("SELECT '\\'; DROP TABLE users; --'", MANY),
    ("SELECT $a$ $$; $a$; DROP TABLE users", MANY),
    ("SELECT 1; END; DROP TABLE users; --", MANY),
    ("SELECT 1\n;\nend; DROP TABLE users; CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1", PARSED),
    ("SELECT 1; END; CREATE FUNCTION pwned() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END", MANY),
    ("SELECT 1\u2028; DROP TABLE users", PARSED),
    ("```sql\nSELECT 1;\nDROP TABLE users;\n```", MANY),
    # What is no query.
    ("DROP TABLE users", PARSED),
    ("TRUNCATE users", PARSED),
    ("CREATE TABLE pwned AS SELECT 1", PARSED),
    ("SELECT * INTO pwned FROM users", PARSED),
    ("CREATE MATERIALIZED VIEW pwned AS SELECT 1", PARSED),
    ("COPY users TO PROGRAM 'touch /tmp/pwned'", PARSED),
    ("COPY (SELECT 1) TO '/tmp/pwned'", PARSED),
    ("DO $$ BEGIN DROP TABLE users; END $$", PARSED),
    ("CALL pgcache.cache_upkeep()", PARSED),
    ("EXECUTE boom", PARSED),
    ("PREPARE boom AS DELETE FROM users", PARSED),
    ("DECLARE c CURSOR FOR SELECT 1", PARSED),
    ("EXPLAIN ANALYZE DELETE FROM users", PARSED),
    ("ANALYZE DELETE FROM users", PARSED),
    ("ANALYZE", PARSED),
    ("(ANALYZE) DELETE FROM users", PARSED),
    (", ANALYZE) DELETE FROM users", PARSED),
    ("ROLLBACK", PARSED),
    ("SET ROLE postgres", PARSED),
    ("NOTIFY pwned", PARSED),
    ("LOCK TABLE users", PARSED),
    ("GRANT ALL ON users TO PUBLIC", PARSED),
    ("VACUUM users", PARSED),
    ("END; DROP TABLE users", PARSED),
    # What writes.
    ("INSERT INTO users VALUES (9, 'x')", "the statement writes"),
    ("DELETE FROM users RETURNING *", "the statement writes"),
    ("MERGE INTO users u USING users s ON u.id = s.id WHEN MATCHED THEN DELETE", "the statement writes"),
    ("WITH gone AS (DELETE FROM users RETURNING *) SELECT * FROM gone", "the statement writes"),
    ("WITH a AS (SELECT 1), b AS (UPDATE users SET name = '' RETURNING 1) SELECT * FROM a", "the statement writes"),
    ("SELECT * FROM users FOR UPDATE", "locks rows"),
    ("SELECT * FROM (SELECT * FROM users FOR SHARE) s", "locks rows"),
    # What calls something with an effect.
    ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity", "VOLATILE"),
    ("SELECT pg_sleep(100)", "VOLATILE"),
    ("SELECT nextval('tripwire')", "VOLATILE"),
    ("SELECT setval('tripwire', 100)", "VOLATILE"),
    ("SELECT set_config('search_path', 'pwned', false)", "VOLATILE"),
    ("SELECT pg_advisory_lock(666)", "VOLATILE"),
    ("SELECT pg_notify('pwned', '')", "VOLATILE"),
    ("SELECT lo_import('/etc/passwd')", "VOLATILE"),
    ("SELECT pg_read_file('/etc/passwd')", "VOLATILE"),
    ("SELECT query_to_xml('DELETE FROM users', true, true, '')", "VOLATILE"),
    ("SELECT * FROM users WHERE EXISTS (SELECT trip())", "VOLATILE"),
    ("SELECT * FROM users ORDER BY trip()", "VOLATILE"),
    ("SELECT 1 LIMIT trip()", "VOLATILE"),
    ("SELECT * FROM trip()", "VOLATILE"),
    ("VALUES (trip())", "VOLATILE"),
    ("SELECT '{1}'::checked[]", "read-only transaction"),
    ("SELECT '(1,)'::holder", "read-only transaction"),
    ("SELECT * FROM holder WHERE a = '{1}'", "read-only transaction"),
    ("SELECT * FROM crosstab('SELECT trip(), 1, 1') AS t (a int, b int)", PARSED),
    ("SELECT count(*) FILTER (WHERE trip() = 1) OVER () FROM users", "VOLATILE"),
    ("SELECT * FROM users TABLESAMPLE system (trip())", "VOLATILE"),
    ("SELECT pgcache.cache_clear_all()", "VOLATILE"),
    ("SELECT pgcache.ai_worker_generate('Get all users')", "VOLATILE"),
    ("SELECT value FROM pgcache_internal.ai_secrets WHERE pg_notify('x', value) IS NULL", "VOLATILE"),
]
# Valid as far as their labels tell; planning them would call the functions.
LYING = [
    "SELECT liar()",
    "SELECT * FROM users WHERE id = liar()",
    "SELECT * FROM users WHERE id = stable_liar()",
    "SELECT * FROM users LIMIT liar()",
    "SELECT sql_liar()",
    "SELECT python_liar()",
    "SELECT 1 @@@ 1",
    "SELECT 1 = ANY (ARRAY[liar()])",
    "SELECT CASE WHEN liar() = 1 THEN 1 END",
    "SELECT 1::wrapped",
    "SELECT CAST(ARRAY[1] AS wrapped[])",
    "SELECT liar_sum(1)",
    "SELECT liar_sum(id) OVER () FROM users",
    "SELECT * FROM innocent",
    "SELECT * FROM nested WHERE id = 1",
    "SELECT (SELECT id FROM nested)",
    "WITH RECURSIVE r AS (SELECT liar() AS n UNION ALL SELECT n + 1 FROM r WHERE n < liar()) SELECT * FROM r",
    "SELECT * FROM generate_series(1, liar())",
    "SELECT * FROM users, LATERAL (VALUES (liar())) v",
    "SELECT * FROM guarded",
    "TABLE innocent",
    "SELECT 1::checked",
    "SELECT '1'::checked",
    "SELECT * FROM users WHERE name = table_to_xml('innocent', true, true, '')::text",
    "SELECT * FROM users WHERE id = (jsonb_populate_record(null::holder, '{\"c\": 1}')).c",
]


def state(db: psycopg.Connection) -> list[Any]:
    """All that a completion might change."""
    queries = (
        "SELECT * FROM users ORDER BY id",
        "SELECT last_value, is_called FROM tripwire",
        "SELECT count(*), max(oid) FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'S')",
        "SELECT count(*), max(oid) FROM pg_proc",
        "SELECT count(*) FROM pg_largeobject_metadata",
        "SELECT count(*) FROM pg_namespace",
        "SELECT count(*) FROM pgcache.ai_worker_cache",
        "SELECT relacl FROM pg_class WHERE relname = 'users'",
        "SELECT current_setting('search_path'), current_user, current_setting('transaction_read_only')",
        "SELECT count(*) FROM pg_prepared_statements",
        "SELECT count(*) FROM pg_cursors",
    )
    return [db.execute(query.encode(), prepare=False).fetchall() for query in queries]


@pytest.fixture
def tripwires(db: psycopg.Connection, endpoint: Standin) -> Iterator[list[str]]:
    """Everything is as it was at the end of the test."""
    db.execute(LIARS.encode())
    db.execute("LISTEN pwned")
    notified: list[str] = []
    db.add_notify_handler(lambda notification: notified.append(notification.channel))
    db.prepare_threshold = None
    before = state(db)
    yield notified
    assert state(db) == before
    assert advisory_locks(db) == 0
    assert not notified


@pytest.mark.parametrize("mode", ["sql_only", "sql_write"])
@pytest.mark.parametrize(("completion", "reason"), HOSTILE)
@pytest.mark.usefixtures("tripwires")
def test_hostile_completions(ask: Ask, endpoint: Standin, completion: str, reason: str | None, mode: str) -> None:
    endpoint.sql("prompt", completion)
    answer = ask("ai_worker_generate", "prompt", mode=mode)
    if mode == "sql_write" and reason in ("the statement writes", "locks rows"):
        assert answer["validated"]
        ask("cache_clear_all")
        return
    assert not answer["validated"], answer
    assert (reason or "") in answer["reason"]


@pytest.mark.parametrize("completion", LYING)
@pytest.mark.usefixtures("tripwires")
def test_functions_that_lie_are_not_called_to_plan(
    db: psycopg.Connection, ask: Ask, endpoint: Standin, completion: str
) -> None:
    endpoint.sql("prompt", completion)
    for mode in ("sql_only", "sql_write"):
        assert ask("ai_worker_generate", "prompt", mode=mode)["validated"]
    ask("cache_clear_all")


# What a role that owns tables can have planning call: with the rights of whoever asks.
LESSER = """
    CREATE FUNCTION theirs.liar(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN PERFORM nextval('public.tripwire'); RETURN 1; END $$;
    CREATE TABLE theirs.indexed (id int);
    CREATE INDEX ON theirs.indexed (id) WHERE theirs.liar(1) = 1;
    CREATE INDEX ON theirs.indexed (theirs.liar(id));
    CREATE INDEX ON theirs.grandchild (id) WHERE theirs.liar(1) = 1;
    ALTER TABLE theirs.grandchild ADD CHECK (theirs.liar(1) > id);
    CREATE TABLE theirs.known (id int, other int);
    CREATE STATISTICS theirs.s ON (theirs.liar(id)), other FROM theirs.known;
    CREATE TABLE theirs.parted (id int) PARTITION BY RANGE (theirs.liar(id));
    CREATE TABLE theirs.part PARTITION OF theirs.parted DEFAULT;
    CREATE TABLE theirs.filled
        (id int, d int DEFAULT theirs.liar(2), g int GENERATED ALWAYS AS (theirs.liar(id)) STORED);
    CREATE TABLE theirs.ruled (id int);
    CREATE RULE r AS ON INSERT TO theirs.ruled DO ALSO UPDATE theirs.known SET other = theirs.liar(1);
    CREATE TABLE theirs.secured (id int);
    ALTER TABLE theirs.secured ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON theirs.secured USING (true) WITH CHECK (theirs.liar(1) = 1);
    CREATE VIEW theirs.seen AS SELECT id FROM theirs.indexed;
"""
PLANNED = [
    "SELECT * FROM theirs.indexed WHERE id = 1",
    "SELECT * FROM theirs.seen WHERE id = 1",
    "SELECT * FROM parent WHERE id = 1",
    "SELECT id, other, count(*) FROM theirs.known WHERE id = 1 AND other = 1 GROUP BY 1, 2",
    "SELECT * FROM theirs.parted WHERE id = 1",
    "INSERT INTO theirs.filled (id) VALUES (1)",
    "UPDATE theirs.filled SET id = 1",
    "INSERT INTO theirs.ruled VALUES (1)",
    "INSERT INTO theirs.secured VALUES (1)",
    "DELETE FROM theirs.indexed WHERE id = 1",
]


def test_what_lesser_roles_own_is_not_called_to_plan(
    db: psycopg.Connection, ask: Ask, endpoint: Standin, new_role: Callable[[str], str]
) -> None:
    role = new_role(db.info.dsn)
    db.execute(f"CREATE SEQUENCE tripwire; CREATE SCHEMA theirs AUTHORIZATION {user(role)}")
    db.execute("CREATE TABLE parent (id int); CREATE TABLE theirs.child () INHERITS (parent)")
    db.execute("CREATE TABLE theirs.grandchild () INHERITS (theirs.child)")
    db.execute(f"ALTER TABLE theirs.grandchild OWNER TO {user(role)}; GRANT ALL ON SEQUENCE tripwire TO PUBLIC")
    untouched = "SELECT last_value, is_called FROM tripwire"
    with session(role) as theirs:
        theirs.execute(LESSER.encode(), prepare=False)
        db.execute("ALTER SEQUENCE tripwire RESTART")
        before = db.execute(untouched).fetchall()
        for number, completion in enumerate(PLANNED):
            endpoint.sql(f"prompt {number}", completion)
            answer = ask("ai_worker_generate", f"prompt {number}", mode="sql_write")
            assert answer["validated"], answer
            assert ask("ai_worker_generate", f"prompt {number}", mode="sql_write")["validated"]  # and from the cache
            assert db.execute(untouched).fetchall() == before, completion
        theirs.execute("CREATE DOMAIN theirs.checked AS int CHECK (theirs.liar(VALUE) = 1)")
        db.execute("ALTER SEQUENCE tripwire RESTART")
        for number, completion in enumerate(
            ["SELECT '{1}'::theirs.checked[]", "SELECT ('{1}' || '')::theirs.checked[]"]
        ):
            endpoint.sql(f"domain {number}", completion)
            answer = ask("ai_worker_generate", f"domain {number}")
            assert f"theirs.checked, whose CHECK is code of {user(role)}: ask as another role" in answer["reason"]
            assert db.execute(untouched).fetchall() == before, completion
        db.execute("SELECT pgcache.ai_grant(%s)", [user(role)])
        theirs.execute("SET search_path TO theirs, pgcache")
        reason = call(theirs, "ai_worker_generate", "prompt 0")["reason"]
        assert "cannot execute nextval() in a read-only transaction" in reason  # for itself they are
        db.execute("EXPLAIN SELECT * FROM theirs.indexed WHERE id = 1")  # planning as such does call them
        assert db.execute(untouched).fetchall() != before


def test_what_a_writer_has_planted_is_not_valid(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    endpoint.sql("prompt", "SELECT * FROM users")
    key = {"schema_version": "v1", "model": "m"}
    for planted in ("DROP TABLE users; --", "DELETE FROM users", "SELECT setval('tripwire', 1)", "not SQL"):
        ask("cache_set_ai_worker", "prompt", "m", "v1", planted)
        answer = ask("ai_worker_generate", "prompt", **key)
        assert (answer["cache_hit"], answer["validated"], bool(answer["reason"])) == (True, False, True)
    assert not endpoint.log
    ask("cache_set_ai_worker", "prompt", "m", "v1", "SELECT * FROM users WHERE id = 1")
    assert ask("ai_worker_generate", "prompt", **key)["validated"]
    with db.transaction():
        db.execute("SET TRANSACTION READ ONLY")
        answer = ask("ai_worker_generate", "prompt", **key)
    assert (answer["validated"], "READ ONLY" in answer["reason"]) == (False, True)


def test_the_tripwires_work(db: psycopg.Connection, endpoint: Standin) -> None:
    """Planning as such does call these functions: the tests above would show it."""
    db.execute(LIARS.encode())
    untouched = state(db)[1]
    db.execute("EXPLAIN SELECT liar()")
    assert state(db)[1] != untouched
    db.execute("EXPLAIN SELECT * FROM nested")
    assert advisory_locks(db) == 1


@pytest.mark.usefixtures("tripwires")
@pytest.mark.parametrize(
    "completion",
    [
        "SELECT u.name, count(*), random(), now() FROM users u GROUP BY u.name HAVING count(*) > 1 ORDER BY 2 DESC",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r",
        "SELECT gen_random_uuid(), clock_timestamp(), pg_total_relation_size('users')",
        "SELECT id, id FROM users",
        "SELECT name, rank() OVER (ORDER BY id) FROM users WHERE name ILIKE 'a%'",
        "SELECT jsonb_agg(u) FROM users u",
        "SELECT * FROM users WHERE id IN (SELECT id FROM users) UNION SELECT 1, 'x' ORDER BY 1 LIMIT 3",
        "VALUES (1, 'a')",
        "TABLE users",
        "SELECT '[1,2]'::vector <-> '[3,4]'",
    ],
)
def test_what_is_harmless_is_valid(ask: Ask, endpoint: Standin, completion: str) -> None:
    endpoint.sql("prompt", completion)
    answer = ask("ai_worker_generate", "prompt")
    assert answer["validated"], answer
    ask("cache_clear_all")


@pytest.mark.usefixtures("tripwires")
@pytest.mark.parametrize("setting", ["standard_conforming_strings = off", "backslash_quote = on"])
def test_other_rules_for_strings(db: psycopg.Connection, ask: Ask, endpoint: Standin, setting: str) -> None:
    db.execute(f"SET {setting}".encode())
    for number, completion in enumerate([
        "SELECT '\\'; DROP TABLE users; --'",
        "SELECT '\\''; DROP TABLE users; --'",
        "SELECT E'\\''; DROP TABLE users; --'",
    ]):  # fmt: skip
        endpoint.sql(f"prompt {number}", completion)
        ask("ai_worker_generate", f"prompt {number}")
    ask("cache_clear_all")


@pytest.mark.usefixtures("tripwires")
def test_a_huge_statement(ask: Ask, endpoint: Standin) -> None:
    for number, completion in enumerate(
        ["SELECT " + "(" * 40000 + "1" + ")" * 40000, "SELECT 1" + " + 1" * 40000, "(" * 90000]
    ):
        endpoint.sql(f"prompt {number}", completion)
        assert not ask("ai_worker_generate", f"prompt {number}")["validated"]


def test_the_callers_search_path_and_rights_decide(
    db: psycopg.Connection, endpoint: Standin, new_role: Callable[[str], str]
) -> None:
    db.execute("CREATE SCHEMA app; CREATE TABLE app.things (id int); CREATE TABLE app.hidden (id int)")
    db.execute("CREATE FUNCTION app.helper() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 1; END'")
    role = new_role(db.info.dsn)
    name = user(role)
    db.execute(f"GRANT USAGE ON SCHEMA app TO {name}; GRANT SELECT ON app.things TO {name}")
    db.execute("SELECT pgcache.ai_grant(%s)", [name])
    endpoint.answers = {
        "things": "SELECT * FROM things", "hidden": "SELECT * FROM app.hidden",
        "hidden with helper": "SELECT app.helper() FROM app.hidden", "secret": "SELECT value FROM"
" pgcache_internal.ai_secrets",
    }  # fmt: skip
    with session(role) as theirs:
        assert 'relation "things" does not exist' in call(theirs, "ai_worker_generate", "things")["reason"]
        theirs.execute("SET search_path TO app, pgcache")
        assert call(theirs, "ai_worker_generate", "things")["validated"]
        assert "permission denied" in call(theirs, "ai_worker_generate", "hidden")["reason"]
        assert "permission denied" in call(theirs, "ai_worker_generate", "hidden with helper")["reason"]
