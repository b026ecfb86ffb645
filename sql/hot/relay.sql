-- What the relay asks and tells (pgcache_py/relay/cycle.py), and what can be seen of it.

-- In PL/pgSQL, which keeps the plan: each answer that may be put into Redis asks for it.
create or replace function pgcache_internal.hot_database() returns text
language plpgsql stable security definer
set search_path to pg_catalog, pg_temp
as $$
begin
    return (select c.system_identifier from pg_control_system() c) || '/'
        || (select d.oid from pg_database d where d.datname = current_database());
end
$$;

comment on function pgcache_internal.hot_database() is
'Tells this database from all others; the same on its standbys, and on copies of the whole server.';

-- Nothing in a copy of the whole server tells it from the original, nor a promoted standby from its primary. But they
-- were not started at the same moment.
create or replace function pgcache_internal.hot_owner() returns text
language plpgsql stable security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return hot_database() || '/' || (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint;
end
$$;

comment on function pgcache_internal.hot_owner() is
'Whose a prefix in Redis is when this server''s relay has taken it for this database: the database, and when the server'
' was started, in microseconds.';

create or replace function pgcache_internal.hot_identity(out owner text, out prefix text, out any_hot boolean)
language sql stable parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select
        case
            when not pg_is_in_recovery() then hot_owner()
            else coalesce(
                (select o.owner from hot_owner o where o.owner like hot_database() || '/%'), hot_database() || '/'
            )
        end,
        cache_setting('hot_prefix'), tenants_of_caller() is null and exists (select from hot_types)
$$;

comment on function pgcache_internal.hot_identity() is
'For clients of the hot tier: whose a prefix in Redis must be for them to use it, as hot_owner(), on a standby that of'
' its primary; the setting hot_prefix; whether any type is in the tier, which is for callers that may see'
' all tenants, as Redis has the entries of all. For all who may read.';

create or replace function pgcache_internal.hot_present_epoch() returns text
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if pg_is_in_recovery() then
        return null;  -- UNLOGGED tables may not even be named
    end if;
    return (select e.epoch from hot_epoch e where e.owner = hot_owner());
end
$$;

comment on function pgcache_internal.hot_present_epoch() is
'The epoch that the relay has begun for this database on this server since it was started; NULL if there is none, and'
' on a standby. For all who may read.';

create or replace function pgcache_internal.hot_state(
    out epoch text, out redis text, out began_as text, out owner text, out staleness_ms bigint, out prefix text,
    out erasing boolean
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_writable(), begin_changes();
    owner := hot_owner();
    staleness_ms := extract(epoch from cache_setting('hot_max_staleness')::interval) * 1000;
    prefix := cache_setting('hot_prefix');
    select e.epoch, e.redis, e.owner into epoch, redis, began_as from hot_epoch e;
    erasing := exists (select from hot_erasures);
end
$$;

comment on function pgcache_internal.hot_state() is
'For the relay: the epoch, in which Redis it began and as whose, NULL if there is none since the server crashed; whose'
' one would be that begins now; the settings; and whether there is something to erase. Errors: 25006.';

-- A lock for as long as a session lasts would have to be an advisory one, which is anybody's who may connect. So a row
-- says which session it is; and whether that one is still there is for all to see.
create or replace function pgcache_internal.hot_take_turn() returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '100ms'
as $$
declare
    me constant integer := pg_backend_pid();
    now constant timestamptz := clock_timestamp();
    silence constant interval := greatest(cache_setting('hot_max_staleness')::interval, interval '1 minute');
begin
    perform check_writable();
    if exists (select from hot_at_work w where w.pid = me and w.seen_at > now - silence / 2) then
        return true;  -- so that it need not be written each time
    end if;
    insert into hot_at_work as w (pid) values (me)
    on conflict on constraint hot_at_work_pkey do update set pid = excluded.pid, seen_at = excluded.seen_at
    where w.pid = me or w.seen_at < now - silence
        or not exists (select from pg_stat_activity a where a.pid = w.pid and a.datname = current_database());
    return found;
exception when lock_not_available or serialization_failure then
    return false;  -- another one takes it now
end
$$;

comment on function pgcache_internal.hot_take_turn() is
'For the relay, before each cycle: whether this session''s is the one at work. It is from then on, if no other was, or'
' the session of that one has ended, or has not said for max_staleness, at least a minute, that it is at work. Errors:'
' 25006.';

create or replace function pgcache_internal.relay_is_there() returns boolean
language sql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select exists (
        select from hot_at_work w inner join pg_stat_activity a on a.pid = w.pid and a.datname = current_database()
    )
$$;

comment on function pgcache_internal.relay_is_there() is
'Whether the session of the relay that was last at work goes on.';

create or replace function pgcache_internal.hot_pending() returns table (
    seen pg_snapshot, type text, tenant text, cache_key text, version bigint
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- as near_changes
set jit to off
as $$
#variable_conflict use_column
begin
    -- In one statement, so that all of it is as of one snapshot.
    return query
    select pg_current_snapshot(), c.*
    from (values (true)) one (row)
    left join (
        select u.type, u.tenant, u.cache_key, max(u.version) as version from hot_untold() u group by 1, 2, 3
        union all
        select null, null, null, 0 from hot_epoch h where h.seen is null
    ) c on true;
end
$$;

comment on function pgcache_internal.hot_pending() is
'For the relay: the snapshot up to which it has read, and the changes that are committed and not yet delivered, with'
' the newest version of each entry; without a key: all entries are void; without a version: there is no change.';

create or replace function pgcache_internal.hot_begin_epoch(epoch text, redis text) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '1s'  -- who prunes may take his time to commit
as $$
declare
    begun boolean;
begin
    perform begin_changes();
    -- Nobody prunes until this is committed. But if the log has begun in this transaction, others take nobody to be
    -- here: then the next cycle begins once more.
    select e.xmin = pg_current_xact_id()::xid into begun from change_epoch e for update;
    insert into hot_epoch as e (epoch, redis, owner, seen)
    values (epoch, redis, hot_owner(), case when not begun then pg_current_snapshot() end)
    on conflict on constraint hot_epoch_pkey do update
    set epoch = excluded.epoch, redis = excluded.redis, owner = excluded.owner, begun_at = excluded.begun_at,
        seen = excluded.seen, flushes = e.flushes + 1;
    insert into hot_owner as o (owner) values (hot_owner())
    on conflict on constraint hot_owner_pkey do update set owner = excluded.owner where o.owner <> excluded.owner;
end
$$;

comment on function pgcache_internal.hot_begin_epoch(text, text) is
'For the relay: from now on entries belong to this epoch, in this Redis. What is committed by now need not be told: who'
' puts an entry in has read it later, as he knows the epoch.';

create or replace function pgcache_internal.hot_delivered(seen pg_snapshot, entries bigint) returns void
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select prune_changes();
    update hot_epoch e
    set drained_at = clock_timestamp(), delivered = e.delivered + entries,
        -- Of two relays at once, one may be late.
        seen = case when shows_all(hot_delivered.seen, e.seen) then hot_delivered.seen else e.seen end;
$$;

comment on function pgcache_internal.hot_delivered(pg_snapshot, bigint) is
'For the relay: Redis has been told of all that the snapshot shows; entries: how many entries that was about.';

-- Who has noted a change before this, and found the relay awake, has a transaction id below the one returned: when all
-- of these have ended, and none of their changes is pending, whoever changes something wakes the relay.
create or replace function pgcache_internal.hot_sleep(asleep boolean) returns xid8
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform setval('hot_asleep', asleep::integer);
    return case when asleep then pg_current_xact_id() end;
end
$$;

comment on function pgcache_internal.hot_sleep(boolean) is
'For the relay: from now on it waits for NOTIFY, or looks by itself. Before it relies on NOTIFY, all transactions below'
' the id returned have to be over.';

-- Redis may have entries that no row here knows of: of types that have left the tier, of an epoch that is void. They
-- are not returned, but they are there until their time is up.
create or replace function pgcache_internal.hot_erase(type text, tenant text) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if exists (select from hot_owner) then  -- else no relay was ever here, and nothing is in any Redis
        insert into hot_erasures (type, tenant) values (hot_erase.type, hot_erase.tenant);
        perform hot_wake();
    end if;
end
$$;

comment on function pgcache_internal.hot_erase(text, text) is
'Has the relay look through Redis for all entries of a tenant (NULL: of all) and type (NULL: of all), and remove them.';

create or replace function pgcache_internal.hot_erasing() returns setof pgcache_internal.hot_erasures
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select e.* from hot_erasures e
    where e.place is not null or not exists (select from hot_erasures b where b.place is not null)
$$;

comment on function pgcache_internal.hot_erasing() is
'For the relay: what it is to remove from Redis in one pass: that which it has begun, else all that waits.';

create or replace function pgcache_internal.hot_erased(ids bigint[], redis text, place text) returns void
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    update hot_erasures e set redis = hot_erased.redis, place = hot_erased.place
    where e.id = any(ids) and hot_erased.place <> '0';
    delete from hot_erasures e where e.id = any(ids) and hot_erased.place = '0'
$$;

comment on function pgcache_internal.hot_erased(bigint[], text, text) is
'For the relay: in which Redis it has come how far with what it removes; place: SCAN''s cursor, ''0'' when it is done.';

create or replace function pgcache_internal.hot_progress() returns setof pgcache_internal.hot_epoch
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not pg_is_in_recovery() then
        return query select * from hot_epoch;
    end if;
end
$$;

comment on function pgcache_internal.hot_progress() is
'The row of hot_epoch, if there is one; none on a standby, where UNLOGGED tables may not even be named.';

create or replace function pgcache_internal.hot_waiting() returns table (
    type text, changes bigint, oldest timestamptz
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if not pg_is_in_recovery() then
        return query select u.type, count(*), min(u.noted_at) from hot_untold() u group by u.type;
    end if;
end
$$;

comment on function pgcache_internal.hot_waiting() is
'For each type how many changes wait in the outbox, and since when the oldest; none on a standby, as hot_progress.';

create or replace view pgcache.cache_hot_stats as
with pending as (
    select
        w.type,
        w.changes,
        w.oldest
    from pgcache_internal.hot_waiting() as w
),

outbox as (
    select
        coalesce(sum(p.changes), 0)::bigint as length,
        clock_timestamp() - min(p.oldest) as age
    from pending as p
)

select
    t.type,
    h.type is not null as hot,
    h.ttl,
    h.since,
    coalesce(p.changes, 0) as pending,
    o.length as outbox_length,
    o.age as outbox_age,
    e.drained_at,
    e.delivered,
    e.epoch,
    e.begun_at,
    e.flushes,
    (select count(*) from pgcache_internal.hot_erasures) as erasing
from pgcache_internal.types as t
left join pgcache_internal.hot_types as h on t.type = h.type
left join pending as p on t.type = p.type
cross join outbox as o
left join pgcache_internal.hot_progress() as e on true;

comment on view pgcache.cache_hot_stats is
'The hot tier: each type, whether it is in it, for how long Redis keeps its entries, its changes that wait for the'
' relay; and, the same in each row: all that waits and the age of the oldest, when the relay was last here, what it has'
' delivered and how often it voided all entries since the last crash, the epoch and since when. NULLs: no relay has'
' been here since then. erasing: what cache_forget has left to the relay, to look for in Redis.';
