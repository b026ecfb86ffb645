create or replace function pgcache.current_tenant() returns text
language sql stable parallel safe
as $$ select coalesce(pg_catalog.current_setting('pgcache.tenant', true), '') $$;

comment on function pgcache.current_tenant() is
'The tenant whose entries the generic calls see: the setting pgcache.tenant, '''' (the shared tenant) if unset.';
