-- Seed 003's AI worker as functions: a prompt becomes SQL, which PostgreSQL has checked and nobody has executed.

create or replace function pgcache_internal.ai_validate(
    completion text, mode text, search_path text, row_limit integer
) returns jsonb
language plpython3u volatile parallel unsafe
set search_path to pg_catalog, pg_temp
set lock_timeout to '5s'
as $python$
@include ai_sql.py@
import json
return json.dumps(validate(plpy, completion, mode, search_path, row_limit))
$python$;

comment on function pgcache_internal.ai_validate(text, text, text, integer) is
'Takes the SQL out of a completion and lets PostgreSQL parse and plan it, with the caller''s rights and the search_path'
' given, without executing it: {"sql", "validated"} and, if it is not valid, "reason". Adds LIMIT row_limit to a query'
' without one, unless that is 0. mode: sql_only, sql_write.';

create or replace function pgcache_internal.ai_explain(statement text, search_path text, plan boolean) returns void
language plpgsql volatile parallel unsafe
set search_path to pg_catalog, pg_temp
as $$
declare
    explained refcursor;
begin
    perform set_config('search_path', search_path, true);
    perform set_config('transaction_read_only', 'on', true);
    -- Not EXECUTE, which would execute a second statement.
    open explained for execute e'explain (costs off)\n' || statement;
    if plan then
        move explained;
    end if;
    raise exception using errcode = 'PC099', message = 'never seen: rolls back all of this';
exception when sqlstate 'PC099' then
    null;
end
$$;

comment on function pgcache_internal.ai_explain(text, text, boolean) is
'Lets PostgreSQL parse one statement, or parse and plan it, in a read-only subtransaction. Errors: 42P11 more than one'
' statement; PostgreSQL''s own for what is wrong with it.';

-- Whoever may write the cache can have put any text there; and what was valid may not be so any more, or for this role.
create or replace function pgcache_internal.ai_worker_hit(key text, mode text, search_path text) returns jsonb
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    found_value constant jsonb := cache_get('ai_worker', key);
    checkable constant boolean := current_setting('transaction_read_only') = 'off'
        and has_database_privilege(current_database(), 'temporary');
    verdict jsonb;
begin
    if found_value is null then
        return null;
    elsif checkable then
        verdict := ai_validate(found_value ->> 'generated_sql', mode, search_path, 0);
    else
        verdict := jsonb_build_object(
            'sql', found_value -> 'generated_sql', 'validated', false,
            'reason', 'it cannot be checked in a READ ONLY transaction, on a standby, or without TEMPORARY objects'
        );
    end if;
    -- A statement of its own, which sees the hit that was just logged.
    return verdict || (
        select jsonb_build_object(
            'tokens_used', found_value -> 'tokens_used', 'schema_version', found_value -> 'schema_version',
            'cache_hit', true, 'hit_count', e.hit_count
        )
        from cache_entry('ai_worker', key) e
    );
end
$$;

comment on function pgcache_internal.ai_worker_hit(text, text, text) is
'The AI worker''s answer from the cache, validated again as ai_validate does; NULL on a miss.';

-- Not pinned: the caller's search_path decides which tables the prompt is about.
create or replace function pgcache.ai_worker_generate(
    prompt text, schema_version text default null, model text default null, mode text default 'sql_only',
    ttl interval default null, no_store boolean default false, max_age interval default null
) returns jsonb
language plpgsql volatile parallel unsafe
as $$
declare
    description pg_catalog.text;
    version pg_catalog.text := coalesce(schema_version, pgcache_internal.ai_setting('schema_version'));
begin
    if version operator(pg_catalog.=) 'auto' then
        select d.description, d.fingerprint into description, version from pgcache.ai_describe_schema() d;
    end if;
    return pgcache_internal.ai_worker_answer(
        prompt, version, coalesce(model, pgcache_internal.ai_setting('model')), mode, description,
        pg_catalog.current_setting('search_path'), ttl, no_store, max_age
    );
end
$$;

comment on function pgcache.ai_worker_generate(text, text, text, text, interval, boolean, interval) is
'The SQL for a prompt, from the cache, else from the model, then validated by PostgreSQL (never executed) and cached:'
' {"sql", "validated", "tokens_used", "schema_version", "cache_hit"}, on a hit, which is validated again, "hit_count",'
' and "reason" if it is not valid (a model''s answer is not cached then). schema_version: default the setting, else'
' auto, a fingerprint of the tables that the caller may read. model: default the setting. mode: sql_only (default), one'
' statement that only reads; sql_write: also INSERT, UPDATE, DELETE, MERGE. ttl: default of the type, 1 hour. no_store:'
' the model''s answer is not cached. max_age: a cached answer that is older is not used; ''0'' asks the model again.'
' Errors: PC003, PC020 to PC025, 42501 without ai_grant, 25006, 57014.';

