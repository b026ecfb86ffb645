-- Configuring the AI functions, and who may spend money with them.

create or replace function pgcache.ai_configure(
    base_url text default null, api_key text default null, api_key_file text default null, model text default null,
    embedding_model text default null, schema_version text default null, timeout float8 default null,
    deadline float8 default null, retries bigint default null, lease float8 default null,
    row_limit bigint default null, schema_bytes bigint default null, batch bigint default null,
    temperature text default null, max_tokens text default null, instructions text default null,
    answer_bytes bigint default null
) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    given record;
begin
    perform check_owner();
    for given in
        select s.name, s.value
        from (values
            ('ai_base_url', rtrim(base_url, '/')), ('ai_model', model), ('ai_embedding_model', embedding_model),
            ('ai_schema_version', schema_version), ('ai_timeout', timeout::text), ('ai_deadline', deadline::text),
            ('ai_retries', retries::text), ('ai_lease', lease::text), ('ai_row_limit', row_limit::text),
            ('ai_schema_bytes', schema_bytes::text), ('ai_batch', batch::text),
            ('ai_answer_bytes', answer_bytes::text), ('ai_temperature', temperature), ('ai_max_tokens', max_tokens),
            ('ai_instructions', instructions), ('ai_api_key_file', api_key_file)
        ) s (name, value)
        where s.value is not null
    loop
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
    text, text, text, text, text, text, float8, float8, bigint, float8, bigint, bigint, bigint, text, text, text, bigint
) is
'Sets what is given of the AI functions'' settings (ai_settings() shows them with what they mean); NULL leaves one as'
' it is. api_key: '''' removes it; better not in a statement that may be logged: python -m pgcache_py ai-key reads it'
' from standard input. For the owner of schema pgcache. Errors: 42501, PC010.';

create or replace function pgcache.ai_settings() returns table (name text, value text, description text)
language sql stable security definer
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

-- The gate is the right to execute ai_fetch, the only function that reaches the network, and ai_claim, which makes
-- others wait; the rest run as their caller.
create or replace function pgcache.ai_grant(role name) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_owner(), check_role(role), take_turn();
    if not has_schema_privilege(role, 'pgcache', 'usage')
        or not has_function_privilege(role, 'pgcache.cache_set'::regproc, 'execute')
    then
        perform cache_grant(role, 'write', nullif(tenants_of(role), '{}'));  -- its wall stands
    end if;
    perform give_spending(role);
end
$$;

comment on function pgcache.ai_grant(name) is
'Lets a role spend money: call ai_worker_generate, llm_complete and embed for what is not cached. Gives it write access'
' to the cache if it has none, for the tenants that it may see. For the owner of schema pgcache. Errors: PC010, 42501.';

create or replace function pgcache.ai_revoke(role name) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_owner(), check_role(role), take_turn();
    execute format(
        'revoke execute on function ai_fetch(text, jsonb), ai_claim(text, text[], timestamptz) from %I', role
    );
end
$$;

comment on function pgcache.ai_revoke(name) is
'Takes from a role what ai_grant gave it; cached answers stay open to it, cache_revoke takes those too. For the owner'
' of schema pgcache. Errors: PC010, 42501.';
