-- Which relay is at work. Unlogged: whoever was so before a crash is not any more.
create unlogged table pgcache_internal.hot_at_work (
    one boolean primary key default true check (one),
    pid integer not null,
    seen_at timestamptz not null default clock_timestamp()
) with (fillfactor = 10);
comment on table pgcache_internal.hot_at_work is
'The session of the relay that is at work, and when it last was, see hot_take_turn(): nobody but the owner can lock or'
' change this row.';

-- Which questions are being asked. A row is deleted by the transaction that inserts it, so nobody ever sees one; but
-- who inserts the same waits for the end of that transaction.
create unlogged table pgcache_internal.ai_questions (
    question bigint primary key
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table pgcache_internal.ai_questions is
'The questions that transactions are asking the AI endpoint, see ai_claim(): empty to all who look.';
