-- Typed caches: where the values of a type have fields, each has a column of its own. Fields are declared once, as
-- {"name": "kind", ...}. From that comes what else depends on them: the table, the check of a value, how it is written,
-- read and measured.

create or replace function pgcache_internal.field_kinds() returns table (
    kind text, json_type text, column_type text, condition text, given text, shown text
)
language sql immutable parallel safe  -- not pinned: inlined
as $kinds$
    values
        ('string', 'string', 'text', null, 'value operator(pg_catalog.->>) %1$L', 't.%1$I'),
        ('boolean', 'boolean', 'boolean', null, '(value operator(pg_catalog.->>) %1$L)::boolean', 't.%1$I'),
        ('count', 'number', 'integer',
            $$(value operator(pg_catalog.->>) %1$L) operator(pg_catalog.~) '^[0-9]{1,9}$'$$,
            '(value operator(pg_catalog.->>) %1$L)::integer', 't.%1$I'),
        ('integer', 'number', 'bigint',
            $$((value operator(pg_catalog.->>) %1$L) operator(pg_catalog.~) '^-?[0-9]{1,18}$'
                or (value operator(pg_catalog.->>) %1$L) operator(pg_catalog.~) '^-?[0-9]{19}$' and (
                    (value operator(pg_catalog.->>) %1$L) operator(pg_catalog.=) '-9223372036854775808'
                    or pg_catalog.ltrim(value operator(pg_catalog.->>) %1$L, '-') collate pg_catalog."C"
                        operator(pg_catalog.<=) '9223372036854775807'
                ))$$,
            '(value operator(pg_catalog.->>) %1$L)::bigint', 't.%1$I'),
        ('number', 'number', 'numeric', null, '(value operator(pg_catalog.->>) %1$L)::numeric', 't.%1$I'),
        ('array', 'array', 'jsonb', null, 'pgcache_internal.not_null(value operator(pg_catalog.->) %1$L)', 't.%1$I'),
        ('object', 'object', 'jsonb', null, 'pgcache_internal.not_null(value operator(pg_catalog.->) %1$L)', 't.%1$I'),
        ('any', null, 'jsonb', null, 'pgcache_internal.not_null(value operator(pg_catalog.->) %1$L)', 't.%1$I'),
        ('base64', 'string', 'bytea',
            $$(value operator(pg_catalog.->>) %1$L)
                operator(pg_catalog.~) '^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$'$$,
            $$pg_catalog.decode(value operator(pg_catalog.->>) %1$L, 'base64')$$,
            $$pg_catalog.translate(pg_catalog.encode(t.%1$I, 'base64'), e'\n', '')$$),
        ('vector', 'array', 'vector',
            $$case when pg_catalog.jsonb_typeof(value operator(pg_catalog.->) %1$L) operator(pg_catalog.=) 'array' then
                not pg_catalog.jsonb_path_exists(
                    value operator(pg_catalog.->) %1$L, '$[*] ? (@.type() != "number")'
                )
                and coalesce(
                    pg_catalog.jsonb_array_length(value operator(pg_catalog.->) %1$L)
                    operator(pg_catalog.=) pgcache_internal.type_dimensions(%2$L), true
                )
            end$$,
            'pgcache_internal.to_vector(value operator(pg_catalog.->>) %1$L)',
            't.%1$I::pg_catalog.text::pg_catalog.jsonb')
$kinds$;

comment on function pgcache_internal.field_kinds() is
'The kinds of fields: string; boolean; count, a whole number from 0 to 999999999; integer, one of 64 bits;'
' number, any; array, object, any: JSON; base64: bytes; vector: numbers, stored as pgvector''s float32. For each its'
' type in JSON and its column''s, and as SQL, for a field %1$s of type %2$s: what else must hold of a JSON value, what'
' is stored of it, how that is shown again.';

-- A type of bytes: its values go in and out as bytea, or are whole numbers, which can be counted up.
create or replace function pgcache_internal.fields_of_bytes() returns jsonb
language sql immutable parallel safe  -- not pinned: inlined
as $$ select pg_catalog.jsonb_build_object('bytes', 'base64', 'number', 'integer') $$;

