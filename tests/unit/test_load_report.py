"""Load reports: stored ones are read, also those of older releases, and what is written keeps the API's shape."""

from __future__ import annotations

from typing import Any

import pytest

from models_registry.loading.report import Check, Distribution, Report, Stage, StageName

# As stored before checks could be waived, with a key of a release to come.
OLD: dict[str, Any] = {
    "checks": [
        {"name": "columns", "passed": True, "count": 0, "words": "all columns are there", "samples": []},
        {
            "name": "offer_id: values",
            "passed": False,
            "count": 2,
            "words": "column offer_id, row 3 (key p2): 9999 is not within 0 … 4095; 2 like it",
            "samples": [{"row": 3, "key": "p2", "value": "9999"}],
        },
    ],
    "notes": ["Left out, because neither key nor layout has them: exported_at."],
    "stages": [{"name": "extract", "seconds": 12.4, "rows": 2145332, "rows_per_second": 173010}],
    "weather": "rain",
}
NEW: dict[str, Any] = {
    "checks": [
        {
            "name": "row count",
            "passed": False,
            "count": 0,
            "words": "60 rows, 40.0 % fewer than the 100 now active; a change of more than 30 % is refused",
            "samples": [],
            "may_be_waived": True,
            "is_waived": True,
        }
    ],
    "notes": [],
    "stages": [{"name": "compare", "seconds": 0.002, "rows": 60, "rows_per_second": 30000}],
    "fields": [
        {
            "name": "offer_id",
            "kind": "uint",
            "bins": [{"label": "1", "share": 1.0, "share_before": None}],
            "psi": None,
        }
    ],
    "distribution": {
        "rows": 60,
        "fields": [{"name": "offer_id", "kind": "uint", "rows": 60, "values": [1.0], "counts": [60, 0, 0, 0]}],
    },
    "difference": {
        "added": 0,
        "removed": 40,
        "changed": 60,
        "unchanged": 0,
        "samples": {"added": [], "changed": ["p0"]},
        "is_estimate": False,
        "share_compared": 1.0,
        "against": "",
    },
}


def test_read__a_report_of_an_older_release__has_defaults_for_what_it_lacks() -> None:
    report = Report.read(OLD)
    assert [check.name for check in report.failed] == ["offer_id: values"]
    assert report.failed[0].samples[0].key == "p2"
    assert (report.failed[0].may_be_waived, report.failed[0].is_waived, report.may_be_waived) == (False, False, False)
    assert (report.fields, report.distribution, report.difference) == ((), None, None)


def test_read__a_load_that_has_not_begun__is_empty() -> None:
    assert Report.read({}) == Report()
    assert Report().may_be_waived is False


def test_as_json__a_report_that_was_read__is_what_was_stored() -> None:
    assert Report.read(NEW).as_json() == NEW
    assert list(Report.read(NEW).as_json()) == list(NEW)


def test_as_json__nothing_measured_yet__leaves_out_what_is_not_known() -> None:
    assert Report().as_json() == {"checks": [], "notes": [], "stages": []}
    measured = Report(distribution=Distribution()).as_json()
    assert (measured["fields"], measured["distribution"]) == ([], {"rows": 0, "fields": []})


def check(name: str, *, passed: bool = False, may_be_waived: bool = False, is_waived: bool = False) -> Check:
    words = f"{name} is wrong"
    return Check(name, passed, words=words, may_be_waived=may_be_waived, is_waived=is_waived)


@pytest.mark.parametrize(
    ("checks", "problem", "may_be_waived"),
    [
        ([], "", False),
        ([check("a", passed=True)], "", False),
        ([check("soft", may_be_waived=True)], "Soft is wrong.", True),
        ([check("soft", may_be_waived=True, is_waived=True)], "", True),
        ([check("soft", may_be_waived=True), check("hard")], "Hard is wrong. One more check failed.", False),
        ([check("a"), check("b"), check("c")], "A is wrong. 2 more checks failed.", False),
    ],
)
def test_report__of_checks__says_what_stops_the_load(checks: list[Check], problem: str, may_be_waived: bool) -> None:
    report = Report().plus(checks=checks)
    assert (report.problem, report.may_be_waived) == (problem, may_be_waived)


def test_stage__of_no_time__has_no_rate() -> None:
    assert Stage.of(StageName.WRITE, 0.0, 10) == Stage("write", 0.0, 10, 0)
    assert Stage.of(StageName.WRITE, 0.5, 10) == Stage("write", 0.5, 10, 20)


@pytest.mark.parametrize(
    "stored",
    [
        {"checks": [{"words": None}]},
        {"notes": None},
        {"stages": [{"name": "check", "rows": 1.5}]},
        {"difference": {"samples": 3}},
        {"distribution": []},
    ],
)
def test_report__that_nobody_can_read__is_a_note(stored: dict[str, Any]) -> None:
    assert Report.read(stored) == Report(notes=("This report was written by another release and cannot be read.",))


def test_report__with_parts_left_out__has_defaults() -> None:
    (check,) = Report.read({"checks": [{"samples": [{}]}]}).checks
    assert (check.name, check.passed, check.samples[0].value) == ("", False, "")


def test_report__written_again__keeps_fields_without_a_distribution() -> None:
    stored: dict[str, Any] = {
        "checks": [],
        "notes": [],
        "stages": [],
        "fields": [{"name": "a", "kind": "uint", "bins": [], "psi": None}],
    }
    assert Report.read(stored).as_json() == stored
