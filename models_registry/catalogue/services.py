"""Writes on models, layouts, versions and sources.

Each owns its transaction, leaves an audit entry in it, and tells serving after commit. Studio by studio they run one
after another (`lock_tenant`): two writes to one studio never interleave, and fences and codes are unique.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from models_registry.catalogue.acts import lock_model, record_act
from models_registry.catalogue.archiving import check_in_use
from models_registry.catalogue.codes import free_code
from models_registry.catalogue.limits import check_published_size
from models_registry.catalogue.rules import (
    as_dict,
    check_client_age,
    check_default,
    check_key_fields,
    check_layout,
    check_load_limit,
    check_source,
    check_unit_field,
    check_version_name,
)
from models_registry.models import (
    BASIS_POINTS,
    MAX_CODE,
    Layout,
    RecommendationModel,
    RolloutRevision,
    Source,
    Version,
    new_salt,
)
from tenants import audit
from tenants.models import Tenant, User
from tenants.rules import RuleBroken, check_slug, check_text
from tenants.services import lock_tenant

# --- Models and layouts ---------------------------------------------------------------------------------------------


def model_create(  # noqa: PLR0913 - what a model is
    *,
    tenant: Tenant,
    slug: str,
    name: str,
    key_fields: Sequence[str],
    layout: Sequence[Mapping[str, Any]],
    actor: User | None,
    unit_field: str = "",
    default_answer: Mapping[str, Any] | None = None,
    max_client_age_seconds: int = 60,
) -> RecommendationModel:
    """Make a model with layout revision 0.

    Args:
        tenant: whose it is.
        slug: its short name in tokens and addresses.
        name: its name on pages.
        key_fields: what its rows are keyed by, in order; each is a query parameter of the endpoint.
        layout: the fields of an answer, as `serving.formats.layouts.Layout.parse` reads them.
        actor: who makes it.
        unit_field: the key field that is bucketed; empty for the whole key.
        default_answer: the record served when a key has no row, of this layout; None for none.
        max_client_age_seconds: how long a client may keep an answer, 1 … 86,400.

    Raises:
        RuleBroken: any of these will not do, or the slug is taken.
        LimitReached: the studio would have more than serving may be given of it.
    """
    model = RecommendationModel(
        tenant=tenant,
        slug=check_slug(slug),
        name=check_text(name, field="name", what="The name", max_length=100),
        key_fields=check_key_fields(key_fields),
        unit_field=check_unit_field(unit_field, key_fields),
        max_client_age_seconds=check_client_age(max_client_age_seconds),
    )
    fields = check_layout(layout)
    model.default_answer = default = as_dict(default_answer)
    check_default(default, fields)
    with transaction.atomic():
        lock_tenant(tenant)
        if RecommendationModel.objects.for_tenant(tenant).filter(slug=slug).exists():
            raise RuleBroken(f"This studio already has a model “{slug}”.", field="slug")
        model.save(force_insert=True)
        Layout.objects.create(model=model, revision=0, fields=fields, default_answer=default, default_revision=1)
        check_published_size(tenant, field="layout")
        after = {
            "key_fields": model.key_fields,
            "unit_field": model.unit_field,
            "default_answer": default,
            "max_client_age_seconds": model.max_client_age_seconds,
            "layout": fields,
        }
        record_act(model, actor, audit.Action.MODEL_CREATE, f"Made the model “{model.slug}”.", after=after)
    return model


def model_update(
    *,
    model: RecommendationModel,
    actor: User | None,
    name: str | None = None,
    max_client_age_seconds: int | None = None,
    max_row_count_change: float | None = None,
    max_psi: float | None = None,
    min_coverage: float | None = None,
) -> RecommendationModel:
    """Change what is given; None leaves a value alone.

    Slug, key fields and unit field never change: rows, tokens and slots are made of them.

    Args:
        model: which.
        actor: who.
        name: its name on pages.
        max_client_age_seconds: how long a client may keep an answer, 1 … 86,400.
        max_row_count_change: by what share the row count may differ from the served table's; above 0.
        max_psi: how high a field's population stability index may be; above 0. 0.1 is a shift worth a look, 0.25 a
            large one.
        min_coverage: the share of the served keys that a load must have, 0 … 1.

    Raises:
        RuleBroken: a value will not do.
    """
    wanted: dict[str, Any] = {}
    if name is not None:
        wanted["name"] = check_text(name, field="name", what="The name", max_length=100)
    if max_client_age_seconds is not None:
        wanted["max_client_age_seconds"] = check_client_age(max_client_age_seconds)
    limits = {"max_row_count_change": max_row_count_change, "max_psi": max_psi, "min_coverage": min_coverage}
    wanted |= {field: check_load_limit(field, value) for field, value in limits.items() if value is not None}
    with transaction.atomic():
        lock_model(model)
        before = {field: getattr(model, field) for field, value in wanted.items() if getattr(model, field) != value}
        after = {field: wanted[field] for field in before}
        if after:
            for field, value in after.items():
                setattr(model, field, value)
            model.save(update_fields=list(after))
            summary = f"Changed the model “{model.slug}”: {', '.join(sorted(after))}."
            record_act(model, actor, audit.Action.MODEL_UPDATE, summary, before=before, after=after)
    return model


def layout_add(
    *,
    model: RecommendationModel,
    fields: Sequence[Mapping[str, Any]],
    actor: User | None,
    default_answer: Mapping[str, Any] | None = None,
    keeps_default: bool = True,
) -> Layout:
    """Make the next layout revision. Versions that have one keep it; a version made from now on gets this one.

    Args:
        model: whose.
        fields: as `serving.formats.layouts.Layout.parse` reads them.
        actor: who.
        default_answer: the record served when a key of such a version has no row; None for none.
        keeps_default: take the newest layout's default instead.

    Raises:
        RuleBroken: it is no layout, it is the newest one already, it cannot hold the default, or all 256 revisions are
            taken.
        LimitReached: the studio would have more than serving may be given of it.
    """
    checked = check_layout(fields)
    wanted = as_dict(default_answer)
    with transaction.atomic():
        lock_model(model)
        newest = newest_layout(model)
        if keeps_default:
            wanted = newest.default
        if newest.fields == checked:
            raise RuleBroken("This is already the newest layout.", field="fields")
        if newest.revision >= MAX_CODE:
            raise RuleBroken(f"“{model.slug}” has used all 256 layout revisions. Make a new model.", field="fields")
        check_default(wanted, checked)
        layout = Layout(model=model, revision=newest.revision + 1, fields=checked)
        _save_default(layout, wanted)
        check_published_size(model.tenant, field="layout")
        summary = f"Added layout {layout.revision} to “{model.slug}”."
        after = {"revision": layout.revision, "layout": checked, "default_answer": wanted}
        record_act(model, actor, audit.Action.LAYOUT_ADD, summary, after=after)
    return layout


def newest_layout(model: RecommendationModel) -> Layout:
    """Return the layout that a new version gets, the model with it. One query."""
    layout = Layout.objects.for_tenant(model.tenant).filter(model=model).latest("revision")
    layout.model = model
    return layout


def layouts_in_use(model: RecommendationModel) -> list[Layout]:
    """Return each layout that a version has, and the newest, which the next version gets; newest first. Two queries."""
    newest = newest_layout(model)
    rows = Layout.objects.for_tenant(model.tenant).filter(
        Q(versions__isnull=False, versions__archived_at=None) | Q(pk=newest.pk), model=model
    )
    found = list(rows.distinct().order_by("-revision"))
    for layout in found:
        layout.model = model
    return found


def default_set(
    *,
    model: RecommendationModel,
    default_answer: Mapping[str, Any] | None,
    actor: User | None,
    layout: Layout | None = None,
) -> Layout:
    """Set what is served when a key has no row, for versions of one layout; None serves 204 instead.

    Args:
        model: whose.
        default_answer: the record, with the layout's fields.
        actor: who.
        layout: one of the model's; the newest without it.

    Raises:
        RuleBroken: the layout cannot hold it; the message names the field.
        LimitReached: the studio would have more than serving may be given of it.
    """
    wanted = as_dict(default_answer)
    with transaction.atomic():
        lock_model(model)
        layout = layout or newest_layout(model)
        if layout.model_id != model.pk:
            raise RuleBroken("This layout belongs to another model.", field="layout")
        layout.refresh_from_db(from_queryset=Layout.objects.unscoped())
        layout.model = model
        check_default(wanted, layout.fields)
        if wanted != layout.default:
            before = {"default_answer": layout.default}
            _save_default(layout, wanted)
            if wanted is not None:
                check_published_size(model.tenant, field="default_answer")
            summary = f"Changed the default answer of “{model.slug}”, layout {layout.revision}."
            record_act(
                model, actor, audit.Action.MODEL_SET_DEFAULT, summary, before=before, after={"default_answer": wanted}
            )
    return layout


# --- Versions and sources -------------------------------------------------------------------------------------------


def version_create(
    *,
    model: RecommendationModel,
    name: str,
    source_kind: str,
    source_location: str,
    actor: User | None,
    layout: Layout | None = None,
    now: datetime | None = None,
) -> Version:
    """Make a version with its source. The model's first one gets all of its units (rollout revision 1).

    Args:
        model: what it is a version of.
        name: how answers and pages name it: letters, digits, dots, hyphens and underscores, at most 60.
        source_kind: one of `SourceKind`.
        source_location: a path or glob, project.dataset.table, or the text of a query.
        actor: who makes it.
        layout: one of the model's; the newest without it.
        now: the present, without it the clock's.

    Raises:
        RuleBroken: the name is taken, the studio may not read the source, or there is no code for it.
        LimitReached: the studio would have more than serving may be given of it.
    """
    check_version_name(name)
    with transaction.atomic():
        lock_model(model)
        layout = layout or newest_layout(model)
        if layout.model_id != model.pk:
            raise RuleBroken("This layout belongs to another model.", field="layout")
        location = check_source(model.tenant, source_kind, source_location)
        if Version.objects.for_tenant(model.tenant).filter(model=model, name=name).exists():
            raise RuleBroken(f"This model already has a version “{name}”.", field="name")
        version = Version.objects.create(
            model=model, name=name, code=free_code(model, now or timezone.now()), layout=layout
        )
        Source.objects.create(version=version, kind=source_kind, location=location)
        check_published_size(model.tenant, field="name")
        if not RolloutRevision.objects.for_tenant(model.tenant).filter(model=model).exists():
            _start_rollout(version, actor)
        after = {
            "code": version.code,
            "layout_revision": layout.revision,
            "source": {"kind": source_kind, "location": location},
        }
        summary = f"Made the version “{name}” of “{model.slug}”."
        record_act(version, actor, audit.Action.VERSION_CREATE, summary, after=after)
    return version


def source_set(*, version: Version, kind: str, location: str, actor: User | None) -> Source:
    """Change where a version's rows come from, from the next load on.

    Raises:
        RuleBroken: the kind is unknown, the location is malformed, or the studio may not read there.
    """
    with transaction.atomic():
        model = version.model
        lock_model(model)
        check_in_use(version)
        location = check_source(model.tenant, kind, location)
        before = Source.objects.for_tenant(model.tenant).filter(version=version).first()
        if before is not None and (before.kind, before.location) == (kind, location):
            return before
        after = {"kind": kind, "location": location}
        source, _ = Source.objects.for_tenant(model.tenant).update_or_create(version=version, defaults=after)
        summary = f"Changed the source of “{model.slug}/{version.name}”."
        was = {"kind": before.kind, "location": before.location} if before else None
        record_act(version, actor, audit.Action.SOURCE_SET, summary, before=was, after=after)
    return source


# --- What the functions above share ---------------------------------------------------------------------------------


def _start_rollout(version: Version, actor: User | None) -> None:
    """Give a model's first version all of its units: revision 1, phase 1, a random salt."""
    RolloutRevision.objects.create(
        model=version.model,
        number=1,
        phase=1,
        salt=new_salt(),
        weights_bp={str(version.code): BASIS_POINTS},
        allocation=bytes([version.code]) * BASIS_POINTS,
        moved_bp=0,
        actor=actor,
        actor_name=audit.name_of(actor),
        reason="",
    )


def _save_default(layout: Layout, answer: dict[str, Any] | None) -> None:
    """Give a layout a default, and the model what the release before can serve: one that every layout in use holds."""
    model = layout.model
    model.default_revision += 1
    layout.default_answer, layout.default_revision = answer, model.default_revision
    layout.save()
    in_use = layouts_in_use(model)
    given = (one.default for one in in_use)
    model.default_answer = next((one for one in given if all(other.fits(one) for other in in_use)), None)
    model.save(update_fields=["default_answer", "default_revision"])
