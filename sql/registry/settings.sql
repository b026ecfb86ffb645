-- Settings of the whole cache: what each is at first; an upgrade adds those that are new.
insert into pgcache_internal.settings (name, value, description) values
('ttl_short', '5 minutes', 'TTL tier for data that changes often'),
('ttl_medium', '1 hour', 'TTL tier for moderately stable data'),
('ttl_long', '24 hours', 'TTL tier for data that rarely changes'),
('ttl_week', '7 days', 'TTL tier for very stable data'),
('usd_per_million_tokens', '0', 'price of a model that has none of its own in model_prices'),
('keep_history', '90 days', 'how long hourly statistics are kept'),
('keep_runs', '7 days', 'how long the records of upkeep runs are kept'),
('overdue_after', '2 hours', 'upkeep that has not run for so long, nor for two periods of its schedule, is overdue'),
('alert_hit_rate', '0.70', 'cache_health warns below this hit rate'),
('alert_size', '0.80', 'cache_health warns above this share of a limit'),
('alert_latency', '10 ms', 'cache_health warns when the 95th percentile of gets or sets takes longer'),
('ai_base_url', 'https://api.openai.com/v1', 'OpenAI-compatible API that the AI functions call'),
('ai_model', 'gpt-4o-mini', 'model of ai_worker_generate and llm_complete'),
('ai_embedding_model', 'text-embedding-3-small', 'model of embed'),
('ai_schema_version', 'auto',
    'schema_version of ai_worker_generate; auto: a fingerprint of the schema that the caller may see'),
('ai_schema_bytes', '32768', 'how much of the schema''s description is sent to the model'),
('ai_row_limit', '1000', 'LIMIT of generated queries that have none; 0: no limit'),
('ai_timeout', '60', 'seconds that one request may take'),
('ai_deadline', '120', 'seconds that a request may take with its repetitions'),
('ai_retries', '2', 'how often a request is repeated after a failure that may pass'),
('ai_lease', '60', 'seconds that a caller waits for another''s answer to the same question before it asks itself'),
('ai_batch', '256', 'how many texts one embeddings request holds'),
('ai_answer_bytes', '4194304', 'bytes of an endpoint''s answer; with embeddings, 100000 more for each text'),
('ai_temperature', '', 'temperature of chat requests; empty: the model''s default'),
('ai_max_tokens', '', 'max_tokens of chat requests; empty: the model''s default'),
('ai_instructions', '', 'added to what ai_worker_generate tells the model'),
('ai_api_key_file', '', 'file on the server with the API key, for where it is not in the database'),
('hot_max_staleness', '5 seconds', 'how old what the hot tier returns may be, whatever fails'),
('hot_outbox_limit', '100000', 'rows of the outbox beyond which the hot tier is emptied instead'),
('hot_prefix', 'pgcache', 'what the names of the hot tier''s keys in Redis begin with'),
('test_clock', 'off', 'on: sessions may set the time by which entries expire (SET pgcache.clock), for tests')
on conflict on constraint settings_pkey do update set description = excluded.description;

