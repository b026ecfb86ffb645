-- Plain completions, read-through over the cache type llm.

create or replace function pgcache.llm_complete(
    prompt text, model text default null, context text default '', ttl interval default null,
    no_store boolean default false, max_age interval default null
) returns jsonb
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    chosen constant text := coalesce(model, ai_setting('model'));
    key constant text := llm_key(prompt, chosen, context);
    turn text;
    value jsonb;
    messages jsonb;
    reply jsonb;
begin
    perform ai_check_text('prompt', prompt);
    perform expiry(cache_now(), ttl, null);
    loop
        if ai_is_fresh('llm', key, max_age) then
            value := cache_get('llm', key);
            if value is not null then
                return value || '{"cache_hit": true}';
            end if;
        end if;
        exit when turn <> 'answered';
        turn := ai_take_turn('llm', key, max_age);
    end loop;
    perform count_miss('llm', key);
    messages := jsonb_build_array(jsonb_build_object('role', 'user', 'content', prompt));
    if context <> '' then
        messages := jsonb_build_object('role', 'system', 'content', context) || messages;
    end if;
    reply := ai_ask('chat', jsonb_build_object('model', chosen, 'messages', messages));
    value := jsonb_build_object(
        'response', reply -> 'content', 'model', chosen, 'provider', reply -> 'provider',
        'tokens_used', reply -> 'tokens'
    );
    if turn <> 'late' and ai_is_whole(reply) and no_store is not true then
        perform ai_store('llm', key, value, ttl);
    end if;
    return value || jsonb_build_object('cache_hit', false, 'finish_reason', reply -> 'finish');
end
$$;

comment on function pgcache.llm_complete(text, text, text, interval, boolean, interval) is
'A model''s answer to a prompt, from the cache, else from the model and then cached for ttl (default: the type''s, 1'
' hour): {"response", "model", "provider", "tokens_used", "cache_hit"}, from the model also "finish_reason": cut'
' (length) and filtered (content_filter) answers are not cached. model: default the setting. context: sent as the'
' system prompt. no_store: the model''s answer is not cached. max_age: a cached answer that is older is not used; ''0'''
' asks the model again. Errors: PC003, PC020 to PC025, 42501 without ai_grant, 25006, 57014.';
