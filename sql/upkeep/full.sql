-- What is refused: in types that evict nothing what there is no room for, in all types what is larger than they may be.

create or replace function pgcache.has_room(type text, key text) returns boolean
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant cache_types := check_type(type);
    count_in constant regclass := format('pgcache.%I', 'entries_' || type);
begin
    -- Whoever counts the entries waits for those that nobody else sees yet.
    perform wait_for_turn(type, 100, shared => true);
    return cache_exists(type, key)
        -- Counted from now on, before it is committed.
        or coalesce(nextval(count_in) <= registered.max_entries, true) and coalesce(counter(type, 'bytes') < registered.max_bytes, true)
        or not is_full(registered)
        or refuse_as_full(registered);
end
$$;

comment on function pgcache.has_room(text, text) is
'For types that evict nothing: true if the key may be written. Errors: PC009 full.';

create or replace function pgcache.is_full(registered cache_types) returns boolean
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    -- To count a large table costs much. If a glance at it shows what the last count did, most calls leave it at that.
    spared constant boolean := random() * heap_blocks(registered.relation) > 64;
    held record;
    unseen bigint := 0;  -- what others are writing, at a guess
begin
    if spared then
        held := count_entries(registered.type, 64);
        if held.entries > registered.max_entries * 0.95 or held.bytes > registered.max_bytes * 0.95 then
            return true;
        end if;
    end if;
    if wait_for_turn(registered.type, 100) is null then
        unseen := registered.max_entries / 10;
    end if;
    held := measure(registered.type);
    if coalesce(held.entries + unseen >= registered.max_entries, false) or coalesce(held.bytes >= registered.max_bytes, false) then
        return true;
    end if;
    perform set_counter(registered.type, 'entries', held.entries + unseen + 1);
    return false;
end
$$;

comment on function pgcache.is_full(cache_types) is
'Whether a type that was full when it was measured still is, with one entry to come. Of large tables most calls see 64 blocks only, and take more than 95 % for full.';

create or replace function pgcache.check_room(registered cache_types, bytes bigint) returns void
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    too_large boolean;
begin
    if bytes > registered.max_bytes then  -- as given; what is stored is compressed
        execute format('select exists (select from %s t where t.created_at >= $1 and (%s) > $2)',
            registered.relation, entry_size(registered.payload))
        into too_large using cache_now(), registered.max_bytes;
        if too_large then
            raise exception using errcode = 'PC009',
                message = format('the value is larger than all that the cache type %s may hold, %s', registered.type,
                pg_size_pretty(registered.max_bytes)),
                hint = format('Raise the limit: SELECT cache_configure(%L, max_bytes => ...).', registered.type);
        end if;
    end if;
    if registered.eviction = 'none' and counter(registered.type, 'bytes') + bytes > registered.max_bytes then
        perform measure(registered.type);
        if counter(registered.type, 'bytes') > registered.max_bytes then
            perform set_counter(registered.type, 'bytes', counter(registered.type, 'bytes') - bytes), refuse_as_full(registered);
        end if;
    end if;
end
$$;

comment on function pgcache.check_room(cache_types, bigint) is
'Whether a value of so many bytes that was just written may stay. Errors: PC009 larger than max_bytes; more than there is room for in a type that evicts nothing.';

create or replace function pgcache.refuse_as_full(registered cache_types) returns boolean
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
begin
    raise exception using errcode = 'PC009',
        message = format('the cache type %s is full: it may hold %s', registered.type,
            concat_ws(', ', registered.max_entries || ' entries', pg_size_pretty(registered.max_bytes))),
        hint = format('It evicts nothing (eviction none). Raise a limit or let it evict: SELECT cache_configure(%L, eviction => ''lru'').',
            registered.type);
end
$$;

comment on function pgcache.refuse_as_full(cache_types) is 'Says that a type that evicts nothing is full. Errors: PC009.';
