-- Watched tables: a change of a row bumps the tags that are made of its columns, in the transaction that makes it.
--
-- The triggers are per statement, with transition tables: to note ten thousand rows costs little more than to note one.
-- A watch has a function of its own, whose SQL is static, and names only the columns: so a table may be renamed, moved,
-- dumped and restored. A column that is not there any more does not make the writer fail, as its name then means that
-- of a subquery further out (missing_columns), whose value says so: all tags of the group are bumped until upkeep has
-- found the column's new name.
--
-- They are on each partition and each inheritance child, too, since PostgreSQL fires those of the table that the
-- statement names. What logical replication applies, or a session with session_replication_role = replica writes, fires
-- no statement triggers, or none that are not meant for it: for these is one per row, which fires for nothing else.
--
-- The functions run with the owner's rights over values of types that others have made. So these are only written as
-- text, by the output functions that only superusers can make, and compared as binary images; there are no casts.

create or replace function pgcache_internal.max_watched_tags() returns integer
language sql immutable parallel safe  -- not pinned: inlined
as $$ select 256 $$;

comment on function pgcache_internal.max_watched_tags() is
'How many tags of a watched table one statement bumps at most; beyond that it bumps their group.';

create or replace function pgcache_internal.watched_group(tag text) returns text
language sql immutable parallel safe  -- not pinned: inlined
as $$
    select case
        when pg_catalog.strpos(tag, '{') operator(pg_catalog.>) 0
            then pg_catalog.split_part(tag, ':', 1) operator(pg_catalog.||) ':*'
        else tag
    end
$$;

comment on function pgcache_internal.watched_group(text) is
'The tag that stands for all that a watch with this template bumps.';

create or replace function pgcache_internal.named_columns(tag text) returns text[]
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return array(select m.match[1] from regexp_matches(tag, '[{]([^{}]+)[}]', 'g') with ordinality m (match, place)
        order by m.place);
end
$$;

comment on function pgcache_internal.named_columns(text) is
'The columns that are named in the braces of a template of tags, in their order, each as often as it is there.';

create or replace function pgcache_internal.family_of(relation regclass) returns regclass[]
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return array(
        with recursive family as (
            select c.oid from pg_class c where c.oid = relation
            union
            select i.inhrelid from pg_inherits i inner join family f on f.oid = i.inhparent
            where not i.inhdetachpending
        )
        select f.oid::regclass from family f order by f.oid
    );
end
$$;

comment on function pgcache_internal.family_of(regclass) is
'A table with its partitions and inheritance children, of all levels; empty if it is not there.';

-- The functions of a watch.

-- Whatever the settings of the session that writes: one value has one text.
create or replace function pgcache_internal.settings_for(relation regclass, columns text[]) returns text
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    return (
        select case when count(*) > 0 then
            ' set search_path to pg_catalog, pg_temp set datestyle to ''ISO, MDY'' set timezone to ''UTC'''
            ' set intervalstyle to ''postgres'' set extra_float_digits to ''1'' set bytea_output to ''hex'''
            ' set lc_monetary to ''C'''
            else ''
        end
        from pg_attribute a inner join pg_type t on t.oid = a.atttypid
        where a.attrelid = relation and a.attname = any(columns) and a.attnum > 0
            and t.typtype <> 'e' and a.atttypid <> all('{
                int2, int4, int8, numeric, text, varchar, bpchar, name, uuid, bool, oid, json, jsonb, inet,
                cidr
            }'::regtype[])
    );
end
$$;

comment on function pgcache_internal.settings_for(regclass, text[]) is
'The SET clauses of a function that writes these columns as text; none for types whose text depends on no setting.';

create or replace function pgcache_internal.always_a_tag(watched watches) returns boolean
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return watched.tag ~ '^[^:{}]+:[{][^{}]+[}]$' and octet_length(watched.tag) < 200 and exists (
        select from pg_attribute a
        where a.attrelid = watched.relation and a.attname = (named_columns(watched.tag))[1] and a.attnum > 0
            and a.atttypid = any('{int2, int4, int8, uuid, bool, oid}'::regtype[])
    );
end
$$;

comment on function pgcache_internal.always_a_tag(watches) is
'Whether what a watch bumps is never too long, and has no control characters: doc:{id} with a number, say. There *'
' in place of a value is the tag of the group.';

create or replace function pgcache_internal.watched_rows(
    watched watches, rows text, is_new boolean, last_column text
) returns text
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    named constant text[] := named_columns(watched.tag);
    all_named constant text[] := array(
        select distinct c from unnest(named || case when last_column <> 'tag' then watched.columns end) c order by c
    );
    expression text := format('%L::pg_catalog.text', watched.tag);
    long text[];
