-- llm: answers of language models (table cache_llm_responses).

create or replace function pgcache_internal.cache_value(t pgcache.cache_llm_responses) returns jsonb
language sql stable parallel safe  -- not pinned: inlined
as $$
    select pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'response', t.response, 'model', t.model, 'provider', t.provider, 'tokens_used', t.tokens_used
    ))
$$;

comment on function pgcache_internal.cache_value(pgcache.cache_llm_responses) is 'The JSON value of an llm entry.';

create or replace function pgcache_internal.llm_fits(value jsonb) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select pg_catalog.jsonb_typeof(value) = 'object'
        and pg_catalog.jsonb_typeof(value -> 'response') = 'string'
        and pgcache_internal.is_text(value -> 'model')
        and pgcache_internal.is_text(value -> 'provider')
        and pgcache_internal.is_count(value -> 'tokens_used')
        and value - '{response,model,provider,tokens_used}'::text[] = '{}'
$$;

comment on function pgcache_internal.llm_fits(jsonb) is 'Whether a JSON value can be an llm entry.';

create or replace function pgcache.llm_key(prompt text, model text, context text default '') returns text
language sql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select cache_key(prompt, model, coalesce(context, '')) $$;

comment on function pgcache.llm_key(text, text, text) is 'The key of an answer: cache_key(prompt, model, context).';

create or replace function pgcache.cache_get_llm(prompt text, model text, context text default '') returns jsonb
language sql volatile parallel unsafe  -- not pinned: hot path
as $$ select pgcache.cache_get('llm', pgcache.llm_key(prompt, model, context)) $$;

comment on function pgcache.cache_get_llm(text, text, text) is
'The cached answer to a prompt: {"response", "model", "provider", "tokens_used"}; NULL on a miss.';

create or replace function pgcache.cache_set_llm(
    prompt text, model text, response text, tokens_used integer default null, context text default '',
    provider text default null, ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache.cache_set('llm', pgcache.llm_key(prompt, model, context), pg_catalog.jsonb_build_object(
        'response', response, 'model', model, 'provider', provider, 'tokens_used', tokens_used
    ), ttl)
$$;

comment on function pgcache.cache_set_llm(text, text, text, integer, text, text, interval) is
'Caches the answer of a model to a prompt. context: whatever else the answer depends on (system prompt, user level). ttl: default of the type, 1 hour. Errors: as cache_set.';
