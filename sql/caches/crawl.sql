-- crawl: images that a crawler has already stored, per tenant (table crawl_cache).

select pgcache_internal.declare_type(
    'crawl', 'crawl_cache', 'images that a crawler has stored, and where', ttl => null, max_bytes => null,
    fields => '{"url": "string!", "image_hash": "string!", "raw_key": "string!", "thumbnail_key": "string"}',
    hot_ttl => '24 hours'
);

create or replace function pgcache.crawl_key(url text, image bytea) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case when url is not null and image is not null then pgcache.cache_key(url, pgcache.image_key(image)) end
$$;

comment on function pgcache.crawl_key(text, bytea) is
'The key of a crawled image: cache_key of its URL and of SHA-256 of its bytes, so that a changed image at an old URL is'
' new; NULL if one of them is.';

create or replace function pgcache.crawl_should_skip(
    url text, image bytea, tenant text, out should_skip boolean, out raw_key text
)
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
declare
    stored constant pg_catalog.jsonb := pgcache_internal.get_for_tenant(
        tenant, 'crawl', pgcache.crawl_key(url, image)
    );
begin
    should_skip := stored is not null;
    raw_key := stored operator(pg_catalog.->>) 'raw_key';
end
$$;

comment on function pgcache.crawl_should_skip(text, bytea, text) is
'Whether this image from this URL is stored already for a tenant, NULL or '''' for the shared one, and under which'
' raw_key. Errors: PC002 url or image NULL; as cache_get.';

create or replace function pgcache.crawl_store(
    url text, image bytea, raw_key text, thumbnail_key text, tenant text, ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.set_for_tenant(
        tenant, 'crawl', pgcache.crawl_key(url, image),
        pg_catalog.jsonb_build_object(
            'url', url, 'image_hash', pgcache.image_key(image), 'raw_key', raw_key, 'thumbnail_key', thumbnail_key
        ),
        ttl
    )
$$;

comment on function pgcache.crawl_store(text, bytea, text, text, text, interval) is
'Records that an image from a URL is stored under raw_key (and its thumbnail under thumbnail_key, which may be NULL);'
' by default for ever. Errors: as cache_set.';
