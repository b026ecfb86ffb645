-- What holds in every database with pgcache while nobody is at work in it, whatever was done there. Silent where it
-- does; else an error whose DETAIL lists what does not, as JSON: invariant, what is wrong, the row that shows it. One
-- block, which looks only into what holds something, since invariants.py runs it after each test.

do $check$
declare
    broken jsonb[] := '{}';
    newest_version bigint;
    voided boolean;  -- the outbox says that all entries in Redis are void, which covers what else it might say
    delivered boolean;  -- a relay was here, and may have removed what the outbox does not say
    t record;
    held record;
begin
    if to_regclass('pgcache_internal.types') is null then
        return;
    end if;

    -- room: whoever commits takes along what is due. So what others see has been left behind.
    broken := broken || array(
        select jsonb_build_object('invariant', 'room', 'what', 'due after its transaction', 'row', to_jsonb(d))
        from pgcache_internal.room_due d
    );

    -- counters: each type has all of them, nobody else has any, and the totals do not run ahead.
    if (
        select count(*) from pg_class c
        where c.relnamespace = 'pgcache_internal'::regnamespace and c.relkind = 'S' and c.relpersistence = 'u'
    ) <> (select count(*) * cardinality(pgcache_internal.counter_names()) from pgcache_internal.types) then
        broken := broken || jsonb_build_object('invariant', 'counters', 'what', 'not those of the types', 'row', array(
            select c.relname from pg_class c
            where c.relnamespace = 'pgcache_internal'::regnamespace and c.relkind = 'S' and c.relpersistence = 'u'
            except
            select n || '_' || r.type
            from pgcache_internal.types r cross join unnest(pgcache_internal.counter_names()) n
        ));
    end if;
    broken := broken || array(
        select jsonb_build_object('invariant', 'counters', 'what', 'more is settled than was counted',
            'row', to_jsonb(s) || jsonb_build_object('total', c.total))
        from pgcache_internal.counters_seen s
        left join pgcache_internal.counter_totals c on c.type = s.type and c.counter = s.counter
        where c.type is null or s.value > c.total or s.value > pgcache_internal.counter(s.type, s.counter)
    );

    -- outbox: what waits for Redis is a change of a type in the hot tier, and each change is there once.
    newest_version := coalesce(pg_sequence_last_value('pgcache_internal.hot_version'), 0);
    delivered := exists (select from pgcache_internal.hot_epoch);
    voided := exists (select from pgcache_internal.hot_outbox o where o.type is null);
    broken := broken || array(
        select jsonb_build_object('invariant', 'outbox', 'what', w.what, 'row', to_jsonb(o))
        from (
            select b.*, h.type is not null as is_hot, count(*) over (partition by b.version) as times
            from pgcache_internal.hot_outbox b left join pgcache_internal.hot_types h on h.type = b.type
            where b.type is not null
        ) o
        cross join lateral (values
            (not o.is_hot and not voided, 'of a type that is not in the hot tier'),
            (o.version > newest_version, 'of a version that was not given yet'),
            (o.times > 1, 'of a version of another change'),
            (o.noted_at > clock_timestamp(), 'of the future')
        ) w (is_so, what)
        where w.is_so
    );
    if (select count(*) from pg_trigger g where g.tgname = any(pgcache_internal.hot_triggers()) and g.tgenabled = 'A')
        <> (select count(*) * cardinality(pgcache_internal.hot_triggers()) from pgcache_internal.hot_types)
    then
        broken := broken || array(
            select jsonb_build_object('invariant', 'outbox', 'what', 'triggers not those of the types in the hot tier',
                'row', jsonb_build_object('table', g.tgrelid::regclass, 'trigger', g.tgname, 'enabled', g.tgenabled))
            from pg_trigger g where g.tgname = any(pgcache_internal.hot_triggers())
        );
    end if;

    for t in
        select
            r.*, h.type is not null as is_hot, r.eviction = 'none' as refuses,
            pgcache_internal.counter(r.type, 'entries') as counted_entries,
            pgcache_internal.counter(r.type, 'bytes') as counted_bytes,
            pgcache_internal.sweep_every(r.max_entries, r.max_bytes)
                * pgcache_internal.measure_every(r.max_entries, r.max_bytes) as measured_every
        from pgcache_internal.types r left join pgcache_internal.hot_types h on h.type = r.type
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
            case
                -- It takes longer than all the rest to find out how large an entry is.
                when t.counted_bytes > 0 or 4 * pg_table_size(t.relation) > t.max_bytes
                    then pgcache_internal.entry_size(t.fields)
                else '0'
            end,
            t.relation, t.refuses)
        into held;
        -- limits, as docs/operating.md has them, or what was there already when they were set. counters.
        broken := broken || array(
            select jsonb_build_object('invariant', w.invariant, 'what', w.what, 'row', to_jsonb(t) || to_jsonb(held))
            from (values
                ('limits', 'more than max_entries',
                    held.entries > floor(t.max_entries * case when t.refuses then 1 else 1.05 end)
                    and held.entries > t.counted_entries),
                ('limits', 'more than max_bytes', held.bytes > t.max_bytes * 1.05 and held.bytes > t.counted_bytes),
                ('counters', 'more entries have come since they were counted than may', case
                    when t.refuses
                        then held.entries > t.counted_entries + pgcache_internal.counter(t.type, 'admitted')
                    else held.entries > t.counted_entries + 2 * t.measured_every
                end),
                ('counters', 'what is counted is not what is there',
                    t.counted_entries > 0 and not t.refuses
                    and pgcache_internal.heap_blocks(t.relation) <= pgcache_internal.counted_blocks()
                    and (
                        select row(c.entries, c.bytes) <> row(held.entries, held.bytes)
                        from pgcache_internal.count_entries(t.type, pgcache_internal.counted_blocks()) c
                    )),
                ('counters', 'entries have more hits than were counted', held.hits > (
                    select c.total + pgcache_internal.counter(t.type, 'hits') - coalesce(s.value, 0) - coalesce(
                        (select sum(l.weight) from pgcache_internal.hit_log l where l.type = t.type and l.weight = 1), 0
                    )
                    from pgcache_internal.counter_totals c
                    left join pgcache_internal.counters_seen s on s.type = c.type and s.counter = c.counter
                    where c.type = t.type and c.counter = 'hits'
                )),
                ('outbox', 'an entry has a version that was not given yet', held.version > newest_version)
            ) w (invariant, what, is_so)
            where w.is_so
        );

        -- An entry is as old as what the outbox says of it, or older; and where no relay was, it says all.
        if t.is_hot and held.version is not null and not voided then
            execute format($sql$
                select $1 || array(
                    select jsonb_build_object('invariant', 'outbox', 'what', 'a change is not in it',
                        'row', jsonb_build_object('type', %L, 'tenant', t.tenant, 'cache_key', t.cache_key,
                            'version', t.version, 'noted', o.version))
                    from %s t
                    left join (
                        select b.tenant, b.cache_key, max(b.version) as version
                        from pgcache_internal.hot_outbox b where b.type = %1$L group by 1, 2
                    ) o on o.tenant = t.tenant and o.cache_key = t.cache_key
                    where t.version > coalesce(o.version, case when $2 then t.version else 0 end)
                )
                $sql$, t.type, t.relation)
            into broken using broken, delivered;
        end if;
    end loop;

    if broken <> '{}' then
        raise exception 'invariants do not hold' using detail = to_jsonb(broken);
    end if;
end
$check$;
