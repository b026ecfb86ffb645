-- Limits and expiry without an index: a hand walks the heap of each type in windows of blocks, deletes what has expired
-- and, as far as the type is over its limit, the worst entries of each window: of four it visits one goes. Nothing here
-- waits for a lock.
--
-- Writes pay for it, when they commit. What a transaction deletes or folds stays locked until it ends; if it went on to
-- write, it could hold others up for long, and two of them could deadlock. And no sooner would there be room: until the
-- commit nobody else sees an entry more or less, and no space is freed.

create or replace function pgcache.heap_blocks(relation regclass) returns bigint
language sql volatile parallel safe
as $$ select pg_catalog.pg_relation_size(relation) / pg_catalog.current_setting('block_size')::bigint $$;

comment on function pgcache.heap_blocks(regclass) is 'How many blocks the heap of a table has.';

create or replace function pgcache.sweep(
    registered cache_types, first_block bigint, block_count bigint, need_entries bigint, need_bytes bigint, read_since timestamptz,
    out expired bigint, out evicted bigint, out freed bigint
)
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    score constant text := eviction_score(registered.eviction, registered.payload);
begin
    if need_entries <= 0 and need_bytes <= 0 then
        execute format($sql$
            with gone as (
                delete from %1$s t where t.ctid = any(array(
                    select e.ctid from %1$s e where e.ctid >= $2 and e.ctid < $3 and e.expires_at <= $1
                    for update skip locked
                )) returning 1
            ) select count(*), 0, 0 from gone
            $sql$, registered.relation)
        into expired, evicted, freed
        using cache_now(), format('(%s,0)', first_block)::tid, format('(%s,0)', first_block + block_count)::tid;
        perform count_events('expired', registered.type, expired);
        return;
    end if;
    execute format($sql$
        with visited as materialized (
            select t.ctid as row_id, coalesce(t.expires_at <= $1, false) as expired,
                (%2$s)::bigint as bytes,
                (%3$s) + (t.created_at >= $1)::integer * 1e10 as score  -- what was just written goes last
            from %1$s t where t.ctid >= $2 and t.ctid < $3
        ), due as (  -- what has expired makes room, too
            select least(greatest($5 - x.entries, count(*) filter (where r.bytes_before < $6 - x.bytes)), greatest($7, (count(*) + 2) / 4)) as entries
            from (select count(*) as entries, coalesce(sum(v.bytes), 0) as bytes from visited v where v.expired) x
            left join (
                select sum(v.bytes) over (order by v.score rows unbounded preceding) - v.bytes as bytes_before
                from visited v where not v.expired
            ) r on true
            group by x.entries, x.bytes
        ), gone as (
            delete from %1$s t where t.ctid = any(array(
                select e.ctid from %1$s e where e.ctid >= $2 and e.ctid < $3 and e.expires_at <= $1
                for update skip locked
            ) || array(
                select e.ctid from visited v inner join %1$s e on e.ctid = v.row_id where not v.expired
                order by v.score limit (select greatest(0, d.entries) from due d)
                for update of e skip locked
            ))
            returning t.ctid as row_id
        )
        select count(*) filter (where v.expired), count(*) filter (where not v.expired), coalesce(sum(v.bytes), 0)
        from gone g inner join visited v on v.row_id = g.row_id
        $sql$, registered.relation, entry_size(registered.payload), score)
    into expired, evicted, freed
    using cache_now(), format('(%s,0)', first_block)::tid, format('(%s,0)', first_block + block_count)::tid,
        read_since, need_entries, need_bytes, (block_count >= 512)::integer;  -- a window with one entry has no worst
    perform count_events('expired', registered.type, expired), count_events('evicted', registered.type, evicted);
end
$$;

comment on function pgcache.sweep(cache_types, bigint, bigint, bigint, bigint, timestamptz) is
'Deletes from a window of a type''s heap what has expired, and by the type''s policy, until need_entries and need_bytes are met, at most a quarter of the others, worst first. read_since: when the hand last passed, by which idle times are judged. Rows that are locked are skipped.';

