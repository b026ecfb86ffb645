-- What is counted for each type, and where the sweep stands, is kept in UNLOGGED sequences: nextval and setval on one
-- need no transaction id, write no WAL, are never undone and never wait. They restart after a crash; upkeep adds the
-- events into durable totals.

create or replace function pgcache_internal.counter_names() returns text[]
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$ select array['hits', 'misses', 'evicted', 'expired', 'writes', 'sweeps', 'volume', 'hand', 'entries', 'bytes', 'blocks'] $$;

comment on function pgcache_internal.counter_names() is
'hits, misses, evicted, expired: events since the last crash. writes, sweeps, volume: the clocks of the limits, see note_writes. hand: how many chunks the sweep has visited. entries, bytes, blocks: as last measured; in types that evict nothing, entries counts sets in before they are committed.';

create or replace function pgcache_internal.sequence_of(type text, counter text) returns regclass
language sql stable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.format('pgcache_internal.%I', counter || '_' || type)::regclass $$;

comment on function pgcache_internal.sequence_of(text, text) is 'The sequence that holds a type''s counter (see counter_names).';

create or replace function pgcache_internal.counter(type text, counter text) returns bigint
language sql volatile parallel safe  -- not pinned: inlined
as $$ select coalesce(pg_catalog.pg_sequence_last_value(pgcache_internal.sequence_of(type, counter)), 0) $$;

comment on function pgcache_internal.counter(text, text) is 'The last value of a type''s counter (see counter_names).';

create or replace function pgcache_internal.set_counter(type text, counter text, value bigint) returns bigint
language sql volatile  -- not pinned: inlined
as $$ select pg_catalog.setval(pgcache_internal.sequence_of(type, counter), greatest(0, value)) $$;

comment on function pgcache_internal.set_counter(text, text, bigint) is 'Sets a type''s counter: entries, bytes, blocks.';

create or replace function pgcache_internal.advance(type text, counter text, times bigint, due bigint default 1) returns bigint
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    sequence constant regclass := sequence_of(type, counter);
begin
    return (select count(*) from generate_series(1, times) where nextval(sequence) % due = 1 % due);
end
$$;

comment on function pgcache_internal.advance(text, text, bigint, bigint) is
'Advances a counter of a type so many times; returns how often it showed 1, or 1 more than a multiple of due.';

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
        select t.total + counter(type, counter) - coalesce(s.value, 0) into total
        from counter_totals t left join counters_seen s on s.type = t.type and s.counter = t.counter
        where t.type = type and t.counter = counter;
    end if;
    return coalesce(total, 0);
end
$$;

comment on function pgcache_internal.counter_total(text, text) is
'A counter since the type was created: the durable total and what was counted since it was last settled; on a standby the former.';

create or replace function pgcache_internal.settle_counters() returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    settled record;
begin
    if not pg_try_advisory_xact_lock(hashtext('pgcache_internal.settle_counters')) then
        return;
    end if;
    for settled in
        select t.type, t.counter, counter(t.type, t.counter) as value, coalesce(s.value, 0) as seen
        from types_here() h
        inner join counter_totals t on t.type = h.type
        left join counters_seen s on s.type = t.type and s.counter = t.counter
    loop
        update counter_totals t set total = t.total + settled.value - settled.seen
        where t.type = settled.type and t.counter = settled.counter and settled.value <> settled.seen;
        insert into counters_seen as s (type, counter, value) values (settled.type, settled.counter, settled.value)
        on conflict on constraint counters_seen_pkey do update set value = excluded.value where s.value <> excluded.value;
    end loop;
end
$$;

comment on function pgcache_internal.settle_counters() is
'Adds what hits, misses, evicted and expired counted since the last time into the durable totals.';
