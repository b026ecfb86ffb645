-- Limits and expiry without an index: a hand walks the heap of each type in windows of blocks, deletes what has expired
-- and, as far as the type is over its limit, the worst entries of each window: one of visited_for_one() at most. It
-- skips rows that others have locked.

create or replace function pgcache_internal.heap_blocks(relation regclass) returns bigint
language sql volatile parallel safe  -- not pinned: inlined
as $$
    select pg_catalog.pg_relation_size(relation)
        operator(pg_catalog./) pg_catalog.current_setting('block_size')::pg_catalog.int8
$$;

comment on function pgcache_internal.heap_blocks(regclass) is 'How many blocks the heap of a table has.';

-- For each type a static statement, and the eviction score by its policy: to plan them each time would take as long as
-- to run them.
select pgcache_internal.define($frame$
create or replace function pgcache_internal.sweep(
    type text, first_block bigint, blocks bigint, need_entries bigint, need_bytes bigint, over text[], whose text,
    out expired bigint, out evicted bigint, out freed bigint
)
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- a plan made when the table had one page would else read all that it has now
set jit to off
as $body$
#variable_conflict use_variable
declare
    moment constant timestamptz := cache_now();
    first constant tid := format('(%s,0)', first_block)::tid;
    behind constant tid := format('(%s,0)', first_block + blocks)::tid;
    -- Of so few entries that none has to be bad, none goes; but of those in a window of full size one does.
    at_least constant integer := (blocks >= window_chunks() * chunk_blocks())::integer;
    row_ids tid[];
begin
    if @branches    end if;
    perform count_events(type, 'expired', expired), count_events(type, 'evicted', evicted);
end
$body$;
comment on function pgcache_internal.sweep(text, bigint, bigint, bigint, bigint, text[], text) is
'Deletes from a window of a type''s heap what has expired or is older than its max_age, and by the type''s policy,'
' until need_entries and need_bytes are met, at most one of visited_for_one() of the others, worst first; in types with'
' tenant_share only of the tenants in over, NULL for all. Of entries with tags that were invalidated it knows if they'
' are of the tenant whose, NULL for all: no write is to pay for what others have tagged and invalidated. Rows that are'
' locked are skipped.';
$frame$, $branch$type = '@type' then
        if need_entries > 0 or need_bytes > 0 then
            with visited as materialized (
                select t.ctid as row_id, (@size)::integer as bytes, t.created_at >= statement_start() as just_written,
                    @worth as score
                from @table t
                where t.ctid >= first and t.ctid < behind@share{
                    and (over is null or t.tenant = any(over) or @expired)}
            ), ranked as (  -- what has expired makes room, too
                select v.row_id, v.score, row_number() over worst_first as place,
                    sum(v.bytes) over worst_first - v.bytes as bytes_before
                from visited v window worst_first as (order by v.just_written, v.score rows unbounded preceding)
            )
            select array_agg(r.row_id) into row_ids
            from ranked r
            where r.score = '-infinity' or (r.place <= need_entries or r.bytes_before < need_bytes) and r.place <= (
                select c.expired + greatest(at_least, (c.live + visited_for_one() / 2) / visited_for_one())
                from (
                    select
                        count(*) filter (where v.score = '-infinity') as expired,
                        count(*) filter (where v.score > '-infinity') as live
                    from visited v
                ) c
            );
        else
            row_ids := array(
                select t.ctid from @table t
                where t.ctid >= first and t.ctid < behind and @expired
            );
        end if;
        with gone as (
            delete from @table t where t.ctid = any(array(
                select e.ctid from @table e where e.ctid = any(row_ids) for update skip locked))
            returning @expired as expired, @size as bytes
        )
        select
            count(*) filter (where g.expired), count(*) filter (where g.expired is not true), coalesce(sum(g.bytes), 0)
        into expired, evicted, freed
        from gone g;
$branch$);

-- Whatever a row holds, none of these may fail: with it would all writes of the type.
-- Reuse, discounted by the square of the time without it; for cost times what a reuse saves per byte
-- (GreedyDual-Size-Frequency with the idle time for its clock).
create or replace function pgcache_internal.eviction_policies() returns table (policy text, score text)
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $policies$
    select p.policy, replace(p.score, '@reuse',
        'least(1::float + t.hit_count, reuse_lines() * abs(t.hit_weight::float))'
        ' / (1e-6::float + greatest(0, date_part(''epoch'', moment) - date_part(''epoch'', t.last_accessed_at)) ^ 2)')
    from (values
        ('lru', '@reuse'),
        ('cost',
            '@reuse / (@size)@tokens{ * greatest('
            '1e6 * usd_of(model_price(@model), coalesce(t.tokens_used, 1), @input, @cached)::float,'
            ' 1e-6 * coalesce(t.tokens_used, 1)::float)}'),
        ('fifo', $$date_part('epoch', t.created_at)$$),
        ('none', 'null')
    ) p (policy, score)