begin
    if cardinality(named) > 0 then
        expression := format('pg_catalog.format(%L, %s)',
            regexp_replace(replace(watched.tag, '%', '%%'), '[{][^{}]+[}]', '%s', 'g'),
            (select string_agg(quote_ident(n.name), ', ' order by n.place)
                from unnest(named) with ordinality n (name, place)));
        -- A tag has 256 bytes at most; to write a value of a gigabyte as text could fail.
        long := array(
            select format('pg_catalog.pg_column_size(%I) operator(pg_catalog.>) 1000', a.attname)
            from pg_attribute a
            where a.attrelid = watched.relation and a.attname = any(named) and a.attnum > 0 and a.attlen = -1
            order by a.attname
        );
        if cardinality(long) > 0 then
            expression := format(
                'case when %s then pg_catalog.chr(1) else %s end', array_to_string(long, ' or '), expression
            );
        end if;
    end if;
    return format('%s(select (%s) collate pg_catalog."C" as tag%s%s from %s)',
        (
            select format('(select %s) missing cross join lateral ', string_agg(format('%s as %I', case
                    when is_new and last_column <> 'tag' then 'pg_catalog.chr(2)'  -- so it differs from the old one
                    when always_a_tag(watched) then quote_literal('*')
                    else 'pg_catalog.chr(1)'
                end, c), ', '))
            from unnest(all_named) c having count(*) > 0
        ),
        expression,
        case when last_column <> 'tag' then format(', row(%s)::pg_catalog.record as seen', (
            select string_agg(quote_ident(c), ', ') from unnest(all_named) c
        )) end,
        case when last_column = 'place' then ', pg_catalog.row_number() over () as place' end, rows);
end
$$;

comment on function pgcache_internal.watched_rows(watches, text, boolean, text) is
'The FROM items that have the tag of each of some rows; to last_column seen or place also what is compared, and the'
' place of the row among them. A column that the table has not is found in the item missing: as a control character,'
' which makes the tag one that cannot be, or as *.';

-- The rows of both transition tables are in the order in which they were changed: so those of one place are the old and
-- the new version of one row, unless a trigger has kept some from being moved to another partition. FULL JOIN, as its
-- plan, made once, perhaps for one row, is good for many.
create or replace function pgcache_internal.watched_changes(
    watched watches, event text, old_rows text, new_rows text
) returns text
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return case
        when event = 'insert' then format('select n.tag from %s n', watched_rows(watched, new_rows, true, 'tag'))
        when event = 'delete' then format('select o.tag from %s o', watched_rows(watched, old_rows, false, 'tag'))
        when watched.columns is null then format('select o.tag from %s o union all select n.tag from %s n',
            watched_rows(watched, old_rows, false, 'tag'), watched_rows(watched, new_rows, true, 'tag'))
        else format($sql$
            select v.tag
            from (select o.* from %s o) o
            full join (select n.* from %s n) n on n.place operator(pg_catalog.=) o.place
            cross join lateral (values (o.tag), (n.tag)) v (tag)
            where v.tag is not null and (
                o.place is null or n.place is null or o.seen operator(pg_catalog.*<>) n.seen
                or (select pg_catalog.count(*) from %s) operator(pg_catalog.<>) (select pg_catalog.count(*) from %s)
            )$sql$,
            watched_rows(watched, old_rows, false, 'place'), watched_rows(watched, new_rows, true, 'place'),
            old_rows, new_rows)
    end;
end
$$;

comment on function pgcache_internal.watched_changes(watches, text, text, text) is
'The query for the tags of what an insert, update or delete has changed: old_rows and new_rows are FROM items.';

-- What a statement costs that changes one row is what counts: so that is one statement, and as few expressions as can
-- be, since PL/pgSQL prepares each anew in every transaction. Of several rows it bumps two, and thereby sees that they
-- are several; a second statement then bumps all, unless they are too many. To bump a tag twice does no harm. The salt
-- is not as that of bump_tags (strong random numbers would cost a fifth of it all), but none that comes twice.
create or replace function pgcache_internal.watch_functions(watched watches)
returns table (suffix text, settings text, body text)
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    cause constant text := quote_literal('cache_watch ' || watched.watch);
    all_of_them constant text := quote_literal(watched_group(watched.tag));
    can_move constant boolean := exists (select from pg_class c where c.oid = watched.relation and c.relkind = 'p');
    old_tag constant text := watched_rows(watched, 'old_rows', false, 'tag');
    new_tag constant text := watched_rows(watched, 'new_rows', true, 'tag');
    bump_one constant text := format($code$
    insert into pgcache_internal.tag_bumps (tag, scope, salt, bumped_by)
    select %s, '*', pg_catalog.hashint8extended(
            pg_catalog.txid_current(),
            pg_catalog.hashfloat8extended(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()), 0)
        ), %s
    from (%%s limit 2) x;
    get diagnostics bumped = row_count;$code$,
        case
            when always_a_tag(watched) then 'x.tag'
            else format('case when pgcache_internal.is_tag(x.tag) then x.tag else %s end', all_of_them)
        end, cause);
    bump_update constant text := format(bump_one, format(
        'select n.tag from %2$s n union all select o.tag from %1$s o'
        ' where o.tag operator(pg_catalog.<>) (select n.tag from %2$s n limit 1)', old_tag, new_tag
    ));
    bump_many constant text := format($code$
    if bumped operator(pg_catalog.%%s) 1
        or pg_catalog.txid_current() operator(pg_catalog.&) 127 operator(pg_catalog.=) 0
    then
        tags := array(select distinct s.tag from (%%s limit %1$s) s limit %2$s);
        if pg_catalog.cardinality(tags) operator(pg_catalog.<) %2$s then
            tags := array(select distinct s.tag from (%%2$s) s limit %2$s);
        end if;
        perform pgcache_internal.bump_watched(tags, %3$s, %4$s, bumped operator(pg_catalog.=) 1);
    end if;$code$, 4 * max_watched_tags(), max_watched_tags() + 1, all_of_them, cause);
    bump_all constant text := format($code$
    perform pgcache_internal.bump_watched(array[%1$s], %1$s, %2$s, false);$code$, all_of_them, cause);
