-- Which types processes may keep entries of (pgcache_py/client/near/). Those that are not bear no cost of it.

create or replace function pgcache.cache_near_on(type text) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform take_turn(), check_type(type);
    insert into near_types (type) values (type) on conflict do nothing;
    perform attach_changes(type), compile_types();
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
begin
    perform take_turn(), check_type(type);
    delete from near_types n where n.type = type;
    if not found then
        return false;
    end if;
    perform attach_changes(type), compile_types();
    return true;
end
$$;

comment on function pgcache.cache_near_off(text) is
'Processes keep entries of a type no longer; true if they could. What they have is void. Errors: PC001.';

create or replace trigger near_void after delete on pgcache_internal.near_types
for each row execute function pgcache_internal.note_void('', 'near');
