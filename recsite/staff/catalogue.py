"""Models and layouts in the admin."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, ClassVar, NoReturn

from django import forms
from django.contrib import admin
from django.db.models import Prefetch
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.decorators import display
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminTextareaWidget

from models_registry.catalogue.selectors import data_at, is_late, weights_by_code
from models_registry.catalogue.services import default_set, layout_add, model_create, model_update
from models_registry.models import Layout, RecommendationModel, Version
from recsite.staff.columns import ModelFilter, NamedChoices, newest_weights
from recsite.staff.pages import Label, LinesField, ServiceForm, StudioFilter, number_field, text_field
from recsite.staff.rollouts import WeightPages
from serving.formats.layouts import BadLayout
from serving.formats.layouts import Layout as PackedLayout
from tenants.figures import age, number, percent, plain_json

LAYOUT_EXAMPLE = """[
  {"name": "offer_id", "type": "uint", "min": 1, "max": 500},
  {"name": "discount", "type": "decimal", "min": 0, "max": 0.5, "step": 0.05},
  {"name": "segment", "type": "enum", "values": ["new", "casual", "whale"]},
  {"name": "items", "type": "list", "max_items": 5, "item": {"type": "uint", "min": 0, "max": 9999}},
  {"name": "note", "type": "string", "max_bytes": 40, "optional": true}
]"""
DEFAULT_EXAMPLE = '{"offer_id": 1, "discount": 0, "segment": "new", "items": [], "note": null}'


class JsonField(forms.CharField):
    """JSON that a person types, with the place of a mistake said; `is_list` wants a list of it."""

    def __init__(self, *, rows: int, placeholder: str, is_list: bool = False, **kwargs: Any) -> None:
        self.is_list = is_list
        widget = UnfoldAdminTextareaWidget(
            {"rows": rows, "placeholder": placeholder, "spellcheck": "false", "class": "rs-mono"}
        )
        super().__init__(widget=widget, **kwargs)
        # An empty list or object is something that was typed.
        self.empty_values = [None, ""]

    def prepare_value(self, value: Any) -> Any:
        """Show a value as JSON; what was typed stays as it was typed."""
        return value if isinstance(value, str) or value is None else plain_json(value)

    def to_python(self, value: Any) -> Any:
        """Return the value, None for nothing typed."""
        text = super().to_python(value)
        if not text:
            return None
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise forms.ValidationError(
                f"This is not JSON: {error.msg.lower()} in line {error.lineno}, column {error.colno}."
            ) from None
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is not JSON: {error}.") from None
        if self.is_list and not isinstance(value, list):
            raise forms.ValidationError("This is a list in square brackets, as in the example.")
        return value

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Tell whether the values differ."""
        try:
            return bool(self.to_python(data) != initial)
        except forms.ValidationError:
            return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def layout_field(**kwargs: Any) -> JsonField:
    """Return the field in which a layout is typed."""
    return JsonField(
        rows=9,
        is_list=True,
        placeholder=LAYOUT_EXAMPLE,
        label="Layout",
        help_text="The fields of an answer, in order: JSON, as in the example that an empty field shows. Types: bool; "
        "uint (min, max); enum (values); decimal (min, max, step); string (max_bytes); list (max_items, item). "
        "Any of them may be optional.",
        **kwargs,
    )


# --- Models ---------------------------------------------------------------------------------------------------------


class NewModelForm(ServiceForm):
    """A new model: what it is keyed by and what it answers never change afterwards."""

    slug = text_field(label="Short name", max_length=50, help_text="In requests, such as offers; never changes.")
    key_fields = LinesField(
        label="Key fields",
        help_text="What a row is looked up by: column names, one per line, in order. Each is a parameter of a request.",
    )
    unit_field = text_field(
        required=False,
        label="Who is bucketed",
        help_text="The key field that decides which version somebody gets, such as player_id. Empty: the whole key.",
    )
    layout = layout_field()
    default_answer = JsonField(
        rows=3,
        placeholder=DEFAULT_EXAMPLE,
        required=False,
        label="Default answer",
        help_text="Served when a key has no row. Empty: “204 No Content” instead.",
    )
    max_client_age_seconds = number_field(
        initial=60, label="Clients keep an answer for", help_text="Seconds; 60 is usual.", min_value=1, max_value=86_400
    )

    class Meta:
        model = RecommendationModel
        fields: ClassVar = ["tenant", "name"]
        labels: ClassVar = {"tenant": "Studio"}

    def write(self) -> RecommendationModel:
        """Make the model."""
        return model_create(actor=self.actor, **self.cleaned_data)


