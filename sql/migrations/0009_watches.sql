-- Watched tables: which ones, and what a change of their rows invalidates.
create table pgcache_internal.watches (
    watch bigint generated always as identity primary key,
    relation regclass not null,
    tag text collate "C" not null,
    columns text[],
    numbers jsonb not null default '{}',
    numbers_of oid,
    members regclass[] not null default '{}',
    since timestamptz not null default clock_timestamp(),
    unique (relation, tag)
);
comment on table pgcache_internal.watches is
'Which tables are watched. columns: which an UPDATE has to change, NULL: any. numbers: attnum of each named column,'
' as of the table with the oid numbers_of, to find those that are renamed. members: the table, its partitions and'
' its inheritance children, as they were when the triggers were last seen to.';
