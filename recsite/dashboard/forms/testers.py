"""Testers, and the question why somebody gets a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms

from models_registry.models import RecommendationModel, Version
from recsite.dashboard.forms.dashboard_form import AS_TYPED, DashboardForm
from serving.formats.keys import MAX_KEY_BYTES


class TesterForm(DashboardForm):
    """Somebody who gets one version whatever the weights say."""

    unit = forms.CharField(label="Player id", max_length=MAX_KEY_BYTES, widget=forms.TextInput(AS_TYPED))
    version = forms.ChoiceField(label="Version")
    note = forms.CharField(
        label="Note",
        max_length=200,
        required=False,
        widget=forms.TextInput({"placeholder": "Who it is, and until when"}),
    )

    def __init__(self, versions: Sequence[Version], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._versions = {version.name: version for version in versions}
        self.offer("version", [(name, name) for name in self._versions])

    @property
    def chosen(self) -> Version:
        """The version chosen. Only when the form is valid."""
        return self._versions[self.cleaned_data["version"]]


class WhyForm(DashboardForm):
    """A key, field by field, and who is bucketed where that is somebody else.

    Args:
        model: whose key fields are asked for.
    """

    # Of a name that no key field can have.
    unit = forms.CharField(
        label="Bucketed as",
        max_length=MAX_KEY_BYTES,
        required=False,
        widget=forms.TextInput(AS_TYPED),
        help_text="Only if your server sends “unit” with its requests.",
    )

    def __init__(self, model: RecommendationModel, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._model = model
        for name in model.key_fields:
            self.fields[name] = forms.CharField(
                label=name,
                max_length=MAX_KEY_BYTES,
                required=model.unit_field in (name, ""),
                widget=forms.TextInput(AS_TYPED),
            )
        is_player_the_key = list(model.key_fields) == [model.unit_field]
        if is_player_the_key:
            del self.fields["unit"]
        self.order_fields([*model.key_fields, "unit"])

    @property
    def key(self) -> Mapping[str, str]:
        """Values by key field. Only when the form is valid."""
        return {name: self.cleaned_data.get(name, "") for name in self._model.key_fields}

    @property
    def unit_given(self) -> str:
        """Who is bucketed, where that was said."""
        return str(self.cleaned_data.get("unit", ""))
