"""The keys of a decorated function's results."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..keys import cache_key, canonical_json

MAIN = ("__main__", "__mp_main__")  # the second in processes that multiprocessing spawned


class FunctionKey:
    """The keys of a function's results: made of its name and of its arguments, in whichever way they are passed.

    Arguments have to be JSON values (a tuple counts as a list), classes, or objects with a method __cache_key__ that
    returns a JSON value; so has the object or class of a method. make: makes the key instead, from the same arguments.

    Functions that share a name are told apart: by the variables that they capture, as these are now, and by their code
    where a name says too little (lambda, interactive interpreter). A captured variable that is no such value is a
    TypeError. What is bound to a method or a partial counts as passed.
    """

    def __init__(self, function: Callable[..., Any], make: Callable[..., str] | None) -> None:
        self._make = make
        if make is None:
            function, self._bound, self._named = _unbound(function)
            self._name = _name(function)
            try:
                self._signature = inspect.signature(function)
            except ValueError:
                raise TypeError(f"{self._name} does not tell its parameters: pass key= to cached()") from None

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        if self._make is not None:
            return self._make(*args, **kwargs)
        bound = self._signature.bind(*self._bound, *args, **{**self._named, **kwargs})
        bound.apply_defaults()
        plain = Plain()
        try:
            arguments = {name: plain.value(value, name) for name, value in bound.arguments.items()}
        except NotPlainError as error:
            kind = type(error.value).__name__
            raise TypeError(
                f"the argument {error.place[0]} of {self._name} cannot be part of a cache key: {error.value!r}. Pass"
                f" JSON values, give {kind} a method __cache_key__ that returns one, or pass key= to cached()"
            ) from None
        return cache_key(self._name, canonical_json(arguments), *plain.parts())


class NotPlainError(Exception):
    def __init__(self, value: object, place: tuple[str | int, ...]) -> None:
        self.value = value
        self.place = place


class Plain:
    """Makes JSON of values, and notes what JSON does not tell apart, each with its place, so that no JSON looks so."""

    def __init__(self) -> None:
        self._objects: list[object] = []

    def parts(self) -> list[str]:
        return [canonical_json(self._objects)] if self._objects else []

    def value(self, value: object, *place: str | int) -> object:
        if isinstance(value, type):
            self._note(place, _full_name(value))
            return None
        if hasattr(value, "__cache_key__"):
            self._note(place, _full_name(type(value)), value.__cache_key__())
            return None
        if isinstance(value, list | tuple):
            return [self.value(item, *place, index) for index, item in enumerate(value)]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: self.value(item, *place, key) for key, item in value.items()}
        try:
            canonical_json(value)
        except TypeError:
            raise NotPlainError(value, place) from None
        if isinstance(value, float) and value.is_integer():  # JSON does not tell 1.0 from 1
            self._note(place, float.__repr__(value))
        return value

    def _note(self, place: tuple[str | int, ...], *what: object) -> None:
        self._objects.append([list(place), *what])


def _unbound(function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function itself, and the arguments that a partial or a method already has."""
    if isinstance(function, functools.partial):
        inner, args, kwargs = _unbound(function.func)
        return inner, (*args, *function.args), {**kwargs, **function.keywords}
    if not hasattr(function, "__qualname__"):  # an object that can be called
        return type(function).__call__, (function,), {}
    method = inspect.unwrap(function)
    owner = getattr(method, "__self__", None)
    if owner is None or isinstance(owner, ModuleType):  # built-in functions are their module's
        return function, (), {}
    return getattr(method, "__func__", None) or getattr(type(owner), method.__name__), (owner,), {}


def _name(function: Callable[..., Any], users: tuple[object, ...] = ()) -> str:
    """A name that no other function has. users: functions that capture this one."""
    layers = [function]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    users += tuple(layers)
    name = _full_name(layers[-1])
    plain = Plain()
    told_apart: list[object] = []
    for layer in layers:
        for variable, content in _captured_by(layer):
            if any(content is user for user in users):
                continue
            try:
                told_apart.append([variable, _captured(plain, content, variable, users)])
            except NotPlainError as error:
                if layer is layers[-1]:  # what a decorator does with its own is left to it
                    raise TypeError(
                        f"{name} uses the variable {variable}, which cannot be part of a cache key: {error.value!r}."
                        " Make it an argument, or pass key= to cached()"
                    ) from None
    if isinstance(layers[-1], FunctionType) and ("<lambda>" in name or not _module(layers[-1])):
        told_apart.append(_code(layers[-1].__code__))
    if not told_apart:
        return name
    return f"{name}#{cache_key(canonical_json(told_apart), *plain.parts())[:16]}"


def _captured_by(function: object) -> Iterator[tuple[str, object]]:
    """The variables of the functions around it that a function uses."""
    if isinstance(function, FunctionType):
        for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # it has no value yet, as the function that is being decorated
                yield variable, cell.cell_contents


def _captured(plain: Plain, value: object, variable: str, users: tuple[object, ...]) -> object:
    if isinstance(value, ModuleType):
        return value.__name__
    if callable(value) and isinstance(inspect.unwrap(value), FunctionType):
        return _name(value, users)
    return plain.value(value, variable)


def _full_name(thing: Any) -> str:
    return ".".join(filter(None, [_module(thing), thing.__qualname__]))


def _module(thing: Any) -> str:
    """The module that a function or class is of; for a script its file, since each is __main__; '' if it has none."""
    module = str(getattr(thing, "__module__", None) or "")
    if module not in MAIN:
        return module
    names = getattr(thing, "__globals__", None) or vars(sys.modules[module])
    if names.get("__spec__"):  # python -m
        return str(names["__spec__"].name)
    file = os.path.abspath(names.get("__file__", ""))
    return file if os.path.isfile(file) else ""


def _code(code: CodeType) -> list[object]:
    """What a function does, without where it stands."""

    def constant(value: object) -> object:
        if isinstance(value, CodeType):
            return _code(value)
        if isinstance(value, tuple):
            return [constant(each) for each in value]
        if isinstance(value, frozenset):  # in no order
            return sorted(canonical_json(constant(each)) for each in value)
        return [type(value).__name__, repr(value)]

    return [sha256(code.co_code).hexdigest(), list(code.co_names), [constant(each) for each in code.co_consts]]
