-- pg_cron, where it is there. Nothing needs it to be correct.

create or replace function pgcache_internal.scheduled_jobs(schedule text default '0 * * * *')
returns table (job_name text, schedule text, command text)
language sql stable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    values ('pgcache_upkeep', scheduled_jobs.schedule, 'CALL pgcache.cache_upkeep()'),
        ('ai_worker_cleanup_cache', scheduled_jobs.schedule, 'SELECT pgcache.ai_worker_cleanup_cache()')
$$;

comment on function pgcache_internal.scheduled_jobs(text) is
'The jobs that pg_cron should run: name, schedule in cron''s format, command.';

-- Whoever may create schemas may make one that is called cron, where pg_cron is not.
create or replace function pgcache_internal.is_crons(catalog regclass, object oid) returns boolean
language sql stable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select exists (
        select from pg_depend d inner join pg_extension e on e.oid = d.refobjid
        where d.classid = catalog and d.objid = object and d.deptype = 'e' and e.extname = 'pg_cron'
            and d.refclassid = 'pg_extension'::regclass
        union all
        select from pg_namespace n
        where n.nspname = 'pgcache' and n.nspowner in (
            (select c.relowner from pg_class c where catalog = 'pg_class'::regclass and c.oid = object),
            (select p.proowner from pg_proc p where catalog = 'pg_proc'::regclass and p.oid = object)
        )
    )
$$;

comment on function pgcache_internal.is_crons(regclass, oid) is
'Whether a table or a function in the schema cron is to be believed: it is a member of the extension pg_cron, or'
' belongs to the owner of pgcache, who could do all that it may do.';

create or replace function pgcache_internal.check_cron(hint text) returns void
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not (
        is_crons('pg_proc', to_regprocedure('cron.schedule(text,text,text)'))
        and is_crons('pg_proc', to_regprocedure('cron.unschedule(bigint)'))
        and is_crons('pg_class', to_regclass('cron.job'))
    ) then
        raise exception using errcode = 'PC012', message = 'pg_cron is not installed in this database', hint = hint;
    end if;
end
$$;

comment on function pgcache_internal.check_cron(text) is
'Errors: PC012, with this hint, if this database has no pg_cron.';

create or replace function pgcache_internal.check_upkeep_cron(wanted text) returns void
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select check_cron(coalesce(scheduled.hint, format(
        'Run "python -m pgcache_py install", which finds the database that pg_cron lives in (%s),'
        ' or call cache_upkeep from any other scheduler.',
        coalesce(
            (select g.setting from pg_settings g where g.name = 'cron.database_name'), 'none that this role can see'
        )
    )))
    from (
        select format(
            'Its jobs are in the database %s. There: SELECT cron.%s FROM cron.job WHERE jobname IN (%s)',
            min(e.cron_database), wanted,
            string_agg(quote_literal(format('%s (%s)', e.job_name, current_database())), ', ' order by e.job_name)
        ) as hint
        from jobs_elsewhere e having count(*) > 0
    ) scheduled right join (select) one on true
$$;

comment on function pgcache_internal.check_upkeep_cron(text) is
'Errors: PC012 if this database has no pg_cron to schedule the upkeep with. wanted: the function of pg_cron to call'
' instead where the jobs are in another database.';

create or replace function pgcache_internal.unschedule(job_names text[]) returns integer
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    jobs integer;
begin
    execute 'select count(cron.unschedule(c.jobid)) from cron.job c'
        ' where c.database = current_database() and c.jobname = any($1)'
    into jobs using job_names;
    return jobs;
end
$$;

comment on function pgcache_internal.unschedule(text[]) is
'Removes jobs of pg_cron in this database by their names; returns how many.';

-- By the catalog: to name a table in a schema that one may not use is an error.
create or replace function pgcache_internal.cron_has(table_name text, privilege text) returns boolean
language sql stable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select exists (
        select from pg_class c inner join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = 'cron' and c.relname = table_name and pgcache_internal.is_crons('pg_class', c.oid)
            and has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, privilege)
    )
$$;

comment on function pgcache_internal.cron_has(text, text) is
'Whether pg_cron''s table is in this database and the caller has the privilege on it.';

create or replace function pgcache.cache_schedule(schedule text default '0 * * * *') returns setof bigint
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_upkeep_cron(format('alter_job(jobid, schedule => %L)', schedule));
    if schedule is null then
        raise exception using errcode = 'invalid_parameter_value';
    end if;
    return query execute 'select cron.schedule(j.job_name, j.schedule, j.command)'
        ' from pgcache_internal.scheduled_jobs($1) j'
    using schedule;
exception when invalid_parameter_value or syntax_error then
    raise exception using errcode = 'PC010',
        message = format('%L is not a cron schedule', schedule),
        hint = 'Five fields: ''0 * * * *'' is every hour, ''*/10 * * * *'' every ten minutes.';
end
$$;

comment on function pgcache.cache_schedule(text) is
'Schedules the upkeep jobs with pg_cron (default hourly), in place of earlier ones; returns their job ids. Errors:'
' PC010, PC012.';

create or replace function pgcache.cache_unschedule() returns integer
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_upkeep_cron('unschedule(jobid)');
    return unschedule(array(select j.job_name from scheduled_jobs() j));
end
$$;

comment on function pgcache.cache_unschedule() is
'Removes the jobs that cache_schedule made; returns how many. Errors: PC012.';
