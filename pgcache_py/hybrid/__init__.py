"""The client with a hot tier in Redis. Import it from pgcache_py: AsyncHybridCache, HybridCache."""
