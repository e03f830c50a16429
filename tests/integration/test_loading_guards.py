"""Dry runs, and loads whose failed checks are waived although they differ too much from what is served."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import Settings

from models_registry.loading import distributions
from models_registry.loading.pulse import Progress
from models_registry.loading.report import Report
from models_registry.loading.report_text import report_lines
from models_registry.loading.requests import load_request, load_waive, table_roll_back
from models_registry.loading.running import run_load
from models_registry.models import Load, LoadState, RolloutRevision, Table, Version
from tenants.models import AuditEntry, User
from tenants.rules import RuleBroken
from tenants.services import tenant_end
from tests import factories
from tests.loading_scene import FIELDS, Scene, all_blocks, blocks_of, columns

pytestmark = pytest.mark.django_db


@pytest.fixture
def scene(tmp_path: Path, settings: Settings, valkey: redis.Redis) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    return Scene(tmp_path)


def run(load: Load) -> Load:
    run_load(load.pk)
    load.refresh_from_db()
    return load


def failed(load: Load) -> list[str]:
    return [check["name"] for check in load.report["checks"] if not check["passed"]]


# --- Dry runs ---------------------------------------------------------------------------------------------------------


def test_dry_run__a_good_source__ends_checked_and_writes_nothing(scene: Scene, valkey: redis.Redis) -> None:
    good = scene.load(columns(range(100)))
    scene.write(columns(range(110)))
    told: list[Progress] = []
    load = load_request(version=scene.version, actor=None, dry_run=True)
    run_load(load.pk, listener=told.append)
    load.refresh_from_db()

    assert (load.state, load.problem, load.rows_read, load.rows_written) == (LoadState.CHECKED, "", 110, 0)
    assert load.finished_at is not None
    assert all(check["passed"] for check in load.report["checks"])
    assert {"extract", "check"} <= {stage["name"] for stage in load.report["stages"]}
    assert not {"write", "verify"} & {stage["name"] for stage in load.report["stages"]}
    assert told[-1].state == LoadState.CHECKED
    scene.version.refresh_from_db()
    assert (scene.version.active_table, scene.version.active_fence) == (good.table, good.fence)
    assert not Table.objects.unscoped().filter(load=load).exists()
    assert all_blocks(valkey) == blocks_of(valkey, good.table.table_id)


def test_dry_run__a_bad_source__is_rejected_like_a_load(scene: Scene) -> None:
    load = scene.load(columns(range(3), offer_id=[1, 2, 9999]), is_dry_run=True)
    assert load.state == LoadState.REJECTED
    assert load.problem == "Column offer_id, row 3 (key p2): 9999 is not within 0 … 4095."
    assert not Table.objects.unscoped().exists()


def test_dry_run__asked_for_while_a_load_waits__neither_takes_the_others_place(scene: Scene) -> None:
    scene.write(columns(range(10)))
    load = load_request(version=scene.version, actor=None)
    rehearsal = load_request(version=scene.version, actor=None, dry_run=True)
    newer = load_request(version=scene.version, actor=None)

    assert run(rehearsal).state == LoadState.CHECKED
    assert run(newer).state == LoadState.ACTIVE
    assert run(load).state == LoadState.SUPERSEDED


def test_dry_run__newer_than_a_load__does_not_keep_it_from_becoming_active(scene: Scene) -> None:
    scene.write(columns(range(10)))
    load = load_request(version=scene.version, actor=None)
    load_request(version=scene.version, actor=None, dry_run=True)
    assert run(load).state == LoadState.ACTIVE


def test_dry_run__asked_for__the_trail_says_so(scene: Scene, owner: User) -> None:
    load = load_request(version=scene.version, actor=owner, dry_run=True)
    entry = AuditEntry.objects.for_tenant(scene.tenant).get(action="load.request")
    assert entry.summary == f"Asked for a dry run, load {load.fence}, of “offers/a”."


# --- A version's first load -------------------------------------------------------------------------------------------


def another(scene: Scene, fields: list[dict[str, Any]] | None = None) -> Scene:
    """Return the scene with another version of the model, whose rows are in a file of its own."""
    layout = factories.LayoutFactory.create(model=scene.model, fields=fields, revision=1) if fields else None
    other = copy(scene)
    other.version = factories.VersionFactory.create(
        model=scene.model, layout=layout or scene.version.layout, name="b", code=1
    )
    other.source = factories.SourceFactory.create(version=other.version, location=scene.source.location)
    return other


def test_first_load__of_players_nobody_serves__is_rejected_and_may_be_waived(
    scene: Scene, owner: User, valkey: redis.Redis
) -> None:
    scene.load(columns(range(5000)))
    other = another(scene)

    load = other.load(columns(range(9000, 9010)))

    assert (load.state, load.problem_code, failed(load)) == (LoadState.REJECTED, "too_different", ["coverage"])
    assert load.problem == (
        "Only 0.0 % of the keys of “a” (the most served version) are in the source, and less than 50 % is refused."
    )
    assert run(load_waive(load=load, actor=owner, reason="A test with ten players")).state == LoadState.ACTIVE


def test_first_load__of_zeros_alone__is_rejected_and_of_another_models_answers_is_not(
    scene: Scene, valkey: redis.Redis
) -> None:
    scene.load(columns(range(3000)))
    other = another(scene)

    zeros = other.load(columns(range(3000), offer_id=[0] * 3000))
    shuffled = other.load(columns(range(3000), offer_id=[(number * 31) % 3500 for number in range(3000)]))

    assert (zeros.state, failed(zeros)) == (LoadState.REJECTED, ["offer_id: distribution"])
    assert "has another distribution than the table of “a” (the most served version): " in zeros.problem
    assert "and more than 2.5 is refused" in zeros.problem
    assert (shuffled.state, shuffled.problem) == (LoadState.ACTIVE, "")
    assert shuffled.report["difference"]["against"] == "a"
    assert shuffled.report["difference"]["changed"] > 2500


def test_first_load__dry__shows_what_differs_from_the_most_served_version(scene: Scene, valkey: redis.Redis) -> None:
    scene.load(columns(range(100)))

    load = another(scene).load(columns(range(40, 140)), is_dry_run=True)

    difference = load.report["difference"]
    assert load.state == LoadState.CHECKED
    assert [difference[what] for what in ("added", "removed", "changed", "unchanged")] == [40, 40, 0, 60]
    assert (difference["against"], difference["is_estimate"]) == ("a", False)
    assert "Difference from the table of “a” (the most served version)" in list(report_lines(Report.read(load.report)))


def test_first_load__with_another_layout__compares_keys_alone(scene: Scene, valkey: redis.Redis) -> None:
    scene.load(columns(range(100)))
    other = another(scene, fields=FIELDS[:2])

    few, most = other.load(columns(range(30)), is_dry_run=True), other.load(columns(range(70)))

    assert (few.state, failed(few)) == (LoadState.REJECTED, ["coverage"])
    assert "only 30.0 % of the keys of “a”" in str(few.report["checks"])
    assert (most.state, "difference" in most.report) == (LoadState.ACTIVE, False)


@pytest.mark.parametrize("why", ["no players", "no table", "nothing limits it"])
def test_first_load__nothing_to_hold_it_against__becomes_active(scene: Scene, valkey: redis.Redis, why: str) -> None:
    if why != "no table":
        scene.load(columns(range(100)))
    other = another(scene)
    if why == "no players":
        RolloutRevision.objects.unscoped().update(weights_bp={"1": 10_000})
    if why == "nothing limits it":
        scene.model.min_coverage = 0
        scene.model.save()

    assert other.load(columns(range(200, 210))).state == LoadState.ACTIVE


# --- Activating anyway ------------------------------------------------------------------------------------------------


@pytest.fixture
def rejected(scene: Scene) -> Load:
    """Return a load with half of the rows of the one that is served."""
    assert scene.load(columns(range(100))).state == LoadState.ACTIVE
    load = scene.load(columns(range(60)))
    assert (load.state, failed(load)) == (LoadState.REJECTED, ["row count"])
    return load


def test_activate_anyway__for_a_reason__loads_and_becomes_active(
    scene: Scene, rejected: Load, owner: User, valkey: redis.Redis
) -> None:
    new = load_waive(load=rejected, actor=owner, reason=" The studio closed\nits Asian servers. ")
    reason = "The studio closed its Asian servers."
    assert (new.waives, new.waive_reason, new.fence) == (rejected, reason, 3)
    run(new)

    assert (new.state, new.problem, new.rows_written) == (LoadState.ACTIVE, "", 60)
    (row_count,) = [check for check in new.report["checks"] if check["name"] == "row count"]
    assert (row_count["passed"], row_count["may_be_waived"], row_count["is_waived"]) == (False, True, True)
    scene.version.refresh_from_db()
    assert scene.version.active_table == new.table
    entry = AuditEntry.objects.for_tenant(scene.tenant).get(action="load.activate_anyway")
    assert (entry.actor, entry.reason) == (owner, reason)
    assert entry.before == {"fence": 2, "problem": rejected.problem}
    assert entry.after == {"fence": 3, "waives": ["row count"]}


def test_activate_anyway__the_source_went_bad_meanwhile__is_rejected_all_the_same(scene: Scene, rejected: Load) -> None:
    scene.write(columns(range(60), offer_id=[9999] * 60))
    new = run(load_waive(load=rejected, actor=None, reason="it is fine"))
    assert new.state == LoadState.REJECTED
    assert new.problem.startswith("Column offer_id, row 1 (key p0): 9999 is not within")
    scene.version.refresh_from_db()
    assert scene.version.active_table is not None
    assert scene.version.active_table.row_count == 100


@pytest.mark.parametrize("reason", ["", "  \n "])
def test_activate_anyway__without_a_reason__is_refused(reason: str, rejected: Load) -> None:
    with pytest.raises(RuleBroken) as refused:
        load_waive(load=rejected, actor=None, reason=reason)
    assert refused.value.field == "reason"
    assert Load.objects.unscoped().count() == 2


def report(*checks: tuple[str, bool]) -> dict[str, Any]:
    return {"checks": [{"name": name, "passed": False, "may_be_waived": soft} for name, soft in checks]}


@pytest.mark.parametrize(
    ("state", "found", "words"),
    [
        (LoadState.FAILED, report(("row count", True)), "Only a load that a check rejected"),
        (LoadState.ACTIVE, report(("row count", True)), "Only a load that a check rejected"),
        (LoadState.REJECTED, report(("row count", True), ("rows", False)), r"never waived \(rows\)"),
        (LoadState.REJECTED, report(("offer_id: values", False)), r"never waived \(offer_id: values\)"),
        (LoadState.REJECTED, {}, r"never waived\."),
    ],
)
def test_activate_anyway__not_rejected_by_a_comparison_alone__is_refused(
    state: LoadState, found: dict[str, Any], words: str
) -> None:
    load = factories.LoadFactory.create(state=state, report=found)
    with pytest.raises(RuleBroken, match=words):
        load_waive(load=load, actor=None, reason="it is fine")


def test_activate_anyway__a_newer_load_is_active__is_refused(scene: Scene, rejected: Load) -> None:
    assert scene.load(columns(range(101))).state == LoadState.ACTIVE
    with pytest.raises(RuleBroken, match="A newer load has become active"):
        load_waive(load=rejected, actor=None, reason="it is fine")


def test_activate_anyway__twice__the_second_is_refused(rejected: Load) -> None:
    load_waive(load=rejected, actor=None, reason="it is fine")
    with pytest.raises(RuleBroken, match="Load 3 already waives these checks"):
        load_waive(load=rejected, actor=None, reason="it is fine")


def test_activate_anyway__the_studio_has_ended__is_refused(scene: Scene, rejected: Load) -> None:
    tenant_end(tenant=scene.tenant, actor=None, reason="over")
    with pytest.raises(RuleBroken, match="ended"):
        load_waive(load=rejected, actor=None, reason="it is fine")
    assert Version.objects.unscoped().get(pk=scene.version.pk).last_fence == 2


# --- Distributions ----------------------------------------------------------------------------------------------------


def fields(load: Load) -> dict[tuple[str, str], dict[str, Any]]:
    return {(field["name"], field["kind"]): field for field in load.report["fields"]}


def test_distributions__a_first_load__are_shown_and_nothing_is_compared(scene: Scene) -> None:
    load = scene.load(columns(range(1000)))
    found = fields(load)
    assert list(found) == [
        *(("offer_id", "uint"), ("discount", "decimal"), ("segment", "enum")),
        *(("items", "list length"), ("items", "list items"), ("title", "string length")),
    ]
    assert found["segment", "enum"] == {
        "name": "segment",
        "kind": "enum",
        "bins": [
            {"label": "loyal", "share": 0.5, "share_before": None},
            {"label": "new", "share": 0.5, "share_before": None},
        ],
        "psi": None,
    }
    assert load.report["distribution"]["rows"] == 1000
    assert not any("distribution" in check["name"] for check in load.report["checks"])


def test_distributions__the_same_rows_again__have_an_index_of_zero(scene: Scene) -> None:
    scene.load(columns(range(1000)))
    load = scene.load(columns(range(1000)))
    assert {field["psi"] for field in load.report["fields"]} == {0.0}
    assert all(bin_["share"] == bin_["share_before"] for field in load.report["fields"] for bin_ in field["bins"])


def test_distributions__another_spread__is_rejected_and_says_what_moved(scene: Scene) -> None:
    scene.load(columns(range(1000)))
    load = scene.load(columns(range(1000), segment=["new"] * 900 + ["loyal"] * 100))
    assert load.state == LoadState.REJECTED
    assert failed(load) == ["segment: distribution"]
    assert load.problem == (
        "Column segment has another distribution than the served table: “loyal” 50.0 % → 10.0 %; its population "
        "stability index against the served table is 0.876, and more than 0.25 is refused."
    )
    check = next(check for check in load.report["checks"] if check["name"] == "segment: distribution")
    assert (check["may_be_waived"], check["is_waived"]) == (True, False)

    new = run(load_waive(load=load, actor=None, reason="a campaign"))
    assert new.state == LoadState.ACTIVE
    assert fields(new)["segment", "enum"]["psi"] == pytest.approx(0.876, abs=0.001)
    # What is served now is what the next load is held against.
    again = scene.load(columns(range(1000), segment=["new"] * 900 + ["loyal"] * 100))
    assert (again.state, fields(again)["segment", "enum"]["psi"]) == (LoadState.ACTIVE, 0.0)


def test_distributions__a_higher_limit_of_the_model__lets_it_pass(scene: Scene) -> None:
    scene.load(columns(range(1000)))
    scene.model.max_psi = 1.0
    scene.model.save()
    load = scene.load(columns(range(1000), segment=["new"] * 900 + ["loyal"] * 100))
    assert load.state == LoadState.ACTIVE


def test_distributions__few_rows__are_shown_and_not_judged(scene: Scene) -> None:
    scene.load(columns(range(100)))
    load = scene.load(columns(range(100), segment=["new"] * 100))
    assert load.state == LoadState.ACTIVE
    check = next(check for check in load.report["checks"] if check["name"] == "segment: distribution")
    assert check["words"] == "not judged: 100 rows are too few, at least 200 are needed"


def test_distributions__rows_that_are_wrong_by_themselves__no_second_complaint(scene: Scene) -> None:
    scene.load(columns(range(1000)))
    load = scene.load(columns(range(1000), segment=["gone"] * 1000))
    assert failed(load) == ["segment: values"]
    assert fields(load)["segment", "enum"]["bins"][-1]["label"] == "gone"


def test_distributions__after_going_back__are_held_against_the_table_that_is_served(scene: Scene) -> None:
    first = columns(range(1000))
    scene.load(first)
    scene.model.max_psi = 9.0
    scene.model.save()
    scene.load(columns(range(1000), segment=["new"] * 1000))
    table_roll_back(version=scene.version, actor=None, reason="wrong")
    load = scene.load(first)
    assert {field["psi"] for field in load.report["fields"]} == {0.0}


def test_distributions__many_rows__a_sample_of_the_same_keys_is_counted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributions, "SAMPLE_ROWS", 1500)
    first = scene.load(columns(range(4000)))
    rows = first.report["distribution"]["rows"]
    assert 1300 < rows < 1700
    assert scene.load(columns(range(4000))).report["distribution"] == first.report["distribution"]
