-- llm: answers of language models (table cache_llm_responses).

select pgcache_internal.declare_type(
    'llm', 'cache_llm_responses', 'answers of language models',
    fields => '{"response": "string!", "model": "string", "provider": "string", "tokens_used": "count"}'
);

create or replace function pgcache.llm_key(
    prompt text, model text, context text default '', provider text default null
) returns text
language sql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select case
        when prompt is null or model is null then null
        when provider <> '' then cache_key(prompt, model, coalesce(context, ''), provider)
        else cache_key(prompt, model, coalesce(context, ''))
    end
$$;

comment on function pgcache.llm_key(text, text, text, text) is
'The key of an answer: cache_key(prompt, model, context), or cache_key(prompt, model, context, provider) where one is'
' given; NULL if prompt or model is.';

create or replace function pgcache.cache_get_llm(
    prompt text, model text, context text default '', provider text default null
) returns jsonb
language sql volatile parallel unsafe  -- not pinned: hot path
as $$ select pgcache.cache_get('llm', pgcache.llm_key(prompt, model, context, provider)) $$;

comment on function pgcache.cache_get_llm(text, text, text, text) is
'The cached answer to a prompt: {"response", "model", "provider", "tokens_used"}, without what was not stored; NULL on'
' a miss. What was stored with a provider is found with that provider only. Errors: PC002 prompt or model NULL; as'
' cache_get.';

create or replace function pgcache.cache_set_llm(
    prompt text, model text, response text, tokens_used bigint default null, context text default '',
    provider text default null, ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache.cache_set(
        'llm', pgcache.llm_key(prompt, model, context, provider),
        pg_catalog.jsonb_build_object(
            'response', response, 'model', model, 'provider', provider, 'tokens_used', tokens_used
        ),
        ttl
    )
$$;

comment on function pgcache.cache_set_llm(text, text, text, bigint, text, text, interval) is
'Caches the answer of a model to a prompt. context: whatever else the answer depends on (system prompt, user level).'
' provider: who runs the model, for whom the answer then is kept apart. ttl: default of the type, 1 hour. Errors: as'
' cache_set.';
