-- The one clock: statement_timestamp() rather than now(), which stands still in a long transaction. Tests that set the
-- time need a slower one; it would cost each get 5 %, and let any role read what has expired.

create or replace function pgcache_internal.compile_clock() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $compile$
begin
    call make(format($function$
create or replace function pgcache_internal.cache_now() returns timestamptz
language sql stable parallel safe  -- not pinned: inlined
as %L;
comment on function pgcache_internal.cache_now() is
'The time by which entries expire: statement_timestamp(); with the setting test_clock on, that of the session (SET'
' pgcache.clock, a timestamptz), if it has any.';
$function$,
        case cache_setting('test_clock')
            when 'on' then $body$
    select case
        when pg_catalog.current_setting('pgcache.clock', true) <> ''
            then pg_catalog.current_setting('pgcache.clock', true)::timestamptz
        else pg_catalog.statement_timestamp()
    end
$body$
            else ' select pg_catalog.statement_timestamp() '
        end
    ));
end
$compile$;

comment on function pgcache_internal.compile_clock() is 'Writes cache_now for the setting test_clock.';
