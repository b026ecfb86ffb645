-- Limits of single tenants, and whose writes are due to make room.
create table pgcache_internal.tenant_limits (
    type text not null references pgcache_internal.types on delete cascade,
    tenant text collate "C" not null,
    max_entries bigint check (max_entries > 0),
    max_bytes bigint check (max_bytes > 0),
    room regclass not null unique,
    primary key (type, tenant)
);
alter table pgcache_internal.tenant_limits alter column tenant set statistics 0; -- or ANALYZE would copy names
comment on table pgcache_internal.tenant_limits is
'How much single tenants may have of a type, NULL: no limit. room: the counter of how many more writes there is room'
' for. Changed by cache_tenant_limit.';

alter table pgcache_internal.room_due add column tenant text collate "C";
alter table pgcache_internal.room_due alter column tenant set statistics 0;
comment on table pgcache_internal.room_due is
'What room a transaction is to make for what it has written: in a type, or in the limit of a tenant there. A trigger,'
' deferred to the commit, does so and deletes the rows.';