begin
    settings := settings_for(watched.relation, named_columns(watched.tag));
    for suffix, body in
        select e.suffix, case e.suffix
            when 'insert' then format(bump_one, 'select n.tag from ' || new_tag || ' n')
                || format(bump_many, '>', e.changed)
            when 'delete' then format(bump_one, 'select o.tag from ' || old_tag || ' o')
                || format(bump_many, '>', e.changed)
            when 'update' then case
                when watched.columns is null then bump_update
                else format($code$
    perform from (select o.* from %s o) o cross join (select n.* from %s n) n
    where o.seen operator(pg_catalog.*=) n.seen or exists (select from old_rows offset 1) limit 2;
    get diagnostics bumped = row_count;
    if bumped operator(pg_catalog.=) 1 then
        return null;
    elsif bumped operator(pg_catalog.=) 0 then%s
    end if;$code$, watched_rows(watched, 'old_rows', false, 'seen'), watched_rows(watched, 'new_rows', true, 'seen'),
                    bump_update)
                end || format(bump_many, case when can_move then '<>' else '>' end, e.changed)
            when 'truncate' then bump_all
            when 'moved' then format($code$
    if pgcache_internal.may_have_moved(tg_relid) then%s
    end if;$code$, bump_all)
            else format($code$
    if pg_catalog.current_setting('session_replication_role') operator(pg_catalog.=) 'replica' then
        if tg_op operator(pg_catalog.=) 'INSERT' then
            tags := array(select distinct s.tag from (%s) s);
        elsif tg_op operator(pg_catalog.=) 'UPDATE' then
            tags := array(select distinct s.tag from (%s) s);
        else
            tags := array(select distinct s.tag from (%s) s);
        end if;
        perform pgcache_internal.bump_watched(tags, %s, %s, false);
    end if;$code$,
                watched_changes(watched, 'insert', '(select old.*) o', '(select new.*) n'),
                watched_changes(watched, 'update', '(select old.*) o', '(select new.*) n'),
                watched_changes(watched, 'delete', '(select old.*) o', '(select new.*) n'), all_of_them, cause)
            end
        from (
            select v.suffix, watched_changes(watched, v.suffix, 'old_rows', 'new_rows') as changed
            from unnest('{insert, update, delete, truncate, moved, replica}'::text[]) v (suffix)
        ) e
    loop
        body := format($code$
#variable_conflict use_column
declare
    bumped pg_catalog.int8;
    tags pg_catalog.text[];
begin%s
    return null;
end
$code$, body);
        return next;
    end loop;
end
$$;

comment on function pgcache_internal.watch_functions(watches) is
'What the functions of a watch are made of, one for each kind of its triggers.';

create or replace function pgcache_internal.bump_watched(
    tags text[], all_of_them text, bumped_by text, fold boolean
) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    if cardinality(tags) > max_watched_tags() or exists (select from unnest(tags) t where not is_tag(t)) then
        tags := array[all_of_them];
    end if;
    if cardinality(tags) > 0 then
        perform bump_tags('*', tags, bumped_by);
        if fold then
            perform fold_bumps('*', tags);
        end if;
    end if;
end
$$;

comment on function pgcache_internal.bump_watched(text[], text, text, boolean) is
'Bumps what a change of a watched table invalidates: its tags, or if they are too many, or one of them cannot be a'
' tag, all of the group. fold: also makes one row of their bumps.';

-- PostgreSQL gives an AFTER UPDATE trigger the rows that an UPDATE moves to another partition, but not those that a
-- MERGE moves. So partitioned tables have another trigger, which fires when their key is assigned.
create or replace function pgcache_internal.may_have_moved(relation oid) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return current_setting('track_counts') = 'off' or exists (
        select from unnest(family_of(relation)) f where pg_stat_get_xact_tuples_deleted(f) > 0
    );
end
$$;

comment on function pgcache_internal.may_have_moved(oid) is
'Whether this transaction may have moved rows between partitions: it has deleted rows of one, as to move one does.';

create or replace function pgcache_internal.make_watch(watched watches) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    wanted record;
    given record;
    function_name name;
begin
    for wanted in select * from watch_functions(watched) loop
        function_name := format('watch_%s_%s', watched.watch, wanted.suffix);
        call make(format(
            'create or replace function pgcache_internal.%I() returns trigger'
            ' language plpgsql volatile parallel unsafe security definer%s as %L',
            function_name, wanted.settings, wanted.body
        ));
        for given in
            select case a.grantee when 0 then 'public' else a.grantee::regrole::text end as role
            from pg_proc p cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            where p.pronamespace = 'pgcache_internal'::regnamespace and p.proname = function_name
                and a.grantee <> p.proowner
        loop
            execute format('revoke all on function pgcache_internal.%I() from %s', function_name, given.role);
        end loop;
        execute format('comment on function pgcache_internal.%I() is %L', function_name,
            format('Invalidates %s when a row of %s changes; see cache_watch.', watched.tag, watched.relation));
    end loop;
