-- Limits and expiry without an index: a hand walks the heap of each type in windows of blocks, deletes what has expired
-- and, as far as the type is over its limit, the worst entries of each window: of four it visits one goes. Nothing here
-- waits for a lock.

create or replace function pgcache.heap_blocks(relation regclass) returns bigint
language sql volatile parallel safe
set search_path to pg_catalog, pg_temp
as $$ select pg_relation_size(relation) / current_setting('block_size')::bigint $$;

comment on function pgcache.heap_blocks(regclass) is 'How many blocks the heap of a table has.';

create or replace function pgcache.measure(type text) returns void
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant cache_types := check_type(type);
    blocks constant bigint := heap_blocks(registered.relation);
    -- Up to 4096 blocks all are read; of more, 512 runs of 8 that are evenly spread.
    stride constant bigint := greatest(8, blocks / 512);
    entries bigint;
    bytes bigint;
begin
    execute format($sql$
        select sum(s.entries), sum(s.bytes)
        from generate_series(0, $1 - 1, $2) b (first_block)
        cross join lateral (
            select count(*) as entries, sum(%s) as bytes from %s t
            where t.ctid >= format('(%%s,0)', b.first_block)::tid and t.ctid < format('(%%s,0)', b.first_block + 8)::tid
        ) s
        $sql$, entry_size(registered.payload), registered.relation)
    into entries, bytes using blocks, stride;
    perform setval(format('pgcache.%I', 'entries_' || type)::regclass, coalesce(entries * stride / 8, 0)),
        setval(format('pgcache.%I', 'bytes_' || type)::regclass, coalesce(bytes * stride / 8, 0));
end
$$;

comment on function pgcache.measure(text) is
'Sets a type''s counters entries and bytes to what its table holds: a count up to 4096 blocks, beyond that an estimate from 4096 blocks.';

create or replace function pgcache.sweep(
    type text, first_block bigint, block_count bigint, need_entries bigint, need_bytes bigint, read_since timestamptz,
    out expired bigint, out evicted bigint, out freed bigint
)
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant cache_types := check_type(type);
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
        perform count_events('expired', type, expired);
        return;
    end if;
    execute format($sql$
        with visited as materialized (
            select t.ctid as row_id, coalesce(t.expires_at <= $1, false) as expired,
                (%2$s)::bigint as bytes,
                (%3$s) + (t.created_at >= $1)::integer * 1e10 as score  -- what was just written goes last
            from %1$s t where t.ctid >= $2 and t.ctid < $3
        ), ranked as (
            select v.row_id, row_number() over ranking as place, count(*) over () as live,
                sum(v.bytes) over ranking - v.bytes as bytes_before
            from visited v where not v.expired
            window ranking as (order by v.score rows unbounded preceding)
        ), victims as materialized (
            select v.row_id from visited v where v.expired
            union all
            select r.row_id from ranked r
            where (r.place <= $5 or r.bytes_before < $6) and r.place <= greatest(1, r.live / 2)
        ), locked as materialized (
            select t.ctid as row_id from %1$s t
            where t.ctid = any(array(select v.row_id from victims v))
            for update skip locked
        ), gone as (
            delete from %1$s t where t.ctid = any(array(select l.row_id from locked l))
            returning t.ctid as row_id
        )
        select count(*) filter (where v.expired), count(*) filter (where not v.expired),
            coalesce(sum(v.bytes) filter (where not v.expired), 0)
        from gone g inner join visited v on v.row_id = g.row_id
        $sql$, registered.relation, entry_size(registered.payload), score)
    into expired, evicted, freed
    using cache_now(), format('(%s,0)', first_block)::tid, format('(%s,0)', first_block + block_count)::tid,
        read_since, need_entries, need_bytes;
    perform count_events('expired', type, expired), count_events('evicted', type, evicted);
end
$$;

comment on function pgcache.sweep(text, bigint, bigint, bigint, bigint, timestamptz) is
'Deletes from a window of a type''s heap what has expired, and by the type''s policy, until need_entries and need_bytes are met, at most half of the others, worst first. read_since: when the hand last passed, by which idle times are judged. Rows that are locked are skipped.';

-- Reuse, discounted by the time without it in laps of the hand; for cost times what a reuse saves per byte
-- (GreedyDual-Size-Frequency with the idle time for its clock).
create or replace function pgcache.eviction_score(eviction text, payload jsonb) returns text
language sql immutable parallel safe
set search_path to pgcache, pg_catalog, pg_temp
as $$
    select case eviction
        when 'fifo' then 'extract(epoch from t.created_at)::float8'
        else '(1 + t.hit_count)::float8 / (1 + extract(epoch from greatest($1 - t.last_accessed_at, ''0''))'
            ' / greatest(extract(epoch from $1 - coalesce($4, $1 - ''1 hour''::interval)), 1e-3))'
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

create or replace function pgcache.look_after(type text, strikes integer, bytes bigint) returns void
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant cache_types := check_type(type);
    -- Values up to 2 kB come here only with a strike, which then stands for all of them.
    volume constant float8 := case when bytes > 2048 then bytes else 0 end + strikes * registered.sweep_every * 2048.0;
    volume_ticks constant bigint := least(coalesce(floor(volume / registered.volume_unit + random()), 0), 100000);
    measure_due boolean := false;
