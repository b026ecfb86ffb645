-- Limits of single tenants: what the owner says of them. How they hold: see upkeep/tenants.sql.

create or replace function pgcache.cache_tenant_limit(
    type text, tenant text, max_entries bigint default null, max_bytes bigint default null
) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    wrong record;
    counter regclass;
begin
    perform take_turn(), forget_lost_types();
    perform check_type(type);
    if is_tenant(tenant) is not true then
        raise exception using errcode = 'PC002',
            message = case
                when tenant is null then 'the tenant to limit is NULL'
                else format('a tenant of %s bytes is too long: the limit is 1024', octet_length(tenant))
            end,
            hint = 'Pass the name of a tenant, of 1024 bytes at most; '''' is the shared one.';
    end if;
    select l.* into wrong from (values ('max_entries', max_entries), ('max_bytes', max_bytes)) l (name, value)
    where l.value <= 0 limit 1;
    if found then
        raise exception using errcode = 'PC010',
            message = format('%s cannot be %s', wrong.name, wrong.value),
            hint = format('Pass a positive number; SELECT cache_tenant_limit(%L, %L) takes both limits away.',
                type, tenant);
    end if;
    if num_nonnulls(max_entries, max_bytes) = 0 then
        delete from tenant_limits l where l.type = type and l.tenant = tenant;
    else
        select l.room into counter from tenant_limits l where l.type = type and l.tenant = tenant;
        counter := coalesce(counter, free_room_counter());
        insert into tenant_limits as l (type, tenant, max_entries, max_bytes, room)
        values (type, tenant, max_entries, max_bytes, counter)
        on conflict on constraint tenant_limits_pkey do update
        set max_entries = excluded.max_entries, max_bytes = excluded.max_bytes;
        perform setval(counter, -1);  -- the next write counts what there is
    end if;
    perform compile_tenant_limits();
end
$$;

comment on function pgcache.cache_tenant_limit(text, text, bigint, bigint) is
'Limits how many entries, and how many bytes, one tenant ('''': the shared one) may have of a type, in place of what'
' was said before; both NULL (default): no limit but the type''s. What it has too much goes with its next write, or'
' with the clean-up: its own worst entries, by the type''s policy; with eviction none its new keys are refused, PC009.'
' The limit stays whatever becomes of the entries, also with cache_forget; cache_tenant_stats shows it. Errors: PC001,'
' PC002 no tenant, PC010 a limit that is not positive.';

-- Never dropped: a session whose plan is older than the limit could still be about to use it.
create or replace function pgcache_internal.free_room_counter() returns regclass
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    name text;
begin
    select c.name into name
    from (
        select 'tenant_room_' || n as name, n from generate_series(1, (select count(*) + 1 from tenant_limits)) n
    ) c
    where not exists (select from tenant_limits l where l.room = to_regclass('pgcache_internal.' || c.name))
    order by c.n limit 1;
    if to_regclass('pgcache_internal.' || name) is null then
        execute format(
            'create unlogged sequence pgcache_internal.%I increment -1 minvalue %s maxvalue %s start -1',
            name, -9223372036854775808, 9223372036854775807
        );
        execute format('comment on sequence pgcache_internal.%I is %L', name,
            'Counter of a limit of a tenant, or of none any more; see tenant_limits.');
    end if;
    return 'pgcache_internal.' || name;
end
$$;

comment on function pgcache_internal.free_room_counter() is
'A counter for the limit of a tenant: one that no limit has, or a new one.';

-- As the settings: in types without such limits the planner leaves nothing of it, in others a set pays for a look-up in
-- a constant.
create or replace function pgcache_internal.compile_tenant_limits() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    cases text;
begin
    select string_agg(
        format(
            'when type operator(pg_catalog.=) %L then %L::pg_catalog.jsonb operator(pg_catalog.?) tenant',
            l.type, l.tenants
        ), ' ' order by l.type
    ) into cases
    from (select t.type, jsonb_object_agg(t.tenant, 0) as tenants from tenant_limits t group by t.type) l;
    call make(format($function$
create or replace function pgcache_internal.tenant_is_limited(type text, tenant text) returns boolean
language sql immutable parallel safe as %L;
comment on function pgcache_internal.tenant_is_limited(text, text) is
'Whether a tenant has a limit of its own in a type. Compiled from tenant_limits by compile_tenant_limits().';
$function$,
        format(case when cases is null then 'select false' else 'select case %s else false end' end, cases)
    ));
end
$$;

comment on function pgcache_internal.compile_tenant_limits() is
'Makes the function tenant_is_limited anew from tenant_limits.';
