"""What the API takes and gives. It takes nothing unknown, of another type, or that a database cannot keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import IO, Any, ClassVar, NoReturn, TypeVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from typing_extensions import override

from tenants.rules import unstorable

Row = TypeVar("Row")


class StrictJSONParser(JSONParser):
    """JSON that means the same to everybody: each name once, finite numbers, whole Unicode text without NUL."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """Return what the body says.

        Raises:
            ParseError: it is no such JSON.
        """
        try:
            parsed = json.loads(stream.read().decode(), object_pairs_hook=_once_each, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise ParseError from None
        if unstorable(parsed):
            raise ParseError
        return parsed


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a name is there twice")
    return read


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


# --- Fields ---------------------------------------------------------------------------------------------------------


class Text(serializers.CharField):
    """A text; numbers are none."""

    def __init__(self, **kwargs: Any) -> None:
        if not kwargs.get("allow_blank"):
            kwargs.setdefault("min_length", 1)
        super().__init__(trim_whitespace=False, **kwargs)

    @override
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError("This must be a string.")
        return super().to_internal_value(data)


class Choice(serializers.ChoiceField):
    """One of some texts."""

    @override
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            raise serializers.ValidationError("This must be a string.")
        return super().to_internal_value(data)


class Whole(serializers.IntegerField):
    """A whole number; texts and true are none. 5.0 is 5, as JSON has it."""

    @override
    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, float) and data.is_integer():
            data = int(data)
        if isinstance(data, bool) or not isinstance(data, int):
            raise serializers.ValidationError("This must be a whole number.")
        return data


class Number(serializers.FloatField):
    """A finite number; texts and true are none."""

    @override
    def to_internal_value(self, data: Any) -> float:
        # A whole number stays one.
        if isinstance(data, bool) or not isinstance(data, int | float):
            raise serializers.ValidationError("This must be a number.")
        return data


class YesNo(serializers.BooleanField):
    """True or false; texts and numbers are neither."""

    @override
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("This must be true or false.")
        return data


class Moment(serializers.DateTimeField):
    """An instant in ISO 8601 with its time zone."""

    @override
    def enforce_timezone(self, value: datetime) -> datetime:
        # Without a time zone nobody knows which instant is meant.
        if timezone.is_naive(value):
            raise serializers.ValidationError("This needs a time zone, as in 2026-11-01T12:00:00Z.")
        return super().enforce_timezone(value)

    @override
    def to_internal_value(self, value: Any) -> datetime:
        if not isinstance(value, str) or "T" not in value.upper():
            raise serializers.ValidationError("This must be an instant, as in 2026-11-01T12:00:00Z.")
        return super().to_internal_value(value)


# --- Answers, bodies and queries ------------------------------------------------------------------------------------


class Answer(serializers.Serializer[Row]):
    """A JSON object that the API gives. `source_` is called `source`: DRF needs some names for itself.

    Attributes:
        example: one, for the documentation.
        shows_once: the field for a secret that no other answer shows.
    """

    example: ClassVar[Any] = None
    shows_once: ClassVar[str] = ""

    @override
    def get_fields(self) -> dict[str, Any]:
        return {name.rstrip("_"): field for name, field in super().get_fields().items()}


class Body(Answer[Any]):
    """A JSON object that the API takes, in which every name is known."""

    @override
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise serializers.ValidationError({"non_field_errors": ["Send a JSON object."]})
        unknown = {name: ["Unknown field."] for name in data if name not in self.fields}
        try:
            values = super().to_internal_value(data)
        except serializers.ValidationError as error:
            known = error.detail if isinstance(error.detail, dict) else {}
            raise serializers.ValidationError({**unknown, **known}) from None
        if unknown:
            raise serializers.ValidationError(unknown)
        return values


class Change(Body):
    """A body in which only what is to change is named."""

    needs_one = True

    @override
    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        if not values:
            raise serializers.ValidationError({"non_field_errors": ["Name at least one thing to change."]})
        return values


class Nothing(Body):
    """An empty object."""

    example: ClassVar[Any] = {}


class Reason(Body):
    """Why something is done."""

    reason = Text(max_length=500, required=False, default="", allow_blank=True, help_text="Kept in the audit trail.")


class Query(Body):
    """The parameters of an address, each known and there at most once."""


def read_body(request: Request, body: type[Body]) -> dict[str, Any]:
    """Return the checked values of a request's body.

    Raises:
        ValidationError: a value is missing, unknown or of the wrong type.
    """
    return _checked(body(data=request.data))


def read_query(request: Request, query: type[Query]) -> dict[str, Any]:
    """Return the checked values of an address's parameters.

    Raises:
        ValidationError: one is unknown, there twice, or of the wrong type.
    """
    given: dict[str, Any] = {}
    for name, values in request.query_params.lists():
        if len(values) > 1:
            raise serializers.ValidationError({name: ["This parameter is given twice."]})
        if "\0" in name + values[0]:
            raise serializers.ValidationError({"": ["A parameter contains the character NUL."]})
        given[name] = values[0]
    return _checked(query(data=given))


def _checked(form: serializers.Serializer[Any]) -> dict[str, Any]:
    form.is_valid(raise_exception=True)
    return dict(form.validated_data)
