-- Types: what share of the limits each tenant keeps, and who has more.
alter table pgcache_internal.types
add column tenant_share numeric check (tenant_share > 0 and tenant_share <= 1);

create unlogged table pgcache_internal.tenants_over (
    type text primary key,
    tenants text[] collate "C" not null
) with (fillfactor = 10);
alter table pgcache_internal.tenants_over alter column tenants set statistics 0; -- or ANALYZE would copy names
comment on table pgcache_internal.tenants_over is
'The tenants that have more than their share of a type with tenant_share, as of its last measurement. No row: nobody'
' has, or it has not been measured. UNLOGGED: a crash empties it.';
