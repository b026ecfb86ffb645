"""Keys, computed here as pgcache.cache_key and pgcache.cache_key_json compute them in the database."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any

_quoted = json.JSONEncoder(ensure_ascii=False).encode


def cache_key(*parts: str | None) -> str:
    """64 hex digits of SHA-256: different parts never share a key, so ('ab', 'c') and ('a', 'bc') do not."""
    for part in parts:
        if not (part is None or isinstance(part, str)):
            raise TypeError(f"a part of a key is a str or None, not {type(part).__name__}: str({part!r})?")
    texts = [None if part is None else part.encode() for part in parts]
    joined = b",".join(b"~" if text is None else b"%d:%b" % (len(text), text) for text in texts)
    return sha256(joined).hexdigest()


def cache_key_json(value: object) -> str:
    """64 hex digits of SHA-256 of the canonical JSON: the order of keys, or 1.0 for 1, makes no difference."""
    return sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: object) -> str:
    """One text for all values that are equal as JSON. Raises TypeError for what is no JSON."""
    if value is None or isinstance(value, bool | str):
        return _quoted(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float) and math.isfinite(value):
        number = f"{Decimal(float.__repr__(value)):f}"
        number = number.rstrip("0").rstrip(".") if "." in number else number
        return "0" if number == "-0" else number
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return "{" + ",".join(f"{_quoted(key)}:{canonical_json(value[key])}" for key in sorted(value)) + "}"
    raise TypeError(f"not a JSON value: {value!r}")


class FunctionKey:
    """The keys of a function's results: made of its name and of its arguments, in whichever way they are passed.

    Arguments have to be JSON values (a tuple counts as a list), classes, or objects with a method __cache_key__ that
    returns a JSON value; so has the object or class of a method. make: makes the key instead, from the same arguments.
    """

    def __init__(self, function: Callable[..., Any], make: Callable[..., str] | None) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"
        self._signature = inspect.signature(function)
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        if self._make is not None:
            return self._make(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        objects: list[object] = []
        plain = {name: self._plain(value, [name], objects) for name, value in bound.arguments.items()}
        # Objects have a part of their own, each with its place, so that no JSON value looks like one of them.
        return cache_key(self._name, canonical_json(plain), *([canonical_json(objects)] if objects else []))

    def _plain(self, value: object, place: list[str | int], objects: list[object]) -> object:
        if isinstance(value, type):
            objects.append([place, _full_name(value)])
            return None
        if hasattr(value, "__cache_key__"):
            objects.append([place, _full_name(type(value)), value.__cache_key__()])
            return None
        if isinstance(value, list | tuple):
            return [self._plain(item, [*place, index], objects) for index, item in enumerate(value)]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: self._plain(item, [*place, key], objects) for key, item in value.items()}
        try:
            canonical_json(value)
        except TypeError:
            raise TypeError(
                f"the argument {place[0]} of {self._name} cannot be part of a cache key: {value!r}. Pass JSON values,"
                f" give {type(value).__name__} a method __cache_key__ that returns one, or pass key= to cached()"
            ) from None
        return value


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
