-- One question, one call. Whoever asks first claims the question; the others wait for the end of that transaction, and
-- look into the cache again.
--
-- A claim is a row that its transaction inserts and deletes: nobody sees it, but who inserts the same waits until
-- PostgreSQL knows what has become of the first. So it ends exactly when the answer becomes visible, at the end of the
-- transaction; at once, too, when the session fails, is killed or its client vanishes, so that nothing has to expire.
-- An advisory lock would do that as well, but could be taken by anybody who may connect. The lease is how long others
-- wait: past it they ask for themselves, and do not store the answer (late).

create or replace function pgcache_internal.ai_claim(
    type text, keys text[], until timestamptz
) returns text[]
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '1ms'  -- so that what is set below ends with this function
as $$
#variable_conflict use_variable
declare
    late text[] := array[]::text[];
    wanted record;
    place tid;
begin
    loop
        begin
            -- All sessions claim in the same order, so that no two of them wait for each other.
            for wanted in
                select k.key, hashtextextended(cache_key(current_tenant(), type, k.key), 0) as question
                from unnest(keys) k (key) where k.key <> all(late) order by 2
            loop
                perform set_config(
                    'lock_timeout', greatest(1, ceil(1000 * extract(epoch from until - clock_timestamp())))::text, true
                );
                insert into ai_questions (question) values (wanted.question)
                on conflict do nothing returning ctid into place;
                delete from ai_questions q where q.ctid = place;
            end loop;
            return late;
        exception when lock_not_available or deadlock_detected then
            late := late || wanted.key;
        end;
    end loop;
end
$$;

revoke all on function pgcache_internal.ai_claim(text, text[], timestamptz) from public;

comment on function pgcache_internal.ai_claim(text, text[], timestamptz) is
'Claims what the current tenant asks for these keys of a type, once the transactions that are asking the same have'
' ended; returns the keys for which that took too long, or would have been a deadlock: these are not claimed. To roll'
' back to a savepoint gives back what was claimed since. A cancel or statement_timeout ends the wait at once. For who'
' may spend money, see ai_grant: a claim makes others wait.';

create or replace function pgcache_internal.ai_take_turn(
    type text, key text, max_age interval default null
) returns text
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    until constant timestamptz := clock_timestamp() + make_interval(secs => ai_setting('lease')::float8);
    late text[];
begin
    perform ai_check_spending();
    late := ai_claim(type, array[key], until);
    if ai_is_fresh(type, key, max_age) then  -- by a statement of its own, which sees what was committed last
        raise exception using errcode = 'PC099', message = 'never seen: rolls back, and so gives back the claim';
    end if;
    return case when late = '{}' then 'mine' else 'late' end;
exception when sqlstate 'PC099' then
    return 'answered';
end
$$;

comment on function pgcache_internal.ai_take_turn(text, text, interval) is
'Before a question is asked that the cache has no answer to: lets others that are asking it finish, for the setting'
' lease at most. answered: the cache has the answer now, and not one that is older than max_age; mine: this transaction'
' is the one to ask; late: the others took too long, and may still store their answer. Errors: as ai_check_spending.';

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
