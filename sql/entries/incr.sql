-- Counters.

create or replace function pgcache.cache_incr(
    type text, key text, by bigint default 1, ttl interval default null
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    moment constant timestamptz := cache_now();
    expires constant timestamptz := expiry(moment, ttl, registered.ttl);
    total bigint;
begin
    perform check_key(key), check_tenant(), check_writable();
    if registered.fields is not null then
        raise exception using errcode = 'PC004',
            message = format('the type %s holds no counters', type),
            hint = 'Count in ''store'' or in a JSON type of your own: SELECT cache_create_type(''counters'').';
    elsif by is null then
        raise exception using errcode = 'PC011',
            message = 'cannot increment by NULL',
            hint = 'Pass a whole number; it may be negative.';
    elsif not registered.enabled or registered.eviction = 'none' and not admit(type, key) then
        return null;
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
                    case when l.live then to_jsonb(t.data::text::bigint + by) else excluded.data end,
                    case when l.live then t.created_at else excluded.created_at end,
                    case when l.live and ttl is null then t.expires_at else excluded.expires_at end,
                    case when l.live then t.cache_tags end,
                    case when l.live then t.cache_epoch end,
                    case when l.live then t.cache_stale_until end,
                    case when l.live then t.cache_compute_ms end
                from (select is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment) as live) l
            ),
            last_accessed_at = excluded.last_accessed_at
        returning t.data::text::bigint into total;
    exception when invalid_text_representation or numeric_value_out_of_range then
        raise exception using errcode = 'PC011',
            message = format('the value under %L cannot be incremented:'
                ' it is not a whole number, or the sum is out of range', key),
            hint = 'cache_incr counts in 64-bit whole numbers;'
                ' see the value with cache_get, replace it with cache_set.';
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

comment on function pgcache.cache_incr(text, text, bigint, interval) is
'Adds by (default 1, may be negative) to a counter and returns the sum; a missing or expired one starts at 0. A live'
' counter keeps its expiry unless ttl is given. NULL if the type is disabled. Errors: PC011 not a whole number; as'
' cache_set.';
