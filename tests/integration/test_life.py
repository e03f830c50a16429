"""A model lives through years: nothing on a phone is decoded by the wrong layout or named by the wrong version."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from models_registry.catalogue.archiving import version_archive
from models_registry.catalogue.codes import CODE_RETURNS_AFTER, code_names_of, codes_left
from models_registry.catalogue.limits import publishable_bytes
from models_registry.catalogue.selectors import history_of, model_summary
from models_registry.catalogue.services import layout_add, model_create, source_set, version_create
from models_registry.loading.requests import load_request
from models_registry.loading.schedules import freshness_set, schedule_set
from models_registry.models import (
    MAX_CODE,
    LoadState,
    RecommendationModel,
    Schedule,
    TableState,
    Version,
)
from models_registry.publishing import build_tenant
from models_registry.rollouts.services import rollout_go_back, rollout_go_back_preview, rollout_reweight
from models_registry.rollouts.testers import set_tester
from serving.formats.layouts import Layout
from serving.formats.seals import TenantSeals
from serving.prepared import PreparedModel
from tenants.models import AuditEntry, Tenant
from tenants.rules import RuleBroken
from tests.factories import (
    DEFAULT_ANSWER,
    LAYOUT,
    SOME_TIME,
    LoadFactory,
    OverrideFactory,
    TableFactory,
)

pytestmark = pytest.mark.django_db

BADGE = {"name": "badge", "type": "enum", "values": ["gold", "silver"]}
PHONE_KEEPS = timedelta(days=1) * 1.1


@pytest.fixture
def model(studio: Tenant) -> RecommendationModel:
    return model_create(
        tenant=studio,
        slug="offers",
        name="Offers",
        key_fields=["player_id"],
        unit_field="player_id",
        layout=LAYOUT,
        default_answer=DEFAULT_ANSWER,
        max_client_age_seconds=86_400,
        actor=None,
    )


def new_version(model: RecommendationModel, name: str, now: datetime = SOME_TIME) -> Version:
    made = version_create(
        model=model,
        name=name,
        source_kind="parquet",
        source_location="/srv/tables/a.parquet",
        actor=None,
        now=now,
    )
    Version.objects.unscoped().filter(pk=made.pk).update(created_at=now)
    return made


def give_all(model: RecommendationModel, version: Version, now: datetime) -> None:
    saved = rollout_reweight(model=model, weights_bp={version.code: 10_000}, actor=None, reason="")
    type(saved).objects.unscoped().filter(pk=saved.pk).update(created_at=now)


# --- Archiving --------------------------------------------------------------------------------------------------------


def test_version_archive__out_of_use__lets_everything_go_but_its_history(model: RecommendationModel) -> None:
    new_version(model, "kept")
    version = new_version(model, "old")
    version.active_table = TableFactory.create(load__version=version)
    version.save()
    schedule_set(version=version, kind="interval", every_minutes=60, actor=None)
    freshness_set(version=version, minutes=60, actor=None)
    before = publishable_bytes(model.tenant)
    archived = version_archive(version=version, actor=None, reason="It is bad", now=SOME_TIME)
    archived.refresh_from_db()
    assert (archived.active_table, archived.freshness_minutes, archived.archived_at) == (None, None, SOME_TIME)
    assert (archived.byte, archived.former_code) == (1, 1)
    assert archived.tables.get().state == TableState.DROPPING
    assert archived.loads.count() == 1
    assert not Schedule.objects.for_tenant(model.tenant).exists()
    entry = AuditEntry.objects.unscoped().latest("pk")
    assert (entry.action, entry.reason, entry.before) == ("version.archive", "It is bad", {"code": 1})
    assert [state.name for state in model_summary(model).versions] == ["kept"]
    assert [version.name for version in build_tenant(model.tenant).models[0].versions] == ["kept"]
    assert publishable_bytes(model.tenant) < before


def test_version_archive__in_use__says_what_to_do_first(model: RecommendationModel) -> None:
    served, tried, loaded = (new_version(model, name) for name in ("served", "tried", "loaded"))
    OverrideFactory.create(version=tried)
    LoadFactory.create(version=loaded, state=LoadState.QUEUED)
    for version, words in ((served, "has a weight"), (tried, "has testers"), (loaded, "waiting or running")):
        with pytest.raises(RuleBroken, match=words):
            version_archive(version=version, actor=None, reason="")
    assert not Version.objects.unscoped().exclude(archived_at=None).exists()


def test_version_archive__archived__takes_no_part_any_more(model: RecommendationModel) -> None:
    new_version(model, "kept")
    version = new_version(model, "old")
    version_archive(version=version, actor=None, reason="")
    source = {"kind": "parquet", "location": "/srv/tables/b.parquet"}
    for act in (
        lambda: version_archive(version=version, actor=None, reason=""),
        lambda: source_set(version=version, actor=None, **source),
        lambda: load_request(version=version, actor=None),
        lambda: schedule_set(version=version, kind="interval", every_minutes=60, actor=None),
        lambda: freshness_set(version=version, minutes=60, actor=None),
        lambda: set_tester(model=model, unit="u", version=version, actor=None),
    ):
        with pytest.raises(RuleBroken, match="“old” is archived"):
            act()
    with pytest.raises(RuleBroken, match="does not have"):
        rollout_reweight(model=model, weights_bp={version.code: 10_000}, actor=None, reason="")
    with pytest.raises(RuleBroken, match="already has a version “old”"):
        new_version(model, "old")


def test_codes__all_used__come_back_after_the_client_age_and_a_day(model: RecommendationModel) -> None:
    layout = model.layouts.get()
    Version.objects.bulk_create(
        Version(model=model, name=f"v{code}", code=code, layout=layout) for code in range(MAX_CODE + 1)
    )
    with pytest.raises(RuleBroken, match=r"all 256 version codes. Archive versions that nobody gets"):
        new_version(model, "more")
    for name, hours in (("v7", 1), ("v3", 2)):
        one = Version.objects.for_tenant(model.tenant).get(name=name)
        version_archive(version=one, actor=None, reason="", now=SOME_TIME + timedelta(hours=hours))
    assert codes_left(model, SOME_TIME + timedelta(hours=2)) == 0
    with pytest.raises(RuleBroken, match="The next one comes back in 49 h 24 min"):
        new_version(model, "more", SOME_TIME + timedelta(hours=2))
    back_at = SOME_TIME + timedelta(hours=1) + CODE_RETURNS_AFTER
    assert codes_left(model, back_at) == 1
    assert new_version(model, "more", back_at).code == 7
    assert new_version(model, "again", back_at + timedelta(hours=1)).code == 3
    assert codes_left(model, back_at + timedelta(hours=1)) == 0


def test_reused_code__is_named_by_who_had_it_then(model: RecommendationModel) -> None:
    layout = model.layouts.get()
    first = new_version(model, "first")
    Version.objects.bulk_create(
        Version(model=model, name=f"v{code}", code=code, layout=layout) for code in range(1, MAX_CODE + 1)
    )
    second = Version.objects.for_tenant(model.tenant).get(code=1)
    Version.objects.unscoped().exclude(pk=first.pk).update(created_at=SOME_TIME)
    give_all(model, second, SOME_TIME + timedelta(hours=1))
    with pytest.raises(RuleBroken, match="weight"):
        version_archive(version=second, actor=None, reason="")
    version_archive(version=first, actor=None, reason="", now=SOME_TIME + timedelta(hours=2))
    later = SOME_TIME + timedelta(hours=2) + CODE_RETURNS_AFTER
    reborn = new_version(model, "reborn", later)
    give_all(model, reborn, later + timedelta(hours=1))
    assert reborn.code == 0
    model.rollout_revisions.filter(number=1).update(created_at=SOME_TIME)
    names = code_names_of(model)
    assert (names.at(SOME_TIME)[0], names.at(later)[0]) == ("first", "reborn")
    lines = history_of(model_summary(model)).rows
    changed = [[(change.name, change.after_bp) for change in line.changes] for line in lines]
    assert changed == [[("reborn", 10_000), ("v1", 0)], [("first", 0), ("v1", 10_000)], [("first", 10_000)]]
    words = "Revision 1 has players for first, which the model does not have any more"
    with pytest.raises(RuleBroken, match=words):
        rollout_go_back_preview(model=model, number=1)
    with pytest.raises(RuleBroken, match=words):
        rollout_go_back(model=model, number=1, actor=None, reason="")
    assert not rollout_go_back(model=model, number=2, actor=None, reason="").serves_default


# --- Years ------------------------------------------------------------------------------------------------------------


@dataclass
class Phones:
    """What phones hold: bit-packed answers by layout revision and code, and what was true when they got them."""

    held: list[tuple[datetime, int, int, bytes, str, tuple[str, ...]]] = field(default_factory=list)

    def ask(self, model: RecommendationModel, now: datetime) -> None:
        """Have each version that is given to somebody answer with its default."""
        [built] = build_tenant(model.tenant).models
        for code in sorted({*built.allocation}):
            served = PreparedModel(built, "x", TenantSeals({}, "t1")).versions[code]
            payload = served.default_payload
            assert payload is not None
            names = tuple(field.name for field in served.layout.fields)
            self.held.append((now, *served.prefix, payload, served.name, names))

    def check(self, model: RecommendationModel, now: datetime) -> None:
        """Hold what phones can still have against what its two bytes mean now."""
        layouts = {layout.revision: Layout.parse(layout.fields) for layout in model.layouts.all()}
        names = {
            version.byte: version.name
            for version in Version.objects.for_tenant(model.tenant).filter(model=model).order_by("created_at", "pk")
        }
        self.held = [one for one in self.held if now - one[0] <= PHONE_KEEPS]
        for _, revision, code, payload, name, fields in self.held:
            assert tuple(layouts[revision].unpack(payload)) == fields
            assert names[code] == name


@pytest.mark.slow
def test_model__300_versions_and_a_new_mandatory_field__nothing_on_a_phone_is_misread(
    model: RecommendationModel,
) -> None:
    layout, phones, now = model.layouts.get(), Phones(), SOME_TIME
    current = new_version(model, "v000", now)
    # Of which 245 stay, so that the other codes go round fast; 24 more are archived already.
    Version.objects.bulk_create(
        Version(model=model, name=f"v{code:03}", code=code, layout=layout) for code in range(1, 246)
    )
    Version.objects.bulk_create(
        Version(model=model, name=f"w{n:03}", code=256 + n, former_code=246 + n % 10, archived_at=now, layout=layout)
        for n in range(24)
    )
    Version.objects.unscoped().exclude(pk=current.pk).update(created_at=SOME_TIME - timedelta(days=1))
    made, used = 0, []
    while made < 30:
        now += timedelta(hours=2)
        if made == 10 and layout.revision == 0:
            default = {**DEFAULT_ANSWER, "badge": "gold"}
            fields = [*LAYOUT, BADGE]
            layout = layout_add(model=model, fields=fields, default_answer=default, keeps_default=False, actor=None)
        phones.check(model, now)
        if not codes_left(model, now):
            with pytest.raises(RuleBroken, match="The next one comes back in"):
                new_version(model, f"x{made:03}", now)
            continue
        newer = new_version(model, f"x{made:03}", now)
        made += 1
        used.append(newer.code)
        half = {current.code: 5_000, newer.code: 5_000}
        rollout_reweight(model=model, weights_bp=half, actor=None, reason="")
        phones.ask(model, now)
        give_all(model, newer, now)
        phones.ask(model, now)
        version_archive(version=current, actor=None, reason="", now=now)
        current = newer
    assert Version.objects.for_tenant(model.tenant).filter(model=model).count() == 300
    assert len(used) > 2 * len(set(used)), "codes went round"
    assert len(phones.held) > 1
