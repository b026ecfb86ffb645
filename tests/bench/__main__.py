"""Ask the benchmark's questions: python -m tests.bench [--quick] [question ...]."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Sequence

from pgcache_py.cli import show
from tests.bench import eviction, freshness, from_python, from_sql, hybrid, near, over_time, report
from tests.bench.harness import Question, Result, say
from tests.bench.machine import Bench
from tests.servers.server import STATE

QUESTIONS = {
    question.name: question
    for question in (
        from_sql.get_from_sql,
        from_sql.get_fresh,
        from_sql.get_typed,
        from_sql.hot_key,
        from_sql.set_from_sql,
        from_python.single,
        from_python.many,
        from_python.joined,
        near.near,
        near.while_others_write,
        near.large_values,
        hybrid.tier,
        hybrid.writes,
        freshness.freshness,
        over_time.writes,
        over_time.scale,
        over_time.cleaning,
        over_time.churn,
        eviction.hit_ratio,
        eviction.tokens_saved,
    )
}
PROVISION = STATE.parent / "tests" / "servers" / "provision.sh"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="question", help="only these (see --list)")
    parser.add_argument("--list", action="store_true", help="list the questions")
    parser.add_argument("--quick", action="store_true", help="less of everything: whether it works, not how fast")
    options = parser.parse_args()
    if options.list:
        for each in QUESTIONS.values():
            print(f"{each.name:10} {each.title}")
        return
    unknown = set(options.questions) - QUESTIONS.keys()
    if unknown:
        parser.error(f"no such question: {', '.join(sorted(unknown))}; see --list")
    # So that the servers are stopped if this is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    ask([QUESTIONS[name] for name in options.questions or QUESTIONS], options.quick)


def ask(questions: Sequence[Question], quick: bool) -> None:
    subprocess.run([PROVISION, STATE, "memcached"])
    answers: dict[Question, list[Result]] = {}
    with Bench(quick) as bench:
        about = bench.about()
        show.line(json.dumps(about, indent=1, ensure_ascii=False))
        try:
            for question in questions:
                say(f"{question.name}: {question.title}")
                answers[question] = []
                for result in question.ask(bench):
                    answers[question].append(result)
        finally:
            # If it is stopped, or fails, what has been measured by then is not lost.
            folder = report.write(answers, about)
            report.print_table(answers)
            show.line(f"Plots, results.json and table.md are in {folder}")


if __name__ == "__main__":
    main()
