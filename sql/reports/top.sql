create or replace function pgcache_internal.top_entries(per_type integer default 10) returns table (
    type text, tenant text, cache_key text, hit_count bigint, bytes bigint, created_at timestamptz,
    last_accessed_at timestamptz, expires_at timestamptz
)
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    registered types;
begin
    perform check_rows(per_type);
    for registered in select * from types_here() t order by t.type loop
        continue when not is_readable(registered.type);
        return query execute format($sql$
            select $1, t.tenant, t.cache_key, t.hit_count, (%s)::bigint, t.created_at, t.last_accessed_at, t.expires_at
            from %s t where t.expires_at is null or t.expires_at > $2
            order by t.hit_count desc, t.last_accessed_at desc limit $3
            $sql$, entry_size(registered.fields), registered.relation)
        using registered.type, cache_now(), per_type;
    end loop;
end
$$;

comment on function pgcache_internal.top_entries(integer) is
'The live entries with the most hits, per_type of each type (default 10), as of the last upkeep. Errors: PC010.';

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

comment on view pgcache.cache_top is 'The ten live entries of each type with the most hits, as of the last upkeep.';

create or replace function pgcache.cache_trim(type text, keep bigint) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
    removed bigint;
begin
    perform check_writable();
    if keep is null or keep < 0 then
        raise exception using errcode = 'PC010',
            message = format('cannot keep %s entries', coalesce(keep::text, 'NULL')),
            hint = 'Pass how many entries to keep, 0 or more.';
    end if;
    perform fold_hits(1000000);
    execute format($sql$
        with gone as (
            delete from %1$s t where t.ctid = any(array(
                select l.ctid from %1$s l where l.ctid = any(array(
                    select o.ctid from %1$s o order by o.last_accessed_at desc, o.id desc offset $1
                )) for update skip locked
            )) returning 1
        ) select count(*) from gone
        $sql$, registered.relation) into removed using keep;
    perform advance(type, 'evicted', removed), measure(type);
    return removed;
end
$$;

comment on function pgcache.cache_trim(text, bigint) is
'Keeps the entries of a type that were read or written last, as many as said, and removes the others; returns how many. Exact, and sorts the whole table: limits (cache_configure) hold at less cost. Errors: PC001, PC010, 25006.';
