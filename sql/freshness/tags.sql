-- Tags: what an entry depends on. An invalidation of a tag is a row in tag_bumps with a random salt; the epoch of some
-- tags is the XOR of the salts that one sees. An entry with tags has the epoch as it was when the entry was computed,
-- and is valid as long as a reader's snapshot shows the same one: so whatever a transaction has invalidated is invalid
-- to itself at once, to others from its commit on, and to nobody after a rollback, in whichever order others have read
-- and written. (A number that counts up would need a row that writers wait for, or be seen out of order; a time would
-- need clocks that agree.) XOR, so that many rows can be folded into one, and random, so that no epoch comes again.

create or replace function pgcache_internal.tags_epoch(tenant text, tags text[]) returns bigint
language plpgsql stable parallel safe security definer  -- not pinned: hot path
set enable_seqscan to off  -- a plan made when there were few bumps would else read all that there are by now
set jit to off
set plan_cache_mode to force_generic_plan  -- to plan for the number of tags would take three times as long as all
as $$
#variable_conflict use_variable
declare
    epoch bigint;
begin
    if tenant operator(pg_catalog.=) '' then  -- between the two is no other scope, so that it takes one look for both
        select coalesce(pg_catalog.bit_xor(b.salt), 0::bigint) into epoch
        from pgcache_internal.tag_bumps b
        where b.tag operator(pg_catalog.=) any(tags)
            and b.scope operator(pg_catalog.>=) '*' and b.scope operator(pg_catalog.<=) '=';
    else
        select coalesce(pg_catalog.bit_xor(b.salt), 0::bigint) into epoch
        from pgcache_internal.tag_bumps b
        where b.tag operator(pg_catalog.=) any(tags)
            and b.scope operator(pg_catalog.=) any(array['*', '=' operator(pg_catalog.||) tenant]);
    end if;
    return epoch;
end
$$;

comment on function pgcache_internal.tags_epoch(text, text[]) is
'The epoch of the tags of a tenant''s entry, as they are in it, in the snapshot of the statement; 0 if none of them was'
' ever invalidated.';

create or replace function pgcache_internal.is_live(
    expires_at timestamptz, tags text[], tenant text, epoch bigint, moment timestamptz
) returns boolean
language sql stable parallel safe  -- not pinned: inlined
as $$
    select (expires_at is null or expires_at operator(pg_catalog.>) moment)
        and (tags is null or epoch operator(pg_catalog.=) pgcache_internal.tags_epoch(tenant, tags))
$$;

comment on function pgcache_internal.is_live(timestamptz, text[], text, bigint, timestamptz) is
'Whether an entry is a hit at that moment: it has not expired, and none of its tags was invalidated since it was'
' computed.';

create or replace function pgcache_internal.is_dead(
    expires_at timestamptz, stale_until timestamptz, tags text[], tenant text, epoch bigint, moment timestamptz
) returns boolean
language sql stable parallel safe  -- not pinned: inlined
as $$
    select greatest(expires_at, stale_until) operator(pg_catalog.<=) moment
        or tags is not null and epoch operator(pg_catalog.<>) pgcache_internal.tags_epoch(tenant, tags)
$$;

comment on function pgcache_internal.is_dead(timestamptz, timestamptz, text[], text, bigint, timestamptz) is
'Whether an entry may go, since nobody is to get it any more: it has expired, and may not be served stale either, or'
' one of its tags was invalidated. NULL: not, as it never expires.';

create or replace function pgcache_internal.is_tag(tag text) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select pg_catalog.octet_length(tag) operator(pg_catalog.>=) 1
        and pg_catalog.octet_length(tag) operator(pg_catalog.<=) 256
        and tag operator(pg_catalog.!~) e'[\x01-\x1f]'
$$;

comment on function pgcache_internal.is_tag(text) is
'Whether a text may be a tag: it has 1 to 256 bytes, and no control characters; NULL for NULL.';

