-- Bytes: the calls of the types whose values are bytes, or whole numbers. Nothing is encoded on the way. Such a value
-- has two fields, of which it has one: so the calls of all other types go for these types, too, with bytes in base64.

create or replace function pgcache_internal.check_bytes_type(type text) returns void
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not is_of_bytes((check_type(type)).fields) then
        raise exception using errcode = 'PC004',
            message = format('the values of type %s are not bytes', type),
            hint = 'Use ''bytes'' or a type of your own: SELECT cache_create_type(''files'', bytes => true).'
                ' The values of other types are JSON: cache_get, cache_set.';
    end if;
end
$$;

comment on function pgcache_internal.check_bytes_type(text) is
'Errors: PC001 for an unknown type, PC004 for one whose values are not bytes.';

select pgcache_internal.define($frame$
create or replace function pgcache_internal.bytes_at(
    type text, key text
) returns table (bytes bytea, number bigint)  -- a row that is no table's would be copied with all of its bytes, twice
language plpgsql volatile parallel unsafe rows 1 security definer  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    gathered pg_catalog.text;
begin
    if @branches    end if;
    if not found then
        perform pgcache_internal.count_miss(type, key), pgcache_internal.check_bytes_type(type);
    elsif pgcache_internal.are_enough(gathered) then
        perform pgcache_internal.log_gathered(type, key, gathered);
    end if;
    return next;
end
$body$;
comment on function pgcache_internal.bytes_at(text, text) is
'One row: the value under a key in a type of bytes, bytes or a number; both NULL on a miss. Counts as cache_get does.'
' Errors: as cache_get_bytes.';
$frame$, $branch$@of_bytes{type operator(pg_catalog.=) '@type'@readable then
        select
            t.bytes, t.number,
            pgcache_internal.gather_hit('pgcache_internal.hits_@type', t.hit_weight, 'pgcache.hits_@type', t.ctid)
        into bytes, number, gathered
        from @table t
        where t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) key
            and pgcache_internal.is_live(
                t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, pgcache_internal.cache_now()
            );
}$branch$);

create or replace function pgcache_internal.bytes_of_number(number bigint) returns bytea
language sql stable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.convert_to(number::pg_catalog.text, 'UTF8') $$;

comment on function pgcache_internal.bytes_of_number(bigint) is 'The digits of a number.';

create or replace function pgcache.cache_get_bytes(type text, key text) returns bytea
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select coalesce(b.bytes, pgcache_internal.bytes_of_number(b.number))
    from pgcache_internal.bytes_at(type, key) b
$$;

comment on function pgcache.cache_get_bytes(text, text) is
'The bytes stored under a key of the current tenant, in a type of bytes; of a number its digits; NULL on a miss. Works'
' in READ ONLY transactions and on standbys. Errors: PC001 unknown type, PC002 invalid key, PC004 a type of other'
' values.';

create or replace function pgcache.cache_get_many_bytes(
    type text, keys text[]
) returns table (key text, value bytea, number bigint)
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform check_keys(keys);
    return query
    select k.key, coalesce(b.bytes, bytes_of_number(b.number)), b.number
    from unnest(keys) with ordinality k (key, place) cross join lateral bytes_at(type, k.key) b
    order by k.place;
end
$$;

comment on function pgcache.cache_get_many_bytes(text, text[]) is
'One row for each key asked, in the order asked, with the bytes, NULL on a miss. number: set where the value is one;'
' the bytes are then its digits. Errors: PC002 where a key, or the array, is NULL or invalid; as cache_get_bytes.';

-- What put is given in place of the JSON value, with the bytes.
create or replace function pgcache_internal.beside_raw(type text, value bytea, number bigint) returns jsonb
language sql stable parallel safe  -- not pinned: inlined
as $$
    select case
        when value is not null and number is null then '{"bytes": ""}'::pg_catalog.jsonb
        else pgcache_internal.beside_no_raw(type, value, number)
    end
$$;

