-- Types: what users create, configure and drop; the counters and storage settings that every type has.
-- SECURITY DEFINER: an application's role may manage types without owning the tables (see access/roles.sql).

create or replace function pgcache_internal.prepare_type(type text) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered constant types := check_type(type);
    options constant text[] := array[
        'fillfactor=90', 'autovacuum_vacuum_scale_factor=0.05', 'autovacuum_vacuum_threshold=500',
        'autovacuum_vacuum_insert_scale_factor=0.2', 'autovacuum_analyze_scale_factor=0.2'
    ];
    counter text;
    value_column record;
begin
    foreach counter in array counter_names() loop
        if to_regclass(format('pgcache_internal.%I', counter || '_' || type)) is null then
            execute format('create unlogged sequence pgcache_internal.%I minvalue 0 start 1', counter || '_' || type);
            execute format('comment on sequence pgcache_internal.%I is %L', counter || '_' || type,
                format('Counter of type %s; see counter_names()', type));
        end if;
    end loop;
    if to_regclass(format('pgcache_internal.%I', 'turn_' || type)) is null then
        execute format('create table pgcache_internal.%I ()', 'turn_' || type);
        execute format('comment on table pgcache_internal.%I is %L', 'turn_' || type,
            format('Always empty: locked by who makes room in type %s, see lock_eviction.', type));
    end if;
    perform set_clocks(type);
    insert into counter_totals (type, counter)
    select type, c from unnest(array['hits', 'misses', 'evicted', 'expired']) c
    on conflict on constraint counter_totals_pkey do nothing;
    -- What is so already is left alone: to alter it would lock a table, or a sequence, that others are using.
    -- Churn is the rule: vacuum early, and leave room on each page for the updates of hit counts to be HOT.
    if not exists (select from pg_class c where c.oid = registered.relation and c.reloptions @> options) then
        execute format(
            'alter table %s set (%s, toast.autovacuum_vacuum_scale_factor = 0.05)',
            registered.relation, array_to_string(options, ', ')
        );
    end if;
    for value_column in
        select a.attname as name, a.atttypid = 'bytea'::regtype as is_binary
        from pg_attribute a
        where a.attrelid = registered.relation and a.attnum > 0
            and coalesce(registered.fields ? a.attname, a.attname = 'data')
            and case
                when a.atttypid = 'bytea'::regtype then a.attstorage <> 'e'
                else a.atttypid in ('text'::regtype, 'jsonb'::regtype) and a.attcompression <> 'l' and (
                    select 'lz4' = any(s.enumvals) from pg_settings s where s.name = 'default_toast_compression'
                )
            end
    loop
        if value_column.is_binary then  -- audio and images are compressed already
            execute format(
                'alter table %s alter column %I set storage external', registered.relation, value_column.name
            );
        else
            execute format(
                'alter table %s alter column %I set compression lz4', registered.relation, value_column.name
            );
        end if;
    end loop;
end
$$;

comment on function pgcache_internal.prepare_type(text) is
'Gives a type its counters, totals and storage settings, as far as it lacks them; every install runs it for all types.';

create or replace function pgcache_internal.hit_weight_at(hit_tracking text, hit_count bigint) returns smallint
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select (case
        when hit_tracking = 'off' then 32767
        when hit_tracking = 'exact' then -1
        when hit_count < 16 then 1
        when hit_count < 100 then hit_count / 5
        when hit_count < 10000 then 20
        else least(hit_count / 500, 32000)
    end)::smallint
$$;

comment on function pgcache_internal.hit_weight_at(text, bigint) is
'How many hits one line of the hit log stands for, for an entry that shows hit_count hits: in mode sampled 1 up to 16'
' hits, then up to 20, from 10000 on 1/500 of the count; the sum stays unbiased, with a standard error of 4.5 % at'
' 10000. exact: -1 (log each, however long the log). off: 32767 (log none).';

create or replace function pgcache_internal.declare_type(
    type text, relation text, description text, ttl interval default '1 hour', max_bytes bigint default 4294967296,
    fields json default null, writer text default null, hot_ttl interval default '1 hour'
) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    existing constant regclass := to_regclass(format('pgcache.%I', relation));
    new_column text;