create or replace function pgcache_internal.check_tags(tags text[], max_tags integer default 32) returns text[]
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    wrong text;
begin
    if cardinality(tags) > max_tags then
        raise exception using errcode = 'PC013',
            message = format('an entry cannot have %s tags: the limit is %s', cardinality(tags), max_tags),
            hint = 'Each tag costs every read of the entry a look-up. Use a tag for what belongs together.';
    end if;
    select coalesce(t, 'NULL') into wrong from unnest(tags) t where is_tag(t) is not true limit 1;
    if found then
        raise exception using errcode = 'PC013',
            message = format('%L cannot be a tag', left(wrong, 100)),
            hint = 'A tag is a text of 1 to 256 bytes without control characters, such as ''doc:42''.';
    end if;
    return tags;
end
$$;

comment on function pgcache_internal.check_tags(text[], integer) is
'The tags themselves. Errors: PC013 for more than max_tags (NULL: any number), and for one that is NULL, empty, over'
' 256 bytes or has control characters.';

create or replace function pgcache_internal.tags_with_groups(tags text[]) returns text[]
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return (
        select array_agg(distinct p.tag collate "C")
        from (
            select t from unnest(tags) t
            union all
            select split_part(t, ':', 1) || ':*' from unnest(tags) t where strpos(t, ':') > 0
        ) p (tag)
    );
end
$$;

comment on function pgcache_internal.tags_with_groups(text[]) is
'The tags as an entry has them: each once, and with doc:42 also doc:*, its group. NULL for none.';

create or replace function pgcache_internal.bump_tags(scope text, tags text[], bumped_by text) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    insert into tag_bumps (tag, scope, salt, bumped_by)
    select t.tag, scope, random_number(), bumped_by from (select distinct unnest(tags) as tag) t;
    if chance() < 0.01 then  -- a tag that is invalidated all the time is not to have thousands of rows
        perform fold_bumps(scope, tags);
    end if;
end
$$;

comment on function pgcache_internal.bump_tags(text, text[], text) is
'Invalidates tags, of checked names, in a scope (see tag_bumps); bumped_by: says who, for cache_explain.';

create or replace function pgcache_internal.random_number() returns bigint
language plpgsql volatile parallel unsafe  -- not of random(), which a session can repeat with setseed
set search_path to pg_catalog, pg_temp
as $$
begin
    return nullif(hashtextextended(gen_random_uuid()::text, 0), 0);
end
$$;

comment on function pgcache_internal.random_number() is 'A 64-bit number that nobody can guess.';

create or replace function pgcache_internal.chance() returns float8
language sql volatile parallel safe  -- not pinned: inlined
as $$
    select (
        pg_catalog.hashtextextended(pg_catalog.gen_random_uuid()::pg_catalog.text, 0)
        operator(pg_catalog.&) 9007199254740991
    )::float operator(pg_catalog./) 9007199254740992::float
$$;

comment on function pgcache_internal.chance() is
'As random(), for what concerns others: a session cannot foresee it, and choose by setseed to be spared.';

create or replace function pgcache_internal.scope_here() returns text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return case when reaches_all() then '*' else '=' || check_tenant() end;
end
$$;

comment on function pgcache_internal.scope_here() is
'The scope of what the caller invalidates: the current tenant''s entries; those of all, if there is none and the caller'
' may see all. Errors: PC002, 42501.';

create or replace function pgcache.cache_invalidate_tags(variadic tags text[]) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_writable(), check_given('tag', tags::text);
    perform bump_tags(scope_here(), check_tags(tags, null), 'cache_invalidate_tags');
end
$$;

comment on function pgcache.cache_invalidate_tags(text[]) is
'Invalidates all entries that have one of these tags, however many there are, when the transaction commits: of the'
' current tenant; of all, if pgcache.tenant is not set and the caller may see all. doc:* is all tags that begin with'
' doc: . To the transaction itself they are misses at once. Errors: PC002 for NULL, PC013 what cannot be a tag, 25006.';