-- Reuse, discounted by the time without it in laps of the hand; for cost times what a reuse saves per byte
-- (GreedyDual-Size-Frequency with the idle time for its clock). More hits than four lines of the log stand for say little
-- about the next one, and would keep what was popular once.
create or replace function pgcache.eviction_score(eviction text, payload jsonb) returns text
language sql immutable parallel safe
set search_path to pgcache, pg_catalog, pg_temp
as $$
    select case eviction
        when 'fifo' then 'extract(epoch from t.created_at)::float8'
        else 'least(1 + t.hit_count, 4 * abs(t.hit_weight))::float8 / (1 + power(extract(epoch from greatest($1 - t.last_accessed_at, ''0''))'
            ' / greatest(extract(epoch from $1 - coalesce($4, $1 - ''1 hour''::interval)), 1e-3), 2))'
            || case when eviction <> 'cost' then '' else format(' / (%s)%s', entry_size(payload),
                case when payload ? 'tokens_used'
                    then ' * coalesce(t.tokens_used, 1) * greatest(model_price(t.model), 1e-6)::float8' else '' end) end
    end
$$;

comment on function pgcache.eviction_score(text, jsonb) is
'The SQL expression of what an entry is worth keeping by a policy: lru (reuse, less the longer it was not read), cost (that, times tokens x price / bytes), fifo (its age). The lowest goes first.';

create or replace function pgcache.count_events(counter text, type text, events bigint) returns void
language sql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$ select nextval(format('pgcache.%I', counter || '_' || type)::regclass) from generate_series(1, events) $$;

comment on function pgcache.count_events(text, text, bigint) is 'Adds events to a type''s counter.';

create or replace function pgcache.advance_hand(type text, chunks bigint) returns bigint
language sql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$ select min(nextval(format('pgcache.%I', 'hand_' || type)::regclass)) from generate_series(1, chunks) $$;

comment on function pgcache.advance_hand(text, bigint) is 'Moves a type''s hand by so many chunks of 8 blocks; returns the first of them, counted from the beginning of time.';

create or replace function pgcache.ticks(type text, clock text, times bigint, due bigint) returns boolean
language sql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
    select coalesce(bool_or(nextval(format('pgcache.%I', clock || '_' || type)::regclass) % due = 1 % due), false)
    from generate_series(1, times)
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
    -- What of this transaction is due: writes for which the clock has struck, whether to measure, and writes in batches.
    -- Undone with them by a rollback to a savepoint.
    setting constant text := 'pgcache.due_' || type;
    due constant bigint[] := nullif(current_setting(setting, true), '')::bigint[];
    measure_due boolean := false;
    writes bigint := strikes * registered.sweep_every;
begin
    if bytes > registered.max_bytes or registered.eviction = 'none' then
        perform check_room(registered, bytes);
    end if;
    if strikes > 0 or batch > 0 then
        measure_due := ticks(type, 'sweeps', strikes + batch / registered.sweep_every, registered.measure_every);
    end if;
    if volume_ticks > 0 then
        measure_due := ticks(type, 'volume', volume_ticks, 16) or measure_due;
    end if;
    if measure_due and registered.eviction = 'none' then
        perform measure(type);
    end if;
    if strikes > 0 or batch > 0 or measure_due then
        if due is null then
            begin
                insert into hand_passes (type, position, passed_at, due) values (type, counter(type, 'hand'), cache_now(), true);
            exception when lock_not_available then
                return;  -- a later write makes the room
            end;
        end if;
        if strikes > 0 and registered.sweep_every > 1 then
            writes := writes + hurry(registered, others_at_it(type, false));
        end if;
        perform set_config(setting, array[
            coalesce(due[1], 0) + writes, greatest(due[2], measure_due::integer), coalesce(due[3], 0) + batch]::text, true);
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
    due constant bigint[] := nullif(current_setting(setting, true), '')::bigint[];
