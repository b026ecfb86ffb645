-- Which types are in the hot tier. Those that are not bear no cost of it: they have no triggers.

create or replace function pgcache.cache_hot_on(type text, ttl interval default null) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered types;
begin
    perform take_turn();
    registered := check_type(type);
    if ttl is not null then
        perform check_duration('ttl', ttl, interval '1 millisecond', interval '1000 years');
    end if;
    insert into hot_types as h (type, ttl)
    values (type, coalesce(ttl, registered.hot_ttl))
    on conflict on constraint hot_types_pkey do update set ttl = coalesce(cache_hot_on.ttl, h.ttl);
    perform attach_changes(type);
end
$$;

comment on function pgcache.cache_hot_on(text, interval) is
'Takes a type into the hot tier: from now on its changes get versions and reach Redis. ttl: how long Redis keeps an'
' entry at most (default 1 hour; vector_search 5 minutes, phash 2 hours, crawl 24 hours); for a type that is in it'
' already, changes that. Waits for transactions that have written the type. Errors: PC001, PC003.';

create or replace function pgcache.cache_hot_off(type text) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform take_turn(), check_type(type);
    delete from hot_types h where h.type = type;
    if not found then
        return false;
    end if;
    perform attach_changes(type);
    return true;
end
$$;

comment on function pgcache.cache_hot_off(text) is
'Takes a type out of the hot tier; true if it was in it. All types'' entries in Redis are void then. Errors: PC001.';

create or replace function pgcache_internal.is_hot(type text) returns boolean
language sql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select exists (select from hot_types h where h.type = is_hot.type) $$;

comment on function pgcache_internal.is_hot(text) is 'Whether a type is in the hot tier.';

create or replace function pgcache.cache_hot_configure(
    max_staleness interval default null, outbox_limit bigint default null, prefix text default null
) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    given record;
begin
    for given in
        select s.name, s.value
        from (values
            ('hot_max_staleness', max_staleness::text), ('hot_outbox_limit', outbox_limit::text), ('hot_prefix', prefix)
        ) s (name, value)
        where s.value is not null
    loop
        update settings c set value = given.value where c.name = given.name;
    end loop;
    if outbox_limit is not null then
        perform setval('hot_outbox_due', 0);  -- the next writer looks
    end if;
end
$$;

comment on function pgcache.cache_hot_configure(interval, bigint, text) is
'Changes the hot tier; what is NULL stays as it is. max_staleness (default 5 s): how old what it returns may be,'
' whatever fails. outbox_limit (default 100000): about how many changes wait for a relay; where there are more, Redis'
' is emptied instead. prefix (default pgcache): what its keys in Redis begin with, for relays that are given none.'
' Errors: PC010.';

-- Whatever way a type leaves the tier, and when one is disabled.
create or replace trigger hot_void after delete on pgcache_internal.hot_types
for each row execute function pgcache_internal.note_void('', 'hot');

create or replace trigger hot_void after update of enabled on pgcache_internal.types
for each row when (old.enabled and not new.enabled and pgcache_internal.is_hot(new.type))
execute function pgcache_internal.note_void('', 'hot');
