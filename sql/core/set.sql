-- Writing one entry, the other hot path. As in cache_get one static statement does it all: it checks
-- the call, upserts, and ticks the type's clock, a cyclic sequence that shows 1 once in sweep_every
-- writes: then the write looks after the type. Whatever is wrong with a call makes the statement store nothing;
-- explain_refusal finds out what it was. cache_set and cache_add differ by whether a live entry is replaced.

create or replace function pgcache.cache_set(type text, key text, value jsonb, ttl interval default null) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$ select pgcache_internal.is_writable() and pgcache_internal.put(type, key, value, ttl, true) $$;

comment on function pgcache.cache_set(text, text, jsonb, interval) is
'Stores a value under a key of the current tenant, for ttl (default: the type''s) from now, in place of what was there. True if stored, false if the type is disabled. Errors: PC001 unknown type, PC002 invalid key, PC003 invalid ttl, PC004 value that does not fit the type, PC005 wrong vector dimension, PC009 type full (eviction none) or value larger than its max_bytes, 25006 READ ONLY transaction.';

create or replace function pgcache.cache_add(type text, key text, value jsonb, ttl interval default null) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$ select pgcache_internal.is_writable() and pgcache_internal.put(type, key, value, ttl, false) $$;

comment on function pgcache.cache_add(text, text, jsonb, interval) is
'Stores a value only if the key has none or an expired one; true if it did. Of many at once exactly one gets true. Errors: as cache_set.';

