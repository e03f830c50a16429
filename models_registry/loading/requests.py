"""Loads and tables as acts: ask for a load, cancel it, activate a rejected one anyway, go back to an earlier table.

Each owns its transaction, leaves an audit entry in it, and tells serving after commit.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from models_registry.catalogue.acts import record, record_act
from models_registry.catalogue.archiving import check_in_use
from models_registry.catalogue.limits import check_load_may_wait
from models_registry.catalogue.rules import check_source
from models_registry.loading.broker import hand_over
from models_registry.loading.report import Report
from models_registry.models import RUNNING_STATES, Load, LoadState, ProblemCode, Source, Table, Version
from tenants import audit
from tenants.models import User
from tenants.rules import RuleBroken, check_reason
from tenants.services import lock_tenant

log = logging.getLogger(__name__)
LOAD_TASK = "loading.run"
MAX_ROWS_PER_SECOND = 100_000_000


def load_request(
    *,
    version: Version,
    actor: User | None,
    dry_run: bool = False,
    rows_per_second_limit: int | None = None,
    scheduled_for: datetime | None = None,
    repairs: Table | None = None,
    source_kind: str | None = None,
    source_location: str = "",
) -> Load:
    """Queue a load of a version's source, or of one for this load alone; a worker runs it once this is committed.

    Its fencing number is above that of every load of the version before it: of two only the newer may activate. If
    the broker is away the load stays queued, and the sweep for forgotten loads finds it.

    Args:
        version: what to load.
        actor: who asks; None for the system.
        dry_run: only read, check and compare with what is served; the load ends `checked` or `rejected`.
        rows_per_second_limit: write at most so many, 1 … 100,000,000; None: as fast as serving allows.
        scheduled_for: the due run of the version's schedule that this is.
        repairs: the table of which Redis lost a part; what it was made of is read again.
        source_kind: read this instead of the version's source, which stays as it is; None: that one.
        source_location: of `source_kind`.

    Raises:
        LimitReached: a dry run of the version waits already, and this is one; or too many of the studio's loads wait.
        RuleBroken: the version has no source, the studio may not read the one given or it is malformed, the limit will
            not do, or the studio has ended.
    """
    if rows_per_second_limit is not None and not 1 <= rows_per_second_limit <= MAX_ROWS_PER_SECOND:
        raise RuleBroken(
            f"The limit must be a whole number of rows a second from 1 to {MAX_ROWS_PER_SECOND:,}.",
            field="rows_per_second_limit",
        )
    with transaction.atomic():
        model = version.model
        lock_tenant(model.tenant)
        check_in_use(version)
        if source_kind is not None:
            kind, location = source_kind, check_source(model.tenant, source_kind, source_location)
        else:
            kind, location = _source_of(version)
            if repairs is not None:
                kind, location = repairs.load.source_kind, repairs.load.source_location
        values = {"scheduled_for": scheduled_for, "repairs": repairs, "rows_per_second_limit": rows_per_second_limit}
        load = _queue_load(version, actor, kind, location, is_dry_run=dry_run, **values)
        what = f"a dry run, load {load.fence}," if dry_run else f"load {load.fence}"
        own = " from a source of its own" if source_kind is not None else ""
        summary = f"Asked for {what} of “{model.slug}/{version.name}”{own}{_why(load)}."
        read = {"kind": kind, "location": location}
        after = {"fence": load.fence, "source": read, "is_dry_run": dry_run}
        record(version, actor, audit.Action.LOAD_REQUEST, summary, after=after)
    return load


def load_waive(*, load: Load, actor: User | None, reason: str) -> Load:
    """Queue a load that waives the checks an earlier one was rejected for; for a studio's admins.

    It reads the same source anew. The comparisons with the served table that rejected the first (row count,
    distributions, coverage) are waived; every other check still holds, and one that single rows fail is never waived.

    Raises:
        RuleBroken: there is no reason, the load was not rejected, or by a check that is never waived, or a newer load
            has become active or waives the same already, or the studio has ended.
        LimitReached: too many of the studio's loads wait.
    """
    reason = check_reason(reason, is_required=True)
    with transaction.atomic():
        version, model = load.version, load.version.model
        lock_tenant(model.tenant)
        check_in_use(version)
        loads = Load.objects.for_tenant(model.tenant).filter(version=version)
        load = loads.get(pk=load.pk)
        _check_may_be_waived(load)
        newer = loads.filter(fence__gt=load.fence)
        if newer.filter(state=LoadState.ACTIVE).exists():
            raise RuleBroken("A newer load has become active since, so there is nothing left to waive.")
        again = newer.filter(waives=load, state__in=RUNNING_STATES).first()
        if again is not None:
            raise RuleBroken(f"Load {again.fence} already waives these checks.")
        new = _queue_load(version, actor, load.source_kind, load.source_location, waives=load, waive_reason=reason)
        record(
            version,
            actor,
            audit.Action.LOAD_ACTIVATE_ANYWAY,
            f"Asked for load {new.fence} of “{model.slug}/{version.name}”, to activate what load {load.fence} "
            "was rejected with.",
            reason=reason,
            before={"fence": load.fence, "problem": load.problem},
            after={"fence": new.fence, "waives": sorted(failed_checks(load))},
        )
    return new


def load_cancel(*, load: Load, actor: User | None, reason: str = "") -> Load:
    """End a load that waits or runs; what is served stays. Its run notices within a second and drops what it wrote.

    Raises:
        RuleBroken: it has ended already, which may have happened meanwhile.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        version, model = load.version, load.version.model
        lock_tenant(model.tenant)
        loads = Load.objects.for_tenant(model.tenant).filter(pk=load.pk)
        ended = {
            "state": LoadState.CANCELLED,
            "problem": f"{audit.name_of(actor)} cancelled it.",
            "problem_code": ProblemCode.CANCELLED,
            "finished_at": timezone.now(),
        }
        running = loads.filter(state__in=RUNNING_STATES)
        if not running.update(**ended):
            state = LoadState(loads.get().state)
            raise RuleBroken(f"Load {load.fence} has already ended: {state.label.lower()}.")
        summary = f"Cancelled load {load.fence} of “{model.slug}/{version.name}”."
        record(version, actor, audit.Action.LOAD_CANCEL, summary, reason=reason, before={"fence": load.fence})
        load.refresh_from_db()
    return load


