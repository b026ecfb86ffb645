"""What logger "pgcache" says at level DEBUG."""

from __future__ import annotations

import logging
import re
from hashlib import sha256
from typing import Any

import pytest

pytestmark = pytest.mark.once  # the clients


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    """The lines, without their times."""
    return [re.sub(r" in [\d.]+ ms", "", record.getMessage()) for record in log.records if record.name == "pgcache"]


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:12]


@pytest.mark.parametrize("fail_soft", [False, True])
def test_each_call_has_a_line(world: Any, dsn: str, caplog: pytest.LogCaptureFixture, fail_soft: bool) -> None:
    caplog.set_level(logging.DEBUG, "pgcache")
    cache = world.cache(dsn, fail_soft=fail_soft)
    cache.get("store", "user:secret")
    cache.set("store", "user:secret", None)
    cache.get("store", "user:secret")
    cache.delete("store", "user:secret")
    cache.get_many("store", ["user:secret"])
    cache.llm.get("my secret", "m")
    cache.llm.set("my secret", "m", "a secret")
    cache.llm.get("my secret", "m")
    cache.embedding.set_many(["secret"], "m", [[1.0]])
    key, prompt = hashed("user:secret"), hashed(cache.key("my secret", "m", ""))
    assert lines(caplog) == [
        f"miss store {key} (PostgreSQL)",
        f"set store {key} (PostgreSQL)",
        f"hit store {key} (PostgreSQL)",
        f"cache_delete store {key} (PostgreSQL)",
        "cache_get_many_json",
        f"miss llm {prompt} (PostgreSQL)",
        f"set llm {prompt} (PostgreSQL)",
        f"hit llm {prompt} (PostgreSQL)",
        "cache_set_embeddings",
    ]
    assert "secret" not in caplog.text


def test_nothing_is_said_at_other_levels(world: Any, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgcache")
    cache = world.cache(dsn)
    cache.set("store", "k", 1)
    cache.get("store", "k")
    assert not lines(caplog)
