-- What holds in every database with pgcache while nobody is at work in it, whatever was done there. Silent where it
-- does; else an error whose DETAIL lists what does not, as JSON: invariant, what is wrong, the row that shows it.
-- invariants.py runs it after each test, in a session of its own, whose time goes to look up what it needs and to plan:
-- so it is one block, which asks for rows only where there may be some.

do $check$
declare
    broken jsonb[] := '{}';
    voided boolean := false;  -- the outbox says that all entries in Redis are void, which covers what else it might say
    t record;
    held record;
    known text[];
begin
    if to_regclass('pgcache_internal.types') is null then
        return;
    end if;

    -- room: whoever commits takes along what is due. So what others see has been left behind.
    if exists (select from pgcache_internal.room_due) then
        broken := broken || array(
            select jsonb_build_object('invariant', 'room', 'what', 'due after its transaction', 'row', to_jsonb(d))
            from pgcache_internal.room_due d
        );
    end if;

    -- counters: each type has all of them, nobody else has any but the limits of tenants, and the totals do not run
    -- ahead.
    if (
        select count(*) from pg_class c
        where c.relnamespace = 'pgcache_internal'::regnamespace and c.relkind = 'S' and c.relpersistence = 'u'
            and c.relname !~ '^(tenant_room|hot_outbox)_'
    ) <> (select count(*) from pgcache_internal.types) * cardinality(pgcache_internal.counter_names()) then
        broken := broken || jsonb_build_object('invariant', 'counters', 'what', 'not those of the types', 'row', array(
            select c.relname from pg_class c
            where c.relnamespace = 'pgcache_internal'::regnamespace and c.relkind = 'S' and c.relpersistence = 'u'
                and c.relname !~ '^(tenant_room|hot_outbox)_'
            except
            select n || '_' || r.type
            from pgcache_internal.types r cross join unnest(pgcache_internal.counter_names()) n
        ));
    end if;
    if exists (select from pgcache_internal.counters_seen) then
        broken := broken || array(
            select jsonb_build_object('invariant', 'counters', 'what', 'more is settled than was counted',
                'row', to_jsonb(s) || jsonb_build_object('total', c.total))
            from pgcache_internal.counters_seen s
            left join pgcache_internal.counter_totals c on c.type = s.type and c.counter = s.counter
            where c.type is null or s.value > c.total or s.value > pgcache_internal.counter(s.type, s.counter)
        );
    end if;

    known := pgcache_internal.change_triggers(true, false) || pgcache_internal.change_triggers(false, true);

    -- outbox: what waits for Redis is a change of a type in the hot tier, and each change is there once.
    if exists (select from pgcache_internal.change_log) then
        voided := exists (select from pgcache_internal.hot_untold() o where o.cache_key is null);
        broken := broken || array(
            select jsonb_build_object('invariant', 'outbox', 'what', w.what, 'row', to_jsonb(o))
            from (
                select b.*, h.type is not null as is_hot, count(*) over (partition by b.version) as times
                from pgcache_internal.hot_untold() b left join pgcache_internal.hot_types h on h.type = b.type
                where b.cache_key is not null
            ) o
            cross join lateral (values
                (not o.is_hot and not voided, 'of a type that is not in the hot tier'),
                (o.version > pg_sequence_last_value('pgcache_internal.hot_version') is not false,
                    'of a version that was not given yet'),
                (o.times > 1, 'of a version of another change'),
                (o.noted_at > clock_timestamp(), 'of the future')
            ) w (is_so, what)
            where w.is_so
        );
    end if;
    if (
        select count(*) from pg_trigger g
        where g.tgname = any(known) and g.tgenabled = 'A'
    ) <> (
        select coalesce(sum(cardinality(pgcache_internal.change_triggers(h.type is not null, n.type is not null))), 0)
        from pgcache_internal.hot_types h full join pgcache_internal.near_types n on n.type = h.type
    ) then
        broken := broken || array(
            select jsonb_build_object('invariant', 'outbox', 'what', 'triggers not those of the types hot or near',
                'row', jsonb_build_object('table', g.tgrelid::regclass, 'trigger', g.tgname, 'enabled', g.tgenabled))
            from pg_trigger g where g.tgname = any(known)
        );
    end if;

    for t in
        select
            r.*, r.eviction = 'none' as refuses,
            -- How large an entry is takes long to find out.
            r.max_entries is not null or 4 * pg_table_size(r.relation) > r.max_bytes as may_be_full
        from pgcache_internal.types r
        where pg_relation_size(r.relation) > 0
    loop
        execute format($sql$
            select
                count(*) as entries, sum(e.size)::bigint as bytes,
                sum(e.hit_count) filter (where e.hit_count < 16) as hits, max(e.version) as version
            from (
                select
                    t.hit_count, t.version, t.expires_at, %s as size,
                    -- The test's clock may have been ahead of ours.
                    greatest(clock_timestamp(), max(t.created_at) over ()) as moment
                from %s t
            ) e
            where not %L or e.expires_at <= e.moment is not true
            $sql$,
            case when t.may_be_full then pgcache_internal.entry_size(t.fields) else '0' end, t.relation, t.refuses)
        into held;

        -- limits, as docs/operating.md has them, or what was there already when they were set. counters.
        if t.may_be_full then
            broken := broken || array(
                select jsonb_build_object('invariant', w.invariant, 'what', w.what,
                    'row', to_jsonb(t) || to_jsonb(held) || to_jsonb(c))
                from (
                    select
                        pgcache_internal.counter(t.type, 'entries') as counted_entries,
                        pgcache_internal.counter(t.type, 'bytes') as counted_bytes,
                        pgcache_internal.counter(t.type, 'admitted') as admitted,
                        pgcache_internal.sweep_every(t.max_entries, t.max_bytes)
                            * pgcache_internal.measure_every(t.max_entries, t.max_bytes) as measured_every
                ) c
                cross join lateral (values
                    ('limits', 'more than max_entries',
                        held.entries > floor(t.max_entries * case when t.refuses then 1 else 1.05 end)
                        and held.entries > c.counted_entries),
                    ('limits', 'more than max_bytes', held.bytes > t.max_bytes * 1.05 and held.bytes > c.counted_bytes),
                    ('counters', 'more entries have come since they were counted than may',
                        held.entries > c.counted_entries
                            + case when t.refuses then c.admitted else 2 * c.measured_every end),
                    ('counters', 'what is counted is not what is there',
                        not t.refuses
                        and pgcache_internal.heap_blocks(t.relation) <= pgcache_internal.counted_blocks()
                        and (
                            select row(n.entries, n.bytes) <> row(held.entries, coalesce(held.bytes, 0))
                            from pgcache_internal.count_entries(t.type, pgcache_internal.counted_blocks()) n
                        ))
                ) w (invariant, what, is_so)
                where w.is_so
            );
        end if;

        -- Up to 16 of an entry, each hit that was counted is one line of the log, or was one. A crash takes both.
        if coalesce(held.hits, 0) + coalesce(
            (select sum(l.weight) from pgcache_internal.hit_log l where l.type = t.type and l.weight = 1), 0
        ) > (
            select c.total - coalesce(s.value, 0) + pgcache_internal.counter(t.type, 'hits')
            from pgcache_internal.counter_totals c
            left join pgcache_internal.counters_seen s on s.type = c.type and s.counter = c.counter
            where c.type = t.type and c.counter = 'hits'
        ) then
            broken := broken || jsonb_build_object('invariant', 'counters', 'what',
                'entries have more hits than were counted', 'row', to_jsonb(t) || to_jsonb(held));
        end if;

        if held.version > coalesce(pg_sequence_last_value('pgcache_internal.hot_version'), 0) then
            broken := broken || jsonb_build_object('invariant', 'outbox', 'what',
                'an entry has a version that was not given yet', 'row', to_jsonb(t) || to_jsonb(held));
        end if;

        -- An entry is as old as what the outbox says of it, or older; and where nobody has pruned it, it says all.
        if held.version is not null and not voided and pgcache_internal.is_hot(t.type) then
            execute format($sql$
                select $1 || array(
                    select jsonb_build_object('invariant', 'outbox', 'what', 'a change is not in it',
                        'row', jsonb_build_object('type', %L, 'tenant', t.tenant, 'cache_key', t.cache_key,
                            'version', t.version, 'noted', o.version))
                    from %s t
                    left join (
                        select b.tenant, b.cache_key, max(b.version) as version
                        from pgcache_internal.hot_untold() b where b.type = %1$L group by 1, 2
                    ) o on o.tenant = t.tenant and o.cache_key = t.cache_key
                    where t.version > coalesce(o.version, case when $2 then t.version else 0 end)
                )
                $sql$, t.type, t.relation)
            into broken using broken, exists (select from pgcache_internal.hot_epoch)
                or exists (select from pgcache_internal.change_epoch)
                or pg_sequence_last_value('pgcache_internal.hot_version') >= 256;
        end if;
    end loop;

    if broken <> '{}' then
        raise exception 'invariants do not hold' using detail = to_jsonb(broken);
    end if;
end
$check$;