-- The JSON types differ by their table only, so their statements are written by this, one for each that there is.
create or replace function pgcache_internal.compile_put() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $compile$
begin
    execute replace($function$
create or replace function pgcache_internal.put(type text, key text, value jsonb, ttl interval, overwrite boolean) returns boolean
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    moment constant timestamptz := pgcache_internal.cache_now();
    clock bigint;  -- the type's clock after this write; NULL: nothing was stored
begin
    if @json_upserts    elsif type = 'llm' then
        insert into pgcache.cache_llm_responses as t (
            tenant, cache_key, response, model, provider, tokens_used, created_at, expires_at, last_accessed_at,
            hit_weight
        )
        select
            pgcache_internal.current_tenant(), key, value ->> 'response', value ->> 'model', value ->> 'provider',
            case when pgcache_internal.is_count(value -> 'tokens_used') then (value ->> 'tokens_used')::integer end,
            moment, moment + coalesce(ttl, pgcache_internal.type_ttl('llm')), moment,
            pgcache_internal.type_hit_weight('llm')
        where pgcache_internal.may_write('llm', key, ttl) and pgcache_internal.llm_fits(value)
        on conflict on constraint cache_llm_responses_pkey do update
        set response = excluded.response, model = excluded.model, provider = excluded.provider,
            tokens_used = excluded.tokens_used, created_at = excluded.created_at, expires_at = excluded.expires_at,
            last_accessed_at = excluded.last_accessed_at
        where overwrite or t.expires_at <= moment
        returning pg_catalog.nextval('pgcache_internal.writes_llm') into clock;
    elsif type = 'embedding' and pgcache_internal.embedding_fits(value) then
        return pgcache_internal.put_embedding(key, value ->> 'embedding', value ->> 'model', ttl, overwrite);
    elsif type = 'audio' and pgcache_internal.audio_fits(value) then
        return pgcache_internal.put_audio(
            key, pg_catalog.decode(value ->> 'audio_data', 'base64'), value ->> 'format', (value ->> 'duration_ms')::integer,
            (value ->> 'sample_rate')::integer, (value ->> 'channels')::integer, value ->> 'voice', ttl, overwrite
        );
    elsif type = 'vector_search' then
        insert into pgcache.cache_vector_search as t (
            tenant, cache_key, results, user_id, created_at, expires_at, last_accessed_at, hit_weight
        )
        select
            pgcache_internal.current_tenant(), key, value -> 'results', coalesce(value ->> 'user_id', ''),
            moment, moment + coalesce(ttl, pgcache_internal.type_ttl('vector_search')), moment,
            pgcache_internal.type_hit_weight('vector_search')
        where pgcache_internal.may_write('vector_search', key, ttl) and pgcache_internal.vector_search_fits(value)
        on conflict on constraint cache_vector_search_pkey do update
        set results = excluded.results, user_id = excluded.user_id, created_at = excluded.created_at,
            expires_at = excluded.expires_at, last_accessed_at = excluded.last_accessed_at
        where overwrite or t.expires_at <= moment
        returning pg_catalog.nextval('pgcache_internal.writes_vector_search') into clock;
    elsif type = 'ai_worker' then
        insert into pgcache.ai_worker_cache as t (
            tenant, cache_key, prompt_text, model, schema_version, generated_sql, validated, tokens_used,
            created_at, expires_at, last_accessed_at, hit_weight
        )
        select
            pgcache_internal.current_tenant(), key, value ->> 'prompt_text', value ->> 'model', value ->> 'schema_version',
            value ->> 'generated_sql', coalesce(value -> 'validated' <> 'false', true),
            case when pgcache_internal.is_count(value -> 'tokens_used') then coalesce((value ->> 'tokens_used')::integer, 0) end,
            moment, moment + coalesce(ttl, pgcache_internal.type_ttl('ai_worker')), moment,
            pgcache_internal.type_hit_weight('ai_worker')
        where pgcache_internal.may_write('ai_worker', key, ttl) and pgcache_internal.ai_worker_fits(value)
        on conflict on constraint ai_worker_cache_pkey do update
        set prompt_text = excluded.prompt_text, model = excluded.model, schema_version = excluded.schema_version,
            generated_sql = excluded.generated_sql, validated = excluded.validated,
            tokens_used = excluded.tokens_used, created_at = excluded.created_at, expires_at = excluded.expires_at,
            last_accessed_at = excluded.last_accessed_at
        where overwrite or t.expires_at <= moment
        returning pg_catalog.nextval('pgcache_internal.writes_ai_worker') into clock;
    elsif type = 'face' then
        insert into pgcache.face_embeddings_cache as t (
            tenant, cache_key, embeddings, created_at, expires_at, last_accessed_at, hit_weight
        )
        select
            pgcache_internal.current_tenant(), key, value -> 'embeddings', moment,
            moment + coalesce(ttl, pgcache_internal.type_ttl('face')), moment, pgcache_internal.type_hit_weight('face')
        where pgcache_internal.may_write('face', key, ttl) and pgcache_internal.face_fits(value)
        on conflict on constraint face_embeddings_cache_pkey do update
        set embeddings = excluded.embeddings, created_at = excluded.created_at, expires_at = excluded.expires_at,
            last_accessed_at = excluded.last_accessed_at
        where overwrite or t.expires_at <= moment
        returning pg_catalog.nextval('pgcache_internal.writes_face') into clock;
    elsif type = 'phash' then
        insert into pgcache.perceptual_hash_cache as t (
            tenant, cache_key, phash, created_at, expires_at, last_accessed_at, hit_weight
        )
        select
            pgcache_internal.current_tenant(), key, value ->> 'phash', moment,
            moment + coalesce(ttl, pgcache_internal.type_ttl('phash')), moment, pgcache_internal.type_hit_weight('phash')
        where pgcache_internal.may_write('phash', key, ttl) and pgcache_internal.phash_fits(value)
        on conflict on constraint perceptual_hash_cache_pkey do update
        set phash = excluded.phash, created_at = excluded.created_at, expires_at = excluded.expires_at,
            last_accessed_at = excluded.last_accessed_at
        where overwrite or t.expires_at <= moment
        returning pg_catalog.nextval('pgcache_internal.writes_phash') into clock;
    elsif type = 'crawl' then
        insert into pgcache.crawl_cache as t (
            tenant, cache_key, url, image_hash, raw_key, thumbnail_key, created_at, expires_at, last_accessed_at,
            hit_weight
        )
        select
            pgcache_internal.current_tenant(), key, value ->> 'url', value ->> 'image_hash', value ->> 'raw_key',
            value ->> 'thumbnail_key', moment, moment + coalesce(ttl, pgcache_internal.type_ttl('crawl')),
            moment, pgcache_internal.type_hit_weight('crawl')
        where pgcache_internal.may_write('crawl', key, ttl) and pgcache_internal.crawl_fits(value)
        on conflict on constraint crawl_cache_pkey do update
        set url = excluded.url, image_hash = excluded.image_hash, raw_key = excluded.raw_key,
            thumbnail_key = excluded.thumbnail_key, created_at = excluded.created_at,
            expires_at = excluded.expires_at, last_accessed_at = excluded.last_accessed_at
        where overwrite or t.expires_at <= moment
        returning pg_catalog.nextval('pgcache_internal.writes_crawl') into clock;
    end if;
    if clock > 1 and pg_catalog.pg_column_size(value) <= 2048 then
        return true;
    elsif clock is null then
        return pgcache_internal.explain_refusal(type, key, value, ttl);
    end if;
    perform pgcache_internal.look_after(type, (clock = 1)::integer, pg_catalog.pg_column_size(value));
    return true;
end
$body$;
comment on function pgcache_internal.put(text, text, jsonb, interval, boolean) is
'Upserts one entry; with overwrite false only over an expired one. True if it was stored. Errors: as cache_set.';
$function$, '@json_upserts', per_type($sql$type = '@type' then
        insert into @table as t (
            type, tenant, cache_key, data, created_at, expires_at, last_accessed_at, hit_weight
        )
        select
            '@type', pgcache_internal.current_tenant(), key, value, moment, moment + coalesce(ttl, pgcache_internal.type_ttl('@type')), moment,
            pgcache_internal.type_hit_weight('@type')
        where pgcache_internal.may_write('@type', key, ttl) and value is not null
        on conflict on constraint @pkey do update
        set data = excluded.data, created_at = excluded.created_at, expires_at = excluded.expires_at,
            last_accessed_at = excluded.last_accessed_at
        where overwrite or t.expires_at <= moment
        returning pg_catalog.nextval('pgcache_internal.writes_@type') into clock;
$sql$, json_only => true));
end
$compile$;

