-- What clients of the hot tier call in place of cache_get and cache_set: with the value comes what Redis must know.

create or replace function pgcache_internal.hot_get(
    type text, key text, out value text, out version bigint, out ttl_ms bigint, out epoch text
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    moment constant timestamptz := cache_now();
    hot record;
    expires timestamptz;
    tagged boolean;
begin
    select h.ttl, t.relation into hot
    from hot_types h inner join types t on t.type = h.type
    where h.type = hot_get.type;
    if hot.ttl is not null and hot_sees_the_newest() then
        epoch := hot_present_epoch();
    end if;
    if epoch is not null then
        -- Before the value: a version that is too old does no harm, one that is too new would.
        execute format(
            'select t.version, t.expires_at, t.cache_tags is not null from %s t'
            ' where t.tenant = $1 and t.cache_key = $2', hot.relation
        )
        into version, expires, tagged using current_tenant(), key;
        ttl_ms := hot_ttl_ms(hot.ttl, case when expires > moment then expires end, moment);
    end if;
    value := cache_get(type, key)::text;
    if tagged then
        version := null;  -- Redis would not be told of its tags
        ttl_ms := null;
        epoch := null;
    elsif epoch is not null and (value is null or version is null) then
        version := 0;  -- a miss ends with whatever change comes
    end if;
end
$$;

comment on function pgcache_internal.hot_get(text, text) is
'cache_get for clients of the hot tier: value, as JSON text, NULL on a miss; its version (0 if it has none, and on a'
' miss); how long Redis may keep it; epoch: the one in which it may be put into Redis, NULL if it may not: before the'
' relay has come, on standbys, in transactions that have written or see an old snapshot, for entries with tags, and for'
' types that are not in the tier. Errors: PC001, PC002.';

create or replace function pgcache_internal.hot_get_many(type text, keys text[])
returns table (key text, value text, version bigint, ttl_ms bigint, epoch text)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    moment constant timestamptz := cache_now();
    hot record;
    present text;
    versions bigint[];
    expiries timestamptz[];
    tagged boolean[];
begin
    select h.ttl, t.relation into hot
    from hot_types h inner join types t on t.type = h.type
    where h.type = hot_get_many.type;
    -- Once for all of them: to log a hit is to write.
    if hot.ttl is not null and hot_sees_the_newest() then
        present := hot_present_epoch();
    end if;
    if present is not null then
        execute format($sql$
            select array_agg(t.version order by a.place), array_agg(t.expires_at order by a.place),
                array_agg(t.cache_tags is not null order by a.place)
            from unnest($1) with ordinality a (key, place)
            left join %s t on t.tenant = $2 and t.cache_key = a.key
            $sql$, hot.relation)
        into versions, expiries, tagged using keys, current_tenant();
    end if;
    return query
    select
        g.key, g.value::text,
        case
            when s.epoch is null then null
            when g.value is null then 0
            else coalesce(versions[g.place], 0)
        end,
        case when s.epoch is not null then hot_ttl_ms(hot.ttl, e.expires, moment) end,
        s.epoch
    from cache_get_many(type, keys) with ordinality g (key, value, place)
    cross join lateral (select case when expiries[g.place] > moment then expiries[g.place] end as expires) e
    cross join lateral (select case when tagged[g.place] is not true then present end as epoch) s
    order by g.place;
end
$$;

comment on function pgcache_internal.hot_get_many(text, text[]) is
'hot_get of many keys: one row for each, in the order asked. Errors: PC001, PC002.';

create or replace function pgcache_internal.hot_sees_the_newest() returns boolean
language sql volatile parallel unsafe
set search_path to pg_catalog, pg_temp
as $$
    select not pg_is_in_recovery()
        and current_setting('transaction_isolation') in ('read committed', 'read uncommitted')
        and pg_current_xact_id_if_assigned() is null
$$;

comment on function pgcache_internal.hot_sees_the_newest() is
'Whether the statements of this transaction see what was committed last, and nothing that might yet be rolled back.';

create or replace function pgcache_internal.hot_set(
    type text, key text, value jsonb, ttl interval default null,
    out stored boolean, out version bigint, out ttl_ms bigint, out stored_value text, out epoch text
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    hot record;
    expires timestamptz;
begin
    stored := cache_set(type, key, value, ttl);
    select h.ttl, t.relation, value_of(t.type, t.fields) as value_of into hot
    from hot_types h inner join types t on t.type = h.type
    where h.type = hot_set.type;
    if stored and found then
        execute format('select t.version, t.expires_at, %s::text from %s t where t.tenant = $1 and t.cache_key = $2',
            hot.value_of, hot.relation)
        into version, expires, stored_value using current_tenant(), key;
        ttl_ms := hot_ttl_ms(hot.ttl, expires, cache_now());
        epoch := hot_present_epoch();
    end if;
end
$$;

comment on function pgcache_internal.hot_set(text, text, jsonb, interval) is
'cache_set for clients of the hot tier: whether it was stored; if it may be put into Redis once it is committed, its'
' version, how long Redis may keep it, and the value as cache_get would return it, which need not be written as it was'
' given; else NULLs; epoch: as in hot_get. Errors: as cache_set.';

create or replace function pgcache_internal.hot_ttl_ms(
    ttl interval, expires timestamptz, moment timestamptz
) returns bigint
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$ select floor(extract(epoch from least(moment + ttl, expires) - moment) * 1000)::bigint $$;

comment on function pgcache_internal.hot_ttl_ms(interval, timestamptz, timestamptz) is
'Milliseconds for which Redis may keep an entry: the type''s ttl, or what the entry has left (expires NULL: no end).';

create or replace function pgcache_internal.hot_report_hits(type text, keys text[], counts integer[]) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
    crowding constant integer := case
        when registered.hit_tracking = 'exact' then 1 else hit_log_crowding(cardinality(keys))
    end;
    -- At most what a client that was cut off for a while may have: each of them is counted.
    total constant bigint := least(1000000, (select coalesce(sum(n), 0) from unnest(counts) n));
begin
    perform check_keys(keys);
    if cardinality(keys) is distinct from cardinality(counts) or coalesce(0 >= any(counts), true) then
        raise exception using errcode = 'PC010',
            message = 'each key needs a positive number of hits',
            hint = 'Pass two arrays of the same length: hot_report_hits(type, keys, counts).';
    elsif current_setting('transaction_read_only') = 'on' then
        return 0;
    end if;
    perform count_events(type, 'hits', total);
    if registered.hit_tracking <> 'off' then
        execute format($sql$
            insert into hit_log
                (type, tenant, cache_key, weight, hit_at, model, tokens, input_tokens, cached_input_tokens)
            select $1, $2, r.key, least(r.hits, 100000) * $5, $6, %s
            from unnest($3, $4) r (key, hits) left join %s t on t.tenant = $2 and t.cache_key = r.key
            where chance() * $5 < 1
            $sql$,
            case
                when registered.fields ? 'tokens_used'
                    then fill('@model, t.tokens_used, @input, @cached', expressions_of(registered))
                else 'null, null, null::integer, null::integer'
            end,
            registered.relation)
        using type, current_tenant(), keys, counts, crowding, cache_now();
    end if;
    return total;
end
$$;

comment on function pgcache_internal.hot_report_hits(text, text[], integer[]) is
'Counts hits that Redis has answered, counts[i] of keys[i] of the current tenant, so that statistics and eviction know'
' of them; returns how many, 1,000,000 at most.'
' In a READ ONLY transaction and on a standby 0: nothing is counted there. Errors: PC001,'
' PC002, PC010.';
