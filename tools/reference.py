"""Writes docs/reference.md and docs/cli.md, from a database with pgcache and from the parser of the commands.

The database is on an embedded server, for as long as this runs. It has no PL/Python, so a language of that name is made
that can hold the functions of that level, and could not run them.

    python tools/reference.py            write them
    python tools/reference.py --check    say what is not as it would be written; exit code 1
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgcache_py import __version__, errors
from pgcache_py.cli import main as cli
from pgcache_py.setup.embedded import Embedded
from pgcache_py.setup.sources import CREATE_PLPYTHON, FOR_PSQL, load

PROJECT = Path(__file__).parents[1]
REFERENCE = PROJECT / "docs" / "reference.md"
CLI = PROJECT / "docs" / "cli.md"
WIDTH = 120
MADE = "<!-- Made by tools/reference.py: change what it is made of, and run make docs. -->"

LANGUAGE_WITHOUT_PYTHON = "CREATE LANGUAGE plpython3u HANDLER pg_catalog.plpgsql_call_handler;\n"

SESSION_SETTINGS = {
    "pgcache.tenant": "The tenant whose entries the calls see; without it the shared one, `''`.",
    "pgcache.clock": "The time by which entries expire, for tests. Only where the setting `test_clock` is on.",
    "pgcache.hits_": "Then the type: where the session notes its latest hits until it logs them. Not to be set.",
}

SQLSTATE = re.compile(r"\b(PC\d{3}|\d[0-9A-Z]{4}|\d\d|XX)\b")
OUR_SQLSTATE = re.compile(r"\bPC\d{3}\b")

INTRODUCTION = f"""\
# Reference

{MADE}

Every function, view, table, setting and SQLSTATE of pgcache {__version__}, for those who know what they look for. The
texts are the comments in the database: `\\df+ pgcache.*` in psql shows the same. To learn what to call when, begin with
[SQL](sql.md).

