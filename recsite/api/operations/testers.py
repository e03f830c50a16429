"""Testers, who get one version whatever the weights say."""

from __future__ import annotations

from typing import ClassVar

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from models_registry.models import Override, RecommendationModel
from models_registry.rollouts.testers import override_remove, override_set
from recsite.api.authentication import needs
from recsite.api.bodies import Answer, Body, Query, Text, read_body, read_query
from recsite.api.operations.lookups import find_model, version_named
from recsite.api.paging import PageQuery, page_of
from recsite.api.problems import not_found
from recsite.api.schema import operation, page_answer
from recsite.api.studio_view import StudioView, page
from tenants.models import Scope

OVERRIDE = {
    "unit": "tester-7",
    "version": "2026-11-a",
    "note": "Mara's phone",
    "created_at": "2026-11-01T10:00:00Z",
}


class OverrideAnswer(Answer[Override]):
    """A tester's version."""

    unit = serializers.CharField(help_text="A player id, or whatever the model's unit field holds.")
    version = serializers.CharField(source="version.name")
    note = serializers.CharField()
    created_at = serializers.DateTimeField()


class NewOverride(Body):
    """A tester and their version."""

    unit = Text(max_length=256)
    version = Text(max_length=60, help_text="The version's name.")
    note = Text(max_length=200, required=False, allow_blank=True, default="", help_text="Who it is.")


class OverrideQuery(PageQuery):
    """Which testers."""

    version = serializers.CharField(max_length=60, required=False, help_text="Those of this version.")


class OverrideUnit(Query):
    """Which tester."""

    unit = serializers.CharField(max_length=256, trim_whitespace=False, help_text="The tester's unit.")


class Overrides(StudioView):
    """A model's testers."""

    tag: ClassVar = "Testers"

    @operation(
        "overrides_list",
        need=needs(Scope.READ),
        query=OverrideQuery,
        answer=page_answer(OverrideAnswer),
        answer_example={"results": [OVERRIDE], "next_cursor": None},
    )
    def get(self, request: Request, model: str) -> Response:
        """List a model's testers, by unit."""
        asked = read_query(request, OverrideQuery)
        rows = _rows(find_model(self.tenant, model))
        if "version" in asked:
            rows = rows.filter(version__name=asked["version"])
        return page(page_of(rows, asked, by="unit", kind=str), OverrideAnswer)

    @operation(
        "overrides_set",
        need=needs(Scope.ROLLOUTS_WRITE),
        body=NewOverride,
        answer=OverrideAnswer,
        example={name: OVERRIDE[name] for name in ("unit", "version", "note")},
        answer_example=OVERRIDE,
    )
    def put(self, request: Request, model: str) -> Response:
        """Give a tester one version, whatever the weights say.

        A tester who has one already gets this one instead.
        """
        given = read_body(request, NewOverride)
        row = find_model(self.tenant, model)
        version = version_named(row, given["version"], field="version")
        override = override_set(model=row, unit=given["unit"], version=version, actor=self.actor, note=given["note"])
        return Response(OverrideAnswer(override).data)

    @operation("overrides_remove", need=needs(Scope.ROLLOUTS_WRITE), query=OverrideUnit, status=204)
    def delete(self, request: Request, model: str) -> Response:
        """Remove a tester: the weights decide for them again."""
        unit = read_query(request, OverrideUnit)["unit"]
        row = find_model(self.tenant, model)
        if not _rows(row).filter(unit=unit).exists():
            raise not_found(f"“{unit}” is not a tester of this model.")
        override_remove(model=row, unit=unit, actor=self.actor)
        return Response(status=204)


def _rows(model: RecommendationModel) -> QuerySet[Override]:
    rows: QuerySet[Override] = Override.objects.for_tenant(model.tenant)
    return rows.filter(model=model).select_related("version")
