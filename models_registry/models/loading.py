"""How data comes: schedules, loads, and the tables that loads made."""

import secrets
from typing import ClassVar, assert_never

from django.db import models
from django.db.models import F, Q

from models_registry.models.catalogue import SourceKind, Version
from tenants.models import PUBLIC_ID_ALPHABET, User
from tenants.scoping import TenantOwned, TenantOwnedManager


def new_table_id() -> str:
    """Return 12 random characters, so that no two tables in a Redis share one even after a database was restored."""
    return "".join(secrets.choice(PUBLIC_ID_ALPHABET) for _ in range(12))


class ScheduleKind(models.TextChoices):
    """How a schedule says when."""

    INTERVAL = "interval", "Every so many minutes"
    CRONTAB = "crontab", "At times of the day (crontab)"


class Schedule(TenantOwned):
    """When a version is loaded by itself. `models_registry.loading.schedules` works out and starts the runs."""

    tenant_path = "version__model__tenant"

    version = models.OneToOneField(Version, on_delete=models.CASCADE, related_name="schedule")
    kind = models.CharField(max_length=10, choices=ScheduleKind.choices)
    every_minutes = models.PositiveIntegerField(null=True, blank=True)
    crontab = models.CharField(max_length=100, blank=True, default="", help_text="Five fields, such as 0 */4 * * *.")
    timezone = models.CharField(max_length=64, default="UTC", help_text="Whose clock a crontab goes by.")
    is_enabled = models.BooleanField(default=True)
    next_run_at = models.DateTimeField(null=True, blank=True)
    last_run_at = models.DateTimeField(null=True, blank=True, help_text="When it last started a load.")
    note = models.CharField(
        max_length=300, blank=True, default="", help_text="Why the last due run started no load; empty if it did."
    )

    objects = TenantOwnedManager()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(kind=ScheduleKind.INTERVAL, every_minutes__gte=1, crontab="")
                | (Q(kind=ScheduleKind.CRONTAB, every_minutes=None) & ~Q(crontab="")),
                name="schedule_interval_or_crontab",
            ),
            models.CheckConstraint(
                condition=Q(is_enabled=True, next_run_at__isnull=False) | Q(is_enabled=False, next_run_at=None),
                name="schedule_next_run_if_enabled",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["next_run_at"], name="schedule_by_next_run")]

    def __str__(self) -> str:
        match ScheduleKind(self.kind):
            case ScheduleKind.INTERVAL:
                return f"every {self.every_minutes} minutes"
            case ScheduleKind.CRONTAB:
                return self.crontab
            case unknown:
                assert_never(unknown)


class LoadState(models.TextChoices):
    """The life of a load. The last six are ends; that of a dry run is `CHECKED` if every check passed."""

    QUEUED = "queued", "Queued"
    EXTRACTING = "extracting", "Reading the source"
    CHECKING = "checking", "Checking"
    WRITING = "writing", "Writing"
    VERIFYING = "verifying", "Verifying"
    ACTIVE = "active", "Active"
    CHECKED = "checked", "Checked"
    REJECTED = "rejected", "Rejected by a check"
    FAILED = "failed", "Failed"
    SUPERSEDED = "superseded", "Superseded"
    CANCELLED = "cancelled", "Cancelled"


ENDED_STATES = [
    LoadState.ACTIVE,
    LoadState.CHECKED,
    LoadState.REJECTED,
    LoadState.FAILED,
    LoadState.SUPERSEDED,
    LoadState.CANCELLED,
]
# Ends that brought no table, so an older load may still bring its own.
FRUITLESS_STATES = [LoadState.REJECTED, LoadState.FAILED, LoadState.CANCELLED]
RUNNING_STATES = [LoadState.QUEUED, LoadState.EXTRACTING, LoadState.CHECKING, LoadState.WRITING, LoadState.VERIFYING]