comment on function pgcache_internal.beside_raw(text, bytea, bigint) is
'A JSON value that fits a type of bytes; of a number the value itself. Errors: as beside_no_raw.';

create or replace function pgcache_internal.beside_no_raw(type text, value bytea, number bigint) returns jsonb
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_bytes_type(type);
    if num_nonnulls(value, number) <> 1 then
        raise exception using errcode = 'PC004',
            message = case
                when number is null then 'the value is NULL'
                else format('there are bytes and the number %s for one key', number)
            end,
            hint = 'Pass bytes, or NULL and a number. NULL is what a miss returns; cache_delete removes an entry.';
    end if;
    return jsonb_build_object('number', number);
end
$$;

comment on function pgcache_internal.beside_no_raw(text, bytea, bigint) is
'The JSON value of a number in a type of bytes. Errors: PC001, PC004 a type of other values, or not just one of the'
' two.';

create or replace function pgcache.cache_set_bytes(
    type text, key text, value bytea, ttl interval default null, tags text[] default null, token bigint default null,
    jitter float8 default null, number bigint default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.is_writable() and case
        when tags is null and token is null then pgcache_internal.put(
            type, key, pgcache_internal.beside_raw(type, value, number),
            pgcache_internal.jittered(type, ttl, jitter), true, value
        )
        else pgcache_internal.put_fresh(
            type, key, pgcache_internal.beside_raw(type, value, number),
            pgcache_internal.jittered(type, ttl, jitter), tags, token, value
        )
    end
$$;

comment on function pgcache.cache_set_bytes(text, text, bytea, interval, text[], bigint, float8, bigint) is
'cache_set of bytes, in a type of bytes. number: what is stored where the value is NULL, and cache_incr counts up.'
' Errors: as cache_set, PC004 a type of other values, or both a value and a number.';

create or replace function pgcache.cache_add_bytes(
    type text, key text, value bytea, ttl interval default null, number bigint default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.is_writable() and (
        pgcache_internal.put(type, key, pgcache_internal.beside_raw(type, value, number), ttl, false, value)
        or pgcache_internal.remove_invalid(type, key)
        and pgcache_internal.put(type, key, pgcache_internal.beside_raw(type, value, number), ttl, false, value)
    )
$$;

comment on function pgcache.cache_add_bytes(text, text, bytea, interval, bigint) is
'cache_add of bytes, in a type of bytes. number: as in cache_set_bytes. Errors: as cache_set_bytes.';

create or replace function pgcache.cache_set_many_bytes(
    type text, keys text[], "values" bytea[], ttl interval default null, numbers bigint[] default null,
    ttls interval[] default null
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    stored bigint;
begin
    perform check_keys(keys), check_bytes_type(type), is_writable();
    if "values" is null or cardinality("values") <> cardinality(keys)
        or cardinality(numbers) <> cardinality(keys) or cardinality(ttls) <> cardinality(keys)
    then
        raise exception using errcode = 'PC004',
            message = format('%s keys need as many values', cardinality(keys)),
            hint = 'Pass arrays of the same length: cache_set_many_bytes(type, keys, values).';
    end if;
    select count(*) filter (
        where put(type, e.key, beside_raw(type, e.value, e.number), coalesce(e.ttl, ttl), true, e.value)
    )
    into stored
    from (
        -- In the order of the keys, so that batches that overlap do not deadlock.
        select distinct on (u.key collate "C") u.*
        from unnest(keys, "values", numbers, ttls) with ordinality u (key, value, number, ttl, place)
        order by u.key collate "C", u.place desc
    ) e;
    return stored;
end
$$;

comment on function pgcache.cache_set_many_bytes(text, text[], bytea[], interval, bigint[], interval[]) is
'Stores many entries in a type of bytes, all or none; of a key that is given twice the last value counts. Returns how'
' many were stored. numbers: what is stored where the value is NULL. ttls: of each, where it is not NULL, in place of'
' ttl. Errors: as cache_set_bytes.';
