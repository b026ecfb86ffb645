-- Limits of single tenants. As those of types they hold without a scheduler, since writes pay, but only those of the
-- tenant itself: its counter says how many more writes there is room for. When there is none left, the commit counts
-- the tenant's entries, a range of the primary key, and evicts the worst of them.

create or replace function pgcache_internal.limit_of(type text, tenant text) returns pgcache_internal.tenant_limits
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    own tenant_limits;
begin
    select l.* into own from tenant_limits l where l.type = type and l.tenant = tenant;
    return own;
end
$$;

comment on function pgcache_internal.limit_of(text, text) is 'The limit of a tenant in a type; NULL: it has none.';

create or replace function pgcache_internal.tenant_room(own tenant_limits, entries bigint, bytes bigint) returns bigint
language sql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select greatest(0, least(own.max_entries - entries, (own.max_bytes - bytes) / large_value())) $$;

comment on function pgcache_internal.tenant_room(tenant_limits, bigint, bigint) is
'How many more writes there is room for, large_value() bytes each, when a tenant has so much.';

-- What writes call.

create or replace function pgcache_internal.admit_tenant(type text, key text, tenant text) returns boolean
language plpgsql volatile  -- not pinned: hot path
as $$
#variable_conflict use_variable
declare
    own pgcache_internal.tenant_limits;  -- NULL: it has just been lifted
begin
    select l.* into own from pgcache_internal.tenant_limits l
    where l.type operator(pg_catalog.=) type and l.tenant operator(pg_catalog.=) tenant;
    if pgcache_internal.type_may_be_full(type) and own.type is not null then
        perform pgcache_internal.admit_to_limit(own, key);
    elsif pg_catalog.nextval(own.room) operator(pg_catalog.<) 0::bigint then
        perform pgcache_internal.note_room_due(type, 0, false, tenant);
    end if;
    return true;
end
$$;

comment on function pgcache_internal.admit_tenant(text, text, text) is
'Counts that a tenant with a limit is writing a key, and has the commit make room if there may be none left; returns'
' true. Errors: PC009 in types that evict nothing, if it is at its limit.';

create or replace function pgcache_internal.room_has_gone(own tenant_limits, writes bigint) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    room bigint;
begin
    if writes > least(tenant_reserve(own.max_entries), tenant_reserve(own.max_bytes) / large_value()) then
        return true;
    end if;
    for write in 1..writes loop
        room := nextval(own.room);
    end loop;
    return room < 0;
end
$$;

comment on function pgcache_internal.room_has_gone(tenant_limits, bigint) is
'Counts so many writes of a tenant; true if there may be no room for them. Not true: there is, or it has no limit.';

create or replace function pgcache_internal.note_tenant_writes(own tenant_limits, writes bigint) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if room_has_gone(own, writes) then
        perform note_room_due(own.type, 0, false, own.tenant);
    end if;
end
$$;

comment on function pgcache_internal.note_tenant_writes(tenant_limits, bigint) is
'Counts so many writes of a tenant, and has the commit make room if there may be none for them.';

create or replace function pgcache_internal.note_tenant_bytes(registered types, tenant text, bytes bigint) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    own constant tenant_limits := limit_of(registered.type, tenant);
begin
    if own.max_bytes is null then
        return;
    elsif bytes > own.max_bytes then
        perform check_value(registered, own.max_bytes, format('the tenant %L may have of %s', tenant, own.type),
            format('cache_tenant_limit(%L, %L, max_bytes => ...)', own.type, tenant));
    end if;
    if registered.eviction <> 'none' then
        perform note_tenant_writes(own, bytes / large_value());
    elsif room_has_gone(own, bytes / large_value()) then
        perform refuse_surplus(own);
    end if;
end
$$;

comment on function pgcache_internal.note_tenant_bytes(types, text, bigint) is
'Counts the bytes of a large value, or of a batch, that a tenant has just written. Errors: PC009 a value is larger than'
' its max_bytes, or, in types that evict nothing, than what was left of it.';

-- Types that evict nothing.

create or replace function pgcache_internal.admit_to_limit(own tenant_limits, key text) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    held record;
    spared bigint;  -- so many writes may come before it matters what others have not committed yet
begin
    if cache_exists(own.type, key) then
        if own.max_bytes is not null and nextval(own.room) < 0 then
            perform refuse_surplus(own);
        end if;
        return;
    end if;
    perform lock_eviction(own.type, admission_wait(), shared => true);  -- as admit
    if nextval(own.room) >= 0 then
        return;
    end if;
    held := count_of_tenant(own.type, own.tenant);
    spared := tenant_room(own, 2 * held.entries, 2 * held.bytes) / 2;
    if spared > tenant_spared() then
        perform setval(own.room, spared);
        return;
    elsif coalesce(held.entries < own.max_entries, true) and coalesce(held.bytes < own.max_bytes, true) then
        held := recount_admitted(own.type, own);
    end if;
    if held.entries is null or held.entries >= own.max_entries or held.bytes >= own.max_bytes then
        perform refuse_at_limit(own);
    end if;
end
$$;

comment on function pgcache_internal.admit_to_limit(tenant_limits, text) is
'Counts that a tenant is writing a key, in a type that evicts nothing, and what it has if there may be no room left.'
' Errors: PC009 it is at its limit.';

create or replace function pgcache_internal.refuse_surplus(own tenant_limits) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if (count_of_tenant(own.type, own.tenant)).bytes > own.max_bytes then
        perform refuse_at_limit(own);
    end if;
