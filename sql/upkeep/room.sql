-- Writes make room, when they commit. What a transaction deletes or folds stays locked until it ends; if it went on to
-- write, it could hold others up for long, and two of them could deadlock. And no sooner would there be room: until the
-- commit nobody else sees an entry more or less, and no space is freed.

create or replace function pgcache_internal.note_writes(
    type text, struck boolean, bytes bigint, batch bigint default 0, replaced boolean default false
) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    period constant bigint := sweep_every(registered.max_entries, registered.max_bytes);
    -- The clock strikes for all writes since it last did. The large ones among them have been noted with their sizes,
    -- the others count as large_value() each.
    writes constant bigint := batch + case when struck then period else 0 end;
    volume constant float8 := case when bytes > large_value() or batch > 0 then bytes else 0 end
        + case when struck then period * large_value() else 0 end;
    ticks constant bigint := least(volume_ticks(), floor(volume / volume_tick(registered.max_bytes) + chance()));
    measure_due boolean := replaced;
begin
    if bytes > registered.max_bytes or registered.eviction = 'none' then
        perform check_bytes(registered, bytes);
    end if;
    if bytes > large_value() and tenant_is_limited(type, current_tenant()) then
        perform note_tenant_bytes(registered, current_tenant(), bytes);
    end if;
    if batch = 0 and (struck or random() < timed_share()) then
        perform note_time(type, 'set');
    end if;
    if writes > 0 then
        measure_due := tick(type, 'sweeps', writes / period) or measure_due;
    end if;
    if registered.max_bytes is not null and ticks > 0 then
        measure_due := tick(type, 'volume', ticks) or measure_due;
    end if;
    if measure_due and registered.eviction = 'none' then
        perform measure(type);
    end if;
    if writes > 0 or measure_due then
        perform note_room_due(type, writes, measure_due, null);
    end if;
end
$$;

comment on function pgcache_internal.note_writes(text, boolean, bigint, bigint, boolean) is
'Notes a write for which the clock writes of its type has struck, or whose value is large (its bytes), or a batch of so'
' many that have not ticked the clock, or one for which the clock replaced has struck: ticks the clocks of the'
' measurements, and has the commit make room. Errors: PC009.';

create or replace function pgcache_internal.note_room_due(
    type text, writes bigint, measure_due boolean, tenant text
) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- a plan made when the table was empty would else read all that it has now
set jit to off
as $$
#variable_conflict use_variable
begin
    begin
        -- Not the insert in here: it would take a transaction id for each of these blocks.
        lock table room_due in row exclusive mode;
    exception when lock_not_available then
        return;  -- a later write makes the room
    end;
    insert into room_due (type, writes, measure_due, tenant)
    select type, writes, measure_due, tenant
    where tenant is null or not exists (
        select from room_due d where d.xid = pg_current_xact_id() and d.type = type and d.tenant = tenant
    );
end
$$;

comment on function pgcache_internal.note_room_due(text, bigint, boolean, text) is
'Has the commit make room in a type, or, once, in the limit of a tenant there.';

create or replace function pgcache_internal.make_room_at_commit() returns trigger
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '10ms'
as $$
declare
    due record;
begin
    if current_setting('transaction_read_only') = 'on' then
        return null;  -- it has become so after its writes; prune_history removes the rows
    elsif not exists (select from room_due d where d.ctid = new.ctid) then
        return null;  -- the trigger for another row of the transaction has taken this one, too
    end if;
    -- In one order, so that no two transactions wait for each other.
    for due in
        select t as registered, d.tenant, sum(d.writes)::bigint as writes, bool_or(d.measure_due) as measure_due
        from take_room_due() d inner join types t on t.type = d.type
        group by t.type, d.tenant order by t.type, d.tenant  -- the type comes last
    loop
        for attempt in 1..3 loop
            begin
                if due.tenant is null then
                    perform make_room(due.registered, due.writes, due.measure_due);
                else
                    perform make_tenant_room(due.registered, due.tenant, true);
                end if;
                exit;
            exception when serialization_failure or deadlock_detected or lock_not_available then
                null;  -- the hand has moved on; in the end a later write makes the room
            when others then
                exit;  -- whatever it is, it is no fault of the transaction; CALL cache_upkeep() shows it
            end;
        end loop;
    end loop;
    return null;
end
$$;

comment on function pgcache_internal.make_room_at_commit() is
'Makes the room that the writes of the transaction call for, without failing them. The trigger that calls it is'
' deferred to the commit; for the first of the transaction''s rows it takes all.';

create or replace function pgcache_internal.take_room_due() returns setof pgcache_internal.room_due
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- a plan made when the table was empty would else read all that it has now
set jit to off
as $$
begin
    return query delete from room_due d where d.xid = pg_current_xact_id() returning d.*;
end
$$;

comment on function pgcache_internal.take_room_due() is
'Removes what is due in this transaction, and returns it.';

-- Not dropped and made anew, which would lock writers out until the installation ends.
do $$
begin
    if not exists (
        select from pg_catalog.pg_trigger t
        where t.tgrelid = 'pgcache_internal.room_due'::regclass and t.tgname = 'make_room_at_commit'
    ) then
        create constraint trigger make_room_at_commit after insert on pgcache_internal.room_due
        deferrable initially deferred for each row execute function pgcache_internal.make_room_at_commit();
    end if;
