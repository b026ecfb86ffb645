-- What each tenant has, and what its hits have saved: for the owner, and for roles that may see nothing else.

create or replace function pgcache.cache_tenant_stats() returns table (
    tenant text, type text, entries bigint, valid bigint, hits bigint, tokens_saved numeric, money_saved numeric,
    bytes bigint, oldest timestamptz, newest timestamptz, max_entries bigint, max_bytes bigint
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    tenants constant text[] := tenants_of_caller();
    -- A standby has neither the log nor UNLOGGED types.
    logged constant text := case when not pg_is_in_recovery() then $sql$
        union all
        select
            l.tenant, 0, 0, l.hits, coalesce(l.tokens, 0),
            coalesce(usd_of(model_price(l.model), l.tokens, l.input, l.cached), 0), 0, null, null, null, null
        from (
            select
                h.tenant, h.model, sum(h.weight) as hits, sum(h.weight::bigint * h.tokens) as tokens,
                sum(h.weight::bigint * h.input_tokens) as input, sum(h.weight::bigint * h.cached_input_tokens) as cached
            from hit_log h
            where h.type = $1 and not h.saved and ($3 is null or h.tenant = any($3))
            group by 1, 2, h.input_tokens is null
        ) l
        $sql$ end;
    registered types;
    held text;
begin
    for registered in select * from types_here() t order by t.type loop
        held := case when is_readable(registered.type) then format($sql$
            union all
            select
                t.tenant, count(*),
                count(*) filter (where is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $2)), 0, 0, 0,
                sum(%s), min(t.created_at), max(t.created_at), null, null
            from %s t where $3 is null or t.tenant = any($3) group by 1
            $sql$, entry_size(registered.fields), registered.relation) end;
        return query execute concat($sql$
            select
                m.tenant, $1, sum(m.entries)::bigint, sum(m.valid)::bigint, as_count(sum(m.hits)), sum(m.tokens),
                round(sum(m.usd), 6), sum(m.bytes)::bigint, min(m.oldest), max(m.newest),
                max(m.max_entries), max(m.max_bytes)
            from (
                select
                    s.tenant, 0 as entries, 0 as valid, s.hits, s.tokens, s.usd, 0 as bytes,
                    null::timestamptz as oldest, null::timestamptz as newest,
                    null::bigint as max_entries, null::bigint as max_bytes
                from tenant_savings s where s.type = $1 and ($3 is null or s.tenant = any($3))
                union all
                select l.tenant, 0, 0, 0, 0, 0, 0, null, null, l.max_entries, l.max_bytes
                from tenant_limits l where l.type = $1 and ($3 is null or l.tenant = any($3))
            $sql$, logged, held, ') m group by m.tenant order by m.tenant')
        using registered.type, cache_now(), tenants;
    end loop;
end
$$;

comment on function pgcache.cache_tenant_stats() is
'One row a type and tenant that has entries in it, or had hits, or has a limit of its own (max_entries, max_bytes, see'
' cache_tenant_limit), of the tenants that the caller may see: its entries,'
' how many of them live, and their bytes; hits and the tokens and US dollars that these have saved, at the prices of'
' their time, since the type was created, also of entries that are gone. In sampled types (cache_configure) hits are'
' estimates, in those that track none 0. tenant NULL: the hits of tenants that were forgotten (cache_forget), and of'
' all up to version 0.1.0.';
