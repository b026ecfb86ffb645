-- What the model is told of the schema: what the caller's role may see, and no more. These run with the caller's
-- search_path, which decides what needs no schema name, so all names in them are qualified, and all operators.

create or replace function pgcache.ai_describe_schema(
    max_bytes integer default null, out description text, out fingerprint text
)
language sql stable parallel safe
as $$
    with relation as (
        select
            c.oid, c.relname, n.nspname, pg_catalog.pg_table_is_visible(c.oid) as near,
            pg_catalog.obj_description(c.oid, 'pg_class') as note,
            c.relkind operator(pg_catalog.=) any ('{v,m}'::pg_catalog."char"[]) as is_view,
            pg_catalog.has_table_privilege(c.oid, 'select') as whole
        from pg_catalog.pg_class c
        inner join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
        where c.relkind operator(pg_catalog.=) any ('{r,p,v,m,f}'::pg_catalog."char"[]) and not c.relispartition
            and not pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_')
            and n.nspname operator(pg_catalog.<>) all
                ('{information_schema,pgcache,pgcache_internal,cron}'::pg_catalog.name[])
            and pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_any_column_privilege(c.oid, 'select')
            and not exists (
                select from pg_catalog.pg_depend d
                where d.classid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                    and d.objid operator(pg_catalog.=) c.oid and d.deptype operator(pg_catalog.=) 'e'
            )
    ), facet as (
        select
            a.attrelid as oid, 0 as kind, a.attnum::pg_catalog.int8 as place,
            pg_catalog.concat(
                pg_catalog.quote_ident(a.attname), ' ', pg_catalog.format_type(a.atttypid, a.atttypmod),
                case when a.attnotnull then ' not null' end,
                case
                    when pg_catalog.col_description(a.attrelid, a.attnum) is not null then pg_catalog.format(
                        ' /* %s */', pg_catalog.left(pg_catalog.regexp_replace(
                            pg_catalog.col_description(a.attrelid, a.attnum), '[[:space:]*/]+', ' ', 'g'
                        ), 200)
                    )
                end
            ) as line
        from relation r
        inner join pg_catalog.pg_attribute a on a.attrelid operator(pg_catalog.=) r.oid
        where a.attnum operator(pg_catalog.>) 0::pg_catalog.int2 and not a.attisdropped
            and (r.whole or pg_catalog.has_column_privilege(r.oid, a.attnum, 'select'))
        union all
        select k.conrelid, 1, pg_catalog.row_number() over (order by k.contype desc, k.conname),
            pg_catalog.pg_get_constraintdef(k.oid, true)
        from relation r
        inner join pg_catalog.pg_constraint k on k.conrelid operator(pg_catalog.=) r.oid
        where r.whole and k.contype operator(pg_catalog.=) any ('{p,f}'::pg_catalog."char"[])
    ), written as (
        select r.near, r.nspname, r.relname,
            pg_catalog.concat(
                case when r.is_view then 'view ' else 'table ' end,
                case when not r.near then pg_catalog.format('%I.', r.nspname) end,
                pg_catalog.format('%I (%s)', r.relname, pg_catalog.string_agg(f.line, ', ' order by f.kind, f.place)),
                case
                    when r.note is not null then pg_catalog.format(
                        ' -- %s', pg_catalog.left(pg_catalog.regexp_replace(r.note, '[[:space:]]+', ' ', 'g'), 200)
                    )
                end
            ) as line
        from relation r
        inner join facet f on f.oid operator(pg_catalog.=) r.oid
        group by r.oid, r.near, r.nspname, r.relname, r.is_view, r.note
    ), measured as (
        select w.*, pg_catalog.row_number() over wide as place,
            pg_catalog.sum(pg_catalog.octet_length(w.line) operator(pg_catalog.+) 1) over wide
            operator(pg_catalog.<=) coalesce(
                max_bytes::pg_catalog.int8, pgcache_internal.ai_setting('schema_bytes')::pg_catalog.int8
            ) as fits
        from written w
        window wide as (order by w.near desc, w.nspname, w.relname)
    )
    select
        pg_catalog.concat(
            pg_catalog.string_agg(m.line, e'\n' order by m.place) filter (where m.fits),
            case
                when not pg_catalog.bool_and(m.fits) then pg_catalog.format(
                    e'\n(%s more tables are not shown)', pg_catalog.count(*) filter (where not m.fits)
                )
            end
        ),
        pg_catalog.concat('auto-', pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
            coalesce(pg_catalog.string_agg(m.line, e'\n' order by m.place), ''), 'UTF8'
        )), 'hex'), 15))
    from measured m
$$;

comment on function pgcache.ai_describe_schema(integer) is
'The tables, columns, keys and comments that the current role may read, for a model: description, max_bytes at most'
' (default: setting schema_bytes), tables in the search_path first; fingerprint: of all of it, the schema_version that'
' auto stands for.';
