-- vector_search: results of similarity searches, each in the scope of a user (table cache_vector_search).

select pgcache_internal.declare_type(
    'vector_search', 'cache_vector_search', 'results of similarity searches',
    fields => '{"results": "any!", "user_id": "string"}', hot_ttl => '5 minutes'
);

-- The vector as it goes over the wire, since a client cannot write a float as PostgreSQL does.
create or replace function pgcache_internal.vector_digest(query vector) returns text
language plpgsql immutable parallel safe  -- not in vector_search_key, which array_send would keep from being inlined
set search_path to pg_catalog, pg_temp
as $$ begin return encode(sha256(array_send(query::real[])), 'hex'); end $$;

comment on function pgcache_internal.vector_digest is '64 hex digits of SHA-256 of array_send(query::real[]).';

create or replace function pgcache.vector_search_key(
    query vector, filters jsonb, top_k bigint, user_id text
) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when query is not null and top_k is not null then pgcache.cache_key(
            coalesce(user_id, ''), pgcache_internal.vector_digest(query),
            pgcache_internal.canonical_json(coalesce(filters, '{}')), top_k::pg_catalog.text
        )
    end
$$;

comment on function pgcache.vector_search_key is
'The key of a search: cache_key of user, SHA-256 of the query vector as array_send(query::real[]), canonical filters'
' and top_k; NULL if query or top_k is.';

create or replace function pgcache.cache_get_vector_search(
    query vector, filters jsonb default '{}', top_k bigint default 10, user_id text default ''
) returns jsonb
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache.cache_get('vector_search', pgcache.vector_search_key(query, filters, top_k, user_id))
        operator(pg_catalog.->) 'results'
$$;

comment on function pgcache.cache_get_vector_search is
'The cached results of a search by the same vector, filters and top_k for the same user; NULL on a miss.'
' filters are compared as JSON values, the vector by its float32 numbers. Errors: as cache_get.';

create or replace function pgcache.cache_set_vector_search(
    query vector, results jsonb, filters jsonb default '{}', top_k bigint default 10, user_id text default '',
    ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache.cache_set(
        'vector_search', pgcache.vector_search_key(query, filters, top_k, user_id),
        pg_catalog.jsonb_build_object(
            'results', results, 'user_id', case when user_id operator(pg_catalog.<>) '' then user_id end
        ),
        ttl
    )
$$;

comment on function pgcache.cache_set_vector_search is
'Caches the results of a search. user_id: whose results these are ('''' = everybody''s). ttl: default of the type, 1'
' hour. Errors: as cache_set.';
