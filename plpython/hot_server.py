"""A cycle of the relay inside the server: what pgcache_py/relay/cycle.py needs there, and its outcome as data."""

import json

OUTSIDE = "or run the relay outside of the server: python -m pgcache_py relay"
CONFIGURE = f"Let the owner of schema pgcache run SELECT cache_hot_redis('redis://...'), {OUTSIDE}"
CHECK = "Check the password and the database in SELECT cache_hot_redis('redis://:password@host:port/database')."
ARGUMENTS = {
    "hot_begin_epoch": ["text", "text"],
    "hot_delivered": ["pg_snapshot", "bigint"],
    "hot_erased": ["bigint[]", "text", "text"],
}


class Trouble(Exception):  # noqa: N818
    def __init__(self, sqlstate, message, hint, waits=False):
        super().__init__(message)
        self.sqlstate = sqlstate
        self.hint = hint
        self.waits = waits


def cycle_here(plpy, kept):
    """JSON: what the relay did, or {"error": {"sqlstate", "message", "hint", "waits"}}. kept: what a session keeps."""
    try:
        client, lost = connect(plpy, kept)
        try:
            report = Cycle(lambda *call: statement(plpy, *call), client).run()  # noqa: F821
        except lost as error:
            hint = CHECK if permanent(error) else "The relay goes on as soon as it can be reached."  # noqa: F821
            raise Trouble("PC031", f"Redis: {error}", hint, waits=True) from None
        return json.dumps(vars(report))
    except (Trouble, ForeignPrefix) as error:  # noqa: F821
        told = {"sqlstate": error.sqlstate, "message": str(error), "hint": error.hint, "waits": error.waits}
        return json.dumps({"error": told})


def statement(plpy, name, *arguments):
    plan = plpy.prepare(STATEMENTS[name], ARGUMENTS.get(name, []))  # noqa: F821
    return [tuple(row.values()) for row in plpy.execute(plan, list(arguments))]


def connect(plpy, kept):
    """A client for Redis, and its class of errors."""
    rows = plpy.execute("SELECT value FROM pgcache_internal.hot_secrets WHERE name = 'redis_url'")
    if not rows:
        raise Trouble("PC030", "no Redis is configured for the relay inside the server", CONFIGURE)
    url = rows[0]["value"]
    try:
        import redis
    except ImportError:
        hint = f"Install python3-redis (Debian, Ubuntu, Red Hat) there, {OUTSIDE}"
        raise Trouble("PC030", "the Python of the server has no package redis", hint) from None
    if kept.get("url") != url:
        try:
            kept["client"] = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
        except ValueError as error:
            raise Trouble("PC030", f"the URL of Redis is not understood: {error}", CONFIGURE) from None
        kept["url"] = url
    return kept["client"], redis.RedisError