begin
    if exists (select from types t where t.type = type and not t.builtin) then
        raise exception using errcode = 'PC007',
            message = format('this version has a cache type %L of its own, and this database has one of yours', type),
            hint = format(
                'Its entries go with it, so keep what you need: SELECT cache_drop_type(%L), then upgrade.', type
            );
    end if;
    if existing is not null then
        for new_column in
            select column_definition(f.name, f.column_type, f.required, f.fallback)
            from fields_of(type, check_fields(fields)) f
            where not exists (select from pg_attribute a where a.attrelid = existing and a.attname = f.name)
        loop
            -- It was there, and was dropped: with the extension vector, say. What is left are no entries.
            if exists (select from types t where t.type = type and t.fields = check_fields(fields)) then
                execute format('delete from %s', existing);
            end if;
            execute format('alter table %s add column %s', existing, new_column);
        end loop;
    end if;
    insert into types as t (type, builtin, relation, fields, ttl, max_bytes, writer, hot_ttl)
    values (
        type, true,
        coalesce(
            existing,
            create_entry_table(relation, type, fields, true, format('Entries of type %s: %s.', type, description))
        ),
        check_fields(fields), ttl, max_bytes, writer, hot_ttl
    )
    on conflict on constraint types_pkey do update
    set relation = excluded.relation, fields = excluded.fields, writer = excluded.writer, hot_ttl = excluded.hot_ttl;
end
$$;

comment on function pgcache_internal.declare_type(text, text, text, interval, bigint, json, text, interval) is
'Declares a built-in type, at every install: makes its table, or adds the columns that it lacks, and registers it. ttl,'
' max_bytes: at first; after that they are what cache_configure says. fields: as for cache_create_type; fields that a'
' released version had can only be taken away, or changed, by a migration. writer: the function that stores an entry,'
' for a type that put is not to write: (key text, value jsonb, ttl interval, overwrite boolean) returns boolean.'
' hot_ttl: default of cache_hot_on. Errors: PC007 where a user''s type has this name.';

create or replace function pgcache.cache_create_type(
    type text, ttl interval default '1 hour', max_entries bigint default null, max_bytes bigint default 4294967296,
    eviction text default 'lru', hit_tracking text default 'sampled', durable boolean default true,
    enabled boolean default true, fields json default null, exist_ok boolean default false,
    bytes boolean default false
) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    relation constant text := 'cache_type_' || type;
begin
    if exist_ok and exists (select from types t inner join pg_class c on c.oid = t.relation where t.type = type) then
        return;  -- without waiting for those who are changing others
    end if;
    perform take_turn(), forget_lost_types();
    if type is null or type !~ '^[a-z][a-z0-9_]{0,39}$' then
        raise exception using errcode = 'PC010',
            message = format('%L cannot name a cache type', type),
            hint = 'A name has 1 to 40 lower-case letters, digits and underscores and begins with a letter.';
    elsif exists (select from types t where t.type = type) then
        if exist_ok then
            return;
        end if;
        raise exception using errcode = 'PC007',
            message = format('the cache type %L exists already', type),
            hint = format(
                'Change it with SELECT cache_configure(%1$L, ttl => ...),'
                ' or drop it first with SELECT cache_drop_type(%1$L).', type
            );
    elsif exists (
        select from unnest(counter_names() || 'turn'::text) n
        where to_regclass(format('pgcache_internal.%I', n || '_' || type)) is not null
        union all
        select where to_regclass(format('pgcache.%I', relation)) is not null
    ) then
        raise exception using errcode = 'PC010',
            message = format('%L cannot name a cache type: a table or an index of pgcache has such a name', type),
            hint = 'Choose another name.';
    end if;
    perform check_type_options(ttl, max_entries, max_bytes, eviction, hit_tracking, null, null, null);
    if bytes and fields is not null then
        raise exception using errcode = 'PC010',
            message = 'the values of a type are bytes, or have fields, not both',
            hint = 'Pass bytes, or fields. A field of kind base64 holds bytes, too.';
    elsif bytes then
        fields := fields_of_bytes();
    end if;
    insert into types (type, fields, relation, ttl, max_entries, max_bytes, eviction, hit_tracking, durable, enabled)
    values (
        type, check_fields(fields),
        create_entry_table(relation, type, fields, durable, format('Entries of the cache type %s.', type)),
        case when ttl < cache_never() then ttl end, max_entries, max_bytes, eviction, hit_tracking, durable, enabled
    );
    perform prepare_type(type), compile_types();
    perform give_rights(r.role) from roles_with_access() r where r.tables;
end
$$;