[Functions](#functions) · [Types](#types) · [Views](#views) · [Tables](#tables) · [Settings](#settings) ·
[SQLSTATEs](#sqlstates)"""

FUNCTIONS = """
    SELECT p.proname AS name, p.prokind = 'p' AS procedure, pg_get_function_arguments(p.oid) AS arguments,
        pg_get_function_result(p.oid) AS result, obj_description(p.oid, 'pg_proc') AS comment
    FROM pg_proc AS p
    WHERE p.pronamespace = 'pgcache'::regnamespace AND p.prokind IN ('f', 'p') AND p.prorettype <> 'trigger'::regtype
    ORDER BY p.proname COLLATE "C", p.oid::regprocedure::text COLLATE "C"
"""
RELATIONS = """
    SELECT c.relname AS name, c.relkind = 'v' AS view, obj_description(c.oid, 'pg_class') AS comment, (
        SELECT json_agg(json_build_array(a.attname, format_type(a.atttypid, a.atttypmod),
            col_description(c.oid, a.attnum)) ORDER BY a.attnum)
        FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS columns
    FROM pg_class AS c
    WHERE c.relnamespace = 'pgcache'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
    ORDER BY c.relname COLLATE "C"
"""
TYPES = """
    SELECT t.type, t.max_bytes, (extract(epoch FROM t.ttl) / 3600)::float8 AS hours,
        coalesce(i.inhparent, t.relation)::regclass::text AS relation, (
            SELECT string_agg(format('`%s` %s', f.key, f.value), ', ' ORDER BY a.attnum)
            FROM jsonb_each_text(t.fields) AS f JOIN pg_attribute AS a ON a.attrelid = t.relation AND a.attname = f.key
        ) AS fields
    FROM pgcache_internal.types AS t LEFT JOIN pg_inherits AS i ON i.inhrelid = t.relation
    WHERE t.builtin ORDER BY t.type COLLATE "C"
"""
SETTINGS = 'SELECT name, value, description FROM pgcache.cache_settings ORDER BY name COLLATE "C"'
BODIES = """
    SELECT string_agg(prosrc, E'\\n') AS text FROM pg_proc WHERE pronamespace::regnamespace::text LIKE 'pgcache%'
"""


def installed(connection: psycopg.Connection) -> None:
    """Install all levels, so that the catalog has what a database with every extension has."""
    script = load().render(__version__, plpython=True).replace(FOR_PSQL, "")
    connection.execute(script.replace(CREATE_PLPYTHON, LANGUAGE_WITHOUT_PYTHON).encode())


def reference(connection: psycopg.Connection) -> str:
    """The page. A connection to a database with pgcache, whose settings nobody has changed."""
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        # Names are qualified where they would not be found: none is.
        cursor.execute("SET LOCAL search_path = pgcache, pgcache_internal, pg_catalog, public")

        def rows(query: str) -> list[dict[str, Any]]:
            return cursor.execute(query.encode()).fetchall()

        functions = rows(FUNCTIONS)
        relations = rows(RELATIONS)
        (bodies,) = rows(BODIES)
        parts = [
            INTRODUCTION,
            *_functions(functions),
            *_types(rows(TYPES)),
            *_views([relation for relation in relations if relation["view"]]),
            *_tables([relation for relation in relations if not relation["view"]]),
            *_settings(rows(SETTINGS), bodies["text"]),
            *_sqlstates(functions),
        ]
    return joined(parts)


# Functions.


def _functions(functions: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Functions"
    names = dict.fromkeys(function["name"] for function in functions)
    yield _wrapped(", ".join(f"[{name}](#{name})" for name in names))
    before = ""
    for function in functions:
        if function["name"] != before:
            yield f"### {function['name']}"
        before = function["name"]
        yield f"```text\n{_signature(function)}\n```"
        yield _prose(function["comment"] or "")


def _signature(function: dict[str, Any]) -> str:
    call = "CALL " if function["procedure"] else ""
    # NULL::interval says no more than the parameter's type.
    arguments = function["arguments"].removeprefix("IN ") if function["procedure"] else function["arguments"]
    arguments = re.sub(r"(DEFAULT (?:'[^']*'|\S+?))::[a-z ]+(\[\])?", r"\1", arguments)
    result = f" returns {function['result']}" if function["result"] else ""
    text = f"{call}{function['name']}({arguments}){result}"
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


# Types, views, tables.


def _types(types: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Types"
    yield _wrapped(
        "The types that are there from the start. `!` marks fields that a value must have, `=` what is stored where"
        " there is none. ttl is how long an entry lives unless it says otherwise, max_bytes the limit until you change"
        " it. `cache_create_type` makes more."
    )
    yield _table(
        ["type", "table", "fields", "ttl", "max_bytes"],
        [
            [
                f"`{each['type']}`",
                f"`{each['relation']}`",
                each["fields"] or "any JSON",
                f"{each['hours']:g} h" if each["hours"] else "never",
                f"{each['max_bytes'] >> 30} GB" if each["max_bytes"] else "none",
            ]
            for each in types
        ],
    )


def _views(views: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Views"
    for view in views:
        yield f"### {view['name']}"
        yield _prose(view["comment"] or "")
        yield _columns(view["columns"])


def _tables(tables: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Tables"
    for table in tables:
        yield f"### {table['name']}"
        yield _prose(table["comment"] or "")
        yield _columns(table["columns"])


def _columns(columns: list[list[str | None]]) -> str:
    if any(comment for _, _, comment in columns):
        return _table(["column", "type", "meaning"], [[f"`{name}`", kind, text] for name, kind, text in columns])
    return _wrapped(f"Columns: {', '.join(f'`{name}` {kind}' for name, kind, _ in columns)}.")


# Settings.


def _settings(settings: list[dict[str, Any]], bodies: str) -> Iterator[str]:
    yield "## Settings"
    yield _wrapped(
        "Of the whole cache, in the view `cache_settings`: `SELECT cache_configure_setting(name, value)` changes one,"
        " `ai_configure` and `cache_hot_configure` those of their parts. What is set for one type is a parameter of"
        " [cache_configure](#cache_configure)."
    )
    yield _table(
        ["setting", "default", "meaning"],
        [
            [f"`{each['name']}`", f"`{each['value']}`" if each["value"] else "", each["description"]]
            for each in settings
        ],
    )
    found = {f"pgcache.{name}" for name in re.findall(r"current_setting\('pgcache\.(\w+)'", bodies)}
    if unknown := found ^ SESSION_SETTINGS.keys():
        raise SystemExit(f"session settings that are not in tools/reference.py, or only there: {sorted(unknown)}")
    yield "Of a session or transaction, by `SET` and `SET LOCAL`:"
    yield _table(["setting", "meaning"], [[f"`{name}`", text] for name, text in SESSION_SETTINGS.items()])


# SQLSTATEs: their meanings are in the docstrings of the exceptions.


def _sqlstates(functions: list[dict[str, Any]]) -> Iterator[str]:
    yield "## SQLSTATEs"
    yield _wrapped(
        "A message may change, an SQLSTATE may not. The clients decide by it which exception they raise. Those of two"
        " characters are whole classes of PostgreSQL's own. What pgcache does not know, PostgreSQL's own errors among"
        " them, is a PgcacheError; SQLSTATEs of class 40 (a transaction to be repeated) reach you as psycopg's. The"
        " last column lists the functions whose comments name the SQLSTATE, else the files that raise it."
    )
    meanings = list(_meanings())
    used = _used()
    explained = {code for codes, _, _ in meanings for code in codes if code.startswith("PC")}
    if forgotten := used.keys() ^ explained:
        raise SystemExit(f"SQLSTATEs that no exception explains, or that nothing raises: {sorted(forgotten)}")
    comments = {function["name"]: function["comment"] or "" for function in functions}
    rows = []
    for codes, exception, meaning in sorted(meanings, key=lambda row: (not row[0][0].startswith("PC"), row[0])):
        where = [f"[{name}](#{name})" for name in comments if _said(name, comments) & {*codes}]
        where = where or [f"`{name}`" for code in codes for name in used.get(code, [])]
        rows.append([", ".join(codes), exception, meaning, ", ".join(where)])
    yield _table(["SQLSTATE", "exception", "meaning", "raised by"], rows)


def _meanings() -> Iterator[tuple[list[str], str, str]]:
    """SQLSTATEs, exception and meaning, from lines of docstrings such as `PC003, 22007: a time to live is zero`."""
    for name, exception in inspect.getmembers(errors, inspect.isclass):
        if not issubclass(exception, errors.PgcacheError):
            continue
        for line in (inspect.getdoc(exception) or "").splitlines():
            codes, colon, meaning = line.partition(": ")
            if colon and SQLSTATE.match(codes):
                yield SQLSTATE.findall(codes), name, meaning.rstrip(".")


def _used() -> dict[str, list[str]]:
    """The SQLSTATEs of ours that the sources raise, with the files that do. Not those that the same file catches."""
    used: dict[str, list[str]] = {}
    for folder in ("sql", "plpython", "pgcache_py"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.suffix not in (".sql", ".py") or path.name == "errors.py":
                continue
            text = path.read_text(encoding="utf-8")
            caught = set(re.findall(r"when sqlstate '(\w+)'", text, re.IGNORECASE))
            for code in sorted(set(OUR_SQLSTATE.findall(text)) - caught):
                used.setdefault(code, []).append(path.relative_to(PROJECT).as_posix())
    return used


def _said(name: str, comments: dict[str, str]) -> set[str]:
    """The SQLSTATEs that a function's comment names for errors, of `PC020 to PC025` all, of `as f` those of f."""
    _, _, text = comments.get(name, "").lower().partition("errors")
    codes = {code.upper() for code in re.findall(r"\b(?:pc\d{3}|\d{2}[0-9a-z]{3})\b", text)}
    for first, last in re.findall(r"pc(\d{3}) to pc(\d{3})", text):
        codes |= {f"PC{number:03}" for number in range(int(first), int(last) + 1)}
    for other in re.findall(r"\bas (\w+)", text):
        codes |= _said(other, comments)
    return codes


# The commands.


def commands() -> str:
    parser = cli._parser()
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    codes = re.search(r"Exit codes: (.*?)\n", cli.__doc__ or "")
    if not codes:
        raise SystemExit("the docstring of pgcache_py.cli does not say the exit codes")
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    parts = [
        "# Commands",
        MADE,
        _wrapped(
            "What `python -m pgcache_py COMMAND` does, for those who install and operate pgcache and for shell scripts."
            " `python -m pgcache_py COMMAND --help` shows the same in the terminal."
        ),
        _prose(cli.DESCRIPTION),
        _prose(f"Exit codes: {codes[1]}"),
        _table(["command", "what it does"], [[f"[{name}](#{name})", text] for name, text in helps.items()]),
    ]
    for name, command in subparsers.choices.items():
        parts += [
            f"## {name}",
            f"```text\n{_usage(command)}\n```",
            _prose(f"{helps[name][0].upper()}{helps[name][1:]}."),
        ]
        arguments = [
            _wrapped(f"- {_argument(action)}{f': {_help(command, action)}' if action.help else ''}", "  ")
            for action in command._actions
            if action.dest != "help"
        ]
        parts.append("\n".join(arguments))
        if command.epilog:
            parts += [
                f"```text\n{textwrap.dedent(part)}\n```" if part.startswith(" ") else _prose(part)
                for part in command.epilog.split("\n\n")
            ]
    return joined(parts)


def _help(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    """As the terminal shows it: %% is one, and a single one is an error."""
    return command._get_formatter()._expand_help(action)


def _usage(command: argparse.ArgumentParser) -> str:
    words = command.format_usage().removeprefix("usage: ").split()
    return textwrap.fill(" ".join(words), WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _argument(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    return f"`{', '.join(action.option_strings)}{value}`"


# Markdown.


def joined(paragraphs: list[str]) -> str:
    return "\n\n".join(paragraphs) + "\n"


def _prose(text: str) -> str:
    return _wrapped(_escaped(" ".join(text.split())))


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    return re.sub(r"([<*])", r"\\\1", text)


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return (text if "`" in text else _escaped(text)).replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something would change")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Embedded(Path(folder) / "server")
        with server.using(), psycopg.connect(server.dsn(), autocommit=True) as connection:
            with connection.transaction():
                installed(connection)
            made = {REFERENCE: reference(connection), CLI: commands()}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        name = path.relative_to(PROJECT)
        if options.check:
            print(f"{name} is not what it is made of: make docs", file=sys.stderr)
        else:
            path.write_text(made[path], encoding="utf-8")
            print(f"wrote {name}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
