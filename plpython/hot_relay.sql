-- The relay of the hot tier inside the server, for where no process can run beside it.

create or replace function pgcache_internal.hot_cycle() returns jsonb
language plpython3u volatile parallel unsafe security definer
set search_path to pg_catalog, pg_temp
as $python$
@include pgcache_py/tier_protocol.py@
@include pgcache_py/relay/cycle.py@
@include hot_server.py@
return cycle_here(plpy, SD)
$python$;

comment on function pgcache_internal.hot_cycle() is
'One cycle of the relay: tells Redis what has changed, and vouches for it. Returns {"vouched", "began", "delivered",'
' "staleness"}, see pgcache_py/relay/cycle.py, or {"error": {"sqlstate", "message", "hint", "waits"}}: PC030 not'
' configured, PC031 Redis cannot be reached, PC032 the prefix is another database''s, or another server''s; waits: that'
' may pass by itself.';

create or replace function pgcache_internal.hot_prune_runs() returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if cron_has('job_run_details', 'DELETE') then
        execute $sql$
            delete from cron.job_run_details d
            where d.database = current_database() and d.end_time < $1 and d.command = 'CALL pgcache.hot_relay()'
            $sql$
        using cache_now() - cache_setting('keep_runs')::interval;
    end if;
end
$$;

comment on function pgcache_internal.hot_prune_runs() is
'Deletes what pg_cron has recorded of the relay''s runs longer ago than the setting keep_runs.';

create or replace function pgcache_internal.hot_turn(due timestamptz) returns jsonb
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    report jsonb;
begin
    if (due <= clock_timestamp() or exists (select from hot_untold())) and hot_take_turn() then
        report := hot_cycle();
        return jsonb_build_object(
            'report', report, 'waits', report #> '{error,waits}',
            'due', clock_timestamp() + make_interval(secs => coalesce((report ->> 'staleness')::float8, 5) / 5)
        );
    end if;
    return null;
end
$$;

comment on function pgcache_internal.hot_turn(timestamptz) is
'A cycle of the relay, if it is due or there is something to tell, and no other relay is at work; NULL if not. Returns'
' its report, whether an error may pass by itself, and when the next one is due.';

create or replace function pgcache_internal.hot_raise(report jsonb) returns void
language plpgsql volatile parallel unsafe
set search_path to pg_catalog, pg_temp
as $$
begin
    if report ? 'error' then
        raise exception using errcode = report #>> '{error,sqlstate}',
            message = report #>> '{error,message}',
            hint = report #>> '{error,hint}';
    end if;
end
$$;

comment on function pgcache_internal.hot_raise(jsonb) is 'Raises the error that a cycle of the relay has reported.';

-- Commits after each cycle, so that what it has locked is free, and so that it sees what others have changed. So it
-- cannot have a SET clause, and every name here is qualified, and every operator.
create or replace procedure pgcache.hot_relay(run_for interval default '59 seconds')
language plpgsql
as $$
declare
    ends constant pg_catalog.timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) run_for;
    due pg_catalog.timestamptz := '-infinity';
    turn pg_catalog.jsonb;
    report pg_catalog.jsonb;
begin
    perform pgcache_internal.hot_prune_runs();
    commit;
    loop
        turn := pgcache_internal.hot_turn(due);
        if turn is not null then
            report := pg_catalog.jsonb_extract_path(turn, 'report');
            exit when pg_catalog.jsonb_extract_path_text(turn, 'waits') operator(pg_catalog.=) 'false';
            due := pg_catalog.jsonb_extract_path_text(turn, 'due')::pg_catalog.timestamptz;
        end if;
        commit;
        exit when pg_catalog.clock_timestamp() operator(pg_catalog.>=) ends;
        perform pg_catalog.pg_sleep(0.2);
    end loop;
    delete from pgcache_internal.hot_at_work w where w.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid();
    commit;
    perform pgcache_internal.hot_raise(report);
end
$$;

comment on procedure pgcache.hot_relay(interval) is
'The relay of the hot tier, for so long (default 59 seconds): looks five times a second for what Redis has to be told.'
' Not in a transaction of the caller''s. While another relay is at work it waits. For the owner of schema pgcache;'
' cache_hot_schedule lets pg_cron call it. Errors: PC030 not configured, PC031 Redis cannot be reached at the end,'
' PC032 the prefix is another database''s, or at the end another server''s that has this database.';

create or replace function pgcache.cache_hot_redis(url text) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_owner();
    if url = '' then
        delete from hot_secrets s where s.name = 'redis_url';
    elsif url is null or url !~ '^(rediss?|unix)://[^[:space:]]+$' then
        raise exception using errcode = 'PC010',
            message = 'this is not the URL of a Redis',
            hint = 'redis://[:password@]host[:port][/database], rediss:// for TLS, or unix://path; '''' removes it.';
    else
        insert into hot_secrets as s (name, value) values ('redis_url', url)
        on conflict on constraint hot_secrets_pkey do update set value = excluded.value;
    end if;
end
$$;

comment on function pgcache.cache_hot_redis(text) is
'Sets the Redis of the relay inside the server, redis://[:password@]host[:port][/database]; '''' removes it. Nothing'
' shows it again. For the owner of schema pgcache. Errors: 42501, PC010.';

create or replace function pgcache_internal.check_relay_cron() returns void
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select check_cron(format(
        'In the one that it lives in (SHOW cron.database_name): SELECT cron.schedule_in_database(%L, %L, %L, %L).'
        ' Or run the relay outside of the server: python -m pgcache_py relay',
        -- A name of its own: another database's job of the same name would be replaced.
        'pgcache_hot_relay_' || current_database(), '* * * * *', 'CALL pgcache.hot_relay()', current_database()
    ))
$$;

comment on function pgcache_internal.check_relay_cron() is
'Errors: PC012 if this database has no pg_cron to run the relay with.';

create or replace function pgcache.cache_hot_schedule() returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    job bigint;
begin
    perform check_owner(), check_relay_cron();
    if not exists (select from hot_secrets s where s.name = 'redis_url') then
        raise exception using errcode = 'PC030',
            message = 'no Redis is configured for the relay inside the server',
            hint = 'First SELECT cache_hot_redis(''redis://...'').';
    end if;
    execute 'select cron.schedule(''pgcache_hot_relay'', ''* * * * *'', ''CALL pgcache.hot_relay()'')' into job;
    return job;
end
$$;

comment on function pgcache.cache_hot_schedule() is
'Lets pg_cron run the relay of the hot tier all the time; returns the job''s id. For the owner of schema pgcache.'
' Errors: 42501, PC012, PC030 no Redis is configured.';

create or replace function pgcache.cache_hot_unschedule() returns boolean
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_owner(), check_relay_cron();
    return unschedule('{pgcache_hot_relay}') > 0;
end
$$;

comment on function pgcache.cache_hot_unschedule() is
'Ends what cache_hot_schedule began; true if there was such a job. For the owner of schema pgcache. Errors: 42501,'
' PC012.';
