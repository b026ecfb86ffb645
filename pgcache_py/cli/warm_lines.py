"""What a line of a warm-up file says: the call that stores it. The form of lines is in FORM.

The typed lines follow from the functions that there are: a line has the parameters of cache_set_TYPE by their names,
those that cache_get_TYPE takes, too, in the line itself, the others in its value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..client.wire import interval
from ..errors import InvalidValueError
from ..setup.session import Connection

FORM = """\
A line is a JSON object: {"type": "store", "key": "k", "value": [1]}, with "ttl" (seconds, or a text such as
"5 minutes" or "never") and "tenant" if wanted. Instead of the key it may have what the key of a typed cache is made of:

    llm            prompt, model, context, provider    value: response, tokens_used
    embedding      text, model                         value: embedding
    vector_search  query, filters, top_k, user_id      value: results
    ai_worker      prompt, model, schema_version       value: generated_sql, tokens_used, validated
    audio          text, voice, provider, settings     value: format, duration_ms, sample_rate, channels
    face, phash    tenant                              value: embeddings; phash

A value that is no object is that of its one field that must be there: "value": [0.5, 1] in a line of an embedding. The
bytes of audio and images are in a file beside the list, which the line names: "file": "hello.opus"."""

Fields = Mapping[str, Any]

SET_MANY = "SELECT pgcache.cache_set_many_json(%s, %s, %s::interval)"
COMMON = {"type", "value", "ttl", "tenant"}
# Another name that a line may use for a parameter.
ALIASES = {"user": "user_id"}
# The text of a query may stand beside its vector, for people.
FOR_PEOPLE = {"query_text"}
# For each typed cache the parameters of the function that stores: whether the key is made of it, and its default.
TYPED = r"""
SELECT substr(setter.proname, 11), parameter.name, parameter.type::regtype::text,
    parameter.name = ANY (getter.proargnames[:getter.pronargs]),
    pg_get_function_arg_default(setter.oid, parameter.number::integer)
FROM pg_proc AS setter
JOIN pg_proc AS getter
    ON getter.pronamespace = setter.pronamespace AND getter.proname = 'cache_get_' || substr(setter.proname, 11)
CROSS JOIN LATERAL unnest(setter.proargnames, setter.proargtypes::oid[]) WITH ORDINALITY
    AS parameter (name, type, number)
WHERE setter.pronamespace = 'pgcache'::regnamespace AND setter.proname LIKE 'cache\_set\_%'
    AND setter.prorettype = 'boolean'::regtype AND 'type' <> ALL (setter.proargnames)
ORDER BY setter.proname, parameter.number
"""
_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Entry(NamedTuple):
    """One entry to store. Those of the same `call`, tenant and ttl can go to the server together.

    call: a statement. arguments: a member of the object for cache_set_many_json, else those of a typed function.
    """

    line: int
    type: str
    tenant: str
    ttl: str | None
    call: str
    arguments: tuple[Any, ...]


class Parameter(NamedTuple):
    """Of a typed function. name: "file" for bytes, which a line has by that. inside: it is in the line's value."""

    name: str
    type: str
    inside: bool
    optional: bool


@dataclass
class Shape:
    """What the lines of a typed cache have, and the statement that stores them, which takes that and then the ttl."""

    call: str
    parameters: list[Parameter] = field(default_factory=list)

    @property
    def bare(self) -> str | None:
        """The one field that a value must have, whose content may stand for the value."""
        required = [parameter.name for parameter in self.parameters if parameter.inside and not parameter.optional]
        return required[0] if len(required) == 1 else None

    @property
    def fields(self) -> set[str]:
        return {parameter.name for parameter in self.parameters if not parameter.inside} - COMMON


def shapes(connection: Connection) -> dict[str, Shape]:
    """The typed caches that lines may be for, by their types."""
    found: dict[str, Shape] = {}
    for kind, name, type, is_key, default in connection.execute(TYPED.encode()):
        shape = found.setdefault(kind, Shape(f"SELECT pgcache.cache_set_{kind}("))
        if name == "ttl":
            continue
        place = "%s" if default is None else f"coalesce(%s, {default.replace('%', '%%')})"
        shape.call += f"{name} => {place}, "
        if type == "bytea":
            shape.parameters.append(Parameter("file", type, False, False))
        else:
            shape.parameters.append(Parameter(name, type, not is_key, default is not None))
    for shape in found.values():
        shape.call += "ttl => %s::interval)"
    return found


