from __future__ import annotations

from typing import Any

import pytest

from models_registry.catalogue.selectors import model_summary, weights_by_code
from models_registry.models import RecommendationModel, RolloutRevision, Version
from models_registry.publishing import build_tenant
from models_registry.rollouts.allocation import Flow, weights_of
from models_registry.rollouts.services import (
    Effect,
    current_rollout,
    default_sentence,
    effect_sentence,
    rollout_go_back,
    rollout_go_back_preview,
    rollout_new_phase,
    rollout_preview,
    rollout_reweight,
    rollout_serve_default,
)
from tenants.models import AuditEntry, Tenant, User
from tenants.rules import ChangedMeanwhile, RuleBroken
from tests.factories import LayoutFactory, ModelFactory, RolloutRevisionFactory, VersionFactory

pytestmark = pytest.mark.django_db

NAMES = {0: "A", 1: "B", 2: "C"}


@pytest.fixture
def model(studio: Tenant) -> RecommendationModel:
    """Return a model with versions 0, 1, 2 at 60/30/10."""
    model = ModelFactory.create(tenant=studio, slug="offers")
    VersionFactory.create_batch(3, model=model)
    RolloutRevisionFactory.create(model=model, weights={0: 6000, 1: 3000, 2: 1000})
    return model


def allocation(model: RecommendationModel) -> bytes:
    revision = current_rollout(model)
    assert revision is not None
    return bytes(revision.allocation)


def reweight(model: RecommendationModel, *weights: int, reason: str = "") -> RolloutRevision:
    return rollout_reweight(model=model, weights_bp=dict(enumerate(weights)), actor=None, reason=reason)


def test_rollout_reweight__the_example_of_the_design__is_what_the_preview_said(
    model: RecommendationModel, owner: User
) -> None:
    wanted = {0: 5000, 1: 3000, 2: 2000}
    effect = rollout_preview(model=model, weights_bp=wanted)
    assert effect == Effect(1000, (Flow(0, 2, 1000),))
    assert effect_sentence(effect, NAMES, "players") == "10 % of players change version: 10 % from A to C."
    before = allocation(model)
    revision = rollout_reweight(model=model, weights_bp=wanted, actor=owner, reason="C does well")
    assert (revision.number, revision.phase, revision.moved_bp) == (2, 1, 1000)
    assert weights_by_code(revision.weights_bp) == weights_of(allocation(model)) == wanted
    assert sum(a != b for a, b in zip(before, allocation(model), strict=True)) == 1000
    entry = AuditEntry.objects.for_tenant(model.tenant).get()
    assert (entry.actor, entry.reason) == (owner, "C does well")
    assert entry.before == {"revision": 1, "phase": 1, "weights_bp": {"0": 6000, "1": 3000, "2": 1000}}
    assert entry.after == {"revision": 2, "phase": 1, "weights_bp": {"0": 5000, "1": 3000, "2": 2000}}


def test_rollout_preview__several_givers__is_exactly_what_saving_does(model: RecommendationModel) -> None:
    reweight(model, 4000, 3000, 3000)
    effect = rollout_preview(model=model, weights_bp={0: 5500, 1: 3500, 2: 1000})
    before = allocation(model)
    revision = reweight(model, 5500, 3500, 1000)
    after = allocation(model)
    counted = {
        Flow(a, b, sum(pair == (a, b) for pair in zip(before, after, strict=True)))
        for a, b in set(zip(before, after, strict=True))
        if a != b
    }
    assert set(effect.flows) == counted
    assert effect.moved_bp == revision.moved_bp == 2000


def test_rollout_reweight__up_and_back_in_steps__restores_the_map(model: RecommendationModel) -> None:
    start = allocation(model)
    for weights in [(5000, 3000, 2000), (4500, 2500, 3000), (5000, 2750, 2250), (6000, 3000, 1000)]:
        reweight(model, *weights)
    assert allocation(model) == start


def test_rollout_reweight__maps_that_an_earlier_release_drew__stay_and_move_least(model: RecommendationModel) -> None:
    # Drawn as no rule of today draws: in stretches, and the newcomer from the end.
    first, second = bytes([0] * 9000 + [1] * 1000), bytes([0] * 8500 + [2] * 500 + [1] * 1000)
    for drawn in (first, second):
        current = current_rollout(model)
        assert current is not None
        weights = {str(code): bp for code, bp in weights_of(drawn).items()}
        RolloutRevisionFactory.create(
            model=model, number=current.number + 1, salt=current.salt, allocation=drawn, weights_bp=weights
        )
    assert build_tenant(model.tenant).models[0].allocation == second
    effect = rollout_preview(model=model, weights_bp={0: 8000, 1: 1000, 2: 1000})
    assert effect == Effect(500, (Flow(0, 2, 500),))
    reweight(model, 9000, 1000)
    assert allocation(model) == first


