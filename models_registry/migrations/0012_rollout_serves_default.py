"""A revision may give everybody the default answer."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0011_copy_defaults_to_layouts")]

    operations = [
        migrations.AddField(
            model_name="rolloutrevision",
            name="serves_default",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Everybody gets the default answer, whatever the allocation says.",
            ),
        ),
    ]