end
$$;

comment on function pgcache_internal.make_watch(watches) is 'Makes the functions of a watch, or makes them anew.';

-- Triggers.

create or replace function pgcache_internal.watch_triggers(watched watches)
returns table (relation regclass, name text, definition text, firing text, is_made boolean, needs_owner boolean)
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select c.oid::regclass, 'pgcache_watch_' || watched.watch || '_' || t.suffix,
        format('create trigger pgcache_watch_%1$s_%2$s after %3$s on %4$s %5$s'
            ' execute function pgcache_internal.watch_%1$s_%2$s()',
            watched.watch, t.suffix, t.event, c.oid::regclass, t.rows),
        t.firing, t.is_made, t.needs_owner
    from unnest(family_of(watched.relation)) f (relation)
    inner join pg_class c on c.oid = f.relation
    cross join lateral (
        -- Of which columns the rows are moved when they change; NULL: of any, perhaps, as there is an expression.
        select string_agg(quote_ident(a.attname), ', ') as columns
        from pg_partitioned_table p
        inner join pg_attribute a on a.attrelid = p.partrelid and a.attnum = any(p.partattrs)
        where p.partrelid = c.oid and not 0::smallint = any(p.partattrs)
    ) k
    cross join lateral (values
        ('insert', 'insert', 'referencing new table as new_rows for each statement', 'O', true, false),
        ('update', 'update', 'referencing old table as old_rows new table as new_rows for each statement', 'O', true,
            false),
        ('delete', 'delete', 'referencing old table as old_rows for each statement', 'O', true, false),
        ('truncate', 'truncate', 'for each statement', 'A', true, false),
        ('moved', coalesce('update of ' || k.columns, 'update'), 'for each statement', 'O', c.relkind = 'p', false),
        -- Partitions get theirs from their parent.
        ('replica', 'insert or update or delete', 'for each row', 'R', not c.relispartition, true)
    ) t (suffix, event, rows, firing, is_made, needs_owner)
    where c.relkind in ('r', 'p') and (t.suffix <> 'moved' or c.relkind = 'p');
end
$$;

comment on function pgcache_internal.watch_triggers(watches) is
'The triggers that a watch has: how each is made, and when it is to fire (tgenabled). is_made: by a statement of its'
' own. needs_owner: only the table''s owner can make it so that it fires as it should.';

create or replace function pgcache_internal.found_triggers(watched watches)
returns table (relation regclass, name text, definition text, firing text, is_made boolean, may_alter boolean,
    fires_now text)
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select w.relation, w.name, w.definition,
        case when o.may_alter or w.needs_owner then w.firing else 'O' end, w.is_made, o.may_alter, t.tgenabled::text
    from watch_triggers(watched) w
    inner join pg_class c on c.oid = w.relation
    cross join lateral (
        select pg_has_role(owner(), c.relowner, 'usage')
    ) o (may_alter)
    left join pg_trigger t on t.tgrelid = w.relation and t.tgname = w.name
    where o.may_alter or not w.needs_owner;
end
$$;

comment on function pgcache_internal.found_triggers(watches) is
'The triggers that a watch should have, and which of them are there: fires_now is their tgenabled, NULL for none.';

create or replace function pgcache_internal.see_to_triggers(watched watches, relation regclass) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    wanted record;
    was_blind boolean := false;
begin
    for wanted in select * from found_triggers(watched) f where f.relation = relation loop
        if wanted.fires_now is null and wanted.is_made then
            execute wanted.definition;
            wanted.fires_now := 'O';
            was_blind := true;
        end if;
        if wanted.fires_now <> 'D' and wanted.fires_now <> wanted.firing and wanted.may_alter then
            execute format('alter table %s enable %s trigger %I', relation,
                case wanted.firing when 'A' then 'always' when 'R' then 'replica' else '' end, wanted.name);
            was_blind := true;
        end if;
    end loop;
    return was_blind;
end
$$;

comment on function pgcache_internal.see_to_triggers(watches, regclass) is
'Makes what a table lacks of the triggers of a watch, and lets them fire when they should, but for those that'
' somebody has disabled. True if there was something to do, so that changes may have been missed.';

create or replace function pgcache_internal.triggers_elsewhere(watched watches) returns regclass[]
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return array(
        select distinct t.tgrelid::regclass from pg_trigger t
        where t.tgfoid in (
                select p.oid from pg_proc p
                where p.pronamespace = 'pgcache_internal'::regnamespace
                    and starts_with(p.proname::text, format('watch_%s_', watched.watch))
            )
            and t.tgrelid <> all(family_of(watched.relation))
    );
end
$$;

comment on function pgcache_internal.triggers_elsewhere(watches) is
'The tables that have triggers of a watch and are no partitions or children of its table any more.';

-- Watching.

create or replace function pgcache_internal.check_watch(relation regclass, tag text, columns text[]) returns void
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    watched constant pg_class := (select c from pg_class c where c.oid = relation);
    owner constant name := owner();
    named constant text[] := named_columns(tag);
    member record;
    wrong text;
