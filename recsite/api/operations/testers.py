"""Testers, who get one version whatever the weights say."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from rest_framework import serializers

from models_registry.models import Override, RecommendationModel
from models_registry.rollouts.testers import remove_tester, set_tester
from recsite.api.bodies import Answer, Body, Query, Text
from recsite.api.operations.lookups import find_model, one_of, version_named
from recsite.api.paging import PageQuery, page_of
from recsite.api.schema import operation
from recsite.api.studio_view import StudioView
from tenants.models import Scope
from tenants.paging import Page

OVERRIDE = {"unit": "tester-7", "version": "2026-11-a", "note": "Mara's phone", "created_at": "2026-11-01T10:00:00Z"}


class TesterAnswer(Answer[Override]):
    """A tester's version."""

    example = OVERRIDE
    unit = serializers.CharField(help_text="A player id, or whatever the model's unit field holds.")
    version = serializers.CharField(source="version.name")
    note = serializers.CharField()
    created_at = serializers.DateTimeField()


class NewTester(Body):
    """A tester and their version."""

    example: ClassVar = {name: OVERRIDE[name] for name in ("unit", "version", "note")}
    unit = Text(max_length=256)
    version = Text(max_length=60, help_text="The version's name.")
    note = Text(max_length=200, required=False, allow_blank=True, default="", help_text="Who it is.")


class TesterQuery(PageQuery):
    """Which testers."""

    version = serializers.CharField(
        source="version__name", max_length=60, required=False, help_text="Those of this version."
    )


class TesterUnit(Query):
    """Which tester."""

    unit = serializers.CharField(max_length=256, trim_whitespace=False, help_text="The tester's unit.")


class Testers(StudioView, tag="Testers"):
    @operation("overrides_list", Scope.READ, takes=TesterQuery, gives=TesterAnswer)
    def get(self, asked: dict[str, Any], model: str) -> Page[Any]:
        """List a model's testers, by unit."""
        rows = _rows(find_model(self.tenant, model))
        return page_of(rows, asked, by="unit", kind=str)

    @operation("overrides_set", Scope.ROLLOUTS_WRITE, takes=NewTester, gives=TesterAnswer)
    def put(self, given: dict[str, Any], model: str) -> Override:
        """Give a tester one version, whatever the weights say.

        A tester who has one already gets this one instead.
        """
        row = find_model(self.tenant, model)
        version = version_named(row, given["version"], field="version")
        return set_tester(model=row, unit=given["unit"], version=version, actor=self.actor, note=given["note"])

    @operation("overrides_remove", Scope.ROLLOUTS_WRITE, takes=TesterUnit)
    def delete(self, asked: dict[str, Any], model: str) -> None:
        """Remove a tester: the weights decide for them again."""
        row = find_model(self.tenant, model)
        one_of(_rows(row).filter(**asked), f"“{asked['unit']}” is not a tester of this model.")
        remove_tester(model=row, actor=self.actor, **asked)


def _rows(model: RecommendationModel) -> QuerySet[Override]:
    rows: QuerySet[Override] = Override.objects.for_tenant(model.tenant)
    return rows.filter(model=model).select_related("version")
