"""What a model answered without a row becomes the default of each of its layouts that can hold it."""

from typing import Any

from django.db import migrations
from django.db.migrations.state import StateApps

from serving.formats.layouts import BadLayout, BadValue, Layout


def copy_defaults(apps: StateApps, _: Any) -> None:
    layouts = apps.get_model("models_registry", "Layout").objects
    for pk in list(layouts.filter(default_revision=0).values_list("pk", flat=True)):
        layout = layouts.select_related("model").get(pk=pk)
        model = layout.model
        if model.default_answer is not None and _fits(layout.fields, model.default_answer):
            layout.default_answer = model.default_answer
        layout.default_revision = model.default_revision
        layout.save(update_fields=["default_answer", "default_revision"])


def _fits(fields: Any, answer: Any) -> bool:
    try:
        Layout.parse(fields).pack(answer)
    except (BadLayout, BadValue):
        return False
    return True


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0010_layouts_have_defaults")]

    operations = [migrations.RunPython(copy_defaults, migrations.RunPython.noop)]
