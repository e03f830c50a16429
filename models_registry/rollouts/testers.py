"""Testers: who gets one version whatever the weights say."""

from __future__ import annotations

from django.db import transaction

from models_registry.catalogue.acts import lock_model, record_act
from models_registry.catalogue.archiving import check_in_use
from models_registry.catalogue.limits import check_published_size, check_tester_may_be_added
from models_registry.models import Override, RecommendationModel, Version
from serving.formats.tokens import is_unit
from tenants import audit
from tenants.models import User
from tenants.rules import RuleBroken, check_text


def set_tester(
    *, model: RecommendationModel, unit: str, version: Version, actor: User | None, note: str = ""
) -> Override:
    """Pin a tester to one version whatever the weights say. What is so already is not recorded again.

    Raises:
        RuleBroken: the unit is no text of 1 to 256 bytes, or the version is another model's.
        LimitReached: the model has 1,000 testers, or serving would be given more of the studio than it may.
    """
    note = check_text(note, field="note", what="The note", max_length=200, is_required=False)
    _check_unit(unit)
    if version.model_id != model.pk:
        raise RuleBroken("This version belongs to another model.", field="version")
    with transaction.atomic():
        lock_model(model)
        check_in_use(version)
        rows = Override.objects.for_tenant(model.tenant).select_related("version")
        before = rows.filter(model=model, unit=unit).first()
        if before is not None and (before.version, before.note) == (version, note):
            return before
        if before is None:
            check_tester_may_be_added(model)
        tester, _ = rows.update_or_create(model=model, unit=unit, defaults={"version": version, "note": note})
        if before is None:
            check_published_size(model.tenant, field="unit")
        summary = f"Gave a tester the version “{version.name}” of “{model.slug}”."
        was = {"unit": unit, "version": before.version.name} if before else None
        after = {"unit": unit, "version": version.name, "note": note}
        record_act(model, actor, audit.Action.OVERRIDE_SET, summary, before=was, after=after)
    return tester


def remove_tester(*, model: RecommendationModel, unit: str, actor: User | None) -> None:
    """Let the weights decide for a tester again.

    Raises:
        RuleBroken: there is no tester for this unit, or it is none.
    """
    _check_unit(unit)
    with transaction.atomic():
        lock_model(model)
        rows = Override.objects.for_tenant(model.tenant).select_related("version")
        tester = rows.filter(model=model, unit=unit).first()
        if tester is None:
            raise RuleBroken(f"“{unit}” is not a tester of this model.", field="unit")
        before = {"unit": unit, "version": tester.version.name}
        tester.delete()
        record_act(model, actor, audit.Action.OVERRIDE_REMOVE, f"Removed a tester of “{model.slug}”.", before=before)


def _check_unit(unit: str) -> None:
    if not is_unit(unit):
        raise RuleBroken("A unit must be 1 to 256 bytes of text without control characters.", field="unit")
