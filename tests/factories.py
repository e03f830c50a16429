"""One factory a model: rows as they would be after the services had made them, without audit trail or publication."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import factory
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from factory.django import DjangoModelFactory

from models_registry import models as registry
from models_registry.rollouts.allocation import first_allocation, weights_of
from tenants import models as tenants

LAYOUT: list[dict[str, Any]] = [
    {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
    {"name": "discount", "type": "decimal", "min": 0, "max": 1, "step": 0.01},
]
DEFAULT_ANSWER = {"offer_id": 1, "discount": 0.05}
SECRET = "rsk_the-secret-of-every-credential-the-factory-makes"
PASSWORD = "correct horse battery"
# One round instead of a million: nothing is guarded here, and every test with a person would pay for it.
PASSWORD_HASH = PBKDF2PasswordHasher().encode(PASSWORD, "salt", iterations=1)
SOME_TIME = datetime(2026, 11, 1, 12, tzinfo=UTC)


class UserFactory(DjangoModelFactory[tenants.User]):
    class Meta:
        model = tenants.User
        skip_postgeneration_save = True

    username = factory.Sequence(lambda n: f"person{n}")
    password = PASSWORD_HASH


class TenantFactory(DjangoModelFactory[tenants.Tenant]):
    class Meta:
        model = tenants.Tenant

    slug = factory.Sequence(lambda n: f"studio{n}")
    name = factory.LazyAttribute(lambda tenant: tenant.slug.title())
    allowed_datasets = factory.LazyFunction(lambda: ["analytics.recommendations"])
    allowed_gs_prefixes = factory.LazyFunction(lambda: ["gs://studio-tables/out/"])
    allowed_local_roots = factory.LazyFunction(lambda: ["/srv/tables"])


class MembershipFactory(DjangoModelFactory[tenants.Membership]):
    class Meta:
        model = tenants.Membership

    tenant = factory.SubFactory(TenantFactory)
    user = factory.SubFactory(UserFactory)
    role = tenants.Role.VIEWER


class CredentialFactory(DjangoModelFactory[tenants.Credential]):
    """A credential whose secret is `SECRET`."""

    class Meta:
        model = tenants.Credential

    tenant = factory.SubFactory(TenantFactory)
    client_id = factory.LazyFunction(lambda: f"cr_{tenants.new_public_id()}")
    name = factory.Sequence(lambda n: f"Client {n}")
    secret_hash = hashlib.sha256(SECRET.encode()).hexdigest()
    secret_hint = "rsk_…akes"


class AutomationTokenFactory(DjangoModelFactory[tenants.AutomationToken]):
    """A row that no token in hand belongs to; `tenants.automation` makes usable ones."""

    class Meta:
        model = tenants.AutomationToken

    tenant = factory.SubFactory(TenantFactory)
    public_id = factory.LazyFunction(tenants.new_public_id)
    name = factory.Sequence(lambda n: f"Script {n}")
    scopes = factory.LazyFunction(lambda: ["read"])
    token_hash = factory.Sequence(lambda n: hashlib.sha256(str(n).encode()).hexdigest())
    token_hint = "…akes"


class IdempotencyRecordFactory(DjangoModelFactory[tenants.IdempotencyRecord]):
    class Meta:
        model = tenants.IdempotencyRecord

    tenant = factory.SubFactory(TenantFactory)
    caller = "user:1"
    route = "/api/v1/models"
    key = factory.Sequence(lambda n: f"key{n}")
    body_hash = hashlib.sha256(b"").hexdigest()
    run = factory.LazyFunction(tenants.new_public_id)
    started_at = SOME_TIME


class AuditEntryFactory(DjangoModelFactory[tenants.AuditEntry]):
    class Meta:
        model = tenants.AuditEntry

    tenant = factory.SubFactory(TenantFactory)
    actor_name = "somebody"
    action = "model.create"
    subject = "model offers"
    summary = "Made the model “offers”."


class ModelFactory(DjangoModelFactory[registry.RecommendationModel]):
    """A model without a layout; `VersionFactory` gives it one."""

    class Meta:
        model = registry.RecommendationModel

    tenant = factory.SubFactory(TenantFactory)
    slug = factory.Sequence(lambda n: f"model{n}")
    name = factory.LazyAttribute(lambda model: model.slug.title())
    key_fields = factory.LazyFunction(lambda: ["player_id"])
    unit_field = "player_id"
    default_answer = factory.LazyFunction(lambda: dict(DEFAULT_ANSWER))


def _default_that_fits(layout: Any) -> Any:
    answer = layout.model.default_answer
    return answer if registry.Layout(fields=layout.fields).fits(answer) else None


class LayoutFactory(DjangoModelFactory[registry.Layout]):
    class Meta:
        model = registry.Layout

    model = factory.SubFactory(ModelFactory)
    revision = factory.LazyAttribute(lambda layout: layout.model.layouts.count())
    fields = factory.LazyFunction(lambda: [dict(field) for field in LAYOUT])
    default_answer = factory.LazyAttribute(_default_that_fits)
    default_revision = factory.LazyAttribute(lambda layout: layout.model.default_revision)


class VersionFactory(DjangoModelFactory[registry.Version]):
    class Meta:
        model = registry.Version

    model = factory.SubFactory(ModelFactory)
    name = factory.Sequence(lambda n: f"v{n}")
    code = factory.LazyAttribute(lambda version: version.model.versions.count())
    layout = factory.LazyAttribute(
        lambda version: version.model.layouts.order_by("-revision").first() or LayoutFactory.create(model=version.model)
    )


class SourceFactory(DjangoModelFactory[registry.Source]):
    class Meta:
        model = registry.Source

    version = factory.SubFactory(VersionFactory)
    kind = registry.SourceKind.PARQUET
    location = "/srv/tables/offers.parquet"


class ScheduleFactory(DjangoModelFactory[registry.Schedule]):
    """Every four hours, next due at `SOME_TIME`."""

    class Meta:
        model = registry.Schedule

    version = factory.SubFactory(VersionFactory)
    kind = registry.ScheduleKind.INTERVAL
    every_minutes = 240
    next_run_at = SOME_TIME


class LoadFactory(DjangoModelFactory[registry.Load]):
    """A load in the queue; with `state` of an end it is finished."""

    class Meta:
        model = registry.Load

    version = factory.SubFactory(VersionFactory)
    fence = factory.LazyAttribute(lambda load: load.version.loads.count() + 1)
    is_dry_run = factory.LazyAttribute(lambda load: getattr(load, "state", "queued") == registry.LoadState.CHECKED)
    source_kind = registry.SourceKind.PARQUET
    source_location = "/srv/tables/offers.parquet"
    finished_at = factory.LazyAttribute(
        lambda load: None if getattr(load, "state", "queued") in registry.RUNNING_STATES else SOME_TIME
    )


class LoadRangeFactory(DjangoModelFactory[registry.LoadRange]):
    class Meta:
        model = registry.LoadRange

    load = factory.SubFactory(LoadFactory, state=registry.LoadState.WRITING)
    first_partition = 0
    end_partition = 64
    heartbeat_at = SOME_TIME


class TableFactory(DjangoModelFactory[registry.Table]):
    """A whole table, not yet active."""

    class Meta:
        model = registry.Table

    load = factory.SubFactory(LoadFactory, state=registry.LoadState.ACTIVE)
    version = factory.SelfAttribute("load.version")
    state = registry.TableState.READY
    block_bits = 0
    row_count = 10


class RolloutRevisionFactory(DjangoModelFactory[registry.RolloutRevision]):
    """A revision that gives everybody version code 0; pass `weights` for others."""

    class Meta:
        model = registry.RolloutRevision

    class Params:
        weights = factory.LazyFunction(lambda: {0: registry.BASIS_POINTS})

    model = factory.SubFactory(ModelFactory)
    number = factory.LazyAttribute(lambda revision: revision.model.rollout_revisions.count() + 1)
    salt = "0123456789abcdef0123456789abcdef"
    allocation = factory.LazyAttribute(lambda r: first_allocation(r.weights, r.salt, r.number))
    weights_bp = factory.LazyAttribute(lambda r: {str(code): bp for code, bp in weights_of(r.allocation).items()})
    actor_name = "somebody"


class OverrideFactory(DjangoModelFactory[registry.Override]):
    class Meta:
        model = registry.Override

    version = factory.SubFactory(VersionFactory)
    model = factory.SelfAttribute("version.model")
    unit = factory.Sequence(lambda n: f"tester{n}")


class TrafficFactory(DjangoModelFactory[registry.Traffic]):
    class Meta:
        model = registry.Traffic

    version = factory.SubFactory(VersionFactory)
    span = registry.TrafficSpan.FIVE_MINUTES
    starts_at = SOME_TIME
    source = registry.TrafficSource.TABLE
    answers = 100


class TrafficGapFactory(DjangoModelFactory[registry.TrafficGap]):
    class Meta:
        model = registry.TrafficGap

    starts_at = SOME_TIME
    ends_at = SOME_TIME + timedelta(minutes=10)


class CredentialUseFactory(DjangoModelFactory[registry.CredentialUse]):
    class Meta:
        model = registry.CredentialUse

    credential = factory.SubFactory(CredentialFactory)
    starts_at = SOME_TIME
    requests = 100
