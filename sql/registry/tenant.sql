create or replace function pgcache_internal.current_tenant() returns text
language sql stable parallel safe  -- not pinned: inlined
as $$ select coalesce(pg_catalog.current_setting('pgcache.tenant', true), '') $$;

comment on function pgcache_internal.current_tenant() is
'The tenant whose entries the generic calls see: the setting pgcache.tenant, '''' (the shared tenant) if unset.';
