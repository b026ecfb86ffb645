-- Freshness: what a tenant invalidates, deletes and leases is found by the tenant first, so that no other one's calls
-- have to pass over it.
drop index pgcache_internal.tag_bumps_tag;
create index tag_bumps_scope on pgcache_internal.tag_bumps (scope, tag);

alter table pgcache_internal.leases
drop constraint leases_pkey,
add constraint leases_pkey primary key (tenant, type, cache_key);

-- Of what is folded: the last of the transactions that had invalidated the tag.
alter table pgcache_internal.tag_bumps add column last_xid xid8;
