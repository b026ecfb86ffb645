-- What is compiled. The functions of the hot path, and the upkeep that writes pay for, have a static statement for each
-- type, as EXECUTE would triple the cost of a get. So each of these functions is declared as a template, which
-- compile_types fills in for the types that there are, whenever they change. To see the outcome: \sf cache_get in psql.

delete from pgcache_internal.templates;

create or replace function pgcache_internal.define(
    frame text, branch text, branch_of_own_writer text default null
) returns void
language sql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ insert into templates (frame, branch, branch_of_own_writer) values (frame, branch, branch_of_own_writer) $$;

comment on function pgcache_internal.define(text, text, text) is
'Declares a function that is compiled. frame: its CREATE FUNCTION and COMMENT, with @branches where an IF has a branch'
' for each type. branch: that branch. branch_of_own_writer: the one for types that a function of their own writes, if'
' it differs; '''': they have none. For what @type, @table and the like stand, see expressions_of.';

create or replace function pgcache_internal.compile_types() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    all_types jsonb;
    template templates;
    definition text;
begin
    perform compile_clock(), compile_settings(), compile_tenants(), compile_tenant_limits();
    -- The most used ones first: each look-up goes through the types before its own.
    all_types := (
        select jsonb_agg(
            jsonb_build_object('writer', t.writer, 'expressions', expressions_of(t))
            order by t.type <> 'store', t.type <> 'llm', t.builtin, t.type
        )
        from types t
    );
    for template in select * from templates loop
        definition := replace(template.frame, '@branches', (
            select coalesce(string_agg(b.filled, '    elsif ' order by each.place), e'false then\n')
            from jsonb_array_elements(all_types) with ordinality each (type, place)
            cross join lateral (
                select fill(
                    coalesce(
                        case when each.type ->> 'writer' <> '' then template.branch_of_own_writer end, template.branch
                    ),
                    each.type -> 'expressions'
                ) as filled
            ) b
            where b.filled <> ''
        ));
        call make(definition);
    end loop;
end
$$;

comment on function pgcache_internal.compile_types() is
'Writes the functions that depend on the registry of types anew; run after each change of it,'
' in the turn of who changes it.';

create or replace function pgcache_internal.expressions_of(registered types) returns jsonb
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    of_bytes constant boolean := is_of_bytes(registered.fields);
    spent constant text := case when registered.fields ? 'tokens_used' then 't.tokens_used' else 'null::integer' end;
    input constant text := case
        when registered.fields ->> 'input_tokens' like 'count%'
            then format('pgcache_internal.at_most(t.input_tokens, coalesce(%s, 0))', spent)
        else 'null::integer'
    end;
    expressions jsonb;
begin
    select jsonb_build_object(
        '@type', registered.type,
        '@table', format('pgcache.%I', c.relname),
        '@pkey', quote_ident(k.conname),
        '@writer', registered.writer,
        '@value', value_of(registered.type, registered.fields),
        '@fits', fits(registered.type, registered.fields),
        '@takes_raw', case when of_bytes then 'true' else 'raw is null' end,
        '@full', coalesce(full_when(registered), 'false'),
        '@untagged', 'cache_tags = excluded.cache_tags, cache_epoch = excluded.cache_epoch,'
            ' cache_stale_until = excluded.cache_stale_until, cache_compute_ms = excluded.cache_compute_ms',
        '@bytes', payload_size(registered.fields),
        '@size', entry_size(registered.fields),
        '@model', case when registered.fields ? 'model' then 't.model' else 'null::pg_catalog.text' end,
        '@input', input,
        '@cached', case
            when registered.fields ->> 'cached_input_tokens' like 'count%'
                then format('pgcache_internal.at_most(t.cached_input_tokens, coalesce(%s, %s, 0))', input, spent)
            else 'null::integer'
        end,
        '@tokens', case when registered.fields ? 'tokens_used' then e'\\1' else '' end,
        '@spent', spent,
        '@near', case when exists (select from near_types n where n.type = registered.type) then e'\\1' else '' end,
        '@counts', case when of_bytes or registered.fields is null then e'\\1' else '' end,
        '@first_sum', case when of_bytes then 'null, by' else quote_literal(registered.type) || ', to_jsonb(by)' end,
        '@new_sum', case when of_bytes then 'bytes = null, number = ' else 'data = to_jsonb(' end || format(
            'sum_of(%s, is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment), by, whole)',
            case when of_bytes then 'coalesce(t.number::text, ''bytes'')' else 't.data::text' end
        ) || case when of_bytes then '' else ')' end,
        '@sum', case when of_bytes then 't.number' else 't.data::text::numeric' end,
        '@of_bytes', case when of_bytes then e'\\1' else '' end,
        '@share', case when registered.tenant_share is not null then e'\\1' else '' end,
        '@excess', coalesce(excess_over_share(registered), '0'),
        '@expired', format(
            '(pgcache_internal.is_dead('
            't.expires_at, t.cache_stale_until, case when whose is null or t.tenant = whose then t.cache_tags end,'
            ' t.tenant, t.cache_epoch, moment)%s)',
            ' or t.created_at <= moment - ' || interval_constant(registered.max_age)
        ),
        -- A standby has nothing of an UNLOGGED table: there its entries are misses.
        '@readable', case when c.relpersistence = 'u' then ' and not pg_catalog.pg_is_in_recovery()' else '' end
    ) || (
        select jsonb_build_object(
            '@columns', coalesce(string_agg(quote_ident(f.name), ', '), 'type, data'),
            '@given', coalesce(string_agg(f.given, ', '), quote_literal(registered.type) || ', value'),
            '@raw_or_given', coalesce(
                string_agg(
                    case when of_bytes and f.name = 'bytes' then format('coalesce(raw, %s)', f.given) else f.given end,
                    ', '
                ),
                quote_literal(registered.type) || ', value'
            ),
            '@updates', coalesce(string_agg(format('%1$I = excluded.%1$I', f.name), ', '), 'data = excluded.data')
        )
        from fields_of(registered.type, registered.fields) f
    )
    into expressions
    from pg_class c inner join pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
    where c.oid = registered.relation;
    return expressions || jsonb_build_object('@worth', (
        select fill(
            format(
                'case when @expired then ''-infinity'' when t.expires_at <= moment then -1e300::float'
                ' else coalesce(%s, ''infinity'') end', p.score
            ), expressions
        )
        from eviction_policies() p where p.policy = registered.eviction
    ));
end
$$;

comment on function pgcache_internal.expressions_of(types) is
'What stands for what in a template: @type, @table, @pkey (the constraint of its primary key), @writer; @full: the'
' condition that new entries replace others; of a JSON value `value`: @fits (the condition that it fits), @columns,'
' @given (what goes into them), @updates (the same for ON CONFLICT), @untagged (ON CONFLICT, too: what was known of'
' the freshness of the old one goes); of bytes `raw` that may be given in place of those in it: @takes_raw (that the'
' type has them, or there are none), @raw_or_given; of an entry `t`: @value, @bytes (of its value), @size, @model,'
' @input and @cached (tokens), at a moment @expired and @worth (the lowest is evicted first), both with a look at tags'
' of the tenant `whose` only, of all for NULL; @readable: a further condition to read it; of what a tenant has, `h`:'
' @excess over its share; of counters, where `by` is added: @first_sum (into @columns), @new_sum (the assignments),'
' @sum of the entry; @spent: its tokens. What stands in @tokens{} is left out of types without tokens, in @share{} of'
' those without tenant_share, in @of_bytes{} of others than those of bytes, in @counts{} of those that have no'
' counters, in @near{} of those whose entries processes may not keep.';

-- What is counted of one entry is made to fit before it is added up: what is wrong with one would else spoil the sums.
create or replace function pgcache_internal.at_most(value integer, most integer) returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select case when value is not null then least(value, most) end $$;

comment on function pgcache_internal.at_most(integer, integer) is 'The lesser of both; NULL for no value.';

create or replace function pgcache_internal.fill(template text, expressions jsonb) returns text
language plpgsql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
declare
    expression record;
begin
    for expression in select e.key, e.value from jsonb_each_text(expressions) e loop
        template := case
            when expression.key = any('{@tokens,@share,@of_bytes,@counts,@near}')
                then regexp_replace(template, expression.key || '{([^}]*)}', expression.value, 'g')
            else replace(template, expression.key, coalesce(expression.value, ''))
        end;
    end loop;
    return template;
end
$$;

comment on function pgcache_internal.fill(text, jsonb) is 'A template for one type, see expressions_of.';

create or replace function pgcache_internal.interval_constant(value interval) returns text
language sql immutable strict parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select format(
        'pg_catalog.make_interval(months => %s, days => %s, secs => %s)',
        12 * extract(year from value) + extract(month from value),
        extract(day from value),
        3600 * extract(hour from value) + 60 * extract(minute from value) + extract(second from value)
    )
$$;

comment on function pgcache_internal.interval_constant(interval) is
'The SQL expression of an interval, the same whatever the session''s IntervalStyle.';

-- A look-up of the registry would cost a set an eighth of its time. So the settings that a set needs are compiled into
-- functions, whose calls the planner folds into constants; it plans anew when they change.
create or replace function pgcache_internal.compile_settings() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    compiled record;
begin
    for compiled in
        select f.name, f.result, f.description,
            string_agg(
                format('when type operator(pg_catalog.=) %L then %s', t.type, f.setting), ' ' order by t.type
            ) as cases
        from types t
        cross join lateral (values
            ('type_ttl', 'interval', coalesce(interval_constant(t.ttl), 'null::interval'),
                'The default TTL of a type, NULL for never.'),
            ('type_hit_weight', 'smallint',
                coalesce(case when t.enabled then hit_weight_at(t.hit_tracking, 0) end::text, 'null') || '::smallint',
                'The hit_weight of new entries of a type; NULL if the type takes no writes.'),
            ('type_may_be_full', 'boolean', (t.eviction = 'none')::text,
                'Whether sets are refused when a type is full.'),
            ('type_has_fields', 'boolean', (t.fields is not null)::text,
                'Whether values of a type have fields of their own.'),
            ('type_dimensions', 'integer', coalesce(t.dimensions::text, 'null') || '::integer',
                'The dimensions that vectors of a type must have, NULL for any.')
        ) f (name, result, setting, description)
        group by f.name, f.result, f.description
    loop
        call make(format(
            'create or replace function pgcache_internal.%I(type text) returns %s'
            ' language sql immutable parallel safe as %L',
            compiled.name, compiled.result, 'select case ' || compiled.cases || ' end'
        ));
        execute format(
            'comment on function pgcache_internal.%I(text) is %L',
            compiled.name, compiled.description || ' Compiled from types by compile_settings().'
        );
    end loop;
end
$$;

comment on function pgcache_internal.compile_settings() is
'Makes the functions type_ttl, type_hit_weight, type_may_be_full, type_has_fields and type_dimensions anew from types.';