begin
    select * into registered from cache_types t where t.type = new.type;
    if found and due is not null then  -- the transaction may have dropped the type
        perform set_config(setting, '', true), make_room(registered, due[1], due[3], due[2] > 0);
    end if;
    return null;
end
$$;

comment on function pgcache.pay_at_commit() is
'Makes the room that the writes of the transaction call for. The trigger that calls it is deferred to the commit.';

-- Not dropped and made anew, which would lock writers out until the installation ends.
do $$
begin
    if not exists (
        select from pg_catalog.pg_trigger t where t.tgrelid = 'pgcache.hand_passes'::regclass and t.tgname = 'pay_at_commit'
    ) then
        create constraint trigger pay_at_commit after insert on pgcache.hand_passes
        deferrable initially deferred for each row when (new.due) execute function pgcache.pay_at_commit();
    end if;
end
$$;

create or replace function pgcache.make_room(registered cache_types, writes bigint, batch bigint, measure_due boolean) returns void
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    type constant text := registered.type;
    others constant bigint := others_at_it(type, true);
    share constant bigint := greatest(1, registered.sweep_every / (others + 1) / (others + 1));
    -- Where the size is an estimate, its error stays below the limit.
    aim constant float8 := case when heap_blocks(registered.relation) > 4096 then 0.97 else 1 end;
    -- With room for the writes until the next sweep ends, and for those that others are committing now.
    max_entries constant bigint := registered.max_entries * aim - (share - 1)
        - least(others + least(others, 4) * registered.max_entries / 100, registered.max_entries / 20);
    max_bytes constant bigint := registered.max_bytes * aim;
    entries bigint;
    bytes bigint;
    removed bigint;
    rate float8;
    choice bigint;  -- from so many; but others at it would come to the same entries
begin
    if others > 0 and writes > 0 then
        writes := writes - registered.sweep_every + greatest(1, registered.sweep_every / others / others) + hurry(registered, others);
    end if;
    writes := writes + batch;
    if current_setting('transaction_isolation') = 'read committed' then  -- the others fail at what has changed since they began
        perform fold_hits();
    end if;
    if registered.eviction = 'none' then
        perform evict(registered, 0, 0, writes);
        return;
    elsif writes > registered.sweep_every then  -- so many that they should not evict before all that has expired is gone
        perform evict(registered, 0, 0, writes);
    end if;
    choice := greatest(writes, case when others = 0 then 512 end);
    if measure_due then
        perform measure(type);
    end if;
    entries := counter(type, 'entries');
    bytes := counter(type, 'bytes');
    if measure_due then
        -- Nobody sees what others have not committed: each makes up for its own writes, and for its part of the rest.
        removed := evict(registered,
            coalesce(writes + ceil((entries - writes - max_entries) / (others + 1)::numeric), 0)::bigint,
            coalesce((bytes - max_bytes) / (others + 1), 0), choice);
        perform set_counter(type, 'entries', entries - removed),
            set_counter(type, 'bytes', bytes - bytes * removed / greatest(1, entries));
    else
        -- Full, each write evicts one entry, so that the next measurement finds nothing to make up for.
        rate := least(2, greatest(0,
            (entries - max_entries) / (registered.measure_every * registered.sweep_every)::float8 + 1,
            (bytes - max_bytes) / (registered.volume_unit * 16) + 1));
        perform evict(registered, ceil(writes * rate)::bigint, 0, case when rate > 0 then choice else writes end);
    end if;
exception when serialization_failure or deadlock_detected or lock_not_available then
    null;  -- a later write makes the room
end
$$;

comment on function pgcache.make_room(cache_types, bigint, bigint, boolean) is
'The share of upkeep that falls on so many writes, by the clock and in batches: folds hits, measures the type if that is due, sweeps a few windows. Never fails the write.';

create or replace function pgcache.others_at_it(type text, join_in boolean) returns bigint
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    key constant integer := hashtext('pgcache.make_room');
    type_key constant integer := hashtext(type);
