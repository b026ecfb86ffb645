-- What the script of an extension does first: it says in the setting pgcache.installs whether the rest is to run.
--
-- It is not where a dump is being restored. pgcache is its data, and what it has made while it ran: none of that may
-- belong to the extension, as pg_dump leaves out what does. So all is in the dump, the schemas before CREATE EXTENSION,
-- the rest after it.

set local search_path to pg_catalog, pg_temp;

do $$
declare
    schemas constant oid[] := array[to_regnamespace('pgcache'), to_regnamespace('pgcache_internal')];
    restored constant boolean := array_position(schemas, null) is null
        and not exists (select from pg_class c where c.relnamespace = any(schemas))
        and not exists (select from pg_proc p where p.pronamespace = any(schemas));
begin
    perform set_config('pgcache.installs', case when restored then 'off' else 'on' end, true);
    perform set_config('pgcache.installs_python', 'off', true);
    -- Dumps turn it off, unless they have been told not to.
    if restored and current_setting('row_security')::boolean then
        raise warning using
            message = 'nothing was made, as the schemas pgcache and pgcache_internal are there and empty',
            detail = 'So they are where a dump is being restored.',
            hint = 'If none is: DROP EXTENSION pgcache; DROP SCHEMA pgcache, pgcache_internal; then again.';
    end if;
end
$$;
