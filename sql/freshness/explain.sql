-- Why a get hits or misses now.

create or replace function pgcache.cache_explain(type text, key text) returns table (outcome text, reason text)
language plpgsql volatile parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    tenant constant text := tenant_here();
    moment constant timestamptz := cache_now();
    readable constant boolean := is_readable(type);
    created_at timestamptz;  -- of the entry; NULL: none
    expires_at timestamptz;
    tags text[];
    epoch bigint;
    hits bigint;
    cause text;
begin
    perform check_key(key);
    if readable then
        execute format(
            'select t.created_at, t.expires_at, t.cache_tags, t.cache_epoch, t.hit_count from %s t'
            ' where t.tenant = $1 and t.cache_key = $2', registered.relation
        )
        into created_at, expires_at, tags, epoch, hits using tenant, key;
        if created_at is null then
            cause := 'absent: nothing is stored with this key for this tenant';
        elsif expires_at <= moment then
            cause := format('expired since %s', expires_at);
        elsif not is_live(null, tags, tenant, epoch, moment) then
            cause := 'invalid: ' || why_invalid(tenant, tags, epoch);
        end if;
    else
        cause := format('the type %s is UNLOGGED, of which a standby has nothing', type);
    end if;
    outcome := case when cause is null then 'hit' else 'miss' end;
    reason := coalesce(cause, 'stored at ' || created_at);
    return next;
    outcome := 'note';
    for reason in
        select n.reason
        from (
            select 1, 'stored at ' || created_at where cause is not null
            union all
            select 2, coalesce('expires at ' || expires_at, 'never expires')
            where created_at is not null and cause is null
            union all
            select 3, 'tags: ' || array_to_string(tags, ', ') where tags is not null
            union all
            select 4, format('hits as of the last upkeep: %s', hits) where created_at is not null
            union all
            select 5, format('the type %s is disabled: nothing is stored in it', type) where not registered.enabled
            union all
            select 6, l.reason from lease_of(type, tenant, key, moment) l (reason)
            union all
            select 7, o.reason from elsewhere(registered, tenant, key) o (reason)
            where created_at is null and readable
            union all
            select 8, f.reason from fullness(registered) f (reason)
            where created_at is null and not pg_is_in_recovery()
        ) n (place, reason)
        where n.reason is not null
        order by n.place
    loop
        return next;
    end loop;
end
$$;

comment on function pgcache.cache_explain(text, text) is
'Why a get of the current tenant hits or misses now. The first row is the outcome, hit or miss, with its cause: absent,'
' expired, or invalid, by which tag, when, and whose doing; further ones, note, tell when it expires, its tags and'
' hits, who is computing it, whether another tenant has such an entry (where the caller may see that one''s), whether'
' the type is disabled or full. Counts nothing, writes nothing. Errors: PC001, PC002, 42501.';

-- The bumps that the entry has not are the latest ones, by their times; their XOR is what its epoch lacks.
create or replace function pgcache_internal.why_invalid(tenant text, tags text[], epoch bigint) returns text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    lacking constant bigint := tags_epoch(tenant, tags) # epoch;
    found_bump record;
begin
    with bumps as (
        select b.tag, b.bumped_at, b.bumped_by, row_number() over latest as place,
            bit_xor(b.salt) over latest = lacking as is_first
        from tag_bumps b
        where b.tag = any(tags) and b.scope = any(array['*', '=' || tenant])
        window latest as (order by b.bumped_at desc rows unbounded preceding)
    )
    select b.tag, b.bumped_at, b.bumped_by into found_bump from bumps b
    where b.is_first or b.place = 1
    order by b.is_first desc, b.place
    limit 1;
    return coalesce(
        format('tag %s was invalidated at %s by %s', found_bump.tag, found_bump.bumped_at, coalesce((
            select format('cache_watch of %s', w.relation) from watches w
            where found_bump.bumped_by = 'cache_watch ' || w.watch
        ), found_bump.bumped_by)),
        'a tag was invalidated'
    );
end
$$;

comment on function pgcache_internal.why_invalid(text, text[], bigint) is
'Which tag of an entry was invalidated first since it was computed, when and by whom; the latest, where bumps have been'
' folded since.';

create or replace function pgcache_internal.lease_of(type text, tenant text, key text, moment timestamptz)
returns setof text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    if not pg_is_in_recovery() then  -- leases are UNLOGGED
        return query
        select format('is being computed: its lease is held until %s', l.deadline) from leases l
        where l.type = type and l.tenant = tenant and l.cache_key = key and l.deadline > moment;
    end if;
end
$$;

comment on function pgcache_internal.lease_of(text, text, text, timestamptz) is
'Until when the lease of an entry is held; no row if nobody has it.';

create or replace function pgcache_internal.elsewhere(registered types, tenant text, key text) returns setof text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    return query execute format(
        'select format(''the tenant %%L has an entry with this key'', t.tenant) from %s t'
        ' where t.cache_key = $1 and t.tenant <> $2 and ($3 is null or t.tenant = any($3)) order by t.tenant limit 3',
        registered.relation
    ) using key, tenant, tenants_of_caller();
end
$$;

comment on function pgcache_internal.elsewhere(types, text, text) is
'Which other tenants, of those that the caller may see, have an entry with a key: three of them.';

create or replace function pgcache_internal.fullness(registered types) returns setof text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if counter(registered.type, 'entries') >= registered.max_entries
        or counter(registered.type, 'bytes') >= registered.max_bytes
    then
        return next case
            when registered.eviction = 'none'
                then format('the type %s is full: new entries are refused', registered.type)
            when tenants_of_caller() is not null then format('the type %s is full', registered.type)
            else format('the type %s is full: it has evicted %s entries', registered.type,
                counter(registered.type, 'evicted'))
        end;
    end if;
end
$$;

comment on function pgcache_internal.fullness(types) is
'Whether a type is at its limits, as last measured; no row if it is not.';
