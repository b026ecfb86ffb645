-- What has changed, for processes that keep entries. Each reads it on its own, from where it was the last time; where
-- it was is a snapshot, so that it misses nothing, however late a transaction commits.

create or replace function pgcache_internal.near_note() returns trigger
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
begin
    insert into pgcache_internal.near_log (type, tenant, cache_key) values (tg_argv[0], old.tenant, old.cache_key);
    if pgcache_internal.chance() operator(pg_catalog.<) 0.002::float8 then
        perform pgcache_internal.near_prune();
    end if;
    return null;
end
$$;

comment on function pgcache_internal.near_note() is
'Trigger: notes which entry was changed or removed; one in 500 prunes the notes. Its argument: the type.';

create or replace function pgcache_internal.near_void() returns trigger
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    insert into near_log (type) values (case when tg_op = 'TRUNCATE' then tg_argv[0] else old.type end);
    return null;
end
$$;

comment on function pgcache_internal.near_void() is
'Trigger: notes that all entries of a type are void, its argument, or the one that is deleted from near_types.';

-- Notes stay for ten seconds after all have ended who were at work when they could last have been missed.
create or replace function pgcache_internal.near_prune() returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    below xid8;
begin
    select e.next_below into below from near_epoch e
    where e.next_at < clock_timestamp() or e.next_at > clock_timestamp() + interval '1 minute'
    for update skip locked;
    if found and not keeps_its_snapshot() then
        delete from near_log l where l.xid < below;
        update near_epoch e
        set pruned_below = below, next_below = pg_snapshot_xmin(pg_current_snapshot()),
            next_at = clock_timestamp() + interval '10 seconds';
    elsif not found then
        -- If nobody has been here since the last crash, who comes begins anew, after an epoch is committed; so that one
        -- sees what has ended before that.
        select pg_snapshot_xmin(pg_current_snapshot()) into below where not exists (select from near_epoch);
        delete from near_log l where l.xid < below;
    end if;
exception when serialization_failure or deadlock_detected or lock_not_available then
    null;
end
$$;

comment on function pgcache_internal.near_prune() is
'Removes notes that all who look every ten seconds have read, at most once in ten seconds. Waits for nobody and never'
' fails the write.';
