-- At the end: PUBLIC gets nothing, roles with access keep their kind of access, and what users have given by themselves
-- is given again (see keep_rights.sql).

revoke all on schema pgcache, pgcache_internal from public;
revoke all on all tables in schema pgcache, pgcache_internal from public;
revoke all on all sequences in schema pgcache, pgcache_internal from public;
revoke all on all routines in schema pgcache, pgcache_internal from public;

select
    pgcache.cache_grant(r.role, r.access, r.tenants) as access,
    case when r.tables then pgcache.cache_grant(r.role, 'tables') end as tables
from pgcache_internal.roles_with_access() as r;

do $$
declare
    given record;
begin
    for given in
        select k.*, o.target
        from pgcache_internal.kept_rights k
        cross join lateral (
            select case k.kind
                when 'schema' then pg_catalog.quote_ident(k.name)
                when 'routine' then coalesce(
                    (select p.oid from pg_catalog.pg_proc p where p.oid = k.oid),
                    (
                        select m.oid from pgcache_internal.own_objects() m
                        where (m.kind, m.schema, m.name) = ('routine', k.schema, k.name)
                    )
                )::pg_catalog.regprocedure::text
                else pg_catalog.to_regclass(pg_catalog.format('%I.%I', k.schema, k.name))::text
            end as target
        ) o
        where o.target is not null and (k.column_name is null or exists (
            select from pg_catalog.pg_attribute a
            where a.attrelid = o.target::pg_catalog.regclass and a.attname = k.column_name and not a.attisdropped
        ))
    loop
        execute pg_catalog.format(
            'grant %s%s on %s %s to %s%s', given.privilege, ' (' || pg_catalog.quote_ident(given.column_name) || ')',
            given.kind, given.target, given.role, case when given.grantable then ' with grant option' end
        );
    end loop;
end
$$;

-- Who may ask a model may call all that this takes in this version.
select pgcache_internal.give_spending(r.rolname)
from pg_catalog.pg_proc as p
cross join lateral pg_catalog.aclexplode(p.proacl) as a
inner join pg_catalog.pg_roles as r on a.grantee = r.oid
where p.oid = pg_catalog.to_regprocedure('pgcache_internal.ai_fetch(text, jsonb)') and a.grantee <> p.proowner;

drop table pgcache_internal.kept_rights;
