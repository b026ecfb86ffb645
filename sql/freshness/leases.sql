-- Leases: of many who miss an entry one computes it, and what it computes is stored only if nothing has changed since
-- it began. A lease is a row, claimed in a transaction of its own; it has a token, and the snapshot in which it was
-- claimed, which is before whatever its holder reads. It is void as soon as
--   - the entry is deleted: that deletes the row, and so makes who stores with the token wait, and find it gone. Where
--     there is no lease the row is inserted and deleted, so that nobody can claim one until the deletion is committed,
--     for what he reads until then is old;
--   - many entries are deleted: the bump of a tag that no user can write says of which (see void_leases);
--   - the entry was stored by others: then it is not the one that was seen;
--   - a tag was invalidated that the value depends on, in a transaction that the snapshot does not show.
-- In REPEATABLE READ and SERIALIZABLE nobody could see what has changed since the transaction began, so there is no
-- lease, nor is there one where nothing can be written.

create or replace function pgcache_internal.longest_lease() returns interval
language sql immutable parallel safe  -- not pinned: inlined
as $$ select interval '1 hour' $$;

comment on function pgcache_internal.longest_lease() is
'How long a lease may be, and after which time its token is void: so bumps of tags need not be kept for longer.';

create or replace function pgcache.cache_fetch(
    type text, key text, tags text[] default '{}', stale_for interval default null,
    wait interval default '10 seconds', lease interval default '30 seconds',
    out value jsonb, out state text, out token bigint
)
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
begin
    value := pgcache.cache_get(type, key);
    if value is not null then
        state := 'fresh';
        if pgcache_internal.renewal_due(type, key, pgcache_internal.cache_now())
            and pgcache_internal.may_lease(type)
        then
            perform pgcache_internal.check_lease(tags, stale_for, lease);
            token := pgcache_internal.claim_lease(type, key, tags, stale_for, interval '0', lease);
            if token is not null then
                state := 'stale_won';
            end if;
        end if;
    else
        select f.value, f.state, f.token into value, state, token
        from pgcache_internal.fetch_missing(type, key, tags, stale_for, wait, lease) f;
    end if;
end
$$;

comment on function pgcache.cache_fetch(text, text, text[], interval, interval, interval) is
'The value of an entry, or the lease to compute it. state: fresh; stale: it has expired, at most stale_for ago (default'
' NULL: never), and another one computes it; won: there is none, compute it, and store it with cache_set(..., token =>'
' token); stale_won: the same, and meanwhile there is this one, which expires soon or has at most stale_for ago; busy:'
' another one has computed it for as long as one was to wait (default 10 seconds; 0: not at all). tags: what the value'
' will depend on. lease: after which time another one may compute it (default 30 seconds, 1 hour at most). token NULL'
' though one is to compute: nothing can be kept (READ ONLY, standby, REPEATABLE READ, disabled type). Counts a hit or a'
' miss, as cache_get. Errors: as cache_get, PC003 an interval, PC013 a tag.';

create or replace function pgcache_internal.fetch_missing(
    type text, key text, tags text[], stale_for interval, wait interval, lease interval,
    out value jsonb, out state text, out token bigint
)
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    ends timestamptz;
    leasable constant boolean := may_lease(type);
    pause float8 := 0.005;
    found_entry record;
begin
    perform check_lease(tags, stale_for, lease), check_duration('wait', wait, interval '0', longest_lease());
    ends := clock_timestamp() + wait;
    loop
        if leasable then
            token := claim_lease(type, key, tags, stale_for, ends - clock_timestamp(), lease);
        end if;
        -- Again: it may have been stored since.
        found_entry := peek(type, key, coalesce(stale_for, '0'));
        value := found_entry.value;
        if found_entry.live then
            state := 'fresh';
            perform cache_release(type, key, token);
            token := null;
        elsif token is not null or not leasable then
            state := case when value is null then 'won' else 'stale_won' end;
        elsif value is not null then
            state := 'stale';
        elsif clock_timestamp() >= ends then
            state := 'busy';
        end if;
        exit when state is not null;
        perform pg_sleep(least(pause * (0.5 + random()), extract(epoch from ends - clock_timestamp())));
        pause := least(0.1, pause * 1.5);
    end loop;
