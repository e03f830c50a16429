"""What the acts on models and versions share: the model's lock, and the entry that each leaves in the audit trail."""

from __future__ import annotations

from typing import Any

from models_registry.models import RecommendationModel, Version
from tenants import audit
from tenants.models import User
from tenants.services import lock_tenant
from tenants.signals import announce_after_commit


def lock_model(model: RecommendationModel) -> None:
    """Read a model anew under its studio's lock."""
    lock_tenant(model.tenant)
    model.refresh_from_db(from_queryset=RecommendationModel.objects.unscoped())


def record(
    on: RecommendationModel | Version, actor: User | None, action: audit.Action, summary: str, **more: Any
) -> None:
    """Record an act on a model or a version, inside its transaction. `more` is `reason`, `before` and `after`."""
    if isinstance(on, Version):
        model, subject = on.model, f"version {on.model.slug}/{on.name}"
    else:
        model, subject = on, f"model {on.slug}"
    audit.record(tenant=model.tenant, actor=actor, action=action, subject=subject, summary=summary, **more)


def record_act(
    on: RecommendationModel | Version, actor: User | None, action: audit.Action, summary: str, **more: Any
) -> None:
    """Record an act as `record` does, and tell serving once it is committed."""
    record(on, actor, action, summary, **more)
    announce_after_commit((on.model if isinstance(on, Version) else on).tenant_id)
