-- Many entries in one call.

create or replace function pgcache.cache_get_many(type text, keys text[]) returns table (key text, value jsonb)
language plpgsql volatile parallel unsafe
as $$
#variable_conflict use_variable
declare
    scope constant text := pgcache.current_tenant();
    moment constant timestamptz := pgcache.cache_now();
    found_values jsonb[];
    logged integer[];  -- as in cache_get: NULL for a miss
    models text[];
    tokens integer[];
begin
    if type = 'store' and pgcache.is_readable(type) then
        select pg_catalog.array_agg(f.data), pg_catalog.array_agg(f.logged)
        into found_values, logged
        from (
            select t.data, pgcache.count_hit('pgcache.hits_store', t.hit_weight) as logged
            from pg_catalog.unnest(keys) with ordinality a (key, place)
            left join pgcache.cache_type_store t
                on t.tenant = scope and t.cache_key = a.key and (t.expires_at is null or t.expires_at > moment)
            order by a.place
        ) f;
    else
        select * into found_values, logged, models, tokens from pgcache.find_many(type, keys);
    end if;
    perform pgcache.record_hits(type, keys, logged, models, tokens);
    return query select * from unnest(keys, found_values);
end
$$;

comment on function pgcache.cache_get_many(text, text[]) is
'One row for each key asked, in the order asked, with the value NULL on a miss. Counts and errors as cache_get.';

create or replace function pgcache.find_many(
    type text, keys text[], out found_values jsonb[], out logged integer[], out models text[], out tokens integer[]
)
language plpgsql volatile parallel unsafe
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant cache_types := check_type(type);
begin
    if not is_readable(type) then
        logged := array_fill(null::integer, array[cardinality(keys)]);
        return;
    end if;
    execute format($sql$
        select array_agg(f.value), array_agg(f.logged), array_agg(f.model), array_agg(f.tokens)
        from (
            select %s as value, count_hit(%L, t.hit_weight) as logged, %s
            from unnest($1) with ordinality a (key, place)
            left join %s t on t.tenant = $2 and t.cache_key = a.key and (t.expires_at is null or t.expires_at > $3)
            order by a.place
        ) f
        $sql$,
        case when registered.payload ? 'data' then 't.data'
            else 'case when t.hit_weight is not null then cache_value(t) end' end,
        'pgcache.hits_' || type, savings_columns(registered.payload), registered.relation)
    into found_values, logged, models, tokens using keys, current_tenant(), cache_now();
end
$$;

comment on function pgcache.find_many(text, text[]) is
'cache_get_many''s look-up for types other than store: arrays in the order of the keys. Errors: PC001.';

create or replace function pgcache.record_hits(
    type text, keys text[], logged integer[], models text[] default null, tokens integer[] default null
) returns void
language plpgsql volatile parallel unsafe
as $$
#variable_conflict use_variable
declare
    misses constant bigint := coalesce(pg_catalog.cardinality(pg_catalog.array_positions(logged, null)), 0);
begin
    if misses > 0 or logged is null then
        perform pgcache.check_type(type), pgcache.check_keys(keys);
        if pg_catalog.current_setting('transaction_read_only') = 'off' then
            perform pgcache.count_events('misses', type, misses);
        end if;
    end if;
    if 0 < any(logged) then
        insert into pgcache.hit_log (type, tenant, cache_key, weight, hit_at, model, tokens)
        select type, pgcache.current_tenant(), l.key, l.logged, pgcache.cache_now(), l.model, l.tokens
        from unnest(keys, logged, models, tokens) l (key, logged, model, tokens)
        where l.logged > 0;
    end if;
end
$$;

comment on function pgcache.record_hits(text, text[], integer[], text[], integer[]) is
'Counts the misses of a batch (logged NULL), after the checks of the call, and logs the hits that should be (logged > 0). Errors: PC001, PC002.';

create or replace function pgcache.savings_columns(payload jsonb) returns text
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select case when payload ? 'tokens_used' then 't.model as model, t.tokens_used as tokens'
        else 'null::text as model, null::integer as tokens' end
$$;

comment on function pgcache.savings_columns(jsonb) is 'The columns that say what a hit of the type saves, for a table aliased t.';

