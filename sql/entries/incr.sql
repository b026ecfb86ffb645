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
    moment constant timestamptz := cache_now();
    expires constant timestamptz := expiry(moment, ttl, registered.ttl);
    total numeric;
begin
    perform check_key(key), check_tenant(), check_writable();
    if registered.fields is not null then
        raise exception using errcode = 'PC004',
            message = format('the type %s holds no counters', type),
            hint = 'Count in ''store'' or in a JSON type of your own: SELECT cache_create_type(''counters'').';
    elsif jsonb_typeof(to_jsonb(by)) = 'number' is not true then
        raise exception using errcode = 'PC011',
            message = format('cannot increment by %s', coalesce(by::text, 'NULL')),
            hint = 'Pass a number; it may be negative.';
    elsif not registered.enabled or registered.eviction = 'none' and not admit(type, key) then
        return null;
    end if;
    if not create_if_missing then
        perform from cache_store t
        where t.type = type and t.tenant = current_tenant() and t.cache_key = key
            and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment)
        for update;
        if not found then
            return null;
        end if;
    end if;
    if tenant_is_limited(type, current_tenant()) then
        perform admit_tenant(type, key, current_tenant());
    end if;
    begin
        insert into cache_store as t (
            type, tenant, cache_key, data, created_at, expires_at, last_accessed_at, hit_weight
        )
        values (
            type, current_tenant(), key, to_jsonb(by), moment, expires, moment,
            hit_weight_at(registered.hit_tracking, 0)
        )
        on conflict on constraint cache_store_pkey do update
        set (data, created_at, expires_at, cache_tags, cache_epoch, cache_stale_until, cache_compute_ms) = (
                select
                    case
                        when not l.live then excluded.data
                        when whole then to_jsonb(t.data::text::bigint + by::bigint)
                        else to_jsonb(t.data::text::numeric + by)
                    end,
                    case when l.live then t.created_at else excluded.created_at end,
                    case when l.live and (ttl is null or keep_ttl) then t.expires_at else excluded.expires_at end,
                    case when l.live then t.cache_tags end,
                    case when l.live then t.cache_epoch end,
                    case when l.live then t.cache_stale_until end,
                    case when l.live then t.cache_compute_ms end
                from (select is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment) as live) l
            ),
            last_accessed_at = excluded.last_accessed_at
        returning t.data::text::numeric into total;
    exception when invalid_text_representation or numeric_value_out_of_range then
        raise exception using errcode = 'PC011',
            message = format('the value under %L cannot be incremented:'
                ' it is not a %snumber, or the sum is out of range', key, case when whole then 'whole ' else '' end),
            hint = case when whole then 'cache_incr counts 64-bit whole numbers, cache_incr_float any. ' else '' end
                || 'See the value with cache_get, replace it with cache_set.';
    when check_violation then  -- there is no partition for it: it has just been dropped
        perform check_type(type);
        raise;
    end;
    if nextval(sequence_of(type, 'writes')) = 1 then
        perform note_writes(type, true, 0);
    end if;
    return total;
end
$$;

comment on function pgcache_internal.add_to(text, text, numeric, boolean, interval, boolean, boolean) is
'What cache_incr (whole) and cache_incr_float do. Errors: PC004 a type without counters, PC011; as cache_set.';
