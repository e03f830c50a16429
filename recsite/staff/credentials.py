"""Credentials and automation tokens in the admin: what each may do, and whether it is used."""

from __future__ import annotations

from typing import Any, assert_never

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RadioFilter
from unfold.decorators import display

from models_registry.catalogue.access import narrowed_slugs
from recsite.staff.pages import Label, ReadOnlyAdmin, StudioFilter, column
from tenants.figures import age, number
from tenants.models import AutomationToken, Credential, CredentialKind


class StateFilter(RadioFilter):
    """Credentials that work, or that are revoked."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [("active", "Active"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow to the choice."""
        if self.value() in {"active", "revoked"}:
            return queryset.filter(revoked_at__isnull=self.value() == "active")
        return queryset


@admin.register(Credential)
class CredentialAdmin(ReadOnlyAdmin):
    """Credentials."""

    studio_path = "tenant"
    dashboard_page, dashboard_paths = "credential", ("client_id",)
    list_display = ("name", "studio", "state", "kind_label", "client_id", "may_ask_for", "last_used", "made")
    list_filter = (StudioFilter, StateFilter, ("kind", ChoicesDropdownFilter))
    search_fields = ("name", "client_id", "tenant__name", "tenant__slug", "issuer")

    def get_queryset(self, request: HttpRequest) -> Any:
        """Bring studio and maker along."""
        return super().get_queryset(request).select_related("tenant", "created_by")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Bring the models that each is narrowed to along, in one query."""
        changelist = super().get_changelist_instance(request)
        slugs = narrowed_slugs(credential.pk for credential in changelist.result_list)
        for credential in changelist.result_list:
            credential.narrowed_slugs = slugs[credential.pk]
        return changelist

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Show what this kind of credential has."""
        proof: tuple[str, ...]
        match CredentialKind(obj.kind):
            case CredentialKind.SECRET:
                proof = ("secret_shown",)
            case CredentialKind.PUBLIC_KEY:
                proof = ("issuer", "public_key")
            case unknown:
                assert_never(unknown)
        asks = ("may_ask_for", "limit")
        return ("name", "studio", "client_id", "state_sentence", "kind_label", *proof, *asks, "last_used", "made")

    @display(description="State", label={"active": "success", "overlap": "warning", "revoked": "danger"})
    def state(self, credential: Any) -> Label:
        """Say whether it works."""
        if credential.revoked_at:
            return Label("revoked", "Revoked")
        if credential.previous_until and credential.previous_until > timezone.now():
            return Label("overlap", "Two secrets")
        return Label("active", "Active")

    @display(description="State")
    def state_sentence(self, credential: Any) -> str:
        """Say whether it works, with the times."""
        if credential.revoked_at:
            return f"Revoked {age(credential.revoked_at)}"
        if credential.previous_until and credential.previous_until > timezone.now():
            return f"Active; the secret before this one still works and ends {age(credential.previous_until)}"
        return "Active"

    @display(description="Proof", ordering="kind")
    def kind_label(self, credential: Any) -> str:
        """Say what its tokens are signed with."""
        match CredentialKind(credential.kind):
            case CredentialKind.SECRET:
                return "Secret"
            case CredentialKind.PUBLIC_KEY:
                return f"Key ({credential.algorithm})"
            case unknown:
                assert_never(unknown)

    secret_shown = column(
        "Secret", lambda credential: f"{credential.secret_hint} (number {credential.generation}; it was shown once)"
    )

    @display(description="May ask for")
    def may_ask_for(self, credential: Any) -> str:
        """Return the models."""
        slugs = getattr(credential, "narrowed_slugs", None)
        return ", ".join(narrowed_slugs([credential.pk])[credential.pk] if slugs is None else slugs) or "all models"

    limit = column(
        "Limit",
        lambda credential: (
            f"{number(credential.requests_per_second)} requests a second, {number(credential.burst)} at once"
        ),
    )

    @display(description="Last used", ordering="last_used_at")
    def last_used(self, credential: Any) -> str:
        """Say how long ago a token was last asked for; tokens that a studio signs itself leave no trace here."""
        match CredentialKind(credential.kind):
            case CredentialKind.PUBLIC_KEY:
                return "–"
            case CredentialKind.SECRET:
                return age(credential.last_used_at)
            case unknown:
                assert_never(unknown)

    made = column(
        "Made",
        lambda credential: f"{age(credential.created_at)} by {credential.created_by or 'the system'}",
        "created_at",
    )

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"credential {obj.client_id}"


@admin.register(AutomationToken)
class AutomationTokenAdmin(ReadOnlyAdmin):
    """What studios' scripts use the API with."""

    studio_path = "tenant"
    dashboard_page = "automation"
    list_display = ("name", "studio", "state", "may_do", "last_used", "made")
    list_filter = (StudioFilter,)
    list_select_related = ("tenant", "created_by")
    search_fields = ("name", "public_id", "tenant__name", "tenant__slug")
    fields = ("name", "studio", "state", "may_do", "token_hint", "last_used", "expires", "made")

    @display(description="State", label={"active": "success", "expired": "warning", "revoked": "danger"})
    def state(self, token: Any) -> Label:
        """Say whether it works."""
        if token.revoked_at:
            return Label("revoked", f"Revoked {age(token.revoked_at)}")
        if token.expires_at and token.expires_at <= timezone.now():
            return Label("expired", f"Expired {age(token.expires_at)}")
        return Label("active", "Active")

    may_do = column("May do", lambda token: ", ".join(token.scopes))
    expires = column("Expires", lambda token: age(token.expires_at))
    last_used = column("Last used", lambda token: age(token.last_used_at), "last_used_at")
    made = column("Made", lambda token: f"{age(token.created_at)} by {token.created_by or 'the system'}", "created_at")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"automation token {obj.public_id}"
