-- Invalidation. All of it is transactional: after the commit no reader on this server gets the old value, after a
-- rollback nothing was lost.

create or replace function pgcache.cache_delete(type text, key text, soft boolean default false) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return cache_delete_many(type, array[key], soft) > 0;
end
$$;

comment on function pgcache.cache_delete(text, text, boolean) is
'Removes an entry of the current tenant; true if there was a live one. Voids its lease (cache_fetch). soft: it expires'
' instead, so that cache_fetch may serve it while one computes it anew. Errors: PC001, PC002, 25006.';

create or replace function pgcache.cache_delete_many(
    type text, keys text[], soft boolean default false
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_type(type), check_keys(keys), check_writable();
    -- First: who is storing one of them has then committed, and is seen.
    perform void_leases(type, check_tenant(), keys);
    return delete_where(type, own_entries() || ' and t.cache_key = any($1)', keys, soft);
end
$$;

comment on function pgcache.cache_delete_many(text, text[], boolean) is
'Removes many entries of the current tenant, as cache_delete does; returns how many live ones there were. Errors:'
' PC001, PC002, 25006.';

-- condition is never a caller's; what callers pass is $1.
create or replace function pgcache_internal.delete_where(
    type text, condition text, arguments text[], soft boolean default false
) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
    live constant text := 'is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, $2)';
    removed bigint;
begin
    perform check_writable();
    execute format(
        case
            -- Until it would have expired, which for some is never.
            when soft then $sql$
                with gone as (
                    update %s t set expires_at = $2, cache_stale_until
                        = coalesce(greatest(t.expires_at, t.cache_stale_until), $2 + interval '1 day')
                    where %s and %s returning 1
                )
                select count(*) from gone
                $sql$
            else $sql$
                with gone as (delete from %s t where %s returning %s as live)
                select count(*) from gone g where g.live
                $sql$
        end,
        registered.relation, condition, live
    )
    into removed using arguments, cache_now();
    return removed;
end
$$;

comment on function pgcache_internal.delete_where(text, text, text[], boolean) is
'Removes the entries that meet a condition on t and $1, or, soft, lets them expire; returns how many live ones there'
' were.';

create or replace function pgcache.cache_delete_pattern(
    type text, pattern text, soft boolean default false
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
-- What the planner expects of a pattern it knows from the keys of all tenants: by whether the table is read as a whole
-- a role behind a wall would learn of those of others.
set enable_seqscan to off
set jit to off
as $$
begin
    perform check_type(type), check_pattern(pattern), void_leases_like(type, '=' || check_tenant(), pattern);
    return delete_where(type, own_entries() || format(' and t.cache_key like %L', pattern), null, soft);
end
$$;

comment on function pgcache.cache_delete_pattern(text, text, boolean) is
'Removes the current tenant''s entries whose key matches a LIKE pattern (\% and \_ are literal; a pattern with a fixed'
' beginning uses the index); returns how many live ones there were. soft: as in cache_delete. Errors: PC001, PC006,'
' 25006.';

create or replace function pgcache.cache_delete_prefix(
    type text, prefix text, soft boolean default false
) returns bigint
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select cache_delete_pattern(type, pattern_of(prefix), soft) $$;

comment on function pgcache.cache_delete_prefix(text, text, boolean) is
'Removes the current tenant''s entries whose keys begin with prefix, in which no character is special; returns how many'
' live ones there were. soft: as in cache_delete. Errors: PC001, PC006 for NULL, 25006.';

create or replace function pgcache.cache_clear(type text) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    removed bigint;
begin
    perform check_type(type), void_leases_like(type, scope_here(), '%');
    removed := delete_where(type, reach(), null);
    perform take_lines(type, reach());
    return removed;
end
$$;

comment on function pgcache.cache_clear(text) is
'Removes all entries of a type: with pgcache.tenant set, that tenant''s only. Returns how many live ones there were.'
' Errors: PC001, 25006.';

create or replace function pgcache.cache_clear_all() returns bigint
language sql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select coalesce(sum(cache_clear(t.type)), 0)::bigint from types_here() t $$;

comment on function pgcache.cache_clear_all() is
'Removes all entries of all types: with pgcache.tenant set, that tenant''s only. Returns how many live ones there were.'
' Errors: 25006.';

create or replace function pgcache.cache_invalidate_tenant(tenant text) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_may_name(check_tenant(check_given('tenant', tenant)));
    perform void_leases_like(t.type, '=' || tenant, '%') from types_here() t;
    return (select coalesce(sum(delete_where(t.type, 't.tenant = $1[1]', array[tenant])), 0) from types_here() t);
end
$$;

comment on function pgcache.cache_invalidate_tenant(text) is
'Removes all entries of a tenant in all types; returns how many live ones there were. Errors: PC002 for NULL, 25006.';

create or replace function pgcache.cache_invalidate_user(user_id text) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_given('user', user_id);
    -- A lease does not say whose entry it is about.
    perform void_leases_like(t.type, '=' || check_tenant(), '%') from types_here() t
    where t.fields ->> 'user_id' ~ '^string';
    return (
        select coalesce(sum(delete_where(
            t.type, own_entries() || ' and coalesce(t.user_id, '''') = $1[1]', array[user_id]
        )), 0)
        from types_here() t
        where t.fields ->> 'user_id' ~ '^string'
    );
end
$$;

comment on function pgcache.cache_invalidate_user(text) is
'Removes a user''s entries in the current tenant, of all types that have a field user_id that is a string: vector'
' searches, and your own such types. Returns how many live ones there were. '''': those of no user. Errors: PC002 for'
' NULL, 25006.';

-- Erasure: unlike invalidation it takes all that names its subject, the expired, logs and sums too, and says so. A kind
-- of subject is a condition on entries: what else these may be found by is one more kind.
create or replace function pgcache.cache_forget(subject text, kind text default 'tenant')
returns table (type text, place text, removed bigint)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    registered types;
    whose text;
    gone record;
    total bigint := 0;
begin
    perform check_writable();
    if cache_forget.kind is null or cache_forget.kind not in ('tenant', 'user') then
        raise exception using errcode = 'PC010',
            message = format('%L is not a kind of subject', cache_forget.kind),
            hint = 'tenant (default), or user: SELECT * FROM cache_forget(''ada'', kind => ''user'')';
    elsif coalesce(subject, '') = '' then
        raise exception using errcode = 'PC002',
            message = format('the %s to forget is %s', kind, case when subject is null then 'NULL' else 'empty' end),
            hint = format('Pass the %1$s''s name. What is of no %1$s goes with cache_invalidate_%1$s('''').', kind);
    end if;
    whose := case kind
        when 'tenant' then format('t.tenant = %L', check_may_name(check_tenant(subject)))
        else format('%s and t.user_id::text = %L', reach(), subject)
    end;
    -- Before any entry is locked: who folds hits would wait for that. From here on nobody folds.
    lock table tenant_savings in share update exclusive mode;
    for registered in select * from types_here() t loop
        continue when kind = 'user' and coalesce(registered.fields ->> 'user_id', '') !~ '^(string|count|integer)';
        perform void_leases_like(
            registered.type, case kind when 'tenant' then '=' || subject else scope_here() end, '%'
        );
        gone := forget_entries(registered, whose, kind);
        total := total + gone.entries + gone.lines + gone.sums;
        return query
        select registered.type, g.place, g.removed
        from (values
            ('entries', gone.entries), ('hit_log', gone.lines), ('totals', gone.sums), ('redis', gone.told)
        ) g (place, removed)
        where g.removed > 0;
        perform forget_statistics(registered.relation, case when gone.entries = 0 and kind = 'tenant' then subject end)
        where gone.entries > 0 or kind = 'tenant';
        if kind = 'user' then
            perform hot_erase(registered.type, case when not reaches_all() then tenant_here() end);
        end if;
    end loop;
    if kind = 'tenant' then
        perform hot_erase(null, subject);
    end if;
    return query select null::text, 'total', total;
end
$$;

comment on function pgcache.cache_forget(text, text) is
'Erases what is stored for a tenant, in all types, or (kind user) for a user of the current tenant, of all if there'
' is none and the caller may see all: in the types that have a field user_id, a string or a whole number. Also what'
' has expired, the lines of the hit log, and the name in the sums of what hits have saved, and in the planner''s'
' statistics; Redis is told, and the relay looks there for what no row here knows of (cache_hot_stats.erasing). One'
' row for each type and place with how many it removed: entries; hit_log (lines); totals (a tenant''s sums, which go'
' on without its name); redis (entries in the hot tier that Redis is told of). Last a row with the total of what it'
' removed here. Waits for who has changed such entries; what is new and not committed it does not see: stop the'
' writers first.'
' Errors: PC002 no subject, PC010 unknown kind, 25006, 42501.';

create or replace function pgcache_internal.forget_entries(
    registered types, whose text, kind text, out entries bigint, out lines bigint, out sums bigint, out told bigint
)
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    tenants text[];
    keys text[];
    logged hit_log[];
    live bigint;
begin
    execute format($sql$
        with gone as (delete from %s t where %s returning t.tenant, t.cache_key, t.expires_at)
        select
            count(*), count(*) filter (where g.expires_at is null or g.expires_at > $1),
            array_agg(g.tenant) filter (where $2), array_agg(g.cache_key) filter (where $2)
        from gone g
        $sql$, registered.relation, whose)
    into entries, live, tenants, keys using cache_now(), kind = 'user';
    told := case when is_hot(registered.type) then live else 0 end;
    sums := 0;
    if kind = 'user' then  -- what their hits have saved is their tenant's
        update hit_log l set cache_key = ''
        from unnest(tenants, keys) k (tenant, cache_key)
        where l.type = registered.type and l.tenant = k.tenant and l.cache_key = k.cache_key;
        get diagnostics lines = row_count;
        return;
    end if;
    execute format($sql$
        with gone as (delete from hit_log t where t.type = $1 and %s returning t)
        select
            count(*),
            array_agg(row(
                (g.t).type, null, '', (g.t).weight, (g.t).hit_at, (g.t).model, (g.t).tokens, (g.t).saved,
                (g.t).input_tokens, (g.t).cached_input_tokens
            )::hit_log)
        from gone g
        $sql$, whose)
    into lines, logged using registered.type;
    if lines > 0 then
        perform save_lines(logged);
    end if;
    execute format($sql$
        with gone as (
            delete from tenant_savings t where t.type = $1 and %s returning t.hits, t.tokens, t.usd
        ), kept as (
            insert into tenant_savings as s (type, hits, tokens, usd)
            select $1, sum(g.hits), sum(g.tokens), sum(g.usd) from gone g having count(*) > 0
            on conflict on constraint tenant_savings_key do update
            set hits = s.hits + excluded.hits, tokens = s.tokens + excluded.tokens, usd = s.usd + excluded.usd
        )
        select count(*) from gone
        $sql$, whose)
    into sums using registered.type;
    execute format(
        'delete from tenants_over o where o.type = $1 and exists (select from unnest(o.tenants) t (tenant) where %s)',
        whose
    ) using registered.type;
end
$$;

comment on function pgcache_internal.forget_entries(types, text, text) is
'What cache_forget does to one type: removes the entries that meet a condition on t, and what is logged and summed up'
' of a tenant''s; told: how many of them Redis is told of.';

-- ANALYZE puts names, keys and short values into pg_statistic.
create or replace function pgcache_internal.forget_statistics(relation regclass, tenant text) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    stale regclass;
begin
    for stale in
        select c.oid::regclass
        from pg_stats s
        inner join pg_class c on c.relname = s.tablename and c.relnamespace = to_regnamespace(quote_ident(s.schemaname))
        where (c.oid = relation or c.oid in (select i.inhparent from pg_inherits i where i.inhrelid = relation))
            and s.attname = 'tenant' and (
                forget_statistics.tenant is null
                or forget_statistics.tenant = any(s.most_common_vals::text::text[] || s.histogram_bounds::text::text[])
            )
        group by c.oid
    loop
        execute format('analyze %s', stale);
    end loop;
end
$$;

comment on function pgcache_internal.forget_statistics(regclass, text) is
'Takes anew the planner''s statistics of a table, and of the one that it is a partition of, as far as there are any;'
' with a tenant, only if they name it.';

create or replace function pgcache.cleanup_old_cache_entries(days bigint) returns table (type text, deleted bigint)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if days between 0 and 1000000 is not true then
        raise exception using errcode = 'PC003',
            message = format('%s days is not an age', coalesce(days::text, 'NULL')),
            hint = 'Pass how many days of entries to keep: SELECT * FROM cleanup_old_cache_entries(7)';
    end if;
    return query
    select t.type, delete_where(
        t.type, format('%s and t.created_at < %L', reach(), cache_now() - make_interval(days => days::integer)), null
    )
    from types_here() t
    order by t.type;
end
$$;

comment on function pgcache.cleanup_old_cache_entries(bigint) is
'Removes the entries of all types that were stored more than days days ago: with pgcache.tenant set, that tenant''s'
' only; one row a type with the number of live ones removed. Errors: PC003, 25006, 42501.';
