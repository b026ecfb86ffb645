-- What the upkeep is tuned by: each constant of it is a function here, and so is what follows from a type's limits. The
-- planner folds the calls, so they cost nothing. To change one, edit it and install: then the clocks take their new
-- periods, too. tests/sql/test_limits.py says whether limits still hold, `make bench ARGS=eviction` what hit ratio is
-- reached.

-- When something is due: the periods of a type's clocks (see tick).

create or replace function pgcache_internal.large_value() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 2048 $$;

comment on function pgcache_internal.large_value() is
'Bytes beyond which each write of a value is noted with its size. Values up to it count as so many bytes each: they are'
' noted when the clock writes strikes, and then all at once.';

create or replace function pgcache_internal.sweep_every(max_entries bigint, max_bytes bigint) returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select greatest(1, least(
        256,
        greatest(max_entries / 100, case when max_entries < 800 then least(8, max_entries / 32) end),
        max_bytes / (40 * pgcache_internal.large_value())
    ))::integer
$$;

comment on function pgcache_internal.sweep_every(bigint, bigint) is
'In how many writes of a type one makes room, the period of the clock writes: 1/100 of max_entries, below 800 a little'
' more, as making room takes 1 ms, or as many small values as fill 1/40 of max_bytes; 256 at most.';

create or replace function pgcache_internal.measure_every(max_entries bigint, max_bytes bigint) returns bigint
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when max_entries is not null
            then greatest(1, max_entries / 50 / pgcache_internal.sweep_every(max_entries, max_bytes))
    end
$$;

comment on function pgcache_internal.measure_every(bigint, bigint) is
'At which of those times a type is measured, the period of the clock sweeps: after writes of 1/50 of max_entries; NULL'
' without that limit.';

create or replace function pgcache_internal.volume_ticks() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 16 $$;

comment on function pgcache_internal.volume_ticks() is
'The period of the clock volume, which has a type measured by the bytes that are written.';

create or replace function pgcache_internal.volume_tick(max_bytes bigint) returns float8
language sql immutable parallel safe  -- not pinned: inlined
as $$ select max_bytes / (40.0::float * pgcache_internal.volume_ticks()) $$;

comment on function pgcache_internal.volume_tick(bigint) is
'Bytes written for one tick of the clock volume: a type is measured after writes of 1/40 of max_bytes.';

-- Sweeping: the hand of a type moves on by windows of the heap.

create or replace function pgcache_internal.chunk_blocks() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 8 $$;

comment on function pgcache_internal.chunk_blocks() is
'Blocks of a chunk of the heap. The hand counts chunks, and an estimate reads a chunk at a stretch.';

create or replace function pgcache_internal.window_chunks() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 32 $$;

comment on function pgcache_internal.window_chunks() is
'Chunks of the largest window: to sort more entries at once would cost too much.';

create or replace function pgcache_internal.max_windows(to_remove bigint) returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select least(1000, 16 + to_remove / 1000)::integer $$;

comment on function pgcache_internal.max_windows(bigint) is
'How many windows one call of evict visits at most, for so many entries to remove or to visit.';

create or replace function pgcache_internal.equal_windows() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 5 $$;

comment on function pgcache_internal.equal_windows() is
'So many windows are as large as it seems to need; each further one is twice as large as the one before. Few entries'
' may sit in some blocks of a long table that vacuum has not shortened.';

create or replace function pgcache_internal.visited_for_one() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 4 $$;

comment on function pgcache_internal.visited_for_one() is
'Of how many entries in a window one is evicted at most: the worst. More is a better choice, and more to read.';

create or replace function pgcache_internal.visited_at_least() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 512 $$;

comment on function pgcache_internal.visited_at_least() is
'How many entries are visited at least to choose from, each time that room is made.';

create or replace function pgcache_internal.sparing_windows() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 8 $$;

comment on function pgcache_internal.sparing_windows() is
'In so many windows on end there may be nothing of tenants with more than their share, who sit elsewhere in the table;'
' then entries of others are evicted, too.';

create or replace function pgcache_internal.limiting_share() returns float8
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 0.85::float $$;

comment on function pgcache_internal.limiting_share() is
'The share of a limit from which on a type that has so much is taken to be limited by it: what each tenant keeps of it'
' is a share of what there is, which stays some per cent below the limit.';

create or replace function pgcache_internal.reuse_lines() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 4 $$;

comment on function pgcache_internal.reuse_lines() is
'For lru and cost: hits count up to what so many lines of the hit log stand for. More say little about the next one,'
' and would keep what was popular once.';

-- Replacing.

create or replace function pgcache_internal.sampled() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 32 $$;

comment on function pgcache_internal.sampled() is
'Of about how many entries, in neighbouring blocks, a new one replaces the worst.';

create or replace function pgcache_internal.measure_replaced_every(max_entries bigint) returns bigint
language sql immutable parallel safe  -- not pinned: inlined
as $$ select greatest(8, coalesce(max_entries / 100, 256)) $$;

