-- What Redis has to be told of. Triggers on the tables of the types that are in the hot tier, and on no others, give
-- each change a version and note it, in the transaction that makes it: also changes that go past the functions.
-- They run for each row, with the rights of what has changed it, which is the owner's; SET search_path would take four
-- times as long, so every name is qualified.

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

create or replace function pgcache_internal.hot_note() returns trigger
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
declare
    place bigint;
begin
    insert into pgcache_internal.hot_outbox (type, tenant, cache_key, version)
    values (tg_argv[0], new.tenant, new.cache_key, new.version)
    returning id into place;
    -- One expression: each has to be prepared anew in each transaction.
    if pgcache_internal.hot_calls(place) then
        perform pgcache_internal.hot_noted(place);
    end if;
    return null;
end
$$;

comment on function pgcache_internal.hot_note() is
'Trigger: notes in the outbox which entry is new or has changed. Its argument: the type.';

create or replace function pgcache_internal.hot_note_gone() returns trigger
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
declare
    place bigint;
begin
    if tg_op operator(pg_catalog.=) 'DELETE' and not (
        select t.enabled from pgcache_internal.types t where t.type operator(pg_catalog.=) tg_argv[0]
    ) then
        return null;  -- to disable a type voids all entries, and while it lasts nobody puts any into Redis
    end if;
    insert into pgcache_internal.hot_outbox (type, tenant, cache_key, version)
    values (tg_argv[0], old.tenant, old.cache_key, pg_catalog.nextval('pgcache_internal.hot_version'))
    returning id into place;
    if pgcache_internal.hot_calls(place) then
        perform pgcache_internal.hot_noted(place);
    end if;
    return null;
end
$$;

comment on function pgcache_internal.hot_note_gone() is
'Trigger: notes in the outbox which entry is no more, or has another key now. Its argument: the type.';

create or replace function pgcache_internal.hot_calls(place bigint) returns boolean
language sql volatile parallel unsafe  -- not pinned: inlined
as $$
    select pgcache_internal.relay_sleeps()
        or (place operator(pg_catalog.%) 256::bigint) operator(pg_catalog.=) 0::bigint
$$;

comment on function pgcache_internal.hot_calls(bigint) is
'Whether who has noted a change at that place of the outbox has more to do: see hot_noted.';

create or replace function pgcache_internal.hot_noted(place bigint) returns void
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
begin
    perform pgcache_internal.hot_wake();
    if (place operator(pg_catalog.%) 256::bigint) operator(pg_catalog.=) 0::bigint
        and place operator(pg_catalog.>=) (select d.last_value from pgcache_internal.hot_outbox_due d)
    then
        perform pgcache_internal.hot_shrink(place);
    end if;
end
$$;

comment on function pgcache_internal.hot_noted(bigint) is
'Wakes the relay, if it sleeps; and one in 256 looks after the outbox''s length, if that is due.';

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

create or replace function pgcache_internal.hot_void() returns trigger
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform hot_void_all();
    return null;
end
$$;

comment on function pgcache_internal.hot_void() is 'Trigger: as hot_void_all.';

create or replace function pgcache_internal.hot_void_all() returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    insert into hot_outbox default values;
    perform hot_wake();
end
$$;

comment on function pgcache_internal.hot_void_all() is
'Notes that all entries in Redis are void.';

-- Whoever is due pays, so that the outbox has its limit also where no relay ever comes. What is removed is always
-- replaced by a new row that tells as much: the relay may have read the other rows already, and only some of them.
create or replace function pgcache_internal.hot_shrink(place bigint) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    max_rows constant bigint := cache_setting('hot_outbox_limit')::bigint;
    rows_left bigint;
begin
    with repeated as (
        delete from hot_outbox o
        where o.id = any(array(
            select r.id from hot_outbox r
            where (r.type, r.tenant, r.cache_key) in (
                select k.type, k.tenant, k.cache_key from hot_outbox k group by 1, 2, 3 having count(*) > 1
            )
            for update skip locked
        ))
        returning o.type, o.tenant, o.cache_key, o.version, o.noted_at
    )
    insert into hot_outbox (type, tenant, cache_key, version, noted_at)
    select r.type, r.tenant, r.cache_key, max(r.version), min(r.noted_at) from repeated r group by 1, 2, 3;
    select count(*) into rows_left from hot_outbox;
    if rows_left > max_rows then
        delete from hot_outbox o where o.id = any(array(select r.id from hot_outbox r for update skip locked));
        perform hot_void_all();
        rows_left := 0;
    end if;
    -- Not before as many more rows have come as there are, so that the cost of a change stays constant; near the limit
    -- earlier.
    perform setval('hot_outbox_due', place + least(rows_left, greatest(max_rows / 16, max_rows - rows_left)));
exception when serialization_failure or deadlock_detected or lock_not_available then
    null;  -- in REPEATABLE READ what others have changed is out of reach: a later writer does it
end
$$;

comment on function pgcache_internal.hot_shrink(bigint) is
'Brings the outbox down to one row for each entry; where that is more than the setting hot_outbox_limit, to one row'
' that voids all. place: the id that the outbox has reached. Never waits for a lock and never fails the write.';
