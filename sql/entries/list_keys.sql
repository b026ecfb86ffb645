-- Which entries there are.

create or replace function pgcache.cache_keys(
    type text, pattern text default '%', max_keys bigint default 1000
) returns setof text
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
begin
    perform check_pattern(pattern), check_rows(max_keys);
    if not is_readable(type) then
        return;
    end if;
    return query execute format($sql$
        select t.cache_key from %s t
        where t.tenant = $1 and t.cache_key like %L and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $2)
        order by t.cache_key limit $3
        $sql$, registered.relation, pattern)
    using tenant_here(), cache_now(), max_keys;
end
$$;

comment on function pgcache.cache_keys(text, text, bigint) is
'The keys of the current tenant''s live entries that match a LIKE pattern, in byte order, max_keys at most (default'
' 1000, NULL = all). Errors: PC001, PC006, PC010.';

create or replace function pgcache.get_all_cache_keys(
    max_keys bigint default 1000
) returns table (type text, cache_key text)
language sql stable parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select t.type, k
    from types_here() t cross join lateral cache_keys(t.type, '%', max_keys) k
    order by 1, 2 limit check_rows(max_keys)
$$;

comment on function pgcache.get_all_cache_keys(bigint) is
'The keys of the current tenant''s live entries of all types, max_keys at most. Errors: PC010.';
