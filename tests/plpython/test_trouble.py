"""Outages, cancels and limits, seen from SQL: a clear error, no lock, no open transaction, and in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.plpython.standin import KEY, Reply, Standin
from tests.plpython.tools import claimed
from tests.tools.session import call, session
from tests.tools.waiting import Background, wait_until

pytestmark = pytest.mark.needs("plpython3u")

Ask = Callable[..., Any]
FUNCTIONS = ("ai_worker_generate", "llm_complete", "embed")


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("step", "sqlstate", "message"),
    [
        (Reply(status=500), "PC021", "failed with HTTP status 500: the stand-in says 500"),
        (Reply(how="reset"), "PC021", "cannot be reached: the connection failed"),
        (Reply(how="cut"), "PC021", "cannot be reached: the connection was cut"),
        (Reply(how="nothing"), "PC021", "cannot be reached: no answer within 0.5 s"),
        (Reply(status=429, headers={"Retry-After": "90"}), "PC023", "allows no more requests now"),
        (Reply(status=401, body={"error": {"message": f"Incorrect API key provided: {KEY}"}}), "PC022", "[key]"),
        (Reply(how="raw", body=b"{"), "PC024", "it is no JSON"),
    ],
)
def test_errors(
    db: psycopg.Connection, ask: Ask, endpoint: Standin, function: str, step: Reply, sqlstate: str, message: str
) -> None:
    ask("ai_configure", retries=0, timeout=0.5)
    endpoint.script = [step]
    with pytest.raises(psycopg.Error) as raised:
        ask(function, "hello")
    error = raised.value.diag
    assert error.sqlstate == sqlstate
    assert error.message_primary
    assert message in error.message_primary
    assert error.message_primary.startswith(("the AI endpoint", "the answer of the AI endpoint"))
    assert error.message_hint
    assert KEY not in f"{raised.value}{error.message_detail}{error.context}"
    assert db.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_an_outage_leaves_nothing_and_cached_answers_are_served(
    dsn: str, db: psycopg.Connection, ask: Ask, endpoint: Standin
) -> None:
    ask("llm_complete", "known")
    ask("ai_configure", base_url="http://127.0.0.1:9/v1", retries=1)
    callers = [Background(lambda: in_a_session(dsn, "unknown")) for _ in range(10)]
    for caller in callers:
        with pytest.raises(psycopg.Error) as raised:
            caller.result()
        assert raised.value.sqlstate == "PC021"
        assert raised.value.diag.message_hint
    assert ask("llm_complete", "known")["cache_hit"]
    open_ones = db.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                           " AND xact_start IS NOT NULL AND pid <> pg_backend_pid()").fetchone()  # fmt: skip
    assert open_ones == (0,)


def in_a_session(dsn: str, prompt: str) -> Any:
    with session(dsn) as connection:
        return call(connection, "llm_complete", prompt)


def test_a_savepoint_survives_an_outage(dsn: str, db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    ask("ai_configure", retries=0)
    endpoint.script = [Reply(status=500)]
    with db.transaction():
        db.execute("INSERT INTO users VALUES (3, 'Edsger')")
        with pytest.raises(psycopg.Error), db.transaction():
            ask("llm_complete", "hello")
        with session(dsn) as other:
            assert not claimed(other, "hello")
        assert ask("llm_complete", "hello")
    assert db.execute("SELECT count(*) FROM users").fetchone() == (3,)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "step", [Reply(delay=10), Reply(how="nothing"), Reply(how="drip"), Reply(status=503, headers={"Retry-After": "9"})]
)
def test_statement_timeout(db: psycopg.Connection, ask: Ask, endpoint: Standin, function: str, step: Reply) -> None:
    endpoint.script = [step]
    db.execute("SET statement_timeout = '300ms'")
    started = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled) as raised:
        ask(function, "hello")
    assert time.monotonic() - started < 5, "it waited for the endpoint, which takes 9 s or more"
    assert "statement timeout" in str(raised.value)
    db.execute("RESET statement_timeout")
    endpoint.script = []  # on a busy machine it may not even have asked
    assert ask(function, "hello"), "the session goes on"


HUGE = b'{"choices": [{"message": {"content": "%b"}}]}' % (b"a+" * 10000000)
LIMIT = "longer than 4194304 bytes"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Reply(how="raw", body=HUGE), LIMIT),
        (Reply(how="endless", body=b"x" * 65536), LIMIT),
        (Reply(how="raw", body=b"[" * 4000000), "it is nested too deep"),
    ],
)
@pytest.mark.parametrize("function", ["ai_worker_generate", "llm_complete"])
def test_a_huge_answer(
    db: psycopg.Connection, ask: Ask, endpoint: Standin, function: str, step: Reply, message: str
) -> None:
    endpoint.script = [step]
    with pytest.raises(psycopg.Error, match=message) as raised:
        ask(function, "hello")
    assert raised.value.sqlstate == "PC024"
    assert raised.value.diag.message_hint


def test_a_long_answer(ask: Ask, endpoint: Standin) -> None:
    endpoint.answers = {"hello": "a+" * 2000000}
    answer = ask("ai_worker_generate", "hello")
    assert answer["validated"] is False
    assert "the limit is 100000" in answer["reason"]
    assert ask("llm_complete", "hello")["response"] == "a+" * 2000000
    assert ask("llm_complete", "hello")["cache_hit"]


def test_cancel(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    with session(dsn) as other:
        with endpoint.holding():
            caller = Background(lambda: call(other, "llm_complete", "hello"))
            wait_until(lambda: endpoint.log)
            other.cancel()
            with pytest.raises(psycopg.errors.QueryCanceled):
                caller.result(20)  # without an answer it would take 60 s
        assert call(other, "llm_complete", "hello")


def test_a_cancel_while_waiting_for_another_session(
    dsn: str, db: psycopg.Connection, ask: Ask, endpoint: Standin
) -> None:
    with session(dsn) as other, other.transaction():
        call(other, "llm_complete", "hello")
        db.execute("SET statement_timeout = '300ms'")
        started = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            ask("llm_complete", "hello")
        assert time.monotonic() - started < 20, "it waited for the lease, which is 60 s"


def test_settings_of_the_session_are_as_they_were(dsn: str, db: psycopg.Connection, endpoint: Standin) -> None:
    endpoint.answers = {"users": "SELECT * FROM users"}
    names = ("lock_timeout", "statement_timeout", "search_path", "transaction_read_only", "pgcache.tenant")
    with db.transaction():
        db.execute("SET LOCAL lock_timeout = '1234ms'")
        before = [db.execute(f"SHOW {name}").fetchone() for name in names[:4]]
        for version in ("auto", "v1"):
            call(db, "ai_worker_generate", "users", version)
            call(db, "ai_worker_generate", "drop", version)
        call(db, "llm_complete", "hello")
        call(db, "embed", "hello")
        assert [db.execute(f"SHOW {name}").fetchone() for name in names[:4]] == before


def test_a_bad_endpoint_is_not_accepted(ask: Ask) -> None:
    for base_url in (
        *("ftp://x", "x", "http://user:password@host/v1", "https://host/v1?key=1", "", "http://[::1", "http://::1/v1"),
        *(
            "http://[host]/v1",
            "http://[127.0.0.1]",
            "http://[::1]x",
            "http://host:99999/v1",
            "http://host:0",
            "http://h:",
        ),
        *("http://[::1]:65536", "http://host:port/v1", "http://host:80:80"),
    ):
        with pytest.raises(psycopg.Error) as raised:
            ask("ai_configure", base_url=base_url)
        assert raised.value.sqlstate == "PC010", base_url
        assert raised.value.diag.message_hint
    for base_url in (
        "http://[::1]",
        "http://[::1]:8080/v1/",
        "http://[::ffff:10.0.0.1]:1/a:0",
        "https://h-1.example:65535",
    ):
        ask("ai_configure", base_url=base_url)


@pytest.mark.parametrize("function", ["llm_complete", "ai_worker_generate", "embed"])
def test_a_model_has_a_name(ask: Ask, endpoint: Standin, function: str) -> None:
    with pytest.raises(psycopg.Error, match="the model is empty") as raised:
        ask(function, "hello", model="")
    assert raised.value.sqlstate == "PC025"
    assert not endpoint.log


def test_without_any_key(db: psycopg.Connection, ask: Ask, endpoint: Standin) -> None:
    """Ollama and its like need none; OpenAI's own is not even asked."""
    ask("ai_configure", api_key="")
    ask("llm_complete", "hello")
    assert endpoint.log[0].key is None
    ask("ai_configure", base_url="https://api.openai.com/v1")
    with pytest.raises(psycopg.Error) as raised:
        ask("llm_complete", "other")
    assert raised.value.sqlstate == "PC020"
    assert "ai-key" in str(raised.value.diag.message_hint)
