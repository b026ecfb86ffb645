-- What earlier cache systems have left: their live rows become entries, and what they have made, as far as it would
-- hide ours, gets another name.

create or replace function pgcache.cache_adopt(
    dry_run boolean default true, keep boolean default false, time_zone text default null,
    tables regclass[] default null
) returns table (object text, type text, entries bigint, left_out jsonb, becomes text)
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set extra_float_digits to 1  -- numbers keep all their digits
as $$
#variable_conflict use_column
declare
    zone constant text := coalesce(time_zone, current_setting('TimeZone'));
    schemas text[] := array[]::text[];
    unknown constant regclass := (
        select w.relation from unnest(tables) w (relation)
        where not exists (select from earlier_tables() e where e.relation = w.relation) limit 1
    );
    found_one record;
    registered types;
begin
    if unknown is not null then
        raise exception using errcode = 'PC010',
            message = format('%s is not known as a table of an earlier cache system%s',
                unknown, ': ' || earlier_misfit(unknown)),
            hint = 'Such a table is known by its columns, which the page on moving lists.'
                ' Move others with INSERT INTO ... SELECT, or cache_set.';
    end if;
    if not exists (select from pg_timezone_names z where lower(z.name) = lower(zone)) then
        raise exception using errcode = 'PC010',
            message = format('%L is not a time zone', zone),
            hint = 'Pass the one in which the old tables have their times: cache_adopt(time_zone => ''Europe/Berlin'').'
                ' SELECT name FROM pg_timezone_names lists them.';
    end if;
    if not dry_run then
        perform check_owner(), take_turn();
    end if;
    for found_one in select * from earlier_tables() e where e.relation = any(tables) or tables is null loop
        registered := check_type(coalesce(
            (
                select t.type from types t
                where t.fields is null and found_one.columns ? 'cachevalue'
                    and found_one.relation::text = format('%I.%I', found_one.schema, 'cache_' || t.type)
            ),
            found_one.type
        ));
        object := found_one.relation;
        type := registered.type;
        schemas := schemas || found_one.schema::text;
        begin
            select a.* into entries, left_out, becomes
            from adopt_table(
                found_one.relation, registered,
                earlier_entries(
                    found_one.relation, registered, found_one.key, found_one.columns, found_one.aliases, zone
                ),
                dry_run, keep
            ) a;
        exception when others then
            if sqlstate !~ '^(0A|21|22|23|42|54)' or sqlstate = '42501' then
                raise;
            end if;
            raise exception using errcode = 'PC010',
                message = format('the table %s cannot be adopted: %s', object, sqlerrm),
                detail = format('The SQLSTATE was %s.', sqlstate),
                hint = 'Nothing has changed. Name the other tables: cache_adopt(tables => ...), or adopt --table.'
                    ' Move this one with INSERT INTO ... SELECT, or cache_set.';
        end;
        left_out := nullif(coalesce(left_out, '{}') || ignored_columns(found_one.relation), '{}');
        return next;
    end loop;
    -- By the search_path of this session, and by that of who has a schema with such tables in it.
    for found_one in
        select o.theirs, o.kind, min(o.ours) as ours
        from (
            select h.* from hiding_objects() h
            union all
            select h.* from hiding_objects(schemas || array['pgcache']) h
        ) o
        where tables is null and not exists (select from earlier_tables() e where e.relation::text = o.theirs)
        group by o.theirs, o.kind order by o.theirs
    loop
        object := found_one.theirs;
        type := null;
        entries := null;
        left_out := null;
        becomes := null;
        if found_one.kind = any('{TABLE,FOREIGN TABLE}') then
            left_out := jsonb_build_object(
                coalesce(earlier_misfit(found_one.theirs::regclass) || '; it', 'a table that is not known')
                || ' hides ' || found_one.ours, null
            );
        elsif not keep then
            becomes := set_aside(found_one.kind, found_one.theirs, dry_run);
        end if;
        return next;
    end loop;
end
$$;

comment on function pgcache.cache_adopt(boolean, boolean, text, regclass[]) is
'Takes over the tables of five earlier cache systems, which it knows by their columns, in all schemas: their live rows'
' become entries, with keys, expiry and hits, in the current tenant, or in that of their column tenant_id. Then those'
' tables, and views and functions whose names hide ours, are renamed to <name>_before_pgcache; keep leaves them.'
' dry_run (default) only says what it would do. time_zone: in which times without a zone are (default: the setting'
' TimeZone). tables: only these, and nothing else is renamed (default: all). A line for each object: entries, how many'
' rows it takes; left_out, how many it does not, by reason; becomes, the new name. Entries that are here already stay.'
' Tables of types that are disabled or full (eviction none) are left as they are. For the owner of schema pgcache, and'
' of these objects. Errors: PC010 unknown time zone, or a table that is not known or fails; 42501, 25006.';

create or replace function pgcache_internal.adopt_table(
    relation regclass, registered types, source text, dry_run boolean, keep boolean,
    out entries bigint, out left_out jsonb, out becomes text
)
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    moment constant timestamptz := cache_now();
    refused text;
    bytes bigint;
