"""Migrations that change rows do with the rows of the release before what they say."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from models_registry.models import Layout
from tests.factories import DEFAULT_ANSWER, LAYOUT, LayoutFactory, ModelFactory

pytestmark = pytest.mark.django_db


def test_copy_defaults_to_layouts__each_layout_gets_the_models_if_it_can_hold_it() -> None:
    name = "0011_copy_defaults_to_layouts"
    model = ModelFactory.create(default_revision=3)
    unset = {"model": model, "default_answer": None, "default_revision": 0}
    LayoutFactory.create(**unset)
    LayoutFactory.create(**unset, fields=LAYOUT[:1])
    LayoutFactory.create(model=model, default_answer=None, default_revision=5)
    LayoutFactory.create(**unset | {"model": ModelFactory.create(default_answer=None)})
    apps = MigrationLoader(connection).project_state(("models_registry", name)).apps
    import_module(f"models_registry.migrations.{name}").copy_defaults(apps, None)
    rows = Layout.objects.unscoped().order_by("pk").values_list("default_answer", "default_revision")
    assert list(rows) == [(DEFAULT_ANSWER, 3), (None, 3), (None, 5), (None, 1)]