end
$$;

create or replace function pgcache_internal.make_room(registered types, writes bigint, measure_due boolean) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    type constant text := registered.type;
    period constant bigint := sweep_every(registered.max_entries, registered.max_bytes);
    measured constant bigint := period * measure_every(registered.max_entries, registered.max_bytes);
    -- It fails at what others have changed since it began: so it folds no hits, waits for nobody, which would only make
    -- it later, and keeps to few entries.
    stale constant boolean := keeps_its_snapshot();
    visit constant bigint := case when stale then writes else greatest(writes, visited_at_least()) end;
    -- Where the size is an estimate, its error stays below the limit.
    aim constant float8 := case when heap_blocks(registered.relation) > counted_blocks() then safe_share() else 1 end;
    whose constant text := coalesce(current_tenant(), '');
    reserve bigint := period - 1;  -- room for the writes until the clock strikes again
    eviction record;
    alone boolean := true;
    max_entries bigint;
    max_bytes bigint := registered.max_bytes * aim;
    entries bigint;
    bytes bigint;
    need_entries bigint;
    need_bytes bigint;
    removed bigint;
    rate float8;
begin
    if registered.eviction = 'none' then  -- only what has expired goes
        if not stale then
            perform fold_hits();
        end if;
        perform evict(registered, 0, 0, writes, whose);
        return;
    elsif stale then
        reserve := greatest(reserve, reserve_unseen(registered.max_entries));
    else
        eviction := lock_eviction(type, eviction_wait(writes));
        alone := eviction.got;
        measure_due := measure_due and alone;  -- else it would count what others are evicting
        if eviction.waited then  -- others write as well, and go on meanwhile
            reserve := reserve * reserve_beside_others();
            max_bytes := max_bytes * safe_share();
        end if;
        perform fold_hits();
    end if;
    if writes > period then  -- so many that they should not evict before all that has expired is gone
        perform evict(registered, 0, 0, writes, whose);
    end if;
    if measure_due then
        perform measure(type);
    end if;
    max_entries := registered.max_entries * aim - reserve;
    entries := counter(type, 'entries');
    bytes := counter(type, 'bytes');
    if measure_due then
        need_entries := coalesce(entries - max_entries, 0);
        need_bytes := coalesce(bytes - max_bytes, 0);
        removed := evict(registered, need_entries, need_bytes,
            case when need_entries > 0 or need_bytes > 0 then visit else writes end, whose);
        perform set_counter(type, 'entries', entries - removed),
            set_counter(type, 'bytes', bytes - bytes * removed / greatest(1, entries));
    elsif writes > 0 then
        -- Full, each write evicts one entry, so that the next measurement finds nothing to make up for.
        rate := least(max_rate(), greatest(0,
            (entries - max_entries) / measured::float + 1,
            (bytes - max_bytes) / (volume_tick(registered.max_bytes) * volume_ticks()) + 1));
        perform evict(
            registered, ceil(writes * rate)::bigint, 0, case when rate > 0 then visit else writes end, whose, alone
        );
    end if;
end
$$;

comment on function pgcache_internal.make_room(types, bigint, boolean) is
'The share of upkeep that falls on so many writes: folds hits, measures the type if that is due, sweeps a few windows.';

create or replace function pgcache_internal.keeps_its_snapshot() returns boolean
language sql stable parallel safe  -- not pinned: inlined
as $$
    select pg_catalog.current_setting('transaction_isolation')
        operator(pg_catalog.=) any('{repeatable read,serializable}')
$$;

comment on function pgcache_internal.keeps_its_snapshot() is
'Whether this transaction does not see what others commit while it lasts.';

-- Nobody sees what others have not yet committed, neither what they evict nor what they add. So they take turns, by
-- locks on tables that nobody else may lock: an advisory lock is anybody's who may connect.
select pgcache_internal.define($frame$
create or replace function pgcache_internal.lock_turn(type text, shared boolean, at_once boolean) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $body$
#variable_conflict use_variable
begin
    if @branches    end if;
    return true;
exception when lock_not_available or deadlock_detected then
    return false;
end
$body$;
comment on function pgcache_internal.lock_turn(text, boolean, boolean) is
'Locks the table of a type that is there for this; false if others have it, at_once, or for longer than lock_timeout.';
$frame$, $branch$type = '@type' then
        if shared and at_once then
            lock table turn_@type in share mode nowait;
        elsif shared then
            lock table turn_@type in share mode;
        elsif at_once then
            lock table turn_@type in share update exclusive mode nowait;
        else
            lock table turn_@type in share update exclusive mode;
        end if;
$branch$);

create or replace function pgcache_internal.lock_eviction(
    type text, milliseconds bigint, shared boolean default false, out got boolean, out waited boolean
)
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '1s'  -- so that what is set below ends with this function
as $$
begin
    got := lock_turn(type, shared, true);
    waited := not got;
    if waited then
        perform set_config('lock_timeout', milliseconds || 'ms', true);
        got := lock_turn(type, shared, false);
    end if;
end
$$;

comment on function pgcache_internal.lock_eviction(text, bigint, boolean) is
'Keeps other transactions from making room in a type until this one ends; shared: all but those that call it shared.'
' got: false if it would have had to wait longer than so many milliseconds. waited: whether others had it.';