end
$$;

comment on function pgcache_internal.fetch_missing(text, text, text[], interval, interval, interval) is
'What cache_fetch does after a miss: claims the lease, or waits for who has it.';

create or replace function pgcache_internal.may_lease(type text) returns boolean
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return current_setting('transaction_read_only') = 'off' and not keeps_its_snapshot()
        and type_hit_weight(type) is not null;
end
$$;

comment on function pgcache_internal.may_lease(text) is
'Whether what is computed now could be stored with a token: not in a READ ONLY transaction, on a standby, in one that'
' does not see what others commit, nor in a disabled type.';

create or replace function pgcache_internal.check_duration(
    name text, value interval, shortest interval, longest interval
) returns interval
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if is_span(value, shortest, longest) is not true then
        raise exception using errcode = 'PC003',
            message = format('%s cannot be %L', name, value),
            hint = format('Pass an interval from %s to %s.', shortest, longest);
    end if;
    return value;
end
$$;

comment on function pgcache_internal.check_duration(text, interval, interval, interval) is
'The interval itself. Errors: PC003 if it is not between the two.';

create or replace function pgcache_internal.check_lease(tags text[], stale_for interval, lease interval) returns void
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_tags(tags), check_duration('lease', lease, interval '1 millisecond', longest_lease());
    if stale_for is not null then
        perform check_duration('stale_for', stale_for, interval '0', interval '10000 years');
    end if;
end
$$;

comment on function pgcache_internal.check_lease(text[], interval, interval) is
'Whether a lease may be claimed with these. Errors: PC003, PC013.';

create or replace function pgcache_internal.peek(
    type text, key text, stale_for interval, out value jsonb, out live boolean
)
language plpgsql volatile parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    moment constant timestamptz := cache_now();
begin
    live := false;
    if is_readable(type) then
        execute format($sql$
            select %s, is_live(t.expires_at, null, t.tenant, null, $3) from %s t
            where t.tenant = $1 and t.cache_key = $2
                and is_live(t.expires_at + $4, t.cache_tags, t.tenant, t.cache_epoch, $3)
            $sql$, value_of(type, registered.fields), registered.relation)
        into value, live using tenant_here(), key, moment, stale_for;
        live := coalesce(live, false);
    end if;
end
$$;

comment on function pgcache_internal.peek(text, text, interval) is
'The value of an entry that is live, or expired stale_for ago at most, and whether it is live; counts nothing. NULL and'
' false if there is none, or one of its tags was invalidated.';

create or replace function pgcache_internal.claim_lease(
    type text, key text, tags text[], stale_for interval, wait interval, lease interval
) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '1s'  -- so that what is set below ends with this function
set enable_seqscan to off  -- a plan made when there were few leases would else read all that there are by now
set jit to off
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    tenant constant text := check_tenant();
    moment constant timestamptz := cache_now();
    token bigint := random_number();
    created_at timestamptz;  -- of the entry that is there; NULL: none
    epoch bigint;
begin
    perform check_key(key);
    if exists (
        select from leases l
        where l.type = type and l.tenant = tenant and l.cache_key = key and l.deadline > moment
    ) then
        return null;
    end if;
    perform set_config(
        'lock_timeout', greatest(1, least(3600000, extract(epoch from wait) * 1000))::integer || 'ms', true
    );
    begin
        insert into leases as l (type, tenant, cache_key, token, deadline, tags, stale_for)
        values (type, tenant, key, token, moment + lease, tags, stale_for)
        on conflict on constraint leases_pkey do update
        set token = excluded.token, deadline = excluded.deadline, claimed_at = excluded.claimed_at, seen = null,
            tags = excluded.tags, stale_for = excluded.stale_for, entry_created_at = null, entry_epoch = null
        where l.deadline <= moment
        returning l.token into token;
        if token is null then
            raise lock_not_available;  -- it is another one's, who could not store while this one has the row locked
        end if;
    exception when lock_not_available then
        return null;  -- or, who holds or deletes it has not committed yet
    end;
    execute format(
        'select t.created_at, t.cache_epoch from %s t where t.tenant = $1 and t.cache_key = $2',
        registered.relation
    )
    into created_at, epoch using tenant, key;
    update leases l
    set seen = pg_current_snapshot(), entry_created_at = created_at, entry_epoch = epoch
    where l.type = type and l.tenant = tenant and l.cache_key = key;
    return token;
