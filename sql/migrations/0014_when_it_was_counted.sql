-- A snapshot stands under its hour, but the last one of an hour may be of its end: what came since counts from then.

alter table pgcache_internal.stats_snapshots add column counted_at timestamptz;
update pgcache_internal.stats_snapshots set counted_at = taken_at;
alter table pgcache_internal.stats_snapshots alter column counted_at set not null;
