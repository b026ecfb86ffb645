-- Configuring the AI functions, and who may spend money with them.

create or replace function pgcache.ai_configure(
    base_url text default null, api_key text default null, api_key_file text default null, model text default null,
    embedding_model text default null, schema_version text default null, timeout float8 default null,
    deadline float8 default null, retries integer default null, lease float8 default null,
    row_limit integer default null, schema_bytes integer default null, batch integer default null,
    temperature text default null, max_tokens text default null, instructions text default null,
    answer_bytes integer default null
) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    given record;
begin
    perform check_owner();
    for given in
        select s.name, s.value, s.good, s.hint
        from (values
            ('ai_base_url', rtrim(base_url, '/'), base_url ~ '^https?://[^/@?#[:space:]]+(/[^@?#[:space:]]*)?$',
                'http:// or https://, a host and a path such as /v1; no password'),
            ('ai_model', model, model <> '', 'the name of a model'),
            ('ai_embedding_model', embedding_model, embedding_model <> '', 'the name of a model'),
            ('ai_schema_version', schema_version, schema_version <> '', 'auto, or a name such as v1'),
            ('ai_timeout', timeout::text, timeout between 0.1 and 3600, 'seconds, 0.1 to 3600'),
            ('ai_deadline', deadline::text, deadline between 0.1 and 3600, 'seconds, 0.1 to 3600'),
            ('ai_retries', retries::text, retries between 0 and 20, '0 to 20'),
            ('ai_lease', lease::text, lease between 0.1 and 3600, 'seconds, 0.1 to 3600'),
            ('ai_row_limit', row_limit::text, row_limit >= 0, 'a number of rows; 0: no limit'),
            ('ai_schema_bytes', schema_bytes::text, schema_bytes between 0 and 10000000,
                'a number of bytes up to 10000000'),
            ('ai_batch', batch::text, batch between 1 and 2048, '1 to 2048'),
            ('ai_answer_bytes', answer_bytes::text, answer_bytes between 1000 and 100000000,
                'a number of bytes from 1000 to 100000000'),
            ('ai_temperature', temperature, temperature ~ '^([0-9]([.][0-9]+)?)?$',
                'a number from 0 to 2, or empty for the model''s default'),
            ('ai_max_tokens', max_tokens, max_tokens ~ '^[0-9]{0,7}$',
                'a number of tokens, or empty for the model''s default'),
            ('ai_instructions', instructions, true, ''),
            ('ai_api_key_file', api_key_file, api_key_file ~ '^(/.*)?$', 'the absolute path of a file on the server')
        ) s (name, value, good, hint)
        where s.value is not null
    loop
        if not given.good then
            raise exception using errcode = 'PC010',
                message = format('setting %s cannot be %L', given.name, left(given.value, 100)),
                hint = format('It takes %s.', given.hint);
        end if;
        update settings c set value = given.value where c.name = given.name;
    end loop;
    if api_key = '' then
        delete from ai_secrets s where s.name = 'api_key';
    elsif api_key ~ e'[^\\x21-\\x7e]' then
        raise exception using errcode = 'PC010',
            message = 'the API key has spaces, line ends or other characters that no key has',
            hint = 'Pass it as the provider shows it, without the quotes around it.';
    elsif api_key is not null then
        insert into ai_secrets as s (name, value) values ('api_key', api_key)
        on conflict on constraint ai_secrets_pkey do update set value = excluded.value;
    end if;
end
$$;

comment on function pgcache.ai_configure(
    text, text, text, text, text, text, float8, float8, integer, float8, integer, integer, integer, text, text, text,
    integer
) is
'Sets what is given of the AI functions'' settings (ai_settings() shows them with what they mean); NULL leaves one as'
' it is. api_key: '''' removes it; better not in a statement that may be logged: python -m pgcache_py ai-key reads it'
' from standard input. For the owner of schema pgcache. Errors: 42501, PC010.';

create or replace function pgcache.ai_settings() returns table (name text, value text, description text)
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select substr(s.name, 4), s.value, s.description from settings s where starts_with(s.name, 'ai_') order by 1
$$;

comment on function pgcache.ai_settings() is
'The settings of the AI functions, as ai_configure takes them; the API key is not among them.';

create or replace function pgcache_internal.ai_setting(name text) returns text
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select cache_setting('ai_' || name) $$;

comment on function pgcache_internal.ai_setting(text) is
'A setting of the AI functions by its short name. Errors: PC010.';

create or replace function pgcache_internal.ai_may_spend() returns boolean
language sql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select has_function_privilege('pgcache_internal.ai_fetch(text, jsonb)', 'execute') $$;

comment on function pgcache_internal.ai_may_spend() is
'Whether the current role may call what reaches the network and costs money; ai_grant allows it.';

-- The gate is the right to execute ai_fetch, the only function that reaches the network; the others run as their
-- caller.
create or replace function pgcache.ai_grant(role name) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_owner(), take_turn();
    if role is null or to_regrole(quote_ident(role)) is null then
        raise exception using errcode = 'PC010',
            message = format('there is no role %L', role),
            hint = format('Create it first: CREATE ROLE %I LOGIN', coalesce(role, 'name'));
    end if;
    if not has_schema_privilege(role, 'pgcache', 'usage')
        or not has_table_privilege(role, 'pgcache.ai_worker_cache', 'insert')
    then
        perform cache_grant(role, 'write');
    end if;
    execute format('grant execute on function ai_fetch(text, jsonb) to %I', role);
end
$$;

comment on function pgcache.ai_grant(name) is
'Lets a role spend money: call ai_worker_generate, llm_complete and embed for what is not cached. Gives it write access'
' to the cache if it has none. For the owner of schema pgcache. Errors: PC010, 42501.';

create or replace function pgcache.ai_revoke(role name) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_owner(), take_turn();
    execute format('revoke execute on function ai_fetch(text, jsonb) from %I', role);
end
$$;

comment on function pgcache.ai_revoke(name) is
'Takes from a role what ai_grant gave it; cached answers stay open to it, cache_revoke takes those too. For the owner'
' of schema pgcache.';
