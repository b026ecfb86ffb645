-- Before an upgrade changes anything: nobody may change the registry of types while it lasts, which the cache goes on
-- without. And the rights that users have given by themselves are noted. Those to what is dropped and made again would
-- be lost, and so would all others of a role with access, as cache_grant is to give it what the new version has for it.

create table pgcache_internal.kept_rights (
    kind text, schema name, name name, oid oid, column_name name, role text, privilege text, grantable boolean
);

do $$
declare
    rights constant text := $sql$
        select o.kind, o.schema, o.name, o.oid, o.column_name,
            case a.grantee when 0 then 'public' else pg_catalog.quote_ident(r.rolname) end as role,
            a.privilege_type, a.is_grantable
        from (
            select 'schema', n.nspname, n.nspname, n.oid, null, n.nspacl, n.nspowner from pg_catalog.pg_namespace n
            union all
            select 'routine', n.nspname, p.proname, p.oid, null, p.proacl, p.proowner
            from pg_catalog.pg_proc p inner join pg_catalog.pg_namespace n on n.oid = p.pronamespace
            union all
            select case c.relkind when 'S' then 'sequence' else 'table' end,
                n.nspname, c.relname, c.oid, null, c.relacl, c.relowner
            from pg_catalog.pg_class c inner join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            union all
            select 'table', n.nspname, c.relname, c.oid, t.attname, t.attacl, c.relowner
            from pg_catalog.pg_attribute t
            inner join pg_catalog.pg_class c on c.oid = t.attrelid
            inner join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where not t.attisdropped
        ) o (kind, schema, name, oid, column_name, acl, owner)
        cross join lateral pg_catalog.aclexplode(o.acl) a
        left join pg_catalog.pg_roles r on r.oid = a.grantee
        where o.schema in ('pgcache', 'pgcache_internal') and a.grantee <> o.owner
            and (a.grantee = 0 or r.oid is not null)
    $sql$;
    granted jsonb;
begin
    if pg_catalog.to_regprocedure('pgcache_internal.roles_with_access()') is null then
        return;  -- a new installation
    end if;
    lock table pgcache_internal.types in share row exclusive mode;
    execute 'insert into pgcache_internal.kept_rights ' || rights;
    -- The functions of the version that is there know what it has given, in place of all that there was.
    granted := (select pg_catalog.jsonb_agg(g) from pgcache_internal.granted_roles g);
    perform pgcache.cache_revoke(r.role), pgcache.cache_grant(r.role, r.access)
    from pgcache_internal.roles_with_access() r;
    delete from pgcache_internal.granted_roles;
    insert into pgcache_internal.granted_roles
    select g.* from pg_catalog.jsonb_populate_recordset(null::pgcache_internal.granted_roles, granted) g;
    execute pg_catalog.format($sql$
        delete from pgcache_internal.kept_rights k using (%s) g
        where (k.kind, k.oid, k.role) = (g.kind, g.oid, g.role)
            and (k.privilege, k.grantable) = (g.privilege_type, g.is_grantable)
            and k.column_name is not distinct from g.column_name
            and k.role in (select pg_catalog.quote_ident(r.role) from pgcache_internal.roles_with_access() r)
        $sql$, rights);
end
$$;
