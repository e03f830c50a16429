"""Writes on models, layouts, versions, sources, loads, tables and overrides.

Each owns its transaction, leaves an audit entry in it, and tells serving after commit. Studio by studio they run one
after another (`lock_tenant`), so that numbers and codes are taken without gaps in the rules.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from models_registry.catalogue.limits import check_load_may_wait, check_published_size, check_tester_may_be_added
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
from models_registry.loading.broker import hand_over
from models_registry.models import (
    MAX_CODE,
    RUNNING_STATES,
    Layout,
    Load,
    LoadState,
    Override,
    RecommendationModel,
    RolloutRevision,
    Source,
    Table,
    Version,
)
from models_registry.rollouts.services import rollout_start
from serving.formats.tokens import is_unit
from tenants import audit
from tenants.models import Tenant, User
from tenants.rules import RuleBroken, check_reason, check_slug, check_text
from tenants.services import lock_tenant
from tenants.signals import announce_after_commit

log = logging.getLogger(__name__)

LOAD_TASK = "loading.run"
MAX_ROWS_PER_SECOND = 100_000_000


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
        default_answer: the record served when a key has no row; None for none.
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
        default_answer=as_dict(default_answer),
        max_client_age_seconds=check_client_age(max_client_age_seconds),
    )
    fields = check_layout(layout)
    check_default(model.default_answer, [fields])
    with transaction.atomic():
        lock_tenant(tenant)
        if RecommendationModel.objects.for_tenant(tenant).filter(slug=slug).exists():
            raise RuleBroken(f"The studio has a model “{slug}” already.", field="slug")
        model.save(force_insert=True)
        Layout.objects.create(model=model, revision=0, fields=fields)
        check_published_size(tenant, field="layout")
        after = {
            "key_fields": model.key_fields,
            "unit_field": model.unit_field,
            "default_answer": model.default_answer,
            "max_client_age_seconds": model.max_client_age_seconds,
            "layout": fields,
        }
        _record(model, actor, "model.create", f"Made the model “{model.slug}”.", after=after)
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
        _lock_model(model)
        before = {field: getattr(model, field) for field, value in wanted.items() if getattr(model, field) != value}
        after = {field: wanted[field] for field in before}
        if after:
            for field, value in after.items():
                setattr(model, field, value)
            model.save(update_fields=list(after))
            summary = f"Changed the model “{model.slug}”: {', '.join(sorted(after))}."
            _record(model, actor, "model.update", summary, before=before, after=after)
    return model


def layout_add(*, model: RecommendationModel, fields: Sequence[Mapping[str, Any]], actor: User | None) -> Layout:
    """Make the next layout revision. Versions that have one keep it; a version made from now on gets this one.

    Raises:
        RuleBroken: it is no layout, it is the newest one already, or all 256 revisions are taken.
        LimitReached: the studio would have more than serving may be given of it.
    """
    checked = check_layout(fields)
    with transaction.atomic():
        _lock_model(model)
        newest = newest_layout(model)
        if newest.fields == checked:
            raise RuleBroken("This is the newest layout already.", field="fields")
        if newest.revision >= MAX_CODE:
            raise RuleBroken(f"The model “{model.slug}” has used all of its 256 layout revisions.", field="fields")
        layout = Layout.objects.create(model=model, revision=newest.revision + 1, fields=checked)
        check_published_size(model.tenant, field="layout")
        summary = f"Added layout {layout.revision} to “{model.slug}”."
        after = {"revision": layout.revision, "layout": checked}
        _record(model, actor, "layout.add", summary, after=after)
    return layout


def newest_layout(model: RecommendationModel) -> Layout:
    """Give the layout that a new version gets. One query."""
    return Layout.objects.for_tenant(model.tenant).filter(model=model).latest("revision")


def default_set(
    *, model: RecommendationModel, default_answer: Mapping[str, Any] | None, actor: User | None
) -> RecommendationModel:
    """Set what is served when a key has no row; None serves 204 instead.

    Raises:
        RuleBroken: a layout in use cannot hold it; the message names layout and field.
        LimitReached: the studio would have more than serving may be given of it.
    """
    wanted = as_dict(default_answer)
    with transaction.atomic():
        _lock_model(model)
        check_default(wanted, _layouts_in_use(model))
        if wanted != model.default_answer:
            before = {"default_answer": model.default_answer}
            model.default_answer = wanted
            model.default_revision += 1
            model.save(update_fields=["default_answer", "default_revision"])
            if wanted is not None:
                check_published_size(model.tenant, field="default_answer")
            summary = f"Changed the default answer of “{model.slug}”."
            _record(model, actor, "model.set_default", summary, before=before, after={"default_answer": wanted})
    return model


# --- Versions and sources -------------------------------------------------------------------------------------------


def version_create(
    *,
    model: RecommendationModel,
    name: str,
    source_kind: str,
    source_location: str,
    actor: User | None,
    layout: Layout | None = None,
) -> Version:
    """Make a version with its source. The model's first one gets all of its units (rollout revision 1).

    Args:
        model: what it is a version of.
        name: how answers and pages name it: letters, digits, dots, hyphens and underscores, at most 60.
        source_kind: one of `SourceKind`.
        source_location: a path or glob, project.dataset.table, or the text of a query.
        actor: who makes it.
        layout: one of the model's; the newest without it.

    Raises:
        RuleBroken: the name is taken, the studio may not read the source, the default answer does not fit the layout,
            or all 256 codes have been used.
        LimitReached: the studio would have more than serving may be given of it.
    """
    check_version_name(name)
    with transaction.atomic():
        _lock_model(model)
        layout = layout or newest_layout(model)
        if layout.model_id != model.pk:
            raise RuleBroken("The layout is another model's.", field="layout")
        check_default(model.default_answer, [layout.fields])
        location = check_source(model.tenant, source_kind, source_location)
        if Version.objects.for_tenant(model.tenant).filter(model=model, name=name).exists():
            raise RuleBroken(f"The model has a version “{name}” already.", field="name")
        version = Version.objects.create(model=model, name=name, code=_free_code(model), layout=layout)
        Source.objects.create(version=version, kind=source_kind, location=location)
        check_published_size(model.tenant, field="name")
        if not RolloutRevision.objects.for_tenant(model.tenant).filter(model=model).exists():
            rollout_start(version=version, actor=actor)
        after = {
            "code": version.code,
            "layout_revision": layout.revision,
            "source": {"kind": source_kind, "location": location},
        }
        summary = f"Made the version “{name}” of “{model.slug}”."
        _record(model, actor, "version.create", summary, subject=f"version {model.slug}/{name}", after=after)
    return version


def source_set(*, version: Version, kind: str, location: str, actor: User | None) -> Source:
    """Change where a version's rows come from, from the next load on.

    Raises:
        RuleBroken: the kind is unknown, the location is malformed, or the studio may not read there.
    """
    with transaction.atomic():
        model = version.model
        _lock_model(model)
        location = check_source(model.tenant, kind, location)
        before = Source.objects.for_tenant(model.tenant).filter(version=version).first()
        if before is not None and (before.kind, before.location) == (kind, location):
            return before
        source, _ = Source.objects.for_tenant(model.tenant).update_or_create(
            version=version, defaults={"kind": kind, "location": location}
        )
        _record(
            model,
            actor,
            "source.set",
            f"Changed the source of “{model.slug}/{version.name}”.",
            subject=f"version {model.slug}/{version.name}",
            before={"kind": before.kind, "location": before.location} if before else None,
            after={"kind": kind, "location": location},
        )
    return source


# --- Loads and tables -----------------------------------------------------------------------------------------------


def load_request(
    *,
    version: Version,
    actor: User | None,
    dry_run: bool = False,
    rows_per_second_limit: int | None = None,
    scheduled_for: datetime | None = None,
    repairs: Table | None = None,
) -> Load:
    """Queue a load of a version's source, and have a worker run it once this is committed.

    Its fencing number is above that of every load of the version before it: of two only the newer may activate. If
    the broker is away the load stays queued, and the sweep for forgotten loads finds it.

    Args:
        version: what to load.
        actor: who asks; None for the system.
        dry_run: only read, check and compare with what is served; the load ends `checked` or `rejected`.
        rows_per_second_limit: write at most so many, 1 … 100,000,000; None: as fast as serving allows.
        scheduled_for: the due run of the version's schedule that this is.
        repairs: the table of which Redis lost a part.

    Raises:
        LimitReached: a dry run of the version waits already, and this is one; or too many of the studio's loads wait.
        RuleBroken: the version has no source, the limit will not do, or the studio has ended.
    """
    if rows_per_second_limit is not None and not 1 <= rows_per_second_limit <= MAX_ROWS_PER_SECOND:
        raise RuleBroken(
            f"The limit is a whole number of rows a second from 1 to {MAX_ROWS_PER_SECOND:,}.",
            field="rows_per_second_limit",
        )
    with transaction.atomic():
        model = version.model
        lock_tenant(model.tenant)
        source = Source.objects.for_tenant(model.tenant).filter(version=version).first()
        if source is None:
            raise RuleBroken(f"The version “{version.name}” has no source yet.")
        values = {"scheduled_for": scheduled_for, "repairs": repairs, "rows_per_second_limit": rows_per_second_limit}
        load = _queue_load(version, actor, source.kind, source.location, is_dry_run=dry_run, **values)
        what = f"a dry run, load {load.fence}," if dry_run else f"load {load.fence}"
        audit.record(
            tenant=model.tenant,
            actor=actor,
            action="load.request",
            subject=f"version {model.slug}/{version.name}",
            summary=f"Asked for {what} of “{model.slug}/{version.name}”{_why(load)}.",
            after={
                "fence": load.fence,
                "source": {"kind": source.kind, "location": source.location},
                "is_dry_run": dry_run,
            },
        )
    return load


def load_activate_anyway(*, load: Load, actor: User | None, reason: str) -> Load:
    """Queue a load that does not mind what a load before it was rejected for; for a studio's admins.

    It reads the same source anew. Those comparisons with the served table that rejected the first (row count,
    distributions, coverage) do not stop it; every other check does, and none is ever waived that a single row fails.

    Args:
        load: the rejected one.
        actor: who answers for it.
        reason: why, for the audit trail; required.

    Raises:
        RuleBroken: there is no reason, the load was not rejected, or by a check that is never waived, or a newer load
            has become active or waives the same already, or the studio has ended.
        LimitReached: too many of the studio's loads wait.
    """
    reason = check_reason(reason, is_required=True)
    with transaction.atomic():
        version, model = load.version, load.version.model
        lock_tenant(model.tenant)
        loads = Load.objects.for_tenant(model.tenant).filter(version=version)
        load = loads.get(pk=load.pk)
        _check_may_be_accepted(load)
        newer = loads.filter(fence__gt=load.fence)
        if newer.filter(state=LoadState.ACTIVE).exists():
            raise RuleBroken("A newer load has become active since; there is nothing to let through any more.")
        again = newer.filter(accepts=load, state__in=RUNNING_STATES).first()
        if again is not None:
            raise RuleBroken(f"Load {again.fence} does that already.")
        new = _queue_load(version, actor, load.source_kind, load.source_location, accepts=load, accept_reason=reason)
        audit.record(
            tenant=model.tenant,
            actor=actor,
            action="load.activate_anyway",
            subject=f"version {model.slug}/{version.name}",
            summary=f"Asked for load {new.fence} of “{model.slug}/{version.name}”, to activate what load {load.fence} "
            "was rejected with.",
            reason=reason,
            before={"fence": load.fence, "problem": load.problem},
            after={"fence": new.fence, "waives": sorted(failed_checks(load))},
        )
    return new


def failed_checks(load: Load) -> list[str]:
    """Give the names of the checks that a load failed."""
    return [check["name"] for check in load.report.get("checks", []) if not check["passed"]]


def _check_may_be_accepted(load: Load) -> None:
    if load.state != LoadState.REJECTED:
        raise RuleBroken("Only a load that a check rejected can be activated anyway.")
    failed = [check for check in load.report.get("checks", []) if not check["passed"]]
    hard = [check["name"] for check in failed if not check.get("may_be_waived", False)]
    if hard or not failed:
        what = f" ({', '.join(hard[:3])})" if hard else ""
        raise RuleBroken(f"This load failed a check that is never waived{what}: mend the source, then load again.")


def _queue_load(version: Version, actor: User | None, kind: str, location: str, **values: Any) -> Load:
    """Make the next load of a version and enqueue it after commit. Under the studio's lock."""
    check_load_may_wait(version, is_dry_run=values.get("is_dry_run", False))
    # The UPDATE holds the row until commit, so the number read after it is this load's alone.
    Version.objects.for_tenant(version.model.tenant).filter(pk=version.pk).update(last_fence=F("last_fence") + 1)
    version.refresh_from_db(fields=["last_fence"])
    load = Load.objects.create(
        version=version,
        fence=version.last_fence,
        requested_by=actor,
        requested_by_name=audit.name_of(actor),
        source_kind=kind,
        source_location=location,
        **values,
    )

    def enqueue() -> None:
        load_enqueue(load.pk)

    transaction.on_commit(enqueue, robust=True)
    return load


