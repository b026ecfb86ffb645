"""CREATE EXTENSION pgcache: what it leaves is a plain installation, in dumps and upgrades as well."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgcache_py import __version__
from pgcache_py.errors import NotInstalledError
from pgcache_py.setup.extension import EARLIER, write
from pgcache_py.setup.install import install
from pgcache_py.setup.sources import Sources
from pgcache_py.setup.status import status
from pgcache_py.setup.uninstall import uninstall
from tests.conftest import fresh_database
from tests.servers import Server
from tests.servers.server import ClusterServer
from tests.tools import releases
from tests.tools.catalog import catalog
from tests.tools.extensions import Extensible
from tests.tools.invariants import excused
from tests.tools.session import Session, database, fetch, refused, session, user

from .conftest import Run
from .versions import DIFFERENT, NewRole, Users, assert_the_same, fill, make_types, seen

pytestmark = pytest.mark.needs("cluster", "vector")

# What PostgreSQL keeps of an extension's objects, and pg_dump takes note of.
MEMBERS = """
    SELECT count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'pgcache'
"""
FIRST_RIGHTS = "SELECT count(*) FROM pg_init_privs WHERE privtype = 'e'"
# As if it had been an extension.
OLDER = "0.1.9"
older: Callable[[], Sources] = DIFFERENT["a parameter, of what users call"]
CREATE = "CREATE EXTENSION pgcache"


@pytest.fixture(scope="session")
def extensible(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extensible]:
    """A server with the files of this version, and of an older one that it upgrades."""
    assert isinstance(server, ClusterServer)
    if server.major < 18 and server.name.startswith("embedded") and os.geteuid() == 0:
        pytest.skip("its files may be closed to the server's user, who would follow links to them")
    extensible = Extensible(server)
    extensible.start()
    try:
        for version, sources, earlier in ((OLDER, older(), ()), (__version__, None, (OLDER,))):
            built = tmp_path_factory.mktemp("extension") / version
            write(built, version=version, sources=sources, earlier=earlier)
            extensible.publish(built)
        yield extensible
    finally:
        extensible.stop()


@pytest.fixture(scope="session")
def admin(extensible: Extensible) -> Iterator[psycopg.Connection]:
    with psycopg.connect(extensible.dsn(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def new_database(
    extensible: Extensible, admin: psycopg.Connection, request: pytest.FixtureRequest
) -> Iterator[Callable[[], str]]:
    """Makes empty databases; returns a conninfo."""
    with ExitStack() as stack:
        breaks = excused(request.node)
        yield lambda: stack.enter_context(fresh_database(extensible, admin, "template0", breaks=breaks))


@pytest.fixture
def empty_dsn(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def another_dsn(new_database: Callable[[], str]) -> str:
    return new_database()


def program(extensible: Extensible, name: str, *arguments: str, stdin: bytes | None = None) -> bytes:
    """Runs it; it may not warn of anything."""
    command = [str(extensible.bin_dir / name), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout


def say(dsn: str, *statements: str) -> None:
    with session(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@contextmanager
def asking(dsn: str) -> Iterator[Session]:
    ask = Session(dsn)
    try:
        yield ask
    finally:
        ask.close()


def everything(dsn: str) -> list[str]:
    with asking(dsn) as ask:
        return catalog(ask)


def version(dsn: str) -> object:
    return fetch(dsn, "SELECT extversion FROM pg_extension WHERE extname = 'pgcache'")


def owner_of(dsn: str, another: str) -> str:
    """Makes the owner of the one database own the other, too, with the extension vector in it."""
    say(another, "CREATE EXTENSION vector", f"ALTER DATABASE {database(another)} OWNER TO {user(dsn)}")
    return make_conninfo(another, user=user(dsn), password="secret")


# What it leaves -----------------------------------------------------------------------------------------------------


def test_it_leaves_what_an_installation_leaves(owned_dsn: str, another_dsn: str, run: Run) -> None:
    say(owned_dsn, CREATE)  # as a role that is no superuser
    assert fetch(owned_dsn, "SELECT pgcache.cache_set('llm', 'k', '{\"response\": \"r\"}')") is True
    assert (fetch(owned_dsn, MEMBERS), fetch(owned_dsn, FIRST_RIGHTS)) == (0, 0)
    theirs = owner_of(owned_dsn, another_dsn)
    install(theirs, cron=False, search_path=False)
    assert_the_same(everything(owned_dsn), everything(theirs))

    assert install(owned_dsn, cron=False).action == "current"
    code, out, _ = run("status", "--dsn", owned_dsn)
    assert (code, out.splitlines()[0]) == (
        0,
        f"pgcache {__version__} in the database {database(owned_dsn)}, as an extension",
    )
    # It holds nothing, so that nothing is lost with it; and it can be made of what is there.
    say(owned_dsn, "DROP EXTENSION pgcache")
    assert fetch(owned_dsn, "SELECT cache_get('llm', 'k')") == {"response": "r"}
    assert status(owned_dsn).extension is None
    say(owned_dsn, CREATE)
    assert fetch(owned_dsn, "SELECT cache_get('llm', 'k')") == {"response": "r"}
    assert_the_same(everything(owned_dsn), everything(theirs))

    assert "DROP EXTENSION pgcache;" in uninstall(owned_dsn).notes
    assert version(owned_dsn) is None
    assert fetch(owned_dsn, "SELECT to_regnamespace('pgcache')") is None


@pytest.mark.needs("plpython3u")
def test_a_superuser_gets_the_functions_in_python(empty_dsn: str, another_dsn: str) -> None:
    say(empty_dsn, "CREATE EXTENSION plpython3u", "CREATE EXTENSION pgcache CASCADE")
    install(another_dsn, cron=False, search_path=False)
    assert_the_same(everything(empty_dsn), everything(another_dsn))
    assert install(empty_dsn, cron=False).action == "current"


# Updates and dumps --------------------------------------------------------------------------------------------------


def test_an_update_and_dumps_of_it(
    extensible: Extensible, owned_dsn: str, new_database: Callable[[], str], new_role: NewRole
) -> None:
    say(owned_dsn, f"{CREATE} VERSION '{OLDER}'", "CREATE TABLE docs (id int PRIMARY KEY); INSERT INTO docs VALUES (1)")
    with asking(owned_dsn) as ask:
        assert ask("SELECT count(*) FROM pg_proc WHERE proname = 'cache_tier' AND pronargs = 2") == 1
        fill(ask)
        ask("SELECT cache_watch('docs', 'doc:{id}'), cache_set('mine', 'tagged', '1', tags => '{doc:1}')")
        Users(owned_dsn, new_role)
        before = seen(ask)
        ask(f"ALTER EXTENSION pgcache UPDATE TO '{__version__}'")
        assert seen(ask) == before
    updated = everything(owned_dsn)
    assert (version(owned_dsn), fetch(owned_dsn, MEMBERS), fetch(owned_dsn, FIRST_RIGHTS)) == (__version__, 0, 0)
    assert install(owned_dsn, cron=False, dry_run=True).action == "current"

    dump, custom, plain = f"--dbname={owned_dsn}", new_database(), new_database()
    archive = program(extensible, "pg_dump", "--format=custom", dump)
    program(extensible, "pg_restore", "--single-transaction", f"--dbname={custom}", stdin=archive)
    assert_the_same(everything(custom), updated)
    script = program(extensible, "pg_dump", "--no-comments", dump)
    program(
        extensible, "psql", "-Xq1", "--output=/dev/null", "--set=ON_ERROR_STOP=1", f"--dbname={plain}", stdin=script
    )
    for restored in (custom, plain):
        theirs = make_conninfo(restored, user=user(owned_dsn), password="secret")
        assert (version(theirs), fetch(theirs, MEMBERS)) == (__version__, 0)
        with asking(theirs) as ask:
            assert seen(ask) == before
            assert ask("SELECT cache_get('mine', 'tagged')") == 1
            ask("UPDATE docs SET id = 1")
            assert ask("SELECT cache_get('mine', 'tagged')") is None
            assert ask("SELECT cache_set('mine', 'k', '7')") is True
    # The cache is of who had it; the extension is of who restored it, and holds nothing.
    with refused("42501"):
        say(theirs, "ALTER EXTENSION pgcache UPDATE")
    say(plain, "DROP EXTENSION pgcache")
    say(theirs, CREATE, "ALTER EXTENSION pgcache UPDATE")
    assert install(theirs, cron=False, search_path=False).action == "current"


@pytest.mark.once
def test_a_plain_installation_becomes_one(release: str, owned_dsn: str, another_dsn: str, new_role: NewRole) -> None:
    releases.install_frozen(owned_dsn, release, plpython=False)
    with asking(owned_dsn) as ask:
        fill(ask)
        users = Users(owned_dsn, new_role)
        before = seen(ask)
        ask(CREATE)
        assert seen(ask) == before
    theirs = owner_of(owned_dsn, another_dsn)
    install(theirs, cron=False, search_path=False)
    with asking(theirs) as fresh:
        make_types(fresh)
        fresh("SELECT cache_configure('llm', ttl => '2 hours', max_entries => 500, eviction => 'cost')")
        fresh("SELECT cache_configure('audio', max_bytes => 1000000, hit_tracking => 'exact')")
        fresh("SELECT cache_configure_setting('ttl_short', '7 minutes'), cache_hot_on('phash')")
    users.give(theirs)
    assert_the_same(everything(owned_dsn), everything(theirs))


@pytest.mark.once
def test_commands_leave_an_extension_of_another_version_alone(owned_dsn: str, run: Run) -> None:
    say(owned_dsn, f"{CREATE} VERSION '{OLDER}'")
    for command in ("install", "upgrade"):
        code, _, err = run(command, "--dsn", owned_dsn)
        assert code == 1
        assert f"an extension in the database {database(owned_dsn)}, of version {OLDER}, and this package is" in err
        assert f"ALTER EXTENSION pgcache UPDATE TO '{__version__}'; or DROP EXTENSION pgcache;" in err
    assert f"ALTER EXTENSION pgcache UPDATE TO '{__version__}'" in run("status", "--dsn", owned_dsn)[1]
    say(owned_dsn, "DROP EXTENSION pgcache")
    assert install(owned_dsn, cron=False).action == "upgraded"
    say(owned_dsn, CREATE, "DROP SCHEMA pgcache, pgcache_internal CASCADE")
    with pytest.raises(NotInstalledError, match="not installed") as caught:
        uninstall(owned_dsn)
    assert "DROP EXTENSION pgcache;" in (caught.value.hint or "")
    assert install(owned_dsn, cron=False).action == "installed"


# What stops it ------------------------------------------------------------------------------------------------------


def test_what_stops_it(empty_dsn: str, owned_dsn: str, new_role: NewRole) -> None:
    stranger = make_conninfo(empty_dsn, user=user(new_role(empty_dsn)), password="secret")
    with refused("42501"):
        say(stranger, CREATE)
    say(empty_dsn, "DROP EXTENSION vector")
    with refused("42704", "CREATE EXTENSION ... CASCADE"):
        say(empty_dsn, CREATE)
    say(empty_dsn, "CREATE EXTENSION vector")
    say(owned_dsn, CREATE)
    # The owner of the schemas is trusted by himself alone.
    say(owned_dsn, "DROP EXTENSION pgcache")
    with refused("42501", f"Connect as {user(owned_dsn)}"):
        say(empty_dsn, CREATE)
    say(owned_dsn, "UPDATE pgcache_internal.installed SET version = '99.1'")
    with refused("PC090", "the files of pgcache 99.1"):
        say(owned_dsn, CREATE)
    assert version(owned_dsn) is None
    # Of a role that cannot log in, its members install it.
    say(owned_dsn, f"UPDATE pgcache_internal.installed SET version = '{__version__}'")
    member = new_role(empty_dsn)
    say(empty_dsn, f"GRANT {user(owned_dsn)} TO {user(member)}", f"ALTER ROLE {user(owned_dsn)} NOLOGIN")
    with refused("42501", f"SET ROLE {user(owned_dsn)};"):
        say(member, CREATE)
    say(member, f"SET ROLE {user(owned_dsn)}", CREATE)
    assert version(member) == __version__


@pytest.mark.once
def test_what_stops_an_update(owned_dsn: str) -> None:
    say(owned_dsn, f"{CREATE} VERSION '{OLDER}'")
    say(owned_dsn, "CREATE VIEW public.mine AS SELECT pgcache.cache_tier('short')")
    before = everything(owned_dsn)
    with refused("PC093", "Nothing has changed. Drop these objects") as caught:
        say(owned_dsn, f"ALTER EXTENSION pgcache UPDATE TO '{__version__}'")
    assert caught.value.diag.message_detail == "view public.mine depends on function cache_tier(text,integer)"
    assert len(caught.value.diag.context or "") < 10_000
    assert (version(owned_dsn), everything(owned_dsn)) == (OLDER, before)


@pytest.mark.once
def test_schemas_that_are_empty(empty_dsn: str) -> None:
    """It cannot know what nobody has told, but says what it takes them for."""
    say(empty_dsn, "CREATE EXTENSION vector", "CREATE SCHEMA pgcache", "CREATE SCHEMA pgcache_internal")
    with session(empty_dsn) as connection:
        said: list[tuple[str | None, str | None]] = []
        connection.add_notice_handler(lambda notice: said.append((notice.message_primary, notice.message_hint)))
        connection.execute(CREATE.encode())
    ((message, hint),) = said
    assert message == "nothing was made, as the schemas pgcache and pgcache_internal are there and empty"
    say(empty_dsn, *(hint or "").removeprefix("If none is: ").removesuffix("; then again.").split("; "), CREATE)
    assert fetch(empty_dsn, "SELECT pgcache.cache_set('store', 'k', '1')") is True


# The files ----------------------------------------------------------------------------------------------------------


def test_pgxs_installs_and_checks_it(extensible: Extensible, empty_dsn: str, tmp_path: Path, run: Run) -> None:
    built = tmp_path / "built"
    assert run("extension", str(built)) == (0, f"cd {built}; make install PG_CONFIG=pg_config\n", "")
    files = [extensible.folder / name for name in ("pgcache.control", f"pgcache--{__version__}.sql")]
    for path in files:
        path.unlink()
    subprocess.run(extensible.make("install"), cwd=built, check=True, capture_output=True)
    assert all(path.exists() for path in files)
    if extensible.shadowed:
        at = {
            "PGHOST": str(extensible.cluster.socket_dir),
            "PGPORT": str(extensible.cluster.port),
            "PGUSER": "postgres",
        }
        command = extensible.make("installcheck")
        done = subprocess.run(command, cwd=built, env=os.environ | at, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    else:  # The embedded server's pg_regress crashes at once. It would do this:
        statements = (built / "test/sql/pgcache.sql").read_bytes()
        output = program(extensible, "psql", "-Xaq", f"--dbname={empty_dsn}", stdin=statements)
        assert output == (built / "test/expected/pgcache.out").read_bytes()


@pytest.mark.once
def test_pg_tle_gets_the_same(extensible: Extensible, empty_dsn: str, another_dsn: str, tmp_path: Path) -> None:
    """pg_tle is none of the packages that can be had here: what stands in for it takes its arguments, and writes them
    into files. So this says that the quoting holds, and nothing of pg_tle itself."""
    write(tmp_path / "built", earlier=(OLDER,))
    say(
        another_dsn,
        "CREATE SCHEMA pgtle",
        "CREATE TABLE pgtle.given (name text, version text, since text, description text, ext text, requires text[])",
        "CREATE FUNCTION pgtle.install_extension(name text, version text, description text, ext text,"
        " requires text[] DEFAULT NULL) RETURNS boolean LANGUAGE sql AS"
        " 'INSERT INTO pgtle.given VALUES ($1, $2, NULL, $3, $4, $5) RETURNING true'",
        "CREATE FUNCTION pgtle.install_update_path(name text, fromvers text, tovers text, ext text) RETURNS boolean"
        " LANGUAGE sql AS 'INSERT INTO pgtle.given VALUES ($1, $3, $2, NULL, $4, NULL) RETURNING true'",
        "CREATE FUNCTION pgtle.set_default_version(name text, version text) RETURNS boolean LANGUAGE sql AS"
        " 'SELECT true'",
        (tmp_path / "built" / "pgtle.sql").read_text(),
        (tmp_path / "built" / f"pgtle--{OLDER}--{__version__}.sql").read_text(),
    )
    with session(another_dsn) as connection:
        given = connection.execute("SELECT name, version, since, requires, ext FROM pgtle.given").fetchall()
    assert [row[:4] for row in given] == [
        ("pgcache", __version__, None, ["vector"]), ("pgcache", __version__, OLDER, None),
    ]  # fmt: skip
    _, script = (tmp_path / "built" / f"pgcache--{__version__}.sql").read_text().split("\n", 1)
    assert [row[4].strip() for row in given] == [script.strip()] * 2
    assert "$_pgtle_" not in script  # by which pg_tle quotes it


def test_every_release_that_was_one_can_be_updated() -> None:
    first_that_was = 1
    assert [*EARLIER] == [version for version in releases.VERSIONS[first_that_was:] if version != __version__]


def test_files_of_others_stay(tmp_path: Path, run: Run) -> None:
    (tmp_path / "mine").write_text("mine")
    code, _, err = run("extension", str(tmp_path))
    assert (code, err.splitlines()[1]) == (1, "hint:  Remove it, or name another one.")
    code, _, err = run("extension", str(tmp_path / "mine" / "below"))
    assert (code, err) == (1, f"error: cannot write to {tmp_path}/mine/below: Not a directory\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
