"""The commands: python -m pgcache_py COMMAND. Each is a function whose docstring is its help.

Exit codes: 0 done, 1 an error (its message and what to do on stderr), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from .. import environment
from ..client.wire import interval
from ..errors import HotTierError, NotInstalledError, PgcacheError, translated
from ..readable import count
from ..setup import levels
from ..setup.adopt import Adopted, adopt
from ..setup.extension import write as write_extension
from ..setup.install import InstallReport, install
from ..setup.levels import Level
from ..setup.session import Connection, connect, version_numbers
from ..setup.sources import load
from ..setup.status import Status, status
from ..setup.target import Target, target
from ..setup.uninstall import uninstall
from ..version import __version__
from . import demo, show
from .warm import STDIN, BadLine, warm
from .warm_lines import FORM

DESCRIPTION = """\
A cache inside PostgreSQL. The server is named by --dsn, else by DATABASE_URL, else by POSTGRES_HOST, _PORT, _DB, _USER
and _PASSWORD, else by libpq's variables (PGHOST, PGDATABASE, PGSERVICE, ...). With none of them it is the embedded
server, in .pgcache of the current folder, if pgcache was installed with it: pip install 'pgcache[binary,embedded]'."""

# What the help of a command ends with.
FORMS = {"warm": FORM}
TOP = b"""
    SELECT type, tenant, cache_key, hit_count, bytes FROM pgcache.cache_top
    WHERE hit_count > 0 ORDER BY hit_count DESC, type, cache_key LIMIT 10
