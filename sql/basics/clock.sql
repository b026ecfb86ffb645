-- The clock: clock_timestamp(), since now() stands still in a long transaction, and statement_timestamp() in a long
-- procedure. Tests that set the time need a slower one; it would cost each get 5 %, and let any role read what has
-- expired.

create or replace function pgcache_internal.compile_clock() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $compile$
declare
    clock record;
begin
    for clock in
        select * from (values
            ('cache_now', 'clock_timestamp', 'volatile', 'The time by which entries expire'),
            ('statement_start', 'statement_timestamp', 'stable',
                'What was created from then on, this statement of the client has written, or one that began later')
        ) c (name, source, volatility, description)
    loop
        call make(format($function$
create or replace function pgcache_internal.%1$s() returns timestamptz
language sql %2$s parallel safe  -- not pinned: inlined
as %3$L;
comment on function pgcache_internal.%1$s() is %4$L;
$function$,
            clock.name, clock.volatility,
            format(
                case cache_setting('test_clock')
                    when 'on' then $body$
    select case
        when pg_catalog.current_setting('pgcache.clock', true) operator(pg_catalog.<>) ''
            then pg_catalog.current_setting('pgcache.clock', true)::pg_catalog.timestamptz
        else pg_catalog.%s()
    end
$body$
                    else ' select pg_catalog.%s() '
                end,
                clock.source
            ),
            format('%s: %s(); with the setting test_clock on, that of the session (SET pgcache.clock, a timestamptz),'
                ' if it has any.', clock.description, clock.source)
        ));
    end loop;
end
$compile$;

comment on function pgcache_internal.compile_clock() is
'Writes cache_now and statement_start for the setting test_clock.';
