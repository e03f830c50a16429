"""Studios, their people, their API credentials and the trail of who did what."""

import secrets
from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from tenants.scoping import TenantOwned, TenantOwnedManager

PUBLIC_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_public_id() -> str:
    """Return 12 random characters (60 bits): an id that survives a restored database and says nothing."""
    return "".join(secrets.choice(PUBLIC_ID_ALPHABET) for _ in range(12))


class User(AbstractUser):
    """A person who signs in. `is_staff` is platform staff; everyone else acts through memberships."""

    # Nobody has shown that such an account's address is theirs, so no other studio may take it for that person.
    made_for = models.ForeignKey(
        "Tenant",
        null=True,
        blank=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name="made for",
        help_text="The studio whose admin made this account; empty where platform staff did.",
    )

    class Meta:
        ordering: ClassVar = ["username"]


class Tenant(models.Model):
    """A studio. Owns everything below it; nothing crosses from one to another."""

    public_id = models.CharField(max_length=12, unique=True, default=new_public_id, editable=False)
    slug = models.SlugField(max_length=50, unique=True)
    name = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True, help_text="Set by “End studio”; serving then refuses it.")

    # Sources are confined: an empty list refuses every source of that kind. Staff alone edit these.
    allowed_datasets = models.JSONField(
        default=list, blank=True, help_text="BigQuery datasets it may read, as project.dataset."
    )
    allowed_gs_prefixes = models.JSONField(default=list, blank=True, help_text="gs://bucket/folder/ it may read below.")
    allowed_local_roots = models.JSONField(
        default=list, blank=True, help_text="Folders on the worker it may read below."
    )

    requests_per_second = models.PositiveIntegerField(default=50_000)
    burst = models.PositiveIntegerField(default=100_000)

    # The last published snapshot: `revision` only grows; `digest` tells whether the database has moved on since.
    snapshot_revision = models.BigIntegerField(default=0, editable=False)
    snapshot_digest = models.CharField(max_length=64, blank=True, default="", editable=False)
    snapshot_published_at = models.DateTimeField(null=True, editable=False)
    # Raised by each act that serving must know of, in its transaction, and what it was in the last snapshot: where they
    # differ there is something to publish. When it was last made sure that this tells the truth is `checked_at`.
    content_revision = models.BigIntegerField(db_default=1, editable=False)
    snapshot_content_revision = models.BigIntegerField(db_default=0, editable=False)
    snapshot_checked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering: ClassVar = ["name"]
        verbose_name = "studio"
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(requests_per_second__gt=0), name="tenant_rate_positive"),
            models.CheckConstraint(condition=Q(burst__gt=0), name="tenant_burst_positive"),
        ]

    def __str__(self) -> str:
        return self.name


class Role(models.TextChoices):
    """What a member may do; each role may do what the ones below it may."""

    STUDIO_ADMIN = "studio_admin", "Studio admin"
    PRODUCT_MANAGER = "product_manager", "Product manager"
    VIEWER = "viewer", "Viewer"


class Membership(TenantOwned):
    """A person's role in one studio."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.VIEWER)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["user__username"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "user"], name="membership_one_per_person"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} · {self.get_role_display()}"


class CredentialKind(models.TextChoices):
    """How a caller proves itself."""

    SECRET = "secret", "Client id and secret"
    PUBLIC_KEY = "public_key", "Registered public key"


class Algorithm(models.TextChoices):
    """The one algorithm a credential's tokens are signed with."""

    HS256 = "HS256", "HS256 (ours)"
    EDDSA = "EdDSA", "Ed25519"
    ES256 = "ES256", "ES256"
    RS256 = "RS256", "RS256"


