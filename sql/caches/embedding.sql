-- embedding: vectors of texts (table cache_embeddings).

select pgcache_internal.declare_type(
    'embedding', 'cache_embeddings', 'vectors of texts', ttl => '24 hours',
    fields => '{"embedding": "vector!", "model": "string"}', writer => 'write_embedding'
);

create or replace function pgcache_internal.put_embedding(
    key text, embedding text, model text, ttl interval, overwrite boolean
) returns boolean
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
#variable_conflict use_variable
declare
    vector pgcache.cache_embeddings.embedding%type;  -- spares us to name the schema that the extension is in
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    moment constant pg_catalog.timestamptz := pgcache_internal.cache_now();
    clock bigint;
begin
    begin
        vector := embedding;
    exception when data_exception or program_limit_exceeded then
        perform pgcache_internal.to_vector(embedding);  -- says what is wrong
    end;
    insert into pgcache.cache_embeddings as t (
        tenant, cache_key, embedding, model, created_at, expires_at, last_accessed_at, hit_weight
    )
    select
        scope, key, vector, model,
        moment, pgcache_internal.expires_at(moment, ttl, pgcache_internal.type_ttl('embedding')), moment,
        pgcache_internal.type_hit_weight('embedding')
    where pgcache_internal.may_write('embedding', key, ttl, scope)
        and vector is not null
        and coalesce(
            pg_catalog.cardinality(vector::real[]) operator(pg_catalog.=) pgcache_internal.type_dimensions('embedding'),
            true
        )
    on conflict on constraint cache_embeddings_pkey do update
    set embedding = excluded.embedding, model = excluded.model, created_at = excluded.created_at,
        expires_at = excluded.expires_at, last_accessed_at = excluded.last_accessed_at,
        cache_tags = excluded.cache_tags, cache_epoch = excluded.cache_epoch,
        cache_stale_until = excluded.cache_stale_until, cache_compute_ms = excluded.cache_compute_ms
    where overwrite or t.expires_at operator(pg_catalog.<=) moment
    returning pg_catalog.nextval('pgcache_internal.writes_embedding') into clock;
    if clock is null then
        if vector is null then
            perform pgcache_internal.reject_value('embedding', null);
        end if;
        if pg_catalog.cardinality(vector::real[])
            operator(pg_catalog.<>) pgcache_internal.type_dimensions('embedding')
        then
            perform pgcache_internal.reject_dimensions('embedding', pg_catalog.cardinality(vector::real[]));
        end if;
        return pgcache_internal.explain_refusal('embedding', key, '{"embedding": []}', ttl);
    end if;
    if clock operator(pg_catalog.=) 1::bigint
        or pg_catalog.pg_column_size(vector) operator(pg_catalog.>) pgcache_internal.large_value()
    then
        perform pgcache_internal.note_writes(
            'embedding', clock operator(pg_catalog.=) 1::bigint, pg_catalog.pg_column_size(vector)
        );
    end if;
    return true;
end
$$;

comment on function pgcache_internal.put_embedding(text, text, text, interval, boolean) is
'Upserts a vector, given as pgvector writes it: [1,2,3]. Errors: PC004 not a vector, PC005 dimensions; as cache_set.';

create or replace function pgcache_internal.write_embedding(
    key text, value jsonb, ttl interval, overwrite boolean
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.put_embedding(
        key, value operator(pg_catalog.->>) 'embedding', value operator(pg_catalog.->>) 'model', ttl, overwrite
    )
$$;

comment on function pgcache_internal.write_embedding(text, jsonb, interval, boolean) is
'put_embedding of a JSON value that fits.';

create or replace function pgcache.embedding_key(text text, model text) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$ select case when text is not null and model is not null then pgcache.cache_key(text, model) end $$;

comment on function pgcache.embedding_key(text, text) is
'The key of a text''s embedding: cache_key(text, model); NULL if one of them is.';

create or replace function pgcache.cache_get_embeddings(
    texts text[], model text
) returns table (text text, embedding vector)
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
#variable_conflict use_column
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    moment constant pg_catalog.timestamptz := pgcache_internal.cache_now();
    keys constant pg_catalog.text[] := case when texts is not null then array(
        select pgcache.embedding_key(a.text, cache_get_embeddings.model)
        from pg_catalog.unnest(texts) with ordinality a (text, place) order by a.place
    ) end;
    crowding constant integer := pgcache_internal.hit_log_crowding(pg_catalog.cardinality(texts));
    logged integer[];
    found pg_catalog.record;
begin
    if pgcache_internal.is_readable('embedding') then
        for found in
            select
                t.embedding,
                pgcache_internal.count_and_draw('pgcache_internal.hits_embedding', t.hit_weight, crowding) as logged
            from pg_catalog.unnest(keys) with ordinality a (key, place)
            left join pgcache.cache_embeddings t
                on t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) a.key
                and pgcache_internal.is_live(t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, moment)
            order by a.place
        loop
            logged := pg_catalog.array_append(logged, found.logged);
            cache_get_embeddings.text := texts[pg_catalog.cardinality(logged)];
            cache_get_embeddings.embedding := found.embedding;
            return next;
        end loop;
    else
        foreach cache_get_embeddings.text in array coalesce(texts, '{}') loop
            return next;
        end loop;
    end if;
    perform pgcache_internal.record_hits(
        'embedding', keys, pg_catalog.cardinality(pg_catalog.array_positions(logged, null)), keys, logged);
