"""Where a run of the tests keeps its servers, and the end of what killed runs have left."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROGRAMS = ("postgres", "redis-server", "pgbouncer", "memcached")


@contextmanager
def run_directory(run: Path) -> Iterator[None]:
    """Make the directory `run`; delete it at the end, and before that all of its siblings whose runs were killed.

    A run keeps its directory locked, because a lock ends with its process. Whether a process of some number runs would
    say less: the number may be another one's by now, or count in another container that shares this file system.
    """
    run.parent.mkdir(parents=True, exist_ok=True)
    with _locked(run.parent):  # so that nobody takes a run that has just begun for an abandoned one
        for sibling in run.parent.glob(run.name.rstrip("0123456789") + "*"):
            if sibling.stat().st_uid == os.geteuid():
                with suppress(BlockingIOError), _locked(sibling, fcntl.LOCK_NB):
                    _end(sibling)
        run.mkdir()
        own = _locked(run)
        own.__enter__()
    try:
        yield
    finally:
        shutil.rmtree(run, ignore_errors=True)
        own.__exit__(None, None, None)


@contextmanager
def _locked(directory: Path, how: int = 0) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)


def _end(run: Path) -> None:
    """Stop the servers of a run and delete what they stored."""
    servers = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.name() in PROGRAMS and str(run) in " ".join([process.cwd(), *process.cmdline()]):
                process.send_signal(signal.SIGINT)
                servers.append(process)
    _, at_work = psutil.wait_procs(servers, timeout=30)
    for process in at_work:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(at_work, timeout=5)
    shutil.rmtree(run, ignore_errors=True)
