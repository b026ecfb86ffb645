"""Servers and databases for the tests.

A test that takes `db`, `dsn`, `empty_dsn` or `server` runs on servers of the oldest and of the newest release that have
what it needs; those marked with `every`, on every server that this machine can run. Each database is the test's own: a
copy of a template in which pgcache is installed. With --installed-by=VERSION a released version was installed there,
and upgraded since; tests that are marked with `upgraded` run on both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import repeat
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.servers import Cluster, Server, all_servers
from tests.servers.cluster import FOR_TESTS
from tests.servers.runs import run_directory
from tests.servers.server import RUN
from tests.tools import invariants, releases
from tests.tools.invariants import excused
from tests.tools.names import unique
from tests.tools.redis import INSTALLED, Redis, redis_maker
from tests.tools.session import Session, user

TEMPLATE = "pgcache_template"
SERVERS = pytest.StashKey[list[Server]]()
# The suites of frameworks run in an environment of their own: make test-adapters.
collect_ignore = [] if find_spec("langchain_tests") else ["adapters"]
AT_WORK = pytest.StashKey[ExitStack]()
NewSession = Callable[..., Session]
NewRole = Callable[..., Session]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server", action="append", default=[], metavar="NAME", help="run on this server only (repeatable)"
    )
    parser.addoption(
        "--installed-by", choices=releases.VERSIONS, metavar="VERSION", help="in databases upgraded from this release"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS] = servers = all_servers()
    if hasattr(config, "workerinput"):
        for server in servers:
            server.why_not, server.conninfo = config.workerinput["servers"][server.name]
        return
    chosen = config.getoption("server")
    for name in chosen:
        if name not in (names := [server.name for server in servers]):
            raise pytest.UsageError(f"no server {name}: there are {', '.join(names)}")
        server = servers[names.index(name)]
        if server.why_not:
            raise pytest.UsageError(f"{name} cannot run: {server.why_not}")
    for server in servers:
        if chosen and server.name not in chosen:
            server.why_not = "not asked for"
    config.stash[AT_WORK] = at_work = ExitStack()
    at_work.enter_context(run_directory(RUN))


def pytest_xdist_auto_num_workers() -> int:
    """More than cores, since tests wait for sessions, locks and the clock."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """The servers are started once, before the first of the processes that share them."""
    servers = node.config.stash[SERVERS]
    with ThreadPoolExecutor() as pool:
        wanted = [server for server in servers if not server.why_not]
        list(pool.map(prepare, wanted, repeat(node.config.getoption("installed_by"))))
    node.workerinput["servers"] = {server.name: (server.why_not, server.conninfo) for server in servers}


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    for server in config.stash.get(SERVERS, []):
        if server.conninfo:
            server.stop()
    config.stash.get(AT_WORK, ExitStack()).close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat the test on each server, skipping it where the server lacks what the test needs."""
    if "server" not in metafunc.fixturenames:
        return
    if metafunc.definition.get_closest_marker("upgraded") and not metafunc.config.getoption("installed_by"):
        versions = [version for version in releases.VERSIONS[-1:] if not releases.has_changed_since(version)]
        metafunc.parametrize("installed_by", [None, *versions], indirect=True, scope="session", ids=_upgraded_from)
    needs = [feature for marker in metafunc.definition.iter_markers("needs") for feature in marker.args]
    lacking = {
        server: [feature for feature in needs if not server.offers(feature)]
        for server in metafunc.config.stash[SERVERS]
        if not server.why_not
    }
    if lacking and metafunc.definition.get_closest_marker("once"):
        first = min(lacking, key=lambda server: len(lacking[server]))
        lacking = {first: lacking[first]}
    elif not metafunc.definition.get_closest_marker("every"):
        wanted = [*ends(lacking), *ends([server for server, missing in lacking.items() if not missing])]
        lacking = {server: missing for server, missing in lacking.items() if server in wanted}
    metafunc.parametrize(
        "server",
        [
            pytest.param(
                server,
                id=server.name,
                marks=[pytest.mark.skip(f"{server.name} has no {', '.join(missing)}")] if missing else [],
            )
            for server, missing in lacking.items()
        ],
        indirect=True,
        scope="session",
    )


def ends(servers: Collection[Server]) -> list[Server]:
    """The servers of the oldest and of the newest release: what holds there is taken to hold on those between."""
    by_release = sorted(servers, key=lambda server: int(server.name.rpartition("-")[2]))
    return [by_release[0], by_release[-1]] if by_release else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            server: Any = item.callspec.params.get("server")
            item.user_properties.append(("server", server.name if server else None))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ran: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            ran[str(dict(report.user_properties).get("server"))] += 1
    terminalreporter.section("servers")
    for server in config.stash[SERVERS]:
        outcome = f"not run: {server.why_not}" if server.why_not else f"ran {ran[server.name]} tests"
        terminalreporter.write_line(f"{server.name:14} {outcome}")


def _upgraded_from(version: str | None) -> str:
    return f"from-{version}" if version else "fresh"


def prepare(server: Server, installed_by: str | None) -> None:
    """Start the server and install pgcache in the database that the tests get copies of, unless that is done."""
    if not server.conninfo:
        server.start()
        make_template(server, TEMPLATE, installed_by)


def make_template(server: Server, name: str, installed_by: str | None) -> None:
    from pgcache_py.setup.install import install

    unfinished = f"{name}_unfinished"
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{unfinished}"'.encode())
    dsn = server.dsn(unfinished)
    if installed_by:
        releases.install_frozen(dsn, installed_by, plpython="plpython3u" in server.extensions)
        releases.upgrade(dsn)
    else:
        install(dsn, cron=False)  # a job would connect to the template, which must stay free to be copied
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pgcache.cache_configure_setting('test_clock', 'on')")
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{unfinished}" RENAME TO "{name}"'.encode())


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """A running server, which the tests of all processes share. It is stopped at the end of the run."""
    server: Server = request.param
    prepare(server, request.config.getoption("installed_by"))
    return server


