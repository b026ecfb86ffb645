"""What the clients call is what the database has."""

from __future__ import annotations

import re

import psycopg
import pytest

from pgcache_py.client import calls, typed_calls
from pgcache_py.client.calls import Call

pytestmark = pytest.mark.once
CALLS = {
    f"{name} in {module.__name__}": call
    for module in (calls, typed_calls)
    for name, call in vars(module).items()
    if isinstance(call, Call)
}


@pytest.mark.parametrize("name", CALLS)
def test_each_parameter_is_passed(db: psycopg.Connection, name: str) -> None:
    """A parameter that is added in SQL has to be added here, to one of the calls at least."""
    call = CALLS[name]
    row = db.execute(
        "SELECT min(pronargs), count(*) FROM pg_proc WHERE proname = %s AND pronamespace = ANY(%s::regnamespace[])",
        [call.name, ["pgcache", "pgcache_internal"]],
    ).fetchone()
    passed = max(len(set(re.findall(r"\$\d+", each.sql))) for each in CALLS.values() if each.name == call.name)
    assert row == (passed, 1), call.sql