begin
    if join_in then
        perform pg_advisory_xact_lock_shared(key, type_key);  -- nobody takes it exclusively
    end if;
    return (
        select count(*) from pg_locks l
        where l.locktype = 'advisory' and l.classid = key::bigint & 4294967295 and l.objid = type_key::bigint & 4294967295
            and l.database = (select d.oid from pg_database d where d.datname = current_database())
            and l.pid <> pg_backend_pid()
    );
end
$$;

comment on function pgcache.others_at_it(text, boolean) is
'How many other transactions are making room in a type now. join_in: this one will be among them until it ends.';

create or replace function pgcache.hurry(registered cache_types, others bigint) returns bigint
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    ticked constant bigint := counter(registered.type, 'writes');
    share constant bigint := greatest(1, registered.sweep_every / (others + 1) / (others + 1));
begin
    if others = 0 or ticked > registered.sweep_every - share then
        return 0;
    end if;
    perform set_counter(registered.type, 'writes', registered.sweep_every - share + 1);
    return ticked;
end
$$;

comment on function pgcache.hurry(cache_types, bigint) is
'Lets a type''s clock strike after share more writes; returns for how many writes before them it will not. While n others make room, share is 1/(n + 1)^2 of sweep_every: so what all of them are late with stays below 1.65 x sweep_every, however many they are.';

create or replace function pgcache.evict(registered cache_types, need_entries bigint, need_bytes bigint, visit_entries bigint) returns bigint
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    type constant text := registered.type;
    blocks constant bigint := heap_blocks(registered.relation);
    chunks constant bigint := (blocks + 7) / 8;
    entries_per_chunk constant float8 := greatest(1, counter(type, 'entries') * 8.0 / greatest(1, counter(type, 'blocks')));
    bytes_per_entry constant float8 := greatest(1, counter(type, 'bytes') / greatest(1.0, counter(type, 'entries')));
    to_visit bigint := ceil(visit_entries / entries_per_chunk);
    removed bigint := 0;
    wanted bigint;
    hand bigint;
    whole boolean;  -- the heap; else a window to its end at most
    read_since timestamptz;
    swept record;
begin
    for attempt in 1..least(16 + greatest(need_entries, visit_entries, need_bytes / bytes_per_entry) / 1000, 1000)::integer loop
        exit when chunks = 0;
        -- Ever more in the end: a small type may sit in a few blocks of a long table that vacuum has not shortened.
        wanted := greatest(to_visit, ceil(greatest(need_entries, need_bytes / bytes_per_entry) * 4 / entries_per_chunk), 1);
        wanted := least(64, wanted * 2 ^ greatest(0, attempt - 5));
        whole := wanted >= chunks;
        wanted := case when whole then chunks else least(wanted, chunks - (counter(type, 'hand') + 1) % chunks) end;
        hand := advance_hand(type, wanted);
        read_since := (
            select p.passed_at from hand_passes p
            where p.type = type and p.position <= hand - chunks and not p.due order by p.position desc limit 1);
        swept := sweep(registered, case when whole then 0 else hand % chunks * 8 end, wanted * 8, need_entries, need_bytes, read_since);
        insert into hand_passes (type, position, passed_at) values (type, hand, cache_now());
        removed := removed + swept.expired + swept.evicted;
        need_entries := need_entries - swept.expired - swept.evicted;
        need_bytes := need_bytes - swept.freed;
        to_visit := to_visit - wanted;
        exit when need_entries <= 0 and need_bytes <= 0 and to_visit <= 0;
    end loop;
    delete from hand_passes p
    where p.ctid = any(array(
        select o.ctid from hand_passes o where o.type = type and o.position < hand - 2 * chunks - 64
        for update skip locked
    ));
    return removed;
end
$$;

comment on function pgcache.evict(cache_types, bigint, bigint, bigint) is
'Moves a type''s hand over visit_entries entries, and on until need_entries and need_bytes are evicted, 16 windows of 512 blocks at most and one more for each 1000 entries; returns how many entries it removed.';