def _why(load: Load) -> str:
    if load.repairs_id is not None:
        return ", because Redis lost part of its table"
    return f", due at {load.scheduled_for:%Y-%m-%d %H:%M} UTC" if load.scheduled_for is not None else ""


def load_enqueue(load_id: int) -> bool:
    """Hand a queued load to the workers; say whether the broker took it. A second delivery does nothing twice."""
    return hand_over(LOAD_TASK, load_id)


def table_roll_back(*, version: Version, actor: User | None, reason: str, table: Table | None = None) -> Version:
    """Serve one of the two kept tables instead of the active one, which is kept in turn. Live within 2 s.

    Args:
        version: whose.
        actor: who does it.
        reason: why.
        table: the version's previous or older table; None for the previous. Going back to the previous one twice is
            back where it was.

    Raises:
        RuleBroken: it is not one of the kept tables, it is not whole any more, or another table became active
            meanwhile.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        model = version.model
        lock_tenant(model.tenant)
        rows = Version.objects.for_tenant(model.tenant)
        version.refresh_from_db(from_queryset=rows.select_related("active_table", "previous_table", "older_table"))
        active, previous, older = version.active_table, version.previous_table, version.older_table
        if previous is None or active is None:
            raise RuleBroken(f"The version “{version.name}” has no earlier table to go back to.")
        target = table or previous
        if target not in (previous, older):
            raise RuleBroken(f"That is not one of the two tables that “{version.name}” keeps.", field="table")
        if not target.is_whole:
            raise RuleBroken(f"The earlier table of “{version.name}” is not whole any more.")
        unchanged = rows.filter(pk=version.pk, active_table=active, previous_table=previous, older_table=older)
        kept = {"previous_table": active, "older_table": older if target == previous else previous}
        if not unchanged.update(active_table=target, **kept):
            raise RuleBroken("Another table became active at this moment; look again.")
        version.active_table, version.previous_table = target, active
        version.older_table = kept["older_table"]
        _record(
            model,
            actor,
            "table.roll_back",
            f"Went back to an earlier table of “{model.slug}/{version.name}”.",
            subject=f"version {model.slug}/{version.name}",
            reason=reason,
            before={"active_table": active.table_id, "rows": active.row_count},
            after={"active_table": target.table_id, "rows": target.row_count},
        )
    return version


# --- Overrides ------------------------------------------------------------------------------------------------------


def override_set(
    *, model: RecommendationModel, unit: str, version: Version, actor: User | None, note: str = ""
) -> Override:
    """Give a tester one version whatever the weights say.

    Raises:
        RuleBroken: the unit is no text of 1 to 256 bytes, or the version is another model's.
        LimitReached: the model has 1,000 testers, or serving would be given more of the studio than it may.
    """
    note = check_text(note, field="note", what="The note", max_length=200, is_required=False)
    _check_unit(unit)
    if version.model_id != model.pk:
        raise RuleBroken("The version is another model's.", field="version")
    with transaction.atomic():
        _lock_model(model)
        rows = Override.objects.for_tenant(model.tenant).select_related("version")
        before = rows.filter(model=model, unit=unit).first()
        if before is None:
            check_tester_may_be_added(model)
        override, _ = rows.update_or_create(model=model, unit=unit, defaults={"version": version, "note": note})
        if before is None:
            check_published_size(model.tenant, field="unit")
        _record(
            model,
            actor,
            "override.set",
            f"Gave a tester the version “{version.name}” of “{model.slug}”.",
            before={"unit": unit, "version": before.version.name} if before else None,
            after={"unit": unit, "version": version.name, "note": note},
        )
    return override


def override_remove(*, model: RecommendationModel, unit: str, actor: User | None) -> None:
    """Let the weights decide for a tester again.

    Raises:
        RuleBroken: there is no override for this unit, or it is none.
    """
    _check_unit(unit)
    with transaction.atomic():
        _lock_model(model)
        rows = Override.objects.for_tenant(model.tenant).select_related("version")
        override = rows.filter(model=model, unit=unit).first()
        if override is None:
            raise RuleBroken("There is no override for this unit.", field="unit")
        before = {"unit": unit, "version": override.version.name}
        override.delete()
        _record(model, actor, "override.remove", f"Took a tester's version of “{model.slug}” away.", before=before)


# --- What the functions above share ---------------------------------------------------------------------------------


def _check_unit(unit: str) -> None:
    if not is_unit(unit):
        raise RuleBroken("A unit is a text of 1 to 256 bytes without control characters.", field="unit")


def _lock_model(model: RecommendationModel) -> None:
    """Read a model anew under its studio's lock."""
    lock_tenant(model.tenant)
    model.refresh_from_db(from_queryset=RecommendationModel.objects.unscoped())


def _record(
    model: RecommendationModel,
    actor: User | None,
    action: str,
    summary: str,
    *,
    subject: str = "",
    reason: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
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


def _free_code(model: RecommendationModel) -> int:
    """Give the lowest code that no version of the model has or had: phones may still hold an answer with it."""
    used = set(Version.objects.for_tenant(model.tenant).filter(model=model).values_list("code", flat=True))
    revisions = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model)
    for weights in revisions.values_list("weights_bp", flat=True).iterator():
        used.update(int(code) for code in weights)
    free = next((code for code in range(MAX_CODE + 1) if code not in used), None)
    if free is None:
        raise RuleBroken(f"The model “{model.slug}” has used all of its 256 version codes; make a new model.")
    return free


def _layouts_in_use(model: RecommendationModel) -> list[list[dict[str, Any]]]:
    """Give the fields of every layout that a version has, and of the newest, which the next version gets."""
    layouts = Layout.objects.for_tenant(model.tenant).filter(model=model)
    in_use = layouts.filter(versions__isnull=False).distinct()
    return [layout.fields for layout in {*in_use, newest_layout(model)}]