comment on function pgcache_internal.fields_of_bytes() is
'The fields of a type of bytes, of which a value has one.';

create or replace function pgcache_internal.is_of_bytes(fields jsonb) returns boolean
language sql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select coalesce(fields = fields_of_bytes(), false) $$;

comment on function pgcache_internal.is_of_bytes(jsonb) is 'Whether a type with these fields is one of bytes.';

create or replace function pgcache_internal.not_null(value jsonb) returns jsonb
language sql immutable parallel safe  -- not pinned: inlined
as $$ select case when value operator(pg_catalog.<>) 'null'::pg_catalog.jsonb then value end $$;

comment on function pgcache_internal.not_null(jsonb) is 'A JSON value; NULL for the JSON null.';

create or replace function pgcache_internal.fields_of(type text, fields jsonb) returns table (
    name text, kind text, required boolean, fallback text, nullable boolean, column_type text, condition text,
    given text, shown text
)
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        d.name, k.kind, d.required, d.fallback, not d.required and d.fallback is null, k.column_type, c.condition,
        case
            when d.fallback is null then g.given
            else format('coalesce(%s, %L)', g.given, d.fallback)
        end,
        format(k.shown, d.name)
    from (
        select f.key as name, substring(f.value from '^[a-z0-9]+') as kind, f.value like '%!' as required,
            substring(f.value from '=(.*)$') as fallback
        from jsonb_each_text(fields) f
    ) d
    inner join field_kinds() k on k.kind = d.kind
    cross join lateral (
        select concat_ws(' and ',
            case
                when k.json_type is null and not d.required then 'true'
                when k.json_type is null then format(
                    'pg_catalog.jsonb_typeof(value operator(pg_catalog.->) %L) operator(pg_catalog.<>) ''null''', d.name
                )
                when d.required then format(
                    'pg_catalog.jsonb_typeof(value operator(pg_catalog.->) %L) operator(pg_catalog.=) %L',
                    d.name, k.json_type
                )
                else format(
                    'coalesce(pg_catalog.jsonb_typeof(value operator(pg_catalog.->) %L), ''null'')'
                    ' operator(pg_catalog.=) any(array[%L, ''null''])', d.name, k.json_type
                )
            end,
            format(case when d.required then k.condition else '(' || k.condition || ') is not false' end, d.name, type)
        ) as condition
    ) c
    -- A conversion stands in a CASE, though the value is checked before: the planner, which knows the value, would else
    -- fold it, and fail before anything is checked.
    cross join lateral (
        select format(
            case when k.column_type in ('text', 'jsonb') then '%s' else 'case when %2$s then %1$s end' end,
            format(k.given, d.name), c.condition
        ) as given
    ) g
    order by d.name collate "C";
end
$$;

comment on function pgcache_internal.fields_of(text, jsonb) is
'The fields of a type: name; kind (see field_kinds); required; fallback: what is stored where it is absent; nullable:'
' neither of the two. And as SQL, for a JSON value `value` and an entry `t`: column_type; condition: that the value has'
' the field as it should; given: what goes into the column; shown: how it comes back.';

create or replace function pgcache_internal.to_vector(written text) returns vector
language plpgsql immutable parallel unsafe  -- not pinned: hot path
as $$
declare
    converted pgcache.cache_embeddings.embedding%type;  -- spares us to name the schema that the extension is in
begin
    converted := written;
    return converted;
exception when data_exception or program_limit_exceeded then
    raise exception using errcode = 'PC004',
        message = pg_catalog.format('not a vector: %s', sqlerrm),
        hint = 'A vector is written [0.1,0.2,0.3] and has 1 to 16000 finite numbers.';
end
$$;

comment on function pgcache_internal.to_vector(text) is
'A vector, from the text that pgvector writes: [1,2,3]. Errors: PC004.';

-- What the compiled functions are made of, see compile_types. fields NULL: the value is any JSON, in the column data.
-- In PL/pgSQL, which keeps its plans: in SQL these would be planned anew for each type.

