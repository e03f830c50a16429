"""The alerts: each with its page, about metrics that exist, and shown by promtool to fire and to be silent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsite.environment import BASE_DIR
from recsite.metrics import DEFINITIONS as CONTROL_PLANE

ALERTS = BASE_DIR / "deploy" / "alerts"
RUNBOOKS = BASE_DIR / "docs" / "runbooks"


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


_ALL: list[dict[str, Any]] = [rule for group in _read(ALERTS / "rules.yaml")["groups"] for rule in group["rules"]]
RULES = {rule["alert"]: rule for rule in _ALL if "alert" in rule}
RECORDED: dict[str, str] = {rule["record"]: rule["expr"] for rule in _ALL if "record" in rule}
CASES = sorted(ALERTS.glob("*.test.yaml"))
# What is not ours: Prometheus' own, and the blackbox exporter's.
FOREIGN = {"up": None, "probe_ssl_earliest_cert_expiry": "recsite-https"}
# The lanes' and the dashboards'.
BOTH = {"recsite_build_info", "recsite_var_free_ratio"}
METRIC = r"\b(?:recsite_\w+|up|probe_\w+)\b"


def _asked(name: str) -> str:
    """Return an alert's expression with the recorded ones that it asks for in their places."""
    expression: str = RULES[name]["expr"]
    while recorded := [name for name in RECORDED if name in expression]:
        expression = expression.replace(recorded[0], RECORDED[recorded[0]])
    return expression


def test_runbooks__every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_alert__has_what_whoever_is_called_needs(name: str) -> None:
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
    assert rule["annotations"]["summary"].endswith(".")
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert re.findall(r"^#+ (.+)$", page, re.MULTILINE) == [name, "Meaning", "Impact", "Diagnosis", "Mitigation"]


@pytest.mark.parametrize("name", RULES)
def test_alert__asks_for_metrics_that_exist(name: str) -> None:
    documented = (
        set(re.findall(r"^\| `(\w+)`", (BASE_DIR / "docs" / "metrics.md").read_text(), re.MULTILINE)) | FOREIGN.keys()
    )
    asked = set(re.findall(METRIC, _asked(name)))
    # A histogram is documented by its name, and asked for by those of its parts.
    asked = {re.sub(r"_(bucket|sum|count)$", "", metric) if metric not in documented else metric for metric in asked}
    assert asked
    assert asked <= documented


@pytest.mark.parametrize("name", RULES)
def test_alert__asks_the_job_that_has_the_metric(name: str) -> None:
    of_the_dashboard = {definition.name for definition in CONTROL_PLANE}
    asked = re.findall(rf'({METRIC})\{{job="([\w-]+)"', _asked(name))
    assert len(asked) == len(re.findall(METRIC, _asked(name))), "each names its job"
    for metric, job in asked:
        if metric in BOTH:
            assert job in {"recsite-lane", "recsite-dashboard"}
        elif metric != "up":
            assert job == FOREIGN.get(metric, "recsite-dashboard" if metric in of_the_dashboard else "recsite-lane")


@pytest.mark.parametrize("name", RULES)
def test_alert__is_shown_to_fire_and_to_be_silent(name: str) -> None:
    cases = [case for file in CASES for test in _read(file)["tests"] for case in test["alert_rule_test"]]
    outcomes = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == name}
    assert True in outcomes, f"no case in which {name} fires"
    assert False in outcomes, f"no case in which {name} is silent"


def test_promtool__every_case_holds() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing (apt-get install prometheus)")
        pytest.skip("no promtool here (apt-get install prometheus)")
    command = [promtool, "test", "rules", *map(str, CASES)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
