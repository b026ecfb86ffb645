-- One log of what has changed, for all who keep copies of entries: the near caches of processes, and the relay, for
-- Redis. Each reads it on its own, from where it was the last time; where it was is a snapshot, so that it misses
-- nothing, however late a transaction commits.
-- Triggers on the tables of the types that are near or hot, and on no others, note each change in the transaction that
-- makes it: also changes that go past the functions. They run for each row, with the rights of what has changed it,
-- which is the owner's; SET search_path would take four times as long, so every name is qualified.

create or replace function pgcache_internal.near_note() returns trigger
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
begin
    insert into pgcache_internal.change_log (type, tenant, cache_key) values (tg_argv[0], old.tenant, old.cache_key);
    if pgcache_internal.chance() operator(pg_catalog.<) 0.002::float then
        perform pgcache_internal.prune_changes('10 seconds');
    end if;
    return null;
end
$$;

comment on function pgcache_internal.near_note() is
'Trigger of a type that is near only: notes which entry was changed or removed. Its argument: the type.';

create or replace function pgcache_internal.hot_note() returns trigger
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
begin
    insert into pgcache_internal.change_log (type, tenant, cache_key, version, noted_at)
    values (tg_argv[0], new.tenant, new.cache_key, new.version, pg_catalog.clock_timestamp());
    -- One expression: each has to be prepared anew in each transaction.
    if pgcache_internal.hot_calls(new.version) then
        perform pgcache_internal.hot_noted(new.version);
    end if;
    return null;
end
$$;

comment on function pgcache_internal.hot_note() is
'Trigger of a hot type: notes which entry is new or has changed. Its argument: the type.';

create or replace function pgcache_internal.hot_note_gone() returns trigger
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
declare
    version bigint;
begin
    -- To disable a type voids all entries, and while it lasts nobody puts any into Redis.
    if tg_op operator(pg_catalog.<>) 'DELETE' or (
        select t.enabled from pgcache_internal.types t where t.type operator(pg_catalog.=) tg_argv[0]
    ) then
        version := pg_catalog.nextval('pgcache_internal.hot_version');
    elsif tg_argv[1] is null then
        return null;
    end if;
    insert into pgcache_internal.change_log (type, tenant, cache_key, version, noted_at)
    values (tg_argv[0], old.tenant, old.cache_key, version, pg_catalog.clock_timestamp());
    if version is not null and pgcache_internal.hot_calls(version) then
        perform pgcache_internal.hot_noted(version);
    end if;
    return null;
end
$$;

comment on function pgcache_internal.hot_note_gone() is
'Trigger of a hot type: notes which entry is no more, or has another key now. Its arguments: the type; near, if it is'
' near, too.';

create or replace function pgcache_internal.note_void() returns trigger
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if tg_level = 'STATEMENT' then
        perform void_copies(tg_argv[0], tg_argv[1] = 'hot');
    else
        perform void_copies(old.type, tg_argv[1] = 'hot');
    end if;
    return null;
end
$$;

comment on function pgcache_internal.note_void() is
'Trigger: notes that all entries of a type are void, which the row names or, for a statement, the first argument. The'
' second: hot, if those in Redis are, too, else near.';

create or replace function pgcache_internal.void_copies(type text, hot boolean) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    insert into change_log (type, version, noted_at)
    values (type, case when hot then nextval('hot_version') end, clock_timestamp());
    if hot then
        perform hot_wake();
    end if;
end
$$;

comment on function pgcache_internal.void_copies(text, boolean) is
'Notes that all entries of a type are void (NULL: of all types). hot: those in Redis, too, where that means all.';

-- Of two successive versions: an upsert takes two, one for the row that it would have inserted.
create or replace function pgcache_internal.hot_calls(version bigint) returns boolean
language sql volatile parallel unsafe  -- not pinned: inlined
as $$
    select pgcache_internal.relay_sleeps()
        or (version operator(pg_catalog.%) 256::bigint) operator(pg_catalog.<) 2::bigint
$$;

comment on function pgcache_internal.hot_calls(bigint) is
'Whether who has noted a change, of that version, has more to do: see hot_noted.';

create or replace function pgcache_internal.hot_noted(version bigint) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform hot_wake();
    if version % 256 > 1 then
        return;
    end if;
    if relay_sleeps() and not relay_is_there() then  -- it was killed
        perform setval('hot_asleep', 0);
    end if;
    if version >= (select d.last_value from hot_outbox_due d) then
        perform prune_changes('10 seconds');  -- where those who read the log are not there to do so
        perform hot_shrink(version) from hot_epoch;  -- if a relay was here: else nothing waits for one
    end if;
end
$$;

comment on function pgcache_internal.hot_noted(bigint) is
'Wakes the relay, if it sleeps; and one in some hundred looks after the length of the log, if that is due.';

create or replace function pgcache_internal.begin_changes() returns boolean
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '1s'  -- who has begun it may take his time to commit
as $$
declare
    -- A condition on the key: what can be had by no index costs so much that it would be compiled (jit).
    present constant pg_snapshot := (select e.next from change_epoch e where e.one);
begin
    if pg_snapshot_xmax(present) <= pg_snapshot_xmax(pg_current_snapshot()) then
        return false;
    elsif present is not null then  -- of another server, whose dump was restored: as after a crash
        delete from change_log;
        delete from hot_epoch;
        delete from change_epoch;
    end if;
    insert into change_epoch (epoch, next, next_at)
    values (random_number(), pg_current_snapshot(), clock_timestamp() + interval '10 seconds')
    on conflict do nothing;
    return true;
