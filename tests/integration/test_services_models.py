from __future__ import annotations

import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from models_registry.catalogue import limits
from models_registry.catalogue.limits import MAX_WAITING_LOADS, publishable_bytes
from models_registry.catalogue.rules import MAX_LAYOUT_FIELDS
from models_registry.catalogue.services import (
    default_set,
    layout_add,
    model_create,
    model_update,
    source_set,
    version_create,
)
from models_registry.loading.requests import load_request, table_roll_back
from models_registry.models import (
    Layout,
    Load,
    LoadState,
    Override,
    RecommendationModel,
    RolloutRevision,
    SourceKind,
    Table,
    TableState,
    Version,
)
from models_registry.rollouts.testers import remove_tester, set_tester
from tenants.models import AuditEntry, Tenant, User
from tenants.rules import LimitReached, RuleBroken
from tenants.services import tenant_end, tenant_update
from tests.factories import DEFAULT_ANSWER, LAYOUT, LoadFactory, TableFactory, TenantFactory, VersionFactory

pytestmark = pytest.mark.django_db

BADGE = {"name": "badge", "type": "string", "max_bytes": 8}
NARROW_LAYOUT = [BADGE]
WIDER_LAYOUT = [*LAYOUT, {"name": "badge", "type": "string", "max_bytes": 8, "optional": True}]


def new_model(tenant: Tenant, actor: User | None = None, **values: Any) -> RecommendationModel:
    usual: dict[str, Any] = {
        "slug": "offers",
        "name": "Offers",
        "key_fields": ["player_id"],
        "layout": LAYOUT,
        "unit_field": "player_id",
        "default_answer": DEFAULT_ANSWER,
    }
    return model_create(tenant=tenant, actor=actor, **{**usual, **values})


def new_version(model: RecommendationModel, name: str = "a", **values: Any) -> Version:
    usual: dict[str, Any] = {"source_kind": SourceKind.PARQUET, "source_location": "/srv/tables/a.parquet"}
    return version_create(model=model, name=name, actor=None, **{**usual, **values})


@pytest.fixture
def model(studio: Tenant) -> RecommendationModel:
    return new_model(studio)


def last_entry(tenant: Tenant) -> AuditEntry:
    return AuditEntry.objects.for_tenant(tenant).order_by("pk")[::-1][0]


# --- Models and layouts ---------------------------------------------------------------------------------------------


def test_model_create__all_right__has_layout_0_and_an_entry(studio: Tenant, owner: User) -> None:
    model = new_model(studio, owner)
    assert [(layout.revision, layout.fields) for layout in model.layouts.all()] == [(0, LAYOUT)]
    assert (last_entry(studio).action, last_entry(studio).actor) == ("model.create", owner)


