create or replace function pgcache_internal.cron_period(schedule text) returns interval
language plpgsql immutable strict parallel safe
set search_path to pg_catalog, pg_temp
as $$
declare
    parts constant text[] := regexp_split_to_array(lower(btrim(schedule)), '[[:space:]]+');
    field integer;
    every integer;
begin
    if array_to_string(parts, ' ') ~ '^[0-9]{1,2} seconds?$' then
        return parts[1]::integer * interval '1 second';
    elsif parts[1] like '@%' then
        return case parts[1]
            when '@hourly' then interval '1 hour'
            when '@daily' then interval '1 day'
            when '@midnight' then interval '1 day'
            when '@weekly' then interval '7 days'
            when '@monthly' then interval '31 days'
            else interval '366 days'
        end;
    elsif cardinality(parts) <> 5 then
        return null;
    end if;
    foreach field in array array[4, 5, 3, 2, 1] loop  -- from the longest to the shortest
        every := substring(parts[field] from '^[*]/([0-9]{1,3})$')::integer;
        if parts[field] not in ('*', '*/1') then
            return case field
                when 5 then interval '7 days'
                when 4 then interval '366 days'
                when 3 then coalesce(least(every, 31), 31) * interval '1 day'
                when 2 then coalesce(least(every, 24), 24) * interval '1 hour'
                else coalesce(least(every, 60), 60) * interval '1 minute'
            end;
        end if;
    end loop;
    return interval '1 minute';
end
$$;

comment on function pgcache_internal.cron_period(text) is
'How long it may be from one run to the next by a schedule of pg_cron, at most; NULL if it is none.';

create or replace function pgcache_internal.job_runs() returns table (
    job_name text, schedule text, active boolean, last_run timestamptz, duration interval, outcome text, removed bigint,
    detail text, overdue boolean, cron_database text
)
language plpgsql stable parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    patience interval;
    installed_at constant timestamptz := (select min(m.applied_at) from schema_migrations m);
    cron_here constant boolean := cron_has('job', 'SELECT') and cron_has('job_run_details', 'SELECT');
    own record;
begin
    for job_name in select j.job_name from scheduled_jobs() j union all select 'pgcache_hot_relay' loop
        select r.started_at, r.finished_at - r.started_at as duration, r.removed,
            case when o.broke_off then 'failed' else r.outcome end as outcome,
            case when o.broke_off then 'interrupted' else r.detail end as detail
        into own
        from upkeep_runs r cross join lateral (select r.outcome = 'running' and not goes_on(r) as broke_off) o
        where r.job = job_runs.job_name order by r.run_id desc limit 1;
        removed := own.removed;
        last_run := null;
        schedule := null;
        active := null;
        cron_database := null;
        if cron_here then
            execute $sql$
                select c.schedule, c.active from cron.job c
                where c.database = current_database() and c.jobname = $1
                $sql$
            into schedule, active using job_name;
        else
            select e.schedule, e.cron_database into schedule, cron_database
            from jobs_elsewhere e where e.job_name = job_runs.job_name;
        end if;
        continue when job_name = 'pgcache_hot_relay' and schedule is null;
        if cron_here then
            -- One run of the relay follows the other: what counts is how the last one ended.
            execute $sql$
                select d.start_time, d.end_time - d.start_time, d.status, d.return_message
                from cron.job_run_details d inner join cron.job c on c.jobid = d.jobid
                where c.database = current_database() and c.jobname = $1
                    and d.start_time is not null and d.start_time >= coalesce($2, '-infinity')
                order by d.end_time is null and c.jobname = 'pgcache_hot_relay', d.start_time desc limit 1
                $sql$
            into last_run, duration, outcome, detail using job_name, own.started_at - interval '1 minute';
        end if;
        if last_run is null then
            last_run := own.started_at;
            duration := own.duration;
            outcome := own.outcome;
            detail := own.detail;
        end if;
        patience := greatest(cache_setting('overdue_after')::interval, 2 * cron_period(schedule));
        -- Newly scheduled jobs are given time; jobs that nobody schedules are judged by their runs alone.
        overdue := case
            when last_run is not null then last_run < cache_now() - patience
            when job_name = 'pgcache_hot_relay' then false  -- cache_health says whether a relay is there
            else (active is true or cron_database is not null or job_name = 'pgcache_upkeep')
                and installed_at < cache_now() - patience
        end;
        return next;
    end loop;
end
$$;

comment on function pgcache_internal.job_runs() is 'The rows of cache_jobs.';

create or replace view pgcache.cache_jobs as
select
    j.job_name,
    j.schedule,
    j.active,
    j.last_run,
    j.duration,
    j.outcome,
    j.removed,
    j.detail,
    j.overdue
from pgcache_internal.job_runs() as j;

comment on view pgcache.cache_jobs is
'The upkeep jobs, and pgcache_hot_relay if pg_cron runs it (its last run that ended): when and how each last ran, and'
' whether it is overdue: it has not run for overdue_after (a setting, default 2 hours), nor for two periods of its'
' schedule. Where pg_cron is in another database, schedule is as install has last found it there, active is NULL, and'
' the runs are those that came so far as to record themselves here: one that failed before it did is seen as overdue.';
