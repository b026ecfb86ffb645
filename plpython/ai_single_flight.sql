-- One question, one call. Whoever asks first holds a transaction-level advisory lock on the question; the others wait
-- for its end and look into the cache again.
--
-- Why a lock and no row: a row is invisible to others until it commits, and a function cannot commit. The lock is seen
-- at once, and PostgreSQL releases it exactly when the answer becomes visible, at the end of the transaction; at once,
-- too, when the session fails, is killed or its client vanishes, so that nothing has to expire. A session-level lock
-- would stay behind in a pooler's connection. The lease is how long others wait: a transaction that stays open after
-- its question holds the lock, and past the lease the others ask for themselves, and do not store the answer (late).

create or replace function pgcache_internal.ai_question(type text, key text) returns bigint
language sql stable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$ select hashtextextended(cache_key('pgcache.ai', current_tenant(), type, key), 0) $$;

comment on function pgcache_internal.ai_question(text, text) is
'The number of the advisory lock for a question: a cache type and key of the current tenant.';

create or replace function pgcache_internal.ai_locks_held() returns integer
language sql volatile parallel unsafe
set search_path to pg_catalog, pg_temp
as $$ select count(*)::integer from pg_locks l where l.locktype = 'advisory' and l.pid = pg_backend_pid() $$;

comment on function pgcache_internal.ai_locks_held() is 'How many advisory locks this session has.';

create or replace function pgcache_internal.ai_claim(question bigint, held integer) returns text
language sql volatile parallel unsafe
set search_path to pg_catalog, pg_temp
as $$
    select case when held >= 256 then 'alone' when pg_try_advisory_xact_lock(question) then 'mine' else 'busy' end
$$;

comment on function pgcache_internal.ai_claim(bigint, integer) is
'mine: this transaction is the one to ask; busy: another one is at it; alone: this transaction holds 256 locks already,'
' as many as it should take of the server''s lock table, and asks without one.';

create or replace function pgcache_internal.ai_await(question bigint, until timestamptz) returns boolean
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    milliseconds constant integer := 1000 * extract(epoch from until - clock_timestamp());
begin
    if milliseconds <= 0 then
        return false;
    end if;
    perform set_config('lock_timeout', milliseconds::text, true);
    perform pg_advisory_xact_lock_shared(question);
    raise exception using errcode = 'PC099', message = 'never seen: rolls back, and so releases the lock';
exception
    when sqlstate 'PC099' then
        perform pg_sleep(random() * 0.005);  -- so that those who waited together do not all claim together
        return true;
    when lock_not_available or deadlock_detected then
        return false;
end
$$;

comment on function pgcache_internal.ai_await(bigint, timestamptz) is
'Waits until the transaction that is asking the question has ended, and keeps no lock: true. False if that took too'
' long, or would have been a deadlock. A cancel or statement_timeout ends the wait at once.';

create or replace function pgcache_internal.ai_take_turn(
    type text, key text, max_age interval default null
) returns text
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    question constant bigint := ai_question(type, key);
    until constant timestamptz := clock_timestamp() + make_interval(secs => ai_setting('lease')::float8);
    claim text;
begin
    perform ai_check_spending();
    loop
        claim := ai_claim(question, ai_locks_held());
        if claim = 'busy' and not ai_await(question, until) then
            claim := 'late';
        end if;
        if ai_is_fresh(type, key, max_age) then  -- by a statement of its own, which sees what was committed last
            return 'answered';
        end if;
        exit when claim <> 'busy';
    end loop;
    return claim;
end
$$;

comment on function pgcache_internal.ai_take_turn(text, text, interval) is
'Before a question is asked that the cache has no answer to: lets others that are asking it finish, for the setting'
' lease at most. answered: the cache has the answer now, and not one that is older than max_age; mine, alone: see'
' ai_claim; late: the others took too long, and may still store their answer. Errors: as ai_check_spending.';

create or replace function pgcache_internal.ai_is_fresh(type text, key text, max_age interval) returns boolean
language sql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select case
        when max_age is null then cache_exists(type, key)
        else exists (select from cache_entry(type, key) e where e.created_at > cache_now() - max_age)
    end
$$;

comment on function pgcache_internal.ai_is_fresh(text, text, interval) is
'Whether there is an answer that is not older than max_age; NULL: of any age.';

-- What ended before its end is no answer.
create or replace function pgcache_internal.ai_is_whole(reply jsonb) returns boolean
language sql immutable parallel safe
set search_path to pg_catalog, pg_temp
as $$ select coalesce(reply ->> 'finish', 'stop') not in ('length', 'content_filter') $$;

comment on function pgcache_internal.ai_is_whole(jsonb) is
'Whether the model ended its answer by itself, rather than was cut (length) or filtered (content_filter).';

create or replace function pgcache_internal.ai_store(type text, key text, value jsonb, ttl interval) returns boolean
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '2s'
as $$
begin
    return cache_set(type, key, value, ttl);
exception when others then  -- a cancel is not among them
    raise warning using errcode = sqlstate,
        message = format('the answer is returned, but not cached: %s', sqlerrm);
    return false;
end
$$;

comment on function pgcache_internal.ai_store(text, text, jsonb, interval) is
'As cache_set, but what was paid for is not lost for an error: it becomes a warning, and false.';
