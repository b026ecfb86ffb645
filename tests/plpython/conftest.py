"""What the tests of the AI functions share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from tests.plpython.standin import KEY, Standin
from tests.plpython.tools import host_of
from tests.tools.served import Serve, serving
from tests.tools.session import call

PLPYTHON = Path(__file__).parents[2] / "plpython"


@pytest.fixture(scope="session")
def bodies() -> SimpleNamespace:
    """The names that the Python bodies define, together as in a function of the database."""
    names: dict[str, Any] = {}
    for file in ("ai_http.py", "ai_openai.py", "ai_sql.py"):
        exec(compile((PLPYTHON / file).read_text(), file, "exec"), names)  # the bodies share one scope there, too
    return SimpleNamespace(**names)


@pytest.fixture
def standin_server() -> Iterator[Standin]:
    """A stand-in endpoint that no database uses."""
    with Standin() as server:
        yield server


@pytest.fixture
def endpoint(db: psycopg.Connection) -> Iterator[Standin]:
    """A stand-in endpoint, and the database configured for it."""
    with Standin(host_of(db)) as server:
        db.execute("SELECT pgcache.ai_configure(base_url => %s, api_key => %s)", [server.url, KEY])
        db.execute("CREATE TABLE public.users (id integer PRIMARY KEY, name text)")
        db.execute("INSERT INTO public.users VALUES (1, 'Ada'), (2, 'Grace')")
        yield server


@pytest.fixture
def ask(db: psycopg.Connection, endpoint: Standin) -> Callable[..., Any]:
    """Call a function of pgcache by name in the test's own session: ask('ai_worker_generate', 'prompt', mode='...')."""
    return lambda name, *positional, **named: call(db, name, *positional, **named)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts `python -m pgcache_py serve` for a database, and returns a client for it."""
    with serving() as start:
        yield start
