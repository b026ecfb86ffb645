-- The one clock. statement_timestamp() rather than now(), which stands still in a long transaction.
create or replace function pgcache.cache_now() returns timestamptz
language sql stable parallel safe
as $$
    select case
        when pg_catalog.current_setting('pgcache.clock', true) <> ''
            then pg_catalog.current_setting('pgcache.clock', true)::timestamptz
        else pg_catalog.statement_timestamp()
    end
$$;

comment on function pgcache.cache_now() is
'The time by which entries expire: statement_timestamp(), or the setting pgcache.clock (a timestamptz) where a test sets it.';