class Credential(TenantOwned):
    """What a studio's caller authenticates with. Its `client_id` is the `kid` of its tokens.

    A secret is kept as a SHA-256 hash (it is 256 random bits, so a slow hash would add nothing) and shown once.
    Rotation raises `generation`; the secret before it lives on until `previous_until`.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="credentials")
    client_id = models.CharField(max_length=64, unique=True, editable=False)
    name = models.CharField(max_length=100, help_text="Where it is used, e.g. “Android client, live”.")
    kind = models.CharField(max_length=12, choices=CredentialKind.choices, default=CredentialKind.SECRET)
    algorithm = models.CharField(max_length=8, choices=Algorithm.choices, default=Algorithm.HS256)

    secret_hash = models.CharField(max_length=64, blank=True, default="", editable=False)
    secret_hint = models.CharField(max_length=24, blank=True, default="", editable=False)
    generation = models.PositiveIntegerField(default=1, editable=False)
    previous_secret_hash = models.CharField(max_length=64, blank=True, default="", editable=False)
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)

    public_key = models.TextField(
        blank=True, default="", help_text="PEM, for tokens the studio's backend signs itself."
    )
    issuer = models.CharField(max_length=200, blank=True, default="", help_text="The `iss` of those tokens.")

    requests_per_second = models.PositiveIntegerField(default=10_000)
    burst = models.PositiveIntegerField(default=20_000)

    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["name", "pk"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=(
                    Q(kind=CredentialKind.SECRET, algorithm=Algorithm.HS256, public_key="")
                    & ~Q(secret_hash="")  # an empty hash, not a password
                )
                | (
                    Q(kind=CredentialKind.PUBLIC_KEY, secret_hash="", previous_secret_hash="")
                    & ~Q(algorithm=Algorithm.HS256)
                    & ~Q(public_key="")
                    & ~Q(issuer="")
                ),
                name="credential_secret_or_public_key",
            ),
            models.CheckConstraint(
                condition=Q(previous_secret_hash="", previous_until=None)  # an empty hash
                | (~Q(previous_secret_hash="") & Q(previous_until__isnull=False)),
                name="credential_previous_secret_ends",
            ),
            models.CheckConstraint(
                condition=Q(requests_per_second__gt=0, burst__gt=0), name="credential_limits_positive"
            ),
            models.CheckConstraint(condition=Q(generation__gte=1), name="credential_generation_positive"),
        ]

    def __str__(self) -> str:
        return self.name


class Scope(models.TextChoices):
    """What an automation token may do; each covers only itself.

    None of them makes tokens, studio admins or links to set a password: people do that.
    """

    READ = "read", "Read everything in the studio"
    LOADS_RUN = "loads:run", "Start loads, and go back to a version's earlier table"
    LOADS_WAIVE = "loads:waive", "Waive the checks that compare a load with what is served"
    VERSIONS_WRITE = "versions:write", "Make versions, change their sources, schedules and freshness targets"
    MODELS_WRITE = "models:write", "Make and change models, their layouts and default answers"
    ROLLOUTS_WRITE = "rollouts:write", "Change weights, go back, begin phases, set testers' versions"
    CREDENTIALS_WRITE = "credentials:write", "Issue, change, rotate and revoke credentials"
    MEMBERS_WRITE = "members:write", "Give people roles below studio admin, and take these away"


class AutomationToken(TenantOwned):
    """What a studio's scripts use the API with. Like a credential's secret it is kept as a hash and shown once."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="automation_tokens")
    public_id = models.CharField(max_length=20, unique=True, editable=False)
    name = models.CharField(max_length=100, help_text="What uses it, e.g. “Airflow, nightly publish”.")
    scopes = models.JSONField(help_text="A list of what it may do.")
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    token_hint = models.CharField(max_length=24, editable=False)

    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+", editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["name", "pk"]
        verbose_name = "automation token"
        constraints: ClassVar = [models.CheckConstraint(condition=~Q(token_hash=""), name="automation_token_has_hash")]

    def __str__(self) -> str:
        return self.name


class IdempotencyRecord(TenantOwned):
    """That a caller of the API sent a request with an Idempotency-Key, and what it was answered. Kept for a day.

    Written in two steps: that the request has begun, by itself; its answer, in the transaction of the change. So one
    without an answer has changed nothing (yet). Holds no secret: an answer that showed one is kept without it.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    caller = models.CharField(max_length=60)
    route = models.CharField(max_length=400)
    key = models.CharField(max_length=200)
    body_hash = models.CharField(max_length=64)
    # Changes when another request takes over one that never ended.
    run = models.CharField(max_length=12)
    started_at = models.DateTimeField(db_index=True)
    status = models.PositiveSmallIntegerField(null=True)
    answer = models.TextField(blank=True, default="")
    location = models.CharField(max_length=400, blank=True, default="")
    showed_secret = models.BooleanField(default=False)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = ["-started_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "caller", "route", "key"], name="idempotency_key_once"),
        ]

    def __str__(self) -> str:
        return f"{self.caller} {self.route}"


class AuditEntry(TenantOwned):
    """One thing somebody did. Written with the change itself, never edited, never deleted with its subject."""

    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.PROTECT, related_name="audit_entries")
    at = models.DateTimeField(db_default=Now(), db_index=True)
    actor = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    actor_name = models.CharField(max_length=150)
    action = models.CharField(max_length=60, help_text="noun.verb")
    subject = models.CharField(max_length=200)
    summary = models.CharField(max_length=500)
    reason = models.CharField(max_length=500, blank=True, default="")
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)

    objects = TenantOwnedManager()

    class Meta:
        ordering: ClassVar = [F("at").desc(), "-pk"]
        verbose_name = "audit entry"
        verbose_name_plural = "audit trail"
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-at"], name="audit_by_tenant_and_time"),
            models.Index(fields=["tenant", "-id"], name="audit_by_tenant_and_id"),
        ]

    def __str__(self) -> str:
        return self.summary
