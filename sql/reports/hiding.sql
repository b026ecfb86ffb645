-- An object of the same name in a schema that comes before pgcache in the search_path hides ours: whoever calls it
-- without "pgcache." reaches the other one, and so invalidates, or reads, the wrong table.
create or replace function pgcache_internal.hiding_objects(schemas text[] default null)
returns table (ours text, theirs text, hint text, kind text)
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    with path as (
        select p.name, p.place from unnest(schemas) with ordinality p (name, place)
        union all
        select coalesce(replace(m.match[1], '""', '"'), lower(m.match[2])), m.place
        from pg_settings g
        cross join lateral regexp_matches(g.reset_val, '"((?:[^"]|"")*)"|([^",[:space:]]+)', 'g')
            with ordinality m (match, place)
        where schemas is null and g.name = 'search_path'
    ),

    before as (
        select n.oid from path p
        inner join pg_namespace n on n.nspname = case p.name when '$user' then caller() else p.name end
        where p.place < (select q.place from path q where q.name = 'pgcache')
    )

    select 'pgcache.' || ours.oid::regclass, theirs.oid::regclass::text,
        format(
            'Rename it: ALTER %s %s RENAME TO ..., or write pgcache.%I.', k.kind, theirs.oid::regclass, ours.relname
        ),
        k.kind
    from pg_class ours inner join pg_class theirs on theirs.relname = ours.relname
    cross join lateral (
        select case theirs.relkind
            when 'v' then 'VIEW' when 'm' then 'MATERIALIZED VIEW' when 'f' then 'FOREIGN TABLE' else 'TABLE'
        end
    ) k (kind)
    where ours.relnamespace = 'pgcache'::regnamespace and ours.relkind = any('{r,p,v}')
        and theirs.relnamespace in (select b.oid from before b) and theirs.relkind = any('{r,p,v,m,f}')
    union all
    select 'pgcache.' || ours.oid::regprocedure, theirs.oid::regprocedure::text,
        format(
            'Rename it: ALTER ROUTINE %s RENAME TO ..., or write pgcache.%I.', theirs.oid::regprocedure, ours.proname
        ),
        'ROUTINE'
    from pg_proc ours inner join pg_proc theirs on theirs.proname = ours.proname
    where ours.pronamespace = 'pgcache'::regnamespace and theirs.pronamespace in (select b.oid from before b)
        -- A call that both take.
        and (theirs.provariadic <> 0 or theirs.pronargs >= ours.pronargs - ours.pronargdefaults)
        and (ours.provariadic <> 0 or theirs.pronargs - theirs.pronargdefaults <= ours.pronargs)
    order by 1, 2
$$;

comment on function pgcache_internal.hiding_objects(text[]) is
'The tables, views and functions that hide one of pgcache''s from those who do not write its schema, each with what to'
' do, and what ALTER calls its kind. schemas: the names in a search_path; those that this session has begun with by'
' default.';
