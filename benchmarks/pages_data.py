"""A database as an installation has after a while: studios, models, versions, a month of loads, traffic and changes.

Rows go in by the thousand and past the services, as the services would have left them; nothing is put into Redis.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from django.contrib.auth.hashers import make_password
from django.db import connection, transaction
from django.utils import timezone

from models_registry.models import (
    BASIS_POINTS,
    CredentialUse,
    Layout,
    Load,
    LoadState,
    Override,
    RecommendationModel,
    RolloutRevision,
    Source,
    SourceKind,
    Table,
    TableState,
    TrafficPosition,
    TrafficSource,
    TrafficSpan,
    Version,
    new_table_id,
)
from models_registry.rollouts.allocation import first_allocation, weights_of
from models_registry.traffic import collecting
from tenants.models import AuditEntry, AutomationToken, Credential, Membership, Role, Tenant, User, new_public_id

FIELDS = [
    {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
    {"name": "discount", "type": "decimal", "min": 0, "max": 1, "step": 0.01},
]
WEIGHTS = [6000, 3000, 1000]
ROWS_AT_ONCE = 20_000
SALT = "0123456789abcdef0123456789abcdef"


class Amount(NamedTuple):
    """How much of everything there is."""

    studios: int = 50
    models: int = 5
    versions: int = 3
    days: int = 30
    loads_a_day: int = 2
    changes: int = 40
    testers: int = 20
    credentials: int = 6
    members: int = 10
    audit_entries: int = 300


def fill(amount: Amount, *, now: datetime | None = None) -> Tenant:
    """Fill an empty database, and give the first studio; its admin is `owner0`, the platform's is `staff`."""
    now = now or timezone.now()
    with transaction.atomic():
        tenants = _people(amount)
        _credentials(amount, tenants, now)
        _audit(amount, tenants, now)
        versions = _models(amount, tenants, now)
        _loads(amount, versions, now)
        _traffic(amount, versions, now)
        TrafficPosition.objects.create(pk=1, entry_id="1-0")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return tenants[0]


def _people(amount: Amount) -> list[Tenant]:
    tenants = Tenant.objects.bulk_create(
        Tenant(slug=f"studio-{n}", name=f"Studio {n:02}", allowed_local_roots=["/srv/tables"])
        for n in range(amount.studios)
    )
    password = make_password(None)
    User.objects.create(username="staff", password=password, is_staff=True, is_superuser=True)
    people = User.objects.bulk_create(
        User(username=f"owner{n}" if not m else f"member{n}-{m}", password=password)
        for n in range(amount.studios)
        for m in range(amount.members)
    )
    Membership.objects.unscoped().bulk_create(
        Membership(
            tenant=tenants[n // amount.members],
            user=person,
            role=Role.VIEWER if n % amount.members else Role.STUDIO_ADMIN,
        )
        for n, person in enumerate(people)
    )
    return tenants


def _credentials(amount: Amount, tenants: Sequence[Tenant], now: datetime) -> None:
    credentials = Credential.objects.unscoped().bulk_create(
        Credential(
            tenant=tenant,
            client_id=f"cr_{new_public_id()}",
            name=f"Client {n}",
            secret_hash=hashlib.sha256(b"unknown").hexdigest(),
            secret_hint="rsk_…nown",  # noqa: S106  # the end of no secret
            last_used_at=now,
        )
        for tenant in tenants
        for n in range(amount.credentials)
    )
    AutomationToken.objects.unscoped().bulk_create(
        AutomationToken(
            tenant=tenant,
            public_id=new_public_id(),
            name=f"Script {n}",
            scopes=["read"],
            token_hash=hashlib.sha256(f"{tenant.slug} {n}".encode()).hexdigest(),
            token_hint="…nown",  # noqa: S106  # the end of no token
        )
        for tenant in tenants
        for n in range(amount.credentials)
    )
    hour = now.replace(minute=0, second=0, microsecond=0)
    CredentialUse.objects.unscoped().bulk_create(
        (
            CredentialUse(credential=credential, starts_at=hour - timedelta(hours=age), requests=1000 + age)
            for credential in credentials
            for age in range(24 * amount.days)
        ),
        batch_size=ROWS_AT_ONCE,
    )


def _audit(amount: Amount, tenants: Sequence[Tenant], now: datetime) -> None:
    AuditEntry.objects.unscoped().bulk_create(
        AuditEntry(
            tenant=tenant,
            at=now - timedelta(hours=n),
            actor_name="owner",
            action="rollout.reweight",
            subject="model model-0",
            summary="Changed the weights of “model-0”.",
            before={"weights": {"v0": 5000, "v1": 5000}},
            after={"weights": {"v0": 6000, "v1": 4000}},
        )
        for tenant in tenants
        for n in range(amount.audit_entries)
    )


def _models(amount: Amount, tenants: Sequence[Tenant], now: datetime) -> list[Version]:
    models = RecommendationModel.objects.unscoped().bulk_create(
        RecommendationModel(
            tenant=tenant,
            slug=f"model-{n}",
            name=f"Model {n}",
            key_fields=["player_id"],
            unit_field="player_id",
            default_answer={"offer_id": 1, "discount": 0.05},
        )
        for tenant in tenants
        for n in range(amount.models)
    )
    layouts = Layout.objects.unscoped().bulk_create(Layout(model=model, revision=0, fields=FIELDS) for model in models)
    versions = Version.objects.unscoped().bulk_create(
        Version(model=layout.model, layout=layout, name=f"v{code}", code=code)
        for layout in layouts
        for code in range(amount.versions)
    )
    Source.objects.unscoped().bulk_create(
        Source(version=version, kind=SourceKind.PARQUET, location="/srv/tables/offers.parquet") for version in versions
    )
    Override.objects.unscoped().bulk_create(
        Override(model=version.model, version=version, unit=f"tester{n}")
        for version in versions
        if version.code == 0
        for n in range(amount.testers)
    )
    _rollouts(amount, models, now)
    return versions


def _rollouts(amount: Amount, models: Sequence[RecommendationModel], now: datetime) -> None:
    weights = dict(enumerate(WEIGHTS[: amount.versions]))
    weights[0] += BASIS_POINTS - sum(weights.values())
    allocation = first_allocation(weights, SALT, 1)
    by_code = {str(code): bp for code, bp in weights_of(allocation).items()}
    apart = timedelta(days=amount.days) / amount.changes
    revisions = RolloutRevision.objects.unscoped().bulk_create(
        (
            RolloutRevision(
                model=model,
                number=n + 1,
                salt=SALT,
                weights_bp=by_code,
                allocation=allocation,
                moved_bp=100,
                actor_name="owner",
                reason="The second version won.",
            )
            for model in models
            for n in range(amount.changes)
        ),
        batch_size=500,
    )
    # Django writes the present time when it makes them.
    times = [(now - apart * (amount.changes - revision.number + 1), revision.pk) for revision in revisions]
    adapt = connection.ops.adapt_datetimefield_value
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE models_registry_rolloutrevision SET created_at = %s WHERE id = %s",
            [(adapt(at), pk) for at, pk in times],
        )


