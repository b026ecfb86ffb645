"""The page of the frameworks, which can only run where these are: otherwise as tests/docs/test_pages.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.docs.blocks import PROJECT, Page, pages
from tests.docs.run import Run, World
from tests.docs.test_pages import FRAMEWORKS
from tests.plpython.standin import Standin


@pytest.mark.once
def test_what_is_shown_is_what_is_printed(new_world: Callable[[Page], World], httpbin: Any) -> None:
    page = next(page for page in pages() if page.name == FRAMEWORKS)
    world = new_world(page)
    world.names["https://api.example.com"] = httpbin.url
    with Standin() as model, Run(page, world) as run:
        world.names["http://127.0.0.1:11434/v1"] = model.url
        run.all()
    if os.environ.get("UPDATE_GOLDEN"):
        (PROJECT / page.name).write_text(run.updated())
    assert not run.differences, "\n\n".join(run.differences)
