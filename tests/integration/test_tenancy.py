"""Queries on a studio's rows, from a stranger's side: nothing comes back by accident."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Count, Prefetch, Q

from models_registry.models import Source, Version
from tenants.models import Credential, Membership, Tenant
from tenants.scoping import TenantOwned, TenantOwnedQuerySet, UnscopedQuery
from tests.factories import (
    AuditEntryFactory,
    AutomationTokenFactory,
    CredentialFactory,
    CredentialUseFactory,
    IdempotencyRecordFactory,
    LayoutFactory,
    LoadFactory,
    LoadRangeFactory,
    MembershipFactory,
    ModelFactory,
    OverrideFactory,
    RolloutRevisionFactory,
    ScheduleFactory,
    SourceFactory,
    TableFactory,
    TenantFactory,
    TrafficFactory,
    VersionFactory,
)

pytestmark = pytest.mark.django_db

OWNED = [model for model in apps.get_models() if issubclass(model, TenantOwned)]
# One row of each table for the studio that is given; what a test of a new table must add.
ROW_FOR: dict[str, Callable[[Tenant], object]] = {
    "Membership": lambda tenant: MembershipFactory.create(tenant=tenant),
    "Credential": lambda tenant: CredentialFactory.create(tenant=tenant),
    "AutomationToken": lambda tenant: AutomationTokenFactory.create(tenant=tenant),
    "IdempotencyRecord": lambda tenant: IdempotencyRecordFactory.create(tenant=tenant),
    "AuditEntry": lambda tenant: AuditEntryFactory.create(tenant=tenant),
    "RecommendationModel": lambda tenant: ModelFactory.create(tenant=tenant),
    "Layout": lambda tenant: LayoutFactory.create(model__tenant=tenant),
    "Version": lambda tenant: VersionFactory.create(model__tenant=tenant),
    "Source": lambda tenant: SourceFactory.create(version__model__tenant=tenant),
    "Schedule": lambda tenant: ScheduleFactory.create(version__model__tenant=tenant),
    "Load": lambda tenant: LoadFactory.create(version__model__tenant=tenant),
    "LoadRange": lambda tenant: LoadRangeFactory.create(load__version__model__tenant=tenant),
    "Table": lambda tenant: TableFactory.create(load__version__model__tenant=tenant),
    "RolloutRevision": lambda tenant: RolloutRevisionFactory.create(model__tenant=tenant),
    "Traffic": lambda tenant: TrafficFactory.create(version__model__tenant=tenant),
    "CredentialUse": lambda tenant: CredentialUseFactory.create(credential__tenant=tenant),
    "Override": lambda tenant: OverrideFactory.create(version__model__tenant=tenant),
}


async def _collect(rows: Any) -> list[object]:
    return [row async for row in rows.aiterator()]


READS: dict[str, Callable[[Any], object]] = {
    "iterate": list,
    "length": len,
    "truth": bool,
    "index": lambda rows: rows[0],
    "slice": lambda rows: list(rows[:1]),
    "contains": lambda rows: rows.contains(rows.model(pk=1)),
    "iterator": lambda rows: list(rows.iterator()),
    "async iterator": async_to_sync(_collect),
    "get": lambda rows: rows.get(pk=1),
    "first": lambda rows: rows.first(),
    "last": lambda rows: rows.last(),
    "latest": lambda rows: rows.latest("pk"),
    "earliest": lambda rows: rows.earliest("pk"),
    "count": lambda rows: rows.count(),
    "exists": lambda rows: rows.exists(),
    "aggregate": lambda rows: rows.aggregate(Count("pk")),
    "values": lambda rows: list(rows.values("pk")),
    "values_list": lambda rows: list(rows.values_list("pk", flat=True)),
    "annotate": lambda rows: list(rows.annotate(n=Count("pk"))),
    "in_bulk": lambda rows: rows.in_bulk(),
    "in_bulk by id": lambda rows: rows.in_bulk([1]),
    "explain": lambda rows: rows.explain(),
    "filter": lambda rows: list(rows.filter(pk__gt=0)),
    "exclude": lambda rows: list(rows.exclude(pk=0)),
    "order and distinct": lambda rows: list(rows.order_by("pk").distinct()),
    "only": lambda rows: list(rows.only("pk")),
    "select_for_update": lambda rows: list(rows.select_for_update()),
    "raw": lambda rows: list(rows.raw(f"SELECT * FROM {rows.model._meta.db_table}")),
}
WRITES: dict[str, Callable[[Any], object]] = {
    "update": lambda rows: rows.update(pk=1),
    "delete": lambda rows: rows.delete(),
    "get_or_create": lambda rows: rows.get_or_create(pk=1),
    "update_or_create": lambda rows: rows.update_or_create(pk=1),
    "bulk_update": lambda rows: rows.bulk_update([Credential(pk=1, name="x")], ["name"]),
    "bulk_create over a conflict": lambda rows: rows.bulk_create(
        [Credential(pk=1)], update_conflicts=True, update_fields=["name"], unique_fields=["client_id"]
    ),
}


@pytest.mark.parametrize("model", OWNED, ids=lambda model: model.__name__)
def test_manager__of_every_owned_table__refuses_without_a_tenant(model: Any) -> None:
    with pytest.raises(UnscopedQuery, match=model.__name__):
        list(model.objects.all())
    assert model._default_manager.get_queryset()._scope == "none"


@pytest.mark.parametrize("model", OWNED, ids=lambda model: model.__name__)
def test_for_tenant__of_every_owned_table__gives_that_studios_rows_alone(model: Any) -> None:
    mine, other = TenantFactory.create_batch(2)
    own = ROW_FOR[model.__name__](mine)
    foreign = ROW_FOR[model.__name__](other)
    assert own in model.objects.for_tenant(mine)
    assert foreign not in model.objects.for_tenant(mine)
    assert {own, foreign} <= set(model.objects.unscoped())


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_read__without_a_tenant__is_refused_and_runs_no_query(
    read: Callable[[Any], object], django_assert_num_queries: Any
) -> None:
    CredentialFactory.create()
    with django_assert_num_queries(0), pytest.raises(UnscopedQuery):
        read(Credential.objects.all())


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_write__without_a_tenant__is_refused(write: Callable[[Any], object]) -> None:
    credential = CredentialFactory.create(name="untouched")
    with pytest.raises(UnscopedQuery):
        write(Credential.objects.all())
    assert list(Credential.objects.unscoped().values_list("name", flat=True)) == [credential.name]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("read", [n for n in READS if n not in {"raw", "async iterator"}])
def test_read__for_a_stranger__sees_nothing_of_another_studio(read: str) -> None:
    credential = CredentialFactory.create()
    rows = Credential.objects.for_tenant(TenantFactory.create())
    try:
        given = READS[read](rows)
    except (Credential.DoesNotExist, IndexError):
        return
    assert credential.name not in str(given)
    assert given in (None, 0, False) or not given or given == {"pk__count": 0} or read == "explain"


def test_bulk_update__for_a_stranger__changes_nothing_of_another_studio() -> None:
    credential = CredentialFactory.create(name="untouched")
    credential.name = "changed"
    rows = Credential.objects.for_tenant(TenantFactory.create())
    assert rows.bulk_update([credential], ["name"]) == 0
    credential.refresh_from_db()
    assert credential.name == "untouched"


COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "union": lambda a, b: a.order_by().union(b.order_by()),
    "intersection": lambda a, b: a.order_by().intersection(b.order_by()),
    "difference": lambda a, b: a.order_by().difference(b.order_by()),
    "in": lambda a, b: a.filter(pk__in=b),
    "in values": lambda a, b: a.filter(pk__in=b.values("pk")),
    "or in Q": lambda a, b: a.filter(Q(pk=0) | Q(pk__in=b)),
}


@pytest.mark.parametrize("combine", COMBINE.values(), ids=COMBINE)
def test_combined__one_side_without_a_tenant__is_refused_both_ways(combine: Callable[[Any, Any], Any]) -> None:
    foreign = CredentialFactory.create()
    scoped = Credential.objects.for_tenant(TenantFactory.create())
    open_ended = Credential.objects.filter(pk=foreign.pk)
    for a, b in ((scoped, open_ended), (open_ended, scoped), (scoped[:5], open_ended)):
        with pytest.raises((UnscopedQuery, TypeError)):
            list(combine(a, b))


@pytest.mark.parametrize("combine", COMBINE.values(), ids=COMBINE)
def test_combined__both_sides_narrowed__never_gives_a_third_studios_rows(combine: Callable[[Any, Any], Any]) -> None:
    mine, other = CredentialFactory.create_batch(2)
    foreign = CredentialFactory.create()
    rows = combine(Credential.objects.for_tenant(mine.tenant), Credential.objects.for_tenant(other.tenant))
    assert foreign not in list(rows)


def test_and__one_side_narrowed__narrows_or_is_refused() -> None:
    foreign = CredentialFactory.create()
    scoped = Credential.objects.for_tenant(TenantFactory.create())
    assert foreign not in list(scoped & Credential.objects.all())
    with pytest.raises(UnscopedQuery):
        list(Credential.objects.all() & scoped)


def test_for_tenant__nobody_or_unsaved__is_refused() -> None:
    AuditEntryFactory.create(tenant=None)
    entries = apps.get_model("tenants", "AuditEntry").objects
    nobody: Any = None
    for tenant in (nobody, Tenant(slug="unsaved")):
        with pytest.raises(UnscopedQuery):
            entries.for_tenant(tenant)


def test_none__without_a_tenant__is_empty_and_allowed() -> None:
    CredentialFactory.create()
    assert list(Credential.objects.none()) == []
    assert not Credential.objects.none().exists()


def test_rows__reached_from_a_row_in_hand__are_narrowed_already() -> None:
    mine = VersionFactory.create()
    foreign = VersionFactory.create()
    tenant = mine.model.tenant
    membership = MembershipFactory.create(tenant=tenant)
    MembershipFactory.create()
    assert list(tenant.memberships.all()) == [membership]
    assert list(mine.model.versions.filter(code=0)) == [mine]
    assert mine.model.versions.count() == 1
    prefetched = Tenant.objects.prefetch_related(
        Prefetch("memberships", Membership.objects.prefetch_related("user__memberships"))
    ).get(pk=tenant.pk)
    assert [own for row in prefetched.memberships.all() for own in row.user.memberships.all()] == [membership]
    assert foreign.model.versions.get() == foreign


def test_rows__reached_through_many_to_many__are_narrowed_already() -> None:
    credential = CredentialFactory.create()
    model = ModelFactory.create(tenant=credential.tenant)
    ModelFactory.create()
    model.credentials.set([credential])
    assert list(model.credentials.all()) == [credential]
    assert model.credentials.count() == 1
    model.credentials.clear()
    assert not model.credentials.exists()


def test_djangos_own_machinery__cascades_refresh_and_foreign_keys__works() -> None:
    version = VersionFactory.create()
    SourceFactory.create(version=version)
    version.refresh_from_db()
    assert Version.objects.unscoped().get().model.tenant.slug
    Version.objects.unscoped().get().full_clean()
    version.delete()
    assert not Source.objects.unscoped().exists()


def test_validation__uniqueness_within_and_across_studios__is_checked_without_a_scope() -> None:
    credential = CredentialFactory.create()
    twin = CredentialFactory.build(tenant=TenantFactory.create(), client_id=credential.client_id)
    with pytest.raises(ValidationError, match=r"[Cc]lient.id"):
        twin.full_clean()
    model = ModelFactory.create()
    with pytest.raises(ValidationError):
        ModelFactory.build(tenant=model.tenant, slug=model.slug).full_clean()
    ModelFactory.build(tenant=TenantFactory.create(), slug=model.slug).full_clean()
    with pytest.raises(UnscopedQuery):
        list(Credential.objects.all())


def test_unscoped__raw_sql__runs_and_for_tenant_does_not() -> None:
    credential = CredentialFactory.create()
    assert list(Credential.objects.unscoped().raw("SELECT * FROM tenants_credential")) == [credential]
    with pytest.raises(UnscopedQuery, match="raw"):
        Credential.objects.for_tenant(credential.tenant).raw("SELECT * FROM tenants_credential")


def test_scope__copies_of_a_narrowed_query__stay_narrowed() -> None:
    mine = MembershipFactory.create()
    MembershipFactory.create(user=mine.user)
    rows = Membership.objects.for_tenant(mine.tenant)
    for copy in (rows.all(), rows.filter(), rows.order_by("pk"), rows.using("default"), rows.select_related("user")):
        assert isinstance(copy, TenantOwnedQuerySet)
        assert list(copy) == [mine]


def test_owned__every_table_with_a_way_to_a_tenant__is_tenant_owned() -> None:
    ours = [m for m in apps.get_models() if m._meta.app_label in {"tenants", "models_registry"}]
    # These belong to the platform: people can be in several studios, and the stream of counts is everybody's.
    platform = {"User", "Tenant", "TrafficGap", "TrafficPosition"}
    through = {m.__name__ for m in ours if m._meta.auto_created}
    assert {m.__name__ for m in ours} - platform - through == {m.__name__ for m in OWNED}
    assert {m.__name__ for m in OWNED} == set(ROW_FOR)
