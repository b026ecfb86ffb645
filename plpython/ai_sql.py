"""Takes the SQL out of a completion, gives it a row limit, and lets PostgreSQL judge it. Nothing of it is executed.

The order of the steps is what makes that true:
1. EXPLAIN (...) before the text is prepared as one plan, and a cursor is opened on that plan, but nothing is fetched:
   PostgreSQL refuses a cursor on a plan of two statements, and the grammar whatever EXPLAIN does not explain. It is
   read-only.
2. That one statement becomes the body of a function, BEGIN ATOMIC, which is parsed and analysed, and neither planned
   nor executed. Its tree names every function and relation, operators and casts included: what writes, locks rows or
   calls a volatile function is refused.
3. Planning evaluates functions that say they are IMMUTABLE or STABLE, whatever they do. So a statement is planned, in a
   read-only transaction, only if all of its functions are compiled ones, and not if it calls anybody's PL code, be it
   by way of a view, a policy or an aggregate; and only if its tables belong to the caller or to a superuser, since
   planning calls what their owner has put into indexes, statistics, partition keys, defaults and rules.
A literal of a type that is made of a domain runs the domain's CHECK even in the first step, as in all that PostgreSQL
parses: so nothing is parsed for a superuser while a lesser role has a domain with one.
All of it is rolled back with the subtransaction in which it happens.
"""

import re

MAX_SQL = 100000
# No two parts of it can match the same text, or it would take quadratic time, in which nothing can end it.
FENCE = re.compile(r"```([^\n`]*)\n(.*?)(?:```|\Z)", re.DOTALL)
LANGUAGE = re.compile(r"\s*(?:sql|postgresql|postgres|pgsql)\b", re.IGNORECASE)
TOKEN = re.compile(
    r"(?P<space>\s+|--[^\n\r]*)"
    r"|(?P<comment>/\*)"
    r"|(?P<dollar>\$(?:[^\W\d]\w*)?\$)"
    r"|(?P<string>[eE]'(?:[^'\\]|\\.|'')*'|(?:[uU]&|[bBxXnN])?'(?:[^']|'')*')"
    r'|(?P<name>(?:[uU]&)?"(?:[^"]|"")*")'
    r"|(?P<word>[^\W\d][\w$]*)"
    r"|(?P<number>\d[\w.]*)"
    r"|(?P<other>.)",
    re.DOTALL,
)
COMMENT_EDGE = re.compile(r"/\*|\*/")
FUNCTIONS = re.compile(r":(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)")
RELATIONS = re.compile(r":relid (\d+)")
CONVERSIONS = re.compile(r":resulttype (\d+)")
COMMANDS = re.compile(r":commandType (\d+)")
SELECT, UPDATE, INSERT, DELETE, MERGE = "1", "2", "3", "4", "5"
# Volatile, since their result changes, but without an effect.
HARMLESS = (
    "random", "random_normal", "clock_timestamp", "timeofday", "gen_random_uuid", "uuidv4", "uuidv7", "currval",
    "lastval", "array_sample", "array_shuffle", "pg_column_size", "pg_relation_size", "pg_table_size",
    "pg_indexes_size", "pg_total_relation_size", "pg_database_size", "pg_tablespace_size",
)  # fmt: skip
# Compiled functions that say they are STABLE and run SQL that they are given, or code that others wrote.
EXECUTING = ("crosstab", "crosstab2", "crosstab3", "crosstab4", "crosstabn", "connectby", "xpath_table")
READING = (
    "table_to_xml", "table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xml_and_xmlschema", "database_to_xml",
    "database_to_xml_and_xmlschema", "json_populate_record", "json_populate_recordset", "jsonb_populate_record",
    "jsonb_populate_recordset", "json_to_record", "json_to_recordset", "jsonb_to_record", "jsonb_to_recordset",
)  # fmt: skip
# What a superuser would run for a lesser role. One of these is enough.
UNTRUSTED_DOMAINS = """
    select t.oid::pg_catalog.regtype::text as name, o.rolname as owner
    from pg_catalog.pg_constraint k
    inner join pg_catalog.pg_type t on t.oid = k.contypid
    inner join pg_catalog.pg_roles o on o.oid = t.typowner
    where not o.rolsuper and (select c.rolsuper from pg_catalog.pg_roles c where c.rolname = current_user)
    limit 1
"""
# A cancel, a shutdown or a deadlock is no verdict on the statement.
NOT_A_VERDICT = ("40", "57")


class Refused(Exception):  # noqa: N818
    """Why a statement is not valid."""


class Done(Exception):  # noqa: N818
    """Rolls a subtransaction back."""


