-- What the script of an extension does last: all that it has made, and what was there, belongs to it no more, and is as
-- after an installation without an extension. See look.sql.

set local search_path to pg_catalog, pg_temp;

do $$
declare
    object record;
begin
    for object in
        select d.classid, d.objid, i.type, i.identity
        from pg_depend d
        inner join pg_extension e on e.oid = d.refobjid and e.extname = 'pgcache'
        cross join lateral pg_identify_object(d.classid, d.objid, d.objsubid) i
        where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
        order by d.classid = 'pg_type'::regclass
    loop
        -- The types of a table go with it, from PostgreSQL 16 on.
        continue when not exists (
            select from pg_depend d where (d.classid, d.objid, d.deptype) = (object.classid, object.objid, 'e')
        );
        execute format('alter extension pgcache drop %s %s', object.type, object.identity);
    end loop;
end
$$;
