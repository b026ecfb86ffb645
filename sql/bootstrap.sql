-- The first thing that an installation runs, and the only file that runs before the migrations: it may rely on nothing,
-- so it is re-runnable, and asks for no more rights than it needs on a database where pgcache is there already.

do $$
declare
    server integer := current_setting('server_version_num')::integer;
begin
    if server < 150000 then
        raise exception 'pgcache needs PostgreSQL 15 or newer, and this server is %', server / 10000
            using errcode = 'feature_not_supported',
                hint = 'Install it on a server of PostgreSQL 15 to 18, or upgrade this one.';
    end if;
    -- CREATE SCHEMA IF NOT EXISTS would ask for CREATE on the database even if the schema exists.
    if to_regnamespace('pgcache') is null then
        create schema pgcache;
        comment on schema pgcache
            is 'A cache inside PostgreSQL. SELECT * FROM pgcache.cache_stats shows what it holds.';
    end if;
    if to_regnamespace('pgcache_internal') is null then
        create schema pgcache_internal;
        comment on schema pgcache_internal
            is 'What pgcache is made of. It is on nobody''s search_path and may change with every version: '
            'call what is in pgcache.';
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
