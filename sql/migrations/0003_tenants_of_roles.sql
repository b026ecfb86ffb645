-- Roles with access may be walled, and may be given more than that.
alter table pgcache_internal.granted_roles
add column tables boolean not null default false,
add column tenants text[];
comment on table pgcache_internal.granted_roles is
'What cache_grant has given to roles, so that they keep it over an upgrade: their access, whether they may read the'
' tables, whose entries they may see (NULL: all tenants'').';