@pytest.fixture(scope="session")
def installed_by(request: pytest.FixtureRequest) -> str | None:
    """The released version that installed the tests' databases, if they are not as --installed-by says."""
    version: str | None = getattr(request, "param", None)
    return version


@pytest.fixture(scope="session")
def template(server: Server, admin: psycopg.Connection, installed_by: str | None) -> str:
    """The database that is copied for each test."""
    if not installed_by:
        return TEMPLATE
    name = f"{TEMPLATE}_{installed_by}"
    with admin.transaction():  # one of the processes makes it
        admin.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [name])
        if not admin.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchall():
            make_template(server, name, installed_by)
    return name


@pytest.fixture(scope="session")
def admin(server: Server) -> Iterator[psycopg.Connection]:
    """The superuser's session in the database postgres."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        yield connection


@contextmanager
def fresh_database(
    server: Server,
    admin: psycopg.Connection,
    template: str = TEMPLATE,
    options: str = "",
    breaks: Collection[str] = (),
) -> Iterator[str]:
    """The conninfo of a database, in which the invariants hold in the end, but those that it breaks on purpose."""
    name = unique("test")
    # FILE_COPY takes 10 ms in memory, the default strategy 16.
    admin.execute(f'CREATE DATABASE {name} TEMPLATE "{template}" STRATEGY FILE_COPY {options}'.encode())
    try:
        yield (dsn := server.dsn(name))
        invariants.check(dsn, admin, breaks)
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def dsn(server: Server, admin: psycopg.Connection, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The conninfo of the test's own database, with pgcache in it."""
    with fresh_database(server, admin, template, breaks=excused(request.node)) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def shared_dsn(
    server: Server, admin: psycopg.Connection, template: str, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The conninfo of a database that the tests of a module share, as they do not mind what others leave there.

    `dsn = shared_dsn` in a module lets all of its tests do so.
    """
    with fresh_database(server, admin, template, breaks=excused(request.node)) as dsn:
        yield dsn


@pytest.fixture
def empty_dsn(server: Server, admin: psycopg.Connection, request: pytest.FixtureRequest) -> Iterator[str]:
    """The conninfo of a database of the test's own, without pgcache."""
    with fresh_database(server, admin, "template0", breaks=excused(request.node)) as dsn:
        yield dsn


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection]:
    """A session in the test's own database, in autocommit."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def new_session(dsn: str) -> Iterator[NewSession]:
    """Opens further sessions in the test's database; options are psycopg's."""
    with ExitStack() as stack:

        def make(**options: Any) -> Session:
            session = Session(dsn, **options)
            stack.callback(session.close)
            return session

        yield make


@pytest.fixture
def ask(new_session: NewSession) -> Session:
    """A session in the test's own database: ask("SELECT cache_get('store', %s)", key)."""
    return new_session()


@pytest.fixture
def new_role(admin: psycopg.Connection) -> Callable[[str], str]:
    """Makes a role without any privilege; takes a conninfo, and returns it for that role."""

    def make(dsn: str) -> str:
        name = unique("role")
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'".encode())
        return make_conninfo(dsn, user=name, password="secret")

    return make


@pytest.fixture
def role(dsn: str, new_role: Callable[[str], str], new_session: NewSession) -> NewRole:
    """Makes a role with access to the cache, and opens a session for it. access: None for none at all."""

    def make(access: str | None = None) -> Session:
        theirs = new_role(dsn)
        if access:
            with psycopg.connect(dsn, autocommit=True) as owner:
                owner.execute("SELECT pgcache.cache_grant(%s, %s)", [user(theirs), access])
        return new_session(user=user(theirs), password="secret")

    return make


@pytest.fixture
def throwaway_cluster(server: Server, request: pytest.FixtureRequest) -> Iterator[Callable[..., Cluster]]:
    """Makes running clusters of the test's own, of the server's release, to crash or to replicate.

    Needs 'cluster'. Keyword arguments are settings; `standby_of` makes it a hot standby of another of them, `copy_of`
    a copy of one that is stopped.
    """
    clusters: list[Cluster] = []

    def make(standby_of: Cluster | None = None, copy_of: Cluster | None = None, **settings: str) -> Cluster:
        assert server.bin_dir is not None, "mark the test with needs('cluster')"
        home = RUN / unique("throwaway")
        if standby_of:
            cluster = standby_of.standby(home)
        elif copy_of:
            cluster = copy_of.copy(home)
        else:
            cluster = Cluster(server.bin_dir, home, {**FOR_TESTS, **settings})
            cluster.init()
        clusters.append(cluster)
        cluster.start()
        return cluster

    try:
        yield make
        for cluster in clusters:
            if cluster.running():
                with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
                    if not admin.execute("SELECT pg_is_in_recovery()").fetchall()[0][0]:
                        invariants.check(cluster.dsn(), admin, excused(request.node))
    finally:
        for cluster in reversed(clusters):
            cluster.remove()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Redis]:
    """A Redis that no test kills."""
    if not INSTALLED:
        pytest.skip("redis-server is not installed")
    with redis_maker() as make:
        yield make()


@pytest.fixture
def make_redis() -> Iterator[Callable[..., Redis]]:
    """Makes running Redises of the test's own, which it may kill; arguments: lines of the configuration."""
    if not INSTALLED:
        pytest.skip("redis-server is not installed")
    with redis_maker() as make:
        yield make