def test_model_create__slug_of_another_studio__is_free(studio: Tenant, stranger: User) -> None:
    new_model(studio)
    other = stranger.memberships.get().tenant
    assert new_model(other).slug == "offers"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("slug", {"slug": "two words"}),
        ("name", {"name": ""}),
        ("key_fields", {"key_fields": []}),
        ("key_fields", {"key_fields": "player_id"}),
        ("key_fields", {"key_fields": ["model"], "unit_field": ""}),
        ("key_fields", {"key_fields": ["unit"], "unit_field": ""}),
        ("key_fields", {"key_fields": ["keys"], "unit_field": ""}),
        ("key_fields", {"key_fields": ["player id"], "unit_field": ""}),
        ("key_fields", {"key_fields": ["player&id"], "unit_field": ""}),
        ("key_fields", {"key_fields": ["9lives"], "unit_field": ""}),
        ("key_fields", {"key_fields": [7], "unit_field": ""}),
        ("key_fields", {"key_fields": ["player_id", "player_id"]}),
        ("key_fields", {"key_fields": [f"field{n}" for n in range(9)], "unit_field": ""}),
        ("unit_field", {"unit_field": "country"}),
        ("layout", {"layout": []}),
        ("layout", {"layout": [{"name": "a", "type": "float"}]}),
        ("layout", {"layout": ["a"]}),
        ("layout", {"layout": [{"name": "a", "type": "enum", "values": ["x", "y\0"]}]}),
        (
            "layout",
            {"layout": [{"name": "a", "type": "list", "max_items": 1, "item": {"type": "enum", "values": ["\0"]}}]},
        ),
        ("default_answer", {"default_answer": {"offer_id\0": 1}}),
        ("default_answer", {"default_answer": {"offer_id": 1}}),
        ("default_answer", {"default_answer": {"offer_id": 5000, "discount": 0}}),
        ("default_answer", {"default_answer": {**DEFAULT_ANSWER, "other": 1}}),
        ("default_answer", {"default_answer": [1]}),
        ("max_client_age_seconds", {"max_client_age_seconds": 0}),
        ("max_client_age_seconds", {"max_client_age_seconds": 86_401}),
        ("max_client_age_seconds", {"max_client_age_seconds": True}),
    ],
)
def test_model_create__value_that_will_not_do__is_refused_by_name(
    studio: Tenant, field: str, values: dict[str, Any]
) -> None:
    with pytest.raises(RuleBroken) as refused:
        new_model(studio, **values)
    assert refused.value.field == field
    assert not RecommendationModel.objects.unscoped().exists()
    assert not AuditEntry.objects.unscoped().exists()


def test_model_create__slug_taken__is_refused(model: RecommendationModel) -> None:
    with pytest.raises(RuleBroken, match="already"):
        new_model(model.tenant)


def test_model_update__some_values__says_before_and_after(model: RecommendationModel) -> None:
    model_update(model=model, actor=None, max_client_age_seconds=120, name=model.name)
    model.refresh_from_db()
    assert model.max_client_age_seconds == 120
    entry = last_entry(model.tenant)
    assert (entry.before, entry.after) == ({"max_client_age_seconds": 60}, {"max_client_age_seconds": 120})


@pytest.mark.parametrize(
    "values",
    [
        {"max_row_count_change": 0},
        {"max_row_count_change": float("nan")},
        {"max_psi": 0},
        {"max_psi": float("inf")},
        {"min_coverage": -0.1},
        {"min_coverage": 1.1},
        {"name": " "},
    ],
)
def test_model_update__value_that_will_not_do__is_refused(model: RecommendationModel, values: dict[str, Any]) -> None:
    with pytest.raises(RuleBroken):
        model_update(model=model, actor=None, **values)


def test_layout_add__another_layout__is_the_next_revision_and_old_versions_keep_theirs(
    model: RecommendationModel,
) -> None:
    before = new_version(model)
    layout = layout_add(model=model, fields=WIDER_LAYOUT, actor=None)
    after = new_version(model, "b")
    before.refresh_from_db()
    assert (layout.revision, before.layout.revision, after.layout.revision) == (1, 0, 1)


def test_layout_add__the_newest_again__is_refused(model: RecommendationModel) -> None:
    with pytest.raises(RuleBroken, match="already"):
        layout_add(model=model, fields=LAYOUT, actor=None)


def test_layout_add__after_256_revisions__is_refused(model: RecommendationModel) -> None:
    Layout.objects.create(model=model, revision=255, fields=LAYOUT)
    with pytest.raises(RuleBroken, match="256"):
        layout_add(model=model, fields=WIDER_LAYOUT, actor=None)


def test_default_set__changed__grows_the_revision(model: RecommendationModel) -> None:
    new_version(model)
    default_set(model=model, default_answer={"offer_id": 2, "discount": 0.1}, actor=None)
    default_set(model=model, default_answer={"offer_id": 2, "discount": 0.1}, actor=None)
    layout = default_set(model=model, default_answer=None, actor=None)
    model.refresh_from_db()
    assert (layout.default, layout.default_revision) == (None, 3)
    assert (model.default_answer, model.default_revision) == (None, 3)


