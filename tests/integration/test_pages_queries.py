"""Every page of the dashboard keeps to its fifteen queries, with data as an installation has after a while."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from models_registry.models import (
    CredentialUse,
    Load,
    LoadState,
    RolloutRevision,
    Table,
    TableState,
    Traffic,
    TrafficPosition,
    TrafficSource,
    TrafficSpan,
    Version,
    new_table_id,
)
from models_registry.publishing import publish_tenant
from models_registry.rollouts.allocation import first_allocation
from models_registry.traffic import collecting
from tenants.models import AutomationToken, Credential, Membership, Role, Tenant, User
from tests import factories
from tests.integration.dashboard_scene import signed_in
from tests.routes import routes

pytestmark = pytest.mark.django_db(transaction=True)

STUDIOS, MODELS, VERSIONS, DAYS, LOADS, CHANGES = 3, 5, 3, 2, 24, 25
MEMBERS, TESTERS, CREDENTIALS, AUDIT_ENTRIES = 10, 12, 6, 60
WEIGHTS = {0: 6000, 1: 3000, 2: 1000}
# Not pages of the dashboard: what programs ask, and the admin. Of the rest, what only takes a POST answers 405.
OTHERS = {"admin", "api", "v1", "metrics", "healthz", "readyz"}
# Pages outside a studio; with a session of platform staff, who see every studio.
STAFF = {"home"}
# Addresses that are worth asking in several ways.
QUERIES = {
    "traffic": ("?period=hour", "?period=day", "?period=week", "?period=month"),
    "model-traffic": ("?period=hour", "?period=day", "?period=week", "?period=month"),
    "why": ("", "?player_id=p000042"),
}


def test_pages__with_much_data__make_at_most_fifteen_queries(valkey: redis.Redis) -> None:
    (tenant, owner), *_ = [make_studio(timezone.now()) for _ in range(STUDIOS)]
    TrafficPosition.objects.create(pk=1, entry_id="1-0")
    assert publish_tenant(tenant.pk)
    staff = factories.UserFactory.create(is_staff=True, is_superuser=True)
    clients = {is_staff: signed_in(person) for is_staff, person in ((False, owner), (True, staff))}
    pages = 0
    for name, url in urls(tenant):
        status, queries = asked(clients[name in STAFF], url)
        assert status in {200, 302, 405}, (url, status)
        assert len(queries) <= 15, "\n".join((f"{url}: {len(queries)}", *queries))
        pages += status == 200
    assert pages > 30


def asked(client: Client, url: str) -> tuple[int, list[str]]:
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(url)
        answer.getvalue()
    return answer.status_code, [query["sql"][:120] for query in queries]


# --- Addresses --------------------------------------------------------------------------------------------------------


def urls(tenant: Tenant) -> Iterator[tuple[str, str]]:
    """Yield every page's name and address in the studio; a new parameter fails until it has a value here."""
    of_version = {"version__model__slug": "model-0", "version__name": "v0"}
    tables = Table.objects.for_tenant(tenant).filter(**of_version, state=TableState.READY)
    values: dict[str, Any] = {
        "studio": tenant.slug,
        "model": "model-0",
        "version": "v0",
        "number": 1,
        "load": Load.objects.for_tenant(tenant).filter(**of_version).latest("fence").pk,
        "client_id": Credential.objects.for_tenant(tenant).earliest("pk").client_id,
        "table": tables.earliest("pk").table_id,
        "username": Membership.objects.for_tenant(tenant).latest("pk").user.username,
        "token": AutomationToken.objects.for_tenant(tenant).earliest("pk").public_id,
        "uidb64": "MQ",
    }
    for path, pattern in routes():
        if pattern.name and path.partition("/")[0] not in OTHERS:
            wanted = {parameter: values[parameter] for parameter in pattern.pattern.regex.groupindex}
            for query in QUERIES.get(pattern.name, ("",)):
                yield pattern.name, f"{reverse(pattern.name, kwargs=wanted)}{query}"


# --- Data -------------------------------------------------------------------------------------------------------------


