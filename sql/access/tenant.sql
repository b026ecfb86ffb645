-- The tenant whose entries a call sees.

create or replace function pgcache_internal.current_tenant() returns text
language sql stable parallel safe  -- not pinned: inlined
as $$ select coalesce(pg_catalog.current_setting('pgcache.tenant', true), '') $$;

comment on function pgcache_internal.current_tenant() is
'The tenant whose entries the generic calls see: the setting pgcache.tenant, '''' (the shared tenant) if unset.';

create or replace function pgcache_internal.is_tenant() returns boolean
language sql stable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.octet_length(pgcache_internal.current_tenant()) <= 1024 $$;

comment on function pgcache_internal.is_tenant() is
'Whether entries may be stored for the current tenant: its name has 1024 bytes at most, so that index rows fit a page.';

create or replace function pgcache_internal.check_tenant() returns void
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not is_tenant() then
        raise exception using errcode = 'PC002',
            message = format('a tenant of %s bytes is too long: the limit is 1024', octet_length(current_tenant())),
            hint = 'Hash it: cache_key(long_text) returns 64 hex digits for texts of any length.';
    end if;
end
$$;

comment on function pgcache_internal.check_tenant() is 'Errors: PC002 for a current tenant of over 1024 bytes.';

-- The caches of images name their tenant in the call; the setting is put back, so that it does not outlive the call
-- (after an error, by the rollback). A SET clause would do that too, but only superusers may create one for a setting
-- that no extension has defined.
create or replace function pgcache_internal.get_for_tenant(tenant text, type text, key text) returns jsonb
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
declare
    caller constant text := pgcache_internal.current_tenant();
    found_value jsonb;
begin
    perform pg_catalog.set_config('pgcache.tenant', coalesce(tenant, ''), true);
    found_value := pgcache.cache_get(type, key);
    perform pg_catalog.set_config('pgcache.tenant', caller, true);
    return found_value;
end
$$;

comment on function pgcache_internal.get_for_tenant(text, text, text) is
'cache_get for a tenant that is named in the call; the setting pgcache.tenant is as before afterwards.';

create or replace function pgcache_internal.set_for_tenant(
    tenant text, type text, key text, value jsonb, ttl interval
) returns boolean
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
declare
    caller constant text := pgcache_internal.current_tenant();
    stored boolean;
begin
    perform pg_catalog.set_config('pgcache.tenant', coalesce(tenant, ''), true);
    stored := pgcache.cache_set(type, key, value, ttl);
    perform pg_catalog.set_config('pgcache.tenant', caller, true);
    return stored;
end
$$;

comment on function pgcache_internal.set_for_tenant(text, text, text, jsonb, interval) is
'cache_set for a tenant that is named in the call; the setting pgcache.tenant is as before afterwards.';
