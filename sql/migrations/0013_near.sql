-- Near caches: which types processes may keep, and what of these has changed.
create table pgcache_internal.near_types (
    type text primary key references pgcache_internal.types on delete cascade
);
comment on table pgcache_internal.near_types is
'The types whose entries processes may keep. Changed by cache_near_on and cache_near_off.';

-- Unlogged on purpose: when it is lost, by a crash or as another server takes this one's place, so is the epoch.
create unlogged table pgcache_internal.near_log (
    xid xid8 not null default pg_current_xact_id(),
    type text not null,
    tenant text collate "C",
    cache_key text collate "C",
    check ((tenant is null) = (cache_key is null))
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_insert_threshold = -1
);
create index near_log_xid on pgcache_internal.near_log (xid);
alter table pgcache_internal.near_log
alter column tenant set statistics 0, alter column cache_key set statistics 0; -- or ANALYZE would copy them
comment on table pgcache_internal.near_log is
'Entries of the near types that were changed or removed in the last seconds, by the transaction; without a key: all of'
' the type.';

create unlogged table pgcache_internal.near_epoch (
    one boolean primary key default true check (one),
    epoch text not null,
    pruned_below xid8 not null default '0',
    next_below xid8 not null,
    next_at timestamptz not null
) with (fillfactor = 10);
comment on table pgcache_internal.near_epoch is
'Since when near_log is whole: without this row nothing is. pruned_below: the changes of earlier transactions are gone;'
' next_below: and these will be, after next_at.';
