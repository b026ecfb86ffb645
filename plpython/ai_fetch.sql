-- The only function that reaches the network. It acts as the owner, who alone can read the key; who may execute it may
-- spend money.

create or replace function pgcache_internal.ai_fetch(kind text, request jsonb) returns jsonb
language plpython3u volatile parallel unsafe security definer
set search_path to pg_catalog, pg_temp
as $python$
@include ai_http.py@
@include ai_openai.py@
return json.dumps(fetch(plpy, kind, json.loads(request), os.environ))
$python$;

revoke all on function pgcache_internal.ai_fetch(text, jsonb) from public;

comment on function pgcache_internal.ai_fetch(text, jsonb) is
'Asks the AI endpoint. kind chat: request {"model", "messages"}, returns {"content", "tokens", "finish", "provider"};'
' embeddings: {"model", "input"}, returns {"vectors", "tokens"}. What went wrong is returned as {"error": {"sqlstate",'
' "message", "hint"}}: PC020 not configured, PC021 unreachable, PC022 refused, PC023 rate limit, PC024 invalid'
' answer, or too long.'
' A cancel or statement_timeout ends it within 0.2 s.';

create or replace function pgcache_internal.ai_ask(kind text, request jsonb) returns jsonb
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    reply jsonb;
begin
    perform ai_check_text('model', request ->> 'model');
    reply := ai_fetch(kind, request);
    if reply ? 'error' then
        raise exception using errcode = reply #>> '{error,sqlstate}',
            message = reply #>> '{error,message}',
            hint = reply #>> '{error,hint}';
    end if;
    return reply;
end
$$;

comment on function pgcache_internal.ai_ask(text, jsonb) is
'As ai_fetch, but raises its errors. Errors: PC025 no model.';

create or replace function pgcache_internal.ai_check_spending() returns void
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not ai_may_spend() then
        raise exception using errcode = '42501',
            message = format(
                'this is not cached, and the role %I may not spend money on asking the AI endpoint', current_user
            ),
            hint = format('Let the owner of schema pgcache run SELECT ai_grant(%L)', current_user);
    end if;
    perform check_writable();
end
$$;

comment on function pgcache_internal.ai_check_spending() is
'To be called before money is spent. Errors: 42501 without ai_grant, 25006 where the answer could not be cached.';
