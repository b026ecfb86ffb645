"""Watched tables: a change of a row invalidates what depends on it, whichever way it is made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.conftest import NewRole, NewSession
from tests.servers import Cluster
from tests.tools.session import Session, refused
from tests.tools.waiting import wait_until

HIT = "SELECT cache_get('store', 'k') IS NOT NULL"
BUMPS = "WITH gone AS (DELETE FROM pgcache_internal.tag_bumps RETURNING tag) SELECT tag FROM gone"


def bumped(ask: Session) -> set[str]:
    """The tags that were invalidated since this was asked last."""
    return set(ask.column(BUMPS))


@pytest.fixture
def docs(ask: Session) -> Session:
    """A watched table of ten rows."""
    ask("CREATE TABLE docs (id int PRIMARY KEY, title text, views int NOT NULL DEFAULT 0)")
    ask("INSERT INTO docs SELECT i, 'title ' || i FROM generate_series(1, 10) i")
    assert ask("SELECT cache_watch('public.docs', 'doc:{id}')") is True
    bumped(ask)
    return ask


def depends_on(ask: Session, *tags: str) -> None:
    ask("SELECT cache_set('store', 'k', '1', tags => %s)", list(tags))
    assert ask(HIT)


# Each kind of statement.


@pytest.mark.parametrize(
    ("statement", "tags"),
    [
        ("INSERT INTO docs VALUES (11)", {"doc:11"}),
        ("INSERT INTO docs SELECT i FROM generate_series(11, 13) i", {"doc:11", "doc:12", "doc:13"}),
        ("INSERT INTO docs SELECT 11 WHERE false", set()),
        ("INSERT INTO docs VALUES (1) ON CONFLICT (id) DO NOTHING", set()),
        ("INSERT INTO docs VALUES (1), (11) ON CONFLICT (id) DO UPDATE SET views = 1", {"doc:1", "doc:11"}),
        ("INSERT INTO docs VALUES (1) ON CONFLICT (id) DO UPDATE SET views = 1 WHERE false", set()),
        ("UPDATE docs SET views = 1 WHERE id = 1", {"doc:1"}),
        ("UPDATE docs SET views = 1 WHERE id IN (2, 3)", {"doc:2", "doc:3"}),
        ("UPDATE docs SET views = 1 WHERE false", set()),
        ("UPDATE docs SET id = 20 WHERE id = 1", {"doc:1", "doc:20"}),
        ("UPDATE docs SET id = 20 + id WHERE id < 3", {"doc:1", "doc:2", "doc:21", "doc:22"}),
        ("UPDATE docs SET id = 11 - id WHERE id IN (1, 10)", {"doc:1", "doc:10"}),
        ("DELETE FROM docs WHERE id = 1", {"doc:1"}),
        ("DELETE FROM docs WHERE id < 3", {"doc:1", "doc:2"}),
        ("DELETE FROM docs WHERE false", set()),
        ("TRUNCATE docs", {"doc:*"}),
        (
            "MERGE INTO docs USING (VALUES (1), (2), (11)) s (i) ON id = i WHEN MATCHED AND i = 1 THEN DELETE"
            " WHEN MATCHED THEN UPDATE SET views = 1 WHEN NOT MATCHED THEN INSERT VALUES (i)",
            {"doc:1", "doc:2", "doc:11"},
        ),
        ("WITH w AS (UPDATE docs SET views = 1 WHERE id = 1) DELETE FROM docs WHERE id = 2", {"doc:1", "doc:2"}),
    ],
)
def test_a_change_bumps_the_tags_of_its_rows_and_no_others(docs: Session, statement: str, tags: set[str]) -> None:
    docs("ALTER TABLE docs DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (id) DEFERRABLE") if "11 - id" in statement else 0
    docs(statement)
    assert bumped(docs) == tags


def test_copy(docs: Session) -> None:
    with docs.connection.cursor().copy("COPY docs (id) FROM STDIN") as copy:
        copy.write(b"11\n12\n")
    assert bumped(docs) == {"doc:11", "doc:12"}


def test_foreign_keys_cascade(docs: Session) -> None:
    docs("CREATE TABLE orgs (id int PRIMARY KEY)")
    docs("INSERT INTO orgs VALUES (1), (2)")
    docs("ALTER TABLE docs ADD org int REFERENCES orgs ON DELETE CASCADE ON UPDATE CASCADE")
    docs("UPDATE docs SET org = 1 WHERE id = 1")
    docs("UPDATE docs SET org = 2 WHERE id = 2")
    bumped(docs)
    docs("UPDATE orgs SET id = 3 WHERE id = 1")
    assert bumped(docs) == {"doc:1"}
    docs("DELETE FROM orgs WHERE id = 2")
    assert bumped(docs) == {"doc:2"}


def test_it_is_part_of_the_transaction(docs: Session, new_session: NewSession) -> None:
    other = new_session()
    depends_on(docs, "doc:1")
    with docs.transaction():
        docs("UPDATE docs SET views = 1 WHERE id = 1")
        assert docs(HIT) is False
        assert other(HIT) is True
    assert docs(HIT) is True, "it was rolled back"
    docs("BEGIN")
    docs("SAVEPOINT s")
    docs("UPDATE docs SET views = 1 WHERE id = 1")
    docs("ROLLBACK TO s")
    docs("UPDATE docs SET views = 1 WHERE id = 2")
    docs("COMMIT")
    assert other(HIT) is True
    docs("BEGIN")
    docs("SAVEPOINT s")
    docs("UPDATE docs SET views = 1 WHERE id = 1")
    docs("RELEASE s")
    docs("COMMIT")
    assert other(HIT) is False


def test_entries_of_all_tenants(docs: Session) -> None:
    for tenant in ("a", ""):
        docs("SELECT set_config('pgcache.tenant', %s, false)", tenant)
        depends_on(docs, "doc:1")
    docs("SET pgcache.tenant = 'b'")
    docs("UPDATE docs SET views = 1 WHERE id = 1")
    for tenant in ("a", ""):
        docs("SELECT set_config('pgcache.tenant', %s, false)", tenant)
        assert docs(HIT) is False


def test_what_was_computed_before_the_change_is_not_stored_after_it(docs: Session, new_session: NewSession) -> None:
    token = docs("SELECT token FROM cache_fetch('store', 'k', '{doc:1}')")
    new_session()("UPDATE docs SET views = 1 WHERE id = 1")
    assert docs("SELECT cache_set('store', 'k', '1', token => %s)", token) is False


def test_many_rows_bump_the_group(docs: Session) -> None:
    docs("INSERT INTO docs SELECT i FROM generate_series(11, 10000) i")
    assert "doc:*" in bumped(docs)
    depends_on(docs, "doc:9999")
    docs("UPDATE docs SET views = 1")
    assert "doc:*" in bumped(docs)
    depends_on(docs, "doc:9999")
    docs("DELETE FROM docs")
    assert docs(HIT) is False


def test_many_rows_of_few_tags_bump_these(ask: Session) -> None:
    ask("CREATE TABLE docs (id int, org int)")
    ask("SELECT cache_watch('docs', 'org:{org}')")
    bumped(ask)
    ask("INSERT INTO docs SELECT i, i %% 256 FROM generate_series(1, 5000) i".replace("%%", "%"))
    assert bumped(ask) == {f"org:{i}" for i in range(256)}
    ask("INSERT INTO docs SELECT 1, i / 4900 FROM generate_series(1, 5000) i")  # the second one comes late
    assert bumped(ask) == {"org:0", "org:1"}
    ask("UPDATE docs SET id = id + 1 WHERE org < 3")
    assert bumped(ask) == {"org:0", "org:1", "org:2"}


def test_a_tag_for_the_whole_table(ask: Session) -> None:
    ask("CREATE TABLE docs (id int)")
    assert ask("SELECT cache_watch('docs', 'docs')") is True
    bumped(ask)
    for statement in (
        "INSERT INTO docs VALUES (1), (2), (3)",
        "UPDATE docs SET id = 1",
        "DELETE FROM docs",
        "TRUNCATE docs",
    ):
        ask(statement)
        assert bumped(ask) == {"docs"}
    for statement in ("INSERT INTO docs SELECT 1 WHERE false", "UPDATE docs SET id = 1", "DELETE FROM docs"):
        ask(statement)
        assert bumped(ask) == set()


# columns.


@pytest.mark.parametrize(
    ("statement", "tags"),
    [
        ("UPDATE docs SET views = views + 1 WHERE id = 1", set()),
        ("UPDATE docs SET views = views + 1", set()),
        ("UPDATE docs SET title = title", set()),
        ("UPDATE docs SET title = 'new' WHERE id = 1", {"doc:1"}),
        ("UPDATE docs SET title = NULL WHERE id = 1", {"doc:1"}),
        ("UPDATE docs SET title = 'title 2' WHERE id < 4", {"doc:1", "doc:3"}),
        ("UPDATE docs SET id = 20 WHERE id = 1", {"doc:1", "doc:20"}),
        ("UPDATE docs SET title = 'title ' || (3 - id) WHERE id < 3", {"doc:1", "doc:2"}),
        ("INSERT INTO docs VALUES (11)", {"doc:11"}),
        ("DELETE FROM docs WHERE id < 3", {"doc:1", "doc:2"}),
    ],
)
def test_an_update_counts_if_it_changes_one_of_the_columns(docs: Session, statement: str, tags: set[str]) -> None:
    assert docs("SELECT cache_watch('docs', 'doc:{id}', columns => '{title}')") is True
    assert docs("SELECT cache_watch('docs', 'doc:{id}', columns => '{title}')") is False
    bumped(docs)
    docs(statement)
    assert bumped(docs) == tags


def test_two_rows_that_change_places_have_changed(ask: Session) -> None:
    """What is compared is the old and the new version of each row, not the sets of them."""
    ask("CREATE TABLE items (id int, list int, place int)")
    ask("INSERT INTO items VALUES (1, 7, 1), (2, 7, 2), (3, 8, 1)")
    ask("SELECT cache_watch('items', 'list:{list}', columns => '{place}')")
    bumped(ask)
    ask("UPDATE items SET place = 3 - place WHERE list = 7")
    assert bumped(ask) == {"list:7"}


@pytest.mark.parametrize(
    ("type", "before", "after"),
    [
        ("json", '{"a": 1}', '{"a": 2}'),
        ("point", "(1,2)", "(1,3)"),
        ("numeric", "1.0", "1.00"),
        ("float8", "0", "-0"),
        ("text[]", "{a}", "{a,b}"),
        ("int4range", "[1,2)", "[1,3)"),
        ("bytea", "\\x00", "\\x01"),
    ],
)
def test_any_type_can_be_compared(ask: Session, type: str, before: str, after: str) -> None:
    ask(f"CREATE TABLE t (id int, c {type})")
    ask("INSERT INTO t VALUES (1, %s)", before)
    with suppress(psycopg.errors.FeatureNotSupported):
        ask("SELECT cache_watch('t', 't:{id}', columns => '{c}')")
    bumped(ask)
    ask("UPDATE t SET c = %s", before)
    assert bumped(ask) == set()
    ask("UPDATE t SET c = %s", after)
    assert bumped(ask) == {"t:1"}


# Values.


@pytest.mark.parametrize(
    ("type", "value", "tag"),
    [
        ("text", 'it\'s "a" %s {b}', 'v:it\'s "a" %s {b}'),
        ("text", "ä:💾", "v:ä:💾"),
        ("text", "", "v:"),
        ("text", None, "v:"),
        ("text", "a\nb", "v:*"),
        ("text", "x" * 255, "v:*"),
        ("text", "x" * 254, "v:" + "x" * 254),
        ("text", "x" * 3_000_000, "v:*"),
        ("varchar(9)", "a", "v:a"),
        ("uuid", "6D9BCF8E-4D1A-4E5B-8C38-0123456789AB", "v:6d9bcf8e-4d1a-4e5b-8c38-0123456789ab"),
        ("bigint", -(2**63), f"v:{-(2**63)}"),
        ("numeric", "1" * 300, "v:*"),
        ("boolean", "true", "v:t"),
        ("text[]", '{a,"b c",NULL}', 'v:{a,"b c",NULL}'),
        ("jsonb", '{"a": [1]}', 'v:{"a": [1]}'),
        ("json", "[1]", "v:[1]"),
        ("date", "2026-11-27", "v:2026-11-27"),
        ("timestamptz", "2026-11-27 05:00:00+01", "v:2026-11-27 04:00:00+00"),
        ("float8", "0.1", "v:0.1"),
        ("interval", "1 day", "v:1 day"),
        ("bytea", "\\x00ff", "v:\\x00ff"),
        ("point", "(1,2)", "v:(1,2)"),
        ("mood", "sad", "v:sad"),
        ("pair", "(1,a)", "v:(1,a)"),
        ("positive", "3", "v:3"),
    ],
)
def test_a_value_has_one_text_whatever_the_session_sets(
    ask: Session, new_session: NewSession, type: str, value: Any, tag: str
) -> None:
    ask("CREATE TYPE mood AS ENUM ('sad')")
    ask("CREATE TYPE pair AS (a int, b text)")
    ask("CREATE DOMAIN positive AS int CHECK (value > 0)")
    ask(f"CREATE TABLE t (id int, v {type})")
    ask("SELECT cache_watch('t', 'v:{v}')")
    bumped(ask)
    writer = new_session()
    writer("SET datestyle = 'German, DMY'; SET timezone = 'Asia/Tokyo'; SET intervalstyle = 'iso_8601'")
    writer("SET extra_float_digits = -15; SET bytea_output = 'escape'; SET standard_conforming_strings = off")
    writer("INSERT INTO t VALUES (1, %s)", value)
    assert bumped(ask) == {tag}
    writer("UPDATE t SET id = 2")
    assert bumped(ask) == {tag}
    writer("INSERT INTO t VALUES (2, NULL)")
    assert bumped(ask) == {"v:"}
    writer("DELETE FROM t")
    assert tag in bumped(ask)


def test_several_columns_in_a_tag(ask: Session) -> None:
    ask('CREATE TABLE "odd "" table" ("Org" int, "it\'s %s" text, """q""" int)')
    ask("""SELECT cache_watch('"odd "" table"', 'p:{Org}:100%%:{it''s %%s}/{"q"}/{Org}')""".replace("%%", "%"))
    bumped(ask)
    ask("""INSERT INTO "odd "" table" VALUES (1, 'a', 2)""")
    assert bumped(ask) == {"p:1:100%:a/2/1"}
    ask("""UPDATE "odd "" table" SET "Org" = 2""")
    assert bumped(ask) == {"p:1:100%:a/2/1", "p:2:100%:a/2/2"}
    assert ask("SELECT state FROM cache_watches") == "ok"


def test_names_that_the_function_uses_itself(ask: Session) -> None:
    names = "old_rows new_rows o n x s v tag tags seen place bumped missing tg_op old new found salt scope".split()  # noqa: SIM905
    ask(f"CREATE TABLE old_rows ({', '.join(f'{name} int' for name in names)})")
    ask("SELECT cache_watch('old_rows', %s)", ":".join(["t", *(f"{{{name}}}" for name in names)]))
    ask("SELECT cache_watch('old_rows', 'u:{tag}', columns => %s)", names)
    bumped(ask)
    numbers = [str(i) for i in range(len(names))]
    ask(f"INSERT INTO old_rows VALUES ({', '.join(numbers)})")
    tags = {":".join(["t", *numbers]), f"u:{names.index('tag')}"}
    assert bumped(ask) == tags
    ask("UPDATE old_rows SET o = o")
    assert bumped(ask) == {":".join(["t", *numbers])}
    ask("SET session_replication_role = replica")
    ask("UPDATE old_rows SET scope = scope + 0, tag = tag")
    assert bumped(ask) == {":".join(["t", *numbers])}
    ask("DELETE FROM old_rows")
    assert bumped(ask) == tags


def test_generated_and_identity_columns(ask: Session) -> None:
    ask("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, a int, double int GENERATED ALWAYS AS (a * 2) STORED)")
    ask("SELECT cache_watch('t', 't:{id}:{double}')")
    bumped(ask)
    ask("INSERT INTO t (a) VALUES (4)")
    assert bumped(ask) == {"t:1:8"}
    ask("UPDATE t SET a = 5")
    assert bumped(ask) == {"t:1:8", "t:1:10"}


def test_a_column_that_is_generated_when_it_is_read(ask: Session) -> None:
    if ask("SELECT current_setting('server_version_num')::int") < 180000:
        pytest.skip("PostgreSQL 18 has these")
    ask("CREATE TABLE t (a int, double int GENERATED ALWAYS AS (a * 2) VIRTUAL)")
    for call in ("cache_watch('t', 't:{double}')", "cache_watch('t', 't:{a}', columns => '{double}')"):
        with refused("PC010", "what it is made of"):
            ask(f"SELECT {call}")


# Partitions and children.

PARTITIONED = """
    CREATE TABLE docs (id int, part int, title text) PARTITION BY LIST (part);
    CREATE TABLE docs_1 PARTITION OF docs FOR VALUES IN (1);
    CREATE TABLE docs_2 (title text, gone int, part int, id int);
    ALTER TABLE docs_2 DROP gone;
    ALTER TABLE docs ATTACH PARTITION docs_2 FOR VALUES IN (2);
    CREATE TABLE docs_3 PARTITION OF docs FOR VALUES IN (3, 4) PARTITION BY LIST (part);
    CREATE TABLE docs_3_3 PARTITION OF docs_3 FOR VALUES IN (3);
    INSERT INTO docs VALUES (1, 1), (2, 2), (3, 3);
