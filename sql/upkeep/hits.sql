-- The hit log is folded into the entries: hit_count, last_accessed_at, and how rarely further hits are logged.

create or replace function pgcache_internal.fold_hits(
    max_lines integer default null, part integer default 0, parts integer default 1
) returns bigint
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    lines hit_log[];
begin
    perform log_own_hits();
    begin
        lock table tenant_savings in share update exclusive mode nowait;
    exception when lock_not_available then
        return 0;  -- another session is at it, and nobody should wait for that
    end;
    -- A join: ctid = any(array) would be compared with each line, once a plan is cached that was made for a short log.
    with picked as materialized (
        select h.ctid as row_id from hit_log h where (hashtext(h.cache_key) & 1048575) % parts = part
        limit coalesce(max_lines, folded_lines()) for update skip locked
    ), taken as (
        delete from hit_log l using picked where l.ctid = picked.row_id returning l
    )
    select array_agg(t.l) into lines from taken t;
    if lines is null then
        return 0;
    end if;
    perform save_lines(lines);
    perform fold_lines(t.type, t.hit_tracking, lines) from types t where t.type in (select l.type from unnest(lines) l);
    return cardinality(lines);
end
$$;

comment on function pgcache_internal.fold_hits(integer, integer, integer) is
'Brings hit_count and last_accessed_at of the entries, and the tokens and money saved, up to date with up to max_lines'
' lines of the hit log (default: folded_lines()), those of part 0, 1, ... of so many parts of the keys (default: of all'
' keys); returns how many it folded, 0 if another session is at it. Entries that are locked are skipped, their hits'
' kept.';

create or replace function pgcache_internal.log_own_hits() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') <> 'serializable' then
        perform log_gathered(g.type, '', g.gathered)
        from (select t.type, current_setting('pgcache.hits_' || t.type, true) as gathered from types t) g
        where strpos(g.gathered, '(') > 0;
    end if;
end
$$;

comment on function pgcache_internal.log_own_hits() is
'Logs what this session has gathered of all types, so that who looks at the counts after upkeep finds its own hits.';

create or replace function pgcache_internal.save_lines(lines hit_log[]) returns void
language plpgsql volatile  -- an SQL function would be planned at each call
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    with counted as materialized (
        select
            l.type, l.tenant, l.model, sum(l.weight) as hits, sum(l.weight::bigint * l.tokens) as tokens,
            sum(l.weight::bigint * l.input_tokens) as input, sum(l.weight::bigint * l.cached_input_tokens) as cached
        from unnest(lines) l where not l.saved group by l.type, l.tenant, l.model, l.input_tokens is null
    ), prices as materialized (  -- once for each model, as there may be thousands of tenants
        select m.model, model_price(m.model) as price
        from (select distinct c.model from counted c where c.tokens is not null) m
    )
    insert into tenant_savings as s (type, tenant, hits, tokens, usd)
    select
        c.type, c.tenant, sum(c.hits), coalesce(sum(c.tokens), 0),
        coalesce(sum(usd_of(p.price, c.tokens, c.input, c.cached)), 0)
    from counted c left join prices p on coalesce(p.model, '') = coalesce(c.model, '')
    where c.type in (select t.type from types t)
    group by c.type, c.tenant
    on conflict on constraint tenant_savings_key do update
    set hits = s.hits + excluded.hits, tokens = s.tokens + excluded.tokens, usd = s.usd + excluded.usd;
end
$$;

comment on function pgcache_internal.save_lines(hit_log[]) is
'Adds the hits in lines of the hit log, and the tokens and the money that they have saved, to those of their types and'
' tenants. For who has locked tenant_savings, as fold_hits.';

-- What they have saved is for the next fold to add: here a long transaction would keep others from it.
create or replace function pgcache_internal.take_lines(type text, condition text) returns bigint
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    taken bigint;
begin
    execute format($sql$
        with picked as materialized (
            select t.ctid as row_id from hit_log t
            where t.type = $1 and t.cache_key <> '' and %s for update skip locked
        )
        update hit_log l set cache_key = '' from picked where l.ctid = picked.row_id
        $sql$, condition)
    using type;
    get diagnostics taken = row_count;
    return taken;
end
$$;

comment on function pgcache_internal.take_lines(text, text) is
'Lets lines of the hit log of a type that meet a condition on t be of no entry (key ''''), as their entries go: else'
' later entries with the same keys would get them. What they have saved stays. Returns how many.';

select pgcache_internal.define($frame$
create or replace function pgcache_internal.fold_lines(
    type text, hit_tracking text, lines pgcache_internal.hit_log[]
) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off
set jit to off
as $body$
#variable_conflict use_variable
begin
    if @branches    end if;
end
$body$;
comment on function pgcache_internal.fold_lines(text, text, pgcache_internal.hit_log[]) is
'Adds the hits in lines of the hit log to the entries of a type. Those of entries that another session has locked go'
' back into the log, for the next time.';
$frame$, $branch$type = '@type' then
        with hits as materialized (
            select h.*, e.row_id
            from (
                select l.tenant, l.cache_key, greatest(0, sum(l.weight)) as weight,
                    least(max(l.hit_at), cache_now()) as hit_at
                from unnest(lines) l where l.type = '@type' and l.cache_key <> '' group by 1, 2
            ) h
            left join lateral (
                select t.ctid as row_id from @table t
                where t.tenant = h.tenant and t.cache_key = h.cache_key
                for no key update skip locked
            ) e on true
        ), updated as (
            update @table t
            set hit_count = as_count(t.hit_count::numeric + h.weight),
                last_accessed_at = greatest(t.last_accessed_at, h.hit_at),
                hit_weight = hit_weight_at(hit_tracking, as_count(t.hit_count::numeric + h.weight))
            from hits h where t.ctid = h.row_id
            returning h.row_id
        )
        insert into hit_log (type, tenant, cache_key, weight, hit_at, saved)
        select '@type', h.tenant, h.cache_key, h.weight, h.hit_at, true
        from hits h
        -- Not a join, which would compare each with each, as the plan was made for few.
        where (h.row_id is null or h.row_id not in (select u.row_id from updated u))
            and exists (select from @table t where t.tenant = h.tenant and t.cache_key = h.cache_key);
$branch$);

-- Not until the log is empty: readers fill it all the while, and the hits of entries that are locked stay in it.
create or replace function pgcache_internal.fold_log() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    for batch in 0..(select count(*) / folded_lines() from hit_log) loop
        perform fold_hits();
    end loop;
end
$$;

comment on function pgcache_internal.fold_log() is 'Folds what the hit log holds now, in one transaction.';
