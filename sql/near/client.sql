-- What clients with a near cache call.

select pgcache_internal.define($frame$
create or replace function pgcache_internal.near_get(
    type text, key text, out value jsonb, out ttl interval, out keepable boolean, out tenant text
)
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    moment constant pg_catalog.timestamptz := pgcache_internal.cache_now();
    gathered pg_catalog.text;
begin
    tenant := pgcache_internal.current_tenant();
    if @branches    else
        value := pgcache.cache_get(type, key);
        return;
    end if;
    if not found then
        perform pgcache_internal.count_miss(type, key);
    elsif pgcache_internal.are_enough(gathered) then
        perform pgcache_internal.log_gathered(type, key, gathered);
    end if;
end
$body$;
comment on function pgcache_internal.near_get(text, text) is
'cache_get for clients that keep entries: besides the value, what it has left to live (NULL: it never expires), whether'
' it may be kept, which no entry with tags may, and whose it is. Errors: as cache_get.';
$frame$, $branch$@near{type operator(pg_catalog.=) '@type' and not pg_catalog.pg_is_in_recovery() then
        select
            @value, t.expires_at operator(pg_catalog.-) moment, t.cache_tags is null,
            pgcache_internal.gather_hit('pgcache_internal.hits_@type', t.hit_weight, 'pgcache.hits_@type', t.ctid)
        into value, ttl, keepable, gathered
        from @table t
        where t.tenant operator(pg_catalog.=) tenant and t.cache_key operator(pg_catalog.=) key
            and pgcache_internal.is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment);
}$branch$);

select pgcache_internal.define($frame$
create or replace function pgcache_internal.near_get_many(
    type text, keys text[], out entries json, out kept json, out tenant text
)
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    moment constant pg_catalog.timestamptz := pgcache_internal.cache_now();
    crowding constant integer := pgcache_internal.hit_log_crowding(pg_catalog.cardinality(keys));
    missed bigint;  -- see cache_get_many_json
    logged pg_catalog.text[];
    weights integer[];
    models pg_catalog.text[];
    tokens integer[];
    input_tokens integer[];
    cached_tokens integer[];
begin
    tenant := pgcache_internal.current_tenant();
    if @branches    else
        entries := pgcache.cache_get_many_json(type, keys);
        return;
    end if;
    if missed is null or missed operator(pg_catalog.<>) 0::bigint or logged is not null then
        perform pgcache_internal.record_hits(
            type, keys, missed, logged, weights, models, tokens, input_tokens, cached_tokens
        );
    end if;
    entries := coalesce(entries, '{}');
end
$body$;
comment on function pgcache_internal.near_get_many(text, text[]) is
'cache_get_many_json for clients that keep entries, of keys that differ. kept: of the entries that may be kept, what'
' they have left to live, in seconds, {key: seconds, ...}, null for those that never expire; tenant: whose they are.'
' Errors: as cache_get_many_json.';
$frame$, $branch$@near{type operator(pg_catalog.=) '@type' and not pg_catalog.pg_is_in_recovery() then
        select
            pg_catalog.json_object_agg(f.cache_key, f.value),
            pg_catalog.json_object_agg(f.cache_key, f.ttl) filter (where f.keepable),
            pg_catalog.cardinality(keys)::bigint operator(pg_catalog.-) pg_catalog.count(*),
            pg_catalog.array_agg(f.cache_key) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.weight) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.model) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.spent) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.input_tokens) filter (where f.weight operator(pg_catalog.>) 0),
            pg_catalog.array_agg(f.cached_tokens) filter (where f.weight operator(pg_catalog.>) 0)
        into entries, kept, missed, logged, weights, models, tokens, input_tokens, cached_tokens
        from (
            select
                t.cache_key, @value as value, t.cache_tags is null as keepable,
                extract(epoch from t.expires_at operator(pg_catalog.-) moment) as ttl,
                @model as model, @spent as spent, @input as input_tokens, @cached as cached_tokens,
                pgcache_internal.count_and_draw('pgcache_internal.hits_@type', t.hit_weight, crowding) as weight
            from @table t
            where t.tenant operator(pg_catalog.=) tenant and t.cache_key operator(pg_catalog.=) any(keys)
                and pgcache_internal.is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment)
        ) f;
}$branch$);

create or replace function pgcache_internal.near_changes(
    seen pg_snapshot, known_epoch text, out epoch text, out now pg_snapshot, out whole boolean, out types text[],
    out changes json
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- a plan made when there were few changes would else read all that there are by now
set jit to off
as $$
#variable_conflict use_variable
begin
    perform check_writable();
    if begin_changes() then
        whole := false;
        return;
    elsif chance() < 0.05 then
        perform prune_changes();
    end if;
    -- In one statement, so that all of it is as of one snapshot.
    select
        e.epoch, pg_current_snapshot(),
        coalesce(e.epoch = known_epoch and (e.pruned is null or shows_all(seen, e.pruned)), false),
        (select array_agg(n.type) from near_types n where n.type > ''),
        (
            select json_agg(distinct_change.change)
            from (
                select distinct jsonb_build_array(l.type, l.tenant, l.cache_key) as change
                from change_log l
                where l.xid >= pg_snapshot_xmin(seen) and not pg_visible_in_snapshot(l.xid, seen)
                    and (l.cache_key is null or exists (select from near_types n where n.type = l.type))
                    and e.epoch = known_epoch
                limit 10001
            ) distinct_change
        )
    into epoch, now, whole, types, changes
    from change_epoch e where e.one;
    if json_array_length(changes) > 10000 then
        whole := false;
        changes := null;
    end if;
end
$$;

comment on function pgcache_internal.near_changes(pg_snapshot, text) is
'For clients that keep entries: what was committed since a snapshot: changes, [[type, tenant, key], ...], tenant and'
' key null for all of a type, type null for all; now: the snapshot up to which that is. whole false: what changed is'
' not known, so all that is kept is void, as at first (seen NULL), after a crash (another epoch), and where it is more'
' than 10000 entries. types: those whose entries may be kept. To the first one who asks after a crash the rest is'
' NULL.'
' Errors: 25006 READ ONLY and on a standby.';
