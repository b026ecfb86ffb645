-- The functions of the hot path are written anew whenever types changes: with its settings as constants, and with
-- a static statement for each type, as EXECUTE would triple the cost of a get.

create or replace function pgcache_internal.compile_types() returns void
language sql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select
        compile_clock(), compile_settings(),
        compile_get(), compile_get_many(), compile_get_many_json(), compile_put(), compile_put_many(),
        compile_fold(), compile_count(), compile_sweep()
$$;

comment on function pgcache_internal.compile_types() is
'Writes the functions that depend on types anew; run after each change of it.';

create or replace function pgcache_internal.per_type(template text, json_only boolean default false) returns text
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    branches text[];
    branch text;
    part text[];
    registered record;
begin
    for registered in
        select t.*, c.relname, k.conname as pkey
        from types t
        inner join pg_class c on c.oid = t.relation
        inner join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
        where not json_only or t.payload ? 'data'
        order by t.type <> 'store', t.type <> 'llm', t.builtin, t.type
    loop
        branch := regexp_replace(template, '@tokens{([^}]*)}', case when registered.payload ? 'tokens_used' then '\1' else '' end, 'g');
        foreach part slice 1 in array array[
            ['@type', registered.type],
            ['@table', 'pgcache.' || quote_ident(registered.relname)],
            ['@pkey', quote_ident(registered.pkey)],
            ['@value', value_of(registered.payload)],
            ['@size', entry_size(registered.payload)],
            ['@score', eviction_score(registered.eviction, registered.payload)],
            -- A standby has nothing of an UNLOGGED table: there its entries are misses.
            ['@readable', case when is_logged(registered.type) then '' else ' and not pg_catalog.pg_is_in_recovery()' end]
        ] loop
            branch := replace(branch, part[1], part[2]);
        end loop;
        branches := branches || branch;
    end loop;
    return array_to_string(branches, '    elsif ');
end
$$;

comment on function pgcache_internal.per_type(text, boolean) is
'The branches of an IF, one for each type, or each JSON type: the template with the type for @type, its table for @table, the constraint of its primary key for @pkey, for @value, @size and @score the JSON value, the size in bytes and the eviction score of an entry t, a further condition to read it for @readable; what stands in @tokens{} is left out of types without tokens.';

-- A look-up of the registry would cost a set an eighth of its time. So the settings that a set needs are compiled into
-- functions, whose calls the planner folds into constants; it plans anew when they change.
create or replace function pgcache_internal.compile_settings() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    compiled record;
begin
    perform pg_advisory_xact_lock(hashtext('pgcache_internal.compile_settings'));
    for compiled in
        select f.name, f.result, f.description,
            string_agg(format('when %L then %s', t.type, f.setting), ' ' order by t.type) as cases
        from types t
        cross join lateral (values
            ('type_ttl', 'interval', quote_nullable(t.ttl) || '::interval', 'The default TTL of a type, NULL for never.'),
            ('type_hit_weight', 'smallint',
                coalesce(case when t.enabled then hit_weight_at(t.hit_tracking, 0) end::text, 'null') || '::smallint',
                'The hit_weight of new entries of a type; NULL if the type takes no writes.'),
            ('type_may_be_full', 'boolean', (t.eviction = 'none')::text, 'Whether sets are refused when a type is full.'),
            ('type_has_fields', 'boolean', (not t.payload ? 'data')::text, 'Whether values of a type have fields of their own.'),
            ('type_dimensions', 'integer', coalesce(t.dimensions::text, 'null') || '::integer',
                'The dimensions that vectors of a type must have, NULL for any.')
        ) f (name, result, setting, description)
        group by f.name, f.result, f.description
    loop
        execute format('create or replace function pgcache_internal.%I(type text) returns %s language sql immutable parallel safe'
            ' as %L', compiled.name, compiled.result, 'select case type ' || compiled.cases || ' end');
        execute format('comment on function pgcache_internal.%I(text) is %L', compiled.name,
            compiled.description || ' Compiled from types by compile_settings().');
    end loop;
end
$$;

comment on function pgcache_internal.compile_settings() is
'Makes the functions type_ttl, type_hit_weight, type_may_be_full, type_has_fields and type_dimensions anew from types.';
