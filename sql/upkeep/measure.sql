-- How much a type holds.

create or replace function pgcache.count_entries(registered cache_types, max_blocks bigint, out entries bigint, out bytes bigint)
language plpgsql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    blocks constant bigint := heap_blocks(registered.relation);
    -- Of more than max_blocks, runs of 8 that are evenly spread.
    stride constant bigint := greatest(8, blocks * 8 / max_blocks);
begin
    execute format($sql$
        select coalesce(sum(s.entries) * $2 / 8, 0), coalesce(sum(s.bytes) * $2 / 8, 0)
        from generate_series(floor(random() * ($2 - 7))::bigint, $1 - 1, $2) b (first_block)
        cross join lateral (
            select count(*) as entries, sum(%s) as bytes from %s t
            where t.ctid >= format('(%%s,0)', b.first_block)::tid and t.ctid < format('(%%s,0)', b.first_block + 8)::tid
                %s
        ) s
        $sql$, entry_size(registered.payload), registered.relation,
        case when registered.eviction = 'none' then 'and (t.expires_at is null or t.expires_at > $3)' else '' end)
    into entries, bytes using blocks, stride, cache_now();
end
$$;

comment on function pgcache.count_entries(cache_types, bigint) is
'Entries and bytes of a type: a count up to max_blocks blocks, beyond that an estimate from so many. Of types that evict nothing, what has expired does not count.';

create or replace function pgcache.measure(type text) returns void
language plpgsql volatile security definer
set search_path to pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant cache_types := check_type(type);
    held record := count_entries(registered, 4096);
begin
    perform set_counter(type, 'entries', held.entries), set_counter(type, 'bytes', held.bytes),
        set_counter(type, 'blocks', heap_blocks(registered.relation));
end
$$;

comment on function pgcache.measure(text) is
'Sets a type''s counters entries, bytes and blocks to what its table holds: a count up to 4096 blocks, beyond that an estimate from 4096 blocks.';

create or replace function pgcache.set_counter(type text, counter text, value bigint) returns void
language sql volatile
set search_path to pgcache, pg_catalog, pg_temp
as $$ select setval(format('pgcache.%I', counter || '_' || type)::regclass, greatest(0, value)) $$;

comment on function pgcache.set_counter(text, text, bigint) is 'Sets a type''s counter: entries, bytes, blocks, or the clock writes.';
