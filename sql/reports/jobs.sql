create or replace function pgcache_internal.job_runs() returns table (
    job_name text, schedule text, active boolean, last_run timestamptz, duration interval, outcome text, removed bigint,
    detail text, overdue boolean
)
language plpgsql stable parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    patience constant interval := cache_setting('overdue_after')::interval;
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
        if cron_here then
            execute $sql$
                select c.schedule, c.active from cron.job c
                where c.database = current_database() and c.jobname = $1
                $sql$
            into schedule, active using job_name;
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
        -- Newly scheduled jobs are given time; jobs that nobody schedules (here) are judged by their runs alone.
        overdue := case
            when last_run is not null then last_run < cache_now() - patience
            when job_name = 'pgcache_hot_relay' then false  -- cache_health says whether a relay is there
            else (active is true or job_name = 'pgcache_upkeep') and installed_at < cache_now() - patience
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
' whether it is overdue (setting overdue_after, default 2 hours). schedule and active are NULL where pg_cron is not in'
' this database.';
