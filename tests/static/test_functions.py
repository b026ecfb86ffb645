"""Rules that every function of schema pgcache keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import shared_dsn
from tests.sql.test_get_and_set import VALUES
from tests.tools.session import Session

dsn = shared_dsn
SQL = Path(__file__).parents[2] / "sql"
PATHS = {"pg_catalog, pg_temp", "pgcache_internal, pgcache, pg_catalog, pg_temp"}
SCHEMAS = "('pgcache'::regnamespace, 'pgcache_internal'::regnamespace)"

# Why a function has no SET search_path; its source says which (-- not pinned: ...). Its names are qualified instead.
UNPINNED = {
    "hot path": "a SET clause would cost a call 1 us, of 5",
    "inlined": "a SET clause would keep it from being inlined into the statements of the hot path",
    "commits": "a procedure that commits cannot have a SET clause",
    "runs files": "a SET clause would hide the schema of the extension vector from them",
}
# Part of SQL's grammar, so that no schema can come before them.
GRAMMAR = {
    "all", "and", "any", "array", "as", "by", "cast", "coalesce", "conflict", "distinct", "execute", "exists",
    "extract", "filter", "from", "greatest", "if", "in", "into", "key", "lateral", "least", "materialized", "not",
    "nullif", "on", "operator", "or", "ordinality", "over", "perform", "returning", "row", "select", "set", "some",
    "substring", "then", "trim", "update", "using", "values", "when", "where", "while", "with",
}  # fmt: skip


@dataclass
class Function:
    signature: str
    name: str
    language: str
    volatility: str
    parallel: str
    definer: bool  # or a trigger, which runs with the rights of who changes the table: the owner
    search_path: str | None
    body: str
    comment: str | None

    @property
    def code(self) -> str:
        """The body without comments and literals."""
        return re.sub(r"--[^\n]*|\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'", " ", self.body, flags=re.DOTALL)


SOURCE = "\n".join(file.read_text() for file in sorted(SQL.rglob("*.sql")))
DEFINED = set(re.findall(r"create or replace (?:function|procedure) pgcache(?:_internal)?\.(\w+)", SOURCE))
COMPILED = {
    "type_ttl", "type_hit_weight", "type_may_be_full", "type_dimensions", "type_has_fields", "cache_now",
    "statement_start", "tenant_is_limited",
}  # fmt: skip
CORE = DEFINED | COMPILED
NOT_PINNED = dict(
    re.findall(
        r"create or replace (?:function|procedure) pgcache(?:_internal)?\.(\w+)\((?:(?!\$\$|create or replace).)*?"
        r"\nlanguage [^\n]*-- not pinned: ([^\n]*)\n",
        SOURCE,
        re.DOTALL,
    )
)


def functions(ask: Session, *, all_levels: bool = False) -> list[Function]:
    """Those of sql/. all_levels: also those of plpython/."""
    rows = ask.rows(f"""
        SELECT replace(replace(p.oid::regprocedure::text, 'pgcache_internal.', ''), 'pgcache.', ''), p.proname,
            l.lanname, p.provolatile::text, p.proparallel::text, p.prosecdef OR p.prorettype = 'trigger'::regtype,
            (SELECT substr(c, length('search_path=') + 1) FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%'),
            p.prosrc, obj_description(p.oid, 'pg_proc')
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.pronamespace IN {SCHEMAS} ORDER BY 1
    """)
    found = [Function(*row) for row in rows]
    return [function for function in found if all_levels or function.name in CORE]


def test_search_path_is_pinned(ask: Session) -> None:
    unpinned = {function.name for function in functions(ask) if function.search_path is None}
    assert unpinned == set(NOT_PINNED) | COMPILED
    assert set(NOT_PINNED.values()) == set(UNPINNED)
    paths = {function.search_path.replace('"', "") for function in functions(ask) if function.search_path}
    assert paths == PATHS


# What makes PostgreSQL look an operator, a type or a collation up by the search_path.
BY_THE_PATH = re.compile(
    r"""(?<![\w.(])[-+*/<>=~!@\#%^&|`?]+(?![\w)]*\))(?<!:=)(?<!=>)  # an operator
    | \b(?:not\s+)?(?:i?like|between|similar\s+to|nullif)\b | \bis\s+(?:not\s+)?distinct\b | \bin\s*\(
    | \bcase\s+(?!\s|when\b) | \bcollate\s+(?!\s|pg_catalog\.)
    | ::\s*(?!pg_catalog\.|(?:integer|bigint|smallint|boolean|real|float|numeric|interval)\b)\w+
    | ^\s*\w+\s+(?:constant\s+)?(?:text|jsonb?|bytea|timestamptz|regclass|tid|name|record)\b(?:\[\])?\s*(?:;|:=)""",
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)


NO_OPERATORS = re.compile(
    r"operator\(pg_catalog\.[^)]+\)|\.\*|\(\*\)|select \*|:=|=>|%type|#variable_conflict"
    r"|\b\w+ = excluded\.\w+|\b(?:errcode|message|hint|detail) ="
)


def test_who_runs_with_the_owners_rights_has_pinned_it_or_qualifies_all(ask: Session) -> None:
    """Down to operators and types, also in what it calls: else these would be the caller's, and act as the owner."""
    everything = {function.name: function for function in functions(ask, all_levels=True)}
    problems = []
    for definer in everything.values():
        if not definer.definer or definer.search_path:
            continue
        reached, further = set(), {definer.name}
        while further:
            reached |= further
            called = {name for name in further for name in re.findall(r"\b(\w+)\s*\(", everything[name].code)}
            further = {name for name in called & set(everything) - reached if not everything[name].search_path}
        for name in reached:
            code = NO_OPERATORS.sub(" ", everything[name].code)
            problems += [f"{name}: {found.group()}" for found in BY_THE_PATH.finditer(code)]
    assert not problems, "\n".join(sorted(set(problems)))


def test_what_is_not_pinned_is_qualified(ask: Session) -> None:
    """Names of functions and tables, that is; operators and types cannot sensibly be."""
    problems = []
    for function in functions(ask):
        if function.search_path:
            continue
        calls = set(re.findall(r"(?<![\w.%])([a-z_]\w*)\s*\(", function.code)) - GRAMMAR
        if re.search(r"\bunnest\([^()]*,", function.code):
            calls.discard("unnest")  # of several arrays, it is grammar, too
        tables = set(re.findall(r"\b(?:from|join|into|update)\s+(?:only\s+)?([a-z_]\w*)\b(?!\s*[.(,])", function.code))
        # Variables that INTO assigns, and names that the statement itself gives.
        own = set(
            re.findall(r"^\s*([a-z_]\w*)\s+(?:constant\s+)?[a-z_.]+[\w\[\]%.]*\s*(?:;|:=)", function.code, re.MULTILINE)
        )
        own |= set(re.findall(r"\b([a-z_]\w*)\s+as\s+(?:materialized\s+)?\(", function.code))
        own |= {
            word
            for match in re.findall(r"\binto\s+([\w\s,]+?)\s+(?:from|using)\b", function.code)
            for word in re.split(r"\W+", match)
        }
        calls.discard("operator")
        aliases = set(re.findall(r"(?:\bas|\bordinality|\))\s+([a-z_]\w*)\s*\(", function.code))
        found = (calls - aliases) | (tables - own - GRAMMAR - {"value", "strict"})
        if found:
            problems.append(f"{function.signature}: {', '.join(sorted(found))}")
    assert not problems, "\n".join(problems)


def test_who_forbids_sequential_scans_forbids_compiling(ask: Session) -> None:
    """What is forbidden counts as so costly that, where no index fits, jit would take half a second for it."""
    query = f"""
        SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace IN {SCHEMAS} AND 'enable_seqscan=off' = ANY (proconfig) AND NOT 'jit=off' = ANY (proconfig)
    """
    assert ask.column(query) == []


def test_volatility_is_declared(ask: Session) -> None:
    """Rather than left to the default."""
    for file in SQL.glob("*/*.sql"):
        for head in re.findall(
            r"create or replace function (pgcache(?:_internal)?\.\w+\(.*?)\bas (?:\$|')", file.read_text(), re.DOTALL
        ):
            assert re.search(r"\b(immutable|stable|volatile)\b", head), head


def test_no_lock_is_anybodys_who_may_connect() -> None:
    """As an advisory lock is: who holds one whose key all know, and pg_locks shows, keeps all others from it."""
    for folder in (SQL, SQL.parent / "plpython", SQL.parent / "pgcache_py"):
        for file in folder.rglob("*.*"):
            if file.suffix in (".sql", ".py"):
                assert not re.search(r"pg_(try_)?advisory", file.read_text(), re.IGNORECASE), file


WRITES = re.compile(
    r"\b(insert into|update \w|delete from|nextval|setval|create|alter|drop|truncate|lock table|advisory)\b",
    re.IGNORECASE,
)


def test_volatility_and_parallel_safety_are_true(ask: Session) -> None:
    for function in functions(ask):
        text = function.body if "execute" in function.code else function.code
        if WRITES.search(text):
            assert function.volatility == "v", function.signature
            assert function.parallel == "u", function.signature  # parallel workers cannot write
        if re.search(r"\bexception when\b", function.code, re.IGNORECASE):
            assert function.parallel == "u", function.signature  # a subtransaction cannot begin in a parallel operation
        if function.volatility == "i":
            assert not re.search(
                r"\b(current_setting|(clock|statement)_timestamp|now\(\)|pg_is_in_recovery)", function.code
            ), function.signature


def test_what_is_parallel_safe_calls_nothing_that_is_not(ask: Session) -> None:
    everything = functions(ask)
    unsafe = {function.name for function in everything if function.parallel == "u"}
    for function in everything:
        if function.parallel != "u":
            called = set(re.findall(r"\b(\w+)\s*\(", function.code))
            assert not called & unsafe - {function.name}, function.signature


CHANGES_THE_CATALOG = re.compile(
    r"\bcall make\(|\bexecute\s+format\(\s*(?:\$sql\$|')\s*(?:create|alter|drop|grant|revoke|comment)\b"
)


def test_what_changes_the_catalog_takes_its_turn(ask: Session) -> None:
    everything = functions(ask, all_levels=True)
    called = {function.name: set(re.findall(r"\b(\w+)\s*\(", function.code)) for function in everything}

    def reached(names: set[str]) -> set[str]:
        further = names.union(*(called.get(name, set()) for name in names))
        return names if further == names else reached(further)

    changing = {function.name for function in everything if CHANGES_THE_CATALOG.search(function.body)}
    public = ask.column("SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pgcache'::regnamespace")
    found = [name for name in public if reached({name}) & changing]
    assert {"cache_create_type", "cache_configure", "cache_drop_type", "cache_hot_on", "cache_grant"} <= set(found)
    for name in found:
        assert "take_turn" in reached({name}), name


def test_bodies_read_the_same_whatever_standard_conforming_strings(ask: Session) -> None:
    """A session may have it off: then a backslash escapes, unless the constant begins with an E anyway."""
    for function in functions(ask, all_levels=True):
        if function.language in ("sql", "plpgsql"):
            bare = re.sub(
                r"\be'(?:[^'\\]|\\.|'')*'(?:\s*\n\s*'(?:[^'\\]|\\.|'')*')*", "''", function.body, flags=re.IGNORECASE
            )
            assert "\\" not in re.sub(r"--.*", "", bare), function.signature


def test_each_has_a_comment(ask: Session) -> None:
    for function in functions(ask, all_levels=True):
        assert function.comment, function.signature
        assert function.comment.endswith((".", ")")), function.signature
        assert len(function.comment) > 15, function.signature


def test_each_error_has_a_sqlstate_of_ours_and_a_hint(ask: Session) -> None:
    for function in functions(ask):
        for statement in re.findall(r"raise exception.*?;\n", function.body, re.DOTALL):
            assert "errcode = " in statement, function.signature
            code = re.search(r"errcode = '(\w+)'", statement)
            assert code, function.signature
            if code[1] != "invalid_parameter_value":  # which the function itself catches
                assert re.fullmatch(r"PC0\d\d|25001|25006|42501", code[1]), function.signature
                assert "hint = " in statement, function.signature


def test_each_error_is_in_the_comment(ask: Session) -> None:
    comments = {function.name: function.comment or "" for function in functions(ask)}
    for function in functions(ask):
        comment = comments[function.name]
        for _ in range(2):
            comment += "".join(comments[name] for name in re.findall(r"\bas (cache_\w+)", comment))
        raised = set(re.findall(r"errcode = '(PC\d+|25001|25006|42501)'", function.body))
        assert raised <= set(re.findall(r"PC\d+|25001|25006|42501", comment)), function.signature


def test_no_overloads(ask: Session) -> None:
    """They are how an API grows until nobody knows which one is called. Nor are there two of a name in both schemas."""
    names = [function.name for function in functions(ask)]
    assert len(names) == len(set(names))


def test_raise_has_no_placeholders(ask: Session) -> None:
    """RAISE's own are %, so a %s there prints an s."""
    for function in functions(ask):
        assert not re.search(r"raise\s+(?:exception|notice|warning|info|log|debug)\s+'", function.body), (
            function.signature
        )


# Inlining.


def called(ask: Session, statements: list[str]) -> set[str]:
    """The functions of ours that each statement calls, apart from those that were inlined.

    What is called less often is a constant that the planner works out: a plan is made anew whenever other sessions'
    changes of the catalog were so many that this one lost track of them.
    """
    ask("SELECT pg_stat_force_next_flush()")
    before = dict(ask.rows("SELECT funcname, calls FROM pg_stat_user_functions WHERE schemaname ~ '^pgcache'"))
    ask("SET track_functions = 'all'")
    for statement in statements:
        ask(statement)
    ask("SET track_functions = 'none'")
    ask("SELECT pg_stat_force_next_flush()")
    after = ask.rows("SELECT funcname, calls FROM pg_stat_user_functions WHERE schemaname ~ '^pgcache'")
    return {name for name, calls in after if calls - before.get(name, 0) >= len(statements)}


# What a call may cost: these functions, and no others, are really called.
CALLS = {
    "cache_get('llm', 'k')": {"cache_get"},
    "cache_get('embedding', 'k')": {"cache_get"},
    "cache_get('audio', 'k')": {"cache_get"},
    "cache_get('vector_search', 'k')": {"cache_get"},
    "cache_get('ai_worker', 'k')": {"cache_get"},
    "cache_get('face', 'k')": {"cache_get"},
    "cache_get('phash', 'k')": {"cache_get"},
    "cache_get('crawl', 'k')": {"cache_get"},
    "cache_get('store', 'k')": {"cache_get"},
    "cache_get('mine', 'k')": {"cache_get"},
    "cache_get_llm('p', 'm')": {"cache_get"},
    "cache_get_embedding('t', 'm')": {"cache_get_embedding", "cache_key"},
    "cache_get_audio('t', 'v')": {"cache_get_audio", "cache_key", "canonical_json"},
    "cache_get_vector_search('[1]')": {"cache_get"},
    "cache_get_ai_worker('p', 'm', '1')": {"cache_get", "ai_worker_stored_key", "ai_worker_legacy_key", "cache_key"},
    "cache_get_face('x', NULL)": {"cache_get", "get_for_tenant"},
    "cache_get_phash('x', NULL)": {"cache_get", "get_for_tenant"},
    "* FROM crawl_should_skip('u', 'x', NULL)": {"cache_get", "get_for_tenant", "crawl_should_skip", "cache_key"},
    "cache_set('llm', 'k', '{\"response\": \"r\"}')": {"put"},
    "cache_set('store', 'k', '1')": {"put"},
    "cache_set('mine', 'k', '1')": {"put"},
    "cache_set('face', 'k', '{\"embeddings\": []}')": {"put"},
    "cache_set_llm('p', 'm', 'r')": {"put"},
}


@pytest.fixture(scope="module")
def warm_dsn(dsn: str) -> str:
    """There is a value in each type, and hits are not counted."""
    session = Session(dsn)
    session("SELECT cache_create_type('mine'), cache_tenant_limit('mine', 'another', 10)")
    for type, values in {**VALUES, "mine": ["1"]}.items():
        session("SELECT cache_configure(%s, hit_tracking => 'off')", type)
        session("SELECT cache_set(%s, 'k', %s)", type, values[0])
    session("SELECT cache_set_llm('p', 'm', 'r'), cache_set_embedding('t', 'm', '[1]')")
    session("SELECT cache_set_audio('t', 'v', 'x', 'wav'), cache_set_vector_search('[1]', '[]')")
    session("SELECT cache_set_ai_worker('p', 'm', '1', 'select'), cache_set_face('x', NULL, '[]')")
    session("SELECT cache_set_phash('x', NULL, 'p'), crawl_store('u', 'x', 'r', NULL, NULL)")
    session.close()
    return dsn


@pytest.mark.parametrize("call", CALLS)
def test_what_should_be_inlined_is(warm_dsn: str, ask: Session, call: str) -> None:
    for _ in range(10):  # the first writes make room, and the first plans are made for their arguments
        ask(f"SELECT {call}")
    assert called(ask, [f"SELECT {call}"] * 20) == CALLS[call]


def test_logging_a_hit_calls_nothing_else(ask: Session) -> None:
    ask("SELECT cache_create_type('logged', hit_tracking => 'exact')")
    ask("SELECT cache_set('logged', 'k', '1')")
    for _ in range(10):
        ask("SELECT cache_get('logged', 'k')")
    calls = called(ask, ["SELECT cache_get('logged', 'k')"] * 5)
    assert calls == {"cache_get", "log_gathered"}


def test_the_plan_of_a_get_is_one_look_up_by_the_primary_key(ask: Session) -> None:
    """As far as it can be told from outside, of the statement that cache_get has for llm."""
    body = ask("SELECT prosrc FROM pg_proc WHERE oid = 'cache_get(text,text)'::regprocedure")
    statement = re.search(
        r"select\s+pg_catalog\.jsonb_strip_nulls.*?;", body[body.index("cache_llm_responses") - 1000 :], re.DOTALL
    )
    assert statement
    text = (
        re.sub(r"\binto [\w, \n]+?(?=\s+from)", "", statement[0])
        .replace("operator(pg_catalog.=) key", "= 'k'")
        .replace("operator(pg_catalog.=) scope", "= pgcache_internal.current_tenant()")
        .replace("%", "%%")
        .rstrip(";")
    )
    plan = "\n".join(ask.column(f"EXPLAIN (VERBOSE, COSTS OFF) {text}"))
    assert "Index Scan using cache_llm_responses_pkey" in plan or "Index Only" in plan or "Bitmap" in plan
    for name in ("cache_now", "current_tenant", "gather_hit", "draw_hit"):
        assert f"{name}(" not in plan
