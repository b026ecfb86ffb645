"""The directories of test runs: what a killed run has left goes, what is at work stays."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.servers.runs import run_directory

AT_WORK = """
import pathlib, signal, subprocess, sys
from tests.servers.runs import run_directory
directory = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGINT, signal.SIG_DFL)  # as servers have it; what a shell runs in the background ignores it
with run_directory(directory):
    server = subprocess.Popen([directory.parent / "postgres", "60"], cwd=directory)
    print(server.pid, flush=True)
    sys.stdin.read()
    server.kill()
"""


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "at work"])
def test_only_a_killed_run_is_ended(tmp_path: Path, killed: bool) -> None:
    shutil.copy(shutil.which("sleep") or "", tmp_path / "postgres")
    command = [sys.executable, "-c", AT_WORK, str(tmp_path / "run-1")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin
        assert run.stdout
        server = psutil.Process(int(run.stdout.readline()))
        if killed:
            run.kill()
            run.wait()
        with run_directory(tmp_path / "run-2"):
            ended = not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
            assert ended == killed
            assert (tmp_path / "run-1").exists() != killed
        run.stdin.close()
    assert not list(tmp_path.glob("run-*"))