end
$$;

comment on function pgcache.cache_get_embeddings(text[], text) is
'One row for each text asked, in the order asked, with its own vector or NULL on a miss. Errors: as cache_get_many.';

create or replace function pgcache.cache_get_embedding(text text, model text) returns vector
language plpgsql volatile parallel unsafe security definer  -- not pinned: hot path
as $$
declare
    scope constant pg_catalog.text := pgcache_internal.current_tenant();
    key constant pg_catalog.text := pgcache.embedding_key(text, model);
    found_embedding pgcache.cache_embeddings.embedding%type;
    gathered pg_catalog.text;
begin
    if pgcache_internal.is_readable('embedding') then
        select
            t.embedding,
            pgcache_internal.gather_hit(
                'pgcache_internal.hits_embedding', t.hit_weight, 'pgcache.hits_embedding', t.ctid
            )
        into found_embedding, gathered
        from pgcache.cache_embeddings t
        where t.tenant operator(pg_catalog.=) scope and t.cache_key operator(pg_catalog.=) key
            and pgcache_internal.is_live(
                t.expires_at, t.cache_tags, t.tenant, t.cache_epoch, pgcache_internal.cache_now()
            );
    end if;
    if not found then
        perform pgcache_internal.count_miss('embedding', key);
    elsif pgcache_internal.are_enough(gathered) then
        perform pgcache_internal.log_gathered('embedding', key, gathered);
    end if;
    return found_embedding;
end
$$;

comment on function pgcache.cache_get_embedding(text, text) is
'The cached vector of a text by a model; NULL on a miss. Errors: as cache_get.';

create or replace function pgcache.cache_set_embedding(
    text text, model text, embedding vector, ttl interval default null
) returns boolean
language sql volatile parallel unsafe  -- not pinned: hot path
as $$
    select pgcache_internal.is_writable()
        and pgcache_internal.put_embedding(
            pgcache.embedding_key(text, model), embedding::pg_catalog.text, model, ttl, true
        )
$$;

comment on function pgcache.cache_set_embedding is
'Caches the vector of a text. ttl: default of the type, 24 hours. Errors: PC005 wrong dimensions; as cache_set.';

create or replace function pgcache.cache_set_embeddings(
    texts text[], model text, embeddings text[], ttl interval default null
) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_writable();
    if (cardinality(texts) = cardinality(embeddings)) is not true then
        raise exception using errcode = 'PC004',
            message = format('%s texts need as many embeddings, not %s',
                coalesce(cardinality(texts)::text, 'NULL'), coalesce(cardinality(embeddings)::text, 'NULL')),
            hint = 'Pass two arrays of the same length; each embedding as pgvector writes it, [1,2,3].';
    end if;
    return (
        select count(*) filter (where put_embedding(e.key, e.embedding, model, ttl, true))
        from (
            select distinct on (key) embedding_key(a.text, model) as key, a.embedding
            from unnest(texts, embeddings) with ordinality a (text, embedding, place) order by key, a.place desc
        ) e
    );
end
$$;

comment on function pgcache.cache_set_embeddings(text[], text, text[], interval) is
'Caches the vectors of many texts, each written as pgvector does: [1,2,3]; all or none. Returns how many were stored.'
' Errors: as cache_set_embedding.';
