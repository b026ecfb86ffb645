"""Keys, computed here as pgcache.cache_key and pgcache.cache_key_json compute them in the database."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from hashlib import sha256

from .errors import NotTextError, UnrepresentableError

_quoted = json.JSONEncoder(ensure_ascii=False).encode


def cache_key(*parts: str | None) -> str:
    """64 hex digits of SHA-256: different parts never share a key, so ('ab', 'c') and ('a', 'bc') do not."""
    for part in parts:
        if not (part is None or isinstance(part, str)):
            refusal = NotTextError if isinstance(part, bytes) else TypeError
            raise refusal(f"a part of a key is a str or None, not {type(part).__name__}: str({part!r})?")
    try:
        texts = [None if part is None else part.encode() for part in parts]
    except UnicodeEncodeError as error:
        raise UnrepresentableError(f"a text that PostgreSQL cannot hold: {error}") from error
    joined = b",".join(b"~" if text is None else b"%d:%b" % (len(text), text) for text in texts)
    return sha256(joined).hexdigest()


def cache_key_json(value: object) -> str:
    """64 hex digits of SHA-256 of the canonical JSON: the order of keys, or 1.0 for 1, makes no difference."""
    try:
        return sha256(canonical_json(value).encode()).hexdigest()
    except RecursionError as error:
        raise UnrepresentableError("the value is nested too deeply for Python") from error
    except ValueError as error:  # half a surrogate, or too long an int
        raise UnrepresentableError(f"a value that PostgreSQL or Python cannot hold: {error}") from error


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
