-- The hot path. A read takes no row lock, never writes the entry and never waits. One static statement per type
-- (EXECUTE would triple the cost) does it all:
--   1. it looks the key up by the primary key;
--   2. it counts the hit with nextval on an unlogged sequence: no transaction id, no WAL, not undone by a rollback;
--   3. it draws whether this hit goes to the hit log, one in hit_weight: from there upkeep brings the entry's own
--      counts up to date.
-- In a READ ONLY transaction and on a standby it only does the first. Everything that can be wrong about a call is
-- looked at on a miss, so that a hit does not pay for it. Each further statement or expression here would cost a hit
-- 2 to 5 %, and so would SET search_path: hence the IFs, and hence every name is qualified.

create or replace function pgcache.cache_get(type text, key text) returns jsonb
language plpgsql volatile parallel unsafe
as $$
#variable_conflict use_variable
declare
    value jsonb;
    logged integer;  -- how many hits a line of the log stands for; 0: this hit needs none; NULL: there was no hit
    model text;
    tokens integer;
begin
    if type = 'store' and pgcache.is_readable(type) then
        select t.data, pgcache.count_hit('pgcache.hits_store', t.hit_weight)
        into value, logged
        from pgcache.cache_type_store t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    elsif type = 'llm' and pgcache.is_readable(type) then
        select pgcache.cache_value(t), pgcache.count_hit('pgcache.hits_llm', t.hit_weight), t.model, t.tokens_used
        into value, logged, model, tokens
        from pgcache.cache_llm_responses t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    elsif not pgcache.type_has_fields(type) and pgcache.is_readable(type) then  -- a type that a user created
        select f.value, f.logged into value, logged from pgcache.get_from_partition(type, key) f;
    elsif type = 'embedding' and pgcache.is_readable(type) then
        select pgcache.cache_value(t), pgcache.count_hit('pgcache.hits_embedding', t.hit_weight)
        into value, logged
        from pgcache.cache_embeddings t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    elsif type = 'vector_search' and pgcache.is_readable(type) then
        select pgcache.cache_value(t), pgcache.count_hit('pgcache.hits_vector_search', t.hit_weight)
        into value, logged
        from pgcache.cache_vector_search t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    elsif type = 'audio' and pgcache.is_readable(type) then
        select pgcache.cache_value(t), pgcache.count_hit('pgcache.hits_audio', t.hit_weight)
        into value, logged
        from pgcache.cache_audio_chunks t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    elsif type = 'ai_worker' and pgcache.is_readable(type) then
        select pgcache.cache_value(t), pgcache.count_hit('pgcache.hits_ai_worker', t.hit_weight), t.model, t.tokens_used
        into value, logged, model, tokens
        from pgcache.ai_worker_cache t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    elsif type = 'face' and pgcache.is_readable(type) then
        select pgcache.cache_value(t), pgcache.count_hit('pgcache.hits_face', t.hit_weight)
        into value, logged
        from pgcache.face_embeddings_cache t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    elsif type = 'phash' and pgcache.is_readable(type) then
        select pgcache.cache_value(t), pgcache.count_hit('pgcache.hits_phash', t.hit_weight)
        into value, logged
        from pgcache.perceptual_hash_cache t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    elsif type = 'crawl' and pgcache.is_readable(type) then
        select pgcache.cache_value(t), pgcache.count_hit('pgcache.hits_crawl', t.hit_weight)
        into value, logged
        from pgcache.crawl_cache t
        where t.tenant = pgcache.current_tenant() and t.cache_key = key
            and (t.expires_at is null or t.expires_at > pgcache.cache_now());
    end if;
    if logged = 0 then
        return value;
    elsif logged is null then
        perform pgcache.count_miss(type, key);
    else
        insert into pgcache.hit_log (type, tenant, cache_key, weight, hit_at, model, tokens)
        values (type, pgcache.current_tenant(), key, logged, pgcache.cache_now(), model, tokens);
    end if;
    return value;
end
$$;

comment on function pgcache.cache_get(text, text) is
'The value stored under a key of the current tenant, as JSON; NULL on a miss (a stored JSON null is not a miss). Takes no lock and never writes the entry; works in READ ONLY transactions and on standbys. Errors: PC001 unknown type, PC002 invalid key.';

