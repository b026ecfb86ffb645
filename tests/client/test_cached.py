"""get_or_compute and the decorator."""

from __future__ import annotations

import asyncio
import enum
import functools
import math
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest

from pgcache_py import MISS, AsyncCache, Cache, cache_key

pytestmark = pytest.mark.once  # the client; what it calls is in tests/sql


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

    cached = cache.cached("store", ttl=60)(world.function(f))
    assert cached(1) == cached(1, 2) == cached(b=2, a=1) == cached(1, c=None) == [1, 2, [], None, {}]
    assert cached(1, x=1, y={"b": 1, "a": 2}) == cached(1, y={"a": 2, "b": 1}, x=1)
    assert len(calls) == 2
    for args, kwargs in [
        ((2,), {}),
        (("1",), {}),
        ((None,), {}),
        ((True,), {}),
        ((1.0,), {}),
        (([1.0],), {}),
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
    assert len(calls) == 16
    assert cached.invalidate(1, 2) is True
    assert cached.invalidate(1) is False
    cached(b=2, a=1)
    assert len(calls) == 17
    cached.refresh(1)
    assert len(calls) == 18
    assert cache.get("store", cached.key(1)) == [1, 2, [], None, {}]
    assert (cached.explain(1).key, cached.explain(1).hit, cached.explain("absent").hit) == (cached.key(1), True, False)


def documented(a: int, b: str = "x") -> int:
    """What it does."""
    return a


def test_the_key_is_documented() -> None:
    with Cache("") as cache:
        f = cache.cached()(documented)
        assert f.key(1) == cache_key(f"{__name__}.documented", '{"a":1,"b":"x"}')
        assert f.__name__ == "documented"
        assert f.__doc__ == "What it does."
        assert f.__wrapped__(3) == 3


def test_a_key_of_ones_own(world: Any, cache: Any) -> None:
    f = cache.cached("store", key=lambda user, verbose: f"user:{user}")(world.function(lambda user, verbose: user))
    assert f(1, True) == f(1, False) == 1
    assert cache.keys("store") == ["user:1"]
    assert f.invalidate(1, None) is True


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


class Anonymous:
    @blocking.cached()
    def name(self) -> str:
        return "?"


def test_methods() -> None:
    async def scenario() -> None:
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

        with pytest.raises(
            TypeError, match=r"argument self of .*Anonymous.name.* give Anonymous a method __cache_key__"
        ):
            Anonymous().name()

    asyncio.run(scenario())


class Counted:
    calls = 0
    name: Any

    def __cache_key__(self) -> int:
        return 1


def test_methods_are_computed_once(world: Any, cache: Any) -> None:
    def name(self: Counted, form: str) -> str:
        self.calls += 1
        return form

    Counted.name = (
        cache.cached()(world.function(name)) if world.name == "sync" else cache.target.cached()(world.function(name))
    )
    user = Counted()
    run = (lambda value: value) if world.name == "sync" else world.loop.run_until_complete
    assert run(user.name("x")) == run(user.name(form="x")) == "x"
    assert user.calls == 1
    assert run(user.name.refresh("x")) == "x"
    assert user.calls == 2
    assert run(user.name.invalidate("x")) is True


class Point:
    def __cache_key__(self) -> list[int]:
        return [1, 2]


class Colour(str, enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    x: int
    y: int


class Marked(str):
    pass


TYPED: dict[str, list[Any]] = {
    "enumerations": ["red", Colour.RED, Marked("red"), numpy.str_("red"), Colour],
    "whole numbers": [1, True, 1.0, Number.ONE, numpy.float64(1), Decimal, Number],
    "sequences": [[1, 2], (1, 2), Pair(1, 2), [[1, 2]], [(1, 2)], ([1, 2],), [Pair(1, 2)]],
    "zero": [0, 0.0, -0.0, False],
    "objects with keys": [Point(), [1, 2], (1, 2), Point],
}


@pytest.mark.parametrize("values", TYPED.values(), ids=TYPED)
def test_values_of_different_types_are_different_arguments(values: list[Any]) -> None:
    cache = Cache("")
    for keys in (
        [cache.cached()(same).key(value) for value in values],
        [cache.cached()(times(value)).key(3) for value in values],
    ):
        assert len(set(keys)) == len(keys)
    assert cache.cached()(same).key({"a": 1, "b": 2}) == cache.cached()(same).key({"b": 2, "a": 1})


def local_class(base: type = object, **content: Any) -> Any:
    return type("Local", (base,), content)


def marked(text: str, mark: int) -> str:
    value = Marked(text)
    value.mark = mark  # type: ignore[attr-defined]
    return value


UNKNOWN = {
    "class": local_class(),
    "object": local_class(__cache_key__=lambda self: 1)(),
    "text": local_class(str)("a"),
    "named tuple": local_class(tuple)(),
    "enumeration": enum.Enum("Hidden", "A").A,  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("value", UNKNOWN.values(), ids=UNKNOWN)
def test_a_class_whose_name_another_may_have(value: Any) -> None:
    for content in (value, [value], {"a": value}):
        with pytest.raises(TypeError, match=r"at the top of a module.* or pass key= to cached\(\)"):
            Cache("").cached()(same).key(content)
        with pytest.raises(TypeError, match=r"at the top of a module.* or pass key= to cached\(\)"):
            Cache("").cached()(times(content))


@pytest.mark.parametrize(
    "argument",
    [
        *({1, 2}, object(), b"x", float("nan"), {1: 2}, {Colour.RED: 2}, [object()], lambda: 1, {10**5000}),
        *(marked("a", 1), numpy.int64(1), defaultdict(int)),
    ],
    ids=lambda argument: type(argument).__name__,
)
def test_an_argument_that_cannot_be_part_of_a_key(argument: Any) -> None:
    f = Cache("", fail_soft=True).cached()(lambda a: a)
    with pytest.raises(TypeError, match=r"the argument a of .* cannot be part of a cache key"):
        f(argument)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["\ud800", 10**5000, nested(5000)], ids=["surrogate", "long", "deep"])
def test_no_key_can_be_made_of_it(world: Any, dsn: str, value: Any) -> None:
    """A mistake is told; in fail-soft mode it comes with the data."""
    strict, soft = world.cache(dsn), world.cache(dsn, fail_soft=True)
    f = world.function(same)
    with pytest.raises(TypeError, match="cannot be part of a cache key"):
        strict.cached()(f)(value)
    with pytest.raises(TypeError, match="cannot be part of a cache key"):
        strict.cached()(world.function(times(value)))
    kept = soft.cached()(f)
    assert kept(value) is value
    assert kept.refresh(value) is value
    assert kept.invalidate(value) is False
    captured = soft.cached()(world.function(times(value)))
    assert captured(0) == value * 0
    with pytest.raises(TypeError, match="cannot be part of a cache key"):
        captured.key(0)


# Which function it is.


def times(number: Any) -> Callable[[Any], Any]:
    def multiply(x: Any) -> Any:
        return x * number

    return multiply


def retried(count: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return [function(*args)] * count

        return wrapper

    return decorate


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(x: Any) -> Any:
        return 2 * function(x)

    return wrapper


def negated(function: Callable[..., Any], number: int = 1) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(x: Any, number: int = number) -> Any:
        return -number * function(x)

    return wrapper


class Retry:
    """A decorator that is an object."""

    def __init__(self, function: Callable[..., Any], count: int) -> None:
        functools.update_wrapper(self, function)
        self.function, self.count = function, count

    def __call__(self, x: Any) -> Any:
        return [self.function(x)] * self.count


class KeyedRetry(Retry):
    def __cache_key__(self) -> int:
        return self.count


def calling(function: Callable[..., Any]) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        return function(x)

    return call


def either(first: bool) -> Callable[[Any], Any]:
    if first:

        def f(x: Any) -> Any:
            return x + 1
    else:

        def f(x: Any) -> Any:
            return x + 2

    return f


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __cache_key__(self) -> int:
        return self.factor

    def __call__(self, x: int) -> int:
        return x * self.factor

    def scaled(self, x: int) -> int:
        return x * self.factor


def product(x: int, y: int) -> int:
    return x * y


def same(x: Any) -> Any:
    return x


DIFFERENT: dict[str, list[Callable[[int], Any]]] = {
    "lambdas": [lambda x: x + 1, lambda x: x * 10, lambda x: x + 2, lambda x: -x, lambda x: x in {"a", "b"}],
    "captured numbers": [times(2), times(2.0), times(5), times(2.5), times(True), times(1)],
    "captured JSON": [times([1]), times([2]), times("1"), times("2")],
    "captured objects": [times(Scale(2)), times(Scale(5)), times(Scale)],
    "captured lambdas": [retried(1)(lambda x: x + 1), retried(1)(lambda x: x + 2)],
    "decorators": [
        *(retried(2)(same), retried(5)(same), same, doubled(same), doubled(doubled(same))),
        *(negated(same), negated(same, 2), negated(doubled(same)), doubled(negated(same)), doubled(retried(2)(same))),
    ],
    "decorators that are objects": [KeyedRetry(same, 2), KeyedRetry(same, 3), same, doubled(KeyedRetry(same, 2))],
    "decorated methods": [doubled(Scale(2).scaled), doubled(Scale(5).scaled), Scale(2).scaled],
    "decorated partials": [doubled(functools.partial(product, 2)), doubled(functools.partial(product, 5))],
    "captured defaults": [calling(lambda x, n=n: x * n) for n in (1, 2)],
    "captured decorated functions": [calling(doubled(same)), calling(negated(same)), calling(same)],
    "same name": [either(True), either(False)],
    "partials": [functools.partial(product, 2), functools.partial(product, 5), functools.partial(product, y=5)],
    "methods": [Scale(2).scaled, Scale(5).scaled],
    "objects": [Scale(2), Scale(5)],
    "built-in functions": [math.floor, math.sqrt],
    "methods of built-in types": [[1, 2, 3, 3].count, [3].count],
}


@pytest.mark.parametrize("functions", DIFFERENT.values(), ids=DIFFERENT)
def test_different_functions_have_different_keys(functions: list[Callable[[int], Any]]) -> None:
    cache = Cache("")
    keys = [cache.cached()(function).key(3) for function in functions]
    assert len(set(keys)) == len(keys)
    assert [cache.cached()(function).key(3) for function in functions] == keys


def test_a_partial_shares_what_its_function_has() -> None:
    cache = Cache("")
    assert cache.cached()(functools.partial(product, 2)).key(3) == cache.cached()(product).key(2, y=3)


def test_a_function_that_captures_itself_or_its_cache() -> None:
    def make(cache: Cache) -> Any:
        @cache.cached()
        def factorial(n: int) -> int:
            return n * int(factorial(n - 1)) if n and cache else 1

        return factorial

    cache = Cache("")
    assert make(cache).key(3) == make(cache).key(3)
    assert make(cache.for_tenant("a")).key(3) != make(cache.for_tenant("b")).key(3)


def test_what_cannot_be_told_apart_is_refused() -> None:
    cache = Cache("")
    with pytest.raises(TypeError, match=r"times.<locals>.multiply uses the variable number.*key= to cached\(\)"):
        cache.cached()(times(object()))
    assert cache.cached(key=lambda x: f"k:{x}")(times(object())).key(3) == "k:3"
    for function in (retried(object())(same), Retry(same, 2)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"same uses the variable .*key= to cached\(\)"):
            cache.cached()(function)
    with pytest.raises(TypeError, match=r"uses the variable later, which has no value yet.*key= to cached\(\)"):

        @cache.cached()
        def early(x: int) -> int:
            return x * later

    later = 2
    with pytest.raises(TypeError, match="not a function"):
        cache.cached()(classmethod(same))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"does not tell its parameters: pass key= to cached\(\)"):
        cache.cached()(dict)


def test_what_makes_no_difference() -> None:
    cache = Cache("")
    key = cache.cached()(same).key(3)
    assert key == cache.cached()(functools.lru_cache(same)).key(3) == cache.cached()(cache.cached()(same)).key(3)

    class Derived(Scale):
        @cache.cached()
        def scaled(self, x: int) -> int:
            return super().scaled(x)  # captures its class, which is not there yet

    assert Derived.scaled.key(Scale(2), 3) != Derived.scaled.key(Scale(5), 3)


def test_without_parentheses(world: Any, cache: Any) -> None:
    f = cache.cached(world.function(same))
    assert f(3) == 3
    assert cache.get("store", f.key(3)) == 3


def test_static_and_class_methods() -> None:
    with Cache("") as cache:

        class Prices:
            @cache.cached()
            @staticmethod
            def inner(x: int) -> int:
                return x

            @staticmethod
            @cache.cached()
            def outer(x: int) -> int:
                return x

        assert Prices().inner.key(3) == Prices.inner.key(3)
        assert Prices().outer.key(3) == Prices.outer.key(3)
        assert Prices().inner.__wrapped__(3) == 3


SCRIPT = """
import multiprocessing
from pgcache_py import Cache

@Cache("").cached
def load(x):
    return x

def key(x):
    return load.key(x)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(key(1), *pool.map(key, [1]))
"""


def test_functions_of_scripts(tmp_path: Path) -> None:
    def keys(*arguments: str, stdin: str = "", folder: Path = tmp_path) -> list[str]:
        command = [sys.executable, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            command, cwd=folder, env=environment, input=stdin, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.py").write_text(SCRIPT)
    first, second = keys("one/job.py"), keys("two/job.py")
    assert first[0] == first[1] == keys("job.py", folder=tmp_path / "one")[0]
    assert second[0] == second[1] != first[0]
    as_module = keys("-m", "one.job")
    assert as_module[0] == as_module[1] != first[0]
    typed = SCRIPT.partition("if __name__")[0] + "\nprint(load.key(1))"
    assert keys(stdin=typed) == keys("-c", typed) != keys("-c", typed.replace("return x", "return -x"))


def test_objects_and_json_do_not_collide() -> None:
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
            f()  # type: ignore[unused-coroutine]


def test_a_plain_function_in_the_async_cache(dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncCache(dsn) as cache:
            assert await cache.get_or_compute("store", "k", lambda: 1) == 1  # type: ignore[arg-type, return-value]

    asyncio.run(scenario())
