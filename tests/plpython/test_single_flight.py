"""One question, one call: many who ask at once, callers that die, transactions that stay open."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.plpython.standin import Reply, Standin
from tests.plpython.tools import claimed
from tests.tools.session import call, session, user
from tests.tools.waiting import Background, wait_until

pytestmark = pytest.mark.needs("plpython3u")

Ask = Callable[..., Any]
SQL = "SELECT * FROM users"


def asking(dsn: str, *arguments: Any, **named: Any) -> Background:
    """A session of its own that calls a function and ends."""

    def run() -> Any:
        with session(dsn) as connection:
            return call(connection, *arguments, **named)

    return Background(run)


@pytest.mark.parametrize("function", ["ai_worker_generate", "llm_complete", "embed"])
def test_fifty_callers_one_call(dsn: str, db: psycopg.Connection, endpoint: Standin, function: str) -> None:
    endpoint.sql("users", SQL)

    def run() -> Any:
        with session(dsn) as connection:
            return call(connection, function, "users")

    with endpoint.holding():
        callers = [Background(run) for _ in range(50)]
        wait_until(lambda: waiting(db) == 49, 60)
    answers = [caller.result() for caller in callers]
    assert len(endpoint.log) == 1
    if function != "embed":
        assert sorted(answer["cache_hit"] for answer in answers) == [False] + [True] * 49
    assert len({str(answer.get("sql") if isinstance(answer, dict) else answer) for answer in answers}) <= 2


@pytest.mark.parametrize("how", ["terminate", "cancel", "fails"])
def test_the_place_of_a_caller_that_is_gone_is_taken_at_once(
    dsn: str, db: psycopg.Connection, endpoint: Standin, how: str
) -> None:
    db.execute("SELECT pgcache.ai_configure(retries => 0)")
    endpoint.script = [Reply(status=500)] if how == "fails" else []
    with endpoint.holding():
        first = asking(dsn, "llm_complete", "hello")
        wait_until(lambda: endpoint.log)
        second = asking(dsn, "llm_complete", "hello")
        wait_until(lambda: waiting(db))
        if how != "fails":
            db.execute(f"SELECT pg_{how}_backend(pid) FROM pg_stat_activity WHERE query LIKE '%llm_complete%'"
                       " AND pid <> pg_backend_pid() AND wait_event_type IS DISTINCT FROM 'Lock'"
                       " AND datname = current_database()".encode())  # fmt: skip
            wait_until(lambda: len(endpoint.log) == 2)
    with pytest.raises(psycopg.Error):
        first.result()
    assert not second.result()["cache_hit"]
    assert len(endpoint.log) == 2
    wait_until(lambda: not claimed(db, "hello"))  # the one that was terminated may still be ending


def waiting(db: psycopg.Connection) -> int:
    """How many sessions wait for another's answer."""
    row = db.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                     " AND datname = current_database()").fetchone()  # fmt: skip
    assert row
    return int(row[0])


def test_waiting_for_a_transaction_that_stays_open_ends_with_the_lease(
    dsn: str, db: psycopg.Connection, ask: Ask, endpoint: Standin
) -> None:
    ask("ai_configure", lease=0.5)
    with session(dsn) as other:
        with other.transaction():
            call(other, "llm_complete", "hello")
            started = time.monotonic()
            answer = ask("llm_complete", "hello")
            assert time.monotonic() - started > 0.5
            assert not answer["cache_hit"]
            assert len(endpoint.log) == 2
            assert claimed(db, "hello")
        assert ask("llm_complete", "hello")["cache_hit"]
    assert not claimed(db, "hello")


