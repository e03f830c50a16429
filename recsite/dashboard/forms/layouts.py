"""The layout editor: the fields of an answer as rows that a person fills in, with and without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from django import forms
from django.forms import BaseFormSet, formset_factory

from models_registry.catalogue.rules import check_layout
from recsite.dashboard.forms.dashboard_form import DashboardForm
from tenants.rules import RuleBroken

MAX_FIELDS = 64
PREFIX = "field"

SCALARS = [
    ("uint", "Whole number"),
    ("decimal", "Number with steps"),
    ("enum", "One of several texts"),
    ("bool", "Yes or no"),
]
TYPES = [*SCALARS, ("string", "Text"), ("list", "List")]
# Which parameters a type has. What a list's items have comes on top.
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "bool": (),
    "uint": ("min", "max"),
    "decimal": ("min", "max", "step"),
    "enum": ("values",),
    "string": ("max_bytes",),
    "list": ("max_items", "item"),
}
_LABELS = {
    "min": "the smallest value",
    "max": "the largest value",
    "step": "the step",
    "values": "the texts",
    "max_bytes": "the most bytes",
    "max_items": "the most items",
}


class LayoutFieldForm(DashboardForm):
    """One field of an answer."""

    name = forms.CharField(
        label="Name",
        max_length=128,
        widget=forms.TextInput({"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}),
    )
    type = forms.ChoiceField(label="Type", choices=TYPES, widget=forms.Select({"data-type": ""}))
    item = forms.ChoiceField(label="Of what", choices=SCALARS, required=False, widget=forms.Select({"data-item": ""}))
    max_items = forms.IntegerField(label="At most", required=False)
    min = forms.DecimalField(label="From", required=False)
    max = forms.DecimalField(label="To", required=False)
    step = forms.DecimalField(label="Step", required=False)
    values = forms.CharField(
        label="Texts, one per line", required=False, widget=forms.Textarea({"rows": 3, "spellcheck": "false"})
    )
    max_bytes = forms.IntegerField(label="At most, in bytes", required=False)
    optional = forms.BooleanField(label="May be missing", required=False)

    def clean(self) -> None:
        """Ask for the parameters that the type has."""
        super().clean()
        for parameter in self._parameters():
            if parameter != "item" and self.cleaned_data.get(parameter) in (None, "") and parameter not in self.errors:
                self.add_error(parameter, f"Say {_LABELS[parameter]}.")

    @property
    def field(self) -> dict[str, Any]:
        """The field as `serving.formats.layouts.Layout.parse` reads it. Only when the form is valid."""
        kind = self.cleaned_data["type"]
        found: dict[str, Any] = {"name": self.cleaned_data["name"], "type": kind}
        if kind == "list":
            item = self.cleaned_data["item"]
            found["max_items"] = self.cleaned_data["max_items"]
            found["item"] = {"type": item, **self._values(PARAMETERS[item])}
        else:
            found |= self._values(PARAMETERS[kind])
        if self.cleaned_data["optional"]:
            found["optional"] = True
        return found

    def _parameters(self) -> tuple[str, ...]:
        kind = self.cleaned_data.get("type", "")
        own = PARAMETERS.get(kind, ())
        return (*own, *PARAMETERS.get(self.cleaned_data.get("item", ""), ())) if kind == "list" else own

    def _values(self, parameters: Sequence[str]) -> dict[str, Any]:
        values = {name: self.cleaned_data[name] for name in parameters}
        return {name: _as_json(name, value) for name, value in values.items()}


def _as_json(name: str, value: Any) -> Any:
    if name == "values":
        return [line.strip() for line in value.splitlines() if line.strip()]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


_FormSet = formset_factory(LayoutFieldForm, extra=0, max_num=MAX_FIELDS, absolute_max=MAX_FIELDS)


class LayoutEditor:
    """The rows of a layout on a page.

    Attributes:
        rows: the forms of its fields.
        formset: for the template.
        problem: what is wrong with the layout as a whole.
    """

    def __init__(self, formset: BaseFormSet[LayoutFieldForm]) -> None:
        self.formset = formset
        self.problem = ""

    @classmethod
    def of(cls, fields: Sequence[Mapping[str, Any]]) -> LayoutEditor:
        """Return the editor that shows a layout; at least one empty row."""
        return cls(_FormSet(prefix=PREFIX, initial=[_as_row(field) for field in fields] or [{"type": "uint"}]))

    @classmethod
    def typed(cls, data: Mapping[str, Any]) -> LayoutEditor:
        """Return the editor with what was typed, to be checked."""
        return cls(_FormSet(data, prefix=PREFIX))

    @classmethod
    def edited(cls, data: Mapping[str, Any], action: str) -> LayoutEditor:
        """Return the editor with what was typed and one row more, one less, or one moved up; nothing is checked.

        Args:
            data: the form's.
            action: `add`, `remove-N` or `up-N`, N counted from 0.
        """
        rows = [
            {name: data.get(f"{PREFIX}-{index}-{name}", "") for name in LayoutFieldForm.base_fields}
            for index in range(_count(data))
        ]
        what, _, number = action.partition("-")
        index = int(number) if number.isdecimal() and len(number) < 6 else -1
        if what == "add" and len(rows) < MAX_FIELDS:
            rows.append({"type": "uint"})
        elif what == "remove" and 0 <= index < len(rows) and len(rows) > 1:
            del rows[index]
        elif what == "up" and 0 < index < len(rows):
            rows[index - 1], rows[index] = rows[index], rows[index - 1]
        editor = cls(_FormSet(prefix=PREFIX, initial=rows))
        if what == "add" and rows:
            editor.formset.forms[-1].fields["name"].widget.attrs["autofocus"] = True
        return editor

    @property
    def rows(self) -> list[LayoutFieldForm]:
        """The forms of the fields."""
        return list(self.formset.forms)

    def is_valid(self) -> bool:
        """Tell whether every row can be read and they make a layout; `problem` says why they do not."""
        if not self.formset.is_valid() or not self.formset.forms:
            return False
        try:
            check_layout(self.fields)
        except RuleBroken as error:
            self.problem = str(error)
        return not self.problem

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The layout's fields. Only when it is valid."""
        return [form.field for form in self.formset.forms]


def _count(data: Mapping[str, Any]) -> int:
    text = str(data.get(f"{PREFIX}-TOTAL_FORMS", ""))
    return min(int(text), MAX_FIELDS) if text.isdecimal() and len(text) < 6 else 0


def _as_row(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layout's field as the row's values."""
    row = dict(field)
    if isinstance(row.get("item"), Mapping):
        item = dict(row["item"])
        row = {**row, **item, "type": "list", "item": item["type"]}
    if isinstance(row.get("values"), list | tuple):
        row["values"] = "\n".join(row["values"])
    return row
