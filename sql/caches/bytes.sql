-- bytes: bytes, and whole numbers (table cache_bytes).

select pgcache_internal.declare_type(
    'bytes', 'cache_bytes', 'bytes, and whole numbers', ttl => null, fields => pgcache_internal.fields_of_bytes()::json
);
