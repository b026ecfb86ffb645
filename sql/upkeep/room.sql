-- Writes pay for the upkeep, when they commit. What a transaction deletes or folds stays locked until it ends; if it went on
-- to write, it could hold others up for long, and two of them could deadlock. And no sooner would there be room: until the
-- commit nobody else sees an entry more or less, and no space is freed.

create or replace function pgcache_internal.note_writes(type text, strikes integer, bytes bigint, batch bigint default 0) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    -- Values up to 2 kB come here only with a strike, which then stands for all of them, or in a batch.
    volume constant float8 := case when bytes > 2048 or batch > 0 then bytes else 0 end + strikes * registered.sweep_every * 2048.0;
    volume_ticks constant bigint := least(coalesce(floor(volume / registered.volume_unit + random()), 0), 100000);
    writes constant bigint := strikes * registered.sweep_every + batch;
    measure_due boolean := false;
    -- What of this transaction is due: by type for how many writes, and whether to measure. A rollback to a savepoint undoes
    -- it with them.
    due constant jsonb := coalesce(nullif(current_setting('pgcache.due', true), ''), '{}')::jsonb;
begin
    if bytes > registered.max_bytes or registered.eviction = 'none' then
        perform check_bytes(registered, bytes);
    end if;
    if writes > 0 then
        measure_due := advance(type, 'sweeps', writes / registered.sweep_every, registered.measure_every) > 0;
    end if;
    if volume_ticks > 0 then
        measure_due := advance(type, 'volume', volume_ticks, 16) > 0 or measure_due;
    end if;
    if measure_due and registered.eviction = 'none' then
        perform measure(type);
    end if;
    if writes > 0 or measure_due then
        begin
            perform set_config('pgcache.due', jsonb_set(due, array[type], jsonb_build_object(
                'writes', coalesce((due -> type ->> 'writes')::bigint, 0) + writes,
                'measure', coalesce((due -> type ->> 'measure')::boolean, false) or measure_due))::text, true);
            if due = '{}' then
                insert into room_due default values;
            end if;
        exception when lock_not_available then
            null;  -- a later write makes the room
        end;
    end if;
end
$$;

comment on function pgcache_internal.note_writes(text, integer, bigint, bigint) is
'What a write does when its type''s clock strikes, or when its value has more than 2 kB, or a batch that has not ticked the clock: ticks the clocks of the measurements, and has the commit make room. Errors: PC009.';

create or replace function pgcache_internal.make_room_at_commit() returns trigger
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '10ms'
as $$
declare
    due constant jsonb := coalesce(nullif(current_setting('pgcache.due', true), ''), '{}')::jsonb;
    registered types;
begin
    if current_setting('transaction_read_only') = 'on' then
        return null;  -- it has become so after its writes
    end if;
    perform set_config('pgcache.due', '', true);
    delete from room_due d where d.ctid = new.ctid;
    -- In one order, so that no two transactions wait for each other's turn.
    for registered in select t.* from types t where due ? t.type order by t.type loop
        for attempt in 1..3 loop
            begin
                perform make_room(
                    registered, (due -> registered.type ->> 'writes')::bigint, (due -> registered.type ->> 'measure')::boolean);
                exit;
            exception when serialization_failure or deadlock_detected or lock_not_available then
                null;  -- the hand has moved on; in the end a later write makes the room
            end;
        end loop;
    end loop;
    return null;
end
$$;

comment on function pgcache_internal.make_room_at_commit() is
'Makes the room that the writes of the transaction call for, without failing them. The trigger that calls it is deferred to the commit.';

