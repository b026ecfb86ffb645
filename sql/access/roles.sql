-- Who may use the cache: the owner gives access to roles with cache_grant. They may execute functions, which act with
-- the owner's rights, and that is all: no table, no sequence and no log is open to them, so what they do to the cache
-- is what these functions do. Views of statistics are made of such functions, too.

create or replace function pgcache_internal.check_role(role name) returns void
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if lower(role) = 'public' and to_regrole(quote_ident(role)) is null then
        raise exception using errcode = 'PC010',
            message = 'PUBLIC is all roles, and has no access to the cache',
            hint = 'Name a role. It may be one that others are members of: CREATE ROLE cache_users;'
                ' SELECT cache_grant(''cache_users''); GRANT cache_users TO app';
    elsif role is null or to_regrole(quote_ident(role)) is null then
        raise exception using errcode = 'PC010',
            message = format('there is no role %L', role),
            hint = format('SELECT rolname FROM pg_roles shows those that there are; CREATE ROLE %I LOGIN makes it.',
                coalesce(role, 'name'));
    elsif role = owner() then  -- whose rights all functions act with
        raise exception using errcode = 'PC010',
            message = format('the role %I owns the cache, and may do everything', role),
            hint = 'It needs no access, and cannot lose it. For an application make a role of its own:'
                ' CREATE ROLE app LOGIN; SELECT cache_grant(''app'').';
    end if;
end
$$;

comment on function pgcache_internal.check_role(name) is
'Errors: PC010 for a role that is not there, for PUBLIC, and for the owner of schema pgcache.';

create or replace function pgcache_internal.callable() returns table (name name, access text, walled boolean)
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select f.name, c.access, c.walled
    from (values
        ('read', true, '{
            ai_worker_key, ai_worker_legacy_key, audio_key, cache_key, cache_key_json, cache_llm_key, crawl_key,
            embedding_key, image_key, llm_key, vector_search_key,
            cache_get, cache_get_many, cache_get_many_json, cache_get_llm, cache_get_embedding, cache_get_embeddings,
            cache_get_vector_search, cache_get_audio, cache_get_ai_worker, cache_get_face, cache_get_phash,
            crawl_should_skip, cache_exists, cache_ttl, cache_entry, cache_explain, cache_keys, get_all_cache_keys,
            cache_get_with_ttl, cache_scan, cache_count, cache_get_bytes, cache_get_many_bytes,
            cache_setting, cache_tier, cache_tenant_stats, ai_settings, ai_describe_schema, ai_worker_generate,
            llm_complete, embed, embed_many
        }'::name[]),
        -- What these and the clients call as their caller: it is inlined, or looks at what the caller may do.
        ('read', true, '{
            current_tenant, caller, tenant_of_member, cache_now, canonical_json, canonical_part, vector_digest,
            llm_ignored, without_nulls,
            get_for_tenant, ai_worker_stored_key, hot_identity, top_entries, cache_never, is_ttl, expires_at, expiry,
            refuse_ttl, check_writable, count_miss, get_younger, ai_setting, ai_may_spend, ai_check_spending,
            ai_check_text, ai_check_temp, ai_take_turn, ai_is_fresh, ai_is_whole, ai_ask, ai_validate, ai_explain,
            ai_worker_hit, ai_worker_answer, ai_worker_instructions, ai_embed_missing, ai_embeddings_here, ai_store,
            ai_store_embeddings, bytes_at, bytes_of_number
        }'),
        ('read', false, '{
            cache_live, cache_health, cache_stats_since, get_cache_index_usage,
            tags_epoch, watch_states, as_count, type_has_fields, check_json_type, type_stats, latencies, job_runs,
            hot_progress, hot_waiting, is_live,
            hot_get, hot_get_many, hot_report_hits, is_hot, near_get, near_get_many, near_changes
        }'),
        ('write', true, '{
            cache_set, cache_fetch, cache_release, cache_invalidate_tags, cache_add, cache_incr, cache_incr_float,
            cache_replace, cache_delete_if, cache_delete_prefix, cache_set_many,
            cache_set_bytes, cache_add_bytes, cache_set_many_bytes, beside_raw, beside_no_raw,
            cache_set_many_json, cache_warm, cache_set_llm, cache_set_embedding, cache_set_embeddings,
            cache_set_vector_search, cache_set_audio, cache_set_ai_worker, cache_set_face, cache_set_phash,
            crawl_store, cache_touch, cache_persist, cache_delete, cache_delete_many, cache_delete_pattern,
            cache_clear, cache_clear_all, cache_clear_expired, cache_cleanup, cleanup_old_cache_entries,
            ai_worker_cleanup_cache, cache_invalidate_tenant, cache_invalidate_user, cache_invalidate_schema,
            cache_forget,
            is_writable, jittered, shortened, put, put_fresh, remove_invalid, client_fetch, claim_anew, hold_lease,
            put_embedding, put_audio, set_for_tenant
        }'),
        ('write', false, '{cache_trim, hot_set}'),
        ('admin', false, '{
            cache_create_type, cache_configure, cache_drop_type, cache_tenant_limit, cache_configure_setting,
            cache_set_price,
            cache_hot_on, cache_hot_off, cache_hot_configure, cache_near_on, cache_near_off,
            hot_take_turn, hot_sleep, hot_state, hot_pending, hot_begin_epoch, hot_delivered, hot_erasing, hot_erased,
            hot_cycle
        }')
    ) c (access, walled, names)
    cross join lateral unnest(c.names) f (name)
$$;

comment on function pgcache_internal.callable() is
'Which functions roles may execute, and for which access at least; walled: also roles that may see some tenants only.'
' All others are for the owner.';

