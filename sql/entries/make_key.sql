-- Keys out of the parts that make up a question.

create or replace function pgcache.cache_key(variadic parts text[]) returns text
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select encode(sha256(convert_to(
        coalesce(string_agg(
            coalesce(octet_length(convert_to(p.part, 'UTF8')) || ':' || p.part, '~'), ',' order by p.place
        ), ''), 'UTF8'
    )), 'hex')
    from unnest(parts) with ordinality p (part, place)
$$;

comment on function pgcache.cache_key(text[]) is
'64 hex digits of SHA-256 over the parts in UTF-8, each written as its length in bytes, a colon and itself (NULL as ~),'
' joined by commas: different parts never share a key, so cache_key(''ab'',''c'') <> cache_key(''a'',''bc''). It is the'
' same in databases of all encodings. Errors: 22021 in one of SQL_ASCII for bytes that are not UTF-8.';

create or replace function pgcache_internal.canonical_json(value jsonb) returns text
language sql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select case jsonb_typeof(value)
        when 'object' then (
            select '{' || coalesce(string_agg(
                to_json(e.key)::text || ':' || canonical_json(e.value), ',' order by convert_to(e.key, 'UTF8')
            ), '') || '}'
            from jsonb_each(value) e
        )
        when 'array' then (
            select '[' || coalesce(string_agg(canonical_json(e.value), ',' order by e.place), '') || ']'
            from jsonb_array_elements(value) with ordinality e (value, place)
        )
        when 'number' then trim_scale(value::numeric)::text
        else value::text
    end
$$;

comment on function pgcache_internal.canonical_json(jsonb) is
'One text for all JSON values that are equal: keys sorted by their bytes in UTF-8, no spaces, numbers without trailing'
' zeros.';

create or replace function pgcache.cache_key_json(value jsonb) returns text
language sql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select encode(sha256(convert_to(canonical_json(value), 'UTF8')), 'hex') $$;

comment on function pgcache.cache_key_json(jsonb) is
'64 hex digits of SHA-256 over the canonical JSON: the order of keys, white space and 1.0 against 1 make no difference.'
' NULL for NULL.';
