-- What changes functions, rights, tables of types or their triggers takes turns: PostgreSQL refuses to change the same
-- row of its catalog twice at a time (XX000 tuple concurrently updated), and what is compiled for all types must know
-- all of them.
create or replace function pgcache_internal.take_turn() returns void
language sql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
    select check_writable();
    update turns set taken = taken + 1
$$;

comment on function pgcache_internal.take_turn() is
'Waits until no other transaction is at changing types, settings or rights, and keeps others waiting until this one'
' ends. Errors: 25006; 40001 in REPEATABLE READ, if another has had its turn since this transaction began.';