begin
    if watched.oid is null then
        raise exception using errcode = 'PC010',
            message = case
                when relation is null then 'the table to watch is NULL' else format('there is no table %s', relation)
            end,
            hint = 'Pass its name: SELECT cache_watch(''public.docs'', tag => ''doc:{id}'').';
    elsif watched.relnamespace in (
        'pgcache'::regnamespace, 'pgcache_internal'::regnamespace, 'pg_catalog'::regnamespace,
        'information_schema'::regnamespace
    ) then
        raise exception using errcode = 'PC010',
            message = format('%s cannot be watched: it is a table of %s', relation,
                case
                    when watched.relnamespace::regnamespace::text like 'pgcache%' then 'pgcache' else 'PostgreSQL'
                end),
            hint = 'Watch the tables that your entries are computed from.';
    elsif watched.relkind not in ('r', 'p') or watched.relpersistence = 't' then
        raise exception using errcode = 'PC010',
            message = format('%s cannot be watched: it is no ordinary table', relation),
            hint = case watched.relkind
                when 'v' then 'Of a view watch the tables that it reads.'
                when 'm' then 'Of a materialized view invalidate a tag where you refresh it.'
                when 'f' then 'Changes of a foreign table are not seen here.'
                    ' Where you make them, call cache_invalidate_tags.'
                else 'Watch a permanent table, or a partitioned one.'
            end;
    elsif exists (select from pg_inherits i where i.inhrelid = relation) then
        raise exception using errcode = 'PC010',
            message = format('%s cannot be watched alone: changes also come through %s', relation,
                (select i.inhparent::regclass from pg_inherits i where i.inhrelid = relation limit 1)),
            hint = format('Watch the table that it is a part of: SELECT cache_watch(%L, ...).',
                (select i.inhparent::regclass from pg_inherits i where i.inhrelid = relation limit 1)::text);
    end if;
    perform check_watched_tag(tag);
    if array_position(columns, null) is not null then
        raise exception using errcode = 'PC010',
            message = 'a column to watch is NULL',
            hint = 'Pass the names of columns; columns => NULL is any of them.';
    end if;
    select c into wrong from unnest(named || columns) c
    where not exists (
        select from pg_attribute a
        where a.attrelid = relation and a.attname = c and a.attnum > 0 and not a.attisdropped
            and a.attgenerated <> 'v'
    )
    limit 1;
    if found then
        raise exception using errcode = 'PC010',
            message = format('%s has no column %I to watch', relation, wrong),
            hint = 'It has: ' || (
                select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a
                where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v'
            ) || '. Names in braces are written as they are, without quotes; a column that is generated when it is'
                ' read cannot be watched, what it is made of can.';
    end if;
    for member in
        select c.oid::regclass as name, c.relkind, c.relnamespace
        from unnest(family_of(relation)) f (oid) inner join pg_class c on c.oid = f.oid
    loop
        if member.relkind not in ('r', 'p') then
            raise exception using errcode = 'PC010',
                message = format('%s cannot be watched: its partition %s is a foreign table', relation, member.name),
                hint = 'Changes of a foreign table are not seen here.'
                    ' Detach it, or call cache_invalidate_tags yourself.';
        elsif not has_schema_privilege(owner, member.relnamespace, 'usage')
            or not has_table_privilege(owner, member.name, 'trigger')
        then
            raise exception using errcode = '42501',
                message = format('%I may not make triggers on %s', owner, member.name),
                hint = format('As its owner: GRANT USAGE ON SCHEMA %s TO %I; GRANT TRIGGER ON %s TO %2$I',
                    member.relnamespace::regnamespace, owner, member.name);
        end if;
    end loop;
end
$$;

comment on function pgcache_internal.check_watch(regclass, text, text[]) is
'Checks what cache_watch is given. Errors: PC010, PC013, 42501.';

create or replace function pgcache_internal.check_watched_tag(tag text) returns text
language plpgsql immutable parallel safe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform check_tags(array[tag]);
    if regexp_replace(tag, '[{][^{}]+[}]', '', 'g') ~ '[{}]' then
        raise exception using errcode = 'PC010',
            message = format('the braces of the tag %L do not enclose columns', tag),
            hint = 'Each pair encloses the name of one: ''doc:{id}''.';
    elsif strpos(tag, '{') > 0 and tag !~ '^[^:{]+:' then
        raise exception using errcode = 'PC010',
            message = format('the tag %L does not begin with a name and a colon', tag),
            hint = 'doc:{id} does: where a statement changes very many rows, doc:* is invalidated, all that begin with'
                ' doc: .';
    end if;
    return tag;
end
$$;

comment on function pgcache_internal.check_watched_tag(text) is
'The template of tags itself. Errors: PC010, PC013.';

create or replace function pgcache.cache_watch(relation regclass, tag text, columns text[] default null) returns boolean
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    watched watches;
    is_new boolean;