def test_default_set__of_each_layout__is_its_own(model: RecommendationModel) -> None:
    old = new_version(model).layout
    new = layout_add(
        model=model, fields=NARROW_LAYOUT, default_answer={"badge": "new"}, keeps_default=False, actor=None
    )
    default_set(model=model, default_answer={**DEFAULT_ANSWER, "offer_id": 9}, layout=old, actor=None)
    default_set(model=model, default_answer={"badge": "old"}, actor=None)
    for layout in (old, new):
        layout.refresh_from_db()
    assert (old.default, new.default) == ({**DEFAULT_ANSWER, "offer_id": 9}, {"badge": "old"})
    assert (old.default_revision, new.default_revision) == (3, 4)
    with pytest.raises(RuleBroken, match="badge"):
        default_set(model=model, default_answer={"badge": "new"}, layout=old, actor=None)
    with pytest.raises(RuleBroken, match="another model"):
        default_set(model=new_model(model.tenant, slug="other"), default_answer=None, layout=old, actor=None)


def test_default_set__the_release_before__is_left_one_that_every_layout_in_use_holds(
    model: RecommendationModel,
) -> None:
    old = new_version(model).layout
    layout_add(model=model, fields=WIDER_LAYOUT, actor=None)
    default_set(model=model, default_answer={**DEFAULT_ANSWER, "badge": "new"}, actor=None)
    model.refresh_from_db()
    assert model.default_answer == DEFAULT_ANSWER, "the newest layout's has a field that the other does not know"
    default_set(model=model, default_answer=None, layout=old, actor=None)
    model.refresh_from_db()
    assert model.default_answer is None


def test_layout__of_the_release_before__has_the_models_default_if_it_fits(model: RecommendationModel) -> None:
    fitting = Layout.objects.create(model=model, revision=1, fields=WIDER_LAYOUT)
    other = Layout.objects.create(model=model, revision=2, fields=NARROW_LAYOUT)
    assert (fitting.default, other.default) == (DEFAULT_ANSWER, None)
    assert fitting.counted_default_revision == model.default_revision


def test_layout_add__default_of_the_one_before_does_not_fit__asks_for_one(model: RecommendationModel) -> None:
    with pytest.raises(RuleBroken, match="badge: a value is required") as refused:
        layout_add(model=model, fields=[*LAYOUT, BADGE], actor=None)
    assert refused.value.field == "default_answer"
    given = {**DEFAULT_ANSWER, "badge": "new"}
    layout = layout_add(model=model, fields=[*LAYOUT, BADGE], default_answer=given, keeps_default=False, actor=None)
    assert (layout.default, layout.default_revision) == (given, 2)
    assert new_version(model).layout == layout


# --- Versions and sources -------------------------------------------------------------------------------------------


def test_version_create__the_first__gets_everybody(model: RecommendationModel) -> None:
    version = new_version(model)
    [revision] = RolloutRevision.objects.for_tenant(model.tenant)
    assert (version.code, revision.number, revision.phase) == (0, 1, 1)
    assert (revision.weights_bp, bytes(revision.allocation)) == ({"0": 10_000}, b"\0" * 10_000)
    assert len(revision.salt) == 32


def test_version_create__the_second__gets_nobody_yet(model: RecommendationModel) -> None:
    new_version(model)
    assert new_version(model, "b").code == 1
    assert RolloutRevision.objects.for_tenant(model.tenant).count() == 1


def test_version_create__code_that_a_deleted_version_had_units_with__is_not_used_again(
    model: RecommendationModel,
) -> None:
    new_version(model).delete()
    assert new_version(model, "b").code == 1


def test_version_create__after_256_codes__is_refused(model: RecommendationModel) -> None:
    layout = model.layouts.get()
    Version.objects.bulk_create(Version(model=model, name=f"v{n}", code=n, layout=layout) for n in range(256))
    with pytest.raises(RuleBroken, match="256"):
        new_version(model)


