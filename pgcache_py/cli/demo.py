"""python -m pgcache_py demo: the main job, on real content, on a server of its own. Each statement can be repeated."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from ..errors import PgcacheError
from ..setup.embedded import Embedded
from ..setup.install import install
from ..setup.session import Connection
from . import show
from .warm import warm

DATA = Path(__file__).parent / "demo_data"
DATABASE = "demo"
REQUESTS = 2000
WIDTH = 96


def _command() -> str:
    """How to call this package from the current folder, with the Python that runs now."""
    python = Path(sys.executable)
    if shutil.which("python") == str(python):
        return "python -m pgcache_py"
    folder = Path.cwd()
    return f"{python.relative_to(folder) if python.is_relative_to(folder) else python} -m pgcache_py"


COMMAND = _command()


def run(*, keep: bool = False) -> None:
    """Run the demo in a database of its own, made afresh. keep: leave the server running."""
    server = Embedded()
    started = time.monotonic()
    with server.using():
        ready = time.monotonic()
        with psycopg.connect(server.dsn(), autocommit=True, client_encoding="utf-8") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)".encode())
            connection.execute(f"CREATE DATABASE {DATABASE}".encode())
        made = time.monotonic()
        dsn = server.dsn(DATABASE)
        report = install(dsn)
        installed = time.monotonic()
        show.line(
            f"PostgreSQL {report.levels[0].detail.split()[1]} started in {ready - started:.1f} s,"
            f" pgcache {report.version} installed in {installed - made:.1f} s.",
            style="bold",
        )
        show.line("All that follows is SQL that you can repeat in psql.", style="dim")
        with psycopg.connect(dsn, autocommit=True, client_encoding="utf-8") as connection:
            _tell(_Story(connection), dsn)
        if keep:
            server.keep()
        _farewell(server, dsn)


def psql() -> int:
    """Open psql on the demo's data; returns psql's exit code."""
    with _running() as server:
        return subprocess.call([str(_psql(server)), server.dsn(DATABASE)])  # noqa: S603


def stop() -> None:
    """Stop a server that was left running."""
    server = Embedded()
    if not server.running:
        show.line("The embedded server is not running.")
        return
    server.stop()
    show.line("The embedded server is stopped; its data is kept.")


@contextmanager
def _running() -> Iterator[Embedded]:
    server = Embedded()
    if not server.exists:
        raise PgcacheError(f"the demo has not run in this folder ({server.folder})", hint=f"{COMMAND} demo")
    with server.using():
        yield server


def _psql(server: Embedded) -> Path:
    """The system's psql, else the one that comes with the server."""
    found = shutil.which("psql")
    return Path(found) if found else server.program("psql")


