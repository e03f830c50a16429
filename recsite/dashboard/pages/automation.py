"""Automation tokens: what a studio's scripts and schedulers use the API with. Making them, revoking them.

As with credentials the token itself is in the answer to the POST that made it and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone

from recsite.dashboard.form_pages import form_page, sent
from recsite.dashboard.forms.dashboard_form import NeededReasonForm, OnceForm
from recsite.dashboard.gate import StudioRequest, studio_page
from tenants.automation import automation_token_issue, automation_token_revoke
from tenants.models import AutomationToken, Role, Scope
from tenants.rules import AlreadyMade, RuleBroken

LIVES = {"90": "90 days", "365": "a year", "30": "30 days", "0": "until it is revoked"}


class TokenForm(OnceForm):
    """What a new token is for, what it may do, and for how long."""

    name = forms.CharField(label="Name", max_length=100, help_text="What uses it, such as “Airflow, nightly publish”.")
    scopes = forms.MultipleChoiceField(
        label="It may",
        choices=Scope.choices,
        widget=forms.CheckboxSelectMultiple,
        help_text="Each covers only itself: a job that publishes a version needs the first three.",
    )
    days = forms.ChoiceField(label="It works for", choices=list(LIVES.items()))

    @property
    def expires_at(self) -> datetime | None:
        """When it stops working by itself. Only when the form is valid."""
        days = int(self.cleaned_data["days"])
        return timezone.now() + timedelta(days=days) if days else None


@dataclass(frozen=True)
class TokenLine:
    """A token and how it stands."""

    token: AutomationToken
    now: datetime

    @property
    def may(self) -> list[str]:
        """What it may do, in words."""
        return [str(Scope(scope).label) for scope in self.token.scopes if scope in Scope.values]

    @property
    def is_over(self) -> bool:
        """Tell whether it is revoked or expired."""
        expires_at = self.token.expires_at
        return self.token.revoked_at is not None or (expires_at is not None and expires_at <= self.now)


@studio_page()
def automation(request: StudioRequest) -> HttpResponse:
    """Show every token. One query on top of the gate's."""
    now = timezone.now()
    rows = AutomationToken.objects.for_tenant(request.studio.tenant).select_related("created_by")
    lines = [TokenLine(token, now) for token in rows]
    context = {
        "section": "credentials",
        "tab": "automation",
        "working": [line for line in lines if not line.is_over],
        "over": [line for line in lines if line.is_over],
        "api_url": request.build_absolute_uri("/api/"),
    }
    return render(request, "dashboard/automation.html", context)


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def automation_token_new(request: StudioRequest) -> HttpResponse:
    """Ask what a token is for; answer with the token."""
    form = TokenForm(sent(request))
    if form.is_valid():
        try:
            issued = automation_token_issue(
                tenant=request.studio.tenant,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                expires_at=form.expires_at,
                actor=request.user,
                public_id=form.public_id,
            )
        except AlreadyMade:
            words = "This form was sent before, and made its token."
            messages.warning(request, f"{words} If you no longer have the secret, revoke this token and make another.")
            return redirect("automation", request.studio.tenant.slug)
        except RuleBroken as error:
            form.refuse(error)
        else:
            context = {
                "section": "credentials",
                "token": issued.token,
                "secret": issued.secret,
                "caller_url": request.build_absolute_uri(reverse("api-caller")),
                "api_url": request.build_absolute_uri("/api/"),
            }
            return render(request, "dashboard/automation_token_secret.html", context)
    return form_page(
        request,
        "dashboard/automation_token_new.html",
        form,
        section="credentials",
        heading="Make an automation token",
        lead="For one job, with no more than it needs. The next page shows the token, once.",
        submit="Make the token",
        back=reverse("automation", args=[request.studio.tenant.slug]),
    )


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def automation_token_revoke_page(request: StudioRequest, token: str) -> HttpResponse:
    """Ask why, and revoke."""
    tenant = request.studio.tenant
    found = get_object_or_404(AutomationToken.objects.for_tenant(tenant), public_id=token)
    found.tenant = tenant
    form = NeededReasonForm(sent(request))
    if form.is_valid():
        with form.refusing():
            automation_token_revoke(token=found, actor=request.user, **form.cleaned_data)
            messages.success(request, f"Revoked {found.name}. Its next request is refused.")
            return redirect("automation", tenant.slug)
    return form_page(
        request,
        "dashboard/automation_token_revoke.html",
        form,
        section="credentials",
        token=found,
        problem="It is revoked already." if found.revoked_at else "",
        back=reverse("automation", args=[tenant.slug]),
    )