def test_rollout_reweight__a_version_left_out__has_none(model: RecommendationModel) -> None:
    revision = rollout_reweight(model=model, weights_bp={1: 10_000, 2: 0}, actor=None, reason="")
    assert revision.weights_bp == {"1": 10_000}


@pytest.mark.parametrize(
    "weights",
    [
        {0: 6000, 1: 3000, 2: 1000},
        {0: 6000, 1: 3000},
        {0: 6000, 1: 3000, 2: 1001},
        {0: 6000, 1: 3000, 7: 1000},
        {0: 11_000, 1: -1000},
        {0: 5000.0, 1: 5000},
        {0: True, 1: 9999},
        {},
    ],
)
def test_rollout_reweight__weights_that_will_not_do__are_refused(
    model: RecommendationModel, weights: dict[int, Any]
) -> None:
    with pytest.raises(RuleBroken) as refused:
        rollout_reweight(model=model, weights_bp=weights, actor=None, reason="")
    assert refused.value.field == "weights_bp"
    assert model.rollout_revisions.count() == 1


def test_rollout_reweight__wrong_sum__says_what_it_is(model: RecommendationModel) -> None:
    with pytest.raises(RuleBroken, match=r"99\.99 %"):
        reweight(model, 6000, 3000, 999)


def test_rollout_reweight__model_without_versions__is_refused(studio: Tenant) -> None:
    with pytest.raises(RuleBroken, match="no version"):
        reweight(ModelFactory.create(tenant=studio), 10_000)


def test_rollout_reweight__code_of_another_models_version__is_refused(model: RecommendationModel) -> None:
    VersionFactory.create(model=ModelFactory.create(tenant=model.tenant), code=9)
    with pytest.raises(RuleBroken):
        rollout_reweight(model=model, weights_bp={0: 9000, 9: 1000}, actor=None, reason="")


def test_rollout_go_back__to_an_earlier_revision__restores_its_map_exactly(
    model: RecommendationModel, owner: User
) -> None:
    start = allocation(model)
    reweight(model, 1000, 2000, 7000)
    reweight(model, 0, 10_000, 0)
    effect = rollout_go_back_preview(model=model, number=1)
    revision = rollout_go_back(model=model, number=1, actor=owner, reason="too bold")
    assert bytes(revision.allocation) == start == allocation(model)
    assert revision.restores is not None
    assert (revision.number, revision.restores.number, revision.moved_bp) == (4, 1, 7000)
    assert effect.moved_bp == 7000


def test_rollout_go_back__over_a_phase__brings_its_salt_and_phase(model: RecommendationModel) -> None:
    first = current_rollout(model)
    assert first is not None
    rollout_new_phase(model=model, actor=None, reason="")
    revision = rollout_go_back(model=model, number=1, actor=None, reason="")
    assert (revision.salt, revision.phase, bytes(revision.allocation)) == (first.salt, 1, bytes(first.allocation))
    assert rollout_new_phase(model=model, actor=None, reason="").phase == 3


@pytest.mark.parametrize("number", [0, 1, 2])
def test_rollout_go_back__to_nothing_or_to_the_present__is_refused(model: RecommendationModel, number: int) -> None:
    with pytest.raises(RuleBroken):
        rollout_go_back(model=model, number=number, actor=None, reason="")


def test_rollout_go_back__to_a_version_that_is_gone__is_refused(model: RecommendationModel) -> None:
    reweight(model, 7000, 3000, 0)
    Version.objects.for_tenant(model.tenant).filter(code=2).delete()
    with pytest.raises(RuleBroken, match="does not have"):
        rollout_go_back(model=model, number=1, actor=None, reason="")


def test_rollout_serve_default__and_back__leaves_the_allocation_as_it_was(model: RecommendationModel) -> None:
    reweight(model, 5000, 4000, 1000)
    before = allocation(model)
    stopped = rollout_serve_default(model=model, actor=None, reason="It crashes")
    assert (stopped.serves_default, stopped.moved_bp, stopped.number) == (True, 0, 3)
    entry = AuditEntry.objects.unscoped().latest("pk")
    assert (entry.action, entry.reason) == ("rollout.serve_default", "It crashes")
    assert entry.summary == f"Served the default of “{model.slug}” to everybody."
    assert (entry.before or {})["serves_default"] is False
    assert (entry.after or {})["serves_default"] is True
    with pytest.raises(RuleBroken, match="already get the default answer") as refused:
        rollout_serve_default(model=model, actor=None, reason="")
    assert refused.value.field == "serves_default"
    with pytest.raises(ChangedMeanwhile):
        rollout_serve_default(model=model, actor=None, reason="", serves_default=False, based_on=2)
    again = rollout_serve_default(model=model, actor=None, reason="", serves_default=False)
    assert not again.serves_default
    assert allocation(model) == before


