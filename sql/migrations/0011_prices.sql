-- Prices by kind of token, and of what kind the tokens of a hit are.
alter table pgcache_internal.model_prices add column input numeric check (input >= 0);
alter table pgcache_internal.model_prices add column output numeric check (output >= 0);
alter table pgcache_internal.model_prices add column cached_input numeric check (cached_input >= 0);
comment on table pgcache_internal.model_prices is
'US dollars per million tokens, by model: of input, of that which the provider had cached, of output (NULL: as others),'
' and of tokens of which is not known what they were. Changed by cache_set_price.';

alter table pgcache_internal.hit_log add column input_tokens integer;
alter table pgcache_internal.hit_log add column cached_input_tokens integer;
