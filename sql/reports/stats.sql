-- cache_stats and its relatives. Hits and misses come from the counters; entries, sizes and ages from the tables.

create or replace function pgcache_internal.type_stats() returns table (
    type text, entries bigint, valid bigint, expired bigint, hits bigint, misses bigint, hit_rate numeric,
    hits_per_entry numeric, tokens_saved numeric, money_saved numeric, bytes bigint, oldest timestamptz,
    newest timestamptz, evicted bigint, cleaned bigint, table_bytes bigint, entry_hits bigint, max_hits bigint,
    max_entries bigint, max_bytes bigint, ttl interval, eviction text, durable boolean, enabled boolean
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    registered types;
    logged jsonb;
    pending jsonb;
begin
    if not pg_is_in_recovery() then  -- what is logged and not folded yet counts too
        logged := (
            select jsonb_object_agg(l.type, jsonb_build_object('weight', l.weight, 'tokens', l.tokens, 'usd', l.usd))
            from (
                select m.type, sum(m.weight) as weight, sum(m.tokens) as tokens,
                    sum(usd_of(model_price(m.model), m.tokens, m.input, m.cached)) as usd
                from (
                    select
                        h.type, h.model, sum(h.weight) as weight, sum(h.weight::bigint * h.tokens) as tokens,
                        sum(h.weight::bigint * h.input_tokens) as input,
                        sum(h.weight::bigint * h.cached_input_tokens) as cached
                    from hit_log h group by h.type, h.model, h.input_tokens is null
                ) m
                group by m.type
            ) l
        );
    end if;
    for registered in select * from types_here() t order by t.type loop
        type := registered.type;
        hits := counter_total(registered.type, 'hits');
        misses := counter_total(registered.type, 'misses');
        evicted := counter_total(registered.type, 'evicted');
        cleaned := counter_total(registered.type, 'expired');
        hit_rate := round(hits::numeric / nullif(hits + misses, 0), 4);
        select coalesce(sum(s.tokens), 0), coalesce(sum(s.usd), 0) into tokens_saved, money_saved
        from tenant_savings s where s.type = registered.type;
        table_bytes := pg_total_relation_size(registered.relation);
        max_entries := registered.max_entries;
        max_bytes := registered.max_bytes;
        ttl := registered.ttl;
        eviction := registered.eviction;
        durable := registered.durable;
        enabled := registered.enabled;
        entry_hits := null;
        hits_per_entry := null;
        max_hits := null;
        if pg_is_in_recovery() then
            return next;
            continue;
        end if;
        execute format($sql$
            select count(*), count(*) filter (where is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $1)),
                coalesce(sum(%s), 0), min(t.created_at), max(t.created_at),
                as_count(sum(t.hit_count)), max(t.hit_count)
            from %s t
            $sql$, entry_size(registered.fields), registered.relation)
        into entries, valid, bytes, oldest, newest, entry_hits, max_hits using cache_now();
        expired := entries - valid;
        pending := logged -> registered.type;
        tokens_saved := tokens_saved + coalesce((pending ->> 'tokens')::numeric, 0);
        money_saved := round(money_saved + coalesce((pending ->> 'usd')::numeric, 0), 6);
        if pending is not null then
            execute format($sql$
                select as_count($1::numeric + coalesce(sum(p.weight), 0)),
                    greatest($2, as_count(max(t.hit_count::numeric + p.weight)))
                from (
                    select l.tenant, l.cache_key, sum(l.weight) as weight from hit_log l where l.type = $3 group by 1, 2
                ) p inner join %s t on t.tenant = p.tenant and t.cache_key = p.cache_key
                $sql$, registered.relation)
            into entry_hits, max_hits using entry_hits, max_hits, registered.type;
        end if;
        hits_per_entry := round(entry_hits::numeric / nullif(entries, 0), 2);
        return next;
    end loop;
end
$$;

comment on function pgcache_internal.type_stats() is
'The rows of cache_stats. On a standby only what is durable: counters as last settled, limits and sizes of tables.';

create or replace view pgcache.cache_stats as
select
    s.type,
    s.entries,
    s.valid,
    s.expired,
    s.hits,
    s.misses,
    s.hit_rate,
    s.hits_per_entry,
    s.tokens_saved,
    s.money_saved,
    s.bytes,
    s.oldest,
    s.newest,
    s.evicted,
    s.cleaned,
    s.table_bytes,
    s.max_entries,
    s.max_bytes,
    s.ttl,
    s.eviction,
    s.durable,
    s.enabled,
    t.tier,
    t.max_age,
    t.tenant_share
from pgcache_internal.type_stats() as s
inner join pgcache_internal.types as t on s.type = t.type;

comment on view pgcache.cache_stats is
'One row a type. entries = valid + expired (waiting for clean-up); hits, misses, evicted, cleaned (expired entries'
' removed) since the type was created; hit_rate = hits / (hits + misses); tokens_saved and money_saved (US dollars) by'
' hits; bytes: the entries'' own, table_bytes: table, index and TOAST with free space; durable false: UNLOGGED, emptied'
' by a crash. tier: that ttl follows; max_age: how old entries get at most; tenant_share: what each tenant keeps of the'
' limits.';

