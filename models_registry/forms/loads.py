"""How fast a load may go, which ones are listed, and why one that was rejected is let through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from django import forms
from django.http import QueryDict

from models_registry.models import LoadState
from models_registry.services import MAX_ROWS_PER_SECOND
from tenants.forms import DashboardForm


class LoadForm(DashboardForm):
    """How fast a load may go."""

    rows_per_second_limit = forms.IntegerField(
        label="Rows a second, at most",
        min_value=1,
        max_value=MAX_ROWS_PER_SECOND,
        required=False,
        help_text="Empty: as fast as serving allows.",
    )


class LoadFilter(DashboardForm):
    """Model, version and state. A value that is none of the choices chooses nothing.

    Args:
        versions: model's slug and version's name of every version there is to choose.
        data: the address's query.
    """

    model = forms.ChoiceField(label="Model", required=False)
    version = forms.ChoiceField(label="Version", required=False)
    state = forms.ChoiceField(label="State", required=False)

    def __init__(self, versions: Iterable[tuple[str, str]], data: Mapping[str, Any]) -> None:
        super().__init__(data)
        by_model: dict[str, list[str]] = defaultdict(list)
        for model, name in versions:
            by_model[model].append(name)
        shown = [data["model"]] if data.get("model") in by_model else list(by_model)
        names = list(dict.fromkeys(name for model in shown for name in by_model[model]))
        choices = {
            "model": [("", "All models"), *((slug, slug) for slug in by_model)],
            "version": [("", "All versions"), *((name, name) for name in names)],
            "state": [("", "Any state"), *LoadState.choices],
        }
        for field, values in choices.items():
            self.fields[field].choices = values  # type: ignore[attr-defined]  # they are ChoiceFields
        self.full_clean()

    @property
    def chosen(self) -> dict[str, str]:
        """The filters that are set, by what `loads_of` calls them."""
        return {name: self.cleaned_data.get(name, "") for name in self.fields}

    def query(self, **more: object) -> str:
        """Give the filters that are set, and more, as an address holds them."""
        query = QueryDict(mutable=True)
        query.update({name: str(value) for name, value in {**self.chosen, **more}.items() if value})
        return query.urlencode()


class AcceptForm(DashboardForm):
    """Why a load that failed a comparison becomes active all the same."""

    reason = forms.CharField(
        label="Why this is right",
        max_length=500,
        widget=forms.Textarea({"rows": 2, "placeholder": "For the audit trail"}),
    )
