"""make demo-hybrid: the hot tier in Redis, on a PostgreSQL and a Redis of its own. What is shown is what is run."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgcache_py import AsyncHybridCache
from pgcache_py.cli import show
from pgcache_py.setup.install import install
from tests.servers.cluster import server_user
from tests.servers.local import Local
from tests.servers.runs import run_directory
from tests.servers.server import RUN
from tests.tools.redis import Redis

ORIGINS = {"redis_hits": "from Redis", "postgres_hits": "from PostgreSQL", "misses": "a miss"}
WIDTH = 90


class Story:
    """Runs Python expressions and SQL, and shows them with their results."""

    def __init__(
        self, cache: AsyncHybridCache, connection: psycopg.AsyncConnection[Any], names: dict[str, Any]
    ) -> None:
        self.cache = cache
        self.connection = connection
        self.names = {"cache": cache, "show": show, **names}
        self.chapter = 0

    def say(self, text: str) -> None:
        self.chapter += 1
        show.heading(f"{self.chapter}. {text}")

    async def run(self, expression: str, note: str = "") -> Any:
        """An expression of Python, awaited. Tells where the answer came from, and how long it took."""
        self.cache._tier.fold()
        before = dict(self.cache._tier.counts)
        started = time.perf_counter()
        value = eval(expression, self.names)
        value = await value if inspect.isawaitable(value) else value
        took = f"{1000 * (time.perf_counter() - started):.2f} ms"
        self.cache._tier.fold()
        after = self.cache._tier.counts
        origin = next((text for name, text in ORIGINS.items() if after[name] > before.get(name, 0)), "")
        show.line(f"await {expression}" if expression.startswith("cache.") else expression)
        show.result(shortened(value), ", ".join(remark for remark in (note, origin, took) if remark))
        return value

    async def sql(self, statement: str, note: str = "") -> None:
        show.statement(f"{statement};")
        cursor = await self.connection.execute(statement.encode())
        row = await cursor.fetchone() if cursor.description else None
        show.result(shortened(row[0]) if row and row[0] not in (None, "") else "done", note)


def shortened(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


async def tell(dsn: str, redis: Redis) -> None:
    chance = random.Random(7)
    photo = chance.randbytes(200_000)
    faces = [
        {"bbox": [100, 150, 200, 250], "embedding": [chance.gauss(0, 0.05) for _ in range(512)], "det_score": 0.95}
    ]
    names = {
        "photo": photo,
        "photo_2": chance.randbytes(200_000),
        "faces": faces,
        "url": "https://example.com/image.jpg",
    }
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    async with connection, AsyncHybridCache(dsn, redis.url) as cache:
        story = Story(cache, connection, names)
        await face_embeddings(story)
        await perceptual_hash(story)
        await crawl(story)
        await tenants(story)
        await changes(story)
        await trouble(story, redis)
        await statistics(story)


async def face_embeddings(story: Story) -> None:
    story.say("Face embeddings: computed once, then read from Redis")
    await story.run("cache.get_cached_face_embeddings(photo, 'tenant_123')")
    await story.run("cache.cache_face_embeddings(photo, 'tenant_123', faces)", "into PostgreSQL, then into Redis")
    for _ in range(2):
        found = await story.run("cache.get_cached_face_embeddings(photo, 'tenant_123')")
    assert found == story.names["faces"]


async def perceptual_hash(story: Story) -> None:
    story.say("Perceptual hashes")
    await story.run("cache.cache_perceptual_hash(photo, 'tenant_123', 'c3d4e5f60718293a')")
    assert await story.run("cache.get_cached_perceptual_hash(photo, 'tenant_123')") == "c3d4e5f60718293a"


async def crawl(story: Story) -> None:
    story.say("Crawling: the same image from the same URL is not processed twice; a new image at an old URL is")
    await story.run("cache.should_skip_crawled_image(url, photo, 'tenant_123')")
    await story.run("cache.store_crawled_image(url, photo, 'raw/1.jpg', 'thumb/1.jpg', 'tenant_123')")
    assert await story.run("cache.should_skip_crawled_image(url, photo, 'tenant_123')") == (True, "raw/1.jpg")
    assert await story.run("cache.should_skip_crawled_image(url, photo_2, 'tenant_123')") == (False, None)


async def tenants(story: Story) -> None:
    story.say("Tenants: one does not see what another has, and is invalidated alone")
    assert await story.run("cache.get_cached_perceptual_hash(photo, 'tenant_456')") is None
    await story.run("cache.cache_perceptual_hash(photo, 'tenant_456', '0000000000000000')")
    await story.run("cache.invalidate_tenant_cache('tenant_456')", "entries removed")
    assert await story.run("cache.get_cached_perceptual_hash(photo, 'tenant_456')") is None
    assert await story.run("cache.get_cached_perceptual_hash(photo, 'tenant_123')") == "c3d4e5f60718293a"


async def changes(story: Story) -> None:
    story.say("A change by anybody, here in psql, reaches Redis")
    await story.run("cache.get_cached_perceptual_hash(photo, 'tenant_123')")
    await story.sql("UPDATE pgcache.perceptual_hash_cache SET phash = 'ffffffffffffffff' WHERE tenant = 'tenant_123'")
    started = time.perf_counter()
    untold = "SELECT FROM pgcache_internal.hot_untold() LIMIT 1"
    while await (await story.connection.execute(untold)).fetchone() is not None:
        await asyncio.sleep(0.0005)
    show.line(f"... {1000 * (time.perf_counter() - started):.1f} ms later:", style="dim")
    assert await story.run("cache.get_cached_perceptual_hash(photo, 'tenant_123')") == "ffffffffffffffff"


async def trouble(story: Story, redis: Redis) -> None:
    story.say("Redis is killed: calls go on with PostgreSQL")
    redis.kill()
    for note in ("the first call finds out", "the others do not ask"):
        assert await story.run("cache.get_cached_face_embeddings(photo, 'tenant_123')", note) == story.names["faces"]
    await story.run("cache.cache_perceptual_hash(photo, 'tenant_123', '1111111111111111')")
    redis.start()
    show.line("... and started again, empty. The relay begins anew, the cache tries it again:", style="dim")
    counts = story.cache._tier.counts
    pushed = counts["pushed"]
    while counts["pushed"] == pushed:
        await asyncio.sleep(0.1)
        await story.cache.get_cached_perceptual_hash(story.names["photo"], "tenant_123")
    assert await story.run("cache.get_cached_perceptual_hash(photo, 'tenant_123')") == "1111111111111111"


async def statistics(story: Story) -> None:
    story.say("Statistics of both tiers")
    show.line("stats = await cache.get_cache_stats()")
    stats = await story.cache.get_cache_stats()
    chosen = {
        "tier": [name for name in stats["tier"] if name not in ("types", "drained_at")],
        "redis_stats": ["used_memory_human", "leases_and_tombstones", "alive"],
        "postgres_stats": [name for name in stats["postgres_stats"] if name != "by_type"],
    }
    for part, names in chosen.items():
        rest = " ..." if len(names) < len(stats[part]) else ""
        show.line(f"  {part}: " + ", ".join(f"{name} {stats[part][name]}" for name in names) + rest)
    await story.run("cache.clear_all_cache()")


@contextmanager
def servers() -> Iterator[tuple[str, Redis]]:
    """A PostgreSQL with pgcache, three types in the hot tier, a Redis, a relay. All of them end with the demo."""
    local = Local()
    if local.why_not:
        sys.exit(local.why_not)
    if not shutil.which("redis-server"):
        sys.exit("redis-server is not installed (apt install redis-server; as root, make demo-hybrid does it)")
    with ExitStack() as stack:
        stack.enter_context(run_directory(RUN))
        started = time.monotonic()
        local.start()
        stack.callback(local.stop)
        directory = RUN / "redis"
        directory.mkdir(mode=0o700)
        os.chown(directory, server_user().pw_uid, -1)
        redis = Redis(directory)
        redis.start()

        @stack.callback
        def stop_redis() -> None:
            if redis.running():  # the demo kills it
                redis.stop()

        dsn = local.dsn()
        report = install(dsn)
        show.line(
            f"PostgreSQL {local.major}, pgcache {report.version} and Redis: {time.monotonic() - started:.1f} s.",
            style="bold",
        )
        with psycopg.connect(dsn, autocommit=True) as connection:
            for kind in ("face", "phash", "crawl"):
                show.statement(f"SELECT cache_hot_on('{kind}');")
                connection.execute(f"SELECT pgcache.cache_hot_on('{kind}')".encode())
        show.line("$ python -m pgcache_py relay --dsn postgresql://... --redis redis://... &")
        command = [sys.executable, "-m", "pgcache_py", "relay", "--dsn", dsn, "--redis", redis.url]
        relay = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
        stack.callback(relay.wait, 30)
        stack.callback(relay.terminate)
        assert relay.stdout is not None
        for line in relay.stdout:
            show.line(f"  {line.strip()}", style="dim")
            if "at work" in line:
                break
        show.line(">>> cache = AsyncHybridCache('postgresql://...', 'redis://...')")
        yield dsn, redis
    show.line()
    show.line("All of it is stopped and removed.", style="dim")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with servers() as (dsn, redis):
        asyncio.run(tell(dsn, redis))
