"""Each layout has a default of its own. The model's stays for the release before, which serves it with every layout."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0009_loads_cancelled_and_why_they_ended")]

    operations = [
        migrations.AddField(
            model_name="layout",
            name="default_answer",
            field=models.JSONField(blank=True, help_text="Served when a key has no row; empty: 204.", null=True),
        ),
        migrations.AddField(
            model_name="layout",
            name="default_revision",
            field=models.PositiveIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AlterField(
            model_name="recommendationmodel",
            name="default_answer",
            field=models.JSONField(blank=True, editable=False, null=True),
        ),
    ]
