"""Load.accepts and accept_reason become waives and waive_reason. Their columns keep their names: no SQL runs."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0006_load_ranges")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveConstraint(model_name="load", name="load_dry_run_writes_nothing"),
                migrations.RemoveConstraint(model_name="load", name="load_accepts_for_a_reason"),
                migrations.RenameField(model_name="load", old_name="accepts", new_name="waives"),
                migrations.RenameField(model_name="load", old_name="accept_reason", new_name="waive_reason"),
                migrations.AlterField(
                    model_name="load",
                    name="waives",
                    field=models.ForeignKey(
                        blank=True,
                        db_column="accepts_id",
                        help_text="The rejected load whose failed comparison checks this load waives.",
                        null=True,
                        on_delete=django.db.models.deletion.RESTRICT,
                        related_name="waived_by",
                        to="models_registry.load",
                    ),
                ),
                migrations.AlterField(
                    model_name="load",
                    name="waive_reason",
                    field=models.CharField(blank=True, db_column="accept_reason", default="", max_length=500),
                ),
                migrations.AddConstraint(
                    model_name="load",
                    constraint=models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("is_dry_run", False), models.Q(("state", "checked"), _negated=True)),
                            models.Q(
                                ("is_dry_run", True),
                                ("waives", None),
                                models.Q(("state__in", ["writing", "verifying", "active"]), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="load_dry_run_writes_nothing",
                    ),
                ),
                migrations.AddConstraint(
                    model_name="load",
                    constraint=models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("waive_reason", ""), ("waives", None)),
                            models.Q(("waives__isnull", False), models.Q(("waive_reason", ""), _negated=True)),
                            _connector="OR",
                        ),
                        name="load_accepts_for_a_reason",
                    ),
                ),
            ],
        ),
    ]