end
$$;

comment on function pgcache_internal.claim_lease(text, text, text[], interval, interval, interval) is
'Claims the lease of an entry; its token, or NULL if another one has it. Waits for a transaction that has claimed or'
' deleted it and goes on, for as long as said.';

create or replace function pgcache.cache_release(type text, key text, token bigint) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    tenant constant text := tenant_here();
begin
    if token is null then
        return false;
    end if;
    perform check_type(type), check_writable();
    return (end_lease(type, tenant, key, token)).token is not null;
end
$$;

comment on function pgcache.cache_release(text, text, bigint) is
'Gives a lease of cache_fetch back, so that the next one may compute; true if it was still this one''s. Errors: PC001,'
' 25006, 42501.';

-- Storing with tags, or with a token.

create or replace function pgcache_internal.put_fresh(
    type text, key text, value jsonb, ttl interval, tags text[], token bigint, raw bytea default null
) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    tenant constant text := check_tenant();
    depends_on text[] := tags_with_groups(check_tags(tags));
    leased leases;
    epoch bigint;
    created_at timestamptz;  -- of the entry that is there; NULL: none
    entry_epoch bigint;
    had_an_id constant boolean := pg_current_xact_id_if_assigned() is not null;
begin
    perform explain_refusal(type, key, value, ttl, raw);
    if token is not null then
        leased := end_lease(type, tenant, key, token);
        if leased.token is null or leased.claimed_at < clock_timestamp() - longest_lease()
            or is_ahead(pg_snapshot_xmax(leased.seen))
        then
            return false;
        end if;
        depends_on := tags_with_groups(leased.tags || depends_on);
        if deletions_are_pending(leased.seen, had_an_id) then
            depends_on := depends_on || deletions_in(type);
        end if;
        -- First: what commits between the two is then found to have changed, what does so later makes it invalid.
        epoch := tags_epoch(tenant, depends_on);
        if has_changed(type, tenant, key, depends_on, leased) then
            return false;
        end if;
        execute format(
            'select t.created_at, t.cache_epoch from %s t where t.tenant = $1 and t.cache_key = $2 for update',
            registered.relation
        )
        into created_at, entry_epoch using tenant, key;
        -- What was deleted by its owner would have voided the lease; what was evicted is no matter.
        if created_at is not null
            and (created_at, entry_epoch) is distinct from (leased.entry_created_at, leased.entry_epoch)
        then
            return false;
        end if;
    elsif keeps_its_snapshot() and transaction_timestamp() < clock_timestamp() - longest_lease() then
        return false;  -- bumps of its tags that it does not see may have been pruned
    else
        epoch := tags_epoch(tenant, depends_on);
    end if;
    -- Only over the entry that was seen: another session may just now be storing one.
    if not put(type, key, value, ttl, token is null or created_at is not null, raw) then
        return false;
    end if;
    execute format($sql$
        update %s t
        set cache_tags = $3, cache_epoch = $6, cache_stale_until = t.expires_at + $4, cache_compute_ms = $5
        where t.tenant = $1 and t.cache_key = $2
        $sql$, registered.relation)
    using tenant, key, depends_on, leased.stale_for,
        extract(epoch from clock_timestamp() - leased.claimed_at)::real * 1000,
        case when depends_on is not null then epoch end;
    return true;
end
$$;

comment on function pgcache_internal.put_fresh(text, text, jsonb, interval, text[], bigint, bytea) is
'cache_set with tags, with a token, or both. False if the token is void, or what it has captured has changed. Errors:'
' as cache_set.';

