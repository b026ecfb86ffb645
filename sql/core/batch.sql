-- Many entries in one call.

-- As compile_get does for cache_get.
create or replace function pgcache.compile_get_many() returns void
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $compile$
declare
    look_ups constant text := (
        select string_agg(format($sql$type = %1$L%2$s then
        select pg_catalog.array_agg(f.value), pg_catalog.array_agg(f.logged)%3$s
        into found_values, logged%4$s
        from (
            select
                case when t.hit_weight is not null then %5$s end as value,
                pgcache.count_and_draw(%6$L, t.hit_weight, crowding) as logged%7$s
            from pg_catalog.unnest(keys) with ordinality a (key, place)
            left join pgcache.%8$I t
                on t.tenant = scope and t.cache_key = a.key and (t.expires_at is null or t.expires_at > moment)
            order by a.place
        ) f;
$sql$,
            t.type,
            case when not is_logged(t.type) then ' and not pg_catalog.pg_is_in_recovery()' else '' end,
            case when t.payload ? 'tokens_used' then ', pg_catalog.array_agg(f.model), pg_catalog.array_agg(f.tokens_used)' else '' end,
            case when t.payload ? 'tokens_used' then ', models, tokens' else '' end,
            value_of(t.payload), 'pgcache.hits_' || t.type,
            case when t.payload ? 'tokens_used' then ', t.model, t.tokens_used' else '' end,
            c.relname
        ), '    elsif ' order by t.type <> 'store', t.type <> 'llm', t.builtin, t.type)
        from cache_types t inner join pg_class c on c.oid = t.relation
    );
begin
    execute format($function$
create or replace function pgcache.cache_get_many(type text, keys text[]) returns table (key text, value jsonb)
language plpgsql volatile parallel unsafe
as $body$
#variable_conflict use_variable
declare
    scope constant text := pgcache.current_tenant();
    moment constant timestamptz := pgcache.cache_now();
    crowding constant integer := pgcache.hit_log_crowding();
    found_values jsonb[];
    logged integer[];  -- the weights of lines of the log; NULL for a miss
    models text[];
    tokens integer[];
begin
    if %s    end if;
    perform pgcache.record_hits(type, keys, logged, models, tokens);
    return query select * from unnest(keys, found_values);
end
$body$;
comment on function pgcache.cache_get_many(text, text[]) is
'One row for each key asked, in the order asked, with the value NULL on a miss. Counts and errors as cache_get.';
$function$, look_ups);
end
$compile$;

comment on function pgcache.compile_get_many() is 'Writes cache_get_many for the types that there are; run whenever they change.';

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

-- A call for each row costs 5 us, so to join many rows, join the entries.
create or replace function pgcache.cache_live(type text) returns table (key text, value jsonb)
language sql stable parallel safe
as $$
    select t.cache_key, t.data
    from pgcache.cache_store t
    where t.type = case when pgcache.type_has_fields(cache_live.type) is false then cache_live.type
            else pgcache.check_json_type(cache_live.type) end
        and t.tenant = pgcache.current_tenant() and (t.expires_at is null or t.expires_at > pgcache.cache_now())
$$;

comment on function pgcache.cache_live(text) is
'The live entries of a JSON type in the current tenant, to be joined: SELECT o.*, c.value FROM orders o LEFT JOIN cache_live(''store'') c USING (key). It becomes a part of the query, which uses the index or not as is best; it counts neither hits nor misses. Errors: PC001 unknown type, PC004 a type that is not JSON.';

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
    if not registered.payload ? 'data' then
        select v into misfit from unnest("values") v where not value_fits(type, v) limit 1;
        if found then
            perform reject_value(type, misfit);
        end if;
    elsif array_position("values", null) is not null then
        perform reject_value(type, null);
    end if;
    if not registered.enabled then
        return 0;
    end if;
    if registered.payload ? 'data' and registered.eviction <> 'none' then
        return put_many(type, keys, "values", moment, expires);
    end if;
    select count(*) filter (where put(type, u.key, u.value, ttl, true)) into stored
    from (
        select distinct on (u.key collate "C") u.key, u.value from unnest(keys, "values") with ordinality u (key, value, place)
        order by u.key collate "C", u.place desc
    ) u;
    return stored;
end
$$;

comment on function pgcache.cache_set_many(text, text[], jsonb[], interval) is
'Stores many entries in one statement, all or none; of a key that is given twice the last value counts. Returns how many were stored. Errors: as cache_set.';

create or replace function pgcache.compile_put_many() returns void
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $compile$
declare
    -- Sorted, so that batches that overlap do not deadlock; of a key that is given twice the last value counts.
    upserts constant text := (
        select string_agg(format($sql$type = %1$L then
        with upserted as (
            insert into %2$I as t (
                type, tenant, cache_key, data, created_at, expires_at, last_accessed_at, hit_weight
            )
            select %1$L, scope, e.key, e.value, moment, expires, moment, type_hit_weight(%1$L)
            from (
                select distinct on (u.key collate "C") u.key, u.value
                from unnest(keys, "values") with ordinality u (key, value, place)
                order by u.key collate "C", u.place desc
            ) e
            on conflict on constraint %3$I do update
            set data = excluded.data, created_at = excluded.created_at, expires_at = excluded.expires_at,
                last_accessed_at = excluded.last_accessed_at
            returning nextval(%4$L) as clock, pg_column_size(t.data) as size
        )
        select count(*), count(*) filter (where p.clock = 1), sum(p.size) into stored, strikes, bytes from upserted p;
$sql$,
            t.type, c.relname, k.conname, 'pgcache.writes_' || t.type
        ), '    elsif ' order by t.type <> 'store', t.type)
        from cache_types t
        inner join pg_class c on c.oid = t.relation
        inner join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
        where t.payload ? 'data'
    );
begin
    execute replace($function$
create or replace function pgcache.put_many(
    type text, keys text[], "values" jsonb[], moment timestamptz, expires timestamptz
) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache, pg_catalog, pg_temp
as $body$
#variable_conflict use_variable
declare
    scope constant text := current_tenant();
    stored bigint;
    strikes integer;  -- how often the clock has shown 1
    bytes bigint;
begin
    if @upserts    end if;
    perform look_after(type, strikes, bytes);
    return stored;
end
$body$;
comment on function pgcache.put_many(text, text[], jsonb[], timestamptz, timestamptz) is
'Upserts entries of a JSON type, checked by cache_set_many; returns how many.';
$function$, '@upserts', upserts);
end
$compile$;

comment on function pgcache.compile_put_many() is 'Writes put_many for the types that there are; run whenever they change.';

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
