-- Freshness: what an entry depends on, what has changed of that, and who is computing what.

-- A field of a user's type that has the name of one of the new columns would take its place.
do $$
declare
    clash record;
begin
    select t.type, f.name into clash
    from pgcache_internal.types t cross join lateral jsonb_object_keys(t.fields) f (name)
    where f.name in ('cache_tags', 'cache_epoch', 'cache_stale_until', 'cache_compute_ms')
    limit 1;
    if found then
        raise exception using errcode = 'PC093',
            message = format('the type %s has a field %s, and in this version every entry has a column of that name',
                clash.type, clash.name),
            hint = format('Create the type anew with another name of the field: SELECT cache_drop_type(%L).',
                clash.type);
    end if;
end
$$;

-- All NULL, which takes no room, where an entry has no tags and nobody has fetched it.
alter table pgcache.cache_store
add column cache_tags text[] collate "C",
add column cache_epoch bigint,
add column cache_stale_until timestamptz,
add column cache_compute_ms real;

do $$
declare
    relation regclass;
begin
    for relation in
        select c.oid from pgcache_internal.types t inner join pg_class c on c.oid = t.relation
        where t.fields is not null
    loop
        execute format(
            'alter table %s add column cache_tags text[] collate "C", add column cache_epoch bigint,'
            ' add column cache_stale_until timestamptz, add column cache_compute_ms real', relation
        );
    end loop;
end
$$;

-- Logged, whatever the types are: were the bumps lost and entries left, these would be valid again.
create table pgcache_internal.tag_bumps (
    tag text collate "C" not null,
    scope text collate "C" not null,
    salt bigint not null,
    xid xid8 not null default pg_current_xact_id(),
    bumped_at timestamptz not null default clock_timestamp(),
    bumped_by text not null,
    folded_at timestamptz,
    last_xid xid8
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
-- Whoever looks a tag up knows the scope, too: so no tenant's calls have to pass over what another one has there.
create index tag_bumps_tag on pgcache_internal.tag_bumps (tag, scope);
comment on table pgcache_internal.tag_bumps is
'Which tags have been invalidated: a row each time, which upkeep folds. scope: * for the entries of all tenants, = and'
' a tenant for those of that one. salt: random; the epoch of a tag is the bitwise XOR of those that one sees. last_xid:'
' of what is folded, the last of the transactions that had invalidated the tag.';

-- Unlogged: a lease that a crash takes is as good as given back.
create unlogged table pgcache_internal.leases (
    type text collate "C" not null,
    tenant text collate "C" not null,
    cache_key text collate "C" not null,
    token bigint not null,
    deadline timestamptz not null,
    claimed_at timestamptz not null default clock_timestamp(),
    seen pg_snapshot,
    tags text[] collate "C",
    stale_for interval,
    entry_created_at timestamptz,
    entry_epoch bigint,
    primary key (tenant, type, cache_key)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table pgcache_internal.leases is
'Who is computing which entry: its token, until when nobody else is to, and what it had seen when it began. UNLOGGED.';
