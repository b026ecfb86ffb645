"""Servers of statistics, and a browser to look at them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.tools.served import Serve, serving

# Debian's, the lighter one first; those of other systems.
CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts `python -m pgcache_py serve` for a database, and returns a client for it."""
    with serving() as start:
        yield start


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that is installed. Closed with the module: while it runs, no other loop of events can."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip(f"there is no browser here, such as {CHROMIUM[0]}")
    with sync_playwright() as playwright:
        # As root it has no sandbox; it sees nothing but our own page.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
