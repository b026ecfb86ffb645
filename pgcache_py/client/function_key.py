"""The keys of a decorated function's results."""

from __future__ import annotations

import functools
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from hashlib import sha256
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    NoneType,
)
from typing import Any, cast

from ..errors import UnrepresentableError
from ..keys import cache_key, canonical_json

MAIN = ("__main__", "__mp_main__")  # the second in processes that multiprocessing spawned


class FunctionKey:
    """The keys of a function's results: made of its name and of its arguments, in whichever way they are passed.

    Arguments have to be JSON values, classes, members of enumerations, or objects with a method __cache_key__ that
    returns a JSON value; so has the object or class of a method. Their types count, too: 1 is not 1.0, nor a tuple a
    list. make: makes the key instead, from the same arguments.

    Functions that share a name are told apart: by the variables that they capture, as these are now, and by their code
    where a name says too little (wrapper, lambda, interactive interpreter). A captured variable that is no such value
    is a TypeError. What is bound to a method or a partial counts as passed.

    deferred: what makes no key because of its content, see UnkeyedError, is not raised before the first call.
    """

    def __init__(self, function: Callable[..., Any], make: Callable[..., str] | None, deferred: bool = False) -> None:
        self._make = make
        self._refusal: UnkeyedError | None = None
        if make is None:
            function, self._bound, self._named = _unbound(function)
            try:
                self._name = _name(function)
            except UnkeyedError as error:
                if not deferred:
                    raise
                self._refusal = error
                return
            try:
                self._signature = inspect.signature(function)
            except ValueError:
                raise TypeError(f"{self._name} does not tell its parameters: pass key= to cached()") from None

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        if self._make is not None:
            return self._make(*args, **kwargs)
        if self._refusal:
            raise self._refusal
        bound = self._signature.bind(*self._bound, *args, **{**self._named, **kwargs})
        bound.apply_defaults()
        plain = Plain()
        try:
            arguments = {name: plain.value(value, name) for name, value in self._of_one_type(bound.arguments)}
            return cache_key(self._name, canonical_json(arguments), *plain.parts())
        except NotPlainError as error:
            raise TypeError(
                f"the argument {error.place[0]} of {self._name} cannot be part of a cache key: {error}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UnkeyedError(
                f"an argument of {self._name} cannot be part of a cache key: {_reason(error)}", hint=WAY_OUT
            ) from error

    def _of_one_type(self, arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """The arguments; those that the parameter *rest collects are a list, so that no type has to be noted."""
        for name, value in arguments.items():
            collects = self._signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            yield name, list(value) if collects else value


WAY_OUT = "Pass key= to cached()."


class UnkeyedError(UnrepresentableError, TypeError):
    """No key can be made of what is JSON by its types: half a surrogate, too long an int, nested too deeply."""


class NotPlainError(Exception):
    """What is no value that a key can be made of. place: where it is, from the argument or variable inwards."""

    def __init__(self, value: object, place: tuple[str | int, ...]) -> None:
        kind = type(value)
        cls = value if isinstance(value, type) else kind
        if _can_be_found(cls):
            way_out = f"Pass JSON values, give {kind.__name__} a method __cache_key__ that returns one,"
        else:
            way_out = f"Define {cls.__qualname__} at the top of a module, so that no other class has its name,"
        super().__init__(f"{_shown(value)}. {way_out} or pass key= to cached()")
        self.place = place


# What a value of a subclass is, if the class is left out.
PLAINLY: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    tuple: list,
}


class Plain:
    """Makes JSON of values, and notes what JSON does not tell apart, each with its place, so that no JSON looks so."""

    def __init__(self) -> None:
        self._objects: list[object] = []

    def parts(self) -> list[str]:
        return [canonical_json(self._objects)] if self._objects else []

    def value(self, value: object, *place: str | int) -> object:
        kind = type(value)
        if kind in (str, int, bool, NoneType):
            return value
        if kind is float:
            number = cast(float, value)
            if not math.isfinite(number):
                raise NotPlainError(value, place)
            if number.is_integer():  # JSON does not tell 1.0 from 1
                self._note(place, repr(number))
            return number
        if isinstance(value, type):
            self._note(place, self._class(value, value, place))
            return None
        if hasattr(value, "__cache_key__"):
            key = self.value(value.__cache_key__(), *place, "__cache_key__")
            self._note(place, self._class(kind, value, place), key)
            return None
        if isinstance(value, Enum) and value.name is not None:
            self._note(place, self._class(kind, value, place), value.name)
            return None
        if kind is dict and all(type(key) is str for key in cast("dict[Any, Any]", value)):
            return {key: self.value(item, *place, key) for key, item in cast("dict[str, Any]", value).items()}
        if kind is list:
            return [self.value(item, *place, index) for index, item in enumerate(cast("list[Any]", value))]
        for base, plainly in PLAINLY.items():  # a tuple, or of a class of its own, such as numpy.float64
            if isinstance(value, base) and not isinstance(value, Enum) and not getattr(value, "__dict__", None):
                self._note(place, self._class(kind, value, place))
                return self.value(plainly(value), *place)
        raise NotPlainError(value, place)

    def _class(self, cls: type, value: object, place: tuple[str | int, ...]) -> str:
        if not _can_be_found(cls):
            raise NotPlainError(value, place)
        return _full_name(cls)

    def _note(self, place: tuple[str | int, ...], *what: object) -> None:
        self._objects.append([list(place), *what])


