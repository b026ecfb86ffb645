-- The tables of earlier cache systems: by which columns they are known, and what of them is an entry of ours.

-- Names are compared without underscores and case: ORMs write queryHash. a|b: one of them.
create or replace function pgcache_internal.earlier_kinds() returns table (
    type text, keys text, columns text, aliases jsonb
)
language sql immutable parallel safe  -- not pinned: inlined
as $$
    values
        ('ai_worker', 'cachekey', 'prompttext model schemaversion generatedsql validated expiresat', '{}'::jsonb),
        ('audio', 'cachekey', 'audiodata format expiresat', '{"voice": "voicemodelid"}'),
        ('embedding', 'cachekey|queryhash', 'embedding expiresat', '{}'),
        ('llm', 'cachekey|prompthash', 'response model|provider expiresat', '{}'),
        ('vector_search', 'cachekey|queryhash', 'results expiresat', '{}'),
        ('store', 'cachekey', 'data|cachevalue createdat expiresat', '{"data": "cachevalue"}'),
        -- Before phash, as it may have a column of that name.
        ('crawl', 'cachekey|urlhash|url', 'url|urlhash rawkey|rawimagekey thumbnailkey',
            '{"raw_key": "rawimagekey", "image_hash": "contenthash"}'),
        ('face', 'contenthash|imagehash', 'tenantid embeddings|embeddingsdata', '{"embeddings": "embeddingsdata"}'),
        ('phash', 'contenthash|imagehash', 'tenantid phash', '{}')
$$;

comment on function pgcache_internal.earlier_kinds() is
'The tables of earlier cache systems: the type that their rows go to; the column that is the key; the columns that tell'
' them from others; what fields of the type are called there, if not as here.';

create or replace function pgcache_internal.earlier_columns(relation regclass) returns table (
    place smallint, column_name name, name text, misfit text
)
language sql stable  -- not pinned: inlined
as $$
    select a.attnum, a.attname, n.name, case
        when n.name = any('{createdat,processedat,expiresat,lastaccessedat}'::text[])
            and a.atttypid <> all('{timestamp,timestamptz,date}'::regtype[])
            then pg_catalog.format('its column %I is of type %s, not timestamp, timestamptz or date',
                a.attname, pg_catalog.format_type(a.atttypid, null))
        when n.name = 'hitcount'
            and a.atttypid <> all('{smallint,integer,bigint,numeric,real,float8}'::regtype[])
            then pg_catalog.format('its column %I is of type %s, not a number',
                a.attname, pg_catalog.format_type(a.atttypid, null))
        when n.name = 'validated' and a.atttypid <> 'boolean'::regtype
            then pg_catalog.format('its column %I is of type %s, not boolean',
                a.attname, pg_catalog.format_type(a.atttypid, null))
        -- Casts of other types may be anybody's functions.
        when t.typnamespace <> 'pg_catalog'::regnamespace and t.oid <> (
            select v.atttypid from pg_catalog.pg_attribute v
            where v.attrelid = 'pgcache.cache_embeddings'::regclass and v.attname = 'embedding'
        )
            then pg_catalog.format('its column %I is of type %s, which is neither PostgreSQL''s nor pgvector''s',
                a.attname, pg_catalog.format_type(a.atttypid, null))
    end
    from pg_catalog.pg_attribute a
    inner join pg_catalog.pg_type t on t.oid = a.atttypid
    cross join lateral (select pg_catalog.replace(pg_catalog.lower(a.attname), '_', '')) n (name)
    where a.attrelid = relation and a.attnum > 0
$$;

comment on function pgcache_internal.earlier_columns(regclass) is
'The columns of a table, each with the name that is compared; misfit: why one is not taken.';

create or replace function pgcache_internal.earlier_misfit(relation regclass) returns text
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select c.misfit
    from (select array_agg(c.name) as names from earlier_columns(relation) c) a
    cross join lateral (
        select string_to_array(k.keys || ' ' || k.columns, ' ') as needed
        from earlier_kinds() with ordinality k (type, keys, columns, aliases, place)
        where not exists (
            select from unnest(string_to_array(k.keys || ' ' || k.columns, ' ')) one
            where not a.names && string_to_array(one, '|')
        )
        order by k.place limit 1
    ) k
    inner join earlier_columns(relation) c
        on c.misfit is not null
        and exists (select from unnest(k.needed) one where c.name = any(string_to_array(one, '|')))
    order by c.place limit 1
$$;

comment on function pgcache_internal.earlier_misfit(regclass) is
'Of a table that has the columns of an earlier cache system by their names: which is of a type that is not taken.';