def tokens(sql):
    """(kind, text, start, end) of each token that is neither space nor comment. Never fails."""
    found = []
    place = 0
    while place < len(sql):
        match = TOKEN.match(sql, place)
        kind, end = match.lastgroup, match.end()
        if kind == "comment":
            depth = 1
            while depth:
                edge = COMMENT_EDGE.search(sql, end)
                if not edge:
                    end = len(sql)
                    break
                depth += 1 if edge.group() == "/*" else -1
                end = edge.end()
        elif kind == "dollar":
            close = sql.find(match.group(), end)
            end = len(sql) if close < 0 else close + len(match.group())
        if kind not in ("space", "comment"):
            found.append((kind, sql[place:end], place, end))
        place = end
    return found


def fenced(content):
    """The part of a completion that has the SQL: what is between fences, else all of it."""
    fences = FENCE.findall(content)
    chosen = [text for info, text in fences if LANGUAGE.match(info)]
    return (chosen or [text for _, text in fences] or [content])[0].strip()


def trimmed(text):
    """The statement without comments and semicolons around it."""
    found = tokens(text)
    while found and found[-1][1] == ";":
        found.pop()
    return text[found[0][2] : found[-1][3]] if found else ""


def limited(sql, limit):
    """The statement with LIMIT, if it has none of its own at the top."""
    depth = 0
    found = tokens(sql)
    for place, (kind, text, _, _) in enumerate(found):
        if text in ("(", "["):
            depth += 1
        elif text in (")", "]"):
            depth -= 1
        elif depth == 0 and kind == "word" and text.lower() in ("limit", "fetch"):
            before = found[place - 1][1].lower() if place else ""
            if before in ("as", "."):  # it is a name there
                continue
            after = found[place + 1] if place + 1 < len(found) else None
            if text.lower() == "limit" and after and after[1].lower() in ("all", "null"):
                return sql[: after[2]] + str(limit) + sql[after[3] :]
            return sql
    return f"{sql} LIMIT {limit}"


def say(error):
    """The message of an error of PostgreSQL, with its hint."""
    hint = getattr(error, "hint", None)
    return f"{error} ({hint})" if hint else str(error)


def validate(plpy, content, mode, search_path, row_limit):
    """{"sql", "validated"} and, if it is not, the "reason"."""
    sql = fenced(content)
    try:
        if len(sql) > MAX_SQL:
            raise Refused(f"the statement has {len(sql)} characters, and the limit is {MAX_SQL}")
        sql = trimmed(sql)
        if not sql:
            raise Refused("the model returned no SQL")
        if "\x00" in sql:
            raise Refused("the statement has a null character")
        reads = judged(plpy, sql, mode, search_path)
        if reads and row_limit:
            bounded = limited(sql, row_limit)
            if bounded != sql:
                judged(plpy, bounded, mode, search_path)
                sql = bounded
        return {"sql": sql, "validated": True}
    except Refused as refused:
        return {"sql": sql, "validated": False, "reason": str(refused)}


def judged(plpy, sql, mode, search_path):
    """Whether the statement is a SELECT. Raises Refused if it is not valid."""
    try:
        return undone(plpy, lambda: judge(plpy, sql, mode, search_path))
    except plpy.SPIError as error:
        if (error.sqlstate or "").startswith(NOT_A_VERDICT):
            raise
        raise Refused(say(error)) from None


def undone(plpy, run):
    """What `run` returns; its subtransaction is rolled back."""
    outcome = []
    try:
        with plpy.subtransaction():
            outcome.append(run())
            raise Done
    except Done:
        return outcome[0]


def judge(plpy, sql, mode, search_path):
    domains = plpy.execute(UNTRUSTED_DOMAINS)
    if domains:
        raise Refused(
            "for a superuser nothing is parsed while there is the domain {}, whose CHECK is code of {}: ask as another"
            " role".format(domains[0]["name"], domains[0]["owner"])
        )
    configure = plpy.prepare("select pg_catalog.set_config('search_path', $1, true)", ["text"])
    plpy.execute(configure, [search_path])
    explain(plpy, sql, search_path, plan=False)
    plpy.execute("create function pg_temp.pgcache_probe() returns void language sql begin atomic\n" + sql + "\n;\nend")
    rows = plpy.execute(
        "select p.prosqlbody::text as tree from pg_catalog.pg_proc p"
        " where p.oid = 'pg_temp.pgcache_probe()'::pg_catalog.regprocedure"
    )
    tree = rows[0]["tree"]
    commands = COMMANDS.findall(tree)
    if mode == "sql_only":
        if set(commands) != {SELECT}:
            raise Refused("the statement writes, and only reading is allowed here")
        if ":hasForUpdate true" in tree:
            raise Refused("the statement locks rows, and only reading is allowed here")
    elif not set(commands) <= {SELECT, UPDATE, INSERT, DELETE, MERGE}:
        raise Refused("the statement is no SELECT, INSERT, UPDATE, DELETE or MERGE")
    if only_compiled(plpy, tree):
        explain(plpy, sql, search_path, plan=True)
    else:
        may_read(plpy, tree)
    return commands[0] == SELECT


