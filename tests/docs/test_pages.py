"""What the pages show is what is printed, on a real server.

UPDATE_GOLDEN=1 writes what is printed into the pages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.blocks import NOT_RUN, PROJECT, RUN, Page, pages
from tests.docs.run import Run as PageRun
from tests.docs.run import World

PAGES = [pytest.param(page, id=page.name) for page in pages()]
BREAKS = {"docs/ai.md": [pytest.mark.breaks("counters", why="what is adopted brings the hits that it had")]}
# Runs where the frameworks are: tests/adapters/test_page.py.
FRAMEWORKS = "docs/frameworks.md"
WIDTH = 120
README_LINES = 200


@pytest.mark.once
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=BREAKS.get(page.name, [])) for page in pages() if page.name != FRAMEWORKS],
)
def test_what_is_shown_is_what_is_printed(page: Page, new_world: Callable[[Page], World]) -> None:
    with PageRun(page, new_world(page)) as run:
        run.all()
    if os.environ.get("UPDATE_GOLDEN"):
        (PROJECT / page.name).write_text(run.updated())
    assert not run.differences, "\n\n".join(run.differences)


@pytest.mark.parametrize("page", PAGES)
def test_each_block_says_what_it_is(page: Page) -> None:
    """What is SQL, Python or a command runs; a block without a name would be one that nobody checks."""
    assert {block.language for block in page.blocks} <= {*RUN, *NOT_RUN}


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page: Page) -> None:
    """Tables cannot be broken."""
    long = [
        number
        for number, line in enumerate(page.text.splitlines(), start=1)
        if len(line) > WIDTH and not line.startswith("|")
    ]
    assert not long


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_text().splitlines()) <= README_LINES


TYPES = sorted(path.stem for path in (PROJECT / "sql" / "caches").glob("*.sql") if "declare_type" in path.read_text())


@pytest.mark.parametrize("type", TYPES)
def test_each_type_is_in_the_readme_and_in_an_example(type: str) -> None:
    readme = (PROJECT / "README.md").read_text()
    assert f"| `{type}` |" in readme
    examples = "\n".join(
        "\n".join(block.lines) for page in pages() for block in page.blocks if block.language in ("sql", "python")
    )
    assert re.search(rf"cache_set_{type}|cache\w*\.{type}\.|{type}_store|_set\('{type}'", examples)


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Page) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (PROJECT / page.name).parent / path if path else PROJECT / page.name
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (PROJECT / "README.md").read_text()
    assert [page.name for page in pages() if page.name != "README.md" and f"]({page.name}" not in readme] == []
