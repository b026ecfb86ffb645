-- The hot path. A read takes no row lock, never writes the entry and never waits. One static statement per type
-- (EXECUTE would triple the cost) does it all:
--   1. it looks the key up by the primary key;
--   2. it counts the hit with nextval on an unlogged sequence: no transaction id, no WAL, not undone by a rollback;
--   3. it draws whether this hit goes to the hit log, one in hit_weight: from there upkeep brings the entry's own
--      counts up to date.
-- In a READ ONLY transaction and on a standby it only does the first. Everything that can be wrong about a call is
-- looked at on a miss, so that a hit does not pay for it. Each further function or operator here would cost a hit 1 %,
-- each statement 3 to 5 %, and so would SET search_path: hence every name is qualified.
--
-- The statements differ by table and columns only, so they are compiled: see registry/compile.sql.

select pgcache_internal.define($frame$
create or replace function pgcache.cache_get(type text, key text) returns jsonb
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $body$
#variable_conflict use_variable
declare
    -- Not in the statement, which would make it anew each time, and twice.
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    value pg_catalog.jsonb;
    model pg_catalog.text;
    tokens integer;
    input_tokens integer;
    cached_tokens integer;
    counted bigint;  -- NULL: there was no hit; 0: it could not be counted
    weight smallint;  -- how many hits a line of the log stands for
    drawn boolean;  -- whether this hit is to be logged; NULL: there was none
begin
    if @branches    end if;
    if drawn is not false then
        perform pgcache_internal.record_hit(type, key, counted, weight, model, tokens, input_tokens, cached_tokens);
    end if;
    return value;
end
$body$;
comment on function pgcache.cache_get(text, text) is
'The value stored under a key of the current tenant, as JSON; NULL on a miss (a stored JSON null is not a miss). Takes'
' no lock and never writes the entry; works in READ ONLY transactions and on standbys. Errors: PC001 unknown type,'
' PC002 invalid key.';
$frame$, $branch$type operator(pg_catalog.=) '@type'@readable then
        select
            @value, @tokens{@model, t.tokens_used, @input, @cached, }
            pgcache_internal.count_hit('pgcache_internal.hits_@type'), t.hit_weight,
            pgcache_internal.draw_hit(t.hit_weight)
        into value, @tokens{model, tokens, input_tokens, cached_tokens, }counted, weight, drawn
        from @table t
        where t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) key
            and pgcache_internal.is_live(
                t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, pgcache_internal.cache_now()
            );
$branch$);

-- Inlined into the statements above.
create or replace function pgcache_internal.count_hit(counter regclass) returns bigint
language sql volatile parallel unsafe  -- not pinned: inlined
as $$
    select case
        when pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'off'
            then pg_catalog.nextval(counter)
        else 0
    end
$$;

comment on function pgcache_internal.count_hit(regclass) is
'Counts a hit and returns how many there were; 0 where nothing can be counted.';

create or replace function pgcache_internal.draw_hit(weight smallint) returns boolean
language sql volatile parallel restricted  -- not pinned: inlined
as $$
    select weight::float operator(pg_catalog.*) pg_catalog.random() operator(pg_catalog.<) 1::float
$$;

comment on function pgcache_internal.draw_hit(smallint) is
'True for one in weight hits; for a negative weight, which is that of hit_tracking exact, always.';

create or replace function pgcache_internal.record_hit(
    type text, key text, counted bigint, weight integer, model text default null, tokens integer default null,
    input_tokens integer default null, cached_tokens integer default null
) returns void
language plpgsql volatile parallel unsafe  -- not pinned: hot path
as $$
#variable_conflict use_variable
declare
    crowding integer;