-- However it is changed: by a function, or by an UPDATE of the owner's.
create or replace function pgcache_internal.setting_kinds() returns table (names text[], condition text, takes text)
language sql immutable parallel safe  -- not pinned: inlined
as $kinds$
    values
        (
            '{ttl_short,ttl_medium,ttl_long,ttl_week,keep_history,keep_runs,overdue_after,alert_latency}'::text[],
            $$is_span(value::interval, '1 microsecond', '1000 years')$$,
            'a positive interval of at most 1000 years such as ''1 hour'''
        ),
        ('{alert_hit_rate,alert_size}', 'value::numeric between 0 and 1', 'a share from 0 to 1'),
        ('{usd_per_million_tokens}', 'value::numeric between 0 and 1e12', 'US dollars, 0 or more'),
        ('{test_clock}', $$value in ('on', 'off')$$, 'on or off'),
        ('{hot_max_staleness}', $$is_span(value::interval, '0.1 seconds', '1 hour')$$,
            'an interval from 0.1 seconds to 1 hour'),
        ('{hot_outbox_limit}', 'value::bigint between 1 and 1000000000', '1 to 1000000000 rows'),
        ('{hot_prefix}', $$value ~ '^[A-Za-z0-9_.:{}-]{1,64}$'$$, 'up to 64 letters, digits and _ . : { } -'),
        (
            '{ai_base_url}',  -- without backslashes, which standard_conforming_strings = off would take away
            $$value ~ '^https?://([^][/@?#:[:space:]]+|[[][^][/@?#[:space:]]+[]])(:[0-9]{1,5})?(/[^@?#[:space:]]*)?$'
                and coalesce(family(substring(value from '^[a-z]+://[[]([^]]*)[]]')::inet) = 6, true)
                and coalesce(substring(value from '^[^/]*//[^/]*:([0-9]+)(/|$)')::integer between 1 and 65535, true)$$,
            'http:// or https://, a host, perhaps a port, and a path such as /v1; no password'
        ),
        ('{ai_model,ai_embedding_model}', $$value <> ''$$, 'the name of a model'),
        ('{ai_schema_version}', $$value <> ''$$, 'auto, or a name such as v1'),
        ('{ai_timeout,ai_deadline,ai_lease}', 'value::float8 between 0.1 and 3600', 'seconds, 0.1 to 3600'),
        ('{ai_retries}', 'value::bigint between 0 and 20', '0 to 20'),
        ('{ai_row_limit}', 'value::bigint >= 0', 'a number of rows; 0: no limit'),
        ('{ai_schema_bytes}', 'value::bigint between 0 and 10000000', 'a number of bytes up to 10000000'),
        ('{ai_batch}', 'value::bigint between 1 and 2048', '1 to 2048'),
        ('{ai_answer_bytes}', 'value::bigint between 1000 and 100000000', 'a number of bytes from 1000 to 100000000'),
        ('{ai_temperature}', $$value ~ '^([0-9]([.][0-9]+)?)?$'$$,
            'a number from 0 to 2, or empty for the model''s default'),
        ('{ai_max_tokens}', $$value ~ '^[0-9]{0,7}$'$$, 'a number of tokens, or empty for the model''s default'),
        ('{ai_instructions}', 'true', 'a text'),
        ('{ai_api_key_file}', $$value ~ '^(/.*)?$'$$, 'the absolute path of a file on the server')
$kinds$;

comment on function pgcache_internal.setting_kinds() is
'What settings may be: as an SQL condition on the text `value`, and in words.';

create or replace function pgcache_internal.check_setting() returns trigger
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    kind record;
    fits boolean;
begin
    select * into kind from setting_kinds() k where new.name = any(k.names);
    begin
        execute format('select %s from (select $1) v (value)', coalesce(kind.condition, 'true'))
        into fits using new.value;
    exception when data_exception then
        fits := false;
    end;
    if new.value is null or fits is not true then
        raise exception using errcode = 'PC010',
            message = format('setting %s cannot be %L', new.name, left(new.value, 100)),
            hint = format('It takes %s.', kind.takes);
    end if;
    if new.name = 'usd_per_million_tokens' then
        perform fold_log();  -- hits up to now count with the old price
    end if;
    return new;
end
$$;

comment on function pgcache_internal.check_setting() is
'Trigger: a setting is as setting_kinds() says. Errors: PC010.';

create or replace function pgcache_internal.apply_setting() returns trigger
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if new.name = 'test_clock' then
        perform take_turn(), compile_clock();
    elsif starts_with(new.name, 'ttl_') then
        perform take_turn();
        update types t set ttl = new.value::interval where t.tier = substr(new.name, 5);
        perform compile_settings();
    end if;
    return null;
end
$$;

comment on function pgcache_internal.apply_setting() is
'Trigger: what is compiled of a setting is compiled anew, and types that follow a tier get its new TTL.';

create or replace trigger check_setting before update of value on pgcache_internal.settings
for each row execute function pgcache_internal.check_setting();

create or replace trigger apply_setting after update of value on pgcache_internal.settings
for each row execute function pgcache_internal.apply_setting();

create or replace function pgcache.cache_setting(name text) returns text
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    found_value text;
begin
    select s.value into found_value from settings s where s.name = cache_setting.name;
    if not found then
        raise exception using errcode = 'PC010',
            message = format('there is no setting %L', name),
            hint = 'The settings: ' || (select string_agg(s.name, ', ' order by s.name) from settings s);
    end if;
    return found_value;
end
$$;

comment on function pgcache.cache_setting(text) is
'The value of a setting, see view cache_settings, as text. Errors: PC010 for an unknown name.';

