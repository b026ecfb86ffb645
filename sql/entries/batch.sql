-- Many entries in one call.

select pgcache_internal.define($frame$
create or replace function pgcache.cache_get_many(type text, keys text[]) returns table (key text, value jsonb)
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    moment constant pg_catalog.timestamptz := pgcache_internal.cache_now();
    crowding constant integer := pgcache_internal.hit_log_crowding(pg_catalog.cardinality(keys));
    found_values pg_catalog.jsonb[];
    weights integer[];  -- of lines of the log; NULL for a miss
    models pg_catalog.text[];
    tokens integer[];
    input_tokens integer[];
    cached_tokens integer[];
begin
    if @branches    end if;
    perform pgcache_internal.record_hits(
        type, keys, pg_catalog.cardinality(pg_catalog.array_positions(weights, null)), keys, weights, models, tokens,
        input_tokens, cached_tokens
    );
    return query select * from unnest(keys, found_values);
end
$body$;
comment on function pgcache.cache_get_many(text, text[]) is
'One row for each key asked, in the order asked, with the value as JSON, NULL on a miss. Counts each as cache_get'
' does. Errors: PC002 where a key, or the array, is NULL or invalid; as cache_get.';
$frame$, $branch$type operator(pg_catalog.=) '@type'@readable then
        select
            pg_catalog.array_agg(f.value), pg_catalog.array_agg(f.weight)@tokens{,
            pg_catalog.array_agg(f.model), pg_catalog.array_agg(f.tokens_used), pg_catalog.array_agg(f.input_tokens),
            pg_catalog.array_agg(f.cached_tokens)}
        into found_values, weights@tokens{, models, tokens, input_tokens, cached_tokens}
        from (
            select
                case when t.hit_weight is not null then @value end as value,
                pgcache_internal.count_and_draw('pgcache_internal.hits_@type', t.hit_weight, crowding)
                    as weight@tokens{, @model as model, t.tokens_used, @input as input_tokens, @cached as cached_tokens}
            from pg_catalog.unnest(keys) with ordinality a (key, place)
            left join @table t
                on t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) a.key
                and pgcache_internal.is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment)
            order by a.place
        ) f;
$branch$);

-- What the clients call: to a program, a hundred rows cost more than the look-ups.
select pgcache_internal.define($frame$
create or replace function pgcache.cache_get_many_json(type text, keys text[]) returns json
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    moment constant pg_catalog.timestamptz := pgcache_internal.cache_now();
    crowding constant integer := pgcache_internal.hit_log_crowding(pg_catalog.cardinality(keys));
    entries pg_catalog.json;
    missed bigint;
    logged pg_catalog.text[];  -- the keys of the hits that the log gets
    weights integer[];
    models pg_catalog.text[];
    tokens integer[];
    input_tokens integer[];
    cached_tokens integer[];
begin
    if @branches    end if;
    if missed operator(pg_catalog.>) 0::bigint then  -- unless a key was given twice
        missed := missed operator(pg_catalog.-) (
            select pg_catalog.count(*) operator(pg_catalog.-) pg_catalog.count(distinct k collate pg_catalog."C")
            from pg_catalog.unnest(keys) k
            where k is not null
        );
    end if;
    if missed is null or missed operator(pg_catalog.<>) 0::bigint or logged is not null then
        perform pgcache_internal.record_hits(
            type, keys, missed, logged, weights, models, tokens, input_tokens, cached_tokens
        );
    end if;
    return coalesce(entries, '{}');
end
$body$;
comment on function pgcache.cache_get_many_json(text, text[]) is
'The entries of the keys as one JSON object, {key: value, ...}, misses left out, {} for none. In no particular order; a'
' key given twice counts once. Errors: as cache_get_many.';
$frame$, $branch$type operator(pg_catalog.=) '@type'@readable then
        select
            pg_catalog.json_object_agg(f.cache_key, f.value),
            pg_catalog.cardinality(keys)::bigint operator(pg_catalog.-) pg_catalog.count(*),
            pg_catalog.array_agg(f.cache_key) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.weight) filter (where f.weight operator(pg_catalog.>) 0)@tokens{,
            pg_catalog.array_agg(f.model) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.tokens_used) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.input_tokens) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.cached_tokens) filter (where f.weight operator(pg_catalog.>) 0)}
        into entries, missed, logged, weights@tokens{, models, tokens, input_tokens, cached_tokens}
        from (
            select
                t.cache_key, @value as value,
                pgcache_internal.count_and_draw('pgcache_internal.hits_@type', t.hit_weight, crowding)
                    as weight@tokens{, @model as model, t.tokens_used, @input as input_tokens, @cached as cached_tokens}
            from @table t
            where t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) any(keys)
                and pgcache_internal.is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment)
        ) f;
