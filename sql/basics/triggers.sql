-- Triggers that the tables of some types have: what makes them and takes them away again.

create or replace function pgcache_internal.changing_columns(relation regclass) returns text
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
    from pg_attribute a
    where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        and a.attname not in ('hit_count', 'last_accessed_at', 'hit_weight')
$$;

comment on function pgcache_internal.changing_columns(regclass) is
'The columns of an entry, as a list in SQL, but for those that upkeep changes.';

create or replace function pgcache_internal.set_triggers(
    relation regclass, known text[], names text[], statements text[]
) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    digest constant text := md5(statements::text);  -- as a comment it says what a trigger was made of
    statement text;
    name text;
begin
    for name in
        select t.tgname from pg_trigger t
        where t.tgrelid = relation and t.tgname = any(known) and t.tgname <> all(names)
    loop
        execute format('drop trigger %I on %s', name, relation);
    end loop;
    -- To make a trigger locks the table, and waits for all who have written it.
    if (
        select count(*) filter (where t.tgenabled = 'A' and obj_description(t.oid, 'pg_trigger') = digest)
        from pg_trigger t
        where t.tgrelid = relation and t.tgname = any(names)
    ) = cardinality(names) then
        return;
    end if;
    foreach statement in array statements loop
        execute statement;
    end loop;
    foreach name in array names loop  -- changes that logical replication applies count, too
        execute format('alter table %s enable always trigger %I', relation, name);
        execute format('comment on trigger %I on %s is %L', name, relation, digest);
    end loop;
end
$$;

comment on function pgcache_internal.set_triggers(regclass, text[], text[], text[]) is
'Gives a table the triggers that have these names, made by these statements, unless they are there as they should be;'
' the others of those known are dropped.';