class ProblemCode(models.TextChoices):
    """Why a load ended without a table to serve, for programs: a value never changes its meaning."""

    SOURCE_MISSING = "source_missing", "The source is not there"
    SOURCE_NOT_ALLOWED = "source_not_allowed", "The studio or the worker may not read the source"
    SOURCE_UNREADABLE = "source_unreadable", "The source cannot be read as it is"
    SOURCE_OVER_LIMIT = "source_over_limit", "The source is larger than a load may read"
    SOURCE_CHANGED = "source_changed", "The source changed while it was read"
    SOURCE_UNAVAILABLE = "source_unavailable", "Whoever holds the source does not answer, or not now"
    ROWS_WRONG = "rows_wrong", "A check of the columns or rows failed"
    TOO_DIFFERENT = "too_different", "The rows are good, but differ too much from what is served"
    SUPERSEDED = "superseded", "A newer load was faster"
    CANCELLED = "cancelled", "Somebody cancelled it"
    WORKER_LOST = "worker_lost", "The process that ran it ended"
    TOOK_TOO_LONG = "took_too_long", "It ran for longer than a load may"
    OUT_OF_MEMORY = "out_of_memory", "It needs more memory than a load may use"
    DISK_FAILED = "disk_failed", "The worker's disk failed"
    REDIS_UNAVAILABLE = "redis_unavailable", "Redis did not take the table"
    REDIS_FULL = "redis_full", "Redis has no memory left"
    TABLE_DAMAGED = "table_damaged", "Redis did not hold what was written"
    REFUSED = "refused", "A rule of the studio stood against it"
    UNEXPECTED = "unexpected", "Something unexpected went wrong"

    @property
    def may_be_retried(self) -> bool:
        """Tell whether the same load, asked for again a while later, may end well though nobody mended anything."""
        return self in _MAY_BE_RETRIED


_MAY_BE_RETRIED = {
    ProblemCode.SOURCE_MISSING,  # it may be late
    ProblemCode.SOURCE_CHANGED,
    ProblemCode.SOURCE_UNAVAILABLE,
    ProblemCode.WORKER_LOST,
    ProblemCode.DISK_FAILED,
    ProblemCode.REDIS_UNAVAILABLE,
    ProblemCode.TABLE_DAMAGED,
    ProblemCode.UNEXPECTED,
}


class Load(TenantOwned):
    """One run that reads a source and makes a table; what it found is in `report`, why it ended in `problem`."""

    tenant_path = "version__model__tenant"

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="loads")
    fence = models.PositiveBigIntegerField()
    state = models.CharField(max_length=12, choices=LoadState.choices, default=LoadState.QUEUED)
    requested_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    requested_by_name = models.CharField(max_length=150, blank=True, default="")
    is_dry_run = models.BooleanField(default=False, help_text="It only reads and checks; nothing is written.")
    waives = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.RESTRICT,
        related_name="waived_by",
        db_column="accepts_id",
        help_text="The rejected load whose failed comparison checks this load waives.",
    )
    waive_reason = models.CharField(max_length=500, blank=True, default="", db_column="accept_reason")
    attempts = models.PositiveSmallIntegerField(default=0)

    # What it read, fixed when it was queued, so that a later edit of the source does not rewrite history.
    source_kind = models.CharField(max_length=20, choices=SourceKind.choices)
    source_location = models.TextField()
    source_snapshot_at = models.DateTimeField(null=True, help_text="The instant at which BigQuery was read.")

    # Why it was asked for, where no person did: the due run that it is, or the table that Redis lost.
    scheduled_for = models.DateTimeField(null=True, editable=False)
    repairs = models.ForeignKey(
        "Table", null=True, on_delete=models.SET_NULL, related_name="repair_loads", editable=False
    )
    rows_per_second_limit = models.PositiveIntegerField(
        null=True, blank=True, help_text="At most so many rows a second are written; empty: as fast as serving allows."
    )

    rows_read = models.PositiveBigIntegerField(default=0)
    rows_written = models.PositiveBigIntegerField(default=0)
    rows_expected = models.PositiveBigIntegerField(null=True, help_text="When the source says it beforehand.")
    scratch_table = models.CharField(
        max_length=400, blank=True, default="", editable=False, help_text="Where a large source waits in parts."
    )
    report = models.JSONField(default=dict, blank=True)
    problem = models.TextField(blank=True, default="", help_text="One clear sentence, when rejected or failed.")
    problem_code = models.CharField(
        max_length=30,
        blank=True,
        default="",
        db_default="",
        choices=ProblemCode.choices,
        help_text="The same for programs.",
    )

    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["-created_at", "-pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["version", "fence"], name="load_fence_unique_in_version"),
            models.UniqueConstraint(fields=["version", "scheduled_for"], name="load_one_for_a_scheduled_time"),
            models.CheckConstraint(
                condition=Q(rows_per_second_limit=None) | Q(rows_per_second_limit__gte=1),
                name="load_rate_limit_positive",
            ),
            models.CheckConstraint(condition=Q(state__in=LoadState.values), name="load_state_known"),
            models.CheckConstraint(
                condition=Q(state__in=[*RUNNING_STATES, LoadState.SUPERSEDED], finished_at=None)
                | Q(state__in=ENDED_STATES, finished_at__isnull=False),
                name="load_finished_when_ended",
            ),
            models.CheckConstraint(
                condition=Q(is_dry_run=False) & ~Q(state=LoadState.CHECKED)
                | Q(is_dry_run=True, waives=None)
                & ~Q(state__in=[LoadState.WRITING, LoadState.VERIFYING, LoadState.ACTIVE]),
                name="load_dry_run_writes_nothing",
            ),
            models.CheckConstraint(
                condition=Q(waives=None, waive_reason="") | Q(waives__isnull=False) & ~Q(waive_reason=""),
                name="load_accepts_for_a_reason",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["state", "heartbeat_at"], name="load_by_state_and_heartbeat")]

    def __str__(self) -> str:
        return f"{self.version} load {self.fence}"

    @property
    def may_be_retried(self) -> bool:
        """Tell whether it ended badly and the same load may end well a while later; of an old load it is not known."""
        return bool(self.problem_code) and ProblemCode(self.problem_code).may_be_retried


