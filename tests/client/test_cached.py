"""get_or_compute and the decorator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pgcache_py import MISS, AsyncCache, Cache, cache_key


def test_get_or_compute(world: Any, cache: Any) -> None:
    results = [{"n": 1}, None]
    compute = world.function(lambda: results.pop(0))
    assert cache.get_or_compute("store", "k", compute, ttl=60) == {"n": 1}
    assert cache.get_or_compute("store", "k", compute) == {"n": 1}
    assert cache.get_or_compute("store", "none", compute) is None
    assert cache.get_or_compute("store", "none", compute) is None
    assert results == []
    assert cache.ttl("store", "k").total_seconds() <= 60


def test_a_failed_computation_is_not_cached(world: Any, cache: Any) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.get_or_compute("store", "k", world.function(fail))
    assert cache.get("store", "k", MISS) is MISS


def test_recompute(world: Any, cache: Any) -> None:
    results = [1, 2]
    compute = world.function(lambda: results.pop(0))
    assert cache.recompute("store", "k", compute) == 1
    assert cache.recompute("store", "k", compute) == 2
    assert cache.get("store", "k") == 2


def test_decorator(world: Any, cache: Any) -> None:
    calls = []

    def f(a: Any, b: Any = 2, *rest: Any, c: Any = None, **options: Any) -> list[Any]:
        """What it does."""
        calls.append(a)
        return [a, b, list(rest), c, options]

    f = cached = cache.cached("store", ttl=60)(world.function(f))
    assert cached(1) == cached(1, 2) == cached(b=2, a=1) == cached(1, c=None) == [1, 2, [], None, {}]
    assert cached(1, x=1, y={"b": 1, "a": 2}) == cached(1, y={"a": 2, "b": 1}, x=1)
    assert len(calls) == 2
    for args, kwargs in [
        ((2,), {}),
        (("1",), {}),
        ((None,), {}),
        ((True,), {}),
        (([1],), {}),
        (({"a": 1},), {}),
        ((1.5,), {}),
        ((1, 2, 3), {}),
        ((1,), {"c": 3}),
        ((1,), {"x": 3}),
        (("a", "bc"), {}),
        (("ab", "c"), {}),
    ]:
        assert cached(*args, **kwargs) == cached(*args, **kwargs)
    assert len(calls) == 14
    assert f.invalidate(1, 2) is True
    assert f.invalidate(1) is False
    cached(b=2, a=1)
    assert len(calls) == 15
    cached.refresh(1)
    assert len(calls) == 16
    assert cache.get("store", cached.key(1)) == [1, 2, [], None, {}]


def test_the_key_is_documented() -> None:
    with Cache("") as cache:

        @cache.cached()
        def f(a: int, b: str = "x") -> int:
            """What it does."""
            return a

        name = f"{__name__}.test_the_key_is_documented.<locals>.f"
        assert f.key(1) == cache_key(name, '{"a":1,"b":"x"}')
        assert f.__name__ == "f"
        assert f.__doc__ == "What it does."
        assert f.__wrapped__(3) == 3  # type: ignore[attr-defined]


def test_a_key_of_ones_own(world: Any, cache: Any) -> None:
    f = cache.cached("store", key=lambda user, verbose: f"user:{user}")(world.function(lambda user, verbose: user))
    assert f(1, True) == f(1, False) == 1
    assert cache.keys("store") == ["user:1"]
    assert f.invalidate(1, None) is True


def test_methods() -> None:
    async def scenario() -> None:
        blocking, waiting = Cache(""), AsyncCache("")

        class User:
            def __init__(self, id: int) -> None:
                self.id = id

            def __cache_key__(self) -> int:
                return self.id

            @blocking.cached()
            def name(self, form: str = "short") -> str:
                return f"{form} {self.id}"

            @waiting.cached()
            async def slow_name(self, form: str = "short") -> str:
                return f"{form} {self.id}"

            @classmethod
            @blocking.cached()
            def of(cls) -> str:
                return cls.__name__

        class Admin(User):
            pass

        for method in ("name", "slow_name"):
            key = getattr(User(1), method).key
            assert key() == key("short") == key(form="short")
            others = [
                getattr(User(1), method).key("x"),
                getattr(User(2), method).key(),
                getattr(Admin(1), method).key(),
            ]
            assert len({key(), *others}) == 4
        of = User.__dict__["of"].__func__
        assert of.key(User) != of.key(Admin)

        class Anonymous:
            @blocking.cached()
            def name(self) -> str:
                return "?"

        with pytest.raises(
            TypeError, match=r"argument self of .*Anonymous.name.* give Anonymous a method __cache_key__"
        ):
            Anonymous().name()

    asyncio.run(scenario())


def test_methods_are_computed_once(world: Any, cache: Any) -> None:
    class User:
        calls = 0

        def __cache_key__(self) -> int:
            return 1

    def name(self: User, form: str) -> str:
        self.calls += 1
        return form

    User.name = (
        cache.cached()(world.function(name)) if world.name == "sync" else cache.target.cached()(world.function(name))
    )  # type: ignore[attr-defined]
    user = User()
    run = (lambda value: value) if world.name == "sync" else world.loop.run_until_complete
    assert run(user.name("x")) == run(user.name(form="x")) == "x"  # type: ignore[attr-defined]
    assert user.calls == 1
    assert run(user.name.refresh("x")) == "x"  # type: ignore[attr-defined]
    assert user.calls == 2
    assert run(user.name.invalidate("x")) is True  # type: ignore[attr-defined]


@pytest.mark.parametrize("argument", [{1, 2}, object(), b"x", float("nan"), {1: 2}, [object()], lambda: 1])
def test_an_argument_that_cannot_be_part_of_a_key(argument: Any) -> None:
    f = Cache("", fail_soft=True).cached()(lambda a: a)
    with pytest.raises(TypeError, match=r"the argument a of .* cannot be part of a cache key"):
        f(argument)


def test_objects_and_json_do_not_collide() -> None:
    class Point:
        def __cache_key__(self) -> list[int]:
            return [1, 2]

    f = Cache("").cached()(lambda a, b=None: a)
    name = f"{Point.__module__}.{Point.__qualname__}"
    arguments: list[tuple[Any, ...]] = [
        (None,),
        (Point(),),
        (None, Point()),
        (Point(), Point()),
        ([Point()],),
        ([None],),
        ([1, 2],),
        (Point,),
        (name,),
        ([name, [1, 2]],),
        ([["a"], name, [1, 2]],),
    ]
    assert len({f.key(*each) for each in arguments}) == len(arguments)


def test_a_coroutine_function_needs_the_async_cache(dsn: str) -> None:
    with Cache(dsn) as cache:

        @cache.cached()
        async def f() -> int:
            return 1

        with pytest.raises(TypeError, match="AsyncCache"):
            f()


def test_a_plain_function_in_the_async_cache(dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncCache(dsn) as cache:
            assert await cache.get_or_compute("store", "k", lambda: 1) == 1  # type: ignore[arg-type, return-value]

    asyncio.run(scenario())