"""


@pytest.fixture
def parts(ask: Session) -> Session:
    """A watched table of partitions, one of which has its columns in another order, and one has a partition."""
    ask(PARTITIONED)
    ask("SELECT cache_watch('docs', 'doc:{id}')")
    bumped(ask)
    return ask


@pytest.mark.parametrize(
    ("statement", "tags"),
    [
        ("INSERT INTO docs VALUES (11, 1), (12, 2), (13, 3)", {"doc:11", "doc:12", "doc:13"}),
        ("INSERT INTO docs_1 VALUES (11, 1)", {"doc:11"}),
        ("INSERT INTO docs_2 (id, part) VALUES (12, 2)", {"doc:12"}),
        ("INSERT INTO docs_3 VALUES (13, 3)", {"doc:13"}),
        ("INSERT INTO docs_3_3 VALUES (13, 3)", {"doc:13"}),
        ("UPDATE docs SET title = 'x' WHERE id < 3", {"doc:1", "doc:2"}),
        ("UPDATE docs_2 SET title = 'x'", {"doc:2"}),
        ("UPDATE docs_3 SET title = 'x'", {"doc:3"}),
        ("UPDATE docs SET part = 2 WHERE id = 1", {"doc:1"}),
        ("UPDATE docs SET part = 1", {"doc:1", "doc:2", "doc:3"}),
        ("DELETE FROM docs WHERE id > 1", {"doc:2", "doc:3"}),
        ("DELETE FROM docs_3_3", {"doc:3"}),
        ("TRUNCATE docs", {"doc:*"}),
        ("TRUNCATE docs_3_3", {"doc:*"}),
        ("MERGE INTO docs USING (VALUES (1), (2)) s (i) ON id = i WHEN MATCHED THEN UPDATE SET title = 'x'",
         {"doc:1", "doc:2"}),
    ],
)  # fmt: skip
def test_partitions(parts: Session, statement: str, tags: set[str]) -> None:
    parts(statement)
    found = bumped(parts)
    assert found == tags or ("SET part" in statement and found == tags | {"doc:*"})


@pytest.mark.parametrize("columns", [None, ["title", "part"]])
@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_merge_moves_to_another_partition(ask: Session, columns: list[str] | None, rows: int) -> None:
    """PostgreSQL does not give these to a trigger on the table that was named."""
    ask(PARTITIONED)
    ask("INSERT INTO docs VALUES (4, 2)")
    ask("SELECT cache_watch('docs', 'doc:{id}', columns => %s)", columns)
    depends_on(ask, "doc:1")
    ask(
        "MERGE INTO docs USING generate_series(1, %s) i ON id = i"
        " WHEN MATCHED THEN UPDATE SET part = CASE WHEN id = 1 THEN 2 ELSE part END",
        rows,
    )
    assert ask(HIT) is False


def test_an_update_that_a_trigger_keeps_from_moving(parts: Session) -> None:
    """It deletes the row, so there are more old rows than new ones."""
    parts("SELECT cache_watch('docs', 'doc:{id}', columns => '{title}')")
    parts("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    parts("CREATE TRIGGER keep BEFORE INSERT ON docs_2 FOR EACH ROW WHEN (new.id = 1) EXECUTE FUNCTION keep()")
    bumped(parts)
    parts("UPDATE docs SET part = 2 WHERE id = 1")
    assert parts("SELECT count(*) FROM docs WHERE id = 1") == 0
    assert "doc:1" in bumped(parts)
    parts("INSERT INTO docs VALUES (1, 1, 'same'), (5, 1, 'same')")
    bumped(parts)
    parts("UPDATE docs SET part = 2, title = 'same' WHERE id IN (1, 5)")
    assert bumped(parts) >= {"doc:1", "doc:5"}


def state(ask: Session) -> tuple[str, str]:
    """What cache_watches says of the only watch, and cache_health."""
    ((seen, status),) = ask.rows("""
        SELECT w.state, h.status FROM cache_watches w
        JOIN cache_health() h ON h.check_name = 'watch: ' || w.relation || ' ' || w.tag
    """)
    return seen, status


def test_a_new_partition(parts: Session) -> None:
    assert state(parts) == ("ok", "ok")
    parts("CREATE TABLE docs_4 PARTITION OF docs FOR VALUES IN (5)")
    parts("CREATE TABLE docs_5 (LIKE docs)")
    parts("INSERT INTO docs_5 VALUES (50, 6)")
    parts("ALTER TABLE docs ATTACH PARTITION docs_5 FOR VALUES IN (6)")
    assert state(parts) == ("blind", "warning")
    assert parts("SELECT hint FROM cache_health() WHERE check_name LIKE 'watch:%'").startswith("CALL cache_upkeep()")
    assert "docs_4" in parts("SELECT detail FROM cache_health() WHERE check_name LIKE 'watch:%'")
    parts("INSERT INTO docs VALUES (40, 5)")
    assert bumped(parts) == {"doc:40"}, "through the table itself nothing is missed"
    parts("INSERT INTO docs_4 VALUES (41, 5)")
    assert bumped(parts) == set()
    parts("CALL cache_upkeep()")
    assert bumped(parts) == {"doc:*"}, "what was missed"
    assert state(parts) == ("ok", "ok")
    parts("INSERT INTO docs_4 VALUES (42, 5)")
    parts("DELETE FROM docs_5")
    assert bumped(parts) == {"doc:42", "doc:50"}
    parts("CALL cache_upkeep()")
    assert bumped(parts) == set()


def test_a_detached_and_a_dropped_partition(parts: Session) -> None:
    parts("ALTER TABLE docs DETACH PARTITION docs_1")
    parts("DROP TABLE docs_2")
    assert state(parts) == ("blind", "warning")
    assert bumped(parts) == set()
    parts("CALL cache_upkeep()")
    assert bumped(parts) == {"doc:*"}
    assert state(parts) == ("ok", "ok")
    parts("UPDATE docs_1 SET title = 'x'")
    assert bumped(parts) == set()
    assert parts("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs_1'::regclass AND NOT tgisinternal") == 0


def test_upkeep_does_not_wait_long_for_a_partition_in_use(parts: Session, new_session: NewSession) -> None:
    parts("CREATE TABLE docs_4 PARTITION OF docs FOR VALUES IN (5)")
    writer = new_session()
    writer("BEGIN")
    writer("INSERT INTO docs_4 VALUES (40, 5)")
    parts("CALL cache_upkeep()")
    assert state(parts) == ("missing", "warning")
    writer("COMMIT")
    parts("CALL cache_upkeep()")
    assert state(parts) == ("ok", "ok")


def test_inheritance(ask: Session) -> None:
    ask("CREATE TABLE docs (id int, title text)")
    ask("CREATE TABLE old_docs (more int) INHERITS (docs)")
    ask("SELECT cache_watch('docs', 'doc:{id}')")
    bumped(ask)
    ask("INSERT INTO old_docs VALUES (1)")
    assert bumped(ask) == {"doc:1"}
    ask("UPDATE docs SET title = 'x'")
    assert bumped(ask) == {"doc:1"}
    ask("UPDATE old_docs SET title = 'y'")
    assert bumped(ask) == {"doc:1"}
    ask("CREATE TABLE newer_docs () INHERITS (docs)")
    assert state(ask) == ("blind", "warning")
    ask("CALL cache_upkeep()")
    bumped(ask)
    ask("INSERT INTO newer_docs VALUES (2)")
    assert bumped(ask) == {"doc:2"}
    with refused("PC010", "SELECT cache_watch('public.docs'"):
        ask("SELECT cache_watch('newer_docs', 'new:{id}')")


# What becomes of the table.


def test_a_renamed_table_and_schema(docs: Session) -> None:
    docs("CREATE SCHEMA elsewhere")
    docs("ALTER TABLE docs RENAME TO papers")
    docs("ALTER TABLE papers SET SCHEMA elsewhere")
    docs("ALTER SCHEMA elsewhere RENAME TO archive")
    docs("UPDATE archive.papers SET views = 1 WHERE id = 1")
    assert bumped(docs) == {"doc:1"}
    assert docs.rows("SELECT relation, state FROM cache_watches") == [("archive.papers", "ok")]
    assert docs("SELECT cache_unwatch('archive.papers')") == 1


@pytest.mark.parametrize("columns", [None, ["title"], ["id", "title"]])
def test_a_renamed_column(docs: Session, columns: list[str] | None) -> None:
    docs("SELECT cache_watch('docs', 'doc:{id}', columns => %s)", columns)
    bumped(docs)
    docs("ALTER TABLE docs RENAME id TO number")
    assert state(docs) == ("outdated", "warning")
    docs("UPDATE docs SET title = 'x' WHERE number = 1")
    docs("INSERT INTO docs VALUES (11)")
    docs("DELETE FROM docs WHERE number > 10")
    assert bumped(docs) == {"doc:*"}, "nothing is missed, and nobody fails"
    docs("CALL cache_upkeep()")
    assert docs.rows("SELECT tag, state FROM cache_watches") == [("doc:{number}", "ok")]
    bumped(docs)
    docs("UPDATE docs SET title = 'y' WHERE number = 1")
    assert bumped(docs) == {"doc:1"}
    docs("UPDATE docs SET views = 3 WHERE number = 1")
    assert bumped(docs) == (set() if columns else {"doc:1"})


def test_a_renamed_column_of_those_that_count(docs: Session) -> None:
    docs("SELECT cache_watch('docs', 'doc:{id}', columns => '{title}')")
    bumped(docs)
    docs("ALTER TABLE docs RENAME title TO heading")
    docs("UPDATE docs SET heading = 'x' WHERE id = 1")
    docs("UPDATE docs SET views = 1 WHERE id IN (2, 3)")
    assert bumped(docs) >= {"doc:1", "doc:2", "doc:3"}
    docs("CALL cache_upkeep()")
    assert docs("SELECT columns FROM cache_watches") == ["heading"]


def test_a_column_that_takes_the_name_of_another(docs: Session) -> None:
    """As when its type is changed by way of a second column: the name is what was watched."""
    docs("ALTER TABLE docs ADD new_id bigint")
    docs("UPDATE docs SET new_id = id + 100")
    docs("ALTER TABLE docs RENAME id TO old_id")
    docs("ALTER TABLE docs RENAME new_id TO id")
    docs("CALL cache_upkeep()")
    bumped(docs)
    docs("UPDATE docs SET views = 1 WHERE id = 101")
    assert bumped(docs) == {"doc:101"}
    docs("ALTER TABLE docs DROP old_id")
    docs("UPDATE docs SET views = 2 WHERE id = 101")
    assert bumped(docs) == {"doc:101"}
    assert state(docs) == ("ok", "ok")


def test_a_dropped_column_and_one_of_another_type(docs: Session) -> None:
    docs("ALTER TABLE docs ALTER id TYPE timestamptz USING to_timestamp(id)")
    assert state(docs) == ("outdated", "warning")
    docs("INSERT INTO docs VALUES ('epoch')")
    docs("CALL cache_upkeep()")
    assert state(docs) == ("ok", "ok")
    docs("ALTER TABLE docs DROP id")
    bumped(docs)
    docs("INSERT INTO docs VALUES ('x')")
    docs("UPDATE docs SET views = 1")
    assert bumped(docs) == {"doc:*"}
    assert state(docs) == ("outdated", "warning")
    docs("CALL cache_upkeep()")
    assert state(docs) == ("outdated", "warning")
    assert "cache_unwatch" in docs("SELECT hint FROM cache_health() WHERE check_name LIKE 'watch:%'")


def test_a_column_dropped_before_the_watched_one(ask: Session) -> None:
    ask("CREATE TABLE docs (a int, b int, id int, c int)")
    ask("SELECT cache_watch('docs', 'doc:{id}', columns => '{c}')")
    ask("INSERT INTO docs VALUES (1, 2, 3, 4)")
    ask("UPDATE docs SET c = 5")
    ask("ALTER TABLE docs DROP a, DROP b")
    bumped(ask)
    ask("UPDATE docs SET c = 6")
    assert bumped(ask) == {"doc:3"}


def test_a_dropped_table(docs: Session) -> None:
    depends_on(docs, "doc:1")
    docs("DROP TABLE docs")
    assert docs("SELECT state FROM cache_watches") == "gone"
    docs("CALL cache_upkeep()")
    assert docs("SELECT count(*) FROM cache_watches") == 0
    assert docs("SELECT count(*) FROM pg_proc WHERE proname ~ '^watch_[0-9]'") == 0
    assert docs(HIT) is False


@pytest.mark.parametrize(
    ("harm", "found", "mended"),
    [
        ("DROP TRIGGER pgcache_watch_1_update ON docs", "missing", True),
        ("DROP TRIGGER pgcache_watch_1_replica ON docs", "missing", True),
        ("DROP FUNCTION pgcache_internal.watch_1_delete() CASCADE", "missing", True),
        ("ALTER TABLE docs DISABLE TRIGGER pgcache_watch_1_update", "disabled", False),
        ("ALTER TABLE docs DISABLE TRIGGER ALL", "disabled", False),
        ("ALTER TABLE docs ENABLE REPLICA TRIGGER pgcache_watch_1_update", "disabled", True),
        ("ALTER TABLE docs ENABLE TRIGGER ALL", "blind", True),
    ],
)
def test_what_is_done_to_its_triggers(docs: Session, harm: str, found: str, mended: bool) -> None:
    docs(harm)
    assert state(docs) == (found, "warning")
    assert docs("SELECT hint IS NOT NULL FROM cache_health() WHERE check_name LIKE 'watch:%'")
    docs("CALL cache_upkeep()")
    if not mended:  # somebody wants it so, and finds out how to undo it
        assert state(docs) == (found, "warning")
        docs("ALTER TABLE docs ENABLE TRIGGER ALL")
        docs("CALL cache_upkeep()")
    assert state(docs) == ("ok", "ok")
    assert bumped(docs) == {"doc:*"}, "changes may have been missed"
    docs("UPDATE docs SET views = 1 WHERE id = 1")
    docs("DELETE FROM docs WHERE id = 2")
    assert bumped(docs) == {"doc:1", "doc:2"}


def test_watching_again_mends_it_at_once(docs: Session) -> None:
    docs("DROP TRIGGER pgcache_watch_1_update ON docs")
    assert docs("SELECT cache_watch('docs', 'doc:{id}')") is True
    assert docs("SELECT cache_watch('docs', 'doc:{id}')") is False
    docs("UPDATE docs SET views = 1 WHERE id = 1")
    assert bumped(docs) == {"doc:*", "doc:1"}


def test_unwatch(docs: Session) -> None:
    docs("SELECT cache_watch('docs', 'docs'), cache_watch('docs', 'title:{title}')")
    assert docs("SELECT cache_unwatch('docs', 'docs')") == 1
    assert docs("SELECT cache_unwatch('docs', 'docs')") == 0
    assert docs("SELECT cache_unwatch('docs')") == 2
    bumped(docs)
    docs("UPDATE docs SET views = 1")
    assert bumped(docs) == set()
    assert docs("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'docs'::regclass") == 0
    assert docs("SELECT count(*) FROM pgcache_internal.made_objects WHERE name ~ '^watch_[0-9]'") == 0


# Replication.


def test_a_session_that_is_a_replica(docs: Session) -> None:
    docs("SET session_replication_role = replica")
    for statement, tags in [
        ("INSERT INTO docs VALUES (11), (12)", {"doc:11", "doc:12"}),
        ("UPDATE docs SET views = 1 WHERE id IN (1, 2)", {"doc:1", "doc:2"}),
        ("UPDATE docs SET id = 20 WHERE id = 1", {"doc:1", "doc:20"}),
        ("DELETE FROM docs WHERE id = 2", {"doc:2"}),
        ("TRUNCATE docs", {"doc:*"}),
    ]:
        docs(statement)
        assert bumped(docs) == tags


@pytest.mark.needs("cluster")
@pytest.mark.once
def test_what_logical_replication_applies(throwaway_cluster: Callable[..., Cluster]) -> None:
    from pgcache_py.setup.install import install

    cluster = throwaway_cluster(wal_level="logical")
    source, target = Session(cluster.dsn()), None
    source("CREATE DATABASE target")
    table = "CREATE TABLE docs (id int PRIMARY KEY, part int, title text)"
    parts = "CREATE TABLE parts (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part)"
    leaf = "CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1)"
    for statement in (table, parts, leaf):
        source(statement)
    install(cluster.dsn("target"), cron=False)
    target = Session(cluster.dsn("target"))
    for statement in (table, parts, leaf):
        target(statement)
    target("SELECT cache_watch('docs', 'doc:{id}', columns => '{title}'), cache_watch('parts', 'part:{id}')")
    source("CREATE PUBLICATION p FOR TABLE docs, parts")
    source("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    target(
        f"CREATE SUBSCRIPTION s CONNECTION '{cluster.dsn()}' PUBLICATION p"
        " WITH (create_slot = false, slot_name = 's', copy_data = false)"
    )

    def applied(statement: str) -> set[str]:
        bumped(target)
        source(statement)
        target_lsn = source("SELECT pg_current_wal_lsn()")
        while not source("SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots", target_lsn):
            pass
        return bumped(target)

    try:
        while not source("SELECT active FROM pg_replication_slots"):
            pass
        assert applied("INSERT INTO docs VALUES (1), (2)") == {"doc:1", "doc:2"}
        assert applied("UPDATE docs SET title = 'x' WHERE id = 1") == {"doc:1"}
        assert applied("UPDATE docs SET part = 1 WHERE id = 1") == set()
        assert applied("UPDATE docs SET id = 3 WHERE id = 1") == {"doc:1", "doc:3"}
        assert applied("DELETE FROM docs") == {"doc:2", "doc:3"}
        assert applied("TRUNCATE docs") == {"doc:*"}
        assert applied("INSERT INTO parts VALUES (7, 1)") == {"part:7"}
        for session in (source, target):
            session("CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2)")
        target("ALTER SUBSCRIPTION s REFRESH PUBLICATION WITH (copy_data = false)")
        assert applied("INSERT INTO parts VALUES (8, 2)") <= {"part:8"}
        target("CALL cache_upkeep()")
        assert target.column("SELECT state FROM cache_watches") == ["ok", "ok"]
        assert applied("DELETE FROM parts") == {"part:7", "part:8"}
    finally:
        target("ALTER SUBSCRIPTION s DISABLE")
        target("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
        target("DROP SUBSCRIPTION s")
        target.close()
        source.close()


# Who writes, and who watches.


def test_a_writer_without_any_right_to_the_cache(docs: Session, role: NewRole) -> None:
    writer = role(None)
    name = writer("SELECT current_user")
    docs(f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON docs TO {name}")
    depends_on(docs, "doc:1")
    writer("UPDATE docs SET views = 1 WHERE id = 1")
    assert docs(HIT) is False
    bumped(docs)
    writer("INSERT INTO docs VALUES (11), (12)")
    writer("DELETE FROM docs WHERE id = 3")
    writer("TRUNCATE docs")
    assert bumped(docs) == {"doc:11", "doc:12", "doc:3", "doc:*"}
    writer("CREATE TEMP TABLE mine (id int)")
    for function in docs.column("SELECT oid::regproc FROM pg_proc WHERE proname ~ '^watch_[0-9]'"):
        with refused("42501"):
            writer(f"CREATE TRIGGER t AFTER UPDATE ON mine FOR EACH STATEMENT EXECUTE FUNCTION {function}()")


def test_nobody_is_given_the_functions_by_default_privileges(docs: Session, role: NewRole) -> None:
    other = role("read")("SELECT current_user")
    docs(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {other}")
    docs("SELECT cache_watch('docs', 'docs')")
    assert docs(
        "SELECT count(*) FROM pg_proc"
        " WHERE proname ~ '^watch_[0-9]' AND has_function_privilege(%s, oid, 'EXECUTE')",
        other,
    ) == 0  # fmt: skip


def test_row_security_hides_nothing(docs: Session, role: NewRole) -> None:
    writer = role(None)
    docs(f"GRANT SELECT, UPDATE ON docs TO {writer('SELECT current_user')}")
    docs("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    docs("ALTER TABLE docs FORCE ROW LEVEL SECURITY")
    docs("CREATE POLICY p ON docs USING (id < 5)")
    writer("UPDATE docs SET views = 1")
    assert bumped(docs) == {"doc:1", "doc:2", "doc:3", "doc:4"}


def test_nothing_of_the_writer_runs_as_the_owner(docs: Session, role: NewRole) -> None:
    """Neither what is on his search_path, nor casts and operators of his types."""
    writer = role(None)
    name = writer("SELECT current_user")
    docs(f"CREATE SCHEMA evil AUTHORIZATION {name}")
    docs(f"GRANT CREATE ON DATABASE {docs.connection.info.dbname} TO {name}")
    writer("""
        CREATE TYPE evil.mood AS ENUM ('sad', 'glad');
        CREATE TABLE evil.ran (by name);
        CREATE FUNCTION evil.text(evil.mood) RETURNS text LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO evil.ran VALUES (current_user); RETURN 'evil'; END $$;
        CREATE CAST (evil.mood AS text) WITH FUNCTION evil.text(evil.mood) AS ASSIGNMENT;
        CREATE FUNCTION evil.eq(evil.mood, evil.mood) RETURNS boolean LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO evil.ran VALUES (current_user); RETURN true; END $$;
        CREATE OPERATOR evil.= (leftarg = evil.mood, rightarg = evil.mood, function = evil.eq);
        CREATE OPERATOR evil.*<> (leftarg = evil.mood, rightarg = evil.mood, function = evil.eq);
        CREATE FUNCTION evil.format(text, evil.mood) RETURNS text LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO evil.ran VALUES (current_user); RETURN 'evil'; END $$;
        CREATE TABLE evil.t (id int, m evil.mood);
        INSERT INTO evil.t VALUES (1, 'sad'), (2, 'sad');
    """)
    owner = docs("SELECT current_user")
    writer(f"GRANT ALL ON SCHEMA evil TO {owner}; GRANT ALL ON evil.t TO {owner}")
    docs("SELECT cache_watch('evil.t', 'm:{m}', columns => '{m}'), cache_watch('evil.t', 'n:{id}:{m}')")
    bumped(docs)
    writer("SET search_path = evil, pg_catalog")
    writer("UPDATE evil.t SET m = 'glad' WHERE id = 1")
    writer("UPDATE evil.t SET m = 'glad'")
    writer("INSERT INTO evil.t VALUES (3, 'sad'), (4, 'sad')")
    writer("DELETE FROM evil.t")
    assert {"m:sad", "m:glad", "n:1:sad", "n:1:glad"} <= bumped(docs)
    assert writer("SELECT count(*) FROM evil.ran") == 0


def test_only_the_owner_may_watch(docs: Session, role: NewRole) -> None:
    for access in ("read", "write", "admin"):
        other = role(access)
        for call in ("cache_watch('docs', 'd')", "cache_unwatch('docs')"):
            with refused("42501"):
                other(f"SELECT {call}")
    assert role("read")("SELECT state FROM cache_watches") == "ok"


def test_an_owner_who_is_no_superuser(docs: Session, role: NewRole, new_session: NewSession) -> None:
    """He needs the right TRIGGER, and the function's owner is himself, not who calls."""
    owner = role(None)
    name = owner("SELECT current_user")
    docs("SELECT cache_unwatch('docs')")
    docs("GRANT ALL ON SCHEMA pgcache, pgcache_internal TO PUBLIC")
    docs(f"REASSIGN OWNED BY {name} TO {name}")
    docs(f"""
        DO $$
        DECLARE o record;
        BEGIN
            ALTER SCHEMA pgcache OWNER TO {name};
            ALTER SCHEMA pgcache_internal OWNER TO {name};
            FOR o IN SELECT c.oid::regclass AS n, c.relkind FROM pg_class c
                WHERE c.relnamespace::regnamespace::text ~ '^pgcache' AND c.relkind IN ('r', 'p', 'v', 'S')
                    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('i', 'a')
                        AND d.refclassid = 'pg_class'::regclass AND c.relkind = 'S')
            LOOP
                EXECUTE format('ALTER %s %s OWNER TO {name}',
                    CASE o.relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, o.n);
            END LOOP;
            FOR o IN SELECT p.oid::regprocedure AS n FROM pg_proc p
                WHERE p.pronamespace::regnamespace::text ~ '^pgcache'
            LOOP
                EXECUTE format('ALTER ROUTINE %s OWNER TO {name}', o.n);
            END LOOP;
        END $$
    """)
    docs("CREATE SCHEMA app; ALTER TABLE docs SET SCHEMA app")
    with refused("42501", f"GRANT USAGE ON SCHEMA app TO {name}; GRANT TRIGGER ON app.docs TO {name}"):
        docs("SELECT cache_watch('app.docs', 'doc:{id}')")
    docs(f"GRANT USAGE ON SCHEMA app TO {name}; GRANT TRIGGER ON app.docs TO {name}")
    assert owner("SELECT cache_watch('app.docs', 'doc:{id}')") is True
    assert owner("SELECT cache_watch('app.docs', 'doc:{id}')") is False
    assert state(owner) == ("ok", "ok")
    bumped(docs)
    docs("UPDATE app.docs SET views = 1 WHERE id = 1")
    assert bumped(docs) == {"doc:1"}
    docs(f"ALTER TABLE app.docs OWNER TO {name}")
    assert state(owner) == ("missing", "warning")
    owner("CALL cache_upkeep()")
    assert state(owner) == ("ok", "ok")
    bumped(docs)
    docs("SET session_replication_role = replica")
    docs("UPDATE app.docs SET views = 1 WHERE id = 1")
    assert bumped(docs) == {"doc:1"}
    assert owner("SELECT cache_unwatch('app.docs')") == 1