end
$$;

comment on function pgcache_internal.begin_changes() is
'For those who read the log: begins an epoch of it, unless one has begun since the last crash, and says whether it'
' did. Before that is committed, others take nobody to be here, and may prune what the caller has not seen.';

create or replace function pgcache_internal.shows_all(seen pg_snapshot, other pg_snapshot) returns boolean
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select pg_snapshot_xmax(seen) >= pg_snapshot_xmax(other)
        and not exists (select from pg_snapshot_xip(seen) x (xid) where pg_visible_in_snapshot(x.xid, other))
$$;

comment on function pgcache_internal.shows_all(pg_snapshot, pg_snapshot) is
'Whether a snapshot shows all that another one shows.';

-- Notes stay for ten seconds after they could last have been missed, and until the relay has told Redis of them.
create or replace function pgcache_internal.prune_changes(overdue interval default '0') returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set jit to off
as $$
declare
    -- A transaction does not count itself to those that go on, though it may note more.
    ended constant pg_snapshot := case
        when pg_current_xact_id_if_assigned() is null then pg_current_snapshot()
        else format('%1$s:%1$s:', pg_snapshot_xmin(pg_current_snapshot()))::pg_snapshot
    end;
    going pg_snapshot;
begin
    select e.next into going from change_epoch e
    where e.next_at + overdue < clock_timestamp() or e.next_at > clock_timestamp() + interval '1 minute'
    for update skip locked;
    if found and (overdue = '0' or not keeps_its_snapshot()) then
        delete from change_log d
        where d.ctid = any(array(
            select l.ctid from change_log l
            where l.xid < pg_snapshot_xmax(going) and pg_visible_in_snapshot(l.xid, going)
                and (
                    l.version is null
                    or not exists (select from hot_epoch h where not pg_visible_in_snapshot(l.xid, h.seen))
                )
            for update of l skip locked
        ));
        update change_epoch e
        set pruned = going, next = ended, next_at = clock_timestamp() + interval '10 seconds';
    elsif not found then
        -- If nobody has been here since the last crash, who comes begins anew, after an epoch is committed; so that one
        -- sees what has ended before that.
        delete from change_log d
        where d.ctid = any(array(
            select l.ctid from change_log l
            where l.xid < pg_snapshot_xmin(ended)
                and not exists (select from change_epoch) and not exists (select from hot_epoch)
            for update of l skip locked
        ));
    end if;
exception when serialization_failure or deadlock_detected or lock_not_available then
    null;
end
$$;

comment on function pgcache_internal.prune_changes(interval) is
'Removes notes that all who look every ten seconds have read, and the relay too, at most once in ten seconds and what'
' is added. Waits for nobody and never fails the write.';

create or replace function pgcache_internal.change_triggers(hot boolean, near boolean) returns text[]
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select case when hot then '{hot_stamp, hot_note, hot_note_moved, hot_note_gone}'::text[] else '{}' end
        || case when near and not hot then '{near_note}'::text[] else '{}' end
        || case when near or hot then '{note_truncate}'::text[] else '{}' end
$$;

comment on function pgcache_internal.change_triggers(boolean, boolean) is
'The names of the triggers that the table of a type has which is hot, or near, or both: what tells Redis tells'
' processes, too.';

create or replace function pgcache_internal.attach_changes(type text) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    relation constant regclass := (check_type(type)).relation;
    columns constant text := changing_columns(relation);
    hot constant boolean := is_hot(type);
    near constant boolean := exists (select from near_types n where n.type = type);
    gone constant text := quote_literal(type) || case when near then ', ''near''' else '' end;
    statements text[] := array[]::text[];
begin
    if hot then
        statements := array[
            format($sql$
                create or replace trigger hot_stamp before insert or update of %s on %s
                for each row execute function hot_stamp()
                $sql$, columns, relation),
            format($sql$
                create or replace trigger hot_note after insert or update of %s on %s
                for each row execute function hot_note(%L)
                $sql$, columns, relation, type),
            format($sql$
                create or replace trigger hot_note_moved after update of tenant, cache_key on %s
                for each row when (old.tenant <> new.tenant or old.cache_key <> new.cache_key)
                execute function hot_note_gone(%s)
                $sql$, relation, gone),
            -- What has expired has done so in Redis too. But the clocks of processes are others.
            format($sql$
                create or replace trigger hot_note_gone after delete on %s
                for each row %s execute function hot_note_gone(%s)
                $sql$, relation,
                case when not near then 'when (old.expires_at is null or old.expires_at > cache_now())' end, gone)
        ];
    elsif near then
        -- What is inserted no process has kept.
        statements := array[format($sql$
            create or replace trigger near_note after delete or update of %s on %s
            for each row execute function near_note(%L)
            $sql$, columns, relation, type)];
    end if;
    if hot or near then
        statements := statements || format($sql$
            create or replace trigger note_truncate after truncate on %s
            for each statement execute function note_void(%L, %L)
            $sql$, relation, type, case when hot then 'hot' else 'near' end);
    end if;
    perform set_triggers(
        relation, change_triggers(true, false) || change_triggers(false, true), change_triggers(hot, near), statements
    );
end
$$;

comment on function pgcache_internal.attach_changes(text) is
'Makes the triggers that a type needs, as it is hot or near; those that are as they should be are left alone, those'
' that it does not need are dropped.';

select pgcache_internal.attach_changes(type) from pgcache_internal.types order by type;
