create or replace function pgcache_internal.top_entries(per_type integer default 10) returns table (
    type text, tenant text, cache_key text, hit_count bigint, bytes bigint, created_at timestamptz,
    last_accessed_at timestamptz, expires_at timestamptz
)
language plpgsql stable parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    tenants constant text[] := tenants_of_caller();
    registered types;
begin
    perform check_rows(per_type);
    for registered in select * from types_here() t order by t.type loop
        continue when not is_readable(registered.type);
        return query execute format($sql$
            select $1, t.tenant, t.cache_key, t.hit_count, (%s)::bigint, t.created_at, t.last_accessed_at, t.expires_at
            from %s t
            where ($4 is null or t.tenant = any($4))
                and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $2)
            order by t.hit_count desc, t.last_accessed_at desc limit $3
            $sql$, entry_size(registered.fields), registered.relation)
        using registered.type, cache_now(), per_type, tenants;
    end loop;
end
$$;

comment on function pgcache_internal.top_entries(integer) is
'The live entries with the most hits, per_type of each type (default 10), as of the last upkeep; of the tenants that'
' the caller may see. Errors: PC010.';

create or replace view pgcache.cache_top as
select
    t.type,
    t.tenant,
    t.cache_key,
    t.hit_count,
    t.bytes,
    t.created_at,
    t.last_accessed_at,
    t.expires_at
from pgcache_internal.top_entries() as t;

comment on view pgcache.cache_top is
'The ten live entries of each type with the most hits, as of the last upkeep, of the tenants that you may see.';
