"""Which server a command is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgcache_py.environment import CONTAINER_VARIABLES, LIBPQ_VARIABLES
from pgcache_py.errors import PgcacheError
from pgcache_py.setup.embedded import available
from pgcache_py.setup.target import target


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATABASE_URL", "PGPASSWORD", *LIBPQ_VARIABLES, *CONTAINER_VARIABLES.values()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_option_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/db")
    monkeypatch.setenv("PGHOST", "elsewhere")
    with target("host=here dbname=db user=me password=s3cret") as where:
        assert "host=here" in where.conninfo
        assert str(where) == "dbname=db host=here user=me"


def test_then_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://me:s3cret@here:5433/db")
    monkeypatch.setenv("PGHOST", "elsewhere")
    with target(None) as where:
        assert str(where) == "dbname=db host=here port=5433 user=me"


@pytest.mark.parametrize("name", LIBPQ_VARIABLES)
def test_then_the_variables(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "5433" if name == "PGPORT" else "there")
    with target(None) as where:
        assert where.origin == name
        assert "host" not in where.conninfo


def test_what_is_no_address_is_not_repeated() -> None:
    with (
        pytest.raises(PgcacheError, match="--dsn is no PostgreSQL address") as caught,
        target("mysql://me:s3cret@h/db"),
    ):
        pass
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.skipif(not available(), reason="the extra embedded is not installed")
def test_then_the_embedded_one_but_only_install_makes_it() -> None:
    with pytest.raises(PgcacheError, match="no embedded one") as caught, target(None):
        pass
    assert "install makes one here" in (caught.value.hint or "")
    assert not Path(".pgcache").exists()
    with target(None, create=True) as where:
        assert "embedded" in where.origin
    with target(None) as again:
        assert again.conninfo == where.conninfo