def test_a_rollback_gives_the_question_to_those_who_wait(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    with session(dsn) as other:
        with other.transaction(force_rollback=True):
            call(other, "llm_complete", "hello")
            waiters = [asking(dsn, "llm_complete", "hello") for _ in range(5)]
            wait_until(lambda: waiting(db) == 5)
        answers = [waiter.result() for waiter in waiters]
    assert sorted(answer["cache_hit"] for answer in answers) == [False] + [True] * 4
    assert len(endpoint.log) == 2


def test_those_who_waited_keep_no_lock(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    with session(dsn) as other, other.transaction():
        with endpoint.holding():
            first = asking(dsn, "llm_complete", "hello")
            wait_until(lambda: endpoint.log)
            second = Background(lambda: call(other, "llm_complete", "hello"))
            wait_until(lambda: waiting(db))
        assert second.result()["cache_hit"]
        first.result()
        assert not claimed(db, "hello")


def test_two_transactions_that_wait_for_each_other(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    """PostgreSQL finds the deadlock; whom it chooses asks for itself, and nobody fails."""
    db.execute("SELECT pgcache.ai_configure(lease => 2)")
    with session(dsn) as one, session(dsn) as other:
        one.execute("BEGIN")
        other.execute("BEGIN")
        call(one, "llm_complete", "a")
        call(other, "llm_complete", "b")
        crossing = Background(lambda: call(one, "llm_complete", "b"))
        wait_until(lambda: waiting(db))
        assert call(other, "llm_complete", "a")["response"] == "you said: a"
        other.execute("COMMIT")
        assert crossing.result()["response"] == "you said: b"
        one.execute("COMMIT")
    assert 3 <= len(endpoint.log) <= 4


def test_batches_of_texts_that_overlap(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    endpoint.delay = 0.2
    batches = [[f"text {n % 40}" for n in range(start, start + 20)] for start in range(0, 40, 5)]
    batches += [batch[::-1] for batch in batches]

    def run(texts: list[str]) -> Any:
        with session(dsn) as connection:
            return connection.execute("SELECT * FROM pgcache.embed_many(%s)", [texts]).fetchall()

    callers = [Background(lambda texts=texts: run(texts)) for texts in batches]
    for texts, caller in zip(batches, callers, strict=True):
        assert [text for text, vector in caller.result() if vector] == texts
    assert sorted(endpoint.texts()) == sorted(f"text {n}" for n in range(40))


def test_different_questions_do_not_wait_for_each_other(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    with endpoint.holding():
        callers = [asking(dsn, "llm_complete", f"prompt {n}") for n in range(8)]
        wait_until(lambda: endpoint.answering == 8)
    for caller in callers:
        caller.result()


@pytest.mark.parametrize("function", ["llm_complete", "embed"])
def test_nobody_else_makes_those_who_ask_wait(
    dsn: str, db: psycopg.Connection, ask: Ask, endpoint: Standin, new_role: Callable[[str], str], function: str
) -> None:
    """Neither by an advisory lock, which is anybody's who may connect, nor by a claim without the right to ask."""
    call(db, "ai_configure", lease=0.2)
    reader, stranger = new_role(dsn), new_role(dsn)
    call(db, "cache_grant", user(reader), "read")
    with session(reader) as reading, session(stranger) as outside, outside.transaction():
        ask(function, "warms up")
        type, key = ("llm", "llm_key") if function == "llm_complete" else ("embedding", "embedding_key")
        number = db.execute(  # as it was in 0.1.0
            f"SELECT hashtextextended(pgcache.cache_key('pgcache.ai', '', %s, pgcache.{key}('hello',"
            " pgcache_internal.ai_setting(%s))), 0)".encode(),
            [type, "model" if type == "llm" else "embedding_model"],
        ).fetchone()
        outside.execute("SELECT pg_advisory_xact_lock(%s)", number)
        for statement in (
            "SELECT pgcache_internal.ai_claim('llm', '{k}', now())",
            "INSERT INTO pgcache_internal.ai_questions VALUES (1)",
            "SELECT * FROM pgcache_internal.ai_questions",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reading.execute(statement.encode())
        for _ in range(2):
            ask(function, "hello")
        assert len(endpoint.log) == 2, "an answer that is late is not stored"


def test_claims_of_tenants_and_of_types_are_apart(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    claim = "SELECT pgcache_internal.ai_claim(%s, '{a,b,c}', clock_timestamp())"
    with session(dsn) as other, other.transaction():
        assert other.execute(claim, ["llm"]).fetchone() == ([],)
        assert other.execute(claim, ["llm"]).fetchone() == ([],), "what is one's own"
        assert sorted(db.execute(claim, ["llm"]).fetchone()[0]) == ["a", "b", "c"]  # type: ignore[index]
        assert db.execute(claim, ["embedding"]).fetchone() == ([],)
        db.execute("SET pgcache.tenant = 'acme'")
        assert db.execute(claim, ["llm"]).fetchone() == ([],)
        db.execute("RESET pgcache.tenant")
        other.execute("SAVEPOINT before")
        other.execute(claim, ["embedding"])
        assert len(db.execute(claim, ["embedding"]).fetchone()[0]) == 3  # type: ignore[index]
        other.execute("ROLLBACK TO before")
        assert db.execute(claim, ["embedding"]).fetchone() == ([],)
    assert db.execute(claim, ["llm"]).fetchone() == ([],)
    assert db.execute("SELECT count(*) FROM pgcache_internal.ai_questions").fetchone() == (0,)


def test_a_claim_is_nothing_that_serializable_transactions_read(dsn: str, db: psycopg.Connection) -> None:
    claim = "SELECT pgcache_internal.ai_claim('llm', %s, clock_timestamp())"
    with session(dsn) as one, session(dsn) as other:
        for connection, keys in ((one, ["a", "b"]), (other, ["c", "d"])):
            connection.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            connection.execute(claim, [keys])
        locks = db.execute("SELECT count(*) FROM pg_locks WHERE mode = 'SIReadLock'"
                           " AND relation::regclass::text ~ 'ai_questions'").fetchone()  # fmt: skip
        assert locks == (0,)
        other.execute("COMMIT")
        one.execute("COMMIT")


def test_in_repeatable_read(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    """Who sees an old snapshot asks for itself once the other is done; nobody fails."""

    def run(prompt: str) -> Any:
        with session(dsn) as connection:
            connection.execute("SET default_transaction_isolation = 'repeatable read'")
            return call(connection, "llm_complete", prompt)

    with endpoint.holding():
        callers = [Background(lambda prompt=prompt: run(prompt)) for prompt in ("a", "a", "b", "c")]
        wait_until(lambda: waiting(db) == 1 and endpoint.answering == 3)
    assert [caller.result()["response"][-1] for caller in callers] == ["a", "a", "b", "c"]
    assert 3 <= len(endpoint.log) <= 4
