-- How long gets and sets take on the server. What is timed is drawn where a get or a set does more than most anyway,
-- and no call notes when it begins, as the server knows when it got the statement. So what is not drawn pays nothing.

create or replace function pgcache_internal.note_time(type text, operation text) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    -- Only where it is the client's own statement: else it would be the time of what has called it, such as a model's.
    if current_setting('transaction_read_only') = 'off'
        and current_query() ~* '^[[:space:]]*select[[:space:]].*cache_(get|set|add)(?![a-z_]*_many)'
        and chance() * (1 << least(14, pg_relation_size('timings') / 1048576)::integer) < 1
    then
        insert into timings (type, operation, began_at, milliseconds)
        values (
            type, operation, statement_timestamp(), extract(epoch from clock_timestamp() - statement_timestamp()) * 1000
        );
    end if;
end
$$;

comment on function pgcache_internal.note_time(text, text) is
'Notes how long the statement has taken up to now, if it is a get or a set that a client has sent; more rarely, if'
' nobody prunes what was noted.';

create or replace function pgcache_internal.latencies() returns table (
    type text, operation text, samples bigint, p50_ms numeric, p95_ms numeric, max_ms numeric
)
language plpgsql stable parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if pg_is_in_recovery() then
        return;
    end if;
    return query
    select t.type, t.operation, count(*),
        round(percentile_disc(0.5) within group (order by t.milliseconds)::numeric, 3),
        round(percentile_disc(0.95) within group (order by t.milliseconds)::numeric, 3),
        round(max(t.milliseconds)::numeric, 3)
    from (
        select s.*, count(*) over (partition by s.began_at) as calls
        from timings s where s.began_at > clock_timestamp() - interval '1 hour'
    ) t
    where t.calls = 1  -- not those of a statement that makes many calls
    group by t.type, t.operation
    order by t.type, t.operation;
end
$$;

comment on function pgcache_internal.latencies() is 'The rows of cache_latency.';

create or replace view pgcache.cache_latency as
select
    l.type,
    l.operation,
    l.samples,
    l.p50_ms,
    l.p95_ms,
    l.max_ms
from pgcache_internal.latencies() as l;

comment on view pgcache.cache_latency is
'How many milliseconds statements took in the last hour that are one get or one set: percentiles of those that were'
' timed, one in 64 of the hits that are logged, and one in up to 256 sets. Measured on the server from the arrival of'
' the statement on, with its arguments, without the commit. No rows on a standby.';
