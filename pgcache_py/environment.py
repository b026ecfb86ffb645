"""Which servers the variables of the process name: what is used where no argument says it."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from psycopg.conninfo import make_conninfo

LIBPQ_VARIABLES = ("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER")
# As in the container image of PostgreSQL. Only with a host: a server's own container has the others, too.
CONTAINER_VARIABLES = {
    "host": "POSTGRES_HOST", "port": "POSTGRES_PORT", "dbname": "POSTGRES_DB", "user": "POSTGRES_USER",
    "password": "POSTGRES_PASSWORD",
}  # fmt: skip
# As SQLAlchemy and others write it: postgresql+psycopg://, postgres+asyncpg://
DRIVER_IN_URL = re.compile(r"^(postgres(?:ql)?)\+\w+(?=://)")


class Named(NamedTuple):
    """conninfo: what libpq takes. origin: the variables that say so."""

    conninfo: str
    origin: str


def postgresql() -> Named | None:
    """By DATABASE_URL, else POSTGRES_HOST and its kin, else libpq's variables; None if none of them is set."""
    if url := os.environ.get("DATABASE_URL"):
        return Named(for_libpq(url), "DATABASE_URL")
    if os.environ.get("POSTGRES_HOST"):
        given = {name: os.environ.get(variable) or None for name, variable in CONTAINER_VARIABLES.items()}
        return Named(make_conninfo("", **given), "POSTGRES_HOST")
    found = [name for name in LIBPQ_VARIABLES if os.environ.get(name)]
    return Named("", ", ".join(found)) if found else None


def redis() -> str | None:
    """By REDIS_URL."""
    return os.environ.get("REDIS_URL") or None


def for_libpq(url: str) -> str:
    """The URL without the driver that other libraries want to be told."""
    return DRIVER_IN_URL.sub(r"\1", url)
