-- The first thing that an installation runs in its schemas: it may rely on nothing, so it is re-runnable, and asks for
-- no more rights than it needs on a database where pgcache is there already. It ends with what runs the other files:
-- migrate and make.

do $$
declare
    server integer := current_setting('server_version_num')::integer;
    hidden name := (
        select n.nspname from pg_extension e inner join pg_namespace n on n.oid = e.extnamespace
        where e.extname = 'vector' and not has_schema_privilege(n.oid, 'usage')
    );
begin
    if server < 150000 then
        raise exception 'pgcache needs PostgreSQL 15 or newer, and this server is %', server / 10000
            using errcode = 'feature_not_supported',
                hint = 'Install it on a server of PostgreSQL 15 to 18, or upgrade this one.';
    end if;
    if hidden is not null then
        raise exception using errcode = 'insufficient_privilege',
            message = format('the extension vector is in the schema %I, which the role %I may not use',
                hidden, current_user),
            hint = format('As the owner of that schema: GRANT USAGE ON SCHEMA %I TO %I; then again.',
                hidden, current_user);
    end if;
    -- CREATE SCHEMA IF NOT EXISTS would ask for CREATE on the database even if the schema exists.
    if to_regnamespace('pgcache') is null then
        create schema pgcache;
        comment on schema pgcache is
        'A cache inside PostgreSQL. SELECT * FROM pgcache.cache_stats shows what it holds.';
    end if;
    if to_regnamespace('pgcache_internal') is null then
        create schema pgcache_internal;
        comment on schema pgcache_internal is
        'What pgcache is made of. It is on nobody''s search_path and may change with every version: call what is in'
        ' pgcache.';
    end if;
    -- Whoever may create schemas could have been faster, and have a trap in one of them.
    if exists (
        select from pg_namespace n
        where n.nspname in ('pgcache', 'pgcache_internal') and n.nspowner <> current_user::regrole
    ) then
        raise exception 'the schemas pgcache and pgcache_internal belong to two roles'
            using errcode = 'insufficient_privilege',
                hint = 'What is in a schema that another role has made may be a trap. Drop it, and install again.';
    end if;
end
$$;

create table if not exists pgcache_internal.schema_migrations (
    version integer primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null default now(),
    pgcache_version text not null
);
comment on table pgcache_internal.schema_migrations is
'Which migrations ran here. A file whose sha256 differs from the recorded one is refused.';

create table if not exists pgcache_internal.installed (
    component text primary key,
    version text not null,
    digest text not null,
    installed_at timestamptz not null default now()
);
comment on table pgcache_internal.installed is
'What is installed here: ''pgcache'', and ''plpython'' if that level is on. The digest is that of the files which ran.';

-- Whatever changes the catalog does so in turn: see take_turn. So does an installation.
create table if not exists pgcache_internal.turns (taken bigint not null);
comment on table pgcache_internal.turns is
'One row, that each call which changes types, settings or rights locks until its transaction ends.';
insert into pgcache_internal.turns (taken) select 0 where not exists (select from pgcache_internal.turns);
update pgcache_internal.turns set taken = taken + 1;

create table if not exists pgcache_internal.made_objects (
    kind text not null check (kind in ('routine', 'view')),
    schema name not null,
    name name not null,
    arguments text not null,
    component text not null,
    made_at timestamptz not null,
    primary key (kind, schema, name, arguments)
);
comment on table pgcache_internal.made_objects is
'The functions and views that installations have made, and so may drop: what a user has made beside them is left alone.'
' arguments: names of types, as a dump keeps them. made_at: when the transaction began that made it last.';

-- What is made below is not among the made objects: where its parameters or columns change, drop the old ones here.

create or replace procedure pgcache_internal.migrate(
    version integer, name text, sha256 text, pgcache_version text, script text
)
language plpgsql  -- not pinned: runs files
as $$
declare
    ran pgcache_internal.schema_migrations;
begin
    select m.* into ran from pgcache_internal.schema_migrations m where m.version = migrate.version;
    if ran.version is null then
        begin
            execute script;
        exception when duplicate_table or duplicate_column or duplicate_object or duplicate_function then
            raise exception using errcode = 'PC093',
                message = pg_catalog.format(
                    'the schemas pgcache and pgcache_internal hold a part of pgcache without its records: %s', sqlerrm
                ),
                hint = 'A dump without data, or of some tables, leaves that. Restore a whole one, or, if none of it'
                    ' is to be kept: DROP SCHEMA pgcache, pgcache_internal CASCADE; and install again.';
        end;
        insert into pgcache_internal.schema_migrations (version, name, sha256, pgcache_version)
        values (version, name, sha256, pgcache_version);
    elsif ran.sha256 <> sha256 then
        raise exception using errcode = 'PC091',
            message = pg_catalog.format('the migration %s is not the one that ran in this database', name),
            hint = 'A released migration never changes. Install a released version of the package;'
                ' what has to change goes into a new migration.';
    end if;
