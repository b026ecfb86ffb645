-- What the typed caches check of a JSON value.

create or replace function pgcache_internal.is_count(value jsonb) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$ select value is null or pg_catalog.jsonb_typeof(value) = 'null' or (pg_catalog.jsonb_typeof(value) = 'number' and value::text ~ '^\d{1,9}$') $$;

comment on function pgcache_internal.is_count(jsonb) is 'Whether a JSON value is absent, null or a whole number of up to nine digits, not negative.';

create or replace function pgcache_internal.is_text(value jsonb) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$ select coalesce(pg_catalog.jsonb_typeof(value), 'null') in ('string', 'null') $$;

comment on function pgcache_internal.is_text(jsonb) is 'Whether a JSON value is absent, null or a string.';
