-- What is refused: in types that evict nothing what there is no room for, in all types what is larger than they may be.

create or replace function pgcache_internal.admit(type text, key text) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
begin
    if cache_exists(type, key) then
        return true;
    end if;
    -- Whoever recounts waits for what is not committed yet.
    perform lock_eviction(type, admission_wait(), shared => true);
    return count_admission(registered)
        or not is_full(registered) and count_admission(registered)
        or refuse_as_full(registered);
end
$$;

comment on function pgcache_internal.admit(text, text) is
'For types that evict nothing: true if the key may be written. Errors: PC009 full.';

create or replace function pgcache_internal.count_admission(registered types) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return coalesce(nextval(sequence_of(registered.type, 'admitted')) <= registered.max_entries, true)
        -- After a crash, or while the type evicted, fewer were counted than are there.
        and coalesce(counter(registered.type, 'entries') < registered.max_entries, true)
        and coalesce(counter(registered.type, 'bytes') < registered.max_bytes, true);
end
$$;

comment on function pgcache_internal.count_admission(types) is
'Counts an entry before it is committed, for good: true if there is room for it by that count, and by the last'
' measurement.';

create or replace function pgcache_internal.is_full(registered types) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    -- To count a large table costs much. If a glance at it shows what the last count did, most calls leave it at that.
    spared constant boolean := chance() * heap_blocks(registered.relation) > glanced_blocks();
    held record;
begin
    if spared then
        held := count_entries(registered.type, glanced_blocks());
        if held.entries > registered.max_entries * full_share() or held.bytes > registered.max_bytes * full_share() then
            return true;
        end if;
    end if;
    held := recount_admitted(registered.type);
    -- NULL: others are writing it, and what they have counted may be there to stay.
    return held.entries is null
        or coalesce(held.entries >= registered.max_entries, false)
        or coalesce(held.bytes >= registered.max_bytes, false);
end
$$;

comment on function pgcache_internal.is_full(types) is
'Whether a type that was full by its counters still is. Of large tables most calls see a few blocks only, and take what'
' is nearly full for full.';

create or replace function pgcache_internal.recount_admitted(
    type text, own tenant_limits default null, out entries bigint, out bytes bigint
)
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    held record;
begin
    if (lock_eviction(type, admission_wait())).got and not keeps_its_snapshot() then
        if own.type is null then
            held := measure(type);
            perform set_counter(type, 'admitted', held.entries);
        else
            held := count_of_tenant(type, own.tenant);
            perform setval(own.room, greatest(0, tenant_room(own, held.entries, held.bytes) - 1));
        end if;
        entries := held.entries;
        bytes := held.bytes;
    end if;
    -- To roll back to the begin gives the lock back, which would else last until the commit. Sequences and variables
    -- keep their values.
    raise sqlstate 'UNDO0';
exception when sqlstate 'UNDO0' then
    null;
end
$$;

comment on function pgcache_internal.recount_admitted(text, tenant_limits) is
'Measures a type that evicts nothing, once nobody else is writing it, and sets its counter admitted to that; or'
' counts what the tenant with this limit has, and takes the entry that it wants to write off its room. NULL if it would'
' have to wait longer than admission_wait().';

create or replace function pgcache_internal.check_bytes(registered types, bytes bigint) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if bytes > registered.max_bytes then
        perform check_value(registered, registered.max_bytes, format('the cache type %s may hold', registered.type),
            format('cache_configure(%L, max_bytes => ...)', registered.type));
    end if;
    if registered.eviction = 'none' and counter(registered.type, 'bytes') + bytes > registered.max_bytes then
        perform measure(registered.type);
        if counter(registered.type, 'bytes') > registered.max_bytes then
            -- What it has measured holds this value, too, which goes with the error.
            perform set_counter(registered.type, 'bytes', counter(registered.type, 'bytes') - bytes),
                refuse_as_full(registered);
        end if;
    end if;
end
$$;

comment on function pgcache_internal.check_bytes(types, bigint) is
'Whether a value of so many bytes that was just written may stay. Errors: PC009 larger than max_bytes; more than there'
' is room for in a type that evicts nothing.';

create or replace function pgcache_internal.check_value(
    registered types, max_bytes bigint, limited text, remedy text
) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    too_large boolean;
begin
    -- As it is stored, which is compressed.
    execute format('select exists (select from %s t where t.tenant = $1 and t.created_at >= $2 and (%s) > $3)',
        registered.relation, entry_size(registered.fields))
    into too_large using current_tenant(), statement_start(), max_bytes;
    if too_large then
        raise exception using errcode = 'PC009',
            message = format('the value is larger than all that %s, %s', limited, pg_size_pretty(max_bytes)),
            hint = format('Raise the limit: SELECT %s.', remedy);
    end if;
end
$$;

comment on function pgcache_internal.check_value(types, bigint, text, text) is
'Whether a value that was just written is within max_bytes, all that is limited so; the remedy is the call that raises'
' that. Errors: PC009.';

create or replace function pgcache_internal.refuse_as_full(registered types) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    raise exception using errcode = 'PC009',
        message = format('the cache type %s is full: it may hold %s', registered.type,
            concat_ws(', ', registered.max_entries || ' entries', pg_size_pretty(registered.max_bytes))),
        hint = format('It evicts nothing (eviction none). Raise a limit or let it evict:'
            ' SELECT cache_configure(%L, eviction => ''lru'').', registered.type);
end
$$;

comment on function pgcache_internal.refuse_as_full(types) is
'Says that a type that evicts nothing is full. Errors: PC009.';
