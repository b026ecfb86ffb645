-- Keys out of the parts that make up a question.

create or replace function pgcache.cache_key(variadic parts text[]) returns text
language plpgsql immutable parallel safe  -- not pinned: hot path
as $$
declare
    part pg_catalog.text;
    written pg_catalog.text[] := array[]::pg_catalog.text[];  -- of any number of parts: a text would be copied for each
begin
    foreach part in array coalesce(parts, '{}') loop
        written := pg_catalog.array_append(written, case
            when part is null then '~'
            else pg_catalog.concat(pg_catalog.octet_length(pg_catalog.convert_to(part, 'UTF8')), ':', part)
        end);
    end loop;
    return pg_catalog.encode(
        pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.array_to_string(written, ','), 'UTF8')), 'hex'
    );
end
$$;

comment on function pgcache.cache_key(text[]) is
'64 hex digits of SHA-256 over the parts in UTF-8, each written as its length in bytes, a colon and itself (NULL as ~),'
' joined by commas: different parts never share a key, so cache_key(''ab'',''c'') <> cache_key(''a'',''bc''). It is the'
' same in databases of all encodings. Errors: 22021 in one of SQL_ASCII for bytes that are not UTF-8.';

create or replace function pgcache_internal.canonical_part(value jsonb) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when pg_catalog.jsonb_typeof(value) operator(pg_catalog.=) any (array['object', 'array', 'number'])
            then pgcache_internal.canonical_json(value)
        else value::pg_catalog.text
    end
$$;

comment on function pgcache_internal.canonical_part(jsonb) is
'canonical_json, which is not called for what PostgreSQL writes in one way only.';

create or replace function pgcache_internal.canonical_json(value jsonb) returns text
language plpgsql immutable parallel safe  -- which keeps its plans, as one in SQL does not
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    case jsonb_typeof(value)
        when 'object' then
            return (
                select '{' || coalesce(string_agg(
                    to_json(e.key)::text || ':' || canonical_part(e.value), ',' order by convert_to(e.key, 'UTF8')
                ), '') || '}'
                from jsonb_each(value) e
            );
        when 'array' then
            return (
                select '[' || coalesce(string_agg(canonical_part(e.value), ',' order by e.place), '') || ']'
                from jsonb_array_elements(value) with ordinality e (value, place)
            );
        when 'number' then
            return trim_scale(value::numeric)::text;
        else
            return value::text;
    end case;
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