"""
# In a conninfo.
SECRETS = ("password", "sslpassword")
# What a hint names: a command that takes --dsn, without it.
COMMAND = re.compile(r"\bpython -m pgcache_py (?!demo\b|sql\b|extension\b)[a-z][a-z-]*(?! --dsn)\b")
# More of them are counted, not shown.
SHOWN_BAD_LINES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. arguments: by default those of the process."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():  # but for the names of files, which may be any bytes
        if isinstance(value, str) and value != value.encode(errors="replace").decode():
            parser.error(f"{name} is no UTF-8: {value!r:.100}")
    run: Callable[[argparse.Namespace], int | None] = options.run
    try:
        return run(options) or 0
    except PgcacheError as error:
        return _failed(error, options)
    except psycopg.Error as error:
        found = translated(error)
        found.__cause__ = error
        return _failed(found, options)
    except UnicodeError as error:  # in what is read, from a variable or from standard input
        return _failed(PgcacheError(f"this is no UTF-8: {error}"), options)
    except RecursionError:
        return _failed(PgcacheError("this JSON is nested too deeply"), options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as head does. Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _failed(error: Exception, options: argparse.Namespace) -> int:
    detail = None
    message, hint = str(error).strip(), None
    if isinstance(error, PgcacheError):
        message, detail, hint = error.message, error.detail, error.hint
    if isinstance(error, NotInstalledError) and isinstance(error.__cause__, psycopg.Error):
        message, hint = f"pgcache is not installed in this database, or is too old: {message}", levels.INSTALL
    print(f"error: {message}", file=sys.stderr)
    if detail:
        print(f"detail: {detail}", file=sys.stderr)
    if hint:
        print(f"hint:  {_for_same_server(hint, options)}", file=sys.stderr)
    return 1


def _for_same_server(hint: str, options: argparse.Namespace) -> str:
    """The hint, whose commands are for the server that --dsn has named. Passwords are left out."""
    if not options.dsn:
        return hint
    named = options.dsn
    try:
        given: dict[str, Any] = conninfo_to_dict(environment.for_libpq(named))
    except psycopg.ProgrammingError:
        return hint
    if secrets := {name: "..." for name in SECRETS if name in given}:
        named = make_conninfo("", **{**given, **secrets})
    return COMMAND.sub(lambda command: f"{command[0]} --dsn {shlex.quote(named)}", hint)


def _parser() -> argparse.ArgumentParser:
    dsn_help = "postgresql://user@host/database, or host=... dbname=..."
    server = argparse.ArgumentParser(add_help=False)
    # Without a default here, as it would override what was given before the command.
    server.add_argument("--dsn", default=argparse.SUPPRESS, help=dsn_help)
    entries = argparse.ArgumentParser(add_help=False)
    entries.add_argument("--tenant", default="", help="whose entries (default: the shared ones)")

    parser = argparse.ArgumentParser(prog="python -m pgcache_py", description=DESCRIPTION)
    parser.add_argument("--dsn", help=dsn_help)
    parser.add_argument("--version", action="version", version=f"pgcache {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(run: Callable[[argparse.Namespace], int | None], *parents: argparse.ArgumentParser) -> Any:
        text = run.__doc__ or ""
        name = run.__name__.strip("_").removesuffix("_command").replace("_", "-")
        added = commands.add_parser(name, help=text.replace("%", "%%"), description=text, parents=parents)
        if name in FORMS:
            added.epilog, added.formatter_class = FORMS[name], argparse.RawDescriptionHelpFormatter
        added.set_defaults(run=run)
        return added

    for run in (_install_command, _upgrade_command):
        added = command(run, server)
        added.add_argument("--dry-run", action="store_true", help="do it, report it, and roll it back")
        added.add_argument("--no-search-path", action="store_true", help="leave the database's search_path alone")
        added.add_argument("--no-cron", action="store_true", help="leave pg_cron alone")
    added = command(_uninstall_command, server)
    added.add_argument("--yes", action="store_true", help="do not ask")
    added.add_argument("--cascade", action="store_true", help="also drop objects outside pgcache that depend on it")
    added = command(_adopt_command, server, entries)
    added.add_argument("--dry-run", action="store_true", help="only show what it would do")
    added.add_argument("--yes", action="store_true", help="do not ask")
    added.add_argument("--keep", action="store_true", help="do not rename the tables, views and functions")
    added.add_argument("--table", action="append", help="only this one, such as public.cache_store (repeatable)")
    added.add_argument("--time-zone", metavar="ZONE", help="of times without a zone (default: the setting TimeZone)")
    command(_status_command, server)
    added = command(_sql_command)
    added.add_argument("--upgrade-from", metavar="VERSION", help="for a database that has this version")
    added.add_argument("--plpython", action="store_true", help="with the level plpython3u, which needs a superuser")
    added = command(_extension_command)
    added.add_argument("folder", metavar="FOLDER", help="a new one")
    added = command(_stats_command, server)
    added.add_argument("--json", action="store_true", help="as JSON, for programs")
    added = command(_top_command, server)
    added.add_argument("--every", type=_between(1, 3600), default=2, help="seconds between two looks (default: 2)")
    added = command(_cleanup_command, server)
    added.add_argument("--type", help="only this type")
    added = command(_warm_command, server)
    added.add_argument("files", nargs="+", metavar="FILE", help=f"JSON Lines; {STDIN} is standard input")
    added.add_argument("--strict", action="store_true", help="stop at the first bad line instead of skipping it")
    added = command(_get_command, server, entries)
    added.add_argument("type")
    added.add_argument("key")
    added = command(_explain_command, server, entries)
    added.add_argument("type")
    added.add_argument("key")
    added = command(_set_command, server, entries)
    added.add_argument("type")
    added.add_argument("key")
    added.add_argument("value", help=f"JSON, so a text needs its own quotes: '\"text\"'; {STDIN} is standard input")
    added.add_argument("--ttl", help="seconds, an interval such as '5 minutes', or never (default: the type's)")
    added = command(_delete_command, server, entries)
    added.add_argument("type")
    added.add_argument("key")
    added = command(_forget_command, server)
    added.add_argument("subject", help="the name of a tenant or, with --user, of a user")
    added.add_argument("--user", action="store_true", help="of a user, in the types that have a field user_id")
    added.add_argument("--tenant", default="", help="with --user: in which tenant (default: in all)")
    added.add_argument("--yes", action="store_true", help="do not ask")
    added = command(_demo_command)
    after = added.add_mutually_exclusive_group()
    after.add_argument("--keep", action="store_true", help="leave the server running, for your own client")
    after.add_argument("--psql", action="store_true", help="open psql on the demo's data, without running it again")
    after.add_argument("--stop", action="store_true", help="stop a server that --keep left running")
    added = command(_serve_command, server)
    added.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    added.add_argument("--port", type=_between(1, 65535), default=8088)
    added.add_argument("--concurrency", type=_between(1, 10000), default=16, help="prompts at once (default: 16)")
    added.add_argument(
        "--max-body", type=_between(1, 1 << 30), default=1 << 18, help="bytes of a request (default: 262144)"
    )
    added.add_argument(
        "--timeout", type=_between(1, 86400), default=180, help="seconds that a request may take (default: 180)"
    )
    added.add_argument("--no-token", action="store_true", help="let anybody call, even from other machines")
    added = command(_ai_key_command, server)
    added.add_argument("--remove", action="store_true", help="remove it")
    added = command(_relay_command, server)
    added.add_argument("--redis", metavar="URL", help="redis://host:6379/0 (default: the variable REDIS_URL)")
    added.add_argument("--prefix", help="of the keys in Redis (default: the setting hot_prefix)")
    added.add_argument("--once", action="store_true", help="deliver what waits, and end")
    return parser


def _between(low: int, high: int) -> Callable[[str], int]:
    """A type for argparse: a whole number."""

    def number(text: str) -> int:
        if not text.isdecimal() or not low <= int(text[:20]) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return number


def _session(where: Target) -> Connection:
    return connect(where.conninfo)


def _check_owner(where: Target) -> None:
    """Refuse to go on as a superuser in schemas that another role owns, as `connect` does."""
    with suppress(psycopg.OperationalError):  # that the server cannot be reached is to be waited out
        _session(where).close()


# install, upgrade, uninstall, status, sql ---------------------------------------------------------------------------


def _install_command(options: argparse.Namespace) -> None:
    """install pgcache into the database, or bring it up to date"""
    with target(options.dsn, create=True) as where:
        report = _installed(options, where)
        _print_install(report, where, options)


def _upgrade_command(options: argparse.Namespace) -> None:
    """bring an installed pgcache up to this version"""
    with target(options.dsn) as where:
        if status(where.conninfo).version is None:
            raise NotInstalledError(
                f"there is nothing to upgrade: pgcache is not installed here ({where})",
                hint="python -m pgcache_py install",
            )
        report = _installed(options, where)
        _print_install(report, where, options)


def _installed(options: argparse.Namespace, where: Target) -> InstallReport:
    return install(
        where.conninfo,
        search_path=not options.no_search_path,
        cron=not options.no_cron,
        dry_run=options.dry_run,
    )


def _print_install(report: InstallReport, where: Target, options: argparse.Namespace) -> None:
    if report.action == "current":
        show.line(
            f"pgcache {report.version} is installed in the database {report.database}, and current.", style="bold"
        )
    else:
        before = f" (before: {report.previous})" if report.previous else ""
        show.line(f"pgcache {report.version} {report.action} in the database {report.database}{before}.", style="bold")
    if report.migrations:
        show.line(f"  migrations: {', '.join(report.migrations)}")
    for name in report.dropped:
        show.line(f"  dropped: {name}")
    for name in report.remade:
        show.line(f"  dropped and made again, with the rights to it: {name}")
    for note in report.notes:
        show.line(f"  {note}")
    _print_levels(report.levels, options)
    if report.dry_run:
        show.line("Dry run: all of it was done, and rolled back.", style="bold yellow")
    elif report.action == "installed":
        show.line(f"  server: {where}", style="dim")


def _print_levels(shown: Sequence[Level], options: argparse.Namespace) -> None:
    for level in shown:
        show.line(
            f"  {level.name:10}  {'on ' if level.on else 'off'}  {level.detail}", style="" if level.on else "yellow"
        )
        for step in level.todo:
            show.line(f"              - {_for_same_server(step, options)}")


def _uninstall_command(options: argparse.Namespace) -> int | None:
    """remove pgcache with all entries and its cron jobs; asks first"""
    with target(options.dsn) as where:
        plan = uninstall(where.conninfo, cascade=options.cascade, dry_run=True)
        if not options.yes:
            show.line(
                f"This removes pgcache {plan.version} with all its entries from the database {plan.database} ({where})."
            )
            for name in plan.dropped:
                show.line(f"  also dropped: {name}")
            if not sys.stdin.isatty():
                raise PgcacheError("nothing was removed", hint="Confirm it with --yes.")
            if input("Remove it? [y/N] ").strip().lower() not in ("y", "yes"):
                show.line("Nothing was removed.")
                return 1
        report = uninstall(where.conninfo, cascade=options.cascade)
        show.line(f"pgcache {report.version} is removed from the database {report.database}.", style="bold")
        for name in report.dropped:
            show.line(f"  dropped: {name}")
        for note in report.notes:
            show.line(f"  {note}")
    return None


def _adopt_command(options: argparse.Namespace) -> int | None:
    """take over the tables of earlier cache systems: their live rows become entries, they are renamed; asks first"""
    choices = {
        "keep": options.keep,
        "time_zone": options.time_zone,
        "tenant": options.tenant,
        "tables": options.table,
    }
    with target(options.dsn) as where:
        plan = adopt(where.conninfo, dry_run=True, **choices)
        if not plan:
            show.line("No earlier cache system has left anything here.")
            return None
        if options.dry_run or not options.yes:
            _print_adopted(plan)
            if options.dry_run:
                show.line("Dry run: nothing was changed.", style="bold yellow")
                return None
            if not sys.stdin.isatty():
                raise PgcacheError("nothing was adopted", hint="Confirm it with --yes.")
            if input("Adopt it? [y/N] ").strip().lower() not in ("y", "yes"):
                show.line("Nothing was adopted.")
                return 1
        done: dict[str, int] = {}
        with show.progress("adopting", sum(found.entries or 0 for found in plan)) as advance:

            def tell(table: str, rows: int) -> None:
                news = rows - done.get(table, 0)
                done[table] = rows
                advance(news, news)

            report = adopt(where.conninfo, on_progress=tell, **choices)
            rest = sum(found.entries or 0 for found in report) - sum(done.values())
            advance(rest, rest)
        _print_adopted(report)
    return None


def _print_adopted(report: Sequence[Adopted]) -> None:
    for found in report:
        rows = "row" if found.entries == 1 else "rows"
        goes = f": {count(found.entries)} {rows} to {found.type}" if found.entries is not None else ""
        show.line(f"{found.object}{goes}{f', renamed to {found.becomes}' if found.becomes else ''}")
        for reason, number in (found.left_out or {}).items():
            show.line(f"  {count(number) + ' ' if number is not None else ''}left out: {reason}", style="yellow")


def _status_command(options: argparse.Namespace) -> int | None:
    """show version, levels, types with their limits, jobs, health, and what to do; exit code 1 if it is critical"""
    with target(options.dsn) as where:
        found = status(where.conninfo)
    if found.version is None:
        raise NotInstalledError(
            f"pgcache is not installed in the database {found.database} ({where})", hint="python -m pgcache_py install"
        )
    _print_status(found, where, options)
    return 1 if found.health[0]["status"] == "critical" else None


def _print_status(found: Status, where: Target, options: argparse.Namespace) -> None:
    extension = ", as an extension" if found.extension else ""
    show.line(f"pgcache {found.version} in the database {found.database}{extension}", style="bold")
    show.line(f"  {where}", style="dim")
    _print_levels(found.levels, options)
    show.heading("Types")
    show.limits(found.types)
    show.heading("Jobs")
    show.jobs(found.jobs)
    show.heading("Health")
    _, *checks = found.health
    alerts = [check for check in checks if check["status"] != "ok"]
    for check in alerts:
        show.line(f"  {check['status']}: {check['check_name']}: {check['detail']}", style="yellow")
        if check["hint"]:
            show.line(f"    - {_for_same_server(check['hint'], options)}")
    if not alerts:
        show.line(f"  all {len(checks)} checks are ok")
    for step in found.todo:
        show.line(f"To do: {_for_same_server(step, options)}", style="bold")


def _sql_command(options: argparse.Namespace) -> None:
    """print the SQL that install would run in a database without pgcache, or with an older version, for psql"""
    since = options.upgrade_from
    if since is not None and not () < version_numbers(since) <= version_numbers(__version__):
        raise PgcacheError(
            f"this package is {__version__}, which upgrades no database with {since}",
            hint="Name the version that the database has: SELECT * FROM pgcache_internal.installed",
        )
    print(load().render(__version__, upgrade_from=since, plpython=options.plpython))


def _extension_command(options: argparse.Namespace) -> None:
    """write the files of pgcache as an extension into a new folder: for make install, PGXN and pg_tle"""
    write_extension(Path(options.folder))
    print(f"cd {shlex.quote(options.folder)}; make install PG_CONFIG=pg_config")


# the everyday commands ----------------------------------------------------------------------------------------------


def _stats_command(options: argparse.Namespace) -> None:
    """show hits, misses, sizes and savings of each type, how long gets and sets take, and the most used entries"""
    with target(options.dsn) as where, _session(where) as connection:
        if options.json:
            row = connection.execute("SELECT json_agg(s ORDER BY s.type) FROM pgcache.cache_stats AS s").fetchone()
            print(json.dumps(row[0] if row else [], indent=2))
            return
        with connection.cursor(row_factory=dict_row) as cursor:
            show.stats(cursor.execute("SELECT * FROM pgcache.cache_stats ORDER BY type").fetchall())
            if latencies := cursor.execute("SELECT * FROM pgcache.cache_latency").fetchall():
                show.heading("Milliseconds on the server, in the last hour")
                show.latencies(latencies)
            if top := cursor.execute(TOP).fetchall():
                show.heading("Most hits, as of the last upkeep")
                show.top(top)


def _top_command(options: argparse.Namespace) -> None:
    """show the statistics live, in a terminal: q ends it; elsewhere once; needs the extra progress"""
    from . import top

    with target(options.dsn) as where:
        _session(where).close()  # refuses what commands refuse
        top.run(where.conninfo, options.every)


def _cleanup_command(options: argparse.Namespace) -> None:
    """remove what has expired or is over the limits, and settle the statistics, as the hourly job does"""
    with target(options.dsn) as where, _session(where) as connection:
        if options.type is not None:
            row = connection.execute("SELECT pgcache.cache_cleanup(%s)", [options.type]).fetchone()
        else:
            connection.execute("CALL pgcache.cache_upkeep()")
            query = "SELECT removed FROM pgcache.cache_jobs WHERE job_name = 'pgcache_upkeep'"
            row = connection.execute(query).fetchone()
        print(f"{count(row[0] if row else 0)} entries removed")


def _warm_command(options: argparse.Namespace) -> int:
    """load entries from JSON Lines, such as {"type": "store", "key": "k", "value": {}, "ttl": "1 hour"}"""
    shown = 0

    def complain(bad: BadLine) -> None:
        nonlocal shown
        shown += 1
        if shown <= SHOWN_BAD_LINES:
            print(f"skipped {bad}", file=sys.stderr)
            if bad.hint:
                print(f"        {bad.hint}", file=sys.stderr)

    with target(options.dsn) as where, show.progress("warming", _size(options.files)) as advance:
        report = warm(where.conninfo, options.files, strict=options.strict, on_bad=complain, on_progress=advance)
    if shown > SHOWN_BAD_LINES:
        print(f"... and {shown - SHOWN_BAD_LINES} more lines like these", file=sys.stderr)
    types = ", ".join(f"{count(number)} {name}" for name, number in sorted(report.entries.items()))
    print(
        f"{count(report.stored)} entries stored ({types or 'none'}) in {report.seconds:.1f} s,"
        f" {count(round(report.rate))}/s; {count(report.bad)} lines skipped"
    )
    if report.refused:
        print(f"{count(report.refused)} entries not stored, as their type is disabled", file=sys.stderr)
    return 1 if report.bad or report.refused else 0


def _size(files: Sequence[str]) -> int | None:
    """Of all files, in bytes; None if that cannot be known."""
    try:
        return sum(Path(name).stat().st_size for name in files) if STDIN not in files else None
    except OSError:
        return None


def _get_command(options: argparse.Namespace) -> int:
    """print an entry's value as JSON; a miss is an error"""
    row = _called(options, "SELECT pgcache.cache_get(%s, %s)::text", options.type, options.key)
    if row is None:
        print(f"miss: {options.type} has no live entry {options.key}", file=sys.stderr)
        return 1
    print(row)
    return 0


