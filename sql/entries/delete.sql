-- Invalidation. All of it is transactional: after the commit no reader on this server gets the old value, after a
-- rollback nothing was lost.

create or replace function pgcache.cache_delete(type text, key text) returns boolean
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select cache_delete_many(type, array[key]) > 0 $$;

comment on function pgcache.cache_delete(text, text) is
'Removes an entry of the current tenant; true if there was a live one. Errors: PC001, PC002, 25006.';

create or replace function pgcache.cache_delete_many(type text, keys text[]) returns bigint
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select delete_where(type, own_entries() || ' and t.cache_key = any($1)', check_keys(keys)) $$;

comment on function pgcache.cache_delete_many(text, text[]) is
'Removes many entries of the current tenant; returns how many live ones there were. Errors: PC001, PC002, 25006.';

-- condition comes from this file only, never from a caller; what callers pass is $1.
create or replace function pgcache_internal.delete_where(type text, condition text, arguments text[]) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
    removed bigint;
begin
    perform check_writable();
    execute format($sql$
        with gone as (delete from %s t where %s returning t.expires_at)
        select count(*) from gone g where g.expires_at is null or g.expires_at > $2
        $sql$, registered.relation, condition)
    into removed using arguments, cache_now();
    return removed;
end
$$;

comment on function pgcache_internal.delete_where(text, text, text[]) is
'Removes the entries that meet a condition on t and $1; returns how many live ones there were.';

create or replace function pgcache.cache_delete_pattern(type text, pattern text) returns bigint
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select delete_where(
        type, own_entries() || format(' and t.cache_key like %L', check_pattern(pattern)), null
    )
$$;

comment on function pgcache.cache_delete_pattern(text, text) is
'Removes the current tenant''s entries whose key matches a LIKE pattern (\% and \_ are literal; a pattern with a fixed'
' beginning uses the index); returns how many live ones there were. Errors: PC001, PC006, 25006.';

create or replace function pgcache.cache_clear(type text) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    removed constant bigint := delete_where(type, reach(), null);
begin
    perform take_lines(type, reach());
    return removed;
end
$$;

comment on function pgcache.cache_clear(text) is
'Removes all entries of a type: with pgcache.tenant set, that tenant''s only. Returns how many live ones there were.'
' Errors: PC001, 25006.';

create or replace function pgcache.cache_clear_all() returns bigint
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select coalesce(sum(cache_clear(t.type)), 0)::bigint from types_here() t $$;

comment on function pgcache.cache_clear_all() is
'Removes all entries of all types: with pgcache.tenant set, that tenant''s only. Returns how many live ones there were.'
' Errors: 25006.';

create or replace function pgcache.cache_invalidate_tenant(tenant text) returns bigint
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select coalesce(sum(delete_where(t.type, 't.tenant = $1[1]', array[g.tenant])), 0)::bigint
    from (select check_may_name(check_given('tenant', tenant)) as tenant) g cross join types_here() t
$$;

comment on function pgcache.cache_invalidate_tenant(text) is
'Removes all entries of a tenant in all types; returns how many live ones there were. Errors: PC002 for NULL, 25006.';

create or replace function pgcache.cache_invalidate_user(user_id text) returns bigint
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select sum(delete_where(
        t.type, own_entries() || ' and coalesce(t.user_id, '''') = $1[1]',
        array[check_given('user', user_id)]
    ))::bigint
    from types_here() t
    where t.fields ->> 'user_id' ~ '^string'
$$;

comment on function pgcache.cache_invalidate_user(text) is
'Removes a user''s entries in the current tenant, of all types that have a field user_id that is a string: vector'
' searches, and your own such types. Returns how many live ones there were. '''': those of no user. Errors: PC002 for'
' NULL, 25006.';

create or replace function pgcache.cleanup_old_cache_entries(days bigint) returns table (type text, deleted bigint)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if days between 0 and 1000000 is not true then
        raise exception using errcode = 'PC003',
            message = format('%s days is not an age', coalesce(days::text, 'NULL')),
            hint = 'Pass how many days of entries to keep: SELECT * FROM cleanup_old_cache_entries(7)';
    end if;
    return query
    select t.type, delete_where(
        t.type, format('%s and t.created_at < %L', reach(), cache_now() - make_interval(days => days::integer)), null
    )
    from types_here() t
    order by t.type;
end
$$;

comment on function pgcache.cleanup_old_cache_entries(bigint) is
'Removes the entries of all types that were stored more than days days ago: with pgcache.tenant set, that tenant''s'
' only; one row a type with the number of live ones removed. Errors: PC003, 25006, 42501.';
