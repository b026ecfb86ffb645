-- Near caches, and one log of changes for all who keep copies of entries: these, and Redis.
create table pgcache_internal.near_types (
    type text primary key references pgcache_internal.types on delete cascade
);
comment on table pgcache_internal.near_types is
'The types whose entries processes may keep. Changed by cache_near_on and cache_near_off.';

-- Unlogged on purpose: in the WAL each change would wait for the disk, also of types that are not there themselves. If
-- it is lost, by a crash or as another server takes this one's place, so are both epochs.
create unlogged table pgcache_internal.change_log (
    xid xid8 not null default pg_current_xact_id(),
    type text,
    tenant text collate "C",
    cache_key text collate "C",
    version bigint,
    noted_at timestamptz,
    check ((tenant is null) = (cache_key is null))
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_insert_threshold = -1,
    vacuum_truncate = off
);
create index change_log_xid on pgcache_internal.change_log (xid);
alter table pgcache_internal.change_log
alter column tenant set statistics 0, alter column cache_key set statistics 0; -- or ANALYZE would copy them
comment on table pgcache_internal.change_log is
'Changes of the types that are hot or near, by the transaction that made them: which entry is new, has changed or is'
' gone; without a key: all of the type; without a type: all. version and noted_at: for Redis, too; NULL: for processes'
' only.';

create unlogged table pgcache_internal.change_epoch (
    one boolean primary key default true check (one),
    epoch text not null,
    pruned pg_snapshot,
    next pg_snapshot not null,
    next_at timestamptz not null
) with (fillfactor = 10);
comment on table pgcache_internal.change_epoch is
'Since when change_log is whole: without this row nothing is. pruned: what this snapshot shows is gone, NULL: nothing'
' is; next: and what this one shows will be, after next_at.';

-- What waits in the outbox of an earlier version is dropped with it: the relay takes all in Redis for void.
alter table pgcache_internal.hot_epoch add column seen pg_snapshot;
comment on column pgcache_internal.hot_epoch.seen is
'The relay has told Redis of what this snapshot shows; NULL: of what it has told is not known, so all is void.';

-- Views and triggers that depend on it are made anew, after the migrations; a user's view may depend on such a view.
do $$
declare
    dependent record;
begin
    for dependent in
        select distinct v.relnamespace::regnamespace as schema, v.relname as view, c.columns
        from pg_depend d
        inner join pg_rewrite r on r.oid = d.objid and d.classid = 'pg_rewrite'::regclass
        inner join pg_class v on v.oid = r.ev_class
        cross join lateral (
            select string_agg(
                format('null::%s as %I', format_type(a.atttypid, a.atttypmod), a.attname), ', ' order by a.attnum
            ) as columns
            from pg_attribute a
            where a.attrelid = r.ev_class and a.attnum > 0
        ) c
        where d.refobjid = 'pgcache_internal.hot_outbox'::regclass
    loop
        execute format(
            'create or replace view %s.%I as select %s', dependent.schema, dependent.view, dependent.columns
        );
    end loop;
    for dependent in
        select t.tgname, t.tgrelid::regclass as relation
        from pg_trigger t inner join pg_proc p on p.oid = t.tgfoid
        where p.pronamespace = 'pgcache_internal'::regnamespace and p.proname ~ '^hot_(stamp|note|void)'
    loop
        execute format('drop trigger %I on %s', dependent.tgname, dependent.relation);
    end loop;
end
$$;
drop table pgcache_internal.hot_outbox;
alter table pgcache_internal.hot_outbox_due set unlogged;
select setval('pgcache_internal.hot_outbox_due', 0);
comment on sequence pgcache_internal.hot_outbox_due is
'The version at which a writer next looks how much waits for the relay.';
