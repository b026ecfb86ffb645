-- One entry, other than by its value. These go through the registry (dynamic SQL): they are not the hot path.

create or replace function pgcache.cache_entry(type text, key text) returns table (
    tenant text, cache_key text, created_at timestamptz, expires_at timestamptz, ttl interval,
    last_accessed_at timestamptz, hit_count bigint, bytes bigint, expired boolean
)
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    registered constant types := check_type(type);
begin
    perform check_key(key);
    if not is_readable(type) then
        return;
    end if;
    return query execute format($sql$
        select t.tenant, t.cache_key, t.created_at, t.expires_at, t.expires_at - $3, t.last_accessed_at,
            as_count(t.hit_count::numeric + coalesce((%s), 0)), (%s)::bigint,
            not is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $3)
        from %s t where t.tenant = $1 and t.cache_key = $2
        $sql$,
        case
            when pg_is_in_recovery() then '0'  -- the log is UNLOGGED: on a standby it may not even be named
            else
                'select sum(l.weight) from hit_log l'
                ' where l.type = $4 and l.tenant = t.tenant and l.cache_key = t.cache_key'
        end,
        entry_size(registered.fields), registered.relation)
    using tenant_here(), key, cache_now(), type;
end
$$;

comment on function pgcache.cache_entry(text, text) is
'The metadata of an entry of the current tenant, also of one that has expired, or whose tags were invalidated, and that'
' still waits for clean-up (expired = true). No row if there is none. Errors: PC001, PC002.';

create or replace function pgcache_internal.live_expiry(type text, key text) returns setof timestamptz
language plpgsql volatile parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
begin
    perform check_key(key);
    if is_readable(type) then
        return query execute format($sql$
            select t.expires_at from %s t
            where t.tenant = $1 and t.cache_key = $2
                and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $3)
            $sql$, registered.relation)
        using tenant_here(), key, cache_now();
    end if;
end
$$;

comment on function pgcache_internal.live_expiry(text, text) is
'One row if there is such an entry: when it expires, NULL for never. Errors: PC001, PC002, 42501.';

create or replace function pgcache.cache_exists(type text, key text) returns boolean
language plpgsql volatile parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform from live_expiry(type, key);
    return found;
end
$$;

comment on function pgcache.cache_exists(text, text) is
'Whether a get would hit; counts neither as a hit nor as a miss. Errors: PC001, PC002.';

create or replace function pgcache.cache_ttl(type text, key text) returns interval
language sql volatile parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select e - cache_now() from live_expiry(type, key) e $$;

comment on function pgcache.cache_ttl(text, text) is
'How long an entry still has; NULL if it never expires or is not there (cache_exists tells which). Errors: PC001,'
' PC002.';

create or replace function pgcache.cache_get_with_ttl(type text, key text, out value jsonb, out ttl interval)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    value := cache_get(type, key);
    if value is not null then
        select coalesce(e - cache_now(), cache_never()) into ttl from live_expiry(type, key) e;
        if not found then
            ttl := interval '0';  -- it has gone since
        end if;
    end if;
end
$$;

comment on function pgcache.cache_get_with_ttl(text, text) is
'cache_get, and how long the entry still has: cache_never() if it never expires; both NULL on a miss. Errors: as'
' cache_get.';

create or replace function pgcache_internal.set_expiry(type text, key text, expires timestamptz) returns boolean
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
    changed bigint;
begin
    perform check_key(key);
    perform check_writable();
    execute format($sql$
        update %s t set expires_at = $1, cache_stale_until = $1 + (t.cache_stale_until - t.expires_at)
        where t.tenant = $2 and t.cache_key = $3
            and is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $4)
        $sql$, registered.relation)
    using expires, tenant_here(), key, cache_now();
    get diagnostics changed = row_count;
    return changed > 0;
end
$$;

comment on function pgcache_internal.set_expiry(text, text, timestamptz) is
'Changes when a live entry expires (NULL = never); true if there is one.';

create or replace function pgcache.cache_touch(type text, key text, ttl interval default null) returns boolean
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select set_expiry(type, key, expiry(cache_now(), ttl, (check_type(type)).ttl)) $$;

comment on function pgcache.cache_touch(text, text, interval) is
'Lets a live entry expire ttl (default: the type''s) from now; true if there is one. Errors: PC001, PC002, PC003,'
' 25006.';

create or replace function pgcache.cache_persist(type text, key text) returns boolean
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select set_expiry(type, key, null) $$;

comment on function pgcache.cache_persist(text, text) is
'Lets a live entry never expire; true if there is one. Errors: PC001, PC002, 25006.';