create or replace function pgcache_internal.value_of(type text, fields jsonb) returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return (
        select case
            when fields is null then 't.data'
            when a.nullable = 0 then a.all_fields
            -- It goes into the values, too, so it is for fields without JSON in them.
            when a.flat then format('pg_catalog.jsonb_strip_nulls(%s)', a.all_fields)
            when a.nullable = 1 and a.certain is not null
                then format('case when t.%I is null then %s else %s end', a.one_nullable, a.certain, a.all_fields)
            else format('(%s%s)', coalesce(a.certain, '''{}''::pg_catalog.jsonb'), a.others)
        end
        from (
            select
                format('pg_catalog.jsonb_build_object(%s)', string_agg(p.pair, ', ')) as all_fields,
                format(
                    'pg_catalog.jsonb_build_object(%s)', string_agg(p.pair, ', ') filter (where not f.nullable)
                ) as certain,
                string_agg(
                    format(
                        ' operator(pg_catalog.||)'
                        ' case when t.%I is null then ''{}'' else pg_catalog.jsonb_build_object(%s) end',
                        f.name, p.pair
                    ), ''
                ) filter (where f.nullable) as others,
                count(*) filter (where f.nullable) as nullable,
                min(f.name) filter (where f.nullable) as one_nullable,
                bool_and(f.column_type not in ('jsonb', 'vector')) as flat
            from fields_of(type, fields) f
            cross join lateral (select format('%L, %s', f.name, f.shown) as pair) p
        ) a
    );
end
$$;

comment on function pgcache_internal.value_of(text, jsonb) is
'The SQL expression of the JSON value of an entry t; fields that are NULL are left out.';

create or replace function pgcache_internal.fits(type text, fields jsonb) returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if fields is null then
        return 'value is not null';
    end if;
    return (
        -- In parentheses, since the THEN of a CASE in it would else end the condition of an IF.
        select format(
            '(pg_catalog.jsonb_typeof(value) operator(pg_catalog.=) ''object'' and %s'
            ' and (value operator(pg_catalog.-) %L::pg_catalog.text[])'
            ' operator(pg_catalog.=) ''{}''::pg_catalog.jsonb%s)',
            string_agg(f.condition, ' and '), array_agg(f.name),
            case when is_of_bytes(fields) then
                ' and pg_catalog.num_nonnulls('
                'value operator(pg_catalog.->>) ''bytes'', value operator(pg_catalog.->>) ''number'')'
                ' operator(pg_catalog.=) 1'
            end
        )
        from fields_of(type, fields) f
    );
end
$$;

comment on function pgcache_internal.fits(text, jsonb) is
'The SQL condition that a JSON value has the fields that the type needs, of the right kinds, and no others;'
' reject_value says what is wrong.';

create or replace function pgcache_internal.payload_size(fields jsonb) returns text
language plpgsql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(
            string_agg(format('coalesce(pg_column_size(t.%I), 0)', f), ' + ' order by f), 'pg_column_size(t.data)'
        )
        from jsonb_object_keys(fields) f
    );
end
$$;

comment on function pgcache_internal.payload_size(jsonb) is
'The SQL expression of the bytes of an entry t''s value, as it is stored: compressed, not detoasted.';

create or replace function pgcache_internal.entry_size(fields jsonb) returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return '96 + octet_length(t.tenant) + octet_length(t.cache_key) + ' || payload_size(fields);
end
$$;

comment on function pgcache_internal.entry_size(jsonb) is
'The SQL expression of the bytes of an entry t: key, value as stored, and 96 for the row''s and the index''s own.';

create or replace function pgcache_internal.reject_value(type text, value jsonb) returns void
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    fields constant jsonb := (check_type(type)).fields;
    dimensions constant integer := (check_type(type)).dimensions;
    problem text;
    wrong record;
begin
    if value is null then
        raise exception using errcode = 'PC004',
            message = 'the value is NULL',
            hint = 'NULL is what a miss returns.' || case
                when fields is null then ' Store the JSON null as ''null''::jsonb, or' else ' Pass a value, or'
            end || ' remove the entry with cache_delete.';
    elsif jsonb_typeof(value) <> 'object' then
        problem := format('it is a JSON %s, not an object', jsonb_typeof(value));
    else
        select
            f.name, f.kind, v.*, f.kind is null as is_unknown,
            f.required and coalesce(v.json_type, 'null') = 'null' as is_missing
        into wrong
        from fields_of(type, fields) f
        full join (
            select e.key as field, jsonb_typeof(e.value) as json_type, e.value as content
            from jsonb_each(value) e
        ) v on v.field = f.name
        where f.name is null or not value_has(value, f.condition)
        limit 1;
        if wrong.is_unknown then
            problem := format('it has an unknown field %I', wrong.field);
        elsif wrong.is_missing then
            problem := format('its field %I is missing', wrong.name);
        elsif wrong.kind = 'vector' and wrong.json_type = 'array'
            and jsonb_array_length(wrong.content) <> dimensions
        then
            perform reject_dimensions(type, jsonb_array_length(wrong.content));
        elsif wrong.kind is not null then
            problem := format(
                'its field %I should be of kind %s, not the %s %s',
                wrong.name, wrong.kind, wrong.json_type, left(wrong.content::text, 40)
            );
        elsif is_of_bytes(fields) then
            problem := 'it has not just one of the fields bytes and number';
        end if;
    end if;
    raise exception using errcode = 'PC004',
        message = format('the value does not fit the type %s: %s', type, coalesce(problem, 'it cannot be stored')),
        hint = format('%s takes a JSON object of %s.', type, (
            select string_agg(format('%s (%s%s)', f.name, f.kind, case when f.required then ', required' end), ', ')
            from fields_of(type, fields) f
        ));
end
$$;

comment on function pgcache_internal.reject_value(text, jsonb) is
'Says why the value does not fit the type. Errors: PC004, PC005 a vector with other dimensions than the type''s.';

create or replace function pgcache_internal.value_has(value jsonb, condition text) returns boolean
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    holds boolean;
begin
    execute format('select %s from (select $1) v (value)', condition) into holds using value;
    return coalesce(holds, false);
end
$$;

comment on function pgcache_internal.value_has(jsonb, text) is 'Whether a condition of fields_of holds for a value.';

create or replace function pgcache_internal.reject_dimensions(type text, dimensions integer) returns void
language plpgsql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    raise exception using errcode = 'PC005',
        message = format('the vector has %s dimensions, the type %s takes %s', dimensions, type, type_dimensions(type)),
        hint = format(
            'Check the model; SELECT cache_configure(%L, reset => ''{dimensions}'') lets the type take any.', type
        );
end
$$;

comment on function pgcache_internal.reject_dimensions(text, integer) is
'Says that a vector has other dimensions than its type takes. Errors: PC005.';

-- Declarations.

create or replace function pgcache_internal.check_fields(fields json) returns jsonb
language plpgsql stable parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    hint constant text := format(
        'For example {"text": "string!", "tokens_used": "count"}. Kinds: %s.'
        ' With a ! the field must be present; =value is stored where it is absent.',
        (select string_agg(k.kind, ', ') from field_kinds() k)
    );
    own_columns constant text[] := array[
        'id', 'type', 'tenant', 'cache_key', 'created_at', 'expires_at', 'last_accessed_at', 'hit_count', 'hit_weight',
        'version', 'cache_tags', 'cache_epoch', 'cache_stale_until', 'cache_compute_ms',
        'ctid', 'xmin', 'xmax', 'cmin', 'cmax', 'tableoid'
    ];
    names text[];
    problem text;
    declared jsonb;
    with_fallback record;
    stored jsonb;
    fits boolean;
begin
    if fields is null then
        return null;
    elsif json_typeof(fields) <> 'object' or fields::text !~ ':' then
        problem := 'the fields are no JSON object of names and kinds';
    else
        names := array(select json_object_keys(fields));
        select case
            when f.key !~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$' then format(
                '%L cannot name a field: that takes 1 to 63 letters, digits and underscores, no digit first', f.key
            )
            when f.key = any(own_columns)
                then format('%s cannot name a field: every entry has such a column', f.key)
            when cardinality(array_positions(names, f.key)) > 1
                then format('the field %s is declared twice', f.key)
            when f.value is null or f.value !~ '^[a-z0-9]+(!|=.*)?$'
                or substring(f.value from '^[a-z0-9]+') not in (select k.kind from field_kinds() k)
                then format('the field %s cannot be of kind %L', f.key, f.value)
            -- These two go into the statistics and the eviction by cost.
            when f.key = 'tokens_used' and f.value !~ '^(count|integer)'
                then 'tokens_used has to be a count'
            when f.key = 'model' and f.value !~ '^string' and 'tokens_used' = any(names)
                then 'beside tokens_used, model has to be a string'
            when f.value ~ '^(base64|vector)='
                then format('the field %s cannot have a value where it is absent', f.key)
            when cardinality(names) > 100
                then 'a type has 100 fields at most'
        end
        into problem
        from json_each_text(fields) f
        order by 1 nulls last limit 1;
    end if;
    if problem is not null then
        raise exception using errcode = 'PC010', message = problem, hint = hint;
    end if;
    declared := (
        select jsonb_object_agg(
            f.key, case f.key when 'tokens_used' then regexp_replace(f.value, '^integer', 'count') else f.value end
        )
        from json_each_text(fields) f
    );
    for with_fallback in select * from fields_of('', declared) f where f.fallback is not null loop
        begin
            stored := case with_fallback.kind
                when 'string' then to_jsonb(with_fallback.fallback)
                else with_fallback.fallback::jsonb
            end;
            fits := value_has(jsonb_build_object(with_fallback.name, stored), with_fallback.condition);
        exception when data_exception then
            fits := false;
        end;
        if not fits then
            raise exception using errcode = 'PC010',
                message = format(
                    '%L is no %s, so the field %s cannot have it where it is absent',
                    with_fallback.fallback, with_fallback.kind, with_fallback.name
                ),
                hint = hint;
        end if;
    end loop;
    return declared;
end
$$;

comment on function pgcache_internal.check_fields(json) is
'The declared fields as the registry keeps them; tokens_used, which statistics add up, is a count. NULL for NULL.'
' Errors: PC010.';

create or replace function pgcache_internal.create_entry_table(
    relation text, type text, fields json, durable boolean, description text
) returns regclass
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    persistence constant text := case when durable then '' else 'unlogged' end;
begin
    if fields is null then
        -- CREATE TABLE ... PARTITION OF would wait for all who are writing any JSON type, with others behind it.
        execute format(
            'create %s table pgcache.%I (like pgcache.cache_store including defaults)', persistence, relation
        );
        execute format(
            'alter table pgcache.cache_store attach partition pgcache.%I for values in (%L)', relation, type
        );
    else
        execute format($sql$
            create %s table pgcache.%I (
                id bigint generated by default as identity (cache 10000),
                tenant text collate "C" not null default '',
                cache_key text collate "C" not null,
                %s,
                created_at timestamptz not null default now(),
                expires_at timestamptz,
                last_accessed_at timestamptz not null default now(),
                hit_count bigint not null default 0,
                hit_weight smallint not null default 1,
                version bigint,
                cache_tags text[] collate "C",
                cache_epoch bigint,
                cache_stale_until timestamptz,
                cache_compute_ms real,
                primary key (tenant, cache_key)
            )
            $sql$, persistence, relation, (
                select string_agg(
                    column_definition(f.name, f.column_type, f.required, f.fallback), ', ' order by d.place
                )
                from json_object_keys(fields) with ordinality d (name, place)
                inner join fields_of(type, check_fields(fields)) f on f.name = d.name
            ));
    end if;
    execute format('comment on table pgcache.%I is %L', relation, description);
    return format('pgcache.%I', relation)::regclass;
end
$$;

comment on function pgcache_internal.create_entry_table(text, text, json, boolean, text) is
'Creates the table of a type: with a column for each of its fields, in their order, or (fields NULL) a partition of'
' cache_store.';

create or replace function pgcache_internal.column_definition(
    name text, column_type text, required boolean, fallback text
) returns text
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select format('%I %s%s%s',
        name,
        case column_type
            when 'vector' then (
                select format('%I.vector', n.nspname)
                from pg_extension e inner join pg_namespace n on n.oid = e.extnamespace
                where e.extname = 'vector'
            )
            else column_type
        end,
        case when required or fallback is not null then ' not null' end,
        ' default ' || quote_literal(fallback)
    )
$$;

comment on function pgcache_internal.column_definition(text, text, boolean, text) is
'The SQL definition of a field''s column.';
