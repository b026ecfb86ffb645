-- phash: perceptual hashes of images, per tenant (table perceptual_hash_cache).

create or replace function pgcache_internal.cache_value(t pgcache.perceptual_hash_cache) returns jsonb
language sql stable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.jsonb_build_object('phash', t.phash) $$;

comment on function pgcache_internal.cache_value(pgcache.perceptual_hash_cache) is 'The JSON value of a phash entry.';

create or replace function pgcache_internal.phash_fits(value jsonb) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.jsonb_typeof(value) = 'object' and pg_catalog.jsonb_typeof(value -> 'phash') = 'string' and value - 'phash' = '{}' $$;

comment on function pgcache_internal.phash_fits(jsonb) is 'Whether a JSON value can be a phash entry.';

create or replace function pgcache.cache_get_phash(image bytea, tenant text) returns text
language sql volatile parallel unsafe  -- not pinned: hot path
as $$ select pgcache_internal.get_for_tenant(tenant, 'phash', pgcache.image_key(image)) ->> 'phash' $$;

comment on function pgcache.cache_get_phash(bytea, text) is 'The perceptual hash of an image; NULL on a miss.';

create or replace function pgcache.cache_set_phash(image bytea, tenant text, phash text, ttl interval default null) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.set_for_tenant(tenant, 'phash', pgcache.image_key(image),
        pg_catalog.jsonb_build_object('phash', phash), ttl)
$$;

comment on function pgcache.cache_set_phash(bytea, text, text, interval) is
'Caches the perceptual hash of an image for a tenant; by default it never expires. Errors: as cache_set.';
