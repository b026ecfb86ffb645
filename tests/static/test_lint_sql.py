"""What make lint says of the layout of SQL, bodies of functions included."""

from __future__ import annotations

import pytest

from tools.lint_sql import faults

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"select '{'x' * 110}';\n", []),
        (f"select '{'x' * 111}';\n", [(1, "121 columns")]),
        ("as $$\nselect\t1\n$$;\n", [(2, "a tab")]),
        ("as $$\nselect 1, \n    2\n$$;\n", [(2, "a blank at its end")]),
        ("select 1;", [(1, "the file does not end with one line break")]),
        ("select 1;\n\n", [(3, "the file does not end with one line break")]),
        ("is\n'one'\n' two';\n", []),
        ("is\n'one '\n'two';\n", [(2, "a literal goes on after a blank: let that begin the next piece")]),
        ("as $$\nSELECT x\n$$;\n", [(2, "SELECT in upper case")]),
        ("as $$\nselect e'\\n' || E'\\n'\n$$;\n", [(2, "E in upper case")]),
        ("as $$ -- WAL\nselect 'It''s A', \"B\", format($sql$%1$I %L$sql$)\n$$;\n", []),
        ("as $python$\nA = 1\n$python$;\n", []),
    ],
)
def test_a_fault_is_found_and_nothing_else(text: str, found: list[tuple[int, str]]) -> None:
    assert list(faults(text)) == found
