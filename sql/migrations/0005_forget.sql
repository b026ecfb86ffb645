-- What cache_forget needs.
create table pgcache_internal.hot_erasures (
    id bigint generated always as identity primary key,
    type text,
    tenant text collate "C",
    redis text,
    place text,
    noted_at timestamptz not null default clock_timestamp()
);
comment on table pgcache_internal.hot_erasures is
'Whose entries (tenant NULL: everybody''s), of which type (NULL: of all), the relay has to look for in Redis and'
' remove; in which Redis it has begun, and how far it has come.';

-- ANALYZE would copy names and keys to pg_statistic, where they outlive their rows; a change of type, even to the same,
-- removes what it has copied.
alter table pgcache_internal.hit_log
alter column tenant type text collate "C", alter column cache_key type text collate "C",
alter column tenant set statistics 0, alter column cache_key set statistics 0;
alter table pgcache_internal.hot_outbox
alter column tenant type text collate "C", alter column cache_key type text collate "C",
alter column tenant set statistics 0, alter column cache_key set statistics 0;
alter table pgcache_internal.hot_erasures alter column tenant set statistics 0;
alter table pgcache_internal.tenant_savings alter column tenant set statistics 0;