$branch$);

create or replace function pgcache_internal.record_hits(
    type text, asked text[], misses bigint, keys text[], weights integer[],
    models text[] default null, tokens integer[] default null, input_tokens integer[] default null,
    cached_tokens integer[] default null
) returns void
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
#variable_conflict use_variable
begin
    if misses is null or misses operator(pg_catalog.<>) 0::bigint then
        perform pgcache_internal.check_type(type), pgcache_internal.check_keys(asked), pgcache_internal.tenant_here();
        if pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'off' then
            perform pgcache_internal.count_events(type, 'misses', misses);
        end if;
    end if;
    if 0 operator(pg_catalog.<) any(weights) then
        insert into pgcache_internal.hit_log
            (type, tenant, cache_key, weight, hit_at, model, tokens, input_tokens, cached_input_tokens)
        select
            type, pgcache_internal.current_tenant(), l.key, l.weight, pgcache_internal.cache_now(), l.model, l.tokens,
            l.input, l.cached
        from unnest(keys, weights, models, tokens, input_tokens, cached_tokens)
            l (key, weight, model, tokens, input, cached)
        where l.weight operator(pg_catalog.>) 0;
    end if;
end
$$;

comment on function pgcache_internal.record_hits(
    text, text[], bigint, text[], integer[], text[], integer[], integer[], integer[]
) is
'Counts the misses of a batch (NULL: the type is unknown or not readable here) after the checks of the call, and logs'
' the hits with a weight. Errors: PC001, PC002.';

-- A call for each row costs 5 us, so to join many rows, join the entries. The view reads the table with the owner's
-- rights, so that those who call need none on it. It is not for roles that are walled: what EXPLAIN says of it, and
-- functions of theirs in a WHERE that the planner moves into it, would tell them of others' entries.
-- A view takes what is there by now.
select pgcache_internal.compile_clock();
select pgcache_internal.compile_tenants();

create or replace view pgcache_internal.live_entries as
select
    t.type,
    t.cache_key as key,
    t.data as value
from pgcache.cache_store as t
where t.tenant = pgcache_internal.current_tenant()
    and pgcache_internal.is_live(
        t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, pgcache_internal.cache_now()
    );

comment on view pgcache_internal.live_entries is
'The live entries of the JSON types in the current tenant, for cache_live.';

create or replace function pgcache.cache_live(type text) returns table (key text, value jsonb)
language sql stable parallel safe  -- not pinned: inlined
as $$
    select e.key, e.value
    from pgcache_internal.live_entries e
    where e.type operator(pg_catalog.=) case
        when pgcache_internal.type_has_fields(cache_live.type) is false then cache_live.type
        else pgcache_internal.check_json_type(cache_live.type)
    end
$$;

comment on function pgcache.cache_live(text) is
'The live entries of a JSON type in the current tenant, to be joined: SELECT o.*, c.value FROM orders o LEFT JOIN'
' cache_live(''store'') c USING (key). It becomes a part of the query, which uses the index or not as is best; it'
' counts neither hits nor misses. Errors: PC001 unknown type, PC004 a type that is not JSON.';

