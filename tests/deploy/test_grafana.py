"""Grafana's dashboards: as their code says, about metrics and alerts that exist, and shipped by compose."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from recsite.environment import BASE_DIR
from recsite.metrics import DEFINITIONS as CONTROL_PLANE
from serving.metrics import DEFINITIONS as SERVING
from tests.unit.test_alerts import RECORDED, RULES

FOLDER = BASE_DIR / "deploy" / "grafana" / "dashboards"
DASHBOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
PANELS = {
    f"{name}: {panel['title']}": panel
    for name, dashboard in sorted(DASHBOARDS.items())
    for panel in dashboard["panels"]
    if panel["type"] != "row"
}
METRIC = r"\b(?:recsite_\w+|recsite:[\w:]+|up|ALERTS|django_\w+)\b"
FOREIGN = {"up", "ALERTS", "django_http_responses_total_by_status_total"}
# Told by studio too.
NOT_SHOWN = {"recsite_loads_total"}


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def test_dashboards__are_what_their_code_says(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grafana", str(tmp_path)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(BASE_DIR / "deploy")}, check=True, timeout=60)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in FOLDER.iterdir()}, "run `make dashboards`"


def test_panels__say_what_they_show_in_which_unit() -> None:
    for name, panel in PANELS.items():
        assert panel["fieldConfig"]["defaults"]["unit"], name
        assert re.fullmatch(r"[A-Z].+\.", panel["description"]), name
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {"${datasource}"}, name
        assert {link["url"] for link in panel["links"]} <= {f"${{runbooks}}/{alert}.md" for alert in RULES}, name
        if panel["type"] == "timeseries":
            assert len({target["legendFormat"] for target in panel["targets"]}) == len(panel["targets"]), name


def test_dashboards__have_addresses_titles_and_panels_of_their_own() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS) == 4
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    for dashboard in DASHBOARDS.values():
        panels = dashboard["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        taken = [
            (column, line)
            for panel in panels
            for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for line in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(set(taken)) == len(taken)
        assert {column for column, _ in taken} == set(range(24))


def test_panels__ask_for_what_exists_and_leave_nothing_out() -> None:
    known = {definition.name: definition.kind for definition in (*SERVING, *CONTROL_PLANE)}
    asked = {metric for panel in PANELS.values() for query in queries(panel) for metric in re.findall(METRIC, query)}
    of_histograms = {f"{name}_bucket": name for name, kind in known.items() if kind == "histogram"}
    asked = {of_histograms.get(metric, metric) for metric in asked}
    recorded = asked & RECORDED.keys()
    assert asked - recorded <= known.keys() | FOREIGN
    assert asked - recorded - FOREIGN == known.keys() - NOT_SHOWN


def test_panels__ask_the_job_that_has_the_metric() -> None:
    both = {"up", "recsite_build_info", "recsite_var_free_ratio"}
    of_serving = {definition.name for definition in SERVING}
    for query in (query for panel in PANELS.values() for query in queries(panel)):
        for metric, job in re.findall(rf'({METRIC})\{{job=~?"([\w|-]+)"', query):
            if metric.removesuffix("_bucket") in of_serving - both:
                assert "recsite-lane" in job, query
            elif metric not in both:
                assert job == "recsite-dashboard", query
        without = re.findall(rf"({METRIC})(?![\w:]|\{{job=)", query)
        assert set(without) <= {"ALERTS"} | RECORDED.keys(), query


def test_compose__gives_grafana_the_dashboards() -> None:
    compose = BASE_DIR / "deploy" / "compose"
    grafana = yaml.safe_load((compose / "compose.yaml").read_text())["services"]["grafana"]
    [provider] = yaml.safe_load((compose / "grafana" / "dashboards" / "recsite.yaml").read_text())["providers"]
    [there] = [each for each in grafana["volumes"] if each.split(":")[1] == provider["options"]["path"]]
    assert (compose / there.split(":")[0]).resolve() == FOLDER