def _explain_command(options: argparse.Namespace) -> int:
    """tell why a get hits or misses now: absent, expired, or invalidated, by what; a miss is an error"""
    call = "SELECT outcome || ': ' || reason FROM pgcache.cache_explain(%s, %s)"
    reasons = _called(options, f"SELECT ARRAY({call})", options.type, options.key)
    print("\n".join(reasons))
    return 1 if reasons[0].startswith("miss") else 0


def _set_command(options: argparse.Namespace) -> int:
    """store an entry"""
    value = sys.stdin.read() if options.value == STDIN else options.value
    try:
        json.loads(value)
    except ValueError as error:
        raise PgcacheError(f"the value is no JSON: {error}", hint="A text needs its own quotes: '\"text\"'") from None
    call = "SELECT pgcache.cache_set(%s, %s, %s::jsonb, %s::interval)"
    if not _called(options, call, options.type, options.key, value, interval(options.ttl)):
        raise PgcacheError("not stored", hint="The type is disabled, see SELECT * FROM cache_stats.")
    print("stored")
    return 0


def _delete_command(options: argparse.Namespace) -> None:
    """remove an entry"""
    found = _called(options, "SELECT pgcache.cache_delete(%s, %s)", options.type, options.key)
    print("deleted" if found else "there was no such entry")