begin
    if not may_adopt(relation, keep) then
        if not dry_run then
            raise exception using errcode = '42501',
                message = format(
                    'the role %I may not %s the table %s', current_user,
                    case when keep then 'read' else 'read and rename' end, relation
                ),
                hint = format(
                    'Connect as a member of %s who is the owner of schema pgcache, too%s.',
                    (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = relation),
                    case
                        when keep then format(', or GRANT SELECT ON %s TO %I', relation, current_user)
                        else ' and may create in that table''s schema'
                    end
                );
        end if;
        left_out := jsonb_build_object('42501 not yours to read and rename', null);
        return;
    end if;
    if not dry_run and not keep then
        execute format('lock table %s in access exclusive mode', relation);
    end if;
    execute format($sql$
        select coalesce(sum(r.rows) filter (where r.reason is null), 0),
            jsonb_object_agg(r.reason, r.rows) filter (where r.reason is not null)
        from (select e.reason, count(*) as rows from (%s) e group by e.reason) r
        $sql$, source)
    into entries, left_out using moment;
    if not registered.enabled then
        refused := format('the type %s is disabled', registered.type);
    elsif not dry_run and entries > 0 then
        begin
            execute replace(fill($sql$
                with adopted as (
                    insert into @table as t (
                        tenant, cache_key, @columns, created_at, expires_at, last_accessed_at, hit_count, hit_weight
                    )
                    select tenant, key, @given, created_at, expires_at, last_accessed_at, hit_count,
                        hit_weight_at($2, hit_count)
                    from (select e.*, row_number() over () as number from ({source}) e where e.reason is null) e
                    where may_write('@type', key, null, tenant) and tell_progress($3, number)
                    on conflict on constraint @pkey do update
                    set @updates, @untagged, created_at = excluded.created_at, expires_at = excluded.expires_at,
                        last_accessed_at = excluded.last_accessed_at, hit_count = excluded.hit_count,
                        hit_weight = excluded.hit_weight
                    where t.expires_at <= $1
                    returning @bytes as bytes
                )
                select count(*), coalesce(sum(a.bytes), 0) from adopted a
                $sql$, expressions_of(registered)), '{source}', source)
            into entries, bytes using moment, registered.hit_tracking, relation::text;
            perform note_writes(registered.type, false, bytes, entries);
        exception when sqlstate 'PC009' then
            refused := format('%s %s', sqlstate, sqlerrm);
        end;
    end if;
    if refused is not null then
        left_out := coalesce(left_out, '{}') || jsonb_build_object(refused, entries);
        entries := 0;
    elsif not keep then
        becomes := set_aside('TABLE', relation::text, dry_run);
    end if;
end
$$;

comment on function pgcache_internal.adopt_table(regclass, types, text, boolean, boolean) is
'Takes over one table; source: see earlier_entries. Errors: 42501.';

create or replace function pgcache_internal.may_adopt(relation regclass, keep boolean) returns boolean
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select has_schema_privilege(c.relnamespace, 'usage') and has_table_privilege(c.oid, 'select')
        and not row_security_active(c.oid)
        and (keep or pg_has_role(c.relowner, 'usage') and has_schema_privilege(c.relnamespace, 'create'))
    from pg_class c where c.oid = relation
$$;

comment on function pgcache_internal.may_adopt(regclass, boolean) is
'Whether this role may read all of a table and, unless keep, rename it.';

create or replace function pgcache_internal.tell_progress(object text, place bigint) returns boolean
language plpgsql volatile
set search_path to pg_catalog, pg_temp
as $$
begin
    if place % 10000 = 0 then
        raise notice using message = format('%s rows of %s', place, object);
    end if;
    return true;
end
$$;

comment on function pgcache_internal.tell_progress(text, bigint) is
'True; tells of each 10000th row, as the bar of the command adopt shows.';

create or replace function pgcache_internal.set_aside(kind text, object text, dry_run boolean) returns text
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    names constant text[] := parse_ident(object, false);
    free_name text;
begin
    select n.name into free_name
    from generate_series(0, 1000) i
    cross join lateral (
        -- Names have 63 bytes at most.
        select left(names[2], max(l)) || '_before_pgcache' || coalesce(nullif(i, 0)::text, '')
        from generate_series(0, 44) l where octet_length(left(names[2], l)) <= 44
    ) n (name)
    where not exists (
        select from pg_class c where c.relnamespace = to_regnamespace(quote_ident(names[1])) and c.relname = n.name
        union all
        select from pg_proc p where p.pronamespace = to_regnamespace(quote_ident(names[1])) and p.proname = n.name
    )
    order by i limit 1;
    if not dry_run then
        execute format('alter %s %s rename to %I', kind, object, free_name);
    end if;
    return format('%I.%I', names[1], free_name);
end
$$;

comment on function pgcache_internal.set_aside(text, text, boolean) is
'Renames an object to <name>_before_pgcache, with a number if there is one; returns the new name.';