create or replace function pgcache_internal.ai_worker_answer(
    prompt text, schema_version text, model text, mode text, description text, search_path text, ttl interval,
    no_store boolean, max_age interval
) returns jsonb
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    key text;
    turn text;
    found jsonb;
    reply jsonb;
    verdict jsonb;
begin
    if mode is null or mode not in ('sql_only', 'sql_write') then
        raise exception using errcode = 'PC025',
            message = format('%L is not a mode', mode),
            hint = 'sql_only: one statement that reads (default); sql_write: also INSERT, UPDATE, DELETE and MERGE.';
    end if;
    perform ai_check_text('prompt', prompt), expiry(cache_now(), ttl, null);
    if mode = 'sql_only' then
        key := ai_worker_stored_key(prompt, model, schema_version);
    else
        key := cache_key(prompt, model, schema_version, mode);
    end if;
    loop
        if ai_is_fresh('ai_worker', key, max_age) then
            found := ai_worker_hit(key, mode, search_path);
            if found is not null then
                return found;
            end if;
        end if;
        exit when turn <> 'answered';
        turn := ai_take_turn('ai_worker', key, max_age);
    end loop;
    perform ai_check_temp();
    perform count_miss('ai_worker', key);
    if description is null then
        perform set_config('search_path', search_path, true);
        description := (pgcache.ai_describe_schema()).description;
        perform pg_catalog.set_config('search_path', 'pgcache_internal, pgcache, pg_catalog, pg_temp', true);
    end if;
    reply := ai_ask('chat', jsonb_build_object('model', model, 'messages', jsonb_build_array(
        jsonb_build_object('role', 'system', 'content', ai_worker_instructions(mode, description)),
        jsonb_build_object('role', 'user', 'content', prompt)
    )));
    verdict := ai_validate(reply ->> 'content', mode, search_path, ai_setting('row_limit')::integer);
    if not ai_is_whole(reply) then
        verdict := verdict || jsonb_build_object(
            'validated', false, 'reason', format('the model did not end its answer (%s)', reply ->> 'finish')
        );
    end if;
    if turn <> 'late' and (verdict -> 'validated')::boolean and no_store is not true then
        perform ai_store('ai_worker', key, jsonb_build_object(
            'prompt_text', prompt, 'model', model, 'schema_version', schema_version,
            'generated_sql', verdict -> 'sql', 'validated', true, 'tokens_used', reply -> 'tokens'
        ), ttl);
    end if;
    return verdict || jsonb_build_object(
        'tokens_used', reply -> 'tokens', 'schema_version', schema_version, 'cache_hit', false
    );
end
$$;

comment on function pgcache_internal.ai_worker_answer(
    text, text, text, text, text, text, interval, boolean, interval
) is
'ai_worker_generate with everything chosen. description: of the schema, NULL to have it made when it is needed;'
' search_path: for which the SQL is meant.';

create or replace function pgcache_internal.ai_worker_instructions(mode text, description text) returns text
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select format(
        e'You translate a request into SQL for PostgreSQL %s.'
        ' Answer with the SQL alone: one %s statement, no explanation.'
        ' Use only the tables and columns below, with their names as they are written there.\n%s\n%s',
        current_setting('server_version_num')::integer / 10000,
        case mode when 'sql_only' then 'SELECT' else 'SELECT, INSERT, UPDATE, DELETE or MERGE' end,
        ai_setting('instructions'), description
    )
$$;

comment on function pgcache_internal.ai_worker_instructions(text, text) is 'What the model is told before the prompt.';

create or replace function pgcache_internal.ai_check_text(what text, content text) returns void
language plpgsql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
    if content is null or btrim(content, e' \t\r\n') = '' then
        raise exception using errcode = 'PC025',
            message = format('the %s is %s', what, case when content is null then 'NULL' else 'empty' end),
            hint = format('Pass the %s as a text that is not empty.', what);
    end if;
end
$$;

comment on function pgcache_internal.ai_check_text(text, text) is
'Errors: PC025 for NULL and for nothing but white space.';

create or replace function pgcache_internal.ai_check_temp() returns void
language plpgsql stable parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
    if not has_database_privilege(current_database(), 'temporary') then
        raise exception using errcode = '42501',
            message = format(
                'the role %I may not create temporary objects, which checking generated SQL needs', current_user
            ),
            hint = format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), current_user);
    end if;
end
$$;

comment on function pgcache_internal.ai_check_temp() is
'Errors: 42501 for roles without the privilege TEMPORARY on this database.';
