"""Flask-Caching: its suite for caches, and those for views, functions and templates with an application of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask
import flask_caching
import pytest

from pgcache_py import Cache
from pgcache_py.adapters.cachelib import PgcacheCache
from tests.adapters.suites import suite
from tests.tools.session import Session

MODULES = ("test_cache", "test_hash_method", "test_memoize", "test_signals", "test_templates", "test_view")
# They make caches of other kinds, whatever the application's is.
OF_OTHERS = {
    "test_cache_delete_many_ignored",
    "test_cache_unlink",
    "test_cache_unlink_if_not",
    "test_file_hash_method_is_independent",
}
for module in (suite("flask-caching", name) for name in MODULES):
    found = {name: test for name, test in vars(module).items() if name.startswith("test_") and name not in OF_OTHERS}
    assert not found.keys() & globals().keys()
    globals().update(found)
signals_cache = suite("flask-caching", "test_signals").signals_cache
GenericCacheTests: Any = suite("flask-caching", "test_backend_cache").GenericCacheTests


class Clock:
    """Moves the session's clock, where theirs moves that of their process."""

    def __init__(self, ask: Session) -> None:
        self.ask = ask

    def advance(self, seconds: float) -> None:
        self.ask.advance(f"{seconds} seconds")


@pytest.fixture
def clock(ask: Session) -> Clock:
    return Clock(ask)


class TestCache(GenericCacheTests):
    @pytest.fixture(params=["", "a-prefix:", lambda: "a-prefix:"], ids=["none", "text", "function"])
    def make_cache(self, ask: Session, request: pytest.FixtureRequest) -> Any:
        return lambda: PgcacheCache(Cache(ask.connection), key_prefix=request.param)


@pytest.fixture
def app(ask: Session, request: pytest.FixtureRequest) -> flask.Flask:
    folder = Path(request.function.__code__.co_filename).parent
    app = flask.Flask(request.module.__name__, template_folder=str(folder))
    app.testing = True
    app.config["CACHE_TYPE"] = "pgcache_py.adapters.flask_caching.pgcache"
    app.config["CACHE_ARGS"] = [Cache(ask.connection)]
    return app


@pytest.fixture
def cache(app: flask.Flask) -> Any:
    return flask_caching.Cache(app)


@pytest.fixture(params=flask_caching.SUPPORTED_HASH_FUNCTIONS, ids=lambda method: method.__name__)
def hash_method(request: pytest.FixtureRequest) -> Any:
    return request.param
