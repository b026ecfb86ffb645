-- Types: how old entries get at most, and by which of the settings ttl_... they expire.
alter table pgcache_internal.types
add column max_age interval check (max_age > interval '0'),
add column tier text;
