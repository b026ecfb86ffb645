-- What clients call instead of cache_fetch. They wait between calls, not in one, so that who waits holds no connection;
-- they keep expired values for the case that a computation fails; and they need to know more of who computes.

create or replace function pgcache_internal.client_fetch(
    type text, key text, tags text[], stale_for interval, stale_if_error interval, lease interval, again boolean,
    max_age interval default null, waited interval default null,
    out value jsonb, out state text, out token bigint, out servable boolean, out spare boolean,
    out held_since timestamptz
)
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
begin
    if max_age is not null then
        select f.value, f.state, f.token into value, state, token from pgcache_internal.fetch_younger(
            type, key, tags, greatest(stale_for, stale_if_error), lease, again,
            max_age operator(pg_catalog.+) coalesce(waited, interval '0')
        ) f;
    elsif again then
        select f.value, f.state, f.token into value, state, token from pgcache_internal.fetch_missing(
            type, key, tags, greatest(stale_for, stale_if_error), interval '0', lease
        ) f;
    else
        select f.value, f.state, f.token into value, state, token from pgcache.cache_fetch(
            type, key, tags, greatest(stale_for, stale_if_error), interval '0', lease
        ) f;
    end if;
    if state operator(pg_catalog.<>) 'fresh' and state operator(pg_catalog.<>) 'won' then
        select w.state, w.servable, w.spare, w.held_since into state, servable, spare, held_since
        from pgcache_internal.weigh(type, key, stale_for, stale_if_error, state) w;
    end if;
end
$$;

comment on function pgcache_internal.client_fetch(
    text, text, text[], interval, interval, interval, boolean, interval, interval
) is
'cache_fetch for clients, which does not wait. stale_if_error: how long past its end a value may be returned if it'
' cannot be computed. again: not the first time that this caller asks, so it counts as neither hit nor miss. max_age:'
' what is older, and waited, for how long this caller has asked already, is not returned. state: as cache_fetch, or'
' failed: there is nothing to return, and to compute it has failed lately. servable: the value may be returned while'
' one computes; spare: if to compute it fails. held_since: when the one who is busy began, NULL if that is not'
' committed yet. Errors: as cache_fetch.';

create or replace function pgcache_internal.is_older(type text, key text, max_age interval) returns boolean
language plpgsql volatile parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    older boolean;
begin
    perform check_duration('max_age', max_age, interval '0', interval '10000 years');
    if is_readable(type) then
        execute format(
            'select t.created_at <= $3 - $4 from %s t where t.tenant = $1 and t.cache_key = $2', registered.relation
        )
        into older using tenant_here(), key, cache_now(), max_age;
    end if;
    return coalesce(older, false);
end
$$;

comment on function pgcache_internal.is_older(text, text, interval) is
'Whether there is an entry that was stored longer ago. Errors: PC001, PC003.';

create or replace function pgcache_internal.get_younger(type text, key text, max_age interval) returns jsonb
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if is_older(type, key, max_age) then
        perform count_miss(type, key);
        return null;
    end if;
    return cache_get(type, key);
end
$$;

comment on function pgcache_internal.get_younger(text, text, interval) is
'cache_get, to which an entry that was stored longer ago is a miss. Errors: as cache_get, PC003.';

create or replace function pgcache_internal.fetch_younger(
    type text, key text, tags text[], stale_for interval, lease interval, again boolean, max_age interval,
    out value jsonb, out state text, out token bigint
)
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    leasable constant boolean := may_lease(type);
begin
    perform check_lease(tags, stale_for, lease);
    if not again then
        value := get_younger(type, key, max_age);
    end if;
    if value is null and leasable then
        token := claim_lease(type, key, tags, stale_for, interval '0', lease);
    end if;
    if value is null and not is_older(type, key, max_age) then  -- it may have been stored since
        value := (select p.value from peek(type, key, '0') p where p.live);
        if value is not null then
            perform cache_release(type, key, token);
            token := null;
        end if;
    end if;
    state := case
        when value is not null then 'fresh'
        when token is not null or not leasable then 'won'
        else 'busy'
    end;
end
$$;

comment on function pgcache_internal.fetch_younger(text, text, text[], interval, interval, boolean, interval) is
'What client_fetch does where an entry that was stored longer ago is a miss, and not to be returned meanwhile.';

create or replace function pgcache_internal.weigh(
    type text, key text, stale_for interval, stale_if_error interval, inout state text,
    out servable boolean, out spare boolean, out held_since timestamptz
)
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    moment constant timestamptz := cache_now();
    tenant constant text := tenant_here();
    failed boolean;
begin
    if starts_with(state, 'stale') then
        execute format($sql$
            select is_live(t.expires_at + coalesce($3, '0'), null, null, null, $5),
                is_live(t.expires_at + coalesce($4, '0'), null, null, null, $5)
            from %s t where t.tenant = $1 and t.cache_key = $2
            $sql$, (check_type(type)).relation)
        into servable, spare using tenant, key, stale_for, stale_if_error, moment;
    end if;
    if state in ('stale', 'busy') then
        select l.claimed_at, l.token = 0 into held_since, failed from leases l
        where l.type = type and l.tenant = tenant and l.cache_key = key and l.deadline > moment;
        state := case
            when servable or spare and failed then 'stale'
            when failed then 'failed'
            else 'busy'
        end;
    end if;
end
$$;

comment on function pgcache_internal.weigh(text, text, interval, interval, text) is
'What client_fetch finds out about an expired value, and about who computes it.';

create or replace function pgcache_internal.claim_anew(
    type text, key text, tags text[], stale_for interval, stale_if_error interval, lease interval
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '1s'
as $$
#variable_conflict use_variable
declare
    tenant constant text := tenant_here();
    token bigint;
begin
    perform check_type(type), check_key(key), check_lease(tags, greatest(stale_for, stale_if_error), lease);
    if not may_lease(type) then
        return null;
    end if;
    for attempt in 1..3 loop  -- another one may claim it for the first time in between
        update leases l set deadline = '-infinity'
        where l.type = type and l.tenant = tenant and l.cache_key = key;
        token := claim_lease(
            type, key, tags, greatest(stale_for, stale_if_error), interval '1 second', lease
        );
        exit when token is not null;
    end loop;
    return coalesce(token, 0);
exception when lock_not_available then
    return 0;
end
$$;

comment on function pgcache_internal.claim_anew(text, text, text[], interval, interval, interval) is
'Claims the lease of an entry from whoever has it, and though the entry is live: for who knows that it has to be'
' computed anew. The token; NULL as in cache_fetch; 0 if another transaction has the lease and goes on. The rest is as'
' in client_fetch.';

create or replace function pgcache_internal.hold_lease(
    type text, key text, token bigint, pause interval
) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    tenant constant text := tenant_here();
begin
    perform check_type(type), check_writable(),
        check_duration('pause', pause, interval '1 millisecond', longest_lease());
    update leases l set token = 0, seen = null, deadline = cache_now() + pause
    where l.type = type and l.tenant = tenant and l.cache_key = key and l.token = token;
    return found;
end
$$;

comment on function pgcache_internal.hold_lease(text, text, bigint, interval) is
'Gives a lease back after the computation has failed, so that nobody computes for that long; true if it was still this'
' one''s. Errors: PC001, PC003, 25006, 42501.';
