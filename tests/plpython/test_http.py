"""The HTTP face: a real server process, the seed's own commands, and everything that clients and databases do wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from pgcache_py.setup.install import install
from tests.plpython.standin import Reply, Standin
from tests.servers import Cluster
from tests.servers.cluster import free_port
from tests.tools.served import PROJECT, Serve, listens
from tests.tools.session import call
from tests.tools.waiting import Background, wait_until

SQL = "SELECT * FROM users"
USERS = {"prompt": "Get all users", "mode": "sql_only", "schema_version": "v1"}

python = pytest.mark.needs("plpython3u")


def curl(command: str) -> Any:
    done = subprocess.run(
        ["bash", "-c", command.replace("curl ", "curl -sS ")], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout, object_pairs_hook=lambda pairs: dict(pairs))


@python
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_seeds_commands(dsn: str, db: psycopg.Connection, endpoint: Standin, serve: Serve) -> None:
    """As the C++ worker's documentation writes them; only the port may differ, if 8088 is taken here."""
    taken = listens(8088)
    port = free_port() if taken else 8088
    serve(dsn, port=port)
    endpoint.sql("Get all users", SQL)
    generate = r"""curl -X POST http://127.0.0.1:8088/generate \
  -H "Content-Type: application/json" \
  -d '{"prompt":"Get all users","mode":"sql_only","schema_version":"v1"}'"""
    answers = [curl(generate.replace("8088", str(port))) for _ in range(3)]
    tokens = endpoint.log[0].tokens
    answer = {"sql": f"{SQL} LIMIT 1000", "validated": True, "tokens_used": tokens, "schema_version": "v1"}
    assert [list(found.items()) for found in answers] == [
        list({**answer, "cache_hit": False}.items()),
        list({**answer, "cache_hit": True, "hit_count": 1}.items()),
        list({**answer, "cache_hit": True, "hit_count": 2}.items()),
    ]
    db.execute("SELECT pgcache.cache_set_ai_worker('old', 'm', 'v1', 'SELECT 1', ttl => '1 second')")
    db.execute("UPDATE pgcache.ai_worker_cache SET expires_at = now() - interval '1 s' WHERE prompt_text = 'old'")
    stats = curl(f"curl http://127.0.0.1:{port}/cache/stats")
    for name in ("oldest_entry", "newest_entry"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", stats.pop(name))
    assert list(stats.items()) == [
        ("total_entries", 2), ("valid_entries", 1), ("expired_entries", 1), ("total_hits", 2),
        ("avg_hits_per_entry", 1.0), ("total_tokens_saved", 2 * tokens), ("max_hits", 2),
    ]  # fmt: skip
    cleanup = f"curl -X POST http://127.0.0.1:{port}/cache/cleanup"
    assert curl(cleanup) == {"deleted_entries": 1, "message": "Cleanup completed"}
    assert curl(cleanup) == {"deleted_entries": 0, "message": "Cleanup completed"}


@python
def test_what_is_not_valid_has_a_reason(dsn: str, endpoint: Standin, serve: Serve) -> None:
    endpoint.sql("drop", "DROP TABLE users")
    response = serve(dsn).post("/generate", json={"prompt": "drop"})
    assert response.status_code == 200
    assert response.json()["validated"] is False
    assert response.json()["reason"]


@python
def test_bad_requests(dsn: str, endpoint: Standin, serve: Serve) -> None:
    client = serve(dsn, "--max-body", "1000")
    header = {"Content-Type": "application/json"}
    for status, options in (
        (400, {"content": b"", "headers": header}),
        (400, {"content": b"{", "headers": header}),
        (400, {"content": b"[" * 900, "headers": header}),
        (400, {"content": b"\xff", "headers": header}),
        (400, {"json": []}),
        (400, {"json": {}}),
        (400, {"json": {"prompt": None}}),
        (400, {"json": {"prompt": ""}}),
        (400, {"json": {"prompt": 1}}),
        (400, {"json": {"prompt": "a\0b"}}),
        (400, {"content": b'{"prompt": "\\ud800"}', "headers": header}),
        (400, {"json": {**USERS, "mode": "shell"}}),
        (400, {"json": {**USERS, "schema_version": 1}}),
        (415, {"content": json.dumps(USERS).encode()}),
        (415, {"content": json.dumps(USERS).encode(), "headers": {"Content-Type": "text/plain"}}),
        (413, {"json": {"prompt": "x" * 2000}}),
        (413, {"content": (b"x" for _ in range(2000)), "headers": header}),
        (403, {"json": USERS, "headers": {"Origin": "http://evil.example"}}),
        (400, {"json": USERS, "headers": {"Host": "evil.example"}}),
    ):
        response = client.post("/generate", **options)
        assert response.status_code == status, (options, response.text)
    assert client.get("/generate").status_code == 405
    assert client.get("/nothing").status_code == 404
    assert not endpoint.log
    assert client.get("/healthz").json() == {"status": "ok"}


@python
def test_a_token(dsn: str, endpoint: Standin, serve: Serve) -> None:
    client = serve(dsn, token="let-me-in")
    calls = [("POST", "/generate"), ("GET", "/cache/stats"), ("POST", "/cache/cleanup"), ("GET", "/metrics")]
    for given in (None, "Bearer wrong", "Basic let-me-in", "Bearer", "let-me-in", "Bearer let-me-in2", "Bearer ключ"):
        headers = {b"Authorization": given.encode()} if given else {}
        for method, path in calls:
            assert client.request(method, path, json=USERS, headers=headers).status_code == 401
    assert client.get("/healthz").status_code == 200
    for method, path in calls:
        assert (
            client.request(method, path, json=USERS, headers={"Authorization": "Bearer let-me-in"}).status_code == 200
        )


def test_other_machines_are_let_in_on_purpose_only(dsn: str) -> None:
    command = [sys.executable, "-m", "pgcache_py", "serve", "--dsn", dsn, "--host", "0.0.0.0"]
    environ = {name: value for name, value in os.environ.items() if name != "PGCACHE_HTTP_TOKEN"}
    done = subprocess.run(command, cwd=PROJECT, env=environ, text=True, capture_output=True, timeout=30)
    assert done.returncode == 1
    assert "PGCACHE_HTTP_TOKEN" in done.stderr


@python
@pytest.mark.parametrize(
    ("step", "status", "sqlstate"),
    [
        (Reply(status=500), 502, "PC021"), (Reply(status=401), 502, "PC022"),
        (Reply(how="raw", body=b"{"), 502, "PC024"),
        (Reply(status=429, headers={"Retry-After": "300"}), 429, "PC023"), (Reply(delay=5), 504, "57014"),
    ],
)  # fmt: skip
def test_an_outage_of_the_endpoint(
    dsn: str, db: psycopg.Connection, endpoint: Standin, serve: Serve, step: Reply, status: int, sqlstate: str
) -> None:
    call(db, "ai_configure", retries=0)
    endpoint.script = [step]
    client = serve(dsn, "--timeout", "1")
    response = client.post("/generate", json=USERS)
    assert response.status_code == status
    assert response.json()["sqlstate"] == sqlstate
    assert response.json()["error"]
    endpoint.sql(USERS["prompt"], SQL)
    assert client.post("/generate", json=USERS).status_code == 200


@python
def test_too_many_at_once_are_told_to_come_back(dsn: str, endpoint: Standin, serve: Serve) -> None:
    client = serve(dsn, "--concurrency", "3")
    with endpoint.holding():
        callers = [Background(lambda n=n: client.post("/generate", json={"prompt": f"prompt {n}"})) for n in range(8)]
        wait_until(lambda: sum(not caller.is_alive() for caller in callers) == 5)
    responses = [caller.result() for caller in callers]
    refused = [response for response in responses if response.status_code == 503]
    assert len(refused) == 5
    assert {response.headers["Retry-After"] for response in refused} == {"1"}
    assert len(endpoint.log) == 3
    assert client.get("/cache/stats").status_code == 200


@python
def test_other_endpoints_answer_while_prompts_wait(dsn: str, endpoint: Standin, serve: Serve) -> None:
    client = serve(dsn, "--concurrency", "4")
    with endpoint.holding():
        waiting = [Background(lambda n=n: client.post("/generate", json={"prompt": f"prompt {n}"})) for n in range(4)]
        wait_until(lambda: len(endpoint.log) == 4)
        assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200
    for background in waiting:
        assert background.result().status_code == 200


@python
def test_a_running_request_ends_before_the_server_does(dsn: str, endpoint: Standin, serve: Serve) -> None:
    endpoint.sql(USERS["prompt"], SQL)
    client = serve(dsn)
    with endpoint.holding():
        running = Background(lambda: client.post("/generate", json=USERS))
        wait_until(lambda: endpoint.log)
        client.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not listens(client.port))
    assert running.result().json()["validated"]
    output, _ = client.process.communicate(timeout=10)
    assert "Traceback" not in output
    assert client.process.returncode == 0


