"""How fast a load may go, and which ones are listed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django import forms
from django.http import QueryDict

from models_registry.loading.requests import MAX_ROWS_PER_SECOND
from models_registry.models import LoadState
from recsite.dashboard.forms.dashboard_form import DashboardForm


class LoadForm(DashboardForm):
    """How fast a load may go."""

    rows_per_second_limit = forms.IntegerField(
        label="Rows per second, at most",
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
        by_model: dict[str, list[str]] = defaultdict(list)
        for model, name in versions:
            by_model[model].append(name)
        given = {name: str(data.get(name, "")) for name in self.base_fields}
        super().__init__({**given, "version": _of_a_model(given, by_model)})
        shown = [given["model"]] if given["model"] in by_model else list(by_model)
        groups = [(model, [(f"{model}/{name}", name) for name in by_model[model]]) for model in shown]
        choices: dict[str, list[Any]] = {
            "model": [("", "All models"), *((slug, slug) for slug in by_model)],
            "version": [("", "All versions"), *(groups if len(groups) > 1 else groups[0][1] if groups else ())],
            "state": [("", "Any state"), *LoadState.choices],
        }
        for field, values in choices.items():
            self.offer(field, values)
        self.full_clean()

    @property
    def chosen(self) -> dict[str, str]:
        """The filters that are set, by what `loads_of` calls them."""
        chosen = {name: self.cleaned_data.get(name, "") for name in self.fields}
        if chosen["version"]:
            chosen["model"], _, chosen["version"] = chosen["version"].partition("/")
        return chosen

    def query(self, **more: object) -> str:
        """Return the filters that are set, and more, as an address holds them."""
        query = QueryDict(mutable=True)
        query.update({name: str(value) for name, value in {**self.chosen, **more}.items() if value})
        return query.urlencode()


def _of_a_model(given: Mapping[str, str], by_model: Mapping[str, Sequence[str]]) -> str:
    """Return the version that is asked for as the choices have it, with its model; a name alone is the first one's."""
    version = given["version"]
    models = [given["model"], *by_model] if version and "/" not in version else []
    return next((f"{model}/{version}" for model in models if version in by_model.get(model, ())), version)
