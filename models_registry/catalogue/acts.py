"""What the acts on a model share: its lock, and the entry that each leaves in the audit trail."""

from __future__ import annotations

from typing import Any

from models_registry.models import RecommendationModel
from tenants import audit
from tenants.models import User
from tenants.services import lock_tenant
from tenants.signals import announce_after_commit


def lock_model(model: RecommendationModel) -> None:
    """Read a model anew under its studio's lock."""
    lock_tenant(model.tenant)
    model.refresh_from_db(from_queryset=RecommendationModel.objects.unscoped())


def record_act(
    model: RecommendationModel,
    actor: User | None,
    action: audit.Action,
    summary: str,
    *,
    subject: str = "",
    reason: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Record an act on a model, inside its transaction, and tell serving once it is committed."""
    audit.record(
        tenant=model.tenant,
        actor=actor,
        action=action,
        subject=subject or f"model {model.slug}",
        summary=summary,
        reason=reason,
        before=before,
        after=after,
    )
    announce_after_commit(model.tenant_id)