comment on function pgcache.cache_create_type(
    text, interval, bigint, bigint, text, text, boolean, boolean, json, boolean, boolean
) is
'Creates a type, with a table of its own, cache_type_<type>. fields: what its values have, each in a column of its own:'
' {"name": "kind", ...}, a kind being string, count (a whole number from 0), integer, number, boolean, array, object,'
' any, base64 or vector, followed by ! if it must be present, or by =value for what is stored where it is not; hits'
' save the tokens of a field tokens_used, at the price of the model of a field model; counts input_tokens and'
' cached_input_tokens say of what kind they were. Without fields: any JSON. ttl:'
' default for its entries, NULL = never. max_entries, max_bytes: limits, NULL = none (default 4 GB). eviction: lru,'
' cost, fifo or none. hit_tracking: exact, sampled or off. durable false: UNLOGGED, faster, emptied by a crash, not on'
' standbys. exist_ok: a type of this name, however it was made, is left as it is, and is no error; so programs can'
' create theirs when they start. bytes: its values are bytes, or whole numbers, see cache_set_bytes. Errors: PC007'
' exists, PC010 invalid option.';

create or replace function pgcache_internal.check_type_options(
    ttl interval, max_entries bigint, max_bytes bigint, eviction text, hit_tracking text, dimensions bigint,
    max_age interval, tenant_share numeric
) returns void
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    allowed record;
begin
    if not (is_ttl(ttl) and (ttl >= cache_never() or is_span(ttl, '0', '10000 years'))) then
        perform refuse_ttl(ttl);
    end if;
    for allowed in
        select * from (values
            ('max_entries', max_entries::text, max_entries > 0,
                'a positive number of entries; cache_configure(..., reset => ''{max_entries}'') takes the limit away'),
            ('max_bytes', max_bytes::text, max_bytes > 0,
                'a positive number of bytes; cache_configure(..., reset => ''{max_bytes}'') takes the limit away'),
            ('max_age', quote_literal(max_age), is_span(max_age, '1 microsecond', '1000 years'),
                'a positive interval of at most 1000 years such as ''30 days'';'
                ' cache_configure(..., reset => ''{max_age}'') takes it away'),
            ('tenant_share', tenant_share::text, tenant_share between 0.01 and 1,
                'a number from 0.01 to 1 such as 0.5; cache_configure(..., reset => ''{tenant_share}'') takes it away'),
            ('dimensions', dimensions::text, dimensions between 1 and 16000,
                'a number from 1 to 16000, which is pgvector''s limit'),
            ('eviction', quote_literal(eviction),
                eviction is null or exists (select from eviction_policies() p where p.policy = eviction),
                'one of ' || (select string_agg(p.policy, ', ') from eviction_policies() p)),
            ('hit_tracking', quote_literal(hit_tracking), hit_tracking in ('exact', 'sampled', 'off'),
                'exact, sampled or off')
        ) o (name, value, fine, values)
    loop
        if not allowed.fine then
            raise exception using errcode = 'PC010',
                message = format('%s cannot be %s', allowed.name, allowed.value),
                hint = format('%s is %s.', allowed.name, allowed.values);
        end if;
    end loop;
end
$$;

comment on function pgcache_internal.check_type_options(
    interval, bigint, bigint, text, text, bigint, interval, numeric
) is
'Checks what cache_create_type and cache_configure are given. Errors: PC003, PC010.';

create or replace function pgcache.cache_configure(
    type text, ttl interval default null, max_entries bigint default null, max_bytes bigint default null,
    eviction text default null, hit_tracking text default null, durable boolean default null,
    enabled boolean default null, dimensions bigint default null, reset text[] default '{}',
    tier text default null, max_age interval default null, tenant_share numeric default null
) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    before types;
    given constant text[] := array[
        case when ttl is not null or tier is not null then 'ttl' end,
        case when max_entries is not null then 'max_entries' end, case when max_bytes is not null then 'max_bytes' end,
        case when dimensions is not null then 'dimensions' end, case when max_age is not null then 'max_age' end,
        case when tenant_share is not null then 'tenant_share' end
    ];
    resettable constant text[] := array['ttl', 'max_entries', 'max_bytes', 'dimensions', 'max_age', 'tenant_share'];