create or replace function pgcache.cache_set_many(
    type text, keys text[], "values" jsonb[], ttl interval default null, jitter float8 default null
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform check_type(type);
    if keys is null or "values" is null or cardinality(keys) <> cardinality("values") then
        raise exception using errcode = 'PC004',
            message = format('%s keys need as many values, not %s',
                coalesce(cardinality(keys)::text, 'NULL'), coalesce(cardinality("values")::text, 'NULL')),
            hint = 'Pass two arrays of the same length: cache_set_many(type, keys, values).';
    end if;
    perform check_keys(keys);
    if exists (select from unnest("values") v where v is null) then  -- also of an array of arrays
        perform reject_value(type, null);
    end if;
    return (
        select cache_set_many_json(type, coalesce(jsonb_object_agg(u.key, u.value), '{}'), ttl, jitter)
        from unnest(keys, "values") u (key, value)
    );
end
$$;

comment on function pgcache.cache_set_many(text, text[], jsonb[], interval, float8) is
'Stores many entries in one statement, all or none; of a key that is given twice the last value counts. Returns how'
' many were stored. ttl, jitter: as in cache_set, of each entry. Errors: as cache_set.';

create or replace function pgcache.cache_set_many_json(
    type text, entries jsonb, ttl interval default null, jitter float8 default null
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    moment constant timestamptz := cache_now();
    expires constant timestamptz := expiry(moment, ttl, registered.ttl);
    spread constant interval := case
        when check_jitter(jitter) > 0 and expires is not null then coalesce(ttl, registered.ttl) * jitter else '0'
    end;
    misfit jsonb;
    stored bigint;
begin
    if entries is null or jsonb_typeof(entries) <> 'object' then
        raise exception using errcode = 'PC004',
            message = 'cache_set_many_json takes a JSON object of keys and values',
            hint = 'For example: SELECT cache_set_many_json(''store'', ''{"a": 1, "b": [2, 3]}'')';
    end if;
    perform check_key(k) from jsonb_object_keys(entries) k where not is_key(k);
    perform check_tenant(), check_writable();
    if registered.fields is not null then
        select e.value into misfit from jsonb_each(entries) e where not value_fits(type, e.value) limit 1;
        if found then
            perform reject_value(type, misfit);
        end if;
    end if;
    if entries = '{}' or not registered.enabled then
        return 0;
    end if;
    if registered.writer is null and registered.eviction <> 'none' then
        return put_many(
            type, entries, moment, expires, spread, sweep_every(registered.max_entries, registered.max_bytes)
        );
    end if;
    select count(*) filter (where put(type, e.key, e.value, jittered(type, ttl, jitter), true)) into stored
    from (select * from jsonb_each(entries) order by key collate "C") e;
    return stored;
end
$$;

comment on function pgcache.cache_set_many_json(text, jsonb, interval, float8) is
'Stores the entries of one JSON object, {key: value, ...}, up to 256 MB, all or none; returns how many were stored.'
' ttl, jitter: as in cache_set, of each entry. Errors: as cache_set.';

select pgcache_internal.define($frame$
create or replace function pgcache_internal.put_many(
    type text, entries jsonb, moment timestamptz, expires timestamptz, spread interval, sweep_every integer
) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $body$
#variable_conflict use_variable
declare
    scope constant text := current_tenant();
    stored bigint;
    bytes bigint;
begin
    if @branches    end if;
    if tenant_is_limited(type, scope) then
        perform note_tenant_writes(limit_of(type, scope), stored);
    end if;
    if stored >= sweep_every then  -- so many that they are due by themselves
        perform note_writes(type, false, bytes, stored);
    else
        perform note_writes(type, tick(type, 'writes', stored), bytes);
    end if;
    return stored;
end
$body$;
comment on function pgcache_internal.put_many(text, jsonb, timestamptz, timestamptz, interval, integer) is
'Upserts entries that cache_set_many_json has checked; returns how many. spread: by how much at most, at random, they'
' expire earlier. Not for types that a function of their own writes.';
$frame$, $branch$type = '@type' then
        with upserted as (
            insert into @table as t (tenant, cache_key, @columns, created_at, expires_at, last_accessed_at, hit_weight)
            select scope, key, @given, moment, expires - spread * random(), moment, type_hit_weight('@type')
            from jsonb_each(entries) e
            order by key collate "C"  -- so that batches that overlap do not deadlock
            on conflict on constraint @pkey do update
            set @updates, created_at = excluded.created_at, expires_at = excluded.expires_at,
                last_accessed_at = excluded.last_accessed_at, @untagged
            returning @bytes as bytes
        )
        select count(*), sum(u.bytes) into stored, bytes from upserted u;
$branch$, '');

create or replace function pgcache.cache_warm(type text, entries jsonb) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    stored bigint := 0;
    same_ttl record;
    ttl interval;
begin
    if entries is null or jsonb_typeof(entries) <> 'array' or exists (
        select from jsonb_array_elements(entries) e
        where case jsonb_typeof(e)
            when 'object' then not e ?& array['key', 'value'] or e - array['key', 'value', 'ttl'] <> '{}'
            else true
        end
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
            ttl := case
                when same_ttl.ttl in ('never', 'infinity') then cache_never() else same_ttl.ttl::interval
            end;
        exception when data_exception then
            raise exception using errcode = 'PC003',
                message = format('%L is not a TTL', same_ttl.ttl),
                hint = 'A TTL is an interval such as "5 minutes", or "3600" for seconds, or "never".';
        end;
        stored := stored + cache_set_many(type, same_ttl.keys, same_ttl.values, ttl);
    end loop;
    return stored;
end
$$;

comment on function pgcache.cache_warm(text, jsonb) is
'Stores the entries of a JSON array, [{"key": "a", "value": 1, "ttl": "5 minutes"}, ...], all or none, and returns how'
' many. ttl, if it is there: an interval, a number of seconds, or never. Errors: PC004 another form; as cache_set.';