def test_without_the_level_plpython(dsn: str, db: psycopg.Connection, serve: Serve) -> None:
    """The rest works."""
    db.execute("DROP EXTENSION IF EXISTS plpython3u CASCADE")
    db.execute("DROP FUNCTION IF EXISTS pgcache.ai_worker_generate(text, text, text, text)")
    client = serve(dsn)
    response = client.post("/generate", json=USERS)
    assert response.status_code == 503
    assert response.json()["hint"]
    for path in ("/healthz", "/cache/stats", "/metrics"):
        assert client.get(path).status_code == 200


def test_without_pgcache(empty_dsn: str, serve: Serve) -> None:
    client = serve(empty_dsn)
    for method, path in (("GET", "/healthz"), ("POST", "/generate"), ("GET", "/metrics"), ("POST", "/cache/cleanup")):
        response = client.request(method, path, json=USERS)
        assert response.status_code == 503
        assert "install" in response.json()["hint"]


@pytest.mark.needs("cluster")
@pytest.mark.once
def test_a_database_that_goes_and_comes_back(throwaway_cluster: Callable[..., Cluster], serve: Serve) -> None:
    cluster = throwaway_cluster()
    install(cluster.dsn(), cron=False)
    client = serve(cluster.dsn())
    assert client.get("/healthz").json() == {"status": "ok"}
    for stop in (lambda: cluster.stop("immediate"), cluster.kill9):
        stop()
        for path in ("/healthz", "/cache/stats", "/metrics"):
            response = client.get(path)
            assert response.status_code == 503
            assert response.json()["error"]
            assert response.headers["Retry-After"]
        page = client.get("/")
        assert page.status_code == 503
        assert "the database cannot be reached" in page.text
        assert client.post("/generate", json=USERS).status_code == 503
        cluster.start()
        wait_until(lambda: client.get("/healthz").status_code == 200, 15)
        assert client.get("/").status_code == 200


@pytest.mark.needs("cluster")
@pytest.mark.once
def test_a_database_that_is_not_there_yet(throwaway_cluster: Callable[..., Cluster], serve: Serve) -> None:
    cluster = throwaway_cluster()
    install(cluster.dsn(), cron=False)
    cluster.stop()
    client = serve(cluster.dsn())
    assert client.get("/healthz").status_code == 503
    cluster.start()
    wait_until(lambda: client.get("/healthz").status_code == 200, 15)


def test_half_requests_keep_nobody_out(dsn: str, serve: Serve) -> None:
    """Nor slow ones: each waits for ten seconds, and a hundred of them at most."""
    client = serve(dsn)
    halves = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(150)]
    try:
        for half in halves:
            half.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert client.get("/healthz").status_code == 200
        halves[0].settimeout(20)
        with suppress(ConnectionResetError):
            assert halves[0].recv(1) == b""
    finally:
        for half in halves:
            half.close()
    assert client.get("/healthz", headers={"Host": "testserver"}).status_code == 400