@pytest.mark.parametrize("name", ["", "two words", "a/b", "-a", "v" * 61, "é"])
def test_version_create__name_that_will_not_do__is_refused(model: RecommendationModel, name: str) -> None:
    with pytest.raises(RuleBroken) as refused:
        new_version(model, name)
    assert refused.value.field == "name"


def test_version_create__name_taken__is_refused_but_free_in_another_model(model: RecommendationModel) -> None:
    new_version(model)
    with pytest.raises(RuleBroken, match="already"):
        new_version(model)
    assert new_version(new_model(model.tenant, slug="other")).name == "a"


def test_version_create__layout_of_another_model__is_refused(model: RecommendationModel) -> None:
    other = new_model(model.tenant, slug="other").layouts.get()
    with pytest.raises(RuleBroken, match="another model"):
        new_version(model, layout=other)


@pytest.mark.parametrize(
    ("kind", "location"),
    [
        ("parquet", "/srv/tables/*.parquet"),
        ("parquet", "gs://studio-tables/out/offers/*.parquet"),
        ("bigquery_table", "analytics.recommendations.offers"),
        ("bigquery_query", "SELECT * FROM `analytics.recommendations.offers`"),
    ],
)
def test_source_set__what_staff_allow__is_kept(model: RecommendationModel, kind: str, location: str) -> None:
    version = new_version(model, source_location="/srv/tables/before.parquet")
    source_set(version=version, kind=kind, location=f" {location} ", actor=None)
    version.source.refresh_from_db()
    assert (version.source.kind, version.source.location) == (kind, location)
    assert last_entry(model.tenant).before == {"kind": "parquet", "location": "/srv/tables/before.parquet"}


@pytest.mark.parametrize(
    ("kind", "location"),
    [
        ("parquet", "/etc/passwd"),
        ("parquet", "/srv/tables/../secrets/a.parquet"),
        ("parquet", "/srv/tables-of-somebody-else/a.parquet"),
        ("parquet", "relative.parquet"),
        ("parquet", "file:///srv/tables/a.parquet"),
        ("parquet", "s3://studio-tables/out/a.parquet"),
        ("parquet", "gs://studio-tables/other/a.parquet"),
        ("parquet", "gs://studio-tables/out/../other/a.parquet"),
        ("parquet", " "),
        ("parquet", "/srv/tables/a\0.parquet"),
        ("bigquery_table", "analytics.other.offers"),
        ("bigquery_table", "recommendations.offers"),
        ("bigquery_table", "analytics.recommendations.offers; DROP"),
        ("csv", "/srv/tables/a.csv"),
    ],
)
def test_source_set__what_staff_do_not_allow__is_refused(model: RecommendationModel, kind: str, location: str) -> None:
    version = new_version(model)
    with pytest.raises(RuleBroken):
        source_set(version=version, kind=kind, location=location, actor=None)
    version.source.refresh_from_db()
    assert version.source.location == "/srv/tables/a.parquet"


@pytest.mark.parametrize(
    ("kind", "location"),
    [
        ("parquet", "/srv/tables/a.parquet"),
        ("parquet", "gs://studio-tables/out/a.parquet"),
        ("bigquery_table", "analytics.recommendations.offers"),
        ("bigquery_query", "SELECT 1"),
    ],
)
def test_source_set__nothing_of_that_kind_allowed__says_who_can_allow_it(
    model: RecommendationModel, kind: str, location: str
) -> None:
    version = new_version(model)
    nothing: list[str] = []
    tenant_update(
        tenant=model.tenant,
        actor=None,
        allowed_datasets=nothing,
        allowed_gs_prefixes=nothing,
        allowed_local_roots=nothing,
    )
    with pytest.raises(RuleBroken, match="Ask platform staff to allow it"):
        source_set(version=version, kind=kind, location=location, actor=None)


