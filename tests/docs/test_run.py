"""A block that shows something else than is printed fails. Nothing of this is about the pages that there are."""

from __future__ import annotations

import subprocess
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import psycopg
import pytest

from tests.docs.blocks import Page, matches
from tests.docs.conftest import programs
from tests.docs.run import Run as PageRun
from tests.docs.run import World, aligned
from tests.servers import Server

pytestmark = pytest.mark.once
Differences = Callable[[str], list[str]]


@pytest.fixture
def differences(new_world: Callable[[Page], World]) -> Differences:
    """What a page with these blocks shows wrongly."""

    def run(text: str) -> list[str]:
        page = Page("page.md", text)
        with PageRun(page, new_world(page)) as run:
            run.all()
        return run.differences

    return run


def block(language: str, *lines: str, shown: str | None = None) -> str:
    text = "\n".join([f"```{language}", *lines, "```", ""])
    return text if shown is None else f"{text}```text\n{shown}\n```\n"


RIGHT = [
    block("sql", "SELECT 1 AS one, NULL AS nothing;  --> 1|NULL"),
    block("sql", "SELECT 1 AS one;", shown=" one\n-----\n   1"),
    block("sql", "SELECT 'a' AS word, now() AS moment;", shown=" word | moment\n------+---\n a    | ..."),
    block("sql", "SELECT cache_create_type('mine');  -- void shows nothing", "SET work_mem = '8MB';"),
    block("sql", "SELECT cache_get('none', '');", shown="ERROR:  there is no cache type 'none'\nHINT:  ..."),
    block("sql", "SELECT", "    2;  --> 2"),
    block("sql", "DO $$", "BEGIN", "    PERFORM 1;", "END", "$$;"),
    block("python", "x = 6 * 7", "x  # -> 42", "print('a')", "print('b')", shown="a\nb"),
    block("python", "import asyncio", "await asyncio.sleep(0, 'later')  # -> 'later'"),
    block("python", "None", "(", "    1,", ")  # -> (1,)"),
    block("console", "$ python -c 'print(1)'", "1", "$ echo a \\", "    b", "a b"),
    block("console", "$ python -m pgcache_py get store k --dsn postgresql://me@host/app", "miss: store has ..."),
    block("text", "what is not run") + block("sh", "make nothing"),
    "<!-- sql\nCREATE TABLE hidden AS SELECT 7 AS n;\n-->\n" + block("sql", "SELECT n FROM hidden;  --> 7"),
]
WRONG = [
    block("sql", "SELECT 1 AS one;  --> 2"),
    block("sql", "SELECT 1 AS one;  --> "),
    block("sql", "SELECT 1 AS one;"),
    block("sql", "SELECT 1 AS one;", shown=" one\n-----\n   2"),
    block("sql", "SELECT 1 AS one;", shown=" one\n-----\n 1"),
    block("sql", "SELECT 1 AS one;", shown=" one\n-----\n   1\n   1"),
    block("sql", "SELECT 1;  --> 1", "SELECT 2;  --> 1"),
    block("sql", "SELECT nothing;"),
    block("sql", "SELECT nothing;  --> 1"),
    block("sql", "SET work_mem = '8MB';", shown="SET"),
    block("python", "6 * 7  # -> 41"),
    block("python", "6 * 7"),
    block("python", "None  # -> 1"),
    block("python", "print('a')"),
    block("python", "print('a')", shown="b"),
    block("python", "x = 1", shown="1"),
    block("console", "$ echo a", "b"),
    block("console", "$ echo a"),
    block("console", "$ python -c 'print(1)'", "1", "2"),
]
BROKEN = [
    block("sql", "SELECT 1  --> 1", ";  --> 1"),
    block("sql", "SELECT 1"),
    block("python", "1 / 0"),
    block("python", "x = 1  # -> 1"),
    block("python", "if True:", "    6 * 7  # -> 42"),
    block("console", "$ python -c 'raise SystemExit(3)'"),
    block("console", "$ rm -r nothing"),
    "```sql\nSELECT 1;\n",
]


def test_what_is_right_passes(differences: Differences) -> None:
    assert differences("\n".join(RIGHT)) == []


def test_what_is_wrong_fails(differences: Differences) -> None:
    """Each block of its own."""
    found = differences("\n".join(WRONG))
    lines = [int(difference.split(":")[1]) for difference in found]
    ends = list(accumulate(text.count("\n") + 1 for text in WRONG))
    assert [bisect(ends, line) for line in lines] == list(range(len(WRONG))), "\n\n".join(found)


@pytest.mark.parametrize("text", BROKEN)
def test_what_does_not_run_fails(differences: Differences, text: str) -> None:
    with pytest.raises((AssertionError, ArithmeticError)):
        differences(text)


def test_what_was_printed_takes_the_place_of_what_was_shown(new_world: Callable[[Page], World]) -> None:
    text = block("sql", "SELECT 1;  --> 2", "SELECT 3 AS three;") + block("python", "[4, 5]", "print(6)", shown="7")
    page = Page("page.md", text)
    world = new_world(page)
    with PageRun(page, world) as run:
        run.all()
    assert run.updated() == block(
        "sql", "SELECT 1;  --> 1", "SELECT 3 AS three;", shown=" three\n-------\n     3"
    ) + block("python", "[4, 5]  # -> [4, 5]", "print(6)", shown="6")
    with PageRun(Page("page.md", run.updated()), world) as again:
        again.all()
    assert again.differences == []


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a ... c", "a b b c", True),
        ("a ... c", "a b\nb c", False),
        ("a\n...\nc", "a\nb\nb\nc", True),
        ("a\n...\nc", "a\nc", True),
        ("a\n...", "a", True),
        ("a\n...\nc", "a\nb\nb", False),
        ("a  ...", "a     b", True),
        ("(a) ...", "(a) b", True),
        ("a  b", "a b", False),
        ("a|b", "a", False),
    ],
)
def test_wildcards(shown: str, printed: str, same: bool) -> None:
    assert matches(shown, printed) is same


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS n, 'a' AS word, NULL AS nothing",
        "SELECT g AS a_long_name, 'x' || g * 1000 AS s, g > 1 AS b FROM generate_series(1, 3) AS g",
        "SELECT '{\"a\": 1}'::jsonb AS j, interval '1 day' AS i, 1.50 AS numeric_one, 2.5::float8 AS f",
        "SELECT 'word' AS abc, 'ab' AS abcd, '' AS a",
        "SELECT 1 AS none WHERE false",
    ],
)
def test_tables_are_those_of_psql(server: Server, dsn: str, query: str) -> None:
    psql: list[str | Path] = [programs(server) / "psql", "-X", "-q", "-P", "footer=off", dsn, "-c", query]
    printed = subprocess.run(psql, capture_output=True, text=True, check=True).stdout
    with psycopg.connect(dsn) as connection:
        table = aligned(connection.pgconn.exec_(query.encode()))
    assert [line.rstrip() for line in table.splitlines()] == [line.rstrip() for line in printed.splitlines()]
