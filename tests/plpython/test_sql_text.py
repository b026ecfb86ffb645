"""The SQL in a completion: found, trimmed, bounded. No database is needed."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest


@pytest.mark.parametrize(
    ("completion", "sql"),
    [
        ("SELECT 1", "SELECT 1"),
        ("  SELECT 1 ;\n", "SELECT 1"),
        ("SELECT 1;;  -- done", "SELECT 1"),
        ("```sql\nSELECT 1;\n```", "SELECT 1"),
        ("Here it is:\n```\nSELECT 1\n```\nIt selects one.", "SELECT 1"),
        ("```json\n{}\n```\n```sql\nSELECT 2\n```", "SELECT 2"),
        ("```sql\nSELECT 1", "SELECT 1"),
        ("``` SQL title=x\nSELECT 1\n```", "SELECT 1"),
        ("```sqlite\nSELECT 1\n```\n```postgres\nSELECT 2\n```", "SELECT 2"),
        ("-- all users\nSELECT 1 /* one */ ", "SELECT 1"),
        ("SELECT ';' || $$;$$ || \";\" FROM t;", "SELECT ';' || $$;$$ || \";\" FROM t"),
        ("SELECT 1; DROP TABLE t;", "SELECT 1; DROP TABLE t"),
        ("SELECT 1 -- ; DROP TABLE t", "SELECT 1"),
        ("", ""),
        ("   ;; -- nothing", ""),
        ("```sql\n```", ""),
    ],
)
def test_statement(bodies: SimpleNamespace, completion: str, sql: str) -> None:
    assert bodies.trimmed(bodies.fenced(completion)) == sql


@pytest.mark.parametrize(
    ("sql", "limited"),
    [
        ("SELECT 1", "SELECT 1 LIMIT 9"),
        ("SELECT 1 LIMIT 5", None),
        ("select 1 limit 5 offset 2", None),
        ("SELECT 1 FETCH FIRST 5 ROWS ONLY", None),
        ("SELECT 1 LIMIT ALL", "SELECT 1 LIMIT 9"),
        ("SELECT 1 LIMIT NULL OFFSET 3", "SELECT 1 LIMIT 9 OFFSET 3"),
        ("SELECT * FROM (SELECT 1 LIMIT 5) t", "SELECT * FROM (SELECT 1 LIMIT 5) t LIMIT 9"),
        ("WITH t AS (SELECT 1 LIMIT 5) SELECT * FROM t", "WITH t AS (SELECT 1 LIMIT 5) SELECT * FROM t LIMIT 9"),
        ("(SELECT 1 LIMIT 5) UNION SELECT 2", "(SELECT 1 LIMIT 5) UNION SELECT 2 LIMIT 9"),
        ("SELECT 'limit', $$ limit $$, e'\\' limit'", "SELECT 'limit', $$ limit $$, e'\\' limit' LIMIT 9"),
        ('SELECT "limit" FROM t', 'SELECT "limit" FROM t LIMIT 9'),
        ("SELECT 1 /* limit /* 5 */ limit */", "SELECT 1 /* limit /* 5 */ limit */ LIMIT 9"),
        ("SELECT 1 -- limit\n, 2", "SELECT 1 -- limit\n, 2 LIMIT 9"),
        ("SELECT a AS limit FROM t", "SELECT a AS limit FROM t LIMIT 9"),
        ("SELECT t.limit FROM t", "SELECT t.limit FROM t LIMIT 9"),
        ("SELECT rate_limit FROM t", "SELECT rate_limit FROM t LIMIT 9"),
        ("SELECT a[(SELECT 1 LIMIT 1)] FROM t", "SELECT a[(SELECT 1 LIMIT 1)] FROM t LIMIT 9"),
    ],
)  # fmt: skip
def test_limit(bodies: SimpleNamespace, sql: str, limited: str | None) -> None:
    assert bodies.limited(sql, 9) == (limited or sql)


@pytest.mark.parametrize(
    "text", ["'", '"', "$a$", "/*", "/* /* */", "e'\\", "U&'", "\\", "\x00", "é$", "$$x", "1e", "😀"]
)
def test_tokens_of_anything(bodies: SimpleNamespace, text: str) -> None:
    for sql in (text, f"SELECT {text}", f"{text} limit 5; {text}"):
        found = bodies.tokens(sql)
        assert all(sql[start:end] == token for _, token, start, end in found)
        bodies.trimmed(sql)
        bodies.limited(sql, 9)


@pytest.mark.parametrize(
    "piece", ["```", "`", "``` ", "```a", "```\n", "a", " ", "\n", "'", '"', "e'\\", "$a", "/*", "*/", "a;"]
)
def test_nothing_takes_quadratic_time(bodies: SimpleNamespace, piece: str) -> None:
    """No cancel can end it, and with so much it would take hours."""
    started = time.monotonic()
    for completion in (piece * 1000000, "```" + piece * 1000000):
        bodies.trimmed(bodies.fenced(completion)[: bodies.MAX_SQL])
    assert time.monotonic() - started < 60


def test_what_is_too_long_is_not_even_read(bodies: SimpleNamespace) -> None:
    for completion in ("a+" * 1000000, "```sql\n" + "a+" * 1000000):
        verdict = bodies.validate(None, completion, "sql_only", "public", 1000)
        assert verdict["validated"] is False
        assert verdict["reason"] == "the statement has 2000000 characters, and the limit is 100000"
