-- How much a type holds.

select pgcache_internal.define($frame$
create or replace function pgcache_internal.count_entries(
    type text, max_blocks bigint, out entries bigint, out bytes bigint
)
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off
as $body$
#variable_conflict use_variable
declare
    moment constant timestamptz := cache_now();
    blocks bigint;
    run bigint;  -- so many blocks are read at a stretch
    stride bigint;  -- and from the beginning of one stretch to that of the next it is so many
begin
    if @branches    end if;
end
$body$;
comment on function pgcache_internal.count_entries(text, bigint) is
'Entries and bytes of a type: a count up to max_blocks blocks, beyond that an estimate from so many. Of types that'
' evict nothing, what has expired does not count.';
$frame$, $branch$type = '@type' then
        blocks := heap_blocks('@table');
        run := case when blocks > max_blocks then chunk_blocks() else greatest(blocks, 1) end;
        stride := greatest(run, blocks * run / max_blocks);
        select coalesce(sum(s.entries) * stride / run, 0), coalesce(sum(s.bytes) * stride / run, 0)
        into entries, bytes
        from generate_series(floor(random() * (stride - run + 1))::bigint, blocks - 1, stride) b (first_block)
        cross join lateral (
            select count(*) as entries, sum((@size)::integer) as bytes from @table t
            where t.ctid >= format('(%s,0)', b.first_block)::tid and t.ctid < format('(%s,0)', b.first_block + run)::tid
                and (not type_may_be_full('@type') or t.expires_at is null or t.expires_at > moment)
        ) s;
$branch$);

create or replace function pgcache_internal.measure(type text, out entries bigint, out bytes bigint)
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    held constant record := count_entries(type, counted_blocks());
begin
    entries := held.entries;
    bytes := held.bytes;
    perform set_counter(type, 'entries', entries), set_counter(type, 'bytes', bytes),
        set_counter(type, 'blocks', heap_blocks(registered.relation));
end
$$;

comment on function pgcache_internal.measure(text) is
'Sets a type''s counters entries, bytes and blocks to what its table holds: a count up to counted_blocks(), beyond that'
' an estimate from so many.';
