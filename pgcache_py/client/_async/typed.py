"""The typed caches of an AsyncCache: cache.llm, cache.embedding and so on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast, overload

from ...errors import InvalidKeyError, InvalidValueError, UnrepresentableError
from ...keys import cache_llm_key
from .. import answers, calls, typed_calls, wire
from ..calls import Explanation, Place, explained
from ..failsoft import keeping
from ..terms import Computed, Form, Terms, plain, terms
from ..typed_calls import Audio, Skip
from ..waiting import end_async, settle_async
from ..wire import MISS, TTL, Array, Row
from .base import AsyncBase
from .once import AsyncOnce

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


Self = TypeVar("Self", bound="AsyncTypedCache")
Answer: TypeAlias = str | Mapping[str, Any]


class AsyncTypedCache:
    """One of the built-in types. Errors are those of the generic calls; see Cache."""

    def __init__(self, cache: AsyncBase) -> None:
        self._cache = cache
        self._run = cache._run

    def _in_savepoints(self: Self) -> Self:
        return self.__class__(self._cache._in_savepoints())

    async def _explain(self, locate: Callable[..., Place], required: tuple[Any, ...], *params: Any) -> Explanation:
        if None in required:
            raise InvalidKeyError("what the key is made of is None", hint="Pass what you would pass to get.")
        place = calls.located(locate, (*required, *params))
        if place is None:
            raise InvalidValueError("a get refuses these arguments", hint="Its error says what is wrong with them.")
        view = self._cache if place.tenant is None else self._cache.for_tenant(place.tenant)
        return explained(place, await view._run(calls.EXPLAIN, place.type, place.key))

    async def _get_or_compute(
        self,
        place: Place | None,
        compute: Callable[[], Awaitable[Any]],
        ttl: TTL,
        terms: Terms,
        form: Form,
        looked: bool,
    ) -> Any:
        """place: where the entry is; None if there is no such place, which in fail-soft mode is no error."""
        if place is None:
            return form.checked(plain(await settle_async(compute())))
        return await AsyncOnce(self._cache, place.type, place.key, compute, ttl, terms, form).get(looked=looked)


class AsyncLLMCache(AsyncTypedCache):
    """Answers of language models, by prompt, model, context and, if given, provider. Default time to live: 1 hour."""

    async def get(self, prompt: str, model: str, context: str = "", provider: str | None = None) -> Row | None:
        """The answer; None on a miss.

        response, model, provider, tokens_used, input_tokens and cached_input_tokens, without what is not known.
        """
        place = calls.located(typed_calls.llm, (prompt, model, context, provider))
        if place is None or prompt is None or model is None:
            document: Row | None = await self._run(typed_calls.GET_LLM, prompt, model, context, provider)
            return document  # or rather, what is wrong
        # The key is made here: a prompt may be long, and the server busy.
        value = await self._run(calls.GET, place.type, place.key)
        return None if value is MISS else value

    async def explain(self, prompt: str, model: str, context: str = "", provider: str | None = None) -> Explanation:
        """Why a get of these hits or misses now, and under which key. See Cache.explain."""
        return await self._explain(typed_calls.llm, (prompt, model), context, provider)

    async def set(
        self,
        prompt: str,
        model: str,
        response: str,
        *,
        tokens_used: int | None = None,
        context: str = "",
        provider: str | None = None,
        ttl: TTL = None,
        input_tokens: int | None = None,
        cached_input_tokens: int | None = None,
    ) -> bool:
        """Cache an answer. context: whatever else it depends on, such as the system prompt.

        provider: who runs the model; the answer is then found with the same provider only. Of tokens_used so many were
        input_tokens, and of these cached_input_tokens by the provider, which may have other prices.
        """
        return await self._run(
            typed_calls.SET_LLM,
            prompt,
            model,
            response,
            wire.number(tokens_used),
            context,
            provider,
            wire.interval(ttl),
            wire.number(input_tokens),
            wire.number(cached_input_tokens),
        )

    async def get_or_compute(
        self,
        prompt: str,
        model: str,
        compute: Callable[[], Awaitable[Answer | Computed[Answer]]],
        *,
        context: str = "",
        provider: str | None = None,
        ttl: TTL = None,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> Row:
        """The cached answer, or else a new one, which is cached; of all callers one asks for it. See get_or_compute.

        compute: asks the model; returns the response, or a mapping with response and, if known, the tokens as in set,
        and provider, which is then noted, but makes no difference to where the answer is found.
        """
        chosen = terms(tags, stale_for, stale_if_error, soft_timeout, hard_timeout)
        place = calls.located(typed_calls.llm, (prompt, model, context, provider))
        if place is None or prompt is None or model is None:
            await self.get(prompt, model, context, provider)  # says what is wrong
        form = typed_calls.llm_form(model, provider)
        answer: Row = await self._get_or_compute(place, compute, ttl, chosen, form, looked=False)
        return answer

    async def request(
        self,
        request: Mapping[str, Any],
        compute: Callable[[], Awaitable[Mapping[str, Any] | Computed[Mapping[str, Any]]]],
        *,
        ttl: TTL = None,
        max_age: TTL = None,
        no_store: bool = False,
        refresh: bool = False,
        ignored: Iterable[str] = (),
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> dict[str, Any]:
        """The whole answer to a whole request, from the cache or else what compute returns, which is cached.

        request: what the model's API takes, with provider and base_url beside it if you have several; the key is that
        of cache_llm_key, which ignores what is named in ignored, too. compute: sends it; returns a chat completion or a
        response of OpenAI's as a mapping, or as an object of OpenAI's package, which is returned as a dict. What was
        cut off, filtered or refused is returned, but not cached.

        max_age: what was cached longer ago is computed anew; of many who ask for that, one computes. refresh: computed
        anew in any case. no_store: what is computed is not cached. For the rest see get_or_compute.
        """
        chosen = terms(tags, stale_for, stale_if_error, soft_timeout, hard_timeout)
        once = self._once(request, compute, ttl, max_age, ignored, chosen)
        try:
            if once and not no_store:
                return await (once.renew() if refresh else once.get())
            found = await once.look() if once and not refresh else MISS
        except answers.NoAnswerError:
            if once and not no_store:
                return await once.renew()
            found = MISS
        answer: Any = found
        if found is MISS:
            answer = self._form(request).checked(plain(await settle_async(compute())))
        return cast(dict[str, Any], answer)

    async def stream(
        self,
        request: Mapping[str, Any],
        compute: Callable[[], Awaitable[AsyncIterable[Any]]],
        *,
        ttl: TTL = None,
        max_age: TTL = None,
        no_store: bool = False,
        refresh: bool = False,
        ignored: Iterable[str] = (),
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        hard_timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        """The chunks of an answer: from the cache, or those of the stream that compute returns, as they come.

        These may be objects of OpenAI's package; those from the cache are dicts.

        Once the stream has come to its end, the answer is cached, for `request` as well; if it is left before that, or
        fails, it is not. The others wait meanwhile, as in get_or_compute; after hard_timeout seconds of that the first
        chunk is a TooSlowError. The other arguments are those of request.
        """
        chosen = terms(tags, stale_for, None, None, hard_timeout)
        once = self._once(request, None, ttl, max_age, ignored, chosen, with_usage=answers.tells_usage(request))
        fetch, found = None, cast(Any, MISS)
        if once:
            try:
                if not refresh:
                    found, fetch = (await once.look(), None) if no_store else await once.find()
                elif not no_store:
                    fetch = await once.claim()
            except answers.NoAnswerError:
                fetch = None if no_store else await once.claim()
        if found is not MISS and fetch is None:
            for chunk in answers.chunks(found, request):
                yield chunk
            return
        collected, kept = answers.Collected(), False
        try:
            source = await settle_async(compute())
            try:
                async for each in source:
                    collected.add(each)
                    if collected.ended and fetch and once and not kept:  # who reads it may stop here
                        kept = await once.keep(fetch, collected.answer())
                    yield dict(each) if isinstance(each, Mapping) else each
            finally:
                await end_async(source)
            if fetch and once and not kept:
                kept = await once.keep(fetch, collected.answer())
        finally:
            if fetch and once and not kept:
                await once.give_back(fetch)

    def _form(self, request: Mapping[str, Any], *, with_usage: bool = True) -> Form:
        return answers.form(request, soft=self._cache._soft is not None, with_usage=with_usage)

    def _once(
        self,
        request: Mapping[str, Any],
        compute: Any,
        ttl: TTL,
        max_age: TTL,
        ignored: Iterable[str],
        terms: Terms,
        *,
        with_usage: bool = True,
    ) -> AsyncOnce[dict[str, Any]] | None:
        """None in fail-soft mode for a request of which no key can be made."""
        try:
            key = cache_llm_key(request, ignored)
        except UnrepresentableError as error:
            soft = self._cache._soft
            if soft is None or not soft.absorbs("cache_llm_key", error):
                raise
            return None
        terms = terms._replace(max_age=wire.interval(max_age))
        form = self._form(request, with_usage=with_usage)
        return AsyncOnce(self._cache, "llm", key, compute, ttl, terms, form)


class AsyncEmbeddingCache(AsyncTypedCache):
    """Vectors of texts, by text and model, in float32. Default time to live: 24 hours."""

    @overload
    async def get(self, text: str, model: str, *, as_numpy: Literal[False] = False) -> list[float] | None: ...

    @overload
    async def get(self, text: str, model: str, *, as_numpy: Literal[True]) -> NDArray[numpy.float32] | None: ...

    async def get(
        self, text: str, model: str, *, as_numpy: bool = False
    ) -> list[float] | NDArray[numpy.float32] | None:
        """The vector of a text, as a list or a NumPy array; None on a miss."""
        data = await self._run(typed_calls.GET_EMBEDDING, text, model)
        if data is None:
            return None
        return wire.vector_array(data) if as_numpy else wire.vector_list(data)

    async def explain(self, text: str, model: str) -> Explanation:
        """Why a get of these hits or misses now, and under which key. See Cache.explain."""
        return await self._explain(typed_calls.embedding, (text, model))

    async def set(self, text: str, model: str, vector: Array, *, ttl: TTL = None) -> bool:
        """Cache the vector of a text. Raises DimensionError if the type is configured for other dimensions."""
        return await self._run(typed_calls.SET_EMBEDDING, text, model, wire.vector(vector), wire.interval(ttl))

    @overload
    async def get_many(
        self, texts: Iterable[str], model: str, *, as_numpy: Literal[False] = False
    ) -> list[list[float] | None]: ...

    @overload
    async def get_many(
        self, texts: Iterable[str], model: str, *, as_numpy: Literal[True]
    ) -> list[NDArray[numpy.float32] | None]: ...

    async def get_many(
        self, texts: Iterable[str], model: str, *, as_numpy: bool = False
    ) -> Sequence[list[float] | NDArray[numpy.float32] | None]:
        """For each text, in the order asked, its own vector, or None on a miss."""
        texts = wire.several(texts)
        found = await self._run(typed_calls.GET_EMBEDDINGS, wire.array(texts), model)
        read = wire.vector_array if as_numpy else wire.vector_list
        return [None if (data := found.get(text)) is None else read(data) for text in texts]

    async def set_many(
        self, texts: Sequence[str], model: str, vectors: Sequence[Array] | NDArray[Any], *, ttl: TTL = None
    ) -> int:
        """Cache the vectors of many texts, all or none. Returns how many were stored."""
        literals = wire.array(wire.vector_text(vector) for vector in vectors)
        return await self._run(typed_calls.SET_EMBEDDINGS, wire.array(texts), model, literals, wire.interval(ttl))

    async def get_or_compute(
        self,
        text: str,
        model: str,
        compute: Callable[[], Awaitable[Array | Computed[Array]]],
        *,
        ttl: TTL = None,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> list[float]:
        """The cached vector of a text, or else what compute returns, which is cached. See Cache.get_or_compute."""
        chosen = terms(tags, stale_for, stale_if_error, soft_timeout, hard_timeout)
        if (found := await self.get(text, model)) is not None:
            return found
        place = calls.located(typed_calls.embedding, (text, model))
        form = typed_calls.embedding_form(model)
        vector: list[float] = await self._get_or_compute(place, compute, ttl, chosen, form, looked=True)
        return vector

    async def get_or_compute_many(
        self,
        texts: Iterable[str],
        model: str,
        compute: Callable[[list[str]], Awaitable[Sequence[Array] | NDArray[Any]]],
        *,
        ttl: TTL = None,
    ) -> list[list[float]]:
        """The vector of each text, in the order asked. compute: gets those not cached, each once.

        Others who miss the same texts at the same time compute them, too.
        """
        wire.check_ttl(ttl)
        texts = wire.several(texts)
        vectors = dict(zip(texts, await self.get_many(texts, model), strict=True))
        missing = [text for text, vector in vectors.items() if vector is None]
        if missing:
            computed = await settle_async(compute(missing))
            new = wire.computed_vectors(computed, len(missing))
            vectors.update(zip(missing, new, strict=True))
            await self._keep_many(missing, model, new, ttl)
        return [vectors[text] or [] for text in texts]

    async def _keep_many(self, texts: Sequence[str], model: str, vectors: Sequence[Array], ttl: TTL) -> None:
        cache = self._in_savepoints()
        with keeping("embedding"):
            try:
                await cache.set_many(texts, model, vectors, ttl=ttl)
            except InvalidValueError:  # all or none: the others by themselves
                for text, vector in zip(texts, vectors, strict=True):
                    with keeping("embedding"):
                        await cache.set(text, model, vector, ttl=ttl)


class AsyncVectorSearchCache(AsyncTypedCache):
    """Results of similarity searches, by query vector, filters and top_k, per user. Default time to live: 1 hour."""

    async def get(
        self, query: Array, filters: Mapping[str, Any] | None = None, top_k: int = 10, user_id: str = ""
    ) -> Any:
        """The results, as they were cached; None on a miss. user_id: whose ('' = everybody's)."""
        return await self._run(
            typed_calls.GET_VECTOR_SEARCH,
            wire.vector(query),
            wire.json_text(filters or {}),
            wire.number(top_k),
            user_id,
        )

    async def explain(
        self, query: Array, filters: Mapping[str, Any] | None = None, top_k: int = 10, user_id: str = ""
    ) -> Explanation:
        """Why a get of these hits or misses now, and under which key. See Cache.explain."""
        return await self._explain(
            typed_calls.vector_search,
            (wire.vector(query), wire.json_text(filters or {}), wire.number(top_k)),
            user_id,
        )

    async def set(
        self,
        query: Array,
        results: Any,
        filters: Mapping[str, Any] | None = None,
        top_k: int = 10,
        user_id: str = "",
        *,
        ttl: TTL = None,
    ) -> bool:
        """Cache the results of a search, any JSON value but null."""
        return await self._run(
            typed_calls.SET_VECTOR_SEARCH,
            wire.vector(query),
            wire.json_text(results),
            wire.json_text(filters or {}),
            wire.number(top_k),
            user_id,
            wire.interval(ttl),
        )

    async def invalidate_user(self, user_id: str) -> int:
        """Remove a user's entries, also those of other types: see Cache.invalidate_user."""
        return await self._run(typed_calls.INVALIDATE_USER, user_id)


class AsyncAudioCache(AsyncTypedCache):
    """Synthesized speech, by text, voice, provider and settings. Default time to live: 24 hours."""

    async def get(
        self, text: str, voice: str, provider: str = "", settings: Mapping[str, Any] | None = None
    ) -> Audio | None:
        """The speech; None on a miss. settings: whatever else it depends on, such as speed."""
        return await self._run(typed_calls.GET_AUDIO, text, voice, provider, wire.json_text(settings or {}))

    async def explain(
        self, text: str, voice: str, provider: str = "", settings: Mapping[str, Any] | None = None
    ) -> Explanation:
        """Why a get of these hits or misses now, and under which key. See Cache.explain."""
        return await self._explain(typed_calls.audio, (text, voice), provider, wire.json_text(settings or {}))

    async def set(
        self,
        text: str,
        voice: str,
        audio: Audio,
        provider: str = "",
        settings: Mapping[str, Any] | None = None,
        *,
        ttl: TTL = None,
    ) -> bool:
        """Cache the speech of a text in a voice. Raises TypeError for anything but an Audio."""
        if not isinstance(audio, Audio):
            raise TypeError(f"expected an Audio(data, format), not {type(audio).__name__}")
        return await self._run(
            typed_calls.SET_AUDIO,
            text,
            voice,
            wire.data(audio.data),
            audio.format,
            wire.number(audio.duration_ms),
            wire.number(audio.sample_rate),
            wire.number(audio.channels),
            provider,
            wire.json_text(settings or {}),
            wire.interval(ttl),
        )


class AsyncAIWorkerCache(AsyncTypedCache):
    """SQL that a model generated, by prompt, model and version of the schema. Default time to live: 1 hour."""

    async def get(self, prompt: str, model: str, schema_version: str) -> Row | None:
        """prompt_text, model, schema_version, generated_sql, validated and tokens_used; None on a miss."""
        document: Row | None = await self._run(typed_calls.GET_AI_WORKER, prompt, model, schema_version)
        return document

    async def explain(self, prompt: str, model: str, schema_version: str) -> Explanation:
        """Why a get of these hits or misses now, and under which key. See Cache.explain."""
        return await self._explain(typed_calls.ai_worker, (prompt, model, schema_version))

    async def set(
        self,
        prompt: str,
        model: str,
        schema_version: str,
        generated_sql: str,
        *,
        tokens_used: int = 0,
        validated: bool = True,
        ttl: TTL = None,
    ) -> bool:
        """Cache the SQL for a prompt. validated: whether it was checked against the schema."""
        return await self._run(
            typed_calls.SET_AI_WORKER,
            prompt,
            model,
            schema_version,
            generated_sql,
            wire.number(tokens_used),
            wire.boolean(validated),
            wire.interval(ttl),
        )

    async def get_or_compute(
        self,
        prompt: str,
        model: str,
        schema_version: str,
        compute: Callable[[], Awaitable[str | Computed[str]]],
        *,
        tokens_used: int = 0,
        ttl: TTL = None,
        tags: Iterable[str] = (),
        stale_for: TTL = None,
        stale_if_error: TTL = None,
        soft_timeout: float | None = None,
        hard_timeout: float | None = None,
    ) -> str:
        """The cached SQL, or else what compute returns, which is cached. See Cache.get_or_compute."""
        chosen = terms(tags, stale_for, stale_if_error, soft_timeout, hard_timeout)
        if (found := await self.get(prompt, model, schema_version)) is not None:
            return str(found["generated_sql"])
        place = calls.located(typed_calls.ai_worker, (prompt, model, schema_version))
        form = typed_calls.ai_worker_form(prompt, model, schema_version, wire.number(tokens_used))
        generated: str = await self._get_or_compute(place, compute, ttl, chosen, form, looked=True)
        return generated

    async def invalidate_schema(self, schema_version: str) -> int:
        """Forget all SQL for a version of the schema; returns how many entries there were."""
        return await self._run(typed_calls.INVALIDATE_SCHEMA, schema_version)

    async def stats(self) -> list[Row]:
        """The view ai_worker_cache_stats: a dict for each row."""
        return await self._cache._report(typed_calls.AI_WORKER_STATS)


class AsyncFaceCache(AsyncTypedCache):
    """Face embeddings by image, per tenant (None = the cache's own). Entries never expire by default."""

    async def get(self, image: bytes, tenant: str | None = None) -> list[Row] | None:
        """A dict with bbox, embedding and det_score for each face, [] if there is none; None on a miss."""
        faces: list[Row] | None = await self._run(typed_calls.GET_FACE, wire.data(image), tenant)
        return faces

    async def explain(self, image: bytes, tenant: str | None = None) -> Explanation:
        """Why a get of these hits or misses now, and under which key. See Cache.explain."""
        return await self._explain(typed_calls.face, (wire.data(image),), tenant)

    async def set(
        self, image: bytes, tenant: str | None, embeddings: Sequence[Mapping[str, Any]], *, ttl: TTL = None
    ) -> bool:
        """Cache the faces of an image."""
        return await self._run(
            typed_calls.SET_FACE, wire.data(image), tenant, wire.json_text(embeddings), wire.interval(ttl)
        )


class AsyncPhashCache(AsyncTypedCache):
    """Perceptual hashes by image, per tenant (None = the cache's own). Entries never expire by default."""

    async def get(self, image: bytes, tenant: str | None = None) -> str | None:
        """The hash; None on a miss."""
        return await self._run(typed_calls.GET_PHASH, wire.data(image), tenant)

    async def explain(self, image: bytes, tenant: str | None = None) -> Explanation:
        """Why a get of these hits or misses now, and under which key. See Cache.explain."""
        return await self._explain(typed_calls.phash, (wire.data(image),), tenant)

    async def set(self, image: bytes, tenant: str | None, phash: str, *, ttl: TTL = None) -> bool:
        """Cache the hash of an image."""
        return await self._run(typed_calls.SET_PHASH, wire.data(image), tenant, phash, wire.interval(ttl))


class AsyncCrawlCache(AsyncTypedCache):
    """Images that a crawler has stored, per tenant (None = the cache's own). Entries never expire by default."""

    async def should_skip(self, url: str, image: bytes, tenant: str | None = None) -> Skip:
        """Whether this image from this URL is stored already, and under which key: (should_skip, raw_key)."""
        return await self._run(typed_calls.CRAWL_SHOULD_SKIP, url, wire.data(image), tenant)

    async def explain(self, url: str, image: bytes, tenant: str | None = None) -> Explanation:
        """Why should_skip says so now, and under which key. See Cache.explain."""
        return await self._explain(typed_calls.crawl, (url, wire.data(image)), tenant)

    async def store(
        self,
        url: str,
        image: bytes,
        raw_key: str,
        thumbnail_key: str | None = None,
        tenant: str | None = None,
        *,
        ttl: TTL = None,
    ) -> bool:
        """Record that an image from a URL is stored under raw_key."""
        return await self._run(
            typed_calls.CRAWL_STORE, url, wire.data(image), raw_key, thumbnail_key, tenant, wire.interval(ttl)
        )


class AsyncTypedCaches(AsyncBase):
    """The part of a client that has the typed caches."""

    @cached_property
    def llm(self) -> AsyncLLMCache:
        """Answers of language models."""
        return AsyncLLMCache(self)

    @cached_property
    def embedding(self) -> AsyncEmbeddingCache:
        """Vectors of texts."""
        return AsyncEmbeddingCache(self)

    @cached_property
    def vector_search(self) -> AsyncVectorSearchCache:
        """Results of similarity searches."""
        return AsyncVectorSearchCache(self)

    @cached_property
    def audio(self) -> AsyncAudioCache:
        """Synthesized speech."""
        return AsyncAudioCache(self)

    @cached_property
    def ai_worker(self) -> AsyncAIWorkerCache:
        """SQL that a model generated."""
        return AsyncAIWorkerCache(self)

    @cached_property
    def face(self) -> AsyncFaceCache:
        """Face embeddings of images."""
        return AsyncFaceCache(self)

    @cached_property
    def phash(self) -> AsyncPhashCache:
        """Perceptual hashes of images."""
        return AsyncPhashCache(self)

    @cached_property
    def crawl(self) -> AsyncCrawlCache:
        """Images that a crawler has stored."""
        return AsyncCrawlCache(self)