-- Inlined into the statements above.
create or replace function pgcache.count_hit(counter regclass, weight smallint) returns integer
language sql volatile parallel unsafe
as $$
    select case
        when weight is null then null
        when pg_catalog.current_setting('transaction_read_only') = 'on' then 0
        when pg_catalog.nextval(counter) > 0 and weight < 0 then 1  -- hit_tracking exact
        when weight > 0 and pg_catalog.random() * weight < 1
            and pg_catalog.random() * pgcache.hit_log_crowding() < 1
            then weight * pgcache.hit_log_crowding()
        else 0
    end
$$;

comment on function pgcache.count_hit(regclass, smallint) is
'Counts a hit; returns how many hits it should be logged as: n in one call of n, otherwise 0, where n is weight times hit_log_crowding; always 1 for a weight of -1 (hit_tracking exact); NULL for no weight, which is no hit.';

-- With nobody folding the log it thins itself: each megabyte halves the rate at which it grows.
create or replace function pgcache.hit_log_crowding() returns integer
language sql volatile parallel safe
as $$ select 1 << least(14, pg_catalog.pg_relation_size('pgcache.hit_log') / 1048576)::integer $$;

comment on function pgcache.hit_log_crowding() is
'One in how many hits the log still takes: 1 while it is below a megabyte, twice as many for each megabyte more.';

-- JSON types of users live in partitions. A custom plan per call would cost 40 us, hence the forced generic one.
create or replace function pgcache.get_from_partition(type text, key text, out value jsonb, out logged integer)
language plpgsql volatile parallel unsafe
set plan_cache_mode to force_generic_plan
as $$
#variable_conflict use_variable
begin
    if pg_catalog.pg_is_in_recovery() then  -- partitions of other types may be unreadable here
        execute pg_catalog.format('select t.data, 0 from pgcache.%I t where t.tenant = $1 and t.cache_key = $2'
            ' and (t.expires_at is null or t.expires_at > $3)', 'cache_type_' || type)
        into value, logged using pgcache.current_tenant(), key, pgcache.cache_now();
        return;
    end if;
    select t.data, pgcache.count_hit(('pgcache.hits_' || t.type)::regclass, t.hit_weight)
    into value, logged
    from pgcache.cache_store t
    where t.type = get_from_partition.type and t.tenant = pgcache.current_tenant() and t.cache_key = key
        and (t.expires_at is null or t.expires_at > pgcache.cache_now());
end
$$;

comment on function pgcache.get_from_partition(text, text) is 'cache_get''s look-up for types that users created.';

create or replace function pgcache.count_miss(type text, key text) returns void
language plpgsql volatile parallel unsafe
as $$
declare
    counter constant regclass := pg_catalog.to_regclass('pgcache.' || pg_catalog.quote_ident('misses_' || type));
begin
    if counter is null then
        perform pgcache.check_type(type);
    end if;
    perform pgcache.check_key(key);
    if pg_catalog.current_setting('transaction_read_only') = 'off' then
        perform pg_catalog.nextval(counter);
    end if;
end
$$;

comment on function pgcache.count_miss(text, text) is
'Counts a miss, after the checks of a call that hits do not pay for. Errors: PC001, PC002.';

-- Inlined into the conditions of cache_get; a type that cannot be read on this server is a miss there.
create or replace function pgcache.is_readable(type text) returns boolean
language sql volatile parallel safe
as $$ select not pg_catalog.pg_is_in_recovery() or pgcache.is_logged(type) $$;

comment on function pgcache.is_readable(text) is 'Whether a type can be read on this server: an UNLOGGED one cannot on a standby.';

create or replace function pgcache.is_logged(type text) returns boolean
language sql stable parallel safe
set search_path to pgcache, pg_catalog, pg_temp
as $$
    select not exists (
        select from cache_types t inner join pg_class c on c.oid = t.relation
        where t.type = is_logged.type and c.relpersistence = 'u'
    )
$$;

comment on function pgcache.is_logged(text) is 'Whether the table of a type is in the WAL, so that standbys have it and a crash leaves it.';