def failed_checks(load: Load) -> list[str]:
    """Return the names of the checks that a load failed."""
    return [check.name for check in Report.read(load.report).failed]


def may_be_waived(load: Load) -> bool:
    """Tell whether a load was rejected, and only by checks that can be waived."""
    return load.state == LoadState.REJECTED and Report.read(load.report).may_be_waived


def _check_may_be_waived(load: Load) -> None:
    if load.state != LoadState.REJECTED:
        raise RuleBroken("Only a load that a check rejected can be activated anyway.")
    if not may_be_waived(load):
        hard = [check.name for check in Report.read(load.report).failed if not check.may_be_waived]
        what = f" ({', '.join(hard[:3])})" if hard else ""
        raise RuleBroken(f"This load failed a check that is never waived{what}. Fix the source, then load again.")


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
    transaction.on_commit(lambda: load_enqueue(load.pk), robust=True)
    return load


def _source_of(version: Version) -> tuple[str, str]:
    """Return the kind and location of a version's source."""
    source = Source.objects.for_tenant(version.model.tenant).filter(version=version).first()
    if source is None:
        raise RuleBroken(f"The version “{version.name}” has no source yet.")
    return source.kind, source.location


def _why(load: Load) -> str:
    if load.repairs_id is not None:
        return ", because Redis lost part of its table"
    return f", due at {load.scheduled_for:%Y-%m-%d %H:%M} UTC" if load.scheduled_for is not None else ""


def load_enqueue(load_id: int) -> bool:
    """Hand a queued load to the workers; say whether the broker took it. A second delivery does nothing twice."""
    return hand_over(LOAD_TASK, load_id)


def table_roll_back(*, version: Version, actor: User | None, reason: str, table: Table | None = None) -> Version:
    """Serve one of the two kept tables instead of the active one, which is kept in turn. Live within 2 s.

    `table` is the version's previous or older one; None for the previous. Back to that twice is where it was.

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
            raise RuleBroken(f"“{version.name}” does not keep that table.", field="table")
        if not target.is_whole:
            raise RuleBroken(f"The earlier table of “{version.name}” is no longer complete in Redis.")
        unchanged = rows.filter(pk=version.pk, active_table=active, previous_table=previous, older_table=older)
        kept = {"previous_table": active, "older_table": older if target == previous else previous}
        if not unchanged.update(active_table=target, **kept):
            raise RuleBroken("Another table has just become active. Reload the page and look again.")
        version.active_table, version.previous_table = target, active
        version.older_table = kept["older_table"]
        record_act(
            version,
            actor,
            audit.Action.TABLE_ROLL_BACK,
            f"Went back to an earlier table of “{model.slug}/{version.name}”.",
            reason=reason,
            before={"active_table": active.table_id, "rows": active.row_count},
            after={"active_table": target.table_id, "rows": target.row_count},
        )
    return version