def make_studio(now: datetime) -> tuple[Tenant, User]:
    """Make a studio as it is after a while; give it with its admin."""
    tenant = factories.TenantFactory.create()
    owner = factories.MembershipFactory.create(tenant=tenant, role=Role.STUDIO_ADMIN).user
    factories.MembershipFactory.create_batch(MEMBERS - 1, tenant=tenant)
    credentials = factories.CredentialFactory.create_batch(CREDENTIALS, tenant=tenant, last_used_at=now)
    factories.AutomationTokenFactory.create_batch(CREDENTIALS, tenant=tenant)
    hour = now.replace(minute=0, second=0, microsecond=0)
    CredentialUse.objects.unscoped().bulk_create(
        CredentialUse(credential=credential, starts_at=hour - timedelta(hours=age), requests=1000 + age)
        for credential in credentials
        for age in range(24 * DAYS)
    )
    for age in range(AUDIT_ENTRIES):
        factories.AuditEntryFactory.create(tenant=tenant, at=now - timedelta(hours=age), action="rollout.reweight")
    for number in range(MODELS):
        make_model(tenant, f"model-{number}", now)
    return tenant, owner


def make_model(tenant: Tenant, slug: str, now: datetime) -> None:
    model = factories.ModelFactory.create(tenant=tenant, slug=slug)
    versions = [factories.VersionFactory.create(model=model, name=f"v{code}") for code in range(VERSIONS)]
    factories.OverrideFactory.create_batch(TESTERS, version=versions[0])
    salt = "0123456789abcdef0123456789abcdef"
    weights_bp = {str(code): bp for code, bp in WEIGHTS.items()}
    allocation = first_allocation(WEIGHTS, salt, 1)
    revisions = RolloutRevision.objects.unscoped().bulk_create(
        RolloutRevision(
            model=model, number=n + 1, salt=salt, weights_bp=weights_bp, allocation=allocation, actor_name="owner"
        )
        for n in range(CHANGES)
    )
    # Django writes the present time when it makes them.
    for revision in revisions:
        revision.created_at = now - timedelta(days=DAYS) / CHANGES * (CHANGES - revision.number + 1)
    RolloutRevision.objects.unscoped().bulk_update(revisions, ["created_at"])
    for version in versions:
        factories.SourceFactory.create(version=version)
        make_loads(version, now)
    Traffic.objects.unscoped().bulk_create(
        (
            Traffic(version=version, span=span, starts_at=starts_at, source=source, answers=answers)
            for span in TrafficSpan
            for starts_at in times(span, now)
            for version in versions
            for source, answers in ((TrafficSource.TABLE, 1000), (TrafficSource.DEFAULT, 20))
        ),
        batch_size=5_000,
    )


def times(span: TrafficSpan, now: datetime) -> list[datetime]:
    """Return when each span that is kept of the last days began, back to front."""
    newest = int(now.timestamp()) // span * span
    length = min(collecting.KEEP[span], timedelta(days=DAYS))
    ages = range(0, int(length.total_seconds()) + 1, span)
    return [datetime.fromtimestamp(newest - age, tz=now.tzinfo) for age in ages]


def make_loads(version: Version, now: datetime) -> None:
    """Give the version its loads, every tenth rejected, and the tables of the others: the newest are whole."""
    apart = timedelta(days=DAYS) / LOADS
    loads = Load.objects.unscoped().bulk_create(
        factories.LoadFactory.build(
            version=version,
            fence=fence,
            state=LoadState.REJECTED if fence % 10 == 6 else LoadState.ACTIVE,
            rows_read=1_000_000,
            rows_written=1_000_000,
            report={"checks": [{"name": name, "passed": True, "words": "fine " * 20} for name in "abcdefgh"]},
            problem="Three rows hold a discount above 1." if fence % 10 == 6 else "",
            started_at=now - apart * (LOADS - fence + 1),
            finished_at=now - apart * (LOADS - fence + 1) + timedelta(minutes=1),
        )
        for fence in range(1, LOADS + 1)
    )
    tables = Table.objects.unscoped().bulk_create(
        factories.TableFactory.build(
            load=load,
            table_id=new_table_id(),
            state=TableState.READY if load.fence > LOADS - 3 else TableState.DROPPED,
            block_bits=14,
            row_count=1_000_000,
            size_bytes=15_000_000,
            activated_at=load.finished_at,
        )
        for load in loads
        if load.state == LoadState.ACTIVE
    )
    version.previous_table, version.active_table = tables[-2:]
    version.last_fence = version.active_fence = LOADS
    version.save(update_fields=["previous_table", "active_table", "last_fence", "active_fence"])
