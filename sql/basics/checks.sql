-- Every error has a stable SQLSTATE of class PC and a HINT with the next step. These are off the hot path.

create or replace function pgcache_internal.check_type(type text) returns pgcache_internal.types
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    known types;
begin
    select * into known from types t where t.type = check_type.type;
    if not found then
        raise exception using errcode = 'PC001',
            message = format('there is no cache type %L', type),
            hint = format('The types: %s. Create one with SELECT cache_create_type(%L).',
                (select string_agg(t.type, ', ' order by t.type) from types t), coalesce(type, 'name'));
    end if;
    return known;
end
$$;

comment on function pgcache_internal.check_type(text) is
'The registry''s row of a type. Errors: PC001 for an unknown or NULL type.';

create or replace function pgcache_internal.check_json_type(type text) returns text
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if (check_type(type)).fields is not null then
        raise exception using errcode = 'PC004',
            message = format('the type %s is not a JSON type', type),
            hint = format('Its entries have columns of their own, in the table %s.', (check_type(type)).relation);
    end if;
    return type;
end
$$;

comment on function pgcache_internal.check_json_type(text) is
'The type itself, or an error: PC001 for an unknown type, PC004 for one whose values have columns of their own.';

create or replace function pgcache_internal.is_key(key text) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select key operator(pg_catalog.<>) '' and pg_catalog.octet_length(key) operator(pg_catalog.<=) 1024
$$;

comment on function pgcache_internal.is_key(text) is
'Whether it may be a cache key: a text of 1 to 1024 bytes; NULL for NULL.';

create or replace function pgcache_internal.check_key(key text) returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if is_key(key) then
        return key;
    elsif key is null or key = '' then
        raise exception using errcode = 'PC002',
            message = format('a cache key cannot be %s', case when key is null then 'NULL' else 'empty' end),
            hint = 'Pass a text of 1 to 1024 bytes; cache_key(part, ...) makes one from any parts, NULL and empty ones'
                ' too.' || case
                    when key is null
                        then ' The key of a typed call is NULL where its prompt, model, text, image or the like is.'
                    else ''
                end;
    end if;
    raise exception using errcode = 'PC002',
        message = format('a cache key of %s bytes is too long: the limit is 1024', octet_length(key)),
        hint = 'Hash it: cache_key(long_text, ...) returns 64 hex digits for texts of any length.';
end
$$;

comment on function pgcache_internal.check_key(text) is
'The key itself if it is valid. Errors: PC002 for NULL, empty, or over 1024 bytes.';

create or replace function pgcache_internal.check_keys(keys text[]) returns text[]
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if keys is null then
        raise exception using errcode = 'PC002',
            message = 'the array of keys is NULL',
            hint = 'Pass a text array; an empty one is allowed.';
    end if;
    perform check_key(k) from unnest(keys) k where is_key(k) is not true;
    return keys;
end
$$;

comment on function pgcache_internal.check_keys(text[]) is 'The keys themselves if all are valid. Errors: PC002.';

create or replace function pgcache_internal.check_given(what text, value text) returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if value is null then
        raise exception using errcode = 'PC002',
            message = format('the %s to invalidate is NULL', what),
            hint = format('Nothing would be invalidated: pass the %s''s name.', what);
    end if;
    return value;
end
$$;

comment on function pgcache_internal.check_given(text, text) is
'The value itself. Errors: PC002 for NULL, which would silently invalidate nothing.';

create or replace function pgcache_internal.is_span(
    value interval, shortest interval, longest interval
) returns boolean
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select value between shortest and longest
        and date_trunc('month', value) between '0' and longest and date_trunc('day', value) between '0' and longest
$$;

comment on function pgcache_internal.is_span(interval, interval, interval) is
'Whether an interval is between two others, and so is what it adds to a time: in a comparison a month has 30 days, so'
' many months and days less can be a minute there and an age, or no time at all, in a sum.';

create or replace function pgcache_internal.check_pattern(pattern text) returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if pattern is null or pattern = '' then
        raise exception using errcode = 'PC006',
            message = 'a key pattern cannot be NULL or empty',
            hint = 'Use LIKE wildcards: ''user:42:%'' for a prefix, ''%'' for every key.';
    elsif (length(pattern) - length(rtrim(pattern, e'\\'))) % 2 = 1 then
        raise exception using errcode = 'PC006',
            message = format('the key pattern %s ends in a lone escape character', pattern),
            hint = e'A backslash escapes the next character (\\% and \\_ are literal);'
                ' write \\\\ for a backslash itself.';
    end if;
    return pattern;
end
$$;

comment on function pgcache_internal.check_pattern(text) is
'The LIKE pattern itself if it is valid. Errors: PC006 for NULL, empty, or a lone escape at its end.';

create or replace function pgcache_internal.check_rows(max_rows bigint) returns bigint
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if max_rows < 0 then
        raise exception using errcode = 'PC010',
            message = format('cannot return %s rows', max_rows),
            hint = 'Pass how many to return at most, 0 or more; NULL for all.';
    end if;
    return max_rows;
end
$$;

comment on function pgcache_internal.check_rows(bigint) is
'The number of rows itself if it is not negative; NULL for NULL. Errors: PC010.';

create or replace function pgcache_internal.check_writable() returns boolean
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_read_only') = 'on' then
        raise exception using errcode = '25006',
            message = case
                when pg_is_in_recovery() then 'this server is a standby: the cache can be read here, not written'
                else 'the cache cannot be written in a READ ONLY transaction'
            end,
            hint = case
                when pg_is_in_recovery() then 'Write on the primary server.'
                else 'cache_get works here; for writes use BEGIN READ WRITE or a connection of its own.'
            end;
    end if;
    return true;
end
$$;

comment on function pgcache_internal.check_writable() is 'Errors: 25006 in a READ ONLY transaction and on a standby.';

create or replace function pgcache_internal.owner() returns name
language plpgsql stable parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
    return (select pg_get_userbyid(n.nspowner) from pg_namespace n where n.nspname = 'pgcache');
end
$$;

comment on function pgcache_internal.owner() is 'Who owns the schema pgcache, and so the cache.';

create or replace function pgcache_internal.check_owner() returns void
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not pg_has_role(owner(), 'usage') then
        raise exception using errcode = '42501',
            message = format('the schema pgcache belongs to %I, and you are %I', owner(), current_user),
            hint = format('Connect as %I, or as a member of that role.', owner());
    end if;
end
$$;

comment on function pgcache_internal.check_owner() is
'Errors: 42501 for roles that are not the owner of schema pgcache.';
