-- Hits and what they have saved, by type and tenant, in place of what was saved by type.
create table pgcache_internal.tenant_savings (
    type text not null references pgcache_internal.types on delete cascade,
    tenant text collate "C",
    hits numeric not null default 0,
    tokens numeric not null default 0,
    usd numeric not null default 0,
    constraint tenant_savings_key unique nulls not distinct (type, tenant)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
comment on table pgcache_internal.tenant_savings is
'How often each tenant''s entries of each type were hit, and the tokens and US dollars that this has saved, also of'
' entries that are gone. tenant NULL: of tenants that were forgotten, and of all up to version 0.1.0. Who changes it'
' locks it first (SHARE UPDATE EXCLUSIVE), so that nobody waits for a row.';

insert into pgcache_internal.tenant_savings (type, hits, tokens, usd)
select
    s.type,
    coalesce(c.total, 0) as hits,
    s.tokens,
    s.usd
from pgcache_internal.savings as s
left join pgcache_internal.counter_totals as c on s.type = c.type and c.counter = 'hits'
where c.total > 0 or s.tokens > 0;

drop table pgcache_internal.savings;

-- Whether tenant_savings has the hits of a line already: it is then one of an entry that was locked when others were
-- folded.
alter table pgcache_internal.hit_log add column saved boolean not null default false;
