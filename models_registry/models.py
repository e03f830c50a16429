"""What is served: models with their layouts, versions with their sources, loads, tables, rollout revisions."""

import secrets
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from tenants.models import PUBLIC_ID_ALPHABET, Credential, Tenant, User
from tenants.scoping import TenantOwned, TenantOwnedManager

MAX_CODE = 255
BASIS_POINTS = 10_000


def new_table_id() -> str:
    """Give 12 random characters, so that no two tables in a Redis share one even after a database was restored."""
    return "".join(secrets.choice(PUBLIC_ID_ALPHABET) for _ in range(12))


class RecommendationModel(TenantOwned):
    """One recommendation product of a studio (“offers”): what it is keyed by, what it answers, how it is bucketed."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="models")
    slug = models.SlugField(max_length=50)
    name = models.CharField(max_length=100)
    key_fields = models.JSONField(help_text='Column names that make the key, in order, e.g. ["player_id"].')
    unit_field = models.CharField(
        max_length=100, blank=True, default="", help_text="The key field that is bucketed; empty: the whole key."
    )
    default_answer = models.JSONField(null=True, blank=True, help_text="Served when a key has no row; empty: 204.")
    default_revision = models.PositiveIntegerField(default=1, editable=False)
    max_client_age_seconds = models.PositiveIntegerField(
        default=60, validators=[MinValueValidator(1), MaxValueValidator(86_400)]
    )
    max_row_count_change = models.FloatField(
        default=0.30, help_text="A load whose row count differs from the last by more than this share is rejected."
    )
    max_psi = models.FloatField(
        default=0.25,
        help_text="A load in which a field's distribution has a higher population stability index is rejected.",
    )
    min_coverage = models.FloatField(
        default=0.50, help_text="A load is rejected that has less than this share of the keys that are served."
    )
    credentials = models.ManyToManyField(
        Credential,
        blank=True,
        related_name="allowed_models",
        help_text="Credentials narrowed to some models. One that is named nowhere may ask for all of the studio's.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["slug"]
        verbose_name = "model"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "slug"], name="model_slug_unique_in_tenant"),
            models.CheckConstraint(
                condition=Q(max_client_age_seconds__gte=1, max_client_age_seconds__lte=86_400),
                name="model_client_age_bounds",
            ),
            models.CheckConstraint(condition=Q(max_row_count_change__gt=0), name="model_row_count_change_positive"),
            models.CheckConstraint(condition=Q(max_psi__gt=0), name="model_psi_positive"),
            models.CheckConstraint(
                condition=Q(min_coverage__gte=0, min_coverage__lte=1), name="model_coverage_is_a_share"
            ),
        ]

    def __str__(self) -> str:
        return self.slug


class Layout(TenantOwned):
    """The fields of an answer and their bits. Never edited once made: a change makes the next revision."""

    tenant_path = "model__tenant"

    model = models.ForeignKey(RecommendationModel, on_delete=models.CASCADE, related_name="layouts")
    revision = models.PositiveSmallIntegerField()
    fields = models.JSONField(help_text="See docs/formats: a list of fields with name, type and range.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["model", "-revision"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["model", "revision"], name="layout_revision_unique_in_model"),
            models.CheckConstraint(condition=Q(revision__lte=MAX_CODE), name="layout_revision_one_byte"),
        ]

    def __str__(self) -> str:
        return f"{self.model} layout {self.revision}"


class Version(TenantOwned):
    """One trained version of a model, with its own source. `code` is its byte in bit-packed answers."""

    tenant_path = "model__tenant"

    model = models.ForeignKey(RecommendationModel, on_delete=models.CASCADE, related_name="versions")
    name = models.CharField(max_length=60)
    code = models.PositiveSmallIntegerField(editable=False)
    layout = models.ForeignKey(Layout, on_delete=models.PROTECT, related_name="versions")
    active_table = models.ForeignKey(
        "Table", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    previous_table = models.ForeignKey(
        "Table", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    older_table = models.ForeignKey(
        "Table", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    freshness_minutes = models.PositiveIntegerField(
        null=True, blank=True, help_text="How old its data may become before it counts as late; empty: no target."
    )
    # The fencing number of the last load begun, and of the one whose table is active: only a newer one may activate.
    last_fence = models.PositiveBigIntegerField(default=0, editable=False)
    active_fence = models.PositiveBigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["model", "code"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["model", "name"], name="version_name_unique_in_model"),
            models.UniqueConstraint(fields=["model", "code"], name="version_code_unique_in_model"),
            models.CheckConstraint(condition=Q(code__lte=MAX_CODE), name="version_code_one_byte"),
            models.CheckConstraint(condition=Q(active_fence__lte=F("last_fence")), name="version_fence_order"),
            models.CheckConstraint(
                condition=(Q(active_table=None) | Q(previous_table=None) | ~Q(active_table=F("previous_table")))
                & (Q(active_table=None) | Q(older_table=None) | ~Q(active_table=F("older_table")))
                & (Q(previous_table=None) | Q(older_table=None) | ~Q(previous_table=F("older_table"))),
                name="version_different_tables",
            ),
            models.CheckConstraint(
                condition=Q(older_table=None) | Q(previous_table__isnull=False), name="version_older_after_previous"
            ),
            models.CheckConstraint(
                condition=Q(freshness_minutes=None) | Q(freshness_minutes__gte=1), name="version_freshness_positive"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class SourceKind(models.TextChoices):
    """Where rows are read from."""

    PARQUET = "parquet", "Parquet files"
    BIGQUERY_TABLE = "bigquery_table", "BigQuery table"
    BIGQUERY_QUERY = "bigquery_query", "BigQuery query"


class Source(TenantOwned):
    """Where a version's rows come from. Confined to what staff allow the studio (Tenant.allowed_…)."""

    tenant_path = "version__model__tenant"

    version = models.OneToOneField(Version, on_delete=models.CASCADE, related_name="source")
    kind = models.CharField(max_length=20, choices=SourceKind.choices)
    location = models.TextField(
        help_text="A path or glob (local or gs://), project.dataset.table, or the text of a query."
    )

    objects = TenantOwnedManager()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(kind__in=SourceKind.values), name="source_kind_known"),
            models.CheckConstraint(condition=~Q(location=""), name="source_location_given"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.location[:80]}"


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
        return f"every {self.every_minutes} minutes" if self.kind == ScheduleKind.INTERVAL else self.crontab


