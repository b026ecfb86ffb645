-- What the model is told of the schema: what the caller's role may see, and no more. These run with the caller's
-- search_path, which decides what needs no schema name, so all names of functions in them are qualified.

create or replace function pgcache.ai_describe_schema(
    max_bytes integer default null, out description text, out fingerprint text
)
language sql stable parallel safe
as $$
    with relation as (
        select
            c.oid, c.relname, n.nspname, pg_catalog.pg_table_is_visible(c.oid) as near,
            pg_catalog.obj_description(c.oid, 'pg_class') as note,
            c.relkind in ('v', 'm') as is_view, pg_catalog.has_table_privilege(c.oid, 'select') as whole
        from pg_catalog.pg_class c
        inner join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
            and not pg_catalog.starts_with(n.nspname, 'pg_')
            and n.nspname not in ('information_schema', 'pgcache', 'pgcache_internal', 'cron')
            and pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_any_column_privilege(c.oid, 'select')
            and not exists (
                select from pg_catalog.pg_depend d
                where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.objid = c.oid and d.deptype = 'e'
            )
    ), facet as (
        select
            a.attrelid as oid, 0 as kind, a.attnum as place,
            pg_catalog.quote_ident(a.attname) || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod)
            || case when a.attnotnull then ' not null' else '' end
            || coalesce(' /* ' || pg_catalog.left(pg_catalog.regexp_replace(
                pg_catalog.col_description(a.attrelid, a.attnum), '[[:space:]*/]+', ' ', 'g'
            ), 200) || ' */', '') as line
        from relation r
        inner join pg_catalog.pg_attribute a on a.attrelid = r.oid
        where a.attnum > 0 and not a.attisdropped
            and (r.whole or pg_catalog.has_column_privilege(r.oid, a.attnum, 'select'))
        union all
        select k.conrelid, 1, pg_catalog.row_number() over (order by k.contype desc, k.conname),
            pg_catalog.pg_get_constraintdef(k.oid, true)
        from relation r
        inner join pg_catalog.pg_constraint k on k.conrelid = r.oid
        where r.whole and k.contype in ('p', 'f')
    ), written as (
        select r.near, r.nspname, r.relname,
            case when r.is_view then 'view ' else 'table ' end
            || case when r.near then '' else pg_catalog.quote_ident(r.nspname) || '.' end
            || pg_catalog.quote_ident(r.relname)
            || ' (' || pg_catalog.string_agg(f.line, ', ' order by f.kind, f.place) || ')'
            || coalesce(' -- ' || pg_catalog.left(pg_catalog.regexp_replace(r.note, '[[:space:]]+', ' ', 'g'), 200), '')
            as line
        from relation r
        inner join facet f on f.oid = r.oid
        group by r.oid, r.near, r.nspname, r.relname, r.is_view, r.note
    ), measured as (
        select w.*, pg_catalog.row_number() over wide as place,
            pg_catalog.sum(pg_catalog.octet_length(w.line) + 1) over wide
            <= coalesce(max_bytes, pgcache_internal.ai_setting('schema_bytes')::integer) as fits
        from written w
        window wide as (order by w.near desc, w.nspname, w.relname)
    )
    select
        coalesce(pg_catalog.string_agg(m.line, e'\n' order by m.place) filter (where m.fits), '')
        || case
            when pg_catalog.bool_and(m.fits) then ''
            else pg_catalog.format(
                e'\n(%s more tables are not shown)', pg_catalog.count(*) filter (where not m.fits)
            )
        end,
        'auto-' || pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
            coalesce(pg_catalog.string_agg(m.line, e'\n' order by m.place), ''), 'UTF8'
        )), 'hex'), 15)
    from measured m
$$;

comment on function pgcache.ai_describe_schema(integer) is
'The tables, columns, keys and comments that the current role may read, for a model: description, max_bytes at most'
' (default: setting schema_bytes), tables in the search_path first; fingerprint: of all of it, the schema_version that'
' auto stands for.';
