"""What the migrations since the release before change in PostgreSQL is something which that release can live with.

Expand, deploy, contract: two releases share a database while an upgrade lasts, and the way back needs no migration. The
SQL is judged by django-migration-linter. `test_postgres.py` runs these on PostgreSQL.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from django.db import connection, models
from django.db.migrations import (
    AddConstraint,
    AddField,
    AddIndex,
    AlterField,
    CreateModel,
    DeleteModel,
    Migration,
    RemoveField,
    RenameField,
    RenameModel,
    RunSQL,
)
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django_migration_linter.sql_analyser.analyser import analyse_sql_statements
from django_migration_linter.sql_analyser.base import Check, CheckMode, CheckType
from django_migration_linter.sql_analyser.postgresql import PostgresqlAnalyser

from recsite.environment import BASE_DIR
from tests.upgrades.releases import PREVIOUS

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="about PostgreSQL's SQL; test_postgres.py runs it"),
]
# What the linter refuses and the release before can live with: by migration, the codes and why.
ACCEPTED: dict[tuple[str, str], set[str]] = {
    # Both rules take the place of narrower ones, by which the release before writes.
    ("models_registry", "0009_loads_cancelled_and_why_they_ended"): {"ADD_CHECK"},
    # The rule is the one before for all that the release before writes, which knows no archived versions.
    ("models_registry", "0014_versions_archived"): {"ADD_CHECK"},
}


class Analyser(PostgresqlAnalyser):
    """PostgreSQL's, and what the release before may write by its own rules must not break a new one."""

    migration_checks = [  # noqa: RUF012 - as the linter declares it
        *PostgresqlAnalyser.migration_checks,
        Check(
            "ADD_CHECK",
            lambda statements, **_: any(_adds_check(statement, statements) for statement in statements),
            "ADDING a check constraint to a table that is there",
            CheckMode.TRANSACTION,
            CheckType.ERROR,
        ),
    ]


def _adds_check(statement: str, statements: list[str]) -> bool:
    found = re.match(r'ALTER TABLE (".*?") ADD CONSTRAINT .* CHECK', statement)
    return found is not None and not any(one.startswith(f"CREATE TABLE {found[1]}") for one in statements)


def refusals(migration: Migration, state: ProjectState) -> set[str]:
    """Return the codes of what the release before could not live with."""
    errors = _errors(migration, state.clone())
    # The linter takes one column's default for another's, so a column is looked at alone too.
    for operation in migration.operations:
        errors |= _errors(_migration(migration.app_label, [operation]), state.clone()) & {"NOT_NULL"}
        operation.state_forwards(migration.app_label, state)
    return errors


def _migration(app: str, operations: list[Operation]) -> Migration:
    made: type[Migration] = type("Migration", (Migration,), {"operations": operations})
    return made("9999_tried", app)


def _errors(migration: Migration, state: ProjectState) -> set[str]:
    with connection.schema_editor(collect_sql=True, atomic=migration.atomic) as editor:
        migration.apply(state, editor, collect_sql=True)
    errors, _, _ = analyse_sql_statements(Analyser, editor.collected_sql, [])
    return {error.code for error in errors}


def _git(*arguments: str) -> list[str]:
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git here")
    ended = subprocess.run([git, *arguments], cwd=BASE_DIR, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"the release before this one is not in this clone: {ended.stderr.strip()}")
    return ended.stdout.splitlines()


def _changed(kinds: str) -> list[str]:
    return _git("diff", "--name-only", f"--diff-filter={kinds}", "--no-renames", PREVIOUS, "--", "*/migrations/0*.py")


def test_migrations__since_the_release_before__are_ones_that_it_can_live_with() -> None:
    loader = MigrationLoader(connection)
    for path in _changed("A"):
        app, _, name = path.removesuffix(".py").split("/")
        state = loader.project_state((app, name), at_end=False)
        found = refusals(loader.disk_migrations[app, name], state)
        assert found == ACCEPTED.get((app, name), set()), f"{path}: expand now, contract when no release asks for it"


def test_migrations__of_the_release_before__are_as_they_were() -> None:
    assert _changed("DM") == []


ADDED = models.CharField(max_length=9, db_default="x")


@pytest.mark.parametrize(
    ("operations", "codes"),
    [
        ([RemoveField("tenant", "burst")], {"DROP_COLUMN"}),
        ([RenameField("tenant", "burst", "allowance")], {"RENAME_COLUMN"}),
        ([DeleteModel("AuditEntry")], {"DROP_TABLE"}),
        ([RenameModel("AuditEntry", "Entry")], {"RENAME_TABLE"}),
        ([AddField("tenant", "added", models.CharField(max_length=9, default="x"))], {"NOT_NULL"}),
        (
            [
                AddField("tenant", "added", models.CharField(max_length=9, default="x")),
                AddField("tenant", "other", ADDED.clone()),
            ],
            {"NOT_NULL"},
        ),
        ([AlterField("tenant", "snapshot_published_at", models.DateTimeField(default=None))], {"NOT_NULL"}),
        ([AlterField("tenant", "snapshot_digest", models.CharField(max_length=32))], {"ALTER_COLUMN"}),
        ([AlterField("tenant", "name", models.CharField(max_length=100, unique=True))], {"ADD_UNIQUE"}),
        (
            [AddConstraint("tenant", models.CheckConstraint(condition=models.Q(burst__gt=5), name="more"))],
            {"ADD_CHECK"},
        ),
        ([RunSQL("ALTER TABLE tenants_tenant DROP COLUMN burst")], {"DROP_COLUMN"}),
        ([AddField("tenant", "added", ADDED.clone())], set()),
        ([AddField("tenant", "added", models.CharField(max_length=9, null=True))], set()),
        ([AddIndex("tenant", models.Index(fields=["burst"], name="by_burst"))], set()),
        (
            [
                CreateModel("Added", [("id", models.BigAutoField(primary_key=True)), ("name", models.TextField())]),
                AddConstraint("added", models.CheckConstraint(condition=models.Q(name="x"), name="one")),
                AddConstraint("added", models.UniqueConstraint(fields=["name"], name="two")),
            ],
            set(),
        ),
    ],
    ids=[
        "drops a column",
        "renames a column",
        "drops a table",
        "renames a table",
        "a column without a default in the database",
        "such a column beside one with a default",
        "nothing may be null any more",
        "a narrower type",
        "unique",
        "a check",
        "SQL by hand",
        "a column with a default in the database",
        "a column that may be null",
        "an index",
        "a table",
    ],
)
def test_refusals__of_an_operation__are_of_what_the_release_before_would_break_at(
    operations: list[Operation], codes: set[str]
) -> None:
    assert refusals(_migration("tenants", operations), MigrationLoader(connection).project_state()) == codes
