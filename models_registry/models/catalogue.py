"""What is served: models with their layouts, and versions with their sources."""

from typing import Any, ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from serving.formats.layouts import BadValue
from serving.formats.layouts import Layout as Fields
from tenants.models import Credential, Tenant
from tenants.scoping import TenantOwned, TenantOwnedManager

MAX_CODE = 255


class RecommendationModel(TenantOwned):
    """One recommendation product of a studio (“offers”): what it is keyed by, what it answers, how it is bucketed."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    slug = models.SlugField(max_length=50)
    name = models.CharField(max_length=100)
    key_fields = models.JSONField(help_text='Column names that make the key, in order, e.g. ["player_id"].')
    unit_field = models.CharField(
        max_length=100, blank=True, default="", help_text="The key field that is bucketed; empty: the whole key."
    )
    # What the release before serves when a key has no row: a default that fits every layout in use, if there is one.
    # This release serves each layout's own.
    default_answer = models.JSONField(null=True, blank=True, editable=False)
    # The number of the last change of any layout's default.
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
        related_name="+",
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

    @property
    def units_word(self) -> str:
        """What is bucketed, in the plural: “players”, or “keys” where it is the whole key."""
        return "players" if self.unit_field else "keys"


class Layout(TenantOwned):
    """The fields of an answer and their bits, never edited once made: a change makes the next revision.

    It has a default of its own, which may change. `default_revision` is the number of its last change; 0: a release
    before this one made the layout, and its default is the model's.
    """

    tenant_path = "model__tenant"

    model = models.ForeignKey(RecommendationModel, on_delete=models.CASCADE, related_name="layouts")
    revision = models.PositiveSmallIntegerField()
    fields = models.JSONField(help_text="See docs/formats: a list of fields with name, type and range.")
    default_answer = models.JSONField(null=True, blank=True, help_text="Served when a key has no row; empty: 204.")
    default_revision = models.PositiveIntegerField(default=0, db_default=0, editable=False)
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

    @property
    def default(self) -> dict[str, Any] | None:
        """What is served when a key has no row; None for a 204."""
        answer: dict[str, Any] | None = self.default_answer if self.default_revision else self.model.default_answer
        return answer if self.default_revision or self.fits(answer) else None

    @property
    def counted_default_revision(self) -> int:
        """The number of the default's last change, from 1 on."""
        return self.default_revision or self.model.default_revision

    def fits(self, answer: dict[str, Any] | None) -> bool:
        """Tell whether the layout can hold an answer; no answer always fits."""
        if answer is not None:
            try:
                Fields.parse(self.fields).pack(answer)
            except BadValue:
                return False
        return True


class Version(TenantOwned):
    """One trained version of a model, with its own source. `code` is its byte in bit-packed answers.

    An archived one has given its code back: that was `former_code`, and `code` is a number above all bytes.
    """

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
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    former_code = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["model", "code"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["model", "name"], name="version_name_unique_in_model"),
            models.UniqueConstraint(fields=["model", "code"], name="version_code_unique_in_model"),
            models.CheckConstraint(
                condition=Q(archived_at=None, former_code=None, code__lte=MAX_CODE)
                | Q(archived_at__isnull=False, former_code__isnull=False, former_code__lte=MAX_CODE, code__gt=MAX_CODE),
                name="version_code_one_byte_until_archived",
            ),
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

    @property
    def byte(self) -> int:
        """Its byte in bit-packed answers, also of one that is archived."""
        return self.code if self.former_code is None else self.former_code


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