comment on function pgcache_internal.compile_put() is 'Writes put for the types that there are; run whenever they change.';

-- Inlined into the statements of put(), and most of it folded away: see compile_settings.
create or replace function pgcache_internal.may_write(type text, key text, ttl interval) returns boolean
language sql volatile parallel unsafe  -- not pinned: inlined
as $$
    select pgcache_internal.type_hit_weight(type) is not null
        and key <> '' and pg_catalog.octet_length(key) <= 1024
        and (ttl is null or ttl > interval '0' and ttl < interval '10000 years')
        and (not pgcache_internal.type_may_be_full(type) or pgcache_internal.has_room(type, key))
$$;

comment on function pgcache_internal.may_write(text, text, interval) is
'Whether the type takes writes and the key and the ttl are valid. Errors: PC009 if the type is full.';

create or replace function pgcache_internal.is_writable() returns boolean
language sql volatile parallel safe  -- not pinned: inlined
as $$
    select case when pg_catalog.current_setting('transaction_read_only') = 'off' then true else pgcache_internal.check_writable() end
$$;

comment on function pgcache_internal.is_writable() is 'True, or error 25006 in a READ ONLY transaction and on a standby.';

create or replace function pgcache_internal.explain_refusal(type text, key text, value jsonb, ttl interval) returns boolean
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
begin
    perform check_key(key), expiry(cache_now(), ttl, registered.ttl);
    if not value_fits(type, value) then
        perform reject_value(type, value);
    end if;
    return false;  -- the type is disabled, or cache_add met a live entry
end
$$;

comment on function pgcache_internal.explain_refusal(text, text, jsonb, interval) is
'Raises what is wrong with a call that stored nothing, or returns false if nothing is. Errors: PC001, PC002, PC003, PC004.';

