"""Keys, computed here as pgcache.cache_key and pgcache.cache_key_json compute them in the database."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from hashlib import sha256

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
