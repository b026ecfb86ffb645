"""The reference is made of the catalog of a server without PL/Python; it says what a server with everything has."""

from __future__ import annotations

import psycopg
import pytest

from tools.reference import CLI, REFERENCE, commands, reference


@pytest.mark.needs("plpython3u")
def test_the_reference_is_that_of_a_server_with_every_extension(db: psycopg.Connection) -> None:
    db.execute("SELECT pgcache.cache_configure_setting('test_clock', 'off')")  # as an installation leaves it
    assert reference(db) == REFERENCE.read_text()


def test_the_commands_are_those_of_the_parser() -> None:
    assert commands() == CLI.read_text()