def _forget_command(options: argparse.Namespace) -> int | None:
    """erase all that is stored for a tenant or a user, in all types, the logs and Redis, with a receipt; asks first"""
    kind = "user" if options.user else "tenant"
    if options.tenant and not options.user:
        raise PgcacheError("--tenant says where to look for a user", hint="Add --user, or leave --tenant out.")
    with target(options.dsn) as where, _session(where) as connection:
        if not options.yes:
            scope = f" of the tenant {options.tenant!r}" if options.tenant else ""
            show.line(f"This erases all that is stored for the {kind} {options.subject!r}{scope} ({where}).")
            if not sys.stdin.isatty():
                raise PgcacheError("nothing was erased", hint="Confirm it with --yes.")
            if input("Erase it? [y/N] ").strip().lower() not in ("y", "yes"):
                show.line("Nothing was erased.")
                return 1
        connection.execute("SELECT set_config('pgcache.tenant', %s, false)", [options.tenant])
        receipt = connection.execute("SELECT * FROM pgcache.cache_forget(%s, %s)", [options.subject, kind]).fetchall()
        show.table(
            ["type", "place", "removed"],
            [[type or "all", place, count(removed)] for type, place, removed in receipt],
            left=2,
            total=True,
        )
    return None


def _called(options: argparse.Namespace, call: str, *arguments: str | None) -> Any:
    with target(options.dsn) as where, _session(where) as connection:
        connection.execute("SELECT set_config('pgcache.tenant', %s, false)", [options.tenant])
        row = connection.execute(call.encode(), arguments).fetchone()
    return row[0] if row else None


