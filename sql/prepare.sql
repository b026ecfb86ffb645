-- When all functions are there: what depends on the registered types.

select pgcache.prepare_type(type) from pgcache.cache_types order by type;
select pgcache.compile_types();
