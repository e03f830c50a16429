"""Default answers as fields that a person fills in: one input for each field of a layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from django import forms
from django.forms import BoundField
from typing_extensions import override

from models_registry import models
from models_registry.loading.field_types import (
    ListType,
    field_name,
    field_type,
    refusal_of,
    shown_value,
    typed_value,
)
from recsite.dashboard.forms.dashboard_form import AS_TYPED, DashboardForm
from serving.formats.layouts import BadValue, Field, Layout


class HasDefaultForm(DashboardForm):
    """Whether there is a default answer."""

    has_default = forms.BooleanField(
        label="Players without a row get a default answer",
        required=False,
        help_text="Everybody gets it if the data can’t be read. Without it they get no recommendation.",
    )


class DefaultForm(HasDefaultForm):
    """The default answer of a layout, with an input for each of its fields.

    Attributes:
        layout: whose.
        used_by: names of the versions that have the layout.
    """

    def __init__(
        self, layout: models.Layout, data: Mapping[str, Any] | None = None, used_by: Sequence[str] = ()
    ) -> None:
        held = layout.default
        super().__init__(data, prefix=f"default-{layout.revision}", initial={"has_default": held is not None})
        self.layout = layout
        self.used_by = used_by
        self._held = held or {}
        self._of = dict(zip(_names(), Layout.parse(layout.fields).fields, strict=False))
        for name, field in self._of.items():
            self.fields[name] = _value_input(field)
            self.initial[name] = shown_value(field, self._held.get(field.name))

    @property
    def is_open(self) -> bool:
        """Tell whether something in it needs another look."""
        return bool(self.errors)

    @override
    def clean(self) -> None:
        super().clean()
        if self.cleaned_data.get("has_default"):
            for name, field in self._of.items():
                try:
                    self.cleaned_data[name] = typed_or_held(field, self.cleaned_data.get(name, ""), self._held)
                except BadValue as error:
                    self.add_error(name, str(error))

    @property
    def values(self) -> list[BoundField]:
        """The inputs of the fields."""
        return [self[name] for name in self._of]

    @property
    def answer(self) -> dict[str, Any] | None:
        """The default; None for none. Only when the form is valid."""
        if not self.cleaned_data["has_default"]:
            return None
        return {field.name: self.cleaned_data[name] for name, field in self._of.items()}


def _names() -> Iterator[str]:
    return (f"value-{index}" for index in count())


def _value_input(field: Field) -> forms.Field:
    """Return the input of a field's value."""
    of = field_type(field.kind)
    about: dict[str, Any] = {"label": field.name, "required": False, "help_text": _help(field)}
    if listed := of.choices():
        choices = [("", "nothing" if field.is_optional else "choose one"), *((one, one) for one in listed)]
        return forms.CharField(widget=forms.Select(choices=choices), strip=False, **about)
    if isinstance(of, ListType):
        return forms.CharField(strip=False, widget=forms.Textarea({"rows": 3, "spellcheck": "false"}), **about)
    return forms.CharField(strip=False, widget=forms.TextInput(AS_TYPED), **about)


def typed_or_held(field: Field, text: str, held: Mapping[str, Any]) -> Any:
    """Return the value that was typed; the held one where its text was left alone, which may not say all of it.

    Raises:
        BadValue: the field cannot hold it; the message is for people.
    """
    before = held.get(field.name)
    is_as_shown = field.name in held and shown_value(field, before) == text.replace("\r\n", "\n")
    if is_as_shown and not refusal_of(field, before):
        return before
    return typed_value(field, text.strip())


def _help(field: Field) -> str:
    words = field_name(field)
    return f"{words[0].upper()}{words[1:]}."
