"""Models, their layouts and default answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, assert_never

from django.db.models import OuterRef, QuerySet, Subquery
from django.urls import reverse
from rest_framework import serializers
from typing_extensions import override

from models_registry.catalogue.services import default_set, layout_add, model_create, model_update
from models_registry.loading.field_types import SCALAR_TYPES, TYPES, FieldType, Input, Parameter, parameters_of
from models_registry.models import Layout, RecommendationModel
from recsite.api.bodies import Answer, Body, Change, Choice, Number, Text, Whole, YesNo
from recsite.api.operations.lookups import find_model, layout_numbered, one_of
from recsite.api.paging import PageQuery, page_of
from recsite.api.problems import fields_named
from recsite.api.schema import Result, operation
from recsite.api.studio_view import StudioView
from serving.formats.layouts import MAX_PAYLOAD_BYTES
from tenants.models import Scope, Tenant
from tenants.paging import Page

LAYOUT: list[dict[str, Any]] = [
    {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
    {"name": "discount", "type": "decimal", "min": 0, "max": 0.95, "step": 0.05},
    {"name": "placement", "type": "enum", "values": ["shop", "level_end", "login"]},
    {"name": "items", "type": "list", "max_items": 8, "item": {"type": "uint", "min": 0, "max": 1023}},
]
WIDER_LAYOUT = [*LAYOUT, {"name": "is_new", "type": "bool", "optional": True}]
NEW_MODEL = {
    "slug": "offers",
    "name": "Offers",
    "key_fields": ["player_id"],
    "unit_field": "player_id",
    "layout": LAYOUT,
    "default_answer": {"offer_id": 1, "discount": 0.05, "placement": "shop", "items": []},
    "max_client_age_seconds": 60,
}
FIRST_LAYOUT = {
    "revision": 0,
    "fields": LAYOUT,
    "default_answer": NEW_MODEL["default_answer"],
    "default_revision": 1,
    "created_at": "2026-10-02T09:14:07Z",
}
MODEL = {
    "slug": "offers",
    "name": "Offers",
    "key_fields": ["player_id"],
    "unit_field": "player_id",
    "default_answer": NEW_MODEL["default_answer"],
    "default_revision": 1,
    "max_client_age_seconds": 60,
    "max_row_count_change": 0.3,
    "max_psi": 0.25,
    "min_coverage": 0.5,
    "layout_revision": 0,
    "layout": LAYOUT,
    "created_at": "2026-10-02T09:14:07Z",
}


def _parameters(types: Iterable[type[FieldType[Any]]]) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
    """Return a field for each parameter that some types take; its help says which do."""
    return {
        parameter.name: _parameter(parameter, f"{' and '.join(names)}: {parameter.meaning}.")
        for parameter, names in parameters_of(types).items()
    }


def _parameter(parameter: Parameter, help_text: str) -> serializers.Field[Any, Any, Any, Any]:
    match parameter.input:
        case Input.WHOLE:
            return Whole(required=False, min_value=0, max_value=MAX_PAYLOAD_BYTES, help_text=help_text)
        case Input.NUMBER:
            return Number(required=False, help_text=help_text)
        case Input.TEXTS:
            return serializers.ListField(child=Text(allow_blank=True), required=False, help_text=help_text)
        case Input.ITEM:
            return LayoutItem(required=False, help_text=help_text)
        case other:
            assert_never(other)


class LayoutItem(Body):
    """What a list holds, with the parameters that its type takes."""

    type = Choice(choices=[one.name for one in SCALAR_TYPES])

    @override
    def get_fields(self) -> dict[str, Any]:
        return super().get_fields() | _parameters(SCALAR_TYPES)


class LayoutField(Body):
    """One field of an answer, with the parameters that its type takes."""

    name = Text(max_length=128)
    type = Choice(choices=[one.name for one in TYPES])
    optional = YesNo(required=False, help_text="It may be absent; JSON then shows null.")

    @override
    def get_fields(self) -> dict[str, Any]:
        return super().get_fields() | _parameters(TYPES)


class ModelAnswer(Answer[RecommendationModel]):
    """A model: what it is keyed by, what it answers, how it is bucketed."""

    example = MODEL
    slug = serializers.CharField()
    name = serializers.CharField()
    key_fields = serializers.ListField(child=serializers.CharField(), help_text="In order.")
    unit_field = serializers.CharField(help_text="The key field that is bucketed; empty: the whole key.")
    default_answer = serializers.DictField(
        source="newest_layout.default",
        allow_null=True,
        help_text="Of the newest layout: served when a key has no row; null: a 204. Each layout has its own.",
    )
    default_revision = serializers.IntegerField(
        source="newest_layout.counted_default_revision", help_text="Counts the changes of the default answers."
    )
    max_client_age_seconds = serializers.IntegerField(help_text="How long clients may keep an answer.")
    max_row_count_change = serializers.FloatField(
        help_text="A load whose row count differs from the last by more than this share is rejected."
    )
    max_psi = serializers.FloatField(
        help_text="A load in which a field's distribution differs by a higher population stability index is rejected."
    )
    min_coverage = serializers.FloatField(
        help_text="A load that has less than this share of the keys that are served is rejected."
    )
    layout_revision = serializers.IntegerField(source="newest_layout.revision", help_text="Of the newest layout.")
    layout = serializers.ListField(
        source="newest_layout.fields", child=serializers.DictField(), help_text="The newest layout's fields."
    )
    created_at = serializers.DateTimeField()


class LayoutAnswer(Answer[Layout]):
    """A layout. It never changes; a change makes the next revision."""

    example = FIRST_LAYOUT
    revision = serializers.IntegerField()
    fields_ = serializers.ListField(child=serializers.DictField())
    default_answer = serializers.DictField(
        source="default", allow_null=True, help_text="What its versions answer when a key has no row; null: a 204."
    )
    default_revision = serializers.IntegerField(
        source="counted_default_revision", help_text="Counts the changes of the default answers."
    )
    created_at = serializers.DateTimeField()


class NewModel(Body):
    """A model to create."""

    example = NEW_MODEL
    slug = Text(max_length=50, help_text="In tokens and addresses; never changes.")
    name = Text(max_length=100)
    key_fields = serializers.ListField(
        child=Text(max_length=64), min_length=1, max_length=8, help_text="Column names that make the key, in order."
    )
    layout = LayoutField(many=True, allow_empty=False, help_text="The fields of an answer, in order.")
    unit_field = Text(
        max_length=64,
        required=False,
        allow_blank=True,
        help_text="The key field that is bucketed; empty: the whole key.",
    )
    default_answer = serializers.DictField(
        required=False, allow_null=True, help_text="Served when a key has no row; without it, a 204."
    )
    max_client_age_seconds = Whole(
        min_value=1, max_value=86_400, required=False, help_text="How long clients may keep an answer; 60 without it."
    )


class ModelChange(Change):
    """What is to change; what is left out stays."""

    example: ClassVar = {"max_row_count_change": 0.5}
    name = Text(max_length=100, required=False)
    max_client_age_seconds = Whole(min_value=1, max_value=86_400, required=False)
    max_row_count_change = Number(
        min_value=0.0001, max_value=1000, required=False, help_text="As a share: 0.3 is 30 %."
    )
    max_psi = Number(
        min_value=0.0001, max_value=1000, required=False, help_text="0.1 is a shift worth a look, 0.25 a large one."
    )
    min_coverage = Number(min_value=0, max_value=1, required=False, help_text="As a share: 0.5 is 50 %.")


class NewDefault(Body):
    """What is served when a key has no row."""

    example: ClassVar = {"default_answer": NEW_MODEL["default_answer"]}
    default_answer = serializers.DictField(allow_null=True, help_text="null: the answer is a 204.")
    layout_revision = Whole(min_value=0, max_value=255, required=False, help_text="Of which; the newest without it.")


class NewLayout(Body):
    """The next layout."""

    example: ClassVar = {"fields": WIDER_LAYOUT}
    fields_ = LayoutField(many=True, allow_empty=False, help_text="In order.")
    default_answer = serializers.DictField(
        required=False,
        allow_null=True,
        help_text="What its versions answer when a key has no row; null: a 204. Without it, that of the layout before, "
        "which must fit.",
    )


class ModelList(StudioView, tag="Models"):
    @operation("models_list", Scope.READ, takes=PageQuery, gives=ModelAnswer)
    def get(self, asked: dict[str, Any]) -> Page[Any]:
        """List the models, by short name."""
        found = page_of(_rows(self.tenant), asked, by="slug", kind=str)
        _add_layouts(self.tenant, found.rows)
        return found

    @operation("models_create", Scope.MODELS_WRITE, takes=NewModel, gives=ModelAnswer, status=201)
    def post(self, given: dict[str, Any]) -> Result:
        """Create a model with its first layout."""
        model = model_create(tenant=self.tenant, actor=self.actor, **given)
        return Result(_read(self.tenant, model.slug), at=reverse("api-model", args=[model.slug]))


class ModelDetail(StudioView, tag="Models"):
    @operation("models_read", Scope.READ, gives=ModelAnswer)
    def get(self, model: str) -> RecommendationModel:
        """Read a model."""
        return _read(self.tenant, model)

    @operation(
        "models_update",
        Scope.MODELS_WRITE,
        takes=ModelChange,
        gives=ModelAnswer,
        answer_example={**MODEL, "max_row_count_change": 0.5},
    )
    def patch(self, given: dict[str, Any], model: str) -> RecommendationModel:
        """Change a model's name or limits.

        Short name, key fields and unit field never change: rows, tokens and slots are made of them.
        """
        model_update(model=find_model(self.tenant, model), actor=self.actor, **given)
        return _read(self.tenant, model)


class ModelDefault(StudioView, tag="Models"):
    @operation("models_set_default", Scope.MODELS_WRITE, takes=NewDefault, gives=ModelAnswer)
    def put(self, given: dict[str, Any], model: str) -> RecommendationModel:
        """Set a model's default answer.

        It is served when a key of a version with this layout has no row. Serving has it within 2 seconds.
        """
        row = find_model(self.tenant, model)
        layout = layout_numbered(row, given.get("layout_revision"))
        default_set(model=row, layout=layout, default_answer=given["default_answer"], actor=self.actor)
        return _read(self.tenant, model)


class LayoutList(StudioView, tag="Models"):
    @operation("layouts_list", Scope.READ, takes=PageQuery, gives=LayoutAnswer)
    def get(self, asked: dict[str, Any], model: str) -> Page[Any]:
        """List a model's layouts, newest first."""
        rows = _layouts(find_model(self.tenant, model))
        return page_of(rows, asked, by="revision", is_descending=True)

    @operation(
        "layouts_add",
        Scope.MODELS_WRITE,
        takes=NewLayout,
        gives=LayoutAnswer,
        status=201,
        answer_example={
            **FIRST_LAYOUT,
            "revision": 1,
            "fields": WIDER_LAYOUT,
            "default_revision": 2,
            "created_at": "2026-11-01T10:00:00Z",
        },
    )
    def post(self, given: dict[str, Any], model: str) -> Result:
        """Add a model's next layout.

        Versions keep the one they have; a version created from now on gets this one.
        """
        with fields_named(layout="fields"):
            layout = layout_add(
                model=find_model(self.tenant, model),
                fields=given["fields"],
                default_answer=given.get("default_answer"),
                keeps_default="default_answer" not in given,
                actor=self.actor,
            )
        return Result(layout, at=reverse("api-layout", args=[model, layout.revision]))


