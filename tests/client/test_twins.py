"""Cache and AsyncCache offer the same, and so do the hybrid ones."""

from __future__ import annotations

import inspect

import pytest

from pgcache_py import AsyncCache, AsyncHybridCache, Cache, HybridCache
from tests.client.twins import PACKAGE, TWINS, shape, without_async


@pytest.mark.parametrize("name", TWINS)
def test_modules_differ_by_await_only(name: str) -> None:
    blocking, waiting = ((PACKAGE / file).read_text() for file in (f"{name}.py", f"{name}_async.py"))
    assert shape(blocking) == shape(without_async(waiting)), "python -m tests.client.twins"


def public(cls: type) -> dict[str, object]:
    return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}


@pytest.mark.parametrize("twins", [(Cache, AsyncCache), (HybridCache, AsyncHybridCache)])
def test_every_method_has_its_twin_with_the_same_parameters(twins: tuple[type, type]) -> None:
    blocking, waiting = map(public, twins)
    assert blocking.keys() == waiting.keys()
    for name, method in blocking.items():
        if callable(method):
            ours, theirs = inspect.signature(method), inspect.signature(waiting[name])  # type: ignore[arg-type]
            assert list(ours.parameters) == list(theirs.parameters), name
            defaults = [parameter.default for parameter in theirs.parameters.values()]
            assert [parameter.default for parameter in ours.parameters.values()] == defaults, name


@pytest.mark.parametrize("cls", [Cache, AsyncCache, HybridCache, AsyncHybridCache])
def test_every_public_method_says_what_it_does(cls: type) -> None:
    assert [name for name, member in public(cls).items() if not inspect.getdoc(member)] == []
