"""How much one studio may have, so that none takes what all share. Each check refuses with `LimitReached`.

Under the studio's lock, so that of two at once the second sees what the first took.
"""

from __future__ import annotations

import msgspec
from django.db.models import Exists, OuterRef, Q

from models_registry.models import Layout, Load, LoadState, Override, RecommendationModel, Version
from serving.formats.keys import SLOTS
from tenants.figures import megabytes
from tenants.models import Tenant
from tenants.rules import LimitReached

# All studios' loads wait in one queue. More than this a studio has no use for: one load a version, of the dozens that
# it may have in use at once.
MAX_WAITING_LOADS = 50
# Testers are people with a phone at hand; whole groups of players are what weights are for.
MAX_TESTERS = 1_000
# A lane unpacks each snapshot between two requests, so that its size is a time that every studio's players wait.
MAX_PUBLISHED_BYTES = 2_000_000
# What a version takes in a snapshot, with its name and two tables; a model takes a byte for each slot.
VERSION_BYTES = 200


def check_load_may_wait(version: Version, *, is_dry_run: bool) -> None:
    """Refuse a load where too many wait; a dry run also where one of the version waits. Two queries at most.

    Real loads of one version may wait together: the newer takes the older's place, which ends as soon as it has begun.
    """
    waiting = Load.objects.for_tenant(version.model.tenant).filter(state=LoadState.QUEUED)
    same = waiting.filter(version=version, is_dry_run=True).first() if is_dry_run else None
    if same is not None:
        raise LimitReached(
            f"Load {same.fence}, a dry run of “{version.name}”, is already queued. Try again when it has started."
        )
    if waiting.count() >= MAX_WAITING_LOADS:
        raise LimitReached(
            f"{MAX_WAITING_LOADS} loads are already queued, the most a studio may have. "
            "Try again when some have started."
        )


def check_tester_may_be_added(model: RecommendationModel) -> None:
    """Refuse a tester where the model has as many as it may. One query."""
    if Override.objects.for_tenant(model.tenant).filter(model=model).count() >= MAX_TESTERS:
        raise LimitReached(
            f"“{model.slug}” already has the maximum of {MAX_TESTERS:,} testers. Remove one first.", field="unit"
        )


def check_published_size(tenant: Tenant, *, field: str) -> None:
    """Refuse what was just written if serving could be given more of the studio than it may. Six queries."""
    size_bytes = publishable_bytes(tenant)
    if size_bytes > MAX_PUBLISHED_BYTES:
        raise LimitReached(
            f"The layouts, default answers, versions and testers of this studio would take {megabytes(size_bytes)}. "
            f"The limit is {megabytes(MAX_PUBLISHED_BYTES)}. Values of enum fields usually take the most.",
            field=field,
        )


def publishable_bytes(tenant: Tenant) -> int:
    """Return about how large a studio's snapshot could become by what it has now, its credentials apart. Six queries.

    All that could come into it counts, and not what is in it now: neither a change of weights nor a load that ends well
    may be refused for its size.
    """
    models = RecommendationModel.objects.for_tenant(tenant)
    versions = Version.objects.unscoped().filter(layout=OuterRef("pk"))
    # A layout that only archived versions have is published no more.
    layouts = Layout.objects.for_tenant(tenant).filter(~Exists(versions) | Q(Exists(versions.filter(archived_at=None))))
    documents = [
        *layouts.values_list("fields", flat=True),
        *layouts.exclude(default_answer=None).values_list("default_answer", flat=True),
        *models.exclude(default_answer=None).values_list("default_answer", flat=True),
        list(Override.objects.for_tenant(tenant).values_list("unit", flat=True)),
    ]
    return (
        sum(len(msgspec.msgpack.encode(document)) for document in documents)
        + models.count() * SLOTS
        + Version.objects.for_tenant(tenant).filter(archived_at=None).count() * VERSION_BYTES
    )