def entry(number: int, text: str, folder: Path, typed: Mapping[str, Shape]) -> Entry:
    """The entry that a line holds. folder: where the files that it names are.

    Raises InvalidValueError if it is none.
    """
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidValueError(f"this is no JSON: {error}") from None
    except RecursionError:
        raise InvalidValueError("this JSON is nested too deeply") from None
    if not isinstance(fields, dict):
        raise InvalidValueError("this is no JSON object")
    kind = _text(fields, "type")
    shape = None if "key" in fields else typed.get(kind)
    if "key" not in fields and shape is None:
        raise InvalidValueError('the field "key" is missing')
    known = shape.fields if shape else {"key"}
    for alias, name in ALIASES.items():
        if alias in fields and name in known - fields.keys():
            fields[name] = fields.pop(alias)
    unknown = fields.keys() - COMMON - known - (FOR_PEOPLE if shape else set())
    if unknown:
        raise InvalidValueError(f'unknown field "{min(unknown)}"', hint=f"{kind} has {', '.join(sorted(known))}")
    ttl = fields.get("ttl")
    if isinstance(ttl, bool) or not isinstance(ttl, str | int | float | None):
        raise InvalidValueError("ttl must be a text such as '5 minutes', a number of seconds, or 'never'")
    if shape:
        if shape.bare and "value" in fields and not isinstance(fields["value"], dict):
            fields["value"] = {shape.bare: fields["value"]}
        value = fields.get("value")
        if isinstance(value, dict) and (misplaced := value.keys() & known - fields.keys()):
            raise InvalidValueError(
                f'the field "{min(misplaced)}" belongs beside the value, since the key depends on it'
            )
        arguments = tuple(_argument(parameter, fields, folder) for parameter in shape.parameters)
    else:
        arguments = (f"{_encoded(_text(fields, 'key'))}:{_json(fields, 'value')}",)
    return Entry(
        number,
        kind,
        _text(fields, "tenant", ""),
        interval(ttl) if isinstance(ttl, str) else None if ttl is None else str(ttl),
        shape.call if shape else SET_MANY,
        arguments,
    )


def _argument(parameter: Parameter, fields: Fields, folder: Path) -> str | bytes | None:
    """The value of a parameter, as text that the server converts; None for its default."""
    name, type, inside, optional = parameter
    if name == "file":
        return _content(_text(fields, name), folder)
    if name == "tenant":
        return _text(fields, name, "")
    if inside:
        fields = fields.get("value", ())
        if not isinstance(fields, dict):
            raise InvalidValueError('the field "value" must be an object')
    given = fields.get(name)
    if optional and given is None:
        return None
    if type == "text":
        return _text(fields, name)
    if isinstance(given, str) and type != "jsonb":
        return given
    if type == "boolean" and not isinstance(given, bool):
        raise InvalidValueError(f'the field "{name}" is neither true nor false')
    return _integer(given, name) if type == "bigint" else _json(fields, name)


def _content(name: str, folder: Path) -> bytes:
    folder = folder.resolve()
    try:
        path = (folder / name).resolve()
    except (ValueError, OSError):  # a NUL, half a surrogate, a name that is too long
        raise InvalidValueError(f"there can be no file {name[:100]!r}") from None
    # A list from somewhere else must not be able to pick up any file of this machine.
    if not path.is_relative_to(folder):
        raise InvalidValueError(f"the file {path} is outside of {folder}", hint="Put it beside the list.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidValueError(f"the file {path} cannot be read: {error.strerror}") from None


def _integer(given: object, name: str) -> str:
    if isinstance(given, bool) or not isinstance(given, int | float) or given % 1:
        raise InvalidValueError(f'the field "{name}" is no whole number')
    if not -(2**63) <= given < 2**63:
        raise InvalidValueError(f'the field "{name}" is out of range: {given}')
    return str(int(given))


def _text(fields: Fields, name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise InvalidValueError(f'the field "{name}" is {"no text" if name in fields else "missing"}')
    return value


def _json(fields: Fields, name: str) -> str:
    if name not in fields:
        raise InvalidValueError(f'the field "{name}" is missing')
    try:
        return _encoded(fields[name])
    except ValueError:  # what Python can read as a float, but not write
        raise InvalidValueError(f'the field "{name}" has a number that is too large, or none') from None