@pytest.mark.parametrize(
    ("call", "sqlstate", "hint"),
    [
        ("cache_watch(NULL, 't')", "PC010", "Pass its name"),
        ("cache_watch('absent', 't')", "42P01", None),
        ("cache_watch(4000000000::oid, 't')", "PC010", "Pass its name"),
        ("cache_watch('docs', NULL)", "PC013", None),
        ("cache_watch('docs', '')", "PC013", None),
        ("cache_watch('docs', e'a\\nb')", "PC013", None),
        ("cache_watch('docs', repeat('x', 257))", "PC013", None),
        ("cache_watch('docs', '{id}')", "PC010", "doc:{id} does"),
        ("cache_watch('docs', 'doc{id}:x')", "PC010", "doc:{id} does"),
        ("cache_watch('docs', ':{id}')", "PC010", "doc:{id} does"),
        ("cache_watch('docs', 'doc:{id')", "PC010", "encloses"),
        ("cache_watch('docs', 'doc:{}')", "PC010", "encloses"),
        ("cache_watch('docs', 'doc:{{id}}')", "PC010", "encloses"),
        ("cache_watch('docs', 'doc:{ID}')", "PC010", "id, title, views"),
        ("cache_watch('docs', 'doc:{ctid}')", "PC010", "id, title, views"),
        ("cache_watch('docs', 'doc:{id}', '{title,nope}')", "PC010", "id, title, views"),
        ("cache_watch('docs', 'doc:{id}', '{NULL}')", "PC010", "any of them"),
        ("cache_watch('docs_view', 't')", "PC010", "the tables that it reads"),
        ("cache_watch('docs_materialized', 't')", "PC010", "refresh"),
        ("cache_watch('docs_pkey', 't')", "PC010", "permanent table"),
        ("cache_watch('of_session', 't')", "PC010", "permanent table"),
        ("cache_watch('cache_store', 't')", "PC010", "computed from"),
        ("cache_watch('pgcache_internal.types', 't')", "PC010", "computed from"),
        ("cache_watch('pg_class', 't')", "PC010", "computed from"),
    ],
)
def test_what_cannot_be_watched(docs: Session, call: str, sqlstate: str, hint: str | None) -> None:
    docs("CREATE VIEW docs_view AS SELECT * FROM docs")
    docs("CREATE MATERIALIZED VIEW docs_materialized AS SELECT * FROM docs")
    docs("CREATE TEMP TABLE of_session (id int)")
    with refused(sqlstate, hint):
        docs(f"SELECT {call}")


