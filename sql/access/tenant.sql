-- The tenant whose entries a call sees. To most roles it is what they say (SET pgcache.tenant). To roles that have been
-- given some tenants only (cache_grant) it is one of these, whatever they say: they are walled.
--
-- Functions act with the owner's rights, so current_user says nothing of who calls. The caller is the role of SET ROLE,
-- which is how a pool with one login tells its tenants apart, else that of the session. A session whose role has one
-- tenant stays behind that wall, though, whatever other role it takes that has none of its own.

create or replace function pgcache_internal.caller() returns text
language sql stable parallel safe  -- not pinned: inlined
as $$
    select case
        when pg_catalog.current_setting('role') operator(pg_catalog.=) 'none' then session_user::pg_catalog.text
        else pg_catalog.current_setting('role')
    end
$$;

comment on function pgcache_internal.caller() is 'The role that calls: that of SET ROLE, else that of the session.';

-- A look-up of who may see what would double the time of a get. So it is compiled into current_tenant, which the
-- planner inlines; where nobody is walled, nothing of it is there.
create or replace function pgcache_internal.compile_tenants() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $compile$
declare
    said constant text := $$coalesce(pg_catalog.current_setting('pgcache.tenant', true), '')$$;
    caller constant text := 'pgcache_internal.caller()';
    granted record;
    others text := 'pgcache_internal.tenant_of_member()';