create or replace function pgcache_internal.ignored_columns(relation regclass) returns jsonb
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select coalesce(jsonb_object_agg(c.misfit, null), '{}')
    from earlier_columns(relation) c
    where c.misfit is not null and c.name = any(
        '{createdat,processedat,expiresat,lastaccessedat,hitcount,tenantid,userid}'::text[]
    )
$$;

comment on function pgcache_internal.ignored_columns(regclass) is
'Of a table that is taken over: what its entries do without, since the column is of a type that is not taken.';

create or replace function pgcache_internal.earlier_tables() returns table (
    relation regclass, schema name, type text, key text, columns jsonb, aliases jsonb
)
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select c.oid, n.nspname, k.type, k.key, a.columns, k.aliases
    from pg_class c
    inner join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
        select jsonb_object_agg(s.name, s.column_name order by s.place desc) as columns
        from earlier_columns(c.oid) s where s.misfit is null
    ) a
    cross join lateral (
        select k.type, k.aliases,
            (select o from unnest(string_to_array(k.keys, '|')) o where a.columns ? o limit 1) as key
        from earlier_kinds() with ordinality k (type, keys, columns, aliases, place)
        where a.columns ?| string_to_array(k.keys, '|') and not exists (
            select from unnest(string_to_array(k.columns, ' ')) needed
            where not a.columns ?| string_to_array(needed, '|')
        )
        order by k.place limit 1
    ) k
    where c.relkind = any('{r,p}') and not c.relispartition and c.relpersistence <> 't'
        and n.nspname <> all('{pgcache,pgcache_internal,pg_catalog,information_schema}')
        and c.relname !~ '_before_pgcache[0-9]*$'
        and not a.columns ? 'hitweight'  -- a copy of one of ours
    order by n.nspname, c.relname
$$;

comment on function pgcache_internal.earlier_tables() is
'The tables of earlier cache systems, in all schemas: the type that their rows go to, the column that is the key, and'
' by the names that are compared what the columns are called.';

create or replace function pgcache_internal.earlier_json(written text, is_vector boolean) returns jsonb
language plpgsql immutable parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if is_vector then
        perform to_vector(written);
    end if;
    return written::jsonb;
exception when data_exception or sqlstate 'PC004' or program_limit_exceeded or statement_too_complex then
    return case when is_vector then to_jsonb(written) end;
end
$$;

comment on function pgcache_internal.earlier_json(text, boolean) is
'JSON out of a text, NULL for what is none; for what is no vector, though it should be one, the text as JSON.';

create or replace function pgcache_internal.earlier_value(
    relation regclass, column_name name, kind text
) returns text
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select format(
        case
            when column_name is null then 'null'
            when kind = 'string' then 's.%1$I::text'
            when kind = 'base64' and t.typname = 'bytea' then $sql$translate(encode(s.%1$I, 'base64'), e'\n', '')$sql$
            when kind = 'vector' and t.typname = 'vector' then 's.%1$I::text::jsonb'
            when kind = 'vector' and t.typcategory = 'A' then 'earlier_json(to_jsonb(s.%1$I)::text, true)'
            when kind = 'vector' then 'earlier_json(s.%1$I::text, true)'
            when t.typname = 'json' or kind in ('any', 'array', 'object') and t.typcategory = 'S'
                then 'earlier_json(s.%1$I::text, false)'
            else 'to_jsonb(s.%1$I)'
        end,
        column_name
    )
    from (select) o
    left join pg_attribute a on a.attrelid = relation and a.attname = column_name
    left join pg_type t on t.oid = a.atttypid
$$;

comment on function pgcache_internal.earlier_value(regclass, name, text) is
'SQL for what a column of an earlier table `s` is as a field of such a kind.';

create or replace function pgcache_internal.earlier_time(
    relation regclass, columns jsonb, names text[], time_zone text
) returns text
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select coalesce(min(format(
        -- What programs cannot read, or another time zone would put out of range, is as good as infinite.
        $sql$
        case when s.%1$I < '0001-01-03' then '-infinity' when s.%1$I > '9999-12-29' then 'infinity' else %2$s end
        $sql$,
        a.attname,
        case a.atttypid
            when 'timestamptz'::regtype then format('s.%I', a.attname)
            else format('(s.%I::timestamp at time zone %L)', a.attname, time_zone)
        end
    )), 'null::timestamptz')
    from pg_attribute a
    where a.attrelid = relation and a.attname = (
        select columns ->> n.name from unnest(names) with ordinality n (name, place)
        where columns ? n.name order by n.place limit 1
    )
