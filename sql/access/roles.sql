-- Who may use the cache: the owner gives access to roles with cache_grant.

create or replace function pgcache_internal.check_role(role name) returns void
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if role = 'public' then
        raise exception using errcode = 'PC010',
            message = 'PUBLIC is all roles, and has no access to the cache',
            hint = 'Name a role. It may be one that others are members of: CREATE ROLE cache_users;'
                ' SELECT cache_grant(''cache_users''); GRANT cache_users TO app';
    elsif role is null or to_regrole(quote_ident(role)) is null then
        raise exception using errcode = 'PC010',
            message = format('there is no role %L', role),
            hint = format('SELECT rolname FROM pg_roles shows those that there are; CREATE ROLE %I LOGIN makes it.',
                coalesce(role, 'name'));
    end if;
end
$$;

comment on function pgcache_internal.check_role(name) is
'Errors: PC010 for a role that is not there, and for PUBLIC.';

create or replace function pgcache.cache_grant(role name, access text default 'write') returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    routine regprocedure;
    -- What ai_grant gave is neither given nor taken here. The function is there with the level plpython3u only.
    spends constant boolean := exists (
        select from pg_proc p cross join lateral aclexplode(p.proacl) a
        where p.oid = to_regprocedure('pgcache_internal.ai_fetch(text, jsonb)') and a.grantee <> p.proowner
            and a.grantee = to_regrole(quote_ident(role))
    );
begin
    if access is null or access not in ('read', 'write', 'admin') then
        raise exception using errcode = 'PC010',
            message = format('%L is not a kind of access', access),
            hint = 'read: gets; write: sets and invalidates too (default); admin: also creates and configures types.';
    end if;
    perform cache_revoke(role);  -- which checks the role, and takes the turn
    perform forget_lost_types();
    insert into granted_roles (role, access) values (role, access);
    execute format('grant usage on schema pgcache, pgcache_internal to %I', role);
    execute format('grant select on all tables in schema pgcache, pgcache_internal to %I', role);
    execute format('grant usage, select on all sequences in schema pgcache, pgcache_internal to %I', role);
    execute format('grant insert on hit_log to %I', role);  -- a get logs its hit
    if access <> 'read' then
        execute format('grant insert, update, delete on cache_store, %s to %I',
            (select string_agg(t.relation::text, ', ') from types t), role);
        execute format('grant insert (type, tenant, cache_key, version) on hot_outbox to %I', role);
    end if;
    -- What is SECURITY DEFINER acts with the owner's rights: writers get the upkeep that their writes pay for, and all
    -- may know which database this is, and are timed.
    for routine in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace in ('pgcache'::regnamespace, 'pgcache_internal'::regnamespace) and p.prokind = 'f'
            and p.proname <> all('{cache_grant,cache_revoke,ai_fetch}')
            and case
                when access = 'admin' or p.proname in ('hot_identity', 'hot_present_epoch', 'note_time') then true
                when access = 'write' and p.proname = any(array[
                    'note_writes', 'measure', 'recount_admitted', 'fold_hits', 'cache_clear_expired', 'cache_cleanup',
                    'hot_shrink', 'take_lines', 'ai_worker_cleanup_cache'
                ]) then true
                else not p.prosecdef
            end
    loop
        execute format('grant execute on function %s to %I', routine, role);
    end loop;
    if spends then
        execute format('grant execute on function ai_fetch(text, jsonb) to %I', role);
    end if;
end
$$;

comment on function pgcache.cache_grant(name, text) is
'Gives a role access to the cache: read (gets, statistics), write (default: also sets, invalidation, clean-up) or admin'
' (also types, settings, prices), in place of what it had. For the owner of schema pgcache. Errors: PC010.';

create or replace function pgcache.cache_revoke(role name) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_role(role), take_turn();
    delete from granted_roles g where g.role = cache_revoke.role;
    execute format('revoke all on all routines in schema pgcache, pgcache_internal from %I', role);
    execute format('revoke all on all tables in schema pgcache, pgcache_internal from %I', role);
    execute format('revoke all on all sequences in schema pgcache, pgcache_internal from %I', role);
    execute format('revoke all on schema pgcache, pgcache_internal from %I', role);
end
$$;

comment on function pgcache.cache_revoke(name) is
'Takes away all access to the cache from a role. For the owner of schema pgcache. Errors: PC010 no such role.';

create or replace function pgcache_internal.roles_with_access() returns table (role name, access text)
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select g.role, g.access
    from granted_roles g inner join pg_roles r on r.rolname = g.role
    where exists (
        select from pg_namespace n cross join lateral aclexplode(n.nspacl) a
        where n.nspname = 'pgcache' and a.grantee = r.oid and a.privilege_type = 'USAGE'
    )
$$;

comment on function pgcache_internal.roles_with_access() is
'The roles that cache_grant has given access, and which. Not those that have lost it by other ways, as by DROP OWNED or'
' in a dump without privileges.';

create or replace function pgcache_internal.grant_like_store(type text) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    given record;
begin
    for given in
        select r.rolname, a.privilege_type, n.target
        from (
            values ('cache_type_store', (check_type(type)).relation::text, 'table'),
            ('hits_store', null, 'sequence')
        ) s (source, target, kind)
        inner join pg_class c on c.oid = to_regclass(s.source)
        cross join lateral aclexplode(c.relacl) a
        inner join pg_roles r on r.oid = a.grantee and a.grantee <> c.relowner
        cross join lateral (
            select s.target where s.kind = 'table'
            union all
            select format('sequence %I', n || '_' || type) from unnest(counter_names()) n where s.kind = 'sequence'
        ) n (target)
    loop
        execute format('grant %s on %s to %I', given.privilege_type, given.target, given.rolname);
    end loop;
end
$$;

comment on function pgcache_internal.grant_like_store(text) is
'Gives the table and the counters of a type the privileges that those of the type store have.';
