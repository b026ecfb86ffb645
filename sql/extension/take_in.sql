-- What the script of an extension does before it makes anything. It may replace only what belongs to its extension: so
-- what is there becomes a part of it, until let_go.sql.

do $$
declare
    holder constant oid := (select e.extowner from pg_extension e where e.extname = 'pgcache');
    schemas constant oid[] := array[to_regnamespace('pgcache'), to_regnamespace('pgcache_internal')];
    found text;
    ran integer;
    object record;
begin
    if not pg_has_role(current_user, holder, 'usage') then
        raise exception using errcode = 'insufficient_privilege',
            message = format('the schemas of pgcache belong to %s, and the extension is of %s', current_user,
                pg_get_userbyid(holder)),
            hint = format('SET ROLE %I; then again.', current_user);
    end if;
    if to_regclass('pgcache_internal.installed') is not null then
        select i.version into found from pgcache_internal.installed i where i.component = 'pgcache';
        select max(m.version) into ran from pgcache_internal.schema_migrations m;
    end if;
    if string_to_array(substring(found from '^[0-9]+(?:[.][0-9]+)*'), '.')::integer[]
            > string_to_array(substring('@version@' from '^[0-9]+(?:[.][0-9]+)*'), '.')::integer[]
        or ran > @newest@
    then
        raise exception using errcode = 'PC090',
            message = format('the database is newer: it has pgcache %s (migration %s), and this extension is @version@'
                ' (migration @newest@)', found, ran),
            hint = format('Install the files of pgcache %s on the server: make install.', found);
    end if;
    for object in
        select i.type, i.identity
        from (
            select 'pg_namespace'::regclass as catalog, n.oid from pg_namespace n where n.oid = any(schemas)
            union all
            select 'pg_proc'::regclass, p.oid from pg_proc p where p.pronamespace = any(schemas)
            union all
            select 'pg_class'::regclass, c.oid
            from pg_class c
            where c.relnamespace = any(schemas) and c.relkind in ('r', 'p', 'v', 'S')
        ) o
        cross join lateral pg_identify_object(o.catalog, o.oid, 0) i
        where not exists (
            select from pg_depend d where (d.classid, d.objid, d.deptype) = (o.catalog, o.oid, 'e')
        )
    loop
        execute format('alter extension pgcache add %s %s', object.type, object.identity);
    end loop;
end
$$;