end
$$;

comment on procedure pgcache_internal.migrate(integer, text, text, text, text) is -- noqa: LT01
'Runs a migration that has not run here yet; one that has must be what it was then. Errors: PC091, PC093 what it makes'
' is there.';

-- In PL/pgSQL, which keeps its plan: it runs a few times for each function.
create or replace function pgcache_internal.argument_types(types oidvector) returns text
language plpgsql stable
set search_path to pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(string_agg(t.typname, ', ' order by a.place), '')
        from unnest(types) with ordinality a (type, place) inner join pg_type t on t.oid = a.type
    );
end
$$;

comment on function pgcache_internal.argument_types(oidvector) is
'What tells a function from others of its name: its arguments'' types, without schemas, as extensions can be moved.';

create or replace function pgcache_internal.own_objects() returns table (
    kind text, schema name, name name, arguments text, component text, made_at timestamptz, oid oid
)
language sql stable  -- not pinned: inlined
as $$
    select o.*, p.oid
    from pgcache_internal.made_objects o
    inner join pg_catalog.pg_namespace n on n.nspname = o.schema
    inner join pg_catalog.pg_proc p on p.pronamespace = n.oid and p.proname = o.name
    where o.kind = 'routine' and pgcache_internal.argument_types(p.proargtypes) = o.arguments
    union all
    select o.*, c.oid
    from pgcache_internal.made_objects o
    inner join pg_catalog.pg_namespace n on n.nspname = o.schema
    inner join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = o.name and c.relkind = 'v'
    where o.kind = 'view'
$$;

comment on function pgcache_internal.own_objects() is 'Those of made_objects that are there.';

create or replace procedure pgcache_internal.note_made(
    kind text, schema name, name name, arguments text, component text
)
language sql
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    insert into made_objects as o
    values (kind, schema, name, arguments, component, now())
    on conflict on constraint made_objects_pkey do update
    set component = excluded.component, made_at = excluded.made_at
$$;

comment on procedure pgcache_internal.note_made(text, name, name, text, text) is -- noqa: LT01
'Notes an object as pgcache''s own.';

create or replace procedure pgcache_internal.note_python(name text)
language plpgsql
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    made pg_proc;
begin
    select p.* into strict made from pg_proc p where p.oid = to_regproc(name);
    call note_made(
        'routine', made.pronamespace::regnamespace::name, made.proname, argument_types(made.proargtypes), 'plpython'
    );
end
$$;

comment on procedure pgcache_internal.note_python(text) is -- noqa: LT01
'Notes a function in PL/Python, which a superuser has made, as pgcache''s own.';

create or replace procedure pgcache_internal.make(statement text, component text default 'pgcache')
language plpgsql
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    -- A regular expression would take longer than all the rest.
    head constant text := pg_catalog.ltrim(pg_catalog.left(statement, 200), e' \n');
    keyword constant text := pg_catalog.split_part(head, ' ', 4);  -- after CREATE OR REPLACE
    kind constant text := case pg_catalog.lower(keyword) when 'view' then 'view' else 'routine' end;
    names constant text[] := pg_catalog.parse_ident(
        pg_catalog.substr(head, pg_catalog.length('create or replace ' || keyword) + 1), false
    );
    schema constant name := names[1];
    name constant name := names[2];
    namespace constant oid := pg_catalog.to_regnamespace(schema::text);
    found_objects oid[];
    found_rows tid[];
    own oid[] := array[]::oid[];
    made oid;
    arguments text := '';
    earlier oid;