comment on function pgcache_internal.measure_replaced_every(bigint) is
'At which replacement a type is measured, and the hit log folded, the period of the clock replaced.';

create or replace function pgcache_internal.reserved_share_of_bytes() returns float8
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 0.0125::float $$;

comment on function pgcache_internal.reserved_share_of_bytes() is
'The share of max_bytes that is left to what is inserted before a type is measured again, and to new entries that are'
' larger than those that they replace.';

-- Making room: how much, beside others.

create or replace function pgcache_internal.counted_blocks() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 4096 $$;

comment on function pgcache_internal.counted_blocks() is
'Blocks of a table whose entries are counted; of a longer one so many are read, and the rest is estimated.';

create or replace function pgcache_internal.safe_share() returns float8
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 0.97::float $$;

comment on function pgcache_internal.safe_share() is
'The share of a limit that is aimed at where the size is an estimate, or others write at the same time.';

create or replace function pgcache_internal.reserve_beside_others() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 4 $$;

comment on function pgcache_internal.reserve_beside_others() is
'Room for how many times sweep_every is left by a transaction that had to wait for others before it could make room.';

create or replace function pgcache_internal.reserve_unseen(max_entries bigint) returns bigint
language sql immutable parallel safe  -- not pinned: inlined
as $$ select max_entries / 12 $$;

comment on function pgcache_internal.reserve_unseen(bigint) is
'Room that is left by a transaction in REPEATABLE READ, which does not see what others have written since it began.';

create or replace function pgcache_internal.tenant_reserve(max_held bigint) returns bigint
language sql immutable parallel safe  -- not pinned: inlined
as $$ select case when max_held < 400 then least(8, max_held / 32) else max_held / 50 end $$;

comment on function pgcache_internal.tenant_reserve(bigint) is
'Room that is left of a tenant''s limit of entries, or of bytes, when some of it is made: 1/50, of small limits a'
' little more, so that not each write has to. NULL for NULL.';

create or replace function pgcache_internal.max_rate() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 2 $$;

comment on function pgcache_internal.max_rate() is
'How many entries are evicted for each one written, at most, from one measurement to the next.';

create or replace function pgcache_internal.eviction_wait(writes bigint) returns bigint
language sql immutable parallel safe  -- not pinned: inlined
as $$ select least(2000, 500 + writes) $$;

comment on function pgcache_internal.eviction_wait(bigint) is
'Milliseconds that a transaction with so many writes waits at most until others have made room.';

-- Timing.

create or replace function pgcache_internal.timed_share() returns float8
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 0.015625::float $$;

comment on function pgcache_internal.timed_share() is
'How many of the hits that are logged, and of the sets that are noted, are timed: one in 64.';

-- Refusing, in types that evict nothing.

create or replace function pgcache_internal.admission_wait() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 100 $$;

comment on function pgcache_internal.admission_wait() is
'Milliseconds that a write waits at most for the count of a type that seems full.';

create or replace function pgcache_internal.tenant_spared() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 50 $$;

comment on function pgcache_internal.tenant_spared() is
'A tenant that is less than half way to its limit, with so many writes to go to that at least, is counted without'
' waiting for what others have not committed: that is less than the other half.';

create or replace function pgcache_internal.glanced_blocks() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 32 $$;

comment on function pgcache_internal.glanced_blocks() is
'Blocks of a table that a write reads to see whether a type that seemed full still does, instead of counting all.';

create or replace function pgcache_internal.full_share() returns float8
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 0.95::float $$;

comment on function pgcache_internal.full_share() is
'The share of a limit above which a type is full by that glance.';

-- Gathering hits in a session.

create or replace function pgcache_internal.gathered_hits() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 48 $$;

comment on function pgcache_internal.gathered_hits() is
'Hits of a type that a session gathers at most before it logs them.';

create or replace function pgcache_internal.gathered_seconds() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 2 $$;

comment on function pgcache_internal.gathered_seconds() is
'A session gathers as many hits as are likely to come in so many seconds.';

create or replace function pgcache_internal.gathered_bytes() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 480 $$;

comment on function pgcache_internal.gathered_bytes() is
'The length beyond which what a session has gathered goes to the hit log.';

-- The hit log, and the scheduled upkeep: how much in one transaction.

create or replace function pgcache_internal.folded_lines() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 10000 $$;

comment on function pgcache_internal.folded_lines() is 'Lines of the hit log that are folded at once, at most.';

create or replace function pgcache_internal.fold_parts(lines bigint) returns integer
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$ select least(40, 1 + lines / 50)::integer $$;

comment on function pgcache_internal.fold_parts(bigint) is
'In how many parts of the keys a log of so many lines is folded, a transaction each. The next one reuses the space of'
' the row versions that this one leaves behind; were all entries updated in one transaction, the table would double.';

create or replace function pgcache_internal.upkeep_blocks() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 1024 $$;

comment on function pgcache_internal.upkeep_blocks() is
'Blocks that the scheduled upkeep sweeps in one transaction.';