# --- Loads and tables -----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_load_request__twice__has_rising_fences_and_both_reach_the_queue(
    studio: Tenant, owner: User, valkey: Any, celery_queue: Any
) -> None:
    version = new_version(new_model(studio))
    loads = [load_request(version=version, actor=owner) for _ in range(2)]
    assert [load.fence for load in loads] == [1, 2]
    assert [load.state for load in loads] == [LoadState.QUEUED] * 2
    assert (loads[0].source_kind, loads[0].source_location) == ("parquet", "/srv/tables/a.parquet")
    assert (loads[0].requested_by, loads[0].requested_by_name) == (owner, owner.username)
    assert celery_queue() == [("loading.run", [loads[0].pk]), ("loading.run", [loads[1].pk])]
    assert last_entry(studio).action == "load.request"


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("valkey", "broker_away")
def test_load_request__broker_away__stays_queued_and_the_caller_goes_on(
    studio: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    version = new_version(new_model(studio))
    load = load_request(version=version, actor=None)
    load.refresh_from_db()
    assert load.state == LoadState.QUEUED
    assert f"load.not_enqueued task=loading.run id={load.pk}" in caplog.text


def test_load_request__no_source__is_refused(model: RecommendationModel) -> None:
    version = VersionFactory.create(model=model)
    with pytest.raises(RuleBroken, match="no source"):
        load_request(version=version, actor=None)
    assert not Load.objects.unscoped().exists()


def test_load_request__studio_ended__is_refused(model: RecommendationModel) -> None:
    version = new_version(model)
    tenant_end(tenant=model.tenant, actor=None, reason="over")
    with pytest.raises(RuleBroken, match="ended"):
        load_request(version=version, actor=None)


# --- How much a studio may have -------------------------------------------------------------------------------------


def enum_of(size_bytes: int, name: str = "kind") -> list[dict[str, Any]]:
    """Return a layout that takes about so many bytes."""
    return [{"name": name, "type": "enum", "values": [f"{number:027}" for number in range(size_bytes // 28)]}]


def test_layouts__more_than_serving_may_be_given__are_refused_and_nothing_is_kept(
    studio: Tenant, model: RecommendationModel
) -> None:
    default_set(model=model, default_answer=None, actor=None)
    layout_add(model=model, fields=enum_of(1_500_000), actor=None)
    with pytest.raises(LimitReached, match=r"would take 2\.\d MB\. The limit is 2\.0 MB") as refused:
        layout_add(model=model, fields=enum_of(600_000, "other"), actor=None)
    assert refused.value.field == "layout"
    with pytest.raises(LimitReached):
        new_model(studio, slug="other", layout=enum_of(600_000), default_answer=None)
    assert Layout.objects.for_tenant(studio).count() == 2
    assert RecommendationModel.objects.for_tenant(studio).count() == 1
    new_model(TenantFactory.create(), layout=enum_of(600_000), default_answer=None)


def test_everything_else_that_serving_is_given__counts_too(
    model: RecommendationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = new_version(model)
    size_bytes = publishable_bytes(model.tenant)
    assert 10_200 < size_bytes < 11_000
    monkeypatch.setattr(limits, "MAX_PUBLISHED_BYTES", size_bytes + 100)
    set_tester(model=model, unit="t", version=version, actor=None)
    with pytest.raises(LimitReached):
        set_tester(model=model, unit="t" * 101, version=version, actor=None)
    with pytest.raises(LimitReached):
        new_version(model, "b")
    monkeypatch.setattr(limits, "MAX_PUBLISHED_BYTES", size_bytes - 1)
    with pytest.raises(LimitReached):
        default_set(model=model, default_answer={**DEFAULT_ANSWER, "offer_id": 2}, actor=None)
    # What makes it less, or no more, goes on.
    default_set(model=model, default_answer=None, actor=None)
    set_tester(model=model, unit="t", version=version, actor=None, note="again")


def test_testers__as_many_as_a_model_may_have__the_next_is_refused(
    model: RecommendationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = new_version(model)
    monkeypatch.setattr(limits, "MAX_TESTERS", 2)
    for unit in ("a", "b"):
        set_tester(model=model, unit=unit, version=version, actor=None)
    with pytest.raises(LimitReached, match="already has the maximum of 2 testers") as refused:
        set_tester(model=model, unit="c", version=version, actor=None)
    assert refused.value.field == "unit"
    set_tester(model=model, unit="b", version=version, actor=None, note="the same tester")
    remove_tester(model=model, unit="a", actor=None)
    set_tester(model=model, unit="c", version=version, actor=None)


def test_dry_run__while_one_of_the_version_waits__is_refused_and_names_it(model: RecommendationModel) -> None:
    version, other = new_version(model), new_version(model, "b")
    waiting = load_request(version=version, actor=None, dry_run=True)
    with pytest.raises(LimitReached, match=f"Load {waiting.fence}, a dry run of “a”, is already queued"):
        load_request(version=version, actor=None, dry_run=True)
    load_request(version=other, actor=None, dry_run=True)
    load_request(version=version, actor=None)
    Load.objects.unscoped().filter(pk=waiting.pk).update(state=LoadState.EXTRACTING)
    load_request(version=version, actor=None, dry_run=True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("celery_queue")
def test_dry_runs__asked_for_at_once__one_waits(model: RecommendationModel) -> None:
    version = new_version(model)
    together = threading.Barrier(4)

    def ask() -> None:
        own = Version.objects.unscoped().get(pk=version.pk)
        together.wait(10)
        with suppress(LimitReached):
            load_request(version=own, actor=None, dry_run=True)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Load.objects.unscoped().filter(version=version).count() == 1


def test_loads__as_many_wait_as_may__the_next_of_this_studio_is_refused(model: RecommendationModel) -> None:
    version = new_version(model)
    LoadFactory.create_batch(MAX_WAITING_LOADS - 1, version=version)
    LoadFactory.create(version=version, state=LoadState.EXTRACTING)
    Version.objects.unscoped().update(last_fence=MAX_WAITING_LOADS)
    load_request(version=version, actor=None)
    for is_dry_run in (False, True):
        with pytest.raises(LimitReached, match="50 loads are already queued"):
            load_request(version=version, actor=None, dry_run=is_dry_run)
    load_request(version=new_version(new_model(TenantFactory.create(allowed_local_roots=["/srv"]))), actor=None)


def version_with_two_tables(model: RecommendationModel) -> Version:
    version = new_version(model)
    version.previous_table = TableFactory.create(load__version=version)
    version.active_table = TableFactory.create(load__version=version)
    version.save()
    return version


def test_table_roll_back__once_and_again__is_the_earlier_table_and_then_the_first_one(
    model: RecommendationModel, owner: User
) -> None:
    version = version_with_two_tables(model)
    active, previous = version.active_table, version.previous_table
    table_roll_back(version=version, actor=owner, reason="odd offers")
    version.refresh_from_db()
    assert (version.active_table, version.previous_table) == (previous, active)
    assert last_entry(model.tenant).reason == "odd offers"
    table_roll_back(version=version, actor=owner, reason="")
    version.refresh_from_db()
    assert (version.active_table, version.previous_table) == (active, previous)


def test_table_roll_back__no_earlier_table__is_refused(model: RecommendationModel) -> None:
    with pytest.raises(RuleBroken, match="no earlier table"):
        table_roll_back(version=new_version(model), actor=None, reason="")


def test_table_roll_back__earlier_table_being_dropped__is_refused(model: RecommendationModel) -> None:
    version = version_with_two_tables(model)
    assert version.previous_table is not None
    version.previous_table.state = TableState.DROPPING
    version.previous_table.save()
    with pytest.raises(RuleBroken, match="no longer complete"):
        table_roll_back(version=version, actor=None, reason="")


def test_table_roll_back__the_older_of_two__the_other_two_are_kept_in_turn(model: RecommendationModel) -> None:
    version = version_with_two_tables(model)
    active, previous = version.active_table, version.previous_table
    older = TableFactory.create(load__version=version)
    Version.objects.unscoped().filter(pk=version.pk).update(older_table=older)
    table_roll_back(version=version, actor=None, reason="", table=older)
    assert (version.active_table, version.previous_table, version.older_table) == (older, active, previous)
    version.refresh_from_db()
    assert (version.active_table, version.previous_table, version.older_table) == (older, active, previous)
    table_roll_back(version=version, actor=None, reason="", table=previous)
    version.refresh_from_db()
    assert (version.active_table, version.previous_table, version.older_table) == (previous, older, active)


def test_table_roll_back__a_table_that_is_not_kept__is_refused(model: RecommendationModel) -> None:
    version = version_with_two_tables(model)
    for table in (TableFactory.create(load__version=version), version.active_table):
        with pytest.raises(RuleBroken, match="does not keep that table") as refused:
            table_roll_back(version=version, actor=None, reason="", table=table)
        assert refused.value.field == "table"


def test_table_roll_back__redis_lost_part_of_it__is_refused(model: RecommendationModel) -> None:
    version = version_with_two_tables(model)
    assert version.previous_table is not None
    Table.objects.unscoped().filter(pk=version.previous_table.pk).update(lost_at=timezone.now())
    with pytest.raises(RuleBroken, match="no longer complete"):
        table_roll_back(version=version, actor=None, reason="")


@pytest.mark.parametrize("limit", [0, -1, 10**9])
def test_load_request__a_limit_that_will_not_do__is_refused(limit: int, model: RecommendationModel) -> None:
    with pytest.raises(RuleBroken) as refused:
        load_request(version=new_version(model), actor=None, rows_per_second_limit=limit)
    assert refused.value.field == "rows_per_second_limit"


# --- Testers ------------------------------------------------------------------------------------------------------


def test_tester_set__then_another_version__then_removed__leaves_three_entries(model: RecommendationModel) -> None:
    first, second = new_version(model), new_version(model, "b")
    set_tester(model=model, unit="tester", version=first, actor=None, note="QA phone")
    set_tester(model=model, unit="tester", version=second, actor=None)
    [override] = Override.objects.for_tenant(model.tenant)
    assert override.version == second
    remove_tester(model=model, unit="tester", actor=None)
    assert not Override.objects.for_tenant(model.tenant).exists()
    actions = AuditEntry.objects.for_tenant(model.tenant).filter(action__startswith="override").order_by("pk")
    assert [entry.action for entry in actions] == ["override.set", "override.set", "override.remove"]


@pytest.mark.parametrize("unit", ["", "line\nbreak", "x" * 257, "é" * 129])
def test_tester_set__unit_that_cannot_be_bucketed__is_refused(model: RecommendationModel, unit: str) -> None:
    with pytest.raises(RuleBroken):
        set_tester(model=model, unit=unit, version=new_version(model), actor=None)


def test_tester_set__version_of_another_model__is_refused(model: RecommendationModel) -> None:
    other = new_version(new_model(model.tenant, slug="other"))
    with pytest.raises(RuleBroken, match="another model"):
        set_tester(model=model, unit="tester", version=other, actor=None)


def test_override_remove__none_there__is_refused(model: RecommendationModel) -> None:
    with pytest.raises(RuleBroken):
        remove_tester(model=model, unit="tester", actor=None)


def test_audit__everything_that_was_done__is_there_with_its_time(model: RecommendationModel) -> None:
    new_version(model)
    entries = AuditEntry.objects.for_tenant(model.tenant)
    assert {entry.action for entry in entries} == {"model.create", "version.create"}
    assert all(abs(timezone.now() - entry.at) < timedelta(minutes=1) for entry in entries)


def test_layout__of_more_fields_than_it_may_have__is_refused(model: RecommendationModel) -> None:
    fields = [{"name": f"f{n}", "type": "bool"} for n in range(MAX_LAYOUT_FIELDS)]
    layout_add(model=model, fields=fields, keeps_default=False, actor=None)
    with pytest.raises(RuleBroken, match="at most 256 fields, and this one has 257"):
        layout_add(model=model, fields=[*fields, {"name": "more", "type": "bool"}], actor=None)