begin
    if strikes > 0 then
        measure_due := ticks(type, 'sweeps', strikes, registered.measure_every);
    end if;
    if volume_ticks > 0 then
        measure_due := ticks(type, 'volume', volume_ticks, 16) or measure_due;
    end if;
    if strikes > 0 or measure_due then
        perform make_room(type, strikes * registered.sweep_every, measure_due);
    end if;
end
$$;

comment on function pgcache.look_after(text, integer, bigint) is
'What a write does when its type''s clock strikes, or when its value has more than 2 kB: ticks the clocks of the measurements, and makes room.';

create or replace function pgcache.make_room(type text, writes bigint, measure_due boolean) returns void
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant cache_types := check_type(type);
    entries bigint;
    bytes bigint;
    rate float8;
    -- Where the size is an estimate, its error stays below the limit.
    aim constant float8 := case when heap_blocks(registered.relation) > 4096 then 0.97 else 1 end;
    max_entries constant bigint := registered.max_entries * aim;
    max_bytes constant bigint := registered.max_bytes * aim;
    removed bigint;
begin
    -- Folding locks entries that others may want until the end of the transaction: not in one that is open for a while.
    if statement_timestamp() - transaction_timestamp() < interval '10 milliseconds' then
        perform fold_hits();
    end if;
    if measure_due then
        perform measure(type);
    end if;
    if registered.eviction <> 'none' then
        entries := counter(type, 'entries');
        bytes := counter(type, 'bytes');
        -- Full, each write evicts one entry, so that the next measurement finds nothing to make up for.
        rate := least(2, greatest(0,
            (entries - max_entries) / (registered.measure_every * registered.sweep_every)::float8 + 1,
            (bytes - max_bytes) / (registered.volume_unit * 16) + 1));
        if measure_due then  -- with room for the writes until the next sweep
            removed := evict(type, coalesce(entries + least(writes, registered.sweep_every) - 1 - max_entries, 0),
                coalesce(bytes - max_bytes, 0), writes);
            perform setval(format('pgcache.%I', 'entries_' || type)::regclass, greatest(0, entries - removed)),
                setval(format('pgcache.%I', 'bytes_' || type)::regclass, greatest(0, bytes - bytes * removed / greatest(1, entries)));
        else
            perform evict(type, ceil(writes * rate)::bigint, 0, writes);
        end if;
    else
        perform evict(type, 0, 0, writes);
    end if;
exception when serialization_failure or deadlock_detected or lock_not_available then
    null;  -- in REPEATABLE READ what others have changed is out of reach: a later write makes the room
end
$$;

comment on function pgcache.make_room(text, bigint, boolean) is
'The share of upkeep that falls on so many writes: folds hits, measures the type if that is due, sweeps a few windows. Never waits for a lock and never fails the write.';

create or replace function pgcache.evict(type text, need_entries bigint, need_bytes bigint, visit_entries bigint) returns bigint
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant cache_types := check_type(type);
    blocks constant bigint := heap_blocks(registered.relation);
    chunks constant bigint := (blocks + 7) / 8;
    entries_per_chunk constant float8 := greatest(1, counter(type, 'entries') * 8.0 / greatest(blocks, 1));
    removed bigint := 0;
    wanted bigint;
    hand bigint;
    read_since timestamptz;
    swept record;
begin
    for attempt in 1..16 loop
        exit when chunks = 0;
        wanted := ceil(greatest(visit_entries, need_entries * 4) / entries_per_chunk);
        hand := counter(type, 'hand') + 1;
        wanted := greatest(1, least(wanted, 64, chunks - hand % chunks));
        hand := advance_hand(type, wanted);
        read_since := (
            select p.passed_at from hand_passes p
            where p.type = type and p.position <= hand - chunks order by p.position desc limit 1);
        swept := sweep(type, hand % chunks * 8, wanted * 8, need_entries, need_bytes, read_since);
        insert into hand_passes values (type, hand, cache_now());
        removed := removed + swept.expired + swept.evicted;
        need_entries := need_entries - swept.expired - swept.evicted;
        need_bytes := need_bytes - swept.freed;
        exit when need_entries <= 0 and need_bytes <= 0;
    end loop;
    delete from hand_passes p
    where p.ctid = any(array(
        select o.ctid from hand_passes o where o.type = type and o.position < hand - 2 * chunks - 64
        for update skip locked
    ));
    return removed;
end
$$;

comment on function pgcache.evict(text, bigint, bigint, bigint) is
'Moves a type''s hand over visit_entries entries, and on until need_entries and need_bytes are evicted, 16 windows of 512 blocks at most; returns how many entries it removed.';

create or replace function pgcache.has_room(type text, key text) returns boolean
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant cache_types := check_type(type);
begin
    if coalesce(counter(type, 'entries') < registered.max_entries, true) and coalesce(counter(type, 'bytes') < registered.max_bytes, true)
        or cache_exists(type, key)
    then
        return true;
    end if;
    perform cache_clear_expired(type), measure(type);
    if counter(type, 'entries') >= registered.max_entries or counter(type, 'bytes') >= registered.max_bytes then
        raise exception using errcode = 'PC009',
            message = format('the cache type %s is full: %s entries, %s', type,
                counter(type, 'entries'), pg_size_pretty(counter(type, 'bytes'))),
            hint = format('It evicts nothing (eviction none). Raise a limit or let it evict: SELECT cache_configure(%L, eviction => ''lru'').', type);
    end if;
    return true;
end
$$;

comment on function pgcache.has_room(text, text) is
'For types that evict nothing: true if the key may be written. Errors: PC009 full.';
