"""What is in monitoring/: its queries run, and give what the files name; the dashboard asks for what is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as read
from psycopg.conninfo import make_conninfo

from tests.conftest import NewRole
from tests.serve import world
from tests.tools.served import Serve, serving
from tests.tools.session import Session

FOLDER = Path(__file__).parents[2] / "monitoring"
COLLECTOR: dict[str, Any] = yaml.safe_load((FOLDER / "pgcache.collector.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
# Prometheus adds this one itself.
OWN_LABELS = {"instance"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with serving() as start:
        yield start


@pytest.fixture
def reader(dsn: str, ask: Session, role: NewRole) -> str:
    """The conninfo of a role that may read, in a database that has something of everything."""
    world.fill(ask)
    world.latencies(ask)
    ask("CALL cache_upkeep()")
    ask("SELECT cache_get_llm('absent', 'm')")
    name = role("read")("SELECT current_user")
    return make_conninfo(dsn, user=name, password="secret")


def exported(dsn: str) -> Samples:
    """What sql_exporter makes of the collector: each row is a sample of each value that is not NULL."""
    queries = {query["query_name"]: query["query"] for query in COLLECTOR["queries"]}
    samples: Samples = {}
    session = Session(dsn)
    for metric in COLLECTOR["metrics"]:
        query = metric.get("query") or queries[metric["query_ref"]]
        cursor = session.connection.execute(query)
        assert cursor.description
        columns = [column.name for column in cursor.description]
        (value,) = metric["values"]
        assert {*metric["key_labels"], value} <= set(columns)
        for found in cursor:
            row = dict(zip(columns, found, strict=True))
            assert all(isinstance(row[label], str) for label in metric["key_labels"])
            assert not isinstance(row[value], bool)  # which sql_exporter does not take for a number
            if row[value] is not None:
                labels = frozenset((label, row[label]) for label in metric["key_labels"])
                assert (metric["metric_name"], labels) not in samples
                samples[metric["metric_name"], labels] = float(row[value])
    session.close()
    return samples


def served(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read(text)
        for sample in family.samples
        if not sample.name.startswith("pgcache_http_")
    }


def test_sql_exporter_says_what_serve_does(reader: str, serve: Serve) -> None:
    found = exported(reader)
    client = serve(reader)
    assert served(client.get("/metrics").text) == pytest.approx(found)
    families = {family.name: family for family in read(client.get("/metrics").text)}
    for metric in COLLECTOR["metrics"]:
        family = families.get(metric["metric_name"].removesuffix("_total")) or families[metric["metric_name"]]
        assert (family.type, family.documentation) == (metric["type"], metric["help"])


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [found["definition"] for found in DASHBOARD["templating"]["list"] if found["type"] == "query"]
    return panels + variables


def test_the_dashboard_asks_for_what_there_is(reader: str) -> None:
    labels: dict[str, set[str]] = {}
    for name, pairs in exported(reader):
        labels.setdefault(name, set()).update(label for label, _ in pairs)
    asked: set[str] = set()
    for expression in expressions():
        known: set[str] = set(OWN_LABELS)
        for name, matchers in re.findall(r"\b(pgcache_\w+)(?:\{(.*?)\})?", expression):
            assert name in labels, expression
            asked.add(name)
            known |= labels[name]
            assert set(re.findall(r"(\w+)=~?\"", matchers)) <= labels[name] | OWN_LABELS, expression
        for group in re.findall(r"\bby \((.*?)\)", expression):
            assert set(group.split(", ")) <= known, expression
        if shown := re.search(r"label_values\(.*, (\w+)\)", expression):
            assert shown[1] in known
    assert len(asked) > 12


@pytest.mark.once
def test_the_dashboard_is_in_order(server: object) -> None:
    """Panels have names of their own, stand in the grid without overlapping, and name the values that they show."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        here = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not here & taken
        taken |= here
        assert panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            grouped = re.search(r"\bby \((.*?)\)", target["expr"])
            for label in grouped[1].split(", ") if grouped else []:
                assert f"{{{{{label}}}}}" in target["legendFormat"]


@pytest.mark.once
def test_the_exporters_file_names_the_collector(server: object) -> None:
    settings = yaml.safe_load((FOLDER / "sql_exporter.yml").read_text())
    assert settings["target"]["collectors"] == [COLLECTOR["collector_name"]]
    assert [(FOLDER / name).is_file() for name in settings["collector_files"]] == [True]
