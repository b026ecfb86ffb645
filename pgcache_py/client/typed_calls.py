"""The typed caches' calls: for each cache what its key and its value are made of, as the database makes them.

The methods that users call are in _async/typed.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from psycopg.pq.abc import PGresult

from ..keys import cache_key, canonical_json
from .calls import BYPASSES, SEVERAL, SWEEPS, Call, Changes, Place, Reads, Write, Writes, as_it_is, count, flag
from .terms import Form
from .wire import (
    Row,
    computed_answer,
    computed_text,
    computed_vector,
    json_text,
    read_bytes,
    read_document,
    read_text,
    vector,
    vector_list,
    vector_text,
)

# The functions for images name the tenant; None stands for the cache's own.
OWN = "coalesce(${}, pgcache_internal.current_tenant())"


def _fields(**fields: Any) -> str:
    """A value in JSON, without what is not known, as the database projects it."""
    return json_text({name: value for name, value in fields.items() if value is not None})


def _digest(image: bytes) -> str:
    return sha256(image).hexdigest()


# llm

LLM_FIELDS = ("response", "model", "provider", "tokens_used", "input_tokens", "cached_input_tokens")


def llm(prompt: str, model: str, context: str | None, provider: str | None) -> Place:
    parts = (prompt, model, context or "")
    return Place("llm", cache_key(*parts, provider) if provider else cache_key(*parts))


def _set_llm(
    prompt: str,
    model: str,
    response: str,
    tokens_used: str | None,
    context: str | None,
    provider: str | None,
    ttl: str | None,
    *kinds: str | None,
) -> Write:
    tokens = (None if count is None else int(count) for count in (tokens_used, *kinds))
    value = _fields(**dict(zip(LLM_FIELDS, (response, model, provider, *tokens), strict=True)))
    return Write(llm(prompt, model, context, provider), value, ttl)


def llm_form(model: str, provider: str | None) -> Form:
    """How an answer of a model is kept."""

    def checked(computed: Any) -> Row:
        fields = {"provider": provider, **computed_answer(computed), "model": model}
        return {name: value for name, value in fields.items() if value is not None}

    def text(answer: Row) -> str:
        return json_text({name: answer[name] for name in LLM_FIELDS if name in answer})

    return Form(checked, text, as_it_is)


GET_LLM = Call("cache_get_llm($1, $2, $3, $4)", read_document, None, tier=Reads(llm))
SET_LLM = flag("cache_set_llm($1, $2, $3, $4, $5, $6, $7, $8, $9)", tier=Writes(_set_llm))

# embedding. By the dozen they are looked up in PostgreSQL alone.


def embedding(text: str, model: str, *rest: Any) -> Place:
    return Place("embedding", cache_key(text, model))


def _read_vectors(result: PGresult, encoding: str) -> dict[str, bytes]:
    found = {}
    for row in range(result.ntuples):
        if (data := result.get_value(row, 1)) is not None:
            found[(result.get_value(row, 0) or b"").decode(encoding)] = data
    return found


def embedding_form(model: str) -> Form:
    """How a vector is kept."""

    def text(numbers: list[float]) -> str:
        return f'{{"embedding":{vector_text(numbers)},"model":{json_text(model)}}}'

    return Form(computed_vector, text, lambda value: vector_list(vector(value["embedding"])))


GET_EMBEDDING = Call(
    "cache_get_embedding($1, $2)",
    read_bytes,
    None,
    tier=Reads(embedding, lambda value: vector(value["embedding"])),
    binary=True,
)
SET_EMBEDDING = flag("cache_set_embedding($1, $2, $3, $4)", tier=Changes(embedding), takes_bytes=True)
GET_EMBEDDINGS: Call[dict[str, bytes]] = Call(
    "cache_get_embeddings($1, $2)", _read_vectors, {}, tier=BYPASSES, rows=True, binary=True
)
SET_EMBEDDINGS = count("cache_set_embeddings($1, $2, $3, $4)", tier=SEVERAL)

# vector_search

# What array_send begins with: number of dimensions, whether there are NULLs, the oid of real, length, the first index.
_REAL_ARRAY = struct.Struct(">iiiii")


def vector_search(query: bytes, filters: str, top_k: str, user_id: str) -> Place:
    length = len(query) // 4 - 1
    if not (1 <= length <= 16_000 and math.isfinite(sum(vector_list(query))) and -(2**63) <= int(top_k) < 2**63):
        raise ValueError("what PostgreSQL refuses")
    numbers = bytearray(8 * length)  # each after its size
    numbers[3::8] = b"\4" * length
    for byte in range(4, 8):
        numbers[byte::8] = query[byte::4]
    digest = sha256(_REAL_ARRAY.pack(1, 0, 700, length, 1) + numbers).hexdigest()
    return Place("vector_search", cache_key(user_id or "", digest, canonical_json(json.loads(filters)), top_k))


def _set_vector_search(query: bytes, results: str, filters: str, top_k: str, user_id: str, ttl: str | None) -> Write:
    owner = f',"user_id":{json_text(user_id)}' if user_id else ""
    return Write(vector_search(query, filters, top_k, user_id), f'{{"results":{results}{owner}}}', ttl)


GET_VECTOR_SEARCH = Call(
    "cache_get_vector_search($1, $2, $3, $4)",
    read_document,
    None,
    tier=Reads(vector_search, lambda value: value["results"]),
    takes_bytes=True,
)
SET_VECTOR_SEARCH = flag(
    "cache_set_vector_search($1, $2, $3, $4, $5, $6)", tier=Writes(_set_vector_search), takes_bytes=True
)
INVALIDATE_USER = count("cache_invalidate_user($1)", tier=SWEEPS)

# audio


@dataclass(frozen=True, slots=True)
class Audio:
    """Speech. data: the file's bytes. format: such as 'opus' or 'mp3'. duration_ms: milliseconds. sample_rate: Hz."""

    data: bytes
    format: str
    duration_ms: int | None = None
    sample_rate: int | None = None
    channels: int | None = None