create or replace function pgcache_internal.expiry(moment timestamptz, ttl interval, default_ttl interval) returns timestamptz
language plpgsql immutable parallel safe  -- not pinned: hot path
as $$
begin
    if ttl is null or ttl > interval '0' and ttl < interval '10000 years' then
        return moment + coalesce(ttl, default_ttl);
    end if;
    raise exception using errcode = 'PC003',
        message = pg_catalog.format('a TTL of %L is not possible', ttl),
        hint = 'Pass a positive interval under 10000 years, such as ''5 minutes'' or ''3600'' (seconds); NULL means the type''s default, cache_persist makes an entry permanent, cache_delete removes it.';
end
$$;

comment on function pgcache_internal.expiry(timestamptz, interval, interval) is
'When an entry written at moment expires: after ttl, else after the default; NULL = never. Errors: PC003.';

create or replace function pgcache_internal.value_fits(type text, value jsonb) returns boolean
language plpgsql immutable parallel safe  -- not pinned: hot path
as $$
begin
    return coalesce(case type
        when 'llm' then pgcache_internal.llm_fits(value)
        when 'embedding' then pgcache_internal.embedding_fits(value)
        when 'vector_search' then pgcache_internal.vector_search_fits(value)
        when 'audio' then pgcache_internal.audio_fits(value)
        when 'ai_worker' then pgcache_internal.ai_worker_fits(value)
        when 'face' then pgcache_internal.face_fits(value)
        when 'phash' then pgcache_internal.phash_fits(value)
        when 'crawl' then pgcache_internal.crawl_fits(value)
        else value is not null end, false);
end
$$;

comment on function pgcache_internal.value_fits(text, jsonb) is
'Whether a value has the fields that the type needs, of the right kinds, and no others; reject_value says what is wrong.';

create or replace function pgcache.cache_incr(type text, key text, by bigint default 1, ttl interval default null) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    moment constant timestamptz := cache_now();
    expires constant timestamptz := expiry(moment, ttl, registered.ttl);
    total bigint;
begin
    perform check_key(key), check_writable();
    if not registered.payload ? 'data' then
        raise exception using errcode = 'PC004',
            message = format('the type %s holds no counters', type),
            hint = 'Count in ''store'' or in a JSON type of your own: SELECT cache_create_type(''counters'').';
    elsif by is null then
        raise exception using errcode = 'PC011',
            message = 'cannot increment by NULL',
            hint = 'Pass a whole number; it may be negative.';
    elsif not registered.enabled or registered.eviction = 'none' and not has_room(type, key) then
        return null;
    end if;
    begin
        insert into cache_store as t (
            type, tenant, cache_key, data, created_at, expires_at, last_accessed_at, hit_weight
        )
        values (
            type, current_tenant(), key, to_jsonb(by), moment, expires, moment, hit_weight_at(registered.hit_tracking, 0)
        )
        on conflict on constraint cache_store_pkey do update
        set data = case when t.expires_at <= moment then excluded.data else to_jsonb(t.data::text::bigint + by) end,
            created_at = case when t.expires_at <= moment then excluded.created_at else t.created_at end,
            expires_at = case when t.expires_at <= moment or ttl is not null then excluded.expires_at else t.expires_at end,
            last_accessed_at = excluded.last_accessed_at
        returning t.data::text::bigint into total;
    exception when invalid_text_representation or numeric_value_out_of_range then
        raise exception using errcode = 'PC011',
            message = format('the value under %L cannot be incremented: it is not a whole number, or the sum is out of range', key),
            hint = 'cache_incr counts in 64-bit whole numbers; see the value with cache_get, replace it with cache_set.';
    end;
    if nextval(('pgcache.writes_' || type)::regclass) = 1 then
        perform look_after(type, 1, 0);
    end if;
    return total;
end
$$;

comment on function pgcache.cache_incr(text, text, bigint, interval) is
'Adds by (default 1, may be negative) to a counter and returns the sum; a missing or expired one starts at 0. A live counter keeps its expiry unless ttl is given. NULL if the type is disabled. Errors: PC011 not a whole number; as cache_set.';