create or replace function pgcache_internal.is_ahead(xid xid8) returns boolean
language sql stable parallel safe  -- not pinned: inlined
as $$
    select xid operator(pg_catalog.>) pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
$$;

comment on function pgcache_internal.is_ahead(xid8) is
'Whether a transaction, or the end of a snapshot, that can be seen here is not of this server: what has it was dumped'
' on another one, whose transactions have higher numbers.';

-- Upkeep.

-- Of one scope only where it is not upkeep that folds: what others invalidate is no matter of the caller's.
create or replace function pgcache_internal.fold_bumps(
    scope text default null, tags text[] default null
) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set plan_cache_mode to force_custom_plan  -- one row of a scope, or all that there are
as $$
#variable_conflict use_variable
begin
    if tags is not null and keeps_its_snapshot() then
        return;  -- 40001, where another transaction has folded them meanwhile
    end if;
    with due as materialized (
        select distinct f.scope, f.tag from tag_bumps f
        where f.folded_at is null and (tags is null or f.scope = scope and f.tag = any(tags))
    ), picked as materialized (
        select b.ctid as row_id from tag_bumps b
        where (tags is null or b.scope = scope and b.tag = any(tags))
            and exists (select from due d where d.scope = b.scope and d.tag = b.tag)
            -- So that whoever claims a lease from now on sees that all of them are older.
            and (
                coalesce(b.last_xid, b.xid) < pg_snapshot_xmin(pg_current_snapshot())
                or b.xid = pg_current_xact_id_if_assigned()
            )
        for update of b skip locked
    ), taken as (
        delete from tag_bumps b using picked p where b.ctid = p.row_id returning b.*
    )
    insert into tag_bumps (tag, scope, salt, bumped_at, bumped_by, folded_at, xid, last_xid)
    select t.tag, t.scope, bit_xor(t.salt), max(t.bumped_at),
        (array_agg(t.bumped_by order by t.bumped_at desc))[1], clock_timestamp(),
        case count(*) when 1 then (array_agg(t.xid))[1] else pg_current_xact_id() end,
        case count(*)
            when 1 then (array_agg(t.last_xid))[1]
            else (array_agg(coalesce(t.last_xid, t.xid) order by coalesce(t.last_xid, t.xid) desc))[1]
        end
    from taken t group by t.tag, t.scope;
end
$$;

comment on function pgcache_internal.fold_bumps(text, text[]) is
'Makes one row of all bumps of a tag in a scope: of these tags in this scope, or (NULL) of all that have new ones;'
' their epochs stay.';

-- What a row is to say no to could still come from a transaction that began before it was folded, or with a token from
-- before. Both are over by then.
create or replace function pgcache_internal.prune_bumps() returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    removed bigint := 0;
begin
    update tag_bumps b set xid = pg_current_xact_id(), last_xid = null where is_ahead(b.xid) or is_ahead(b.last_xid);
    delete from leases l
    where l.claimed_at < clock_timestamp() - longest_lease() and l.deadline < cache_now() - longest_lease();
    if exists (select from tag_bumps b where b.folded_at < clock_timestamp() - 2 * longest_lease()) then
        execute format($sql$
            with carried as materialized (%s)
            delete from tag_bumps b
            where b.folded_at < clock_timestamp() - 2 * longest_lease()
                and b.xid < pg_snapshot_xmin(pg_current_snapshot())
                and not exists (
                    select from carried c where c.tag = b.tag and b.scope in ('*', '=' || c.tenant)
                )
            $sql$, (
                select string_agg(format(
                    'select distinct t.tenant, unnest(t.cache_tags) as tag from %s t where t.cache_tags is not null',
                    h.relation
                ), ' union all ')
                from types_here() h
            ));
        get diagnostics removed = row_count;
    end if;
    return removed;
end
$$;

comment on function pgcache_internal.prune_bumps() is
'Removes bumps of tags that no entry has, and leases long over; returns how many bumps. Those that were dumped on'
' another server count as of now.';
