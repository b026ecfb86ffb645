-- Counters.

create or replace function pgcache.cache_incr(
    type text, key text, by bigint default 1, ttl interval default null, create_if_missing boolean default true,
    keep_ttl boolean default false
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return add_to(type, key, by, true, ttl, create_if_missing, keep_ttl);
end
$$;

comment on function pgcache.cache_incr(text, text, bigint, interval, boolean, boolean) is
'Adds by (default 1, may be negative) to a counter and returns the sum; a missing or expired one starts at 0 or, with'
' create_if_missing false, is not stored. A live counter keeps its expiry unless ttl is given; with keep_ttl it does in'
' any case, so that ttl is that of a new one only. NULL if nothing is stored, as in a disabled type. Errors: PC011 not'
' a whole number, or a sum beyond 64 bits; as cache_set.';

create or replace function pgcache.cache_incr_float(
    type text, key text, by numeric, ttl interval default null, create_if_missing boolean default true,
    keep_ttl boolean default false
) returns numeric
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return add_to(type, key, by, false, ttl, create_if_missing, keep_ttl);
end
$$;

comment on function pgcache.cache_incr_float(text, text, numeric, interval, boolean, boolean) is
'cache_incr for any number. It is added as it is written: 0.1 and 0.2 make 0.3. Errors: PC011 not a number; as'
' cache_set.';

create or replace function pgcache_internal.add_to(
    type text, key text, by numeric, whole boolean, ttl interval, create_if_missing boolean, keep_ttl boolean
) returns numeric
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    of_bytes constant boolean := is_of_bytes(registered.fields);
    moment constant timestamptz := cache_now();
    expires constant timestamptz := expiry(moment, ttl, registered.ttl);
    total numeric;
begin
    perform check_key(key), check_tenant(), check_writable();
    if registered.fields is not null and not of_bytes then
        raise exception using errcode = 'PC004',
            message = format('the type %s holds no counters', type),
            hint = 'Count in ''store'' or in a JSON type of your own: SELECT cache_create_type(''counters'').';
    elsif of_bytes and not whole then
        raise exception using errcode = 'PC004',
            message = format('the type %s holds whole numbers only', type),
            hint = 'Count them with cache_incr, or others in a JSON type such as ''store''.';
    elsif jsonb_typeof(to_jsonb(by)) = 'number' is not true then
        raise exception using errcode = 'PC011',
            message = format('cannot increment by %s', coalesce(by::text, 'NULL')),
            hint = 'Pass a number; it may be negative.';
    elsif not registered.enabled or registered.eviction = 'none' and not admit(type, key) then
        return null;
    elsif tenant_is_limited(type, current_tenant()) then
        perform admit_tenant(type, key, current_tenant());
    end if;
    begin
        total := put_sum(type, key, by, whole, moment, expires, ttl is null or keep_ttl, create_if_missing);
    exception when invalid_text_representation or numeric_value_out_of_range then
        raise exception using errcode = 'PC011',
            message = format('the value under %L cannot be incremented:'
                ' it is not a %snumber, or the sum is out of range', key, case when whole then 'whole ' else '' end),
            hint = case when whole then 'cache_incr counts 64-bit whole numbers, cache_incr_float any. ' else '' end
                || 'See the value with cache_get, replace it with cache_set.';
    end;
    if total is not null and nextval(sequence_of(type, 'writes')) = 1 then
        perform note_writes(type, true, 0);
    end if;
    return total;
end
$$;

comment on function pgcache_internal.add_to(text, text, numeric, boolean, interval, boolean, boolean) is
'What cache_incr (whole) and cache_incr_float do. Errors: PC004 a type without counters, PC011; as cache_set.';

select pgcache_internal.define($frame$
create or replace function pgcache_internal.put_sum(
    type text, key text, by numeric, whole boolean, moment timestamptz, expires timestamptz, keep_expiry boolean,
    create_if_missing boolean
) returns numeric
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $body$
#variable_conflict use_variable
declare
    tenant constant text := current_tenant();
    total numeric;
begin
    if @branches    end if;
    return total;
end
$body$;
comment on function pgcache_internal.put_sum(
    text, text, numeric, boolean, timestamptz, timestamptz, boolean, boolean
) is
'Adds to a counter and returns the sum; NULL if there was none and it is not to be created.';
$frame$, $branch$@counts{type = '@type' then
        if not create_if_missing then
            perform from @table t
            where t.tenant = tenant and t.cache_key = key
                and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment)
            for update;
            if not found then
                return null;
            end if;
        end if;
        insert into @table as t (tenant, cache_key, @columns, created_at, expires_at, last_accessed_at, hit_weight)
        select tenant, key, @first_sum, moment, expires, moment, type_hit_weight('@type')
        on conflict on constraint @pkey do update
        set @new_sum, (created_at, expires_at, cache_tags, cache_epoch, cache_stale_until, cache_compute_ms) = (
                select
                    case when l.live then t.created_at else excluded.created_at end,
                    case when l.live and keep_expiry then t.expires_at else excluded.expires_at end,
                    case when l.live then t.cache_tags end,
                    case when l.live then t.cache_epoch end,
                    case when l.live then t.cache_stale_until end,
                    case when l.live then t.cache_compute_ms end
                from (select is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment) as live) l
            ),
            last_accessed_at = excluded.last_accessed_at
        returning @sum into total;
}$branch$);

create or replace function pgcache_internal.sum_of(
    counter text, live boolean, by numeric, whole boolean
) returns numeric
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when not live then by
        when whole then (counter::bigint operator(pg_catalog.+) by::bigint)::numeric
        else counter::numeric operator(pg_catalog.+) by
    end
$$;

comment on function pgcache_internal.sum_of(text, boolean, numeric, boolean) is
'A counter, as text, and what is added; the latter alone if the counter is not live. Errors: 22P02, 22003.';
