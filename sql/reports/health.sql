create or replace function pgcache.cache_health() returns table (check_name text, status text, detail text, hint text)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    low_rate constant numeric := cache_setting('alert_hit_rate')::numeric;
    max_latency constant numeric := extract(epoch from cache_setting('alert_latency')::interval) * 1000;
    high_size constant numeric := cache_setting('alert_size')::numeric;
    backlog bigint := 0;
    max_absence constant interval := greatest('1 minute', 3 * cache_setting('hot_max_staleness')::interval);
    max_changes constant bigint := cache_setting('hot_outbox_limit')::bigint / 2;
    changes bigint;
    relay_seen timestamptz;
begin
    if not pg_is_in_recovery() then
        select count(*) into backlog from hit_log;
        -- As if it had been there when the first type came into the tier.
        select greatest(min(h.since), (select p.drained_at from hot_progress() p)) into relay_seen from hot_types h;
        select count(*) into changes from hot_untold();
    end if;
    return query
    with checks (check_name, status, detail, hint) as materialized (
        select 'hit rate: ' || s.type,
            case when r.hits + r.misses < 100 or r.hit_rate >= low_rate then 'ok' else 'warning' end,
            case
                when r.hits + r.misses = 0 then 'no requests yet'
                else format('%s %% of %s requests%s', round(100 * r.hit_rate, 1), r.hits + r.misses,
                    ' since the upkeep of ' || r.since)
            end,
            case
                when r.hits + r.misses >= 100 and r.hit_rate < low_rate then format(
                    'Are keys stable, is the TTL (%s) long enough, is %s evicted too early (%s evicted)?'
                    ' cache_entry tells about one key.',
                    coalesce(s.ttl::text, 'never'), s.type, s.evicted
                )
            end
        from cache_stats s
        -- What is new since the last record before 100 requests, so that a good past does not hide a bad present.
        left join lateral (
            select p.taken_at, p.hits, p.misses
            from stats_snapshots p
            where p.type = s.type and p.hits <= s.hits and p.misses <= s.misses
                and p.hits + p.misses <= s.hits + s.misses - 100
            order by p.taken_at desc
            limit 1
        ) p on true
        cross join lateral (
            select s.hits - coalesce(p.hits, 0) as hits, s.misses - coalesce(p.misses, 0) as misses, p.taken_at as since
        ) n
        cross join lateral (
            select n.*, n.hits::numeric / nullif(n.hits + n.misses, 0) as hit_rate
        ) r
        union all
        select 'size: ' || s.type,
            case when l.used > high_size then 'warning' else 'ok' end,
            format('%s entries, %s, %s', coalesce(s.entries, 0), pg_size_pretty(coalesce(s.bytes, 0)),
                coalesce(round(100 * l.used, 1) || ' % of the limit', 'no limit')),
            case
                when l.used > high_size then format(
                    'Entries are evicted at the limit.'
                    ' Raise it: SELECT cache_configure(%L, max_entries => ..., max_bytes => ...).', s.type
                )
            end
        from cache_stats s
        cross join lateral (
            select greatest(s.entries::numeric / s.max_entries, s.bytes::numeric / s.max_bytes) as used
        ) l
        union all
        select 'upkeep: ' || j.job_name,
            case when j.outcome = 'failed' then 'critical' when j.overdue then 'warning' else 'ok' end,
            case
                when j.last_run is null then 'has not run yet'
                else format('%s at %s%s', j.outcome, j.last_run, coalesce(': ' || j.detail, ''))
            end,
            case
                when j.job_name = 'pgcache_hot_relay' and (j.outcome = 'failed' or j.overdue)
                    then 'Run CALL hot_relay(''0 seconds'') by hand to see the error.'
                when j.outcome = 'failed' then 'Run CALL cache_upkeep() by hand to see the error.'
                when j.overdue and j.cron_database is not null
                    then format('Ask pg_cron for the reason, in the database %I: SELECT * FROM cron.job_run_details'
                        ' WHERE database = %L ORDER BY start_time DESC LIMIT 5', j.cron_database, current_database())
                when j.overdue
                    then 'Run CALL cache_upkeep(), and see that a scheduler does: SELECT cache_schedule() with pg_cron.'
            end
        from job_runs() j
        union all
        select 'hit log', case when backlog > 50000 then 'warning' else 'ok' end,
            backlog || ' lines waiting to be folded',
            case when backlog > 50000 then 'Hits are logged more rarely until CALL cache_upkeep() folds them.' end
        union all
        select 'latency', case when w.p95_ms > max_latency then 'warning' else 'ok' end,
            case
                when w.samples is null then 'not enough samples yet'
                else format('p95 %s ms of %s samples of %s %s in the last hour, p50 %s ms',
                    w.p95_ms, w.samples, w.operation, w.type, w.p50_ms)
            end,
            case
                when w.p95_ms > max_latency then 'Is the server out of CPU, memory for the cache, or disk bandwidth?'
                    ' SELECT * FROM cache_latency shows all types, pg_stat_activity what else runs.'
            end
        from (values (1)) one left join lateral (
            select l.* from latencies() l where l.samples >= 20 order by l.p95_ms desc limit 1
        ) w on true
        union all
        select 'hot tier', case when w.absent or changes > max_changes then 'warning' else 'ok' end,
            format('%s %s, %s changes in the outbox',
                case when w.absent then 'no relay since' else 'last relay at' end, relay_seen, changes),
            case
                when w.absent or changes > max_changes
                    then 'Start the relay: python -m pgcache_py relay,'
                    ' or SELECT cache_hot_schedule() with plpython3u and pg_cron.'
            end
        from (values (clock_timestamp() - relay_seen > max_absence)) w (absent)
        where relay_seen is not null
        union all
        select 'watch: ' || w.relation || ' ' || w.tag, case w.state when 'ok' then 'ok' else 'warning' end,
            case w.state when 'ok' then w.detail else format('%s: %s', w.state, w.detail) end, w.hint
        from watch_states() w
        union all
        select 'name: ' || o.ours, 'warning', format('hidden by %s, which comes first in search_path', o.theirs), o.hint
        from hiding_objects() o
    )

    select 'overall',
        case
            when bool_or(c.status = 'critical') then 'critical'
            when bool_or(c.status = 'warning') then 'warning'
            else 'ok'
        end,
        format('%s of %s checks are ok', count(*) filter (where c.status = 'ok'), count(*)),
        null::text
    from checks c
    union all
    select * from checks;