begin
    if kind = 'view' then
        select pg_catalog.array_agg(c.oid) into found_objects
        from pg_catalog.pg_class c where c.relnamespace = namespace and c.relname = name;
    else
        select pg_catalog.array_agg(p.oid), pg_catalog.array_agg(p.ctid) into found_objects, found_rows
        from pg_catalog.pg_proc p where p.pronamespace = namespace and p.proname = name;
    end if;
    if kind = 'routine' then
        -- Parameters may be vectors. A view may not look into that schema, where others may have made operators.
        perform pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ',
            'pgcache_internal, pgcache, pg_catalog',
            (
                select pg_catalog.quote_ident(n.nspname)
                from pg_catalog.pg_extension e inner join pg_catalog.pg_namespace n on n.oid = e.extnamespace
                where e.extname = 'vector'
            ),
            'pg_temp'
        ), true);
    end if;
    if found_objects is null then
        execute statement;
    else
        own := array(
            select o.oid from pgcache_internal.own_objects() o where (o.kind, o.schema, o.name) = (kind, schema, name)
        );
        begin
            execute statement;
        exception when invalid_function_definition or invalid_table_definition or wrong_object_type then
            -- It has another result, or other names of parameters, than what it would replace.
            foreach earlier in array own loop
                call pgcache_internal.unmake(kind, earlier);
            end loop;
            execute statement;
        end;
    end if;
    if kind = 'view' then
        made := (select c.oid from pg_catalog.pg_class c where c.relnamespace = namespace and c.relname = name);
    else
        -- The row of a routine that has been replaced is another one.
        select p.oid, pgcache_internal.argument_types(p.proargtypes) into made, arguments
        from pg_catalog.pg_proc p
        where p.pronamespace = namespace and p.proname = name and p.ctid <> all(coalesce(found_rows, '{}'));
    end if;
    if made = any(found_objects) and made <> all(own) then
        raise exception using errcode = 'PC093',
            message = pg_catalog.format('there is a %I.%I already that pgcache has not made', schema, name),
            hint = 'Give yours another name, or move it to a schema of yours, and install again.';
    end if;
    -- A session that prints plans (debug_print_plan) would see what the planner expects of others' entries.
    -- Where search_path is not pinned either, each setting would cost too much.
    if exists (
        select from pg_catalog.pg_proc p cross join lateral pg_catalog.unnest(p.proconfig) c (setting)
        where p.oid = made and p.prosecdef and pg_catalog.starts_with(c.setting, 'search_path=')
    ) then
        execute pg_catalog.format('alter routine %s set debug_print_plan to off', made::pg_catalog.regprocedure);
    end if;
    call pgcache_internal.note_made(kind, schema, name, arguments, component);
    -- There are no overloads: what else has the name is of an earlier version.
    foreach earlier in array own loop
        if earlier <> made then
            call pgcache_internal.unmake(kind, earlier);
        end if;
    end loop;
end
$$;

comment on procedure pgcache_internal.make(text, text) is -- noqa: LT01
'Runs CREATE OR REPLACE of a function, procedure or view, and notes that it is pgcache''s own. What an earlier version'
' made of that name is dropped, if it cannot be replaced or has other parameters. component: plpython for that level.'
' Errors: PC093.';

create or replace procedure pgcache_internal.unmake(kind text, object oid)
language plpgsql
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    doomed record;
    dependent record;
    identity text;
    detail text;
begin
    select o.* into doomed from own_objects() o where (o.kind, o.oid) = (kind, object);
    if doomed is null then
        return;  -- it went with another one
    end if;
    -- What is pgcache's own and depends on it comes later in the files, so that it is made again.
    for dependent in
        select distinct o.kind, o.oid
        from pg_depend d
        left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
        inner join own_objects() o on case o.kind
            when 'view' then o.oid = r.ev_class
            else d.classid = 'pg_proc'::regclass and o.oid = d.objid
        end
        where o.oid <> object and case kind
            when 'routine' then (d.refclassid, d.refobjid) = ('pg_proc'::regclass, object)
            else (d.refclassid, d.refobjid) in (
                ('pg_class'::regclass, object),
                ('pg_type'::regclass, (select c.reltype from pg_class c where c.oid = object))
            )
        end
    loop
        call unmake(dependent.kind, dependent.oid);
    end loop;
    identity := case kind when 'routine' then object::regprocedure::text else object::regclass::text end;
    begin
        execute format('drop %s %s', kind, identity);
    exception when dependent_objects_still_exist then
        get stacked diagnostics detail = pg_exception_detail;
        raise exception using errcode = 'PC093',
            message = format('this version has not the %s %s that other objects depend on', kind, identity),
            detail = detail,
            hint = 'Nothing has changed. Drop these objects, install again, and make them anew.';
    end;
    delete from made_objects o
    where o.kind = kind and o.schema = doomed.schema and o.name = doomed.name and o.arguments = doomed.arguments;
end
$$;

comment on procedure pgcache_internal.unmake(text, oid) is -- noqa: LT01
'Drops one of the own objects, and those of them that depend on it. Errors: PC093 other objects depend on it.';