class _Story:
    """Tells what happens: a sentence, the statement, its result, how long it took."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.chapter = 0

    def say(self, text: str) -> None:
        self.chapter += 1
        show.heading(f"{self.chapter}. {text}")

    def run(self, sql: str, comment: str = "") -> Any:
        """Run a statement and show it with its result: one value as it is, more as a table."""
        show.statement(f"{sql};")
        started = time.perf_counter()
        cursor = self.connection.execute(sql.encode())
        took = f"{1000 * (time.perf_counter() - started):.1f} ms"
        if cursor.description is None:
            return None
        rows = cursor.fetchall()
        if len(rows) == 1 and len(rows[0]) == 1:
            show.result(_shortened(rows[0][0]), f"{comment}, {took}" if comment else took)
            return rows[0][0]
        show.table([column.name for column in cursor.description], [list(map(_shortened, row)) for row in rows])
        return rows


def _tell(story: _Story, dsn: str) -> None:
    story.say("Warm the cache from files (JSON Lines)")
    files = sorted(str(path) for path in DATA.glob("*.jsonl"))
    show.line(f"{COMMAND} warm {Path(files[0]).name} {Path(files[1]).name} ...")
    with show.progress("warming", sum(Path(name).stat().st_size for name in files), stderr=False) as advance:
        report = warm(dsn, files, strict=True, on_progress=advance)
    show.line(f"  {', '.join(f'{number} {name}' for name, number in sorted(report.entries.items()))}", style="dim")

    story.say("A hit: the answer comes from PostgreSQL, not from the model")
    story.run("SELECT cache_get_llm('What is an embedding?', 'gpt-4o-mini') ->> 'response'", "hit")
    story.run(
        "SELECT vector_dims(cache_get_embedding('All traffic is encrypted with TLS, and stored data is encrypted on"
        " disk.',\n                                       'all-MiniLM-L6-v2'))",
        "hit: a vector of so many dimensions",
    )
    story.run(
        "SELECT format, duration_ms, length(audio_data) AS bytes\n"
        "FROM cache_get_audio('Welcome to pgcache. This answer was served from PostgreSQL.',\n"
        "                     'espeak-ng en-us', 'espeak-ng')"
    )

    story.say("A miss: ask the model, store its answer, and the next request is a hit")
    story.run("SELECT cache_get_llm('Why is the sky blue?', 'gpt-4o-mini')", "miss")
    story.run(
        "SELECT cache_set_llm('Why is the sky blue?', 'gpt-4o-mini',\n"
        "                     response => 'Air scatters blue light more than red light.', tokens_used => 18)"
    )
    story.run("SELECT cache_get_llm('Why is the sky blue?', 'gpt-4o-mini') ->> 'response'", "hit")

    story.say("An expiry: 31 minutes later, by this session's clock, the entry of 30 minutes is gone")
    story.run("""SELECT cache_set('store', 'cart:42', '{"items": ["MUG-01"]}', ttl => '30 minutes')""")
    story.run("SELECT cache_get('store', 'cart:42')", "hit")
    story.run("SELECT cache_configure_setting('test_clock', 'on')", "before: sessions could not set the time")
    later = datetime.now(timezone.utc) + timedelta(minutes=31)
    story.run(f"SET pgcache.clock = '{later:%Y-%m-%d %H:%M:%S} UTC'")
    story.run("SELECT cache_get('store', 'cart:42')", "miss, though nothing has cleaned up yet")
    story.run("RESET pgcache.clock")

    story.say("An invalidation: once it commits, nobody gets the old values")
    story.run("SELECT cache_get('store', 'flags:production') -> 'version'", "hit")
    story.run("SELECT cache_delete_pattern('store', 'flags:%')", "entries removed")
    story.run("SELECT cache_get('store', 'flags:production') -> 'version'", "miss")

    story.say("What it saves: with example prices, in US dollars per million tokens")
    story.run(
        "SELECT count(cache_set_price(model, usd)) FROM (VALUES ('gpt-4o-mini', 0.60), ('claude-3-5-haiku', 4.00),\n"
        "    ('gemini-1.5-flash', 0.30), ('llama-3.1-8b-instruct', 0.10)) AS price (model, usd)"
    )
    took = _requests(story.connection)
    show.line(f"... and {REQUESTS:,} requests, as an application makes them: {1000 * took / REQUESTS:.2f} ms each")
    show.line()
    show.statement(
        "SELECT type, entries, hits, misses, hit_rate, tokens_saved, money_saved, bytes, evicted, cleaned FROM"
        " cache_stats;"
    )
    with story.connection.cursor(row_factory=dict_row) as cursor:
        show.stats(cursor.execute("SELECT * FROM cache_stats ORDER BY type").fetchall())


def _requests(connection: Connection) -> float:
    """Some questions are asked often, most rarely, and a few are new. Returns how many seconds they took."""
    chance = random.Random(7)  # noqa: S311
    # The share of the requests, the call, and the fields of a line that are its arguments; the first one is the text.
    calls = {
        "llm": (55, "cache_get_llm(%s, %s, %s)", ("prompt", "model", "context")),
        "embedding": (20, "cache_get_embedding(%s, %s)", ("text", "model")),
        "ai_worker": (10, "cache_get_ai_worker(%s, %s, %s)", ("prompt", "model", "schema_version")),
        "store": (15, "cache_get('store', %s)", ("key",)),
    }
    entries = {kind: list(_lines(kind)) for kind in calls}
    kinds = chance.choices(list(calls), weights=[share for share, _, _ in calls.values()], k=REQUESTS)
    requests: list[tuple[bytes, list[str]]] = []
    for kind in kinds:
        _, function, fields = calls[kind]
        entry = entries[kind][int(chance.paretovariate(0.7)) % len(entries[kind])]
        new = f" (message {chance.randrange(10**6)})" if chance.random() < 0.06 else ""
        first, *rest = (entry.get(field, "") for field in fields)
        requests.append((f"SELECT {function}".encode(), [first + new, *rest]))
    started = time.perf_counter()
    for call, arguments in requests:
        connection.execute(call, arguments)
    return time.perf_counter() - started


def _lines(name: str) -> Iterator[dict[str, Any]]:
    with (DATA / f"{name}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _shortened(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _farewell(server: Embedded, dsn: str) -> None:
    show.heading("Now you")
    if server.kept:
        rows = [
            (f"{_psql_command(server)} '{dsn}'", ""),
            (f"{COMMAND} stats --dsn '{dsn}'", ""),
            (f"{COMMAND} demo --stop", "stop the server"),
        ]
    else:
        rows = [
            (f"{COMMAND} demo --psql", "psql on this data"),
            (f"{COMMAND} demo --keep", "leave the server running, for your own client"),
        ]
    rows.append((f"{COMMAND} install --dsn postgresql://...", "install into your own database"))
    width = max((len(command) for command, _ in rows if len(command) < 60), default=0)
    for command, purpose in rows:
        show.line(f"  {command.ljust(width)}  {purpose}".rstrip())
    if not server.kept:
        show.line(f"The server is stopped; its data is in {server.folder}.", style="dim")


def _psql_command(server: Embedded) -> str:
    return "psql" if shutil.which("psql") else str(_psql(server))
