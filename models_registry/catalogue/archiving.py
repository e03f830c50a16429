"""The end of versions: what is archived leaves pages and serving; its history stays."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from models_registry.catalogue.acts import lock_model, record_act
from models_registry.models import (
    MAX_CODE,
    RUNNING_STATES,
    Load,
    Override,
    RolloutRevision,
    Schedule,
    Table,
    TableState,
    Version,
)
from tenants import audit
from tenants.models import User
from tenants.rules import RuleBroken, check_reason


def version_archive(*, version: Version, actor: User | None, reason: str, now: datetime | None = None) -> Version:
    """Take a version out of use: its tables are dropped, its schedule ends, and its code comes back after a while.

    Its name stays taken, so that answers, counts and loads mean what they meant. There is no way back.

    Raises:
        RuleBroken: it has a weight, a tester or a load that runs, or is archived already.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        model = version.model
        lock_model(model)
        check_in_use(version)
        problem = why_kept(version)
        if problem:
            raise RuleBroken(problem, field="version")
        rows = Version.objects.for_tenant(model.tenant)
        highest = rows.filter(model=model).aggregate(code=Max("code"))["code"]
        Table.objects.for_tenant(model.tenant).filter(version=version, state=TableState.READY).update(
            state=TableState.DROPPING
        )
        Schedule.objects.for_tenant(model.tenant).filter(version=version).delete()
        version.archived_at = now or timezone.now()
        version.former_code, version.code = version.code, max(MAX_CODE, highest) + 1
        version.active_table = version.previous_table = version.older_table = None
        version.freshness_minutes = None
        gone = (
            "archived_at",
            "former_code",
            "code",
            "active_table",
            "previous_table",
            "older_table",
            "freshness_minutes",
        )
        version.save(update_fields=gone)
        summary = f"Archived the version “{version.name}” of “{model.slug}”."
        before = {"code": version.former_code}
        record_act(version, actor, audit.Action.VERSION_ARCHIVE, summary, reason=reason, before=before, after={})
    return version


def why_kept(version: Version) -> str:
    """Return why a version cannot be archived, and what to do first; empty if it can. Three queries."""
    tenant = version.model.tenant
    revisions = RolloutRevision.objects.for_tenant(tenant).filter(model=version.model_id).order_by("-number")
    weights = revisions.values_list("weights_bp", flat=True).first() or {}
    if weights.get(str(version.code)):
        return f"“{version.name}” has a weight. Give it to other versions first."
    testers = Override.objects.for_tenant(tenant).filter(version=version).count()
    if testers:
        return f"“{version.name}” has testers ({testers:,}). Give them another version or remove them first."
    if Load.objects.for_tenant(tenant).filter(version=version, state__in=RUNNING_STATES).exists():
        return f"A load of “{version.name}” is waiting or running. Cancel it first, or wait for its end."
    return ""


def check_in_use(version: Version) -> None:
    """Refuse a version that is archived by now. One query."""
    if not Version.objects.unscoped().filter(pk=version.pk, archived_at=None).exists():
        raise RuleBroken(f"“{version.name}” is archived. Make a new version.", field="version")