LOAD_LIMITS = ("row_count_change", "coverage", "psi")


class ModelForm(ServiceForm):
    """What may be changed on a model that exists."""

    default_answer = JsonField(
        rows=4,
        placeholder=DEFAULT_EXAMPLE,
        required=False,
        label="Default answer",
        help_text="Served when a key has no row. Empty: “204 No Content” instead.",
    )
    max_client_age_seconds = number_field(
        label="Clients keep an answer for", help_text="Seconds; 60 is usual.", min_value=1, max_value=86_400
    )
    row_count_change = forms.DecimalField(
        label="Rows may differ by",
        min_value=1,
        max_value=100_000,
        decimal_places=1,
        widget=UnfoldAdminDecimalFieldWidget({"step": "0.1"}),
        help_text="Percent. A load whose row count differs by more from the last one is rejected.",
    )

    coverage = forms.DecimalField(
        label="Keys that must still be there",
        min_value=0,
        max_value=100,
        decimal_places=1,
        widget=UnfoldAdminDecimalFieldWidget({"step": "0.1"}),
        help_text="Percent of the keys that are served. A load that has fewer of them is rejected.",
    )
    psi = forms.DecimalField(
        label="Distributions may differ by",
        min_value=Decimal("0.01"),
        max_value=1000,
        decimal_places=2,
        widget=UnfoldAdminDecimalFieldWidget({"step": "0.01"}),
        help_text="Population stability index of a field against what is served; 0.25 is usual. Above it: rejected.",
    )

    class Meta:
        model = RecommendationModel
        fields: ClassVar = ["name"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "row_count_change" in self.fields:
            self.initial["row_count_change"] = round(100 * self.instance.max_row_count_change, 1)
            self.initial["coverage"] = round(100 * self.instance.min_coverage, 1)
            self.initial["psi"] = round(self.instance.max_psi, 2)
            self.initial["default_answer"] = self.instance.default_answer
            self.initial["max_client_age_seconds"] = self.instance.max_client_age_seconds

    def write(self) -> RecommendationModel:
        """Change the model."""
        data = self.cleaned_data
        model = model_update(
            model=self.instance,
            actor=self.actor,
            name=data["name"],
            max_client_age_seconds=data["max_client_age_seconds"],
            max_row_count_change=float(data["row_count_change"] / 100),
            min_coverage=float(data["coverage"] / 100),
            max_psi=float(data["psi"]),
        )
        return default_set(model=model, default_answer=data["default_answer"], actor=self.actor)


@admin.register(RecommendationModel)
class RecommendationModelAdmin(WeightPages):
    """Models."""

    can_add = can_change = True
    studio_path = "tenant"
    actions = None
    list_display = ("name", "studio", "short_name", "weights_column", "keys", "rows", "data_age")
    list_filter = (StudioFilter,)
    list_select_related = ("tenant",)
    search_fields = ("slug", "name", "tenant__name", "tenant__slug")
    ordering = ("tenant__name", "slug")
    actions_detail = ("weights",)
    change_form_outer_before_template = "staff/_facts.html"
    add_fieldsets = (
        (None, {"fields": ("tenant", "name", "slug")}),
        ("What it is looked up by", {"fields": ("key_fields", "unit_field")}),
        ("What it answers", {"fields": ("layout", "default_answer", "max_client_age_seconds")}),
    )
    fieldsets = (
        (None, {"fields": ("name", "default_answer", "max_client_age_seconds", *LOAD_LIMITS)}),
        ("Fixed", {"fields": ("studio", "short_name", "keys", "unit", "newest_layout")}),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """Bring versions with their tables, and the weights, along."""
        versions = (
            Version.objects.unscoped()
            .select_related("active_table__load")
            .defer("active_table__load__report", "active_table__load__source_location")
        )
        return (
            super()
            .get_queryset(request)
            .select_related("tenant")
            .annotate(weights_bp=newest_weights("pk"))
            .prefetch_related(Prefetch("versions", queryset=versions))
        )

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - Django's own signature
        """A new model has another form than one that exists."""
        kwargs["form"] = ModelForm if obj else NewModelForm
        return super().get_form(request, obj, change=change, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Rows, tokens and slots are made of these."""
        return ("studio", "short_name", "keys", "unit", "newest_layout") if obj else ()

    @display(description="Weights")
    def weights_column(self, model: Any) -> str:
        """Return each version's share, the largest first."""
        weights = weights_by_code(model.weights_bp or {})
        names = {version.code: version.name for version in model.versions.all()}
        shares = sorted(weights.items(), key=lambda item: -item[1])
        if not shares:
            return "no version yet"
        text = format_html_join(
            " · ", "<b>{}</b> {}", ((names.get(code, f"version {code}"), percent(bp)) for code, bp in shares)
        )
        return format_html(
            '<a class="text-link" href="{}">{}</a>',
            reverse("admin:models_registry_recommendationmodel_weights", args=[model.pk]),
            text,
        )

    @display(description="Short name")
    def short_name(self, model: Any) -> str:
        """Return what requests call it."""
        return str(model.slug)

    @display(description="Keyed by")
    def keys(self, model: Any) -> str:
        """Return the key fields."""
        return ", ".join(model.key_fields)

    @display(description="Who is bucketed")
    def unit(self, model: Any) -> str:
        """Return the unit field."""
        return model.unit_field or "the whole key"

    @display(description="Rows")
    def rows(self, model: Any) -> str:
        """Return the rows of the largest table that is served."""
        counts = [version.active_table.row_count for version in self._served(model) if version.active_table]
        return number(max(counts)) if counts else "–"

    @display(
        description="Data age", label={"fresh": "success", "stale": "warning", "missing": "danger", "none": "default"}
    )
    def data_age(self, model: Any) -> Label:
        """Return the age of the oldest table that is served."""
        served = self._served(model)
        if not served:
            return Label("none", "nothing served")
        tables = [version.active_table for version in served if version.active_table]
        if len(tables) < len(served):
            return Label("missing", "not loaded")
        oldest = min(data_at(table) for table in tables)
        now = timezone.now()
        return Label(
            "stale" if any(is_late(version, now) for version in served) else "fresh", age(oldest).removesuffix(" ago")
        )

    @display(description="Newest layout")
    def newest_layout(self, model: Any) -> str:
        """Return the newest layout, with the way to the next one."""
        layout = Layout.objects.unscoped().filter(model=model).latest("revision")
        return format_html(
            '{}<p class="rs-after"><a class="text-link" href="{}?model={}">Make the next layout</a></p>',
            layout_table(layout.fields),
            reverse("admin:models_registry_layout_add"),
            model.pk,
        )

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"model {obj.slug}"

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Show what the model serves, with the ways there."""
        model = context.get("original")
        if model is not None:
            versions = f"{reverse('admin:models_registry_version_changelist')}?model={model.pk}"
            loads = f"{reverse('admin:models_registry_load_changelist')}?model={model.pk}"
            context["facts"] = [
                {"label": "Weights", "value": self.weights_column(model)},
                {"label": "Versions", "value": number(len(model.versions.all())), "url": versions},
                {"label": "Data age", "value": self.data_age(model)[1]},
                {"label": "Rows", "value": self.rows(model)},
                {"label": "Loads", "value": "open", "url": loads},
            ]
        return super().render_change_form(request, context, *args, **kwargs)

    def _served(self, model: Any) -> list[Version]:
        weights = weights_by_code(model.weights_bp or {})
        return [version for version in model.versions.all() if weights.get(version.code)]


# --- Layouts --------------------------------------------------------------------------------------------------------


class LayoutForm(ServiceForm):
    """The next layout of a model."""

    layout = layout_field()

    class Meta:
        model = Layout
        fields: ClassVar = ["model"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chosen = self.initial.get("model")
        if chosen and str(chosen).isdecimal() and "layout" in self.fields:
            newest = Layout.objects.unscoped().filter(model_id=int(chosen)).order_by("-revision").first()
            if newest is not None:
                self.initial["layout"] = newest.fields

    def write(self) -> Layout:
        """Add the layout."""
        data = self.cleaned_data
        return layout_add(model=data["model"], fields=data["layout"], actor=self.actor)


@admin.register(Layout)
class LayoutAdmin(NamedChoices):
    """Layouts: the fields of an answer. Never edited; a change is the next one."""

    can_add = True
    form = LayoutForm
    actions = None
    studio_path, model_path = "model__tenant", "model"
    list_display = ("revision_label", "studio", "model", "fields_", "width", "made")
    list_filter = (StudioFilter, ModelFilter)
    list_select_related = ("model__tenant",)
    search_fields = ("model__slug", "model__tenant__name")
    ordering = ("model__tenant__name", "model__slug", "-revision")
    add_fieldsets = ((None, {"fields": ("model", "layout")}),)
    fields = ("model", "revision", "table", "width", "created_at")
    readonly_fields = ("model", "revision", "table", "width", "created_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Only a new one has fields to fill."""
        return self.readonly_fields if obj else ()

    @display(description="Layout", ordering="revision")
    def revision_label(self, layout: Any) -> str:
        """Return its number."""
        return f"Layout {layout.revision}"

    @display(description="Fields")
    def fields_(self, layout: Any) -> str:
        """Return their names."""
        return ", ".join(field["name"] for field in layout.fields)

    @display(description="An answer takes")
    def width(self, layout: Any) -> str:
        """Return its bytes in a bit-packed answer."""
        try:
            parsed = PackedLayout.parse(layout.fields)
        except BadLayout as error:
            return f"cannot be read: {error}"
        if parsed.payload_width is not None:
            return f"{parsed.payload_width} bytes"
        longest = (sum(field.max_bits for field in parsed.fields) + 7) // 8
        return f"up to {longest:,} bytes"

    @display(description="Fields")
    def table(self, layout: Any) -> str:
        """Return its fields, one a line."""
        return layout_table(layout.fields)

    @display(description="Made", ordering="created_at")
    def made(self, layout: Any) -> str:
        """Say how long ago."""
        return age(layout.created_at)

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"model {obj.model.slug}"


def layout_table(fields: list[dict[str, Any]]) -> str:
    """Return a layout as a table: each field's name, type and range."""
    rows = format_html_join(
        "",
        '<tr><th scope="row">{}</th><td>{}</td><td class="rs-wrap">{}</td></tr>',
        ((field["name"], field["type"], _range(field)) for field in fields),
    )
    return format_html(
        '<table class="rs-table"><thead><tr><th>Field</th><th>Type</th><th>Holds</th></tr></thead>'
        "<tbody>{}</tbody></table>",
        rows,
    )


def _range(field: dict[str, Any]) -> str:
    kind = field["type"]
    if kind in {"uint", "decimal"}:
        step = f" in steps of {field['step']}" if kind == "decimal" else ""
        words = f"{field['min']} to {field['max']}{step}"
    elif kind == "enum":
        values = field["values"]
        words = ", ".join(values[:8]) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
    elif kind == "string":
        words = f"at most {field['max_bytes']} bytes"
    elif kind == "list":
        words = f"at most {field['max_items']} of {field['item']['type']}: {_range(field['item'])}"
    else:
        words = "true or false"
    return f"{words}; may be absent" if field.get("optional") else words
