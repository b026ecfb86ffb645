"""The client of a cache in PostgreSQL. Import it from pgcache_py: AsyncCache, Cache."""