end
$$;

comment on function pgcache.cache_health() is
'The alerts, the worst status first, as overall: hit rate below 70 % since upkeep last recorded it (or, if these are'
' fewer than 100 requests, since it did before), size above 80 % of a limit, upkeep overdue or failed, hit log'
' growing, the 95th percentile of gets or sets of a type above 10 ms in the last hour (of 20 samples or more, see'
' cache_latency), and with types in the hot tier: no relay for a minute (or 3 x hot_max_staleness, if that is'
' longer), outbox above half of hot_outbox_limit; a watch that is not as it should be (see cache_watches); a table,'
' view or function of ours that another one hides, in a schema that comes before pgcache in search_path; status ok,'
' warning or critical, with what to do. Thresholds: settings alert_hit_rate, alert_size, alert_latency,'
' overdue_after.';

create or replace function pgcache.get_cache_index_usage() returns table (
    table_name text, index_name text, index_scans bigint, tuples_read bigint, tuples_fetched bigint, index_bytes bigint
)
language sql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select s.relname::text, s.indexrelname::text, s.idx_scan, s.idx_tup_read, s.idx_tup_fetch,
        pg_relation_size(s.indexrelid)
    from pg_stat_user_indexes s inner join types t on t.relation = s.relid
    order by 1, 2
$$;

comment on function pgcache.get_cache_index_usage() is
'How the index of each cache table is used: one row an index, sizes in bytes.';
