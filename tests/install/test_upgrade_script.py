"""Upgrades by the script that is printed, for those who have no Python: psql, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

from psycopg.conninfo import make_conninfo

from pgcache_py import __version__
from pgcache_py.setup.install import install
from pgcache_py.setup.sources import load
from tests.tools import releases
from tests.tools.catalog import catalog
from tests.tools.session import Session, database, fetch, session, user

from .versions import (
    ANOTHER_VIEW,
    DIFFERENT,
    NewRole,
    Users,
    assert_the_same,
    edited,
    fill,
    make_types,
    seen,
)


def psql(programs: Path, dsn: str, script: str) -> subprocess.CompletedProcess[str]:
    """As the script itself says: psql -f FILE."""
    command = [str(programs / "psql"), "-X", "-q", "-d", dsn, "-f", "-"]
    return subprocess.run(command, input=script, capture_output=True, text=True, timeout=60)


def test_the_printed_script_upgrades_as_well(
    release: str, owned_dsn: str, another_dsn: str, programs: Path, new_role: NewRole
) -> None:
    releases.install_frozen(owned_dsn, release, plpython=False)
    ask = Session(owned_dsn)
    fill(ask)
    users = Users(owned_dsn, new_role)
    before = seen(ask)
    newer = DIFFERENT["a parameter, of what users call"]()
    done = psql(programs, owned_dsn, newer.render("0.2.0", upgrade_from=release))
    assert (done.returncode, done.stderr) == (0, "")
    assert seen(ask) == before
    assert ask("SELECT version FROM pgcache_internal.installed") == "0.2.0"

    with session(another_dsn) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(f"GRANT CREATE ON DATABASE {database(another_dsn)} TO {user(owned_dsn)}".encode())
    theirs = make_conninfo(another_dsn, user=user(owned_dsn), password="secret")
    install(theirs, sources=newer, cron=False, search_path=False)
    fresh = Session(theirs)
    make_types(fresh)
    fresh("SELECT cache_configure('llm', ttl => '2 hours', max_entries => 500, eviction => 'cost')")
    fresh("SELECT cache_configure('audio', max_bytes => 1000000, hit_tracking => 'exact')")
    fresh("SELECT cache_configure_setting('ttl_short', '7 minutes'), cache_hot_on('phash')")
    users.give(theirs)
    assert_the_same(catalog(ask), catalog(fresh))

    again = psql(programs, owned_dsn, newer.render("0.2.0", upgrade_from=release))
    assert again.returncode == 3
    assert f"this script is for a database with pgcache {release}, and " in again.stderr
    assert "has pgcache 0.2.0" in again.stderr
    assert "HINT:  Print the one for it: python -m pgcache_py sql --upgrade-from 0.2.0" in again.stderr
    ask.close()
    fresh.close()


def test_the_printed_script_leaves_a_database_alone_that_has_no_pgcache(empty_dsn: str, programs: Path) -> None:
    done = psql(programs, empty_dsn, load().render("0.2.0", upgrade_from=__version__))
    assert done.returncode == 3
    assert f"{database(empty_dsn)} has none" in done.stderr
    assert fetch(empty_dsn, "SELECT to_regnamespace('pgcache')") is None
    assert fetch(empty_dsn, "SELECT count(*) FROM pg_extension WHERE extname = 'vector'") == 0


def test_the_printed_script_says_what_stops_it(dsn: str, programs: Path) -> None:
    with session(dsn) as connection:
        connection.execute("CREATE VIEW public.mine AS SELECT name FROM pgcache.cache_settings")
    done = psql(programs, dsn, edited(*ANOTHER_VIEW).render("0.2.0", upgrade_from=__version__))
    assert done.returncode == 3
    assert "DETAIL:  view public.mine depends on view cache_settings" in done.stderr
    assert "HINT:  Nothing has changed. Drop these objects, install again" in done.stderr
    assert fetch(dsn, "SELECT version FROM pgcache_internal.installed") == __version__