class LoadState(models.TextChoices):
    """The life of a load. The last five are ends; that of a dry run is `CHECKED` if every check passed."""

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


RUNNING_STATES = [
    LoadState.QUEUED,
    LoadState.EXTRACTING,
    LoadState.CHECKING,
    LoadState.WRITING,
    LoadState.VERIFYING,
]


class Load(TenantOwned):
    """One run that reads a source and makes a table; what it found is in `report`, why it ended in `problem`."""

    tenant_path = "version__model__tenant"

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="loads")
    fence = models.PositiveBigIntegerField()
    state = models.CharField(max_length=12, choices=LoadState.choices, default=LoadState.QUEUED)
    requested_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    requested_by_name = models.CharField(max_length=150, blank=True, default="")
    is_dry_run = models.BooleanField(default=False, help_text="It only reads and checks; nothing is written.")
    accepts = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.RESTRICT,
        related_name="accepted_by",
        help_text="The rejected load whose failed comparisons with the last table this one does not mind.",
    )
    accept_reason = models.CharField(max_length=500, blank=True, default="")
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
                | Q(
                    state__in=[
                        LoadState.ACTIVE,
                        LoadState.CHECKED,
                        LoadState.REJECTED,
                        LoadState.FAILED,
                        LoadState.SUPERSEDED,
                    ],
                    finished_at__isnull=False,
                ),
                name="load_finished_when_ended",
            ),
            models.CheckConstraint(
                condition=Q(is_dry_run=False) & ~Q(state=LoadState.CHECKED)
                | Q(is_dry_run=True, accepts=None)
                & ~Q(state__in=[LoadState.WRITING, LoadState.VERIFYING, LoadState.ACTIVE]),
                name="load_dry_run_writes_nothing",
            ),
            models.CheckConstraint(
                condition=Q(accepts=None, accept_reason="") | Q(accepts__isnull=False) & ~Q(accept_reason=""),
                name="load_accepts_for_a_reason",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["state", "heartbeat_at"], name="load_by_state_and_heartbeat")]

    def __str__(self) -> str:
        return f"{self.version} load {self.fence}"


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
    size_bytes = models.PositiveBigIntegerField(default=0)
    activated_at = models.DateTimeField(null=True)
    lost_at = models.DateTimeField(
        null=True,
        help_text="When Redis was found to have lost part of it; it is served as far as it goes.",
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


class RolloutRevision(TenantOwned):
    """One saved allocation: 10,000 slots to version codes. The newest of a model is what is served.

    A phase has one salt; a new phase re-randomises everybody, a new weight moves as few slots as can be.
    """

    tenant_path = "model__tenant"

    model = models.ForeignKey(RecommendationModel, on_delete=models.CASCADE, related_name="rollout_revisions")
    number = models.PositiveIntegerField()
    phase = models.PositiveIntegerField(default=1)
    salt = models.CharField(max_length=32)
    weights_bp = models.JSONField(help_text="Basis points by version code, summing to 10,000.")
    allocation = models.BinaryField(max_length=BASIS_POINTS)
    moved_bp = models.PositiveIntegerField(default=0, help_text="Slots that differ from the revision before.")
    restores = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    actor = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    actor_name = models.CharField(max_length=150)
    reason = models.CharField(max_length=500, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["model", "-number"]
        verbose_name = "rollout revision"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["model", "number"], name="rollout_number_unique_in_model"),
            models.CheckConstraint(condition=Q(moved_bp__lte=BASIS_POINTS), name="rollout_moved_bounds"),
        ]

    def __str__(self) -> str:
        return f"{self.model} revision {self.number}"


