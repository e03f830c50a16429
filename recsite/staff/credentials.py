"""Credentials in the admin: issuing with the secret shown once, rotating, revoking, registering public keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RadioFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminSelectWidget

from models_registry.catalogue.access import NarrowedTo, narrowed_slugs, narrowed_to
from models_registry.models import RecommendationModel
from recsite.dashboard.commands_to_try import answer_url, commands_to_try, example_model
from recsite.staff.pages import (
    Label,
    NeededReasonForm,
    ServiceForm,
    StaffAdmin,
    StudioFilter,
    acting,
    area_field,
    change_url,
    choice_field,
    number_field,
    show_refusal,
    text_field,
)
from tenants.credentials import (
    IssuedCredential,
    credential_issue,
    credential_register_key,
    credential_revoke,
    credential_rotate,
    credential_update,
)
from tenants.figures import age
from tenants.models import Algorithm, Credential, CredentialKind, Tenant
from tenants.rules import RuleBroken

OVERLAPS = {
    "86400": "in 24 hours",
    "3600": "in 1 hour",
    "604800": "in 7 days",
    "0": "now",
}


# --- Forms ----------------------------------------------------------------------------------------------------------


class ModelsField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]  # generic in the stubs alone
    """What a credential may ask for: some of its studio's models, or all of them."""

    def __init__(self) -> None:
        super().__init__(
            queryset=None,
            required=False,
            label="May ask for",
            help_text="None ticked: all models of the studio, also those still to come.",
            widget=UnfoldAdminCheckboxSelectMultipleWidget(),
        )

    def label_from_instance(self, obj: Any) -> str:
        """Return the model's name and short name."""
        return f"{obj.name} ({obj.slug})" if obj.name != obj.slug else str(obj.slug)


class NewCredentialForm(forms.Form):
    """What every new credential of a studio needs."""

    name = text_field(label="Name", max_length=100, help_text="Where it is used, such as “Android client, live”.")
    allowed_models = ModelsField()
    requests_per_second = number_field(label="Requests per second", initial=10_000, min_value=1)
    burst = number_field(label="Burst", initial=20_000, min_value=1, help_text="Requests that may come at once.")

    def __init__(self, tenant: Tenant, data: Any = None) -> None:
        super().__init__(data)
        self.tenant = tenant
        models = self.fields["allowed_models"]
        assert isinstance(models, ModelsField)  # noqa: S101 - for the type checker
        models.queryset = RecommendationModel.objects.for_tenant(tenant)


class NewKeyForm(NewCredentialForm):
    """A public key of the studio's own backend."""

    algorithm = choice_field([a for a in Algorithm.choices if a[0] != Algorithm.HS256], label="Algorithm")
    public_key = area_field(
        rows=6,
        label="Public key",
        placeholder="-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----",
        help_text="In PEM form. Never the private one.",
    )
    issuer = text_field(label="Issuer", max_length=200, help_text="What “iss” says in the studio's own tokens.")

    field_order = ("name", "algorithm", "public_key", "issuer")


class StudioChoiceForm(forms.Form):
    """Which studio a new credential is for."""

    tenant = forms.ModelChoiceField(
        queryset=Tenant.objects.filter(ended_at=None),
        label="Studio",
        empty_label="Choose a studio",
        widget=UnfoldAdminSelectWidget(),
    )


class RotateForm(forms.Form):
    """When the secret that is in use now ends."""

    overlap = choice_field(
        list(OVERLAPS.items()),
        label="The old secret ends",
        help_text="Until then both work, so that every server can be given the new one.",
    )


