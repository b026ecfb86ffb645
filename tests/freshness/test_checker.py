"""The checker: a short run on each server, and that it sees what is stale, and says how it came about."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.freshness import report
from tests.freshness.clients import BY_NEAR
from tests.freshness.history import History, Stale
from tests.freshness.readers import BY_PLAIN, GETS
from tests.freshness.run import LABELS, Outcome
from tests.servers import Server


def checker(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as it makes others of itself; with a folder of its own for what it starts."""
    command = [sys.executable, "-m", "tests.freshness", "--dsn", server.dsn(), *options]
    environment = {name: value for name, value in os.environ.items() if name != "PGCACHE_TEST_RUN"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    print(done.stdout, done.stderr)  # whole: of what fails pytest shows the ends only
    return done


def test_no_read_is_stale(server: Server) -> None:
    done = checker(server, "--checks", "500")
    assert "\n0 of " in done.stdout, done
    assert "entries were stale when all had ended" in done.stdout, done
    # 2: in so short a run the others may not have been caught, nor is this what is tested.
    assert done.returncode in (0, 2), done


@pytest.mark.once
def test_near_readers(server: Server) -> None:
    done = checker(server, "--checks", "5000", "--near", "2")
    assert "\n0 of " in done.stdout, done
    assert "returned what had been replaced" in done.stdout, done
    assert done.returncode in (0, 2), done


@pytest.mark.once
def test_what_is_stale_is_found_and_told(server: Server) -> None:
    done = checker(server, "--checks", "1000000", "--judge", "plain")
    assert done.returncode == 1, done
    assert "READ A STALE VALUE" in done.stdout, done
    assert "read from the source" in done.stdout, done


def outcome(history: History, **others: object) -> Outcome:
    found: Any = {"failures": [], "invented": [], "at_rest": [], "names": {}, **others}
    return Outcome(1, 1.0, history, Counter(), [], history.stale(), checked_at_rest=1, **found)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(2, 2, LABELS, tmp_path)


def test_which_versions_a_read_may_return(history: History) -> None:
    history.note(1, 10)
    history.note(1, 30)
    history.note(1, 20)  # its COMMIT returned before, and was noted after
    assert (history.committed(0), history.committed(1)) == (0, 30)


def test_what_was_committed_before_a_moment(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in range(1, 200):
        monkeypatch.setattr("tests.freshness.history.monotonic", lambda version=version: float(version))
        history.note(0, version)
    assert history.committed_before(0, 199.5) == 199
    assert history.committed_before(0, 150.5) == 150
    assert history.committed_before(0, 3.0) == 0, "nobody knows any more"


def test_how_old_what_was_read_is(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (3, 5, 8):
        monkeypatch.setattr("tests.freshness.history.monotonic", lambda version=version: float(10 * version))
        history.note(0, version)
    assert [history.replaced(0, version) for version in (3, 4, 5, 8)] == [50.0, 50.0, 80.0, math.inf]
    for age in (0.2, 0.4, 0.3):
        history.was_old(1, GETS, age)
    assert (history.oldest(GETS), history.oldest(BY_PLAIN)) == (0.4, 0.0)
    assert "had been replaced" not in "\n".join(report.lines(outcome(history)))
    history.was_old(0, BY_NEAR, 0.25)
    assert f"{BY_NEAR} returned what had been replaced 250 ms before" in "\n".join(report.lines(outcome(history)))


def test_a_stale_read_is_told_with_the_history_of_its_row(history: History) -> None:
    history.log(0, "wrote", 1, 7)
    history.log(1, "stored", 1, 6, token=99)
    history.log(1, "stored", 0, 5)
    history.log(1, "READ A STALE VALUE", 1, 6)
    history.count(1, GETS, "hits", 3)
    history.count(1, GETS, "stale")
    history.report(Stale(GETS, 1, 1, 6, 7, 1.0, 2.0, "a version that was committed before the read began"))
    found = outcome(history, names={0: "Writer 0", 1: "SqlReader 1"})
    assert found.wrong
    text = "\n".join(report.lines(found))
    assert text.endswith("\n1 of 3 reads were stale")
    for line in ("Writer 0         wrote version 7", "SqlReader 1      stored version 6 (99)", "READ A STALE VALUE"):
        assert line in text
    assert "version 5" not in text, "that is another row"


def test_versions_that_nobody_has_committed(history: History) -> None:
    for version in (3, 5, 8):
        history.seen[version] = 1
    assert history.seen_but_not([8, 3, 9]) == [5]
    assert outcome(history, invented=[5]).wrong


def test_errors_end_a_run(history: History) -> None:
    assert not outcome(history).wrong
    history.fail("Writer 0", RuntimeError("broken"))
    assert history.over
    assert history.failures() == ["Writer 0: RuntimeError: broken"]
    assert outcome(history, failures=history.failures()).wrong


def test_a_run_that_has_not_caught_those_who_are_wrong_proves_nothing(history: History) -> None:
    found = outcome(history)
    assert found.blind == []
    history.count(0, BY_PLAIN, "reads")
    assert found.blind == [BY_PLAIN]
    history.count(0, BY_PLAIN, "stale")
    assert found.blind == []
