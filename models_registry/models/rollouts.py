"""Who gets which version: rollout revisions and testers."""

import secrets
from typing import ClassVar

from django.db import models
from django.db.models import Q

from models_registry.models.catalogue import RecommendationModel, Version
from tenants.models import User
from tenants.scoping import TenantOwned, TenantOwnedManager

BASIS_POINTS = 10_000


def new_salt() -> str:
    """Return a phase's salt: 32 random hex digits."""
    return secrets.token_hex(16)


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
    serves_default = models.BooleanField(
        default=False, db_default=False, help_text="Everybody gets the default answer, whatever the allocation says."
    )
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
