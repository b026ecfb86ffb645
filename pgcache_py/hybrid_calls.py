"""Which calls of a cache concern which entry of the hot tier, and PostgreSQL's side of the tier.

Through the tier go the calls whose key the client can compute as the database does. The others go to PostgreSQL alone:
vector searches (their key is made of PostgreSQL's way to write a float), generated SQL (which has legacy keys), and
embeddings by the dozen.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

from psycopg.pq.abc import PGresult

from . import calls
from .calls import Audio, Call, Params, Skip, T, flag, json_text
from .keys import cache_key, canonical_json


class Place(NamedTuple):
    """Where an entry is. tenant: None for the cache's own."""

    type: str
    key: str
    tenant: str | None = None


class Write(NamedTuple):
    """An entry to store. text: its value in JSON."""

    place: Place
    text: str
    ttl: str | None


# Places, from the parameters of the typed calls.


def llm(prompt: str, model: str, context: str | None, *rest: Any) -> Place:
    return Place("llm", cache_key(prompt, model, context or ""))


def embedding(text: str, model: str, *rest: Any) -> Place:
    return Place("embedding", cache_key(text, model))


def audio(text: str, voice: str, provider: str | None, settings: str | None) -> Place:
    return Place("audio", cache_key(text, voice, provider or "", canonical_json(json.loads(settings or "{}"))))


def ai_worker(prompt: str, model: str, schema_version: str, *rest: Any) -> Place:
    return Place("ai_worker", cache_key(prompt, model, schema_version))


def face(image: bytes, tenant: str | None, *rest: Any) -> Place:
    return Place("face", _digest(image), tenant)


def phash(image: bytes, tenant: str | None, *rest: Any) -> Place:
    return Place("phash", _digest(image), tenant)


def crawl(url: str, image: bytes, tenant: str | None) -> Place:
    return Place("crawl", cache_key(url, _digest(image)), tenant)


def _digest(image: bytes) -> str:
    return sha256(image).hexdigest()


def generic(type: str, key: str, *rest: Any) -> Place:
    return Place(type, key)


# Results, from the JSON values of the types.


def _document(value: Any) -> Any:
    return value


def _audio(value: Any) -> Audio:
    data = base64.b64decode(value["audio_data"], validate=True)
    return Audio(data, value["format"], value.get("duration_ms"), value.get("sample_rate"), value.get("channels"))


READS: dict[Call[Any], tuple[Callable[..., Place], Callable[[Any], Any]]] = {
    calls.GET: (generic, _document),
    calls.GET_LLM: (llm, _document),
    calls.GET_EMBEDDING: (embedding, lambda value: calls.vector(value["embedding"])),
    calls.GET_AUDIO: (audio, _audio),
    calls.GET_FACE: (face, lambda value: value["embeddings"]),
    calls.GET_PHASH: (phash, lambda value: value["phash"]),
    calls.CRAWL_SHOULD_SKIP: (crawl, lambda value: Skip(True, value["raw_key"])),
}
"""Calls that look an entry up."""


# Values, from the parameters of the typed calls.


def _set_llm(
    prompt: str,
    model: str,
    response: str,
    tokens_used: str | None,
    context: str | None,
    provider: str | None,
    ttl: str | None,
) -> Write:
    fields = {
        "response": response,
        "model": model,
        "provider": provider,
        "tokens_used": None if tokens_used is None else int(tokens_used),
    }
    return Write(llm(prompt, model, context), _fields(fields), ttl)


def _set_face(image: bytes, tenant: str | None, embeddings: str, ttl: str | None) -> Write:
    return Write(face(image, tenant), f'{{"embeddings":{embeddings}}}', ttl)


def _set_phash(image: bytes, tenant: str | None, value: str, ttl: str | None) -> Write:
    return Write(phash(image, tenant), _fields({"phash": value}), ttl)


def _store_crawled(
    url: str, image: bytes, raw_key: str, thumbnail_key: str | None, tenant: str | None, ttl: str | None
) -> Write:
    fields = {"url": url, "image_hash": _digest(image), "raw_key": raw_key, "thumbnail_key": thumbnail_key}
    return Write(crawl(url, image, tenant), _fields(fields), ttl)


def _fields(fields: dict[str, Any]) -> str:
    """As the database projects them: without those that are not known."""
    return json_text({name: value for name, value in fields.items() if value is not None})


WRITES: dict[Call[Any], Callable[..., Write]] = {
    calls.SET: lambda type, key, value, ttl: Write(Place(type, key), value, ttl),
    calls.SET_LLM: _set_llm,
    calls.SET_FACE: _set_face,
    calls.SET_PHASH: _set_phash,
    calls.CRAWL_STORE: _store_crawled,
}
"""Calls whose value is put into Redis as well."""

