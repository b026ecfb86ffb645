-- What is counted for each type, when what is due, and where the sweep stands is kept in UNLOGGED sequences: nextval
-- and setval on one need no transaction id, write no WAL, are never undone and never wait. They restart after a crash;
-- upkeep adds the events into durable totals.

create or replace function pgcache_internal.counter_names() returns text[]
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select array[
        'hits', 'misses', 'evicted', 'expired', 'writes', 'sweeps', 'volume', 'hand', 'replaced', 'admitted',
        'entries', 'bytes', 'blocks'
    ]
$$;

comment on function pgcache_internal.counter_names() is
'hits, misses, evicted, expired: events since the last crash. writes, sweeps, volume, replaced: the clocks, see tick.'
' hand: how many chunks the sweep has visited. admitted: in types that evict nothing, the entries let in, which are'
' counted before they are committed. entries, bytes, blocks: what the type held when it was last measured.';

create or replace function pgcache_internal.sequence_of(type text, counter text) returns regclass
language sql stable parallel safe  -- not pinned: inlined
as $$
    select pg_catalog.format('pgcache_internal.%I', pg_catalog.concat(counter, '_', type))::pg_catalog.regclass
$$;

comment on function pgcache_internal.sequence_of(text, text) is
'The sequence that holds a type''s counter (see counter_names).';

create or replace function pgcache_internal.counter(type text, counter text) returns bigint
language sql volatile parallel safe  -- not pinned: inlined
as $$ select coalesce(pg_catalog.pg_sequence_last_value(pgcache_internal.sequence_of(type, counter)), 0) $$;

comment on function pgcache_internal.counter(text, text) is 'The last value of a type''s counter (see counter_names).';

create or replace function pgcache_internal.set_counter(type text, counter text, value bigint) returns bigint
language sql volatile  -- not pinned: inlined
as $$ select pg_catalog.setval(pgcache_internal.sequence_of(type, counter), greatest(0, value)) $$;

comment on function pgcache_internal.set_counter(text, text, bigint) is
'Sets a type''s counter: admitted, entries, bytes or blocks.';

create or replace function pgcache_internal.count_events(type text, counter text, times bigint) returns bigint
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    sequence constant regclass := sequence_of(type, counter);
begin
    return (select count(nextval(sequence)) from generate_series(1, times));
end
$$;

comment on function pgcache_internal.count_events(text, text, bigint) is
'Adds so many events to a counter of a type; returns how many.';

create or replace function pgcache_internal.as_count(value numeric) returns bigint
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when value operator(pg_catalog.<) 9223372036854775807::numeric then value::bigint
        when value is not null then 9223372036854775807
    end
$$;

comment on function pgcache_internal.as_count(numeric) is
'A count as bigint, however large it is: no sum of counts may fail.';

-- Clocks.

create or replace function pgcache_internal.tick(type text, clock text, times bigint) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    sequence constant regclass := sequence_of(type, clock);
begin
    return (select count(*) filter (where nextval(sequence) = 1) > 0 from generate_series(1, times));
end
$$;

comment on function pgcache_internal.tick(text, text, bigint) is
'Moves a clock of a type on by so many ticks; returns whether it struck. A clock is a cyclic sequence, and strikes when'
' it shows 1. writes: ticks at each write, strikes when one is to make room. sweeps: ticks when writes strikes, strikes'
' when the type is to be measured. volume: ticks and strikes for the same by the bytes written. replaced: ticks when an'
' entry is replaced, strikes for the same.';

create or replace function pgcache_internal.set_clocks(type text) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
    clock record;
begin
    for clock in
        select sequence_of(type, c.name) as sequence,
            -- A sequence of one value is not allowed; in steps of 2 from 1 to 2 it shows 1 all the time.
            greatest(2, c.period) as top, 1 + (c.period = 1)::integer as step
        from (values
            ('writes', sweep_every(registered.max_entries, registered.max_bytes)),
            ('sweeps', coalesce(measure_every(registered.max_entries, registered.max_bytes), 9223372036854775807)),
            ('volume', volume_ticks()),
            ('replaced', measure_replaced_every(registered.max_entries))
        ) c (name, period)
    loop
        if not exists (
            select from pg_sequence s
            where s.seqrelid = clock.sequence and s.seqcycle and s.seqmax = clock.top and s.seqincrement = clock.step
        ) then
            execute format('alter sequence %s minvalue 1 increment %s maxvalue %s cycle restart',
                clock.sequence, clock.step, clock.top);
        end if;
    end loop;
end
$$;

comment on function pgcache_internal.set_clocks(text) is
'Sets the periods of a type''s clocks by its limits. What is so already is left alone: to alter a sequence would lock'
' it.';

-- Totals.

create or replace function pgcache_internal.unsettled(value bigint, seen bigint) returns bigint
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$ select case when seen <= value then value - seen else value end $$;

comment on function pgcache_internal.unsettled(bigint, bigint) is
'How much a counter of this value has counted since it was settled at seen (NULL: never): all of it, if it is below'
' seen, as it has then restarted.';

create or replace function pgcache_internal.counter_total(type text, counter text) returns bigint
language plpgsql volatile parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    total bigint;
begin
    if pg_is_in_recovery() then
        select t.total into total from counter_totals t where t.type = type and t.counter = counter;
    else  -- one statement, so that a settlement by another session is seen as a whole or not at all
        select t.total + unsettled(counter(type, counter), s.value) into total
        from counter_totals t left join counters_seen s on s.type = t.type and s.counter = t.counter
        where t.type = type and t.counter = counter;
    end if;
    return coalesce(total, 0);
end
$$;

comment on function pgcache_internal.counter_total(text, text) is
'A counter since the type was created: the durable total and what was counted since it was last settled; on a standby'
' the former.';

create or replace function pgcache_internal.settle_counters() returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    settled record;
begin
    begin
        lock table counters_seen in share update exclusive mode nowait;
    exception when lock_not_available then
        return;  -- another session is at it
    end;
    for settled in
        select t.type, t.counter, counter(t.type, t.counter) as value, s.value as seen
        from types_here() h
        inner join counter_totals t on t.type = h.type
        left join counters_seen s on s.type = t.type and s.counter = t.counter
    loop
        update counter_totals t set total = t.total + unsettled(settled.value, settled.seen)
        where t.type = settled.type and t.counter = settled.counter and settled.value is distinct from settled.seen;
        insert into counters_seen as s (type, counter, value) values (settled.type, settled.counter, settled.value)
        on conflict on constraint counters_seen_pkey do update
        set value = excluded.value where s.value <> excluded.value;
    end loop;
end
$$;

comment on function pgcache_internal.settle_counters() is
'Adds what hits, misses, evicted and expired counted since the last time into the durable totals.';