begin
    select
        array_remove(array_agg(g.role) filter (where g.tenants is null), null) || owner() as open,
        jsonb_object_agg(g.role, g.tenants[1]) filter (where cardinality(g.tenants) = 1) as one,
        jsonb_object_agg(g.role, g.tenants) filter (where cardinality(g.tenants) > 1) as several
    into granted
    from granted_roles g;
    if granted.several is not null then
        others := format(
            'case when %1$L::pg_catalog.jsonb operator(pg_catalog.?) %2$s then case when (%1$L::pg_catalog.jsonb'
            ' operator(pg_catalog.->) %2$s) operator(pg_catalog.?) %3$s then %3$s end else %4$s end',
            granted.several, caller, said, others
        );
    end if;
    -- Each function in it costs a call 0.8 %, whether it comes to it or not.
    others := format(
        'case when session_user operator(pg_catalog.=) any(%L::pg_catalog.name[])'
        ' and pg_catalog.current_setting(''role'') operator(pg_catalog.=) ''none'' then %s else %s end',
        granted.open, said, others
    );
    if granted.one is not null then
        others := format(
            'coalesce(%1$L::pg_catalog.jsonb operator(pg_catalog.->>) pg_catalog.current_setting(''role''),'
            ' %1$L::pg_catalog.jsonb operator(pg_catalog.->>) session_user::pg_catalog.text, %2$s)',
            granted.one, others
        );
    end if;
    call make(format($function$
create or replace function pgcache_internal.current_tenant() returns text
language sql stable parallel safe  -- not pinned: inlined
as %L;
comment on function pgcache_internal.current_tenant() is
'The tenant whose entries a call sees: of a role with one tenant that one, else what the setting pgcache.tenant says,'
' '''' (the shared tenant) if it is unset; NULL: the caller may not see those of that one. Compiled from granted_roles'
' by compile_tenants().';
$function$,
        ' select ' || case
            when coalesce(granted.one, granted.several) is null then said
            else others
        end || ' '
    ));
end
$compile$;

comment on function pgcache_internal.compile_tenants() is
'Writes current_tenant for the roles that have access; in the turn of who changes that.';

create or replace function pgcache_internal.tenants_of(role name) returns text[]
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    tenants text[];
    is_open boolean;
begin
    if not exists (select from granted_roles g where g.tenants is not null) then
        return null;
    end if;
    select g.tenants into tenants from granted_roles g where g.role = role;
    if found or pg_has_role(role, owner(), 'usage') then
        return tenants;
    end if;
    select bool_or(g.tenants is null), array_agg(distinct t.tenant) into is_open, tenants
    from granted_roles g
    inner join pg_roles r on r.rolname = g.role
    left join lateral unnest(g.tenants) t (tenant) on true
    where pg_has_role(role, r.oid, 'usage');
    return case
        when is_open is null then '{}'  -- a role that was renamed, say
        when not is_open then tenants
    end;
end
$$;

comment on function pgcache_internal.tenants_of(name) is
'The tenants that a role may name, by what cache_grant gave to it, else to the roles that it is a member of; NULL:'
' all.';

create or replace function pgcache_internal.tenants_of_caller() returns text[]
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return tenants_of(caller()::name);
end
$$;

comment on function pgcache_internal.tenants_of_caller() is
'The tenants that the caller may name; NULL: all.';

create or replace function pgcache_internal.tenant_of_member() returns text
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    tenants constant text[] := tenants_of_caller();
    said constant text := coalesce(current_setting('pgcache.tenant', true), '');
begin
    return case
        when tenants is null or said = any(tenants) then said
        when cardinality(tenants) = 1 then tenants[1]
    end;
end
$$;

comment on function pgcache_internal.tenant_of_member() is
'What current_tenant is to roles that cache_grant has not named: members of those that it has, and superusers.';

create or replace function pgcache_internal.tenant_here() returns text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if current_tenant() is null then
        perform check_may_name(coalesce(current_setting('pgcache.tenant', true), ''));
    end if;
    return current_tenant();
end
$$;

comment on function pgcache_internal.tenant_here() is
'The current tenant. Errors: 42501 if the caller may not see its entries.';

create or replace function pgcache_internal.check_may_name(tenant text) returns text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    tenants constant text[] := tenants_of_caller();
begin
    if not tenant = any(tenants) then
        raise exception using errcode = '42501',
            message = format('the role %I may not see entries of the tenant %L', caller(), tenant),
            hint = case cardinality(tenants)
                when 0 then format('Let the owner of schema pgcache run SELECT cache_grant(%L, ...).', caller())
                else format('It may see those of: %s. SET pgcache.tenant says whose.', array_to_string(tenants, ', '))
            end;
    end if;
    return tenant;
end
$$;

comment on function pgcache_internal.check_may_name(text) is
'The tenant itself. Errors: 42501 if the caller may not name it.';

create or replace function pgcache_internal.own_entries() returns text
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select format('t.tenant = %L', tenant_here()) $$;

comment on function pgcache_internal.own_entries() is
'The SQL condition that an entry t is of the current tenant. Errors: 42501.';

create or replace function pgcache_internal.reaches_all() returns boolean
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return coalesce(current_tenant() = '' and tenants_of_caller() is null, false);
end
$$;

comment on function pgcache_internal.reaches_all() is
'Whether calls about many entries are about those of all tenants: no tenant is set, and the caller may see all.';

create or replace function pgcache_internal.reach() returns text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return case when reaches_all() then 'true' else own_entries() end;
end
$$;

comment on function pgcache_internal.reach() is
'The SQL condition on an entry t that calls about many entries are about: those of the current tenant; of all, if there'
' is none and the caller may see all. Errors: 42501.';

create or replace function pgcache_internal.is_tenant(tenant text) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.octet_length(tenant) operator(pg_catalog.<=) 1024 $$;

comment on function pgcache_internal.is_tenant(text) is
'Whether entries may be stored for a tenant: its name has 1024 bytes at most, so that index rows fit a page; NULL for'
' NULL.';

create or replace function pgcache_internal.check_tenant(tenant text default null) returns text
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    tenant := coalesce(tenant, tenant_here());
    if not is_tenant(tenant) then
        raise exception using errcode = 'PC002',
            message = format('a tenant of %s bytes is too long: the limit is 1024', octet_length(tenant)),
            hint = 'Hash it: cache_key(long_text) returns 64 hex digits for texts of any length.';
    end if;
    return tenant;
end
$$;

comment on function pgcache_internal.check_tenant(text) is
'The tenant (default: the current one), if entries may be stored for it. Errors: PC002 for one of over 1024 bytes,'
' 42501 for a current one that the caller may not see.';

-- The caches of images name their tenant in the call; the setting is put back, so that it does not outlive the call
-- (after an error, by the rollback). A SET clause would do that too, but only superusers may create one for a setting
-- that no extension has defined.
create or replace function pgcache_internal.get_for_tenant(tenant text, type text, key text) returns jsonb
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
declare
    caller constant pg_catalog.text := coalesce(pg_catalog.current_setting('pgcache.tenant', true), '');
    found_value pg_catalog.jsonb;
begin
    perform pg_catalog.set_config('pgcache.tenant', coalesce(tenant, ''), true);
    if pgcache_internal.current_tenant() operator(pg_catalog.=) coalesce(tenant, '') then
        found_value := pgcache.cache_get(type, key);
    else
        perform pgcache_internal.check_may_name(coalesce(tenant, ''));
    end if;
    perform pg_catalog.set_config('pgcache.tenant', caller, true);
    return found_value;
end
$$;

comment on function pgcache_internal.get_for_tenant(text, text, text) is
'cache_get for a tenant that is named in the call; the setting pgcache.tenant is as before afterwards. Errors: 42501.';

create or replace function pgcache_internal.set_for_tenant(
    tenant text, type text, key text, value jsonb, ttl interval
) returns boolean
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
declare
    caller constant pg_catalog.text := coalesce(pg_catalog.current_setting('pgcache.tenant', true), '');
    stored boolean;
begin
    perform pg_catalog.set_config('pgcache.tenant', coalesce(tenant, ''), true);
    if pgcache_internal.current_tenant() operator(pg_catalog.=) coalesce(tenant, '') then
        stored := pgcache.cache_set(type, key, value, ttl);
    else
        perform pgcache_internal.check_may_name(coalesce(tenant, ''));
    end if;
    perform pg_catalog.set_config('pgcache.tenant', caller, true);
    return stored;
end
$$;

comment on function pgcache_internal.set_for_tenant(text, text, text, jsonb, interval) is
'cache_set for a tenant that is named in the call; the setting pgcache.tenant is as before afterwards. Errors: 42501.';