create or replace view pgcache.ai_worker_cache_stats as
select
    s.entries as total_entries,
    s.valid as valid_entries,
    s.expired as expired_entries,
    coalesce(s.entry_hits, 0) as total_hits,
    coalesce(s.hits_per_entry, 0) as avg_hits_per_entry,
    pgcache_internal.as_count(s.tokens_saved) as total_tokens_saved,
    coalesce(s.max_hits, 0) as max_hits,
    s.oldest as oldest_entry,
    s.newest as newest_entry
from pgcache_internal.type_stats() as s
where s.type = 'ai_worker';

comment on view pgcache.ai_worker_cache_stats is
'The AI worker''s statistics, with the columns that the C++ AI worker''s view had.';

create or replace function pgcache_internal.take_snapshot() returns void
language sql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    insert into stats_snapshots (
        taken_at, counted_at, type, entries, bytes, hits, misses, evicted, cleaned, tokens_saved, money_saved
    )
    select date_trunc('hour', cache_now()), cache_now(), s.type, s.entries, s.bytes, s.hits, s.misses, s.evicted,
        s.cleaned, s.tokens_saved, s.money_saved
    from type_stats() s
    on conflict (taken_at, type) do update
    set counted_at = excluded.counted_at, entries = excluded.entries, bytes = excluded.bytes, hits = excluded.hits,
        misses = excluded.misses, evicted = excluded.evicted, cleaned = excluded.cleaned,
        tokens_saved = excluded.tokens_saved, money_saved = excluded.money_saved
$$;

comment on function pgcache_internal.take_snapshot() is
'Records the statistics under the current hour; a later call in the same hour replaces them.';

create or replace view pgcache.cache_stats_history as
select
    n.taken_at as hour,
    n.type,
    n.entries,
    n.bytes,
    n.hits,
    n.misses,
    round(n.hits::numeric / nullif(n.hits + n.misses, 0), 4) as hit_rate,
    n.evicted,
    n.cleaned,
    n.tokens_saved,
    n.money_saved
from (
    select
        s.taken_at,
        s.type,
        s.entries,
        s.bytes,
        -- A crash takes what was counted since the last settlement, of which the row before may have told.
        greatest(0, s.hits - coalesce(lag(s.hits) over by_type, 0)) as hits,
        greatest(0, s.misses - coalesce(lag(s.misses) over by_type, 0)) as misses,
        greatest(0, s.evicted - coalesce(lag(s.evicted) over by_type, 0)) as evicted,
        greatest(0, s.cleaned - coalesce(lag(s.cleaned) over by_type, 0)) as cleaned,
        greatest(0, s.tokens_saved - coalesce(lag(s.tokens_saved) over by_type, 0)) as tokens_saved,
        greatest(0, s.money_saved - coalesce(lag(s.money_saved) over by_type, 0)) as money_saved
    from pgcache_internal.stats_snapshots as s
    window by_type as (partition by s.type order by s.taken_at)
) as n;

comment on view pgcache.cache_stats_history is
'One row an hour and type, as upkeep recorded them: entries and bytes at its last run in the hour, the others since the'
' row before.';

create or replace function pgcache.cache_stats_since(variadic periods interval[]) returns table (
    period interval, type text, since timestamptz, hits bigint, misses bigint, hit_rate numeric, evicted bigint,
    cleaned bigint, tokens_saved numeric, money_saved numeric
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wrong constant interval := (
        select p from unnest(periods) p where p is null or p <= interval '0' or p > interval '100 years' limit 1
    );
begin
    if wrong is not null or array_position(periods, null) is not null then
        raise exception using errcode = 'PC010',
            message = format('%L is not how long ago statistics can begin', wrong),
            hint = 'Pass one or more intervals of up to 100 years: cache_stats_since(''1 hour'', ''30 days'').';
    end if;
    return query
    with counted as materialized (
        select s.* from type_stats() s
    )

    select
        p.period, s.type, b.counted_at, n.hits, n.misses, round(n.hits::numeric / nullif(n.hits + n.misses, 0), 4),
        greatest(0, s.evicted - coalesce(b.evicted, 0)), greatest(0, s.cleaned - coalesce(b.cleaned, 0)),
        greatest(0, s.tokens_saved - coalesce(b.tokens_saved, 0)),
        greatest(0, s.money_saved - coalesce(b.money_saved, 0))
    from unnest(periods) with ordinality p (period, place)
    cross join counted s
    left join lateral (
        select r.*
        from stats_snapshots r
        where r.type = s.type and r.counted_at <= cache_now() - p.period
        order by r.counted_at desc limit 1
    ) b on true
    -- A crash takes what was counted since the last settlement, of which a snapshot may have told.
    cross join lateral (
        select
            greatest(0, s.hits - coalesce(b.hits, 0)) as hits,
            greatest(0, s.misses - coalesce(b.misses, 0)) as misses
    ) n
    order by p.place, s.type;
end
$$;

comment on function pgcache.cache_stats_since(interval[]) is
'What each type has counted since the last snapshot that is at least as old as the period, for each of these, such as'
' cache_stats_since(''1 hour'', ''1 day''): columns as in cache_stats. since: when upkeep took that snapshot, so up to'
' a period of its schedule earlier than asked for; NULL: none is that old, and it is everything since the type was'
' created. Errors: PC010.';