begin
    perform take_turn(), check_watch(relation, tag, columns);
    select w.* into watched from watches w where w.relation = relation and w.tag = tag;
    is_new := not found;
    if is_new then
        insert into watches as w (relation, tag, columns) values (relation, tag, columns) returning w.* into watched;
    elsif watched.columns is distinct from columns then
        update watches w set columns = cache_watch.columns where w.watch = watched.watch returning w.* into watched;
        is_new := true;
    end if;
    return see_to_watch(watched.watch) or is_new;
end
$$;

comment on function pgcache.cache_watch(regclass, text, text[]) is
'From now on each change of a row of the table invalidates the tag, in the transaction that makes it, for all'
' tenants. tag: doc:{id} is doc: and what the column id has, of the old row and of the new one, as format(''%s'')'
' writes it (times in UTC and ISO format); a tag without braces is one for the whole table. columns: an UPDATE'
' counts only if it changes one of these, or of those in braces; NULL (default): each counts. A statement that'
' changes more than 256 tags, a TRUNCATE, and a value that cannot be part of a tag invalidate doc:* , which all'
' entries with such a tag depend on. Called again it changes columns, and mends what cache_health finds missing.'
' True if there was something to do: then all entries with such tags are invalidated, once. Waits for transactions'
' that have written the table. For the owner of schema pgcache, who needs the right TRIGGER on the table; for what'
' logical replication applies to be seen, he must own it. Errors: PC010, PC013 what cannot be a tag, 25006, 42501.';

create or replace function pgcache_internal.see_to_watch(watch bigint) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    member regclass;
    has_changed boolean := mend_watch(watch);
    watched watches;
begin
    select w.* into watched from watches w where w.watch = watch;
    foreach member in array watched.members loop
        has_changed := mend_triggers(watch, member) or has_changed;
    end loop;
    return has_changed;
end
$$;

comment on function pgcache_internal.see_to_watch(bigint) is
'Makes whatever a watch lacks; true if there was something.';

create or replace function pgcache_internal.mend_watch(watch bigint) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    noted constant watches := (select w from watches w where w.watch = watch);
    watched watches := with_names(noted);
    family constant regclass[] := family_of(watched.relation);
    elsewhere regclass;
    stray record;
begin
    if cardinality(family) = 0 then
        perform drop_watch(watched), bump_all(watched, watched.tag);
        return true;
    end if;
    if not is_made(watched) then
        perform make_watch(watched);
    end if;
    foreach elsewhere in array triggers_elsewhere(watched) loop
        if pg_has_role((select c.relowner from pg_class c where c.oid = elsewhere), 'usage') then
            for stray in
                select t.tgname from pg_trigger t
                where t.tgrelid = elsewhere and t.tgparentid = 0
                    and starts_with(t.tgname::text, format('pgcache_watch_%s_', watch))
            loop
                execute format('drop trigger %I on %s', stray.tgname, elsewhere);
            end loop;
        end if;
    end loop;
    update watches w
    set tag = watched.tag, columns = watched.columns, members = family, numbers_of = watched.relation,
        numbers = (
            select coalesce(jsonb_object_agg(a.attname, a.attnum), '{}') from pg_attribute a
            where a.attrelid = watched.relation and a.attnum > 0
                and a.attname = any(named_columns(watched.tag) || watched.columns)
        )
    where w.watch = watch;
    -- Rows have come or gone with a partition.
    if not (family::oid[] <@ noted.members::oid[] and noted.members::oid[] <@ family::oid[]) then
        perform bump_all(watched, watched.relation::text);
        return true;
    end if;
    return false;
end
$$;

comment on function pgcache_internal.mend_watch(bigint) is
'Brings a watch in line with its table, but for the triggers: partitions, names of columns, functions. Drops it if'
' the table is gone. True if changes may have been missed: then all of its tags are bumped.';

create or replace function pgcache_internal.bump_all(watched watches, cause text) returns void
language plpgsql volatile parallel unsafe
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    perform bump_tags(
        '*', array[watched_group(watched.tag)], format('cache_watch of %s, which has missed changes', cause)
    );
end
$$;

comment on function pgcache_internal.bump_all(watches, text) is
'Bumps all tags of a watch that may have missed changes, of the table that is the cause.';

create or replace function pgcache_internal.mend_triggers(watch bigint, relation regclass) returns boolean
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    watched constant watches := (select w from watches w where w.watch = watch);
    was_blind constant boolean := see_to_triggers(watched, relation);
begin
    if was_blind then
        perform bump_all(watched, relation::text);
    end if;
    return was_blind;
end
$$;

comment on function pgcache_internal.mend_triggers(bigint, regclass) is
'Makes what a table lacks of the triggers of a watch; true if it lacked some, so that changes may have been missed:'
' then all tags of the watch are bumped.';

create or replace function pgcache_internal.with_names(watched watches) returns watches
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    renamed record;
begin
    for renamed in
        select n.name as before, a.attname::text as now
        from (select distinct unnest(named_columns(watched.tag) || watched.columns)) n (name)
        inner join pg_attribute a on a.attrelid = watched.relation and a.attnum > 0 and not a.attisdropped
            and a.attnum = (watched.numbers ->> n.name)::smallint
        where watched.numbers_of = watched.relation and a.attname !~ '[{}]' and not exists (
            select from pg_attribute s where s.attrelid = watched.relation and s.attname = n.name and s.attnum > 0
        )
    loop
        watched.tag := replace(watched.tag, '{' || renamed.before || '}', '{' || renamed.now || '}');
        watched.columns := array_replace(watched.columns, renamed.before, renamed.now);
    end loop;
    return watched;
