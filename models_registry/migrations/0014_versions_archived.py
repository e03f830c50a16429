"""Versions can be archived, and give their codes back. What the release before writes fits the new rule as well."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0013_tables_say_how_they_are_sealed")]

    operations = [
        migrations.AddField(
            model_name="version",
            name="archived_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="version",
            name="former_code",
            field=models.PositiveSmallIntegerField(blank=True, editable=False, null=True),
        ),
        migrations.RemoveConstraint(model_name="version", name="version_code_one_byte"),
        migrations.AddConstraint(
            model_name="version",
            constraint=models.CheckConstraint(
                condition=models.Q(("archived_at", None), ("code__lte", 255), ("former_code", None))
                | models.Q(
                    ("archived_at__isnull", False),
                    ("code__gt", 255),
                    ("former_code__isnull", False),
                    ("former_code__lte", 255),
                ),
                name="version_code_one_byte_until_archived",
            ),
        ),
    ]
