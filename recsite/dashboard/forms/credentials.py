"""A new credential, a registered key, a change of either, and a new secret."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone

from models_registry.catalogue.access import NarrowedTo
from models_registry.models import RecommendationModel
from recsite.dashboard.forms.dashboard_form import DashboardForm, OnceForm
from tenants.models import Algorithm

ALL, CHOSEN = "all", "chosen"


class CredentialForm(DashboardForm):
    """Name, models and limits: what every credential has."""

    name = forms.CharField(label="Name", max_length=100, help_text="Where it is used, such as “Android client, live”.")
    reach = forms.ChoiceField(
        label="It may ask for",
        choices=[(ALL, "All models, also those still to come"), (CHOSEN, "Only the models ticked below")],
        initial=ALL,
        widget=forms.RadioSelect,
    )
    allowed_models = forms.MultipleChoiceField(label="Models", required=False, widget=forms.CheckboxSelectMultiple)
    requests_per_second = forms.IntegerField(
        label="Requests per second, at most", initial=10_000, min_value=1, max_value=1_000_000
    )
    burst = forms.IntegerField(
        label="Requests at once, at most",
        initial=20_000,
        min_value=1,
        max_value=1_000_000,
        help_text="How many may arrive at once before the limit per second applies.",
    )

    def __init__(self, models: Sequence[RecommendationModel], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._models = {model.slug: model for model in models}
        if not self._models:
            del self.fields["reach"], self.fields["allowed_models"]
        else:
            choices = [(slug, f"{m.name} ({slug})" if m.name != slug else slug) for slug, m in self._models.items()]
            self.offer("allowed_models", choices)

    def clean(self) -> dict[str, Any]:
        """Refuse a choice of no model: it would read as all of them."""
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("reach") == CHOSEN and not cleaned.get("allowed_models") and "allowed_models" not in self.errors:
            self.add_error("allowed_models", "Tick at least one model, or choose all models.")
        return cleaned

    @property
    def values(self) -> dict[str, Any]:
        """What the services take. Only when the form is valid."""
        values = dict(self.cleaned_data)
        reach, slugs = values.pop("reach", ALL), values.pop("allowed_models", [])
        values["allowed_models"] = NarrowedTo([self._models[slug] for slug in slugs] if reach == CHOSEN else [])
        return values


class NewCredentialForm(CredentialForm, OnceForm):
    """A credential that is to be made."""

    @property
    def values(self) -> dict[str, Any]:
        """What the services take, with the id that makes the form work once."""
        values = super().values
        del values["once"]
        return {**values, "public_id": self.public_id}


class KeyForm(NewCredentialForm):
    """The public half of a key with which the studio's backend signs tokens."""

    algorithm = forms.ChoiceField(
        label="Algorithm",
        choices=[
            (Algorithm.EDDSA, "Ed25519 (EdDSA)"),
            (Algorithm.ES256, "ES256: ECDSA with P-256"),
            (Algorithm.RS256, "RS256: RSA, 2,048 to 4,096 bits"),
        ],
        help_text="The only one that its tokens may use.",
    )
    public_key = forms.CharField(
        label="Public key",
        max_length=10_000,
        widget=forms.Textarea(
            {
                "rows": 6,
                "class": "code-text",
                "spellcheck": "false",
                "placeholder": "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----",
            }
        ),
        help_text="In PEM format. Never the private key: it stays with your backend.",
    )
    issuer = forms.CharField(
        label="Issuer",
        max_length=200,
        help_text="What “iss” says in your tokens, such as https://auth.example.com.",
    )

    field_order = ("name", "algorithm", "public_key", "issuer")


class RotateForm(DashboardForm):
    """When the secret that works now ends, and on which one that was decided."""

    OVERLAPS = {  # noqa: RUF012 - read only, as all that Django declares on forms
        "86400": "in 24 hours",
        "3600": "in 1 hour",
        "604800": "in 7 days",
        CHOSEN: "at a time that I choose",
        "0": "now: it has leaked",
    }

    overlap = forms.ChoiceField(
        label="The old secret ends",
        choices=list(OVERLAPS.items()),
        help_text="Until then both work, so that you have time to give every server the new one.",
    )
    until = forms.DateTimeField(
        label="Time",
        required=False,
        widget=forms.DateTimeInput({"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text="At most 30 days from now.",
    )
    # A page that is sent again by “reload” must not replace the secret that it has just made.
    generation = forms.IntegerField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["until"].label = f"Time, by your clock ({timezone.get_current_timezone_name()})"

    def clean(self) -> dict[str, Any]:
        """Refuse a chosen end without a time, or with one that has passed."""
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("overlap") == CHOSEN and "until" not in self.errors:
            until = cleaned.get("until")
            if until is None:
                self.add_error("until", "Choose a date and time.")
            elif until <= timezone.now():
                self.add_error("until", "This time has already passed.")
        return cleaned

    @property
    def previous_until(self) -> datetime:
        """When the old secret ends. Only when the form is valid."""
        if self.cleaned_data["overlap"] == CHOSEN:
            until: datetime = self.cleaned_data["until"]
            return until
        return timezone.now() + timedelta(seconds=int(self.cleaned_data["overlap"]))
