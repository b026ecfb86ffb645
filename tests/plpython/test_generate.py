"""ai_worker_generate, llm_complete and embed against a stand-in endpoint that speaks the real protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.plpython.standin import KEY, Standin, vector_of
from tests.plpython.tools import claimed
from tests.tools.session import call, session, user

pytestmark = pytest.mark.needs("plpython3u")

Ask = Callable[..., Any]
USERS = "Get all users"
SQL = "SELECT * FROM users"


def test_the_seeds_answers(ask: Ask, endpoint: Standin) -> None:
    endpoint.sql(USERS, f"```sql\n{SQL};\n```")
    first = ask("ai_worker_generate", USERS, schema_version="v1")
    tokens = endpoint.log[0].tokens
    answer = {"sql": f"{SQL} LIMIT 1000", "validated": True, "tokens_used": tokens, "schema_version": "v1"}
    assert first == {**answer, "cache_hit": False}
    for hits in (1, 2, 3):
        assert ask("ai_worker_generate", USERS, "v1", mode="sql_only") == {
            **answer,
            "cache_hit": True,
            "hit_count": hits,
        }
    (request,) = endpoint.log
    assert request.key == f"Bearer {KEY}"
    assert request.body["model"] == "gpt-4o-mini"


def test_what_makes_another_question(ask: Ask, endpoint: Standin) -> None:
    endpoint.answers = dict.fromkeys([USERS, USERS + "!"], SQL)
    questions: list[tuple[str, dict[str, Any]]] = [
        (USERS, {}), (USERS + "!", {}), (USERS, {"schema_version": "v1"}), (USERS, {"schema_version": "v2"}),
        (USERS, {"model": "other"}), (USERS, {"mode": "sql_write"}),
    ]  # fmt: skip
    for _ in range(2):
        for prompt, options in questions:
            ask("ai_worker_generate", prompt, **options)
    assert len(endpoint.log) == len(questions)


def test_tenants_do_not_share_answers(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    endpoint.sql(USERS, SQL)
    for tenant in ("", "acme", "", "acme"):
        db.execute("SELECT set_config('pgcache.tenant', %s, false)", [tenant])
        ask("ai_worker_generate", USERS)
    assert len(endpoint.log) == 2


def test_auto_follows_the_schema(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    endpoint.sql(USERS, SQL)
    versions = [ask("ai_worker_generate", USERS)["schema_version"] for _ in range(2)]
    for change in (
        "ALTER TABLE users ADD COLUMN age int",
        "COMMENT ON COLUMN users.age IS 'in years'",
        "COMMENT ON TABLE users IS 'people'",
        "CREATE VIEW adults AS SELECT * FROM users WHERE age >= 18",
        "CREATE TABLE orders (user_id int REFERENCES users)",
        "ALTER TABLE orders DROP CONSTRAINT orders_user_id_fkey",
        "SET search_path TO pgcache, public",
        "SET search_path TO pgcache",
    ):
        db.execute(change.encode())
        if "pgcache" in change:
            endpoint.sql(USERS, "SELECT * FROM public.users")
        versions.append(ask("ai_worker_generate", USERS, mode="sql_only")["schema_version"])
    assert len(set(versions[1:])) == len(versions) - 2  # the order of the search_path alone changes nothing
    assert versions[0] == versions[1]
    assert versions[0].startswith("auto-")
    assert len(versions[0]) == 20
    sent = endpoint.log[4].body["messages"][0]["content"]
    assert (
        "table users (id integer not null, name text, age integer /* in years */, PRIMARY KEY (id)) -- people" in sent
    )
    assert "view adults (" in sent


def test_a_large_schema_is_cut(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    db.execute("DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE format('CREATE TABLE wide_%s (a int, b int, c int)', i);"
               " END LOOP; END $$")  # fmt: skip
    ask("ai_configure", schema_bytes=1000)
    endpoint.sql(USERS, SQL)
    ask("ai_worker_generate", USERS)
    sent = endpoint.log[0].body["messages"][0]["content"]
    assert len(sent) < 1600
    assert "more tables are not shown)" in sent


def test_a_role_sees_and_sends_only_what_it_may_read(
    db: psycopg.Connection, endpoint: Standin, new_role: Callable[[str], str]
) -> None:
    db.execute("CREATE TABLE secret_plans (id int)")
    db.execute("CREATE TABLE partly (open int, hidden_column int)")
    role = new_role(db.info.dsn)
    name = user(role)
    db.execute(f"GRANT SELECT ON users TO {name}; GRANT SELECT (open) ON partly TO {name}")
    db.execute("SELECT pgcache.ai_grant(%s)", [name])
    endpoint.answers = {"users": SQL, "plans": "SELECT * FROM secret_plans"}
    with session(role) as theirs:
        mine, other = call(db, "ai_worker_generate", "users"), call(theirs, "ai_worker_generate", "users")
        refused = call(theirs, "ai_worker_generate", "plans")
    assert mine["schema_version"] != other["schema_version"]
    sent = endpoint.log[1].body["messages"][0]["content"]
    assert "table users" in sent
    assert "table partly (open integer)" in sent
    assert "secret" not in sent
    assert "hidden" not in sent
    assert not refused["validated"]
    assert refused["reason"] == "permission denied for table secret_plans"


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("SELECT nope FROM users", 'column "nope" does not exist'),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("I cannot help with that.", "syntax error"),
        ("", "the model returned no SQL"),
        ("```sql\n-- nothing\n```", "the model returned no SQL"),
        ("SELECT 1/0", "division by zero"),
    ],
)
def test_what_is_not_valid_is_returned_with_the_reason_and_not_cached(
    db: psycopg.Connection, ask: Ask, endpoint: Standin, completion: str, reason: str
) -> None:
    endpoint.sql(USERS, completion)
    for _ in range(2):
        answer = ask("ai_worker_generate", USERS)
        assert not answer["validated"]
        assert reason in answer["reason"]
        assert not answer["cache_hit"]
        assert answer["tokens_used"] == endpoint.log[0].tokens
    assert len(endpoint.log) == 2
    assert db.execute("SELECT count(*) FROM pgcache.ai_worker_cache").fetchone() == (0,)


def test_the_row_limit_can_be_set_and_turned_off(ask: Ask, endpoint: Standin) -> None:
    endpoint.answers = {"a": SQL, "b": SQL, "c": f"{SQL} LIMIT 5000"}
    ask("ai_configure", row_limit=7)
    assert ask("ai_worker_generate", "a")["sql"] == f"{SQL} LIMIT 7"
    assert ask("ai_worker_generate", "c")["sql"] == f"{SQL} LIMIT 5000"
    ask("ai_configure", row_limit=0)
    assert ask("ai_worker_generate", "b")["sql"] == SQL


def test_writing_where_the_caller_allows_it(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    statement = "UPDATE users SET name = 'x' WHERE id = 1"
    endpoint.answers = {"rename": statement, "drop": "DROP TABLE users", "list": SQL}
    assert "writes" in ask("ai_worker_generate", "rename")["reason"]
    for hit in (False, True):
        answer = ask("ai_worker_generate", "rename", mode="sql_write")
        assert (answer["sql"], answer["validated"], answer["cache_hit"]) == (statement, True, hit)
    assert not ask("ai_worker_generate", "rename")["validated"], "what was allowed to write is not for those who read"
    assert not ask("ai_worker_generate", "drop", mode="sql_write")["validated"]
    assert ask("ai_worker_generate", "list", mode="sql_write")["sql"] == f"{SQL} LIMIT 1000"
    assert db.execute("SELECT name FROM users ORDER BY id").fetchall() == [("Ada",), ("Grace",)]


@pytest.mark.parametrize(
    ("prompt", "options", "sqlstate"),
    [(None, {}, "PC025"), ("", {}, "PC025"), (" \n", {}, "PC025"), (USERS, {"mode": "shell"}, "PC025")],
)
def test_bad_arguments(ask: Ask, endpoint: Standin, prompt: Any, options: Any, sqlstate: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        ask("ai_worker_generate", prompt, **options)
    assert raised.value.sqlstate == sqlstate
    assert raised.value.diag.message_hint
    assert not endpoint.log


def test_a_read_only_transaction_hits_but_spends_nothing(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    endpoint.sql(USERS, SQL)
    ask("ai_worker_generate", USERS)
    ask("llm_complete", "hello")
    ask("embed", "text")
    with db.transaction():
        db.execute("SET TRANSACTION READ ONLY")
        assert ask("ai_worker_generate", USERS)["cache_hit"]
        assert ask("llm_complete", "hello")["cache_hit"]
        assert ask("embed", "text")
    for function in ("ai_worker_generate", "llm_complete", "embed"):
        with db.transaction(force_rollback=True):
            db.execute("SET TRANSACTION READ ONLY")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                ask(function, "something else")
    assert len(endpoint.log) == 3


def test_an_answer_outside_of_read_committed(db: psycopg.Connection, dsn: str, ask: Ask, endpoint: Standin) -> None:
    """Another session stores the answer after our snapshot: ours is returned, and its transaction goes on."""
    endpoint.sql(USERS, SQL)
    with session(dsn) as other, other.transaction():
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM users")
        ask("ai_worker_generate", USERS)
        assert call(other, "ai_worker_generate", USERS)["sql"] == f"{SQL} LIMIT 1000"
        assert other.execute("SELECT count(*) FROM users").fetchone() == (2,)


def test_complete(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    first = ask("llm_complete", "hello", "m", context="be brief", ttl="5 minutes")
    assert first == {
        "response": "you said: hello", "model": "m", "provider": endpoint.host, "tokens_used": endpoint.log[0].tokens,
        "cache_hit": False, "finish_reason": "stop",
    }  # fmt: skip
    assert endpoint.log[0].body["messages"] == [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"},
    ]  # fmt: skip
    del first["finish_reason"]
    assert ask("llm_complete", "hello", "m", context="be brief") == {**first, "cache_hit": True}
    ask("llm_complete", "hello", "m")
    assert len(endpoint.log) == 2
    assert db.execute("SELECT max(expires_at - created_at)::text, min(expires_at - created_at)::text"
                      " FROM pgcache.cache_llm_responses").fetchone() == ("01:00:00", "00:05:00")  # fmt: skip


def test_answers_that_were_cut_are_not_cached(ask: Ask, endpoint: Standin) -> None:
    for endpoint.finish in ("length", "content_filter"):
        for _ in range(2):
            assert ask("llm_complete", "hello")["finish_reason"] == endpoint.finish
    assert len(endpoint.log) == 4


def test_sql_that_was_cut_is_neither_valid_nor_cached(ask: Ask, endpoint: Standin) -> None:
    endpoint.sql(USERS, SQL)  # valid by itself, but who knows what is missing
    for endpoint.finish in ("length", "content_filter"):
        for _ in range(2):
            answer = ask("ai_worker_generate", USERS)
            assert (answer["validated"], answer["cache_hit"]) == (False, False)
            assert endpoint.finish in answer["reason"]
    assert len(endpoint.log) == 4


@pytest.mark.parametrize("function", ["ai_worker_generate", "llm_complete"])
def test_how_long_an_answer_is_kept_and_used(
    db: psycopg.Connection, ask: Ask, endpoint: Standin, function: str
) -> None:
    endpoint.sql(USERS, SQL)
    db.execute("SET pgcache.clock = '2030-01-01 00:00+00'")
    assert not ask(function, USERS, no_store=True)["cache_hit"]
    assert not ask(function, USERS, ttl="1 day")["cache_hit"]
    db.execute("SET pgcache.clock = '2030-01-01 12:00+00'")
    assert ask(function, USERS)["cache_hit"]
    assert ask(function, USERS, max_age="13 hours")["cache_hit"]
    assert len(endpoint.log) == 2
    assert not ask(function, USERS, max_age="11 hours", ttl="1 day")["cache_hit"]
    assert ask(function, USERS, max_age="1 second")["cache_hit"]  # since it is a new one
    assert not ask(function, USERS, max_age="0", no_store=True)["cache_hit"]
    assert len(endpoint.log) == 4


@pytest.mark.parametrize("function", ["ai_worker_generate", "llm_complete"])
def test_a_bad_ttl_costs_nothing(ask: Ask, endpoint: Standin, function: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        ask(function, "hello", ttl="-1 hour")
    assert raised.value.sqlstate == "PC003"
    assert not endpoint.log


def test_embed_one(ask: Ask, endpoint: Standin) -> None:
    for _ in range(2):
        assert json.loads(ask("embed", "one")) == pytest.approx(vector_of("one"), abs=1e-4)
    assert ask("embed", "one", model="other")
    assert ask("embed", None) is None
    assert [request.body["model"] for request in endpoint.log] == ["text-embedding-3-small", "other"]


def test_embed_many_asks_for_what_is_missing_once(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    endpoint.shuffle = True
    ask("embed", "b")
    texts = ["c", None, "b", "a", "c", "d"]
    for _ in range(2):
        rows = db.execute("SELECT * FROM pgcache.embed_many(%s)", [texts]).fetchall()
        assert [text for text, _ in rows] == texts
        for text, vector in rows:
            assert vector is None if text is None else json.loads(vector) == pytest.approx(vector_of(text), abs=1e-4)
    assert sorted(endpoint.texts()) == ["a", "b", "c", "d"]
    counted = db.execute("SELECT hits, misses FROM pgcache.cache_stats WHERE type = 'embedding'").fetchone()
    assert counted == (1 + 4, 1 + 3)


def test_embed_in_batches(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    ask("ai_configure", batch=100)
    texts = [f"text {n}" for n in range(700)]
    rows = db.execute("SELECT * FROM pgcache.embed_many(%s)", [texts]).fetchall()
    assert [json.loads(vector) == pytest.approx(vector_of(text), abs=1e-4) for text, vector in rows] == [True] * 700
    assert [len(request.body["input"]) for request in endpoint.log] == [100] * 7
    db.execute("SELECT * FROM pgcache.embed_many(%s)", [texts])
    assert len(endpoint.log) == 7


def test_many_questions_in_a_transaction(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    with session(dsn) as other, db.transaction():
        for _ in range(2):
            db.execute("SELECT pgcache.llm_complete('prompt ' || n) FROM generate_series(1, 300) n")
            assert all(claimed(other, f"prompt {n}") for n in (1, 2, 299, 300))
    assert len(endpoint.log) == 300


def test_embed_nothing(db: psycopg.Connection, endpoint: Standin) -> None:
    for texts in ([], [None], None):
        rows = db.execute("SELECT * FROM pgcache.embed_many(%s)", [texts]).fetchall()
        assert rows == [(None, None)] * len(texts or [])
    assert not endpoint.log


def test_vectors_that_do_not_fit_the_type_are_returned_and_not_stored(
    db: psycopg.Connection, ask: Ask, endpoint: Standin
) -> None:
    db.execute("SELECT pgcache.cache_configure('embedding', dimensions => 3)")
    warnings: list[str | None] = []
    db.add_notice_handler(lambda notice: warnings.append(notice.sqlstate))
    assert ask("embed", "text")
    assert warnings == ["PC005"]


def test_a_type_that_is_disabled_asks_each_time(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    db.execute("SELECT pgcache.cache_configure('llm', enabled => false)")
    for _ in range(2):
        assert not ask("llm_complete", "hello")["cache_hit"]
    assert len(endpoint.log) == 2


def test_savings_equal_a_recount_from_the_endpoints_log(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    db.execute("SELECT pgcache.cache_set_price('gpt-4o-mini', 0.6), pgcache.cache_set_price('big', 10)")
    endpoint.answers = {f"prompt {n}": f"SELECT {n} FROM users" for n in range(5)}
    asked: list[tuple[str, str]] = []
    for n in range(5):
        for model in ("gpt-4o-mini", "big"):
            for _ in range(n + 1):
                ask("ai_worker_generate", f"prompt {n}", "v1", model)
                asked.append((f"prompt {n}", model))
    cost = {(request.prompt, request.body["model"]): request.tokens for request in endpoint.answered()}
    assert len(endpoint.log) == len(cost) == 10
    would_have = sum(cost[question] for question in asked)
    spent = sum(request.tokens for request in endpoint.log)
    price = {"gpt-4o-mini": 0.6, "big": 10}
    money = sum(cost[question] * price[question[1]] for question in asked) - sum(
        request.tokens * price[request.body["model"]] for request in endpoint.log
    )
    for settled in (False, True):
        if settled:
            db.execute("SELECT pgcache.cache_cleanup()")
        row = db.execute("SELECT tokens_saved, money_saved, hits, misses FROM pgcache.cache_stats"
                         " WHERE type = 'ai_worker'").fetchone()  # fmt: skip
        assert row
        assert row[0] == would_have - spent
        assert float(row[1]) == pytest.approx(money / 1e6, abs=2e-6)
        assert row[2:] == (len(asked) - 10, 10)
        stats = db.execute("SELECT total_tokens_saved, total_hits FROM pgcache.ai_worker_cache_stats").fetchone()
        assert stats == (would_have - spent, len(asked) - 10)


@pytest.mark.breaks("counters", why="what is adopted brings the hits that it had")
def test_rows_of_the_cpp_worker_are_adopted(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    db.execute("""
        CREATE TABLE public.ai_worker_cache (
            cache_key VARCHAR(64) PRIMARY KEY, prompt_text TEXT NOT NULL, model VARCHAR(100) NOT NULL,
            schema_version VARCHAR(20) NOT NULL, generated_sql TEXT NOT NULL, validated BOOLEAN NOT NULL DEFAULT true,
            tokens_used INTEGER NOT NULL DEFAULT 0, created_at TIMESTAMP NOT NULL DEFAULT NOW(),
            expires_at TIMESTAMP NOT NULL, last_accessed_at TIMESTAMP NOT NULL DEFAULT NOW(),
            hit_count INTEGER NOT NULL DEFAULT 0
        )""")
    db.execute("""
        INSERT INTO public.ai_worker_cache
            (cache_key, prompt_text, model, schema_version, generated_sql, tokens_used, expires_at, hit_count,
            validated)
        SELECT encode(sha256(convert_to(p || '|gpt-4o-mini|v1', 'UTF8')), 'hex'), p, 'gpt-4o-mini', 'v1',
            'SELECT * FROM users LIMIT 1000', 123, now()::timestamp + life, 4, valid
        FROM (VALUES ('Get all users', interval '1 hour', true), ('old', interval '-1 hour', true),
            ('bad', interval '1 hour', false)) v (p, life, valid)""")
    adopted = "SELECT sum(entries) FROM pgcache.cache_adopt(dry_run => false)"
    assert [db.execute(adopted).fetchone() for _ in range(2)] == [(1,), (None,)]
    assert ask("ai_worker_generate", USERS, "v1") == {
        "sql": f"{SQL} LIMIT 1000", "validated": True, "tokens_used": 123, "schema_version": "v1", "cache_hit": True,
        "hit_count": 5,
    }  # fmt: skip
    assert not endpoint.log