class RangeState(models.TextChoices):
    """The life of a range of a large load."""

    WAITING = "waiting", "Waiting"
    RUNNING = "running", "Running"
    DONE = "done", "Written"


class LoadRange(TenantOwned):
    """A part of a large load that any worker may take: the keys whose digests begin with some of 1,024 values."""

    tenant_path = "load__version__model__tenant"

    load = models.ForeignKey(Load, on_delete=models.CASCADE, related_name="ranges")
    first_partition = models.PositiveSmallIntegerField()
    end_partition = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=10, choices=RangeState.choices, default=RangeState.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    heartbeat_at = models.DateTimeField()
    rows_written = models.PositiveBigIntegerField(default=0)
    size_bytes = models.PositiveBigIntegerField(default=0)
    report = models.JSONField(default=dict, blank=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["load", "first_partition"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["load", "first_partition"], name="load_range_unique_in_load"),
            models.CheckConstraint(
                condition=Q(first_partition__lt=F("end_partition"), end_partition__lte=1024), name="load_range_bounds"
            ),
            models.CheckConstraint(condition=Q(state__in=RangeState.values), name="load_range_state_known"),
        ]

    def __str__(self) -> str:
        return f"{self.load} range {self.first_partition}–{self.end_partition - 1}"


class TableState(models.TextChoices):
    """The life of a table in Redis."""

    WRITING = "writing", "Being written"
    READY = "ready", "Whole"
    DROPPING = "dropping", "Being dropped"
    DROPPED = "dropped", "Dropped"


class Table(TenantOwned):
    """The immutable rows in Redis that one load made. Recorded before its first block is written, so none is lost."""

    tenant_path = "version__model__tenant"

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="tables")
    load = models.OneToOneField(Load, on_delete=models.PROTECT, related_name="table")
    table_id = models.CharField(max_length=12, unique=True, default=new_table_id)
    state = models.CharField(max_length=10, choices=TableState.choices, default=TableState.WRITING)
    block_bits = models.PositiveSmallIntegerField()
    row_count = models.PositiveBigIntegerField()
    seal_key_id = models.CharField(
        max_length=64,
        default="",
        db_default="",
        help_text="With which key its blocks are sealed; empty if they are not.",
    )
    size_bytes = models.PositiveBigIntegerField(default=0)
    activated_at = models.DateTimeField(null=True)
    lost_at = models.DateTimeField(
        null=True, help_text="When Redis was found to have lost part of it; it is served as far as it goes."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["-created_at", "-pk"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(state__in=TableState.values), name="table_state_known"),
            models.CheckConstraint(condition=Q(block_bits__lte=30), name="table_block_bits_bounds"),
        ]

    def __str__(self) -> str:
        return self.table_id

    @property
    def is_whole(self) -> bool:
        """Tell whether all of its rows are in Redis, as far as is known."""
        return self.state == TableState.READY and self.lost_at is None
