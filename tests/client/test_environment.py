"""Clients that are told no server find it in the process's variables."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgcache_py import Cache, PgcacheError
from pgcache_py.environment import CONTAINER_VARIABLES, LIBPQ_VARIABLES, postgresql

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "PGPASSWORD", *LIBPQ_VARIABLES, *CONTAINER_VARIABLES.values()):
        monkeypatch.delenv(name, raising=False)


def as_url(dsn: str, driver: str = "") -> str:
    fields = conninfo_to_dict(dsn)
    return f"postgresql{driver}:///{fields['dbname']}?host={fields['host']}&port={fields['port']}&user={fields['user']}"


def works(world: Any, *source: str) -> bool:
    cache = world.cache(*source)
    try:
        return bool(cache.set("store", "k", 1) and cache.get("store", "k") == 1)
    finally:
        cache.close()


def test_a_url(world: Any, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", as_url(dsn, "+asyncpg"))
    monkeypatch.setenv("PGHOST", "/nowhere")
    assert works(world)
    monkeypatch.delenv("DATABASE_URL")
    assert works(world, as_url(dsn, "+psycopg"))


def test_the_variables_of_the_container_image(world: Any, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = conninfo_to_dict(dsn)
    monkeypatch.setenv("PGHOST", "/nowhere")
    for name, variable in CONTAINER_VARIABLES.items():
        monkeypatch.setenv(variable, str(fields.get(name) or ""))
    assert works(world)
    monkeypatch.delenv("POSTGRES_HOST")
    found = postgresql()
    assert found
    assert found.origin == "PGHOST"


def test_variables_of_libpq(world: Any, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = conninfo_to_dict(dsn)
    for name, variable in (("host", "PGHOST"), ("port", "PGPORT"), ("dbname", "PGDATABASE"), ("user", "PGUSER")):
        monkeypatch.setenv(variable, str(fields[name]))
    assert works(world)


def test_nothing() -> None:
    with pytest.raises(PgcacheError, match=r"which PostgreSQL\?") as caught:
        Cache()
    assert "DATABASE_URL" in (caught.value.hint or "")