begin
    perform take_turn(), forget_lost_types();
    before := check_type(type);
    perform check_type_options(ttl, max_entries, max_bytes, eviction, hit_tracking, dimensions, max_age, tenant_share);
    if not reset <@ resettable then
        raise exception using errcode = 'PC010',
            message = format('%s cannot be reset', reset),
            hint = format('These can: %s.', array_to_string(resettable, ', '));
    elsif ttl is not null and tier is not null then
        raise exception using errcode = 'PC010',
            message = 'a type has a ttl of its own, or that of a tier, not both',
            hint = 'Pass ttl, or tier.';
    elsif reset && given then
        raise exception using errcode = 'PC010',
            message = format('%s cannot be set and reset at once', (
                select string_agg(g, ', ') from unnest(given) g where g = any(reset)
            )),
            hint = 'Name in reset what shall have no value any more, and nothing else.';
    elsif dimensions is not null
        and not exists (select from fields_of(type, before.fields) f where f.kind = 'vector')
    then
        raise exception using errcode = 'PC010',
            message = format('the type %s has no vectors', type),
            hint = 'dimensions goes with the type embedding, and with types of yours that have a field of kind vector.';
    end if;
    update types t
    set ttl = case
            when 'ttl' = any(reset) then null
            when cache_configure.tier is not null then cache_tier(cache_configure.tier)
            when cache_configure.ttl >= cache_never() then null
            else coalesce(cache_configure.ttl, t.ttl)
        end,
        tier = case when 'ttl' = any(given || reset) then cache_configure.tier else t.tier end,
        max_age = case when 'max_age' = any(reset) then null else coalesce(cache_configure.max_age, t.max_age) end,
        max_entries = case
            when 'max_entries' = any(reset) then null
            else coalesce(cache_configure.max_entries, t.max_entries)
        end,
        max_bytes = case
            when 'max_bytes' = any(reset) then null
            else coalesce(cache_configure.max_bytes, t.max_bytes)
        end,
        tenant_share = case
            when 'tenant_share' = any(reset) then null
            else coalesce(cache_configure.tenant_share, t.tenant_share)
        end,
        dimensions = case
            when 'dimensions' = any(reset) then null
            else coalesce(cache_configure.dimensions, t.dimensions)
        end,
        eviction = coalesce(cache_configure.eviction, t.eviction),
        hit_tracking = coalesce(cache_configure.hit_tracking, t.hit_tracking),
        durable = coalesce(cache_configure.durable, t.durable),
        enabled = coalesce(cache_configure.enabled, t.enabled)
    where t.type = cache_configure.type;
    if durable <> before.durable then
        execute format('alter table %s set %s', before.relation, case when durable then 'logged' else 'unlogged' end);
    end if;
    perform compile_types();
    -- cache_get does not look at the registry (it would cost a third of the call), so the entries have to know.
    if hit_tracking <> before.hit_tracking then
        execute format('update %s t set hit_weight = hit_weight_at($1, t.hit_count)', before.relation)
        using hit_tracking;
    end if;
    if enabled = false then
        perform void_leases_like(type, '*', '%');
        execute format('delete from %s', before.relation);
    end if;
    if 'tenant_share' = any(reset) then
        delete from tenants_over o where o.type = type;
    end if;
    if max_entries is not null or max_bytes is not null or eviction is not null or tenant_share is not null
        or reset && '{max_entries,max_bytes}'
    then
        perform set_clocks(type), measure(type);
    end if;
end
$$;

comment on function pgcache.cache_configure(
    text, interval, bigint, bigint, text, text, boolean, boolean, bigint, text[], text, interval, numeric
) is
'Changes a type; what is NULL stays as it is. ttl: default for entries written from now on. max_entries, max_bytes,'
' eviction (lru, cost, fifo, none), hit_tracking (exact, sampled, off): see cache_create_type. durable: rewrites the'
' table. enabled false: empties the type and stores nothing. dimensions: fixes those of embeddings. reset: names of'
' ttl, max_entries, max_bytes, dimensions, max_age or tenant_share to take away. tier (short, medium, long, week): the'
' ttl is that of the tier, also when its setting changes (see cache_tier). max_age: entries that'
' were stored longer ago are removed by the clean-up, whatever their ttl. tenant_share (0.01 to 1): the share of'
' max_entries and max_bytes that each tenant keeps; as long as any tenant has more of one than that, entries of such'
' tenants are evicted first, whoever writes. Errors: PC001, PC003, PC010.';

-- The tables are locked (ACCESS SHARE) and looked up by the newest catalog: for partitions pg_partition_tree does both,
-- and leaves out what is gone when it has the lock. Built-in types cannot be dropped.
create or replace function pgcache_internal.types_here() returns setof pgcache_internal.types
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    registered types;
begin
    return query
    select t.* from types t
    where t.builtin
        or t.fields is null and t.relation in (select p.relid from pg_partition_tree('pgcache.cache_store') p);
    for registered in select * from types t where not t.builtin and t.fields is not null loop
        begin
            execute format('select from pgcache.%I limit 0', 'cache_type_' || registered.type);
            return next registered;
        exception when undefined_table then
            null;
        end;
    end loop;
end
$$;

