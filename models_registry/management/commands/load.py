"""`manage.py load TENANT/MODEL/VERSION`: one load in the foreground, with a progress bar."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any, assert_never

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from models_registry.loading import running
from models_registry.loading.pulse import WRITE_SECONDS
from models_registry.loading.pulse import Progress as LoadProgress
from models_registry.loading.report import Report
from models_registry.loading.report_text import report_lines
from models_registry.loading.requests import load_request
from models_registry.models import RUNNING_STATES, Load, LoadRange, LoadState, RecommendationModel, Version
from tenants.models import Tenant
from tenants.rules import RuleBroken

ADVICE = {
    LoadState.REJECTED: "Fix the source, then load again.",
    LoadState.FAILED: "When that is fixed, load again.",
    LoadState.SUPERSEDED: "See the newer load.",
    LoadState.CANCELLED: "To load after all, run the command again.",
}


class Command(BaseCommand):
    """Load a version's source here and now."""

    help = "Load a version's source in the foreground, or only check it; exit 1 if it is rejected or fails."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the version, and what is to be done with it."""
        parser.add_argument("version", metavar="TENANT/MODEL/VERSION", help="for example red-fox/offers/2026-11-a")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="only read, check and compare with what is served; print the whole report and write nothing",
        )

    def handle(self, *args: Any, version: str, dry_run: bool, **options: Any) -> None:
        """Run the load and say how it ended and what to do next.

        Raises:
            CommandError: there is no such version, or the load did not become active.
        """
        found = find_version(version)
        try:
            # Claimed before the workers can hear of it, so that this process runs it and they leave it alone.
            with transaction.atomic():
                queued = load_request(version=found, actor=None, dry_run=dry_run)
                load = running.claim(queued.pk)
        except RuleBroken as problem:
            raise CommandError(f"{problem}") from None
        if load is None:
            raise CommandError("Another process took the load first. See the load's page in the dashboard.")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _RowsColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = _Bars(progress)
            running.run_claimed(load, listener=bar.show)
            ended = self._followed(load.pk, bar)
        self._conclude(version, ended)

    def _followed(self, load_id: int, bar: _Bars) -> Load:
        """Return a load once it has ended: one that was cut into ranges is in the workers' hands for now."""
        load = Load.objects.unscoped().get(pk=load_id)
        if load.state in RUNNING_STATES:
            ranges = LoadRange.objects.unscoped().filter(load=load).count()
            self.stdout.write(
                f"Workers of the queue “loads” share it in {ranges} ranges of keys. Ctrl-C does not stop them."
            )
        while load.state in RUNNING_STATES:
            time.sleep(WRITE_SECONDS)
            load.refresh_from_db(fields=["state", "rows_read", "rows_written"])
            bar.show(LoadProgress(LoadState(load.state), load.rows_read, load.rows_written, load.rows_expected))
        return Load.objects.unscoped().get(pk=load_id)

    def _conclude(self, name: str, load: Load) -> None:
        report = Report.read(load.report)
        if load.is_dry_run:
            self.stdout.write("\n".join(report_lines(report)) + "\n")
        else:
            for note in report.notes:
                self.stdout.write(f"Note: {note}")
        match LoadState(load.state):
            case LoadState.CHECKED:
                self.stdout.write(self.style.SUCCESS(f"{name}: all checks of {load.rows_read:,} rows passed."))
                self.stdout.write("Nothing was written. To load it, run the same command without --dry-run.")
                return
            case LoadState.ACTIVE:
                self.stdout.write(self.style.SUCCESS(f"{name}: {_success(load)}."))
                self.stdout.write("Lanes answer from them within 2 seconds.")
                return
            case LoadState.REJECTED | LoadState.FAILED | LoadState.SUPERSEDED | LoadState.CANCELLED as ended:
                advice = ADVICE[ended]
            case (
                LoadState.QUEUED
                | LoadState.EXTRACTING
                | LoadState.CHECKING
                | LoadState.WRITING
                | LoadState.VERIFYING as running_state
            ):
                raise CommandError(f"{name}: {running_state.label.lower()}. See the load's page in the dashboard.")
            case other:
                assert_never(other)
        # The whole report of a dry run stands above already; of a load, what its problem does not say.
        for check in [] if load.is_dry_run else report.stopping[1:]:
            self.stdout.write(f"Also: {check.words}.")
        active = load.version.active_table
        served = (
            f"The previous table, of {active.row_count:,} rows, is still served."
            if active
            else "Nothing has been loaded yet, so the model's default is served."
        )
        raise CommandError(f"{name}: {LoadState(load.state).label.lower()}. {load.problem}\n{served} {advice}")


def _success(load: Load) -> str:
    """Say how many rows became active, and how fast."""
    seconds = (load.finished_at - load.started_at).total_seconds() if load.finished_at and load.started_at else 0
    rate = f", {load.rows_written / seconds:,.0f} rows/s" if seconds else ""
    return f"{load.rows_written:,} rows are active after {seconds:.1f} s{rate}"


def find_version(name: str) -> Version:
    """Return the version that `TENANT/MODEL/VERSION` names.

    Raises:
        CommandError: one of the three is not there; the message says which, and what is there instead.
    """
    parts = name.split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise CommandError(f"“{name}” is not of the form TENANT/MODEL/VERSION.")
    tenant = Tenant.objects.filter(slug=parts[0]).first()
    if tenant is None:
        raise CommandError(f"There is no studio “{parts[0]}”. {_there_are(Tenant.objects.all(), 'slug')}")
    models = RecommendationModel.objects.for_tenant(tenant)
    model = models.filter(slug=parts[1]).first()
    if model is None:
        raise CommandError(f"The studio “{parts[0]}” has no model “{parts[1]}”. {_there_are(models, 'slug')}")
    versions = Version.objects.for_tenant(tenant).filter(model=model)
    version = versions.filter(name=parts[2]).first()
    if version is None:
        raise CommandError(f"The model “{parts[1]}” has no version “{parts[2]}”. {_there_are(versions, 'name')}")
    return version


def _there_are(rows: Any, field: str) -> str:
    names = list(rows.order_by(field).values_list(field, flat=True)[:10])
    return f"There are: {', '.join(names)}." if names else "There is none yet."


class _RowsColumn(ProgressColumn):
    """Rows done of rows expected, and the rate."""

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        total = f" of {task.total:,.0f}" if task.total else ""
        speed = f", {task.speed:,.0f} rows/s" if task.speed else ""
        return Text(f"{task.completed:,.0f}{total} rows{speed}")


class _Bars:
    """A bar for each stage that goes through rows."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[LoadState, TaskID] = {}

    def show(self, load: LoadProgress) -> None:
        """Show how far a load is."""
        totals = {
            LoadState.EXTRACTING: load.rows_expected,
            LoadState.CHECKING: None,
            LoadState.WRITING: load.rows_read,
            LoadState.VERIFYING: load.rows_read,
        }
        if load.state not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, completed=load.rows_read, total=load.rows_read)
            if load.state in totals:
                self._tasks[load.state] = self._progress.add_task(str(load.state.label), total=totals[load.state])
        if load.state in totals:
            done = load.rows_read if load.state == LoadState.EXTRACTING else load.rows_written
            self._progress.update(self._tasks[load.state], completed=done, total=totals[load.state])
