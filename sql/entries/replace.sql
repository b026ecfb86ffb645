-- Writes that depend on the value that is there; on whether it has changed since, see freshness/leases.sql.

create or replace function pgcache.cache_replace(
    type text, key text, value jsonb, ttl interval default null, expected jsonb default null,
    keep_ttl boolean default false
) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    expires timestamptz;
begin
    perform check_key(key), expiry(cache_now(), ttl, registered.ttl), check_writable();
    if ttl is not null and keep_ttl then
        raise exception using errcode = 'PC003',
            message = 'an entry keeps its ttl, or gets another one, not both',
            hint = 'Pass ttl, or keep_ttl => true.';
    elsif not value_fits(type, value) then
        perform reject_value(type, value);
    end if;
    execute format(
        'select coalesce(t.expires_at, ''infinity'') from %s t where t.tenant = $1 and t.cache_key = $2 and %s'
        ' and ($4 is null or %s = $4) for update',
        registered.relation, 'is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $3)',
        value_of(type, registered.fields)
    )
    into expires using tenant_here(), key, cache_now(), expected;
    if expires is null or not put(type, key, value, ttl, true) then
        return false;
    end if;
    if keep_ttl then
        perform set_expiry(type, key, nullif(expires, 'infinity'));
    end if;
    return true;
end
$$;

comment on function pgcache.cache_replace(text, text, jsonb, interval, jsonb, boolean) is
'Stores a value only if there is a live entry and, if expected is given, its value is that (compare and set); true if'
' it did. The entry has no tags after it. keep_ttl: it expires when the old one would have. Errors: as cache_set.';

create or replace function pgcache.cache_delete_if(type text, key text, expected jsonb) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    condition constant text := own_entries() || format(
        ' and t.cache_key = $1[1] and %s = $1[2]::jsonb', value_of(type, registered.fields)
    );
    is_there boolean;
begin
    perform check_key(key), check_writable();
    if expected is null then
        perform reject_value(type, null);
    end if;
    -- Before its lease is voided, which would keep who computes it from storing.
    execute format('select exists (select from %s t where %s)', registered.relation, condition)
    into is_there using array[key, expected::text];
    if is_there then
        perform void_leases(type, tenant_here(), array[key]);
        return delete_where(type, condition, array[key, expected::text]) > 0;
    end if;
    return false;
end
$$;

comment on function pgcache.cache_delete_if(text, text, jsonb) is
'Removes an entry only if its value is this one; true if it did. So who has taken a lock gives back no other one''s.'
' Errors: PC001, PC002, PC004 for NULL, 25006.';