def _demo_command(options: argparse.Namespace) -> int | None:
    """see what pgcache does, on a server of its own: needs the extra embedded"""
    if options.psql:
        return demo.psql()
    if options.stop:
        demo.stop()
    else:
        demo.run(keep=options.keep)
    return None


# over HTTP, and the AI functions -------------------------------------------------------------------------------------


def _serve_command(options: argparse.Namespace) -> None:
    """serve a page of statistics, metrics, and the AI worker's endpoints; PGCACHE_HTTP_TOKEN: what clients must send"""
    _stopping_is_no_failure()
    from ..serve import face

    token = os.environ.get("PGCACHE_HTTP_TOKEN") or None
    if token is None and options.host not in face.LOOPBACK and not options.no_token:
        raise PgcacheError(
            f"on {options.host} other machines could spend your money",
            hint="Set the variable PGCACHE_HTTP_TOKEN to a long random text, or let anybody call: --no-token",
        )
    with target(options.dsn) as where:
        _check_owner(where)
        face.serve(
            where.conninfo,
            face.Options(
                host=options.host,
                port=options.port,
                token=token,
                concurrency=options.concurrency,
                max_body=options.max_body,
                timeout=options.timeout,
            ),
        )


def _ai_key_command(options: argparse.Namespace) -> None:
    """store the API key of the AI functions, which is read from standard input"""
    key = ""
    if not options.remove:
        key = (getpass.getpass("API key: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
        if not key:
            raise PgcacheError("there is no key on standard input", hint="python -m pgcache_py ai-key < file")
        if not re.fullmatch(r"[!-~]+", key):
            raise PgcacheError(
                "the API key has spaces, line ends or other characters that no key has",
                sqlstate="PC010",
                hint="Pass it as the provider shows it, without the quotes around it.",
            )
    with target(options.dsn) as where, _session(where) as connection, connection.transaction():
        if options.remove:
            connection.execute("SELECT pgcache.ai_configure(api_key => '')")
        else:
            connection.execute("SELECT pgcache.ai_configure()")  # refuses who is not the owner
            # What COPY reads is in no log, as parameters of a statement are. But the line that it has failed on is: so
            # it may find no key of another session's, nor be ended for its time.
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute("LOCK TABLE pgcache_internal.ai_secrets IN SHARE ROW EXCLUSIVE MODE")
            connection.execute("DELETE FROM pgcache_internal.ai_secrets WHERE name = 'api_key'")
            with connection.cursor().copy("COPY pgcache_internal.ai_secrets (name, value) FROM STDIN") as copy:
                copy.write_row(["api_key", key])
    print("removed" if options.remove else "stored")


# the hot tier -------------------------------------------------------------------------------------------------------


def _relay_command(options: argparse.Namespace) -> None:
    """tell Redis of the changes in the types of the hot tier, until it is ended; of several one is at work"""
    _stopping_is_no_failure()
    from ..relay.process import Relay

    url = options.redis or environment.redis()
    if not url:
        raise HotTierError(
            "the relay needs the URL of a Redis",
            sqlstate="PC030",
            hint="--redis redis://localhost:6379/0, or REDIS_URL",
        )
    with target(options.dsn) as where:
        _check_owner(where)
        relay = Relay(where.conninfo, url, prefix=options.prefix, log=_log)
        if options.once:
            report = relay.once()
            _log(f"{report.vouched}, {report.delivered} delivered" if report else "another relay is at work")
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, relay.stop)
        relay.run()


def _stopping_is_no_failure() -> None:
    """Exit code 0 after SIGTERM, by which services are stopped. uvicorn raises it again when it has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _log(line: str) -> None:
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}", flush=True)
