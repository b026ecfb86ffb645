-- ai_worker: SQL that a model generated from a prompt (table ai_worker_cache).

select pgcache_internal.declare_type(
    'ai_worker', 'ai_worker_cache', 'SQL that a model generated from a prompt',
    fields => '{
        "prompt_text": "string!", "model": "string!", "schema_version": "string!", "generated_sql": "string!",
        "validated": "boolean=true", "tokens_used": "count=0"
    }'
);

create or replace function pgcache.ai_worker_key(prompt text, model text, schema_version text) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when prompt is not null and model is not null and schema_version is not null
            then pgcache.cache_key(prompt, model, schema_version)
    end
$$;

comment on function pgcache.ai_worker_key(text, text, text) is
'The key of generated SQL: cache_key(prompt, model, schema_version); NULL if one of them is.';

create or replace function pgcache.ai_worker_legacy_key(prompt text, model text, schema_version text) returns text
language plpgsql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
    return encode(sha256(convert_to(prompt || '|' || model || '|' || schema_version, 'UTF8')), 'hex');
end
$$;

comment on function pgcache.ai_worker_legacy_key(text, text, text) is
'The key of the C++ AI worker, for its existing rows: SHA-256 of prompt|model|schema_version. It collides:'
' (''a|b'',''c'',''v1'') and (''a'',''b|c'',''v1'') share a key, so readers must compare the stored columns too.';

create or replace function pgcache_internal.ai_worker_stored_key(
    prompt text, model text, schema_version text
) returns text
language plpgsql volatile parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    key constant text := ai_worker_key(prompt, model, schema_version);
    legacy_key constant text := ai_worker_legacy_key(prompt, model, schema_version);
    stored text;
begin
    if is_readable('ai_worker') then
        select t.cache_key into stored from ai_worker_cache t
        where t.tenant = current_tenant() and t.cache_key in (key, legacy_key)
            and (t.cache_key = key or t.prompt_text = prompt and t.model = model and t.schema_version = schema_version)
            and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, cache_now())
        order by t.cache_key = key desc limit 1;
    end if;
    return coalesce(stored, key);
end
$$;

comment on function pgcache_internal.ai_worker_stored_key(text, text, text) is
'The key to look for the SQL of a prompt under: ai_worker_legacy_key where only that has a live entry, and for just'
' this prompt, model and schema version; otherwise ai_worker_key.';

create or replace function pgcache.cache_get_ai_worker(prompt text, model text, schema_version text) returns jsonb
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache.cache_get('ai_worker', pgcache_internal.ai_worker_stored_key(prompt, model, schema_version))
$$;

comment on function pgcache.cache_get_ai_worker(text, text, text) is
'The cached SQL for a prompt, also from a row with the C++ AI worker''s key if its columns match: {"prompt_text",'
' "model", "schema_version", "generated_sql", "validated", "tokens_used"}; NULL on a miss.';

create or replace function pgcache.cache_set_ai_worker(
    prompt text, model text, schema_version text, generated_sql text, tokens_used bigint default 0,
    validated boolean default true, ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache.cache_set(
        'ai_worker', pgcache.ai_worker_key(prompt, model, schema_version),
        pg_catalog.jsonb_build_object(
            'prompt_text', prompt, 'model', model, 'schema_version', schema_version, 'generated_sql', generated_sql,
            'validated', validated, 'tokens_used', tokens_used
        ),
        ttl
    )
$$;

comment on function pgcache.cache_set_ai_worker(text, text, text, text, bigint, boolean, interval) is
'Caches the SQL that a model generated from a prompt for a version of the schema. ttl: default of the type, 1 hour.'
' Errors: as cache_set.';

create or replace function pgcache.cache_invalidate_schema(schema_version text) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    -- A lease does not say of which version of the schema it is about.
    perform check_given('schema version', schema_version), void_leases_like('ai_worker', scope_here(), '%');
    return delete_where('ai_worker', 't.schema_version = $1[1] and ' || reach(), array[schema_version]);
end
$$;

comment on function pgcache.cache_invalidate_schema(text) is
'Removes all SQL generated for a version of the schema: with pgcache.tenant set, that tenant''s only. Returns how many'
' live entries there were. Errors: PC002 for NULL, 25006.';
