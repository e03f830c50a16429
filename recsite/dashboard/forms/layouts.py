"""The layout editor: the fields of an answer as rows that a person fills in, with and without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_never

from django import forms
from django.forms import BaseFormSet, BoundField, formset_factory
from typing_extensions import override

from models_registry import models
from models_registry.catalogue.rules import check_layout
from models_registry.loading.field_types import (
    SCALAR_TYPES,
    TYPES,
    TYPES_BY_NAME,
    FieldType,
    Input,
    Parameter,
    parameters_of,
    shown_value,
)
from recsite.dashboard.forms.dashboard_form import AS_TYPED, DashboardForm
from recsite.dashboard.forms.defaults import HasDefaultForm, typed_or_held
from serving.formats.layouts import BadValue, Layout
from tenants.rules import RuleBroken

MAX_FIELDS = 64
PREFIX = "field"
# What a list asks for stands before what its items ask for.
PARAMETERS = tuple(parameters_of(reversed(TYPES)))


class _TypeSelect(forms.Select):
    """A drop-down each of whose types says which parameters it takes: the style sheet shows no others."""

    @override
    def create_option(self, name: str, value: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        option = super().create_option(name, value, *args, **kwargs)
        option["attrs"]["data-takes"] = " ".join(parameter.name for parameter in TYPES_BY_NAME[value].parameters)
        return option


def _type_field(label: str, types: Sequence[type[FieldType[Any]]], *, marked: str, required: bool) -> forms.ChoiceField:
    choices = [(one.name, one.title) for one in types]
    return forms.ChoiceField(label=label, choices=choices, required=required, widget=_TypeSelect({marked: ""}))


class LayoutFieldForm(DashboardForm):
    """One field of an answer. It has an input for every parameter of any type."""

    name = forms.CharField(label="Name", max_length=128, widget=forms.TextInput(AS_TYPED))
    type = _type_field("Type", TYPES, marked="data-type", required=True)
    optional = forms.BooleanField(label="May be missing", required=False)
    default = forms.CharField(
        label="Default",
        required=False,
        strip=False,
        widget=forms.Textarea({"rows": 1, "spellcheck": "false", "data-default": ""}),
    )

    def clean(self) -> None:
        """Ask for the parameters that the type takes; what stands in another's input does not matter."""
        super().clean()
        taken = set(self._taken(self.cleaned_data.get("type", "")))
        for parameter in PARAMETERS:
            if parameter not in taken:
                self.errors.pop(parameter.name, None)
            elif self.cleaned_data.get(parameter.name) in (None, "") and parameter.name not in self.errors:
                self.add_error(parameter.name, parameter.missing)

    @property
    def parameters(self) -> list[BoundField]:
        """The inputs of all parameters."""
        return [self[parameter.name] for parameter in PARAMETERS]

    @property
    def field(self) -> dict[str, Any]:
        """The field as `serving.formats.layouts.Layout.parse` reads it. Only when the form is valid."""
        optional = {"optional": True} if self.cleaned_data["optional"] else {}
        return {"name": self.cleaned_data["name"], **self._typed(self.cleaned_data["type"]), **optional}

    def _taken(self, name: str) -> Iterator[Parameter]:
        """Yield the parameters that a type takes, those of its items too."""
        for parameter in TYPES_BY_NAME[name].parameters if name in TYPES_BY_NAME else ():
            yield parameter
            if parameter.input is Input.ITEM:
                yield from self._taken(self.cleaned_data.get(parameter.name, ""))

    def _typed(self, name: str) -> dict[str, Any]:
        """Return a type with its parameters."""
        return {"type": name} | {one.name: self._value(one) for one in TYPES_BY_NAME[name].parameters}

    def _value(self, parameter: Parameter) -> Any:
        """Return a parameter as JSON holds it."""
        value = self.cleaned_data[parameter.name]
        match parameter.input:
            case Input.WHOLE:
                return value
            case Input.NUMBER:
                return int(value) if value == value.to_integral_value() else float(value)
            case Input.TEXTS:
                return [line.strip() for line in value.splitlines() if line.strip()]
            case Input.ITEM:
                return self._typed(value)
            case other:
                assert_never(other)