comment on function pgcache_internal.types_here() is
'The types, for what goes through all of them: until the transaction ends, none of these can be dropped by another'
' session. One that has just been dropped is left out.';

create or replace function pgcache_internal.is_here(registered types) returns boolean
language sql stable parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select exists (select from types_here() t where t.relation = registered.relation) $$;

comment on function pgcache_internal.is_here(types) is
'Whether a type is still there, for what commits between types: see types_here.';

create or replace function pgcache.cache_drop_type(type text) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    registered types;
begin
    perform take_turn();
    registered := check_type(type);
    if registered.builtin then
        raise exception using errcode = 'PC008',
            message = format('the built-in type %s cannot be dropped', type),
            hint = format(
                'Empty it with SELECT cache_clear(%1$L),'
                ' or stop its use with SELECT cache_configure(%1$L, enabled => false).', type
            );
    end if;
    -- In this order no deadlock can come of it. Who folds hits or settles counters never waits for these two locks;
    -- with the table all who use it wait (see types_here). So what takes time comes before: who has waited for the
    -- table when it is gone gets 42P01.
    lock table tenant_savings, counters_seen in share update exclusive mode;
    delete from types t where t.type = type;
    perform compile_types();
    if exists (select from pg_class c where c.oid = registered.relation) then
        for attempt in 1..10 loop  -- then it queues until it gets them
            exit when lock_to_drop(registered);
        end loop;
        execute format('drop table %s', registered.relation);
    end if;
    perform forget_type(type);
end
$$;

comment on function pgcache.cache_drop_type(text) is
'Drops a type that a user created, with its entries and statistics; waits for transactions that have used it, and'
' writers of JSON types then wait for it. Calls that wait for it fail with 42P01 or XX000, later ones with PC001.'
' Errors: PC001, PC008 built-in type.';

-- A transaction may have read this type, and go on to write another JSON type, which locks cache_store; or the other
-- way round. Whichever of the two tables came first here, one of them would deadlock. So both are let go of before
-- deadlock_timeout.
create or replace function pgcache_internal.lock_to_drop(registered types) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '500ms'
as $$
begin
    execute format('lock table %s in access exclusive mode', registered.relation);
    if registered.fields is null then
        lock table only cache_store in access exclusive mode;
    end if;
    return true;
exception when lock_not_available then
    return false;
end
$$;

comment on function pgcache_internal.lock_to_drop(types) is
'Locks the tables that to drop a type takes, both or none; false if that takes longer than half a second.';

create or replace function pgcache_internal.forget_type(type text) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    counter text;
begin
    delete from types t where t.type = type;
    delete from counters_seen s where s.type = type;
    delete from hit_log l where l.type = type;
    delete from leases l where l.type = type;
    delete from tenants_over o where o.type = type;
    delete from stats_snapshots s where s.type = type;  -- another type of this name begins anew
    foreach counter in array counter_names() loop
        execute format('drop sequence if exists pgcache_internal.%I', counter || '_' || type);
    end loop;
    execute format('drop table if exists pgcache_internal.%I', 'turn_' || type);
end
$$;

comment on function pgcache_internal.forget_type(text) is 'Removes what there is of a type besides its table.';

create or replace function pgcache_internal.forget_lost_types() returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if exists (select from types t where not exists (select from pg_class c where c.oid = t.relation)) then
        perform take_turn();
        lock table tenant_savings in share update exclusive mode;  -- or who folds hits would meet a type that goes
        perform forget_type(t.type) from types t where not exists (select from pg_class c where c.oid = t.relation);
        perform compile_types();
    end if;
end
$$;

comment on function pgcache_internal.forget_lost_types() is
'A type whose table was dropped by DROP TABLE is gone, as if by cache_drop_type. What manages types, and the upkeep,'
' begin with it; else what goes through all types would fail at this one. Built-in types come back with the next'
' install.';

create or replace function pgcache_internal.is_readable(type text) returns boolean
language sql volatile parallel safe  -- not pinned: inlined
as $$ select not pg_catalog.pg_is_in_recovery() or pgcache_internal.is_logged(type) $$;

comment on function pgcache_internal.is_readable(text) is
'Whether a type can be read on this server: an UNLOGGED one cannot on a standby.';

create or replace function pgcache_internal.is_logged(type text) returns boolean
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select not exists (
        select from types t inner join pg_class c on c.oid = t.relation
        where t.type = is_logged.type and c.relpersistence = 'u'
    )
$$;

comment on function pgcache_internal.is_logged(text) is
'Whether the table of a type is in the WAL, so that standbys have it and a crash leaves it.';