end
$$;

comment on function pgcache_internal.with_names(watches) is
'A watch with the names that its columns have now, as far as they have been renamed.';

create or replace function pgcache_internal.is_made(watched watches) returns boolean
language plpgsql stable
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    return not exists (
        select from watch_functions(watched) f
        where not exists (
            select from pg_proc p inner join pg_namespace n on n.oid = p.pronamespace and n.nspowner = p.proowner
            where p.pronamespace = 'pgcache_internal'::regnamespace
                and p.proname = format('watch_%s_%s', watched.watch, f.suffix) and p.prosrc = f.body
                and p.prosecdef and (p.proconfig is null) = (f.settings = '')
        )
    );
end
$$;

comment on function pgcache_internal.is_made(watches) is
'Whether the functions of a watch are there, as they should be for the columns that its table has.';

create or replace function pgcache_internal.drop_watch(watched watches) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
begin
    delete from watches w where w.watch = watched.watch;
    perform drop_watch_functions(watched.watch);
end
$$;

comment on function pgcache_internal.drop_watch(watches) is
'Ends a watch: its functions go, and its triggers.';

create or replace function pgcache_internal.drop_watch_functions(watch bigint) returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    own record;
begin
    for own in
        select o.name, o.oid from own_objects() o
        where o.kind = 'routine' and o.schema = 'pgcache_internal'
            and starts_with(o.name::text, format('watch_%s_', watch))
    loop
        execute format('drop function %s cascade', own.oid::regprocedure);
        delete from made_objects o where o.kind = 'routine' and o.schema = 'pgcache_internal' and o.name = own.name;
    end loop;
end
$$;

comment on function pgcache_internal.drop_watch_functions(bigint) is
'Drops the functions of a watch, and with them its triggers, whoever owns their tables.';

create or replace function pgcache.cache_unwatch(relation regclass, tag text default null) returns bigint
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    watched watches;
    ended bigint := 0;
begin
    perform take_turn();
    for watched in
        select w.* from watches w where w.relation = relation and (w.tag = tag or tag is null) order by w.watch
    loop
        perform drop_watch(watched);
        ended := ended + 1;
    end loop;
    return ended;
end
$$;

comment on function pgcache.cache_unwatch(regclass, text) is
'Watches a table no more, for the tag that cache_watches shows, or for all (NULL, default); returns how many'
' watches have ended. Entries with such tags stay as they are. Waits for transactions that use the table. For the'
' owner of schema pgcache. Errors: 25006.';

-- What is wrong.

create or replace function pgcache_internal.watch_states() returns table (
    watch bigint, relation text, tag text, columns text[], state text, detail text, hint text, since timestamptz,
    tables bigint
)
language plpgsql stable security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    watched watches;
    family regclass[];
    group_tag text;
    again text;