class SameResult:
    """A wrapper whose result is that of what it wraps."""


TRANSPARENT = (SameResult, staticmethod, type(functools.lru_cache(lambda: None)))


def _unbound(function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function itself, and the arguments that a partial or a method already has."""
    if isinstance(function, functools.partial):
        inner, args, kwargs = _unbound(function.func)
        return inner, (*args, *function.args), {**kwargs, **function.keywords}
    if not hasattr(function, "__qualname__"):  # an object that can be called
        return type(function).__call__, (function,), {}
    if isinstance(function, MethodType):
        return function.__func__, (function.__self__,), {}
    owner = _owner(function)
    if owner is None:
        return function, (), {}
    return getattr(type(owner), function.__name__), (owner,), {}


def _owner(function: object) -> object:
    """The object that a method of a built-in type belongs to; built-in functions are their module's."""
    owner = (
        getattr(function, "__self__", None) if isinstance(function, BuiltinFunctionType | MethodWrapperType) else None
    )
    return None if isinstance(owner, ModuleType) else owner


def _name(function: Callable[..., Any], users: tuple[object, ...] = ()) -> str:
    """A name that no other function has. users: functions that capture this one."""
    layers: list[Any] = [function]
    while (inner := _wrapped(layers[-1])) is not None:
        layers.append(inner)
    innermost = layers[-1]
    name = _full_name(innermost if hasattr(innermost, "__qualname__") else type(innermost))
    plain = Plain()
    told_apart: list[object] = []
    for place, layer in enumerate(layers):
        # The parameters of the function that is decorated are those of its innermost layer: defaults count as passed.
        has_defaults = layer is not innermost or bool(users)
        for variable, content in _state(layer, innermost, has_defaults):
            if content is not layer and any(content is user for user in (*users, *layers)):
                continue
            try:
                known = _captured(plain, content, variable, place, (*users, *layers))
            except NotPlainError as error:
                raise TypeError(
                    f"{name} uses the variable {variable}, which cannot be part of a cache key: {error}. Or make it an"
                    " argument"
                ) from None
            except RecursionError as error:
                raise UnkeyedError(
                    f"{name} uses the variable {variable}, which cannot be part of a cache key: {_reason(error)}",
                    hint=WAY_OUT,
                ) from error
            told_apart.append([variable, known])
        named = layer is innermost and "<" not in name and _module(layer)  # <lambda>, <locals>
        if isinstance(layer, FunctionType) and not named:
            told_apart.append(_code(layer.__code__))
    if not told_apart:
        return name
    try:
        return f"{name}#{cache_key(canonical_json(told_apart), *plain.parts())[:16]}"
    except (ValueError, RecursionError) as error:
        raise UnkeyedError(
            f"a variable that {name} uses cannot be part of a cache key: {_reason(error)}", hint=WAY_OUT
        ) from error


def _wrapped(layer: Any) -> Any:
    """What a wrapper, a method or a partial calls; None if it is none."""
    if isinstance(layer, MethodType):
        return layer.__func__
    if isinstance(layer, functools.partial):
        return layer.func
    return None if isinstance(layer, type) else getattr(layer, "__wrapped__", None)


def _state(layer: Any, innermost: Any, has_defaults: bool) -> Iterator[tuple[str, object]]:
    """What the result of a function depends on beside its name and its arguments, each with a name."""
    if isinstance(layer, FunctionType):
        for variable, cell in zip(layer.__code__.co_freevars, layer.__closure__ or (), strict=True):
            if variable == "__class__":  # the class that the method is defined in, which its name says
                continue
            try:
                yield variable, cell.cell_contents
            except ValueError:
                if variable != getattr(innermost, "__name__", None):  # the function that is being decorated
                    raise TypeError(
                        f"{_full_name(innermost)} uses the variable {variable}, which has no value yet and cannot be"
                        " part of a cache key: set it before, make it an argument, or pass key= to cached()"
                    ) from None
        if has_defaults and (layer.__defaults__ or layer.__kwdefaults__):
            yield "defaults", [list(layer.__defaults__ or ()), layer.__kwdefaults__]
    elif isinstance(layer, functools.partial):
        yield "args", list(layer.args)
        yield "keywords", layer.keywords
    elif isinstance(layer, MethodType):
        yield "self", layer.__self__
    elif (owner := _owner(layer)) is not None:
        yield "self", owner
    elif not isinstance(layer, (*TRANSPARENT, BuiltinFunctionType)) and not inspect.isroutine(layer):
        yield "self", layer


def _captured(plain: Plain, value: Any, variable: str, layer: int, users: tuple[object, ...]) -> object:
    if isinstance(value, ModuleType):
        return value.__name__
    innermost = value
    while (inner := _wrapped(innermost)) is not None:
        innermost = inner
    if isinstance(innermost, FunctionType) and not any(value is user for user in users):
        return _name(value, users)
    return plain.value(value, variable, layer)


def _can_be_found(cls: type) -> bool:
    """Whether a class is what its module has under its name: another class of that name cannot be."""
    found: object = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls or cls.__module__ == "builtins"


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # such as of an int that is too long for a text
        return object.__repr__(value)


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


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
