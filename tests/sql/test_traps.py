"""Nothing that others put in front of PostgreSQL's own operators and functions runs in a call of ours."""

from __future__ import annotations

import re
from contextlib import suppress

import psycopg
import pytest

from tests.conftest import NewSession
from tests.tools.session import Session
from tests.tools.traps import IN_FRONT, Sprung, set_traps

from .test_session_settings import CALLS

pytestmark = pytest.mark.once

# Calls that use no operator themselves, once their literals are cut out.
PLAIN = re.compile(r"[a-z_0-9]+\([^()<>=|]*\)|\(SELECT count\(\*\) FROM \w+(\(\d*\))?\)")
LITERAL = re.compile(r"E?'(?:[^']|'')*'")
DECODED = re.compile(r"decode\('([^']*)', *'hex'\)")
WITH_PYTHON = [
    "SELECT ai_describe_schema()",
    "SELECT ai_worker_generate('p')",
    "SELECT llm_complete('p')",
    "SELECT embed('t')",
    "SELECT embed_many('{t}')",
    "SELECT ai_settings()",
    "CALL hot_relay('0 seconds')",
]


def sprung_in(session: Session, statements: list[str]) -> dict[str, set[str | None]]:
    """The functions in which traps have sprung, by statement."""
    session("SET client_min_messages = warning")
    session(f"SET search_path = {IN_FRONT}")
    sprung = Sprung(session.connection)
    found: dict[str, set[str | None]] = {}
    for statement in statements:
        sprung.where.clear()
        with suppress(psycopg.Error):
            session(statement)
        found[statement] = set(sprung.where)
    return found


def test_no_trap_springs(ask: Session, new_session: NewSession) -> None:
    set_traps(ask.connection)
    literal = [DECODED.sub(r"'\\x\1'", call) for call in CALLS]
    calls = [f"SELECT {call}" for call in literal if PLAIN.fullmatch(LITERAL.sub("''", call))]
    assert len(calls) > 80
    found = sprung_in(new_session(), [*calls, "CALL cache_upkeep()"])
    assert not {call: by for call, by in found.items() if by}
    assert sprung_in(new_session(), ["SELECT 'a'::text = 'b'"]) == {"SELECT 'a'::text = 'b'": {None}}


@pytest.mark.needs("plpython3u")
def test_no_trap_springs_in_what_asks_a_model(ask: Session, new_session: NewSession) -> None:
    set_traps(ask.connection)
    ask("SELECT ai_configure(base_url => 'http://127.0.0.1:1', retries => 0), cache_hot_redis('redis://127.0.0.1:1')")
    found = sprung_in(new_session(), WITH_PYTHON)
    assert not {call: by for call, by in found.items() if by}
