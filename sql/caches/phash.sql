-- phash: perceptual hashes of images, per tenant (table perceptual_hash_cache).

select pgcache_internal.declare_type(
    'phash', 'perceptual_hash_cache', 'perceptual hashes of images', ttl => null, max_bytes => null,
    fields => '{"phash": "string!"}', hot_ttl => '2 hours'
);

create or replace function pgcache.cache_get_phash(image bytea, tenant text) returns text
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.get_for_tenant(tenant, 'phash', pgcache.image_key(image)) operator(pg_catalog.->>) 'phash'
$$;

comment on function pgcache.cache_get_phash(bytea, text) is
'The perceptual hash of an image that was cached for a tenant, NULL or '''' for the shared one; NULL on a miss. Errors:'
' PC002 image NULL; as cache_get.';

create or replace function pgcache.cache_set_phash(
    image bytea, tenant text, phash text, ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.set_for_tenant(
        tenant, 'phash', pgcache.image_key(image), pg_catalog.jsonb_build_object('phash', phash), ttl
    )
$$;

comment on function pgcache.cache_set_phash(bytea, text, text, interval) is
'Caches the perceptual hash of an image for a tenant; by default it never expires. Errors: as cache_set.';
