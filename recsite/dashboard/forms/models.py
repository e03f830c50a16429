"""A model, its settings, and a version with its source."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms

from models_registry.catalogue.rules import check_key_fields, check_source, check_unit_field, check_version_name
from models_registry.models import SourceKind
from recsite.dashboard.forms.dashboard_form import AS_TYPED, DashboardForm, held_to
from tenants.models import Tenant
from tenants.rules import RuleBroken, check_slug


class NamesField(forms.CharField):
    """Names separated by commas or spaces; its value is a list."""

    def prepare_value(self, value: Any) -> Any:
        """Show a list as it would be typed."""
        return ", ".join(value) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        """Return the names."""
        return (super().to_python(value) or "").replace(",", " ").split()


def _client_age_field() -> forms.IntegerField:
    return forms.IntegerField(
        label="How long a phone may keep an answer, in seconds",
        initial=60,
        min_value=1,
        max_value=86_400,
        help_text="A change of weights is on every phone after this time. 60 is usual; a day (86,400) is the most.",
    )


class ModelForm(DashboardForm):
    """A new model, but for its layout, which has an editor of its own."""

    slug = forms.CharField(
        label="Short name",
        max_length=50,
        widget=forms.TextInput({**AS_TYPED, "placeholder": "offers"}),
        help_text="Games ask for it by this name. It can’t be changed later.",
    )
    name = forms.CharField(label="Name", max_length=100, widget=forms.TextInput({"placeholder": "Offers in the shop"}))
    key_fields = NamesField(
        label="Keyed by",
        initial="player_id",
        widget=forms.TextInput(AS_TYPED),
        help_text="The columns that say whose row it is, in order: player_id, or several, such as country, level_band. "
        "They can’t be changed later.",
    )
    unit_field = forms.CharField(
        label="Players are told apart by",
        max_length=64,
        required=False,
        initial="player_id",
        widget=forms.TextInput(AS_TYPED),
        help_text="The key field that holds the player, so that one player always gets one version. Leave it empty to "
        "divide by the whole key. It can’t be changed later.",
    )
    max_client_age_seconds = _client_age_field()

    def clean_slug(self) -> str:
        """Hold it to the service's rule."""
        return held_to(check_slug, self.cleaned_data["slug"])

    def clean_key_fields(self) -> list[str]:
        """Hold them to the service's rule."""
        return held_to(check_key_fields, self.cleaned_data["key_fields"])

    def clean_unit_field(self) -> str:
        """Hold it to the service's rule; `key_fields` was cleaned before."""
        unit_field: str = self.cleaned_data["unit_field"]
        key_fields = self.cleaned_data.get("key_fields")
        return unit_field if key_fields is None else held_to(check_unit_field, unit_field, key_fields)


class ModelSettingsForm(DashboardForm):
    """What of a model can be changed."""

    name = forms.CharField(label="Name", max_length=100)
    max_client_age_seconds = _client_age_field()
    max_row_count_change = forms.DecimalField(
        label="A load is stopped if the number of rows changes by more than this many percent",
        min_value=1,
        max_value=100_000,
        max_digits=8,
        decimal_places=1,
        help_text="Compared with the rows that are served; 30 is usual. The checks that stop a load can be waived.",
    )
    min_coverage = forms.DecimalField(
        label="A load is stopped if it has less than this many percent of the keys that are served",
        min_value=0,
        max_value=100,
        max_digits=4,
        decimal_places=1,
        help_text="50 is usual; 0 turns it off. It catches keys that are suddenly written differently.",
    )
    max_psi = forms.DecimalField(
        label="A load is stopped if the values of a field have shifted too much",
        min_value=Decimal("0.01"),
        max_value=1000,
        max_digits=6,
        decimal_places=2,
        help_text="Measured by the population stability index (PSI) against what is served: below 0.1 hardly differs, "
        "above 0.25 differs a lot. 0.25 is usual.",
    )

    @property
    def values(self) -> dict[str, Any]:
        """The values as the service takes them. Only when the form is valid."""
        percents = {name: float(self.cleaned_data[name] / 100) for name in ("max_row_count_change", "min_coverage")}
        return {**self.cleaned_data, **percents, "max_psi": float(self.cleaned_data["max_psi"])}


class SourceForm(DashboardForm):
    """Where a version's rows come from."""

    source_kind = forms.ChoiceField(
        label="Where its rows are", choices=SourceKind.choices, widget=forms.RadioSelect, initial=SourceKind.PARQUET
    )
    source_location = forms.CharField(
        label="Which rows",
        widget=forms.Textarea({"rows": 3, "class": "code-text", "spellcheck": "false"}),
        help_text="Parquet: a path or a pattern, such as gs://bucket/folder/*.parquet. BigQuery table: "
        "project.dataset.table. BigQuery query: its SQL.",
    )

    def __init__(self, tenant: Tenant, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tenant = tenant

    def clean(self) -> dict[str, Any]:
        """Hold the source to what the studio may read."""
        cleaned = super().clean() or self.cleaned_data
        kind, location = cleaned.get("source_kind"), cleaned.get("source_location")
        if kind and location:
            try:
                cleaned["source_location"] = check_source(self._tenant, kind, location)
            except RuleBroken as error:
                self.refuse(error)
        return cleaned


class VersionForm(SourceForm):
    """A new version and where its rows come from."""

    field_order = ("name", "source_kind", "source_location", "load_now")

    name = forms.CharField(
        label="Name",
        max_length=60,
        widget=forms.TextInput({**AS_TYPED, "placeholder": "2026-11-a"}),
        help_text="Answers carry it. Letters, digits, dots, hyphens and underscores.",
    )
    load_now = forms.BooleanField(label="Load it now", required=False, initial=True)

    def clean_name(self) -> str:
        """Hold it to the service's rule."""
        return held_to(check_version_name, self.cleaned_data["name"])
