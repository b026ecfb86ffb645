"""Keys: computed as cache_key, cache_key_json and cache_llm_key compute them in the database; what may be one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from hashlib import sha256
from typing import Any

from .errors import InvalidKeyError, NotTextError, UnrepresentableError

# What of a request to a model makes no difference to what is answered: how it is sent, for whom, and how fast.
IGNORED = frozenset({
    "stream", "stream_options", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "metadata",
    "store", "service_tier", "timeout", "max_retries", "extra_headers", "pgcache",
})  # fmt: skip

_quoted = json.JSONEncoder(ensure_ascii=False).encode

LONGEST_KEY = 1024  # bytes
_HASHED = re.compile("~[0-9a-f]{64}")


def is_key(key: str) -> bool:
    """Whether an entry can have this key: 1 to 1,024 bytes without NUL or half a surrogate."""
    if "\0" in key or not key:
        return False
    try:
        return len(key) <= LONGEST_KEY and (key.isascii() or len(key.encode()) <= LONGEST_KEY)
    except UnicodeEncodeError:
        return False


def any_key(key: str, prefix: str = "") -> str:
    """A key for any text: prefix and the text, or, where that cannot be a key, prefix, "~" and the text's SHA-256.

    So what begins with the prefix is still found by it. Different texts have different keys: one that would look like
    such a hash, be it of a shorter prefix, is hashed, too. Raises InvalidKeyError for a prefix that leaves no room, or
    that no key can have.
    """
    for text in (key, prefix):
        if not isinstance(text, str):
            refusal = NotTextError if isinstance(text, bytes) else TypeError
            raise refusal(f"a key and its prefix are str, not {type(text).__name__}: str({text!r:.100})?")
    made = prefix + key
    if is_key(made) and not _HASHED.fullmatch(made[-65:]):
        return made
    hashed = f"{prefix}~{sha256(key.encode(errors='surrogatepass')).hexdigest()}"
    if not is_key(hashed):
        raise InvalidKeyError(
            f"a prefix of keys has {LONGEST_KEY - 65} bytes at most, and neither NUL nor half a surrogate, unlike this:"
            f" {prefix!r:.100}",
            hint="Shorten it.",
        )
    return hashed


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


def cache_llm_key(request: Mapping[str, Any], ignored: Iterable[str] = ()) -> str:
    """The key of the answer to a whole request to a model, as pgcache.cache_llm_key makes it.

    request: what the API takes, with provider and base_url beside it if answers of several are kept. All fields are in
    the key, also unknown ones, but those in IGNORED, which do not change the answer, and those in ignored.
    """
    if not isinstance(request, Mapping):
        raise InvalidKeyError(
            f"a request to a model is a mapping, not {type(request).__name__}",
            hint='Pass what you would send: {"model": "gpt-4o", "messages": [...]}.',
        )
    left_out = IGNORED.union((ignored,) if isinstance(ignored, str) else ignored)
    fields = {name: value for name, value in request.items() if name not in left_out}
    if isinstance(address := fields.get("base_url"), str):
        fields["base_url"] = address.rstrip("/")
    try:
        text = canonical_json(_without_nulls(fields))
    except RecursionError as error:
        raise UnrepresentableError("the request is nested too deeply for Python") from error
    except ValueError as error:  # too long an int
        raise UnrepresentableError(f"a value that PostgreSQL or Python cannot hold: {error}") from error
    return cache_key("request", text)


def _without_nulls(value: Any) -> Any:
    """Without the fields of an object that are null, and those of the objects in its lists, theirs, and so on."""
    if isinstance(value, list | tuple):
        return [_without_nulls(each) for each in value]
    if isinstance(value, Mapping):
        return {
            name: _without_nulls(each) if isinstance(each, list | tuple) else each
            for name, each in value.items()
            if each is not None
        }
    return value


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
