-- Clean-up on demand and by schedule.

create or replace function pgcache.cache_clear_expired(type text default null) returns bigint
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    removed bigint := 0;
    batch bigint;
    registered types;
begin
    perform check_writable();
    if type is not null then
        perform check_type(type);
    end if;
    for registered in select * from types_here() t where type in (t.type) or type is null loop
        if tenants_of_caller() is null then
            removed := removed
                + (sweep(registered.type, 0, heap_blocks(registered.relation), 0, 0, null, null)).expired;
        else
            execute format($sql$
                with gone as (
                    delete from %1$s t where t.ctid = any(array(
                        select t.ctid from %1$s t
                        where %2$s and (
                            is_dead(t.expires_at, t.cache_stale_until, t.cache_tags, t.tenant, t.cache_epoch, $1)
                            or t.created_at <= $1 - $2
                        )
                        for update skip locked
                    )) returning 1
                ) select count(*) from gone
                $sql$, registered.relation, own_entries())
            into batch using cache_now(), registered.max_age;
            removed := removed + count_events(registered.type, 'expired', batch);
        end if;
    end loop;
    return removed;
end
$$;

comment on function pgcache.cache_clear_expired(text) is
'Removes all entries of a type, or of all (default), that have expired, are older than its max_age, or have tags that'
' were invalidated; of the current'
' tenant''s only, if the caller may not see all. Returns how many. Entries that are locked are skipped. Errors: PC001,'
' 25006, 42501.';

create or replace function pgcache.ai_worker_cleanup_cache() returns integer
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    started_at constant timestamptz := clock_timestamp();
    removed constant bigint := cache_clear_expired('ai_worker');
begin
    insert into upkeep_runs (job, started_at, finished_at, removed, outcome)
    values ('ai_worker_cleanup_cache', started_at, clock_timestamp(), removed, 'succeeded');
    return removed;
end
$$;

comment on function pgcache.ai_worker_cleanup_cache() is
'Removes the expired entries of the AI worker''s cache; returns how many. Errors: 25006.';

create or replace function pgcache_internal.over_limits(type text, out entries bigint, out bytes bigint)
language sql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select  -- max: one row also of a type that evicts nothing
        coalesce(max(greatest(0, counter(t.type, 'entries') - t.max_entries)), 0),
        coalesce(max(greatest(0, counter(t.type, 'bytes') - t.max_bytes)), 0)
    from types t where t.type = over_limits.type and t.eviction <> 'none'
$$;

comment on function pgcache_internal.over_limits(text) is
'How far a type that evicts is over its limits, as last measured.';

create or replace function pgcache.cache_cleanup(type text default null) returns bigint
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    removed bigint := cache_clear_expired(type);
    batch bigint;
    over record;
    registered types;
begin
    if tenants_of_caller() is not null then
        return removed;
    end if;
    perform fold_log();
    for registered in select * from types_here() t where type in (t.type) or type is null loop
        removed := removed + make_tenants_room(registered);
        perform measure(registered.type);
        loop
            over := over_limits(registered.type);
            exit when greatest(over.entries, over.bytes) = 0;
            batch := evict(registered, over.entries, over.bytes, 0);
            removed := removed + batch;
            exit when batch = 0;
            perform measure(registered.type);
        end loop;
    end loop;
    return removed;
end
$$;

comment on function pgcache.cache_cleanup(text) is
'Removes expired entries and what is over the limits, of a type or of all (default), and brings hit counts up to date;'
' returns how many entries it removed. One transaction; the procedure cache_upkeep does the same in small ones. For'
' callers that may not see all tenants it is cache_clear_expired. Errors: PC001, 25006, 42501.';

create or replace function pgcache.cache_trim(type text, keep bigint) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
    removed bigint;
begin
    perform check_writable();
    if keep is null or keep < 0 then
        raise exception using errcode = 'PC010',
            message = format('cannot keep %s entries', coalesce(keep::text, 'NULL')),
            hint = 'Pass how many entries to keep, 0 or more.';
    end if;
    perform fold_log();
    execute format($sql$
        with gone as (
            delete from %1$s t where t.ctid = any(array(
                select l.ctid from %1$s l where l.ctid = any(array(
                    select o.ctid from %1$s o order by o.last_accessed_at desc, o.id desc offset $1
                )) for update skip locked
            )) returning 1
        ) select count(*) from gone
        $sql$, registered.relation) into removed using keep;
    perform count_events(type, 'evicted', removed), measure(type);
    return removed;
end
$$;

comment on function pgcache.cache_trim(text, bigint) is
'Keeps the entries of a type that were read or written last, as many as said, and removes the others; returns how many.'
' Exact, and sorts the whole table: limits (cache_configure) hold at less cost. Errors: PC001, PC010, 25006.';

create or replace function pgcache_internal.goes_on(run upkeep_runs) returns boolean
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select pg_is_in_recovery() or exists (  -- a standby does not see the primary's sessions
        select from pg_stat_activity a
        -- Still in that call, as far as we may see it.
        where a.pid = run.backend_pid
            and (a.query_start is null or a.state = 'active' and a.query_start <= run.started_at)
    )
$$;

comment on function pgcache_internal.goes_on(upkeep_runs) is 'Whether the session that began a run is still at it.';

create or replace function pgcache_internal.begin_run(job text) returns bigint
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    run bigint;
begin
    perform check_writable(), forget_lost_types();
    update upkeep_runs r set outcome = 'failed', detail = 'interrupted', finished_at = clock_timestamp()
    where r.outcome = 'running' and not goes_on(r);
    insert into upkeep_runs (job, started_at) values (job, clock_timestamp()) returning run_id into run;
    return run;
end
$$;