def test_a_foreign_table(ask: Session) -> None:
    ask("CREATE FOREIGN DATA WRAPPER w")
    ask("CREATE SERVER s FOREIGN DATA WRAPPER w")
    ask("CREATE FOREIGN TABLE f (id int) SERVER s")
    with refused("PC010", "not seen here"):
        ask("SELECT cache_watch('f', 't')")
    ask("CREATE TABLE p (id int) PARTITION BY LIST (id)")
    ask("CREATE FOREIGN TABLE p_1 PARTITION OF p FOR VALUES IN (1) SERVER s")
    with refused("PC010", "Detach it"):
        ask("SELECT cache_watch('p', 't')")


def test_a_watched_table_that_becomes_a_partition(docs: Session) -> None:
    docs("CREATE TABLE everything (LIKE docs) PARTITION BY RANGE (id)")
    docs("ALTER TABLE everything ATTACH PARTITION docs FOR VALUES FROM (0) TO (100)")
    assert state(docs) == ("blind", "warning")
    assert "cache_watch('public.everything'" in docs("SELECT hint FROM cache_health() WHERE check_name LIKE 'watch:%'")


# Concurrency and upkeep.


@pytest.mark.parametrize("mode", ["REPEATABLE READ", "SERIALIZABLE"])
def test_writers_of_the_same_tag_neither_wait_nor_fail(docs: Session, new_session: NewSession, mode: str) -> None:
    docs("SELECT cache_watch('docs', 'docs')")
    sessions = [new_session() for _ in range(3)]
    for _ in range(60):  # at some of these the bumps of a tag are folded
        for i, session in enumerate(sessions):
            session(f"BEGIN ISOLATION LEVEL {mode}")
            session("SET LOCAL lock_timeout = '1ms'")
            # Where the table has been analyzed, as autovacuum may do just now, it is read as a whole, being small: then
            # PostgreSQL refuses all but one of those who write it, watched or not.
            session("SET LOCAL enable_seqscan = off")
            session("UPDATE docs SET views = views + 1 WHERE id = %s", i + 1)
        for session in sessions:
            session("COMMIT")


