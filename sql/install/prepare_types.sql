-- When all functions are there: what depends on the registered types, and on the watched tables.

select pgcache_internal.prepare_type(type) from pgcache_internal.types order by type;
select pgcache_internal.compile_types();
select pgcache_internal.prepare_watches();