class LayoutDetail(StudioView, tag="Models"):
    @operation("layouts_read", Scope.READ, gives=LayoutAnswer)
    def get(self, model: str, revision: str) -> Layout:
        """Read a layout."""
        rows = _layouts(find_model(self.tenant, model)).filter(revision=int(revision))
        return one_of(rows, f"The model has no layout {revision}.")


def _rows(tenant: Tenant) -> QuerySet[RecommendationModel]:
    newest = Layout.objects.unscoped().filter(model=OuterRef("pk")).order_by("-revision")
    rows: QuerySet[RecommendationModel] = RecommendationModel.objects.for_tenant(tenant)
    return rows.annotate(newest_layout_id=Subquery(newest.values("pk")[:1]))


def _add_layouts(tenant: Tenant, models: list[Any]) -> None:
    """Set each model's newest layout. One query."""
    layouts = Layout.objects.for_tenant(tenant).in_bulk([model.newest_layout_id for model in models])
    for model in models:
        model.newest_layout = layouts[model.newest_layout_id]
        model.newest_layout.model = model


def _read(tenant: Tenant, slug: str) -> RecommendationModel:
    """Return a model with its newest layout. Two queries."""
    found = one_of(_rows(tenant).filter(slug=slug), f"There is no model “{slug}”.")
    _add_layouts(tenant, [found])
    return found


def _layouts(model: RecommendationModel) -> QuerySet[Layout]:
    rows: QuerySet[Layout] = Layout.objects.for_tenant(model.tenant)
    return rows.filter(model=model).select_related("model")