def test_bumps_do_not_pile_up(docs: Session, new_session: NewSession) -> None:
    docs("SELECT cache_watch('docs', 'docs')")
    docs("CREATE PROCEDURE write(n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..n LOOP"
         " UPDATE docs SET views = i WHERE id = 1; COMMIT; END LOOP; END $$")  # fmt: skip

    def bumps_after(writes: int) -> int:
        docs("CALL write(%s)", writes)
        return int(docs("SELECT count(*) FROM pgcache_internal.tag_bumps"))

    # As soon as transactions have ended that ran when they came, those of other databases, too.
    wait_until(lambda: bumps_after(1000) < 800)
    depends_on(docs, "docs", "doc:1")
    docs("CALL write(300)")
    assert docs(HIT) is False


def test_a_writer_in_a_nested_trigger_and_in_a_parallel_query(docs: Session) -> None:
    docs("CREATE TABLE log (id int)")
    docs("""
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN UPDATE docs SET views = views + 1 WHERE id = new.id; RETURN NULL; END $$
    """)
    docs("CREATE TRIGGER note AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION note()")
    docs("INSERT INTO log VALUES (1), (2)")
    assert bumped(docs) == {"doc:1", "doc:2"}
    docs("CREATE TRIGGER again AFTER UPDATE ON docs FOR EACH ROW WHEN (pg_trigger_depth() = 0 AND new.id > 0)"
         " EXECUTE FUNCTION note()")  # fmt: skip
    docs("UPDATE docs SET views = 0 WHERE id = 3")
    assert bumped(docs) == {"doc:3"}


def test_two_watch_the_same_table_at_once(docs: Session, new_session: NewSession) -> None:
    other = new_session()
    docs("BEGIN")
    docs("SELECT cache_watch('docs', 'docs')")
    waiting = other.start("SELECT cache_watch('docs', 'docs')")
    docs("COMMIT")
    assert waiting.result(60) is False
    assert docs("SELECT count(*) FROM cache_watches") == 2


def test_what_was_stored_before_is_not_trusted(ask: Session) -> None:
    ask("CREATE TABLE docs (id int)")
    depends_on(ask, "doc:1")
    ask("SELECT cache_watch('docs', 'doc:{id}')")
    assert ask(HIT) is False
