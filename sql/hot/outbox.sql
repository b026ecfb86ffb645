-- What Redis has to be told of: of the log of changes (../freshness/changes.sql) what has a version, and which of that
-- the relay has not told yet.

create or replace function pgcache_internal.hot_stamp() returns trigger
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
begin
    -- For an update under the row's lock, so that versions of an entry grow. That of an insert may be below that of a
    -- delete for which it waited: then Redis refuses the entry for some seconds, and nothing worse.
    new.version := pg_catalog.nextval('pgcache_internal.hot_version');
    return new;
end
$$;

comment on function pgcache_internal.hot_stamp() is 'Trigger: gives a new or changed entry its version.';

-- Commits that notify wait for each other. So only who finds the relay asleep does.
create or replace function pgcache_internal.relay_sleeps() returns boolean
language sql volatile parallel unsafe  -- not pinned: inlined
as $$
    select pg_catalog.pg_sequence_last_value('pgcache_internal.hot_asleep') operator(pg_catalog.=) 1::bigint
$$;

comment on function pgcache_internal.relay_sleeps() is
'Whether who has changed something wakes the relay, by NOTIFY. To be asked after the change is noted, see hot_sleep.';

create or replace function pgcache_internal.hot_wake() returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if relay_sleeps() then
        perform pg_notify('pgcache_hot', '');
    end if;
end
$$;

comment on function pgcache_internal.hot_wake() is 'Wakes the relay at the commit, if it sleeps.';

create or replace function pgcache_internal.hot_untold() returns setof pgcache_internal.change_log
language sql stable parallel safe  -- not pinned: inlined
as $$
    select l.*
    from pgcache_internal.change_log l
    where l.version is not null
        and l.xid operator(pg_catalog.>=) coalesce(
            (select pg_catalog.pg_snapshot_xmin(h.seen) from pgcache_internal.hot_epoch h), '0'
        )
        and not exists (
            select from pgcache_internal.hot_epoch h where pg_catalog.pg_visible_in_snapshot(l.xid, h.seen)
        )
$$;

comment on function pgcache_internal.hot_untold() is
'The outbox: changes that the relay has not told Redis of; all that are noted, if none has been here since the last'
' crash.';

-- Whoever is due pays, so that the outbox has its limit also where no relay ever comes. What is removed is always
-- replaced by a new row that tells as much: who reads the log may have read the other rows already, and only some.
create or replace function pgcache_internal.hot_shrink(version bigint) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_nestloop to off  -- a plan made when the log was short would take for ever when it is long
set jit to off
as $$
#variable_conflict use_column
declare
    max_rows constant bigint := cache_setting('hot_outbox_limit')::bigint;
    rows_left bigint;
begin
    with repeated as (
        delete from change_log l
        where l.ctid = any(array(
            select r.ctid from change_log r
            where r.version is not null and (r.type, r.tenant, r.cache_key) in (
                select u.type, u.tenant, u.cache_key from hot_untold() u group by 1, 2, 3 having count(*) > 1
            )
            for update skip locked
        ))
        returning l.type, l.tenant, l.cache_key, l.version, l.noted_at
    )
    insert into change_log (type, tenant, cache_key, version, noted_at)
    select r.type, r.tenant, r.cache_key, max(r.version), min(r.noted_at) from repeated r group by 1, 2, 3;
    select count(*) into rows_left from hot_untold();
    if rows_left > max_rows then
        delete from change_log l
        where l.ctid = any(array(select r.ctid from change_log r where r.version is not null for update skip locked));
        perform void_copies(null, true);
        rows_left := 0;
    end if;
    -- Not before as many more rows have come as there are, or a part of the limit, so that the cost of a change stays
    -- constant; near the limit earlier.
    perform setval('hot_outbox_due', hot_shrink.version + least(
        greatest(rows_left, max_rows / 16), greatest(max_rows / 16, max_rows - rows_left)
    ));
exception when serialization_failure or deadlock_detected or lock_not_available then
    null;  -- in REPEATABLE READ what others have changed is out of reach: a later writer does it
end
$$;

comment on function pgcache_internal.hot_shrink(bigint) is
'Brings the outbox down to one row for each entry; where that is more than the setting hot_outbox_limit, to one row'
' that voids all. version: the one that changes have reached. Never waits for a lock and never fails the write.';
