-- face: face embeddings of an image, per tenant (table face_embeddings_cache).

create or replace function pgcache_internal.cache_value(t pgcache.face_embeddings_cache) returns jsonb
language sql stable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.jsonb_build_object('embeddings', t.embeddings) $$;

comment on function pgcache_internal.cache_value(pgcache.face_embeddings_cache) is 'The JSON value of a face entry.';

create or replace function pgcache_internal.face_fits(value jsonb) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.jsonb_typeof(value) = 'object' and pg_catalog.jsonb_typeof(value -> 'embeddings') = 'array' and value - 'embeddings' = '{}' $$;

comment on function pgcache_internal.face_fits(jsonb) is 'Whether a JSON value can be a face entry.';

create or replace function pgcache.image_key(image bytea) returns text
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$ select encode(sha256(image), 'hex') $$;

comment on function pgcache.image_key(bytea) is 'The key of an image: 64 hex digits of SHA-256 of its bytes.';

-- The caches of images name their tenant in the call; the setting is put back, so that it does not outlive the call
-- (after an error, by the rollback). A SET clause would do that too, but only superusers may create one for a setting
-- that no extension has defined.
create or replace function pgcache_internal.get_for_tenant(tenant text, type text, key text) returns jsonb
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
declare
    caller constant text := pgcache_internal.current_tenant();
    found_value jsonb;
begin
    perform pg_catalog.set_config('pgcache.tenant', coalesce(tenant, ''), true);
    found_value := pgcache.cache_get(type, key);
    perform pg_catalog.set_config('pgcache.tenant', caller, true);
    return found_value;
end
$$;

comment on function pgcache_internal.get_for_tenant(text, text, text) is 'cache_get for a tenant that is named in the call; the setting pgcache.tenant is as before afterwards.';

create or replace function pgcache_internal.set_for_tenant(tenant text, type text, key text, value jsonb, ttl interval) returns boolean
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
declare
    caller constant text := pgcache_internal.current_tenant();
    stored boolean;
begin
    perform pg_catalog.set_config('pgcache.tenant', coalesce(tenant, ''), true);
    stored := pgcache.cache_set(type, key, value, ttl);
    perform pg_catalog.set_config('pgcache.tenant', caller, true);
    return stored;
end
$$;

comment on function pgcache_internal.set_for_tenant(text, text, text, jsonb, interval) is 'cache_set for a tenant that is named in the call; the setting pgcache.tenant is as before afterwards.';

create or replace function pgcache.cache_get_face(image bytea, tenant text) returns jsonb
language sql volatile parallel unsafe  -- not pinned: hot path
as $$ select pgcache_internal.get_for_tenant(tenant, 'face', pgcache.image_key(image)) -> 'embeddings' $$;

comment on function pgcache.cache_get_face(bytea, text) is
'The face embeddings of an image: a JSON array of {"bbox", "embedding", "det_score"}, empty if it has no face; NULL on a miss.';

create or replace function pgcache.cache_set_face(image bytea, tenant text, embeddings jsonb, ttl interval default null) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.set_for_tenant(tenant, 'face', pgcache.image_key(image),
        pg_catalog.jsonb_build_object('embeddings', embeddings), ttl)
$$;

comment on function pgcache.cache_set_face(bytea, text, jsonb, interval) is
'Caches the face embeddings of an image for a tenant; by default they never expire. Errors: as cache_set.';
