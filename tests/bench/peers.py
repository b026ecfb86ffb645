"""The caches that Python programs use, each as its users would: connected once, on this machine."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from pgcache_py import Cache
from tests.bench import tables
from tests.bench.machine import Bench, Database

TTL = 3600


class Peer(NamedTuple):
    """How a program gets and sets a value, a dict."""

    get: Callable[[str], Any]
    set: Callable[[str, Any], Any]


class AbsentError(Exception):
    """Why a peer cannot be measured here."""


Open = Callable[[Bench, Database, ExitStack], Peer]


def pgcache(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    return over(stack.enter_context(Cache(database.dsn)), "store")


def pgcache_tcp(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    return over(stack.enter_context(Cache(database.tcp_dsn)), "store")


def pgcache_unlogged(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    cache = stack.enter_context(Cache(database.dsn))
    cache.create_type("fast", durable=False)
    return over(cache, "fast")


def over(cache: Cache, type: str) -> Peer:
    return Peer(lambda key: cache.get(type, key), lambda key, value: cache.set(type, key, value))


def bare_psycopg(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    connection = stack.enter_context(psycopg.connect(database.dsn, autocommit=True))
    select = "SELECT value FROM plain WHERE key = %s"
    upsert = tables.UPSERT.format("plain", "%s", "%s").encode()

    def get(key: str) -> Any:
        row = connection.execute(select, (key,), prepare=True).fetchone()
        return row and row[0]

    def set(key: str, value: Any) -> None:
        connection.execute(upsert, (key, json.dumps(value)), prepare=True)

    database.run("CREATE TABLE plain (key text PRIMARY KEY, value jsonb NOT NULL, expires_at timestamptz)")
    return Peer(get, set)


def redis_client(bench: Bench, stack: ExitStack, *, tcp: bool = False) -> Any:
    import redis

    if bench.redis is None:
        raise AbsentError("redis-server is not installed")
    # The socket asks for the same password as TCP.
    by_url = redis.Redis.from_url(bench.redis.url)
    if tcp:
        return stack.enter_context(by_url)
    password = by_url.connection_pool.connection_kwargs["password"]
    return stack.enter_context(redis.Redis(unix_socket_path=str(bench.redis.socket), password=password))


def redis_unix(bench: Bench, database: Database, stack: ExitStack, *, tcp: bool = False) -> Peer:
    return as_json(redis_client(bench, stack, tcp=tcp))


def as_json(client: Any) -> Peer:
    """What a client of redis-py gets and sets, in JSON."""

    def get(key: str) -> Any:
        data = client.get(key)
        return None if data is None else json.loads(data)

    return Peer(get, lambda key, value: client.set(key, json.dumps(value), ex=TTL))


def redis_near(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    from tests.bench.newer_redis import caching_client

    client, other = stack.enter_context(caching_client())
    return Peer(as_json(client).get, as_json(other).set)


def redis_tcp(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    return redis_unix(bench, database, stack, tcp=True)


def memcached(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    from pymemcache.client.base import Client

    if bench.memcached is None:
        raise AbsentError("memcached is not installed")
    client = Client(str(bench.memcached))
    stack.callback(client.close)

    def get(key: str) -> Any:
        data = client.get(key)
        return None if data is None else json.loads(data)

    return Peer(get, lambda key, value: client.set(key, json.dumps(value), expire=TTL))


def django(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    import django
    from django.conf import settings
    from django.core.cache import caches
    from django.core.management import call_command
    from django.db import connections

    where = psycopg.conninfo.conninfo_to_dict(database.dsn)
    server = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": where["host"],
        "PORT": where["port"],
        "USER": where["user"],
        "NAME": where["dbname"],
        "CONN_MAX_AGE": None,
    }
    # By default it would keep 300 entries.
    options = {"MAX_ENTRIES": 1_000_000}
    backend = "django.core.cache.backends.db.DatabaseCache"
    settings.configure(
        DATABASES={"default": server},
        CACHES={"default": {"BACKEND": backend, "LOCATION": "django_cache", "OPTIONS": options}},
    )
    django.setup()
    call_command("createcachetable")
    stack.callback(connections.close_all)
    cache = caches["default"]
    return Peer(cache.get, lambda key, value: cache.set(key, value, TTL))


def langchain(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.cache import SQLAlchemyCache
        from langchain_core.outputs import Generation
    from sqlalchemy import create_engine
    from sqlalchemy.engine import URL

    where = psycopg.conninfo.conninfo_to_dict(database.dsn)
    address = {"host": str(where["host"]), "port": str(where["port"])}
    engine = create_engine(
        URL.create("postgresql+psycopg", str(where["user"]), database=str(where["dbname"]), query=address)
    )
    stack.callback(engine.dispose)
    cache = SQLAlchemyCache(engine)
    answers: dict[str, Any] = {}

    def get(key: str) -> Any:
        found = cache.lookup(key, "model")
        return found and answers.get(found[0].text)

    def set(key: str, value: Any) -> None:
        # It stores answers only, which are texts.
        answers[value["text"]] = value
        cache.update(key, "model", [Generation(text=value["text"])])

    return Peer(get, set)


def diskcache(bench: Bench, database: Database, stack: ExitStack) -> Peer:
    from diskcache import Cache as DiskCache

    directory: Path = bench.home / "diskcache"
    cache = stack.enter_context(DiskCache(str(directory)))
    return Peer(cache.get, lambda key, value: cache.set(key, value, expire=TTL))


PEERS: dict[str, Open] = {
    "redis-py": redis_unix,
    "redis-py, TCP": redis_tcp,
    "pgcache": pgcache,
    "pgcache, TCP": pgcache_tcp,
    "pgcache, unlogged type": pgcache_unlogged,
    "psycopg, bare SELECT/upsert": bare_psycopg,
    "pymemcache, sets without reply": memcached,  # its default
    "Django DatabaseCache": django,
    "LangChain SQLAlchemyCache": langchain,
    "diskcache": diskcache,
}


@contextmanager
def connected(bench: Bench, database: Database) -> Iterator[tuple[dict[str, Peer], dict[str, str]]]:
    """The peers that can be measured here, by name; and for the others, why not."""
    peers, absent = {}, {}
    with ExitStack() as stack:
        for name, connect in PEERS.items():
            try:
                peers[name] = connect(bench, database, stack)
            except (AbsentError, ImportError) as error:
                absent[name] = str(error)
        yield peers, absent
