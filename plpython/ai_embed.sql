-- Embeddings, read-through over the cache type embedding.

create or replace function pgcache.embed(text text, model text default null) returns vector
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    chosen constant text := coalesce(model, ai_setting('embedding_model'));
    answer cache_embeddings.embedding%type;
begin
    if text is not null then
        answer := cache_get_embedding(text, chosen);
        if answer is null then
            answer := (select m.embedding from ai_embed_missing(array[text], chosen) m);
        end if;
    end if;
    return answer;
end
$$;

comment on function pgcache.embed(text, text) is
'The vector of a text, from the cache, else from the endpoint and then cached; NULL for NULL. model: default the'
' setting embedding_model. Errors: PC020 to PC025, PC005 wrong dimensions is a warning, 42501 without ai_grant, 25006,'
' 57014.';

create or replace function pgcache.embed_many(
    texts text[], model text default null
) returns table (text text, embedding vector)
language sql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    with chosen as (
        select coalesce(model, ai_setting('embedding_model')) as name
    ), known as materialized (
        select k.text, k.embedding
        from chosen c
        cross join lateral cache_get_embeddings(
            array(select distinct t from unnest(texts) t where t is not null), c.name
        ) k
    ), fetched as materialized (
        select f.text, f.embedding
        from chosen c
        cross join lateral ai_embed_missing(array(select k.text from known k where k.embedding is null), c.name) f
    )
    select a.text, coalesce(k.embedding, f.embedding)
    from unnest(texts) with ordinality a (text, place)
    left join known k on k.text = a.text
    left join fetched f on f.text = a.text
    order by a.place
$$;

comment on function pgcache.embed_many(text[], text) is
'One row for each text, in the order asked, with its vector: from the cache, and for all texts that are missing there,'
' once each, from the endpoint. Errors: as for one text.';

create or replace function pgcache_internal.ai_embed_missing(
    texts text[], model text
) returns table (text text, embedding vector)
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    batch constant integer := ai_setting('batch')::integer;
    until constant timestamptz := clock_timestamp() + make_interval(secs => ai_setting('lease')::float8);
    late text[];
    missing text[] := texts;
    others text[];
    part text[];
    vectors text[];
begin
    if cardinality(texts) = 0 then
        return;
    end if;
    perform ai_check_spending();
    perform ai_check_text('text', t) from unnest(texts) t;
    loop
        begin
            late := ai_claim('embedding', array(select embedding_key(t, model) from unnest(missing) t), until);
            -- What others have asked for meanwhile is there to be seen, and need not be claimed.
            others := array(select h.text from ai_embeddings_here(missing, model) h);
            exit when others = '{}';
            raise exception using errcode = 'PC099', message = 'never seen: rolls back, and so gives back the claims';
        exception when sqlstate 'PC099' then
            for text, embedding in select h.text, h.embedding from ai_embeddings_here(others, model) h loop
                missing := array_remove(missing, text);
                return next;
            end loop;
        end;
        exit when missing = '{}';
    end loop;
    while cardinality(missing) > 0 loop
        part := missing[:batch];
        missing := missing[batch + 1:];
        vectors := array(select jsonb_array_elements_text(
            ai_ask('embeddings', jsonb_build_object('model', model, 'input', part)) -> 'vectors'
        ));
        for text, embedding in select f.t, f.v from unnest(part, vectors) f (t, v) loop
            return next;
        end loop;
        perform ai_store_embeddings(array_agg(f.t), model, array_agg(f.v))
        from unnest(part, vectors) f (t, v) where embedding_key(f.t, model) <> all(late) having count(*) > 0;
    end loop;
end
$$;

comment on function pgcache_internal.ai_embed_missing(text[], text) is
'Gets the vectors of different texts that are not cached from the endpoint, in requests of at most the setting batch,'
' and caches them; those that another session is asking for are waited for. Counts no hits or misses.';

create or replace function pgcache_internal.ai_embeddings_here(
    texts text[], model text
) returns table (text text, embedding vector)
language sql volatile parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select t, e.embedding
    from unnest(texts) t
    inner join cache_embeddings e
        on e.tenant = current_tenant() and e.cache_key = embedding_key(t, ai_embeddings_here.model)
    where is_live(e.expires_at, e.cache_tags, e.tenant, e.cache_epoch, cache_now())
$$;

comment on function pgcache_internal.ai_embeddings_here(text[], text) is
'The vectors that are cached of these texts, where there are any. Counts no hits or misses.';

create or replace function pgcache_internal.ai_store_embeddings(
    texts text[], model text, embeddings text[]
) returns bigint
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '2s'
as $$
begin
    return cache_set_embeddings(texts, model, embeddings);
exception when others then  -- a cancel is not among them
    raise warning using errcode = sqlstate,
        message = format('the embeddings are returned, but not cached: %s', sqlerrm);
    return 0;
end
$$;

comment on function pgcache_internal.ai_store_embeddings(text[], text, text[]) is
'As cache_set_embeddings, but what was paid for is not lost for an error: it becomes a warning, and 0.';