create or replace function pgcache.cache_grant(
    role name, access text default 'write', tenants text[] default null
) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    had granted_roles;
    -- What ai_grant gave is neither given nor taken here. The function is there with the level plpython3u only.
    spends constant boolean := exists (
        select from pg_proc p cross join lateral aclexplode(p.proacl) a
        where p.oid = to_regprocedure('pgcache_internal.ai_fetch(text, jsonb)') and a.grantee <> p.proowner
            and a.grantee = to_regrole(quote_ident(role))
    );
begin
    perform check_role(role);
    if access is null or access not in ('read', 'write', 'admin', 'tables') then
        raise exception using errcode = 'PC010',
            message = format('%L is not a kind of access', access),
            hint = 'read: gets; write: sets and invalidates too (default); admin: also creates and configures types;'
                ' tables: reads the tables with SELECT, besides.';
    elsif tenants is not null and (
        access not in ('read', 'write') or cardinality(tenants) = 0 or array_position(tenants, null) is not null
        or exists (select from unnest(tenants) t where not is_tenant(t))
    ) then
        raise exception using errcode = 'PC010',
            message = format('a role cannot have access %L for the tenants %L', access, tenants),
            hint = 'Pass the names of one or more tenants ('''': the shared one), of 1024 bytes at most, with access'
                ' read or write: types and tables are everybody''s.';
    end if;
    perform take_turn(), forget_lost_types();
    select * into had from granted_roles g where g.role = role;
    if access = 'tables' and had.tenants is not null then
        raise exception using errcode = 'PC010',
            message = format('the role %I may see the entries of %s only, and tables have all', role, had.tenants),
            hint = format('Give it access to all tenants first: SELECT cache_grant(%L, %L).', role, had.access);
    end if;
    perform cache_revoke(role);
    insert into granted_roles as g (role, access, tables, tenants)
    values (
        role, case when access = 'tables' then coalesce(had.access, 'read') else access end, access = 'tables',
        case when tenants is not null then array(select distinct t from unnest(tenants) t order by t) end
    );
    perform give_rights(role), compile_tenants();
    if spends then
        perform give_spending(role);
    end if;
end
$$;

comment on function pgcache.cache_grant(name, text, text[]) is
'Gives a role access to the cache: read (gets, statistics), write (default: also sets, invalidation, clean-up) or admin'
' (also types, settings, prices), in place of what it had. tenants: its calls are about entries of these only, whatever'
' the setting pgcache.tenant says; of several it has to name one of them ('''': the shared one); NULL (default): all.'
' tables: besides the access that it has, at least read, SELECT on all tables and views of schema pgcache, with the'
' entries of all tenants. For the owner of schema pgcache. Errors: PC010.';

create or replace function pgcache_internal.give_spending(role name) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    functions text;
begin
    select string_agg(p.oid::regprocedure::text, ', ') into functions
    from pg_proc p
    where p.pronamespace = 'pgcache_internal'::regnamespace and p.proname in ('ai_fetch', 'ai_claim');
    execute format('grant execute on function %s to %I', functions, role);
end
$$;

comment on function pgcache_internal.give_spending(name) is
'Gives a role the rights that ai_grant is about; the functions are there with the level plpython3u only.';

create or replace function pgcache_internal.give_rights(role name) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    given constant granted_roles := (select g from granted_roles g where g.role = role);
    levels constant text[] := array['read', 'write', 'admin'];
    functions text;
    views text;
begin
    select string_agg(p.oid::regprocedure::text, ', ') into functions
    from callable() c
    inner join pg_proc p on p.proname = c.name
        and p.pronamespace in ('pgcache'::regnamespace, 'pgcache_internal'::regnamespace) and p.prokind = 'f'
    where array_position(levels, c.access) <= array_position(levels, given.access)
        and (c.walled or given.tenants is null);
    -- They show what functions return that look at who calls; those of all tenants are for who may see these.
    select string_agg(c.oid::regclass::text, ', ') into views
    from pg_class c
    where c.relkind = 'v' and case
        when given.tenants is not null then c.oid = 'pgcache.cache_top'::regclass
        else c.relnamespace = 'pgcache'::regnamespace or c.oid = 'pgcache_internal.live_entries'::regclass
    end;
    execute format('grant usage on schema pgcache, pgcache_internal to %I', role);
    execute format('grant execute on function %s to %I', functions, role);
    execute format('grant select on %s to %I', views, role);
    if given.tables then
        execute format('grant select on all tables in schema pgcache to %I', role);
    end if;
end
$$;

comment on function pgcache_internal.give_rights(name) is
'Gives a role the rights that granted_roles says it has.';

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
    perform compile_tenants();
end
$$;

comment on function pgcache.cache_revoke(name) is
'Takes away all access to the cache from a role. For the owner of schema pgcache. Errors: PC010 no such role.';

create or replace function pgcache_internal.roles_with_access()
returns table (role name, access text, tables boolean, tenants text[])
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select g.role, g.access, g.tables, g.tenants
    from granted_roles g inner join pg_roles r on r.rolname = g.role
    where exists (
        select from pg_namespace n cross join lateral aclexplode(n.nspacl) a
        where n.nspname = 'pgcache' and a.grantee = r.oid and a.privilege_type = 'USAGE'
    ) or exists (  -- PUBLIC may call it
        select from pg_proc p where p.oid = 'roles_with_access()'::regprocedure and p.proacl is null
    )
$$;

comment on function pgcache_internal.roles_with_access() is
'The roles that cache_grant has given access, and what. Not those that have lost it by other ways, as by DROP OWNED;'
' but all, where a dump without privileges has lost everybody''s.';