def _input(parameter: Parameter) -> forms.Field:
    label = parameter.label
    match parameter.input:
        case Input.WHOLE:
            return forms.IntegerField(label=label, required=False)
        case Input.NUMBER:
            return forms.DecimalField(label=label, required=False)
        case Input.TEXTS:
            lines = forms.Textarea({"rows": 3, "spellcheck": "false"})
            return forms.CharField(label=label, required=False, widget=lines)
        case Input.ITEM:
            return _type_field(label, SCALAR_TYPES, marked="data-item", required=False)
        case other:
            assert_never(other)


LayoutFieldForm.base_fields |= {parameter.name: _input(parameter) for parameter in PARAMETERS}


_FormSet = formset_factory(LayoutFieldForm, extra=0, max_num=MAX_FIELDS, absolute_max=MAX_FIELDS)


class LayoutEditor:
    """The rows of a layout on a page, and with each of them its default.

    Attributes:
        rows: the forms of its fields.
        formset: for the template.
        asked: whether there is a default.
        problem: what is wrong with the layout as a whole.
    """

    def __init__(
        self, formset: BaseFormSet[LayoutFieldForm], asked: HasDefaultForm, held: Mapping[str, Any] | None = None
    ) -> None:
        self.formset = formset
        self.asked = asked
        self.problem = ""
        self._held = held or {}
        self.default_answer: dict[str, Any] | None = None

    @classmethod
    def empty(cls) -> LayoutEditor:
        """Return the editor of a new layout, with one row."""
        return cls(_FormSet(prefix=PREFIX, initial=[{"type": "uint"}]), _asked(has_default=True))

    @classmethod
    def of(cls, layout: models.Layout) -> LayoutEditor:
        """Return the editor that shows a layout and its default."""
        default = layout.default
        kinds = Layout.parse(layout.fields).fields
        rows = [_as_row(field) for field in layout.fields]
        for row, field in zip(rows, kinds, strict=True):
            row["default"] = shown_value(field, (default or {}).get(field.name))
        return cls(_FormSet(prefix=PREFIX, initial=rows), _asked(has_default=default is not None))

    @classmethod
    def typed(cls, data: Mapping[str, Any], held: Mapping[str, Any] | None = None) -> LayoutEditor:
        """Return the editor with what was typed, to be checked; `held` is the default that was shown."""
        return cls(_FormSet(data, prefix=PREFIX), HasDefaultForm(data), held)

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
        editor = cls(_FormSet(prefix=PREFIX, initial=rows), _asked(has_default=bool(data.get("has_default"))))
        if what == "add" and rows:
            editor.formset.forms[-1].fields["name"].widget.attrs["autofocus"] = True
        return editor

    @property
    def rows(self) -> list[LayoutFieldForm]:
        """The forms of the fields."""
        return list(self.formset.forms)

    def is_valid(self) -> bool:
        """Tell whether every row can be read and they make a layout with a default; `problem` says why they do not."""
        if not self.formset.is_valid() or not self.formset.forms or not self.asked.is_valid():
            return False
        try:
            check_layout(self.fields)
        except RuleBroken as error:
            self.problem = str(error)
            return False
        return self._read_default()

    def _read_default(self) -> bool:
        """Read the default if there is one; tell whether each row can hold its part."""
        if not self.asked.cleaned_data["has_default"]:
            return True
        answer: dict[str, Any] = {}
        for form, field in zip(self.formset.forms, Layout.parse(self.fields).fields, strict=True):
            try:
                answer[field.name] = typed_or_held(field, form.cleaned_data["default"], self._held)
            except BadValue as error:
                form.add_error("default", str(error))
        self.default_answer = answer
        return len(answer) == len(self.formset.forms)

    @property
    def fields(self) -> list[dict[str, Any]]:
        """The layout's fields. Only when it is valid."""
        return [form.field for form in self.formset.forms]


def _asked(*, has_default: bool) -> HasDefaultForm:
    return HasDefaultForm(initial={"has_default": has_default})


def _count(data: Mapping[str, Any]) -> int:
    text = str(data.get(f"{PREFIX}-TOTAL_FORMS", ""))
    return min(int(text), MAX_FIELDS) if text.isdecimal() and len(text) < 6 else 0


def _as_row(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layout's field, or the type of its items, as the row's values."""
    row = dict(field)
    for parameter in TYPES_BY_NAME[field["type"]].parameters:
        value = field[parameter.name]
        match parameter.input:
            case Input.WHOLE | Input.NUMBER:
                pass
            case Input.TEXTS:
                row[parameter.name] = "\n".join(value)
            case Input.ITEM:
                row = {**_as_row(value), **row, parameter.name: value["type"]}
            case other:
                assert_never(other)
    return row