class CredentialForm(ServiceForm):
    """What may be changed on a credential that exists."""

    allowed_models = ModelsField()

    class Meta:
        model = Credential
        fields: ClassVar = ["name", "requests_per_second", "burst"]
        help_texts: ClassVar = {"burst": "Requests that may come at once."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        models = self.fields.get("allowed_models")
        if isinstance(models, ModelsField):
            models.queryset = RecommendationModel.objects.for_tenant(self.instance.tenant)
            models.initial = narrowed_to(self.instance)

    def write(self) -> Credential:
        """Change the credential."""
        data = self.cleaned_data
        return credential_update(
            credential=self.instance,
            actor=self.actor,
            name=data["name"],
            allowed_models=NarrowedTo(list(data["allowed_models"])),
            requests_per_second=data["requests_per_second"],
            burst=data["burst"],
        )


# --- Pages ----------------------------------------------------------------------------------------------------------


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
class CredentialAdmin(StaffAdmin):
    """Credentials. The form to add one is two steps of our own: the studio, then the rest."""

    can_add = can_change = True
    form = CredentialForm
    actions = None
    list_display = ("name", "studio", "state", "kind_label", "client_id", "may_ask_for", "last_used", "made")
    list_filter = (StudioFilter, StateFilter, ("kind", ChoicesDropdownFilter))
    list_select_related = ("tenant", "created_by")
    search_fields = ("name", "client_id", "tenant__name", "tenant__slug", "issuer")
    studio_path = "tenant"
    show_add_link = False
    actions_list = ("issue", "register_key")
    actions_detail = ("rotate", "revoke")
    readonly_fields = (
        *("studio", "client_id", "kind", "algorithm", "secret_shown", "issuer", "public_key"),
        *("state_sentence", "last_used", "created_at", "created_by"),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """Bring the studio along."""
        return super().get_queryset(request).select_related("tenant")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Bring the models that each is narrowed to along, in one query."""
        changelist = super().get_changelist_instance(request)
        slugs = narrowed_slugs(credential.pk for credential in changelist.result_list)
        for credential in changelist.result_list:
            credential.narrowed_slugs = slugs[credential.pk]
        return changelist

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Show what this kind of credential has."""
        proof = ("secret_shown",) if obj.kind == CredentialKind.SECRET else ("algorithm", "issuer", "public_key")
        may_change = self.has_change_permission(request, obj)
        asks = "allowed_models" if may_change else "may_ask_for"
        return [
            (None, {"fields": ("name", asks, "requests_per_second", "burst")}),
            ("Proof", {"fields": ("studio", "client_id", "kind", *proof)}),
            ("Use", {"fields": ("state_sentence", "last_used", "created_at", "created_by")}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A revoked credential's models are shown as words."""
        return (*self.readonly_fields, "may_ask_for")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing of a revoked credential changes."""
        is_over = isinstance(obj, Credential) and (obj.revoked_at is not None or obj.tenant.ended_at is not None)
        return super().has_change_permission(request, obj) and not is_over

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
        """Say how it proves itself."""
        return "Secret" if credential.kind == CredentialKind.SECRET else f"Key ({credential.algorithm})"

    @display(description="Secret")
    def secret_shown(self, credential: Any) -> str:
        """Return what tells two secrets apart."""
        return f"{credential.secret_hint} (number {credential.generation}; it was shown once)"

    @display(description="May ask for")
    def may_ask_for(self, credential: Any) -> str:
        """Return the models."""
        slugs = getattr(credential, "narrowed_slugs", None)
        return ", ".join(narrowed_slugs([credential.pk])[credential.pk] if slugs is None else slugs) or "all models"

    @display(description="Last used", ordering="last_used_at")
    def last_used(self, credential: Any) -> str:
        """Say how long ago a token was last asked for; tokens that a studio signs itself leave no trace here."""
        if credential.kind == CredentialKind.PUBLIC_KEY:
            return "–"
        return age(credential.last_used_at)

    @display(description="Made", ordering="created_at")
    def made(self, credential: Any) -> str:
        """Say how long ago, and by whom."""
        return f"{age(credential.created_at)} by {credential.created_by or 'the system'}"

    def pointless_actions(self, obj: Any) -> set[str]:
        """Nothing can be done about a revoked one, and a public key has no secret to rotate."""
        if obj.revoked_at or obj.tenant.ended_at:
            return {"rotate", "revoke"}
        return {"rotate"} if obj.kind == CredentialKind.PUBLIC_KEY else set()

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"credential {obj.client_id}"

    # --- Making one -------------------------------------------------------------------------------------------------

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Ask for the studio, then for the rest; then show the secret, once."""
        tenant = self._studio(request)
        if tenant is None:
            return self._ask_studio(request, "Issue credential")
        form = NewCredentialForm(tenant, request.POST if request.method == "POST" else None)
        if form.is_valid():
            data = form.cleaned_data
            try:
                issued = credential_issue(
                    tenant=tenant,
                    name=data["name"],
                    actor=acting(request),
                    allowed_models=NarrowedTo(list(data["allowed_models"])),
                    requests_per_second=data["requests_per_second"],
                    burst=data["burst"],
                )
            except RuleBroken as error:
                show_refusal(form, error)
            else:
                return self._show_secret(request, issued, f"Credential for {tenant.name}")
        return self.ask(
            request,
            form,
            title=f"Issue credential for {tenant.name}",
            submit="Issue credential",
            explanation=["The next page shows its secret, once. Have a safe place for it ready."],
        )

    @action(
        description="Issue credential", url_path="issue", permissions=["act"], icon="add", variant=ActionVariant.PRIMARY
    )
    def issue(self, request: HttpRequest) -> HttpResponse:
        """Lead to the form, as the button that other lists have does."""
        return HttpResponseRedirect(reverse("admin:tenants_credential_add"))

    @action(description="Register a public key", url_path="register-key", permissions=["act"], icon="key")
    def register_key(self, request: HttpRequest) -> HttpResponse:
        """Ask for the studio, then for the key."""
        tenant = self._studio(request)
        if tenant is None:
            return self._ask_studio(request, "Register a public key")
        form = NewKeyForm(tenant, request.POST if request.method == "POST" else None)
        if form.is_valid():
            data = form.cleaned_data
            try:
                credential = credential_register_key(
                    tenant=tenant,
                    name=data["name"],
                    public_key=data["public_key"],
                    algorithm=data["algorithm"],
                    issuer=data["issuer"],
                    actor=acting(request),
                    allowed_models=NarrowedTo(list(data["allowed_models"])),
                    requests_per_second=data["requests_per_second"],
                    burst=data["burst"],
                )
            except RuleBroken as error:
                show_refusal(form, error)
            else:
                self.message_user(
                    request,
                    f"Registered. Tokens with “kid” {credential.client_id} signed by this key are accepted.",
                    messages.SUCCESS,
                )
                return HttpResponseRedirect(change_url(credential))
        return self.ask(
            request,
            form,
            title=f"Register a public key for {tenant.name}",
            submit="Register key",
            explanation=[
                "The studio's own backend signs its players' tokens; this is how serving recognises them.",
            ],
        )

    def _studio(self, request: HttpRequest) -> Tenant | None:
        form = StudioChoiceForm(request.GET)
        return form.cleaned_data["tenant"] if form.is_valid() else None

    def _ask_studio(self, request: HttpRequest, title: str) -> HttpResponse:
        return self.page(
            request,
            "staff/choose_studio.html",
            title=title,
            form=StudioChoiceForm(request.GET or None),
            has_studios=Tenant.objects.filter(ended_at=None).exists(),
            cancel_url=self.list_url(),
        )

    # --- Its life ---------------------------------------------------------------------------------------------------

    @action(description="Rotate", url_path="rotate", permissions=["act"], icon="autorenew")
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask when the old secret ends, then show the new one, once."""
        credential = self.get_row(request, object_id)
        form = RotateForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            until = timezone.now() + timedelta(seconds=int(form.cleaned_data["overlap"]))
            try:
                issued = credential_rotate(credential=credential, actor=acting(request), previous_until=until)
            except RuleBroken as error:
                form.add_error(None, str(error))
            else:
                old = OVERLAPS[form.cleaned_data["overlap"]]
                return self._show_secret(request, issued, f"New secret for {credential.name}", old_secret_ends=old)
        return self.ask(
            request,
            form,
            title=f"Rotate {credential.name}",
            obj=credential,
            submit="Make a new secret",
            explanation=[f"Last used: {age(credential.last_used_at)}. The next page shows the new secret, once."],
        )

    @action(description="Revoke", url_path="revoke", permissions=["act"], variant=ActionVariant.DANGER)
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for a reason, then revoke."""
        credential = self.get_row(request, object_id)
        form = NeededReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                credential_revoke(credential=credential, actor=acting(request), reason=form.cleaned_data["reason"])
            except RuleBroken as error:
                show_refusal(form, error)
            else:
                self.message_user(request, f"Revoked {credential.name}.", messages.SUCCESS)
                return HttpResponseRedirect(change_url(credential))
        return self.ask(
            request,
            form,
            title=f"Revoke {credential.name}",
            obj=credential,
            submit="Revoke for good",
            is_dangerous=True,
            explanation=[
                f"Last used: {self.last_used(credential)}.",
                "Within 2 seconds every request with one of its tokens is refused. There is no way back.",
            ],
        )

    def _show_secret(
        self, request: HttpRequest, issued: IssuedCredential, title: str, old_secret_ends: str = ""
    ) -> HttpResponse:
        """Return the one page that ever holds the secret: the answer to the POST itself, kept nowhere."""
        credential = issued.credential
        model = example_model(credential)
        token_url = request.build_absolute_uri(reverse("token"))
        response = self.page(
            request,
            "staff/secret.html",
            title=title,
            obj=credential,
            credential=credential,
            secret=issued.secret,
            old_secret_ends=old_secret_ends,
            token_url=token_url,
            answer_url=answer_url(model),
            commands=commands_to_try(credential, model=model, token_url=token_url, secret=issued.secret)
            if model
            else "",
            key_names=", ".join(model.key_fields) if model else "",
            done_url=change_url(credential),
        )
        response["Cache-Control"] = "no-store"
        return response
