-- Which types processes may keep entries of (pgcache_py/client/near/). Those that are not bear no cost of it.

create or replace function pgcache.cache_near_on(type text) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform take_turn(), check_type(type);
    insert into near_types (type) values (type) on conflict do nothing;
    perform near_attach(type), compile_types();
end
$$;

comment on function pgcache.cache_near_on(text) is
'Lets processes keep entries of a type, those whose clients have a near cache: from now on its changes are noted for'
' them. Waits for transactions that have written the type. Errors: PC001.';

create or replace function pgcache.cache_near_off(type text) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered types;
begin
    perform take_turn();
    registered := check_type(type);
    delete from near_types n where n.type = type;
    if not found then
        return false;
    end if;
    perform detach_triggers(registered.relation, near_triggers());
    perform compile_types();
    return true;
end
$$;

comment on function pgcache.cache_near_off(text) is
'Processes keep entries of a type no longer; true if they could. What they have is void. Errors: PC001.';

create or replace function pgcache_internal.near_triggers() returns text[]
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$ select array['near_note', 'near_note_truncate'] $$;

comment on function pgcache_internal.near_triggers() is
'The names of the triggers that the table of a type has whose entries processes may keep.';

create or replace function pgcache_internal.near_attach(type text) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    relation constant regclass := (check_type(type)).relation;
begin
    perform attach_triggers(relation, near_triggers(), array[
        -- What is inserted nobody has kept. What has expired is noted, too: the clocks of processes are others.
        format($sql$
            create or replace trigger near_note after delete or update of %s on %s
            for each row execute function near_note(%L)
            $sql$, changing_columns(relation), relation, type),
        format($sql$
            create or replace trigger near_note_truncate after truncate on %s
            for each statement execute function near_void(%L)
            $sql$, relation, type)
    ]);
end
$$;

comment on function pgcache_internal.near_attach(text) is
'Makes the triggers of a type whose entries processes may keep, or makes them anew where they are not as they should'
' be.';

create or replace trigger near_void after delete on pgcache_internal.near_types
for each row execute function pgcache_internal.near_void();

select pgcache_internal.near_attach(type) from pgcache_internal.near_types order by type;
