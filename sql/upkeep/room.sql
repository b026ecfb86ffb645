-- Writes pay for the upkeep, when they commit. What a transaction deletes or folds stays locked until it ends; if it went on
-- to write, it could hold others up for long, and two of them could deadlock. And no sooner would there be room: until the
-- commit nobody else sees an entry more or less, and no space is freed.

create or replace function pgcache.ticks(type text, clock text, times bigint, due bigint) returns boolean
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    sequence constant regclass := format('pgcache.%I', clock || '_' || type);
begin
    return (select bool_or(nextval(sequence) % due = 1 % due) from generate_series(1, times));
end
$$;

comment on function pgcache.ticks(text, text, bigint, bigint) is
'Advances a clock of a type so many times; true if it showed 1, or 1 more than a multiple of due, on the way.';

create or replace function pgcache.look_after(type text, strikes integer, bytes bigint, batch bigint default 0) returns void
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant cache_types := check_type(type);
    -- Values up to 2 kB come here only with a strike, which then stands for all of them, or in a batch.
    volume constant float8 := case when bytes > 2048 or batch > 0 then bytes else 0 end + strikes * registered.sweep_every * 2048.0;
    volume_ticks constant bigint := least(coalesce(floor(volume / registered.volume_unit + random()), 0), 100000);
    -- What of this transaction is due: the row of room_due whose trigger will pay, for how many writes, and whether to
    -- measure. Undone with them by a rollback to a savepoint.
    setting constant text := 'pgcache.due_' || type;
    due text[] := string_to_array(nullif(current_setting(setting, true), ''), ' ');
    writes constant bigint := strikes * registered.sweep_every + batch;
    measure_due boolean := false;
begin
    if bytes > registered.max_bytes or registered.eviction = 'none' then
        perform check_room(registered, bytes);
    end if;
    if writes >= registered.sweep_every then
        measure_due := ticks(type, 'sweeps', writes / registered.sweep_every, registered.measure_every);
    end if;
    if volume_ticks > 0 then
        measure_due := ticks(type, 'volume', volume_ticks, 16) or measure_due;
    end if;
    if measure_due and registered.eviction = 'none' then
        perform measure(type);
    end if;
    if writes > 0 or measure_due then
        if due is null then
            begin
                insert into room_due as d (type) values (type) returning array[d.ctid::text, '0', '0'] into due;
            exception when lock_not_available then
                return;  -- a later write makes the room
            end;
        end if;
        perform set_config(setting, concat_ws(' ', due[1], due[2]::bigint + writes, greatest(due[3]::integer, measure_due::integer)), true);
    end if;
end
$$;

comment on function pgcache.look_after(text, integer, bigint, bigint) is
'What a write does when its type''s clock strikes, or when its value has more than 2 kB, or a batch that has not ticked the clock: ticks the clocks of the measurements, and has the commit make room. Errors: PC009.';

create or replace function pgcache.pay_at_commit() returns trigger
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
set lock_timeout to '10ms'
as $$
declare
    registered cache_types;
    setting constant text := 'pgcache.due_' || new.type;
    due constant text[] := string_to_array(nullif(current_setting(setting, true), ''), ' ');
begin
    delete from room_due d where d.ctid = due[1]::tid;
    select * into registered from cache_types t where t.type = new.type;
    if found and due is not null then  -- the transaction may have dropped the type
        perform set_config(setting, '', true);
        for attempt in 1..3 loop
            begin
                perform make_room(registered, due[2]::bigint, due[3] = '1');
                exit;
            exception when serialization_failure or deadlock_detected or lock_not_available then
                null;  -- the hand has moved on; in the end a later write makes the room
            end;
        end loop;
    end if;
    return null;
end
$$;

comment on function pgcache.pay_at_commit() is
'Makes the room that the writes of the transaction call for; never fails them. The trigger that calls it is deferred to the commit.';

-- Not dropped and made anew, which would lock writers out until the installation ends.
do $$
begin
    if not exists (
        select from pg_catalog.pg_trigger t where t.tgrelid = 'pgcache.room_due'::regclass and t.tgname = 'pay_at_commit'
    ) then
        create constraint trigger pay_at_commit after insert on pgcache.room_due
        deferrable initially deferred for each row execute function pgcache.pay_at_commit();
    end if;
end
$$;

create or replace function pgcache.make_room(registered cache_types, writes bigint, measure_due boolean) returns void
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    type constant text := registered.type;
    -- It will fail at what others have changed since it began: so it folds no hits, and keeps to entries of its own.
    stale constant boolean := current_setting('transaction_isolation') <> 'read committed';
    waited constant boolean := case when registered.eviction <> 'none' and not stale then wait_for_turn(type, 500 + writes) end;
    -- Where the size is an estimate, its error stays below the limit.
    aim constant float8 := case when heap_blocks(registered.relation) > 4096 then 0.97 else 1 end;
    -- With room for the writes until the next turn; where turns are waited for, more writes go on meanwhile; and what has
    -- been written since this transaction began it does not see.
    reserve constant bigint := case when stale then greatest(registered.sweep_every - 1, registered.max_entries / 12)
        else (registered.sweep_every - 1) * case when waited then 4 else 1 end end;
    max_entries constant bigint := registered.max_entries * aim - reserve;
    max_bytes constant bigint := registered.max_bytes * aim;
    entries bigint;
    bytes bigint;
    removed bigint;
    rate float8;
    visit constant bigint := case when stale then writes else greatest(writes, 512) end;  -- the more, the better the choice
begin
    if not stale then
        perform fold_hits();
    end if;
    if registered.eviction = 'none' then
        perform evict(registered, 0, 0, writes);
        return;
    elsif writes > registered.sweep_every then  -- so many that they should not evict before all that has expired is gone
        perform evict(registered, 0, 0, writes);
    end if;
    -- Not where its turn did not come: it would count what others are evicting.
    measure_due := measure_due and (waited is not null or stale);
    if measure_due then
        perform measure(type);
    end if;
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

comment on function pgcache.make_room(cache_types, bigint, boolean) is
'The share of upkeep that falls on so many writes: folds hits, measures the type if that is due, sweeps a few windows.';

-- Nobody sees what others have not yet committed, neither what they evict nor what they add. So they take turns.
create or replace function pgcache.wait_for_turn(type text, milliseconds bigint, shared boolean default false) returns boolean
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
set lock_timeout to '1s'  -- so that what is set below ends with this function
as $$
declare
    key constant integer := hashtext('pgcache.make_room');
    type_key constant integer := hashtext(type);
begin
    if shared and pg_try_advisory_xact_lock_shared(key, type_key) or not shared and pg_try_advisory_xact_lock(key, type_key) then
        return false;
    end if;
    perform set_config('lock_timeout', milliseconds || 'ms', true);
    if shared then
        perform pg_advisory_xact_lock_shared(key, type_key);
    else
        perform pg_advisory_xact_lock(key, type_key);
    end if;
    return true;
exception when lock_not_available or deadlock_detected then
    return null;
end
$$;

comment on function pgcache.wait_for_turn(text, bigint, boolean) is
'Keeps other transactions from making room in a type until this one ends; shared: all but those that call it shared. True if it had to wait for another; NULL if that took longer than so many milliseconds.';