class Override(TenantOwned):
    """A tester who gets one version whatever the weights say."""

    tenant_path = "model__tenant"

    model = models.ForeignKey(RecommendationModel, on_delete=models.CASCADE, related_name="overrides")
    unit = models.CharField(max_length=256)
    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="overrides")
    note = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["model", "unit"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["model", "unit"], name="override_unit_unique_in_model"),
        ]

    def __str__(self) -> str:
        return f"{self.unit} → {self.version}"


class TrafficSource(models.TextChoices):
    """Where counted answers came from."""

    TABLE = "table", "From the table"
    DEFAULT = "default", "The default"
    FALLBACK = "fallback", "The fallback"
    NONE = "none", "Nothing"


class TrafficSpan(models.IntegerChoices):
    """How long a count's span is, in seconds. Every answer is counted once in each; the longer are kept for longer."""

    MINUTE = 60, "A minute"
    FIVE_MINUTES = 300, "Five minutes"
    HOUR = 3600, "An hour"
    SIX_HOURS = 21_600, "Six hours"


class Traffic(TenantOwned):
    """How many answers a version gave in one span of time, by where they came from."""

    tenant_path = "version__model__tenant"

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="traffic")
    span = models.PositiveSmallIntegerField(choices=TrafficSpan.choices)
    starts_at = models.DateTimeField()
    source = models.CharField(max_length=8, choices=TrafficSource.choices)
    answers = models.PositiveBigIntegerField()

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["starts_at"]
        verbose_name_plural = "traffic"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["version", "span", "starts_at", "source"], name="traffic_one_count_per_span_and_source"
            ),
            models.CheckConstraint(condition=Q(source__in=TrafficSource.values), name="traffic_source_known"),
            models.CheckConstraint(condition=Q(span__in=TrafficSpan.values), name="traffic_span_known"),
        ]
        # For pruning; reading goes by version, which the constraint's index begins with.
        indexes: ClassVar = [models.Index(fields=["span", "starts_at"], name="traffic_by_span_and_time")]

    def __str__(self) -> str:
        return f"{self.answers} answers of {self.version}"


class CredentialUse(TenantOwned):
    """How many requests a credential made in one hour."""

    tenant_path = "credential__tenant"

    credential = models.ForeignKey(Credential, on_delete=models.CASCADE, related_name="uses")
    starts_at = models.DateTimeField(db_index=True)
    requests = models.PositiveBigIntegerField()

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["starts_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["credential", "starts_at"], name="credential_use_one_count_an_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.requests} requests by {self.credential}"


class TrafficPosition(models.Model):
    """How far into serving's stream of counts the collector has read. One row; moved with what it has counted.

    What serving sent before `moved_at` is counted, save what a `TrafficGap` says was lost.
    """

    entry_id = models.CharField(max_length=40, default="0-0")
    moved_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.entry_id


class TrafficGap(models.Model):
    """A time of which counts were lost before they were collected: Redis was emptied, or the stream was cut."""

    starts_at = models.DateTimeField(unique=True)
    ends_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering: ClassVar = ["starts_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(ends_at__gte=F("starts_at")), name="traffic_gap_ends_after_it_starts"),
        ]

    def __str__(self) -> str:
        return f"{self.starts_at} to {self.ends_at}"
