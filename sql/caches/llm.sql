-- llm: answers of language models (table cache_llm_responses).

select pgcache_internal.declare_type(
    'llm', 'cache_llm_responses', 'answers of language models',
    fields => '{"response": "string!", "model": "string", "provider": "string", "tokens_used": "count",
        "input_tokens": "count", "cached_input_tokens": "count"}'
);

create or replace function pgcache.llm_key(
    prompt text, model text, context text default '', provider text default null
) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when prompt is null or model is null then null
        when provider operator(pg_catalog.<>) ''
            then pgcache.cache_key(prompt, model, coalesce(context, ''), provider)
        else pgcache.cache_key(prompt, model, coalesce(context, ''))
    end
$$;

comment on function pgcache.llm_key(text, text, text, text) is
'The key of an answer: cache_key(prompt, model, context), or cache_key(prompt, model, context, provider) where one is'
' given; NULL if prompt or model is.';

-- What of a request makes no difference to what is answered: how it is sent, for whom, and how fast.
create or replace function pgcache_internal.llm_ignored() returns text[]
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select '{
        stream, stream_options, user, safety_identifier, prompt_cache_key, prompt_cache_retention, metadata, store,
        service_tier, timeout, max_retries, extra_headers, pgcache
    }'::text[]
$$;

comment on function pgcache_internal.llm_ignored() is
'The fields of a request to a model that are in no key, see cache_llm_key.';

create or replace function pgcache_internal.without_nulls(value jsonb) returns jsonb
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not value @? 'strict $.** ? (@ == null)' then  -- as nearly always
        return value;
    end if;
    case jsonb_typeof(value)
        when 'object' then
            return (
                select coalesce(
                    jsonb_object_agg(
                        e.key, case when jsonb_typeof(e.value) = 'array' then without_nulls(e.value) else e.value end
                    ), '{}'
                )
                from jsonb_each(value) e where e.value <> 'null'
            );
        when 'array' then
            return (
                select coalesce(jsonb_agg(without_nulls(e.value) order by e.place), '[]')
                from jsonb_array_elements(value) with ordinality e (value, place)
            );
        else
            return value;
    end case;
end
$$;

comment on function pgcache_internal.without_nulls(jsonb) is
'An object without its fields that are null, and without those of the objects in its lists, theirs, and so on: of a'
' request, its messages and their parts. What is in an object in an object, as a JSON schema is, stays as it is.';

create or replace function pgcache.cache_llm_key(request jsonb, ignored text[] default '{}') returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    address constant jsonb := request -> 'base_url';
begin
    if request is null then
        return null;
    elsif jsonb_typeof(request) <> 'object' then
        raise exception using errcode = 'PC002',
            message = format('a request to a model is a JSON object, not %s', left(request::text, 100)),
            hint = 'Pass what you would send: ''{"model": "gpt-4o", "messages": [...]}''.';
    elsif jsonb_typeof(address) = 'string' then
        request := jsonb_set(request, '{base_url}', to_jsonb(rtrim(address #>> '{}', '/')));
    end if;
    return cache_key('request', canonical_json(without_nulls(request - llm_ignored() - coalesce(ignored, '{}'))));
end
$$;

comment on function pgcache.cache_llm_key(jsonb, text[]) is
'The key of the answer to a whole request to a model, as the API takes it, with provider and base_url beside it if'
' answers of several are kept. All its fields are in it, also unknown ones, but those that do not change the answer:'
' stream, stream_options, user, safety_identifier, prompt_cache_key, prompt_cache_retention, metadata, store,'
' service_tier, timeout, max_retries, extra_headers, pgcache, and those in ignored. The order of fields, 1.0 for 1, a'
' field of the request, a message, a tool or a part that is null, and a slash at the end of base_url make no'
' difference. Never a key of llm_key. NULL for NULL. Errors: PC002 for what is no object.';

create or replace function pgcache.cache_get_llm(
    prompt text, model text, context text default '', provider text default null
) returns jsonb
language sql volatile parallel unsafe  -- not pinned: hot path
as $$ select pgcache.cache_get('llm', pgcache.llm_key(prompt, model, context, provider)) $$;

comment on function pgcache.cache_get_llm(text, text, text, text) is
'The cached answer to a prompt: {"response", "model", "provider", "tokens_used", "input_tokens",'
' "cached_input_tokens"}, without what was not stored; NULL on a miss. What was stored with a'
' provider is found with that provider only. Errors: PC002 prompt or model NULL; as cache_get.';

create or replace function pgcache.cache_set_llm(
    prompt text, model text, response text, tokens_used bigint default null, context text default '',
    provider text default null, ttl interval default null, input_tokens bigint default null,
    cached_input_tokens bigint default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache.cache_set(
        'llm', pgcache.llm_key(prompt, model, context, provider),
        pg_catalog.jsonb_build_object(
            'response', response, 'model', model, 'provider', provider, 'tokens_used', tokens_used,
            'input_tokens', input_tokens, 'cached_input_tokens', cached_input_tokens
        ),
        ttl
    )
$$;

comment on function pgcache.cache_set_llm(text, text, text, bigint, text, text, interval, bigint, bigint) is
'Caches the answer of a model to a prompt. context: whatever else the answer depends on (system prompt, user level).'
' provider: who runs the model, for whom the answer then is kept apart. ttl: default of the type, 1 hour. Of'
' tokens_used so many were input_tokens, and of these cached_input_tokens by the provider: see cache_set_price. Errors:'
' as cache_set.';
