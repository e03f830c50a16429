"""The one moment at which a load becomes visible, and what becomes of the tables before it."""

from __future__ import annotations

import logging

from django.db import transaction
from django.utils import timezone

from models_registry.catalogue.acts import record_act
from models_registry.loading.pulse import Pulse, Superseded, check_not_superseded
from models_registry.loading.report import Report
from models_registry.models import LoadState, Table, TableState, Version
from serving.tracing import span
from tenants import audit
from tenants.services import StudioBusy, lock_tenant

log = logging.getLogger(__name__)

# How many tables besides the active one are kept, for going back with one click.
TABLES_KEPT = 2


def activate(pulse: Pulse, table: Table, *, report: Report) -> None:
    """Make a written and verified table the one that is served: one commit, then a snapshot.

    Waits for whoever is changing the studio as long as the load may last.

    Raises:
        TookTooLong: it may last no longer.
        Superseded: a newer load is waiting, running or active; nothing was changed.
        Overtaken: another run has the load; nothing was changed.
        RuleBroken: the studio has ended meanwhile.
    """
    while True:
        try:
            with span("load.activate", load=pulse.load.pk):
                _activate(pulse, table, report)
        except StudioBusy:  # all the work is done: it must not be lost for a change that takes long
            log.warning("load.waits load=%s for=studio", pulse.load.pk)
            pulse.beat()
        else:
            return


def _activate(pulse: Pulse, table: Table, report: Report) -> None:
    load = pulse.load
    version = load.version
    now = timezone.now()
    with transaction.atomic():
        lock_tenant(version.model.tenant)
        tables = ("active_table", "previous_table", "older_table")
        held = Version.objects.unscoped().select_related(*tables).get(pk=version.pk)
        before = held.active_table
        # Nobody goes back to a table that lost rows, so only whole tables are kept.
        kept = [old for old in (held.active_table, held.previous_table, held.older_table) if old and old.is_whole]
        previous, older = [*kept, None, None][:TABLES_KEPT]
        moved = Version.objects.unscoped().filter(pk=version.pk, active_fence__lt=load.fence)
        if not moved.update(active_table=table, previous_table=previous, older_table=older, active_fence=load.fence):
            raise Superseded("A newer load became active first.")
        check_not_superseded(load)
        Table.objects.unscoped().filter(pk=table.pk).update(state=TableState.READY, activated_at=now)
        pulse.write(state=LoadState.ACTIVE, report=report.as_json(), problem="", finished_at=now)
        # A sweep drops what is no longer kept, once nobody can be reading it any more.
        whole = Table.objects.unscoped().filter(version=version, state=TableState.READY)
        keys = [kept_table.pk for kept_table in (table, previous, older) if kept_table is not None]
        whole.exclude(pk__in=keys).update(state=TableState.DROPPING)
        record_act(
            version,
            load.requested_by,
            audit.Action.LOAD_ACTIVATE,
            f"Load {load.fence} of “{version.model.slug}/{version.name}” is active: {table.row_count:,} rows.",
            before={"active_table": before.table_id, "rows": before.row_count} if before else None,
            after={"active_table": table.table_id, "rows": table.row_count},
        )