begin
    for watched in select w.* from watches w order by w.relation::text, w.tag loop
        family := family_of(watched.relation);
        group_tag := watched_group(watched.tag);
        again := format('CALL cache_upkeep(), or SELECT cache_watch(%L, %L%s).', watched.relation::text, watched.tag,
            ', columns => ' || quote_literal(watched.columns));
        watch := watched.watch;
        relation := watched.relation::text;
        tag := watched.tag;
        columns := watched.columns;
        since := watched.since;
        tables := cardinality(family);
        state := 'ok';
        select p.* into state, detail, hint from (
            select 'gone', 'the table is not there any more', 'CALL cache_upkeep() ends this watch.'
            where tables = 0
            union all
            select 'blind', format('%s is a partition or child of %s now: changes that come through that are not seen',
                    watched.relation, min(i.inhparent::regclass::text)),
                format(
                    'SELECT cache_watch(%L, ...), and cache_unwatch(%L).', min(i.inhparent::regclass::text), relation
                )
            from pg_inherits i where i.inhrelid = watched.relation having count(*) > 0
            union all
            select 'blind', format('%s is a foreign table: its changes are not seen', min(c.oid::regclass::text)),
                'Detach it, or call cache_invalidate_tags where you change it.'
            from pg_class c where c.oid = any(family) and c.relkind not in ('r', 'p') having count(*) > 0
            union all
            select 'blind', format('partitions have come or gone: %s', array_to_string(array(
                    select m::text from unnest(family || watched.members) m
                    where m <> all(family) or m <> all(watched.members) order by 1 limit 5
                ), ', ')),
                again || ' Until then changes that name a new one are not seen.'
            where not (family::oid[] <@ watched.members::oid[] and watched.members::oid[] <@ family::oid[])
            union all
            select case max(f.rank) when 3 then 'missing' when 2 then 'disabled' else 'blind' end,
                format('%s of %s', min(f.name), min(f.relation::text))
                    || case max(f.rank)
                        when 3 then ' is missing' when 2 then ' is disabled'
                        else ' does not fire for what logical replication applies'
                    end || case when count(*) > 1 then format(', and %s more', count(*) - 1) else '' end,
                case max(f.rank)
                    when 2 then format('ALTER TABLE %s ENABLE %s TRIGGER %I, then SELECT cache_invalidate_tags(%L).',
                        min(f.relation::text),
                        case min(f.firing) when 'A' then 'ALWAYS' when 'R' then 'REPLICA' else '' end, min(f.name),
                        group_tag)
                    else again
                end
            from (
                select t.*, max(t.rank) over () as worst
                from (
                    select f.*, case
                            when f.fires_now is null then 3
                            when f.fires_now = 'D' or f.fires_now = 'R' and f.firing = 'O' then 2
                            else 1
                        end as rank
                    from found_triggers(watched) f
                    where f.fires_now is distinct from f.firing
                ) t
            ) f
            where f.rank = f.worst
            having count(*) > 0
            union all
            select 'blind', format('%s belongs to %I: what logical replication applies to it is not seen',
                    min(c.oid::regclass::text), min(pg_get_userbyid(c.relowner))),
                format('Let it belong to %I, or call cache_invalidate_tags.', owner())
            from pg_class c
            where c.oid = any(family) and not pg_has_role(owner(), c.relowner, 'usage')
                and exists (select from pg_subscription_rel s where s.srrelid = c.oid)
            having count(*) > 0
            union all
            select 'outdated', format('%s has no column %s any more: each change invalidates %s', relation,
                    string_agg(quote_ident(n.name), ', '), group_tag),
                case
                    when with_names(watched) is distinct from watched then 'CALL cache_upkeep() finds its new name.'
                    else format('SELECT cache_unwatch(%L, %L), and watch what there is.', relation, watched.tag)
                end
            from (select distinct unnest(named_columns(watched.tag) || watched.columns)) n (name)
            where not exists (
                select from pg_attribute a
                where a.attrelid = watched.relation and a.attname = n.name and a.attnum > 0 and not a.attisdropped
            )
            having count(*) > 0
            union all
            select 'outdated', 'its function is not what it should be', again
            where not is_made(watched)
        ) p (state, detail, hint)
        limit 1;
        if state is null then
            state := 'ok';
            detail := format('since %s%s', since,
                case when tables > 1 then format(', with %s partitions or children', tables - 1) end);
        end if;
        return next;
    end loop;
end
$$;

comment on function pgcache_internal.watch_states() is
'What cache_watches shows, and what to do where a watch is not as it should be.';

create or replace view pgcache.cache_watches as
select
    s.relation,
    s.tag,
    s.columns,
    s.state,
    s.detail,
    s.tables,
    s.since
from pgcache_internal.watch_states() as s;

comment on view pgcache.cache_watches is
'The watched tables: the tag that a change of a row invalidates, and the columns that an UPDATE has to change (NULL:'
' any). state: ok; missing or disabled: a trigger is; blind: changes are missed, as of a new partition; outdated: a'
' column has another name, or none, any more; gone: the table is. cache_health says what to do. tables: 1, and its'
' partitions and inheritance children, at each level.';

-- Upkeep. Each table by itself: who waits for one is not to keep the writers of others waiting.

create or replace function pgcache_internal.watches_to_mend() returns table (watch bigint, relation regclass)
language plpgsql stable security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select s.watch, r.relation
    from watch_states() s inner join watches w on w.watch = s.watch
    cross join lateral (
        select null, 0::oid
        union all
        select f::regclass, f::oid from unnest(family_of(w.relation)) f
    ) r (relation, place)
    where s.state <> 'ok'
    order by s.watch, r.place;
end
$$;

comment on function pgcache_internal.watches_to_mend() is
'The watches that are not as they should be: first with NULL, then with each of their tables.';

create or replace function pgcache_internal.mend(watch bigint, relation regclass) returns void
language plpgsql volatile parallel unsafe security definer
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
set lock_timeout to '1s'
as $$
#variable_conflict use_variable
begin
    perform take_turn();
    if relation is null then
        perform mend_watch(watch) where exists (select from watches w where w.watch = watch);
    else
        perform mend_triggers(watch, relation) where exists (select from watches w where w.watch = watch);
    end if;
exception when others then
    null;  -- no right, or others are using the table: cache_health goes on saying so, and the next upkeep tries again
end
$$;

comment on function pgcache_internal.mend(bigint, regclass) is
'What upkeep does about one of watches_to_mend, unless it cannot be done now.';

create or replace function pgcache_internal.prepare_watches() returns void
language plpgsql volatile
set search_path to pgcache_internal, pgcache, pg_catalog, pg_temp
as $$
declare
    watched watches;
begin
    for watched in select w.* from watches w where cardinality(family_of(w.relation)) > 0 loop
        perform make_watch(with_names(watched));
    end loop;
    perform drop_watch_functions(g.watch)
    from (
        select distinct substring(o.name from '^watch_([0-9]+)_')::bigint from own_objects() o
        where o.kind = 'routine' and o.schema = 'pgcache_internal' and o.name ~ '^watch_[0-9]+_'
    ) g (watch)
    where g.watch not in (select w.watch from watches w);
end
$$;

comment on function pgcache_internal.prepare_watches() is
'Makes the functions of all watches anew, at every install, and drops those of watches that are not there any more,'
' as after a dump of some tables.';
