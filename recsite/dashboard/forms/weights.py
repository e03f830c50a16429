"""Weights as a person types them: percent with at most two places, summing to 100."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.forms.boundfield import BoundField

from models_registry.catalogue.selectors import VersionState
from models_registry.models import BASIS_POINTS
from recsite.dashboard.forms.dashboard_form import DashboardForm
from tenants.figures import percent


class PercentField(forms.DecimalField):
    """Percent to 0.01, with a decimal point or comma; its value is in basis points."""

    # A field for numbers drops a comma (“1,5” was 15) and turns with the mouse wheel while somebody scrolls.
    widget = forms.TextInput

    own_words: ClassVar = {
        "invalid": "Enter a number, such as 33.33.",
        "required": "Enter a number; 0 for none.",
        # Django fills these three in with %, so that a percent sign is written twice.
        "min_value": "A weight must be from 0 to 100 %%.",
        "max_value": "A weight must be from 0 to 100 %%.",
        "max_decimal_places": "A weight must be a multiple of 0.01 %%.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=0, max_value=100, decimal_places=2, **kwargs)

    def to_python(self, value: Any) -> Any:
        """Return the number; a comma counts as a point."""
        return super().to_python(value.replace(",", ".") if isinstance(value, str) else value)

    def clean(self, value: Any) -> int:
        """Return basis points."""
        return int(Decimal(super().clean(value)) * 100)

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        """Have a phone show the keys for decimals."""
        return {"inputmode": "decimal", "autocomplete": "off"}


class WeightsForm(DashboardForm):
    """The weights of all of a model's versions, what was seen of their effect, and why they change.

    Args:
        versions: all of the model's.
    """

    reason = forms.CharField(
        label="Why",
        max_length=500,
        required=False,
        widget=forms.Textarea({"rows": 2, "placeholder": "For the history, e.g. “c won on day-7 spend”"}),
    )
    go_on = forms.BooleanField(label="Go on anyway", required=False)
    # What the effect on the screen was worked out for: only that is saved.
    seen = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, versions: Sequence[VersionState], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.versions = list(versions)
        for state in self.versions:
            field = PercentField(
                label=f"Weight of {state.name}, percent", initial=f"{Decimal(state.weight_bp) / 100:.2f}"
            )
            # The column's heading is all that stands above it.
            field.widget.attrs["aria-label"] = field.label
            self.fields[self.name_of(state.code)] = field

    @staticmethod
    def name_of(code: int) -> str:
        """Return the name of a version's field."""
        return f"weight-{code}"

    def rows(self) -> Iterator[tuple[VersionState, BoundField]]:
        """Yield each version with its field."""
        for state in self.versions:
            yield state, self[self.name_of(state.code)]

    @property
    def weights_bp(self) -> dict[int, int]:
        """Basis points by code, also those of none. Only when the weights are valid."""
        return {state.code: self.cleaned_data[self.name_of(state.code)] for state in self.versions}

    @property
    def has_weights(self) -> bool:
        """Tell whether every weight is a number that will do, whatever they sum to."""
        return all(self.name_of(state.code) in self.cleaned_data for state in self.versions)

    def clean(self) -> None:
        """Refuse weights that do not sum to 100 %."""
        super().clean()
        if self.has_weights:
            total = sum(self.weights_bp.values())
            if total != BASIS_POINTS:
                apart = percent(abs(BASIS_POINTS - total))
                rest = "is missing" if total < BASIS_POINTS else "too much"
                self.add_error(None, f"The weights sum to {percent(total)} and must sum to 100 %: {apart} {rest}.")