def audio(text: str, voice: str, provider: str | None, settings: str | None) -> Place:
    return Place("audio", cache_key(text, voice, provider or "", canonical_json(json.loads(settings or "{}"))))


def _set_audio(text: str, voice: str, *rest: Any) -> Place:
    return audio(text, voice, *rest[-3:-1])


def _audio_of(value: Any) -> Audio:
    data = base64.b64decode(value["audio_data"], validate=True)
    return Audio(data, value["format"], value.get("duration_ms"), value.get("sample_rate"), value.get("channels"))


def _read_audio(result: PGresult, encoding: str) -> Audio | None:
    if not result.ntuples or (data := result.get_value(0, 0)) is None:
        return None
    duration_ms, sample_rate, channels = (
        None if (field := result.get_value(0, column)) is None else int.from_bytes(field, "big", signed=True)
        for column in (2, 3, 4)
    )
    return Audio(data, (result.get_value(0, 1) or b"").decode(encoding), duration_ms, sample_rate, channels)


GET_AUDIO = Call(
    "cache_get_audio($1, $2, $3, $4)", _read_audio, None, tier=Reads(audio, _audio_of), rows=True, binary=True
)
SET_AUDIO = flag("cache_set_audio($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", tier=Changes(_set_audio), takes_bytes=True)

# ai_worker. PostgreSQL also finds what is there under the keys of the service that came before.


def ai_worker(prompt: str, model: str, schema_version: str, *rest: Any) -> Place:
    return Place("ai_worker", cache_key(prompt, model, schema_version))


def ai_worker_form(prompt: str, model: str, schema_version: str, tokens_used: str | None) -> Form:
    """How generated SQL is kept."""

    def text(generated_sql: str) -> str:
        return _fields(
            prompt_text=prompt,
            model=model,
            schema_version=schema_version,
            generated_sql=generated_sql,
            tokens_used=None if tokens_used is None else int(tokens_used),
        )

    return Form(computed_text, text, lambda value: str(value["generated_sql"]))


GET_AI_WORKER = Call("cache_get_ai_worker($1, $2, $3)", read_document, None, tier=BYPASSES)
SET_AI_WORKER = flag("cache_set_ai_worker($1, $2, $3, $4, $5, $6, $7)", tier=Changes(ai_worker))
INVALIDATE_SCHEMA = count("cache_invalidate_schema($1)", tier=SWEEPS)
AI_WORKER_STATS = "SELECT * FROM pgcache.ai_worker_cache_stats"

# face


def face(image: bytes, tenant: str | None) -> Place:
    return Place("face", _digest(image), tenant)


def _set_face(image: bytes, tenant: str | None, embeddings: str, ttl: str | None) -> Write:
    return Write(face(image, tenant), f'{{"embeddings":{embeddings}}}', ttl)


GET_FACE = Call(
    f"cache_get_face($1, {OWN.format(2)})",
    read_document,
    None,
    tier=Reads(face, lambda value: value["embeddings"]),
    takes_bytes=True,
)
SET_FACE = flag(f"cache_set_face($1, {OWN.format(2)}, $3, $4)", tier=Writes(_set_face), takes_bytes=True)

# phash


def phash(image: bytes, tenant: str | None) -> Place:
    return Place("phash", _digest(image), tenant)


def _set_phash(image: bytes, tenant: str | None, hash_value: str, ttl: str | None) -> Write:
    return Write(phash(image, tenant), _fields(phash=hash_value), ttl)


GET_PHASH = Call(
    f"cache_get_phash($1, {OWN.format(2)})",
    read_text,
    None,
    tier=Reads(phash, lambda value: value["phash"]),
    takes_bytes=True,
)
SET_PHASH = flag(f"cache_set_phash($1, {OWN.format(2)}, $3, $4)", tier=Writes(_set_phash), takes_bytes=True)

# crawl


class Skip(NamedTuple):
    """Whether an image is stored already, and under which key."""

    should_skip: bool
    raw_key: str | None


def crawl(url: str, image: bytes, tenant: str | None) -> Place:
    return Place("crawl", cache_key(url, _digest(image)), tenant)


def _store_crawled(
    url: str, image: bytes, raw_key: str, thumbnail_key: str | None, tenant: str | None, ttl: str | None
) -> Write:
    value = _fields(url=url, image_hash=_digest(image), raw_key=raw_key, thumbnail_key=thumbnail_key)
    return Write(crawl(url, image, tenant), value, ttl)


def _read_skip(result: PGresult, encoding: str) -> Skip:
    raw_key = result.get_value(0, 1)
    return Skip(result.get_value(0, 0) == b"t", None if raw_key is None else raw_key.decode(encoding))


CRAWL_SHOULD_SKIP = Call(
    f"crawl_should_skip($1, $2, {OWN.format(3)})",
    _read_skip,
    Skip(False, None),
    tier=Reads(crawl, lambda value: Skip(True, value["raw_key"])),
    rows=True,
    takes_bytes=True,
)
CRAWL_STORE = flag(f"crawl_store($1, $2, $3, $4, {OWN.format(5)}, $6)", tier=Writes(_store_crawled), takes_bytes=True)
