-- The tables of pgcache: the registry of types, the entries of JSON types, the logs that upkeep folds, the hot tier.

create table pgcache_internal.types (
    type text primary key check (type ~ '^[a-z][a-z0-9_]{0,39}$'),
    relation regclass not null,
    fields jsonb,
    builtin boolean not null default false,
    ttl interval check (ttl > interval '0'),
    max_entries bigint check (max_entries > 0),
    max_bytes bigint check (max_bytes > 0),
    eviction text not null default 'lru',
    hit_tracking text not null default 'sampled' check (hit_tracking in ('exact', 'sampled', 'off')),
    durable boolean not null default true,
    enabled boolean not null default true,
    dimensions integer check (dimensions > 0),
    writer text,
    hot_ttl interval not null default '1 hour' check (hot_ttl > interval '0'),
    created_at timestamptz not null default now()
);
comment on table pgcache_internal.types is
'The registry of cache types: where each keeps its entries, what fields these have (NULL: they are any JSON), its'
' limits and its settings. Changed by declare_type, cache_create_type, cache_configure and cache_drop_type.';

create table pgcache_internal.templates (
    frame text not null,
    branch text not null,
    branch_of_own_writer text
);
comment on table pgcache_internal.templates is
'The functions that are compiled for the types that there are, see define.';

create table pgcache_internal.settings (
    name text primary key,
    value text not null,
    description text not null
);
comment on table pgcache_internal.settings is
'The settings of the whole cache. Changed by cache_configure_setting.';

create table pgcache_internal.granted_roles (
    role name primary key,
    access text not null
);
comment on table pgcache_internal.granted_roles is
'The roles that cache_grant has given access, so that they keep it over an upgrade.';

create table pgcache_internal.model_prices (
    model text primary key,
    usd_per_million_tokens numeric not null check (usd_per_million_tokens >= 0)
);
comment on table pgcache_internal.model_prices is
'US dollars per million tokens, by model. Changed by cache_set_price.';

-- Entries of the JSON types: one partition a type, so that each has a heap, a limit and a durability of its own. One
-- index, the primary key: the sweep walks the heap, so nothing else has to be indexed. The tables of the typed caches
-- are made of their declarations (create_entry_table).
-- hit_weight: how many hits one line of the hit log stands for. version: for the hot tier, NULL for an entry that has
-- not changed since its type is in it.
create sequence pgcache.cache_store_id cache 10000;

create table pgcache.cache_store (
    id bigint not null default nextval('pgcache.cache_store_id'),
    type text not null default 'store',
    tenant text collate "C" not null default '',
    cache_key text collate "C" not null,
    data jsonb not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_accessed_at timestamptz not null default now(),
    hit_count bigint not null default 0,
    hit_weight smallint not null default 1,
    version bigint,
    primary key (tenant, cache_key, type)
) partition by list (type);
comment on table pgcache.cache_store is
'Entries of the JSON types: store, and those that users create, each in a partition of its own.';

alter sequence pgcache.cache_store_id owned by pgcache.cache_store.id;
comment on sequence pgcache.cache_store_id is 'The ids of entries of the JSON types.';

-- Logs and totals.

