-- What the caches of images share (face, phash, crawl): the key of an image.

create or replace function pgcache.image_key(image bytea) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.encode(pg_catalog.sha256(image), 'hex') $$;

comment on function pgcache.image_key(bytea) is 'The key of an image: 64 hex digits of SHA-256 of its bytes.';