$policies$;

comment on function pgcache_internal.eviction_policies() is
'The policies, and as SQL what an entry t is worth keeping by each at a moment; the lowest goes first. lru: reuse, less'
' the longer it was not read; cost: that, times tokens x price / bytes; fifo: its age; none: nothing is evicted.';

create or replace function pgcache_internal.evict(
    registered types, need_entries bigint, need_bytes bigint, visit_entries bigint, whose text default null,
    alone boolean default true
) returns bigint
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    type constant text := registered.type;
    hand_counter constant regclass := sequence_of(type, 'hand');
    chunks constant bigint := (heap_blocks(registered.relation) + chunk_blocks() - 1) / chunk_blocks();
    entries_per_block constant float8 := counter(type, 'entries') / greatest(1.0, counter(type, 'blocks'));
    entries_per_chunk constant float8 := greatest(1, entries_per_block * chunk_blocks());
    bytes_per_entry constant float8 := greatest(1, counter(type, 'bytes') / greatest(1.0, counter(type, 'entries')));
    to_visit bigint := least(chunks, ceil(visit_entries / entries_per_chunk));
    over text[] := case when registered.tenant_share is not null then tenants_over(type) end;
    spared integer := 0;  -- so many windows on end had nothing of these
    -- After to_look more it is looked anew who has more than its share: else what has to go might all be taken from one
    -- that had a little more.
    small_step constant float8 := greatest(1, least(
        counter(type, 'entries'), registered.max_entries, registered.max_bytes / bytes_per_entry
    ) / 50);
    to_look float8 := case when over is null then 'infinity' else small_step end;
    held record;
    removed bigint := 0;
    windows integer;  -- at most
    needed float8;  -- so many entries have to go
    wanted bigint;  -- chunks of the next window
    first bigint;  -- of them
    swept record;
begin
    windows := max_windows(greatest(need_entries, visit_entries, need_bytes / bytes_per_entry)::bigint)
        + case when over is null then 0 else ceil(2 / registered.tenant_share) end;
    for attempt in 1..windows loop
        exit when chunks = 0 or need_entries <= 0 and need_bytes <= 0 and to_visit <= 0;
        needed := least(to_look, greatest(need_entries, need_bytes / bytes_per_entry));
        wanted := greatest(1, to_visit, ceil(needed * visited_for_one() / entries_per_chunk));
        wanted := least(window_chunks(), wanted * 2 ^ greatest(0, attempt - equal_windows()));
        if wanted >= chunks then
            wanted := chunks;
            first := 0;
            perform nextval(hand_counter) from generate_series(1, wanted);
        else  -- to the end of the heap at most
            wanted := least(wanted, chunks - (counter(type, 'hand') + 1) % chunks);
            first := (select min(nextval(hand_counter)) from generate_series(1, wanted)) % chunks;
        end if;
        swept := sweep(type, first * chunk_blocks(), wanted * chunk_blocks(),
            least(to_look, need_entries)::bigint, least(to_look * bytes_per_entry, need_bytes)::bigint, over, whose);
        removed := removed + swept.expired + swept.evicted;
        need_entries := need_entries - swept.expired - swept.evicted;
        need_bytes := need_bytes - swept.freed;
        to_visit := to_visit - wanted;
        if over is not null then
            spared := case when swept.evicted > 0 then 0 else spared + 1 end;
            to_look := to_look - swept.evicted;
            if to_look < 1 then
                held := count_entries(type, counted_blocks());
                over := held.over;
                to_look := greatest(small_step, held.excess);
            elsif spared >= sparing_windows() or spared > 0 and wanted = chunks then
                exit when not alone;  -- others hold what is theirs, since they are evicting it
                over := null;
            end if;
            if over is null then
                to_look := 'infinity';
            end if;
        end if;
    end loop;
    return removed;
end
$$;

comment on function pgcache_internal.evict(types, bigint, bigint, bigint, text, boolean) is
'Moves a type''s hand over visit_entries entries, and on until need_entries and need_bytes are evicted, over'
' max_windows() at most; returns how many entries it removed. As long as tenants have more than their share, theirs'
' go; if none of these can be found, others'', but not unless alone: then nobody else is evicting, who may hold them.'
' whose: see sweep.';
