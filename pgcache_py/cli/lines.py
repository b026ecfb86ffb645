"""What a line of a warm-up file says: the call that stores it.

A line is {"type": ..., "key": ..., "value": ...}, with "ttl" and "tenant" if wanted. In place of the key it may have
what the key of its type is made from, and then the typed function of pgcache computes it:

    llm            prompt, model, context           value: response, tokens_used, provider
    embedding      text, model                      value: embedding
    vector_search  query, filters, top_k, user      value: results
    ai_worker      prompt, model, schema_version    value: generated_sql, tokens_used, validated
    audio          text, voice, provider, settings  file, value: format, duration_ms, sample_rate, channels
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InvalidValueError

Fields = Mapping[str, Any]


class Entry(NamedTuple):
    """One entry to store. Those of the same `call`, tenant and ttl can go to the server together.

    call: a function's name. arguments: a member of the object for cache_set_many_json, else those of a typed function.
    """

    line: int
    type: str
    tenant: str
    ttl: str | None
    call: str
    arguments: tuple[Any, ...]


class Shape(NamedTuple):
    call: str
    fields: Collection[str]
    arguments: Callable[[Fields, Path], tuple[Any, ...]]


SET_MANY = "SELECT pgcache.cache_set_many_json(%s, %s, %s::interval)"
_encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
COMMON = {"type", "value", "ttl", "tenant"}


def entry(number: int, text: str, folder: Path) -> Entry:
    """The entry that a line holds. folder: where the files that it names are.

    Raises InvalidValueError if it is none.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidValueError(f"this is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidValueError("this is no JSON object")
    kind = _text(fields, "type")
    if "key" in fields:
        shape = KEYED
    elif kind in TYPED:
        shape = TYPED[kind]
    else:
        raise InvalidValueError('the field "key" is missing')
    unknown = fields.keys() - COMMON - set(shape.fields)
    if unknown:
        raise InvalidValueError(f'unknown field "{min(unknown)}"', hint=f"{kind} has {', '.join(sorted(shape.fields))}")
    ttl = fields.get("ttl")
    if isinstance(ttl, bool) or not isinstance(ttl, str | int | float | None):
        raise InvalidValueError("ttl must be a text such as '5 minutes', or a number of seconds")
    return Entry(
        number,
        kind,
        _text(fields, "tenant", ""),
        None if ttl is None else str(ttl),
        shape.call,
        shape.arguments(fields, folder),
    )


def _text(fields: Fields, name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise InvalidValueError(f'the field "{name}" is {"no text" if name in fields else "missing"}')
    return value


def _json(fields: Fields, name: str, default: Any = ...) -> str:
    if name not in fields and default is ...:
        raise InvalidValueError(f'the field "{name}" is missing')
    return _encoded(fields.get(name, default))


def _value(fields: Fields) -> Fields:
    value = fields.get("value")
    if not isinstance(value, dict):
        raise InvalidValueError('the field "value" must be an object')
    return value


def _keyed(fields: Fields, _: Path) -> tuple[Any, ...]:
    return (f"{_encoded(_text(fields, 'key'))}:{_json(fields, 'value')}",)


def _llm(fields: Fields, _: Path) -> tuple[Any, ...]:
    value = _value(fields)
    return (
        _text(fields, "prompt"),
        _text(fields, "model"),
        _text(value, "response"),
        value.get("tokens_used"),
        _text(fields, "context", ""),
        value.get("provider"),
    )


def _embedding(fields: Fields, _: Path) -> tuple[Any, ...]:
    return _text(fields, "text"), _text(fields, "model"), _json(_value(fields), "embedding")


def _vector_search(fields: Fields, _: Path) -> tuple[Any, ...]:
    return (
        _json(fields, "query"),
        _json(_value(fields), "results"),
        _json(fields, "filters", {}),
        fields.get("top_k", 10),
        _text(fields, "user", ""),
    )


def _ai_worker(fields: Fields, _: Path) -> tuple[Any, ...]:
    value = _value(fields)
    return (
        _text(fields, "prompt"),
        _text(fields, "model"),
        _text(fields, "schema_version"),
        _text(value, "generated_sql"),
        value.get("tokens_used", 0),
        value.get("validated", True),
    )


def _audio(fields: Fields, folder: Path) -> tuple[Any, ...]:
    value = _value(fields)
    folder = folder.resolve()
    path = (folder / _text(fields, "file")).resolve()
    # A list from somewhere else must not be able to pick up any file of this machine.
    if not path.is_relative_to(folder):
        raise InvalidValueError(f"the file {path} is outside of {folder}", hint="Put it beside the list.")
    try:
        audio = path.read_bytes()
    except OSError as error:
        raise InvalidValueError(f"the file {path} cannot be read: {error.strerror}") from None
    return (
        _text(fields, "text"),
        _text(fields, "voice"),
        audio,
        _text(value, "format"),
        value.get("duration_ms"),
        value.get("sample_rate"),
        value.get("channels"),
        _text(fields, "provider", ""),
        _json(fields, "settings", {}),
    )


KEYED = Shape(SET_MANY, {"key"}, _keyed)
TYPED = {
    "llm": Shape(
        "SELECT pgcache.cache_set_llm(%s, %s, %s, %s, %s, %s, %s::interval)", {"prompt", "model", "context"}, _llm
    ),
    "embedding": Shape("SELECT pgcache.cache_set_embedding(%s, %s, %s, %s::interval)", {"text", "model"}, _embedding),
    # The text of the query may stand beside its vector, for people.
    "vector_search": Shape(
        "SELECT pgcache.cache_set_vector_search(%s, %s, %s, %s, %s, %s::interval)",
        {"query", "query_text", "filters", "top_k", "user"},
        _vector_search,
    ),
    "ai_worker": Shape(
        "SELECT pgcache.cache_set_ai_worker(%s, %s, %s, %s, %s, %s, %s::interval)",
        {"prompt", "model", "schema_version"},
        _ai_worker,
    ),
    "audio": Shape(
        "SELECT pgcache.cache_set_audio(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s::interval)",
        {"text", "voice", "provider", "settings", "file"},
        _audio,
    ),
}