$$;

comment on function pgcache_internal.earlier_time(regclass, jsonb, text[], text) is
'SQL for the first of these columns of an earlier table `s` that it has, as a point in time.';

create or replace function pgcache_internal.earlier_entries(
    relation regclass, registered types, key text, columns jsonb, aliases jsonb, time_zone text
) returns text
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    key_value constant text := case
        when registered.type = 'crawl' and columns ?| '{url}' and columns ?| '{imagehash,contenthash}'
            then format('cache_key(s.%I, s.%I)',
                columns ->> 'url', coalesce(columns ->> 'imagehash', columns ->> 'contenthash'))
        else format('s.%I::text', columns ->> key)
    end;
    value text;
    owner constant text := format(case when columns ? 'userid' then 's.%I::text' else 'null' end, columns ->> 'userid');
begin
    if registered.fields is null then
        value := earlier_value(relation, (coalesce(columns ->> 'data', columns ->> 'cachevalue'))::name, 'any');
    else
        select format('jsonb_build_object(%s)', string_agg(format('%L, %s', f.name, earlier_value(relation, coalesce(
            columns ->> replace(f.name, '_', ''), columns ->> (aliases ->> f.name)
        )::name, f.kind)), ', '))
        into value
        from fields_of(registered.type, registered.fields) f;
    end if;
    return format($sql$
        select c.*, case
                when c.has_expired then 'expired'
                when c.is_shared then 'several users have the same key'
                when c.place > 1 then 'older row of the same key'
                when not (is_key(c.key) is true and value_fits(%1$L, c.value)) then why_not(%1$L, c.key, c.value)
                when not c.is_valid then 'not validated'
                when pg_column_size(c.value) > %2$s then 'larger than max_bytes'
                when exists (
                    select from %3$s t where t.tenant = c.tenant and t.cache_key = c.key
                        and (t.expires_at is null or t.expires_at > $1)
                ) then 'here already'
            end as reason
        from (
            select s."=tenant" as tenant, s."=key" as key, %4$s as value,
                greatest('epoch', least(coalesce(s."=created", $1), $1)) as created_at,
                nullif(s."=expires", 'infinity') as expires_at,
                greatest('epoch', least(coalesce(%5$s, s."=created", $1), $1)) as last_accessed_at,
                -- NULL and NaN are none; counts beyond any that are real would overflow.
                least(greatest(0, nullif(%6$s::numeric, 'NaN')), 1e12)::bigint as hit_count,
                s."=expired" as has_expired, %7$s as is_valid,
                row_number() over (latest order by s."=created" desc nulls last, s."=expires" desc) as place,
                min(s."=owner") over latest <> max(s."=owner") over latest as is_shared
            from (
                select s.*, %8$s as "=tenant", %9$s as "=key", %10$s as "=created", %11$s as "=expires",
                    coalesce(%11$s <= $1, false) as "=expired", %12$s as "=owner"
                from %13$s s
            ) s
            window latest as (partition by s."=tenant", s."=key", s."=expired")
        ) c
        $sql$,
        registered.type, coalesce(registered.max_bytes, 9223372036854775807), registered.relation, value,
        earlier_time(relation, columns, '{lastaccessedat}', time_zone),
        format(case when columns ? 'hitcount' then 's.%I' else '0' end, columns ->> 'hitcount'),
        format(
            case when registered.type = 'ai_worker' then 's.%I is not false' else 'true' end, columns ->> 'validated'
        ),
        case when columns ? 'tenantid' then format($s$coalesce(s.%I::text, '')$s$, columns ->> 'tenantid')
            else 'current_tenant()' end,
        key_value,
        earlier_time(relation, columns, '{createdat,processedat}', time_zone),
        earlier_time(relation, columns, '{expiresat}', time_zone),
        owner, relation
    );
end
$$;

comment on function pgcache_internal.earlier_entries(regclass, types, text, jsonb, jsonb, text) is
'SQL for the rows of an earlier table as entries of a type, and, if one is not to be taken, the reason. $1: the time.'
' Of rows with the same key the newest live one counts.';

create or replace function pgcache_internal.why_not(type text, key text, value jsonb) returns text
language plpgsql stable parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform explain_refusal(type, key, value, null);
    return 'not known';
exception when others then
    return format('%s %s', sqlstate, regexp_replace(sqlerrm, ', not the [a-z]+ .*$', ''));
end
$$;

comment on function pgcache_internal.why_not(text, text, jsonb) is 'Why an entry cannot be stored, with the SQLSTATE.';