-- Not dropped and made anew, which would lock writers out until the installation ends.
do $$
begin
    if not exists (
        select from pg_catalog.pg_trigger t where t.tgrelid = 'pgcache_internal.room_due'::regclass and t.tgname = 'make_room_at_commit'
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
    -- It fails at what others have changed since it began: so it folds no hits, takes no turns, which would only make it later,
    -- and keeps to few entries.
    stale constant boolean := keeps_its_snapshot();
    visit constant bigint := case when stale then writes else greatest(writes, 512) end;  -- the more, the better the choice
    -- Where the size is an estimate, its error stays below the limit.
    aim constant float8 := case when heap_blocks(registered.relation) > 4096 then 0.97 else 1 end;
    reserve bigint := registered.sweep_every - 1;  -- room for the writes until the next turn
    turn record;
    max_entries bigint;
    max_bytes bigint := registered.max_bytes * aim;
    entries bigint;
    bytes bigint;
    removed bigint;
    rate float8;
begin
    if registered.eviction = 'none' then  -- only what has expired goes
        if not stale then
            perform fold_hits();
        end if;
        perform evict(registered, 0, 0, writes);
        return;
    elsif stale then
        reserve := greatest(reserve, registered.max_entries / 12);  -- it does not see what has been written since it began
    else
        turn := lock_eviction(type, least(500 + writes, 2000));
        measure_due := measure_due and turn.got;  -- else it would count what others are evicting
        if turn.waited then  -- others are at it, too, and more writes go on meanwhile
            reserve := reserve * 4;
            max_bytes := max_bytes * 0.97;
        end if;
        perform fold_hits();
    end if;
    if writes > registered.sweep_every then  -- so many that they should not evict before all that has expired is gone
        perform evict(registered, 0, 0, writes);
    end if;
    if measure_due then
        perform measure(type);
    end if;
    max_entries := registered.max_entries * aim - reserve;
    entries := counter(type, 'entries');
    bytes := counter(type, 'bytes');
    if measure_due then
        removed := evict(registered, coalesce(entries - max_entries, 0), coalesce(bytes - max_bytes, 0), visit);
        perform set_counter(type, 'entries', entries - removed),
            set_counter(type, 'bytes', bytes - bytes * removed / greatest(1, entries));
    else
        -- Full, each write evicts one entry, so that the next measurement finds nothing to make up for.
        rate := least(2, greatest(0,
            (entries - max_entries) / (registered.measure_every * registered.sweep_every)::float8 + 1,
            (bytes - max_bytes) / (registered.volume_unit * 16) + 1));
        perform evict(registered, ceil(writes * rate)::bigint, 0, case when rate > 0 then visit else writes end);
    end if;
end
$$;

comment on function pgcache_internal.make_room(types, bigint, boolean) is
'The share of upkeep that falls on so many writes: folds hits, measures the type if that is due, sweeps a few windows.';

create or replace function pgcache_internal.keeps_its_snapshot() returns boolean
language sql stable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.current_setting('transaction_isolation') in ('repeatable read', 'serializable') $$;

comment on function pgcache_internal.keeps_its_snapshot() is
'Whether this transaction does not see what others commit while it lasts.';

-- Nobody sees what others have not yet committed, neither what they evict nor what they add. So they take turns.
create or replace function pgcache_internal.lock_eviction(
    type text, milliseconds bigint, shared boolean default false, out got boolean, out waited boolean
)
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '1s'  -- so that what is set below ends with this function
as $$
declare
    key constant integer := hashtext('pgcache_internal.make_room');
    type_key constant integer := hashtext(type);
begin
    got := case when shared then pg_try_advisory_xact_lock_shared(key, type_key) else pg_try_advisory_xact_lock(key, type_key) end;
    waited := not got;
    if waited then
        begin
            perform set_config('lock_timeout', milliseconds || 'ms', true);
            if shared then
                perform pg_advisory_xact_lock_shared(key, type_key);
            else
                perform pg_advisory_xact_lock(key, type_key);
            end if;
            got := true;
        exception when lock_not_available or deadlock_detected then
            null;
        end;
    end if;
end
$$;

comment on function pgcache_internal.lock_eviction(text, bigint, boolean) is
'Keeps other transactions from making room in a type until this one ends; shared: all but those that call it shared. got: false if it would have had to wait longer than so many milliseconds.';