-- One line a logged hit: appended by cache_get, folded into the entries by upkeep. No index, no WAL.
create unlogged table pgcache_internal.hit_log (
    type text not null,
    tenant text collate "C" not null,
    cache_key text collate "C" not null,
    weight integer not null,
    hit_at timestamptz not null,
    model text,
    tokens integer
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
comment on table pgcache_internal.hit_log is
'Hits that upkeep has not yet added to the entries. UNLOGGED: a crash empties it.';

create unlogged table pgcache_internal.timings (
    type text not null,
    operation text not null,
    began_at timestamptz not null,
    milliseconds float8 not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
comment on table pgcache_internal.timings is
'How long some statements took that are a get or a set, see note_time. UNLOGGED: a crash empties it.';

-- By the transaction, so that it finds its own rows, however many there are of others, and of what vacuum has left.
create unlogged table pgcache_internal.room_due (
    xid xid8 not null default pg_current_xact_id(),
    type text not null,
    writes bigint not null,
    measure_due boolean not null
);
create index room_due_xid on pgcache_internal.room_due (xid);
comment on table pgcache_internal.room_due is
'What room a transaction is to make for what it has written. A trigger, deferred to the commit, does so and deletes the'
' rows.';

-- Counts that outlive the unlogged sequences. counters_seen is unlogged on purpose: it is lost
-- exactly when the sequences restart.
create table pgcache_internal.counter_totals (
    type text not null references pgcache_internal.types on delete cascade,
    counter text not null,
    total bigint not null default 0,
    primary key (type, counter)
);
comment on table pgcache_internal.counter_totals is
'What was counted for each type up to the last upkeep.';

create unlogged table pgcache_internal.counters_seen (
    type text not null,
    counter text not null,
    value bigint not null,
    primary key (type, counter)
);
comment on table pgcache_internal.counters_seen is
'How much of each counter the totals hold already. UNLOGGED, as the counters are: a crash resets both.';

create table pgcache_internal.savings (
    type text primary key references pgcache_internal.types on delete cascade,
    tokens numeric not null default 0,
    usd numeric not null default 0
);
comment on table pgcache_internal.savings is
'Tokens and US dollars that the hits of each type have saved, also of entries that are gone.';

create table pgcache_internal.stats_snapshots (
    taken_at timestamptz not null,
    type text not null,
    entries bigint not null,
    bytes bigint not null,
    hits bigint not null,
    misses bigint not null,
    evicted bigint not null,
    cleaned bigint not null,
    tokens_saved numeric not null,
    money_saved numeric not null,
    primary key (taken_at, type)
);
comment on table pgcache_internal.stats_snapshots is
'The statistics by hour, counters as of that time. View cache_stats_history has the differences.';

create table pgcache_internal.upkeep_runs (
    run_id bigint generated always as identity primary key,
    job text not null,
    backend_pid integer not null default pg_backend_pid(),
    started_at timestamptz not null,
    finished_at timestamptz,
    removed bigint not null default 0,
    outcome text not null default 'running' check (outcome in ('running', 'succeeded', 'failed')),
    detail text
);
comment on table pgcache_internal.upkeep_runs is
'Runs of the upkeep jobs; see view cache_jobs.';

-- Other databases cannot be read from here.
create table pgcache_internal.jobs_elsewhere (
    job_name text primary key,
    schedule text not null,
    cron_database text not null
);
comment on table pgcache_internal.jobs_elsewhere is
'What the installation has scheduled in another database, where pg_cron is.';

-- The hot tier, see sql/hot/.

-- Grows with every change of an entry of a type that is in the tier. Never repeats, whatever crashes.
create sequence pgcache_internal.hot_version;
comment on sequence pgcache_internal.hot_version is 'Versions of entries, for the hot tier.';

create table pgcache_internal.hot_types (
    type text primary key references pgcache_internal.types on delete cascade,
    ttl interval not null check (ttl > interval '0'),
    since timestamptz not null default now()
);
comment on table pgcache_internal.hot_types is
'The types that are in the hot tier, and how long Redis keeps their entries at most. Changed by cache_hot_on and'
' cache_hot_off.';

create table pgcache_internal.hot_outbox (
    id bigint generated always as identity primary key,
    type text,
    tenant text collate "C",
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
comment on sequence pgcache_internal.hot_outbox_due is
'The id of the outbox at which a writer next looks after its length.';

-- Unlogged on purpose: it is lost when the server crashes or another one takes its place, and with it the epoch.
-- Then entries may be gone that Redis still has.
create unlogged table pgcache_internal.hot_epoch (
    one boolean primary key default true check (one),
    epoch text not null,
    redis text not null,
    owner text not null,
    begun_at timestamptz not null default clock_timestamp(),
    drained_at timestamptz not null default clock_timestamp(),
    delivered bigint not null default 0,
    flushes bigint not null default 1
) with (fillfactor = 10);
comment on table pgcache_internal.hot_epoch is
'The epoch that entries in Redis belong to, in which Redis it began and as whose, what the relay has done since the'
' last crash.';

-- Logged, since standbys have to know it.
create table pgcache_internal.hot_owner (
    one boolean primary key default true check (one),
    owner text not null
);
comment on table pgcache_internal.hot_owner is
'As whose the relay has begun the last epoch, see hot_owner().';

-- cache_grant gives SELECT on all tables; with row security and no policy, nobody but the owner sees a row of this one.
create table pgcache_internal.hot_secrets (
    name text primary key check (name in ('redis_url')),
    value text not null
);
comment on table pgcache_internal.hot_secrets is
'Secrets of the relay inside the server, which only the owner may read.';
alter table pgcache_internal.hot_secrets enable row level security;
-- ANALYZE would copy it to pg_statistic.
alter table pgcache_internal.hot_secrets alter column value set statistics 0;

-- The AI functions, see plpython/.

-- cache_grant gives SELECT on all tables; with row security and no policy, nobody but the owner sees a row of this one.
create table pgcache_internal.ai_secrets (
    name text primary key check (name in ('api_key')),
    value text not null
);
comment on table pgcache_internal.ai_secrets is 'Secrets of the AI functions, which only the owner may read.';
alter table pgcache_internal.ai_secrets enable row level security;
alter table pgcache_internal.ai_secrets alter column value set statistics 0; -- or ANALYZE would copy it to pg_statistic