def explain(plpy, sql, search_path, plan):
    """Raises if there are two statements, or none that can be explained.

    That is a function in PL/pgSQL, as here each statement is a subtransaction, whose end ends its being read-only.
    """
    call = plpy.prepare("select pgcache_internal.ai_explain($1, $2, $3)", ["text", "text", "bool"])
    try:
        plpy.execute(call, [sql, search_path, plan])
    except plpy.SPIError as error:
        if error.sqlstate == "42P11":  # cannot open a multi-query plan as a cursor
            raise Refused("there is more than one statement") from None
        raise


def only_compiled(plpy, tree):
    """Whether planning can call compiled functions only. Raises Refused for a volatile one."""
    views = plpy.prepare(
        "select r.ev_action::text as tree from pg_catalog.pg_rewrite r where r.ev_class = any ($1)"
        " union all select p.polqual::text from pg_catalog.pg_policy p"
        " inner join pg_catalog.pg_class c on c.oid = p.polrelid"
        " where p.polrelid = any ($1) and c.relrowsecurity and p.polqual is not null",
        ["oid[]"],
    )
    compiled = True  # a domain's CHECK may call anything
    functions = set()
    conversions = set()
    seen = set()
    trees = [tree]
    while trees:
        relations = set()
        for text in trees:
            compiled = compiled and "{COERCETODOMAIN " not in text
            functions.update(FUNCTIONS.findall(text))
            conversions.update(CONVERSIONS.findall(text))
            relations.update(RELATIONS.findall(text))
        relations -= seen
        seen |= relations
        trees = [row["tree"] for row in plpy.execute(views, [sorted(relations)])] if relations else []
    described = plpy.prepare(
        "select p.oid::pg_catalog.regprocedure::text as name, p.provolatile, p.proname,"
        " p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace as builtin,"
        " l.lanname in ('internal', 'c') as compiled"
        " from pg_catalog.pg_proc p inner join pg_catalog.pg_language l on l.oid = p.prolang"
        " where p.oid = any ($1) or p.oid in ("
        " select f from pg_catalog.pg_aggregate a"
        " cross join lateral pg_catalog.unnest(array[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn,"
        " a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) f where a.aggfnoid = any ($1))",
        ["oid[]"],
    )
    rows = list(plpy.execute(described, [sorted(functions)])) if functions else []
    for row in rows:
        if row["provolatile"] == "v" and not (row["builtin"] and row["proname"] in HARMLESS):
            raise Refused("it calls {}, which is VOLATILE: it may have an effect".format(row["name"]))
        if row["proname"] in EXECUTING:
            raise Refused(f"it calls {row['name']}, which executes SQL that it is given as text")
    if not (compiled and all(row["compiled"] and row["proname"] not in READING for row in rows)):
        return False
    foreign = plpy.prepare(
        "with recursive reached (oid) as ("
        " select r from pg_catalog.unnest($1) r"
        " union select i.inhrelid from pg_catalog.pg_inherits i inner join reached r on r.oid = i.inhparent)"
        " select from pg_catalog.pg_class c"
        " inner join reached r on r.oid = c.oid"
        " inner join pg_catalog.pg_roles o on o.oid = c.relowner"
        " where c.relkind = 'f' or not o.rolsuper and o.rolname <> current_user"
        " union all select from pg_catalog.pg_type t"
        " where t.oid = any ($2) and t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace",
        ["oid[]", "oid[]"],
    )
    return not plpy.execute(foreign, [sorted(seen), sorted(conversions)])


def may_read(plpy, tree):
    """What EXPLAIN would have checked. Raises Refused."""
    query = plpy.prepare(
        "select c.oid::pg_catalog.regclass::text as name from pg_catalog.pg_class c where c.oid = any ($1)"
        " and not pg_catalog.has_table_privilege(c.oid, 'select')"
        " and not pg_catalog.has_any_column_privilege(c.oid, 'select')",
        ["oid[]"],
    )
    for row in plpy.execute(query, [sorted(set(RELATIONS.findall(tree)))]):
        raise Refused("permission denied for table {}".format(row["name"]))
