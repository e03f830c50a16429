"""What was answered: counts of spans, uses of credentials, and how far they are collected."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from models_registry.models.catalogue import Version
from tenants.models import Credential
from tenants.scoping import TenantOwned, TenantOwnedManager


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

    credential = models.ForeignKey(Credential, on_delete=models.CASCADE, related_name="+")
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