create or replace function pgcache.cache_set_many(
    type text, keys text[], "values" jsonb[], ttl interval default null
) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant cache_types := check_type(type);
    moment constant timestamptz := cache_now();
    expires constant timestamptz := expiry(moment, ttl, registered.ttl);
    misfit jsonb;
    stored bigint;
begin
    if keys is null or "values" is null or cardinality(keys) <> cardinality("values") then
        raise exception using errcode = 'PC004',
            message = format('%s keys need as many values, not %s',
            coalesce(cardinality(keys)::text, 'NULL'), coalesce(cardinality("values")::text, 'NULL')),
            hint = 'Pass two arrays of the same length: cache_set_many(type, keys, values).';
    end if;
    perform check_keys(keys);
    if cardinality(keys) = 0 then
        return 0;
    end if;
    perform check_writable();
    select v into misfit from unnest("values") v where not value_fits(type, v) limit 1;
    if found then
        perform reject_value(type, misfit);
    end if;
    if not registered.enabled then
        return 0;
    end if;
    if registered.payload = '{"data": "any!"}' and registered.eviction <> 'none' then
        -- Sorted, so that batches that overlap do not deadlock; of a key that is given twice the last value counts.
        insert into cache_store as t (type, tenant, cache_key, data, created_at, expires_at, last_accessed_at, hit_weight)
        select type, current_tenant(), e.key, e.value, moment, expires, moment,
            hit_weight_at(registered.hit_tracking, 0)
        from (
            select distinct on (u.key collate "C") u.key, u.value from unnest(keys, "values") with ordinality u (key, value, place)
            order by u.key collate "C", u.place desc
        ) e
        on conflict on constraint cache_store_pkey do update
        set data = excluded.data, created_at = excluded.created_at, expires_at = excluded.expires_at,
            last_accessed_at = excluded.last_accessed_at;
        get diagnostics stored = row_count;
        perform look_after(type, w.strikes, w.bytes)
        from (
            select count(*) filter (where nextval(('pgcache.writes_' || type)::regclass) = 1)::integer as strikes,
                sum(pg_column_size(v)) as bytes
            from unnest("values") v
        ) w;
    else
        select count(*) filter (where put(type, u.key, u.value, ttl, true)) into stored
        from (
            select distinct on (u.key collate "C") u.key, u.value from unnest(keys, "values") with ordinality u (key, value, place)
            order by u.key collate "C", u.place desc
        ) u;
    end if;
    return stored;
end
$$;

comment on function pgcache.cache_set_many(text, text[], jsonb[], interval) is
'Stores many entries in one statement, all or none; of a key that is given twice the last value counts. Returns how many were stored. Errors: as cache_set.';

create or replace function pgcache.cache_warm(type text, entries jsonb) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    stored bigint := 0;
    same_ttl record;
    ttl interval;
begin
    if entries is null or jsonb_typeof(entries) <> 'array' or exists (
        select from jsonb_array_elements(entries) e where jsonb_typeof(e) <> 'object' or not e ?& array['key', 'value']
    ) then
        raise exception using errcode = 'PC004',
            message = 'cache_warm takes a JSON array of objects with the fields key, value and, if you like, ttl',
            hint = 'For example: SELECT cache_warm(''store'', ''[{"key": "a", "value": 1, "ttl": "5 minutes"}]'')';
    end if;
    for same_ttl in
        select e ->> 'ttl' as ttl, array_agg(e ->> 'key') as keys, array_agg(e -> 'value') as values
        from jsonb_array_elements(entries) e group by 1
    loop
        begin
            ttl := same_ttl.ttl::interval;
        exception when data_exception then
            raise exception using errcode = 'PC003',
                message = format('%L is not a TTL', same_ttl.ttl),
                hint = 'A TTL is an interval such as "5 minutes", or "3600" for seconds.';
        end;
        stored := stored + cache_set_many(type, same_ttl.keys, same_ttl.values, ttl);
    end loop;
    return stored;
end
$$;

comment on function pgcache.cache_warm(text, jsonb) is
'Stores the entries of a JSON array [{"key", "value", "ttl"?}, ...] and returns how many. Errors: PC004; as cache_set.';