end
$$;

comment on function pgcache_internal.refuse_surplus(tenant_limits) is
'Errors: PC009 a tenant has more bytes than it may, with what it has just written.';

create or replace function pgcache_internal.refuse_at_limit(own tenant_limits) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    raise exception using errcode = 'PC009',
        message = format('the tenant %L is at its limit: of the cache type %s it may have %s', own.tenant, own.type,
            concat_ws(', ', own.max_entries || ' entries', pg_size_pretty(own.max_bytes))),
        hint = format('The type evicts nothing (eviction none). Delete entries of this tenant, or raise its limit:'
            ' SELECT cache_tenant_limit(%L, %L, ...).', own.type, own.tenant);
end
$$;

comment on function pgcache_internal.refuse_at_limit(tenant_limits) is
'Says that a tenant is at its limit in a type that evicts nothing. Errors: PC009.';

-- Making room.

select pgcache_internal.define($frame$
create or replace function pgcache_internal.count_of_tenant(
    type text, tenant text, out entries bigint, out bytes bigint
)
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- a plan made when the table had one page would else read all that it has now
set jit to off
as $body$
#variable_conflict use_variable
declare
    moment constant timestamptz := cache_now();
begin
    if @branches    end if;
end
$body$;
comment on function pgcache_internal.count_of_tenant(text, text) is
'Entries and bytes of a tenant in a type. Of types that evict nothing, what has expired does not count.';
$frame$, $branch$type = '@type' then
        select count(*), coalesce(sum(@size), 0) into entries, bytes from @table t
        where t.tenant = tenant and (
            not type_may_be_full('@type') or is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment)
        );
$branch$);

select pgcache_internal.define($frame$
create or replace function pgcache_internal.evict_of_tenant(
    type text, tenant text, need_entries bigint, need_bytes bigint,
    out expired bigint, out evicted bigint, out freed bigint
)
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- as above
set jit to off
as $body$
#variable_conflict use_variable
declare
    moment constant timestamptz := cache_now();
    whose constant text := tenant;
    row_ids tid[];
begin
    if @branches    end if;
    perform count_events(type, 'expired', expired), count_events(type, 'evicted', evicted);
end
$body$;
comment on function pgcache_internal.evict_of_tenant(text, text, bigint, bigint) is
'Deletes so many entries and bytes of a tenant from a type, the worst by the type''s policy. Rows that are locked are'
' skipped.';
$frame$, $branch$type = '@type' then
        select array_agg(r.row_id) into row_ids
        from (
            select v.row_id, row_number() over worst_first as place,
                sum(v.bytes) over worst_first - v.bytes as bytes_before
            from (
                select t.ctid as row_id, @size as bytes, t.created_at >= statement_start() as just_written,
                    @worth as score
                from @table t where t.tenant = tenant
            ) v
            window worst_first as (order by v.just_written, v.score rows unbounded preceding)
        ) r
        where r.place <= need_entries or r.bytes_before < need_bytes;
        with gone as (
            delete from @table t where t.ctid = any(array(
                select e.ctid from @table e where e.ctid = any(row_ids) for update skip locked))
            returning @expired as expired, @size as bytes
        )
        select
            count(*) filter (where g.expired), count(*) filter (where g.expired is not true), coalesce(sum(g.bytes), 0)
        into expired, evicted, freed
        from gone g;
$branch$);

create or replace function pgcache_internal.make_tenant_room(
    registered types, tenant text, at_commit boolean
) returns bigint
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    own constant tenant_limits := limit_of(registered.type, tenant);
    reserve_entries bigint := 0;
    reserve_bytes bigint := 0;
    held record;
    need_entries bigint;
    need_bytes bigint;
    gone record;
    removed bigint := 0;
begin
    if own.type is null or registered.eviction = 'none' then
        return 0;
    elsif at_commit then  -- as in make_room
        reserve_entries := tenant_reserve(own.max_entries);
        reserve_bytes := tenant_reserve(own.max_bytes);
        if keeps_its_snapshot() then
            reserve_entries := greatest(reserve_entries, reserve_unseen(own.max_entries));
        else
            perform lock_eviction(own.type, eviction_wait(0)), fold_hits();
        end if;
    end if;
    held := count_of_tenant(own.type, tenant);
    need_entries := greatest(0, held.entries - own.max_entries + reserve_entries);
    need_bytes := greatest(0, held.bytes - own.max_bytes + reserve_bytes);
    if need_entries > 0 or need_bytes > 0 then
        gone := evict_of_tenant(own.type, tenant, need_entries, need_bytes);
        removed := gone.expired + gone.evicted;
        held.entries := held.entries - removed;
        held.bytes := held.bytes - gone.freed;
    end if;
    perform setval(own.room, tenant_room(own, held.entries, held.bytes));
    return removed;
end
$$;

comment on function pgcache_internal.make_tenant_room(types, text, boolean) is
'Counts the entries of a tenant with a limit and evicts what it has too much; at_commit in its turn, leaving room for'
' the writes until the next time. Returns how many entries it removed.';

create or replace function pgcache_internal.make_tenants_room(registered types) returns bigint
language sql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select coalesce(sum(make_tenant_room(registered, l.tenant, false)), 0)::bigint
    from tenant_limits l where l.type = registered.type
$$;

comment on function pgcache_internal.make_tenants_room(types) is
'Evicts what tenants have over their limits in a type; returns how many entries it removed.';
