-- Counters in unlogged sequences restart after a crash; upkeep adds them into durable totals.

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