def test_rollout_serve_default__other_changes_meanwhile__do_not_end_it_but_going_back_does(
    model: RecommendationModel,
) -> None:
    rollout_serve_default(model=model, actor=None, reason="")
    assert reweight(model, 5000, 4000, 1000).serves_default
    assert rollout_new_phase(model=model, actor=None, reason="").serves_default
    assert not rollout_go_back(model=model, number=1, actor=None, reason="").serves_default
    assert rollout_go_back(model=model, number=3, actor=None, reason="").serves_default
    last = rollout_go_back(model=model, number=1, actor=None, reason="")
    stopped = rollout_serve_default(model=model, actor=None, reason="")
    back = rollout_go_back(model=model, number=last.number, actor=None, reason="")
    assert (stopped.serves_default, back.serves_default) == (True, False)
    assert bytes(back.allocation) == bytes(stopped.allocation), "the undo of a stop, whose map is the same"


def test_default_sentence__some_layout_without_one__says_who_gets_nothing(model: RecommendationModel) -> None:
    assert default_sentence(model_summary(model)) == "100 % of players get the default answer."
    bare = LayoutFactory.create(model=model, default_answer=None)
    model.versions.filter(code=1).update(layout=bare)
    assert default_sentence(model_summary(model)) == (
        "30 % of players get no recommendation, 70 % the default answer. Layout 1 has no default."
    )
    model.layouts.update(default_answer=None)
    model.versions.filter(code=2).update(layout=bare)
    assert (
        default_sentence(model_summary(model))
        == "100 % of players get no recommendation. Layouts 0, 1 have no default."
    )


def test_rollout_new_phase__same_weights__everybody_gets_a_new_slot(model: RecommendationModel) -> None:
    before = current_rollout(model)
    revision = rollout_new_phase(model=model, actor=None, reason="a fresh start")
    assert before is not None
    assert (revision.phase, revision.number) == (2, 2)
    assert revision.salt != before.salt
    assert weights_by_code(revision.weights_bp) == weights_by_code(before.weights_bp)
    # 1 - (0.6² + 0.3² + 0.1²)
    assert revision.moved_bp == 5400


def test_rollout_new_phase__a_reweight_after_it__does_not_look_at_the_phase_before(
    model: RecommendationModel,
) -> None:
    reweight(model, 5000, 3000, 2000)
    fresh = rollout_new_phase(model=model, actor=None, reason="", weights_bp={0: 5000, 1: 3000, 2: 2000})
    reweight(model, 6000, 3000, 1000)
    back = reweight(model, 5000, 3000, 2000)
    assert bytes(back.allocation) == bytes(fresh.allocation)


@pytest.mark.parametrize(
    ("effect", "sentence"),
    [
        (Effect(0, ()), "No players change version."),
        (Effect(5, (Flow(0, 1, 5),)), "0.05 % of players change version: 0.05 % from A to B."),
        (
            Effect(350, (Flow(0, 1, 300), Flow(2, 9, 50))),
            "3.5 % of players change version: 3 % from A to B, 0.5 % from C to version 9.",
        ),
        (Effect(10_000, (Flow(0, 1, 10_000),)), "100 % of players change version: 100 % from A to B."),
        (
            Effect(2400, (Flow(0, 1, 2400),), is_new_phase=True),
            "About 24 % of players change version: 24 % from A to B.",
        ),
    ],
)
def test_effect_sentence__each_kind__reads_as_people_speak(effect: Effect, sentence: str) -> None:
    assert effect_sentence(effect, NAMES, "players") == sentence


def test_effect__of_a_model_that_buckets_by_the_whole_key__speaks_of_keys(model: RecommendationModel) -> None:
    model.unit_field = ""
    model.save()
    effect = rollout_preview(model=model, weights_bp={0: 5000, 1: 3000, 2: 2000})
    assert effect_sentence(effect, NAMES, model.units_word) == "10 % of keys change version: 10 % from A to C."
    reweight(model, 5000, 3000, 2000)
    summary = AuditEntry.objects.for_tenant(model.tenant).get().summary
    assert summary == f"Changed the weights of “{model.slug}”: 10 % of keys change version."


def test_current_rollout__many_revisions__is_one_query(
    model: RecommendationModel, django_assert_num_queries: Any
) -> None:
    reweight(model, 5000, 3000, 2000)
    with django_assert_num_queries(1):
        revision = current_rollout(model)
    assert revision is not None
    assert revision.number == 2
