-- What an earlier version made and this one does not. Where the level plpython3u is not installed this time, what it
-- has stays as it is.

do $$
declare
    leftover record;
begin
    for leftover in
        select o.kind, o.oid from pgcache_internal.own_objects() o
        where o.made_at <> pg_catalog.now()
            and o.component in (
                select m.component from pgcache_internal.made_objects m where m.made_at = pg_catalog.now()
            )
    loop
        call pgcache_internal.unmake(leftover.kind, leftover.oid);
    end loop;
end
$$;
