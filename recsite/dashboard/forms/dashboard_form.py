"""What the dashboard's forms share: a service's refusal next to its field, and the reason that most changes take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django import forms
from django.core.signing import BadSignature, Signer
from typing_extensions import override

from tenants.models import new_public_id
from tenants.rules import RuleBroken

# For what is typed letter by letter: names, ids.
AS_TYPED = {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}

# What is wrong, in the words of whoever fills the form in, by field class and Django's code.
_WORDS: tuple[tuple[type[forms.Field], dict[str, str]], ...] = (
    (
        forms.CharField,
        {
            "max_length": "This has %(show_value)d characters. The maximum is %(limit_value)d.",
            "null_characters_not_allowed": "This contains a character that cannot be stored. Type it again.",
        },
    ),
    (
        forms.DecimalField,
        {
            "max_digits": "This number has too many digits.",
            "max_decimal_places": "Use at most %(max)s decimal places.",
            "max_whole_digits": "This number is too large.",
        },
    ),
    (forms.DateField, {"invalid": "Enter a date, such as 2026-11-23."}),
    (forms.DateTimeField, {"invalid": "Choose a date and time."}),
    (forms.ChoiceField, {"required": "Choose one.", "invalid_choice": "Choose one of the listed options."}),
    (
        forms.MultipleChoiceField,
        {"required": "Tick at least one.", "invalid_list": "Choose one of the listed options."},
    ),
)


def _words_for(field: forms.Field) -> dict[str, str]:
    """Return the words for what can be wrong with a field, by Django's codes; those of its `own_words` win."""
    words: dict[str, str] = {}
    for kind, more in _WORDS:
        if isinstance(field, kind):
            words |= more
    least, most = getattr(field, "min_value", None), getattr(field, "max_value", None)
    if least is not None and most is not None:
        words["min_value"] = words["max_value"] = f"Enter a number from {least:,} to {most:,}."
    elif least is not None:
        words["min_value"] = f"Enter {least:,} or more."
    return words | getattr(field, "own_words", {})


class InPlainWords(forms.Form):
    """A form that says what is wrong in words for people."""

    @override
    def full_clean(self) -> None:
        for field in self.fields.values():
            field.error_messages |= _words_for(field)
        super().full_clean()


class DashboardForm(InPlainWords):
    """A form of the dashboard: drawn with `components/field.html`, and told by a service what will not do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)

    def offer(self, name: str, choices: Iterable[Any]) -> None:
        """Have one of its fields offer these choices."""
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 - for mypy
        field.choices = list(choices)

    def refuse(self, error: RuleBroken, **fields: str) -> None:
        """Put a service's refusal next to the field it is about, or above the form.

        Args:
            error: what it raised.
            fields: names of fields here by the service's names, where they differ.
        """
        field = fields.get(error.field, error.field)
        self.add_error(field if field in self.fields else None, str(error))

    @contextmanager
    def refusing(self, **fields: str) -> Iterator[None]:
        """End a block at a service's refusal, and `refuse`."""
        try:
            yield
        except RuleBroken as error:
            self.refuse(error, **fields)


_T = TypeVar("_T")


def held_to(check: Callable[..., _T], *values: Any) -> _T:
    """Return what a service's check gives; its refusal as a form's, so that all that is wrong is said at once."""
    try:
        return check(*values)
    except RuleBroken as error:
        raise forms.ValidationError(str(error)) from None


_SIGNER = Signer(salt="recsite.dashboard.forms.dashboard_form.OnceForm")


class OnceForm(DashboardForm):
    """A form that carries the id of what it makes: sent twice (double tap, reload, back) it makes one, not two."""

    once = forms.CharField(widget=forms.HiddenInput, required=False, initial=lambda: _SIGNER.sign(new_public_id()))

    @property
    def public_id(self) -> str | None:
        """The random part of the id; None if the form came without one. Only when the form is valid."""
        try:
            return _SIGNER.unsign(self.cleaned_data["once"])
        except BadSignature:
            return None


class NeededReasonForm(DashboardForm):
    """Why something is done that cannot be undone."""

    reason = forms.CharField(
        label="Why",
        max_length=500,
        widget=forms.Textarea({"rows": 2, "placeholder": "For the audit trail"}),
    )


class ReasonForm(DashboardForm):
    """Why something is done, for the history and the audit trail, and what it was decided on."""

    reason = forms.CharField(
        label="Why",
        max_length=500,
        required=False,
        widget=forms.Textarea({"rows": 2, "placeholder": "For the history"}),
    )
    # The revision that was on the screen: a change made meanwhile is not overwritten unseen.
    based_on = forms.IntegerField(widget=forms.HiddenInput, required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # In the dialog it is on one page with the weights and their reason: labels must find their own field.
        kwargs.setdefault("auto_id", "id_ask_%s")
        super().__init__(*args, **kwargs)

    def clean(self) -> dict[str, Any]:
        """Refuse what does not say what was on the screen; shown again, it does."""
        cleaned = super().clean() or {}
        if cleaned.get("based_on") is None and self.initial.get("based_on") is not None:
            self.data = dict(self.data.items()) | {"based_on": self.initial["based_on"]}
            raise forms.ValidationError("This was sent without the weights it was decided on. Look again and confirm.")
        return cleaned
