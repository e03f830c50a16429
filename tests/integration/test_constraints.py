"""What the database itself refuses, whatever code asks for it. Every constraint of ours is named here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.apps import apps
from django.db import IntegrityError, transaction

from models_registry.models import Load, LoadState, RolloutRevision, Version
from tenants.models import Credential, CredentialKind, Tenant
from tests.factories import (
    SOME_TIME,
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
    TrafficGapFactory,
    VersionFactory,
)

pytestmark = pytest.mark.django_db


def again(factory: Any, *fields: str, **values: Any) -> Callable[[], object]:
    """Make one row, and give what makes another with the same values in some fields."""

    def make() -> object:
        first = factory.create(**values)
        return factory.create(**{field: getattr(first, field) for field in fields})

    return make


def loads_that_are_over_without_an_end() -> object:
    return LoadFactory.create(state=LoadState.FAILED, finished_at=None)


def version_with_tables(**numbers: int) -> Callable[[], object]:
    """Return what points a version at some of three tables."""

    def make() -> None:
        version = VersionFactory.create()
        tables = TableFactory.create_batch(3, load__version=version)
        for field, number in numbers.items():
            setattr(version, field, tables[number])
        version.save()

    return make


def waiving(**values: Any) -> object:
    rejected = LoadFactory.create(state=LoadState.REJECTED)
    return LoadFactory.create(**{"version": rejected.version, "waives": rejected, "waive_reason": "r", **values})


KEY = {"kind": CredentialKind.PUBLIC_KEY, "algorithm": "EdDSA", "secret_hash": "", "public_key": "k", "issuer": "i"}
BROKEN: list[tuple[str, Callable[[], object]]] = [
    ("tenant_rate_positive", lambda: TenantFactory.create(requests_per_second=0)),
    ("tenant_burst_positive", lambda: TenantFactory.create(burst=0)),
    ("membership_one_per_person", again(MembershipFactory, "tenant", "user")),
    ("membership_role_known", lambda: MembershipFactory.create(role="emperor")),
    ("credential_secret_or_public_key", lambda: CredentialFactory.create(secret_hash="")),
    ("credential_secret_or_public_key", lambda: CredentialFactory.create(algorithm="EdDSA")),
    ("credential_secret_or_public_key", lambda: CredentialFactory.create(public_key="k")),
    ("credential_secret_or_public_key", lambda: CredentialFactory.create(**{**KEY, "issuer": ""})),
    ("credential_secret_or_public_key", lambda: CredentialFactory.create(**{**KEY, "public_key": ""})),
    ("credential_secret_or_public_key", lambda: CredentialFactory.create(**{**KEY, "algorithm": "HS256"})),
    ("credential_secret_or_public_key", lambda: CredentialFactory.create(**{**KEY, "secret_hash": "h"})),
    ("credential_secret_or_public_key", lambda: CredentialFactory.create(kind="password")),
    ("credential_previous_secret_ends", lambda: CredentialFactory.create(previous_secret_hash="h")),
    ("credential_previous_secret_ends", lambda: CredentialFactory.create(previous_until=SOME_TIME)),
    ("credential_limits_positive", lambda: CredentialFactory.create(requests_per_second=0)),
    ("credential_limits_positive", lambda: CredentialFactory.create(burst=0)),
    ("credential_generation_positive", lambda: CredentialFactory.create(generation=0)),
    ("client_id", again(CredentialFactory, "client_id")),
    ("automation_token_has_hash", lambda: AutomationTokenFactory.create(token_hash="")),
    ("token_hash", again(AutomationTokenFactory, "token_hash")),
    ("idempotency_key_once", again(IdempotencyRecordFactory, "tenant", "caller", "route", "key")),
    ("model_slug_unique_in_tenant", again(ModelFactory, "tenant", "slug")),
    ("model_client_age_bounds", lambda: ModelFactory.create(max_client_age_seconds=0)),
    ("model_client_age_bounds", lambda: ModelFactory.create(max_client_age_seconds=86_401)),
    ("model_row_count_change_positive", lambda: ModelFactory.create(max_row_count_change=0)),
    ("model_psi_positive", lambda: ModelFactory.create(max_psi=0)),
    ("model_coverage_is_a_share", lambda: ModelFactory.create(min_coverage=-0.1)),
    ("model_coverage_is_a_share", lambda: ModelFactory.create(min_coverage=1.1)),
    ("layout_revision_unique_in_model", again(LayoutFactory, "model", "revision")),
    ("layout_revision_one_byte", lambda: LayoutFactory.create(revision=256)),
    ("version_name_unique_in_model", again(VersionFactory, "model", "name")),
    ("version_code_unique_in_model", again(VersionFactory, "model", "code")),
    ("version_code_one_byte_until_archived", lambda: VersionFactory.create(code=256)),
    ("version_code_one_byte_until_archived", lambda: VersionFactory.create(code=1, former_code=1)),
    ("version_code_one_byte_until_archived", lambda: VersionFactory.create(code=256, archived_at=SOME_TIME)),
    (
        "version_code_one_byte_until_archived",
        lambda: VersionFactory.create(code=1, former_code=1, archived_at=SOME_TIME),
    ),
    ("version_fence_order", lambda: VersionFactory.create(last_fence=1, active_fence=2)),
    ("version_different_tables", version_with_tables(active_table=0, previous_table=0)),
    ("version_different_tables", version_with_tables(active_table=0, previous_table=1, older_table=0)),
    ("version_different_tables", version_with_tables(active_table=0, previous_table=1, older_table=1)),
    ("version_older_after_previous", version_with_tables(active_table=0, older_table=1)),
    ("version_freshness_positive", lambda: VersionFactory.create(freshness_minutes=0)),
    ("source_kind_known", lambda: SourceFactory.create(kind="csv")),
    ("source_location_given", lambda: SourceFactory.create(location="")),
    ("version_id", again(SourceFactory, "version")),
    ("schedule_interval_or_crontab", lambda: ScheduleFactory.create(kind="moon")),
    ("schedule_interval_or_crontab", lambda: ScheduleFactory.create(every_minutes=0)),
    ("schedule_interval_or_crontab", lambda: ScheduleFactory.create(crontab="0 4 * * *")),
    ("schedule_interval_or_crontab", lambda: ScheduleFactory.create(kind="crontab", crontab="0 4 * * *")),
    ("schedule_interval_or_crontab", lambda: ScheduleFactory.create(kind="crontab", every_minutes=None)),
    ("schedule_next_run_if_enabled", lambda: ScheduleFactory.create(is_enabled=False)),
    ("schedule_next_run_if_enabled", lambda: ScheduleFactory.create(next_run_at=None)),
    ("version_id", again(ScheduleFactory, "version")),
    ("load_one_for_a_scheduled_time", again(LoadFactory, "version", "scheduled_for", scheduled_for=SOME_TIME)),
    ("load_range_unique_in_load", again(LoadRangeFactory, "load", "first_partition")),
    ("load_range_bounds", lambda: LoadRangeFactory.create(first_partition=64)),
    ("load_range_bounds", lambda: LoadRangeFactory.create(end_partition=1025)),
    ("load_range_state_known", lambda: LoadRangeFactory.create(state="asleep")),
    ("load_rate_limit_positive", lambda: LoadFactory.create(rows_per_second_limit=0)),
    ("load_fence_unique_in_version", again(LoadFactory, "version", "fence")),
    # A state that is not known is not an end either; PostgreSQL names whichever it checks first.
    ("load_state_known or load_finished_when_ended", lambda: LoadFactory.create(state="asleep", finished_at=SOME_TIME)),
    ("load_finished_when_ended", loads_that_are_over_without_an_end),
    ("load_finished_when_ended", lambda: LoadFactory.create(state=LoadState.WRITING, finished_at=SOME_TIME)),
    ("load_dry_run_writes_nothing", lambda: LoadFactory.create(state=LoadState.CHECKED, is_dry_run=False)),
    ("load_dry_run_writes_nothing", lambda: LoadFactory.create(state=LoadState.WRITING, is_dry_run=True)),
    ("load_dry_run_writes_nothing", lambda: LoadFactory.create(state=LoadState.ACTIVE, is_dry_run=True)),
    ("load_dry_run_writes_nothing", lambda: waiving(is_dry_run=True)),
    ("load_accepts_for_a_reason", lambda: waiving(waive_reason="")),
    ("load_accepts_for_a_reason", lambda: LoadFactory.create(waive_reason="because")),
    ("table_state_known", lambda: TableFactory.create(state="lost")),
    ("table_block_bits_bounds", lambda: TableFactory.create(block_bits=31)),
    ("table_id", again(TableFactory, "table_id")),
    ("load_id", again(TableFactory, "load")),
    ("rollout_number_unique_in_model", again(RolloutRevisionFactory, "model", "number")),
    ("rollout_moved_bounds", lambda: RolloutRevisionFactory.create(moved_bp=10_001)),
    ("override_unit_unique_in_model", again(OverrideFactory, "version", "unit")),
    ("traffic_one_count_per_span_and_source", again(TrafficFactory, "version", "span", "starts_at", "source")),
    ("traffic_source_known", lambda: TrafficFactory.create(source="thin air")),
    ("traffic_span_known", lambda: TrafficFactory.create(span=7)),
    ("traffic_gap_ends_after_it_starts", lambda: TrafficGapFactory.create(ends_at=datetime(2026, 1, 1, tzinfo=UTC))),
    ("credential_use_one_count_an_hour", again(CredentialUseFactory, "credential", "starts_at")),
]


@pytest.mark.parametrize(("name", "make"), BROKEN, ids=[f"{number}-{name}" for number, (name, _) in enumerate(BROKEN)])
def test_constraint__row_that_breaks_it__is_refused_by_the_database(name: str, make: Callable[[], object]) -> None:
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        make()
    words = str(refused.value)
    names = name.split(" or ")
    constraint = _constraint(name)
    # SQLite names a check, and of a unique constraint only the columns; PostgreSQL names both.
    columns = [f".{field}" for field in getattr(constraint, "fields", ())]
    assert any(known in words for known in names) or (columns and all(column in words for column in columns)), words


def _constraint(name: str) -> Any:
    ours = [m for m in apps.get_models() if m._meta.app_label in {"tenants", "models_registry"}]
    return next((c for model in ours for c in model._meta.constraints if c.name == name), None)


def test_constraints__all_that_are_declared__are_broken_by_a_test() -> None:
    ours = [m for m in apps.get_models() if m._meta.app_label in {"tenants", "models_registry"}]
    declared = {constraint.name for model in ours for constraint in model._meta.constraints}
    assert declared <= {known for name, _ in BROKEN for known in name.split(" or ")}


def test_constraints__rows_of_every_usual_kind__are_accepted() -> None:
    CredentialFactory.create()
    CredentialFactory.create(previous_secret_hash="h", previous_until=SOME_TIME, generation=2)
    CredentialFactory.create(**KEY)
    for state in LoadState.values:
        LoadFactory.create(state=state)
    LoadFactory.create(state=LoadState.SUPERSEDED, finished_at=None)
    LoadFactory.create(state=LoadState.REJECTED, is_dry_run=True)
    ScheduleFactory.create()
    ScheduleFactory.create(kind="crontab", every_minutes=None, crontab="0 4 * * *")
    ScheduleFactory.create(is_enabled=False, next_run_at=None)
    version = VersionFactory.create(last_fence=2, active_fence=2, code=255)
    kept = TableFactory.create_batch(3, load__version=version, block_bits=30)
    version.active_table, version.previous_table, version.older_table = kept
    version.save()
    RolloutRevisionFactory.create(moved_bp=10_000)
    assert Credential.objects.unscoped().count() == 3
    assert Load.objects.unscoped().count() == len(LoadState.values) + 5


def test_deleting__a_studio_with_an_audit_trail__is_refused() -> None:
    tenant = TenantFactory.create()
    tenant.audit_entries.create(actor_name="a", action="a.b", subject="s", summary="s")
    with pytest.raises(IntegrityError), transaction.atomic():
        tenant.delete()
    assert Tenant.objects.filter(pk=tenant.pk).exists()


def test_deleting__the_table_that_is_served__is_refused() -> None:
    table = TableFactory.create()
    Version.objects.unscoped().filter(pk=table.version_id).update(active_table=table)
    with pytest.raises(IntegrityError), transaction.atomic():
        table.delete()


def test_deleting__a_revision_that_another_restores__is_refused() -> None:
    first = RolloutRevisionFactory.create()
    RolloutRevisionFactory.create(model=first.model, restores=first)
    with pytest.raises(IntegrityError), transaction.atomic():
        RolloutRevision.objects.unscoped().filter(pk=first.pk).delete()