create or replace function pgcache_internal.end_lease(type text, tenant text, key text, token bigint) returns leases
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- as claim_lease
set jit to off
as $$
#variable_conflict use_variable
declare
    ended leases;
begin
    select l.* into ended from leases l
    where l.type = type and l.tenant = tenant and l.cache_key = key and l.token = token and l.seen is not null
    for update;
    if found then
        -- The row stays for a while: who deletes the entry in REPEATABLE READ, and does not see it, stumbles over that.
        update leases l set token = 0, seen = null, deadline = '-infinity', claimed_at = clock_timestamp()
        where l.type = type and l.tenant = tenant and l.cache_key = key;
    end if;
    return ended;
end
$$;

comment on function pgcache_internal.end_lease(text, text, text, bigint) is
'Ends a lease, once who may be deleting it has committed or rolled back, and returns it; NULLs if it is void.';

-- A snapshot does not tell about the own transaction, nor about those of the server from which a row was dumped: there
-- the time does.
create or replace function pgcache_internal.has_changed(
    type text, tenant text, key text, tags text[], leased leases
) returns boolean
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- as tags_epoch
set jit to off
as $$
#variable_conflict use_variable
declare
    own constant xid8 := pg_current_xact_id_if_assigned();
begin
    return exists (
        select from (
            select b.* from tag_bumps b where b.tag = any(tags) and b.scope = any(array['*', '=' || tenant])
            union all
            select b.*
            from unnest(array['*', '=' || tenant]) s (scope)
            cross join lateral (select deletions_of(type, s.scope, '')) p (prefix)  -- ends with the character 1
            inner join tag_bumps b on b.scope = s.scope
                and b.tag > p.prefix and b.tag < left(p.prefix, -1) || e'\x02'
                and key like substr(b.tag, length(p.prefix) + 1)
        ) b
        where case
            when coalesce(b.last_xid, b.xid) = own or is_ahead(b.xid) then b.bumped_at >= leased.claimed_at
            -- Some of them may be in a transaction that the snapshot does not show: if so, it is not older than that.
            when b.last_xid is not null then b.last_xid >= pg_snapshot_xmin(leased.seen)
            else not pg_visible_in_snapshot(b.xid, leased.seen)
        end
    );
end
$$;

comment on function pgcache_internal.has_changed(text, text, text, text[], leases) is
'Whether one of the tags was invalidated, or the entry deleted among many, since it was leased.';

-- Of many entries, by who has not committed yet. Had they begun after the claim they would have voided the lease, or
-- wait for it. But before the claim they found no lease, and will not find the entry that is being stored; has_changed
-- does not see them. Such an entry gets a tag that they have bumped, so that it is invalid as soon as they commit.
create or replace function pgcache_internal.deletions_are_pending(seen pg_snapshot, had_an_id boolean) returns boolean
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return keeps_its_snapshot()  -- it does not see who has ended since
    or (
        -- Mostly nobody else is writing. Who was at it before the claim has an older id than one given just now.
        had_an_id
        or pg_current_xact_id() > pg_snapshot_xmax(pg_current_snapshot())
        or exists (
            select from pg_snapshot_xip(pg_current_snapshot()) x (xid) where not pg_visible_in_snapshot(x.xid, seen)
        )
    ) and exists (
        select from pg_locks l
        where l.relation = 'tag_bumps'::regclass and l.mode = 'RowExclusiveLock' and l.granted
            and l.database = (select d.oid from pg_database d where d.datname = current_database())
            and l.pid is distinct from pg_backend_pid()  -- NULL: a prepared transaction
    );
end
$$;

comment on function pgcache_internal.deletions_are_pending(pg_snapshot, boolean) is
'Whether a transaction of which nobody sees here that it has ended may have deleted many entries before a lease was'
' claimed, which has seen this.'
' had_an_id: whether the transaction had one before it was to store.';

-- Deletions.

