"""Loading entries from files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgcache_py.cli import main as cli
from pgcache_py.cli import warm as module
from pgcache_py.cli.demo import DATA
from pgcache_py.cli.warm import BadLine, warm
from pgcache_py.cli.warm_lines import shapes
from pgcache_py.errors import InvalidValueError, NotInstalledError, PgcacheError
from tests.tools.session import fetch

pytestmark = pytest.mark.once  # the client; what it calls is in tests/sql


def written(tmp_path: Path, lines: Iterable[dict[str, Any] | str | bytes], name: str = "x.jsonl") -> str:
    path = tmp_path / name
    with path.open("wb") as file:
        for line in lines:
            text = json.dumps(line) if isinstance(line, dict) else line
            file.write((text if isinstance(text, bytes) else text.encode()) + b"\n")
    return str(path)


def store(key: str, value: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"type": "store", "key": key, "value": value, **fields}


def test_simple_entries(dsn: str, tmp_path: Path) -> None:
    path = written(tmp_path, [store("a", {"x": "ü"}), "", store("b", None), store("c", 1.5, ttl=60, tenant="t")])
    progress: list[tuple[int, int]] = []
    report = warm(dsn, [path], on_progress=lambda *step: progress.append(step))
    assert (report.stored, report.bad, report.entries) == (3, 0, {"store": 3})
    assert progress == [(Path(path).stat().st_size, 3)]
    assert fetch(dsn, "SELECT pgcache.cache_get('store', 'a')") == {"x": "ü"}
    assert fetch(dsn, "SELECT pgcache.cache_get('store', 'b')::text") == "null"
    assert fetch(dsn, "SELECT pgcache.cache_get('store', 'c')") is None
    with psycopg.connect(dsn) as connection:
        connection.execute("SET pgcache.tenant = 't'")
        row = connection.execute("SELECT pgcache.cache_get('store', 'c'), pgcache.cache_ttl('store', 'c')").fetchone()
        assert row
        assert (row[0], row[1].total_seconds() <= 60) == (1.5, True)


def test_many_batches_and_the_last_of_equal_keys_stays(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_ENTRIES", 10)
    lines = [store(f"k{n % 25}", n, ttl=f"{1 + n % 3} hours") for n in range(100)]
    report = warm(dsn, [written(tmp_path, lines)])
    assert (report.stored, report.bad) == (100, 0)
    for n in range(75, 100):
        assert fetch(dsn, f"SELECT pgcache.cache_get('store', 'k{n % 25}')") == n


def test_memory_is_bounded_by_bytes_too(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1000)
    steps: list[int] = []
    path = written(tmp_path, [store(f"k{n}", "x" * 600) for n in range(6)])
    warm(dsn, [path], on_progress=lambda size, _: steps.append(size))
    assert max(steps) < 2000
    assert sum(steps) == Path(path).stat().st_size


BAD: list[tuple[dict[str, Any] | str | bytes, str]] = [
    ("{", "no JSON"),
    ("[1]", "no JSON object"),
    (b'{"type": "store", "key": "\xff", "value": 1}', "no UTF-8"),
    ({"key": "k", "value": 1}, 'the field "type" is missing'),
    ({"type": "store", "value": 1}, 'the field "key" is missing'),
    ({"type": "store", "key": 7, "value": 1}, 'the field "key" is no text'),
    ({"type": "store", "key": "k"}, 'the field "value" is missing'),
    (store("k", tll="1 hour"), 'unknown field "tll"'),
    (store("k", ttl=True), "ttl must be"),
    (store("k", ttl="soon"), "invalid input syntax for type interval"),
    (store("k", ttl=-1), "is not possible"),
    (store(""), "empty"),
    (store("k" * 1025), "too long"),
    (store("k\0"), "unsupported Unicode escape sequence"),
    (store("k", "\0"), "unsupported Unicode"),
    ('{"type": "store", "key": "\\ud800", "value": 1}', "surrogates"),
    ('{"type": "store", "key": "k", "value": NaN}', "a number that is too large, or none"),
    ({"type": "nonsense", "key": "k", "value": 1}, "there is no cache type"),
    ({"type": "llm", "key": "k", "value": 1}, "does not fit the type llm"),
    ({"type": "llm", "prompt": "p", "model": "m", "value": {}}, 'the field "response" is missing'),
    ({"type": "embedding", "text": "t", "model": "m", "value": {"embedding": ["x"]}}, "vector"),
    ({"type": "llm", "prompt": "p", "model": "m"}, 'the field "value" must be an object'),
    ({"type": "llm", "prompt": "p", "model": None, "value": {"response": "r"}}, 'the field "model" is no text'),
    ({"type": "llm", "prompt": "p", "model": "m", "value": {"response": "r", "tokens_used": True}}, "no whole"),
    ({"type": "llm", "prompt": "p", "model": "m", "value": {"response": "r", "tokens_used": [7]}}, "no whole"),
    ({"type": "llm", "prompt": "p", "model": "m", "value": {"response": "r", "tokens_used": 99999999999}}, "of kind"),
    ({"type": "llm", "prompt": "p", "model": "m", "provider": 5, "value": {"response": "r"}}, '"provider" is no text'),
    (
        {"type": "llm", "prompt": "p", "model": "m", "value": {"response": "r", "provider": "x"}},
        '"provider" belongs beside',
    ),
    ({"type": "llm", "prompt": {"total": 7}, "model": "m", "value": {"response": "r"}}, '"prompt" is no text'),
    ('{"type": "store", "key": "k", "value": ' + "[" * 3000 + "]" * 3000 + "}", "nested too deeply"),
    ('{"type": "store", "key": "k", "value": 1e5000}', "a number that is too large"),
    ({"type": "phash", "file": "a\0b", "value": "ff"}, "there can be no file"),
    (
        {
            "type": "ai_worker",
            "prompt": "p",
            "model": "m",
            "schema_version": "v",
            "value": {"generated_sql": "s", "validated": 7},
        },
        "neither true nor false",
    ),
    ({"type": "vector_search", "query": [1], "user": "u", "user_id": "v", "value": {"results": []}}, '"user"'),
    ({"type": "llm", "prompt": "p", "model": "m", "user": "u", "value": {"response": "r"}}, 'unknown field "user"'),
    ({"type": "vector_search", "query": [1], "top_k": 1.5, "value": {"results": []}}, "no whole"),
    ({"type": "face", "value": {"embeddings": []}}, 'the field "file" is missing'),
    ({"type": "audio", "text": "t", "voice": "v", "file": "../secret", "value": {"format": "f"}}, "is outside of"),
    ({"type": "audio", "text": "t", "voice": "v", "file": "none", "value": {"format": "f"}}, "cannot be read"),
]


def test_bad_lines_are_reported_and_the_others_stored(dsn: str, tmp_path: Path) -> None:
    lines: list[dict[str, Any] | str | bytes] = []
    for number, (line, _) in enumerate(BAD):
        lines += [line, store(f"good{number}", number)]
    found: list[BadLine] = []
    report = warm(dsn, [written(tmp_path, lines)], on_bad=found.append)
    assert (report.stored, report.bad) == (len(BAD), len(BAD))
    assert fetch(dsn, "SELECT count(*) FROM pgcache.cache_store") == len(BAD)
    problems = {bad.line: bad.problem for bad in found}
    for number, (_, problem) in enumerate(BAD):
        assert problem in problems[2 * number + 1]


def test_forms_of_typed_lines(dsn: str, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"type": "llm", "prompt": "p", "model": "m", "value": {"response": "r", "tokens_used": 7.0}},
        {"type": "embedding", "text": "t", "model": "m", "value": [0.5, 1]},
        {"type": "vector_search", "query": [1], "user_id": "u", "value": {"results": [1]}},
        {"type": "vector_search", "query": [1], "user": "v", "value": {"results": [2]}},
    ]
    assert warm(dsn, [written(tmp_path, lines)], strict=True).stored == 4
    for query, result in (
        ("cache_get_llm('p', 'm') ->> 'tokens_used'", "7"),
        ("cache_get_embedding('t', 'm')::text", "[0.5,1]"),
        ("cache_get_vector_search('[1]', user_id => 'u') ->> 0", "1"),
        ("cache_get_vector_search('[1]', user_id => 'v') ->> 0", "2"),
    ):
        assert fetch(dsn, f"SELECT pgcache.{query}") == result


def test_a_disabled_type_takes_nothing(dsn: str, tmp_path: Path) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "SELECT pgcache.cache_configure(t, enabled => false) FROM unnest(ARRAY['store', 'llm']) AS t"
        )
    llm = {"type": "llm", "prompt": "p", "model": "m", "value": {"response": "r"}}
    report = warm(dsn, [written(tmp_path, [store("a"), llm, llm])])
    assert (report.stored, report.refused, report.bad) == (0, 3, 0)


def test_strict_stops_at_the_first(dsn: str, tmp_path: Path) -> None:
    path = written(tmp_path, [store("a"), "{", store("b")])
    with pytest.raises(InvalidValueError, match=r"x\.jsonl:2: this is no JSON"):
        warm(dsn, [path], strict=True)
    assert fetch(dsn, "SELECT pgcache.cache_get('store', 'b')") is None


def test_what_is_not_about_a_line_stops(dsn: str, empty_dsn: str, tmp_path: Path) -> None:
    path = written(tmp_path, [store("a"), store("b")])
    with pytest.raises(NotInstalledError):
        warm(empty_dsn, [path])
    with pytest.raises(PgcacheError, match="No such file"):
        warm(dsn, [path, str(tmp_path / "none.jsonl")])


def test_the_demo_data(dsn: str) -> None:
    report = warm(dsn, [str(path) for path in sorted(DATA.glob("*.jsonl"))], strict=True)
    assert report.entries == {
        "ai_worker": 16, "audio": 1, "embedding": 40, "llm": 48, "store": 24, "vector_search": 10,
    }  # fmt: skip
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT set_config('search_path', 'pgcache, public', false)")

        def lines(name: str) -> list[dict[str, Any]]:
            return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]

        def called(function: str, *arguments: Any) -> Any:
            places = ", ".join(["%s"] * len(arguments))
            row = connection.execute(f"SELECT pgcache.{function}({places})".encode(), arguments).fetchone()
            return row[0] if row else None

        for line in lines("llm"):
            assert called("cache_get_llm", line["prompt"], line["model"], line.get("context", "")) == line["value"]
        for line in lines("embedding"):
            vector = json.loads(called("cache_get_embedding", line["text"], line["model"]))
            assert vector == pytest.approx(line["value"]["embedding"], rel=1e-6)
        for line in lines("vector_search"):
            arguments = json.dumps(line["query"]), json.dumps(line["filters"]), line["top_k"], line["user"]
            assert called("cache_get_vector_search", *arguments) == line["value"]["results"]
        for line in lines("ai_worker"):
            found = called("cache_get_ai_worker", line["prompt"], line["model"], line["schema_version"])
            assert found == line["value"]
        (line,) = lines("audio")
        row = connection.execute(
            "SELECT * FROM pgcache.cache_get_audio(%s, %s, %s)", [line["text"], line["voice"], line["provider"]]
        ).fetchone()
        assert row == ((DATA / line["file"]).read_bytes(), *line["value"].values())


def test_every_typed_cache_can_be_warmed(dsn: str) -> None:
    """Those whose functions are called cache_get_TYPE and cache_set_TYPE; what they take is known from these."""
    with psycopg.connect(dsn) as connection:
        typed = shapes(connection)
        found = connection.execute("SELECT type FROM pgcache_internal.types WHERE builtin").fetchall()
        assert typed.keys() | {"bytes", "crawl", "store"} == {type for (type,) in found}
    assert typed["audio"].fields == {"text", "voice", "provider", "settings", "file"}
    assert typed["vector_search"].fields == {"query", "filters", "top_k", "user_id"}


def test_images(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "i.jpg").write_bytes(b"\xff%")
    faces = [{"bbox": [1, 2, 3, 4], "embedding": [0.5], "det_score": 0.9}]
    lines: list[dict[str, Any]] = [
        {"type": "face", "file": "i.jpg", "tenant": "t", "value": {"embeddings": faces}},
        {"type": "phash", "file": "i.jpg", "value": {"phash": "ff"}, "ttl": "1 hour"},
    ]
    assert warm(dsn, [written(tmp_path, lines)], strict=True).entries == {"face": 1, "phash": 1}
    assert fetch(dsn, "SELECT pgcache.cache_get_face('\\xff25', 't')") == faces
    assert fetch(dsn, "SELECT pgcache.cache_get_phash('\\xff25', '')") == "ff"


def test_what_a_line_does_not_say_is_the_functions_default(dsn: str, tmp_path: Path) -> None:
    prompt = {"type": "ai_worker", "prompt": "p", "model": "m", "schema_version": "v"}
    lines: list[dict[str, Any]] = [
        {**prompt, "value": {"generated_sql": "SELECT 1"}},
        {**prompt, "prompt": "q", "value": {"generated_sql": "SELECT 2", "validated": False, "tokens_used": 5}},
        {**prompt, "prompt": "r", "value": {"generated_sql": "SELECT 3", "validated": None, "tokens_used": "6"}},
    ]
    assert warm(dsn, [written(tmp_path, lines)], strict=True).stored == 3
    for prompt_text, validated, tokens in (("p", True, 0), ("q", False, 5), ("r", True, 6)):
        found = fetch(dsn, f"SELECT pgcache.cache_get_ai_worker('{prompt_text}', 'm', 'v')")
        assert isinstance(found, dict)
        assert (found["validated"], found["tokens_used"]) == (validated, tokens)


def test_the_command(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "\n".join([json.dumps(store("a")), *["{"] * 12, json.dumps(store("b"))])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert cli.main(["warm", "-", "--dsn", dsn]) == 1
    output = capsys.readouterr()
    assert "2 entries stored (2 store)" in output.out
    assert "12 lines skipped" in output.out
    assert "skipped standard input:2: this is no JSON" in output.err
    assert "... and 2 more lines like these" in output.err
    assert cli.main(["warm", written(tmp_path, [store("c")]), "--dsn", dsn]) == 0