CHANGES: dict[Call[Any], Callable[..., Place]] = {
    **dict.fromkeys((calls.ADD, calls.INCR, calls.TOUCH, calls.PERSIST, calls.DELETE), generic),
    calls.SET_EMBEDDING: embedding,
    calls.SET_AUDIO: lambda text, voice, *rest: audio(text, voice, rest[5], rest[6]),
    calls.SET_AI_WORKER: ai_worker,
}
"""Calls after which the entry in Redis is out of date."""

SWEEPS: frozenset[Call[Any]] = frozenset(
    {
        calls.DELETE_PATTERN,
        calls.CLEAR,
        calls.CLEAR_ALL,
        calls.INVALIDATE_TENANT,
        calls.INVALIDATE_USER,
        calls.INVALIDATE_SCHEMA,
        calls.CONFIGURE,
        calls.DROP_TYPE,
    }
)
"""Calls after which entries in Redis are out of date, the client does not know which."""


def located(locate: Callable[..., T], params: Params) -> T | None:
    """What a function of these tables makes of a call's parameters; None if they are wrong, as PostgreSQL will say."""
    if any(isinstance(param, str) and "\0" in param for param in params):
        return None
    try:
        return locate(*params)
    except (AttributeError, TypeError, ValueError):
        return None


# PostgreSQL's side.


class Found(NamedTuple):
    """What hot_get returns. text: the value in JSON, None on a miss. ttl_ms: for how long Redis may keep it."""

    text: bytes | None
    version: int
    ttl_ms: int
    may_push: bool


class Stored(NamedTuple):
    """What hot_set returns. text: the value as PostgreSQL has it; None if it must not be put into Redis."""

    stored: bool
    version: int
    ttl_ms: int
    text: bytes | None


class Identity(NamedTuple):
    """What hot_identity returns. database: as the owner of a prefix in Redis. prefix: the setting hot_prefix."""

    database: bytes
    prefix: str


UNREAD = Found(None, 0, 0, False)
"""In fail-soft mode, when PostgreSQL was not asked."""


def _utf8(data: bytes | None, encoding: str) -> bytes | None:
    return data if data is None or encoding == "utf-8" else data.decode(encoding).encode()


def _found_at(result: PGresult, encoding: str, row: int, column: int) -> Found:
    text, version, ttl_ms, may_push = (result.get_value(row, column + each) for each in range(4))
    return Found(_utf8(text, encoding), int(version or 0), int(ttl_ms or 0), may_push == b"t")


def _found(result: PGresult, encoding: str) -> Found:
    return _found_at(result, encoding, 0, 0)


def _found_many(result: PGresult, encoding: str) -> dict[str, Found]:
    rows = range(result.ntuples)
    return {
        key.decode(encoding): _found_at(result, encoding, row, 1)
        for row in rows
        if (key := result.get_value(row, 0)) is not None
    }


def _stored(result: PGresult, encoding: str) -> Stored:
    stored, version, ttl_ms, text = (result.get_value(0, column) for column in range(4))
    return Stored(stored == b"t", int(version or 0), int(ttl_ms or 0), _utf8(text, encoding))


def _identity(result: PGresult, encoding: str) -> Identity:
    database, prefix = (result.get_value(0, column) or b"" for column in range(2))
    return Identity(database, prefix.decode(encoding))


INTERNAL = "pgcache_internal"

HOT_GET: Call[Found] = Call("hot_get($1, $2)", _found, UNREAD, rows=True, schema=INTERNAL)
HOT_GET_MANY: Call[dict[str, Found]] = Call("hot_get_many($1, $2)", _found_many, {}, rows=True, schema=INTERNAL)
HOT_SET: Call[Stored] = Call("hot_set($1, $2, $3, $4)", _stored, Stored(False, 0, 0, None), rows=True, schema=INTERNAL)
HOT_IDENTITY: Call[Identity] = Call("hot_identity()", _identity, rows=True, schema=INTERNAL)
REPORT_HITS = calls.count("hot_report_hits($1, $2, $3)", repeatable=False, schema=INTERNAL)
IS_HOT = flag("is_hot($1)", schema=INTERNAL)


class _Wake(Call[None]):
    """Lets the relay come by now."""

    def __init__(self) -> None:
        super().__init__("", lambda result, encoding: None)
        self.name = "pg_notify"

    def statement(self, params: Params, tenant: str | None) -> tuple[str, Params]:
        return "SELECT pg_catalog.pg_notify('pgcache_hot', '')", params


WAKE = _Wake()

OUTBOX = "SELECT * FROM pgcache.cache_hot_stats"
