-- The hot path. A read takes no row lock, never writes the entry and never waits. One static statement per type
-- (EXECUTE would triple the cost) does it all:
--   1. it looks the key up by the primary key;
--   2. it counts the hit with nextval on an unlogged sequence: no transaction id, no WAL, not undone by a rollback;
--   3. it draws whether the entry is to know of this hit, one in hit_weight, and if so gathers where the entry lies in
--      a setting of the session. Dozens of these go to the hit log at once, from where upkeep brings the entries' own
--      counts up to date: a line each time would take as long as all the rest, and a transaction id.
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
    gathered pg_catalog.text;
begin
    if @branches    end if;
    if not found then
        perform pgcache_internal.count_miss(type, key);
    elsif pgcache_internal.are_enough(gathered) then
        perform pgcache_internal.log_gathered(type, key, gathered);
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
            @value,
            pgcache_internal.gather_hit('pgcache_internal.hits_@type', t.hit_weight, 'pgcache.hits_@type', t.ctid)
        into value, gathered
        from @table t
        where t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) key
            and pgcache_internal.is_live(
                t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, pgcache_internal.cache_now()
            );
$branch$);

-- Inlined into the statements above.
create or replace function pgcache_internal.gather_hit(
    counter regclass, weight smallint, setting text, place tid
) returns text
language sql volatile parallel unsafe  -- not pinned: inlined
as $$
    select case
        when pg_catalog.current_setting('transaction_read_only') operator(pg_catalog.=) 'off'
            and pg_catalog.nextval(counter) operator(pg_catalog.>) 0::bigint
            and pgcache_internal.draw_hit(weight)
            then case
                when weight operator(pg_catalog.<) 0 then pgcache_internal.none_gathered()
                else pg_catalog.set_config(
                    setting,
                    coalesce(pg_catalog.current_setting(setting, true), pgcache_internal.none_gathered())
                    operator(pg_catalog.||) place::pg_catalog.text,
                    false
                )
            end
    end
$$;

comment on function pgcache_internal.gather_hit(regclass, smallint, text, tid) is
'Counts a hit and, if it is drawn, adds where its entry lies to what the session has gathered of its type, in a'
' setting. Returns that; in mode exact none_gathered(), so that the hit is logged on its own; NULL: nothing is to be'
' logged.';

create or replace function pgcache_internal.none_gathered() returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.repeat(' ', 1 operator(pg_catalog.+) pgcache_internal.gathered_bytes()) $$;

comment on function pgcache_internal.none_gathered() is
'What a session begins with: with the first hit of a type it is enough to be logged.';

create or replace function pgcache_internal.are_enough(gathered text) returns boolean
language sql immutable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.octet_length(gathered) operator(pg_catalog.>) pgcache_internal.gathered_bytes() $$;

comment on function pgcache_internal.are_enough(text) is
'Whether so many hits have been gathered that they go to the hit log.';

create or replace function pgcache_internal.draw_hit(weight smallint) returns boolean
language sql volatile parallel restricted  -- not pinned: inlined
as $$
    select weight::float operator(pg_catalog.*) pg_catalog.random() operator(pg_catalog.<) 1::float
$$;

comment on function pgcache_internal.draw_hit(smallint) is
'True for one in weight hits; for a negative weight, which is that of hit_tracking exact, always.';

-- What is gathered: how many hits of the type the session has logged and when it last did, spaces so that it is long
-- enough in time, and places: "480 1790000000     (12,3)(7,14)". After a ROLLBACK of the first get it is empty. As a
-- session may set it to anything, what does not look like this counts for nothing, and of a walled caller only entries
-- of its own count; those of others wait their turn.
select pgcache_internal.define($frame$
create or replace function pgcache_internal.log_gathered(type text, key text, gathered text) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set enable_seqscan to off  -- a plan made when the table was empty would else read all that it has now
set jit to off
set plan_cache_mode to force_generic_plan
as $body$
#variable_conflict use_variable
declare
    scope constant text := current_tenant();
    moment constant timestamptz := cache_now();
    now constant float8 := extract(epoch from clock_timestamp());
    listed text := substr(gathered, nullif(strpos(gathered, '('), 0));  -- NULL in mode exact
    before constant text[] := regexp_match(left(gathered, 40), '^([0-9]{1,15}) ([0-9]{1,15}) ');
    crowding constant integer := case when listed is null then 1 else hit_log_crowding() end;
    places tid[] := '{}';
    hits integer := 1;
    logged bigint;
    next integer;
    still text;
    alone boolean;
    reaches_others boolean;
    drawn boolean := true;
begin
    if listed is not null then
        begin
            if length(listed) > 2 * gathered_bytes() then  -- more than any session gathers
                listed := substring(right(listed, 2 * gathered_bytes()) from '[(].*');
            end if;
            places := ('{"' || replace(listed, ')(', ')","(') || '"}')::tid[];
            hits := cardinality(places);
        exception when data_exception then
            null;
        end;
        logged := coalesce(before[1]::bigint, 0) + hits;
        next := greatest(1, least(
            gathered_hits(), logged / 8, hits * gathered_seconds() / greatest(now - before[2]::float8, 0.001)
        ));
        still := format('%s %s ', logged, floor(now));
        still := rpad(still, greatest(length(still), gathered_bytes() - 8 * (next - 1)));  -- 8: the length of a place
        perform set_config('pgcache.hits_' || type, still, false);
        drawn := chance() * crowding < 1;
    end if;
    -- On its own a hit is logged in mode exact; and where the transaction might fail by what others write to entries
    -- that it has not asked for.
    alone := places = '{}' or current_setting('transaction_isolation') = 'serializable';
    reaches_others := alone or tenants_of_caller() is null;
    if not drawn and reaches_others then
        return;
    end if;
    if @branches    end if;
    -- Not where nothing is logged: it would give the transaction an id.
    if found and chance() < hits * timed_share() then
        perform note_time(type, 'get');
    end if;
end
$body$;
comment on function pgcache_internal.log_gathered(text, text, text) is
'Logs the hits that the session has gathered of a type, or, if there are none, that of the entry key; and says how many'
' it gathers until next time: one at first, later up to an eighth of those before, gathered_hits() at most, and as many'
' as come in gathered_seconds(). That many hits a session that ends does not log. Of a log that is crowded, see'
' hit_log_crowding, it logs one time in so many, and then that much more.';
$frame$, $branch$type = '@type' then
        if not reaches_others then
            perform set_config('pgcache.hits_@type', still || string_agg(p.place::text, ''), false)
            from unnest(places) p (place)
            where exists (select from @table t where t.ctid = p.place and t.tenant <> scope)
            having count(*) > 0;
        end if;
        insert into hit_log (type, tenant, cache_key, weight, hit_at, model, tokens, input_tokens, cached_input_tokens)
        select '@type', t.tenant, t.cache_key,
            case
                when t.hit_weight < 0 then 1
                else least(2147483647, t.hit_weight::bigint * crowding * case
                    when alone then hits else cardinality(array_positions(places, t.ctid))
                end)
            end,
            moment, @model, @spent, @input, @cached
        from @table t
        where t.ctid = any(
                case when alone then array[(select k.ctid from @table k where k.tenant = scope and k.cache_key = key)]
                else places end
            ) and drawn and t.hit_weight < 32767 and (reaches_others or t.tenant = scope);
$branch$);

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
