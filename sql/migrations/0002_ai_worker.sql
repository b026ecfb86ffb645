-- What the AI worker (plpython/) is configured with. Its cache, ai_worker_cache, is there since 0001.

-- cache_grant gives SELECT on all tables; with row security and no policy, nobody but the owner sees a row of this one.
create table pgcache_internal.ai_secrets (
    name text primary key check (name in ('api_key')),
    value text not null
);
comment on table pgcache_internal.ai_secrets is 'Secrets of the AI functions, which only the owner may read.';
alter table pgcache_internal.ai_secrets enable row level security;
alter table pgcache_internal.ai_secrets alter column value set statistics 0; -- or ANALYZE would copy it to pg_statistic

insert into pgcache_internal.settings (name, value, description) values
('ai_base_url', 'https://api.openai.com/v1', 'OpenAI-compatible API that the AI functions call'),
('ai_model', 'gpt-4o-mini', 'model of ai_worker_generate and llm_complete'),
('ai_embedding_model', 'text-embedding-3-small', 'model of embed'),
('ai_schema_version', 'auto', 'schema_version of ai_worker_generate; auto: a fingerprint of the schema that the caller may see'),
('ai_schema_bytes', '32768', 'how much of the schema''s description is sent to the model'),
('ai_row_limit', '1000', 'LIMIT of generated queries that have none; 0: no limit'),
('ai_timeout', '60', 'seconds that one request may take'),
('ai_deadline', '120', 'seconds that a request may take with its repetitions'),
('ai_retries', '2', 'how often a request is repeated after a failure that may pass'),
('ai_lease', '60', 'seconds that a caller waits for another''s answer to the same question before it asks itself'),
('ai_batch', '256', 'how many texts one embeddings request holds'),
('ai_temperature', '', 'temperature of chat requests; empty: the model''s default'),
('ai_max_tokens', '', 'max_tokens of chat requests; empty: the model''s default'),
('ai_instructions', '', 'added to what ai_worker_generate tells the model'),
('ai_api_key_file', '', 'file on the server with the API key, for where it is not in the database');
