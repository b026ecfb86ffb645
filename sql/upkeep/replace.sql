-- Replacement in place: in a full type, a new entry takes over the row of the worst of a few others. Its row version
-- goes to the page where that one was, if pruning has made room there, so that the table keeps its size between two
-- vacuums; and the commit has nothing to evict. What is written otherwise (in a transaction that goes on, many at once)
-- is inserted, and the commit makes room (see room.sql).

select pgcache_internal.define($frame$
create or replace function pgcache_internal.replace_worst(
    type text, key text, value jsonb, ttl interval, moment timestamptz, raw bytea
) returns boolean
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- a plan made when the table had one page would else read all that it has now
set jit to off
as $body$
#variable_conflict use_variable
declare
    tenant constant text := current_tenant();
    whose constant text := tenant;
    blocks constant bigint := counter(type, 'blocks');
    visited constant float8 := sampled() * blocks / greatest(1.0, counter(type, 'entries'));
    -- In several parts of the table: what was written together may all be worth keeping.
    parts constant bigint := least(blocks, 4);
    part constant bigint := blocks / greatest(1, parts);  -- blocks in each
    run constant bigint := least(part, ceil(visited / greatest(1, parts)));  -- of which so many are read
    -- The parts may begin later by what is left over of the blocks, which would else stay for ever.
    first constant bigint := floor(chance() * (blocks - greatest(0, parts - 1) * part - run + 1));
    size constant bigint := coalesce(octet_length(raw), pg_column_size(value));
    over text[];  -- tenants; NULL: nobody has more than its share
    clock bigint;  -- what the clock replaced shows after this one; NULL: nothing was replaced
begin
    if @branches    end if;
    if clock is null then
        return false;
    elsif clock = 1 or size > large_value() then
        perform note_writes(type, false, size, replaced => clock = 1);
    end if;
    return true;
exception when unique_violation then
    return false;  -- another session has just set the key
end
$body$;
comment on function pgcache_internal.replace_worst(text, text, jsonb, interval, timestamptz, bytea) is
'Stores an entry whose key is not there yet in the row of the worst of some sampled() others, at places drawn at'
' random; false if it stored nothing: another session has just set the key, the call or the value is wrong, or there'
' was nothing to replace, as where tenants have more than their share, and none of these others is theirs. Rows that'
' are locked are skipped. Errors: PC009 value larger than max_bytes.';
$frame$, $branch$type = '@type' then
        @share{over := tenants_over('@type');
        }with worst as (
            select s.row_id, s.expired
            from (values (first), (first + part), (first + 2 * part), (first + 3 * part)) p (block)
            cross join lateral (
                select t.ctid as row_id, @expired as expired, @worth as score
                from @table t
                where t.ctid >= format('(%s,0)', p.block)::tid and t.ctid < format('(%s,0)', p.block + run)::tid@share{
                    and (over is null or t.tenant = any(over) or @expired)}
                offset 0
            ) s
            where p.block < blocks
            order by s.score limit 1
        ), victim as (
            select t.ctid as row_id from @table t where t.ctid = (select w.row_id from worst w)
            for update skip locked
        )
        update @table t
        set (tenant, cache_key, @columns, created_at, expires_at, last_accessed_at, hit_weight) = row(
            tenant, key, @raw_or_given,
            moment, expires_at(moment, ttl, type_ttl('@type')), moment, type_hit_weight('@type')
        ), id = default, hit_count = default, version = default,
            cache_tags = default, cache_epoch = default, cache_stale_until = default, cache_compute_ms = default
        from victim v
        where t.ctid = v.row_id and may_write('@type', key, ttl, tenant) and @fits and @takes_raw
        returning nextval('replaced_@type') + 0 * case  -- the other one only counts
            when (select w.expired from worst w) then nextval('expired_@type') else nextval('evicted_@type')
        end into clock;
$branch$, '');

-- Until it commits, others wait who write the key that is replaced, and could deadlock with what it writes later. So
-- only a statement that is a transaction of its own replaces, as its first write. Such a transaction began with it:
-- with the message Query, or with Bind, which makes the unnamed portal. (One that began with Parse cannot be told from
-- one that began with BEGIN.) In a procedure the transaction after a COMMIT is younger than the statement.
create or replace function pgcache_internal.may_replace() returns boolean
language sql stable parallel safe  -- not pinned: inlined
as $$
    select pg_catalog.pg_current_xact_id_if_assigned() is null and not pgcache_internal.keeps_its_snapshot()
        and (
            pg_catalog.transaction_timestamp() operator(pg_catalog.>=) pg_catalog.statement_timestamp()
            or exists (
                select from pg_catalog.pg_cursor() c
                where c.name operator(pg_catalog.=) ''
                    and c.creation_time operator(pg_catalog.=) pg_catalog.transaction_timestamp()
            )
        )
$$;

comment on function pgcache_internal.may_replace() is
'Whether this transaction is one statement, as far as can be seen, has written nothing yet, and sees what others'
' commit.';

create or replace function pgcache_internal.full_when(registered types) returns text
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select string_agg(
        format(
            'pg_catalog.pg_sequence_last_value(''pgcache_internal.%1$I'') operator(pg_catalog.>=) %2$s::bigint'
            ' and (pg_catalog.pg_sequence_last_value(''pgcache_internal.%1$I'') operator(pg_catalog.>=) %3$s::bigint'
            ' or pg_catalog.pg_sequence_last_value(''pgcache_internal.%4$I'')'
            ' operator(pg_catalog.>) pgcache_internal.counted_blocks())',
            m.counter || '_' || registered.type, (m.max * safe_share())::bigint - m.reserve, m.max - m.reserve,
            'blocks_' || registered.type
        ), ' or '
    )
    from (values
        ('entries', registered.max_entries, sweep_every(registered.max_entries, registered.max_bytes) - 1),
        ('bytes', registered.max_bytes, (registered.max_bytes * reserved_share_of_bytes())::bigint)
    ) m (counter, max, reserve)
    where m.max is not null and registered.eviction <> 'none'
$$;

comment on function pgcache_internal.full_when(types) is
'The SQL condition that a type was full when it was measured last, or estimated, but for the room for what is inserted'
' until the clock writes strikes. NULL: never.';
