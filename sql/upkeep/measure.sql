-- How much a type holds.

select pgcache_internal.define($frame$
create or replace function pgcache_internal.count_entries(
    type text, max_blocks bigint, out entries bigint, out bytes bigint, out over text[], out excess bigint
)
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off
set jit to off
as $body$
#variable_conflict use_variable
declare
    moment constant timestamptz := cache_now();
    whose constant text := coalesce(current_tenant(), '');
    blocks bigint;
    run bigint;  -- so many blocks are read at a stretch
    stride bigint;  -- and from the beginning of one stretch to that of the next it is so many
begin
    if @branches    end if;
end
$body$;
comment on function pgcache_internal.count_entries(text, bigint) is
'Entries and bytes of a type: a count up to max_blocks blocks, beyond that an estimate from so many. Of types that'
' evict nothing, what has expired does not count, nor what is invalid of the current tenant''s. over: in types with'
' tenant_share, the tenants that have more than that, NULL: nobody has; excess: how many entries at least each of them'
' has too much.';
$frame$, $branch$type = '@type' then
        blocks := heap_blocks('@table');
        run := case when blocks > max_blocks then chunk_blocks() else greatest(blocks, 1) end;
        stride := greatest(run, blocks * run / max_blocks);
        select coalesce(sum(h.entries), 0), coalesce(sum(h.bytes), 0)@share{,
            array_agg(h.tenant order by h.tenant) filter (where @excess > 0), min(@excess) filter (where @excess > 0)}
        into entries, bytes@share{, over, excess}
        from (
            select sum(s.entries) * stride / run as entries, sum(s.bytes) * stride / run as bytes@share{, s.tenant,
                sum(sum(s.entries)) over () * stride / run as all_entries,
                sum(sum(s.bytes)) over () * stride / run as all_bytes}
            from generate_series(floor(chance() * (stride - run + 1))::bigint, blocks - 1, stride) b (first_block)
            cross join lateral (
                select count(*) as entries, sum((@size)::integer) as bytes@share{, t.tenant} from @table t
                where t.ctid >= format('(%s,0)', b.first_block)::tid
                    and t.ctid < format('(%s,0)', b.first_block + run)::tid
                    and (
                        not type_may_be_full('@type')
                        or is_live(
                            t.expires_at, case when t.tenant = whose then t.cache_tags end, t.tenant, t.cache_epoch,
                            moment
                        )
                    )
                @share{group by t.tenant}
            ) s
            @share{group by s.tenant}
        ) h;
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
    if registered.tenant_share is not null then
        perform note_tenants_over(type, held.over);
    end if;
end
$$;

comment on function pgcache_internal.measure(text) is
'Sets a type''s counters entries, bytes and blocks to what its table holds: a count up to counted_blocks(), beyond that'
' an estimate from so many; and notes which tenants have more than their share.';

-- Shares of tenants. Who has more is looked for when the type is measured, since to count each tenant at each write
-- would cost more than all the rest.

create or replace function pgcache_internal.excess_over_share(registered types) returns text
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select 'greatest(' || string_agg(
        format(
            'ceil(h.entries * (1 - %1$s * least(%3$s, greatest(h.%4$I, %3$s * limiting_share())) / h.%2$I))',
            registered.tenant_share, m.held, m.max, 'all_' || m.held
        ), ', '
    ) || ')'
    from (values ('entries', registered.max_entries), ('bytes', registered.max_bytes)) m (held, max)
    where m.max is not null
$$;

comment on function pgcache_internal.excess_over_share(types) is
'As SQL, how many of its entries a tenant, with so many entries and bytes of all that there are, has more than'
' tenant_share of a limit; 0 or less: none. NULL where there is no limit.';

create or replace function pgcache_internal.tenants_over(type text) returns text[]
language sql stable  -- not pinned: inlined
as $$ select o.tenants from pgcache_internal.tenants_over o where o.type operator(pg_catalog.=) tenants_over.type $$;

comment on function pgcache_internal.tenants_over(text) is
'The tenants that had more than their share of a type when it was measured last; NULL: nobody had.';

create or replace function pgcache_internal.note_tenants_over(type text, tenants text[]) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '10ms'
as $$
#variable_conflict use_variable
begin
    if tenants is not distinct from tenants_over(type) then
        return;
    elsif tenants is null then
        delete from tenants_over o where o.type = type;
    else
        insert into tenants_over (type, tenants) values (type, tenants)
        on conflict on constraint tenants_over_pkey do update set tenants = excluded.tenants;
    end if;
exception when serialization_failure or deadlock_detected or lock_not_available then
    null;  -- another session has just noted it, or is at it
end
$$;

comment on function pgcache_internal.note_tenants_over(text, text[]) is
'Notes which tenants have more than their share of a type, NULL for nobody.';
