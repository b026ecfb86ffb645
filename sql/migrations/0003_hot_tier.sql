-- The hot tier, see sql/hot/: versions of entries, the outbox, what the relay remembers.

-- Grows with every change of an entry of a type that is in the tier. Never repeats, whatever crashes.
create sequence pgcache_internal.hot_version;
comment on sequence pgcache_internal.hot_version is 'Versions of entries, for the hot tier.';

-- NULL: not changed since the type is in the hot tier, or not in it at all.
alter table pgcache.cache_llm_responses add column version bigint;
alter table pgcache.cache_embeddings add column version bigint;
alter table pgcache.cache_vector_search add column version bigint;
alter table pgcache.cache_audio_chunks add column version bigint;
alter table pgcache.ai_worker_cache add column version bigint;
alter table pgcache.face_embeddings_cache add column version bigint;
alter table pgcache.perceptual_hash_cache add column version bigint;
alter table pgcache.crawl_cache add column version bigint;
alter table pgcache.cache_store add column version bigint;

create table pgcache_internal.hot_types (
    type text primary key references pgcache_internal.types on delete cascade,
    ttl interval not null check (ttl > interval '0'),
    since timestamptz not null default now()
);
comment on table pgcache_internal.hot_types is
'The types that are in the hot tier, and how long Redis keeps their entries at most. Changed by cache_hot_on and cache_hot_off.';

create table pgcache_internal.hot_outbox (
    id bigint generated always as identity primary key,
    type text,
    tenant text,
    cache_key text collate "C",
    version bigint,
    noted_at timestamptz not null default clock_timestamp(),
    check (num_nulls(type, tenant, cache_key, version) in (0, 4))
) with (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_insert_threshold = -1
);
comment on table pgcache_internal.hot_outbox is
'Changes that Redis has to be told of; the relay removes what it has told. A row without a type: all entries are void.';

-- When a writer next looks whether the outbox is too long: at this id. A sequence is never undone and never waited for.
create sequence pgcache_internal.hot_outbox_due minvalue 0 start 0;
comment on sequence pgcache_internal.hot_outbox_due is 'The id of the outbox at which a writer next looks after its length.';

-- Unlogged on purpose: it is lost when the server crashes or another one takes its place, and with it the epoch.
-- Then entries may be gone that Redis still has.
create unlogged table pgcache_internal.hot_epoch (
    one boolean primary key default true check (one),
    epoch text not null,
    redis text not null,
    database text not null,
    begun_at timestamptz not null default clock_timestamp(),
    drained_at timestamptz not null default clock_timestamp(),
    delivered bigint not null default 0,
    flushes bigint not null default 1
) with (fillfactor = 10);
comment on table pgcache_internal.hot_epoch is
'The epoch that entries in Redis belong to, in which Redis it began, what the relay has done since the last crash.';

-- cache_grant gives SELECT on all tables; with row security and no policy, nobody but the owner sees a row of this one.
create table pgcache_internal.hot_secrets (
    name text primary key check (name in ('redis_url')),
    value text not null
);
comment on table pgcache_internal.hot_secrets is 'Secrets of the relay inside the server, which only the owner may read.';
alter table pgcache_internal.hot_secrets enable row level security;
alter table pgcache_internal.hot_secrets alter column value set statistics 0; -- or ANALYZE would copy it to pg_statistic

insert into pgcache_internal.settings (name, value, description) values
('hot_max_staleness', '5 seconds', 'how old what the hot tier returns may be, whatever fails'),
('hot_outbox_limit', '100000', 'rows of the outbox beyond which the hot tier is emptied instead'),
('hot_prefix', 'pgcache', 'what the names of the hot tier''s keys in Redis begin with');
