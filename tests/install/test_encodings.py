"""Databases whose encoding is not UTF-8, and sessions that speak another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pgcache_py import Cache, UnrepresentableError, cache_key, cache_key_json
from pgcache_py.setup.install import install
from tests.conftest import fresh_database
from tests.install.conftest import Run
from tests.servers import Server

pytestmark = pytest.mark.once  # on one server: nothing here is of its release
# A text that the encoding has, and one that it has not.
TEXTS = {"LATIN1": ("é", "ж"), "WIN1251": ("ж", "é"), "EUC_JP": ("日本", "ش"), "SQL_ASCII": ("é", None)}


def as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # escapes are of no use to SQL_ASCII


@pytest.fixture(params=TEXTS)
def encoding(request: pytest.FixtureRequest) -> str:
    encoding: str = request.param
    return encoding


@pytest.fixture
def dsn(server: Server, admin: psycopg.Connection, encoding: str) -> Iterator[str]:
    with fresh_database(server, admin, "template0", f"ENCODING '{encoding}' LOCALE 'C'") as dsn:
        yield dsn


def test_every_command(dsn: str, encoding: str, run: Run, tmp_path: Path) -> None:
    text, _ = TEXTS[encoding]
    code, output, errors = run("install", "--no-cron", "--dsn", dsn)
    assert (code, errors) == (0, ""), output
    for command in (["status"], ["stats"], ["cleanup"], ["upgrade", "--no-cron"], ["install", "--dry-run"]):
        code, output, errors = run(*command, "--dsn", dsn)
        assert (code, errors) == (0, ""), command
    assert run("set", "store", text, as_json([text, {text: "\\"}]), "--tenant", text, "--dsn", dsn)[0] == 0
    code, output, _ = run("get", "store", text, "--tenant", text, "--dsn", dsn)
    assert (code, json.loads(output)) == (0, [text, {text: "\\"}])
    assert run("delete", "store", text, "--tenant", text, "--dsn", dsn)[0] == 0
    lines = tmp_path / "lines.jsonl"
    lines.write_text(as_json({"type": "llm", "prompt": text, "model": "m", "value": {"response": text}}), "utf-8")
    assert run("warm", str(lines), "--dsn", dsn)[0] == 0
    with Cache(dsn) as cache:
        found = cache.llm.get(text, "m")
        assert found
        assert found["response"] == text
    assert run("uninstall", "--yes", "--dsn", dsn)[0] == 0


def test_keys_are_the_same_in_python_and_in_sql(dsn: str, encoding: str) -> None:
    install(dsn, cron=False)
    text, _ = TEXTS[encoding]
    value = {text: 1, "z": text, "~": [text]}
    with psycopg.connect(dsn, client_encoding="utf-8") as db:
        for query, argument, key in (
            ("SELECT pgcache.cache_key(%s)", text, cache_key(text)),
            ("SELECT pgcache.cache_key(%s, NULL, 'a')", text, cache_key(text, None, "a")),
            ("SELECT pgcache.cache_key_json(%s)", as_json(value), cache_key_json(value)),
        ):
            assert db.execute(query.encode(), [argument]).fetchone() == (key,), query


def test_a_client_over_a_connection_of_another_encoding(dsn: str, encoding: str) -> None:
    install(dsn, cron=False)
    text, _ = TEXTS[encoding]
    for theirs in ("utf-8", encoding) if encoding != "SQL_ASCII" else ("utf-8",):
        with psycopg.connect(dsn, autocommit=True, client_encoding=theirs) as connection:
            cache = Cache(connection, tenant=text)
            assert cache.set("store", text, {text: [text]})
            assert cache.get("store", text) == {text: [text]}
            assert list(cache.get_many("store", [text])) == [text]
            assert list(cache.keys("store")) == [text]
            assert cache.llm.set(text, "m", text)
            assert cache.llm.get(text, "m") == {"response": text, "model": "m"}


def test_freshness(dsn: str, encoding: str) -> None:
    """Leases, tags, watches, and what else compares or composes texts of its own."""
    install(dsn, cron=False)
    text, _ = TEXTS[encoding]
    with psycopg.connect(dsn, autocommit=True, client_encoding="utf-8") as db:
        cache = Cache(db, tenant=text)

        def computed() -> bool:
            lease = cache.fetch("store", text, tags=[f"doc:{text}"])
            assert lease.state == "won"
            return cache.set("store", text, text, token=lease.token)

        assert computed()
        assert cache.fetch("store", text).value == text
        cache.invalidate_tags(f"doc:{text}")
        assert text in cache.explain("store", text).cause
        assert computed()
        lease = cache.fetch("store", f"{text}2")
        assert cache.delete_prefix("store", text) == 1
        assert cache.set("store", f"{text}2", 1, token=lease.token) is False
        db.execute(f'CREATE TABLE "{text}" (id int, "{text}" text)'.encode())
        db.execute("SELECT pgcache.cache_watch(%s, %s)", [f'"{text}"', f"{text}:{{{text}}}"])
        assert cache.set("store", text, 1, tags=[f"{text}:{text}"])
        db.execute(f'INSERT INTO "{text}" VALUES (1, %s)'.encode(), [text])
        assert cache.get("store", text) is None
        db.execute("CALL pgcache.cache_upkeep()")
        assert cache.count("store", text) == len(cache.scan("store", text)) == 0
        assert cache.set("store", text, {"a": text})
        assert cache.replace("store", text, 2, expected={"a": text})
        cache.tenant_limit("store", text, max_entries=5)
        assert cache.forget(text).removed[0].removed == 1


def test_what_the_encoding_lacks(dsn: str, encoding: str) -> None:
    install(dsn, cron=False)
    text, lacking = TEXTS[encoding]
    if lacking is None:
        return
    with Cache(dsn) as cache:
        for key, value in ((lacking, 1), (text, lacking), (text, {lacking: 1})):
            with pytest.raises(UnrepresentableError):
                cache.set("store", key, value)
        assert cache.llm.get_or_compute("p", "m", lambda: lacking)["response"] == lacking  # which was paid for


def test_bytes_of_any_encoding_in_sql_ascii(server: Server, admin: psycopg.Connection) -> None:
    with fresh_database(server, admin, "template0", "ENCODING 'SQL_ASCII' LOCALE 'C'") as dsn:
        install(dsn, cron=False)
        with psycopg.connect(dsn, autocommit=True, client_encoding="SQL_ASCII") as db:
            row = db.execute(b"SELECT pgcache.cache_set('store', E'\\xe9', '1'), pgcache.cache_get('store', E'\\xe9')")
            assert row.fetchone() == (True, 1)
            with pytest.raises(psycopg.errors.CharacterNotInRepertoire):
                db.execute(b"SELECT pgcache.cache_key(E'\\xe9')")
