-- Writing one entry, the other hot path. As in cache_get one static statement does it all: it checks the call, upserts,
-- and ticks the type's clock of writes, a cyclic sequence. When the clock strikes, or the value is large, the write is
-- noted, so that the commit makes room. Whatever is wrong with a call makes the statement store nothing;
-- explain_refusal finds out what it was. cache_set and cache_add differ by whether a live entry is replaced.

create or replace function pgcache.cache_set(
    type text, key text, value jsonb, ttl interval default null, tags text[] default null, token bigint default null,
    jitter float8 default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.is_writable() and case
        when tags is null and token is null
            then pgcache_internal.put(type, key, value, pgcache_internal.jittered(type, ttl, jitter), true)
        else pgcache_internal.put_fresh(
            type, key, value, pgcache_internal.jittered(type, ttl, jitter), tags, token
        )
    end
$$;

comment on function pgcache.cache_set(text, text, jsonb, interval, text[], bigint, float8) is
'Stores a value under a key of the current tenant, for ttl (default: the type''s) from now, in place of what was there.'
' True if stored, false if the type is disabled. tags: what it depends on, see cache_invalidate_tags. token: that of'
' cache_fetch: stored only if nothing has changed since, neither the entry nor what its tags stand for; false if so.'
' jitter: by what share of it, at random from 0 to this, the ttl is shortened (0 to 1, such as 0.1), so that what is'
' stored together does not expire together.'
' Errors: PC001 unknown type, PC002 invalid key, PC003 invalid ttl,'
' PC004 value that does not fit the type, PC005 wrong vector dimension, PC009 type full, or tenant at its'
' limit (eviction none), or value larger than max_bytes of one, 25006 READ ONLY transaction.';

create or replace function pgcache.cache_add(
    type text, key text, value jsonb, ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.is_writable() and (
        pgcache_internal.put(type, key, value, ttl, false)
        or pgcache_internal.remove_invalid(type, key) and pgcache_internal.put(type, key, value, ttl, false)
    )
$$;

comment on function pgcache.cache_add(text, text, jsonb, interval) is
'Stores a value only if the key has none or one that is expired or invalid; true if it did. Of many at once exactly one'
' gets true. Errors: as cache_set.';

create or replace function pgcache_internal.remove_invalid(type text, key text) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    removed bigint;
begin
    execute format(
        'delete from %s t where t.tenant = $1 and t.cache_key = $2 and not is_live(null, t.cache_tags, t.tenant,'
        ' t.cache_epoch, null)', (check_type(type)).relation
    )
    using tenant_here(), key;
    get diagnostics removed = row_count;
    return removed > 0;
end
$$;

comment on function pgcache_internal.remove_invalid(text, text) is
'Removes an entry one of whose tags was invalidated; true if there was one.';

select pgcache_internal.define($frame$
create or replace function pgcache_internal.put(
    type text, key text, value jsonb, ttl interval, overwrite boolean, raw bytea default null
) returns boolean
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    moment constant pg_catalog.timestamptz := pgcache_internal.cache_now();
    clock bigint;  -- what the type's clock of writes shows after this one; NULL: nothing was stored
begin
    if @branches    end if;
    if clock operator(pg_catalog.>) 1::bigint
        and coalesce(pg_catalog.octet_length(raw), pg_catalog.pg_column_size(value))
            operator(pg_catalog.<=) pgcache_internal.large_value()
    then
        return true;
    elsif clock is null then
        return pgcache_internal.explain_refusal(type, key, value, ttl, raw);
    end if;
    perform pgcache_internal.note_writes(
        type, clock operator(pg_catalog.=) 1::bigint,
        coalesce(pg_catalog.octet_length(raw), pg_catalog.pg_column_size(value))
    );
    return true;
end
$body$;
comment on function pgcache_internal.put(text, text, jsonb, interval, boolean, bytea) is
'Upserts one entry; with overwrite false only over an expired one. raw: the bytes of a value of bytes, in place of'
' those in the JSON. True if it was stored. Errors: as cache_set.';
$frame$, $branch$type operator(pg_catalog.=) '@type' then
        if @full then  -- on its own: the rest takes a statement
            if pgcache_internal.may_replace() and not exists (
                select from @table e
                where e.tenant operator(pg_catalog.=) scope and e.cache_key operator(pg_catalog.=) key
            ) and pgcache_internal.replace_worst(type, key, value, ttl, moment, raw) then
                return true;
            end if;
        end if;
        insert into @table as t (tenant, cache_key, @columns, created_at, expires_at, last_accessed_at, hit_weight)
        select
            scope, key, @raw_or_given,
            moment, pgcache_internal.expires_at(moment, ttl, pgcache_internal.type_ttl('@type')), moment,
            pgcache_internal.type_hit_weight('@type')
        where pgcache_internal.may_write('@type', key, ttl, scope) and @fits and @takes_raw
        on conflict on constraint @pkey do update
        set @updates, created_at = excluded.created_at, expires_at = excluded.expires_at,
            last_accessed_at = excluded.last_accessed_at, @untagged
        where overwrite or t.expires_at operator(pg_catalog.<=) moment
        returning pg_catalog.nextval('pgcache_internal.writes_@type') into clock;
$branch$, $own$type operator(pg_catalog.=) '@type' and @fits and raw is null then
        return pgcache_internal.@writer(key, value, ttl, overwrite);
$own$);

select pgcache_internal.define($frame$
create or replace function pgcache_internal.value_fits(type text, value jsonb) returns boolean
language plpgsql immutable parallel safe  -- not pinned: hot path
as $body$
begin
    if @branches    end if;
    return false;
end
$body$;
comment on function pgcache_internal.value_fits(text, jsonb) is
'Whether a value has the fields that the type needs, of the right kinds, and no others; reject_value says what is'
' wrong.';
$frame$, $branch$type = '@type' then
        return coalesce(@fits, false);
$branch$);

-- Inlined into the statements of put(), and most of it folded away: see compile_settings.
create or replace function pgcache_internal.may_write(
    type text, key text, ttl interval, tenant text
) returns boolean
language sql volatile parallel unsafe  -- not pinned: inlined
as $$
    select pgcache_internal.type_hit_weight(type) is not null
        and pgcache_internal.is_key(key) and pgcache_internal.is_ttl(ttl)
        and pgcache_internal.is_tenant(tenant)
        and (
            not pgcache_internal.tenant_is_limited(type, tenant)
            or pgcache_internal.admit_tenant(type, key, tenant)
        )
        and (not pgcache_internal.type_may_be_full(type) or pgcache_internal.admit(type, key))
$$;

comment on function pgcache_internal.may_write(text, text, interval, text) is
'Whether the type takes writes and the key, the ttl and the tenant are valid. Errors: PC009 if the type is full, or the'
' tenant at its limit.';

create or replace function pgcache_internal.is_writable() returns boolean
language sql volatile parallel safe  -- not pinned: inlined
as $$
    select case
        when pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'off' then true
        else pgcache_internal.check_writable()
    end
$$;

comment on function pgcache_internal.is_writable() is
'True, or error 25006 in a READ ONLY transaction and on a standby.';

create or replace function pgcache_internal.explain_refusal(
    type text, key text, value jsonb, ttl interval, raw bytea default null
) returns boolean
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered constant types := check_type(type);
begin
    perform check_key(key), expiry(cache_now(), ttl, registered.ttl), check_tenant();
    if raw is not null then
        perform check_bytes_type(type);
    elsif not value_fits(type, value) then
        perform reject_value(type, value);
    end if;
    return false;  -- the type is disabled, or cache_add met a live entry
end
$$;

comment on function pgcache_internal.explain_refusal(text, text, jsonb, interval, bytea) is
'Raises what is wrong with a call that stored nothing, or returns false if nothing is. Errors: PC001, PC002, PC003,'
' PC004.';

create or replace function pgcache.cache_never() returns interval
language sql immutable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.make_interval(months => 2147483647) $$;

comment on function pgcache.cache_never() is
'The ttl with which an entry never expires, whatever the type''s is: the longest interval that there is. From'
' PostgreSQL 17 on ''infinity'' is one, too.';

create or replace function pgcache_internal.expires_at(
    moment timestamptz, ttl interval, default_ttl interval
) returns timestamptz
language sql stable parallel safe  -- not pinned: inlined
as $$
    select case
        when ttl operator(pg_catalog.>=) pgcache.cache_never() then null
        else moment operator(pg_catalog.+) coalesce(ttl, default_ttl)
    end
$$;

comment on function pgcache_internal.expires_at(timestamptz, interval, interval) is
'When an entry written at moment expires: after ttl, else after the default; NULL = never.';

create or replace function pgcache_internal.is_ttl(ttl interval) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select ttl is null
        or ttl operator(pg_catalog.>) interval '0' and ttl operator(pg_catalog.<) interval '10000 years'
        or ttl operator(pg_catalog.>=) pgcache.cache_never()
$$;

comment on function pgcache_internal.is_ttl(interval) is
'Whether it may be the TTL of a call, NULL for the type''s default.';

create or replace function pgcache_internal.jittered(type text, ttl interval, jitter float8) returns interval
language sql volatile parallel restricted  -- not pinned: inlined
as $$
    select case when jitter is null then ttl else pgcache_internal.shortened(type, ttl, jitter) end
$$;

comment on function pgcache_internal.jittered(text, interval, float8) is
'A TTL, or the type''s, shortened by a share of it, at random from 0 to jitter; NULL: as it is. Errors: PC001, PC003.';

create or replace function pgcache_internal.shortened(type text, ttl interval, jitter float8) returns interval
language plpgsql volatile parallel restricted security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_jitter(jitter);
    return case
        when ttl is null or is_ttl(ttl) and ttl < cache_never()
            then coalesce(ttl, (check_type(type)).ttl) * (1 - jitter * random())
        else ttl  -- which is refused later, unless it is never
    end;
end
$$;

comment on function pgcache_internal.shortened(text, interval, float8) is
'What jittered returns, for a jitter that is not NULL.';

create or replace function pgcache_internal.check_jitter(jitter float8) returns float8
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not jitter between 0 and 1 then
        raise exception using errcode = 'PC003',
            message = format('a jitter of %s is not possible', jitter),
            hint = 'Pass a share from 0 to 1: with 0.1 the TTL is shortened by up to a tenth, at random.';
    end if;
    return jitter;
end
$$;

comment on function pgcache_internal.check_jitter(float8) is
'The jitter itself, NULL for none. Errors: PC003 if it is not from 0 to 1.';

create or replace function pgcache_internal.refuse_ttl(ttl interval) returns timestamptz
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    raise exception using errcode = 'PC003',
        message = format('a TTL of %L is not possible', ttl),
        hint = 'Pass a positive interval under 10000 years, such as ''5 minutes'' or ''3600'' (seconds);'
            ' NULL means the type''s default, cache_never() that it never expires; cache_delete removes an entry.';
end
$$;

comment on function pgcache_internal.refuse_ttl(interval) is 'Says that an interval is no TTL. Errors: PC003.';

create or replace function pgcache_internal.expiry(
    moment timestamptz, ttl interval, default_ttl interval
) returns timestamptz
language plpgsql immutable parallel safe  -- not pinned: hot path
as $$
begin
    if pgcache_internal.is_ttl(ttl) then
        return pgcache_internal.expires_at(moment, ttl, default_ttl);
    end if;
    return pgcache_internal.refuse_ttl(ttl);
end
$$;

comment on function pgcache_internal.expiry(timestamptz, interval, interval) is
'When an entry written at moment expires: after ttl, else after the default; NULL = never. Errors: PC003.';
