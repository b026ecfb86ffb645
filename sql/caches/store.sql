-- store: any JSON. Its entries, and those of the JSON types that users create, are partitions of cache_store.

select pgcache_internal.declare_type('store', 'cache_type_store', 'any JSON');