create or replace function pgcache_internal.void_leases(type text, tenant text, keys text[]) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- as claim_lease
set jit to off
as $$
#variable_conflict use_variable
declare
    row_ids tid[];
begin
    with voided as (
        insert into leases as l (type, tenant, cache_key, token, deadline)
        select type, tenant, k.key, 0, '-infinity'
        from (select distinct unnest(keys) collate "C" as key order by key) k  -- in one order, or two could deadlock
        on conflict on constraint leases_pkey do update set token = 0, deadline = '-infinity'
        returning l.ctid as row_id
    )
    select array_agg(v.row_id) into row_ids from voided v;
    delete from leases l where l.ctid = any(row_ids);
end
$$;

comment on function pgcache_internal.void_leases(text, text, text[]) is
'Voids the leases of entries that are being deleted; until the transaction ends nobody can claim them.';

create or replace function pgcache_internal.deletions_in(type text) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$ select e'\x01' operator(pg_catalog.||) type $$;

comment on function pgcache_internal.deletions_in(text) is
'The tag, which no user can write, whose bumps tell that entries of a type have been deleted, many at once.';

-- With the scope in it, as a hash, since it may be long: so those of one scope stand together in the index.
create or replace function pgcache_internal.deletions_of(type text, scope text, pattern text) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select pgcache_internal.deletions_in(type) operator(pg_catalog.||) e'\x01'
        operator(pg_catalog.||) pg_catalog.hashtextextended(scope, 0)::text
        operator(pg_catalog.||) e'\x01' operator(pg_catalog.||) pattern
$$;

comment on function pgcache_internal.deletions_of(text, text, text) is
'The tag for the deletion of the entries of a type whose keys match a LIKE pattern, in a scope (see tag_bumps).';

create or replace function pgcache_internal.void_leases_like(type text, scope text, pattern text) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform check_writable();
    perform bump_tags(scope, array[
        deletions_in(type), deletions_of(type, scope, case when octet_length(pattern) <= 1024 then pattern else '%' end)
    ], 'deletion');
    execute format($sql$
        delete from leases d
        where (d.tenant, d.type, d.cache_key) in (
            select l.tenant, l.type, l.cache_key from leases l
            where l.type = $1 and %s and l.cache_key like $2
            order by l.tenant, l.cache_key for update
        )
        $sql$, case when scope = '*' then 'true' else format('l.tenant = %L', substr(scope, 2)) end)
    using type, pattern;
end
$$;

comment on function pgcache_internal.void_leases_like(text, text, text) is
'Voids the leases of the entries of a type, in a scope (see tag_bumps), whose keys match a LIKE pattern, also those'
' that are claimed before the transaction ends, unless these are used up before that. Errors: 25006.';

-- Early renewal: with the time that it takes to compute an entry goes the time before its end at which, now and then,
-- one of those who read it begins to renew it, so that all together seldom wait (XFetch; Vattani, Chierichetti and
-- Lowenstein, Optimal Probabilistic Cache Stampede Prevention, VLDB 2015).
select pgcache_internal.define($frame$
create or replace function pgcache_internal.renewal_due(type text, key text, moment timestamptz) returns boolean
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
begin
    if @branches    end if;
    return false;
end
$body$;
comment on function pgcache_internal.renewal_due(text, text, timestamptz) is
'Whether this reader of a live entry should renew it: the more likely, the longer it took to compute and the sooner it'
' expires.';
$frame$, $branch$type operator(pg_catalog.=) '@type' then
        return exists (
            select from @table t
            where t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) key
                and t.cache_compute_ms is not null and t.expires_at is not null
                -- -ln(1 - random()): exponentially distributed, 1 on average
                and pg_catalog.date_part('epoch', t.expires_at operator(pg_catalog.-) moment)
                    operator(pg_catalog.*) (-1000)::float
                    operator(pg_catalog.>=) (
                        t.cache_compute_ms::float
                        operator(pg_catalog.*) pg_catalog.ln(1::float operator(pg_catalog.-) pg_catalog.random())
                    )
        );
$branch$);