begin
    if counted is null then
        perform pgcache_internal.count_miss(type, key);
    elsif counted operator(pg_catalog.>) 0::bigint then
        crowding := pgcache_internal.hit_log_crowding();
        insert into pgcache_internal.hit_log
            (type, tenant, cache_key, weight, hit_at, model, tokens, input_tokens, cached_input_tokens)
        select
            type, pgcache_internal.current_tenant(), key, l.weight, pgcache_internal.cache_now(), model, tokens,
            input_tokens, cached_tokens
        from (select pgcache_internal.log_weight(weight, crowding) as weight) l
        where l.weight operator(pg_catalog.>) 0;
        -- Not where nothing is logged: it would give the transaction an id.
        if found and pg_catalog.random() operator(pg_catalog.<) pgcache_internal.timed_share() then
            perform pgcache_internal.note_time(type, 'get');
        end if;
    end if;
end
$$;

comment on function pgcache_internal.record_hit(text, text, bigint, integer, text, integer, integer, integer) is
'What a look-up leaves to do: logs a hit that was drawn, counts a miss (counted NULL) after the checks of the call.'
' One in 64 of those that are logged is timed. Errors: PC001, PC002.';

create or replace function pgcache_internal.log_weight(weight integer, crowding integer) returns integer
language sql volatile parallel restricted  -- not pinned: inlined
as $$
    select case
        when weight operator(pg_catalog.<) 0 then 1
        when weight operator(pg_catalog.<) 32767
            and (
                crowding operator(pg_catalog.=) 1
                or (pgcache_internal.chance() operator(pg_catalog.*) crowding::float) operator(pg_catalog.<) 1::float
            )
            then weight operator(pg_catalog.*) crowding
        else 0
    end
$$;

comment on function pgcache_internal.log_weight(integer, integer) is
'The weight of the line of the log for a hit that was drawn, 0 for no line: none for hit_tracking off, all for exact,'
' otherwise one in crowding, which then stands for as many more.';

create or replace function pgcache_internal.count_and_draw(
    counter regclass, weight smallint, crowding integer
) returns integer
language sql volatile parallel unsafe  -- not pinned: inlined
as $$
    select case
        when weight is null then null
        when crowding is not null and pg_catalog.nextval(counter) operator(pg_catalog.>) 0::bigint
            and pgcache_internal.draw_hit(weight)
            then pgcache_internal.log_weight(weight, crowding)
        else 0
    end
$$;

comment on function pgcache_internal.count_and_draw(regclass, smallint, integer) is
'Counts a hit among many, unless crowding is NULL; returns the weight of the line of the log for it, 0 for no line;'
' NULL for no weight, which is no hit.';

-- With nobody folding the log it thins itself: each megabyte halves the rate at which it grows.
create or replace function pgcache_internal.hit_log_crowding(lines integer default 0) returns integer
language sql volatile parallel safe  -- not pinned: inlined
as $$
    select case
        when pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'off'
            then 1 operator(pg_catalog.<<) least(
                14::bigint,
                (pg_catalog.pg_relation_size('pgcache_internal.hit_log') operator(pg_catalog./) 1048576::bigint)
                    operator(pg_catalog.+) (lines operator(pg_catalog./) 65536)::bigint
            )::integer
    end
$$;

comment on function pgcache_internal.hit_log_crowding(integer) is
'One in how many hits the log still takes: 1 while it is below a megabyte, twice as many for each megabyte more; NULL'
' in a READ ONLY transaction: none. lines: how many come at once, of which each 65536 count as a megabyte.';

create or replace function pgcache_internal.count_miss(type text, key text) returns void
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
declare
    counter constant pg_catalog.regclass := pg_catalog.to_regclass(
        'pgcache_internal.' operator(pg_catalog.||) pg_catalog.quote_ident('misses_' operator(pg_catalog.||) type)
    );
begin
    if counter is null then
        perform pgcache_internal.check_type(type);
    end if;
    perform pgcache_internal.check_key(key);
    if pgcache_internal.current_tenant() is null then
        perform pgcache_internal.tenant_here();
    end if;
    if pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'off' then
        perform pg_catalog.nextval(counter);
    end if;
end
$$;

comment on function pgcache_internal.count_miss(text, text) is
'Counts a miss, after the checks of a call that hits do not pay for. Errors: PC001, PC002.';