create or replace function pgcache.cache_configure_setting(name text, value text) returns text
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    old_value text;
begin
    perform take_turn();
    old_value := cache_setting(name);
    if starts_with(name, 'ai_') or starts_with(name, 'hot_') then
        raise exception using errcode = 'PC010',
            message = format('setting %s has a function of its own, which knows what it may be', name),
            hint = case
                when starts_with(name, 'ai_') then format('SELECT ai_configure(%s => ...)', substr(name, 4))
                else format('SELECT cache_hot_configure(%s => ...)', substr(name, 5))
            end;
    end if;
    update settings s set value = cache_configure_setting.value where s.name = cache_configure_setting.name;
    return old_value;
end
$$;

comment on function pgcache.cache_configure_setting(text, text) is
'Changes a setting, see view cache_settings, and returns its old value. Those of the AI functions and of the hot tier'
' are for ai_configure and cache_hot_configure. Errors: PC010.';

create or replace function pgcache.cache_tier(tier text) returns interval
language plpgsql stable parallel safe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if not exists (select from settings s where s.name = 'ttl_' || tier) then
        raise exception using errcode = 'PC010',
            message = format('there is no tier %L', tier),
            hint = 'The tiers: short, medium, long, week. SELECT * FROM cache_settings shows what they are.';
    end if;
    return cache_setting('ttl_' || tier)::interval;
end
$$;

comment on function pgcache.cache_tier(text) is
'The TTL of a tier: short (5 min), medium (1 h), long (24 h), week (7 d); change one with'
' cache_configure_setting(''ttl_short'', ...); types follow it with cache_configure(type, tier => ''short''). Errors:'
' PC010 for another tier.';

create or replace function pgcache.cache_set_price(
    model text, usd_per_million_tokens numeric default null, input numeric default null, output numeric default null,
    cached_input numeric default null
) returns void
language plpgsql volatile security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if model is null or octet_length(model) > 1024 or coalesce(usd_per_million_tokens, input) is null
        or exists (
            select from unnest(array[usd_per_million_tokens, input, output, cached_input]) p (usd)
            where p.usd not between 0 and 1e12
        )
    then
        raise exception using errcode = 'PC010',
            message = 'a price needs a model, of 1024 bytes at most, and a number that is not negative',
            hint = 'For example: SELECT cache_set_price(''gpt-4o-mini'', input => 0.15, output => 0.60)';
    end if;
    perform fold_log();  -- hits up to now count with the old price
    insert into model_prices as p (model, usd_per_million_tokens, input, output, cached_input)
    values (model, coalesce(usd_per_million_tokens, input), input, output, cached_input)
    on conflict on constraint model_prices_pkey do update
    set usd_per_million_tokens = excluded.usd_per_million_tokens, input = excluded.input, output = excluded.output,
        cached_input = excluded.cached_input;
end
$$;

comment on function pgcache.cache_set_price(text, numeric, numeric, numeric, numeric) is
'Sets the prices of a model in US dollars per million tokens; hits from then on count with them in money_saved. input,'
' output: for entries that know both (input_tokens). cached_input: of input that the provider had cached, default as'
' input. usd_per_million_tokens: of tokens of which is not known what they were, default as input; alone, the price of'
' all. Errors: PC010.';

create or replace function pgcache_internal.model_price(model text) returns pgcache_internal.model_prices
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select coalesce(
        (select p from model_prices p where p.model = model_price.model),
        row(model, cache_setting('usd_per_million_tokens')::numeric, null, null, null)::model_prices
    )
$$;

comment on function pgcache_internal.model_price(text) is
'The prices of a model: its own, else the setting.';

create or replace function pgcache_internal.usd_of(
    price pgcache_internal.model_prices, tokens numeric, input numeric, cached numeric
) returns numeric
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$
    select case
        when input is null then tokens * price.usd_per_million_tokens
        else
            (tokens - input) * coalesce(price.output, price.usd_per_million_tokens)
            + (input - coalesce(cached, 0)) * coalesce(price.input, price.usd_per_million_tokens)
            + coalesce(cached, 0) * coalesce(price.cached_input, price.input, price.usd_per_million_tokens)
    end / 1000000
$$;

comment on function pgcache_internal.usd_of(pgcache_internal.model_prices, numeric, numeric, numeric) is
'What so many tokens cost in US dollars, of which so many were input, and of these so many cached by the provider.'
' input NULL: it is not known what they were; cached NULL: none. No part may be more than the whole, see at_most.';

create or replace view pgcache.cache_settings as
select
    s.name,
    s.value,
    s.description
from pgcache_internal.settings as s;

comment on view pgcache.cache_settings is
'The settings, each with what it is for; cache_configure_setting changes one, cache_hot_configure and ai_configure'
' those of the hot tier and the AI functions.';