comment on function pgcache_internal.begin_run(text) is
'Records that a job begins, and which earlier runs were interrupted; returns the number of the run. Errors: 25006.';

create or replace function pgcache_internal.evict_surplus(registered types) returns bigint
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    removed constant bigint := make_tenants_room(registered);
    over record;
begin
    perform measure(registered.type);
    over := over_limits(registered.type);
    return removed + case
        when greatest(over.entries, over.bytes) > 0 then evict(registered, over.entries, over.bytes, 0) else 0
    end;
end
$$;

comment on function pgcache_internal.evict_surplus(types) is
'Measures a type and evicts what is over its limits, and over those of tenants, as far as that goes at once; returns'
' how many entries it removed.';

-- What it is that cannot commit only the words of the error tell, which are of the session's language. A function never
-- can, as a procedure in a transaction block.
create or replace function pgcache_internal.check_commit_error(message text) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    commit;
exception when invalid_transaction_termination then
    if sqlerrm = message then
        raise exception using errcode = '25001',
            message = 'cache_upkeep cannot run inside a transaction block',
            hint = 'It commits: CALL it by itself, without BEGIN, in autocommit.'
                ' In a transaction SELECT cache_cleanup() does most of it.';
    end if;
end
$$;

comment on function pgcache_internal.check_commit_error(text) is
'Errors: 25001 if the message of what COMMIT raised in a procedure is that of a transaction block.';

-- A procedure that commits cannot have a SET clause, so every name here is qualified, and every operator.
create or replace procedure pgcache.cache_upkeep()
language plpgsql  -- not pinned: commits
as $$
declare
    run pg_catalog.int8;
    removed_total pg_catalog.int8 := 0;
    batch pg_catalog.int8;
    lines pg_catalog.int8;
    parts pg_catalog.int4;
    registered pgcache_internal.types;
    broken record;
    first_block pg_catalog.int8;
    blocks constant pg_catalog.int8 := pgcache_internal.upkeep_blocks();
begin
    begin
        commit;
    exception when invalid_transaction_termination then  -- always: a block that catches errors cannot commit
        perform pgcache_internal.check_commit_error(sqlerrm);
    end;
    run := pgcache_internal.begin_run('pgcache_upkeep');
    commit;
    lines := (select pg_catalog.count(*) from pgcache_internal.hit_log);
    parts := pgcache_internal.fold_parts(lines);
    for part in 1..parts loop
        for attempt in 0..lines operator(pg_catalog./) pgcache_internal.folded_lines() loop
            batch := pgcache_internal.fold_hits(
                pgcache_internal.folded_lines(), part operator(pg_catalog.-) 1, parts
            );
            commit;
            exit when batch operator(pg_catalog.<) pgcache_internal.folded_lines();
        end loop;
    end loop;
    perform pgcache_internal.fold_bumps();  -- first, as each look at tags passes over what is not folded
    commit;
    for registered in select * from pgcache_internal.types t order by t.type using operator(pg_catalog.<) loop
        first_block := 0;
        -- Each commit lets go of the types: one may be dropped then.
        while pgcache_internal.is_here(registered)
            and first_block operator(pg_catalog.<) pgcache_internal.heap_blocks(registered.relation)
        loop
            batch := (pgcache_internal.sweep(registered.type, first_block, blocks, 0, 0, null, null)).expired;
            removed_total := removed_total operator(pg_catalog.+) batch;
            first_block := first_block operator(pg_catalog.+) blocks;
            commit;
        end loop;
        while pgcache_internal.is_here(registered) loop
            batch := pgcache_internal.evict_surplus(registered);
            removed_total := removed_total operator(pg_catalog.+) batch;
            commit;
            exit when batch operator(pg_catalog.=) 0;
        end loop;
    end loop;
    perform pgcache_internal.settle_counters();
    commit;
    perform pgcache_internal.prune_bumps();
    commit;
    for broken in select * from pgcache_internal.watches_to_mend() loop
        perform pgcache_internal.mend(broken.watch, broken.relation);
        commit;
    end loop;
    perform pgcache_internal.take_snapshot();
    perform pgcache_internal.prune_history();
    update pgcache_internal.upkeep_runs r
    set outcome = 'succeeded', removed = removed_total, finished_at = pg_catalog.clock_timestamp()
    where r.run_id operator(pg_catalog.=) run;
    commit;
end
$$;

comment on procedure pgcache.cache_upkeep() is -- noqa: LT01
'The hourly upkeep, in small transactions that can be interrupted at any moment: folds hits, removes expired entries'
' and what is over the limits, settles counters, mends watches (see cache_watches), takes the statistics'' snapshot,'
' prunes histories. CALL it outside of a transaction block. Errors: 25001, 25006.';

create or replace function pgcache_internal.prune_history() returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    delete from stats_snapshots s where s.taken_at < cache_now() - cache_setting('keep_history')::interval;
    delete from timings t where t.began_at < clock_timestamp() - interval '1 hour';
    -- Those of others are seen only where they have been left: who makes room deletes them before they are committed.
    delete from room_due d where d.xid is distinct from pg_current_xact_id_if_assigned();
    delete from upkeep_runs r where r.started_at < cache_now() - cache_setting('keep_runs')::interval;
    if cron_has('job_run_details', 'DELETE') then
        execute 'delete from cron.job_run_details d where d.database = current_database() and d.end_time < $1'
            ' and d.command in (select j.command from pgcache_internal.scheduled_jobs() j)'
        using cache_now() - cache_setting('keep_runs')::interval;
    end if;
end
$$;

comment on function pgcache_internal.prune_history() is
'Deletes statistics older than the setting keep_history; timings older than an hour; runs of our jobs, ours and'
' pg_cron''s records of them, older than keep_runs; and what is left in room_due of transactions that became READ'
' ONLY.';
