-- What each tenant has: for the owner's accounts, and for roles that may see nothing else.

create or replace function pgcache.cache_tenant_stats() returns table (
    tenant text, type text, entries bigint, valid bigint, hits bigint, tokens_saved numeric, money_saved numeric,
    bytes bigint, oldest timestamptz, newest timestamptz
)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    tenants constant text[] := tenants_of_caller();
    registered types;
begin
    for registered in select * from types_here() t order by t.type loop
        continue when not is_readable(registered.type);
        return query execute format($sql$
            select m.tenant, $1, sum(m.entries)::bigint, sum(m.valid)::bigint, as_count(sum(m.hits)), sum(m.tokens),
                round(sum(m.tokens * model_price(m.model)) / 1000000, 6), sum(m.bytes)::bigint, min(m.oldest),
                max(m.newest)
            from (
                select t.tenant, %s as model, count(*) as entries,
                    count(*) filter (where t.expires_at is null or t.expires_at > $2) as valid,
                    sum(t.hit_count) as hits, coalesce(sum(t.hit_count * %s::numeric), 0) as tokens,
                    sum(%s) as bytes, min(t.created_at) as oldest, max(t.created_at) as newest
                from %s t where $3 is null or t.tenant = any($3) group by 1, 2
            ) m
            group by m.tenant order by m.tenant
            $sql$,
            expressions_of(registered) ->> '@model',
            case when registered.fields ? 'tokens_used' then 't.tokens_used' else '0' end,
            entry_size(registered.fields), registered.relation)
        using registered.type, cache_now(), tenants;
    end loop;
end
$$;

comment on function pgcache.cache_tenant_stats() is
'One row a type and tenant that has entries in it, of the tenants that the caller may see: its entries, how many of'
' them live, their bytes, and as of the last upkeep their hits and the tokens and US dollars that these have saved, at'
' today''s prices. Of entries that are gone nothing is counted.';
