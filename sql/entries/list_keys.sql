-- Which entries there are.

create or replace function pgcache.cache_keys(
    type text, pattern text default '%', max_keys bigint default 1000
) returns setof text
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- as cache_delete_pattern
set jit to off
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

-- By the beginning of keys, which callers need not escape: namespaces.

create or replace function pgcache_internal.pattern_of(prefix text) returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if prefix is null then
        raise exception using errcode = 'PC006',
            message = 'the prefix of keys is NULL',
            hint = 'Pass what the keys begin with; '''' is every key.';
    end if;
    return check_pattern(replace(replace(replace(prefix, e'\\', e'\\\\'), '%', e'\\%'), '_', e'\\_') || '%');
end
$$;

comment on function pgcache_internal.pattern_of(text) is
'The LIKE pattern of the keys that begin with a text. Errors: PC006 for NULL.';

create or replace function pgcache.cache_scan(
    type text, prefix text default '', after text default null, max_entries bigint default 1000
) returns table (key text, value jsonb, ttl interval)
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- as cache_delete_pattern
set jit to off
as $$
#variable_conflict use_column
declare
    registered constant types := check_type(type);
    pattern constant text := pattern_of(prefix);
begin
    perform check_rows(max_entries);
    if is_readable(type) then
        return query execute format($sql$
            select t.cache_key, %s, t.expires_at - $2 from %s t
            where t.tenant = $1 and t.cache_key like %L and ($3 is null or t.cache_key > $3)
                and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $2)
            order by t.cache_key limit $4
            $sql$, value_of(type, registered.fields), registered.relation, pattern)
        using tenant_here(), cache_now(), after, max_entries;
    end if;
end
$$;

comment on function pgcache.cache_scan(text, text, text, bigint) is
'The current tenant''s live entries whose keys begin with prefix, in byte order of the keys, max_entries at most'
' (default 1000, NULL = all), those after the key `after`: a page, whose last key is the next one''s `after`. ttl: what'
' is left, NULL for never. Counts no hits. Errors: PC001, PC006, PC010.';

create or replace function pgcache.cache_count(type text, prefix text default '') returns bigint
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- as cache_delete_pattern
set jit to off
as $$
declare
    registered constant types := check_type(type);
    pattern constant text := pattern_of(prefix);
    found_entries bigint := 0;
begin
    if is_readable(type) then
        execute format($sql$
            select count(*) from %s t
            where t.tenant = $1 and t.cache_key like %L
                and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $2)
            $sql$, registered.relation, pattern)
        into found_entries using tenant_here(), cache_now();
    end if;
    return found_entries;
end
$$;

comment on function pgcache.cache_count(text, text) is
'How many live entries of the current tenant have keys that begin with prefix. Errors: PC001, PC006.';

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
