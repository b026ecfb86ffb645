-- face: face embeddings of an image, per tenant (table face_embeddings_cache).

select pgcache_internal.declare_type(
    'face', 'face_embeddings_cache', 'the faces in an image, an array of {bbox, embedding, det_score}',
    ttl => null, max_bytes => null, fields => '{"embeddings": "array!"}'
);

create or replace function pgcache.cache_get_face(image bytea, tenant text) returns jsonb
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.get_for_tenant(tenant, 'face', pgcache.image_key(image))
        operator(pg_catalog.->) 'embeddings'
$$;

comment on function pgcache.cache_get_face(bytea, text) is
'The face embeddings of an image that were cached for a tenant, NULL or '''' for the shared one: a JSON array of'
' {"bbox", "embedding", "det_score"}, empty if it has no face; NULL on a miss. Errors: PC002 image NULL; as cache_get.';

create or replace function pgcache.cache_set_face(
    image bytea, tenant text, embeddings jsonb, ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.set_for_tenant(
        tenant, 'face', pgcache.image_key(image), pg_catalog.jsonb_build_object('embeddings', embeddings), ttl
    )
$$;

comment on function pgcache.cache_set_face(bytea, text, jsonb, interval) is
'Caches the face embeddings of an image for a tenant; by default they never expire. Errors: as cache_set.';