def _loads(amount: Amount, versions: Sequence[Version], now: datetime) -> None:
    count = amount.days * amount.loads_a_day
    apart = timedelta(days=1) / amount.loads_a_day
    report = {"checks": [{"name": name, "passed": True, "words": "fine " * 20} for name in "abcdefgh"]}
    loads = Load.objects.unscoped().bulk_create(
        (
            Load(
                version=version,
                fence=n + 1,
                state=LoadState.REJECTED if n % 10 == 5 else LoadState.ACTIVE,
                source_kind=SourceKind.PARQUET,
                source_location="/srv/tables/offers.parquet",
                rows_read=1_000_000,
                rows_written=1_000_000,
                report=report,
                problem="Three rows hold a discount above 1." if n % 10 == 5 else "",
                started_at=now - apart * (count - n),
                finished_at=now - apart * (count - n) + timedelta(minutes=1),
            )
            for version in versions
            for n in range(count)
        ),
        batch_size=ROWS_AT_ONCE,
    )
    tables = Table.objects.unscoped().bulk_create(
        (
            Table(
                version=load.version,
                load=load,
                table_id=new_table_id(),
                state=TableState.READY if load.fence > count - 3 else TableState.DROPPED,
                block_bits=14,
                row_count=1_000_000,
                size_bytes=15_000_000,
                activated_at=load.finished_at,
            )
            for load in loads
            if load.state == LoadState.ACTIVE
        ),
        batch_size=ROWS_AT_ONCE,
    )
    newest: dict[int, list[Table]] = {}
    for table in tables:
        newest.setdefault(table.version_id, []).append(table)
    for version in versions:
        version.previous_table, version.active_table = newest[version.pk][-2:]
        version.last_fence = version.active_fence = count
        version.save(update_fields=["previous_table", "active_table", "last_fence", "active_fence"])


def _traffic(amount: Amount, versions: Sequence[Version], now: datetime) -> None:
    rows = _counts(amount, versions, now)
    # Millions of them: without an object for each.
    sql = (
        "INSERT INTO models_registry_traffic (version_id, span, starts_at, source, answers) VALUES (%s, %s, %s, %s, %s)"
    )
    with connection.cursor() as cursor:
        while some := list(islice(rows, ROWS_AT_ONCE)):
            cursor.executemany(sql, some)


def _counts(amount: Amount, versions: Sequence[Version], now: datetime) -> Iterator[tuple[Any, ...]]:
    """Yield the counts of every span as far back as they are kept; more by day than by night."""
    adapt = connection.ops.adapt_datetimefield_value
    for span in TrafficSpan:
        seconds = int(span)
        newest = int(now.timestamp()) // seconds * seconds
        length = min(collecting.KEEP[span], timedelta(days=amount.days))
        for at in range(newest - int(length.total_seconds()), newest + 1, seconds):
            starts_at = adapt(datetime.fromtimestamp(at, tz=now.tzinfo))
            level = (1.2 + math.sin(at / 86400 * math.tau)) * min(seconds, now.timestamp() - at)
            for version in versions:
                answers = int(level * WEIGHTS[version.code % 3] / 500)
                yield version.pk, seconds, starts_at, TrafficSource.TABLE.value, answers
                yield version.pk, seconds, starts_at, TrafficSource.DEFAULT.value, answers // 50
