"""Credentials: what games and their backends prove themselves with. Issuing, registering, changing, rotating, revoking.

A secret is in the answer to the POST that made it and nowhere else: not in an address, a message, a session or a log.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse

from models_registry.models import RecommendationModel
from recsite.dashboard.commands_to_try import commands_to_try, example_model
from recsite.dashboard.credential_states import CredentialSummary, credential_of, credentials_of
from recsite.dashboard.form_pages import form_page, sent
from recsite.dashboard.forms.credentials import ALL, CHOSEN, CredentialForm, KeyForm, NewCredentialForm, RotateForm
from recsite.dashboard.forms.dashboard_form import NeededReasonForm
from recsite.dashboard.gate import StudioRequest, studio_page
from tenants.credentials import (
    IssuedCredential,
    client_id_of,
    credential_issue,
    credential_register_key,
    credential_revoke,
    credential_rotate,
    credential_update,
)
from tenants.models import Role
from tenants.rules import AlreadyMade, RuleBroken


@studio_page()
def credentials(request: StudioRequest) -> HttpResponse:
    """Show every credential with its use. Three queries on top of the gate's."""
    found = credentials_of(request.studio.tenant)
    context = {
        "section": "credentials",
        "tab": "credentials",
        "working": [summary for summary in found if summary.credential.revoked_at is None],
        "revoked": [summary for summary in found if summary.credential.revoked_at is not None],
    }
    return render(request, "dashboard/credentials.html", context)


# --- Making one -------------------------------------------------------------------------------------------------------


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def credential_new(request: StudioRequest) -> HttpResponse:
    """Ask for a name, models and limits; answer with the secret."""
    form = NewCredentialForm(_models(request), sent(request))
    if form.is_valid():
        try:
            issued = credential_issue(tenant=request.studio.tenant, actor=request.user, **form.values)
        except AlreadyMade:
            return _to_what_was_made(
                request, form, "Its secret was shown then; if you lack it, “Rotate” makes a new one."
            )
        except RuleBroken as error:
            form.refuse(error)
        else:
            return _secret_page(request, issued, is_new=True)
    lead = "A client id and a secret. The next page shows the secret, once: have a safe place for it ready."
    return _new_page(request, form, heading="Issue a credential", lead=lead, submit="Issue the credential")


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def credential_key_new(request: StudioRequest) -> HttpResponse:
    """Ask for a public key, and register it."""
    form = KeyForm(_models(request), sent(request))
    if form.is_valid():
        try:
            credential = credential_register_key(tenant=request.studio.tenant, actor=request.user, **form.values)
        except AlreadyMade:
            return _to_what_was_made(request, form, "There is nothing more to do.")
        except RuleBroken as error:
            form.refuse(error)
        else:
            messages.success(request, "Registered. Tokens that this key signs are accepted within 2 seconds.")
            return redirect("credential", request.studio.tenant.slug, credential.client_id)
    lead = (
        "Your own backend signs its players' tokens with a private key that nobody else has. This is how serving "
        "recognises them."
    )
    return _new_page(request, form, heading="Register a public key", lead=lead, submit="Register the key")


def _new_page(request: StudioRequest, form: NewCredentialForm, **words: str) -> HttpResponse:
    back = reverse("credentials", args=[request.studio.tenant.slug])
    return form_page(request, "dashboard/credential_new.html", form, section="credentials", back=back, **words)


def _to_what_was_made(request: StudioRequest, form: NewCredentialForm, words: str) -> HttpResponse:
    messages.warning(request, f"This form was sent before, and made this credential. {words}")
    return redirect("credential", request.studio.tenant.slug, client_id_of(form.public_id or ""))


def _models(request: StudioRequest) -> list[RecommendationModel]:
    return list(RecommendationModel.objects.for_tenant(request.studio.tenant).order_by("slug"))


def _secret_page(request: StudioRequest, issued: IssuedCredential, *, is_new: bool) -> HttpResponse:
    """Return the one page that ever holds the secret: the answer to the POST itself."""
    credential = issued.credential
    model = example_model(credential)
    context = {
        "section": "credentials",
        "credential": credential,
        "secret": issued.secret,
        "is_new": is_new,
        "model": model,
        "commands": commands_to_try(request, credential, model, secret=issued.secret),
    }
    return render(request, "dashboard/credential_secret.html", context)


# --- One of them ------------------------------------------------------------------------------------------------------


@studio_page(Role.VIEWER, ("GET", "POST"))
def credential(request: StudioRequest, client_id: str) -> HttpResponse:
    """Show a credential, and change its name, models and limits."""
    summary = _find(request, client_id)
    row = summary.credential
    if request.method == "POST" and not request.studio.may_administer:
        raise PermissionDenied(f"Changing a credential needs the role “{Role.STUDIO_ADMIN.label}”.")
    form = CredentialForm(
        _models(request),
        sent(request),
        initial={
            "name": row.name,
            "reach": CHOSEN if summary.models else ALL,
            "allowed_models": summary.models,
            "requests_per_second": row.requests_per_second,
            "burst": row.burst,
        },
    )
    if form.is_valid():
        with form.refusing():
            credential_update(credential=row, actor=request.user, **form.values)
            messages.success(request, "Saved. It applies within 2 seconds.")
            return redirect("credential", request.studio.tenant.slug, client_id)
    return form_page(
        request,
        "dashboard/credential.html",
        form,
        section="credentials",
        summary=summary,
        audience=settings.TOKEN_AUDIENCE,
        commands=commands_to_try(request, row, example_model(row)),
    )


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def credential_rotate_page(request: StudioRequest, client_id: str) -> HttpResponse:
    """Ask when the old secret ends; answer with the new one."""
    summary = _find(request, client_id)
    row = summary.credential
    form = RotateForm(sent(request), initial={"generation": row.generation})
    if form.is_valid():
        with form.refusing(previous_until="until"):
            issued = credential_rotate(
                credential=row,
                actor=request.user,
                previous_until=form.previous_until,
                based_on=form.cleaned_data["generation"],
            )
            return _secret_page(request, issued, is_new=False)
    problem = "This credential is a public key. Register the new key as another credential." if summary.is_key else ""
    return _ask(request, "dashboard/credential_rotate.html", summary, form, problem)


@studio_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def credential_revoke_page(request: StudioRequest, client_id: str) -> HttpResponse:
    """Say whether it is safe, ask why, and revoke."""
    summary = _find(request, client_id)
    form = NeededReasonForm(sent(request))
    if form.is_valid():
        with form.refusing():
            credential_revoke(credential=summary.credential, actor=request.user, **form.cleaned_data)
            messages.success(request, f"Revoked {summary.credential.name}. Its tokens are refused within 2 seconds.")
            return redirect("credential", request.studio.tenant.slug, client_id)
    return _ask(request, "dashboard/credential_revoke.html", summary, form)


def _ask(
    request: StudioRequest, template: str, summary: CredentialSummary, form: Any, problem: str = ""
) -> HttpResponse:
    row = summary.credential
    return form_page(
        request,
        template,
        form,
        section="credentials",
        summary=summary,
        credential=row,
        problem="It is revoked, and nothing about it changes any more." if row.revoked_at else problem,
        back=reverse("credential", args=[request.studio.tenant.slug, row.client_id]),
    )


def _find(request: StudioRequest, client_id: str) -> CredentialSummary:
    found = credential_of(request.studio.tenant, client_id)
    if found is None:
        raise Http404
    return found
